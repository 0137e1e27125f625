//! `poet-service`: the PoET server and its operator commands.

mod cli;

use std::{io::Write as _, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use poet_service::{
    args::ServerArgs,
    clock::{Clock, SystemClock},
    config::Config,
    duration::format_go,
    service::Server,
    terminal::Terminal,
};

#[derive(Debug, Parser)]
#[command(
    name = "poet-service",
    version,
    about = "The PoET server of a Spacemesh network",
    long_about = "The PoET server of a Spacemesh network.\n\n\
        Without a subcommand it runs the server: nodes register challenges for a round, the round \
        is worked on, and its proof is served. Without options it keeps rounds of 30 seconds on \
        a local port, to try it out.",
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Backends(cli::backends::Args),
    Prove(cli::prove::Args),
    Verify(cli::verify::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve(cli.server),
        Some(Command::Backends(args)) => cli::backends::run(&args),
        Some(Command::Prove(args)) => cli::prove::run(&args),
        Some(Command::Verify(args)) => cli::verify::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn serve(args: ServerArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args)?;
    let terminal = Terminal::new();
    terminal.init_logs(config.debug_log, config.json_log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    runtime.block_on(run(config, &terminal))?;
    Ok(ExitCode::SUCCESS)
}

async fn run(config: Config, terminal: &Terminal) -> anyhow::Result<()> {
    // Before anything else, so that a signal during the start ends the server in order, too.
    let end = end_signal()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let places = format!(
        "database   {}\nwork       {}",
        config.dbdir.display(),
        config.datadir.display()
    );
    let server = Server::start(config, Arc::clone(&clock)).await?;

    // Nobody needs to read it: a closed output is no reason to end.
    drop(std::io::stdout().write_all(greeting(&server, &places).as_bytes()));
    let reader = server.status_reader();
    tokio::select! {
        signal = end => {
            terminal.clear();
            tracing::info!(signal, "ending");
        }
        () = terminal.keep_status_line(reader, clock) => {}
    }
    server.shutdown().await;
    tracing::info!("ended");
    Ok(())
}

/// Where to look, and what to try.
fn greeting(server: &Server, places: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let url = format!("http://{}", server.address());
    let hashing = server.backend().latency();
    let schedule = server.schedule();
    let every = format_go(schedule.epoch_duration());
    let work = format_go(schedule.work_duration());
    let round = server.status_reader().status().open.round;
    let (start, end) = (schedule.start(round), schedule.end(round));
    format!(
        "poet-service {version}\n\
         REST       {url}\n\
         hashing    {hashing}\n\
         {places}\n\
         schedule   a round every {every}, {work} of work each\n\
         round {round:<4} open until {start:.0}, its proof comes at {end:.0}\n\
         \n\
         Try:\n  \
           curl {url}/v1/info\n  \
           cargo run --release -p poet-service --example register -- --url {url}\n  \
           curl {url}/v1/proofs/{round}\n"
    )
}

/// Resolves when the server is asked to end: Ctrl-C, or the service manager's SIGTERM.
#[cfg(unix)]
fn end_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

/// Resolves when the server is asked to end.
#[cfg(not(unix))]
fn end_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    Ok(async {
        // Without a way to be told, the server runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    })
}
