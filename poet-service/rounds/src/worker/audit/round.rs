//! The audit of one round.

use std::{
    fs,
    hash::{BuildHasher as _, RandomState},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    time::Duration,
};

use poet_engine::{
    LogError, LogRead as _, Node, RoundWork, SubtreeHeight, Tree, Work,
    audit::{AuditError, AuditWith, Auditor, Culprit, Finding},
    file::{FileLog, LogView},
};

use super::{
    super::Job,
    mode::{AuditMode, cores},
    report::{AuditReport, Audits},
};
use crate::{
    clock::Clock,
    round_files::{AUDIT_FILE, SAMPLED_FILE},
};

/// How many leaves that another process left unaudited are still audited: what an hour makes. More
/// would take as long again, and several days' worth would never be finished.
const MAX_UNAUDITED_LEAVES: u64 = 1 << 28;
/// How long the rest of a round may be audited after its proof is published.
const AFTERWARDS: Duration = Duration::from_secs(3600);

/// The audit of a round.
#[derive(Debug)]
pub struct RoundAudit {
    pub(super) audits: Audits,
    pub(super) round: u64,
    /// Where roots and findings are stored, if anywhere.
    folder: Option<PathBuf>,
    pub(super) subtree_height: SubtreeHeight,
    pub(super) auditor: Auditor,
    pub(super) log: LogView,
    /// The stored roots.
    kept: Option<FileLog>,
    /// The number of first entries whose roots were read from there, not computed by this process.
    read_back: u64,
    /// The error for which the work must go back.
    pub(super) wrong: Option<Finding>,
    /// Whether the work is another server's.
    follows: bool,
}

