//! The sentences of a verdict.

use std::fmt;

use crate::report::Report;
use crate::verdict::{Doubt, RoundRate};
use crate::words::{clock, duration, thousands};

/// A sentence of the verdict.
#[derive(Clone, Debug, PartialEq)]
pub enum Sentence {
    /// The core's rate while nothing interrupts it.
    Undisturbed {
        /// The rate.
        rate: RoundRate,
        /// The core.
        core: usize,
        /// The backend.
        backend: String,
        /// The length of a round.
        round_s: f64,
        /// Leaves per tick.
        tick_size: u64,
    },
    /// How close that is to what the hardware can do.
    Bound {
        /// The kind of core.
        cpu: String,
        /// Its bound, in cycles per hash.
        bound: f64,
        /// The share of it that was reached, if known.
        reached: Option<f64>,
    },
    /// The bound of the hardware is unknown.
    BoundUnknown {
        /// The work function.
        work: String,
    },
    /// The rate with interruptions.
    WithInterruptions {
        /// The rate.
        rate: RoundRate,
        /// The quartiles of the windows.
        windows: [f64; 2],
        /// The length of a window.
        window_s: f64,
        /// The length of the run.
        seconds: f64,
    },
    /// The effect of the clock.
    Clock {
        /// The clock.
        hz: f64,
        /// The ticks per round that 100 MHz add or take away.
        ticks_per_100_mhz: f64,
    },
    /// The ratio to the independent loop.
    Ratio {
        /// The backend.
        backend: String,
        /// The name of the loop.
        name: String,
        /// How many times as many cycles it takes.
        ratio: f64,
    },
    /// The energy of a tick.
    Energy {
        /// The power of all packages.
        watts: f64,
        /// The energy of a tick.
        joules_per_tick: f64,
    },
    /// The price of a tick.
    Price {
        /// The price of the machine for a month.
        month: f64,
        /// The price of a tick.
        tick: f64,
    },
    /// What makes the rest less certain.
    Doubt(Doubt),
}

/// Returns the sentences of a report's verdict.
#[must_use]
pub fn sentences(report: &Report) -> Vec<Sentence> {
    let (verdict, settings, prover) = (&report.verdict, &report.settings, &report.prover);
    let mut sentences = vec![Sentence::Undisturbed {
        rate: verdict.undisturbed,
        core: prover.core,
        backend: prover.backend.clone(),
        round_s: settings.round_s,
        tick_size: settings.tick_size,
    }];
    let cpu = report.machine.microarchitecture.clone();
    sentences.push(match (verdict.bound_cycles_per_hash, cpu) {
        (Some(bound), Some(cpu)) => Sentence::Bound {
            cpu,
            bound,
            reached: verdict.bound_reached,
        },
        _ => Sentence::BoundUnknown {
            work: settings.work.clone(),
        },
    });
    sentences.push(Sentence::WithInterruptions {
        rate: verdict.with_interruptions,
        windows: verdict.windows,
        window_s: verdict.window_s,
        seconds: verdict.seconds,
    });
    if let Some((hz, ticks_per_100_mhz)) = prover.clock_hz.zip(verdict.ticks_per_100_mhz) {
        sentences.push(Sentence::Clock {
            hz: hz.median,
            ticks_per_100_mhz,
        });
    }
    if let Some(ratio) = report.yardstick.ratio {
        sentences.push(Sentence::Ratio {
            backend: prover.backend.clone(),
            name: report.yardstick.name.clone(),
            ratio: ratio.median,
        });
    }
    if let Some((watts, joules_per_tick)) = report.watts().zip(verdict.joules_per_tick) {
        sentences.push(Sentence::Energy {
            watts,
            joules_per_tick,
        });
    }
    if let Some((month, tick)) = settings.price.zip(verdict.price_per_tick) {
        sentences.push(Sentence::Price { month, tick });
    }
    sentences.extend(verdict.doubts.iter().cloned().map(Sentence::Doubt));
    sentences
}

