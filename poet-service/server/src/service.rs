//! The whole server: its directories, the [`Rounds`], the network around it, readiness, shutdown.

use std::{
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Router, middleware};
use jiff::Timestamp;
use poet_backends::{Options, SelectError, Selection};
use poet_engine::{DepthError, LABEL_DEPTH, TICK_LEAVES, WorkFunction};
use poet_host::{WorkPlace, limits::throttling};
use poet_proto::identity::{PRIVATE_KEY_VARIABLE, PrivateKey, PrivateKeyError};
use poet_rounds::{
    blocking,
    clock::{Clock, time_until},
    counters::{Counters, Published},
    cycle_gaps::CycleGap,
    life::{EXPECTED_LEAVES_PER_SECOND, Parts, RecoveryError, Rounds},
    parts::Supervisor,
    publish::Publish,
    registration::Registration,
    round_files::ROUNDS_FOLDER,
    schedule::{Schedule, ScheduleError},
    storage::{Setting, Storage, StorageError},
    worker::{Audits, HashingThread},
};
use poet_storage::{
    DatabaseError, History, PostgresStorage, SqliteStorage,
    directory::{
        self, DirectoryError, DirectoryLocks, GO_SERVER_PROOFS, GO_STATE_FILE, OWNER_FILE,
    },
    keep_damaged_log,
};
use tokio::{net::TcpListener, sync::watch};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    api::{
        self,
        client::RateLimit,
        dropped::Dropped,
        grpc as grpc_api, listen, operator,
        poet::Poet,
        protocol::Protocol,
        server::{ConnectionLimits, Interface},
    },
    config::Config,
    metrics::{self, Metrics, ServerState},
    notify::{Event, Notices},
    page::{
        self,
        operator::Operator,
        public::{Identity, Public},
    },
    proofs::Proofs,
    record::Recorder,
    reports::Reports,
    retention::Retention,
    status::StatusReader,
};

/// How often the server looks whether it is ready, and how long a write may take then.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the end of the server waits for the database to be closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after the start of a round the next one is not open yet.
const MAX_OPENING: Duration = Duration::from_secs(5);
/// How long after the end of a round its proof is overdue.
const MAX_LATENESS: Duration = Duration::from_secs(60);
/// How far the clock may be from that of a shared database, and from where on it is warned of.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(2);
const LARGE_CLOCK_OFFSET: Duration = Duration::from_millis(500);
const THREAD_ID_FILE: &str = "round.tid";

/// Why the server does not start. Each message tells all there is to tell: causes are in it, not
/// behind it.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(
        "{place} holds rounds of another schedule ({stored}) than the configured one \
         ({configured}): expected the same --genesis-time, --epoch-duration, --phase-shift and \
         --cycle-gap, or another {}", place.other()
    )]
    OtherSchedule {
        place: Place,
        stored: String,
        configured: String,
    },
    #[error(
        "{place}: the stored {what} is damaged: expected a sound one (see `poet-service \
         doctor`), or a backup"
    )]
    Damaged { place: Place, what: &'static str },
    #[error("{place}: the stored private key is damaged: {cause}")]
    StoredKey {
        place: Place,
        cause: PrivateKeyError,
    },
    #[error(
        "{place} belongs to another private key than {PRIVATE_KEY_VARIABLE} gives: expected \
         the same one, none, or another {}", place.other()
    )]
    OtherKey { place: Place },
    #[error(
        "--datadir {datadir} holds the work of the server with public key {owner}, but {place} \
         holds {found}: expected the database of that server (see `poet-service doctor`), \
         or another --poetdir"
    )]
    OtherOwner {
        datadir: PathBuf,
        owner: String,
        place: Place,
        found: String,
    },
    #[error(
        "--datadir {0}: the file {OWNER_FILE}, which says whose work this is, is damaged: expected a \
         sound one, which `poet-service doctor --repair` writes"
    )]
    Owner(PathBuf),
    #[error(
        "{flag} {path} holds the state of a Go server, and --dbdir {dbdir} no database yet: expected \
         `poet-service import` first, which takes it over, or another --poetdir"
    )]
    NotTakenOver {
        flag: &'static str,
        path: PathBuf,
        dbdir: PathBuf,
    },
    #[error(
        "the system gives this process too few threads: {0}: expected room for some 30 (see `ulimit \
         -u`, TasksMax of systemd, pids.max of the control group)"
    )]
    Threads(io::Error),
    #[error(
        "the clock of this machine shows {0}: expected a time from 2020 to 9999: set the clock first"
    )]
    Clock(Timestamp),
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Backend(#[from] SelectError),
    #[error(transparent)]
    Depth(#[from] DepthError),
    #[error(
        "cannot listen on {flag} {address}: {cause}: expected addresses of this machine and a port \
         that is free and permitted at each of them"
    )]
    Listen {
        flag: &'static str,
        address: String,
        cause: io::Error,
    },
    #[error("the description of the gRPC interface is damaged: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Where a server's database is.
