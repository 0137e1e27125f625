//! `poet-service copy-database`: from an embedded database to a shared one, and back.

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::bail;
use poet_admin::doctor::examine_database;
use poet_engine::{LABEL_DEPTH, WorkFunction};
use poet_storage::{Location, copy_database, directory::Directories};

use super::{BackendArgs, progress::Progress};

/// Copy all data of a server from one database to another
///
/// From the embedded database of one machine to a PostgreSQL database, or back: key, schedule,
/// members and proofs, including the round in progress. The work in progress stays in --datadir,
/// from which the server continues. No server may run on either database. --to must be empty, or
/// hold the result of an interrupted copy, which the same command continues. The copy is compared
/// with --from, and checked as by `doctor`.
///
/// Exit code: 0 copied, and the copy is sound; 1 not copied, or the copy is damaged.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The database to copy: the --dbdir of a server (POETDIR/db), or a URL as for --database
    #[arg(long, value_name = "DIR|URL", value_parser = parse)]
    from: Place,

    /// The destination: a directory without a database, or a URL as for --database
    #[arg(long, value_name = "DIR|URL", value_parser = parse)]
    to: Place,
}

#[derive(Clone, Debug)]
struct Place {
    location: Location,
    /// Those of an embedded database.
    directories: Option<Directories>,
}

fn parse(text: &str) -> Result<Place, String> {
    if text.contains("://") {
        return Ok(Place {
            location: Location::Url(Box::new(text.parse()?)),
            directories: None,
        });
    }
    let dbdir = PathBuf::from(text);
    let directories = Directories {
        datadir: dbdir.clone(),
        dbdir,
    };
    Ok(Place {
        location: Location::File(directories.database()),
        directories: Some(directories),
    })
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut locks = Vec::new();
    for (from, place) in [(true, &args.from), (false, &args.to)] {
        let Some(directories) = &place.directories else {
            continue;
        };
        if from && !directories.database().exists() {
            bail!(
                "--from {} holds no database: expected the --dbdir of a server, which is POETDIR/db",
                directories.dbdir.display()
            );
        }
        locks.push(directories.lock()?);
    }
    let mut progress = Progress::new("copying", 0);
    let copied = copy_database(
        &args.from.location,
        &args.to.location,
        &mut |done, total| {
            progress.update(done, total);
        },
    )?;
    drop(progress);
    let backend = BackendArgs {
        backend: None,
        // Recomputing a few labels does not need the fastest backend.
        no_trial: true,
    };
    let work = backend.select(WorkFunction::Sha256)?.work(LABEL_DEPTH)?;
    let mut report = Vec::new();
    let copy = args.to.location.open_to_read()?;
    let diagnosis = examine_database(&*copy, &work, &mut report)?;
    println!(
        "copied and compared: {} rounds ({} of them were there already), {} registrations, {} proofs",
        copied.rounds, copied.already, copied.registrations, copied.proofs
    );
    if diagnosis.sound() {
        println!(
            "the copy is sound. The work in progress stays where it is: start the server on the copy with \
             its --datadir, and none on {} any more",
            args.from.location
        );
        return Ok(ExitCode::SUCCESS);
    }
    io::copy(&mut &report[..], &mut io::stderr())?;
    bail!(
        "the copy is damaged, as --from is: expected a sound one (see `poet-service doctor`); do not start \
         a server on the copy"
    )
}
