//! The whole server: start, recovery, the life of rounds, shutdown.
//!
//! ```text
//!            start(e)                              end(e)
//!   open ───────────────> settled ──> working ─────────────> proving ──> published
//!     registrations  the next round   the worker; its log     verified     proof and new
//!     are stored     is open          survives a restart                   challenge stored
//! ```
//!
//! What a round is in follows from the storage (see [`storage`](crate::storage)) and the time, so
//! a start after a crash is an ordinary start: rounds that were opened here, are past their start
//! and have no proof are settled if they are not, worked on if there is time left, and proven. A
//! round that was never opened here is not worked on.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware};
use jiff::Timestamp;
use poet_backends::{Options, SelectError, Selection};
use poet_engine::{DepthError, LABEL_DEPTH, SubtreeHeight, WorkFunction, membership};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    api::{
        self, grpc as grpc_api,
        server::{self, Protocol},
    },
    clock::{Clock, time_until},
    config::Config,
    duration::format_go,
    identity::{PRIVATE_KEY_VARIABLE, PrivateKey, PrivateKeyError},
    metrics::{self, Metrics, ServerState},
    registration::{OpenRound, Registration},
    schedule::{Schedule, ScheduleError},
    storage::{
        Execution, PowChallenges, Setting, SqliteStorage, Storage, StorageError, UnfinishedRound,
    },
    worker::{self, Executing, Job, Worker, WorkerHandle},
};

/// How often the clock is read, which may have been set in the meantime.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// The shortest wait for the clock.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(1);
/// How long to wait before a storage that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// What the fastest of today's machines make; sets the size of a round's tree log.
const EXPECTED_LEAVES_PER_SECOND: u64 = 100_000;

/// How often the server looks whether it is ready, and how long a write may take then.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long after the end of a round its proof is overdue.
const MAX_LATENESS: Duration = Duration::from_secs(60);

const LOCK_FILE: &str = "poet-service.lock";
const DATABASE_FILE: &str = "poet.sqlite";
const THREAD_ID_FILE: &str = "round.tid";
const ROUNDS_FOLDER: &str = "rounds";

