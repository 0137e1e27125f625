//! The hardware boundary: what a backend provides, and the work function built from it.
//!
//! A backend implements two small traits. [`Sha256`] hashes messages (the engine assembles and pads
//! them, so that constant parts are hashed once), and [`Chain`] applies a 32-byte function many
//! times. A call spans hundreds of hashes, so dynamic dispatch costs nothing, and code that needs
//! CPU features stays inside its backend.

use core::fmt;

/// The number of bytes in a label, a tree node and a root (PROTOCOL.md section 1).
pub const NODE_SIZE: usize = 32;

/// The number of hash invocations for one label, including the first (PROTOCOL.md section 1).
pub const LABEL_DEPTH: u32 = 400;

/// The number of leaves in a tick on the main network, where nodes weigh proofs by their ticks.
pub const TICK_LEAVES: u64 = 9_331_200;

/// The greatest depth of a work function. A label must take far less than a second, or the work
/// could not be stopped in time.
pub const MAX_DEPTH: u32 = 1 << 20;

/// A label, a tree node or a root: 32 bytes.
pub type Node = [u8; NODE_SIZE];

/// The padding node, at any height (PROTOCOL.md section 1).
pub const ZERO: Node = [0; NODE_SIZE];

/// The state of SHA-256 between blocks: a, b, ..., h.
pub type State = [u32; 8];

/// A message block of SHA-256.
pub type Block = [u8; 64];

/// Messages that are best hashed together: the lanes of the widest kernel.
pub(crate) const LANES: usize = 16;

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

/// The digest that a final state encodes.
pub(crate) fn digest(state: &State) -> Node {
    let mut digest = [0; 32];
    for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// SHA-256 for messages of any length.
///
/// The caller pads: a message here is a whole number of blocks.
pub trait Sha256: Send + Sync {
    /// Compresses `blocks`, in order, into `state`. With no blocks, `state` is unchanged.
    fn compress(&self, state: &mut State, blocks: &[Block]);

    /// Hashes independent messages: `digests[i]` becomes the digest of `messages[i]`, which
    /// continues from `start`. Written for throughput. A kernel with lanes hashes adjacent messages
    /// together, for as long as the longest takes, so sort messages by length. If the slices differ
    /// in length, the excess of the longer one is ignored.
    fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
        for (message, out) in messages.iter().zip(digests) {
            let mut state = *start;
            self.compress(&mut state, message);
            *out = digest(&state);
        }
    }

    /// Hashes inner nodes: `parents[i]` becomes the node over `children[i]`, hashed as `message`
    /// with those children filled in. Written for throughput. If the slices differ in length, the
    /// excess of the longer one is ignored.
    fn hash_nodes(&self, message: &NodeMessage, children: &[[Node; 2]], parents: &mut [Node]) {
        message.hash_many(self, children, parents);
    }
}

/// The message of an inner node, `statement || left || right` (PROTOCOL.md section 3), without its
/// children: the part that all nodes of one statement share.
#[derive(Clone, Copy, Debug)]
pub struct NodeMessage {
    start: State,
    /// The statement's last bytes, zeros for the children, and the padding: at most 63 + 64 + 9
    /// bytes.
    blocks: [Block; 3],
    count: usize,
    children_at: usize,
}

impl NodeMessage {
    /// The message for a statement whose first `hashed` bytes, a multiple of 64, are absorbed in
    /// the state `start`, and whose remaining bytes are `rest`.
    #[must_use]
    pub fn new(sha256: &dyn Sha256, mut start: State, hashed: u64, rest: &[u8]) -> Self {
        let (whole, tail) = rest.as_chunks();
        sha256.compress(&mut start, whole);
        let end = tail.len() + 2 * NODE_SIZE;
        let count = (end + 9).div_ceil(64);
        let mut blocks = [[0; 64]; 3];
        let bytes = blocks.as_flattened_mut();
        bytes[..tail.len()].copy_from_slice(tail);
        bytes[end] = 0x80;
        let length = hashed.wrapping_add((rest.len() + 2 * NODE_SIZE) as u64);
        let bits = length.wrapping_mul(8);
        bytes[64 * count - 8..64 * count].copy_from_slice(&bits.to_be_bytes());
        Self {
            start,
            blocks,
            count,
            children_at: tail.len(),
        }
    }

    /// Implements [`Sha256::hash_nodes`] by [`Sha256::hash_many`].
    pub fn hash_many(
        &self,
        sha256: &(impl Sha256 + ?Sized),
        children: &[[Node; 2]],
        parents: &mut [Node],
    ) {
        let mut messages = [self.blocks; LANES];
        for (children, parents) in children.chunks(LANES).zip(parents.chunks_mut(LANES)) {
            for (blocks, children) in messages.iter_mut().zip(children) {
                let place = &mut blocks.as_flattened_mut()[self.children_at..];
                place[..2 * NODE_SIZE].copy_from_slice(children.as_flattened());
            }
            let messages = messages.each_ref().map(|blocks| &blocks[..self.count]);
            sha256.hash_many(&self.start, &messages[..children.len()], parents);
        }
    }

    /// The state from which the blocks continue.
    #[must_use]
    pub fn start(&self) -> &State {
        &self.start
    }

    /// The blocks, two or three, with zeros in place of the children.
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        &self.blocks[..self.count]
    }

    /// The offset of the children's 64 bytes in the blocks, from 0 to 63.
    #[must_use]
    pub fn children_at(&self) -> usize {
        self.children_at
    }
}

/// A 32-byte function applied repeatedly to its own output.
///
/// For [`WorkFunction::Sha256`] the function is SHA-256 of the 32 bytes; for
/// [`WorkFunction::Haraka256`] it is Haraka-256 v2.
pub trait Chain: Send + Sync {
    /// Applies the function `n` times to `digest`. Written for latency: this is the sequential work
    /// itself. If `n` is 0, `digest` is unchanged.
    fn one(&self, digest: &mut Node, n: u32);

    /// Applies the function `n` times to each of `digests`, any number of independent values.
    /// Written for throughput.
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

/// The kernels that compute a work function. They are interchangeable: they change how fast a label
/// or a node is made, never its value. Both chains must compute the same function.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// Hashes messages on the sequential path ([`Sha256::compress`]).
    pub sha256: &'static dyn Sha256,
    /// Does the sequential work itself ([`Chain::one`]).
    pub chain: &'static dyn Chain,
    /// Hashes independent messages ([`Sha256::hash_many`]).
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

/// The depth of a [`Work`] is out of range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("depth {depth} is out of range: expected 1 to {MAX_DEPTH}")]
pub struct DepthError {
    /// The given depth.
    pub depth: u32,
}

impl Work {
    /// `function` at `depth`, on `kernels`, whose chains must compute `function`.
    ///
    /// # Errors
    /// Fails if `depth` is 0 or greater than [`MAX_DEPTH`].
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

    /// The number of hash invocations for a label, including the first.
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
