//! The threads of the auditors, and which of them audits.

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use poet_engine::{
    LogRead as _, Tree, Work,
    audit::{AuditError, AuditWith, STEP_ENTRIES},
    file::LogView,
};
use poet_files::reason;
use poet_host::niceness;

use super::{
    super::Job,
    AuditMode,
    report::Audits,
    round::{RoundAudit, trusted_entries},
};
use crate::{
    clock::Clock,
    standby::{Standby, Task},
};

/// How often the auditors look for entries, and how long they wait for enough of them to use a CPU
/// well.
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before retrying a log that cannot be read.
const RETRY: Duration = Duration::from_secs(1);
/// Audited entries to compare with the log again, per second: 10 MB. The longest log takes 110
/// seconds.
const SCRUB_ENTRIES_PER_SECOND: f64 = 312_500.0;
/// The maximum number of chunks to compare at once.
const SCRUB_CHUNKS: u64 = 64;
/// The niceness of auditors: the lowest priority while they keep up, otherwise by how far they are
/// behind.
const LOW: i32 = niceness::LOWEST_PRIORITY;
const RAISED: [(Duration, i32); 2] = [(Duration::from_secs(5), 0), (Duration::from_secs(60), -5)];
/// When auditors are this close again, they return to the lowest priority.
const CAUGHT_UP: Duration = Duration::from_secs(1);

/// The threads of the auditors. They live as long as the server.
#[derive(Debug)]
pub(in crate::worker) struct AuditThreads {
    /// Has the lowest priority.
    low: Standby,
    /// Has a normal or higher priority. A thread that has lowered its own may not raise it again.
    raised: Standby,
    /// Stops the audit of a published round, if one is running.
    late: Mutex<Arc<AtomicBool>>,
    clock: SharedClock,
    /// Whether the hashing thread has a dedicated core, so that auditors may raise their priority.
    apart: bool,
}

impl AuditThreads {
    /// `apart` is whether the hashing thread has a core of its own. Otherwise every share that auditors
    /// take may be the hashing's, and they never get more than what is left.
    pub(in crate::worker) fn start(
        clock: Arc<dyn Clock>,
        apart: bool,
        mode: AuditMode,
    ) -> io::Result<Self> {
        if !apart && mode != AuditMode::Off {
            tracing::info!(
                "the audit uses only idle time, however far it is behind: the hashing thread has no \
                 core of its own"
            );
        }
        let lower = || {
            if let Err(error) = niceness::set(LOW) {
                tracing::warn!(
                    error = reason(&error),
                    "cannot lower the priority of the auditors"
                );
            }
        };
        Ok(Self {
            low: Standby::start("audit", lower)?,
            raised: Standby::start("audit-behind", || {})?,
            late: Mutex::default(),
            clock: SharedClock(clock),
            apart,
        })
    }

    /// Audits the rest of a round whose proof is published, for a limited time; then calls `done`.
    /// The audit of the next round ends it.
    pub(in crate::worker) fn audit_late(
        &self,
        mut audit: RoundAudit,
        tree: Tree,
        done: impl FnOnce() + Send + 'static,
    ) {
        let stop = Arc::<AtomicBool>::default();
        self.stop_late(Arc::clone(&stop));
        let clock = self.clock.clone();
        // The audit reports what it finds.
        drop(self.low.run(move || {
            audit.afterwards(&tree, &*clock.0, &stop);
            drop(audit);
            done();
        }));
    }

    /// Stops the audit of a published round. Setting `next` stops the next one.
    fn stop_late(&self, next: Arc<AtomicBool>) {
        let mut late = self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.store(true, Relaxed);
        *late = next;
    }
}

impl Drop for AuditThreads {
    fn drop(&mut self) {
        self.stop_late(Arc::default());
    }
}

/// Returns the niceness of auditors that are this far behind, relative to the lowest priority.
fn niceness(behind: Duration) -> i32 {
    let reached = RAISED.iter().rev().find(|(lag, _)| behind >= *lag);
    reached.map_or(LOW, |(_, niceness)| *niceness)
}

/// The auditors of the round that is worked on.
#[derive(Debug)]
pub(in crate::worker) struct Auditors {
    shared: Arc<Shared>,
    tasks: Vec<Task<()>>,
}

#[derive(Debug)]
struct Shared {
    /// Tells all auditors to stop.
    stop: AtomicBool,
    /// Tells the low-priority thread to stop, or to let the other one audit.
    stop_low: AtomicBool,
    /// Whether the audit is behind, so that the other thread audits.
    behind: AtomicBool,
    /// The first entry of the work that is wrong; `u64::MAX` if none is.
    wrong: AtomicU64,
    /// The number of audited entries.
    audited: AtomicU64,
    /// Held by the thread that audits.
    turn: Mutex<Turn>,
}

