//! When a round opens, starts and ends: pure functions of the time.
//!
//! ```text
//! start(e) = genesis + phase_shift + e * epoch_duration
//! end(e)   = start(e) + epoch_duration - cycle_gap
//! ```
//!
//! Round `e` takes registrations until `start(e)` and is executed until `end(e)`. Before `start(0)`
//! the open round is 0.
//!
//! Nodes count epochs from genesis. A node registers in round `e`, which starts in epoch `e`. The
//! round's proof is published in epoch `e + 1`, in which the node publishes its ATX with that
//! proof; the node is rewarded in epoch `e + 2`. In the terms of the protocol: register in epoch N
//! - 2, publish in N - 1, be rewarded in N. On the main network:
//!
//! ```text
//!   epoch e                    epoch e + 1                epoch e + 2
//!  |-------- 10 days --+-------|--------------------+-----|------------------------
//!   register ......... | work: 13.5 days       | gap|      rewards
//!                   start(e)                 end(e)  start(e + 1)
//!                                              | publish  |
//! ```

use std::{fmt, str::FromStr, time::Duration};

use crate::duration::{format_go, parse_go};
use jiff::Timestamp;
use poet_engine::T;

/// The shortest epoch: far below any practical one, and long enough that round numbers do not
/// overflow.
const MIN_EPOCH: Duration = Duration::from_millis(1);

/// The schedule of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    genesis: Timestamp,
    epoch_duration: Duration,
    phase_shift: Duration,
    cycle_gap: Duration,
}

/// Why durations do not make a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The epoch is too short.
    #[error("--epoch-duration is {}: expected at least 1ms", format_go(*.0))]
    Epoch(Duration),
    /// No time is left to work.
    #[error(
        "--cycle-gap is {} and --epoch-duration {}: expected a gap shorter than the epoch",
        format_go(*.gap),
        format_go(*.epoch)
    )]
    Gap {
        /// The configured gap.
        gap: Duration,
        /// The configured epoch.
        epoch: Duration,
    },
    /// A proof for the early gap would not be earlier.
    #[error(
        "--early-cycle-gap is {} and --cycle-gap {}: expected an early gap longer than the cycle gap",
        format_go(*.early),
        format_go(*.gap)
    )]
    EarlyGapTooShort {
        /// The configured early gap.
        early: Duration,
        /// The configured gap.
        gap: Duration,
    },
    /// No time is left to work.
    #[error(
        "--early-cycle-gap is {} and --epoch-duration {}: expected an early gap shorter than the epoch",
        format_go(*.early),
        format_go(*.epoch)
    )]
    EarlyGapTooLong {
        /// The configured early gap.
        early: Duration,
        /// The configured epoch.
        epoch: Duration,
    },
    /// Too little time is left to work.
    #[error(
        "--early-cycle-gap {} leaves {} of work, in which a fast machine makes {leaves} leaves: expected \
         time for the {T} that a proof needs",
        format_go(*.early),
        format_go(*.work)
    )]
    EarlyGapWithoutLeaves {
        /// The configured early gap.
        early: Duration,
        /// The remaining time.
        work: Duration,
        /// The leaves expected in that time.
        leaves: u64,
    },
    /// The early gap is given twice.
    #[error("--early-cycle-gap {} is given twice: expected each gap once", format_go(*.0))]
    EarlyGapTwice(Duration),
}

impl Schedule {
    /// Makes a schedule from its parameters.
    ///
    /// # Errors
    /// Fails if the epoch is shorter than a millisecond or not longer than the gap.
    pub fn new(
        genesis: Timestamp,
        epoch_duration: Duration,
        phase_shift: Duration,
        cycle_gap: Duration,
    ) -> Result<Self, ScheduleError> {
        if epoch_duration < MIN_EPOCH {
            return Err(ScheduleError::Epoch(epoch_duration));
        }
        if cycle_gap >= epoch_duration {
            return Err(ScheduleError::Gap {
                gap: cycle_gap,
                epoch: epoch_duration,
            });
        }
        Ok(Self {
            genesis,
            epoch_duration,
            phase_shift,
            cycle_gap,
        })
    }