#[derive(Clone, Debug)]
pub enum Place {
    /// The directory of the embedded one.
    Directory(PathBuf),
    /// The URL of a shared one.
    Url(String),
}

impl Place {
    fn of(config: &Config) -> Self {
        match &config.database {
            Some(url) => Self::Url(url.to_string()),
            None => Self::Directory(config.directories.dbdir.clone()),
        }
    }

    /// The option that another one is named with.
    fn other(&self) -> &'static str {
        match self {
            Self::Directory(_) => "--poetdir",
            Self::Url(_) => "--database",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "--dbdir {}", path.display()),
            Self::Url(url) => write!(f, "--database {url}"),
        }
    }
}

impl StartError {
    fn recovery(place: Place, error: RecoveryError) -> Self {
        match error {
            RecoveryError::Schedule(error) => Self::Schedule(error),
            RecoveryError::OtherSchedule { stored, configured } => Self::OtherSchedule {
                place,
                stored,
                configured,
            },
            RecoveryError::Damaged(what) => Self::Damaged { place, what },
            RecoveryError::Key(cause) => Self::StoredKey { place, cause },
            RecoveryError::OtherKey => Self::OtherKey { place },
            RecoveryError::Threads(cause) => Self::Threads(cause),
            RecoveryError::Clock(shown) => Self::Clock(shown),
            RecoveryError::Random(cause) => Self::Random(cause),
            RecoveryError::Storage(error) => Self::Storage(error),
        }
    }
}

