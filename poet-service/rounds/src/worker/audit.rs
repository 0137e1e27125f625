//! The auditors of a round: threads of low priority that recompute the log behind the hashing
//! thread, from the file (see [`poet_engine::audit`]).
//!
//! A copy that is wrong they repair where it is. When the work itself was wrong they stop it, and
//! when it has stopped, cut the log to what is right, from where the work goes on. At the end of a
//! round they audit the rest, with all threads and without leaving anybody priority, so that what is
//! proven was audited as a whole.
//!
//! In sampled mode they recompute one step in eight and take the others on trust, at the end of a
//! round, too. When something does not fit, the round is audited as a whole, from its first entry on,
//! before its proof is made.
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
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use poet_engine::{
    LogError, LogRead, MAX_THREADS, Node, RoundWork, SubtreeHeight, Tree, Work,
    audit::{AuditError, AuditWith, Auditor, Culprit, Finding, STEP_ENTRIES},
    file::{FileLog, LogView},
};
use serde::{Deserialize, Serialize};

use super::Job;
use crate::round_files::{AUDIT_FILE, FINDINGS_FILE, NEW_FINDINGS_FILE, SAMPLED_FILE};

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
/// The lowest priority.
#[cfg(target_os = "linux")]
const PRIORITY: i32 = 19;

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

/// The auditors of a round that is being worked on.
#[derive(Debug)]
pub(super) struct AuditThread {
    signals: Arc<Signals>,
    thread: JoinHandle<RoundAudit>,
}

/// How often it is looked whether the auditors have stopped.
const STOP_POLL: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Signals {
    /// The auditors are to stop.
    stop: AtomicBool,
    /// The first entry that the work had wrong; `u64::MAX` for none.
    wrong: AtomicU64,
}

impl AuditThread {
    /// Starts the auditors, unless there are to be none. `folder` is where the roots of audited chunks
    /// are kept.
    pub(super) fn start(
        audits: &Audits,
        job: &Job,
        work: &Work,
        log: LogView,
        folder: &Path,
    ) -> Option<Self> {
        let mut audit = match audits.mode() {
            AuditMode::Off => return None,
            AuditMode::Full => {
                RoundAudit::new(audits, job, work, log, Some(&folder.join(AUDIT_FILE)))
            }
            AuditMode::Sampled => {
                let roots = folder.join(SAMPLED_FILE);
                let seed = RandomState::new().hash_one(job.round);
                let mut audit = RoundAudit::new(audits, job, work, log, Some(&roots));
                audit.auditor = audit.auditor.sampled(seed);
                audit
            }
        };
        let signals = Arc::new(Signals {
            stop: AtomicBool::new(false),
            wrong: AtomicU64::new(u64::MAX),
        });
        let shared = Arc::clone(&signals);
        let spawned = thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                lower_priority();
                audit.keep_up(&shared);
                audit
            });
        match spawned {
            Ok(thread) => Some(Self { signals, thread }),
            Err(error) => {
                tracing::error!(%error, round = job.round, "cannot start the auditors");
                None
            }
        }
    }

    /// The first entry that the work had wrong: it has to go back there.
    pub(super) fn wrong_entry(&self) -> Option<u64> {
        let entry = self.signals.wrong.load(Relaxed);
        (entry != u64::MAX).then_some(entry)
    }

    /// Stops the auditors. `None` if they have failed, or a disk keeps them beyond the deadline.
    pub(super) fn stop(self, deadline: Instant) -> Option<RoundAudit> {
        self.signals.stop.store(true, Relaxed);
        while !self.thread.is_finished() {
            if Instant::now() > deadline {
                tracing::error!("the auditors wait for the disk, and are left behind");
                return None;
            }
            thread::sleep(STOP_POLL);
        }
        let audit = self.thread.join();
        if audit.is_err() {
            tracing::error!("the auditors failed");
        }
        audit.ok()
    }
}

