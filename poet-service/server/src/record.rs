//! Writes the history: what the server observes of itself, once a minute.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use poet_host::process::Process;
use poet_rounds::{blocking, clock::Clock};
use poet_storage::{DatabaseError, History, MAX_MINUTES, Minute};
use tokio::sync::watch;

use crate::{
    metrics::{Metrics, free_bytes},
    status::StatusReader,
};

/// How often to check whether a minute has passed.
const INTERVAL: Duration = Duration::from_secs(1);
/// The number of epochs to keep, each with its round.
const KEPT_EPOCHS: u64 = 3;
/// What is kept even if epochs are short.
const LEAST_MINUTES: i64 = 24 * 60;

/// Writes the history.
pub(crate) struct Recorder {
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Metrics,
    pub(crate) unready: watch::Receiver<Option<&'static str>>,
    pub(crate) datadir: PathBuf,
    pub(crate) history: Arc<History>,
}

impl Recorder {
    pub(crate) async fn keep(self, mut stopped: watch::Receiver<bool>) {
        let mut minute = self.minute();
        let mut registrations = self.metrics.registrations();
        let mut failing = false;
        // Ends with the server.
        while tokio::time::timeout(INTERVAL, stopped.wait_for(|stop| *stop))
            .await
            .is_err()
        {
            let published = self.metrics.take_published();
            let now = self.minute();
            let over = now != minute;
            if published.is_empty() && !over {
                continue;
            }
            let before = registrations;
            if over {
                registrations = self.metrics.registrations();
            }
            let made = registrations.saturating_sub(before);
            let written = blocking(|| {
                for (round, late) in published {
                    self.history.published(round, late)?;
                }
                match over {
                    true => self.write(minute, made),
                    false => Ok(()),
                }
            });
            minute = now;
            match written {
                Ok(()) => failing = false,
                Err(error) if !failing => {
                    failing = true;
                    tracing::warn!(%error, "the history for the operator's page cannot be written");
                }
                Err(_) => {}
            }
        }
    }

    fn minute(&self) -> i64 {
        self.clock.now().as_second().div_euclid(60)
    }

    /// Writes the state at the end of a minute.
    fn write(&self, minute: i64, registrations: u64) -> Result<(), DatabaseError> {
        let executing = self.status.status().executing;
        let seen = Minute {
            minute,
            round: executing.as_ref().map(|executing| executing.round),
            leaves: executing.map_or(0, |executing| executing.leaves.load(Relaxed)),
            registrations,
            ready: self.unready.borrow().is_none(),
            memory: Process::read().resident_bytes,
            free: free_bytes(&self.datadir).unwrap_or(0.0) as u64,
        };
        let epoch = self.status.schedule().epoch_duration();
        self.history.add(&seen, minute - kept_minutes(epoch))
    }
}

/// Returns for how many minutes the history is kept.
pub(crate) fn kept_minutes(epoch: Duration) -> i64 {
    let minutes = i64::try_from((epoch.as_secs() / 60).saturating_mul(KEPT_EPOCHS));
    minutes
        .unwrap_or(i64::MAX)
        .clamp(LEAST_MINUTES, MAX_MINUTES as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_epochs_are_kept() {
        let hours = |hours: u64| Duration::from_secs(hours * 3_600);
        assert_eq!(kept_minutes(Duration::from_secs(30)), 24 * 60);
        assert_eq!(kept_minutes(hours(336)), 3 * 14 * 24 * 60);
        assert_eq!(kept_minutes(Duration::MAX), MAX_MINUTES as i64);
    }
}
