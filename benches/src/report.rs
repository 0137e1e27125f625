//! The report: what a run found out, as it is written with `--json`.
//!
//! `benches/docs/report.md` explains it to those who read it by program. The version is raised when
//! a field changes its meaning or goes away; a program ignores fields that it does not know.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::histogram::Bucket;
use crate::windows::Window;
use poet_host::Machine;

/// What a report calls itself.
pub const FORMAT: &str = "poet-bench report";

/// The version of the schema.
pub const SCHEMA: u64 = 1;

/// Differences up to this are none: a run that is repeated at once differs by as much.
const RESOLUTION: f64 = 0.002;

/// What a run found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`FORMAT`].
    pub format: String,
    /// [`SCHEMA`].
    pub schema: u64,
    /// The version of `poet-bench`.
    pub version: String,
    /// When the run began, in UTC.
    pub started: String,
    /// What it was asked for.
    pub settings: Settings,
    /// Where it ran.
    pub machine: Machine,
    /// Every kernel for the work function.
    pub backends: Vec<Backend>,
    /// An independent loop over `sha2`'s compression function, timed in turns with the kernels.
    pub yardstick: Yardstick,
    /// Every core.
    pub cores: Cores,
    /// What the load of other cores does (`--survey`).
    pub loads: Vec<Load>,
    /// The whole prover on the best core.
    pub prover: Prover,
    /// The whole prover for long (`--duration`).
    pub endurance: Option<Endurance>,
    /// What it comes to.
    pub verdict: Verdict,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The work function: `sha256` or `haraka256`.
    pub work: String,
    /// The kernel that was forced.
    pub backend: Option<String>,
    /// The core that was forced.
    pub core: Option<usize>,
    /// The priority (nice value) that was asked for.
    pub priority: Option<i32>,
    /// Whether it was a trial run of seconds, whose numbers decide nothing.
    pub quick: bool,
    /// Whether cores and pinning came from hwloc.
    pub hwloc: bool,
    /// Leaves of a tick.
    pub tick_size: u64,
    /// The length of a round.
    pub round_s: f64,
}

/// Samples of one thing: the median, and the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// Half of the samples are smaller.
    pub median: f64,
    /// A quarter of the samples is smaller.
    pub q1: f64,
    /// A quarter of the samples is greater.
    pub q3: f64,
    /// How many there are.
    pub samples: usize,
}

impl Stat {
    /// Of `samples`; nothing if there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |q: f64| sorted[(q * last as f64).round() as usize];
        Some(Self {
            median: at(0.5),
            q1: at(0.25),
            q3: at(0.75),
            samples: sorted.len(),
        })
    }

    /// How far the quartiles are apart, relative to the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }

    /// Whether the middle halves of the samples share a value, or nearly so: then the difference of
    /// the medians tells nothing.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let margin = RESOLUTION * self.median.abs();
        self.q1 <= other.q3 + margin && other.q1 <= self.q3 + margin
    }
}

/// How fast something hashes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Hashes per second.
    pub hashes_per_s: Stat,
    /// CPU cycles of a hash.
    pub cycles_per_hash: Stat,
    /// Samples that were dropped because the clock was not steady around them.
    pub dropped: usize,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Why it cannot be used; nothing if it has passed its self-test.
    pub excluded: Option<String>,
    /// On one chain: the sequential work. Not for kernels that are for many chains only.
    pub one: Option<Speed>,
    /// On many chains, all together: proofs and verification.
    pub many: Option<Speed>,
    /// Leaves per second that the rate on one chain allows.
    pub leaves_per_s: Option<f64>,
    /// Whether the prover was run on it.
    pub chosen: bool,
}

/// The independent loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yardstick {
    /// What it is.
    pub name: String,
    /// Its speed on one chain of SHA-256; nothing if the clock was never steady.
    pub speed: Option<Speed>,
    /// The rate of the chosen kernel divided by its rate.
    pub ratio: Option<f64>,
}

/// The cores, each measured several times in turns with the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cores {
    /// The measured ones, fastest first.
    pub measured: Vec<CoreResult>,
    /// Those that were not measured.
    pub skipped: Vec<SkippedCore>,
    /// The core on which the prover was run.
    pub best: usize,
    /// The measured cores whose visits overlap with those of the fastest, which is one of them: if
    /// there are several, this run cannot tell which is the fastest.
    pub tied: Vec<usize>,
}

/// A core that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreResult {
    /// Its number.
    pub id: usize,
    /// Hashes per second; a sample is the median of a visit. Nothing if the clock was never steady.
    pub hashes_per_s: Option<Stat>,
    /// Its clock, in Hz, by the calibrated chain of multiplications.
    pub clock_hz: Option<Stat>,
    /// Whether the firmware prefers it.
    pub favoured: bool,
}

/// A core that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedCore {
    /// Its number.
    pub id: usize,
    /// Why not.
    pub reason: String,
}

