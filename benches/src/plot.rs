//! Plots as SVG: axes with units and ticks, in colours that a page chooses.
//!
//! Each colour has one meaning: `plot` is what was made, `lost` is what interruptions took.

use std::fmt::Write;

use crate::histogram::Bucket;
use crate::stat::Stat;
use crate::windows::Window;
use crate::words::{escape, micro, thousands};

/// The width of plots, in units that are pixels on a phone.
const WIDTH: f64 = 340.0;

/// The height of plots with two axes, without their labels.
const HEIGHT: f64 = 150.0;

/// The left edge of plots with two axes, with room for the numbers.
const LEFT: f64 = 56.0;

/// Room above plots with two axes for the name of the vertical one.
const TOP: f64 = 22.0;

/// A bar with its label.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The name of the bar.
    pub label: String,
    /// Its length, and the quartiles for its whisker.
    pub value: Stat,
    /// The end of the part that interruptions left, if known.
    pub part: Option<f64>,
    /// The text at the bar's end.
    pub text: String,
}

fn svg(height: f64, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\
         {content}</svg>"
    )
}

/// Draws horizontal bars from zero, with a whisker from quartile to quartile, over an axis in
/// `unit`, whose values are multiplied by `scale`.
#[must_use]
pub fn bars(bars: &[Bar], unit: &str, scale: f64) -> String {
    const ROW: f64 = 34.0;
    const ROOM: f64 = WIDTH - 100.0;
    let longest = bars
        .iter()
        .map(|bar| bar.value.median.max(bar.value.q3))
        .fold(scale, f64::max);
    let length = |value: f64| ROOM * value / longest;
    let bottom = bars.len() as f64 * ROW;
    let mut content = String::new();
    let unit_step = step(longest / scale / 3.0);
    let mut tick = 0.0;
    while tick * scale <= longest {
        let x = length(tick * scale);
        let anchor = if tick == 0.0 { "start" } else { "middle" };
        let _ = write!(
            content,
            "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"0\" y2=\"{bottom:.1}\"/>\
             <text class=\"muted\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 14.0,
            number(tick),
        );
        tick += unit_step;
    }
    let _ = write!(
        content,
        "<text class=\"muted\" text-anchor=\"end\" x=\"{WIDTH}\" y=\"{:.1}\">{}</text>",
        bottom + 14.0,
        escape(unit)
    );
    for (index, bar) in bars.iter().enumerate() {
        let top = index as f64 * ROW;
        let (end, middle) = (length(bar.value.median), top + 23.0);
        let part = length(bar.part.unwrap_or(bar.value.median)).clamp(0.0, end);
        let _ = write!(
            content,
            "<text x=\"0\" y=\"{:.1}\">{}</text>\
             <rect class=\"plot\" x=\"0\" y=\"{:.1}\" width=\"{part:.1}\" height=\"12\"/>",
            top + 12.0,
            escape(&bar.label),
            top + 17.0,
        );
        if end > part {
            let _ = write!(
                content,
                "<rect class=\"lost\" x=\"{part:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"12\"/>",
                top + 17.0,
                end - part,
            );
        }
        let _ = write!(
            content,
            "<line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            length(bar.value.q1),
            length(bar.value.q3),
            length(bar.value.q3).max(end) + 5.0,
            top + 27.0,
            escape(&bar.text),
        );
    }
    svg(bottom + 20.0, &content)
}

