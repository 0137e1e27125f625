//! Auditing: recomputing the entries of a log while errors can still be repaired.
//!
//! The entries of a log are the roots of consecutive subtrees. The state from which a subtree's
//! labels start follows from the entries before it. So given that the first n entries are right, an
//! auditor can recompute entries n, n + 1, ..., one in each lane of each thread, each from the
//! state that the log gives for it, and compare. At the first mismatch, either the log or the
//! auditor is wrong: the auditor's own memory may have changed, or its hardware may have
//! miscalculated. It rules that out before it blames anything else. It keeps what it has audited in
//! two forms (the state after it, and the roots of chunks of entries); the log is the third. A
//! recomputed entry counts only if two computations agree on it, one of them by the kernel of the
//! sequential work.
//!
//! A wrong entry is either a bad copy (it changed in memory on its way to the disk, or on the disk)
//! or an error of the work itself. Later entries decide: if they follow from the right value, the
//! work was right, and the entry is replaced. If not, the work must go on from the right value, and
//! everything after it is lost. The more work would be lost, the more entries are tried, so that a
//! damaged sector of an old log is not mistaken for an error of the work.
//!
//! ```text
//!  log      | chunk | chunk | chunk |  rest  |   not yet audited
//!  auditor  | root  | root  | root  | values | <- state
//! ```
//!
//! Without a spare core, an auditor can recompute a random sample of the entries
//! ([`Auditor::sampled`]) and take the others on trust. A recomputed entry shows whether the work
//! still had the state that the log gives; a wrong label outside the sample goes unnoticed. At the
//! first mismatch the auditor stops trusting: it discards everything and recomputes the log from
//! its first entry.
//!
//! Audited entries may still change on the disk. So chunks are read again and compared with their
//! roots ([`Auditor::scrub`]); a chunk that differs is audited again.

use alloc::{vec, vec::Vec};
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::log::{LogError, LogRead, SubtreeHeight};
use crate::parallel::{MAX_THREADS, try_for_each};
use crate::tree::Tree;
use crate::wide::NodeHasher;
use crate::{Node, RoundWork, Work};

/// Subtrees that a thread recomputes together: a multiple of every kernel's number of lanes.
const LANES: usize = 64;
/// The fewest new entries worth a step: one for each lane of the widest kernels.
pub const STEP_ENTRIES: u64 = 16;
/// A chunk is 2^9 entries: the roots of the longest log take 2 MB.
const CHUNK_HEIGHT: u32 = 9;
/// The most consecutive entries that are examined to see whether the work went on from the right
/// values: more than a disk sector or a memory page holds.
const MAX_RUN: u64 = 256;
/// One in this many of the entries that would be lost may be recomputed to decide.
const RUN_SHARE: u64 = 8;

/// A sampled audit recomputes one step in this many, on average.
const SAMPLE: u64 = 8;

/// What was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// The sequential work: everything after the error is lost.
    Work,
    /// The copy of right work, in memory or on the disk.
    Copy,
    /// The auditor itself. Nothing needs repair.
    Auditor,
}

/// A mismatch between log and auditor, and the right values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was wrong.
    pub culprit: Culprit,
    /// The number of the first affected entry.
    pub entry: u64,
    /// The right values of the entries from there on.
    ///
    /// [`Culprit::Copy`]: the log must be overwritten with these. [`Culprit::Work`]: the log must
    /// be cut to `entry` entries, these appended, and the work go on from [`Auditor::tree`].
    /// [`Culprit::Auditor`]: empty.
    pub right: Vec<Node>,
}

/// Why an audit step failed. The auditor is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// [`AuditWith::stop`] was set.
    #[error("the audit was stopped")]
    Stopped,
}

/// The threads that an auditor may use, and the flag that stops it.
#[derive(Clone, Copy, Debug)]
pub struct AuditWith<'a> {
    /// Threads, including the calling one; at least 1, at most [`MAX_THREADS`].
    pub threads: usize,
    /// Set by another thread to stop the auditor, which then returns within the time of one label.
    pub stop: &'a AtomicBool,
}

