//! Verification.
//!
//! The climb of PROTOCOL.md section 5 is done level by level instead of leaf by leaf: all nodes of
//! a level are independent, so they are hashed in parallel lanes. The first hash of each proven
//! label takes its left siblings from the lowest to the highest, which is the order in which the
//! climb finds them. The climb assembles them for each label; then the first hashes run in parallel
//! lanes, and so do the chains.
//!
//! Nothing here grows with input that the sender of a proof chooses: lists whose length does not
//! match the claim are refused before any allocation or hash.

use alloc::{vec, vec::Vec};
use core::convert::Infallible;
use core::ops::Range;

use crate::challenge::{given_heights, proven_indices};
use crate::parallel::{MAX_THREADS, try_for_each};
use crate::sha256::Hasher;
use crate::tree::height;
use crate::wide::{NodeHasher, digests};
use crate::{Block, MAX_PROVEN_LEAVES, NODE_SIZE, Node, Proof, Work, WorkFunction, ZERO};

/// Why a proof is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No proof can have this many proven leaves.
    #[error("{t} proven leaves are out of range: expected 1 to {MAX_PROVEN_LEAVES}")]
    SecurityParameter {
        /// The given number.
        t: usize,
    },
    /// A tree with fewer leaves than must be proven has no valid proof.
    #[error("{leaves} leaves are too few: a proof shows {t}")]
    TooFewLeaves {
        /// Leaves claimed.
        leaves: u64,
        /// Leaves that must be proven.
        t: usize,
    },
    /// The number of proven leaves is wrong.
    #[error("the proof has {given} proven leaves, expected {expected}")]
    ProvenLeaves {
        /// The given number.
        given: usize,
        /// The required number.
        expected: usize,
    },
    /// The number of nodes is wrong.
    #[error("the proof has {given} nodes, expected {expected}")]
    ProofNodes {
        /// The given number.
        given: usize,
        /// The required number.
        expected: usize,
    },
    /// The proven leaves and nodes do not lead to the root.
    #[error("the proven leaves and nodes do not lead to the root")]
    Root,
    /// A proven label does not follow from its index and left siblings.
    #[error("the label of leaf {index} is not what {function} x {depth} makes")]
    Label {
        /// The index of the leaf.
        index: u64,
        /// The work function that should have made it.
        function: WorkFunction,
        /// The function's depth.
        depth: u32,
    },
}

/// Verifies that `proof` shows `leaves` leaves of `work` on `statement`, with `t` of them proven
/// ([`T`](crate::T) on the Spacemesh network). [`verify_many`] verifies on several threads.
///
/// # Errors
/// Returns why the proof is not valid.
pub fn verify(
    work: &Work,
    statement: &[u8],
    leaves: u64,
    t: usize,
    proof: &Proof,
) -> Result<(), VerifyError> {
    let claim = Claim {
        statement,
        leaves,
        proof,
    };
    verify_on(work, t, &claim, 1)
}

fn verify_on(work: &Work, t: usize, claim: &Claim<'_>, threads: usize) -> Result<(), VerifyError> {
    let &Claim {
        statement,
        leaves,
        proof,
    } = claim;
    if t == 0 || t > MAX_PROVEN_LEAVES {
        return Err(VerifyError::SecurityParameter { t });
    }
    if leaves < t as u64 {
        return Err(VerifyError::TooFewLeaves { leaves, t });
    }
    if proof.proven_leaves.len() != t {
        return Err(VerifyError::ProvenLeaves {
            given: proof.proven_leaves.len(),
            expected: t,
        });
    }
    let kernels = work.kernels();
    let indices = proven_indices(kernels.wide_sha256, &proof.root, leaves, t);
    let (paths, expected) = paths(&indices, height(leaves));
    if proof.proof_nodes.len() != expected {
        return Err(VerifyError::ProofNodes {
            given: proof.proof_nodes.len(),
            expected,
        });
    }

    let mut salt = Hasher::new();
    salt.update(work.sha256(), statement);
    let mut messages = FirstMessages::new(&salt, &indices);
    let hasher = NodeHasher::new(kernels.wide_sha256, &salt);
    if climb(&hasher, paths, height(leaves), proof, &mut messages) != proof.root {
        return Err(VerifyError::Root);
    }

    let messages = messages.finish();
    let mut labels = vec![Node::default(); t];
    let threads = threads.min(t);
    let share = t.div_ceil(threads);
    let shares = messages.chunks(share).zip(labels.chunks_mut(share));
    let Ok(()) = try_for_each(shares, threads, |(messages, labels)| {
        digests(kernels.wide_sha256, &salt.state(), messages, labels);
        work.finish_labels(labels);
        Ok::<(), Infallible>(())
    });
    for ((index, label), proven) in indices.iter().zip(&labels).zip(&proof.proven_leaves) {
        if label != proven {
            return Err(VerifyError::Label {
                index: *index,
                function: work.function(),
                depth: work.depth(),
            });
        }
    }
    Ok(())
}

/// A proof and what it claims to prove.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The statement of the round.
    pub statement: &'a [u8],
    /// The number of leaves.
    pub leaves: u64,
    /// The proof.
    pub proof: &'a Proof,
}

