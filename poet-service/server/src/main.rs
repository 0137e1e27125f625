//! `poet-service`: the PoET server and its operator commands.

mod cli;

use std::{
    io::Write as _,
    process::{self, ExitCode},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use poet_backends::{SelectOptions, select_with};
use poet_engine::{LABEL_DEPTH, WorkFunction, ZERO};
use poet_files::{explain, reason};
use poet_host::WorkPlace;
use poet_proto::{dates::Zone, duration::in_words, network::Network, timetable::both};
use poet_rounds::{
    blocking,
    clock::{Clock, SystemClock},
    registration::Registration,
};
use poet_service::{
    args::ServerArgs,
    config::Config,
    logfile::LogFile,
    notify::{self, Notices},
    service::Server,
    status::StatusReader,
    systemd::ServiceManager,
    terminal::{self, LogFileHandle, Terminal},
};

/// The threads of a server besides one per core.
const OTHER_THREADS: usize = 30;
/// How long the shutdown may take. Including what follows, it stays below five seconds.
const END_TIMEOUT: Duration = Duration::from_millis(4500);
/// How often to report the status to the service manager, unless its watchdog wants it sooner.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);
const MIN_STATUS_INTERVAL: Duration = Duration::from_millis(10);
/// How long writing a log line may take.
const LAST_LINE: Duration = Duration::from_millis(200);

#[derive(Debug, Parser)]
#[command(
    name = "poet-service",
    version = poet_service::version::WITH_COMMIT,
    about = "The PoET server of a Spacemesh network",
    long_about = "The PoET server of a Spacemesh network.\n\n\
        Without a subcommand it runs the server: it registers the challenges of nodes for a round, \
        works on the round, and serves its proof. Without options it runs rounds of 30 seconds on \
        local ports, for a first try.",
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
    Backup(Box<cli::backup::Args>),
    CheckConfig(Box<cli::check_config::Args>),
    CopyDatabase(Box<cli::copy_database::Args>),
    Doctor(Box<cli::doctor::Args>),
    Export(Box<cli::export::Args>),
    Health(Box<cli::health::Args>),
    #[cfg(feature = "import")]
    Adopt(Box<cli::adopt::Args>),
    #[cfg(feature = "import")]
    Import(Box<cli::import::Args>),
    NotifyTest(Box<cli::notify_test::Args>),
    Prove(cli::prove::Args),
    Rehearse(Box<cli::rehearse::Args>),
    Restore(Box<cli::backup::RestoreArgs>),
    Schedule(Box<cli::schedule::Args>),
    Verify(cli::verify::Args),
}

fn main() -> ExitCode {
    let matches = poet_pages::with_pages(Cli::command()).get_matches();
    if let Some(written) = poet_pages::write_if_asked(&matches, Cli::command()) {
        return ended(
            written
                .context("cannot write the pages")
                .map(|()| ExitCode::SUCCESS),
        );
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match cli.command {
        None => serve(cli.server),
        Some(Command::Backends(args)) => cli::backends::run(&args),
        Some(Command::Backup(args)) => cli::backup::run(*args),
        Some(Command::CheckConfig(args)) => cli::check_config::run(*args),
        Some(Command::CopyDatabase(args)) => cli::copy_database::run(&args),
        Some(Command::Doctor(args)) => Ok(cli::doctor::run(*args)),
        Some(Command::Export(args)) => cli::export::run(*args),
        Some(Command::Health(args)) => cli::health::run(*args),
        #[cfg(feature = "import")]
        Some(Command::Adopt(args)) => cli::adopt::run(*args),
        #[cfg(feature = "import")]
        Some(Command::Import(args)) => cli::import::run(*args),
        Some(Command::NotifyTest(args)) => cli::notify_test::run(*args),
        Some(Command::Prove(args)) => cli::prove::run(&args),
        Some(Command::Rehearse(args)) => cli::rehearse::run(*args),
        Some(Command::Restore(args)) => cli::backup::restore(*args),
        Some(Command::Schedule(args)) => cli::schedule::run(*args),
        Some(Command::Verify(args)) => cli::verify::run(&args),
    };
    ended(result)
}

fn ended(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", explain(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn serve(args: ServerArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(args)?;
    check_threads()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let file = LogFile::open(
        &config.log.folder,
        config.log.max_files,
        config.log.max_file_bytes,
        Arc::clone(&clock),
    )
    .map_err(|cause| {
        anyhow::anyhow!(
            "cannot use --logdir {}: {}: expected a directory that can be written to",
            config.log.folder.display(),
            reason(&cause)
        )
    })?;
    let terminal = Terminal::new(file).context("cannot start the threads of the log")?;
    let notices = Notices::start(&config.notify, Arc::clone(&clock))
        .context("cannot start the threads for notifications")?;
    terminal.init_logs(config.log.debug, config.log.json, notices.clone());
    let result = serve_with(config, clock, &terminal, &notices);
    let code = result.unwrap_or_else(|error| {
        // Through the queue of the log, since nothing may be reading it at the moment.
        terminal.say_last(&format!("error: {}", explain(error.as_ref())));
        ExitCode::FAILURE
    });
    // An alarm that ends the server must be delivered, too.
    notices.end(notify::END);
    Ok(code)
}

/// Fails if the system does not provide as many threads as a server needs.
fn check_threads() -> anyhow::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let count = cores + OTHER_THREADS;
    let (hold, held) = mpsc::channel::<()>();
    let held = Arc::new(Mutex::new(held));
    let start = |_| {
        let held = Arc::clone(&held);
        // Waits until all are started.
        let wait = move || drop(held.lock().map(|held| held.recv()));
        thread::Builder::new().spawn(wait)
    };
    let threads = (0..count).map(start).collect::<Result<Vec<_>, _>>();
    drop(hold);
    let threads = threads.map_err(|_| {
        anyhow::anyhow!(
            "the system does not give this process the {count} threads that it needs: expected \
             more room in `ulimit -u`, TasksMax of the service or pids.max of its control group"
        )
    })?;
    for thread in threads {
        // The thread has done nothing that could fail.
        drop(thread.join());
    }
    Ok(())
}

