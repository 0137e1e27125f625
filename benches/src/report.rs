//! The report: what a run found out, as it is written with `--json`.
//!
//! `benches/docs/report.md` explains it to those who read it by program. The version is raised when
//! a field changes its meaning or goes away; a program ignores fields that it does not know.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use poet_host::Machine;

use crate::histogram::Bucket;
use crate::stat::Stat;
use crate::verdict::Verdict;
use crate::windows::Window;

/// What a report calls itself.
pub const FORMAT: &str = "poet-bench report";

/// The version of the schema.
pub const SCHEMA: u64 = 2;

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
    /// What the machine is called.
    pub label: Option<String>,
    /// What the machine costs in a month of 30 days.
    pub price: Option<f64>,
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
    /// How many times as many cycles a hash takes in it as in the chosen kernel, turn by turn.
    pub ratio: Option<Stat>,
}

/// The cores, each measured several times in turns with the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cores {
    /// The measured ones, fastest first.
    pub measured: Vec<CoreResult>,
    /// Those that were not measured.
    pub skipped: Vec<SkippedCore>,
    /// The core on which the prover was run: of those in `tied`, the one with the fewest interrupts of
    /// devices.
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
    /// The rate in which interruptions count in full.
    pub with_interruptions: Sustained,
    /// How long the run was.
    pub seconds: f64,
    /// Cycles of a leaf, from samples with a steady clock.
    pub cycles_per_leaf: Option<Stat>,
    /// The clock, in Hz, where it was steady.
    pub clock_hz: Option<Stat>,
    /// Share of the time in which a hypervisor ran others on this core.
    pub steal: Option<f64>,
    /// The power that all CPU packages took, where the machine shows it.
    pub watts: Option<f64>,
}

/// A rate over a stretch of time, interruptions included.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sustained {
    /// Leaves per second of the whole stretch.
    pub leaves_per_s: f64,
    /// Leaves per second of the windows that it was cut into.
    pub windows: Stat,
    /// The length of a window.
    pub window_s: f64,
}

impl Sustained {
    /// Of the windows of a run, each of which is `window_s` long; nothing if there are none.
    #[must_use]
    pub fn of(windows: &[Window], window_s: f64) -> Option<Self> {
        let leaves: u64 = windows.iter().map(|window| window.leaves).sum();
        let seconds: f64 = windows.iter().map(|window| window.seconds).sum();
        let rates: Vec<f64> = windows.iter().map(Window::rate).collect();
        Some(Self {
            leaves_per_s: leaves as f64 / seconds,
            windows: Stat::of(&rates)?,
            window_s,
        })
    }
}

/// A long run of the whole prover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endurance {
    /// The core.
    pub core: usize,
    /// How long it was to be.
    pub asked_s: f64,
    /// How long it was.
    pub seconds: f64,
    /// Whether it was ended before its time, or has not reached its end.
    pub stopped_early: bool,
    /// After how many seconds it was resumed by another process, each time.
    pub resumed_s: Vec<f64>,
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
    /// The length of a full window.
    pub window_s: f64,
    /// The rate over time.
    pub windows: Vec<Window>,
    /// Leaves that took far longer than the median.
    pub interruptions: Interruptions,
    /// How long leaves took.
    pub histogram: Vec<Bucket>,
    /// The power that all CPU packages took, where the machine shows it.
    pub watts: Option<f64>,
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

impl Report {
    /// The report as JSON.
    ///
    /// # Errors
    /// Never: its keys are strings.
    pub fn to_json(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
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
                label: None,
                price: None,
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
                ratio: Some(stat(1.251)),
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
                with_interruptions: Sustained {
                    leaves_per_s: 55_100.0,
                    windows: stat(55_100.0),
                    window_s: 0.6,
                },
                seconds: 2.5,
                cycles_per_leaf: Some(stat(54_150.0)),
                clock_hz: Some(stat(3e9)),
                steal: Some(0.001),
                watts: None,
            },
            endurance: Some(Endurance {
                core: 1,
                asked_s: 3.0,
                seconds: 3.0,
                stopped_early: false,
                resumed_s: Vec::new(),
                leaves: 165_000,
                leaves_per_s: 55_000.0,
                first: window(56_000),
                rest: window(54_500),
                slowdown: 0.027,
                window_s: 1.0,
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
                watts: None,
            }),
            verdict: Verdict::default(),
        }
        .judged(&[])
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
        assert!(error("{").starts_with("it is not JSON: expected "));
        assert_eq!(error("[1]"), "it is not a report of poet-bench");
        assert_eq!(error(r#"{"schema":2}"#), "it is not a report of poet-bench");
        let json = sample().to_json().unwrap();
        let other = json.replacen("\"schema\": 2", "\"schema\": 3", 1);
        assert!(
            error(&other).starts_with("it has schema version 3, and this program reads version 2")
        );
        let none = json.replacen("\"schema\": 2,", "", 1);
        assert_eq!(error(&none), "it has no schema version");
        let damaged = json.replacen("\"best\": 1", "\"best\": \"x\"", 1);
        assert!(error(&damaged).starts_with("it is damaged: "));
        let edited = json.replacen("\"leaves\": 56000", "\"leaves\": 96000", 9);
        assert_ne!(edited, json);
        assert!(error(&edited).starts_with("it was edited: "));
    }
}
