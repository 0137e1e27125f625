//! Progress: bars on a terminal, and a line an hour for long runs everywhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::words::{duration, thousands};

/// How often a long run prints its progress.
const LINE_INTERVAL: Duration = Duration::from_secs(3600);

/// The progress of a wait.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    length: Duration,
    lines: std::sync::atomic::AtomicU64,
}

impl Progress {
    /// Shows a bar that is full after `seconds`. (`indicatif` shows it only on terminals.)
    #[must_use]
    pub fn new(what: &str, seconds: f64) -> Self {
        let bar = ProgressBar::new((seconds * 1e3) as u64).with_message(what.to_owned());
        let style = ProgressStyle::with_template("{msg:32} {bar:30} {percent:>3} %  {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            start: Instant::now(),
            length: Duration::from_secs_f64(seconds),
            lines: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Moves the bar; returns whether time is left.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        let elapsed = self.start.elapsed();
        self.bar.set_position(elapsed.as_millis() as u64);
        elapsed < self.length
    }

    /// Updates the rate of a long run, of which `done_s` have passed. Prints a line each hour.
    pub fn note(&self, leaves_per_s: f64, done_s: f64) {
        use std::sync::atomic::Ordering::Relaxed;
        let hours = self.start.elapsed().as_secs() / LINE_INTERVAL.as_secs();
        if self.lines.fetch_max(hours, Relaxed) >= hours {
            return;
        }
        let left = self.length.saturating_sub(self.start.elapsed());
        let line = line(&jiff::Timestamp::now(), leaves_per_s, done_s, left);
        if std::io::stderr().is_terminal() {
            self.bar.println(line);
        } else {
            eprintln!("{line}");
        }
    }
}

fn line(now: &jiff::Timestamp, leaves_per_s: f64, done_s: f64, left: Duration) -> String {
    format!(
        "{now:.0}: {} done, {} left, {} leaves/s with interruptions",
        duration(done_s),
        duration(left.as_secs_f64()),
        thousands(leaves_per_s as u64)
    )
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_where_a_run_is() {
        let now = "2026-11-26T12:00:00.5Z".parse().unwrap();
        let text = line(&now, 66_123.4, 7200.0, Duration::from_secs(3 * 3600));
        let expected =
            "2026-11-26T12:00:00Z: 2 h done, 3 h left, 66,123 leaves/s with interruptions";
        assert_eq!(text, expected);
    }
}
