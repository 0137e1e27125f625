//! The hardware boundary: what a backend provides, and the work function built from it.
//!
//! Two small traits are everything a backend implements. [`Sha256`] compresses message blocks (the
//! engine assembles and pads the messages itself, so that constant parts are hashed once), and
//! [`Chain`] applies a 32-byte function many times. A call spans hundreds of hashes, so dynamic
//! dispatch costs nothing, and code that needs CPU features stays inside its backend.

use core::fmt;

/// Bytes in a label, a tree node and a root (PROTOCOL.md section 1).
pub const NODE_SIZE: usize = 32;

/// Invocations of the hash for one label, the first one included (PROTOCOL.md section 1).
pub const LABEL_DEPTH: u32 = 400;

/// Leaves of a tick on the main network, whose nodes weigh proofs by their ticks.
pub const TICK_LEAVES: u64 = 9_331_200;

/// The greatest depth a work function may have. A label must stay far shorter than a second, or
/// the work could not be stopped in time.
pub const MAX_DEPTH: u32 = 1 << 20;

/// A label, a tree node or a root: 32 bytes.
pub type Node = [u8; NODE_SIZE];

/// The padding node, at any height (PROTOCOL.md section 1).
pub const ZERO: Node = [0; NODE_SIZE];

/// The state of SHA-256 between blocks: a, b, ..., h.
pub type State = [u32; 8];

/// A message block of SHA-256.
pub type Block = [u8; 64];

/// The initial state of SHA-256 (FIPS 180-4, section 5.3.3).
pub const SHA256_IV: State = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// The compression function of SHA-256, for messages of any length.
pub trait Sha256: Send + Sync {
    /// Compresses `blocks`, in order, into `state`. No block: nothing changes.
    fn compress(&self, state: &mut State, blocks: &[Block]);

    /// Compresses `blocks[i]` into `states[i]`, for each i. The pairs are independent of each other
    /// and of any number, so that a kernel with lanes can take several at once; written for
    /// throughput. The slices have the same length; what one has more than the other is left alone.
    fn compress_many(&self, states: &mut [State], blocks: &[Block]) {
        for (state, block) in states.iter_mut().zip(blocks) {
            self.compress(state, core::slice::from_ref(block));
        }
    }
}

/// A 32-byte function applied again and again to its own output.
///
/// For [`WorkFunction::Sha256`] the function is SHA-256 of the 32 bytes; for
/// [`WorkFunction::Haraka256`] it is Haraka-256 v2.
pub trait Chain: Send + Sync {
    /// Applies the function `n` times to `digest`. Written for latency: this is the sequential
    /// work itself. `n` = 0 changes nothing.
    fn one(&self, digest: &mut Node, n: u32);

    /// Applies the function `n` times to each of `digests`, which are independent of each other
    /// and of any number. Written for throughput.
    fn many(&self, digests: &mut [Node], n: u32);
}

/// Which 32-byte function a chain iterates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum WorkFunction {
    /// SHA-256, the function of the Spacemesh network (PROTOCOL.md section 2).
    Sha256 = 0,
    /// Haraka-256 v2 (PROTOCOL.md section 9).
    Haraka256 = 1,
}

impl WorkFunction {
    /// The name used on command lines and in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Haraka256 => "haraka256",
        }
    }
}

impl fmt::Display for WorkFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The kernels that a work function runs on. They are interchangeable: they change how fast a
/// label or a node is made, never its value. Both chains must compute the same function.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Hashes what the sequential work waits for ([`Sha256::compress`]).
    pub sha256: &'static dyn Sha256,
    /// Does the sequential work itself ([`Chain::one`]).
    pub chain: &'static dyn Chain,
    /// Hashes independent messages ([`Sha256::compress_many`]).
    pub wide_sha256: &'static dyn Sha256,
    /// Runs independent chains ([`Chain::many`]).
    pub wide_chain: &'static dyn Chain,
}

/// A work function with its depth and the kernels that compute it.
///
/// A label is the chain applied `depth - 1` times to the SHA-256 digest that starts it
/// (PROTOCOL.md sections 2 and 9).
#[derive(Clone, Copy)]
pub struct Work {
    function: WorkFunction,
    depth: u32,
    kernels: Kernels,
}

/// Why a [`Work`] cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("depth {depth} is out of range: expected 1 to {MAX_DEPTH}")]
pub struct DepthError {
    /// The depth that was asked for.
    pub depth: u32,
}

impl Work {
    /// `function` at `depth`, on `kernels`, whose chains must compute `function`.
    ///
    /// # Errors
    /// When `depth` is 0 or greater than [`MAX_DEPTH`].
    pub fn new(function: WorkFunction, depth: u32, kernels: Kernels) -> Result<Self, DepthError> {
        if depth == 0 || depth > MAX_DEPTH {
            return Err(DepthError { depth });
        }
        Ok(Self {
            function,
            depth,
            kernels,
        })
    }

    /// The function that the chain iterates.
    #[must_use]
    pub fn function(&self) -> WorkFunction {
        self.function
    }

    /// Hash invocations for a label, the first one included.
    #[must_use]
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// The kernels.
    #[must_use]
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    pub(crate) fn sha256(&self) -> &'static dyn Sha256 {
        self.kernels.sha256
    }

    /// Turns the first digest of a label into the label.
    pub fn finish_label(&self, digest: &mut Node) {
        self.kernels.chain.one(digest, self.depth - 1);
    }

    /// Turns the first digests of independent labels into the labels.
    pub fn finish_labels(&self, digests: &mut [Node]) {
        self.kernels.wide_chain.many(digests, self.depth - 1);
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("function", &self.function)
            .field("depth", &self.depth)
            .finish_non_exhaustive()
    }
}
