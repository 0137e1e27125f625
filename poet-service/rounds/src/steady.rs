//! A wall clock that does not believe a leap at once.
//!
//! A server whose clock runs an hour ahead for three seconds would end the round that is worked on
//! and close the next one, for ever. So if the wall clock leaps over the start or the end of a
//! round, compared with the monotonic clock, the time continues as before until the leap has lasted
//! for a while. Other leaps do no harm, and are only logged.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{clock::Clock, cycle_gaps::CycleGaps, schedule::Schedule};

/// How far the clocks may diverge between two reads: that much is an adjustment, not a leap.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(1);

/// A [`Clock`] that believes a leap over a start or an end of a round only after a while.
pub(crate) struct SteadyClock {
    clock: Arc<dyn Clock>,
    schedule: Schedule,
    /// The durations from the start of a round to each of its ends.
    works: Vec<SignedDuration>,
    patience: Duration,
    state: Mutex<State>,
}

struct State {
    /// The last believed time, and the monotonic time then.
    believed: (Timestamp, Duration),
    /// A leap that is not believed yet: when it was seen, and how far it goes.
    leap: Option<(Duration, SignedDuration)>,
}

impl SteadyClock {
    /// Believes what `clock` shows now, and leaps once they have lasted for `patience`.
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        schedule: Schedule,
        gaps: &CycleGaps,
        patience: Duration,
    ) -> Self {
        let believed = (clock.now(), clock.monotonic());
        let epoch = schedule.epoch_duration();
        let works = gaps
            .all()
            .map(|gap| epoch.saturating_sub(gap.duration()))
            .map(|work| SignedDuration::try_from(work).unwrap_or(SignedDuration::MAX))
            .collect();
        Self {
            clock,
            schedule,
            works,
            patience,
            state: Mutex::new(State {
                believed,
                leap: None,
            }),
        }
    }

    /// Returns whether a round starts or ends between these times.
    fn crosses(&self, one: Timestamp, other: Timestamp) -> bool {
        let started = |time| self.schedule.open_round(time);
        let ended = |time: Timestamp, work: SignedDuration| {
            started(time.checked_sub(work).unwrap_or(Timestamp::MIN))
        };
        started(one) != started(other)
            || (self.works.iter()).any(|work| ended(one, *work) != ended(other, *work))
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        let (shown, monotonic) = (self.clock.now(), self.clock.monotonic());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (believed, then) = state.believed;
        let passed = SignedDuration::try_from(monotonic.saturating_sub(then));
        let steady = passed
            .ok()
            .and_then(|passed| believed.checked_add(passed).ok())
            .unwrap_or(Timestamp::MAX);
        let by = shown.duration_since(steady);
        let leaps = by.abs() > TOLERANCE;
        if leaps && self.crosses(steady, shown) {
            let since = match state.leap {
                Some((since, before)) if (by - before).abs() <= TOLERANCE => since,
                _ => {
                    state.leap = Some((monotonic, by));
                    tracing::error!(
                        "ALARM: the clock has leapt by {by:#}, over the start or the end of a round: \
                         the server accepts it when it has lasted for {:#}, and until then \
                         continues by the elapsed time",
                        SignedDuration::try_from(self.patience).unwrap_or(SignedDuration::MAX)
                    );
                    monotonic
                }
            };
            if monotonic.saturating_sub(since) < self.patience {
                return steady;
            }
            tracing::error!(
                "ALARM: the clock has leapt by {by:#} and stays there: the server accepts it now"
            );
        } else if state.leap.is_some() {
            tracing::info!("the clock has leapt back: the server has not followed it");
        } else if leaps {
            tracing::warn!("the clock has leapt by {by:#}, over no start and no end of a round");
        }
        *state = State {
            believed: (shown, monotonic),
            leap: None,
        };
        shown
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use poet_proto::identity::PrivateKey;

    use super::*;

    /// Both clocks, as the test sets them.
    struct Both(Mutex<(Timestamp, Duration)>);

    impl Clock for Both {
        fn now(&self) -> Timestamp {
            self.0.lock().unwrap().0
        }

        fn monotonic(&self) -> Duration {
            self.0.lock().unwrap().1
        }
    }

    struct World {
        both: Arc<Both>,
        steady: SteadyClock,
    }

    const GENESIS: i64 = 1_767_225_600;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(GENESIS + seconds).unwrap()
    }

    impl World {
        /// A round of 90 s each 100 s, from genesis on; five minutes of patience; 50 s after genesis.
        fn new() -> Self {
            Self::with_early_gaps(&[])
        }

        fn with_early_gaps(early: &[Duration]) -> Self {
            let seconds = Duration::from_secs;
            let key = PrivateKey::generate().unwrap();
            let gaps = CycleGaps::new(seconds(10), key, early);
            let schedule = Schedule::new(at(0), seconds(100), Duration::ZERO, seconds(10)).unwrap();
            let both = Arc::new(Both(Mutex::new((at(50), seconds(7)))));
            let clock: Arc<dyn Clock> = both.clone();
            Self {
                both,
                steady: SteadyClock::new(clock, schedule, &gaps, seconds(300)),
            }
        }

        /// Time passes on both clocks.
        fn pass(&self, seconds: i64) -> &Self {
            let mut both = self.both.0.lock().unwrap();
            both.0 += SignedDuration::from_secs(seconds);
            both.1 += Duration::from_secs(seconds.unsigned_abs());
            self
        }

        /// Somebody sets the wall clock.
        fn leap(&self, seconds: i64) -> &Self {
            self.both.0.lock().unwrap().0 += SignedDuration::from_secs(seconds);
            self
        }

        #[track_caller]
        fn assert_shows(&self, seconds: i64) -> &Self {
            assert_eq!(self.steady.now(), at(seconds));
            self
        }
    }

    #[test]
    fn a_leap_for_a_while_changes_nothing() {
        for by in [3600, -3600, 45, -60] {
            let world = World::new();
            world.leap(by).assert_shows(50).pass(3).assert_shows(53);
            world.leap(-by).assert_shows(53).pass(200).assert_shows(253);
        }
    }

    #[test]
    fn a_leap_that_lasts_is_believed() {
        let world = World::new();
        world
            .leap(3600)
            .assert_shows(50)
            .pass(299)
            .assert_shows(349);
        world.pass(1).assert_shows(3950).pass(1).assert_shows(3951);
        // A leap that changes has to last again.
        world.leap(3600).assert_shows(3951).pass(200).leap(500);
        world.assert_shows(4151).pass(299).assert_shows(4450);
        world.pass(1).assert_shows(4451 + 4100);
    }

    #[test]
    fn a_leap_over_no_start_and_no_end_is_believed_at_once() {
        let world = World::new();
        world.leap(30).assert_shows(80).leap(-60).assert_shows(20);
        // A leap over the end; after the end has passed, a leap over nothing.
        world.leap(75).assert_shows(20).pass(69).assert_shows(89);
        world.pass(1).leap(-69).assert_shows(96);
    }

    #[test]
    fn an_early_end_is_an_end() {
        let world = World::with_early_gaps(&[Duration::from_secs(30)]);
        world.leap(30).assert_shows(50).pass(3).assert_shows(53);
        world.leap(-30).assert_shows(53).leap(10).assert_shows(63);
    }

    #[test]
    fn small_adjustments_are_followed() {
        let world = World::new();
        for second in 1..200 {
            let shown = 50 + second * 2;
            world.pass(1).leap(1).assert_shows(shown);
        }
    }

    #[test]
    fn the_ends_of_time_are_no_harm() {
        let world = World::new();
        world.both.0.lock().unwrap().0 = Timestamp::MAX;
        world.assert_shows(50);
        world.both.0.lock().unwrap().0 = Timestamp::MIN;
        world.assert_shows(50).pass(0);
        world.both.0.lock().unwrap().1 += Duration::MAX / 2;
        world.steady.now();
    }
}
