//! Reports as one page: no script, no external resource, plots as SVG. The colours follow the
//! reader's choice of light or dark, and on a phone wide tables scroll within themselves.

use std::fmt::Write;

use crate::histogram::Bucket;
use crate::report::{Report, Stat};
use crate::sections::{Section, column, duration, micro, sections, sentences, thousands};
use crate::windows::Window;

/// The width of plots, in units that are pixels on a phone.
const WIDTH: f64 = 340.0;

/// The height of plots with two axes, without their labels.
const HEIGHT: f64 = 150.0;

/// Where plots with two axes begin, so that numbers fit before them.
const LEFT: f64 = 52.0;

/// A bar with its label.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What it stands for.
    pub label: String,
    /// Its length, and the quartiles for its whisker.
    pub value: Stat,
    /// What is written beside it.
    pub text: String,
    /// Whether it is drawn in another colour.
    pub marked: bool,
}

/// Text that can stand anywhere in a page.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A page of its parts.
#[must_use]
pub fn page(
    title: &str,
    subtitle: &str,
    sentences: &[String],
    plots: &[String],
    sections: &[Section],
) -> String {
    let mut body = String::new();
    for sentence in sentences {
        let _ = writeln!(body, "<p>{}</p>", escape(sentence));
    }
    let tables: String = sections.iter().map(table).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         <div class=\"muted\">{subtitle}</div>\n<div class=\"verdict\">\n{body}</div>\n\
         <div class=\"plots\">\n{plots}</div>\n{tables}</body>\n</html>\n",
        title = escape(title),
        subtitle = escape(subtitle),
        css = include_str!("page.css"),
        plots = plots.concat(),
    )
}

/// The page of a report.
#[must_use]
pub fn report(report: &Report) -> String {
    let mut plots = Vec::new();
    if let Some(run) = &report.endurance {
        plots.push(figure(
            "Leaves/s over time, interruptions included",
            &rate_over_time(&run.windows),
        ));
        plots.push(figure(
            "How long leaves took: their number, logarithmic; interrupted ones in the second colour",
            &histogram(&run.histogram, run.interruptions.threshold_ns),
        ));
    }
    let cores: Vec<Bar> = report
        .cores
        .measured
        .iter()
        .filter_map(|core| {
            let value = core.hashes_per_s?;
            Some(Bar {
                label: format!("core {}", core.id),
                value,
                text: format!("{:.2}", value.median / 1e6),
                marked: core.id == report.cores.best,
            })
        })
        .collect();
    plots.push(figure(
        "Cores: M hashes/s on one chain, with quartiles",
        &bars(&cores),
    ));
    let yardstick = report
        .yardstick
        .speed
        .map(|speed| (&report.yardstick.name, speed, false));
    let backends = report.backends.iter().filter_map(|backend| {
        let speed = backend.one?;
        Some((&backend.name, speed, backend.chosen))
    });
    let backends: Vec<Bar> = backends
        .chain(yardstick)
        .map(|(name, speed, marked)| Bar {
            label: name.clone(),
            value: speed.hashes_per_s,
            text: format!("{:.2}", speed.hashes_per_s.median / 1e6),
            marked,
        })
        .collect();
    plots.push(figure(
        "Backends: M hashes/s on one chain, with quartiles",
        &bars(&backends),
    ));
    let title = format!(
        "{} leaves/s, {} ticks: {}",
        thousands(report.verdict.leaves_per_s as u64),
        thousands(report.verdict.ticks),
        report.machine.model
    );
    let subtitle = format!("poet-bench {}, {}", report.version, report.started);
    page(
        &title,
        &subtitle,
        &sentences(report),
        &plots,
        &sections(report),
    )
}

/// A plot with its title.
#[must_use]
pub fn figure(title: &str, svg: &str) -> String {
    format!(
        "<figure><figcaption>{}</figcaption>{svg}</figure>\n",
        escape(title)
    )
}