    /// Checks gaps longer than the schedule's, on a machine that makes the given number of leaves.
    ///
    /// # Errors
    /// Fails if a gap is not between the cycle gap and the epoch, leaves too little work for a
    /// proof, or is given twice.
    pub fn check_early_gaps(
        &self,
        early_gaps: &[Duration],
        leaves_per_second: u64,
    ) -> Result<(), ScheduleError> {
        for (index, early) in early_gaps.iter().enumerate() {
            let (early, gap, epoch) = (*early, self.cycle_gap, self.epoch_duration);
            if early <= gap {
                return Err(ScheduleError::EarlyGapTooShort { early, gap });
            }
            if early >= epoch {
                return Err(ScheduleError::EarlyGapTooLong { early, epoch });
            }
            let work = epoch - early;
            let leaves = work.as_nanos().saturating_mul(leaves_per_second.into()) / 1_000_000_000;
            let leaves = u64::try_from(leaves).unwrap_or(u64::MAX);
            if leaves < T as u64 {
                return Err(ScheduleError::EarlyGapWithoutLeaves {
                    early,
                    work,
                    leaves,
                });
            }
            if early_gaps[..index].contains(&early) {
                return Err(ScheduleError::EarlyGapTwice(early));
            }
        }
        Ok(())
    }

    /// Returns the time of genesis.
    pub fn genesis(&self) -> Timestamp {
        self.genesis
    }

    /// Returns the length of an epoch.
    pub fn epoch_duration(&self) -> Duration {
        self.epoch_duration
    }

    /// Returns the time from genesis to the start of round 0.
    pub fn phase_shift(&self) -> Duration {
        self.phase_shift
    }

    /// Returns the time from a round's end to the next one's start.
    pub fn cycle_gap(&self) -> Duration {
        self.cycle_gap
    }

    /// Returns the length of a round's work.
    pub fn work_duration(&self) -> Duration {
        self.epoch_duration - self.cycle_gap
    }

    /// Returns the round that takes registrations at `now`.
    pub fn open_round(&self, now: Timestamp) -> u64 {
        let since_first_start = now.as_nanosecond() - self.start_nanos(0);
        if since_first_start < 0 {
            return 0;
        }
        let started = since_first_start / nanos(self.epoch_duration);
        // Fits: an epoch is at least a millisecond, and a timestamp is within 10,000 years.
        u64::try_from(started).unwrap_or(u64::MAX - 1) + 1
    }

    /// Returns when `round` closes and its work starts, at most the end of the year 9999.
    pub fn start(&self, round: u64) -> Timestamp {
        timestamp(self.start_nanos(round))
    }

    /// Returns when the work of `round` ends, at most the end of the year 9999.
    pub fn end(&self, round: u64) -> Timestamp {
        self.end_before(round, self.cycle_gap)
    }

    /// Returns when the work of `round` ends for nodes with this gap, at most the end of the year
    /// 9999.
    pub fn end_before(&self, round: u64, gap: Duration) -> Timestamp {
        let work = self.epoch_duration.saturating_sub(gap);
        timestamp(self.start_nanos(round) + nanos(work))
    }

    /// Returns when registration for `round` opens, which is when the previous round closes; `None`
    /// for round 0, whose opening no parameter defines.
    pub fn opens(&self, round: u64) -> Option<Timestamp> {
        Some(self.start(round.checked_sub(1)?))
    }

    /// Returns the epoch of `time`; 0 before genesis.
    pub fn epoch(&self, time: Timestamp) -> u64 {
        let since = time.as_nanosecond() - self.genesis.as_nanosecond();
        u64::try_from(since.max(0) / nanos(self.epoch_duration)).unwrap_or(u64::MAX)
    }

    /// Returns when an epoch starts, at most the end of the year 9999.
    pub fn epoch_start(&self, epoch: u64) -> Timestamp {
        let epochs = i128::from(epoch).saturating_mul(nanos(self.epoch_duration));
        timestamp(self.genesis.as_nanosecond().saturating_add(epochs))
    }

    /// Returns the epoch in which nodes publish their ATX with the proof of `round`.
    pub fn publish_epoch(&self, round: u64) -> u64 {
        round.saturating_add(1)
    }

    /// Returns the epoch in which nodes are rewarded for a registration in `round`.
    pub fn reward_epoch(&self, round: u64) -> u64 {
        reward_epoch(round)
    }

