//! Shows the progress of a command on a line of the terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use poet_proto::duration::format_go;

/// How often to write the line.
const INTERVAL: Duration = Duration::from_millis(200);
const BAR_CHARS: u64 = 30;

/// The progress of a command. Shown only if standard error is a terminal.
pub(super) struct Progress {
    what: String,
    /// The number of steps done at the start, and when that was.
    started: (u64, Instant),
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// Starts with `done` steps done.
    pub(super) fn new(what: &str, done: u64) -> Self {
        Self {
            what: what.to_owned(),
            started: (done, Instant::now()),
            shown: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    /// Reports that `done` steps of `total` are done.
    pub(super) fn update(&mut self, done: u64, total: u64) {
        let now = Instant::now();
        if !self.terminal || self.shown.is_some_and(|shown| now - shown < INTERVAL) {
            return;
        }
        self.shown = Some(now);
        let (before, start) = self.started;
        let line = line(&self.what, before, done, total, now - start);
        // Failing to show the progress does no harm.
        drop(write!(io::stderr(), "\r\x1b[K{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

fn line(what: &str, before: u64, done: u64, total: u64, took: Duration) -> String {
    let total = total.max(1);
    let part = |of: u64| (u128::from(done.min(total)) * u128::from(of) / u128::from(total)) as u64;
    let bar: String = (0..BAR_CHARS)
        .map(|place| if place < part(BAR_CHARS) { '=' } else { ' ' })
        .collect();
    let mut line = format!("{what}  [{bar}] {} %", part(100));
    let rate = done.saturating_sub(before) as f64 / took.as_secs_f64().max(f64::MIN_POSITIVE);
    if rate > 0.0 && rate.is_finite() {
        let left = total.saturating_sub(done) as f64 / rate;
        let left = Duration::from_secs(left.min(1e9) as u64);
        line += &format!("  {}/s  {} left", rate as u64, format_go(left));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_long_it_takes() {
        let ten = Duration::from_secs(10);
        assert_eq!(
            line("leaves", 500, 1000, 4000, ten),
            format!(
                "leaves  [{}{}] 25 %  50/s  1m0s left",
                "=".repeat(7),
                " ".repeat(23)
            )
        );
        let bar = " ".repeat(30);
        assert_eq!(
            line("x", 0, 0, 0, Duration::ZERO),
            format!("x  [{bar}] 0 %")
        );
        let full = "=".repeat(30);
        assert_eq!(
            line("x", 0, 9, 7, ten),
            format!("x  [{full}] 100 %  0/s  0s left")
        );
    }
}