/// Why the server does not start. Each message tells all there is to tell: causes are in it, not
/// behind it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error("cannot use {flag} {path}: {cause}: expected a directory that can be written to")]
    Directory {
        flag: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error(
        "{flag} {path} is in use by another poet-service (process {pid}): expected one server for each directory"
    )]
    Locked {
        flag: &'static str,
        path: PathBuf,
        pid: String,
    },
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(
        "--dbdir {path} holds rounds of another schedule ({stored}) than the configured one \
         ({configured}): expected the same --genesis-time, --epoch-duration, --phase-shift and \
         --cycle-gap, or another --poetdir"
    )]
    OtherSchedule {
        path: PathBuf,
        stored: String,
        configured: String,
    },
    #[error("--dbdir {path}: the stored {what} is damaged")]
    Damaged { path: PathBuf, what: &'static str },
    #[error("--dbdir {path}: the stored private key is damaged: {cause}")]
    StoredKey {
        path: PathBuf,
        cause: PrivateKeyError,
    },
    #[error("--dbdir {path} belongs to another private key than {PRIVATE_KEY_VARIABLE} gives")]
    OtherKey { path: PathBuf },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Backend(#[from] SelectError),
    #[error(transparent)]
    Depth(#[from] DepthError),
    #[error("cannot listen on {flag} {address}: {cause}")]
    Listen {
        flag: &'static str,
        address: String,
        cause: io::Error,
    },
    #[error("the description of the gRPC interface is damaged: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    #[error("the start was interrupted")]
    Interrupted,
}

/// A running server.
pub struct Server {
    registration: Arc<Registration>,
    worker: Worker,
    addresses: Addresses,
    backend: Selection,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    _locks: Vec<DirectoryLock>,
}

/// Where a server listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// For REST clients.
    pub rest: SocketAddr,
    /// For gRPC clients.
    pub grpc: SocketAddr,
    /// For the operator.
    pub private: SocketAddr,
    /// For monitoring.
    pub metrics: Option<SocketAddr>,
}

/// What the server is doing.
#[derive(Clone, Debug)]
pub struct Status {
    /// The round that takes registrations.
    pub open: OpenRound,
    /// When it closes.
    pub start: Timestamp,
    /// The round that is being worked on.
    pub executing: Option<Executing>,
    /// Rounds that wait for it to be finished.
    pub queued: usize,
}

/// Tells what a server is doing, while it runs.
#[derive(Clone)]
pub struct StatusReader {
    registration: Arc<Registration>,
    worker: WorkerHandle,
}

impl StatusReader {
    /// The schedule of the rounds.
    pub fn schedule(&self) -> &Schedule {
        self.registration.schedule()
    }

    /// What the server is doing now.
    pub fn status(&self) -> Status {
        let open = self.registration.open_round();
        Status {
            open,
            start: self.registration.schedule().start(open.round),
            executing: self.worker.executing(),
            queued: self.worker.queued(),
        }
    }
}

/// What blocks while it is got ready.
struct Prepared {
    locks: Vec<DirectoryLock>,
    storage: Arc<dyn Storage>,
    private_key: PrivateKey,
    schedule: Schedule,
    pow: PowChallenges,
    unfinished: Vec<UnfinishedRound>,
    /// The round to open.
    round: u64,
}

impl Server {
    /// Starts a server. It serves when this returns.
    ///
    /// # Errors
    /// When something that it needs is not there; the message says what was expected.
    pub async fn start(config: Config, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let options = Options {
            forced: config.backend.as_deref(),
            trial: config.trial,
        };
        let backend = poet_backends::select_with(WorkFunction::Sha256, options)?;
        tracing::info!(
            one_chain = %backend.latency(),
            many_chains = %backend.throughput(),
            "backends chosen"
        );
        for warning in backend.warnings() {
            tracing::error!("{warning}");
        }
        let work = backend.work(LABEL_DEPTH)?;
        // Before anything is stored: a port that is taken leaves no trace.
        let rest = Listener::bind("--restlisten", &config.restlisten).await?;
        let grpc = Listener::bind("--rpclisten", &config.rpclisten).await?;
        let private = Listener::bind("--config-rpclisten", &config.config_rpclisten).await?;
        let metrics_listener = match config.metrics_port {
            // All interfaces, like the original server.
            Some(port) => Some(Listener::bind("--metrics-port", &format!(":{port}")).await?),
            None => None,
        };
        let metrics = Metrics::default();
        let addresses = Addresses {
            rest: rest.address,
            grpc: grpc.address,
            private: private.address,
            metrics: metrics_listener.as_ref().map(|listener| listener.address),
        };

        let config = Arc::new(config);
        let prepared = {
            let (config, now, metrics) = (Arc::clone(&config), clock.now(), metrics.clone());
            tokio::task::spawn_blocking(move || prepare(&config, now, metrics))
                .await
                .map_err(|_| StartError::Interrupted)??
        };
        let Prepared {
            locks,
            storage,
            private_key,
            schedule,
            pow,
            unfinished,
            round,
        } = prepared;
        let members = storage.open_round(round).await?;
        let open = OpenRound { round, members };
        tracing::info!(round, members, until = %schedule.start(round), "open for registration");
        let registration = Arc::new(Registration::new(
            schedule,
            config.rules.clone(),
            private_key.public(),
            Arc::clone(&clock),
            Arc::clone(&storage),
            pow,
            open,
            metrics.clone(),
        ));
        let rounds_dir = config.datadir.join(ROUNDS_FOLDER);
        let worker = Worker::start(
            work,
            config.datadir.join(THREAD_ID_FILE),
            rounds_dir,
            Arc::clone(&clock),
            Arc::clone(&storage),
            Arc::clone(&registration),
        )
        .map_err(StartError::Thread)?;
        let (poet_reporter, health) = tonic_health::server::health_reporter();
        let (private_reporter, private_health) = tonic_health::server::health_reporter();
        let status = StatusReader {
            registration: Arc::clone(&registration),
            worker: worker.handle().clone(),
        };
        let (unready, readiness) = watch::channel(None);
        let probe = Probe {
            status: status.clone(),
            clock: Arc::clone(&clock),
            storage: Arc::clone(&storage),
            unready,
            reporters: [
                (poet_reporter, grpc_api::POET_SERVICE),
                (private_reporter, grpc_api::CONFIGURATION_SERVICE),
            ],
        };
        probe.report(None).await;
        let others = api::rounds::router(
            status.clone(),
            Arc::clone(&clock),
            Arc::clone(&storage),
            readiness,
        );
        let routers = Routers {
            rest: api::router(Arc::clone(&registration), others),
            grpc: grpc_api::router(
                Arc::clone(&registration),
                health,
                config.max_grpc_response_bytes,
            )?,
            private: grpc_api::private_router(Arc::clone(&registration), private_health)?,
        };
        let (stop, stopped) = watch::channel(false);
        let state = ServerState {
            status,
            clock: Arc::clone(&clock),
            storage: Arc::clone(&storage),
            dbdir: config.dbdir.clone(),
            datadir: config.datadir.clone(),
        };
        let rounds = Rounds {
            registration: Arc::clone(&registration),
            storage,
            clock,
            worker: config.worker.then(|| worker.handle().clone()),
            stopped: stopped.clone(),
        };
        let counted = |router: Router| {
            router.layer(middleware::from_fn_with_state(
                metrics.clone(),
                metrics::observe,
            ))
        };
        let mut tasks = vec![
            tokio::spawn(rounds.keep(unfinished)),
            tokio::spawn(probe.keep(stopped.clone())),
            tokio::spawn(rest.serve(Protocol::Http1, counted(routers.rest), stopped.clone())),
            tokio::spawn(grpc.serve(Protocol::Http2, counted(routers.grpc), stopped.clone())),
            tokio::spawn(private.serve(
                Protocol::Either,
                counted(routers.private),
                stopped.clone(),
            )),
        ];
        if let Some(listener) = metrics_listener {
            let router = metrics::router(&metrics, state);
            tasks.push(tokio::spawn(listener.serve(
                Protocol::Http1,
                router,
                stopped,
            )));
        }
        Ok(Self {
            registration,
            worker,
            addresses,
            backend,
            stop,
            tasks,
            _locks: locks,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Registration, to ask it without a network.
    pub fn registration(&self) -> &Arc<Registration> {
        &self.registration
    }

    /// The kernels it works with.
    pub fn backend(&self) -> &Selection {
        &self.backend
    }

    /// Its schedule.
    pub fn schedule(&self) -> &Schedule {
        self.registration.schedule()
    }

    /// A handle that tells what the server is doing.
    pub fn status_reader(&self) -> StatusReader {
        StatusReader {
            registration: Arc::clone(&self.registration),
            worker: self.worker.handle().clone(),
        }
    }

    /// Ends the server: requests under way are answered, the work done so far is in the log.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        let worker = self.worker;
        if tokio::task::spawn_blocking(move || worker.stop())
            .await
            .is_err()
        {
            tracing::error!("the worker could not be stopped");
        }
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the server failed");
            }
        }
    }
}

/// An interface that is going to be served.
struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    async fn bind(flag: &'static str, address: &str) -> Result<Self, StartError> {
        let failed = |cause| StartError::Listen {
            flag,
            address: address.to_owned(),
            cause,
        };
        let socket = server::bind(address).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address })
    }

    async fn serve(self, protocol: Protocol, router: Router, stopped: watch::Receiver<bool>) {
        server::serve(self.socket, protocol, router, stopped).await;
    }
}