    fn start_nanos(&self, round: u64) -> i128 {
        let epochs = i128::from(round).saturating_mul(nanos(self.epoch_duration));
        (self.genesis.as_nanosecond() + nanos(self.phase_shift)).saturating_add(epochs)
    }
}

/// Returns the epoch in which nodes are rewarded for a registration in `round`, in every network.
pub fn reward_epoch(round: u64) -> u64 {
    round.saturating_add(2)
}

/// The parameters, as stored with the rounds that follow them.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "genesis-time={} epoch-duration={} phase-shift={} cycle-gap={}",
            self.genesis,
            format_go(self.epoch_duration),
            format_go(self.phase_shift),
            format_go(self.cycle_gap),
        )
    }
}

/// Text is not a stored schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected genesis-time=, epoch-duration=, phase-shift= and cycle-gap=")]
pub struct ScheduleTextError;

/// Parses the output of [`Display`](fmt::Display).
impl FromStr for Schedule {
    type Err = ScheduleTextError;

    fn from_str(text: &str) -> Result<Self, ScheduleTextError> {
        let mut fields = text.split(' ');
        let mut field = |name| {
            let field = fields.next()?.strip_prefix(name)?;
            field.strip_prefix('=')
        };
        let mut read = || {
            let genesis = field("genesis-time")?.parse().ok()?;
            let mut duration = |name| parse_go(field(name)?).ok();
            let (epoch, shift) = (duration("epoch-duration")?, duration("phase-shift")?);
            let gap = duration("cycle-gap")?;
            Self::new(genesis, epoch, shift, gap).ok()
        };
        read()
            .filter(|_| fields.next().is_none())
            .ok_or(ScheduleTextError)
    }
}

fn nanos(duration: Duration) -> i128 {
    // At most 2^64 seconds: 94 bits.
    duration.as_nanos() as i128
}

