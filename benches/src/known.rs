//! What is known about kinds of cores, whatever machine contains them, and about measured machines.

use poet_host::Machine;

use crate::report::Report;
use crate::verdict::RoundRate;

/// Hashes per leaf in the tree of a mainnet round.
pub const HASHES_PER_LEAF: f64 = 412.0625;

/// A kind of core.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KnownCore {
    /// The microarchitecture.
    pub name: &'static str,
    /// The machines that have it.
    pub found_in: &'static str,
    /// Cycles per hash on one chain, on the fastest backend.
    pub cycles_per_hash: f64,
    /// The source of that number.
    pub source: &'static str,
    /// The fewest cycles that the instruction set allows, if known.
    pub bound: Option<f64>,
    /// How many times as many cycles the independent loop takes, by the backend.
    ratios: &'static [(&'static str, f64)],
}

/// Published: two rounds take 4 cycles, and there are 32 steps of two. The last one, including the
/// way to the next hash, takes 7.
const FOUR_CYCLES: &str = "computed: 31 steps of 4 cycles and 7 for the last, by the latency of \
                           SHA256RNDS2 in Agner Fog's instruction tables; not measured";

/// All known kinds.
pub const CORES: [KnownCore; 5] = [
    KnownCore {
        name: "Golden Cove",
        found_in: "Intel Core of the 12th to 14th generation, Xeon of the 4th and 5th",
        cycles_per_hash: 131.1,
        source: "measured on a Xeon (README of the project)",
        bound: Some(131.0),
        ratios: &[
            ("sha-ni-avx", 1.252),
            ("sha-ni-avx512", 1.252),
            ("sha-ni", 1.252),
        ],
    },
    KnownCore {
        name: "Zen 4",
        found_in: "AMD Ryzen 7000 and 8000, EPYC 9004",
        cycles_per_hash: 129.1,
        source: "measured on an EPYC (README of the project)",
        bound: None,
        ratios: &[
            ("sha-ni-avx", 1.231),
            ("sha-ni-avx512", 1.211),
            ("sha-ni", 1.226),
        ],
    },
    KnownCore {
        name: "Zen 3",
        found_in: "AMD Ryzen 5000, EPYC 7003",
        cycles_per_hash: 131.0,
        source: FOUR_CYCLES,
        bound: None,
        ratios: &[],
    },
    KnownCore {
        name: "Zen 2",
        found_in: "AMD Ryzen 3000, EPYC 7002",
        cycles_per_hash: 131.0,
        source: FOUR_CYCLES,
        bound: None,
        ratios: &[],
    },
    KnownCore {
        name: "Zen",
        found_in: "AMD Ryzen 1000 and 2000, EPYC 7001",
        cycles_per_hash: 131.0,
        source: FOUR_CYCLES,
        bound: None,
        ratios: &[],
    },
];

impl KnownCore {
    /// Returns the kind with this name, in any spelling: `golden-cove`, `Zen4`.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        let plain = |name: &str| -> String {
            let letters = name.chars().filter(char::is_ascii_alphanumeric);
            letters.map(|c| c.to_ascii_lowercase()).collect()
        };
        CORES.iter().find(|core| plain(core.name) == plain(name))
    }

    /// Returns the kind of a machine's core.
    #[must_use]
    pub fn of(machine: &Machine, core: usize) -> Option<&'static Self> {
        let efficiency = |core: &poet_host::Core| core.kind.as_deref() == Some("efficiency");
        if machine.core(core).is_some_and(efficiency) {
            return None;
        }
        Self::named(machine.microarchitecture.as_deref()?)
    }

    /// Returns how many times as many cycles the independent loop takes as this backend.
    #[must_use]
    pub fn ratio(&self, kernel: &str) -> Option<f64> {
        let known = self.ratios.iter().find(|(name, _)| *name == kernel);
        known.map(|(_, ratio)| *ratio)
    }

    /// Computes the rate of such a core at a clock.
    #[must_use]
    pub fn rate(&self, hz: f64, round_s: f64, tick_size: u64) -> RoundRate {
        let leaves_per_s = hz / (self.cycles_per_hash * HASHES_PER_LEAF);
        RoundRate::of(leaves_per_s, round_s, tick_size)
    }
}

/// The reports of reference machines, as they were measured.
const REFERENCES: [&str; 1] = [include_str!("../references/xeon-16-core-guest.json")];

/// Returns the reports of the reference machines.
#[must_use]
pub fn references() -> Vec<Report> {
    let reports = REFERENCES.iter().map(|json| Report::from_json(json));
    // A test below reads every one.
    reports.filter_map(Result::ok).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_reports_of_real_runs() {
        for json in REFERENCES {
            let report = Report::from_json(json).unwrap();
            assert!(!report.settings.quick, "{}", report.machine.model);
            assert!(KnownCore::of(&report.machine, report.prover.core).is_some());
        }
        assert_eq!(references().len(), REFERENCES.len());
    }

    #[test]
    fn kinds_are_found_by_name() {
        assert_eq!(KnownCore::named("golden-cove"), Some(&CORES[0]));
        assert_eq!(KnownCore::named("ZEN4"), Some(&CORES[1]));
        for unknown in ["", "zen 9", "cove"] {
            assert_eq!(KnownCore::named(unknown), None, "{unknown}");
        }
        let mut machine = Machine {
            microarchitecture: Some("Golden Cove".into()),
            ..Machine::default()
        };
        assert_eq!(KnownCore::of(&machine, 0), Some(&CORES[0]));
        machine.cores.push(poet_host::Core {
            kind: Some("efficiency".into()),
            ..poet_host::Core::default()
        });
        assert_eq!(KnownCore::of(&machine, 0), None);
        assert_eq!(CORES[1].ratio("sha-ni-avx"), Some(1.231));
        assert_eq!(CORES[1].ratio("generic"), None);
    }

    #[test]
    fn a_prediction_is_the_clock_over_the_cycles() {
        let rate = CORES[0].rate(3.6e9, 1_166_400.0, 9_331_200);
        assert!((rate.leaves_per_s - 66_640.0).abs() < 1.0, "{rate:?}");
        assert_eq!(rate.ticks, 8_330);
    }

    #[test]
    fn hashes_of_a_leaf_are_those_of_the_tree() {
        let selection = crate::kernels::chosen();
        assert_eq!(
            crate::prover::hashes_per_leaf(&selection).unwrap(),
            HASHES_PER_LEAF
        );
    }
}
