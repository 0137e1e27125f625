//! `poet-client load`: simulates thousands of nodes, to measure what a server can handle.
//!
//! All of it runs on one thread, so that it can be pinned to a core (`taskset`) and takes little
//! CPU time from a server on the same machine.

mod fetch;
mod http;
mod members;
mod proof;
mod register;
mod report;

use std::process::ExitCode;

use anyhow::anyhow;
use poet_files::reason;
use poet_host::open_files;

/// Put load on a server and check its responses
///
/// The exit code is 0 only if every response was right.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    Register(register::Args),
    Fetch(fetch::Args),
}

pub(crate) fn run(command: Command) -> anyhow::Result<ExitCode> {
    // Each connection uses one.
    open_files::raise_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| anyhow!("cannot wait for connections: {}", reason(&error)))?;
    let right = runtime.block_on(async {
        match command {
            Command::Register(args) => register::run(args).await,
            Command::Fetch(args) => fetch::run(args).await,
        }
    })?;
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