/// Draws a step for each window. The axis of rates ends in round numbers and need not start at
/// zero.
#[must_use]
pub fn rate_over_time(windows: &[Window]) -> String {
    let rates = || windows.iter().map(Window::rate);
    let total: f64 = windows.iter().map(|window| window.seconds).sum();
    let (Some(least), Some(most)) = (rates().reduce(f64::min), rates().reduce(f64::max)) else {
        return svg(HEIGHT, "");
    };
    let unit = step((most - least).max(most * 0.02) / 3.0);
    let (low, high) = ((least / unit).floor() * unit, (most / unit).ceil() * unit);
    let high = if high > low { high } else { low + unit };
    let y = |rate: f64| TOP + HEIGHT * (high - rate) / (high - low);
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - 12.0) * seconds / total;
    let mut content = String::new();
    axis_names(&mut content, "leaves/s");
    let lines = ((high - low) / unit).round() as u32;
    for line in 0..=lines {
        let rate = low + f64::from(line) * unit;
        label_left(&mut content, y(rate), &thousands(rate as u64));
    }
    let (divisor, name) = match total {
        s if s < 300.0 => (1.0, "s"),
        s if s < 4.0 * 3600.0 => (60.0, "min"),
        s if s < 4.0 * 86_400.0 => (3600.0, "h"),
        _ => (86_400.0, "d"),
    };
    let every = step(total / divisor / 4.0);
    let mut tick = 0.0;
    while tick * divisor <= total {
        let last = (tick + every) * divisor > total;
        let text = if last {
            format!("{} {name}", number(tick))
        } else {
            number(tick)
        };
        label_below(&mut content, x(tick * divisor), &text);
        tick += every;
    }
    let (mut path, mut seconds) = (String::new(), 0.0);
    for window in windows {
        let command = if path.is_empty() { 'M' } else { 'L' };
        let height = y(window.rate());
        let _ = write!(path, "{command}{:.1} {height:.1}", x(seconds));
        seconds += window.seconds;
        let _ = write!(path, "L{:.1} {height:.1}", x(seconds));
    }
    let _ = write!(content, "<path class=\"curve\" d=\"{path}\"/>");
    svg(TOP + HEIGHT + 24.0, &content)
}

/// Draws a histogram. Both axes are logarithmic: a handful of leaves out of millions matters.
#[must_use]
pub fn histogram(buckets: &[Bucket], threshold_ns: u64) -> String {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else {
        return svg(HEIGHT, "");
    };
    // Wide enough to see a bucket.
    let (from, to) = (
        (first.from_ns as f64 / 1.2).ln(),
        (last.to_ns as f64 * 1.2).ln(),
    );
    let x = |ns: f64| LEFT + (WIDTH - LEFT - 12.0) * (ns.ln() - from) / (to - from);
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1);
    let decades = (most as f64).log10().ceil().max(1.0);
    // A single leaf must be visible too, so the axis starts below 1.
    let y = |count: f64| TOP + HEIGHT * (decades - count.log10()) / (decades + 0.3);
    let mut content = String::new();
    axis_names(&mut content, "leaves (logarithmic)");
    let every = (decades / 4.0).ceil() as usize;
    for decade in (0..=decades as u32).step_by(every.max(1)) {
        let count = 10_u64.pow(decade);
        label_left(&mut content, y(count as f64), &compact(count));
    }
    for bucket in buckets {
        let (left, right) = (x(bucket.from_ns as f64), x(bucket.to_ns as f64));
        let top = y(bucket.count as f64);
        let class = if bucket.from_ns >= threshold_ns {
            "lost"
        } else {
            "plot"
        };
        let _ = write!(
            content,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{} leaves of {}</title></rect>",
            (right - left).max(1.5),
            TOP + HEIGHT - top,
            thousands(bucket.count),
            micro(bucket.from_ns),
        );
    }
    let mut last_x = f64::MIN;
    for (ns, name) in [
        (1e3, "1 µs"),
        (1e4, "10 µs"),
        (1e5, "100 µs"),
        (1e6, "1 ms"),
        (1e7, "10 ms"),
        (1e8, "100 ms"),
        (1e9, "1 s"),
        (1e10, "10 s"),
        (1e11, "100 s"),
    ] {
        let at = x(ns);
        // Labels must not touch.
        if (LEFT..=WIDTH - 12.0).contains(&at) && at - last_x > 46.0 {
            label_below(&mut content, at, name);
            last_x = at;
        }
    }
    let below = TOP + HEIGHT + 34.0;
    let _ = write!(
        content,
        "<text class=\"muted\" text-anchor=\"end\" x=\"{:.1}\" y=\"{below:.1}\">time of a leaf \
         (logarithmic)</text>",
        WIDTH - 4.0
    );
    svg(TOP + HEIGHT + 40.0, &content)
}

