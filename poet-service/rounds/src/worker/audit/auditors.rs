//! The threads of auditors, and whose turn it is.

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

/// How often the auditors look for entries, and how long they wait for as many as make the best use
/// of a CPU.
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before a log that cannot be read is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Audited entries that are compared with the log again, in a second: 10 MB. The longest log takes
/// 110 seconds.
const SCRUB_ENTRIES_PER_SECOND: f64 = 312_500.0;
/// The most chunks of them at once.
const SCRUB_CHUNKS: u64 = 64;
/// The niceness of auditors that keep up, and of others by how far they are behind. Those who keep
/// up have the lowest priority.
const LOW: i32 = niceness::LOWEST_PRIORITY;
const RAISED: [(Duration, i32); 2] = [(Duration::from_secs(5), 0), (Duration::from_secs(60), -5)];
/// Auditors that were behind and are not any more have the lowest priority again.
const CAUGHT_UP: Duration = Duration::from_secs(1);

/// The threads of auditors, which are there from the start to the end.
#[derive(Debug)]
pub(in crate::worker) struct AuditThreads {
    /// Of the lowest priority.
    low: Standby,
    /// Of a priority like all others'. A thread that has lowered its own may not raise it again.
    raised: Standby,
    /// Stops the audit of what is published already, if there is one.
    late: Mutex<Arc<AtomicBool>>,
    clock: SharedClock,
    /// Whether the hashing thread has a core of its own, so that auditors may have priority.
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
                tracing::warn!(%error, "cannot lower the priority of the auditors");
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

    /// Audits what is not audited yet of a round whose proof is published, for a while; then calls
    /// `done`. The next round's audit ends this one.
    pub(in crate::worker) fn audit_late(
        &self,
        mut audit: RoundAudit,
        tree: Tree,
        done: impl FnOnce() + Send + 'static,
    ) {
        let stop = Arc::<AtomicBool>::default();
        self.stop_late(Arc::clone(&stop));
        let clock = self.clock.clone();
        // It reports what it finds.
        drop(self.low.run(move || {
            audit.afterwards(&tree, &*clock.0, &stop);
            drop(audit);
            done();
        }));
    }

    /// Stops the audit that is not of a round at work, and has `next` stop the one that comes.
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

/// The niceness for auditors that are so far behind, where those that keep up have the lowest.
fn niceness(behind: Duration) -> i32 {
    let reached = RAISED.iter().rev().find(|(lag, _)| behind >= *lag);
    reached.map_or(LOW, |(_, niceness)| *niceness)
}

/// The auditors of a round that is being worked on.
#[derive(Debug)]
pub(in crate::worker) struct Auditors {
    shared: Arc<Shared>,
    tasks: Vec<Task<()>>,
}

#[derive(Debug)]
struct Shared {
    /// The auditors are to stop.
    stop: AtomicBool,
    /// The one of low priority is to stop, or to make way for the other one.
    stop_low: AtomicBool,
    /// They are behind, and it is the other one's turn.
    behind: AtomicBool,
    /// The first entry that the work had wrong; `u64::MAX` for none.
    wrong: AtomicU64,
    /// Entries that were audited.
    audited: AtomicU64,
    /// Held by the one whose turn it is.
    turn: Mutex<Turn>,
}

/// What the two threads do by turns.
#[derive(Debug)]
struct Turn {
    audit: RoundAudit,
    clock: SharedClock,
    scrub: Scrub,
    /// Entries that are taken on trust, as far as they are not yet.
    trust: Option<u64>,
    /// Whether what another process has audited is still so.
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
    /// Starts the auditors, unless there are to be none. `folder` is where the roots of audited chunks
    /// are kept.
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

    /// The first entry that the work had wrong: it has to go back there.
    pub(in crate::worker) fn wrong_entry(&self) -> Option<u64> {
        let entry = self.shared.wrong.load(Relaxed);
        (entry != u64::MAX).then_some(entry)
    }

    /// Whether they have ended although nobody told them to, and nothing was found.
    pub(in crate::worker) fn failed(&self) -> bool {
        self.tasks.iter().any(Task::is_finished) && self.wrong_entry().is_none()
    }

    /// Stops the auditors. `None` if they have failed, or a disk keeps them for longer than `patience`.
    pub(in crate::worker) fn stop(self, patience: Duration) -> Option<RoundAudit> {
        self.shared.stop.store(true, Relaxed);
        self.shared.stop_low.store(true, Relaxed);
        for task in self.tasks {
            if task.join_within(patience).is_none() {
                tracing::error!("the auditors failed, or wait for the disk, and are left behind");
                return None;
            }
        }
        let shared = Arc::into_inner(self.shared)?;
        Some(shared.turn.into_inner().ok()?.audit)
    }
}

impl Shared {
    /// Audits what there is and what comes, except while the other one does; until it is told to stop
    /// or the work has to go back.
    fn keep_up(&self) {
        while !self.stop.load(Relaxed) {
            let idle = self.behind.load(Relaxed) || {
                let mut turn = self.turn();
                // The other one may have come first.
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

    /// Waits until the auditors are behind, and audits until they are not. Ends when the other one
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
                "the audit is behind: other programs take its share of the CPU; it goes on with a \
                 higher priority"
            );
            self.behind.store(true, Relaxed);
            self.stop_low.store(true, Relaxed);
            let mut turn = self.turn();
            self.stop_low.store(self.stop.load(Relaxed), Relaxed);
            while !self.ended() {
                let behind = lag.now(self.audited.load(Relaxed));
                let next = niceness(behind).min(0);
                // What is not permitted is not missed: there is no third way.
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

    /// Takes note of what a turn has come to. Says whether the work has to go back.
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
    /// Audits a step, if there is one. Says whether there was none.
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
            // Older entries may have changed since another process has audited them.
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
            // The log still has the wrong entries: there is nothing to compare.
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

/// How far auditors are behind, in time.
struct Lag {
    round: u64,
    clock: SharedClock,
    log: LogView,
    /// When they began, and with how many entries in the log.
    first: (Duration, u64),
}

impl Lag {
    /// How long the work takes for what is not audited yet.
    fn now(&self, audited: u64) -> Duration {
        let (since, before) = self.first;
        let entries = self.log.entries();
        let passed = self.clock.0.monotonic().saturating_sub(since).as_secs_f64();
        let made = entries.saturating_sub(before);
        if made == 0 || passed < 1.0 {
            // There is no rate yet.
            return Duration::ZERO;
        }
        let behind = entries.saturating_sub(audited) as f64;
        Duration::try_from_secs_f64(behind * passed / made as f64).unwrap_or(Duration::MAX)
    }
}

/// How much is to be compared again, so that it is the same in every second.
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

    /// Chunks to compare now.
    fn due(&mut self, now: Duration, chunk_entries: u64) -> u64 {
        let passed = now.saturating_sub(self.since).as_secs_f64();
        let due = passed * SCRUB_ENTRIES_PER_SECOND - self.entries;
        let chunks = due / chunk_entries as f64;
        if chunks > SCRUB_CHUNKS as f64 {
            // There was no time, and there will not be more of it later.
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