fn timestamp(nanos: i128) -> Timestamp {
    let clamped = nanos.clamp(
        Timestamp::MIN.as_nanosecond(),
        Timestamp::MAX.as_nanosecond(),
    );
    Timestamp::from_nanosecond(clamped).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn mainnet() -> Schedule {
        Schedule::new(
            at("2023-07-14T08:00:00Z"),
            hours(336),
            hours(240),
            hours(12),
        )
        .unwrap()
    }

    #[test]
    fn mainnet_rounds() {
        let schedule = mainnet();
        let table = [
            (0, "2023-07-24T08:00:00Z", "2023-08-06T20:00:00Z"),
            (1, "2023-08-07T08:00:00Z", "2023-08-20T20:00:00Z"),
            (2, "2023-08-21T08:00:00Z", "2023-09-03T20:00:00Z"),
            (12, "2024-01-08T08:00:00Z", "2024-01-21T20:00:00Z"),
            // Over the end of a leap year's February.
            (15, "2024-02-19T08:00:00Z", "2024-03-03T20:00:00Z"),
            (16, "2024-03-04T08:00:00Z", "2024-03-17T20:00:00Z"),
            (40, "2025-02-03T08:00:00Z", "2025-02-16T20:00:00Z"),
            (87, "2026-11-23T08:00:00Z", "2026-12-06T20:00:00Z"),
            (120, "2028-02-28T08:00:00Z", "2028-03-12T20:00:00Z"),
            (1000, "2061-11-21T08:00:00Z", "2061-12-04T20:00:00Z"),
            // 2100 is no leap year, 2400 is one.
            (1998, "2100-02-22T08:00:00Z", "2100-03-07T20:00:00Z"),
            (1999, "2100-03-08T08:00:00Z", "2100-03-21T20:00:00Z"),
            (9825, "2400-02-28T08:00:00Z", "2400-03-12T20:00:00Z"),
            (100_000, "5856-08-18T08:00:00Z", "5856-08-31T20:00:00Z"),
            (208_069, "9998-12-28T08:00:00Z", "9999-01-10T20:00:00Z"),
        ];
        for (round, start, end) in table {
            assert_eq!(schedule.start(round), at(start), "start of {round}");
            assert_eq!(schedule.end(round), at(end), "end of {round}");
            let nanosecond = jiff::SignedDuration::from_nanos(1);
            let just_before = at(start).checked_sub(nanosecond).unwrap();
            assert_eq!(schedule.open_round(just_before), round);
            assert_eq!(schedule.open_round(at(start)), round + 1);
            assert_eq!(schedule.open_round(at(end)), round + 1);
        }
    }

    /// Leap years do not matter: all lengths are whole weeks.
    #[test]
    fn mainnet_rounds_start_on_mondays_and_end_on_sundays() {
        let schedule = mainnet();
        for round in 0..208_000 {
            let (start, end) = (schedule.start(round), schedule.end(round));
            let told = |time: Timestamp| time.strftime("%a %H:%M:%S").to_string();
            assert_eq!(told(start), "Mon 08:00:00", "{round}");
            assert_eq!(told(end), "Sun 20:00:00", "{round}");
            assert_eq!(
                schedule.start(round + 1).duration_since(start).as_hours(),
                336
            );
            assert_eq!(schedule.open_round(start), round + 1);
            assert_eq!(schedule.open_round(end), round + 1);
        }
    }

    #[test]
    fn mainnet_dates() {
        let schedule = mainnet();
        // The open round, and the one executed at the same time.
        for (time, open, executed) in [
            ("2023-07-14T08:00:00Z", 0, None),
            ("2023-07-24T07:59:59.999999999Z", 0, None),
            ("2023-07-24T08:00:00Z", 1, Some(0)),
            ("2023-08-06T19:59:59Z", 1, Some(0)),
            // The cycle gap.
            ("2023-08-06T20:00:00Z", 1, None),
            ("2023-08-07T07:59:59Z", 1, None),
            ("2023-08-07T08:00:00Z", 2, Some(1)),
            ("2024-02-29T12:00:00Z", 16, Some(15)),
            ("2024-03-01T00:00:00Z", 16, Some(15)),
            ("2026-11-20T20:00:00Z", 87, Some(86)),
            ("2028-02-29T00:00:00Z", 121, Some(120)),
            ("2100-02-28T23:59:59Z", 1999, Some(1998)),
            ("2100-03-01T00:00:00Z", 1999, Some(1998)),
            ("9999-01-01T00:00:00Z", 208_070, Some(208_069)),
        ] {
            assert_eq!(schedule.open_round(at(time)), open, "{time}");
            let before = open.checked_sub(1);
            let executing = before.filter(|round| at(time) < schedule.end(*round));
            assert_eq!(executing, executed, "{time}");
        }
    }

    /// The network's first rewards were those of epoch 2, which began on 11 August 2023.
    #[test]
    fn mainnet_epochs() {
        let schedule = mainnet();
        assert_eq!(schedule.opens(0), None);
        assert_eq!(schedule.reward_epoch(0), 2);
        assert_eq!(schedule.epoch_start(2), at("2023-08-11T08:00:00Z"));
        for round in [0, 1, 40, 87, 1000] {
            let (start, end) = (schedule.start(round), schedule.end(round));
            // Registered in N - 2, proven and published in N - 1, rewarded in N.
            assert_eq!(schedule.epoch(start) + 2, schedule.reward_epoch(round));
            assert_eq!(schedule.epoch(end), schedule.publish_epoch(round));
            assert!(end < schedule.epoch_start(schedule.reward_epoch(round)));
            assert_eq!(schedule.opens(round + 1), Some(start));
        }
        for (time, epoch) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-07-14T08:00:00Z", 0),
            ("2023-07-28T07:59:59Z", 0),
            ("2023-07-28T08:00:00Z", 1),
            ("2026-11-26T19:00:00Z", 87),
            ("2026-11-27T08:00:00Z", 88),
        ] {
            assert_eq!(schedule.epoch(at(time)), epoch, "{time}");
        }
        assert_eq!(schedule.epoch_start(u64::MAX), Timestamp::MAX);
    }

    #[test]
    fn round_zero_is_open_until_it_starts() {
        let schedule = mainnet();
        for time in [
            "1970-01-01T00:00:00Z",
            "2023-07-14T07:59:59Z",
            "2023-07-14T08:00:00Z",
        ] {
            assert_eq!(schedule.open_round(at(time)), 0, "{time}");
        }
        assert_eq!(schedule.open_round(Timestamp::MIN), 0);
    }

    #[test]
    fn without_a_phase_shift_round_zero_starts_at_genesis() {
        let genesis = at("2020-01-01T00:00:00Z");
        let schedule = Schedule::new(genesis, hours(1), Duration::ZERO, Duration::ZERO).unwrap();
        assert_eq!(schedule.start(0), genesis);
        assert_eq!(schedule.open_round(genesis), 1);
        assert_eq!(schedule.end(0), schedule.start(1));
    }

    #[test]
    fn extremes_neither_panic_nor_wrap() {
        let schedule = Schedule::new(
            Timestamp::MIN,
            Duration::from_millis(1),
            Duration::from_nanos(i64::MAX as u64),
            Duration::ZERO,
        )
        .unwrap();
        assert!(schedule.open_round(Timestamp::MAX) > 1 << 48);
        assert_eq!(mainnet().start(u64::MAX), Timestamp::MAX);
        assert_eq!(mainnet().end(u64::MAX), Timestamp::MAX);
    }

    #[test]
    fn impossible_schedules_are_refused() {
        let genesis = Timestamp::UNIX_EPOCH;
        let error = Schedule::new(genesis, hours(1), hours(1), hours(1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--cycle-gap is 1h0m0s and --epoch-duration 1h0m0s: expected a gap shorter than the epoch"
        );
        assert!(Schedule::new(genesis, Duration::ZERO, hours(1), hours(1)).is_err());
    }

    #[test]
    fn early_gaps_leave_time_before_the_end() {
        let schedule = mainnet();
        let check = |gaps: &[u64]| {
            let gaps: Vec<_> = gaps.iter().map(|gap| hours(*gap)).collect();
            let checked = schedule.check_early_gaps(&gaps, 100_000);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[24, 13, 335]), Ok(()));
        for (gaps, expected) in [
            (
                &[12][..],
                "--early-cycle-gap is 12h0m0s and --cycle-gap 12h0m0s: expected an early gap longer than \
                 the cycle gap",
            ),
            (
                &[24, 336],
                "--early-cycle-gap is 336h0m0s and --epoch-duration 336h0m0s: expected an early gap \
                 shorter than the epoch",
            ),
            (
                &[24, 36, 24],
                "--early-cycle-gap 24h0m0s is given twice: expected each gap once",
            ),
        ] {
            assert_eq!(check(gaps), Err(expected.to_owned()));
        }
        let almost_all = hours(336) - Duration::from_millis(1);
        assert_eq!(
            schedule
                .check_early_gaps(&[almost_all], 149_000)
                .unwrap_err()
                .to_string(),
            "--early-cycle-gap 335h59m59.999s leaves 1ms of work, in which a fast machine makes 149 leaves: \
             expected time for the 150 that a proof needs"
        );
        assert_eq!(schedule.check_early_gaps(&[almost_all], 150_000), Ok(()));
    }

    #[test]
    fn a_longer_gap_ends_the_work_earlier() {
        let schedule = mainnet();
        assert_eq!(schedule.end_before(0, hours(12)), schedule.end(0));
        assert_eq!(
            schedule.end_before(0, hours(24)),
            at("2023-08-06T08:00:00Z")
        );
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let genesis: Timestamp = "2023-07-14T08:00:00.25Z".parse().unwrap();
        let gap = Duration::from_nanos(1_500_000_001);
        for schedule in [
            Schedule::new(genesis, hours(336), hours(240), hours(12)).unwrap(),
            Schedule::new(genesis, hours(1), Duration::ZERO, gap).unwrap(),
        ] {
            assert_eq!(schedule.to_string().parse(), Ok(schedule));
        }
        let text = "genesis-time=2023-07-14T08:00:00Z epoch-duration=336h0m0s \
                    phase-shift=240h0m0s cycle-gap=12h0m0s";
        assert!(text.parse::<Schedule>().is_ok());
        for (from, to) in [
            ("", " "),
            ("cycle-gap=12h0m0s", ""),
            ("12h0m0s", "336h0m0s"),
            ("12h0m0s", "12h0m0s x=1"),
            ("2023", "year"),
            ("phase-shift", "shift"),
        ] {
            let other = match from {
                "" => to.to_owned(),
                _ => text.replace(from, to),
            };
            assert_eq!(other.parse::<Schedule>(), Err(ScheduleTextError), "{other}");
        }
    }
}
