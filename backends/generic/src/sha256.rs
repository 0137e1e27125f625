//! SHA-256 and its chain.

use poet_engine::{Block, Chain, Node, SHA256_IV, Sha256, State};
use sha2::digest::generic_array::{GenericArray, typenum::U64};

/// SHA-256 in portable Rust.
#[derive(Debug)]
pub struct Generic(());

static GENERIC: Generic = Generic(());

impl Generic {
    /// The name that selects this backend.
    pub const NAME: &'static str = "generic";

    /// Returns the backend; every CPU has it.
    #[must_use]
    pub fn get() -> &'static Self {
        &GENERIC
    }
}

impl Sha256 for Generic {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        for block in blocks {
            let block: &GenericArray<u8, U64> = GenericArray::from_slice(block);
            sha2::compress256(state, core::slice::from_ref(block));
        }
    }
}

impl Chain for Generic {
    fn one(&self, digest: &mut Node, n: u32) {
        let mut block = [0; 64];
        block[..32].copy_from_slice(digest);
        // Padding of a 32-byte message: a one bit, zeros, the length of 256 bits.
        block[32] = 0x80;
        block[62] = 1;
        for _ in 0..n {
            let mut state = SHA256_IV;
            self.compress(&mut state, &[block]);
            for (bytes, word) in block.chunks_exact_mut(4).zip(state) {
                bytes.copy_from_slice(&word.to_be_bytes());
            }
        }
        digest.copy_from_slice(&block[..32]);
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        for digest in digests {
            self.one(digest, n);
        }
    }
}
