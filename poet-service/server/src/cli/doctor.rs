//! `poet-service doctor`.

use std::process::ExitCode;

use poet_admin::doctor::{Examination, examine};
use poet_engine::{LABEL_DEPTH, WorkFunction};
use poet_files::explain;
use poet_service::{args::ServerArgs, config::Config};

use super::{BackendArgs, available_threads};

/// Check the directories of a stopped server, and repair them
///
/// Takes the options of the server, to find its directories. Checks the database (SQLite's own
/// check, tables, key, schedule), each round (whether its members determine its statement, and its
/// proof is valid) and the logs of the work (whether they belong to the round, and their entries
/// are right). Changes nothing without --repair. With --database it checks the shared database,
/// which other servers may use, and the work in --datadir.
///
/// Exit code: 0 everything is sound, or was repaired; 1 something is damaged; 2 the check failed: a
/// server is running, or there is no database of this version.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Repair what can be repaired. Originals are kept under names with the time in them
    #[arg(long)]
    repair: bool,

    /// Recompute all of the work in the logs, not a sample. The sample shows what has changed in a
    /// log since it was written, unless the work has continued from the change; only this shows
    /// every error. It takes about as long as the work did, divided by two to three times the
    /// number of cores
    #[arg(long)]
    full: bool,

    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> ExitCode {
    match check(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", explain(error.as_ref()));
            ExitCode::from(2)
        }
    }
}

fn check(args: Args) -> anyhow::Result<bool> {
    let config = Config::load(args.server)?;
    let directories = config.directories;
    let backend = BackendArgs {
        backend: config.work.backend,
        no_trial: !config.work.trial,
    };
    let work = backend.select(WorkFunction::Sha256)?.work(LABEL_DEPTH)?;
    let examination = Examination {
        directories,
        database: config.database,
        full: args.full,
        repair: args.repair,
        threads: available_threads(),
    };
    let diagnosis = examine(&examination, &work, &mut std::io::stdout().lock())?;
    Ok(diagnosis.sound())
}