fn table(section: &Section) -> String {
    let columns: Vec<(&str, bool)> = section.header.iter().map(|name| column(name)).collect();
    let class = |index: usize| match columns.get(index) {
        Some((_, false)) => "",
        _ => " class=\"left\"",
    };
    let mut html = format!(
        "<h2>{}</h2>\n<div class=\"scroll\"><table>\n",
        escape(&section.title)
    );
    if columns.iter().any(|(name, _)| !name.is_empty()) {
        html.push_str("<tr>");
        for (index, (name, _)) in columns.iter().enumerate() {
            let _ = write!(html, "<th{}>{}</th>", class(index), escape(name));
        }
        html.push_str("</tr>\n");
    }
    for row in &section.rows {
        html.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let _ = write!(html, "<td{}>{}</td>", class(index), escape(cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
    for note in &section.notes {
        let _ = writeln!(html, "<div class=\"muted\">{}</div>", escape(note));
    }
    html
}

fn svg(height: f64, content: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" xmlns=\"http://www.w3.org/2000/svg\">\
         {content}</svg>"
    )
}

/// Horizontal bars from zero, with a whisker from quartile to quartile.
#[must_use]
pub fn bars(bars: &[Bar]) -> String {
    const ROW: f64 = 34.0;
    const ROOM: f64 = WIDTH - 60.0;
    let longest = bars
        .iter()
        .map(|bar| bar.value.median.max(bar.value.q3))
        .fold(1.0, f64::max);
    let mut content = String::new();
    for (index, bar) in bars.iter().enumerate() {
        let top = index as f64 * ROW;
        let length = |value: f64| ROOM * value / longest;
        let (end, middle) = (length(bar.value.median), top + 23.0);
        let class = if bar.marked { "mark" } else { "plot" };
        let _ = write!(
            content,
            "<text x=\"0\" y=\"{:.1}\">{}</text>\
             <rect class=\"{class}\" x=\"0\" y=\"{:.1}\" width=\"{end:.1}\" height=\"12\"/>\
             <line class=\"whisker\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle:.1}\" y2=\"{middle:.1}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            top + 12.0,
            escape(&bar.label),
            top + 17.0,
            length(bar.value.q1),
            length(bar.value.q3),
            length(bar.value.q3).max(end) + 5.0,
            top + 27.0,
            escape(&bar.text),
        );
    }
    svg(bars.len() as f64 * ROW, &content)
}

/// A step for each window. The axis of rates ends in round numbers and need not begin at zero.
fn rate_over_time(windows: &[Window]) -> String {
    let rates = || windows.iter().map(Window::rate);
    let total: f64 = windows.iter().map(|window| window.seconds).sum();
    let (Some(least), Some(most)) = (rates().reduce(f64::min), rates().reduce(f64::max)) else {
        return svg(HEIGHT, "");
    };
    let unit = step((most - least).max(most * 0.02) / 3.0);
    let (low, high) = ((least / unit).floor() * unit, (most / unit).ceil() * unit);
    let high = if high > low { high } else { low + unit };
    let y = |rate: f64| 8.0 + HEIGHT * (high - rate) / (high - low);
    let x = |seconds: f64| LEFT + (WIDTH - LEFT - 8.0) * seconds / total;
    let mut content = String::new();
    let lines = ((high - low) / unit).round() as u32;
    for line in 0..=lines {
        let rate = low + f64::from(line) * unit;
        label_left(&mut content, y(rate), &thousands(rate as u64));
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
    label_below(&mut content, LEFT, "start", "0 s");
    label_below(&mut content, WIDTH - 8.0, "end", &duration(total));
    svg(HEIGHT + 28.0, &content)
}

/// Both axes are logarithmic: a handful of leaves out of millions matters.
fn histogram(buckets: &[Bucket], threshold_ns: u64) -> String {
    let (Some(first), Some(last)) = (buckets.first(), buckets.last()) else {
        return svg(HEIGHT, "");
    };
    // Wide enough that a bucket can be seen.
    let (from, to) = (
        (first.from_ns as f64 / 1.2).ln(),
        (last.to_ns as f64 * 1.2).ln(),
    );
    let x = |ns: f64| LEFT + (WIDTH - LEFT - 8.0) * (ns.ln() - from) / (to - from);
    let most = buckets.iter().map(|bucket| bucket.count).max().unwrap_or(1);
    let decades = (most as f64).log10().ceil().max(1.0);
    // A single leaf must be seen too, so the axis begins below 1.
    let y = |count: f64| 8.0 + HEIGHT * (decades - count.log10()) / (decades + 0.3);
    let mut content = String::new();
    let every = (decades / 4.0).ceil() as usize;
    for decade in (0..=decades as u32).step_by(every.max(1)) {
        let count = 10_u64.pow(decade);
        label_left(&mut content, y(count as f64), &compact(count));
    }
    for bucket in buckets {
        let (left, right) = (x(bucket.from_ns as f64), x(bucket.to_ns as f64));
        let top = y(bucket.count as f64);
        let class = if bucket.from_ns >= threshold_ns {
            "mark"
        } else {
            "plot"
        };
        let _ = write!(
            content,
            "<rect class=\"{class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\">\
             <title>{} leaves of {}</title></rect>",
            (right - left).max(1.5),
            8.0 + HEIGHT - top,
            thousands(bucket.count),
            micro(bucket.from_ns),
        );
    }
    label_below(&mut content, LEFT, "start", &micro(first.from_ns));
    label_below(&mut content, WIDTH - 8.0, "end", &micro(last.to_ns));
    svg(HEIGHT + 28.0, &content)
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

fn label_below(content: &mut String, x: f64, anchor: &str, text: &str) {
    let y = HEIGHT + 24.0;
    let _ = write!(
        content,
        "<text class=\"muted\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
    );
}

/// A power of ten, short enough for an axis however long a run was.
fn compact(power: u64) -> String {
    match power {
        0..1_000 => power.to_string(),
        1_000..1_000_000 => format!("{} k", power / 1_000),
        1_000_000..1_000_000_000 => format!("{} M", power / 1_000_000),
        _ => format!("{} G", power / 1_000_000_000),
    }
}

/// The next of 1, 2, 5, 10, 20, ... that is not smaller.
fn step(least: f64) -> f64 {
    let power = 10_f64.powf(least.max(1.0).log10().floor());
    let factors = [1.0, 2.0, 5.0, 10.0];
    let factor = factors.into_iter().find(|factor| factor * power >= least);
    factor.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn nothing_escapes() {
        assert_eq!(
            escape("<a href='x'>&\"</a>"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;"
        );
        let html = report(&sample());
        assert!(html.contains("A CPU &lt;of&gt; &quot;tests&quot; &amp; more"));
        assert!(!html.contains("<of>"));
    }

    #[test]
    fn page_has_all_and_loads_nothing() {
        let html = report(&sample());
        assert_eq!(html.matches("<svg").count(), 4);
        assert_eq!(html.matches("</svg>").count(), 4);
        assert!(html.contains("6,875 ticks"));
        for foreign in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        for bad in ["NaN", "inf"] {
            assert!(!html.contains(&format!("\"{bad}")), "{bad}");
        }
        let mut short = sample();
        short.endurance = None;
        assert_eq!(report(&short).matches("<svg").count(), 2);
    }

    #[test]
    fn plots_of_little() {
        assert!(rate_over_time(&[]).starts_with("<svg"));
        assert!(histogram(&[], 1).starts_with("<svg"));
        assert!(bars(&[]).starts_with("<svg"));
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
    fn powers_of_ten() {
        let texts = [1, 1_000, 10_000_000, 100_000_000_000].map(compact);
        assert_eq!(texts, ["1", "1 k", "10 M", "100 G"]);
    }

    #[test]
    fn steps() {
        assert_eq!(step(0.0), 1.0);
        assert_eq!(step(1.5), 2.0);
        assert_eq!(step(300.0), 500.0);
        assert_eq!(step(600.0), 1000.0);
    }
}