/// Recomputes the entries of a log in order (see the [module](self)).
#[derive(Clone, Debug)]
pub struct Auditor {
    work: Work,
    statement: Vec<u8>,
    subtree_height: SubtreeHeight,
    /// The height of a chunk above the entries.
    chunk_height: u32,
    audited: Audited,
    /// The newest audited values, where the log differs and the cause is not yet known.
    run: Vec<Node>,
    /// The number of entries to try next; small after a mismatch.
    batch: usize,
    /// Whether the next entry was once recomputed to a value other than the log's.
    doubted: bool,
    /// The chunk to compare next.
    scrub: u64,
    /// Selects the steps to recompute; `None` if all are.
    sample: Option<Sample>,
    /// The entry at which a sampled audit became a full one, until the cause is found.
    doubt: Option<u64>,
    recomputed: u64,
}

/// Random numbers: SplitMix64, started at a seed.
#[derive(Clone, Debug)]
struct Sample(u64);

impl Sample {
    /// Whether the next step must be recomputed.
    fn takes_next(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).is_multiple_of(SAMPLE)
    }
}

/// Entries known to be right.
#[derive(Clone, Debug)]
struct Audited {
    /// The tree of their leaves.
    tree: Tree,
    /// The roots of whole chunks.
    roots: Vec<Node>,
    /// The entries after the last whole chunk.
    rest: Vec<Node>,
}

/// The result of recomputing a batch of entries.
struct Batch {
    /// The number of leading entries that were recomputed to the log's values.
    good: usize,
    /// The value of the next entry, if it differs from the log's.
    other: Option<Node>,
}

impl RoundWork<'_> {
    /// An auditor that starts at the first entry of the log.
    #[must_use]
    pub fn auditor(&self) -> Auditor {
        Auditor::new(self)
    }

    /// An auditor that continues after the chunks whose roots an earlier one has computed
    /// ([`Auditor::roots`]). The roots are not trusted: if one is wrong, it differs from the log,
    /// and the chunk is audited again.
    #[must_use]
    pub fn auditor_with_roots(&self, roots: Vec<Node>) -> Auditor {
        Auditor::with_roots(self, roots)
    }
}

impl Auditor {
    /// An auditor that starts at the first entry of the log of `round`.
    pub(crate) fn new(round: &RoundWork<'_>) -> Self {
        Self::begin(round.work(), round.statement(), round.subtree_height())
    }

    fn begin(work: &Work, statement: &[u8], subtree_height: SubtreeHeight) -> Self {
        let k = subtree_height.get();
        Self {
            work: *work,
            statement: statement.to_vec(),
            subtree_height,
            // Keeps the height of the roots a valid subtree height.
            chunk_height: CHUNK_HEIGHT.min(SubtreeHeight::MAX.get() - k),
            audited: Audited {
                tree: Tree::new(work, statement),
                roots: Vec::new(),
                rest: Vec::new(),
            },
            run: Vec::new(),
            batch: usize::MAX,
            doubted: false,
            scrub: 0,
            sample: None,
            doubt: None,
            recomputed: 0,
        }
    }

    /// Makes the auditor recompute one step in eight, chosen at random from `seed`, and take the
    /// others on trust until the first mismatch.
    #[must_use]
    pub fn sampled(mut self, seed: u64) -> Self {
        self.sample = Some(Sample(seed));
        self
    }

    /// See [`RoundWork::auditor_with_roots`].
    pub(crate) fn with_roots(round: &RoundWork<'_>, roots: Vec<Node>) -> Self {
        let mut auditor = Self::new(round);
        let height = auditor.root_height().get();
        for root in &roots {
            auditor.audited.tree.push_at(height, *root, |_, _, _| {});
        }
        auditor.audited.roots = roots;
        auditor
    }