/// What load on other cores does to the best one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// What the others do.
    pub name: String,
    /// The busy cores.
    pub cores: Vec<usize>,
    /// Why it was not measured.
    pub skipped: Option<String>,
    /// Hashes per second of the best core.
    pub hashes_per_s: Option<Stat>,
    /// The median relative to that without load.
    pub ratio: Option<f64>,
    /// Whether the samples overlap with those without load.
    pub within_noise: bool,
}

/// The whole prover, in a tree as high as that of a mainnet round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prover {
    /// The core.
    pub core: usize,
    /// The kernel.
    pub backend: String,
    /// Hashes of a leaf.
    pub hashes_per_leaf: f64,
    /// Leaves per second, all samples.
    pub leaves_per_s: Stat,
    /// The mean, in which interruptions count in full.
    pub mean_leaves_per_s: f64,
    /// Cycles of a leaf, from samples with a steady clock.
    pub cycles_per_leaf: Option<Stat>,
    /// Share of the time in which a hypervisor ran others on this core.
    pub steal: Option<f64>,
}

/// A long run of the whole prover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endurance {
    /// The core.
    pub core: usize,
    /// How long it was.
    pub seconds: f64,
    /// Whether it was ended before its time.
    pub stopped_early: bool,
    /// Leaves made.
    pub leaves: u64,
    /// Leaves per second, interruptions included.
    pub leaves_per_s: f64,
    /// The first minute, or the first quarter of a run shorter than four.
    pub first: Window,
    /// All after that.
    pub rest: Window,
    /// By how much the rest is slower than the first, relative to that; negative if faster.
    pub slowdown: f64,
    /// The rate over time.
    pub windows: Vec<Window>,
    /// Leaves that took far longer than the median.
    pub interruptions: Interruptions,
    /// How long leaves took.
    pub histogram: Vec<Bucket>,
}

/// Leaves that took far longer than the median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interruptions {
    /// The median of the first seconds.
    pub median_ns: u64,
    /// From here on a leaf counts as interrupted: twice the median.
    pub threshold_ns: u64,
    /// How many were.
    pub count: u64,
    /// The time beyond the median, of all together.
    pub lost_s: f64,
    /// The longest leaf.
    pub worst_ns: u64,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Leaves per second: of the long run if there was one, else the median of the prover.
    pub leaves_per_s: f64,
    /// Leaves of a round at that rate.
    pub leaves_per_round: u64,
    /// Ticks of a round at that rate.
    pub ticks: u64,
    /// The bound of this CPU in cycles of a hash, if it is known.
    pub bound_cycles_per_hash: Option<f64>,
    /// What share of the bound the prover reached.
    pub bound_reached: Option<f64>,
    /// What makes these numbers less certain than they look, in whole sentences.
    pub doubts: Vec<String>,
}

/// Leaves and ticks of a round.
#[must_use]
pub fn ticks(leaves_per_s: f64, round_s: f64, tick_size: u64) -> (u64, u64) {
    let leaves = (leaves_per_s * round_s) as u64;
    (leaves, leaves / tick_size)
}

impl Report {
    /// The report as JSON.
    ///
    /// # Errors
    /// Never: its keys are strings.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Reads a report from JSON.
    ///
    /// # Errors
    /// When it is not JSON, not a report, or one of another version.
    pub fn from_json(json: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(json).context("not JSON")?;
        ensure!(
            value.get("format").and_then(Value::as_str) == Some(FORMAT),
            "not a report of poet-bench"
        );
        match value.get("schema").and_then(Value::as_u64) {
            Some(SCHEMA) => {}
            Some(other) => bail!("schema version {other}; this program reads version {SCHEMA}"),
            None => bail!("a report without a schema version"),
        }
        serde_json::from_value(value).context("a damaged report")
    }