/// A running server.
pub struct Server {
    rounds: Rounds,
    missed: Option<u64>,
    storage: Arc<dyn Storage>,
    audits: Audits,
    addresses: Addresses,
    backend: Selection,
    stop: watch::Sender<bool>,
    parts: Supervisor,
    _locks: DirectoryLocks,
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

impl Server {
    /// Starts a server, whose hashing thread runs at `place`, and which tells `notices` what happens.
    /// It serves when this returns.
    ///
    /// # Errors
    /// When something that it needs is not there; the message says what was expected.
    pub async fn start(
        config: Config,
        place: WorkPlace,
        clock: Arc<dyn Clock>,
        notices: Notices,
    ) -> Result<Self, StartError> {
        let options = Options {
            forced: config.work.backend.as_deref(),
            trial: config.work.trial,
        };
        let backend = poet_backends::select_with(WorkFunction::Sha256, options)?.for_one_chain()?;
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
        let rest = Listener::bind("--restlisten", &config.listeners.rest).await?;
        let grpc = Listener::bind("--rpclisten", &config.listeners.grpc).await?;
        let started = clock.now();
        let throttled = throttling(Path::new("/")).unwrap_or_default();
        let private = Listener::bind("--config-rpclisten", &config.listeners.private).await?;
        let metrics_listener = match &config.listeners.metrics {
            Some(metrics) => Some(Listener::bind(metrics.option, &metrics.address).await?),
            None => None,
        };
        let metrics = Metrics::default();
        let addresses = Addresses {
            rest: rest.address,
            grpc: grpc.address,
            private: private.address,
            metrics: metrics_listener.as_ref().map(|listener| listener.address),
        };

        let (locks, storage) = blocking(|| open(&config, metrics.clone(), &clock))?;
        let proofs = Arc::new(Proofs::new(Arc::clone(&storage)));
        let audits = Audits::new(config.work.audit, config.work.audit_threads);
        tracing::info!(mode = %config.work.audit, threads = config.work.audit_threads, "audit of the work");
        let work_place = place.describe().to_owned();
        let hashing = HashingThread::new(
            config.directories.datadir.join(THREAD_ID_FILE),
            config.directories.datadir.join(ROUNDS_FOLDER),
            audits.clone(),
            place,
            Arc::clone(&clock),
        )
        .map_err(StartError::Threads)?;
        let parts = Parts {
            clock: Arc::clone(&clock),
            storage: Arc::clone(&storage),
            work,
            hashing,
            expected_leaves_per_second: EXPECTED_LEAVES_PER_SECOND,
            publish: Arc::clone(&proofs) as Arc<dyn Publish>,
            counters: Arc::new(Told {
                metrics: metrics.clone(),
                notices: notices.clone(),
            }),
        };
        let rounds = Rounds::start(&config.rounds, parts)
            .await
            .map_err(|error| StartError::recovery(Place::of(&config), error))?;
        blocking(|| claim(&config, &*storage))?;
        // What is late and what is open is told by the clock that rounds follow.
        let clock = Arc::clone(rounds.clock());
        let registration = rounds.registration();
        let gaps = registration.gaps();
        notices.set_server(gaps.own().public_key());
        let poet_for = |gap: &CycleGap| {
            let (registration, proofs) = (Arc::clone(registration), Arc::clone(&proofs));
            Arc::new(Poet::new(registration, proofs, gap.clone()))
        };
        let poet = poet_for(gaps.own());
        let missed = if config.rounds.genesis.is_some() {
            let schedule = registration.schedule();
            blocking(|| missed_round(schedule, &*storage, clock.now()))?
        } else {
            None
        };
        if let Some(round) = missed {
            let schedule = registration.schedule();
            let first = registration.open_round().round;
            tracing::info!(
                "the network works on round {round} until {:.0}, without this server, which was not \
                 there when it closed: its own first one, round {first}, starts at {:.0}",
                schedule.end(round),
                schedule.start(first)
            );
        }
        let (poet_reporter, health) = tonic_health::server::health_reporter();
        let (private_reporter, private_health) = tonic_health::server::health_reporter();
        let status = StatusReader::new(
            Arc::clone(registration),
            rounds.worker().clone(),
            audits.clone(),
        );
        let (unready, readiness) = watch::channel(None);
        let probe = Probe {
            status: status.clone(),
            clock: Arc::clone(&clock),
            storage: Arc::clone(&storage),
            notices: notices.clone(),
            unready,
            reporters: [
                (poet_reporter, grpc_api::POET_SERVICE),
                (private_reporter, grpc_api::CONFIGURATION_SERVICE),
            ],
        };
        probe.report(None).await;
        let first_kept = Arc::default();
        let membership =
            api::members::Membership::start(Arc::clone(&storage), Arc::clone(&first_kept))
                .map_err(StartError::Threads)?;
        let membership = api::members::router(membership);
        let reports = Reports {
            status: status.clone(),
            clock: Arc::clone(&clock),
            notices,
        };
        let own = api::rounds::Rounds::new(
            status.clone(),
            Arc::clone(&clock),
            Arc::clone(&storage),
            readiness.clone(),
        );
        let early: Vec<_> = gaps
            .early()
            .iter()
            .map(|gap| {
                let others =
                    api::rounds::router(own.for_gap(gap.clone())).merge(membership.clone());
                (gap.duration(), poet_for(gap), others)
            })
            .collect();
        let others = api::rounds::router(own);
        let history = blocking(|| open_history(&config.directories.datadir));
        let recorder = history.clone().map(|history| Recorder {
            status: status.clone(),
            clock: Arc::clone(&clock),
            metrics: metrics.clone(),
            unready: readiness.clone(),
            datadir: config.directories.datadir.clone(),
            history,
        });
        let identity = Identity {
            name: config.page.name.clone(),
            url: config.page.public_url.clone(),
            public_key: *gaps.own().public_key(),
            works: config.rounds.worker,
        };
        let operators_page = page::operator::router(Operator {
            identity: identity.clone(),
            status: status.clone(),
            clock: Arc::clone(&clock),
            storage: Arc::clone(&storage),
            history: history.clone(),
            metrics: metrics.clone(),
            unready: readiness.clone(),
            started,
            place: work_place,
            backend: backend.latency().to_string(),
            dbdir: (config.database.is_none()).then(|| config.directories.dbdir.clone()),
            datadir: config.directories.datadir.clone(),
            recent: config.log.recent.clone(),
            options: config.effective.clone(),
            throttled,
        });
        let public = Public {
            identity,
            status: status.clone(),
            clock: Arc::clone(&clock),
            storage: Arc::clone(&storage),
            history,
            unready: readiness.clone(),
        };
        let others = match config.page.public {
            true => others.merge(page::public::router(public)),
            false => others,
        };
        let routers = Routers {
            rest: api::router(Arc::clone(&poet), others.merge(membership), early),
            grpc: grpc_api::router(
                Arc::clone(&poet),
                health,
                config.listeners.max_grpc_response_bytes,
            )?,
            private: operator::guard(
                grpc_api::private_router(
                    poet,
                    private_health,
                    operator::router(rounds.worker().clone()),
                )?
                .merge(operators_page),
                &config.listeners.private,
            ),
        };
        let (stop, stopped) = watch::channel(false);
        let state = ServerState {
            status,
            clock,
            storage: Arc::clone(&storage),
            unready: readiness,
            dbdir: (config.database.is_none()).then(|| config.directories.dbdir.clone()),
            datadir: config.directories.datadir.clone(),
            started,
        };
        let counted = |router: Router| {
            router
                .layer(middleware::from_fn_with_state(
                    metrics.clone(),
                    metrics::observe,
                ))
                .layer(middleware::from_fn(api::request_id::name))
        };
        let limits = &config.listeners.limits;
        let limited = |router: Router, protocol| match limits.rate {
            None => router,
            Some(rate) => RateLimit::new(rate, limits.proxies.clone(), protocol).layer(router),
        };
        let connections = limits.connections(poet_host::open_files::raise_limit());
        let interfaces = [
            rest.interface(
                Protocol::Http1,
                counted(limited(routers.rest, Protocol::Http1)),
                connections.rest,
                metrics.dropped("rest"),
            ),
            grpc.interface(
                Protocol::Http2,
                counted(limited(routers.grpc, Protocol::Http2)),
                connections.grpc,
                metrics.dropped("grpc"),
            ),
            private.interface(
                Protocol::Either,
                counted(routers.private),
                connections.private.clone(),
                metrics.dropped("operator"),
            ),
        ];
        let monitoring = metrics_listener.map(|listener| {
            let router = metrics::router(&metrics, state);
            let dropped = metrics.dropped("metrics");
            let limits = connections.private;
            listener.interface(Protocol::Http1, router, limits, dropped)
        });
        let parts = Supervisor::new();
        parts.spawn("readiness", probe.keep(stopped.clone()));
        if let Some(recorder) = recorder {
            parts.spawn("history", recorder.keep(stopped.clone()));
        }
        if let Some(keep) = config.keep_registrations {
            let retention = Retention {
                keep,
                schedule: registration.schedule().clone(),
                clock: Arc::clone(rounds.clock()),
                storage: Arc::clone(&storage),
                metrics: metrics.clone(),
                first_kept,
            };
            parts.spawn("retention", retention.run(stopped.clone()));
        }
        parts.spawn("reports", reports.keep(stopped.clone()));
        for interface in interfaces.into_iter().chain(monitoring) {
            parts.spawn("interface", interface.serve(stopped.clone()));
        }
        Ok(Self {
            rounds,
            missed,
            storage,
            audits,
            addresses,
            backend,
            stop,
            parts,
            _locks: locks,
        })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Registration, to ask it without a network.
    pub fn registration(&self) -> &Arc<Registration> {
        self.rounds.registration()
    }

    /// The kernels it works with.
    pub fn backend(&self) -> &Selection {
        &self.backend
    }

    /// Its schedule.
    pub fn schedule(&self) -> &Schedule {
        self.registration().schedule()
    }

    /// The round that the network worked on without this server when it was started.
    pub fn missed_round(&self) -> Option<u64> {
        self.missed
    }

    /// A handle that tells what the server is doing.
    pub fn status_reader(&self) -> StatusReader {
        StatusReader::new(
            Arc::clone(self.registration()),
            self.rounds.worker().clone(),
            self.audits.clone(),
        )
    }

    /// Ends the server: requests under way are answered, the work done so far is in the log.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        self.rounds.stop().await;
        self.parts.all_ended().await;
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.storage.close()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!("the database could not be closed in time: its next start tidies up");
        }
    }

