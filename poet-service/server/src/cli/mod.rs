//! The operator commands.

#[cfg(feature = "import")]
pub(crate) mod adopt;
pub(crate) mod backends;
pub(crate) mod backup;
pub(crate) mod check_config;
pub(crate) mod copy_database;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod health;
#[cfg(feature = "import")]
pub(crate) mod import;
pub(crate) mod notify_test;
pub(crate) mod prove;
pub(crate) mod rehearse;
pub(crate) mod schedule;
pub(crate) mod verify;

mod progress;
mod proof_file;
#[cfg(feature = "import")]
mod steps;

use std::{fmt, ops::RangeInclusive, str::FromStr, time::Duration};

use poet_backends::{SelectError, SelectOptions, Selection, select_with};
use poet_engine::{LABEL_DEPTH, MAX_DEPTH, Work, WorkFunction};
use poet_service::config::Config;

/// Fails if `config` names a shared database, since `command` works only on an embedded one.
/// `instead` is what to do with a shared one.
pub(crate) fn only_embedded(config: &Config, command: &str, instead: &str) -> anyhow::Result<()> {
    if config.database.is_some() {
        anyhow::bail!(
            "{command} works on the embedded database only: expected no --database, and for a shared \
             one {instead}"
        );
    }
    Ok(())
}

/// What to do with a shared database instead of commands that write to an embedded one.
#[cfg(feature = "import")]
pub(crate) const COPY_AFTERWARDS: &str =
    "the same without it, and `poet-service copy-database` afterwards";

/// A work function and its depth.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WorkArgs {
    /// The work function: sha256 is Spacemesh's
    #[arg(long, value_name = "NAME", default_value = "sha256", value_parser = work_function)]
    work: WorkFunction,

    /// Hashes in a label [default: 400 for sha256, 1024 for haraka256]
    #[arg(long, value_name = "N", value_parser = number(1..=MAX_DEPTH))]
    depth: Option<u32>,
}

impl WorkArgs {
    fn depth(&self) -> u32 {
        self.depth.unwrap_or(match self.work {
            WorkFunction::Sha256 => LABEL_DEPTH,
            WorkFunction::Haraka256 => HARAKA_DEPTH,
        })
    }

    /// Selects the work function on the chosen backend, for many chains at once.
    fn select(&self, backend: &BackendArgs) -> anyhow::Result<Work> {
        self.on(&backend.select(self.work)?)
    }

    /// Selects the work function on the chosen backend, for one chain.
    fn select_for_one_chain(&self, backend: &BackendArgs) -> anyhow::Result<Work> {
        self.on(&backend.select(self.work)?.for_one_chain()?)
    }

    fn on(&self, selection: &Selection) -> anyhow::Result<Work> {
        for warning in selection.warnings() {
            eprintln!("WARNING: {warning}");
        }
        Ok(selection.work(self.depth())?)
    }
}

/// How to choose a backend.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BackendArgs {
    /// Compute with this backend instead of the fastest [env: POET_BACKEND]
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,

    /// Choose the backend by a fixed order instead of a timing trial
    #[arg(long)]
    no_trial: bool,
}

impl BackendArgs {
    fn select(&self, function: WorkFunction) -> Result<Selection, SelectError> {
        let options = SelectOptions {
            forced: self.backend.as_deref(),
            trial: !self.no_trial,
        };
        select_with(function, options)
    }
}

/// At this depth, a Haraka label takes about as long as a SHA-256 label of depth 400.
const HARAKA_DEPTH: u32 = 1024;

/// Parses a whole number in a range.
fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync
where
    T: Clone + FromStr + PartialOrd + fmt::Display + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("expected a whole number from {least} to {most}")
        })
    }
}

fn work_function(name: &str) -> Result<WorkFunction, String> {
    [WorkFunction::Sha256, WorkFunction::Haraka256]
        .into_iter()
        .find(|function| function.name() == name)
        .ok_or_else(|| "expected sha256 or haraka256".into())
}

/// Returns whether this is the work function of the Spacemesh network.
fn is_spacemesh(work: &Work) -> bool {
    (work.function(), work.depth()) == (WorkFunction::Sha256, LABEL_DEPTH)
}

/// The default number of threads: one per core.
fn available_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |threads| threads.get().min(poet_engine::MAX_THREADS))
}

/// How often to check the progress.
const TICK: Duration = Duration::from_millis(50);

/// The exit code of an interrupted program, as shells report it.
const INTERRUPTED: u8 = 130;