    /// The number of leading entries audited so far, including those taken on trust.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.audited.tree.leaves() >> self.subtree_height.get()
    }

    /// Whether the audit is [sampled](Auditor::sampled) and has found no mismatch so far.
    #[must_use]
    pub fn samples(&self) -> bool {
        self.sample.is_some()
    }

    /// The number of entries recomputed and accepted, excluding those taken on trust. Entries that
    /// were recomputed again from the first one count again.
    #[must_use]
    pub fn recomputed(&self) -> u64 {
        self.recomputed
    }

    /// The tree of all audited leaves, from which the work can go on.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.audited.tree
    }

    /// The roots of the chunks audited so far, for [`RoundWork::auditor_with_roots`].
    #[must_use]
    pub fn roots(&self) -> &[Node] {
        &self.audited.roots
    }

    /// The number of entries in a chunk.
    #[must_use]
    pub fn chunk_entries(&self) -> u64 {
        1 << self.chunk_height
    }

    /// The root of a chunk, computed from the entries of a log.
    ///
    /// # Errors
    /// Fails if the entries cannot be read.
    pub fn chunk_root(&self, log: &mut dyn LogRead, chunk: u64) -> Result<Node, LogError> {
        let mut entries = Vec::new();
        self.read_chunk(log, chunk, &mut entries)?;
        Ok(fold(&self.audited.tree.node_hasher(), &entries))
    }

    /// The height of the roots of the chunks.
    #[must_use]
    pub fn root_height(&self) -> SubtreeHeight {
        self.subtree_height.above(self.chunk_height)
    }

    /// Whether the newest audited entries differ from the log and only later entries can show
    /// whether the work or the copy was wrong.
    #[must_use]
    pub fn undecided(&self) -> bool {
        !self.run.is_empty()
    }

    /// Audits the next batch of entries. If there are no findings and [`Auditor::entries`] is
    /// unchanged, the log has no more entries. [`Auditor::entries`] returns to 0 when a sampled
    /// audit becomes a full one.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or on [`AuditWith::stop`].
    pub fn step(
        &mut self,
        log: &mut dyn LogRead,
        with: AuditWith<'_>,
    ) -> Result<Vec<Finding>, AuditError> {
        let mut findings = self.next(log, with)?;
        if let Some(entry) = self.doubt
            && self.entries() > entry
            && !self.undecided()
        {
            // Everything that was in doubt has proved right.
            self.doubt = None;
            findings.push(Finding::auditor(entry));
        }
        Ok(findings)
    }

    fn next(
        &mut self,
        log: &mut dyn LogRead,
        with: AuditWith<'_>,
    ) -> Result<Vec<Finding>, AuditError> {
        let first = self.entries();
        let new = log.entries().saturating_sub(first);
        let most = self.batch.min(with.threads.clamp(1, MAX_THREADS) * LANES);
        let mut count = new.min(most as u64);
        if count > STEP_ENTRIES {
            // A partial group would leave lanes empty; more entries will come soon.
            count -= count % STEP_ENTRIES;
        }
        let mut entries = vec![Node::default(); count as usize];
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        log.read(first, &mut entries)?;
        if self.sample.as_mut().is_some_and(|s| !s.takes_next()) {
            for entry in entries {
                self.accept(entry);
            }
            return Ok(Vec::new());
        }
        let batch = recompute(&self.audited.tree, self.k(), &entries, with)?;
        if self.samples() && batch.other.is_some() {
            self.trust_no_more(first + batch.good as u64);
            // The caller would conclude that there are no entries.
            return if first == 0 {
                self.next(log, with)
            } else {
                Ok(Vec::new())
            };
        }
        let doubted = mem::take(&mut self.doubted);
        self.recomputed += batch.good as u64;
        if batch.good > 0 {
            // The log's entry is right, so the earlier result was wrong.
            let mine = doubted.then(|| Finding::auditor(first));
            // The entry follows from the right values, so the work had them.
            let findings = mine.into_iter().chain(self.decide(Culprit::Copy)).collect();
            for entry in &entries[..batch.good] {
                self.accept(*entry);
            }
            // A mismatch gets a step of its own.
            self.doubted = batch.other.is_some();
            self.batch = match batch.other {
                None => self.batch.saturating_mul(2),
                Some(_) => 1,
            };
            return Ok(findings);
        }
        match batch.other {
            Some(other) => self.differs(log, other, with),
            None => Ok(Vec::new()),
        }
    }

    /// Handles an entry of the log that was recomputed to another value, `other`.
    fn differs(
        &mut self,
        log: &mut dyn LogRead,
        other: Node,
        with: AuditWith<'_>,
    ) -> Result<Vec<Finding>, AuditError> {
        self.batch = 1;
        if !self.undecided() {
            // The state from which it was recomputed may be wrong.
            let findings = self.check(log, with)?;
            if !findings.is_empty() {
                return Ok(findings);
            }
        }
        let next = self.entries();
        let (right, agreed) = certain(&self.audited.tree, self.k(), other, with)?;
        let mut entry = [Node::default()];
        log.read(next, &mut entry)?;
        let mut findings = Vec::new();
        if !agreed || entry == [right] {
            findings.push(Finding::auditor(next));
        }
        if entry == [right] {
            findings.extend(self.decide(Culprit::Copy));
            self.accept(right);
            self.recomputed += 1;
            return Ok(findings);
        }
        self.accept(right);
        self.recomputed += 1;
        self.run.push(right);
        let run = self.run.len() as u64;
        let at_stake = log.entries() - (self.entries() - run);
        if run > (at_stake / RUN_SHARE).clamp(1, MAX_RUN) {
            findings.extend(self.decide(Culprit::Work));
        }
        Ok(findings)
    }

    /// Ends a sampled audit because something contradicts the entries up to `entry`: the audit
    /// starts over and recomputes everything. Does nothing in a full audit.
    pub fn trust_no_more(&mut self, entry: u64) {
        if self.samples() {
            *self = Self {
                doubt: Some(entry),
                recomputed: self.recomputed,
                ..Self::begin(&self.work, &self.statement, self.subtree_height)
            };
        }
    }

    /// Takes the entries before number `entries` of the log on trust: reads them without
    /// recomputing any, and continues after them. Does nothing if the log has fewer entries or more
    /// are audited already.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or on [`AuditWith::stop`]. The entries read until then are
    /// taken on trust, and the call can be repeated.
    pub fn take_on_trust(
        &mut self,
        log: &mut dyn LogRead,
        entries: u64,
        with: AuditWith<'_>,
    ) -> Result<(), AuditError> {
        if entries > log.entries() || self.undecided() {
            return Ok(());
        }
        let hasher = self.audited.tree.node_hasher();
        let height = self.root_height().get();
        let mut chunk = Vec::new();
        while self.entries() < entries {
            if with.stop.load(Relaxed) {
                return Err(AuditError::Stopped);
            }
            let first = self.entries();
            if self.audited.rest.is_empty() && entries - first >= self.chunk_entries() {
                self.read_chunk(log, first >> self.chunk_height, &mut chunk)?;
                let root = fold(&hasher, &chunk);
                self.audited.tree.push_at(height, root, |_, _, _| {});
                self.audited.roots.push(root);
            } else {
                let mut entry = [Node::default()];
                log.read(first, &mut entry)?;
                self.accept(entry[0]);
            }
        }
        Ok(())
    }

    /// Searches for a wrong entry, up to entry number `last`, recomputing few: it bisects the part
    /// of the log that begins after a matching entry and ends with a mismatch. Returns the number
    /// of an entry that differs while the one before it matches, and continues there, with all
    /// entries before it taken on trust; `None` if entry `last` matches.
    ///
    /// After a bad copy no entry matches, so the search finds the first one. After an error of the
    /// work later entries match again, and only `last` leads to it.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or on [`AuditWith::stop`].
    pub fn search(
        &mut self,
        log: &mut dyn LogRead,
        last: u64,
        with: AuditWith<'_>,
    ) -> Result<Option<u64>, AuditError> {
        let mut before = Self {
            recomputed: self.recomputed,
            ..Self::begin(&self.work, &self.statement, self.subtree_height)
        };
        let differs = |auditor: &Self, log: &mut dyn LogRead| -> Result<bool, AuditError> {
            let mut entry = [Node::default()];
            log.read(auditor.entries(), &mut entry)?;
            let (right, _) = certain(&auditor.audited.tree, auditor.k(), entry[0], with)?;
            Ok(right != entry[0])
        };
        let mut low = 0;
        let mut high = last;
        let mut at = last;
        loop {
            let mut auditor = before.clone();
            auditor.take_on_trust(log, at, with)?;
            if differs(&auditor, log)? {
                high = at;
                if low == high {
                    *self = auditor;
                    return Ok(Some(high));
                }
            } else if at == last {
                return Ok(None);
            } else {
                low = at + 1;
                before = auditor;
            }
            at = low + (high - low) / 2;
        }
    }

    /// Decides what was wrong about the newest entries if that is [undecided](Auditor::undecided):
    /// for the end of a log, where no later entries will come.
    pub fn decide(&mut self, culprit: Culprit) -> Option<Finding> {
        if self.run.is_empty() {
            return None;
        }
        let right = mem::take(&mut self.run);
        self.doubt = None;
        Some(Finding {
            culprit,
            entry: self.entries() - right.len() as u64,
            right,
        })
    }

    /// Compares the next `chunks` audited chunks with the log, wrapping around after the last one.
    /// If one differs, compares all, and audits again those that differ. Returns the number of
    /// entries read; reads none while the cause of a mismatch in the newest entries is
    /// [undecided](Auditor::undecided).
    ///
    /// # Errors
    /// Fails if the log cannot be read, or on [`AuditWith::stop`].
    pub fn scrub(
        &mut self,
        log: &mut dyn LogRead,
        chunks: u64,
        with: AuditWith<'_>,
    ) -> Result<(u64, Vec<Finding>), AuditError> {
        let hasher = self.audited.tree.node_hasher();
        let mut entries = Vec::new();
        let mut read = 0;
        for _ in 0..if self.undecided() { 0 } else { chunks } {
            if with.stop.load(Relaxed) {
                return Err(AuditError::Stopped);
            }
            let same = match self.audited.roots.get(self.scrub as usize) {
                Some(root) => {
                    self.read_chunk(log, self.scrub, &mut entries)?;
                    fold(&hasher, &entries) == *root
                }
                None => {
                    self.read_rest(log, &mut entries)?;
                    entries == self.audited.rest
                }
            };
            read += entries.len() as u64;
            if !same {
                return Ok((read, self.check(log, with)?));
            }
            if self.scrub >= self.audited.roots.len() as u64 {
                self.scrub = 0;
                break;
            }
            self.scrub += 1;
        }
        Ok((read, Vec::new()))
    }

    /// Compares all audited entries with the log, audits again those that differ, and rebuilds the
    /// state. Only copies can be wrong here: the work on these entries was audited. If entries were
    /// taken on trust, and the right value is neither the log's nor the auditor's, everything is
    /// audited again. Does nothing while the cause of a mismatch in the newest entries is
    /// [undecided](Auditor::undecided).
    ///
    /// # Errors
    /// Fails if the log cannot be read, or on [`AuditWith::stop`].
    pub fn check(
        &mut self,
        log: &mut dyn LogRead,
        with: AuditWith<'_>,
    ) -> Result<Vec<Finding>, AuditError> {
        let mut findings = Vec::new();
        if self.undecided() {
            return Ok(findings);
        }
        let mut anew = Self::begin(&self.work, &self.statement, self.subtree_height);
        let hasher = anew.audited.tree.node_hasher();
        let height = self.root_height().get();
        let mut entries = Vec::new();
        for (chunk, known) in (0..).zip(&self.audited.roots) {
            if with.stop.load(Relaxed) {
                return Err(AuditError::Stopped);
            }
            self.read_chunk(log, chunk, &mut entries)?;
            let mut root = fold(&hasher, &entries);
            if root != *known {
                let first = chunk << self.chunk_height;
                let right = self.again(&anew.audited.tree, first, &entries, &mut findings, with)?;
                root = fold(&hasher, &right);
                if root != *known && self.samples() {
                    // It may already have been wrong when it was taken on trust.
                    self.trust_no_more(self.entries() - 1);
                    return Ok(Vec::new());
                }
                if root != *known {
                    findings.push(Finding::auditor(first));
                }
            }
            anew.audited.tree.push_at(height, root, |_, _, _| {});
            anew.audited.roots.push(root);
        }
        self.read_rest(log, &mut entries)?;
        if entries != self.audited.rest {
            let first = anew.entries();
            let right = self.again(&anew.audited.tree, first, &entries, &mut findings, with)?;
            if right != self.audited.rest && self.samples() {
                self.trust_no_more(self.entries() - 1);
                return Ok(Vec::new());
            }
            if right != self.audited.rest {
                findings.push(Finding::auditor(first));
            }
            entries = right;
        }
        for entry in entries {
            anew.accept(entry);
        }
        if anew.audited.tree.parked() != self.audited.tree.parked() && findings.is_empty() {
            findings.push(Finding::auditor(anew.entries()));
        }
        self.audited = anew.audited;
        Ok(findings)
    }

    /// Audits `entries` of the log again, which begin with number `first` and follow from `tree`.
    /// Returns the right values.
    fn again(
        &self,
        tree: &Tree,
        first: u64,
        entries: &[Node],
        findings: &mut Vec<Finding>,
        with: AuditWith<'_>,
    ) -> Result<Vec<Node>, AuditError> {
        let mut tree = tree.clone();
        let mut right: Vec<Node> = Vec::with_capacity(entries.len());
        let mut most = usize::MAX;
        while right.len() < entries.len() {
            let rest = &entries[right.len()..];
            let rest = &rest[..rest.len().min(most).min(with.threads * LANES)];
            let batch = recompute(&tree, self.k(), rest, with)?;
            for entry in &rest[..batch.good] {
                tree.push_at(self.k(), *entry, |_, _, _| {});
                right.push(*entry);
            }
            most = most.saturating_mul(2);
            if let Some(other) = batch.other {
                let (value, agreed) = certain(&tree, self.k(), other, with)?;
                if !agreed {
                    findings.push(Finding::auditor(first + right.len() as u64));
                }
                tree.push_at(self.k(), value, |_, _, _| {});
                right.push(value);
                most = 1;
            }
        }
        let differ = |at: &usize| entries[*at] != right[*at];
        if let Some(from) = (0..right.len()).find(differ)
            && let Some(to) = (0..right.len()).rfind(differ)
        {
            findings.push(Finding {
                culprit: Culprit::Copy,
                entry: first + from as u64,
                right: right[from..=to].to_vec(),
            });
        }
        Ok(right)
    }

    fn k(&self) -> u32 {
        self.subtree_height.get()
    }

    /// Accepts `entry`, which is right, as the next one.
    fn accept(&mut self, entry: Node) {
        let Audited { tree, roots, rest } = &mut self.audited;
        rest.push(entry);
        let k = self.subtree_height.get();
        let mut root = None;
        tree.push_at(k, entry, |height, _, node| {
            if height == k + self.chunk_height {
                root = Some(*node);
            }
        });
        if let Some(root) = root {
            roots.push(root);
            rest.clear();
        }
    }

    fn read_chunk(
        &self,
        log: &mut dyn LogRead,
        chunk: u64,
        entries: &mut Vec<Node>,
    ) -> Result<(), LogError> {
        entries.resize(1 << self.chunk_height, Node::default());
        log.read(chunk << self.chunk_height, entries)
    }

    fn read_rest(&self, log: &mut dyn LogRead, entries: &mut Vec<Node>) -> Result<(), LogError> {
        entries.resize(self.audited.rest.len(), Node::default());
        let chunks = self.audited.roots.len() as u64;
        log.read(chunks << self.chunk_height, entries)
    }
}

