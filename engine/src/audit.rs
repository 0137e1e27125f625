//! Auditing: recomputing what the log says, while it can still be repaired.
//!
//! The entries of a log are the roots of consecutive subtrees, and the state from which the labels of
//! a subtree start follows from the entries before it. So one who trusts the first n entries can
//! recompute entries n, n + 1, ..., as many side by side as there are lanes and threads, each from the
//! state that the log gives for it, and compare. The first one that differs is wrong, or the auditor
//! is: whether something in its own memory has changed, or its hardware has hashed wrongly, is found
//! out before anybody is blamed. It keeps what it has audited in two forms (the state behind it, and
//! the roots of chunks of entries) and the log is the third; and a recomputed entry counts when
//! two computations agree on it, one of them by the kernel of the sequential work.
//!
//! An entry that is wrong for certain is either a bad copy (it went wrong in memory on its way to the
//! disk, or on the disk) or a mistake of the work itself. Later entries tell: if they follow from
//! the right value, so did the work, and the entry is replaced. If they do not, the work must go on
//! from the right value, and all after it is lost. How many entries this is tried for depends on
//! how much would be lost, so that a damaged sector of an old log is told from a mistake.
//!
//! ```text
//!  log      | chunk | chunk | chunk |  rest  |   not yet audited
//!  auditor  | root  | root  | root  | values | <- state
//! ```
//!
//! Where there is no core to spare, an auditor can recompute a random part of the entries only
//! ([`Auditor::sampled`]), and take the others on trust. An entry that it recomputes tells whether the
//! work still had the state that the log gives; of a wrong label that was not in the sample nobody
//! knows. As soon as one thing does not fit, nothing is taken on trust any more: the auditor forgets
//! all it had, and recomputes the log from its first entry on.
//!
//! What was audited may change on the disk later. So chunks are read again and compared with their
//! roots ([`Auditor::scrub`]), and one that differs is audited again.

use alloc::{vec, vec::Vec};
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::log::{LogError, LogRead, SubtreeHeight};
use crate::parallel::{MAX_THREADS, try_for_each};
use crate::tree::Tree;
use crate::wide::NodeHasher;
use crate::{Node, RoundWork, Work};

/// Subtrees that a thread recomputes side by side: a multiple of the lanes of every kernel.
const LANES: usize = 64;
/// How many new entries make a step worth while: there is one for each lane of the widest kernels.
pub const STEP_ENTRIES: u64 = 16;
/// A chunk is 2^9 entries: for the longest log, the roots take 2 MB.
const CHUNK_HEIGHT: u32 = 9;
/// The most entries in a row that are looked at for whether the work went on from right values: more
/// than a sector of a disk or a page of memory holds.
const MAX_RUN: u64 = 256;
/// That part of the entries that would be lost may be spent on looking.
const RUN_SHARE: u64 = 8;

/// Of so many steps, a sampled audit recomputes one in the mean.
const SAMPLE: u64 = 8;

/// Who was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Culprit {
    /// The sequential work: what came after it is lost.
    Work,
    /// The copy of right work, in memory or on the disk.
    Copy,
    /// The auditor itself. Nothing has to be repaired.
    Auditor,
}

/// A mismatch between log and auditor, and what is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Who was wrong.
    pub culprit: Culprit,
    /// The number of the first entry in question.
    pub entry: u64,
    /// The right values of the entries from there on.
    ///
    /// [`Culprit::Copy`]: the log has others, and is to have these.
    /// [`Culprit::Work`]: the log is to be cut to `entry` entries, these are to be appended, and the
    /// work is to go on from [`Auditor::tree`].
    /// [`Culprit::Auditor`]: none.
    pub right: Vec<Node>,
}

/// Why an auditor could not go on. It is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It was told to stop.
    #[error("the audit was stopped")]
    Stopped,
}

/// The threads that an auditor may use, and whether it is to stop.
#[derive(Clone, Copy, Debug)]
pub struct AuditWith<'a> {
    /// Threads, the calling one among them; at least 1, at most [`MAX_THREADS`].
    pub threads: usize,
    /// Set by another thread when the auditor is to return; it does within the time of a label.
    pub stop: &'a AtomicBool,
}

