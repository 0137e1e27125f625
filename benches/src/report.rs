//! The report: the result of a run, as written with `--json`.
//!
//! `benches/docs/report.md` documents it for programs. The version is raised when a field changes
//! its meaning or is removed; a program must ignore unknown fields.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use poet_host::Machine;

use crate::histogram::Bucket;
use crate::stat::Stat;
use crate::verdict::Verdict;
use crate::windows::Window;

/// The name of the format.
pub const FORMAT: &str = "poet-bench report";

/// The version of the schema.
pub const SCHEMA: u64 = 2;

/// The result of a run.
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
    /// The settings of the run.
    pub settings: Settings,
    /// The machine.
    pub machine: Machine,
    /// Every backend for the work function.
    pub backends: Vec<BackendResult>,
    /// An independent loop over `sha2`'s compression function, timed in turns with the backends.
    pub yardstick: Yardstick,
    /// Every core.
    pub cores: Cores,
    /// The effect of load on other cores (`--survey`).
    pub loads: Vec<Load>,
    /// The whole prover on the best core.
    pub prover: Prover,
    /// The whole prover for long (`--duration`).
    pub endurance: Option<Endurance>,
    /// The verdict.
    pub verdict: Verdict,
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The work function: `sha256` or `haraka256`.
    pub work: String,
    /// The requested backend.
    pub backend: Option<String>,
    /// The requested core.
    pub core: Option<usize>,
    /// The requested priority (nice value).
    pub priority: Option<i32>,
    /// Whether it was a trial run of seconds, whose numbers decide nothing.
    pub quick: bool,
    /// Whether cores and pinning came from hwloc.
    pub hwloc: bool,
    /// Leaves per tick.
    pub tick_size: u64,
    /// The length of a round.
    pub round_s: f64,
    /// The name of the machine.
    pub label: Option<String>,
    /// The price of the machine for a month of 30 days.
    pub price: Option<f64>,
}

/// A hashing speed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Hashes per second.
    pub hashes_per_s: Stat,
    /// CPU cycles per hash.
    pub cycles_per_hash: Stat,
    /// Samples that were dropped because the clock was unsteady around them.
    pub dropped: usize,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackendResult {
    /// Its name.
    pub name: String,
    /// Why it cannot be used; absent if it passed its self-test.
    pub excluded: Option<String>,
    /// On one chain: the sequential work. Absent for backends that are for many chains only.
    pub one: Option<Speed>,
    /// On many chains, all together: proofs and verification.
    pub many: Option<Speed>,
    /// Leaves per second that the rate on one chain allows.
    pub leaves_per_s: Option<f64>,
    /// Whether the prover ran on it.
    pub chosen: bool,
}

/// The independent loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Yardstick {
    /// Its name.
    pub name: String,
    /// Its speed on one chain of SHA-256; absent if the clock was never steady.
    pub speed: Option<Speed>,
    /// How many times as many cycles a hash takes in it as in the chosen backend, compared turn by
    /// turn.
    pub ratio: Option<Stat>,
}

/// The cores, each measured several times in turns with the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cores {
    /// The measured cores, fastest first.
    pub measured: Vec<CoreResult>,
    /// The cores that were not measured.
    pub skipped: Vec<SkippedCore>,
    /// The core on which the prover ran: of those in `tied`, the one with the fewest device
    /// interrupts.
    pub best: usize,
    /// The measured cores whose visits overlap with those of the fastest, including itself: if
    /// there are several, this run cannot determine which is the fastest.
    pub tied: Vec<usize>,
}

/// A core that was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CoreResult {
    /// Its number.
    pub id: usize,
    /// Hashes per second; a sample is the median of a visit. Absent if the clock was never steady.
    pub hashes_per_s: Option<Stat>,
    /// Its clock in Hz, from the calibrated chain of multiplications.
    pub clock_hz: Option<Stat>,
    /// Whether the firmware prefers it.
    pub favoured: bool,
}

/// A core that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedCore {
    /// Its number.
    pub id: usize,
    /// The reason.
    pub reason: String,
}

/// The effect of load on other cores on the best one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// What the other cores do.
    pub name: String,
    /// The busy cores.
    pub cores: Vec<usize>,
    /// Why it was not measured.
    pub skipped: Option<String>,
    /// Hashes per second of the best core.
    pub hashes_per_s: Option<Stat>,
    /// The median relative to the one without load.
    pub ratio: Option<f64>,
    /// Whether the samples overlap with those without load.
    pub within_noise: bool,
}

/// The whole prover, in a tree as high as that of a mainnet round.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prover {
    /// The core.
    pub core: usize,
    /// The backend.
    pub backend: String,
    /// Hashes per leaf.
    pub hashes_per_leaf: f64,
    /// Leaves per second, over all samples.
    pub leaves_per_s: Stat,
    /// The rate in which interruptions count in full.
    pub with_interruptions: Sustained,
    /// The length of the run.
    pub seconds: f64,
    /// Cycles per leaf, from samples with a steady clock.
    pub cycles_per_leaf: Option<Stat>,
    /// The clock in Hz, where it was steady.
    pub clock_hz: Option<Stat>,
    /// The share of the time in which a hypervisor ran others on this core.
    pub steal: Option<f64>,
    /// The power of all CPU packages, if the machine reports it.
    pub watts: Option<f64>,
}

/// A rate over a period of time, including interruptions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sustained {
    /// Leaves per second over the whole period.
    pub leaves_per_s: f64,
    /// Leaves per second of its windows.
    pub windows: Stat,
    /// The length of a window.
    pub window_s: f64,
}

impl Sustained {
    /// Computes the rate from the windows of a run, each `window_s` long; `None` if there are none.
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
    /// The requested length.
    pub asked_s: f64,
    /// The actual length.
    pub seconds: f64,
    /// Whether it was stopped early, or has not reached its end.
    pub stopped_early: bool,
    /// The seconds at which another process resumed it.
    pub resumed_s: Vec<f64>,
    /// Leaves made.
    pub leaves: u64,
    /// Leaves per second, including interruptions.
    pub leaves_per_s: f64,
    /// The first minute, or the first quarter of a run shorter than four.
    pub first: Window,
    /// Everything after that.
    pub rest: Window,
    /// How much slower the rest is than the first, relative to the first; negative if faster.
    pub slowdown: f64,
    /// The length of a full window.
    pub window_s: f64,
    /// The rate over time.
    pub windows: Vec<Window>,
    /// Leaves that took far longer than the median.
    pub interruptions: Interruptions,
    /// How long leaves took.
    pub histogram: Vec<Bucket>,
    /// The power of all CPU packages, if the machine reports it.
    pub watts: Option<f64>,
}

/// Leaves that took far longer than the median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interruptions {
    /// The median of the first seconds.
    pub median_ns: u64,
    /// A leaf counts as interrupted from this time on: twice the median.
    pub threshold_ns: u64,
    /// The number of interrupted leaves.
    pub count: u64,
    /// The total time beyond the median.
    pub lost_s: f64,
    /// The longest leaf.
    pub worst_ns: u64,
}

impl Report {
    /// Returns the report as JSON.
    ///
    /// # Errors
    /// Never fails: its keys are strings.
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
                BackendResult {
                    name: "sha-ni".into(),
                    excluded: None,
                    one: Some(speed(22.9e6)),
                    many: Some(speed(31e6)),
                    leaves_per_s: Some(55_500.0),
                    chosen: true,
                },
                BackendResult {
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
