//! The work loop, and counts of what it does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use poet_engine::{
    Block, Chain, Kernels, Node, NodeMessage, Sha256, State, SubtreeHeight, Tree, Work, run,
};

use crate::synthetic::STATEMENT;

/// Adds `leaves` leaves to `tree` by the work loop.
pub fn add(tree: &mut Tree, leaves: u64) {
    let (target, progress) = (AtomicU64::new(tree.leaves() + leaves), AtomicU64::new(0));
    run(tree, SubtreeHeight::MAX, &target, &progress, |_| {});
}

/// Returns `tree` on other kernels; its statement is [`STATEMENT`].
///
/// # Panics
/// Never panics: the parked nodes are those of a tree.
#[must_use]
pub fn on(work: &Work, tree: &Tree) -> Tree {
    Tree::from_parked(work, &STATEMENT, tree.leaves(), tree.parked())
        .expect("the parked nodes of a tree")
}

/// Returns the number of kernel invocations for `leaves` more leaves of `tree`.
#[must_use]
pub fn compressions(tree: &Tree, leaves: u64) -> u64 {
    let mut count = 0;
    for counted in [0, leaves] {
        // Making the tree takes some, too.
        count = Counting::count(tree.work(), |work| add(&mut on(work, tree), counted)) - count;
    }
    count
}

/// Counts the invocations of the wrapped kernels: compressions of a block, for SHA-256.
pub struct Counting {
    kernels: Kernels,
    count: AtomicU64,
}

impl Counting {
    /// Returns the number of invocations in `measured`, which is called with `work` on counting
    /// kernels.
    ///
    /// # Panics
    /// Panics if `measured` does.
    pub fn count(work: &Work, measured: impl FnOnce(&Work)) -> u64 {
        // Kernels live as long as the program, and a benchmark counts only a few times.
        let counting: &'static Self = Box::leak(Box::new(Self {
            kernels: *work.kernels(),
            count: AtomicU64::new(0),
        }));
        let kernels = Kernels {
            sha256: counting,
            chain: counting,
            wide_sha256: counting,
            wide_chain: counting,
        };
        let work = Work::new(work.function(), work.depth(), kernels);
        measured(&work.expect("the depth of a work function"));
        counting.count.load(Relaxed)
    }

    fn add(&self, invocations: usize) {
        self.count.fetch_add(invocations as u64, Relaxed);
    }
}

impl Sha256 for Counting {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        self.add(blocks.len());
        self.kernels.sha256.compress(state, blocks);
    }

    fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
        self.add(messages.iter().map(|message| message.len()).sum());
        self.kernels.wide_sha256.hash_many(start, messages, digests);
    }

    fn hash_nodes(&self, message: &NodeMessage, children: &[[Node; 2]], parents: &mut [Node]) {
        self.add(message.blocks().len() * children.len());
        let sha256 = self.kernels.wide_sha256;
        sha256.hash_nodes(message, children, parents);
    }
}

impl Chain for Counting {
    fn one(&self, digest: &mut Node, n: u32) {
        self.add(n as usize);
        self.kernels.chain.one(digest, n);
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        self.add(digests.len() * n as usize);
        self.kernels.wide_chain.many(digests, n);
    }
}
