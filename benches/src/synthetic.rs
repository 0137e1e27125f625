//! Rounds of any length without the time that they take.
//!
//! A proof from a log of random entries fails: the recomputed subtrees have other roots. A right
//! log takes two weeks to make; and the few entries that matter cannot be corrected afterwards,
//! because which ones matter depends on the root, and so on every entry.
//!
//! Here the chain is replaced instead. It does all the work of a label and then returns the same
//! label, whatever the result. So all leaves are equal, all nodes of a height are, and the whole
//! tree is known from one node for each height. The engine is unchanged: it hashes every block that
//! it would hash in a real round, of the same length and in the same order. (No kernel's time
//! depends on its input.)

use std::{fs::File, hint::black_box};

use poet_conformance::reference;
use poet_engine::{
    Chain, Kernels, LABEL_DEPTH, LogError, LogRead, MAX_LEAVES, Node, Proof, ProveProgress,
    RoundWork, SubtreeHeight, T, Tree, Work, WorkFunction, file::FileLog, prove,
};

/// The label of every leaf.
const LABEL: Node = [0x5a; 32];

/// The statement of the rounds.
pub const STATEMENT: [u8; 32] = [7; 32];

/// Leaves of a mainnet round on a public server. A label then starts with 11 blocks.
pub const MAINNET_LEAVES: u64 = 91_111_111_111;

/// The subtree height of a mainnet round.
pub const MAINNET_SUBTREE_HEIGHT: u32 = 12;

/// A chain that ends in [`LABEL`].
struct ConstantLabel {
    /// The work before the constant; `None` for none.
    one: Option<&'static dyn Chain>,
    many: Option<&'static dyn Chain>,
}

impl Chain for ConstantLabel {
    fn one(&self, digest: &mut Node, n: u32) {
        if let Some(chain) = self.one {
            chain.one(digest, n);
            black_box(&digest);
        }
        *digest = LABEL;
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        if let Some(chain) = self.many {
            chain.many(digests, n);
            black_box(&digests);
        }
        digests.fill(LABEL);
    }
}

/// SHA-256 x 400 on `kernels`, done in full, with a constant result.
#[must_use]
pub fn work(kernels: &Kernels) -> Work {
    constant(kernels, Some(kernels.chain), Some(kernels.wide_chain))
}

/// The same values without the work of the labels, to prepare a measurement.
#[must_use]
pub fn idle_work(kernels: &Kernels) -> Work {
    constant(kernels, None, None)
}

fn constant(
    kernels: &Kernels,
    one: Option<&'static dyn Chain>,
    many: Option<&'static dyn Chain>,
) -> Work {
    // Kernels live as long as the program, and a benchmark makes only a few of these.
    let chain = Box::leak(Box::new(ConstantLabel { one, many }));
    let kernels = Kernels {
        chain,
        wide_chain: chain,
        ..*kernels
    };
    Work::new(WorkFunction::Sha256, LABEL_DEPTH, kernels).expect("the depth of the network")
}

/// Returns the node of each height.
fn nodes() -> impl Iterator<Item = Node> {
    let parent = |node: &Node| Some(reference::node(&STATEMENT, node, node));
    std::iter::successors(Some(LABEL), parent)
}

/// Returns the tree after `leaves` leaves.
///
/// # Panics
/// Panics if that is more than a tree may have.
#[must_use]
pub fn tree(work: &Work, leaves: u64) -> Tree {
    assert!(leaves <= MAX_LEAVES, "{leaves} leaves are too many");
    let parked: Vec<Node> = (0..u64::BITS)
        .zip(nodes())
        .filter_map(|(height, node)| (leaves >> height & 1 == 1).then_some(node))
        .collect();
    Tree::from_parked(work, &STATEMENT, leaves, &parked).expect("a node for each bit")
}

/// The log of such a round. It takes no memory.
#[derive(Clone, Copy, Debug)]
pub struct Log {
    entries: u64,
    /// Every entry.
    pub entry: Node,
}

impl Log {
    /// Returns the log of a round of `leaves` leaves.
    ///
    /// # Panics
    /// Never panics: every height has a node.
    #[must_use]
    pub fn new(leaves: u64, subtree_height: SubtreeHeight) -> Self {
        let k = subtree_height.get();
        Self {
            entries: leaves >> k,
            entry: nodes().nth(k as usize).expect("there is always a parent"),
        }
    }
}

impl LogRead for Log {
    fn entries(&self) -> u64 {
        self.entries
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        let end = start + out.len() as u64;
        if end > self.entries {
            return Err(LogError::Missing {
                entry: end - 1,
                entries: self.entries,
            });
        }
        out.fill(self.entry);
        Ok(())
    }
}

/// Writes the log of such a round, with this many entries, to a file.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn file_log(file: File, round: &RoundWork<'_>, entries: u64) -> Result<FileLog, LogError> {
    let height = round.subtree_height();
    let piece = vec![Log::new(entries << height.get(), height).entry; 1 << 16];
    let mut log = FileLog::in_file(file, round)?;
    for start in (0..entries).step_by(piece.len()) {
        let count = (entries - start).min(piece.len() as u64);
        log.append(&piece[..count as usize])?;
    }
    log.sync()?;
    Ok(log)
}

/// Makes the proof of such a round without the work of the labels.
///
/// # Panics
/// Panics if the engine cannot prove it.
#[must_use]
pub fn proof(kernels: &Kernels, leaves: u64, subtree_height: SubtreeHeight) -> Proof {
    let tree = tree(&idle_work(kernels), leaves);
    let mut log = Log::new(leaves, subtree_height);
    let progress = ProveProgress::default();
    prove(&tree, subtree_height, &mut log, T, 1, &progress).expect("tree and log fit")
}