/// Ends the process if an orderly shutdown takes too long, for whatever reason. Its thread is
/// created at the start.
struct Deadline(mpsc::Sender<i32>);

impl Deadline {
    fn new() -> anyhow::Result<Self> {
        let (begin, begun) = mpsc::channel();
        thread::Builder::new()
            .name("end".to_owned())
            .spawn(move || {
                let Ok(code) = begun.recv() else { return };
                thread::sleep(END_TIMEOUT);
                tracing::warn!(
                    "ended without waiting any longer: the next start recomputes what was not stored yet"
                );
                // Time for the line to be written.
                thread::sleep(LAST_LINE);
                process::exit(code);
            })
            .context("cannot start the threads of the server")?;
        Ok(Self(begin))
    }

    /// Called when the process begins to end, with its exit code.
    fn begin(&self, code: i32) {
        // The thread waits for nothing else.
        let _ = self.0.send(code);
    }
}

fn serve_with(
    config: Config,
    clock: Arc<dyn Clock>,
    terminal: &Terminal,
    notices: &Notices,
) -> anyhow::Result<ExitCode> {
    let deadline = Deadline::new()?;
    if !config.ignored.is_empty() {
        tracing::warn!("without effect here: {}", config.ignored.join(", "));
    }
    // Before any thread is started, since none may disturb the measurement of the cores.
    let mut place = WorkPlace::default();
    if config.rounds.worker.may_work() {
        let options = SelectOptions {
            forced: config.work.backend.as_deref(),
            trial: false,
        };
        let work = select_with(WorkFunction::Sha256, options)?
            .for_one_chain()?
            .work(LABEL_DEPTH)?;
        place = WorkPlace::prepare(config.work.core, config.work.priority, &|| {
            work.kernels().chain.one(&mut ZERO.clone(), LABEL_DEPTH);
            LABEL_DEPTH.into()
        });
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the server")?;
    let result = runtime.block_on(run(config, place, clock, terminal, notices, &deadline));
    // What still runs there ends with the process.
    runtime.shutdown_background();
    result
}

async fn run(
    config: Config,
    place: WorkPlace,
    clock: Arc<dyn Clock>,
    terminal: &Terminal,
    notices: &Notices,
    deadline: &Deadline,
) -> anyhow::Result<ExitCode> {
    // First, so that a signal during the start also ends the server in order.
    let end = end_signal()?;
    let hangups = Hangups::new()?;
    let manager = ServiceManager::from_environment();
    let places = format!(
        "database   {}\nwork       {}\nlogs       {}",
        match &config.database {
            Some(url) => url.to_string(),
            None => config.directories.dbdir.display().to_string(),
        },
        config.directories.datadir.display(),
        config.log.folder.display()
    );
    let (notices, recent) = (notices.clone(), terminal.recent().clone());
    let mut server = Server::start(config, place, Arc::clone(&clock), notices, recent).await?;
    manager.ready();

    // An output that is closed or stopped is no reason to end or to wait.
    let greeting = greeting(&server, &places);
    let greet = move || drop(std::io::stdout().write_all(greeting.as_bytes()));
    drop(thread::Builder::new().spawn(greet));
    let reader = server.status_reader();
    tokio::spawn(reload_on_signal(
        hangups,
        Arc::clone(server.registration()),
        terminal.log_file(),
    ));
    let part = tokio::select! {
        signal = end => {
            terminal.clear();
            tracing::info!(signal, "ending");
            None
        }
        part = server.part_ended() => Some(part),
        () = terminal.keep_status_line(reader.clone(), Arc::clone(&clock)) => None,
        () = keep_manager_informed(&manager, reader, clock) => None,
    };
    manager.stopping();
    deadline.begin(i32::from(part.is_some()));
    if let Some(part) = part {
        terminal.clear();
        // Without that part, it is no server any more. What was acknowledged is stored, and the
        // next start continues with the rest.
        tracing::error!(
            part,
            "ALARM: a part of the server has ended unexpectedly; the server ends"
        );
        // Other parts may still log what they cannot do.
        anyhow::bail!("a part of the server has ended unexpectedly: {part}");
    }
    server.shutdown().await;
    tracing::info!("ended");
    Ok(ExitCode::SUCCESS)
}

/// Describes where the server listens, and what to try.
fn greeting(server: &Server, places: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let addresses = server.addresses();
    let url = format!("http://{}", addresses.rest);
    let (grpc, private) = (addresses.grpc, addresses.private);
    let metrics = addresses.metrics.map_or_else(
        || "none (--metrics-port)".to_owned(),
        |address| format!("http://{address}/metrics"),
    );
    let hashing = server.backend().latency();
    let schedule = server.schedule();
    let network = Network::of(schedule);
    let network = network.map_or(String::new(), |network| format!(" ({})", network.name));
    let every = in_words(schedule.epoch_duration());
    let work = in_words(schedule.work_duration());
    let reader = server.status_reader();
    let round = reader.status().open.round;
    let early: String = (reader.gaps().early().iter())
        .map(|gap| {
            let (path, gap) = (gap.path(), in_words(gap.duration()));
            format!("cycle gap  {gap}: {url}{path}\n")
        })
        .collect();
    let zone = Zone::local_or_utc();
    let date = |time| both(&zone, time);
    let (start, end) = (schedule.start(round), schedule.end(round));
    let epoch = schedule.reward_epoch(round);
    let missed = server.missed_round().map_or(String::new(), |missed| {
        let until = date(schedule.end(missed));
        format!(
            "round {missed:<4} the network works on it until {until},\n\
             \x20          without this server, which was not running when it closed\n"
        )
    });
    // The client is not installed if cargo runs the server.
    let client = match std::env::var_os("CARGO") {
        Some(_) => "cargo run --release -p poet-client --",
        None => "poet-client",
    };
    format!(
        "poet-service {version}\n\
         REST       {url}\n\
         gRPC       {grpc}\n\
         operator   http://{private} (page and gRPC, not public)\n\
         hashing    {hashing}\n\
         {places}\n\
         metrics    {metrics}\n\
         schedule   a round every {every}, {work} of work each{network}\n\
         {early}\
         {missed}\
         round {round:<4} open until {}; rewarded in epoch {epoch}\n\
         \x20          its proof comes {}\n\
         \n\
         Try:\n  \
           curl {url}/v1/info\n  \
           {client} watch {url}\n  \
           curl {url}/v1/proofs/{round}\n",
        date(start),
        date(end),
    )
}

/// Reports the status to the service manager, and that the server is alive. Never resolves.
async fn keep_manager_informed(
    manager: &ServiceManager,
    reader: StatusReader,
    clock: Arc<dyn Clock>,
) {
    // Twice as often as the watchdog requires.
    let interval = manager.watchdog().map_or(STATUS_INTERVAL, |time| {
        (time / 2).clamp(MIN_STATUS_INTERVAL, STATUS_INTERVAL)
    });
    loop {
        manager.status(&terminal::status_text(&reader, &*clock));
        tokio::time::sleep(interval).await;
    }
}

/// Reads the trusted keys again, and reopens the log file, each time the operator asks for it.
/// Never resolves.
async fn reload_on_signal(
    mut hangups: Hangups,
    registration: Arc<Registration>,
    log_file: LogFileHandle,
) {
    loop {
        hangups.next().await;
        log_file.reopen();
        // It logs the result.
        drop(blocking(|| registration.reload_trusted_keys()));
    }
}

/// SIGHUPs, with which operators ask a service to read its files again.
#[cfg(unix)]
struct Hangups(tokio::signal::unix::Signal);

#[cfg(unix)]
impl Hangups {
    fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = signal(SignalKind::hangup()).context("cannot wait for SIGHUP")?;
        Ok(Self(signal))
    }

    async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// A system without SIGHUP.
#[cfg(not(unix))]
struct Hangups;

#[cfg(not(unix))]
impl Hangups {
    fn new() -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        std::future::pending::<()>().await;
    }
}

/// Resolves when the server is asked to end: by Ctrl-C, or by the service manager's SIGTERM.
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
        // Without a signal handler, the server runs until it is killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        "Ctrl-C"
    })
}
