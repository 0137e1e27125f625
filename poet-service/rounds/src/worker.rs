//! The work: rounds are executed one after the other, proven, verified and published.
//!
//! The hashing (see [`Hashing`]) only adds leaves, and appends the roots of finished subtrees to a
//! tree log, from which the work continues after a restart. The [`Worker`] watches the clock and
//! stops the hashing: at the round's end, but not before there are enough leaves for a proof, or
//! when the server ends.
//!
//! Auditors (see [`Audits`]) recompute the log behind the hashing. If they find an error in the
//! work, it stops, goes back to the last right entry of the log, and starts again. Nothing waits
//! for them: the proof is made at the round's end, however much is audited by then. A proof that is
//! not valid is never published; the worker looks for the error in the log, repairs it, and makes
//! the proof again.
//!
//! Proofs for nodes with a longer cycle gap are made during the work (`worker/aside.rs`). One that
//! is not valid is never published either: it stops the work while the error is looked for.
//!
//! If servers share the storage, one works and the others follow (`worker/follow.rs`,
//! `worker/shared.rs`).
//!
//! The worker is one asynchronous task. It waits only for time to pass and for [`WorkerHandle`], so
//! it also runs under a simulated clock.

mod aside;
mod audit;
#[cfg(feature = "fault-injection")]
mod fault;
mod follow;
mod hashing;
mod proof;
mod shared;
mod standing;

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use poet_engine::{
    LogError, LogRead as _, MAX_THREADS, Proof, ProveError, ProveProgress, T, TICK_LEAVES, Tree,
    VerifyError, Work, audit::AuditError,
};
use poet_files::reason;
use tokio::sync::Notify;

pub use self::aside::{Rehearsal, RehearsalError};
pub(crate) use self::shared::Cluster;
pub use self::standing::Standing;
use self::{
    aside::{Aside, Rehearsals},
    follow::Stretch,
    proof::{check_proof, make_proof, published_proof},
    shared::{AtEnd, Role},
};

pub use self::audit::MAX_UNSYNCED_LEAVES;
pub use self::audit::{AuditMode, AuditReport, Audits, RoundAudit};
pub use self::hashing::{Hashing, HashingThread, Running, RunningThread, Status};
use crate::{
    blocking::blocking,
    clock::{Clock, time_until},
    rate::{Rate, RateWatch},
    registration::Registration,
    storage::{Execution, Storage, StorageError},
};

/// How often to read the clock, since somebody may set it.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// How often to check whether the rest of the log is durable.
const LOG_INTERVAL: Duration = Duration::from_millis(20);
/// How long entries may wait for the disk before the log counts as failing.
const MAX_LOG_DELAY: Duration = Duration::from_secs(10);
/// How long to wait before retrying a round that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often to repair a log before other rounds get a turn.
const MAX_REPAIRS: u32 = 4;

/// A round to execute.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub round: u64,
    /// What the work is bound to.
    pub execution: Execution,
    /// Whether that was stored before. If not, and a log is bound to something else, then the
    /// members have changed since: the clock was set back, and the round opened again.
    pub settled: bool,
    /// When the work starts.
    pub start: Timestamp,
    /// When the work ends.
    pub end: Timestamp,
}

/// The round that is being worked on.
#[derive(Clone, Debug)]
pub struct Executing {
    /// Its number.
    pub round: u64,
    /// When its work ends.
    pub end: Timestamp,
    /// Its members.
    pub members: u64,
    /// Leaves so far. The count keeps growing.
    pub leaves: Arc<AtomicU64>,
    /// When this process began to work on it, on the monotonic clock, and the number of leaves
    /// then.
    pub started: (Duration, u64),
    /// When the newest entry of the log became durable, on that clock.
    pub durable: Arc<Mutex<Duration>>,
    /// How fast the work is.
    pub rate: Arc<Mutex<Rate>>,
    /// The speed of the server that this one follows, if it follows one.
    pub followed: Arc<Mutex<Option<f64>>>,
}

impl Executing {
    /// The speed of the work since this process began.
    pub fn leaves_per_second(&self, clock: &dyn Clock) -> f64 {
        let followed = self.followed.lock();
        if let Some(rate) = *followed.unwrap_or_else(PoisonError::into_inner) {
            return rate;
        }
        let (since, before) = self.started;
        let made = self.leaves.load(Relaxed).saturating_sub(before);
        let passed = clock.monotonic().saturating_sub(since);
        if passed.is_zero() {
            return 0.0;
        }
        made as f64 / passed.as_secs_f64()
    }

