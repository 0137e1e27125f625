//! The server without its network: recovery at the start, the life of rounds, the end.
//!
//! ```text
//!            start(e)                              end(e)
//!   open ───────────────> settled ──> working ─────────────> proving ──> published
//!     registrations  the next round   the worker; its log     verified     proof and new
//!     are stored     is open          survives a restart                   challenge stored
//! ```
//!
//! What state a round is in follows from the storage (see [`storage`](crate::storage)) and the
//! time, so a start after a crash is an ordinary start: rounds that were opened here, are past
//! their start and have no proof are settled if necessary, worked on if there is time left, and
//! proven. Rounds that were never opened here are not worked on.
//!
//! Clock, storage and hashing are injected, and rounds wait for nothing but them and tokio's
//! timers. On a single-threaded runtime with paused time, simulated ones determine a run
//! completely.
//! they do.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use jiff::Timestamp;
use poet_engine::{SubtreeHeight, TICK_LEAVES, Work, membership};
use poet_files::reason;
use poet_proto::{
    identity::{PrivateKey, PrivateKeyError},
    messages::PublishedProof,
};
use tokio::sync::watch;

pub use crate::rate::EXPECTED_LEAVES_PER_SECOND;
use crate::{
    blocking::blocking,
    checks::Checks,
    clock::{Clock, time_until},
    config::{RoundsConfig, WorkerMode},
    counters::Counters,
    cycle_gaps::CycleGaps,
    parts::Supervisor,
    publish::Publish,
    registration::{OpenRound, Registration},
    schedule::{Schedule, ScheduleError},
    steady::SteadyClock,
    storage::{Execution, PowChallenges, Setting, Storage, StorageError, UnfinishedRound},
    worker::{Cluster, Hashing, Job, Standing, Worker, WorkerHandle},
};

/// Earlier times are refused: a clock shows them if it was never set.
const EARLIEST: Timestamp = Timestamp::constant(1_577_836_800, 0);
const LATEST: Timestamp = Timestamp::MAX;
/// How often to read the clock, since somebody may set it.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// The shortest wait for the clock.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(1);
/// How often to check what other servers of the same storage have done.
const OTHERS_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait before retrying a storage that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// What a [`Rounds`] runs on.
pub struct Parts<H> {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What must survive a crash. Nothing else may use it.
    pub storage: Arc<dyn Storage>,
    /// What the leaves are made of.
    pub work: Work,
    /// What makes the leaves.
    pub hashing: H,
    /// How many leaves a second to expect; sets the size of a round's tree log.
    pub expected_leaves_per_second: u64,
    /// Gets the proofs.
    pub publish: Arc<dyn Publish>,
    /// Counts events.
    pub counters: Arc<dyn Counters>,
}

/// Why rounds cannot continue from what is stored.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RecoveryError {
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error("the stored rounds follow another schedule ({stored}) than this one ({configured})")]
    OtherSchedule { stored: String, configured: String },
    #[error("the storage counts ticks of {stored} leaves, this program ticks of {TICK_LEAVES}")]
    OtherTick { stored: u64 },
    #[error("the stored {0} is damaged")]
    Damaged(&'static str),
    #[error("the stored private key is damaged: {0}")]
    Key(PrivateKeyError),
    #[error("the stored rounds belong to another private key")]
    OtherKey,
    #[error(
        "the clock of this machine shows {0}: expected a time from 2020 to 9999: set the \
         clock first"
    )]
    Clock(Timestamp),
    #[error("the system gives no threads: {}", reason(.0))]
    Threads(io::Error),
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A running server without its network.
pub struct Rounds {
    clock: Arc<dyn Clock>,
    registration: Arc<Registration>,
    worker: WorkerHandle,
    stop: watch::Sender<bool>,
    parts: Supervisor,
}

