//! The result of a report: two rates, and what makes them less certain. Everything here is a value;
//! [`crate::sentences`] turns it into sentences.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::words::{clock, list, percent};

/// The rate of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundRate {
    /// Leaves per second.
    pub leaves_per_s: f64,
    /// Leaves in a round at that rate.
    pub leaves_per_round: u64,
    /// Ticks in a round at that rate.
    pub ticks: u64,
}

impl RoundRate {
    /// Computes the leaves and ticks in a round.
    #[must_use]
    pub fn of(leaves_per_s: f64, round_s: f64, tick_size: u64) -> Self {
        let leaves_per_round = (leaves_per_s * round_s) as u64;
        Self {
            leaves_per_s,
            leaves_per_round,
            ticks: leaves_per_round / tick_size.max(1),
        }
    }
}

/// The result of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The core's rate while nothing interrupts it: the median of the samples of the short run,
    /// whatever the options.
    pub undisturbed: RoundRate,
    /// The core's rate with all interruptions, over the longest run.
    pub with_interruptions: RoundRate,
    /// The length of that run.
    pub seconds: f64,
    /// The quartiles of its windows, in leaves per second.
    pub windows: [f64; 2],
    /// The length of those windows.
    pub window_s: f64,
    /// Whether that run is the one of `--duration`.
    pub long: bool,
    /// The bound of this kind of core in cycles per hash, if known.
    pub bound_cycles_per_hash: Option<f64>,
    /// The share of the bound that the prover reached undisturbed.
    pub bound_reached: Option<f64>,
    /// The ticks per round that 100 MHz add or take away.
    pub ticks_per_100_mhz: Option<f64>,
    /// Joules of all CPU packages per tick.
    pub joules_per_tick: Option<f64>,
    /// The price of a tick, if the machine works all the time.
    pub price_per_tick: Option<f64>,
    /// What makes these numbers less certain.
    pub doubts: Vec<Doubt>,
}

/// Something that makes a report less certain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Doubt {
    /// The run took only seconds.
    Quick,
    /// The run of `--duration` was shorter than the short run, so it does not count.
    LongRunTooShort {
        /// Its length.
        seconds: f64,
        /// The required length.
        needed_s: f64,
    },
    /// The ratio to the independent loop does not match this kind of core.
    WrongRatio {
        /// The measured ratio.
        ratio: f64,
        /// The ratio on other machines.
        expected: f64,
    },
    /// The rate exceeds the bound.
    BeyondBound {
        /// The share of the bound.
        reached: f64,
    },
    /// The fastest core cannot be determined.
    CoresTied {
        /// The cores that may be the fastest.
        cores: Vec<usize>,
    },
    /// Samples differ.
    Noisy {
        /// The distance between the quartiles.
        spread: f64,
    },
    /// Interruptions took time.
    Interrupted {
        /// The share of the time.
        share: f64,
    },
    /// The hypervisor took time.
    Steal {
        /// The share of the time.
        share: f64,
    },
    /// The clock was unsteady around most samples.
    UnsteadyClock,
    /// The clock changed during the run.
    ClockChanged {
        /// The lower quartile, in Hz.
        from_hz: f64,
        /// The upper quartile, in Hz.
        to_hz: f64,
    },
    /// The system's clock was set.
    ClockSet {
        /// By how much.
        seconds: f64,
    },
    /// A warning from the selection of the backend.
    Backend {
        /// The warning.
        warning: String,
    },
}

impl Doubt {
    /// Returns whether numbers with this doubt decide nothing.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::Quick | Self::WrongRatio { .. } | Self::BeyondBound { .. }
        )
    }

    /// Returns whether the doubt follows from the measurements of a report.
    pub(crate) fn is_derived(&self) -> bool {
        !matches!(self, Self::ClockSet { .. } | Self::Backend { .. })
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quick => f.write_str(
                "This was a trial run of seconds (--quick): its numbers decide nothing.",
            ),
            Self::LongRunTooShort { seconds, needed_s } => write!(
                f,
                "The long run was ended after {seconds:.2} s, before the {needed_s:.1} s of the \
                 short one, so the short one counts."
            ),
            Self::WrongRatio { ratio, expected } => write!(
                f,
                "This report should not be trusted: the independent loop takes {ratio:.3} times the \
                 cycles, and {expected:.3} times on other machines with this kind of core."
            ),
            Self::BeyondBound { reached } => write!(
                f,
                "This report should not be trusted: {} of the bound cannot be. This CPU multiplies \
                 in other than 3 cycles, or is not what it calls itself.",
                percent(*reached)
            ),
            Self::CoresTied { cores } => write!(
                f,
                "Cores {} cannot be told apart: they differ by less than one of them does from time \
                 to time, or by less than 0.2 %.",
                list(cores)
            ),
            Self::Noisy { spread } => write!(
                f,
                "This machine is noisy: the middle half of the samples is {} wide. Repeat the run \
                 without other load.",
                percent(*spread)
            ),
            Self::Interrupted { share } => write!(
                f,
                "Interruptions took {} of the time: the core had other work, too (poet-bench check \
                 names it).",
                percent(*share)
            ),
            Self::Steal { share } => {
                let share = percent(*share);
                write!(f, "The hypervisor took {share} of the core's time.")
            }
            Self::UnsteadyClock => f.write_str(
                "The clock was unsteady around most samples; cycles are those of the others.",
            ),
            Self::ClockChanged { from_hz, to_hz } => write!(
                f,
                "The clock changed during the run, from {} to {}: undisturbed rates are those of \
                 the clock that was most frequent.",
                clock(*from_hz),
                clock(*to_hz)
            ),
            Self::ClockSet { seconds } => write!(
                f,
                "The system's clock was set by {seconds:.0} s during the run. Rates do not depend \
                 on it; the time of the start may."
            ),
            Self::Backend { warning } => f.write_str(warning),
        }
    }
}

/// Which of the two rates must not be too low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// The core's rate while nothing interrupts it.
    Undisturbed,
    /// The core's rate with interruptions.
    WithInterruptions,
}

impl fmt::Display for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undisturbed => "undisturbed",
            Self::WithInterruptions => "with interruptions",
        })
    }
}

/// A rate below the required minimum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TooSlow {
    /// Which rate.
    pub basis: Basis,
    /// The measured rate.
    pub leaves_per_s: f64,
    /// The required rate.
    pub least: f64,
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            basis,
            leaves_per_s,
            least,
        } = self;
        write!(
            f,
            "{leaves_per_s:.0} leaves/s {basis} are less than {least}"
        )
    }
}

impl Verdict {
    /// Returns the rates below their minimum.
    #[must_use]
    pub fn too_slow(&self, interrupted: Option<f64>, undisturbed: Option<f64>) -> Vec<TooSlow> {
        let tested = [
            (
                Basis::WithInterruptions,
                &self.with_interruptions,
                interrupted,
            ),
            (Basis::Undisturbed, &self.undisturbed, undisturbed),
        ];
        let slow = tested.into_iter().filter_map(|(basis, rate, least)| {
            let (leaves_per_s, least) = (rate.leaves_per_s, least?);
            (leaves_per_s < least).then_some(TooSlow {
                basis,
                leaves_per_s,
                least,
            })
        });
        slow.collect()
    }
}
