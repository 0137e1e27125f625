//! Verification.
//!
//! The climb of PROTOCOL.md section 5 is done level by level instead of leaf by leaf: all nodes of
//! a level are independent, so they are hashed in parallel lanes. Nodes that would leave lanes empty
//! wait for the first nodes of the next level.
//!
//! The first hash of each proven label takes its left siblings from the lowest to the highest. Up to
//! where its path meets another one, they are consecutive in the proof; the climb finds the others,
//! in that order. Then the first hashes run in parallel lanes, and so do the chains.
//!
//! Nothing here grows with input that the sender of a proof chooses: lists whose length does not
//! match the claim are refused before any allocation or hash.

use alloc::{vec, vec::Vec};
use core::convert::Infallible;
use core::mem;
use core::ops::Range;

use crate::challenge::{given_heights, proven_indices};
use crate::hash::LANES;
use crate::parallel::{MAX_THREADS, try_for_each};
use crate::sha256::Hasher;
use crate::tree::height;
use crate::wide::{NodeHasher, digests};
use crate::{Block, MAX_PROVEN_LEAVES, NODE_SIZE, Node, Proof, Work, WorkFunction};

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
    let mut messages = FirstMessages::new(&salt, &paths, &proof.proof_nodes);
    let hasher = NodeHasher::new(kernels.wide_sha256, &salt);
    if climb(&hasher, paths, proof, &mut messages) != proof.root {
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
    /// All messages in sequence, with their padding.
    bytes: Vec<u8>,
    places: Vec<MessagePlace>,
}

struct MessagePlace {
    /// Where the message begins and ends.
    message: Range<usize>,
    /// Where the next left sibling belongs.
    next: usize,
}

impl FirstMessages {
    /// The messages with the left siblings of each leaf up to where its path meets another one, and
    /// with room for the others.
    fn new(salt: &Hasher, leaves: &[OnPath], proof_nodes: &[Node]) -> Self {
        let tail = salt.tail();
        let hashed = salt.total() - tail.len() as u64;
        let length = |leaf: &OnPath| tail.len() + 8 + leaf.index.count_ones() as usize * NODE_SIZE;
        let padded = |leaf: &OnPath| (length(leaf) + 9).next_multiple_of(64);
        let mut bytes = Vec::with_capacity(leaves.iter().map(padded).sum());
        let place = |leaf: &OnPath| {
            let message = bytes.len()..bytes.len() + padded(leaf);
            bytes.extend_from_slice(tail);
            bytes.extend_from_slice(&leaf.index.to_be_bytes());
            // The heights below the lowest at which no sibling is given.
            let alone = leaf.given & !leaf.given.wrapping_add(1);
            let mut left = leaf.index & alone;
            while left != 0 {
                let sibling = leaf.sibling + left.trailing_zeros() as usize;
                bytes.extend_from_slice(&proof_nodes[sibling]);
                left &= left - 1;
            }
            let next = bytes.len();
            bytes.resize(message.start + length(leaf), 0);
            bytes.push(0x80);
            bytes.resize(message.end - 8, 0);
            let bits = (hashed + length(leaf) as u64) * 8;
            bytes.extend_from_slice(&bits.to_be_bytes());
            MessagePlace { message, next }
        };
        let places = leaves.iter().map(place).collect();
        Self { bytes, places }
    }

    /// Adds `node`, the next left sibling of these proven leaves.
    ///
    /// Not inlined, since the loop that seldom calls it needs the registers.
    #[inline(never)]
    fn push(&mut self, leaves: Range<usize>, node: &Node) {
        for place in &mut self.places[leaves] {
            self.bytes[place.next..][..NODE_SIZE].copy_from_slice(node);
            place.next += NODE_SIZE;
        }
    }

    /// Returns the messages, which must have all their siblings.
    fn finish(&self) -> Vec<&[Block]> {
        let message = |place: &MessagePlace| self.bytes[place.message.clone()].as_chunks().0;
        self.places.iter().map(message).collect()
    }
}

