//! The Merkle tree that grows leaf by leaf, and the first digest of each label.
//!
//! A [`Tree`] holds what PROTOCOL.md calls the *parked* nodes: the left siblings on the path from
//! the next leaf to the root, one for each set bit of the leaf count. They suffice to make the next
//! label (section 2), to add it (section 3) and to compute the root.
//!
//! The parked nodes lie in a buffer in the order in which a label's first hash takes them, lowest
//! first, and end at a fixed place: a stack that grows towards lower addresses. Before its top
//! there is room for the rest of the message, after its end for the padding. So the message of a
//! label is hashed in place, and adding a leaf moves nothing:
//!
//! ```text
//!           | statement's tail | be64(leaf) | parked, lowest .. highest | padding |
//!           ^ start            ^            ^ top                       ^ END
//! ```
//!
//! Each parked node is stored with the SHA-256 state after `statement || node`. That state is
//! computed when the node is parked, so that it overlaps with the next label's first blocks instead
//! of waiting on the sequential path for the right child.

use alloc::{boxed::Box, vec, vec::Vec};

use crate::hash::digest;
use crate::sha256::Hasher;
use crate::wide::{NodeHasher, digests};
use crate::{Block, NODE_SIZE, Node, Work, ZERO};

/// The greatest number of leaves in a tree. (At 100,000 leaves a second: 22,000 years.)
pub const MAX_LEAVES: u64 = 1 << 56;

/// Room for the statement's tail (at most 63 bytes) and the leaf's index (8 bytes).
const HEAD: usize = 72;
/// At most one parked node for each bit of the leaf count.
const MAX_PARKED: usize = 57;
const END: usize = HEAD + MAX_PARKED * NODE_SIZE;
/// Room for the padding: at most 72 bytes.
const BUFFER: usize = END + 72;

/// Returns the height of a tree of `leaves` leaves: ceil(log2(leaves)), 0 for one leaf or none.
#[must_use]
pub fn height(leaves: u64) -> u32 {
    match leaves {
        0 | 1 => 0,
        n => u64::BITS - (n - 1).leading_zeros(),
    }
}

/// A tree under construction (PROTOCOL.md sections 2 and 3).
#[derive(Clone)]
pub struct Tree {
    work: Work,
    /// The statement, absorbed.
    salt: Hasher,
    leaves: u64,
    buffer: Box<[u8; BUFFER]>,
    top: usize,
    /// `statement || node` for each parked node, highest first.
    prefixes: Vec<Hasher>,
}

/// Why parked nodes do not make a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// There must be one parked node for each set bit of the leaf count.
    #[error("{leaves} leaves leave {expected} parked nodes, not {given}")]
    Parked {
        /// The leaf count.
        leaves: u64,
        /// The required number of nodes.
        expected: u32,
        /// The given number of nodes.
        given: usize,
    },
    /// The leaf count is out of range.
    #[error("{leaves} leaves are more than the {MAX_LEAVES} a tree may have")]
    TooManyLeaves {
        /// The leaf count.
        leaves: u64,
    },
}

impl Tree {
    /// A tree without leaves. `statement` salts every hash and may have any length.
    #[must_use]
    pub fn new(work: &Work, statement: &[u8]) -> Self {
        let mut salt = Hasher::new();
        salt.update(work.sha256(), statement);
        Self {
            work: *work,
            salt,
            leaves: 0,
            buffer: Box::new([0; BUFFER]),
            top: END,
            prefixes: Vec::with_capacity(MAX_PARKED),
        }
    }

    /// The tree of the first `leaves` leaves, given its parked nodes from the lowest to the highest
    /// (one for each set bit of `leaves`).
    ///
    /// # Errors
    /// Fails if the number of nodes does not match `leaves`, or `leaves` is over [`MAX_LEAVES`].
    pub fn from_parked(
        work: &Work,
        statement: &[u8],
        leaves: u64,
        parked: &[Node],
    ) -> Result<Self, TreeError> {
        Self::new(work, statement).with_parked(leaves, parked)
    }

    /// As [`Tree::from_parked`], with the statement and the work function of this tree.
    pub(crate) fn with_parked(&self, leaves: u64, parked: &[Node]) -> Result<Self, TreeError> {
        if leaves > MAX_LEAVES {
            return Err(TreeError::TooManyLeaves { leaves });
        }
        if parked.len() != leaves.count_ones() as usize {
            return Err(TreeError::Parked {
                leaves,
                expected: leaves.count_ones(),
                given: parked.len(),
            });
        }
        let mut tree = self.without_leaves();
        for node in parked.iter().rev() {
            tree.park(node);
        }
        tree.leaves = leaves;
        Ok(tree)
    }

    /// The work function of this tree.
    #[must_use]
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// The number of leaves.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Returns the nodes that wait for a right sibling, from the lowest to the highest: one for
    /// each set bit of the leaf count.
    #[must_use]
    pub fn parked(&self) -> &[Node] {
        self.buffer[self.top..END].as_chunks().0
    }

    /// Returns d0 of PROTOCOL.md section 2 for the next leaf, from which its chain starts.
    pub fn first_digest(&mut self) -> Node {
        let (sha256, mut state) = (self.work.sha256(), self.salt.state());
        sha256.compress(&mut state, self.first_message());
        digest(&state)
    }

