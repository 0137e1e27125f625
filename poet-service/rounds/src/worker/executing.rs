//! The round that is being worked on, for whoever reports it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;

use super::audit::AuditReport;
use crate::{clock::Clock, rate::Rate};

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
