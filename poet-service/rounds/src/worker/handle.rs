//! How the rest of the service reaches the worker.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{
    aside::{Rehearsal, RehearsalError, Rehearsals},
    executing::Executing,
    job::Job,
    standing::Standing,
};
use crate::clock::Clock;

/// How often to read the clock, since somebody may set it.
pub(super) const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// How often to check whether the rest of the log is durable.
pub(super) const LOG_INTERVAL: Duration = Duration::from_millis(20);

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
pub(super) struct State {
    stop: bool,
    queue: VecDeque<Job>,
    pub(super) executing: Option<Executing>,
    /// Whether the newest attempt to work or to write the log failed.
    pub(super) failing: bool,
    pub(super) rehearsals: Rehearsals,
    standing: Option<Standing>,
    pub(super) disagreements: u64,
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

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
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
    pub(super) async fn next(&self, clock: &dyn Clock) -> Option<Job> {
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

    pub(super) fn stopping(&self) -> bool {
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
    pub(super) async fn interrupt(self, round: u64, clock: Arc<dyn Clock>, stop: Arc<AtomicBool>) {
        while !self.stopping() && !self.is_next_due(round, &*clock) {
            tokio::time::sleep(CLOCK_INTERVAL).await;
        }
        stop.store(true, Relaxed);
    }

    /// Waits until the worker must stop, at most for `timeout`. Returns whether it must.
    pub(super) async fn wait_for_stop(&self, timeout: Duration) -> bool {
        let stop = async {
            while !self.stopping() {
                self.0.changed.notified().await;
            }
        };
        tokio::time::timeout(timeout, stop).await.is_ok()
    }
}
