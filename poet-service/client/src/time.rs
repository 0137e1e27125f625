//! Times and durations of the command line, and random waits.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use jiff::{SignedDuration, Timestamp};
use poet_proto::duration::parse_go;

/// How often a long wait checks the clock: it may be set, and the machine may sleep.
const LOOK: Duration = Duration::from_secs(5);

/// The shortest wait between attempts, unless the user asks for shorter ones.
const LEAST_WAIT: Duration = Duration::from_millis(500);

pub(crate) fn now() -> Timestamp {
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX)
}

/// Returns the monotonic time, for what waits or measures.
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// Returns `time` plus `duration`, or the last possible time.
pub(crate) fn after(time: Timestamp, duration: Duration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// Returns the time until `then`; zero if it has passed.
pub(crate) fn time_until(then: Timestamp) -> Duration {
    then.duration_since(now())
        .try_into()
        .unwrap_or(Duration::ZERO)
}

/// Sleeps until `then`.
pub(crate) fn sleep_until(then: Timestamp) {
    loop {
        let left = time_until(then);
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}

/// Returns the next event; `None` at `limit`, or if there will be no more.
pub(crate) fn receive<T>(events: &Receiver<T>, limit: Timestamp) -> Option<T> {
    loop {
        let left = time_until(limit);
        match events.recv_timeout(left.min(LOOK)) {
            Ok(event) => return Some(event),
            Err(RecvTimeoutError::Timeout) if left > LOOK => {}
            Err(_) => return None,
        }
    }
}

/// Returns a random duration from `least` up to twice that, as nodes wait before they ask again.
pub(crate) fn once_to_twice(least: Duration) -> Duration {
    least + least.mul_f64(random_fraction())
}

/// Returns how long to wait before another attempt, if there is time for one: `delay` to twice
/// that, or half of the time until `limit`, so that the last attempts are close to it.
pub(crate) fn wait_again(delay: Duration, limit: Timestamp) -> Option<Duration> {
    wait_within(delay, time_until(limit))
}

fn wait_within(delay: Duration, left: Duration) -> Option<Duration> {
    // At least this long, so that the last attempts do not become a flood.
    let least = delay.min(LEAST_WAIT);
    let wait = once_to_twice(delay).min(left / 2);
    (wait >= least).then_some(wait)
}

/// Returns a random number from 0 up to 1.
fn random_fraction() -> f64 {
    // Without random numbers, all clients ask at the same time, which is no reason not to ask.
    let random = getrandom::u32().unwrap_or(0);
    f64::from(random) / (f64::from(u32::MAX) + 1.0)
}

/// Formats a duration for people: days and hours, hours and minutes, minutes and seconds, or
/// milliseconds.
pub(crate) fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes, seconds) {
        (0, 0, 0, 0) => format!("{}ms", duration.as_millis()),
        (0, 0, 0, _) => format!("{seconds}s"),
        (0, 0, _, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// Formats the time from `from` to `to`, which may be earlier, for people.
pub(crate) fn rough_between(from: Timestamp, to: Timestamp) -> String {
    let difference: SignedDuration = to.duration_since(from);
    let sign = if difference.is_negative() { "-" } else { "" };
    format!("{sign}{}", rough(difference.unsigned_abs()))
}

pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse()
        .map_err(|_| "expected a time in RFC 3339, such as 2026-01-31T12:00:00Z".to_owned())
}

/// Parses a time, or a duration from now.
pub(crate) fn parse_until(text: &str) -> Result<Timestamp, String> {
    parse_go(text)
        .map(|duration| after(now(), duration))
        .or_else(|_| parse_time(text))
        .map_err(|error| format!("{error}, or a duration from now, such as 30m"))
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse_go(text).map_err(|error| error.to_string())
}

/// Parses a duration to wait.
pub(crate) fn parse_wait(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    let day = Duration::from_secs(24 * 3600);
    if (Duration::from_millis(1)..=day).contains(&duration) {
        Ok(duration)
    } else {
        Err("expected a duration from 1ms to 24h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_within_their_bounds() {
        let least = Duration::from_secs(10);
        for _ in 0..1000 {
            assert!((least..2 * least).contains(&once_to_twice(least)));
        }
        assert!(random_fraction() < 1.0);
    }

    #[test]
    fn the_last_attempts_are_near_the_limit() {
        let delay = Duration::from_secs(10);
        for _ in 0..100 {
            let mut left = Duration::from_secs(100);
            let mut waits = 0;
            while let Some(wait) = wait_within(delay, left) {
                assert!(wait <= 2 * delay && wait < left);
                left -= wait;
                waits += 1;
            }
            assert!(left < 2 * LEAST_WAIT, "{left:?}");
            assert!((5..20).contains(&waits), "{waits}");
        }
        let short = Duration::from_millis(50);
        assert!(wait_within(short, 2 * short).is_some_and(|wait| wait == short));
        assert_eq!(wait_within(short, short), None);
    }

    #[test]
    fn times_are_read_in_both_forms() {
        let absolute = parse_until("2026-01-31T12:00:00Z").unwrap();
        assert_eq!(absolute.to_string(), "2026-01-31T12:00:00Z");
        assert!(parse_until("1h").unwrap() > now());
        for text in ["", "soon", "2026-01-31"] {
            let error = parse_until(text).unwrap_err();
            assert!(error.contains("RFC 3339") && error.contains("30m"));
        }
        assert!(parse_wait("0s").is_err() && parse_wait("25h").is_err());
    }

    #[test]
    fn durations_are_short_to_read() {
        assert_eq!(rough(Duration::from_millis(12)), "12ms");
        assert_eq!(rough(Duration::from_millis(90_700)), "1m30s");
        assert_eq!(rough(Duration::from_secs(59)), "59s");
        assert_eq!(rough(Duration::from_secs(3600)), "1h0m");
        assert_eq!(rough(Duration::from_secs(582 * 3600 + 14 * 60)), "24d6h");
        let (early, late) = (Timestamp::UNIX_EPOCH, Timestamp::from_second(3).unwrap());
        assert_eq!(rough_between(early, late), "3s");
        assert_eq!(rough_between(late, early), "-3s");
    }
}
