//! `poet-service doctor`.

use std::process::ExitCode;

use poet_admin::doctor::{Examination, examine};
use poet_engine::{LABEL_DEPTH, WorkFunction};
use poet_service::{args::ServerArgs, config::Config};

use super::{BackendArgs, available_threads};

/// Check the directories of a server that does not run, and repair them
///
/// Takes the options of the server, to find its directories. Looks at the database (SQLite's own
/// check, tables, key, schedule), at each round (do its members give its statement, is its proof
/// valid) and at the logs of the work (do they belong to the round, are their entries what the work
/// gives). Nothing is changed without --repair. With --database it looks at the shared database, which
/// other servers may use, and at the work in --datadir.
///
/// Exit code: 0 all is sound, or has been repaired; 1 something is damaged; 2 it could not be
/// checked: a server is running, there is no database, or one of another version.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Put right what can be. What is replaced is kept under a name with the time in it
    #[arg(long)]
    repair: bool,

    /// Recompute all of the work in the logs, not a sample. The sample shows what has changed in a
    /// log since it was written, unless the work has gone on from that since; only this shows
    /// everything that is wrong. It takes about as long as the work did, divided by two to three
    /// times the number of cores
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
            eprintln!("error: {error:#}");
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