impl Rounds {
    /// Continues from what the storage holds. Accepts registrations when this returns.
    ///
    /// # Errors
    /// Fails if the storage fails, or holds the state of a server with another `config`.
    pub async fn start<H: Hashing>(
        config: &RoundsConfig,
        parts: Parts<H>,
    ) -> Result<Self, RecoveryError> {
        let Parts {
            clock,
            storage,
            work,
            hashing,
            expected_leaves_per_second,
            publish,
            counters,
        } = parts;
        let now = clock.now();
        if !(EARLIEST..LATEST).contains(&now) {
            return Err(RecoveryError::Clock(now));
        }
        let (recovered, with_work) = blocking(|| {
            let recovered = recover(config, &*storage, now)?;
            (recovered.schedule)
                .check_early_gaps(&config.early_cycle_gaps, expected_leaves_per_second)?;
            remove_old_logs(&hashing, &*storage)?;
            let mut with_work = hashing.rounds();
            with_work.retain(|round| hashing.has_log(*round));
            Ok::<_, RecoveryError>((recovered, with_work))
        })?;
        let Recovered {
            private_key,
            schedule,
            pow,
            unfinished,
            round,
        } = recovered;
        let gaps = CycleGaps::new(schedule.cycle_gap(), private_key, &config.early_cycle_gaps);
        let patience = config.clock_leap_patience;
        let clock: Arc<dyn Clock> =
            Arc::new(SteadyClock::new(clock, schedule.clone(), &gaps, patience));
        let members = storage.open_round(round).await?;
        let open = OpenRound { round, members };
        tracing::info!(round, members, until = %schedule.start(round), "open for registration");
        let registration = Arc::new(Registration::new(
            schedule,
            config.rules.clone(),
            gaps,
            Arc::clone(&clock),
            Arc::clone(&storage),
            pow,
            open,
            publish,
            counters,
            Checks::start().map_err(RecoveryError::Threads)?,
        ));
        let worker = Worker::new(
            work,
            hashing,
            Arc::clone(&clock),
            Arc::clone(&storage),
            Arc::clone(&registration),
        );
        let worker = match storage.shared_log().filter(|_| config.worker.may_work()) {
            Some(log) => {
                let cluster = Cluster::start(
                    log,
                    config.cluster.clone(),
                    config.worker,
                    Arc::clone(&clock),
                );
                worker.in_cluster(cluster.map_err(RecoveryError::Threads)?)
            }
            None => worker,
        };
        let handle = worker.handle().clone();
        let shared = storage.shared();
        let log_storage = Arc::clone(&storage);
        let (stop, stopped) = watch::channel(false);
        let rounds = Keeper {
            registration: Arc::clone(&registration),
            storage,
            clock: Arc::clone(&clock),
            worker: (config.worker.may_work()).then(|| handle.clone()),
            elsewhere: config.worker == WorkerMode::Off,
            with_work,
            seen_to: BTreeSet::new(),
            expected_leaves_per_second,
            stopped: stopped.clone(),
        };
        let parts = Supervisor::new();
        if shared {
            // A server that takes part in the work updates this itself.
            let watched = (config.worker == WorkerMode::Off).then(|| handle.clone());
            let others = look_at_others(Arc::clone(&registration), log_storage, watched, stopped);
            parts
                .spawn_thread("others", others)
                .map_err(RecoveryError::Threads)?;
        }
        parts
            .spawn_thread("rounds", rounds.keep(unfinished))
            .and_then(|()| parts.spawn_thread("work", worker.serve()))
            .map_err(RecoveryError::Threads)?;
        Ok(Self {
            clock,
            registration,
            worker: handle,
            stop,
            parts,
        })
    }

    /// The clock that rounds follow: the injected one, except that sudden leaps are not believed.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Registration, and everything else that clients request.
    pub fn registration(&self) -> &Arc<Registration> {
        &self.registration
    }

    /// The state of the work.
    pub fn worker(&self) -> &WorkerHandle {
        &self.worker
    }

    /// Waits until a part ends that nobody stopped; returns its name. Without that part, the server
    /// does not do its work.
    pub async fn part_ended(&mut self) -> &'static str {
        self.parts.ended().await
    }

    /// Stops. The work done so far is in the log.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        self.worker.stop();
        self.parts.all_ended().await;
    }
}

/// What the storage says about how to continue.
struct Recovered {
    private_key: PrivateKey,
    schedule: Schedule,
    pow: PowChallenges,
    unfinished: Vec<UnfinishedRound>,
    /// The round to open.
    round: u64,
}