/// Verifies proofs, as [`verify`] does, on up to `threads` threads (at least one, at most
/// [`MAX_THREADS`](crate::MAX_THREADS)). If there are more threads than proofs, several recompute the
/// labels of one. The results are in the order of the claims.
#[must_use]
pub fn verify_many(
    work: &Work,
    t: usize,
    claims: &[Claim<'_>],
    threads: usize,
) -> Vec<Result<(), VerifyError>> {
    let mut results = vec![Ok(()); claims.len()];
    let threads = threads.clamp(1, MAX_THREADS);
    let for_each = (threads / claims.len().max(1)).max(1);
    let Ok(()) = try_for_each(
        claims.iter().zip(&mut results),
        threads.min(claims.len()),
        |(claim, result)| {
            *result = verify_on(work, t, claim, for_each);
            Ok::<(), Infallible>(())
        },
    );
    results
}

/// The input of the first hashes of proven labels after the whole blocks of the statement. A leaf's
/// index determines how many left siblings it has, so each message has its place from the start.
struct FirstMessages {
    /// All messages in sequence, each with room for one more node.
    blocks: Vec<Block>,
    places: Vec<MessagePlace>,
    /// The number of statement bytes before the blocks.
    hashed: u64,
}

struct MessagePlace {
    /// The first of the message's blocks.
    begin: usize,
    /// The offset in all blocks up to which the message is filled.
    filled: usize,
}

impl FirstMessages {
    /// The messages up to the left siblings.
    fn new(salt: &Hasher, indices: &[u64]) -> Self {
        let tail = salt.tail();
        let head = tail.len() + 8;
        let room =
            |index: &u64| (head + (index.count_ones() as usize + 1) * NODE_SIZE).div_ceil(64);
        let mut blocks = vec![[0; 64]; indices.iter().map(room).sum()];
        let mut begin = 0;
        let place = |index: &u64| {
            let bytes = blocks[begin..].as_flattened_mut();
            bytes[..tail.len()].copy_from_slice(tail);
            bytes[tail.len()..head].copy_from_slice(&index.to_be_bytes());
            let place = MessagePlace {
                begin,
                filled: 64 * begin + head,
            };
            begin += room(index);
            place
        };
        let places = indices.iter().map(place).collect();
        Self {
            blocks,
            places,
            hashed: salt.total() - tail.len() as u64,
        }
    }

    /// Adds `node`, the next sibling of these proven leaves, if `is_left`. Whether it is a left one
    /// is random, so there is no branch that could be mispredicted.
    fn push(&mut self, leaves: Range<usize>, node: &Node, is_left: bool) {
        let bytes = self.blocks.as_flattened_mut();
        for place in &mut self.places[leaves] {
            bytes[place.filled..][..NODE_SIZE].copy_from_slice(node);
            place.filled += usize::from(is_left) * NODE_SIZE;
        }
    }

    /// Returns the messages with their padding.
    fn finish(&mut self) -> Vec<&[Block]> {
        for place in &self.places {
            let length = place.filled - 64 * place.begin;
            let bytes = self.blocks[place.begin..].as_flattened_mut();
            let end = (length + 9).next_multiple_of(64);
            bytes[length] = 0x80;
            bytes[length + 1..end - 8].fill(0);
            let bits = (self.hashed + length as u64) * 8;
            bytes[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        }
        let message = |place: &MessagePlace| {
            let length = place.filled - 64 * place.begin;
            &self.blocks[place.begin..][..(length + 9).div_ceil(64)]
        };
        self.places.iter().map(message).collect()
    }
}

/// A node above the proven leaves `first..end`.
#[derive(Clone, Copy)]
struct OnPath {
    index: u64,
    first: usize,
    end: usize,
    /// The position in the proof of the next given sibling.
    sibling: usize,
}

/// Returns the paths of the proven leaves, each at its leaf, and the number of given siblings.
///
/// The siblings of a leaf's path are consecutive in the proof. Where two paths meet, the path of
/// the right one continues (see [`given_heights`]).
fn paths(indices: &[u64], height: u32) -> (Vec<OnPath>, usize) {
    let mut given = 0;
    let path = |((first, &index), heights): ((usize, &u64), u64)| {
        let sibling = given;
        given += heights.count_ones() as usize;
        OnPath {
            index,
            first,
            end: first + 1,
            sibling,
        }
    };
    let leaves = indices.iter().enumerate();
    let paths = leaves
        .zip(given_heights(indices, height))
        .map(path)
        .collect();
    (paths, given)
}

/// Computes the root, and adds to the message of every proven leaf its left siblings.
fn climb(
    hasher: &NodeHasher,
    mut paths: Vec<OnPath>,
    height: u32,
    proof: &Proof,
    messages: &mut FirstMessages,
) -> Node {
    let mut nodes = proof.proven_leaves.clone();
    let mut pairs = vec![[Node::default(); 2]; nodes.len()];
    for _ in 0..height {
        let (mut read, mut written) = (0, 0);
        while let Some(&path) = paths.get(read) {
            let mut parent = OnPath {
                index: path.index >> 1,
                ..path
            };
            let neighbour = paths.get(read + 1);
            if let Some(&right) = neighbour.filter(|next| next.index == path.index ^ 1) {
                pairs[written] = [nodes[read], nodes[read + 1]];
                messages.push(right.first..right.end, &nodes[read], true);
                parent.end = right.end;
                parent.sibling = right.sibling;
                read += 2;
            } else {
                let sibling = proof.proof_nodes.get(path.sibling).unwrap_or(&ZERO);
                let is_right = (path.index & 1) as usize;
                pairs[written][is_right] = nodes[read];
                pairs[written][is_right ^ 1] = *sibling;
                messages.push(path.first..path.end, sibling, is_right == 1);
                parent.sibling += 1;
                read += 1;
            }
            paths[written] = parent;
            written += 1;
        }
        paths.truncate(written);
        nodes.truncate(written);
        hasher.parents(&pairs[..written], &mut nodes);
    }
    nodes[0]
}