/// The state that the two threads share.
#[derive(Debug)]
struct Turn {
    audit: RoundAudit,
    clock: SharedClock,
    scrub: Scrub,
    /// The number of entries still to be taken on trust, if any.
    trust: Option<u64>,
    /// Whether the entries that another process has audited were checked for changes.
    checked: bool,
    failure: Option<String>,
    last_step: Duration,
}

#[derive(Clone)]
struct SharedClock(Arc<dyn Clock>);

impl fmt::Debug for SharedClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl Auditors {
    /// Starts the auditors, unless auditing is off. `folder` is where the roots of audited chunks
    /// are stored.
    pub(in crate::worker) fn start(
        threads: &AuditThreads,
        audits: &Audits,
        job: &Job,
        work: &Work,
        log: LogView,
        folder: &Path,
    ) -> Option<Self> {
        threads.stop_late(Arc::default());
        let audit = RoundAudit::in_folder(audits, job, work, log.clone(), folder)?;
        let now = threads.clock.0.monotonic();
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            stop_low: AtomicBool::new(false),
            behind: AtomicBool::new(false),
            wrong: AtomicU64::new(u64::MAX),
            audited: AtomicU64::new(audit.auditor.entries()),
            turn: Mutex::new(Turn {
                trust: trusted_entries(&audit),
                audit,
                clock: threads.clock.clone(),
                scrub: Scrub::new(now),
                checked: false,
                failure: None,
                last_step: now,
            }),
        });
        let low = Arc::clone(&shared);
        let mut tasks = vec![threads.low.run(move || low.keep_up())];
        if threads.apart {
            let raised = Arc::clone(&shared);
            let lag = Lag {
                round: job.round,
                clock: threads.clock.clone(),
                first: (now, log.entries()),
                log,
            };
            tasks.push(threads.raised.run(move || raised.catch_up(&lag)));
        }
        Some(Self { shared, tasks })
    }

    /// Returns the first entry of the work that is wrong: the work must go back to it.
    pub(in crate::worker) fn wrong_entry(&self) -> Option<u64> {
        let entry = self.shared.wrong.load(Relaxed);
        (entry != u64::MAX).then_some(entry)
    }

    /// Returns whether the auditors ended without being stopped and without finding anything.
    pub(in crate::worker) fn failed(&self) -> bool {
        self.tasks.iter().any(Task::is_finished) && self.wrong_entry().is_none()
    }

    /// Stops the auditors. Returns `None` if they failed, or a disk delays them longer than
    /// `patience`.
    pub(in crate::worker) fn stop(self, patience: Duration) -> Option<RoundAudit> {
        self.shared.stop.store(true, Relaxed);
        self.shared.stop_low.store(true, Relaxed);
        for task in self.tasks {
            if task.join_within(patience).is_none() {
                tracing::error!("the auditors failed, or wait for the disk, and are abandoned");
                return None;
            }
        }
        let shared = Arc::into_inner(self.shared)?;
        Some(shared.turn.into_inner().ok()?.audit)
    }
}

impl Shared {
    /// Audits what is in the log and what is added, except while the other thread does; until it is
    /// stopped or the work must go back.
    fn keep_up(&self) {
        while !self.stop.load(Relaxed) {
            let idle = self.behind.load(Relaxed) || {
                let mut turn = self.turn();
                // The other thread may have been first.
                let idle = self.behind.load(Relaxed) || turn.take(&self.stop_low);
                if self.note(&turn) {
                    return;
                }
                idle
            };
            if idle {
                thread::sleep(POLL);
            }
        }
    }

    /// Waits until the audit is behind, and audits until it is not. Ends when the other thread
    /// does.
    fn catch_up(&self, lag: &Lag) {
        let mut nice = None;
        while !self.ended() {
            thread::sleep(POLL);
            let behind = lag.now(self.audited.load(Relaxed));
            if niceness(behind) == LOW {
                continue;
            }
            tracing::warn!(
                round = lag.round,
                behind = ?behind,
                "the audit is behind: other programs take its share of the CPU; it continues with \
                 a higher priority"
            );
            self.behind.store(true, Relaxed);
            self.stop_low.store(true, Relaxed);
            let mut turn = self.turn();
            self.stop_low.store(self.stop.load(Relaxed), Relaxed);
            while !self.ended() {
                let behind = lag.now(self.audited.load(Relaxed));
                let next = niceness(behind).min(0);
                // If the system does not permit the change, nothing else can be done.
                if behind <= CAUGHT_UP {
                    tracing::info!(round = lag.round, "the audit is not behind any more");
                    break;
                }
                if nice != Some(next) {
                    nice = Some(next);
                    drop(niceness::set(next));
                }
                let idle = turn.take(&self.stop);
                if self.note(&turn) {
                    return;
                }
                if idle {
                    thread::sleep(POLL);
                }
            }
            drop(turn);
            self.behind.store(false, Relaxed);
        }
    }