fn axis_names(content: &mut String, left: &str) {
    let _ = write!(
        content,
        "<text class=\"muted\" x=\"0\" y=\"11\">{left}</text>"
    );
}

fn label_left(content: &mut String, y: f64, text: &str) {
    let _ = write!(
        content,
        "<line class=\"line\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text class=\"muted\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{text}</text>",
        LEFT - 5.0,
        y + 4.0,
    );
}

fn label_below(content: &mut String, x: f64, text: &str) {
    let bottom = TOP + HEIGHT;
    // Half of the text must fit on either side.
    let anchor = if x > WIDTH - 24.0 { "end" } else { "middle" };
    let at = if x > WIDTH - 24.0 {
        x.max(WIDTH - 4.0)
    } else {
        x
    };
    let _ = write!(
        content,
        "<line class=\"line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom:.1}\" y2=\"{:.1}\"/>\
         <text class=\"muted\" text-anchor=\"{anchor}\" x=\"{at:.1}\" y=\"{:.1}\">{text}</text>",
        bottom + 5.0,
        bottom + 18.0,
    );
}

/// Formats a number without trailing zeros.
fn number(value: f64) -> String {
    if value >= 1000.0 {
        thousands(value.round() as u64)
    } else {
        format!("{value:.2}")
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned()
    }
}

/// Formats a power of ten, short enough for an axis however long a run was.
fn compact(power: u64) -> String {
    match power {
        0..1_000 => power.to_string(),
        1_000..1_000_000 => format!("{} k", power / 1_000),
        1_000_000..1_000_000_000 => format!("{} M", power / 1_000_000),
        _ => format!("{} G", power / 1_000_000_000),
    }
}

/// Returns the next of 1, 2, 5, 10, 20, ... that is not smaller.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(0.01).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_of_little() {
        assert!(rate_over_time(&[]).starts_with("<svg"));
        assert!(histogram(&[], 1).starts_with("<svg"));
        assert!(bars(&[], "x", 1.0).starts_with("<svg"));
        let window = Window {
            seconds: 1.0,
            ..Window::default()
        };
        assert!(!rate_over_time(&[window]).contains("NaN"));
        let bucket = Bucket {
            from_ns: 256,
            to_ns: 264,
            count: 1,
        };
        assert!(!histogram(&[bucket], 1).contains("NaN"));
    }

    #[test]
    fn a_bar_shows_what_interruptions_took() {
        let value = Stat::of(&[50.0]).unwrap();
        let bar = |part| {
            let bar = Bar {
                label: "a".into(),
                value,
                part,
                text: "50".into(),
            };
            bars(&[bar], "leaves/s", 1.0)
        };
        assert!(!bar(None).contains("lost"));
        assert_eq!(bar(Some(25.0)).matches("class=\"lost\"").count(), 1);
        // More than the whole, or nothing, stays within the bar.
        assert!(!bar(Some(80.0)).contains("lost"));
        assert!(!bar(Some(f64::NAN)).contains("lost"));
        for tick in [">0<", ">20<", ">40<", ">leaves/s<"] {
            assert!(bar(None).contains(tick), "{tick}: {}", bar(None));
        }
    }

    #[test]
    fn powers_of_ten() {
        let texts = [1, 1_000, 10_000_000, 100_000_000_000].map(compact);
        assert_eq!(texts, ["1", "1 k", "10 M", "100 G"]);
    }

    #[test]
    fn steps() {
        assert_eq!(step(0.0), 0.01);
        assert_eq!(step(0.3), 0.5);
        assert_eq!(step(1.5), 2.0);
        assert_eq!(step(300.0), 500.0);
        assert_eq!(step(600.0), 1000.0);
        let numbers = [0.0, 0.25, 2.0, 1500.0].map(number);
        assert_eq!(numbers, ["0", "0.25", "2", "1,500"]);
    }
}
