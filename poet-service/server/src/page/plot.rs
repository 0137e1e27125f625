//! Plots of the history.

use std::fmt::Write as _;

use poet_storage::Minute;

use super::html::{escape, grouped};

/// In the picture's units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 170.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 140.0;

/// The minutes of a history, divided into parts of equal length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// The first minute.
    pub(crate) from: i64,
    /// The minute after the last one.
    pub(crate) to: i64,
    /// The number of minutes in a part.
    pub(crate) part: i64,
}

impl Window {
    /// Returns the last minutes before `to`, in at most `parts` parts. A given minute is always in
    /// the same part.
    pub(crate) fn last(to: i64, minutes: i64, parts: i64) -> Self {
        let part = (minutes.max(1) + parts - 1) / parts;
        let to = (to + part - 1).div_euclid(part) * part;
        let from = to - (minutes.max(1) + part - 1) / part * part;
        Self { from, to, part }
    }
}

/// The measurements in a window.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    /// For each part, the mean of what was measured in it; `None` if nothing was.
    pub(crate) points: Vec<Option<f64>>,
    /// The minutes in which the work stood still: the first one, and the one after the last.
    pub(crate) interruptions: Vec<(i64, i64)>,
}

/// Returns leaves per second, and the interruptions of the work. `minutes` must be in order.
pub(crate) fn leaves(minutes: &[Minute], window: Window) -> Series {
    let mut values = Vec::new();
    let mut interruptions: Vec<(i64, i64)> = Vec::new();
    for (before, after) in minutes.iter().zip(minutes.iter().skip(1)) {
        if after.round.is_none() || before.round != after.round {
            continue;
        }
        let made = after.leaves.saturating_sub(before.leaves);
        let (from, to) = (before.minute + 1, after.minute + 1);
        if to - from > 1 || made == 0 {
            // Only the last minute of a gap can contain work.
            let end = if made == 0 { to } else { to - 1 };
            match interruptions.last_mut() {
                Some(last) if last.1 == from => last.1 = end,
                _ => interruptions.push((from, end)),
            }
        }
        if to - from == 1 {
            values.push((after.minute, made as f64 / 60.0));
        }
    }
    interruptions.retain(|(_, to)| *to > window.from);
    Series {
        points: means(values.into_iter(), window),
        interruptions,
    }
}

/// Returns registrations per second.
pub(crate) fn registrations(minutes: &[Minute], window: Window) -> Series {
    let values = minutes
        .iter()
        .map(|minute| (minute.minute, minute.registrations as f64 / 60.0));
    Series {
        points: means(values, window),
        interruptions: Vec::new(),
    }
}

/// Returns the mean of the values in each part.
fn means(values: impl Iterator<Item = (i64, f64)>, window: Window) -> Vec<Option<f64>> {
    let parts = (window.to - window.from + window.part - 1) / window.part;
    let mut sums = vec![(0.0, 0_u32); usize::try_from(parts).unwrap_or(0)];
    for (minute, value) in values {
        let part = usize::try_from((minute - window.from).div_euclid(window.part));
        if minute < window.to
            && let Ok(part) = part
            && let Some((sum, count)) = sums.get_mut(part)
        {
            *sum += value;
            *count += 1;
        }
    }
    sums.into_iter()
        .map(|(sum, count)| (count > 0).then(|| sum / f64::from(count)))
        .collect()
}