/// Recomputes the entries of a log in their order (see the [module](self)).
#[derive(Clone, Debug)]
pub struct Auditor {
    work: Work,
    statement: Vec<u8>,
    subtree_height: SubtreeHeight,
    /// Of the chunks above the entries.
    chunk_height: u32,
    audited: Audited,
    /// The newest audited values, as far as the log has others and it is not known why.
    run: Vec<Node>,
    /// Entries to try next; few after one was wrong.
    batch: usize,
    /// Whether the next entry was once recomputed to another value than the log's.
    doubted: bool,
    /// The chunk that is compared next.
    scrub: u64,
    /// Which steps are recomputed, while not all are.
    sample: Option<Sample>,
    /// The entry for which a sampled audit became a full one, until somebody was blamed for it.
    doubt: Option<u64>,
    recomputed: u64,
}

/// Random numbers: SplitMix64, from its seed on.
#[derive(Clone, Debug)]
struct Sample(u64);

impl Sample {
    /// Whether the next step is one of those to recompute.
    fn takes_next(&mut self) -> bool {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).is_multiple_of(SAMPLE)
    }
}

/// Entries that are known to be right.
#[derive(Clone, Debug)]
struct Audited {
    /// The tree of their leaves.
    tree: Tree,
    /// The roots of whole chunks.
    roots: Vec<Node>,
    /// The entries behind them.
    rest: Vec<Node>,
}

/// The result of recomputing a batch of entries.
struct Batch {
    /// Entries, from the first on, that were recomputed with the same result.
    good: usize,
    /// What the next one was recomputed to, if it is another than the log's.
    other: Option<Node>,
}

impl RoundWork<'_> {
    /// An auditor that has seen nothing yet of the log.
    #[must_use]
    pub fn auditor(&self) -> Auditor {
        Auditor::new(self)
    }

    /// An auditor that goes on after the chunks whose roots it, or one before it, has found
    /// ([`Auditor::roots`]). They are not taken on trust: one that is wrong differs from the log, and
    /// then the chunk is audited again.
    #[must_use]
    pub fn auditor_with_roots(&self, roots: Vec<Node>) -> Auditor {
        Auditor::with_roots(self, roots)
    }
}

impl Auditor {
    /// An auditor that has seen nothing yet of the log of `round`.
    pub(crate) fn new(round: &RoundWork<'_>) -> Self {
        Self::begin(round.work(), round.statement(), round.subtree_height())
    }

    fn begin(work: &Work, statement: &[u8], subtree_height: SubtreeHeight) -> Self {
        let k = subtree_height.get();
        Self {
            work: *work,
            statement: statement.to_vec(),
            subtree_height,
            // So that there is a subtree height for the roots, too.
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

    /// The auditor, except that it recomputes one step in eight, chosen by random numbers from `seed`
    /// on, and takes the others on trust, until something does not fit.
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

    /// Entries audited so far, from the first on; of a sampled audit, with those taken on trust.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.audited.tree.leaves() >> self.subtree_height.get()
    }

    /// Whether it takes entries on trust: [`Auditor::sampled`], and all has fitted so far.
    #[must_use]
    pub fn samples(&self) -> bool {
        self.sample.is_some()
    }

    /// Entries that it has recomputed and accepted, and not taken on trust; those that it had to
    /// recompute from the first one on count again.
    #[must_use]
    pub fn recomputed(&self) -> u64 {
        self.recomputed
    }

    /// The tree of all leaves that were audited: where work can go on.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.audited.tree
    }

    /// The roots of the chunks audited so far: what to keep for [`RoundWork::auditor_with_roots`].
    #[must_use]
    pub fn roots(&self) -> &[Node] {
        &self.audited.roots
    }

    /// Entries of a chunk.
    #[must_use]
    pub fn chunk_entries(&self) -> u64 {
        1 << self.chunk_height
    }

