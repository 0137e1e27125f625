//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use poet_engine::{TICK_LEAVES, WorkFunction};

use crate::known::{self, KnownCore};

/// Which CPU, which core, which settings make the most ticks?
///
/// Without a command, measures this machine in about a minute: its cores, every backend, and the
/// whole prover on the best core.
#[derive(Clone, Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub struct BenchOptions {
    /// What to do instead of measuring.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to measure.
    #[command(flatten)]
    pub measurement: Measurement,
}

/// Commands other than measuring.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Show reports of several machines side by side, relative to the first
    Compare {
        /// Reports written with --json
        #[arg(required = true, num_args = 2.., value_name = "REPORT")]
        reports: Vec<PathBuf>,
        /// Additional outputs.
        #[command(flatten)]
        outputs: Outputs,
    },
    /// Show a report again: as text, or as the given files
    Render {
        /// A report written with --json
        #[arg(value_name = "REPORT")]
        report: PathBuf,
        /// Additional outputs.
        #[command(flatten)]
        outputs: Outputs,
    },
    /// Compute the rate of a kind of core at a clock, without measuring anything
    Predict {
        /// The kind: golden-cove, zen-4, zen-3, zen-2 or zen
        #[arg(value_name = "KIND", value_parser = parse_kind)]
        kind: &'static KnownCore,
        /// The clock that the core sustains for weeks, in GHz
        #[arg(value_name = "GHZ", value_parser = parse_ghz)]
        ghz: f64,
        /// What is predicted.
        #[command(flatten)]
        round: RoundOptions,
    },
    /// Show what costs ticks on this machine, and the commands that change it; changes nothing
    Check {
        /// The core to check [default: the fastest]
        #[arg(long, value_name = "N", value_parser = parse_core)]
        core: Option<usize>,
    },
}

/// Files that show the results. `-` is standard output; only regular files are replaced.
#[derive(Clone, Debug, Args)]
pub struct Outputs {
    /// Write a page without external resources
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write a row for each report, with its numbers
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write sentences and tables as Markdown
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<PathBuf>,
    /// Replace existing files
    #[arg(long)]
    pub force: bool,
}

/// What makes ticks of leaves, and rounds of time.
#[derive(Clone, Copy, Debug, Args)]
pub struct RoundOptions {
    /// Leaves per tick
    #[arg(long, value_name = "LEAVES", default_value_t = TICK_LEAVES,
        value_parser = parse_tick_size)]
    pub tick_size: u64,
    /// The length of a round
    #[arg(long = "round", id = "round", value_name = "TIME", default_value = "324h",
        value_parser = parse_duration)]
    pub length: Duration,
}

/// How to measure.
#[derive(Clone, Debug, Args)]
pub struct Measurement {
    /// Measure every core for longer, and how load on other cores affects the best one
    #[arg(long)]
    pub survey: bool,
    /// Run the prover for this long, and show how the rate changes and what interrupts it (10m,
    /// 14d). The files of the report are written every minute
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Continue the long run of this report, on the same machine, and rewrite the report;
    /// --duration sets the new total length
    #[arg(long, value_name = "REPORT", conflicts_with_all = [
        "survey", "json", "work", "backend", "core", "tick_size", "round", "quick", "label", "price",
    ])]
    pub resume: Option<PathBuf>,
    /// Write the whole report as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Other forms of the report.
    #[command(flatten)]
    pub outputs: Outputs,
    /// The name of this machine in the report
    #[arg(long, value_name = "NAME", value_parser = parse_label)]
    pub label: Option<String>,
    /// The machine's price for 30 days, in any currency; gives the price of a tick
    #[arg(long, value_name = "AMOUNT", value_parser = parse_amount)]
    pub price: Option<f64>,
    /// The work function: sha256 or haraka256
    #[arg(long, default_value = "sha256", value_parser = parse_work)]
    pub work: WorkFunction,
    /// The backend to use [default: the fastest in a timing trial]
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// The core to use [default: the fastest]
    #[arg(long, value_name = "N", value_parser = parse_core)]
    pub core: Option<usize>,
    /// The priority to run at, a nice value from -20 (highest) to 19 [default: unchanged]
    #[arg(long, value_name = "NICE", allow_negative_numbers = true,
        value_parser = parse_priority)]
    pub priority: Option<i32>,
    /// Exit with code 3 if the rate with interruptions is below N leaves per second
    #[arg(long, value_name = "N", value_parser = parse_amount)]
    pub min_leaves_per_second: Option<f64>,
    /// Exit with code 3 if the rate without interruptions is below N leaves per second
    #[arg(long, value_name = "N", value_parser = parse_amount)]
    pub min_undisturbed_leaves_per_second: Option<f64>,
    /// The round whose ticks are counted.
    #[command(flatten)]
    pub round: RoundOptions,
    /// A trial run of seconds, to see the output; its numbers decide nothing
    #[arg(long)]
    pub quick: bool,
}

fn parse_work(text: &str) -> Result<WorkFunction> {
    let all = [WorkFunction::Sha256, WorkFunction::Haraka256];
    let named = all.into_iter().find(|function| function.name() == text);
    named.context("expected sha256 or haraka256")
}

