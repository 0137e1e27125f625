//! Inner nodes that do not depend on each other, several at once.

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
        let mut blocks: [[Block; LANES]; MAX_BLOCKS] = [[[0; 64]; LANES]; MAX_BLOCKS];
        for (pairs, parents) in pairs.chunks(LANES).zip(parents.chunks_mut(LANES)) {
            for (lane, pair) in pairs.iter().enumerate() {
                let mut message = self.template;
                message[self.children_at..self.children_at + 64]
                    .copy_from_slice(pair.as_flattened());
                for (blocks, block) in blocks.iter_mut().zip(message.as_chunks().0) {
                    blocks[lane] = *block;
                }
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
