//! Injects faults so that tests can check that they are found. Feature `fault-injection`.

use core::sync::atomic::AtomicU64;

use crate::{Node, SubtreeHeight, Tree, run};

/// Where to flip a bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The label made last.
    Label,
    /// The stored statement, which salts the next hashes.
    Statement,
    /// The parked node at this height.
    Parked(u32),
    /// The stored prefix state of the parked node at this height, used for the hash of its parent.
    Prefix(u32),
}

/// As [`run()`](crate::run()), with one fault at leaf `at`, or at the first leaf after it at which
/// there is a node at the height in question. `at` must not be before the leaves that `tree` has.
pub fn run_with_fault(
    tree: &mut Tree,
    subtree_height: SubtreeHeight,
    target: &AtomicU64,
    progress: &AtomicU64,
    log: impl FnMut(Node),
    at: u64,
    fault: Fault,
) {
    let mut pending = tree.leaves() <= at;
    run::work(
        tree,
        subtree_height,
        target,
        progress,
        log,
        |tree, label| {
            if !pending || tree.leaves() < at {
                return;
            }
            pending = match (fault, label) {
                (Fault::Label, Some(label)) => {
                    label[7] ^= 4;
                    false
                }
                (Fault::Statement, None) => {
                    tree.flip_statement();
                    false
                }
                (Fault::Parked(height), None) => !tree.flip_parked(height, false),
                (Fault::Prefix(height), None) => !tree.flip_parked(height, true),
                _ => true,
            };
        },
    );
}