    /// Computes [`Tree::first_digest`] of `trees` with one work function and one statement, in
    /// parallel lanes.
    pub(crate) fn first_digests<'a>(trees: impl Iterator<Item = &'a mut Self>) -> Vec<Node> {
        let mut trees = trees.peekable();
        let Some(first) = trees.peek() else {
            return Vec::new();
        };
        let (sha256, state) = (first.work.kernels().wide_sha256, first.salt.state());
        let messages: Vec<_> = trees.map(Self::first_message).collect();
        let mut first = vec![Node::default(); messages.len()];
        digests(sha256, &state, &messages, &mut first);
        first
    }

    /// The message of [`Tree::first_digest`] after the whole blocks of the statement.
    fn first_message(&mut self) -> &[Block] {
        let tail = self.salt.tail();
        let number = self.top - 8;
        let start = number - tail.len();
        self.buffer[start..number].copy_from_slice(tail);
        self.buffer[number..self.top].copy_from_slice(&self.leaves.to_be_bytes());

        let message_bits = (self.salt.total() + (END - number) as u64) * 8;
        let end = start + (END - start + 9).next_multiple_of(64);
        self.buffer[END] = 0x80;
        self.buffer[END + 1..end - 8].fill(0);
        self.buffer[end - 8..end].copy_from_slice(&message_bits.to_be_bytes());
        self.buffer[start..end].as_chunks().0
    }

    /// Returns the next label, computed by the latency kernel. The tree is unchanged:
    /// [`Tree::push`] adds the label.
    pub fn next_label(&mut self) -> Node {
        let mut digest = self.first_digest();
        self.work.finish_label(&mut digest);
        digest
    }

    /// Adds the label of the next leaf. Calls `completed` for every node that is now complete, the
    /// label first, with its height, its index at that height, and the node.
    #[inline]
    pub fn push(&mut self, label: Node, completed: impl FnMut(u32, u64, &Node)) {
        self.push_at(0, label, completed);
    }

    /// Adds the root of the next complete subtree of `2^height` leaves; the leaf count must be a
    /// multiple of that.
    pub(crate) fn push_at(
        &mut self,
        height: u32,
        mut node: Node,
        mut completed: impl FnMut(u32, u64, &Node),
    ) {
        debug_assert_eq!(self.leaves % (1 << height), 0);
        let sha256 = self.work.sha256();
        let mut h = height;
        completed(h, self.leaves >> h, &node);
        while self.leaves >> h & 1 == 1
            && let Some(mut prefix) = self.prefixes.pop()
        {
            self.top += NODE_SIZE;
            prefix.update(sha256, &node);
            node = prefix.finish(sha256);
            h += 1;
            completed(h, self.leaves >> h, &node);
        }
        self.leaves += 1 << height;
        self.park(&node);
    }

    fn park(&mut self, node: &Node) {
        self.top -= NODE_SIZE;
        self.buffer[self.top..self.top + NODE_SIZE].copy_from_slice(node);
        let mut prefix = self.salt;
        prefix.update(self.work.sha256(), node);
        self.prefixes.push(prefix);
    }

    /// Flips a bit of the parked node at `height`, or only of the state after `statement || node`
    /// if `prefix` is set. Returns whether there is such a node.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn flip_parked(&mut self, height: u32, prefix: bool) -> bool {
        if self.leaves >> height & 1 == 0 {
            return false;
        }
        let at = (self.leaves & ((1 << height) - 1)).count_ones() as usize;
        if prefix {
            let highest_first = self.prefixes.len() - 1 - at;
            self.prefixes[highest_first].flip();
        } else {
            self.buffer[self.top + at * NODE_SIZE] ^= 0x10;
        }
        true
    }

    /// Flips a bit of the statement.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn flip_statement(&mut self) {
        self.salt.flip();
    }

    /// Returns the root of the current tree; `None` without leaves.
    #[must_use]
    pub fn root(&self) -> Option<Node> {
        self.walk(|_, _| {})
    }

    /// Walks up the ragged right edge (PROTOCOL.md section 3) and returns the root. Calls `partial`
    /// with the ephemeral node of each height that has one: the node at that height whose subtree
    /// contains some, but not all of its leaves.
    pub(crate) fn walk(&self, mut partial: impl FnMut(u32, &Node)) -> Option<Node> {
        let mut ephemeral = None;
        let mut parked = self.parked().iter();
        for h in 0..u64::BITS - self.leaves.leading_zeros() {
            let left = if self.leaves >> h & 1 == 1 {
                parked.next()
            } else {
                None
            };
            ephemeral = match (left, ephemeral) {
                (Some(left), Some(right)) => Some(self.node(left, &right)),
                // Reached without an ephemeral node, the highest parked node is the root itself.
                (Some(left), None) if parked.len() == 0 => return Some(*left),
                (Some(left), None) => Some(self.node(left, &ZERO)),
                (None, Some(left)) => Some(self.node(&left, &ZERO)),
                (None, None) => None,
            };
            if let Some(node) = &ephemeral {
                partial(h + 1, node);
            }
        }
        ephemeral
    }

    /// A tree with the same statement and work function, without leaves.
    pub(crate) fn without_leaves(&self) -> Self {
        Self {
            leaves: 0,
            buffer: Box::new([0; BUFFER]),
            top: END,
            prefixes: Vec::with_capacity(MAX_PARKED),
            ..*self
        }
    }

    pub(crate) fn node_hasher(&self) -> NodeHasher {
        NodeHasher::new(self.work.kernels().wide_sha256, &self.salt)
    }

    fn node(&self, left: &Node, right: &Node) -> Node {
        node(&self.work, &self.salt, left, right)
    }
}

impl core::fmt::Debug for Tree {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Tree")
            .field("work", &self.work)
            .field("leaves", &self.leaves)
            .finish_non_exhaustive()
    }
}

/// Computes an inner node: `SHA256(statement || left || right)`; `salt` has absorbed the statement.
pub(crate) fn node(work: &Work, salt: &Hasher, left: &Node, right: &Node) -> Node {
    let mut hasher = *salt;
    hasher.update(work.sha256(), left);
    hasher.update(work.sha256(), right);
    hasher.finish(work.sha256())
}