fn recover(
    config: &RoundsConfig,
    storage: &dyn Storage,
    now: Timestamp,
) -> Result<Recovered, RecoveryError> {
    let private_key = private_key(config, storage)?;
    let schedule = schedule(config, storage, now)?;
    check_tick(storage)?;
    let pow = match storage.pow_challenges()? {
        Some(challenges) => challenges,
        None => {
            let mut current = [0; 32];
            getrandom::fill(&mut current).map_err(RecoveryError::Random)?;
            storage.claim_pow_challenges(&PowChallenges {
                current,
                previous: None,
            })?
        }
    };
    let unfinished = storage.unfinished_rounds()?;
    // A settled round never opens again, even if the clock was set back.
    let round = storage.first_unsettled_round(schedule.open_round(now))?;
    Ok(Recovered {
        private_key,
        schedule,
        pow,
        unfinished,
        round,
    })
}

fn private_key(config: &RoundsConfig, storage: &dyn Storage) -> Result<PrivateKey, RecoveryError> {
    let stored = match storage.setting(Setting::PrivateKey)? {
        Some(stored) => stored,
        None => {
            let key = match &config.private_key {
                Some(given) => given.clone(),
                None => {
                    tracing::info!("generating a private key");
                    PrivateKey::generate().map_err(RecoveryError::Random)?
                }
            };
            storage.claim_setting(Setting::PrivateKey, &key.to_bytes())?
        }
    };
    let stored = PrivateKey::from_bytes(&stored).map_err(RecoveryError::Key)?;
    match &config.private_key {
        Some(given) if given.to_bytes() != stored.to_bytes() => Err(RecoveryError::OtherKey),
        _ => Ok(stored),
    }
}

/// Returns the configured schedule, which must be the one that the stored rounds follow. If no
/// genesis is configured, the time of the first start is used and stored: otherwise every start
/// would have other rounds, and none would survive a restart.
fn schedule(
    config: &RoundsConfig,
    storage: &dyn Storage,
    now: Timestamp,
) -> Result<Schedule, RecoveryError> {
    let damaged = || RecoveryError::Damaged("schedule");
    let from = |genesis| config.schedule(genesis);
    let stored = match storage.setting(Setting::Schedule)? {
        Some(stored) => stored,
        None => {
            let first = from(config.genesis.unwrap_or(now))?;
            storage.claim_setting(Setting::Schedule, first.to_string().as_bytes())?
        }
    };
    let stored: Schedule = str::from_utf8(&stored)
        .map_err(|_| damaged())?
        .parse()
        .map_err(|_| damaged())?;
    let genesis = config.genesis.unwrap_or(stored.genesis());
    if config.genesis.is_none() {
        tracing::warn!(
            %genesis,
            "--genesis-time is not set, the first start counts: rounds will not line up with any \
             network"
        );
    }
    let schedule = from(genesis)?;
    if stored == schedule {
        Ok(schedule)
    } else {
        Err(RecoveryError::OtherSchedule {
            stored: stored.to_string(),
            configured: schedule.to_string(),
        })
    }
}

/// Fails if the stored rounds count other ticks than this program does: nodes would weigh them
/// differently.
fn check_tick(storage: &dyn Storage) -> Result<(), RecoveryError> {
    let stored = match storage.setting(Setting::TickLeaves)? {
        Some(stored) => stored,
        None => storage.claim_setting(Setting::TickLeaves, &TICK_LEAVES.to_be_bytes())?,
    };
    match stored.try_into().map(u64::from_be_bytes) {
        Ok(TICK_LEAVES) => Ok(()),
        Ok(stored) => Err(RecoveryError::OtherTick { stored }),
        Err(_) => Err(RecoveryError::Damaged("tick size")),
    }
}

/// Returns the height of the subtrees whose roots are in a round's log, at this rate.
pub fn subtree_height(schedule: &Schedule, leaves_per_second: u64) -> SubtreeHeight {
    let leaves = (schedule.work_duration().as_secs()).saturating_mul(leaves_per_second);
    SubtreeHeight::for_round(leaves).min(max_subtree_height(leaves_per_second))
}

/// Returns the height of the highest subtree that takes at most a quarter of a second. A killed
/// process loses the unfinished subtree and what waits for the next sync, which takes another
/// quarter of a second. The loss thus stays below a second even on a machine half as fast, however
/// long the round is.
fn max_subtree_height(leaves_per_second: u64) -> SubtreeHeight {
    let height = (leaves_per_second / 4).max(1).ilog2();
    SubtreeHeight::new(height).unwrap_or(SubtreeHeight::MAX)
}