    /// Waits for a part of the server to end although nobody has ended it; returns its name. The
    /// server is of no use then.
    pub async fn part_ended(&mut self) -> &'static str {
        tokio::select! {
            name = self.rounds.part_ended() => name,
            name = self.parts.ended() => name,
        }
    }
}

/// Counts what happens while rounds live, and tells it.
struct Told {
    metrics: Metrics,
    notices: Notices,
}

impl Counters for Told {
    fn registration_with_certificate(&self, valid: bool) {
        self.metrics.registration_with_certificate(valid);
    }

    fn registration_with_pow(&self, valid: bool) {
        self.metrics.registration_with_pow(valid);
    }

    fn batch_written(&self, took: Duration) {
        self.metrics.batch_written(took);
    }

    fn closed(&self, round: u64, members: u64) {
        self.metrics.closed(round, members);
        self.notices.send(&Event::RoundClosed { round, members });
    }

    fn published(&self, proof: &Published) {
        self.metrics.published(proof);
        self.notices.send(&Event::ProofPublished {
            proof: *proof,
            ticks: proof.leaves / TICK_LEAVES,
        });
    }
}

/// The sockets of an interface that is going to be served.
struct Listener {
    sockets: Vec<TcpListener>,
    /// The first one's.
    address: SocketAddr,
}