    /// How long the work takes for as many leaves as are not audited yet.
    pub fn audit_lag(&self, clock: &dyn Clock, report: &AuditReport) -> Duration {
        let leaves = self.leaves.load(Relaxed);
        let behind = leaves.saturating_sub(report.audited_leaves) as f64;
        let rate = self.leaves_per_second(clock);
        Duration::try_from_secs_f64(behind / rate.max(1.0)).unwrap_or(Duration::MAX)
    }

    /// How long ago the newest entry of the log became durable.
    pub fn log_age(&self, clock: &dyn Clock) -> Duration {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        clock.monotonic().saturating_sub(*durable)
    }

    /// The speed of the work, and whether it has become slow.
    pub fn rate(&self) -> Rate {
        *self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a round could not be finished.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WorkError {
    #[error("cannot create {path}: {}", reason(cause))]
    Folder { path: PathBuf, cause: io::Error },
    #[error("cannot start the hashing thread: {}", reason(.0))]
    Thread(io::Error),
    #[error("the hashing thread failed")]
    Hashing,
    #[error("the auditors ended unexpectedly")]
    Auditors,
    #[error("the thread for proofs of the work so far failed")]
    Aside,
    #[error("the server ends")]
    Stopped,
    #[error("the next round has begun, and comes first")]
    NextRound,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot make the proof: {0}")]
    Prove(#[from] ProveError),
    #[error("the proof is not valid: {0}")]
    Verify(#[from] VerifyError),
    #[error("the stored members do not give the statement that was worked on")]
    Members,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<AuditError> for WorkError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Log(error) => Self::Log(error),
            AuditError::Stopped => Self::Stopped,
        }
    }
}

impl WorkError {
    /// Returns whether this means that a proof was told to stop.
    fn is_stop(&self) -> bool {
        matches!(self, Self::Prove(ProveError::Stopped))
    }

    /// Returns whether a proof, or what it was made from, is wrong.
    fn is_wrong_proof(&self) -> bool {
        matches!(
            self,
            Self::Verify(_) | Self::Prove(ProveError::WrongEntry { .. })
        )
    }
}

/// What the rest of the service needs from the worker.
#[derive(Clone, Default)]
pub struct WorkerHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The same as in the state, for code that must not wait for its lock.
    stop: AtomicBool,
    /// A round was queued, or the worker must stop. Only the worker waits for it.
    changed: Notify,
}

#[derive(Default)]
struct State {
    stop: bool,
    queue: VecDeque<Job>,
    executing: Option<Executing>,
    /// Whether the newest attempt to work or to write the log failed.
    failing: bool,
    rehearsals: Rehearsals,
    standing: Option<Standing>,
    disagreements: u64,
}

impl WorkerHandle {
    /// Queues a round. Rounds are executed in the order of their queueing, once their start has
    /// come.
    pub fn execute(&self, job: Job) {
        self.state().queue.push_back(job);
        self.0.changed.notify_one();
    }

    /// Returns whether the work, or writing its log, fails.
    pub fn failing(&self) -> bool {
        self.state().failing
    }

    /// The number of rounds that wait to be worked on.
    pub fn queued(&self) -> usize {
        self.state().queue.len()
    }

    /// The round that is being worked on.
    pub fn executing(&self) -> Option<Executing> {
        self.state().executing.clone()
    }

    /// The state of the round that is worked on, if servers share it.
    pub fn standing(&self) -> Option<Standing> {
        self.state().standing.clone()
    }

    pub(crate) fn set_standing(&self, standing: Option<Standing>) {
        self.state().standing = standing;
    }