impl Finding {
    fn auditor(entry: u64) -> Self {
        Self {
            culprit: Culprit::Auditor,
            entry,
            right: Vec::new(),
        }
    }
}

/// Recomputes `entries`, which follow from `tree` if they are right.
fn recompute(
    tree: &Tree,
    k: u32,
    entries: &[Node],
    with: AuditWith<'_>,
) -> Result<Batch, AuditError> {
    let mut state = tree.clone();
    let mut starts = Vec::with_capacity(entries.len());
    for entry in entries {
        starts.push(state.clone());
        state.push_at(k, *entry, |_, _, _| {});
    }
    let mut roots = vec![Node::default(); entries.len()];
    let threads = with.threads.clamp(1, MAX_THREADS);
    let share = entries.len().div_ceil(threads).max(1);
    let share = share.next_multiple_of(STEP_ENTRIES as usize);
    let shares = starts.chunks_mut(share).zip(roots.chunks_mut(share));
    try_for_each(shares, threads, |(trees, roots)| {
        subtree_roots(trees, k, roots, with.stop)
    })?;
    let good = roots.iter().zip(entries).take_while(|(a, b)| a == b);
    let good = good.count();
    Ok(Batch {
        good,
        other: roots.get(good).copied(),
    })
}

/// Computes the root of the next subtree of each tree, all in parallel lanes.
fn subtree_roots(
    trees: &mut [Tree],
    k: u32,
    roots: &mut [Node],
    stop: &AtomicBool,
) -> Result<(), AuditError> {
    let Some(first) = trees.first() else {
        return Ok(());
    };
    let work = *first.work();
    for _ in 0..1u64 << k {
        if stop.load(Relaxed) {
            return Err(AuditError::Stopped);
        }
        let mut labels = Tree::first_digests(trees.iter_mut());
        work.finish_labels(&mut labels);
        for ((tree, label), root) in trees.iter_mut().zip(labels).zip(&mut *roots) {
            tree.push(label, |height, _, node| {
                if height == k {
                    *root = *node;
                }
            });
        }
    }
    Ok(())
}