impl Listener {
    async fn bind(flag: &'static str, address: &str) -> Result<Self, StartError> {
        let failed = |cause| StartError::Listen {
            flag,
            address: address.to_owned(),
            cause,
        };
        let sockets = listen::bind(address).await.map_err(failed)?;
        let first = sockets.first().map(TcpListener::local_addr);
        let address = first
            .unwrap_or(Err(io::ErrorKind::AddrNotAvailable.into()))
            .map_err(failed)?;
        Ok(Self { sockets, address })
    }

    fn interface(
        self,
        protocol: Protocol,
        router: Router,
        limits: ConnectionLimits,
        dropped: Dropped,
    ) -> Interface {
        Interface {
            listeners: self.sockets,
            protocol,
            router,
            limits,
            dropped,
        }
    }
}

/// What is served on which listener.
struct Routers {
    rest: Router,
    grpc: Router,
    private: Router,
}

/// Opens the storage, once no other server can use the directories.
fn open(
    config: &Config,
    metrics: Metrics,
    clock: &Arc<dyn Clock>,
) -> Result<(DirectoryLocks, Arc<dyn Storage>), StartError> {
    let directories = &config.directories;
    let locks = match &config.database {
        Some(_) => directories.lock_work()?,
        None => directories.lock()?,
    };
    let unusable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::InvalidData => StartError::Owner(config.directories.datadir.clone()),
        _ => StartError::Directory(DirectoryError::Unusable {
            flag: "--datadir",
            path: config.directories.datadir.clone(),
            cause,
        }),
    };
    let owner = directory::owner(&config.directories.datadir).map_err(unusable)?;
    let other = |found| StartError::OtherOwner {
        datadir: config.directories.datadir.clone(),
        owner: owner.clone().unwrap_or_default(),
        place: Place::of(config),
        found,
    };
    let storage: Arc<dyn Storage> = match &config.database {
        Some(url) => {
            let (batch, clock) = (config.max_submit_batch, Arc::clone(clock));
            let storage = PostgresStorage::open(url, batch, clock, Arc::new(metrics))?;
            Arc::new(storage)
        }
        None => Arc::new(open_embedded(config, metrics, owner.is_some(), &other)?),
    };
    if let Some(owner) = &owner {
        match stored_key(&*storage)?.map(|key| directory::owner_text(&key.public())) {
            Some(key) if *owner == key => {}
            Some(key) => return Err(other(format!("that of {key}"))),
            // Where it is damaged, that is said by those who need it.
            None if storage.setting(Setting::PrivateKey)?.is_some() => {}
            None => return Err(other("none".to_owned())),
        }
    }
    Ok((locks, storage))
}

/// Opens the embedded database, or makes it, unless there should be one.
fn open_embedded(
    config: &Config,
    metrics: Metrics,
    has_owner: bool,
    other: &dyn Fn(String) -> StartError,
) -> Result<SqliteStorage, StartError> {
    let database = config.directories.database();
    // A new one would have another key, and none of the members.
    let missing = fs::metadata(&database).map_or(true, |metadata| metadata.len() == 0);
    if missing && has_owner {
        return Err(other("none".to_owned()));
    }
    // The same if it was forgotten to take over what is there.
    for (flag, path, file) in [
        ("--datadir", &config.directories.datadir, GO_STATE_FILE),
        ("--dbdir", &config.directories.dbdir, GO_SERVER_PROOFS),
    ] {
        if missing && path.join(file).exists() {
            return Err(StartError::NotTakenOver {
                flag,
                path: path.clone(),
                dbdir: config.directories.dbdir.clone(),
            });
        }
    }
    keep_damaged_log(&database)?;
    let storage = SqliteStorage::open(&database, config.max_submit_batch, Arc::new(metrics))?;
    Ok(storage)
}