    /// How often entries of this server differed from those of others.
    pub fn disagreements(&self) -> u64 {
        self.state().disagreements
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes and verifies a proof of the leaves so far, without publishing it.
    ///
    /// # Errors
    /// Fails if there is none, with the reason.
    pub async fn rehearse(&self) -> Result<Rehearsal, RehearsalError> {
        let answer = self.state().rehearsals.ask()?;
        answer.await.unwrap_or(Err(RehearsalError::Interrupted))
    }

    /// Stops the worker, and with it the work, all of which is then in the log.
    pub fn stop(&self) {
        self.state().stop = true;
        self.0.stop.store(true, Relaxed);
        self.0.changed.notify_one();
    }

    /// Waits for a round. Returns `None` when the worker must stop.
    ///
    /// A round that was closed while the clock was ahead waits for its time: it must not delay the
    /// rounds before it.
    async fn next(&self, clock: &dyn Clock) -> Option<Job> {
        loop {
            let wait = {
                let mut state = self.state();
                if state.stop {
                    return None;
                }
                let now = clock.now();
                let due = state.queue.iter().position(|job| job.start <= now);
                if let Some(job) = due.and_then(|due| state.queue.remove(due)) {
                    return Some(job);
                }
                if state.queue.is_empty() {
                    Duration::MAX
                } else {
                    CLOCK_INTERVAL
                }
            };
            // Woken or not, the loop checks again.
            drop(tokio::time::timeout(wait, self.0.changed.notified()).await);
        }
    }

    fn stopping(&self) -> bool {
        self.state().stop
    }

    /// Returns whether a round after `round` is queued and due.
    fn is_next_due(&self, round: u64, clock: &dyn Clock) -> bool {
        let now = clock.now();
        let is_due = |job: &Job| job.round > round && job.start <= now;
        self.state().queue.iter().any(is_due)
    }

    /// Sets `stop` when the worker must stop, or a round after `round` is due. Does not return
    /// before.
    async fn interrupt(self, round: u64, clock: Arc<dyn Clock>, stop: Arc<AtomicBool>) {
        while !self.stopping() && !self.is_next_due(round, &*clock) {
            tokio::time::sleep(CLOCK_INTERVAL).await;
        }
        stop.store(true, Relaxed);
    }

    /// Waits until the worker must stop, at most for `timeout`. Returns whether it must.
    async fn wait_for_stop(&self, timeout: Duration) -> bool {
        let stop = async {
            while !self.stopping() {
                self.0.changed.notified().await;
            }
        };
        tokio::time::timeout(timeout, stop).await.is_ok()
    }
}

/// Works on the queued rounds.
pub struct Worker<H> {
    work: Work,
    hashing: H,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    registration: Arc<Registration>,
    /// Present where other servers may work on the same rounds.
    cluster: Option<Cluster>,
    handle: WorkerHandle,
}

impl<H: Hashing> Worker<H> {
    /// Creates a worker without rounds.
    pub fn new(
        work: Work,
        hashing: H,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        registration: Arc<Registration>,
    ) -> Self {
        Self {
            work,
            hashing,
            clock,
            storage,
            registration,
            cluster: None,
            handle: WorkerHandle::default(),
        }
    }

    /// Lets other servers work on the same rounds.
    pub(crate) fn in_cluster(self, cluster: Cluster) -> Self {
        Self {
            cluster: Some(cluster),
            ..self
        }
    }

    /// The handle to this worker.
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }

    /// Works until [`WorkerHandle::stop`].
    pub async fn serve(self) {
        self.prepare_open_round();
        while let Some(job) = self.handle.next(&*self.clock).await {
            let result = self.execute(&job).await;
            {
                let mut state = self.handle.state();
                state.executing = None;
                state.failing = result.is_err();
            }
            if let Err(error) = result
                && !self.handle.stopping()
            {
                tracing::error!(
                    %error,
                    round = job.round,
                    "ALARM: the round could not be finished and will be tried again from its log"
                );
                if !matches!(error, WorkError::NextRound) {
                    self.handle.wait_for_stop(RETRY_INTERVAL).await;
                }
                // Rounds that are due get a turn first: one that always fails must not block them.
                self.handle.execute(job);
            }
        }
    }

