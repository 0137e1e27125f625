//! `poet-client`: the tasks of a node with several PoETs, for smeshers' tools and for monitoring.

mod collect;
mod http;
mod input;
mod key;
mod load;
mod output;
mod poet;
mod proof;
mod receipt;
mod register;
mod schedule;
mod state;
mod time;
mod watch;

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use poet_files::reason;

#[derive(Debug, Parser)]
#[command(
    name = "poet-client",
    version,
    about = "Registers with PoET servers, collects their proofs, watches them and tries their limits",
    after_help = "Exit codes: 0 success, 1 failure, 2 the command line is wrong, 3 some servers failed."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Register(register::Args),
    Collect(collect::Args),
    VerifyReceipt(receipt::Args),
    Watch(watch::Args),
    Schedule(schedule::Args),
    #[command(subcommand)]
    Load(load::Command),
}

fn main() -> ExitCode {
    let matches = poet_pages::with_pages(Cli::command()).get_matches();
    if let Some(written) = poet_pages::write_if_asked(&matches, Cli::command()) {
        let written = written
            .map(|()| ExitCode::SUCCESS)
            .map_err(|error| anyhow!("cannot write the pages: {}", reason(&error)));
        return ended(written);
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        Command::Register(args) => register::run(&args),
        Command::Collect(args) => collect::run(&args),
        Command::VerifyReceipt(args) => receipt::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Schedule(args) => schedule::run(&args),
        Command::Load(command) => load::run(command),
    };
    ended(result)
}

fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
