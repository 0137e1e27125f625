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
mod executing;
#[cfg(feature = "fault-injection")]
mod fault;
mod follow;
mod handle;
mod hashing;
mod job;
mod proof;
mod shared;
mod standing;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use poet_engine::{
    LogError, LogRead as _, MAX_THREADS, Proof, ProveProgress, T, TICK_LEAVES, Tree, Work,
};

pub use self::aside::{Rehearsal, RehearsalError};
pub use self::audit::{AuditMode, AuditReport, Audits, MAX_UNSYNCED_LEAVES, RoundAudit};
pub use self::executing::Executing;
pub use self::handle::WorkerHandle;
pub use self::hashing::{Hashing, HashingThread, Running, RunningThread, Status};
pub use self::job::{Job, WorkError};
pub(crate) use self::shared::Cluster;
pub use self::standing::Standing;
use self::{
    aside::Aside,
    follow::{Sharing, Stretch},
    handle::{CLOCK_INTERVAL, LOG_INTERVAL},
    proof::{check_proof, make_proof, published_proof},
    shared::{AtEnd, Role},
};
use crate::{
    blocking::blocking,
    clock::{Clock, time_until},
    rate::{Rate, RateWatch},
    registration::Registration,
    storage::{Storage, StorageError},
};

/// How long entries may wait for the disk before the log counts as failing.
const MAX_LOG_DELAY: Duration = Duration::from_secs(10);
/// How long to wait before retrying a round that failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How often to repair a log before other rounds get a turn.
const MAX_REPAIRS: u32 = 4;

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
        let sharing = self.cluster.as_ref().map(|cluster| Sharing {
            part: cluster.join(job, &self.handle),
            job,
            work: &self.work,
            hashing: &self.hashing,
            clock: &*self.clock,
            handle: &self.handle,
        });
        let mut role = Role::Works;
        if let Some(sharing) = &sharing {
            role = sharing.part.first_role();
            sharing.await_first_look().await;
        }
        loop {
            let stretch = match &sharing {
                None => Stretch::Alone,
                Some(sharing) if sharing.part.is_published() => {
                    return self.published_elsewhere(job, tree, log);
                }
                Some(sharing) => {
                    if sharing.part.differs() {
                        tree = blocking(|| sharing.settle_difference(tree, &mut log))?;
                    }
                    blocking(|| sharing.next_stretch(&mut role, &mut tree, &mut log))?
                }
            };
            let hashed = self.hash(job, tree, log, &mut aside, stretch).await;
            if let (Err(error), true) = (&hashed, self.handle.stopping()) {
                tracing::warn!(
                    round = job.round,
                    %error,
                    "work interrupted: what could not be written to the log is recomputed after a \
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
            if let Some(sharing) = &sharing {
                let worked = (role == Role::Works).then_some(leaves);
                if let Some(leaves) = worked {
                    sharing.part.end(leaves);
                }
                let waited = time_until(job.end, self.clock.now());
                match sharing.await_end(worked, log.entries(), waited).await {
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
                        tree = blocking(|| sharing.tree_of(leaves, tree, &mut log))?;
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
                "the end of tree.log is damaged, as a power failure or fsck leaves it: it is cut \
                 off and recomputed"
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
                    "this server changes its role in the round"
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