    /// Works on a round until its end and publishes it, or until the worker is to stop.
    async fn execute(&self, job: &Job) -> Result<(), WorkError> {
        let (mut tree, mut log) = blocking(|| self.resume(job))?;
        // Whatever failed before, the work continues now.
        self.handle.state().failing = false;
        tracing::info!(round = job.round, leaves = tree.leaves(), until = %job.end, "working");
        let mut aside = Aside::new(
            job,
            self.work,
            &self.clock,
            &self.storage,
            &self.registration,
        );
        let mut repairs = 0;
        let part = self
            .cluster
            .as_ref()
            .map(|cluster| cluster.join(job, &self.handle));
        let mut role = Role::Works;
        if let Some(part) = &part {
            role = part.first_role();
            self.await_first_look(part).await;
        }
        loop {
            let stretch = match &part {
                None => Stretch::Alone,
                Some(part) if part.is_published() => {
                    return self.published_elsewhere(job, tree, log);
                }
                Some(part) => {
                    if part.differs() {
                        tree = blocking(|| self.settle_difference(job, part, tree, &mut log))?;
                    }
                    blocking(|| self.next_stretch(job, part, &mut role, &mut tree, &mut log))?
                }
            };
            let hashed = self.hash(job, tree, log, &mut aside, stretch).await;
            if let (Err(error), true) = (&hashed, self.handle.stopping()) {
                tracing::warn!(
                    round = job.round,
                    %error,
                    "work interrupted: what could not be written to the log is made again after a \
                     restart"
                );
                return Ok(());
            }
            (tree, log) = hashed?;
            let leaves = tree.leaves();
            if self.handle.stopping() {
                tracing::info!(round = job.round, leaves, "work interrupted");
                return Ok(());
            }
            if let Some(error) = aside.take_wrong_proof() {
                tree = self.repair(job, &error, tree, &mut log).await?;
                continue;
            }
            // The work may have gone back to fewer leaves than a proof needs.
            let over = time_until(self.clock.now(), job.end).is_zero();
            if leaves < T as u64 || !over {
                if over && role == Role::Follows {
                    // It makes the rest when it is its turn.
                    self.handle.wait_for_stop(LOG_INTERVAL).await;
                }
                continue;
            }
            if let Some(part) = &part {
                let worked = (role == Role::Works).then_some(leaves);
                if let Some(leaves) = worked {
                    part.end(leaves);
                }
                let waited = time_until(job.end, self.clock.now());
                match self.await_end(part, worked, log.entries(), waited).await {
                    // The server ends, or follows until it has copied the rest.
                    AtEnd::Wait | AtEnd::Behind => {
                        self.handle.wait_for_stop(LOG_INTERVAL).await;
                        continue;
                    }
                    AtEnd::Published => return self.published_elsewhere(job, tree, log),
                    AtEnd::Away => {
                        return Err(StorageError::new("the database is unreachable").into());
                    }
                    AtEnd::Prove(Some(leaves)) if leaves > tree.leaves() => {
                        tree = blocking(|| self.tree_of(job, leaves, tree, &mut log))?;
                    }
                    AtEnd::Prove(_) => {}
                }
            }
            let leaves = tree.leaves();
            tracing::info!(round = job.round, leaves, "work done, proving");
            let error = match blocking(|| self.prove(job, &tree, &mut log)) {
                Ok(proof) => {
                    tracing::debug!(round = job.round, "the proof is valid, publishing");
                    return blocking(|| {
                        self.publish(job, leaves, proof)?;
                        self.hashing.retire(job, tree, log);
                        Ok(())
                    });
                }
                Err(error) => error,
            };
            if repairs == MAX_REPAIRS {
                self.hashing.bad_proof(job, &error);
                return Err(error);
            }
            repairs += 1;
            tree = self.repair(job, &error, tree, &mut log).await?;
        }
    }

    /// After an invalid proof: looks for the error in the log and repairs it. That may take days:
    /// it is interrupted when the next round is due, and continues after that round.
    async fn repair(
        &self,
        job: &Job,
        error: &WorkError,
        tree: Tree,
        log: &mut H::Log,
    ) -> Result<Tree, WorkError> {
        self.hashing.bad_proof(job, error);
        let stop = Arc::new(AtomicBool::new(self.handle.stopping()));
        let (handle, clock) = (self.handle.clone(), Arc::clone(&self.clock));
        let watch = tokio::spawn(handle.interrupt(job.round, clock, Arc::clone(&stop)));
        let repaired = blocking(|| self.hashing.repair(job, error, tree, log, &stop));
        watch.abort();
        match repaired {
            Err(WorkError::Stopped) if !self.handle.stopping() => Err(WorkError::NextRound),
            repaired => repaired,
        }
    }

    /// Another server published the proof first: this server's work is no longer needed.
    fn published_elsewhere(&self, job: &Job, tree: Tree, log: H::Log) -> Result<(), WorkError> {
        tracing::info!(round = job.round, "another server has published the proof");
        blocking(|| {
            self.registration.look_at_storage()?;
            self.hashing.retire(job, tree, log);
            Ok(())
        })
    }

