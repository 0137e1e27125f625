//! What the server is doing, for display.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use poet_rounds::{
    clock::{Clock, time_until},
    cycle_gaps::CycleGaps,
    registration::{OpenRound, Registration},
    schedule::Schedule,
    worker::{AuditMode, Audits, Executing, Standing, WorkerHandle},
};

/// What the server is doing.
#[derive(Clone, Debug)]
pub struct ServerStatus {
    /// The round that takes registrations.
    pub open: OpenRound,
    /// When it closes.
    pub start: Timestamp,
    /// The round that is being worked on.
    pub executing: Option<Executing>,
    /// Rounds that wait for that one to finish.
    pub queued: usize,
}

/// Reads what a running server is doing.
#[derive(Clone)]
pub struct StatusReader {
    registration: Arc<Registration>,
    worker: WorkerHandle,
    audits: Audits,
}

impl StatusReader {
    pub(crate) fn new(
        registration: Arc<Registration>,
        worker: WorkerHandle,
        audits: Audits,
    ) -> Self {
        Self {
            registration,
            worker,
            audits,
        }
    }

    /// Returns whether the work, or writing its log, fails.
    pub(crate) fn work_fails(&self) -> bool {
        self.worker.failing()
    }

    /// Returns the state of the round that is worked on, if servers share it.
    pub(crate) fn standing(&self) -> Option<Standing> {
        self.worker.standing()
    }

    /// Returns how often entries of this server differed from those of others.
    pub(crate) fn disagreements(&self) -> u64 {
        self.worker.disagreements()
    }

    /// Returns what audits have found.
    pub fn audits(&self) -> &Audits {
        &self.audits
    }

    /// Returns how far the audit is behind the work, in time; `None` without work or without
    /// auditors.
    pub fn audit_lag(&self, clock: &dyn Clock) -> Option<Duration> {
        let executing = self.worker.executing()?;
        let report = self.audits.round(executing.round)?;
        (self.audits.mode() != AuditMode::Off).then(|| executing.audit_lag(clock, &report))
    }

    /// The schedule of the rounds.
    pub fn schedule(&self) -> &Schedule {
        self.registration.schedule()
    }

    /// The cycle gaps that get proofs.
    pub fn gaps(&self) -> &CycleGaps {
        self.registration.gaps()
    }

    /// Returns what the server is doing now.
    pub fn status(&self) -> ServerStatus {
        let open = self.registration.open_round();
        ServerStatus {
            open,
            start: self.registration.schedule().start(open.round),
            executing: self.worker.executing(),
            queued: self.worker.queued(),
        }
    }
}

/// Returns the expected number of leaves at the end of a round, if the speed stays the same.
pub(crate) fn expected_leaves(executing: &Executing, clock: &dyn Clock) -> u64 {
    expected_leaves_at(executing.end, executing, clock)
}

/// Returns the expected number of leaves at this time.
pub(crate) fn expected_leaves_at(end: Timestamp, executing: &Executing, clock: &dyn Clock) -> u64 {
    let left = time_until(clock.now(), end).as_secs_f64();
    let more = (executing.leaves_per_second(clock) * left) as u64;
    executing.leaves.load(Relaxed).saturating_add(more)
}