/// The history, unless there cannot be one, which is no reason not to start.
fn open_history(datadir: &Path) -> Option<Arc<History>> {
    History::open(datadir)
        .inspect_err(|error| tracing::warn!(%error, "there is no history for the operator's page"))
        .map(Arc::new)
        .ok()
}

/// The key that is stored, if it is one: what is not is found out by those who need it.
fn stored_key(storage: &dyn Storage) -> Result<Option<PrivateKey>, StorageError> {
    let stored = storage.setting(Setting::PrivateKey)?;
    Ok(stored.and_then(|key| PrivateKey::from_bytes(&key).ok()))
}

/// The round that is worked on at `now`, if it was never open here: nobody registered for it, and
/// this server does not work on it.
fn missed_round(
    schedule: &Schedule,
    storage: &dyn Storage,
    now: Timestamp,
) -> Result<Option<u64>, StorageError> {
    let Some(round) = schedule.open_round(now).checked_sub(1) else {
        return Ok(None);
    };
    let missed = now < schedule.end(round) && storage.round(round)?.is_none();
    Ok(missed.then_some(round))
}

/// Notes in the directory of the work whose it is, unless that is done.
fn claim(config: &Config, storage: &dyn Storage) -> Result<(), StartError> {
    let unusable = |cause| DirectoryError::Unusable {
        flag: "--datadir",
        path: config.directories.datadir.clone(),
        cause,
    };
    if directory::owner(&config.directories.datadir)
        .map_err(unusable)?
        .is_none()
        && let Some(key) = stored_key(storage)?
    {
        directory::set_owner(&config.directories.datadir, &key.public()).map_err(unusable)?;
    }
    Ok(())
}

/// What is late, if anything is: the open round closes at `start`, the one that is worked on ends at
/// `end`.
fn late(now: Timestamp, start: Timestamp, end: Option<Timestamp>) -> Option<&'static str> {
    if time_until(start, now) > MAX_OPENING {
        return Some("the next round is not opened");
    }
    let overdue = end.is_some_and(|end| time_until(end, now) > MAX_LATENESS);
    overdue.then_some("the proof of a round is overdue")
}

/// Finds out whether the server is ready, and says so wherever it is asked.
struct Probe {
    status: StatusReader,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    notices: Notices,
    unready: watch::Sender<Option<&'static str>>,
    reporters: [(HealthReporter, &'static str); 2],
}

impl Probe {
    async fn keep(self, mut stopped: watch::Receiver<bool>) {
        let mut warned = false;
        // Ends when the server does.
        while tokio::time::timeout(PROBE_INTERVAL, stopped.wait_for(|stop| *stop))
            .await
            .is_err()
        {
            let reason = self.reason().await;
            if let Some(offset) = self.storage.clock_offset() {
                let large = offset.unsigned_abs() > LARGE_CLOCK_OFFSET;
                if large && !warned {
                    let ahead = offset.as_secs_f64();
                    tracing::warn!(
                        ahead,
                        "the clock of this machine differs from the database's"
                    );
                }
                warned = large;
            }
            let before = *self.unready.borrow();
            if reason != before {
                match reason {
                    Some(reason) => {
                        tracing::error!("not ready: {reason}");
                        self.notices.send(&Event::NotReady(reason));
                    }
                    None => {
                        tracing::info!("ready again");
                        self.notices.send(&Event::Ready);
                    }
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
        let offset = self
            .storage
            .clock_offset()
            .unwrap_or_default()
            .unsigned_abs();
        if offset > MAX_CLOCK_OFFSET {
            return Some("the clock of this machine differs from the database's");
        }
        if self.status.work_fails() {
            return Some("the work on a round fails");
        }
        let status = self.status.status();
        let end = status.executing.map(|executing| executing.end);
        late(self.clock.now(), status.start, end)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_is_not_ready() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(late(at(1000), at(2000), None), None);
        assert_eq!(late(at(1000), at(2000), Some(at(1500))), None);
        assert_eq!(late(at(1000), at(996), Some(at(1500))), None);
        assert_eq!(late(at(1000), at(2000), Some(at(941))), None);
        let overdue = Some("the proof of a round is overdue");
        assert_eq!(late(at(1000), at(2000), Some(at(939))), overdue);
        let closed = Some("the next round is not opened");
        assert_eq!(late(at(1000), at(994), None), closed);
    }
}
