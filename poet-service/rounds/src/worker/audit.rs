//! The auditors of a round: threads of low priority that recompute the log behind the hashing
//! thread, from the file (see [`poet_engine::audit`]).
//!
//! A copy that is wrong they repair where it is. When the work itself was wrong they stop it, and
//! when it has stopped, cut the log to what is right, from where the work goes on.
//!
//! Nobody waits for them. At the end of a round the proof is made of what there is, and the rest of
//! the log is audited after it is published: what that finds is reported. Only after a proof that is
//! not valid the log is audited before the next one is made, and first where the proof says that
//! something is wrong. What another process left unaudited is taken on trust if it is more than an
//! hour's work.
//!
//! Ordinary programs leave threads of the lowest priority next to nothing. So where the hashing thread
//! has a core of its own, auditors that fall behind go on with a priority like everybody's, and with a
//! higher one if that is not enough and permitted.
//!
//! In sampled mode they recompute one step in eight and take the others on trust. When something does
//! not fit, the round is audited as a whole, from its first entry on.
//!
//! The roots of audited chunks of entries are kept beside the log, as a tree log of their own. After
//! a restart the audit goes on behind the last of them; those before are compared with the log at
//! once, which takes seconds, not days. Those of a sampled audit have a file of their own: no full
//! audit relies on them. What was found is kept beside them, too.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    hash::{BuildHasher as _, RandomState},
    io::{self, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use poet_engine::{
    LogError, LogRead, MAX_THREADS, Node, RoundWork, SubtreeHeight, Tree, Work,
    audit::{AuditError, AuditWith, Auditor, Culprit, Finding, STEP_ENTRIES},
    file::{FileLog, LogView},
};
use serde::{Deserialize, Serialize};

use super::Job;
use crate::{
    clock::Clock,
    round_files::{AUDIT_FILE, FINDINGS_FILE, NEW_FINDINGS_FILE, SAMPLED_FILE},
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
/// Audited leaves that a power cut may take from the log, since they were not durable yet: what two
/// minutes make. Where more are gone, something else has cut it.
pub const MAX_UNSYNCED_LEAVES: u64 = 1 << 23;
/// Rounds about which is remembered what was found.
const REMEMBERED_ROUNDS: usize = 50;
/// Leaves that another process left unaudited and that are audited still: what an hour makes. More
/// would take as long again, and of several days' nobody would see the end.
const MAX_UNAUDITED_LEAVES: u64 = 1 << 28;
/// How long what was not audited at the end of a round may be audited after it is published.
const AFTERWARDS: Duration = Duration::from_secs(3600);
/// The niceness of auditors that keep up, and of others by how far they are behind. Those who keep
/// up have the lowest priority.
const LOW: i32 = 19;
const RAISED: [(Duration, i32); 2] = [(Duration::from_secs(5), 0), (Duration::from_secs(60), -5)];
/// Auditors that were behind and are not any more have the lowest priority again.
const CAUGHT_UP: Duration = Duration::from_secs(1);

/// How much of the work is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// Everything.
    Full,
    /// A random eighth; everything from then on that something there is wrong.
    Sampled,
    /// Nothing, unless a proof turns out to be wrong.
    Off,
}

impl AuditMode {
    /// What is best for this machine: everything, if there is a core to spare.
    pub fn for_this_machine() -> Self {
        if cores() > 1 { Self::Full } else { Self::Off }
    }
}

impl FromStr for AuditMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "full" => Ok(Self::Full),
            "sampled" => Ok(Self::Sampled),
            "off" => Ok(Self::Off),
            _ => Err("expected full, sampled or off"),
        }
    }
}

impl fmt::Display for AuditMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Sampled => "sampled",
            Self::Off => "off",
        })
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))
}

/// What audits have found: of one round, or of all since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Subtrees recomputed.
    pub subtrees: u64,
    /// Mistakes of the work.
    pub work: u64,
    /// Damaged copies of right entries, which were repaired.
    pub copies: u64,
    /// Mistakes of the auditors.
    pub auditor: u64,
    /// How often the work went back.
    pub rollbacks: u64,
    /// Leaves that were made in vain.
    pub lost_leaves: u64,
    /// Proofs that were not valid, and were not published.
    pub bad_proofs: u64,
    /// Leaves of the round that were audited, in sampled mode with those taken on trust.
    pub audited_leaves: u64,
    /// Those among them that another process left unaudited and that were taken on trust.
    #[serde(default)]
    pub trusted_leaves: u64,
    /// What was found last.
    pub last_event: Option<String>,
}