/// What is served on which listener.
struct Routers {
    rest: Router,
    grpc: Router,
    private: Router,
}

fn prepare(config: &Config, now: Timestamp, metrics: Metrics) -> Result<Prepared, StartError> {
    let mut locks = vec![DirectoryLock::take("--dbdir", &config.dbdir)?];
    if !same_directory(&config.dbdir, &config.datadir) {
        locks.push(DirectoryLock::take("--datadir", &config.datadir)?);
    }
    let storage = SqliteStorage::open(
        &config.dbdir.join(DATABASE_FILE),
        config.max_submit_batch,
        metrics,
    )?;
    let private_key = private_key(config, &storage)?;
    let schedule = schedule(config, &storage, now)?;
    let pow = match storage.pow_challenges()? {
        Some(challenges) => challenges,
        None => {
            let mut current = [0; 32];
            getrandom::fill(&mut current).map_err(StartError::Random)?;
            let challenges = PowChallenges {
                current,
                previous: None,
            };
            storage.store_pow_challenges(&challenges)?;
            challenges
        }
    };
    let unfinished = storage.unfinished_rounds()?;
    remove_old_logs(&config.datadir.join(ROUNDS_FOLDER), &storage)?;
    // A round whose membership is settled never opens again, even if the clock was set back.
    let round = storage.first_unsettled_round(schedule.open_round(now))?;
    Ok(Prepared {
        locks,
        storage: Arc::new(storage),
        private_key,
        schedule,
        pow,
        unfinished,
        round,
    })
}

fn private_key(config: &Config, storage: &SqliteStorage) -> Result<PrivateKey, StartError> {
    let path = || config.dbdir.clone();
    if let Some(bytes) = storage.setting(Setting::PrivateKey)? {
        let stored = PrivateKey::from_bytes(&bytes).map_err(|cause| StartError::StoredKey {
            path: path(),
            cause,
        })?;
        return match &config.private_key {
            Some(given) if given.to_bytes() != stored.to_bytes() => {
                Err(StartError::OtherKey { path: path() })
            }
            _ => Ok(stored),
        };
    }
    let key = match &config.private_key {
        Some(given) => given.clone(),
        None => {
            tracing::info!("generating a private key");
            PrivateKey::generate().map_err(StartError::Random)?
        }
    };
    storage.store_setting(Setting::PrivateKey, &key.to_bytes())?;
    Ok(key)
}

