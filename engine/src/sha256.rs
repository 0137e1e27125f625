//! SHA-256 of messages given in parts, on a backend's compression function.

use crate::hash::digest;
use crate::{Block, Node, SHA256_IV, Sha256, State};

/// A SHA-256 computation in progress.
///
/// It is small and `Copy` so that a constant prefix is hashed once and continued from copies. The
/// statement that salts every hash of a round is absorbed that way, and so is `statement || left`
/// of an inner node while its right child is still being made.
#[derive(Clone, Copy)]
pub(crate) struct Hasher {
    state: State,
    /// The last `total % 64` bytes, not yet compressed.
    block: Block,
    total: u64,
}

impl Hasher {
    pub(crate) fn new() -> Self {
        Self {
            state: SHA256_IV,
            block: [0; 64],
            total: 0,
        }
    }

    /// The state after all whole blocks.
    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// The bytes after the last whole block.
    pub(crate) fn tail(&self) -> &[u8] {
        &self.block[..(self.total % 64) as usize]
    }

    /// Bytes absorbed so far.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Flips a bit of the absorbed bytes.
    #[cfg(feature = "fault-injection")]
    pub(crate) fn flip(&mut self) {
        self.state[3] ^= 1 << 17;
    }

    pub(crate) fn update(&mut self, sha256: &dyn Sha256, mut bytes: &[u8]) {
        let used = (self.total % 64) as usize;
        self.total += bytes.len() as u64;
        if used > 0 {
            let take = bytes.len().min(64 - used);
            self.block[used..used + take].copy_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if used + take < 64 {
                return;
            }
            sha256.compress(&mut self.state, core::slice::from_ref(&self.block));
        }
        let (blocks, rest) = bytes.as_chunks::<64>();
        if !blocks.is_empty() {
            sha256.compress(&mut self.state, blocks);
        }
        self.block[..rest.len()].copy_from_slice(rest);
    }

    pub(crate) fn finish(mut self, sha256: &dyn Sha256) -> Node {
        let used = (self.total % 64) as usize;
        let mut last = [[0; 64]; 2];
        last[0][..used].copy_from_slice(&self.block[..used]);
        last[0][used] = 0x80;
        let count = if used < 56 { 1 } else { 2 };
        last[count - 1][56..].copy_from_slice(&(self.total * 8).to_be_bytes());
        sha256.compress(&mut self.state, &last[..count]);
        digest(&self.state)
    }
}
