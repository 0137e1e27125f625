//! Progress bars on a terminal, and nothing elsewhere.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A stretch of time that is waited for.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    start: Instant,
    length: Duration,
}

impl Progress {
    /// Shows a bar that is full after `seconds`. (`indicatif` shows it on terminals only.)
    #[must_use]
    pub fn new(what: &str, seconds: f64) -> Self {
        let bar = ProgressBar::new((seconds * 1e3) as u64).with_message(what.to_owned());
        let style = ProgressStyle::with_template("{msg:32} {bar:30} {percent:>3} %");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            start: Instant::now(),
            length: Duration::from_secs_f64(seconds),
        }
    }

    /// Moves the bar; tells whether there is time left.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        let elapsed = self.start.elapsed();
        self.bar.set_position(elapsed.as_millis() as u64);
        elapsed < self.length
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