/// Computes the root of the next subtree of `tree` until two computations agree on it, by different
/// kernels where possible. Also returns whether the first one, `seen`, was one of the two.
fn certain(
    tree: &Tree,
    k: u32,
    seen: Node,
    with: AuditWith<'_>,
) -> Result<(Node, bool), AuditError> {
    let mut values = vec![seen];
    loop {
        let mut copy = tree.clone();
        let mut root = Node::default();
        if values.len() % 2 == 1 {
            for _ in 0..1u64 << k {
                if with.stop.load(Relaxed) {
                    return Err(AuditError::Stopped);
                }
                let label = copy.next_label();
                copy.push(label, |height, _, node| {
                    if height == k {
                        root = *node;
                    }
                });
            }
        } else {
            let (trees, roots) = (core::slice::from_mut(&mut copy), &mut root);
            subtree_roots(trees, k, core::slice::from_mut(roots), with.stop)?;
        }
        if values.contains(&root) {
            return Ok((root, root == seen));
        }
        values.push(root);
    }
}

/// The root over the entries of a chunk.
fn fold(hasher: &NodeHasher, entries: &[Node]) -> Node {
    let mut nodes = entries.to_vec();
    while nodes.len() > 1 {
        let mut parents = vec![Node::default(); nodes.len() / 2];
        hasher.parents(nodes.as_chunks().0, &mut parents);
        nodes = parents;
    }
    nodes.first().copied().unwrap_or_default()
}
