//! `poet-service import`.

use std::{path::PathBuf, process::ExitCode};

use poet_admin::import::{
    ImportError, ImportProgress, ImportReport, RoundReport, Source, Taken, import,
};
use poet_backends::SelectOptions;
use poet_engine::{LABEL_DEPTH, WorkFunction};
use poet_proto::base64;
use poet_rounds::clock::{Clock, SystemClock};
use poet_service::{args::ServerArgs, config::Config};

use super::{
    INTERRUPTED,
    steps::{Steps, interruption},
};

/// Take over the state of a Go server (spacemeshos/poet)
///
/// Takes the options of the server, which give the destination (--poetdir or --datadir and --dbdir)
/// and the schedule of the rounds (--genesis-time must be set); the Go server's own --configfile
/// has both. Imports the key, the proofs, the members of unfinished rounds, the challenges of the
/// proof of work, and the work on the round in progress, which continues where it stopped. The
/// source is checked and not changed. The Go server must be stopped. After an interruption, the
/// same command continues; if everything is there already, it changes nothing.
///
/// Exit code: 0 everything is there, 1 nothing was imported, 2 wrong usage, 130 interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The Go server's data directory: its --datadir, or POETDIR/data
    #[arg(long, value_name = "DIR")]
    from: PathBuf,

    /// The Go server's database directory: its --dbdir, or POETDIR/db [default: db next to --from]
    #[arg(long, value_name = "DIR")]
    from_db: Option<PathBuf>,

    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    super::only_embedded(&config, "import", super::COPY_AFTERWARDS)?;
    let source = Source {
        dbdir: args.from_db.unwrap_or_else(|| {
            // "." has no file name to replace.
            let datadir = args.from.canonicalize();
            datadir
                .unwrap_or_else(|_| args.from.clone())
                .with_file_name("db")
        }),
        datadir: args.from,
    };
    let backend = poet_backends::select_with(
        WorkFunction::Sha256,
        SelectOptions {
            forced: config.work.backend.as_deref(),
            trial: config.work.trial,
        },
    )?;
    let work = backend.work(LABEL_DEPTH)?;
    let stop = interruption()?;

    let mut steps = Steps::default();
    let result = import(
        &source,
        &config.directories,
        &config.rounds,
        SystemClock.now(),
        &work,
        &stop,
        &mut |event| {
            let (step, done, total) = describe(event);
            steps.update(step, done, total);
        },
    );
    drop(steps);
    match result {
        Ok(report) => {
            print(&report);
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ ImportError::Interrupted) => {
            eprintln!("{error}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error.into()),
    }
}

pub(super) fn describe(event: ImportProgress) -> (String, u64, u64) {
    match event {
        ImportProgress::Converting {
            round,
            height,
            done,
            total,
        } => (
            format!("round {round}: reading nodes of layer {height}"),
            done,
            total,
        ),
        ImportProgress::Checking { round, done, total } => {
            let text = format!("round {round}: recomputing subtrees");
            (text, done, total)
        }
        ImportProgress::Searching { round } => {
            let text = format!("round {round}: looking for the last intact subtree");
            (text, 0, 1)
        }
    }
}

fn print(report: &ImportReport) {
    println!("identity  {}", base64::encode(report.public_key.as_bytes()));
    for RoundReport {
        round,
        members,
        taken,
    } in &report.rounds
    {
        let what = match taken {
            Taken::Proof { leaves } => format!("the proof of {leaves} leaves"),
            Taken::Work { .. } if report.already => "the work".to_owned(),
            Taken::Work { leaves, recorded } => {
                format!(
                    "the work up to leaf {leaves} (recorded: {recorded}): some of it was recomputed, \
                     the rest is taken on trust"
                )
            }
            Taken::Members => "not begun yet".to_owned(),
        };
        println!("round {round:<3} {members} members, {what}");
    }
    for warning in &report.warnings {
        eprintln!("WARNING: {warning}");
    }
    if report.already {
        println!("everything is there already: nothing was changed");
    } else {
        println!("imported: the server can be started with the same options");
    }
}
