//! A picture of the epochs, the rounds with their work and gaps, and the current time.

use std::fmt::Write as _;

use jiff::Timestamp;
use poet_rounds::schedule::Schedule;

/// In the picture's units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 132.0;
/// The width that the name of an epoch or a round needs.
const LABEL_WIDTH: f64 = 116.0;

/// Starts a quarter of an epoch before the round that is worked on, and covers two and a half
/// epochs.
pub(crate) fn epochs(schedule: &Schedule, now: Timestamp) -> String {
    let open = schedule.open_round(now);
    let epoch = schedule.epoch_duration().as_secs_f64();
    let second = |time: Timestamp| time.as_nanosecond() as f64 / 1e9;
    let first = match open.checked_sub(1) {
        Some(round) => second(schedule.start(round)),
        None => second(schedule.start(0)) - epoch,
    };
    let left = first - epoch / 4.0;
    let x = |time: Timestamp| ((second(time) - left) / (epoch * 2.5) * WIDTH).clamp(0.0, WIDTH);
    let mut parts = String::new();
    let mut bar = |class: &str, from: f64, to: f64, y: f64, name: String| {
        let width = to - from;
        if width <= 0.5 {
            return;
        }
        let _ = write!(
            parts,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"30\" />"
        );
        if width >= LABEL_WIDTH {
            let middle = from + width / 2.0;
            let (base, text) = (y + 21.0, format!("{class}-text"));
            let _ = write!(
                parts,
                "<text class=\"{text}\" x=\"{middle:.1}\" y=\"{base}\">{name}</text>"
            );
        }
    };
    // One more on either side may be partly visible.
    let here = schedule.epoch(now).saturating_sub(2);
    for epoch in here..here + 6 {
        let (from, to) = (schedule.epoch_start(epoch), schedule.epoch_start(epoch + 1));
        let class = if epoch % 2 == 0 { "even" } else { "odd" };
        bar(class, x(from), x(to), 24.0, format!("epoch {epoch}"));
    }
    let from_round = open.saturating_sub(2);
    for round in from_round..from_round + 5 {
        let (start, end) = (schedule.start(round), schedule.end(round));
        bar("work", x(start), x(end), 62.0, format!("round {round}"));
        bar(
            "gap",
            x(end),
            x(schedule.start(round + 1)),
            62.0,
            String::new(),
        );
    }
    let at = x(now);
    let anchor = match at {
        ..40.0 => "start",
        at if at > WIDTH - 40.0 => "end",
        _ => "middle",
    };
    let label = format!(
        "Epoch {} at this moment. Registration for round {open} is open until {}; the work on a round \
         lasts until the cycle gap before the next one.",
        schedule.epoch(now),
        schedule.start(open).strftime("%F %H:%M:%S UTC"),
    );
    format!(
        "<svg class=\"epochs\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{label}\">\
         {parts}<line class=\"now\" x1=\"{at:.1}\" y1=\"18\" x2=\"{at:.1}\" y2=\"98\" />\
         <text class=\"now-text\" x=\"{at:.1}\" y=\"120\" text-anchor=\"{anchor}\">now</text></svg>"
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_picture_has_what_is_to_be_seen() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let genesis = "2023-07-14T08:00:00Z".parse().unwrap();
        let schedule = Schedule::new(genesis, hours(336), hours(240), hours(12)).unwrap();
        let picture = epochs(&schedule, "2026-11-26T19:00:00Z".parse().unwrap());
        for part in ["epoch 88", "epoch 89", "round 87", "round 88", ">now<"] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        // Before everything, and after it.
        for time in [Timestamp::MIN, genesis, Timestamp::MAX] {
            let picture = epochs(&schedule, time);
            assert!(
                picture.contains("now") && !picture.contains("NaN"),
                "{picture}"
            );
        }
    }
}
