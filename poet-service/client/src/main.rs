//! `poet-client`: what a node does with several PoETs, for smeshers' tools and for monitoring.

mod collect;
mod http;
mod key;
mod load;
mod messages;
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

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "poet-client",
    version,
    about = "Registers with PoET servers, collects their proofs, watches them and tries their limits",
    after_help = "Exit codes: 0 all went well, 1 nothing came of it, 2 the command line is wrong, \
        3 some servers failed."
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
    let result = match Cli::parse().command {
        Command::Register(args) => register::run(&args),
        Command::Collect(args) => collect::run(&args),
        Command::VerifyReceipt(args) => receipt::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Schedule(args) => schedule::run(&args),
        Command::Load(command) => load::run(command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
