//! Removes old registrations (`--keep-registrations`). Proofs stay.
//!
//! It works in small steps with pauses, so that new registrations are not delayed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::Timestamp;
use poet_rounds::{
    blocking,
    clock::Clock,
    schedule::Schedule,
    storage::{Removed, Storage},
};
use tokio::sync::watch;

use crate::metrics::Metrics;

/// Registrations to remove in one transaction, which then takes some milliseconds.
const STEP: u32 = 2000;
/// The pause between two steps. A round with a million members is removed in half a minute.
const PAUSE: Duration = Duration::from_millis(50);
/// How often to check whether there is something to remove, and how long to wait after a failure.
const INTERVAL: Duration = Duration::from_secs(60);
const SHORT_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Retention {
    /// How long registrations are kept after the end of their round.
    pub(crate) keep: Duration,
    pub(crate) schedule: Schedule,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) metrics: Metrics,
    /// The first round of which nothing is removed, for caches of registrations.
    pub(crate) first_kept: Arc<AtomicU64>,
}

impl Retention {
    /// Ends with the server.
    pub(crate) async fn run(self, mut stopped: watch::Receiver<bool>) {
        // Rounds of seconds, as in tests, must not wait for a minute.
        let interval = self.keep.clamp(SHORT_INTERVAL, INTERVAL);
        let mut begun = None;
        loop {
            let pause = match blocking(|| self.step(&mut begun)) {
                true => PAUSE,
                false => interval,
            };
            if tokio::time::timeout(pause, stopped.wait_for(|stop| *stop))
                .await
                .is_ok()
            {
                return;
            }
        }
    }

    /// Removes some registrations. Returns whether there may be more. `begun` is the round that is
    /// partly removed.
    fn step(&self, begun: &mut Option<u64>) -> bool {
        let before = first_kept(&self.schedule, self.clock.now(), self.keep);
        self.first_kept.store(before, Relaxed);
        let removed = self.storage.remove_registrations(before, STEP);
        let removed = match removed {
            Ok(removed) => removed,
            Err(error) => {
                tracing::error!(%error, "cannot remove old registrations");
                return false;
            }
        };
        let round = match removed {
            Removed::Registrations { round, .. } => Some(round),
            Removed::Space | Removed::Nothing => None,
        };
        if let Some(done) = begun.take_if(|begun| Some(*begun) != round) {
            tracing::info!(
                round = done,
                "its registrations were removed, its proof is kept"
            );
        }
        if let Removed::Registrations { round, count } = removed {
            self.metrics.registrations_removed(count);
            *begun = Some(round);
        }
        removed != Removed::Nothing
    }
}

/// Returns the first round whose registrations are kept: all earlier ones ended at least `keep`
/// ago.
fn first_kept(schedule: &Schedule, now: Timestamp, keep: Duration) -> u64 {
    let Ok(limit) = now.checked_sub(keep) else {
        return 0;
    };
    // The round that was open then had not begun, and the one before may not be over.
    let open = schedule.open_round(limit);
    match open.checked_sub(1) {
        Some(last) if schedule.end(last) > limit => last,
        _ => open,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_kept_from_their_end_on() {
        let genesis: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let seconds = Duration::from_secs;
        let schedule = Schedule::new(genesis, seconds(100), seconds(50), seconds(20)).unwrap();
        // Round 0 is from 50 to 130, round 1 from 150 to 230.
        for (now, keep, first) in [
            (0, 0, 0),
            (49, 0, 0),
            (129, 0, 0),
            (130, 0, 1),
            (149, 0, 1),
            (151, 0, 1),
            (229, 0, 1),
            (230, 0, 2),
            (1229, 1000, 1),
            (1230, 1000, 2),
            (1230, u64::MAX, 0),
        ] {
            let now = genesis + seconds(now);
            assert_eq!(
                first_kept(&schedule, now, seconds(keep)),
                first,
                "{now} {keep}"
            );
        }
    }
}
