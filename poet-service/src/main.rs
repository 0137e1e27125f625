//! The PoET server and its operator commands.

mod cli;

use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Backends(cli::backends::Args),
    Prove(cli::prove::Args),
    Verify(cli::verify::Args),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Backends(args) => cli::backends::run(&args),
        Command::Prove(args) => cli::prove::run(&args),
        Command::Verify(args) => cli::verify::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
