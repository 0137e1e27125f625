//! `poet-service backup` and `restore`.

use std::{num::NonZero, path::PathBuf, process::ExitCode};

use poet_admin::backup;
use poet_engine::{LABEL_DEPTH, Work, WorkFunction};
use poet_rounds::clock::{Clock as _, SystemClock};
use poet_service::{args::ServerArgs, config::Config};

use super::{BackendArgs, number};

/// Copy the state of a server, running or stopped, into a directory
///
/// Takes the options of the server, to find its directories. The copy is a new folder in DIR: a
/// snapshot of the database, with the private key in it, and the work on the rounds. It is verified
/// as by `doctor`, and gets its name when it is complete; a failure leaves earlier backups
/// unchanged. DIR must be empty, or hold only backups, and be outside the server's directories.
/// Exit code: 0 made, 1 not made.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The directory of the backups
    #[arg(value_name = "DIR")]
    place: PathBuf,

    /// How many backups to keep in DIR; older ones are removed once the new one is complete
    #[arg(long, value_name = "NUMBER", default_value = "3",
        value_parser = number(NonZero::<u32>::MIN..=NonZero::<u32>::MAX))]
    keep: NonZero<u32>,

    #[command(flatten)]
    server: ServerArgs,
}

/// Restore a backup
///
/// Takes the options of the server, which must not run, to find its directories. The backup is
/// verified first. Registrations made after the backup are lost. Run it as the server's user. Exit
/// code: 0 restored, 1 not restored, and nothing is changed.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The directory of the backups, whose newest one is used, or one of the folders in it
    #[arg(value_name = "DIR")]
    place: PathBuf,

    /// Restore over a server's state: the existing files stay, under names that end in .kept- and a
    /// number
    #[arg(long)]
    replace: bool,

    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    super::only_embedded(
        &config,
        "backup",
        "PostgreSQL's own backup, such as pg_dump",
    )?;
    let work = work(&config)?;
    let keep = args.keep.get() as usize;
    let now = SystemClock.now();
    let done = backup::back_up(&config.directories, &args.place, keep, &work, now)?;
    println!("{done}");
    if done.removed > 0 {
        println!("removed {} older", done.removed);
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn restore(args: RestoreArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    super::only_embedded(
        &config,
        "restore",
        "PostgreSQL's own tools, such as pg_restore",
    )?;
    let work = work(&config)?;
    let now = SystemClock.now();
    let done = backup::restore(&config.directories, &args.place, args.replace, &work, now)?;
    println!("put back {done}");
    Ok(ExitCode::SUCCESS)
}

fn work(config: &Config) -> anyhow::Result<Work> {
    let backend = BackendArgs {
        backend: config.work.backend.clone(),
        // Recomputing a few labels does not need the fastest backend.
        no_trial: true,
    };
    Ok(backend.select(WorkFunction::Sha256)?.work(LABEL_DEPTH)?)
}
