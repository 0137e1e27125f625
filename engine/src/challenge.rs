//! Which leaves a proof shows (the Fiat-Shamir challenge), and the order of its nodes.

use alloc::{vec, vec::Vec};
use core::slice;

use crate::{Node, SHA256_IV, Sha256};

/// The number of proven leaves in a proof of the Spacemesh network (PROTOCOL.md section 1).
pub const T: usize = 150;

/// Returns the indices of the leaves that a proof must show, in increasing order (PROTOCOL.md
/// section 4): `t` of them, or all `leaves` if there are fewer.
#[must_use]
pub fn proven_indices(sha256: &dyn Sha256, root: &Node, leaves: u64, t: usize) -> Vec<u64> {
    if t as u64 > leaves {
        return (0..leaves).collect();
    }
    let mut indices = Vec::with_capacity(t);
    // The message `root || be32(j)` with its padding.
    let mut message = [0; 64];
    message[..32].copy_from_slice(root);
    message[36] = 0x80;
    message[62..].copy_from_slice(&(36 * 8_u16).to_be_bytes());
    let mut j: u32 = 0;
    while indices.len() < t {
        // Most digests yield a new index, so try as many as are missing.
        let missing = t - indices.len();
        let mut blocks = vec![message; missing];
        for block in &mut blocks {
            block[32..36].copy_from_slice(&j.to_be_bytes());
            j = j.wrapping_add(1);
        }
        let messages: Vec<_> = blocks.iter().map(slice::from_ref).collect();
        let mut digests = vec![Node::default(); missing];
        sha256.hash_many(&SHA256_IV, &messages, &mut digests);
        for digest in digests {
            let mut first = [0; 8];
            first.copy_from_slice(&digest[..8]);
            indices.push(u64::from_be_bytes(first) % leaves);
        }
        indices.sort_unstable();
        indices.dedup();
    }
    indices
}

/// Returns the place (height and index) of every node that a proof must give, in the order of the
/// proof (PROTOCOL.md section 5). `indices` are the proven leaves in increasing order; `height` is
/// the tree's.
pub(crate) fn siblings(indices: &[u64], height: u32) -> impl Iterator<Item = (u32, u64)> {
    indices
        .iter()
        .zip(given_heights(indices, height))
        .flat_map(|(index, heights)| {
            (0..u64::BITS)
                .filter(move |h| heights >> h & 1 == 1)
                .map(move |h| (h, index >> h ^ 1))
        })
}

/// Returns, for each proven leaf, a bit set of the heights at which the proof gives the sibling of
/// its path.
///
/// This is the climb of PROTOCOL.md section 5 without recursion. From a leaf it climbs to the
/// height at which the sibling subtree contains the next leaf, marks that height as waiting, and
/// starts again at that leaf. When it returns to a waiting height, both halves are proven and no
/// node is given.
pub(crate) fn given_heights(indices: &[u64], height: u32) -> impl Iterator<Item = u64> {
    let mut waiting = 0;
    (0..indices.len()).map(move |i| {
        let next = indices.get(i + 1);
        let end = next.map_or(height, |next| (indices[i] ^ next).ilog2());
        let below = u64::MAX.checked_shr(u64::BITS - end).unwrap_or_default();
        let given = below & !waiting;
        if next.is_some() {
            // Everything below is complete.
            waiting = (waiting >> end | 1) << end;
        }
        given
    })
}