    fn prepare_open_round(&self) {
        let round = self.registration.open_round().round;
        if let Err(error) = blocking(|| self.hashing.prepare(round)) {
            tracing::warn!(%error, round, "cannot prepare for the next round's work");
        }
    }

    /// Returns the log of a round and the tree that it represents.
    fn resume(&self, job: &Job) -> Result<(Tree, H::Log), WorkError> {
        let work = job.execution.round_work(&self.work);
        let mut log = match self.hashing.open_log(job.round, &work) {
            Err(WorkError::Log(LogError::Foreign { .. })) if !job.settled => {
                tracing::warn!(
                    round = job.round,
                    "the work that was begun before the round opened once more is removed"
                );
                self.hashing.remove_log(job.round);
                self.hashing.open_log(job.round, &work)?
            }
            log => log?,
        };
        let tree = work.resume_sound(&mut log)?;
        let (entries, sound) = (log.entries(), tree.leaves() >> work.subtree_height().get());
        if sound < entries {
            tracing::warn!(
                round = job.round,
                entries = entries - sound,
                "the end of tree.log is damaged, as a power failure or fsck leaves it: it is cut off and \
                 made again"
            );
            self.hashing.cut_log(&mut log, sound)?;
        }
        Ok((tree, log))
    }

    /// Adds leaves until the end of the round, until the worker must stop, or until it is another
    /// server's turn; or copies another server's.
    async fn hash(
        &self,
        job: &Job,
        tree: Tree,
        log: H::Log,
        aside: &mut Aside<'_>,
        mut stretch: Stretch<'_>,
    ) -> Result<(Tree, H::Log), WorkError> {
        let members = blocking(|| self.storage.member_count(job.round))?;
        let now = self.clock.monotonic();
        let started = (now, tree.leaves());
        let durable = Arc::new(Mutex::new(now));
        let rate = Arc::default();
        let mut running = match stretch.take_entries() {
            None => self.hashing.start(job, tree, log)?,
            Some(entries) => self.hashing.follow(job, tree, log, entries)?,
        };
        stretch.begin(running.log());
        let executing = Executing {
            round: job.round,
            end: job.end,
            members,
            leaves: running.leaves(),
            started,
            durable: Arc::clone(&durable),
            rate: Arc::clone(&rate),
            followed: Arc::new(Mutex::new(stretch.followed_rate())),
        };
        {
            let mut state = self.handle.state();
            state.executing = Some(executing.clone());
            state.rehearsals.set_open(!stretch.follows());
        }
        self.prepare_open_round();
        let watched = (self.watch(job, &mut running, &executing, aside, &mut stretch)).await;
        stretch.pause();
        // A follower ends when its sender is dropped.
        drop(stretch);
        self.handle.state().rehearsals.set_open(false);
        aside.interrupt();
        self.await_log(job, &mut running).await;
        let finished = blocking(|| running.finish());
        aside.join();
        watched.and(finished)
    }

    /// Waits until the log is durable, however long the disk is full, or until the worker must
    /// stop.
    async fn await_log(&self, job: &Job, running: &mut H::Running) {
        let (leaves, k) = (running.leaves(), job.execution.subtree_height.get());
        loop {
            let status = running.status();
            self.handle.state().failing = status.log_error.is_some();
            let written = status.durable_entries >= leaves.load(Relaxed) >> k;
            if status.stopped && written || self.handle.wait_for_stop(LOG_INTERVAL).await {
                return;
            }
        }
    }

