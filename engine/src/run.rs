//! The work loop.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::tree::{MAX_LEAVES, Tree};
use crate::{Node, SubtreeHeight};

/// Adds leaves to `tree` until it has `target` of them (or [`MAX_LEAVES`]).
///
/// This is the sequential work: the calling thread only hashes, without allocation, lock or system
/// call. It reads `target` before every leaf, so that another thread decides when to stop:
/// `u64::MAX` goes on, 150 stops as soon as a proof is possible, 0 stops now. It writes the leaf
/// count to `progress` after every leaf, and passes each finished subtree root to `log`, in the
/// order of the log.
pub fn run(
    tree: &mut Tree,
    subtree_height: SubtreeHeight,
    target: &AtomicU64,
    progress: &AtomicU64,
    log: impl FnMut(Node),
) {
    work(tree, subtree_height, target, progress, log, |_, _| {});
}

/// The loop. `disturb` is called with the tree before each label is made, and again with the label
/// before it is added.
pub(crate) fn work(
    tree: &mut Tree,
    subtree_height: SubtreeHeight,
    target: &AtomicU64,
    progress: &AtomicU64,
    mut log: impl FnMut(Node),
    mut disturb: impl FnMut(&mut Tree, Option<&mut Node>),
) {
    let height_to_log = subtree_height.get();
    progress.store(tree.leaves(), Relaxed);
    while tree.leaves() < target.load(Relaxed).min(MAX_LEAVES) {
        disturb(tree, None);
        let mut label = tree.next_label();
        disturb(tree, Some(&mut label));
        tree.push(label, |height, _, node| {
            if height == height_to_log {
                log(*node);
            }
        });
        progress.store(tree.leaves(), Relaxed);
    }
}