/// Audits rounds, and remembers what was found.
#[derive(Clone, Debug)]
pub struct Audits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: AuditMode,
    threads: usize,
    reports: Mutex<Reports>,
}

#[derive(Debug, Default)]
struct Reports {
    total: AuditReport,
    rounds: BTreeMap<u64, AuditReport>,
}

impl Audits {
    /// Audits on `threads` threads.
    pub fn new(mode: AuditMode, threads: usize) -> Self {
        Self(Arc::new(Inner {
            mode,
            threads,
            reports: Mutex::default(),
        }))
    }

    /// How much is audited.
    pub fn mode(&self) -> AuditMode {
        self.0.mode
    }

    /// What was found since the start.
    pub fn total(&self) -> AuditReport {
        self.reports().total.clone()
    }

    /// What was found in a round, if it was audited.
    pub fn round(&self, round: u64) -> Option<AuditReport> {
        self.reports().rounds.get(&round).cloned()
    }

    /// Remembers what an earlier process has found in a round, and has kept in its folder.
    pub(super) fn remember(&self, round: u64, folder: &Path) {
        let path = folder.join(FINDINGS_FILE);
        let read = fs::read(&path).and_then(|json| Ok(serde_json::from_slice(&json)?));
        match read {
            Ok(report) => drop(self.reports().rounds.entry(round).or_insert(report)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let path = path.display();
                tracing::warn!(%error, round, %path, "cannot read what audits have found");
            }
        }
    }

    /// Takes note that a proof is not valid.
    pub(super) fn bad_proof(&self, round: u64, folder: &Path, reason: &dyn fmt::Display) {
        tracing::error!(round, %reason, "ALARM: the proof is not valid and is not published");
        let event = format!("a proof was not valid: {reason}");
        self.found(round, Some(folder), &event, |report| report.bad_proofs += 1);
    }

    /// Takes note that so many leaves had been audited that the log does not hold any more.
    fn log_is_shorter(&self, round: u64, folder: Option<&Path>, leaves: u64) {
        if leaves <= MAX_UNSYNCED_LEAVES {
            return;
        }
        tracing::error!(
            round,
            leaves,
            "ALARM: the log is shorter than it was: work that had been audited is not in it any more, \
             and is done again"
        );
        let event = format!(
            "the log is shorter than it was: {leaves} audited leaves are not in it any more"
        );
        self.found(round, folder, &event, |_| {});
    }

    /// Takes note of an event, and keeps what was found in the round's folder.
    fn found(
        &self,
        round: u64,
        folder: Option<&Path>,
        event: &str,
        count: impl Fn(&mut AuditReport),
    ) {
        self.note(round, |report| {
            count(report);
            report.last_event = Some(event.to_owned());
        });
        if let (Some(folder), Some(report)) = (folder, self.round(round))
            && let Err(error) = keep(&report, folder)
        {
            tracing::warn!(%error, round, "cannot keep what audits have found");
        }
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, round: u64, note: impl Fn(&mut AuditReport)) {
        let mut reports = self.reports();
        note(&mut reports.total);
        note(reports.rounds.entry(round).or_default());
        while reports.rounds.len() > REMEMBERED_ROUNDS {
            reports.rounds.pop_first();
        }
    }
}

/// The threads of auditors, which are there from the start to the end.
#[derive(Debug)]
pub(super) struct AuditThreads {
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
    pub(super) fn start(clock: Arc<dyn Clock>, apart: bool) -> io::Result<Self> {
        Ok(Self {
            low: Standby::start("audit", lower_priority)?,
            raised: Standby::start("audit-behind", || {})?,
            late: Mutex::default(),
            clock: SharedClock(clock),
            apart,
        })
    }

    /// Audits what is not audited yet of a round whose proof is published, for a while; then calls
    /// `done`. The next round's audit ends this one.
    pub(super) fn audit_late(
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

/// Gives the calling thread, and those that it starts, the lowest priority.
pub(super) fn lower_priority() {
    if let Err(error) = set_niceness(LOW) {
        let thread = thread::current();
        let thread = thread.name().unwrap_or_default();
        tracing::warn!(%error, thread, "cannot lower the priority of a thread");
    }
}

/// On Linux, threads have priorities of their own, and hand them on to those that they start.
#[cfg(target_os = "linux")]
fn set_niceness(niceness: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, niceness)?)
}

