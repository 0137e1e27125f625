//! The whole server: its directories, the [`Rounds`], the network, readiness, shutdown.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, middleware};
use jiff::Timestamp;
use poet_backends::{SelectOptions, Selection};
use poet_engine::{LABEL_DEPTH, TICK_LEAVES, WorkFunction};
use poet_host::{WorkPlace, limits::throttling, machine::hostname};
use poet_rounds::{
    blocking,
    clock::Clock,
    counters::{Counters, Published},
    cycle_gaps::CycleGap,
    life::{EXPECTED_LEAVES_PER_SECOND, Parts, Rounds},
    parts::Supervisor,
    publish::Publish,
    registration::Registration,
    round_files::ROUNDS_FOLDER,
    schedule::Schedule,
    storage::{Storage, StorageError},
    worker::{Audits, HashingThread},
};
use poet_storage::directory::DirectoryLocks;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    api::{
        self, client::RateLimit, dropped::Dropped, grpc as grpc_api, listen, operator, poet::Poet,
        protocol::Protocol, server::Interface, slots::ConnectionLimits,
    },
    config::Config,
    log_queue::RecentLines,
    metrics::{self, Metrics, ServerState},
    notify::{Event, Notices},
    opening::{claim, open, open_history},
    page::{
        self,
        operator::Operator,
        public::{Identity, Public},
    },
    probe::Probe,
    proofs::Proofs,
    record::Recorder,
    reports::Reports,
    retention::Retention,
    start_error::{Place, StartError},
    status::StatusReader,
};

/// How long the shutdown waits for the database to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const THREAD_ID_FILE: &str = "round.tid";

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
    /// Starts a server, whose hashing thread runs at `place`, which sends its events to `notices`,
    /// and whose page shows the newest lines of its log, `recent`. It serves requests when this
    /// returns.
    ///
    /// # Errors
    /// Fails if something that it needs is missing; the message says what was expected.
    pub async fn start(
        config: Config,
        place: WorkPlace,
        clock: Arc<dyn Clock>,
        notices: Notices,
        recent: RecentLines,
    ) -> Result<Self, StartError> {
        let options = SelectOptions {
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
        // Before anything is stored, so that a taken port leaves no trace.
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
        tracing::info!(mode = %config.work.audit, threads = config.work.audit_threads, "audit of \
        the work");
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
        let mut rounds_config = config.rounds.clone();
        rounds_config.cluster.name = server_name(addresses.rest);
        let rounds = Rounds::start(&rounds_config, parts)
            .await
            .map_err(|error| StartError::recovery(Place::of(&config), error))?;
        blocking(|| claim(&config, &*storage))?;
        // The clock that rounds follow decides what is late and what is open.
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
                "the network works on round {round} until {:.0}, without this server, which was \
                 not running when it closed: its own first one, round {first}, starts at {:.0}",
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
        let membership = api::members::Membership::start(&storage, Arc::clone(&first_kept))
            .map_err(StartError::Threads)?;
        let membership = api::members::router(membership);
        let reports = Reports {
            status: status.clone(),
            clock: Arc::clone(&clock),
            notices,
        };
        let own = api::rounds::RoundRoutes::new(
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
            recent,
            options: config.effective.clone(),
            throttled,
        });
        let public = Public {
            identity,
            gaps: gaps.clone(),
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
            Some(rate) => {
                let clock = Arc::clone(rounds.clock());
                RateLimit::new(rate, limits.proxies.clone(), protocol, clock).layer(router)
            }
        };
        let connections = limits.connections(poet_host::open_files::raise_limit());
        let interfaces = [
            rest.interface(
                Protocol::Http1,
                counted(limited(routers.rest, Protocol::Http1)),
                connections.rest,
                metrics.dropped("rest"),
                rounds.clock(),
            ),
            grpc.interface(
                Protocol::Http2,
                counted(limited(routers.grpc, Protocol::Http2)),
                connections.grpc,
                metrics.dropped("grpc"),
                rounds.clock(),
            ),
            private.interface(
                Protocol::Either,
                counted(routers.private),
                connections.private.clone(),
                metrics.dropped("operator"),
                rounds.clock(),
            ),
        ];
        let monitoring = metrics_listener.map(|listener| {
            let router = metrics::scrape::router(&metrics, state);
            let dropped = metrics.dropped("metrics");
            let limits = connections.private;
            listener.interface(Protocol::Http1, router, limits, dropped, rounds.clock())
        });
        let parts = Supervisor::new();
        parts.spawn("readiness", probe.keep(stopped.clone()));
        let (ended, mut stop_database) = (storage.ended(), stopped.clone());
        parts.spawn("database", async move {
            tokio::select! {
                () = ended => {}
                // This part ends with the server.
                _ = stop_database.wait_for(|stop| *stop) => {}
            }
        });
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

    /// The addresses on which it listens.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Registration, for use without a network.
    pub fn registration(&self) -> &Arc<Registration> {
        self.rounds.registration()
    }

    /// The selected backends.
    pub fn backend(&self) -> &Selection {
        &self.backend
    }

    /// The schedule of the rounds.
    pub fn schedule(&self) -> &Schedule {
        self.registration().schedule()
    }

    /// The round that the network was working on without this server at its start.
    pub fn missed_round(&self) -> Option<u64> {
        self.missed
    }

    /// A handle to read what the server is doing.
    pub fn status_reader(&self) -> StatusReader {
        StatusReader::new(
            Arc::clone(self.registration()),
            self.rounds.worker().clone(),
            self.audits.clone(),
        )
    }

    /// Shuts the server down: requests are answered, and the work done so far is in the log.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        self.rounds.stop().await;
        self.parts.all_ended().await;
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, self.storage.close()).await;
        if !matches!(closed, Ok(Ok(()))) {
            tracing::warn!("the database could not be closed in time: its next start tidies up");
        }
    }

    /// Waits for a part of the server to end that nobody stopped; returns its name. The server is
    /// then of no use.
    pub async fn part_ended(&mut self) -> &'static str {
        tokio::select! {
            name = self.rounds.part_ended() => name,
            name = self.parts.ended() => name,
        }
    }
}

/// Counts events of rounds, and sends notifications of some.
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

/// Returns the name under which other servers of the same database know this one.
fn server_name(rest: SocketAddr) -> String {
    let host = hostname(Path::new("/"));
    format!("{}:{}", host.as_deref().unwrap_or("poet"), rest.port())
}

/// The sockets of an interface before it is served.
struct Listener {
    sockets: Vec<TcpListener>,
    /// The address of the first socket.
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
        clock: &Arc<dyn Clock>,
    ) -> Interface {
        Interface {
            listeners: self.sockets,
            protocol,
            router,
            limits,
            dropped,
            clock: Arc::clone(clock),
        }
    }
}

/// The routes of each listener.
struct Routers {
    rest: Router,
    grpc: Router,
    private: Router,
}

/// Returns the round that is worked on at `now`, if it was never open here: nobody registered for
/// it here, and this server does not work on it.
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
