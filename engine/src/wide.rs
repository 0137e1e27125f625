//! Independent inner nodes and other messages, several at once.

use alloc::{vec, vec::Vec};
use core::cmp::Reverse;

use crate::sha256::Hasher;
use crate::{Block, Node, NodeMessage, Sha256, State};

/// Hashes pairs of children with a statement: `SHA256(statement || left || right)`, many at once.
pub(crate) struct NodeHasher {
    sha256: &'static dyn Sha256,
    message: NodeMessage,
}

impl NodeHasher {
    /// `salt` must have absorbed the statement.
    pub(crate) fn new(sha256: &'static dyn Sha256, salt: &Hasher) -> Self {
        let tail = salt.tail();
        let hashed = salt.total() - tail.len() as u64;
        Self {
            sha256,
            message: NodeMessage::new(sha256, salt.state(), hashed, tail),
        }
    }

    /// Computes the parent of each pair. The slices must have the same length.
    pub(crate) fn parents(&self, pairs: &[[Node; 2]], parents: &mut [Node]) {
        self.sha256.hash_nodes(&self.message, pairs, parents);
    }
}

/// Hashes padded messages of any lengths, all of which continue from `start`. The slices must have
/// the same length.
pub(crate) fn digests(
    sha256: &dyn Sha256,
    start: &State,
    messages: &[&[Block]],
    digests: &mut [Node],
) {
    // Sorted by length, so that messages hashed together end together.
    let mut order: Vec<_> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|&i| Reverse(messages[i].len()));
    let sorted: Vec<_> = order.iter().map(|&i| messages[i]).collect();
    let mut hashed = vec![Node::default(); messages.len()];
    sha256.hash_many(start, &sorted, &mut hashed);
    for (i, digest) in order.into_iter().zip(hashed) {
        digests[i] = digest;
    }
}