#[cfg(not(target_os = "linux"))]
fn set_niceness(_niceness: i32) -> io::Result<()> {
    Ok(())
}

/// The auditors of a round that is being worked on.
#[derive(Debug)]
pub(super) struct Auditors {
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
    pub(super) fn start(
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
    pub(super) fn wrong_entry(&self) -> Option<u64> {
        let entry = self.shared.wrong.load(Relaxed);
        (entry != u64::MAX).then_some(entry)
    }

    /// Whether they have ended although nobody told them to, and nothing was found.
    pub(super) fn failed(&self) -> bool {
        self.tasks.iter().any(Task::is_finished) && self.wrong_entry().is_none()
    }

    /// Stops the auditors. `None` if they have failed, or a disk keeps them for longer than `patience`.
    pub(super) fn stop(self, patience: Duration) -> Option<RoundAudit> {
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

/// Entries to take on trust because there are too many that were not audited.
fn trusted_entries(audit: &RoundAudit) -> Option<u64> {
    let entries = audit.log.entries();
    let trusted = entries.saturating_sub(MAX_UNAUDITED_LEAVES >> audit.subtree_height.get());
    (trusted > audit.auditor.entries()).then_some(trusted)
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
                    drop(set_niceness(next));
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
            threads: audit.audits.0.threads,
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

/// Keeps a report in the round's folder, in place of the one that is there.
fn keep(report: &AuditReport, folder: &Path) -> io::Result<()> {
    let new = folder.join(NEW_FINDINGS_FILE);
    let mut file = File::create(&new)?;
    file.write_all(serde_json::to_string_pretty(report)?.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FINDINGS_FILE))
}

/// The audit of a round.
#[derive(Debug)]
pub struct RoundAudit {
    audits: Audits,
    round: u64,
    /// Where roots and findings are kept, if they are.
    folder: Option<PathBuf>,
    subtree_height: SubtreeHeight,
    auditor: Auditor,
    log: LogView,
    /// Where roots are kept.
    kept: Option<FileLog>,
    /// What the work has to go back for.
    wrong: Option<Finding>,
}

impl RoundAudit {
    /// A full audit that goes on where the roots in the file `roots` end, if there are any. What it
    /// finds it keeps beside that file.
    pub fn new(
        audits: &Audits,
        job: &Job,
        work: &Work,
        log: LogView,
        roots: Option<&Path>,
    ) -> Self {
        let round = job.execution.round_work(work);
        let subtree_height = round.subtree_height();
        let mut auditor = round.auditor();
        let chunk_work = round.with_subtree_height(auditor.root_height());
        let chunks = log.entries() * subtree_height.leaves() / auditor.root_height().leaves();
        let folder = roots.and_then(Path::parent);
        let kept = roots.and_then(|path| match open_roots(path, &chunk_work, chunks) {
            Ok((mut file, mut roots, gone)) => {
                drop_damaged(path, &mut file, &mut roots, &auditor, &log);
                let leaves = gone.saturating_mul(auditor.root_height().leaves());
                audits.log_is_shorter(job.round, folder, leaves);
                auditor = round.auditor_with_roots(roots);
                Some(file)
            }
            Err(error) => {
                tracing::warn!(%error, round = job.round, "the audit will not survive a restart");
                None
            }
        });
        let leaves = auditor.tree().leaves();
        audits.note(job.round, |report| report.audited_leaves = leaves);
        Self {
            audits: audits.clone(),
            round: job.round,
            folder: folder.map(Path::to_owned),
            subtree_height,
            auditor,
            log,
            kept,
            wrong: None,
        }
    }

    /// The audit of a round, with its roots in the round's folder; `None` if there is to be none.
    pub(super) fn in_folder(
        audits: &Audits,
        job: &Job,
        work: &Work,
        log: LogView,
        folder: &Path,
    ) -> Option<Self> {
        match audits.mode() {
            AuditMode::Off => None,
            AuditMode::Full => {
                let roots = folder.join(AUDIT_FILE);
                Some(Self::new(audits, job, work, log, Some(&roots)))
            }
            AuditMode::Sampled => {
                let roots = folder.join(SAMPLED_FILE);
                let seed = RandomState::new().hash_one(job.round);
                let mut audit = Self::new(audits, job, work, log, Some(&roots));
                audit.auditor = audit.auditor.sampled(seed);
                Some(audit)
            }
        }
    }

    /// Takes the first entries of the log on trust, which nobody has audited.
    fn take_on_trust(&mut self, entries: u64, with: AuditWith<'_>) -> Result<(), AuditError> {
        let audited = self.auditor.entries();
        let result = self.apply(|auditor, log| {
            auditor.take_on_trust(log, entries, with)?;
            Ok(Vec::new())
        });
        let trusted = self.auditor.entries().saturating_sub(audited);
        let leaves = trusted * self.subtree_height.leaves();
        self.audits
            .note(self.round, |report| report.trusted_leaves += leaves);
        result?;
        let report = self.audits.round(self.round).unwrap_or_default();
        let leaves = report.trusted_leaves;
        tracing::warn!(
            round = self.round,
            leaves,
            "these leaves were not audited when they were made, and would take too long now: they \
             are taken on trust; the proof shows whether that was right"
        );
        let event = format!("{leaves} leaves that nobody had audited were taken on trust");
        self.found(&event, |_| {});
        Ok(())
    }

    /// After a proof that was not valid: looks for what is wrong by recomputing few entries, those
    /// before `last` and itself, and repairs it. Says whether it has found anything.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or it is stopped.
    pub fn search(
        &mut self,
        tree: &Tree,
        last: Option<u64>,
        stop: &AtomicBool,
    ) -> Result<bool, AuditError> {
        let with = all_threads(stop);
        let Some(newest) = self.log.entries().checked_sub(1) else {
            return Ok(false);
        };
        let last = last.unwrap_or(newest).min(newest);
        let Some(entry) = self.auditor.search(&mut self.log, last, with)? else {
            return Ok(false);
        };
        tracing::error!(
            round = self.round,
            entry,
            "ALARM: an entry of the log is wrong"
        );
        let open = |audit: &Self| audit.auditor.undecided() || audit.auditor.entries() <= entry;
        while self.wrong.is_none() && open(self) && self.auditor.entries() < self.log.entries() {
            self.apply(|auditor, log| auditor.step(log, with))?;
        }
        self.decide(tree);
        Ok(true)
    }

    /// Audits the rest of the log of a round whose proof is published, and reports what it finds.
    fn afterwards(&mut self, tree: &Tree, clock: &dyn Clock, stop: &AtomicBool) {
        let end = clock.monotonic().saturating_add(AFTERWARDS);
        let with = AuditWith {
            threads: self.audits.0.threads,
            stop,
        };
        let trust = trusted_entries(self);
        let result = trust.map_or(Ok(()), |entries| self.take_on_trust(entries, with));
        let result = result.and_then(|()| {
            while self.wrong.is_none()
                && self.auditor.entries() < self.log.entries()
                && clock.monotonic() < end
            {
                self.apply(|auditor, log| auditor.step(log, with))?;
            }
            Ok(())
        });
        let entries = self.log.entries();
        let left = entries.saturating_sub(self.auditor.entries()) * self.subtree_height.leaves();
        let round = self.round;
        match result {
            Err(AuditError::Log(error)) => {
                tracing::error!(%error, round, left, "cannot audit the log after its proof");
            }
            _ if left > 0 && self.wrong.is_none() => {
                tracing::warn!(
                    round,
                    left,
                    "the last leaves of the round are not audited: there was no time; its proof was \
                     verified"
                );
            }
            _ => {
                if self.wrong.is_none() {
                    self.decide(tree);
                }
                tracing::info!(round, "the round is audited");
            }
        }
        if let Some(Finding { entry, .. }) = self.wrong.take() {
            let first_leaf = entry * self.subtree_height.leaves();
            tracing::error!(
                round,
                entry,
                first_leaf,
                "ALARM: the work of a published round was wrong: its proof is valid, but memory or \
                 CPU are unreliable"
            );
            let event = format!("the work of the published round was wrong from entry {entry} on");
            self.found(&event, |report| report.work += 1);
        }
    }

    /// Audits all that is new in the log, with all threads.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or it is stopped.
    pub fn catch_up(&mut self, stop: &AtomicBool) -> Result<(), AuditError> {
        let with = all_threads(stop);
        while self.wrong.is_none() && self.auditor.entries() < self.log.entries() {
            self.apply(|auditor, log| auditor.step(log, with))?;
        }
        Ok(())
    }

    /// Compares everything that was audited with the log once more, and audits the rest.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or it is stopped.
    pub fn all(&mut self, stop: &AtomicBool) -> Result<(), AuditError> {
        let with = all_threads(stop);
        self.apply(|auditor, log| auditor.check(log, with))?;
        self.catch_up(stop)
    }

    /// Whether all that is in the log is audited.
    pub fn is_complete(&self) -> bool {
        self.auditor.entries() == self.log.entries()
    }

    /// Does what the findings call for, and takes note.
    fn apply(
        &mut self,
        audit: impl FnOnce(&mut Auditor, &mut LogView) -> Result<Vec<Finding>, AuditError>,
    ) -> Result<(), AuditError> {
        let (before, recomputed) = (self.auditor.entries(), self.auditor.recomputed());
        let sampled = self.auditor.samples();
        let findings = audit(&mut self.auditor, &mut self.log)?;
        if sampled && !self.auditor.samples() {
            self.begin_full(before);
        }
        let (audited, leaves) = (
            self.auditor.recomputed() - recomputed,
            self.auditor.tree().leaves(),
        );
        if audited > 0 || self.auditor.entries() != before {
            self.audits.note(self.round, |report| {
                report.subtrees += audited;
                report.audited_leaves = leaves;
            });
        }
        for finding in findings {
            match finding.culprit {
                Culprit::Auditor => self.blame_auditor(&finding),
                Culprit::Copy => self.repair(&finding),
                Culprit::Work => self.wrong = Some(finding),
            }
        }
        self.keep_roots();
        Ok(())
    }

    /// A sampled audit of `entries` entries has become a full one.
    fn begin_full(&mut self, entries: u64) {
        let round = self.round;
        tracing::error!(
            round,
            entries,
            "ALARM: the sampled audit found something wrong; all entries are audited to find the \
             first one"
        );
        let event = format!(
            "something was wrong among the first entries up to about {entries}; all are audited"
        );
        self.found(&event, |_| {});
        self.forget_roots();
    }

    /// Takes note of an event.
    fn found(&self, event: &str, count: impl Fn(&mut AuditReport)) {
        (self.audits).found(self.round, self.folder.as_deref(), event, count);
    }

    /// Removes the kept roots, which may be wrong.
    fn forget_roots(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Err(error) = kept.cut(0)
        {
            tracing::warn!(%error, round = self.round, "cannot keep what was audited");
            self.kept = None;
        }
    }

    fn blame_auditor(&mut self, finding: &Finding) {
        let (round, entry) = (self.round, finding.entry);
        tracing::error!(
            round,
            entry,
            "ALARM: the auditor was wrong, the work was not: memory or CPU are unreliable"
        );
        let event = format!("the auditor was wrong at entry {entry}");
        self.found(&event, |report| report.auditor += 1);
        // The kept ones may be wrong, too.
        self.forget_roots();
    }

    fn repair(&mut self, finding: &Finding) {
        let Finding { entry, right, .. } = finding;
        let (round, entries) = (self.round, right.len());
        tracing::error!(
            round,
            entry,
            entries,
            "ALARM: entries of the log were damaged, in memory or on the disk; the work was not"
        );
        // If it fails, they are found once more.
        if let Err(error) = self.log.repair(*entry, right) {
            tracing::error!(%error, round, "cannot repair the log");
        }
        let event = format!("repaired {entries} damaged entries from {entry} on");
        self.found(&event, |report| report.copies += 1);
    }

    /// Appends new roots to those that are kept. They need not be durable: what is missing is
    /// audited again, and what is wrong is noticed.
    fn keep_roots(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        let new = &self.auditor.roots()[kept.entries() as usize..];
        if !new.is_empty()
            && let Err(error) = kept.append(new)
        {
            tracing::warn!(%error, round = self.round, "cannot keep what was audited");
            self.kept = None;
        }
    }

    /// Takes the log of a round that is over, and its tree, back to what is known to be right. Of a
    /// log that is not audited to its end, the proof must tell about the rest.
    ///
    /// # Errors
    /// Fails if the log cannot be written.
    pub fn settle(&mut self, tree: Tree, log: &mut FileLog) -> Result<Tree, LogError> {
        self.decide(&tree);
        self.go_back(tree, log)
    }

    /// Whether the work went on from what was audited.
    fn fits(&self, tree: &Tree) -> bool {
        tree.parked().ends_with(self.auditor.tree().parked())
    }

    /// Settles what was wrong at the end of the log: `tree` is what the work went on from.
    fn decide(&mut self, tree: &Tree) {
        if self.wrong.is_some() || !self.is_complete() {
            return;
        }
        let fits = self.fits(tree);
        match self.auditor.decide(Culprit::Copy) {
            Some(open) if fits => self.repair(&open),
            Some(open) => {
                let culprit = Culprit::Work;
                self.wrong = Some(Finding { culprit, ..open });
            }
            // What a sampled audit took on trust may be what does not fit. The proof will not, either,
            // and leads to it.
            None if fits || self.auditor.samples() => {}
            None => {
                self.wrong = Some(Finding {
                    culprit: Culprit::Work,
                    entry: self.auditor.entries(),
                    right: Vec::new(),
                });
            }
        }
    }

    /// Takes log and tree back to what is right, if the work was wrong.
    ///
    /// # Errors
    /// When the log cannot be written.
    pub fn go_back(&mut self, tree: Tree, log: &mut FileLog) -> Result<Tree, LogError> {
        let Some(Finding { entry, right, .. }) = &self.wrong else {
            return Ok(tree);
        };
        log.cut(*entry)?;
        log.append(right)?;
        log.sync()?;
        let (round, first_leaf) = (self.round, entry * self.subtree_height.leaves());
        let lost = tree.leaves().saturating_sub(self.auditor.tree().leaves());
        tracing::error!(
            round,
            entry,
            first_leaf,
            lost_leaves = lost,
            "ALARM: the work went wrong and goes on from its last right leaf: memory or CPU are \
             unreliable"
        );
        let event =
            format!("the work was wrong from entry {entry} on, {lost} leaves were made in vain");
        self.found(&event, |report| {
            report.work += 1;
            report.rollbacks += 1;
            report.lost_leaves += lost;
        });
        self.wrong = None;
        Ok(self.auditor.tree().clone())
    }

    /// The first entry that the work had wrong: it has to go back there.
    pub fn wrong_entry(&self) -> Option<u64> {
        self.wrong.as_ref().map(|wrong| wrong.entry)
    }

    /// The tree of all leaves that were audited.
    pub fn tree(&self) -> &Tree {
        self.auditor.tree()
    }
}

fn all_threads(stop: &AtomicBool) -> AuditWith<'_> {
    AuditWith {
        threads: cores(),
        stop,
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

/// Drops roots at the end that are not those of the log: what a power failure or fsck leaves of a file
/// whose end is not synced. One that is wrong before the end is found later.
fn drop_damaged(
    path: &Path,
    file: &mut FileLog,
    roots: &mut Vec<Node>,
    auditor: &Auditor,
    log: &LogView,
) {
    let (before, mut log) = (roots.len(), log.clone());
    while let Some(last) = roots.last()
        && (auditor.chunk_root(&mut log, roots.len() as u64 - 1)).is_ok_and(|root| root != *last)
    {
        roots.pop();
    }
    if roots.len() == before {
        return;
    }
    let name = path.file_name().unwrap_or_default().display();
    tracing::warn!(
        roots = before - roots.len(),
        "the end of {name} is damaged, as a power failure or fsck leaves it: it is cut off, and what it \
         was for is audited again"
    );
    if let Err(error) = file.cut(roots.len() as u64) {
        tracing::warn!(%error, "cannot cut {name}");
    }
}

/// The roots in the file at `path`, at most `chunks`, and how many more there were. A file that cannot
/// be understood is replaced: all that is in it can be computed again.
fn open_roots(
    path: &Path,
    chunk_work: &RoundWork<'_>,
    chunks: u64,
) -> Result<(FileLog, Vec<Node>, u64), LogError> {
    let mut file = match FileLog::open(path, chunk_work) {
        Err(error @ LogError::Foreign { .. }) => {
            tracing::warn!(%error, "the audit begins anew");
            // If it is still there, that is the error.
            drop(fs::remove_file(path));
            FileLog::open(path, chunk_work)?
        }
        opened => opened?,
    };
    let gone = file.entries().saturating_sub(chunks);
    file.cut(chunks)?;
    let mut roots = vec![Node::default(); file.entries() as usize];
    file.read(0, &mut roots)?;
    Ok((file, roots, gone))
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