/// The configured schedule, which must be the one that the stored rounds follow. A genesis that
/// was not configured is the first start's: otherwise the rounds of two runs would not line up,
/// and no round would survive a restart.
fn schedule(
    config: &Config,
    storage: &SqliteStorage,
    now: Timestamp,
) -> Result<Schedule, StartError> {
    let damaged = || StartError::Damaged {
        path: config.dbdir.clone(),
        what: "schedule",
    };
    let stored = storage
        .setting(Setting::Schedule)?
        .map(String::from_utf8)
        .transpose()
        .map_err(|_| damaged())?;
    let genesis = match (config.genesis, &stored) {
        (Some(genesis), _) => genesis,
        (None, None) => now,
        (None, Some(stored)) => stored
            .split(&[' ', '='])
            .nth(1)
            .and_then(|genesis| genesis.parse().ok())
            .ok_or_else(damaged)?,
    };
    if config.genesis.is_none() {
        tracing::warn!(
            %genesis,
            "--genesis-time is not set, the first start counts: rounds will not line up with any \
             network"
        );
    }
    let schedule = Schedule::new(
        genesis,
        config.epoch_duration,
        config.phase_shift,
        config.cycle_gap,
    )?;
    let configured = format!(
        "genesis-time={genesis} epoch-duration={} phase-shift={} cycle-gap={}",
        format_go(schedule.epoch_duration()),
        format_go(schedule.phase_shift()),
        format_go(schedule.cycle_gap()),
    );
    match stored {
        Some(stored) if stored != configured => Err(StartError::OtherSchedule {
            path: config.dbdir.clone(),
            stored,
            configured,
        }),
        Some(_) => Ok(schedule),
        None => {
            storage.store_setting(Setting::Schedule, configured.as_bytes())?;
            Ok(schedule)
        }
    }
}

/// Removes the logs of rounds whose proof is published.
fn remove_old_logs(rounds_dir: &Path, storage: &SqliteStorage) -> Result<(), StartError> {
    // Without the folder, there are none.
    let Ok(entries) = fs::read_dir(rounds_dir) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let round = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(round) = round
            && storage.proof(round)?.is_some()
        {
            worker::remove_log(rounds_dir, round);
        }
    }
    Ok(())
}