/// A node above the proven leaves `first..end`.
#[derive(Clone, Copy)]
struct OnPath {
    index: u64,
    /// A bit set of the heights above this one, which is bit 0, at which the proof gives the
    /// sibling.
    given: u64,
    first: usize,
    end: usize,
    /// The position in the proof of the next given sibling.
    sibling: usize,
}

impl OnPath {
    /// Whether the proof gives the sibling. Otherwise it is on another path.
    fn sibling_is_given(&self) -> bool {
        self.given & 1 == 1
    }

    /// Whether this is a left child whose sibling is on another path.
    fn is_left_of_another(&self) -> bool {
        (self.index | self.given) & 1 == 0
    }

    /// The next node of the path.
    fn parent(&self) -> Self {
        Self {
            index: self.index >> 1,
            given: self.given >> 1,
            ..*self
        }
    }
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
            given: heights,
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

/// Computes the root, and adds to the messages the left siblings from where paths meet.
///
/// The paths form a queue in the order of the levels, from the left to the right in each. The nodes
/// of the first are known; those of the others wait until they fill the lanes.
fn climb(
    hasher: &NodeHasher,
    mut paths: Vec<OnPath>,
    proof: &Proof,
    messages: &mut FirstMessages,
) -> Node {
    // Every node but the root is a child, and a parent has two.
    let mut missing = paths.len() + proof.proof_nodes.len() - 1;
    let mut nodes = proof.proven_leaves.clone();
    let mut known = nodes.len();
    let mut all = known;
    let mut next_paths = paths.clone();
    // The children of the nodes that wait.
    let mut pairs = vec![[Node::default(); 2]; all];
    while missing > 0 {
        let (children, waiting) = paths[..all].split_at(known);
        next_paths[..waiting.len()].copy_from_slice(waiting);
        let (mut read, mut written) = (0, waiting.len());
        loop {
            let count = pair_given(
                (&children[read..], &nodes[read..]),
                (&mut next_paths[written..], &mut pairs[written..]),
                &proof.proof_nodes,
                messages,
            );
            read += count;
            written += count;
            // Here two paths meet.
            let Some([left, right]) = children[read..].first_chunk() else {
                break;
            };
            pairs[written] = [nodes[read], nodes[read + 1]];
            messages.push(right.first..right.end, &nodes[read]);
            next_paths[written] = OnPath {
                first: left.first,
                ..right.parent()
            };
            read += 2;
            written += 1;
        }
        mem::swap(&mut paths, &mut next_paths);

        all = written;
        known = match all / LANES * LANES {
            0 => all,
            full => full,
        };
        // Two children of the same parent stay together.
        if known > 1 && paths[known - 1].is_left_of_another() {
            known -= 1;
        }
        hasher.parents(&pairs[..known], &mut nodes[..known]);
        pairs.copy_within(known..all, 0);
        missing -= known;
    }
    nodes[0]
}

/// Pairs nodes with the siblings that the proof gives, up to the first whose sibling is on another
/// path, and moves their paths to the parents. Returns the number of pairs.
///
/// Not inlined, since it needs the registers.
#[inline(never)]
fn pair_given(
    (children, nodes): (&[OnPath], &[Node]),
    (parents, pairs): (&mut [OnPath], &mut [[Node; 2]]),
    proof_nodes: &[Node],
    messages: &mut FirstMessages,
) -> usize {
    let mut count = 0;
    let parents = parents.iter_mut().zip(pairs);
    for ((child, node), (parent, pair)) in children.iter().zip(nodes).zip(parents) {
        if !child.sibling_is_given() {
            break;
        }
        let sibling = &proof_nodes[child.sibling];
        // Which one is left is random. A branch on it alone would often be mispredicted; but the
        // messages of paths of one leaf, which most are, have those siblings already.
        let is_right = (child.index & 1) as usize;
        pair[is_right] = *node;
        pair[is_right ^ 1] = *sibling;
        if (child.end - child.first) * is_right > 1 {
            messages.push(child.first..child.end, sibling);
        }
        *parent = OnPath {
            sibling: child.sibling + 1,
            ..child.parent()
        };
        count += 1;
    }
    count
}