    /// Reads a report from a file.
    ///
    /// # Errors
    /// When there is none.
    pub fn load(path: &Path) -> Result<Self> {
        let json = std::fs::read_to_string(path);
        let report = json
            .map_err(Into::into)
            .and_then(|json| Self::from_json(&json));
        report.with_context(|| format!("cannot use {}", path.display()))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A report in which everything occurs.
    pub(crate) fn sample() -> Report {
        let stat = |median: f64| Stat {
            median,
            q1: median * 0.99,
            q3: median * 1.01,
            samples: 40,
        };
        let speed = |hashes: f64| Speed {
            hashes_per_s: stat(hashes),
            cycles_per_hash: stat(3e9 / hashes),
            dropped: 3,
        };
        let window = |leaves| Window {
            seconds: 1.0,
            leaves,
            lost_s: 0.01,
            celsius: Some(61.5),
            hz: Some(2.9e9),
        };
        Report {
            format: FORMAT.into(),
            schema: SCHEMA,
            version: "0.1.0".into(),
            started: "2026-01-02T03:04:05Z".into(),
            settings: Settings {
                work: "sha256".into(),
                backend: None,
                core: None,
                priority: Some(-5),
                quick: false,
                hwloc: false,
                tick_size: 9_331_200,
                round_s: 1_166_400.0,
            },
            machine: Machine {
                model: "A CPU <of> \"tests\" & more".into(),
                microarchitecture: Some("Golden Cove".into()),
                kernel: "6.1".into(),
                cores: vec![poet_host::Core::default()],
                ..Machine::default()
            },
            backends: vec![
                Backend {
                    name: "sha-ni".into(),
                    excluded: None,
                    one: Some(speed(22.9e6)),
                    many: Some(speed(31e6)),
                    leaves_per_s: Some(55_500.0),
                    chosen: true,
                },
                Backend {
                    name: "avx512".into(),
                    excluded: Some("the CPU lacks avx512f".into()),
                    one: None,
                    many: None,
                    leaves_per_s: None,
                    chosen: false,
                },
            ],
            yardstick: Yardstick {
                name: "sha2 compress256".into(),
                speed: Some(speed(18.3e6)),
                ratio: Some(1.251),
            },
            cores: Cores {
                measured: vec![
                    CoreResult {
                        id: 1,
                        hashes_per_s: Some(stat(22.9e6)),
                        clock_hz: Some(stat(3e9)),
                        favoured: true,
                    },
                    CoreResult {
                        id: 0,
                        hashes_per_s: None,
                        clock_hz: None,
                        favoured: false,
                    },
                ],
                skipped: vec![SkippedCore {
                    id: 2,
                    reason: "it is switched off".into(),
                }],
                best: 1,
                tied: vec![1],
            },
            loads: vec![Load {
                name: "all others busy".into(),
                cores: vec![0],
                skipped: None,
                hashes_per_s: Some(stat(22e6)),
                ratio: Some(0.96),
                within_noise: false,
            }],
            prover: Prover {
                core: 1,
                backend: "sha-ni".into(),
                hashes_per_leaf: 412.5,
                leaves_per_s: stat(55_400.0),
                mean_leaves_per_s: 55_000.0,
                cycles_per_leaf: Some(stat(54_000.0)),
                steal: Some(0.001),
            },
            endurance: Some(Endurance {
                core: 1,
                seconds: 3.0,
                stopped_early: false,
                leaves: 165_000,
                leaves_per_s: 55_000.0,
                first: window(56_000),
                rest: window(54_500),
                slowdown: 0.027,
                windows: vec![window(56_000), window(54_000), window(55_000)],
                interruptions: Interruptions {
                    median_ns: 18_000,
                    threshold_ns: 36_000,
                    count: 12,
                    lost_s: 0.03,
                    worst_ns: 4_000_000,
                },
                histogram: vec![
                    Bucket {
                        from_ns: 17_920,
                        to_ns: 18_432,
                        count: 164_988,
                    },
                    Bucket {
                        from_ns: 3_932_160,
                        to_ns: 4_063_232,
                        count: 12,
                    },
                ],
            }),
            verdict: Verdict {
                leaves_per_s: 55_000.0,
                leaves_per_round: 64_152_000_000,
                ticks: 6875,
                bound_cycles_per_hash: Some(131.0),
                bound_reached: Some(0.998),
                doubts: vec!["It was noisy.".into()],
            },
        }
    }

    #[test]
    fn json_there_and_back() {
        let report = sample();
        let json = report.to_json().unwrap();
        assert_eq!(Report::from_json(&json).unwrap(), report);
    }

    #[test]
    fn foreign_json() {
        let error = |json: &str| format!("{:#}", Report::from_json(json).unwrap_err());
        assert!(error("{").starts_with("not JSON: "));
        assert_eq!(error("[1]"), "not a report of poet-bench");
        assert_eq!(error(r#"{"schema":1}"#), "not a report of poet-bench");
        let json = sample().to_json().unwrap();
        let other = json.replacen("\"schema\": 1", "\"schema\": 2", 1);
        assert_eq!(
            error(&other),
            "schema version 2; this program reads version 1"
        );
        let none = json.replacen("\"schema\": 1,", "", 1);
        assert_eq!(error(&none), "a report without a schema version");
        let damaged = json.replacen("\"best\": 1", "\"best\": \"x\"", 1);
        assert!(error(&damaged).starts_with("a damaged report: "));
    }

    #[test]
    fn statistics() {
        assert_eq!(Stat::of(&[]), None);
        let stat = Stat::of(&[4.0, 1.0, 3.0, 2.0, 5.0]).unwrap();
        assert_eq!(
            (stat.median, stat.q1, stat.q3, stat.samples),
            (3.0, 2.0, 4.0, 5)
        );
        assert_eq!(stat.spread(), 2.0 / 3.0);
        let above = Stat::of(&[5.0, 6.0, 7.0]).unwrap();
        assert!(stat.overlaps(&stat));
        assert!(!stat.overlaps(&above) && !above.overlaps(&stat));
        let exact = |value| Stat::of(&[value]).unwrap();
        assert!(exact(100.0).overlaps(&exact(100.1)));
        assert!(!exact(100.0).overlaps(&exact(101.0)));
    }

    #[test]
    fn ticks_of_a_round() {
        assert_eq!(
            ticks(78_000.0, 1_166_400.0, 9_331_200),
            (90_979_200_000, 9750)
        );
        assert_eq!(ticks(1.0, 10.0, 20), (10, 0));
    }
}
