//! Slow oracles, written from the standards to be obviously right.
//!
//! Nothing here shares code, tables or optimisations with a backend: constants are computed from
//! their definitions, and Haraka's are read from `vectors/haraka.json`.

mod aes;
mod function;
mod haraka;
mod protocol;
mod sha256;

pub use aes::aes_round;
pub use function::hash;
pub use haraka::{haraka256, haraka512};
pub use protocol::{label, labels, node, parked, root};
pub use sha256::{sha256, sha256_compress, sha256_constants};

use poet_engine::{Block, Chain, Node, Sha256, State, WorkFunction};

/// The oracles as a backend.
#[derive(Clone, Copy, Debug)]
pub struct Reference {
    function: WorkFunction,
}

impl Reference {
    /// The oracle whose chain iterates `function`.
    #[must_use]
    pub fn new(function: WorkFunction) -> Self {
        Self { function }
    }
}

impl Sha256 for Reference {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        for block in blocks {
            sha256_compress(state, block);
        }
    }
}

impl Chain for Reference {
    fn one(&self, digest: &mut Node, n: u32) {
        for _ in 0..n {
            *digest = hash(self.function, digest);
        }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        for digest in digests {
            self.one(digest, n);
        }
    }
}