/// Removes the logs of rounds whose proof is published. One is left, or a part of what belongs to it,
/// if the server ends after the publication and before the end of the removal.
fn remove_old_logs(hashing: &impl Hashing, storage: &dyn Storage) -> Result<(), StorageError> {
    for round in hashing.rounds() {
        let record = storage.round(round)?;
        if record.is_some_and(|record| record.published.is_some()) {
            hashing.remove_log(round);
        }
    }
    Ok(())
}

/// Follows what other servers of the same storage do, until the server ends.
async fn look_at_others(
    registration: Arc<Registration>,
    storage: Arc<dyn Storage>,
    watched: Option<WorkerHandle>,
    mut stopped: watch::Receiver<bool>,
) {
    while tokio::time::timeout(OTHERS_INTERVAL, stopped.wait_for(|stop| *stop))
        .await
        .is_err()
    {
        // The storage logs the reason.
        let looked = blocking(|| {
            registration.look_at_storage()?;
            if let Some(handle) = &watched {
                handle.set_standing(standing(&registration, &*storage)?);
            }
            Ok::<_, StorageError>(())
        });
        if let Err(error) = looked {
            tracing::debug!(%error, "cannot read the state of other servers");
        }
    }
}

/// Returns the state of the round that other servers work on, if there is one.
fn standing(
    registration: &Registration,
    storage: &dyn Storage,
) -> Result<Option<Standing>, StorageError> {
    let Some(log) = storage.shared_log() else {
        return Ok(None);
    };
    let open = registration.open_round().round;
    let mut unfinished = storage.unfinished_rounds()?.into_iter().rev();
    let at_work = unfinished.find(|unfinished| unfinished.round < open);
    let Some((round, execution)) = at_work.and_then(|found| Some((found.round, found.execution?)))
    else {
        return Ok(None);
    };
    Ok(Some(Standing {
        round,
        subtree_height: execution.subtree_height.get(),
        own: None,
        seen: log.look(round, None)?,
    }))
}

/// Takes rounds from open to working.
struct Keeper {
    registration: Arc<Registration>,
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    /// `None` if this server does no work: every round that closes gets an empty proof, unless
    /// another server works on it.
    worker: Option<WorkerHandle>,
    elsewhere: bool,
    /// Rounds on which work had begun before this start.
    with_work: Vec<u64>,
    /// Closed rounds that the worker has, or that need none.
    seen_to: BTreeSet<u64>,
    expected_leaves_per_second: u64,
    stopped: watch::Receiver<bool>,
}

impl Keeper {
    async fn keep(mut self, unfinished: Vec<UnfinishedRound>) {
        let open = self.registration.open_round().round;
        for UnfinishedRound { round, execution } in unfinished {
            // Includes the open round, and later ones if the clock was ahead once: the settled ones
            // are worked on, the others open again.
            if round < open || execution.is_some() {
                tracing::info!(round, "found an unfinished round");
                if self.work_on(round, execution).await.is_none() {
                    return;
                }
            }
        }
        // Ends with the server.
        while self.next_round().await.is_some() {}
    }

