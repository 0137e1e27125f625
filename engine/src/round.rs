//! The work that a log belongs to.

use core::sync::atomic::AtomicU64;

use crate::log::{LogError, LogHeader, LogRead, SubtreeHeight};
use crate::tree::{MAX_LEAVES, Tree};
use crate::upper::absorb;
use crate::{Node, Work, run};

/// The work on a statement, and the height of the subtrees whose roots its log keeps: everything
/// needed to resume a round from its log.
#[derive(Clone, Copy, Debug)]
pub struct RoundWork<'a> {
    work: &'a Work,
    statement: &'a [u8],
    subtree_height: SubtreeHeight,
}

impl<'a> RoundWork<'a> {
    /// `work` on `statement`, with a log of subtrees of `subtree_height`.
    #[must_use]
    pub fn new(work: &'a Work, statement: &'a [u8], subtree_height: SubtreeHeight) -> Self {
        Self {
            work,
            statement,
            subtree_height,
        }
    }

    /// The work function.
    #[must_use]
    pub fn work(&self) -> &'a Work {
        self.work
    }

    /// What the work is bound to.
    #[must_use]
    pub fn statement(&self) -> &'a [u8] {
        self.statement
    }

    /// The height of the subtrees whose roots the log keeps.
    #[must_use]
    pub fn subtree_height(&self) -> SubtreeHeight {
        self.subtree_height
    }

    /// Returns the same work with a log of another subtree height. The roots that an auditor keeps
    /// form such a log ([`Auditor::root_height`](crate::audit::Auditor::root_height)).
    #[must_use]
    pub fn with_subtree_height(self, subtree_height: SubtreeHeight) -> Self {
        Self {
            subtree_height,
            ..self
        }
    }

    /// The header of the log.
    #[must_use]
    pub fn header(&self) -> LogHeader {
        LogHeader::new(self.work, self.statement, self.subtree_height)
    }

    /// Returns the header as it stands in a log.
    #[must_use]
    pub fn header_bytes(&self) -> [u8; LogHeader::BYTES] {
        self.header().encode(self.work.kernels().sha256)
    }

    /// Returns the tree of all leaves that the log represents, from which the work goes on. Trusts
    /// the log.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or is longer than a tree may be.
    pub fn resume(&self, log: &mut dyn LogRead) -> Result<Tree, LogError> {
        let entries = log.entries();
        self.resume_at(log, entries)
    }

    /// Returns the tree of the leaves that the first `entries` entries represent. Trusts the log.
    ///
    /// # Errors
    /// Fails if the log cannot be read or has fewer entries, or `entries` are more than a tree may
    /// have.
    pub fn resume_at(&self, log: &mut dyn LogRead, entries: u64) -> Result<Tree, LogError> {
        self.check_length(entries)?;
        let mut tree = Tree::new(self.work, self.statement);
        absorb(&mut tree, self.subtree_height, log, entries, 1, &mut ())?;
        Ok(tree)
    }

    /// Adds the leaves of the next entry of the log to `tree`.
    ///
    /// # Panics
    /// Panics if the leaves of `tree` are not a whole number of entries.
    pub fn add_entry(&self, tree: &mut Tree, entry: Node) {
        let begun = tree.leaves() % self.subtree_height.leaves();
        assert_eq!(begun, 0, "leaves of the entry are there already");
        tree.push_at(self.subtree_height.get(), entry, |_, _, _| {});
    }

    pub(crate) fn check_length(&self, entries: u64) -> Result<(), LogError> {
        if entries > MAX_LEAVES >> self.subtree_height.get() {
            return Err(LogError::TooLong { entries });
        }
        Ok(())
    }

    /// Recomputes entry number `entry` from those before it, which it trusts. Takes as long as the
    /// work on one subtree and one pass over the log.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or is longer than a tree may be.
    pub fn recompute_entry(&self, log: &mut dyn LogRead, entry: u64) -> Result<Node, LogError> {
        let mut tree = self.resume_at(log, entry)?;
        Ok(self.next_entry(&mut tree))
    }

    /// Adds the leaves of the next subtree to `tree`, and returns its root.
    pub(crate) fn next_entry(&self, tree: &mut Tree) -> Node {
        let target = AtomicU64::new(tree.leaves() + self.subtree_height.leaves());
        let mut made = Node::default();
        run(
            tree,
            self.subtree_height,
            &target,
            &AtomicU64::new(0),
            |root| made = root,
        );
        made
    }

    /// As [`RoundWork::resume`], but only if the last entry follows from those before it; otherwise
    /// an entry has changed since it was made, and the result is `None`. Takes as long as the work
    /// on one subtree in addition.
    ///
    /// # Errors
    /// Fails as [`RoundWork::resume`] does.
    pub fn resume_checked(&self, log: &mut dyn LogRead) -> Result<Option<Tree>, LogError> {
        let entries = log.entries();
        let Some(last) = entries.checked_sub(1) else {
            return self.resume(log).map(Some);
        };
        self.check_length(entries)?;
        let mut tree = self.resume_at(log, last)?;
        let mut entry = [Node::default()];
        log.read(last, &mut entry)?;
        Ok((self.next_entry(&mut tree) == entry[0]).then_some(tree))
    }

    /// Returns the number of an entry that does not follow from those before it, although those are
    /// right: the first such entry, if entries have changed since they were made. The last entry of
    /// the log must be wrong.
    ///
    /// # Errors
    /// Fails as [`RoundWork::resume`] does.
    pub fn first_wrong(&self, log: &mut dyn LogRead) -> Result<u64, LogError> {
        // After a changed entry, no other one follows from those before it. It is probably near the
        // end.
        let (mut first, mut wrong) = (0, log.entries().saturating_sub(1));
        let mut step = 1;
        while first < wrong {
            let middle = match wrong.checked_sub(step) {
                Some(before) if first == 0 => before,
                _ => first + (wrong - first) / 2,
            };
            let mut entry = [Node::default()];
            log.read(middle, &mut entry)?;
            if self.recompute_entry(log, middle)? == entry[0] {
                first = middle + 1;
            } else {
                wrong = middle;
                step *= 2;
            }
        }
        Ok(wrong)
    }
}
