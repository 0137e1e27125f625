//! Inner nodes and other messages that do not depend on each other, several at once.

use alloc::vec::Vec;
use core::cmp::Reverse;

use crate::sha256::{Hasher, digest};
use crate::{Block, Node, Sha256, State};

/// Nodes hashed by one call of the backend.
const LANES: usize = 32;
/// `statement's tail || left || right || padding`: 63 + 64 + 9 bytes at most.
const MAX_BLOCKS: usize = 3;

/// Hashes pairs of children with a statement: `SHA256(statement || left || right)` for many at
/// once.
pub(crate) struct NodeHasher {
    sha256: &'static dyn Sha256,
    state: State,
    /// The message with its children still to be filled in.
    template: [u8; 64 * MAX_BLOCKS],
    children_at: usize,
    block_count: usize,
}

impl NodeHasher {
    /// `salt` has absorbed the statement.
    pub(crate) fn new(sha256: &'static dyn Sha256, salt: &Hasher) -> Self {
        let tail = salt.tail();
        let end = tail.len() + 64;
        let block_count = (end + 9).div_ceil(64);
        let mut template = [0; 64 * MAX_BLOCKS];
        template[..tail.len()].copy_from_slice(tail);
        template[end] = 0x80;
        let bits = (salt.total() + 64) * 8;
        template[block_count * 64 - 8..block_count * 64].copy_from_slice(&bits.to_be_bytes());
        Self {
            sha256,
            state: salt.state(),
            template,
            children_at: tail.len(),
            block_count,
        }
    }

    /// The parent of each pair. The two slices have the same length.
    pub(crate) fn parents(&self, pairs: &[[Node; 2]], parents: &mut [Node]) {
        // Only the children differ from message to message, so everything else is written once.
        let lanes = pairs.len().min(LANES);
        let mut blocks = [[[0; 64]; LANES]; MAX_BLOCKS];
        for (blocks, template) in blocks.iter_mut().zip(self.template.as_chunks().0) {
            blocks[..lanes].fill(*template);
        }
        for (pairs, parents) in pairs.chunks(LANES).zip(parents.chunks_mut(LANES)) {
            let [first, second, _] = &mut blocks;
            for ((first, second), pair) in first.iter_mut().zip(second).zip(pairs) {
                let (head, tail) = pair.as_flattened().split_at(64 - self.children_at);
                first[self.children_at..].copy_from_slice(head);
                second[..self.children_at].copy_from_slice(tail);
            }
            let mut states = [self.state; LANES];
            let states = &mut states[..pairs.len()];
            for blocks in &blocks[..self.block_count] {
                self.sha256.compress_many(states, &blocks[..pairs.len()]);
            }
            for (parent, state) in parents.iter_mut().zip(states) {
                *parent = digest(state);
            }
        }
    }
}

/// The digests of padded messages of any lengths, all of which continue from `state`.
pub(crate) fn digests(sha256: &dyn Sha256, state: State, messages: &[&[Block]]) -> Vec<Node> {
    // Longest first, so that those with a further block are always the first ones.
    let mut order: Vec<_> = (0..messages.len()).collect();
    order.sort_unstable_by_key(|&i| Reverse(messages[i].len()));
    let mut states = alloc::vec![state; messages.len()];
    let mut blocks = Vec::with_capacity(messages.len());
    let mut at = 0;
    loop {
        blocks.clear();
        blocks.extend(order.iter().map_while(|&i| messages[i].get(at)));
        if blocks.is_empty() {
            break;
        }
        sha256.compress_many(&mut states[..blocks.len()], &blocks);
        at += 1;
    }
    let mut digests = alloc::vec![Node::default(); messages.len()];
    for (i, state) in order.into_iter().zip(&states) {
        digests[i] = digest(state);
    }
    digests
}