// Not clap's own parsers of numbers: they answer with Rust's texts.

fn parse_core(text: &str) -> Result<usize> {
    let core = text.parse().ok();
    core.context("expected the number of a core, such as 0")
}

fn parse_priority(text: &str) -> Result<i32> {
    let priority = text.parse().ok();
    priority
        .filter(|priority| (-20..=19).contains(priority))
        .context("expected a whole number from -20 to 19")
}

fn parse_tick_size(text: &str) -> Result<u64> {
    let leaves = text.parse().ok();
    leaves
        .filter(|leaves| *leaves > 0)
        .context("expected a whole number that is 1 or greater")
}

fn parse_amount(text: &str) -> Result<f64> {
    let amount = text.parse().ok();
    amount
        .filter(|amount: &f64| amount.is_finite() && *amount >= 0.0)
        .context("expected a number that is 0 or greater")
}

fn parse_ghz(text: &str) -> Result<f64> {
    let ghz = text.parse().ok();
    // A clock in MHz is a slip that would predict a wonderful machine.
    ghz.filter(|ghz| (0.1..=20.0).contains(ghz))
        .context("expected a clock in GHz, from 0.1 to 20")
}

fn parse_label(text: &str) -> Result<String> {
    let plain =
        !text.is_empty() && text.chars().count() <= 60 && !text.chars().any(char::is_control);
    ensure!(plain, "expected up to 60 printable characters");
    Ok(text.to_owned())
}

fn parse_kind(text: &str) -> Result<&'static KnownCore> {
    KnownCore::named(text).with_context(|| {
        let names: Vec<&str> = known::CORES.iter().map(|core| core.name).collect();
        format!(
            "this kind of core is unknown, so nothing can be predicted: expected one of {}",
            names.join(", ")
        )
    })
}

/// Parses whole numbers with units, one after another: `90s`, `1h30m`, `14d`.
fn parse_duration(text: &str) -> Result<Duration> {
    const FORM: &str = "expected a time such as 90s, 10m, 1h30m or 14d";
    // A century: longer than anybody waits, and far from any overflow.
    const LONGEST_S: u64 = 100 * 366 * 24 * 3600;
    let mut seconds = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).context(FORM)?;
        let number: u64 = rest[..end].parse().context(FORM)?;
        let unit = match rest[end..].chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 24 * 3600,
            _ => anyhow::bail!(FORM),
        };
        seconds = number
            .checked_mul(unit)
            .and_then(|more| seconds.checked_add(more))
            .filter(|seconds| *seconds <= LONGEST_S)
            .context("longer than a century")?;
        rest = &rest[end + 1..];
    }
    ensure!(seconds > 0, "{FORM}");
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let seconds = |text| parse_duration(text).map(|duration| duration.as_secs()).ok();
        assert_eq!(seconds("90s"), Some(90));
        assert_eq!(seconds("1h30m"), Some(5400));
        assert_eq!(seconds("14d"), Some(1_209_600));
        for bad in [
            "",
            "0s",
            "10",
            "m",
            "1.5h",
            "-1s",
            "1ms",
            "99999999999d",
            "1µ",
            "10 m",
        ] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn command_line() {
        use clap::CommandFactory;
        BenchOptions::command().debug_assert();
        let parse = |arguments: &[&str]| {
            BenchOptions::try_parse_from([&["poet-bench"], arguments].concat())
        };
        let options = parse(&["--work", "haraka256", "--priority", "-5"]).unwrap();
        assert_eq!(options.measurement.work, WorkFunction::Haraka256);
        assert_eq!(options.measurement.priority, Some(-5));
        assert!(parse(&["--resume", "a.json", "--duration", "2h"]).is_ok());
        assert!(parse(&["predict", "zen-4", "4.2"]).is_ok());
        for bad in [
            &["--work", "md5"][..],
            &["--core", "x"],
            &["--core", "99999999999999999999999"],
            &["check", "--core", "1.5"],
            &["--priority", "20"],
            &["--priority", "high"],
            &["--tick-size", "0"],
            &["--tick-size", "99999999999999999999999"],
            &["--round", "x"],
            &["predict", "zen-4", "4", "--tick-size", "x"],
            &[
                "predict",
                "zen-4",
                "4",
                "--round",
                "99999999999999999999999h",
            ],
            &["--min-leaves-per-second", "nan"],
            &["--duration", "soon"],
            &["compare", "one.json"],
            &["--resume", "a.json", "--json", "b.json"],
            &["--resume", "a.json", "--core", "1"],
            &["--label", ""],
            &["--price", "-1"],
            &["predict", "zen-9", "4"],
            &["predict", "zen-4", "4000"],
            &["--survey", "check"],
            &["unknown"],
        ] {
            let error = parse(bad).unwrap_err().to_string();
            for rust in ["invalid digit", "target type", "..", "os error"] {
                assert!(!error.replace("...", "").contains(rust), "{bad:?}: {error}");
            }
        }
    }
}