    /// Waits for the start of the open round and processes it. Returns `None` when the server ends.
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
                match self.open_earlier(due).await {
                    Ok(false) => {}
                    Ok(true) => return Some(()),
                    Err(error) => {
                        tracing::error!(%error, "cannot open an earlier round");
                        self.sleep(RETRY_INTERVAL).await?;
                        continue;
                    }
                }
            }
            let left = time_until(now, schedule.start(round));
            self.sleep(left.clamp(CLOCK_RESOLUTION, CLOCK_INTERVAL))
                .await?;
        }
        loop {
            // Must differ from the one that closes, even if the clock is set back right now.
            // Computed in each attempt: while the storage fails, more rounds may start.
            let due = schedule.open_round(self.clock.now()).max(round + 1);
            match self.open(due).await {
                Ok(()) => break,
                Err(error) => tracing::error!(%error, "cannot open the next round"),
            }
            self.sleep(RETRY_INTERVAL).await?;
        }
        self.settle_closed().await
    }

    /// Opens the first round that was skipped and is still to come, if there is one: the clock was
    /// ahead, and was set back to the time of round `due`.
    async fn open_earlier(&self, due: u64) -> Result<bool, StorageError> {
        let open = self.registration.open_round().round;
        let earlier = blocking(|| self.storage.first_unsettled_round(due))? < open;
        if earlier {
            tracing::warn!("the clock was set back");
            self.open(due).await?;
        }
        Ok(earlier)
    }

    /// Closes the open round and opens the first round from `due` on that may open.
    async fn open(&self, due: u64) -> Result<(), StorageError> {
        let round = blocking(|| self.storage.first_unsettled_round(due))?;
        self.registration.open_next(round).await?;
        let until = self.registration.schedule().start(round);
        tracing::info!(round, %until, "open for registration");
        Ok(())
    }

    /// Settles the rounds before the open one and hands each to the worker once: the one that has
    /// just closed, and those that were skipped because the clock was ahead. Returns `None` when
    /// the server ends.
    async fn settle_closed(&mut self) -> Option<()> {
        let open = self.registration.open_round().round;
        let unfinished = loop {
            match blocking(|| self.storage.unfinished_rounds()) {
                Ok(unfinished) => break unfinished,
                Err(error) => tracing::error!(%error, "cannot read the rounds"),
            }
            self.sleep(RETRY_INTERVAL).await?;
        };
        for UnfinishedRound { round, execution } in unfinished {
            // Settled, but not by this server: another one did it.
            if round < open && !self.seen_to.contains(&round) {
                self.work_on(round, execution).await?;
            }
        }
        Some(())
    }

    /// Hands a closed round to the worker, if there is one, and settles it if necessary. Returns
    /// `None` when the server ends.
    ///
    /// The work does not wait until the statement is stored: after a crash, the next process
    /// computes the same one from the registrations, which are durable.
    async fn work_on(&mut self, round: u64, settled: Option<Execution>) -> Option<()> {
        let is_settled = settled.is_some();
        let execution = match settled {
            Some(execution) => execution,
            None => loop {
                match blocking(|| self.membership(round)) {
                    Ok(execution) => break execution,
                    Err(error) => {
                        tracing::error!(%error, round, "cannot read the members of the round");
                        self.sleep(RETRY_INTERVAL).await?;
                    }
                }
            },
        };
        self.seen_to.insert(round);
        if let Some(worker) = &self.worker {
            worker.execute(Job {
                round,
                execution: execution.clone(),
                settled: is_settled,
                start: self.registration.schedule().start(round),
                end: self.registration.schedule().end(round),
            });
        }
        if !is_settled {
            while let Err(error) = blocking(|| self.storage.settle_round(round, &execution)) {
                tracing::error!(%error, round, "cannot settle the round");
                self.sleep(RETRY_INTERVAL).await?;
            }
        }
        if self.worker.is_some() || self.elsewhere {
            return Some(());
        }
        if self.with_work.contains(&round) {
            tracing::warn!(
                round,
                "the work on it has begun: a start without --disable-worker continues it"
            );
            return Some(());
        }
        while let Err(error) = blocking(|| self.publish_empty(round, &execution)) {
            tracing::error!(%error, round, "cannot publish the empty proof");
            self.sleep(RETRY_INTERVAL).await?;
        }
        Some(())
    }

    /// Publishes the members of a round, without a proof of work.
    fn publish_empty(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        let members = self.storage.members(round)?;
        let proof = PublishedProof::empty(execution.statement.clone(), members);
        self.registration.publish(round, Arc::new(proof))?;
        tracing::info!(round, "published an empty proof: --disable-worker");
        Ok(())
    }

    /// Returns what the work on a closed round is bound to.
    fn membership(&self, round: u64) -> Result<Execution, StorageError> {
        let members = self.storage.members(round)?;
        let schedule = self.registration.schedule();
        tracing::info!(round, members = members.len(), "closed");
        self.registration.count_closed(round, members.len() as u64);
        Ok(Execution {
            statement: membership::root(&members),
            subtree_height: subtree_height(schedule, self.expected_leaves_per_second),
        })
    }

    /// Sleeps. Returns `None` if the server ends meanwhile.
    async fn sleep(&mut self, duration: Duration) -> Option<()> {
        // Anything but a timeout means that the server ends.
        tokio::time::timeout(duration, self.stopped.wait_for(|stop| *stop))
            .await
            .err()
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subtree_takes_a_quarter_of_a_second_at_most() {
        for (leaves_per_second, height) in [(0, 0), (7, 0), (8, 1), (100_000, 14), (u64::MAX, 24)] {
            assert_eq!(max_subtree_height(leaves_per_second).get(), height);
        }
    }
}