/// On Linux, threads have priorities of their own, and hand them on to those that they start.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, PRIORITY) {
        tracing::warn!(%error, "cannot lower the priority of the auditors");
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

    /// Audits what there is and what comes, until it is told to stop or the work has to go back.
    fn keep_up(&mut self, signals: &Signals) {
        let with = AuditWith {
            threads: self.audits.0.threads,
            stop: &signals.stop,
        };
        let mut checked = false;
        let mut failure = None;
        let mut scrub = Scrub::new();
        let mut last_step = Instant::now();
        while !signals.stop.load(Relaxed) {
            let new = self.log.entries().saturating_sub(self.auditor.entries());
            let enough = if self.auditor.undecided() {
                1
            } else {
                STEP_ENTRIES
            };
            let step = new >= enough || new > 0 && last_step.elapsed() >= PATIENCE;
            let result = if !checked {
                // Older entries may have changed since another process has audited them.
                self.apply(|auditor, log| auditor.check(log, with))
                    .inspect(|()| checked = true)
            } else if step {
                last_step = Instant::now();
                self.apply(|auditor, log| auditor.step(log, with))
            } else {
                thread::sleep(POLL);
                Ok(())
            };
            if self.wrong.is_some() {
                // The log still has the wrong entries: there is nothing to compare.
                break;
            }
            let chunks = scrub.due(self.auditor.chunk_entries());
            let result = result.and_then(|()| {
                self.apply(|auditor, log| {
                    let (entries, findings) = auditor.scrub(log, chunks, with)?;
                    scrub.entries += entries as f64;
                    Ok(findings)
                })
            });
            match result {
                Ok(()) => failure = None,
                Err(AuditError::Stopped) => {}
                Err(AuditError::Log(error)) => {
                    let error = Some(error.to_string());
                    if failure != error {
                        let error = error.as_deref();
                        tracing::error!(round = self.round, error, "cannot audit the log");
                    }
                    failure = error;
                    thread::sleep(RETRY);
                }
            }
        }
        if let Some(wrong) = &self.wrong {
            signals.wrong.store(wrong.entry, Relaxed);
        }
    }

    /// Audits all that is new in the log, with all threads.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn catch_up(&mut self) -> Result<(), LogError> {
        let stop = AtomicBool::new(false);
        let with = AuditWith {
            threads: cores(),
            stop: &stop,
        };
        while self.wrong.is_none() && self.auditor.entries() < self.log.entries() {
            match self.apply(|auditor, log| auditor.step(log, with)) {
                // Nobody stops it.
                Ok(()) | Err(AuditError::Stopped) => {}
                Err(AuditError::Log(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Compares everything that was audited with the log once more, and audits the rest.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn all(&mut self) -> Result<(), LogError> {
        let stop = AtomicBool::new(false);
        let with = AuditWith {
            threads: cores(),
            stop: &stop,
        };
        match self.apply(|auditor, log| auditor.check(log, with)) {
            Ok(()) | Err(AuditError::Stopped) => self.catch_up(),
            Err(AuditError::Log(error)) => Err(error),
        }
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

    /// Audits the rest of the log of a round that is over, and takes it and its tree back to what is
    /// right.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    pub fn settle(&mut self, tree: Tree, log: &mut FileLog) -> Result<Tree, LogError> {
        self.catch_up()?;
        // The tree knows what the work went on from.
        let had = |node: &[Node]| tree.parked().ends_with(node);
        if !had(self.auditor.tree().parked()) && self.auditor.samples() {
            // Some of what was taken on trust since the last sample was not right.
            let entries = self.auditor.entries();
            self.auditor.trust_no_more(entries.saturating_sub(1));
            self.begin_full(entries);
            self.catch_up()?;
        }
        if let Some(open) = self.auditor.decide(Culprit::Copy) {
            if had(self.auditor.tree().parked()) {
                self.repair(&open);
            } else {
                let culprit = Culprit::Work;
                self.wrong = Some(Finding { culprit, ..open });
            }
        }
        if self.wrong.is_none() && !had(self.auditor.tree().parked()) {
            self.wrong = Some(Finding {
                culprit: Culprit::Work,
                entry: self.auditor.entries(),
                right: Vec::new(),
            });
        }
        self.go_back(tree, log)
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

/// How much is to be compared again, so that it is the same in every second.
struct Scrub {
    since: Instant,
    entries: f64,
}

impl Scrub {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            entries: 0.0,
        }
    }

    /// Chunks to compare now.
    fn due(&mut self, chunk_entries: u64) -> u64 {
        let due = self.since.elapsed().as_secs_f64() * SCRUB_ENTRIES_PER_SECOND - self.entries;
        let chunks = due / chunk_entries as f64;
        if chunks > SCRUB_CHUNKS as f64 {
            // There was no time, and there will not be more of it later.
            *self = Self::new();
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