impl fmt::Display for Sentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undisturbed {
                rate,
                core,
                backend,
                round_s,
                tick_size,
            } => write!(
                f,
                "Undisturbed, core {core} makes {} leaves/s with {backend}: {} ticks in a round of \
                 {} (tick size {}).",
                thousands(rate.leaves_per_s as u64),
                thousands(rate.ticks),
                duration(*round_s),
                thousands(*tick_size),
            ),
            Self::Bound {
                cpu,
                bound,
                reached: Some(reached),
            } => write!(
                f,
                "That is {:.1} % of the hardware bound of {cpu} at this clock: {bound:.0} cycles a \
                 hash, of which the prover takes {:.1}.",
                100.0 * reached,
                bound / reached,
            ),
            Self::Bound { cpu, bound, .. } => write!(
                f,
                "The hardware bound of {cpu} is {bound:.0} cycles a hash; the clock was never steady \
                 enough to compare."
            ),
            Self::BoundUnknown { work } => {
                write!(f, "The hardware bound of this CPU for {work} is not known.")
            }
            Self::WithInterruptions {
                rate,
                windows: [low, high],
                window_s,
                seconds,
            } => write!(
                f,
                "With interruptions, it made {} leaves/s over {}, which is {} ticks in a round; the \
                 middle half of its windows of {} made {} to {}.",
                thousands(rate.leaves_per_s as u64),
                duration(*seconds),
                thousands(rate.ticks),
                duration(*window_s),
                thousands(*low as u64),
                thousands(*high as u64),
            ),
            Self::Clock {
                hz,
                ticks_per_100_mhz,
            } => write!(
                f,
                "The clock was {}; 100 MHz more or less are {ticks_per_100_mhz:.0} ticks in a round.",
                clock(*hz)
            ),
            Self::Ratio {
                backend,
                name,
                ratio,
            } => write!(
                f,
                "An independent loop over SHA-256 ({name}) takes {ratio:.3} times the cycles of \
                 {backend}, in turns with it."
            ),
            Self::Energy {
                watts,
                joules_per_tick,
            } => write!(
                f,
                "All CPU packages together took {watts:.1} W, other cores' work included: \
                 {joules_per_tick:.0} J a tick."
            ),
            Self::Price { month, tick } => write!(
                f,
                "At {month} a month of 30 days a tick costs {tick:.6}, if the machine works all the \
                 time."
            ),
            Self::Doubt(doubt) => write!(f, "{doubt}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn the_sentences_are_those_of_the_report() {
        let mut report = sample();
        report.settings.price = Some(100.0);
        report.endurance.as_mut().unwrap().watts = Some(60.0);
        let report = report.judged(&[Doubt::Quick]);
        let verdict = &report.verdict;
        let expected = [
            Sentence::Undisturbed {
                rate: verdict.undisturbed,
                core: 1,
                backend: "sha-ni".into(),
                round_s: 1_166_400.0,
                tick_size: 9_331_200,
            },
            Sentence::Bound {
                cpu: "Golden Cove".into(),
                bound: 131.0,
                reached: verdict.bound_reached,
            },
            Sentence::WithInterruptions {
                rate: verdict.with_interruptions,
                windows: [55_000.0, 56_000.0],
                window_s: 1.0,
                seconds: 3.0,
            },
            Sentence::Clock {
                hz: 3e9,
                ticks_per_100_mhz: verdict.ticks_per_100_mhz.unwrap(),
            },
            Sentence::Ratio {
                backend: "sha-ni".into(),
                name: "sha2 compress256".into(),
                ratio: 1.251,
            },
            Sentence::Energy {
                watts: 60.0,
                joules_per_tick: verdict.joules_per_tick.unwrap(),
            },
            Sentence::Price {
                month: 100.0,
                tick: verdict.price_per_tick.unwrap(),
            },
            Sentence::Doubt(Doubt::Quick),
        ];
        assert_eq!(sentences(&report), expected);
        report_without_bound();
    }

    fn report_without_bound() {
        let mut report = sample();
        report.prover.cycles_per_leaf = None;
        let unclear = sentences(&report.clone().judged(&[]));
        assert!(matches!(unclear[1], Sentence::Bound { reached: None, .. }));
        report.machine.microarchitecture = None;
        let unknown = sentences(&report.judged(&[]));
        let work = "sha256".to_owned();
        assert_eq!(unknown[1], Sentence::BoundUnknown { work });
    }

    #[test]
    fn sentences_are_words() {
        let texts: Vec<String> = sentences(&sample())
            .iter()
            .map(ToString::to_string)
            .collect();
        let starts =
            "Undisturbed, core 1 makes 55,400 leaves/s with sha-ni: 6,925 ticks in a round";
        assert!(texts[0].starts_with(starts), "{}", texts[0]);
        assert!(texts[1].contains("% of the hardware bound"), "{}", texts[1]);
        let parts = [
            "55,000 leaves/s over 3 s",
            "6,875 ticks",
            "55,000 to 56,000",
        ];
        assert!(
            parts.iter().all(|part| texts[2].contains(part)),
            "{}",
            texts[2]
        );
    }
}
