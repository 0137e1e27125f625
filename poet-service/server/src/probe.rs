//! Checks whether the server is ready.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use poet_rounds::{
    clock::{Clock, time_until},
    storage::Storage,
};
use tokio::sync::watch;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    notify::{Event, Notices},
    status::{ServerStatus, StatusReader},
};

/// How often to check, and how long a write may take then.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long after the start of a round the next one must be open.
const MAX_OPENING: Duration = Duration::from_secs(5);
/// How long after the end of a round its proof is overdue.
const MAX_LATENESS: Duration = Duration::from_secs(60);
/// How far the clock may differ from that of a shared database, and from where on to warn.
const MAX_CLOCK_OFFSET: Duration = Duration::from_secs(2);
const LARGE_CLOCK_OFFSET: Duration = Duration::from_millis(500);

/// Returns what is late, if anything is.
fn late(now: Timestamp, status: &ServerStatus) -> Option<&'static str> {
    if time_until(status.start, now) > MAX_OPENING {
        return Some("the next round is not opened");
    }
    let executing = status.executing.as_ref();
    let overdue = executing.is_some_and(|round| time_until(round.end, now) > MAX_LATENESS);
    overdue.then_some("the proof of a round is overdue")
}

/// Checks whether the server is ready, and reports it on all interfaces.
pub(crate) struct Probe {
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) notices: Notices,
    pub(crate) unready: watch::Sender<Option<&'static str>>,
    pub(crate) reporters: [(HealthReporter, &'static str); 2],
}

impl Probe {
    pub(crate) async fn keep(self, mut stopped: watch::Receiver<bool>) {
        let mut warned = false;
        // Ends with the server.
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

    /// Returns why the server is not ready, if it is not.
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
        late(self.clock.now(), &self.status.status())
    }

    pub(crate) async fn report(&self, reason: Option<&'static str>) {
        let status = match reason {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        };
        for (reporter, service) in &self.reporters {
            // The empty name stands for the whole server.
            for name in ["", service] {
                reporter.set_service_status(name, status).await;
            }
        }
        self.unready.send_replace(reason);
    }
}

#[cfg(test)]
mod tests {
    use poet_rounds::{registration::OpenRound, worker::Executing};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// The open round closes at `start`, and the one that is worked on ends at `end`.
    fn status(start: Timestamp, end: Option<Timestamp>) -> ServerStatus {
        let (round, members) = (1, 0);
        let executing = end.map(|end| Executing {
            round: 0,
            end,
            members,
            leaves: Arc::default(),
            started: (Duration::ZERO, 0),
            durable: Arc::default(),
            rate: Arc::default(),
            followed: Arc::default(),
        });
        ServerStatus {
            open: OpenRound { round, members },
            start,
            executing,
            queued: 0,
        }
    }

    #[test]
    fn what_is_late_is_not_ready() {
        let late = |start, end| late(at(1000), &status(start, end));
        assert_eq!(late(at(2000), None), None);
        assert_eq!(late(at(2000), Some(at(1500))), None);
        assert_eq!(late(at(996), Some(at(1500))), None);
        assert_eq!(late(at(2000), Some(at(941))), None);
        let overdue = Some("the proof of a round is overdue");
        assert_eq!(late(at(2000), Some(at(939))), overdue);
        let closed = Some("the next round is not opened");
        assert_eq!(late(at(994), None), closed);
    }
}