    /// Sets the target when it is time to stop, or the work must go back. Until then, makes the
    /// proofs that are due.
    async fn watch(
        &self,
        job: &Job,
        running: &mut H::Running,
        executing: &Executing,
        aside: &mut Aside<'_>,
        stretch: &mut Stretch<'_>,
    ) -> Result<(), WorkError> {
        let Executing {
            durable,
            rate,
            followed,
            ..
        } = executing;
        let (leaves, k) = (running.leaves(), job.execution.subtree_height.get());
        let mut reported = None;
        let mut now = self.clock.monotonic();
        let mut rate_watch = RateWatch::new(now, leaves.load(Relaxed));
        let mut durable_entries = running.status().durable_entries;
        let mut nothing_waited = now;
        while !running.status().stopped {
            let left = time_until(self.clock.now(), job.end);
            let over = left.is_zero();
            if over && !stretch.step_at_end(time_until(job.end, self.clock.now())) {
                running.set_target(T as u64);
                return Ok(());
            }
            let wait = if over { CLOCK_INTERVAL } else { left };
            if self.handle.wait_for_stop(wait.min(CLOCK_INTERVAL)).await {
                running.set_target(0);
                return Ok(());
            }
            now = self.clock.monotonic();
            *followed.lock().unwrap_or_else(PoisonError::into_inner) = stretch.followed_rate();
            // How fast entries are copied does not tell how fast this machine is.
            if !stretch.follows() {
                if rate_watch.update(now, leaves.load(Relaxed)) {
                    report(job.round, rate_watch.rate());
                }
                *rate.lock().unwrap_or_else(PoisonError::into_inner) = rate_watch.rate();
            }
            let status = running.status();
            if let Some(entry) = status.wrong_entry {
                tracing::warn!(
                    round = job.round,
                    entry,
                    "stopping the work: an entry is wrong"
                );
                running.set_target(0);
                return Ok(());
            }
            if status.auditors_failed {
                running.set_target(0);
                return Err(WorkError::Auditors);
            }
            let leaves_per_second = executing.leaves_per_second(&*self.clock);
            let since = now.saturating_sub(executing.started.0);
            let newest = rate_watch.rate().newest.unwrap_or(leaves_per_second);
            if !over && let Some(why) = stretch.step(status.durable_entries, newest, since) {
                tracing::info!(
                    round = job.round,
                    why,
                    "this server changes its part in the round"
                );
                running.set_target(0);
                return Ok(());
            }
            let request = || self.handle.state().rehearsals.take();
            // The server that works makes these.
            if !stretch.follows()
                && aside.step(
                    &self.hashing,
                    running,
                    status.durable_entries,
                    leaves_per_second,
                    request,
                )
            {
                tracing::warn!(
                    round = job.round,
                    "stopping the work: a proof of it is not valid"
                );
                running.set_target(0);
                return Ok(());
            }
            let progress = status.durable_entries != durable_entries;
            if progress {
                durable_entries = status.durable_entries;
                *durable.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
            if progress || durable_entries >= leaves.load(Relaxed) >> k {
                nothing_waited = now;
            }
            let stuck = now.saturating_sub(nothing_waited) > MAX_LOG_DELAY;
            let error = status
                .log_error
                .or_else(|| stuck.then(|| "the disk does not answer".to_owned()));
            if error != reported {
                reported = error;
                self.handle.state().failing = reported.is_some();
                match &reported {
                    Some(error) => {
                        tracing::error!(round = job.round, %error, "cannot write the log");
                    }
                    None => tracing::info!(round = job.round, "the log is written again"),
                }
            }
        }
        Ok(())
    }

    /// Makes and verifies the proof of a finished tree.
    fn prove(&self, job: &Job, tree: &Tree, log: &mut H::Log) -> Result<Proof, WorkError> {
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let proof = make_proof(job, tree, log, threads, &ProveProgress::default())?;
        check_proof(job, tree, &proof)?;
        Ok(proof)
    }

    fn publish(&self, job: &Job, leaves: u64, proof: Proof) -> Result<(), WorkError> {
        let published = published_proof(&*self.storage, job, leaves, proof)?;
        let members = published.members.len();
        self.registration.publish(job.round, Arc::new(published))?;
        let late = time_until(job.end, self.clock.now());
        tracing::info!(
            round = job.round,
            leaves,
            ticks = leaves / TICK_LEAVES,
            members,
            seconds_late = format!("{:.3}", late.as_secs_f64()),
            "the proof is verified and published"
        );
        self.registration.compress(job.round);
        Ok(())
    }
}

/// Logs that the work has become slow, or is fast again.
fn report(round: u64, rate: Rate) {
    let (newest, first) = (
        rate.newest.unwrap_or_default(),
        rate.first.unwrap_or_default(),
    );
    let (leaves_per_second, at_first) = (newest as u64, first as u64);
    if rate.slow {
        tracing::warn!(
            round,
            leaves_per_second,
            at_first,
            "the work has become slow: its core is too hot, or shared"
        );
    } else {
        tracing::info!(round, leaves_per_second, at_first, "the work is fast again");
    }
}