fn same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// A directory that no other server may use. The system releases it when the process ends,
/// however it ends.
struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    fn take(flag: &'static str, path: &Path) -> Result<Self, StartError> {
        let failed = |cause| StartError::Directory {
            flag,
            path: path.to_owned(),
            cause,
        };
        fs::create_dir_all(path).map_err(failed)?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // For the message only.
                if file.read_to_string(&mut pid).is_err() || pid.is_empty() {
                    pid = "unknown".to_owned();
                }
                return Err(StartError::Locked {
                    flag,
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Finds out whether the server is ready, and says so wherever it is asked.
struct Probe {
    status: StatusReader,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    unready: watch::Sender<Option<&'static str>>,
    reporters: [(HealthReporter, &'static str); 2],
}

impl Probe {
    async fn keep(self, mut stopped: watch::Receiver<bool>) {
        // Ends when the server does.
        while tokio::time::timeout(PROBE_INTERVAL, stopped.wait_for(|stop| *stop))
            .await
            .is_err()
        {
            let reason = self.reason().await;
            let before = *self.unready.borrow();
            if reason != before {
                match reason {
                    Some(reason) => tracing::error!("not ready: {reason}"),
                    None => tracing::info!("ready again"),
                }
                self.report(reason).await;
            }
        }
    }

    /// Why the server is not ready, if it is not.
    async fn reason(&self) -> Option<&'static str> {
        let written = tokio::time::timeout(PROBE_TIMEOUT, self.storage.probe()).await;
        if !matches!(written, Ok(Ok(()))) {
            return Some("the database cannot be written");
        }
        if self.status.worker.failing() {
            return Some("the work on a round fails");
        }
        let executing = self.status.worker.executing()?;
        let late = time_until(executing.end, self.clock.now());
        (late > MAX_LATENESS).then_some("the proof of a round is overdue")
    }

    async fn report(&self, reason: Option<&'static str>) {
        let status = match reason {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        for (reporter, service) in &self.reporters {
            // The empty name is the server's as a whole.
            for name in ["", service] {
                reporter.set_service_status(name, status).await;
            }
        }
        self.unready.send_replace(reason);
    }
}

/// Takes rounds from open to working.
struct Rounds {
    registration: Arc<Registration>,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    /// Absent where rounds are only closed.
    worker: Option<WorkerHandle>,
    stopped: watch::Receiver<bool>,
}

impl Rounds {
    async fn keep(mut self, unfinished: Vec<UnfinishedRound>) {
        let open = self.registration.open_round().round;
        for UnfinishedRound { round, execution } in unfinished {
            // The open one is among them, and later ones if the clock was ahead once.
            if round < open {
                tracing::info!(round, "found an unfinished round");
                if self.work_on(round, execution).await.is_none() {
                    return;
                }
            }
        }
        // Ends when the server does.
        while self.next_round().await.is_some() {}
    }

    /// Waits for the start of the open round and sees it on its way. `None` when the server ends.
    async fn next_round(&mut self) -> Option<()> {
        let schedule = self.registration.schedule().clone();
        let round = self.registration.open_round().round;
        loop {
            let now = self.clock.now();
            let due = schedule.open_round(now);
            if due > round {
                break;
            }
            if due < round {
                // The clock was set back. If it was ahead before, rounds were passed over that
                // are still to come.
                let earlier = self.first_unsettled(due).await?;
                if earlier < round {
                    tracing::warn!(round = earlier, "the clock was set back");
                    return self.open(earlier).await;
                }
            }
            let left = time_until(now, schedule.start(round));
            self.sleep(left.clamp(CLOCK_RESOLUTION, CLOCK_INTERVAL))
                .await?;
        }
        // Another one than the one that closes, even if the clock is set back right now.
        let due = schedule.open_round(self.clock.now()).max(round + 1);
        let next = self.first_unsettled(due).await?;
        self.open(next).await?;
        self.work_on(round, None).await
    }

    /// Opens `round` instead of the one that is open. `None` when the server ends.
    async fn open(&mut self, round: u64) -> Option<()> {
        while let Err(error) = self.registration.open_next(round).await {
            tracing::error!(%error, round, "cannot open the round");
            self.sleep(RETRY_INTERVAL).await?;
        }
        let until = self.registration.schedule().start(round);
        tracing::info!(round, %until, "open for registration");
        Some(())
    }

    /// The first round, from `from` on, that may open. `None` when the server ends.
    async fn first_unsettled(&mut self, from: u64) -> Option<u64> {
        loop {
            let storage = Arc::clone(&self.storage);
            let first = move || storage.first_unsettled_round(from);
            match blocking(first).await {
                Ok(round) => return Some(round),
                Err(error) => tracing::error!(%error, "cannot read the rounds"),
            }
            self.sleep(RETRY_INTERVAL).await?;
        }
    }

    /// Settles a closed round, if that is not done yet, and hands it to the worker, if there is
    /// one. `None` when
    /// the server ends.
    async fn work_on(&mut self, round: u64, settled: Option<Execution>) -> Option<()> {
        let execution = match settled {
            Some(execution) => execution,
            None => loop {
                match self.settle(round).await {
                    Ok(execution) => break execution,
                    Err(error) => {
                        tracing::error!(%error, round, "cannot settle the round");
                        self.sleep(RETRY_INTERVAL).await?;
                    }
                }
            },
        };
        match &self.worker {
            Some(worker) => worker.execute(Job {
                round,
                execution,
                end: self.registration.schedule().end(round),
            }),
            None => tracing::warn!(round, "not worked on: --disable-worker"),
        }
        Some(())
    }

    async fn settle(&self, round: u64) -> Result<Execution, StorageError> {
        let storage = Arc::clone(&self.storage);
        let work_seconds = self.registration.schedule().work_duration().as_secs();
        let expected_leaves = work_seconds.saturating_mul(EXPECTED_LEAVES_PER_SECOND);
        blocking(move || {
            let members = storage.members(round)?;
            let execution = Execution {
                statement: membership::root(&members),
                subtree_height: SubtreeHeight::for_round(expected_leaves),
            };
            storage.settle_round(round, &execution)?;
            tracing::info!(round, members = members.len(), "closed");
            Ok(execution)
        })
        .await
    }

    /// Sleeps; `None` when the server ends meanwhile.
    async fn sleep(&mut self, duration: Duration) -> Option<()> {
        // Either way out other than the time's means that the server ends.
        tokio::time::timeout(duration, self.stopped.wait_for(|stop| *stop))
            .await
            .err()
            .map(drop)
    }
}

/// Calls the storage where blocking is allowed.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    let result = tokio::task::spawn_blocking(call).await;
    result.map_err(|_| StorageError::Stopped).flatten()
}
