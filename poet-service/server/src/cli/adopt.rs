//! `poet-service adopt`.

use std::process::ExitCode;

use poet_admin::import::{AdoptError, AdoptReport, AdoptSource, Adoption};
use poet_backends::SelectOptions;
use poet_engine::{LABEL_DEPTH, WorkFunction};
use poet_proto::base64;
use poet_rounds::clock::{Clock, SystemClock};
use poet_service::{args::ServerArgs, config::Config};

use super::{
    INTERRUPTED,
    import::describe,
    number,
    steps::{Steps, interruption},
};

/// Take over the members of another server's round, to work on it under this server's key
///
/// For nodes whose server is lost, or slow. This server must be stopped, have the same schedule,
/// and no members of its own in that round. The work done on the round so far is copied if --from
/// has it. The source is checked and not changed. After an interruption, the same command
/// continues.
///
/// Exit code: 0 the round is adopted, 1 nothing was adopted, 2 wrong usage, 130 interrupted.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The other server: the --poetdir of one of this kind or of a Go server, a backup, a database
    /// (poet.sqlite), or the address of a server of this kind, http://HOST:PORT or https://HOST
    #[arg(long, value_name = "DIR|FILE|URL")]
    from: String,

    /// The round, which must be settled there and not published
    #[arg(long, value_name = "NUMBER", value_parser = number(0..=u64::MAX))]
    round: u64,

    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    super::only_embedded(&config, "adopt", super::COPY_AFTERWARDS)?;
    let source = AdoptSource::find(&args.from)?;
    let backend = poet_backends::select_with(
        WorkFunction::Sha256,
        SelectOptions {
            forced: config.work.backend.as_deref(),
            trial: config.work.trial,
        },
    )?;
    let stop = interruption()?;
    let adoption = Adoption {
        source: &source,
        round: args.round,
        directories: &config.directories,
        config: &config.rounds,
        now: SystemClock.now(),
        work: &backend.work(LABEL_DEPTH)?,
        stop: &stop,
    };
    let mut steps = Steps::default();
    let result = adoption.run(&mut |event| {
        let (step, done, total) = describe(event);
        steps.update(step, done, total);
    });
    drop(steps);
    match result {
        Ok(report) => {
            print(args.round, &report);
            Ok(ExitCode::SUCCESS)
        }
        Err(error @ AdoptError::Interrupted) => {
            eprintln!("{error}");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Err(error) => Err(error.into()),
    }
}

fn print(round: u64, report: &AdoptReport) {
    let AdoptReport {
        already,
        from,
        members,
        leaves,
        end,
        warnings,
    } = report;
    println!("from      {}", base64::encode(from.as_bytes()));
    println!("round {round:<3} {members} members, ends at {end:.0}");
    for warning in warnings {
        eprintln!("WARNING: {warning}");
    }
    if *already {
        println!("everything is there already: nothing was changed");
        return;
    }
    match leaves {
        0 => println!("work      begins with the first leaf"),
        leaves => println!(
            "work      goes on after {leaves} leaves: some of it was recomputed, the rest is taken on \
             trust"
        ),
    }
    println!(
        "adopted: the server can be started with the same options; it serves the proof at \
         /v1/proofs/{round}"
    );
}