impl RoundAudit {
    /// Creates a full audit that continues after the roots in the file `roots`, if there are any.
    /// Stores its findings next to that file.
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
        let read_back = auditor.entries();
        Self {
            read_back,
            audits: audits.clone(),
            round: job.round,
            folder: folder.map(Path::to_owned),
            subtree_height,
            auditor,
            log,
            kept,
            wrong: None,
            follows: false,
        }
    }

    /// Sets whether the work is another server's.
    pub(in crate::worker) fn set_follows(&mut self, follows: bool) {
        self.follows = follows;
    }

    /// Returns the audit of a round, with its roots in the round's folder; `None` if auditing is
    /// off.
    pub(in crate::worker) fn in_folder(
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
    pub(super) fn take_on_trust(
        &mut self,
        entries: u64,
        with: AuditWith<'_>,
    ) -> Result<(), AuditError> {
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

    /// After an invalid proof: looks for the error by recomputing the entry `last` and a few before
    /// it, and repairs it. Returns whether it has found anything.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or if `stop` is set.
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

    /// Audits the rest of the log of a round whose proof is published, and reports the findings.
    pub(super) fn afterwards(&mut self, tree: &Tree, clock: &dyn Clock, stop: &AtomicBool) {
        let end = clock.monotonic().saturating_add(AFTERWARDS);
        let with = AuditWith {
            threads: self.audits.threads(),
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

    /// Audits everything new in the log, with all threads.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or if `stop` is set.
    pub fn catch_up(&mut self, stop: &AtomicBool) -> Result<(), AuditError> {
        let with = all_threads(stop);
        while self.wrong.is_none() && self.auditor.entries() < self.log.entries() {
            self.apply(|auditor, log| auditor.step(log, with))?;
        }
        Ok(())
    }

    /// Compares everything that was audited with the log again, and audits the rest.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or if `stop` is set.
    pub fn all(&mut self, stop: &AtomicBool) -> Result<(), AuditError> {
        let with = all_threads(stop);
        self.apply(|auditor, log| auditor.check(log, with))?;
        self.catch_up(stop)
    }

    /// Returns whether the whole log is audited.
    pub fn is_complete(&self) -> bool {
        self.auditor.entries() == self.log.entries()
    }

    /// Reacts to the findings and records them.
    pub(super) fn apply(
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

    /// Called when a sampled audit of `entries` entries has become a full one.
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

    /// Records a finding.
    fn found(&self, event: &str, count: impl Fn(&mut AuditReport)) {
        (self.audits).found(self.round, self.folder.as_deref(), event, count);
    }

    /// Removes the stored roots, which may be wrong.
    fn forget_roots(&mut self) {
        if let Some(kept) = &mut self.kept
            && let Err(error) = kept.cut(0)
        {
            tracing::warn!(%error, round = self.round, "cannot store what was audited");
            self.kept = None;
        }
    }

    fn blame_auditor(&mut self, finding: &Finding) {
        let (round, entry) = (self.round, finding.entry);
        if entry < self.read_back {
            tracing::error!(
                round,
                entry,
                "ALARM: the file of what was audited is damaged; the log and the work are not: look at \
                 the disk if it happens again"
            );
            let event = format!("the record of the audit was damaged at entry {entry}");
            self.found(&event, |report| report.copies += 1);
        } else {
            tracing::error!(
                round,
                entry,
                "ALARM: the auditor was wrong, the work was not: memory or CPU are unreliable"
            );
            let event = format!("the auditor was wrong at entry {entry}");
            self.found(&event, |report| report.auditor += 1);
        }
        // Other stored roots may be wrong, too.
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
        // If this fails, the audit finds them again.
        if let Err(error) = self.log.repair(*entry, right) {
            tracing::error!(%error, round, "cannot repair the log");
        }
        let event = format!("repaired {entries} damaged entries from {entry} on");
        self.found(&event, |report| report.copies += 1);
    }

    /// Appends new roots to the stored ones. They need not be durable: missing ones are audited
    /// again, and wrong ones are noticed.
    fn keep_roots(&mut self) {
        let Some(kept) = &mut self.kept else { return };
        let new = &self.auditor.roots()[kept.entries() as usize..];
        if !new.is_empty()
            && let Err(error) = kept.append(new)
        {
            tracing::warn!(%error, round = self.round, "cannot store what was audited");
            self.kept = None;
        }
    }

    /// Takes the log of a finished round, and its tree, back to what is known to be right. If the
    /// log is not audited to its end, the proof must show whether the rest is right.
    ///
    /// # Errors
    /// Fails if the log cannot be written.
    pub fn settle(&mut self, tree: Tree, log: &mut FileLog) -> Result<Tree, LogError> {
        self.decide(&tree);
        self.go_back(tree, log)
    }

    /// Returns whether the work continued from what was audited.
    fn fits(&self, tree: &Tree) -> bool {
        tree.parked().ends_with(self.auditor.tree().parked())
    }

    /// Decides what is wrong at the end of the log. `tree` is what the work continued from.
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
            // The mismatch may be in what a sampled audit took on trust. Then the proof is invalid,
            // and shows where.
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

    /// Takes the log and the tree back to what is right, if the work was wrong.
    ///
    /// # Errors
    /// Fails if the log cannot be written.
    pub fn go_back(&mut self, tree: Tree, log: &mut FileLog) -> Result<Tree, LogError> {
        let Some(Finding { entry, right, .. }) = &self.wrong else {
            return Ok(tree);
        };
        log.cut(*entry)?;
        log.append(right)?;
        log.sync()?;
        let (round, first_leaf) = (self.round, entry * self.subtree_height.leaves());
        let lost = tree.leaves().saturating_sub(self.auditor.tree().leaves());
        if self.follows {
            tracing::error!(
                round,
                entry,
                first_leaf,
                "ALARM: the work that this server follows went wrong; the copy is correct again"
            );
            let event = format!("the work of another server was wrong from entry {entry} on");
            self.found(&event, |_| {});
            self.wrong = None;
            return Ok(self.auditor.tree().clone());
        }
        tracing::error!(
            round,
            entry,
            first_leaf,
            lost_leaves = lost,
            "ALARM: the work went wrong and continues from its last correct leaf: memory or CPU are \
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

    /// The first entry of the work that is wrong: the work must go back to it.
    pub fn wrong_entry(&self) -> Option<u64> {
        self.wrong.as_ref().map(|wrong| wrong.entry)
    }

    /// The tree of all audited leaves.
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

/// Returns the number of entries to take on trust, if too many were not audited.
pub(super) fn trusted_entries(audit: &RoundAudit) -> Option<u64> {
    let entries = audit.log.entries();
    let trusted = entries.saturating_sub(MAX_UNAUDITED_LEAVES >> audit.subtree_height.get());
    (trusted > audit.auditor.entries()).then_some(trusted)
}

/// Removes roots at the end that do not match the log: a power failure or fsck leaves them at the
/// end of a file that was not synced. A wrong one further up is found later.
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
        "the end of {name} is damaged, as a power failure or fsck leaves it: it is cut off, and \
         the leaves that it covered are audited again"
    );
    if let Err(error) = file.cut(roots.len() as u64) {
        tracing::warn!(%error, "cannot cut {name}");
    }
}

/// Returns the roots in the file at `path`, at most `chunks`, and how many more there were.
/// Replaces an unreadable file: everything in it can be computed again.
fn open_roots(
    path: &Path,
    chunk_work: &RoundWork<'_>,
    chunks: u64,
) -> Result<(FileLog, Vec<Node>, u64), LogError> {
    let mut file = match FileLog::open(path, chunk_work) {
        Err(error @ LogError::Foreign { .. }) => {
            tracing::warn!(%error, "the audit starts again");
            // If the file is still there, creating it fails.
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