    /// Records the state after a turn. Returns whether the work must go back.
    fn note(&self, turn: &Turn) -> bool {
        self.audited.store(turn.audit.auditor.entries(), Relaxed);
        if let Some(wrong) = &turn.audit.wrong {
            self.wrong.store(wrong.entry, Relaxed);
        }
        turn.audit.wrong.is_some()
    }

    fn ended(&self) -> bool {
        self.stop.load(Relaxed) || self.wrong.load(Relaxed) != u64::MAX
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// Audits the next step, if there is one. Returns whether there was none.
    fn take(&mut self, stop: &AtomicBool) -> bool {
        let now = self.clock.0.monotonic();
        let audit = &mut self.audit;
        let with = AuditWith {
            threads: audit.audits.threads(),
            stop,
        };
        let new = (audit.log.entries()).saturating_sub(audit.auditor.entries());
        let enough = if audit.auditor.undecided() {
            1
        } else {
            STEP_ENTRIES
        };
        let step = new >= enough || new > 0 && now.saturating_sub(self.last_step) >= PATIENCE;
        let mut idle = false;
        let result = if !self.checked {
            // Older entries may have changed since another process audited them.
            let checked = audit.apply(|auditor, log| auditor.check(log, with));
            checked.inspect(|()| self.checked = true)
        } else if let Some(entries) = self.trust {
            let trusted = audit.take_on_trust(entries, with);
            trusted.inspect(|()| self.trust = None)
        } else if step {
            self.last_step = now;
            audit.apply(|auditor, log| auditor.step(log, with))
        } else {
            idle = true;
            Ok(())
        };
        if audit.wrong.is_some() {
            // The log still has the wrong entries, so there is nothing to compare.
            return idle;
        }
        let chunks = self.scrub.due(now, audit.auditor.chunk_entries());
        let result = result.and_then(|()| {
            audit.apply(|auditor, log| {
                let (entries, findings) = auditor.scrub(log, chunks, with)?;
                self.scrub.entries += entries as f64;
                Ok(findings)
            })
        });
        match result {
            Ok(()) => self.failure = None,
            Err(AuditError::Stopped) => {}
            Err(AuditError::Log(error)) => {
                let error = Some(error.to_string());
                if self.failure != error {
                    let error = error.as_deref();
                    tracing::error!(round = audit.round, error, "cannot audit the log");
                }
                self.failure = error;
                thread::sleep(RETRY);
            }
        }
        idle
    }
}

/// How far the audit is behind, in time.
struct Lag {
    round: u64,
    clock: SharedClock,
    log: LogView,
    /// When the auditors started, and the number of entries in the log then.
    first: (Duration, u64),
}

impl Lag {
    /// Returns how long the work takes for as many leaves as are not audited yet.
    fn now(&self, audited: u64) -> Duration {
        let (since, before) = self.first;
        let entries = self.log.entries();
        let passed = self.clock.0.monotonic().saturating_sub(since).as_secs_f64();
        let made = entries.saturating_sub(before);
        if made == 0 || passed < 1.0 {
            // The rate is not known yet.
            return Duration::ZERO;
        }
        let behind = entries.saturating_sub(audited) as f64;
        Duration::try_from_secs_f64(behind * passed / made as f64).unwrap_or(Duration::MAX)
    }
}

/// Spreads comparing audited entries again evenly over time.
#[derive(Debug)]
struct Scrub {
    since: Duration,
    entries: f64,
}

impl Scrub {
    fn new(now: Duration) -> Self {
        Self {
            since: now,
            entries: 0.0,
        }
    }

    /// Returns the number of chunks to compare now.
    fn due(&mut self, now: Duration, chunk_entries: u64) -> u64 {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        let due = passed * SCRUB_ENTRIES_PER_SECOND - self.entries;
        let chunks = due / chunk_entries as f64;
        if chunks > SCRUB_CHUNKS as f64 {
            // The auditors had no time for it, and will have none to catch up.
            *self = Self::new(now);
        }
        (chunks as u64).min(SCRUB_CHUNKS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_behind_get_priority() {
        for (seconds, expected) in [(0, 19), (4, 19), (5, 0), (59, 0), (60, -5), (1 << 40, -5)] {
            assert_eq!(
                niceness(Duration::from_secs(seconds)),
                expected,
                "{seconds}"
            );
        }
    }
}
