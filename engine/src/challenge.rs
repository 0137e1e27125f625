//! Which leaves are proven: the Fiat-Shamir challenge, and the order of a proof's nodes.

use alloc::vec::Vec;

use crate::sha256::Hasher;
use crate::{Node, Sha256};

/// Proven leaves in a proof of the Spacemesh network (PROTOCOL.md section 1).
pub const T: usize = 150;

/// The indices of the leaves that a proof must show, in increasing order (PROTOCOL.md section 4):
/// `t` of them, or all `leaves` when there are fewer.
#[must_use]
pub fn proven_indices(sha256: &dyn Sha256, root: &Node, leaves: u64, t: usize) -> Vec<u64> {
    if t as u64 > leaves {
        return (0..leaves).collect();
    }
    let mut indices = Vec::with_capacity(t);
    let mut prefix = Hasher::new();
    prefix.update(sha256, root);
    let mut j: u32 = 0;
    while indices.len() < t {
        let mut hasher = prefix;
        hasher.update(sha256, &j.to_be_bytes());
        let digest = hasher.finish(sha256);
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        let index = u64::from_be_bytes(first) % leaves;
        if let Err(place) = indices.binary_search(&index) {
            indices.insert(place, index);
        }
        j = j.wrapping_add(1);
    }
    indices
}

/// Tells `emit` the place (height and index) of every node that a proof must give, in the order of
/// the proof (PROTOCOL.md section 5). `indices` are the proven leaves in increasing order, `height`
/// is the tree's.
///
/// This is the climb of that page without its recursion. From a leaf it goes up to the height at
/// which the sibling subtree contains the next leaf, waits there, and starts again at that leaf.
/// When it comes back to a height at which it waits, both halves are proven and no node is given.
pub(crate) fn for_each_sibling(indices: &[u64], height: u32, emit: &mut impl FnMut(u32, u64)) {
    // The heights at which it waits, as a set of bits.
    let mut waiting: u64 = 0;
    for (i, index) in indices.iter().enumerate() {
        let next = indices.get(i + 1);
        let end = next.map_or(height, |next| (index ^ next).ilog2());
        for h in 0..end {
            if waiting >> h & 1 == 0 {
                emit(h, index >> h ^ 1);
            }
        }
        if next.is_some() {
            // Everything below is done.
            waiting = (waiting >> end | 1) << end;
        }
    }
}