/// Draws a series with a title. `since` is the label of its left end.
pub(crate) fn draw(title: &str, since: &str, series: &Series, window: Window) -> String {
    let title = escape(title);
    let known = series.points.iter().flatten();
    let count = known.clone().count();
    let (Some(least), Some(most)) = (
        known.clone().copied().reduce(f64::min),
        known.clone().copied().reduce(f64::max),
    ) else {
        return format!(
            "<figure><figcaption>{title}</figcaption><p class=\"muted\" data-points=\"0\">Nothing was \
             measured yet: a point comes every minute.</p></figure>"
        );
    };
    // The scale starts at zero, unless that would hide the variation.
    let low = if least > most / 2.0 {
        least * 0.95
    } else {
        0.0
    };
    let high = if most > low { most * 1.02 } else { low + 1.0 };
    let y = |value: f64| BOTTOM - (value - low) / (high - low) * (BOTTOM - TOP);
    let minutes = (window.to - window.from) as f64;
    let x = |minute: f64| (minute / minutes * WIDTH).clamp(0.0, WIDTH);
    let mut parts = String::new();
    for value in [low, f64::midpoint(low, high), high] {
        let at = y(value);
        let _ = write!(
            parts,
            "<line class=\"line\" x1=\"0\" y1=\"{at:.1}\" x2=\"{WIDTH}\" y2=\"{at:.1}\" />\
             <text class=\"muted\" x=\"2\" y=\"{:.1}\">{}</text>",
            at - 4.0,
            number(value)
        );
    }
    for (from, to) in &series.interruptions {
        let (from, to) = (x((from - window.from) as f64), x((to - window.from) as f64));
        let _ = write!(
            parts,
            "<rect class=\"lost\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\" />",
            (to - from).max(1.5),
            BOTTOM - TOP
        );
    }
    // Adjacent points are joined by a line; a single one is a dot.
    let middle = |part: usize| x((part as f64 + 0.5) * window.part as f64);
    let mut path = String::new();
    let mut joined = false;
    for (part, value) in series.points.iter().enumerate() {
        match value {
            Some(value) => {
                let (letter, at, value) = (if joined { 'L' } else { 'M' }, middle(part), y(*value));
                let _ = write!(path, "{letter}{at:.1} {value:.1}");
                if !joined && series.points.get(part + 1).is_none_or(Option::is_none) {
                    path += "h.1";
                }
                joined = true;
            }
            None => joined = false,
        }
    }
    let newest = known.last().copied().unwrap_or_default();
    let interruptions = match series.interruptions.len() {
        0 => String::new(),
        1 => ", one interruption".to_owned(),
        many => format!(", {many} interruptions"),
    };
    let label = format!(
        "{title}: from {} to {}, at last {}{interruptions}",
        number(least),
        number(most),
        number(newest)
    );
    format!(
        "<figure><figcaption>{label}</figcaption>\
         <svg class=\"plot\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\" \
         data-points=\"{count}\" data-interruptions=\"{}\">{parts}<path class=\"curve\" d=\"{path}\" />\
         <text class=\"muted\" x=\"2\" y=\"162\">{since}</text>\
         <text class=\"muted end\" x=\"598\" y=\"162\">now</text></svg></figure>",
        series.interruptions.len()
    )
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        ..0.1 => format!("{value:.4}"),
        ..10.0 => format!("{value:.2}"),
        _ => grouped(value.max(0.0).round() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minute(minute: i64, round: Option<u64>, leaves: u64) -> Minute {
        Minute {
            minute,
            round,
            leaves,
            registrations: 6,
            ready: true,
            memory: 0,
            free: 0,
        }
    }

    #[test]
    fn an_hour_has_a_point_for_each_minute() {
        let minutes: Vec<_> = (39..100)
            .map(|at| minute(at, Some(7), 60 * 1_000 * at.unsigned_abs()))
            .collect();
        let window = Window::last(100, 60, 60);
        let series = leaves(&minutes, window);
        assert_eq!(series.points, vec![Some(1_000.0); 60]);
        assert_eq!(series.interruptions, []);
        assert_eq!(registrations(&minutes, window).points, vec![Some(0.1); 60]);
        let picture = draw("Leaves", "an hour ago", &series, window);
        assert!(picture.contains("data-points=\"60\""), "{picture}");
        // A day of it, in parts of five minutes, of which twelve are known.
        let day = Window::last(100, 1440, 288);
        let series = leaves(&minutes, day);
        assert_eq!(series.points.len(), 288);
        assert_eq!(series.points.iter().flatten().count(), 12);
    }

    #[test]
    fn interruptions_are_marked() {
        let minutes = [
            minute(40, None, 0),
            minute(41, Some(7), 600),
            minute(42, Some(7), 1_200),
            // The server was down.
            minute(47, Some(7), 1_500),
            minute(48, Some(7), 2_100),
            // The work stood still.
            minute(49, Some(7), 2_100),
            minute(50, Some(7), 2_100),
            minute(51, Some(7), 2_700),
            // The gap between rounds is no interruption.
            minute(52, None, 0),
            minute(60, None, 0),
            minute(61, Some(8), 10),
            // The work went back.
            minute(62, Some(8), 5),
        ];
        let window = Window::last(64, 32, 32);
        let series = leaves(&minutes, window);
        assert_eq!(series.interruptions, [(43, 47), (49, 51), (62, 63)]);
        let known: Vec<_> = series.points.iter().flatten().copied().collect();
        assert_eq!(known, [10.0, 10.0, 0.0, 0.0, 10.0, 0.0]);
        let picture = draw("Leaves", "then", &series, window);
        assert!(picture.contains("data-interruptions=\"3\""), "{picture}");
        assert_eq!(picture.matches("class=\"lost\"").count(), 3);
        // Interruptions before the window are not shown.
        let later = leaves(&minutes, Window::last(64, 14, 14));
        assert_eq!(later.interruptions, [(49, 51), (62, 63)]);
    }

    #[test]
    fn nothing_and_next_to_nothing() {
        let window = Window::last(100, 60, 60);
        for minutes in [&[][..], &[minute(99, None, 0)], &[minute(99, Some(1), 5)]] {
            let picture = draw("<b>", "then", &leaves(minutes, window), window);
            assert!(picture.contains("data-points=\"0\"") && !picture.contains("<b>"));
        }
        let one = registrations(&[minute(99, None, 0)], window);
        let picture = draw("R", "then", &one, window);
        assert!(picture.contains("data-points=\"1\"") && !picture.contains("NaN"));
    }
}
