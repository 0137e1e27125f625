//! Reports on the round that is worked on: one log line an hour, and when the work becomes slow.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use poet_engine::TICK_LEAVES;
use poet_rounds::{
    clock::{Clock, time_until},
    worker::Executing,
};
use tokio::sync::watch;

use crate::{
    notify::{Event, Notices},
    status::{StatusReader, expected_leaves},
};

/// How often to check whether there is something to report.
const LOOK: Duration = Duration::from_secs(1);
/// How often to log the progress of a round.
const LINE_INTERVAL: Duration = Duration::from_secs(3600);

/// Reports the progress of rounds.
pub(crate) struct Reports {
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notices: Notices,
}

impl Reports {
    /// Runs until the server ends.
    pub(crate) async fn keep(self, mut stopped: watch::Receiver<bool>) {
        let mut hourly = Hourly::default();
        let mut slow = Slow::default();
        while tokio::time::timeout(LOOK, stopped.wait_for(|stop| *stop))
            .await
            .is_err()
        {
            let executing = self.status.status().executing;
            let round = executing.as_ref().map(|executing| executing.round);
            if hourly.is_due(round, self.clock.monotonic())
                && let Some(executing) = &executing
            {
                self.line(executing);
            }
            if let Some(event) = slow.event(executing.as_ref()) {
                self.notices.send(&event);
            }
        }
    }

    fn line(&self, executing: &Executing) {
        let start = self.status.schedule().start(executing.round);
        let percent = percent(start, executing.end, self.clock.now());
        let expected = expected_leaves(executing, &*self.clock);
        let audit = self.status.audit_lag(&*self.clock).map_or_else(
            || "off".to_owned(),
            |lag| format!("{} s behind", lag.as_secs()),
        );
        tracing::info!(
            round = executing.round,
            percent = format!("{percent:.1}"),
            leaves = executing.leaves.load(Relaxed),
            leaves_per_second = executing.leaves_per_second(&*self.clock) as u64,
            expected_ticks = expected / TICK_LEAVES,
            audit,
            "working"
        );
    }
}

/// Returns how much of the time from `start` to `end` has passed, in percent.
pub(crate) fn percent(start: Timestamp, end: Timestamp, now: Timestamp) -> f64 {
    let (passed, all) = (time_until(start, now), time_until(start, end));
    if all.is_zero() {
        return 100.0;
    }
    (100.0 * passed.as_secs_f64() / all.as_secs_f64()).min(100.0)
}

/// When the next line of a round is due.
#[derive(Default)]
struct Hourly(Option<(u64, Duration)>);

impl Hourly {
    fn is_due(&mut self, round: Option<u64>, now: Duration) -> bool {
        match (self.0, round) {
            (Some((before, since)), Some(round)) if before == round => {
                let due = now.saturating_sub(since) >= LINE_INTERVAL;
                if due {
                    self.0 = Some((round, now));
                }
                due
            }
            _ => {
                self.0 = round.map(|round| (round, now));
                false
            }
        }
    }
}

/// The round that was slow at the last check.
#[derive(Default)]
struct Slow(Option<u64>);

impl Slow {
    fn event(&mut self, executing: Option<&Executing>) -> Option<Event> {
        let before = self.0;
        let rate = executing.map(|executing| (executing.round, executing.rate()));
        self.0 = rate.and_then(|(round, rate)| rate.slow.then_some(round));
        let (round, rate) = rate?;
        let leaves_per_second = rate.newest.unwrap_or_default() as u64;
        match (before == Some(round), rate.slow) {
            (false, true) => Some(Event::WorkSlow {
                round,
                leaves_per_second,
                at_first: rate.first.unwrap_or_default() as u64,
            }),
            (true, false) => Some(Event::WorkFast {
                round,
                leaves_per_second,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use poet_rounds::rate::Rate;

    use super::*;

    #[test]
    fn a_round_says_once_an_hour_how_far_it_is() {
        let mut hourly = Hourly::default();
        let mut due = |round, second| hourly.is_due(round, Duration::from_secs(second));
        assert!(!due(None, 0) && !due(Some(3), 10) && !due(Some(3), 3609));
        assert!(due(Some(3), 3610) && !due(Some(3), 3611) && due(Some(3), 7210));
        // Another round starts again.
        assert!(!due(Some(4), 20_000) && !due(None, 20_001) && !due(Some(4), 23_700));
        assert!(due(Some(4), 27_300));
    }

    #[test]
    fn a_round_that_becomes_slow_is_told_once() {
        let executing = |round, slow| Executing {
            round,
            end: Timestamp::UNIX_EPOCH,
            members: 0,
            leaves: Arc::default(),
            started: (Duration::ZERO, 0),
            durable: Arc::default(),
            rate: Arc::new(Mutex::new(Rate {
                newest: Some(60_000.0),
                first: Some(70_000.0),
                slow,
            })),
            followed: Arc::default(),
        };
        let mut watch = Slow::default();
        let slow = |round| Event::WorkSlow {
            round,
            leaves_per_second: 60_000,
            at_first: 70_000,
        };
        assert_eq!(watch.event(None), None);
        assert_eq!(watch.event(Some(&executing(3, false))), None);
        assert_eq!(watch.event(Some(&executing(3, true))), Some(slow(3)));
        assert_eq!(watch.event(Some(&executing(3, true))), None);
        let fast = Event::WorkFast {
            round: 3,
            leaves_per_second: 60_000,
        };
        assert_eq!(watch.event(Some(&executing(3, false))), Some(fast));
        assert_eq!(watch.event(Some(&executing(3, true))), Some(slow(3)));
        // The next round has its own first minutes.
        assert_eq!(watch.event(Some(&executing(4, false))), None);
        assert_eq!(watch.event(None), None);
    }

    #[test]
    fn per_cent_of_a_round() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(percent(at(100), at(300), at(150)), 25.0);
        assert_eq!(percent(at(100), at(300), at(50)), 0.0);
        assert_eq!(percent(at(100), at(300), at(400)), 100.0);
        assert_eq!(percent(at(100), at(100), at(100)), 100.0);
    }
}