    /// What the root of a chunk is by the entries of a log.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn chunk_root(&self, log: &mut dyn LogRead, chunk: u64) -> Result<Node, LogError> {
        let mut entries = Vec::new();
        self.read_chunk(log, chunk, &mut entries)?;
        Ok(fold(&self.audited.tree.node_hasher(), &entries))
    }

    /// The height of those roots.
    #[must_use]
    pub fn root_height(&self) -> SubtreeHeight {
        self.subtree_height.above(self.chunk_height)
    }

    /// Whether newest audited entries differ from the log, and further entries must tell whether the
    /// work or the copy was wrong.
    #[must_use]
    pub fn undecided(&self) -> bool {
        !self.run.is_empty()
    }

    /// Audits the next entries, at most a batch of them. Nothing was found and
    /// [`Auditor::entries`] is the same: there are none. It is 0 again when a sampled audit has become
    /// a full one.
    ///
    /// # Errors
    /// When the log cannot be read, or on [`AuditWith::stop`].
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
            // All was right that had not fitted.
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
            // The others would leave lanes empty; soon there will be more of them.
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
            // Else it would seem that there are no entries.
            return if first == 0 {
                self.next(log, with)
            } else {
                Ok(Vec::new())
            };
        }
        let doubted = mem::take(&mut self.doubted);
        self.recomputed += batch.good as u64;
        if batch.good > 0 {
            // The log's entry is right, so an earlier result was not.
            let mine = doubted.then(|| Finding::auditor(first));
            // It follows from the right values: so the work had them.
            let findings = mine.into_iter().chain(self.decide(Culprit::Copy)).collect();
            for entry in &entries[..batch.good] {
                self.accept(*entry);
            }
            // One that differs gets a step of its own.
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

    /// The next entry of the log differs from `other`, to which it was recomputed.
    fn differs(
        &mut self,
        log: &mut dyn LogRead,
        other: Node,
        with: AuditWith<'_>,
    ) -> Result<Vec<Finding>, AuditError> {
        self.batch = 1;
        if !self.undecided() {
            // Was the state right from which it was recomputed?
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

    /// Ends a sampled audit, since something does not fit that is known of the entries up to `entry`:
    /// it begins anew, and recomputes everything. There is nothing to do for a full audit.
    pub fn trust_no_more(&mut self, entry: u64) {
        if self.samples() {
            *self = Self {
                doubt: Some(entry),
                recomputed: self.recomputed,
                ..Self::begin(&self.work, &self.statement, self.subtree_height)
            };
        }
    }

    /// Takes the entries before number `entries` of the log on trust: reads them, recomputes none, and
    /// goes on after them. With fewer entries in the log, or more of them audited, changes nothing.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or on [`AuditWith::stop`]; those that were read are then taken
    /// on trust, and the call can be repeated.
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

    /// Looks for a wrong entry, up to entry number `last`, by recomputing few: it halves the part of
    /// the log that begins after an entry that fits and ends with one that does not. Returns the
    /// number of an entry that differs although the one before it does not, and goes on there, with
    /// all entries before it taken on trust; `None` if entry `last` fits.
    ///
    /// After a bad copy no entry fits, so that the first one is found. After a mistake of the work
    /// later entries fit again, and only `last` leads to it.
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

    /// Settles who was wrong about newest entries, if that is [undecided](Auditor::undecided): for the
    /// end of a log, where no further entry will tell.
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

    /// Compares the next `chunks` chunks, of those audited, with the log; behind the last one it begins
    /// again. If one differs, all are compared, and those that differ are audited again. Says how many
    /// entries were read; none while it is [undecided](Auditor::undecided) whether newest ones are as
    /// they should be.
    ///
    /// # Errors
    /// When the log cannot be read, or on [`AuditWith::stop`].
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

    /// Compares everything that was audited with the log, audits again what differs, and makes the
    /// state anew. Only copies can be wrong here: the work on it was audited. If the work was taken on
    /// trust, and something else is right than either says, everything is audited anew. Does nothing
    /// while it is [undecided](Auditor::undecided) whether newest ones are as they should be.
    ///
    /// # Errors
    /// When the log cannot be read, or on [`AuditWith::stop`].
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
                    // Perhaps it was wrong when it was taken on trust.
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

    /// Audits `entries` of the log, which begin with number `first` and follow from `tree`, once
    /// more. Returns the right ones.
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

    /// `entry` is right, and the next one.
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

/// The root of the next subtree of each tree, all side by side.
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

/// The root of the next subtree of `tree`, for certain: two computations, by different kernels as
/// far as possible, agree on it. Says also whether the first one, `seen`, was among them.
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
