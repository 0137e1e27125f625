//! Watches the rate of the work to notice when it becomes slow.
//!
//! A core that gets too hot, a neighbour on the same machine or a power setting cost ticks without
//! stopping anything. The watch compares the rate with that of the first minutes. It ignores one
//! slow minute, but reports several in a row, and the end of such a drop.

use std::time::Duration;

/// What today's fastest machines make in a second; sets the size of a round's tree log.
pub const EXPECTED_LEAVES_PER_SECOND: u64 = 100_000;

/// The length of the windows over which the rate is measured.
const WINDOW: Duration = Duration::from_secs(60);
/// The number of windows that determine the expected rate.
const FIRST_WINDOWS: u32 = 3;
/// This many slow windows in a row are a sustained drop, and as many others end it.
const SUSTAINED_WINDOWS: u32 = 3;
/// A window below this fraction of the expected rate is slow.
const SLOW: f64 = 0.95;
/// During a drop, a window is no longer slow from this fraction on.
const RECOVERED: f64 = 0.97;

/// The rate of the work, as far as it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// Leaves per second in the newest whole minute.
    pub newest: Option<f64>,
    /// Leaves per second in the first minutes.
    pub first: Option<f64>,
    /// Whether the rate has dropped for a sustained time.
    pub slow: bool,
}

/// Watches the rate of the work, given the count of leaves at increasing times.
#[derive(Clone, Debug)]
pub struct RateWatch {
    rate: Rate,
    /// When the first window began, and the count of leaves then.
    begin: (Duration, u64),
    /// When this window began, and the count of leaves then.
    window: (Duration, u64),
    windows: u32,
    /// The number of windows in a row that contradict [`Rate::slow`].
    contrary: u32,
}

impl RateWatch {
    /// Starts at a time with a count of leaves.
    pub fn new(now: Duration, leaves: u64) -> Self {
        Self {
            rate: Rate::default(),
            begin: (now, leaves),
            window: (now, leaves),
            windows: 0,
            contrary: 0,
        }
    }

    /// The rate so far.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// Adds the count of leaves at a later time. Returns whether [`Rate::slow`] has changed.
    pub fn update(&mut self, now: Duration, leaves: u64) -> bool {
        if now.saturating_sub(self.window.0) < WINDOW {
            return false;
        }
        let newest = rate_between(self.window, (now, leaves));
        self.rate.newest = Some(newest);
        self.window = (now, leaves);
        self.windows += 1;
        let Some(first) = self.rate.first else {
            if self.windows == FIRST_WINDOWS {
                self.rate.first = Some(rate_between(self.begin, (now, leaves)));
            }
            return false;
        };
        let contrary = if self.rate.slow {
            newest >= first * RECOVERED
        } else {
            newest < first * SLOW
        };
        self.contrary = if contrary { self.contrary + 1 } else { 0 };
        let changed = self.contrary == SUSTAINED_WINDOWS;
        if changed {
            self.rate.slow = !self.rate.slow;
            self.contrary = 0;
        }
        changed
    }
}

fn rate_between((from, before): (Duration, u64), (to, after): (Duration, u64)) -> f64 {
    after.saturating_sub(before) as f64 / to.saturating_sub(from).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: [u32; 0] = [];

    /// A watch that is updated twice a second.
    struct Machine {
        watch: RateWatch,
        half_seconds: u32,
        leaves: u64,
    }

    impl Machine {
        fn new() -> Self {
            Self {
                watch: RateWatch::new(Duration::from_secs(5), 1_000),
                half_seconds: 10,
                leaves: 1_000,
            }
        }

        /// Runs at a rate for some minutes. Returns the minutes after which the watch reported a
        /// change.
        fn run(&mut self, leaves_per_second: u64, minutes: u32) -> Vec<u32> {
            let mut spoke = Vec::new();
            for step in 1..=minutes * 120 {
                self.half_seconds += 1;
                self.leaves += leaves_per_second / 2;
                let now = Duration::from_millis(u64::from(self.half_seconds) * 500);
                if self.watch.update(now, self.leaves) {
                    spoke.push(step / 120);
                }
            }
            spoke
        }
    }

    #[test]
    fn a_sustained_drop_and_its_end_are_reported() {
        let mut machine = Machine::new();
        assert_eq!(machine.watch.rate(), Rate::default());
        assert_eq!(machine.run(70_000, 60), NEVER);
        let steady = Rate {
            newest: Some(70_000.0),
            first: Some(70_000.0),
            slow: false,
        };
        assert_eq!(machine.watch.rate(), steady);
        // Only once, however long it lasts.
        assert_eq!(machine.run(60_000, 60), [3]);
        assert!(machine.watch.rate().slow);
        assert_eq!(machine.watch.rate().newest, Some(60_000.0));
        // Almost as fast as before is not enough.
        assert_eq!(machine.run(67_000, 60), NEVER);
        assert_eq!(machine.run(69_000, 60), [3]);
        assert!(!machine.watch.rate().slow);
        // And again.
        assert_eq!(machine.run(60_000, 10), [3]);
    }

    #[test]
    fn short_drops_and_slow_beginnings_are_not() {
        let mut machine = Machine::new();
        machine.run(70_000, 5);
        for _ in 0..10 {
            assert_eq!(machine.run(10_000, 2), NEVER);
            assert_eq!(machine.run(70_000, 1), NEVER);
        }
        let mut machine = Machine::new();
        machine.run(50_000, 3);
        assert_eq!(machine.run(70_000, 60), NEVER);
        assert!(!machine.watch.rate().slow);
    }

    #[test]
    fn standing_still_is_slow() {
        let mut machine = Machine::new();
        machine.run(70_000, 5);
        assert_eq!(machine.run(0, 5), [3]);
        // A process that was suspended for an hour: one slow window.
        let mut machine = Machine::new();
        machine.run(70_000, 5);
        machine.half_seconds += 7200;
        assert_eq!(machine.run(70_000, 10), NEVER);
    }

    #[test]
    fn counts_that_go_back_are_no_harm() {
        let mut watch = RateWatch::new(Duration::from_secs(9), 1_000_000);
        for minute in 1..20 {
            watch.update(Duration::from_secs(60 * minute), 5);
            watch.update(Duration::ZERO, 5);
        }
        assert!(!watch.rate().slow);
    }
}
