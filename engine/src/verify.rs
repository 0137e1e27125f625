//! Verification.
//!
//! The climb of PROTOCOL.md section 5 is done level by level instead of leaf by leaf: all nodes of
//! a level are independent, so they are hashed side by side. The first hash of each proven label
//! takes its left siblings from the lowest to the highest, the very order in which the climb
//! finds them. They are put together for each label on the way; then the first hashes run side by
//! side, and so do the chains.
//!
//! Nothing here grows with what the sender of a proof chooses: lists of another length than the
//! claim implies are refused before anything is allocated or hashed.

use alloc::{vec, vec::Vec};
use core::convert::Infallible;

use crate::challenge::{for_each_sibling, proven_indices};
use crate::parallel::{MAX_THREADS, try_for_each};
use crate::sha256::Hasher;
use crate::tree::height;
use crate::wide::{NodeHasher, digests};
use crate::{Block, MAX_PROVEN_LEAVES, NODE_SIZE, Node, Proof, Work, WorkFunction};

/// Why a proof is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// No proof can have that many proven leaves.
    #[error("{t} proven leaves are out of range: expected 1 to {MAX_PROVEN_LEAVES}")]
    SecurityParameter {
        /// The number asked for.
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
    /// Another number of proven leaves than required.
    #[error("the proof has {given} proven leaves, expected {expected}")]
    ProvenLeaves {
        /// How many there are.
        given: usize,
        /// How many there must be.
        expected: usize,
    },
    /// Another number of nodes than the proven leaves need.
    #[error("the proof has {given} nodes, expected {expected}")]
    ProofNodes {
        /// How many there are.
        given: usize,
        /// How many there must be.
        expected: usize,
    },
    /// The proven leaves and nodes lead to another root.
    #[error("the proven leaves and nodes do not lead to the root")]
    Root,
    /// A proven label is not what its index and left siblings make.
    #[error("the label of leaf {index} is not what {function} x {depth} makes")]
    Label {
        /// The index of the leaf.
        index: u64,
        /// The work function that should have made it.
        function: WorkFunction,
        /// The depth of that.
        depth: u32,
    },
}

/// Verifies that `proof` shows `leaves` leaves of `work` on `statement`, with `t` of them proven
/// ([`T`](crate::T) on the Spacemesh network).
///
/// # Errors
/// Says why the proof is not valid.
pub fn verify(
    work: &Work,
    statement: &[u8],
    leaves: u64,
    t: usize,
    proof: &Proof,
) -> Result<(), VerifyError> {
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
    let indices = proven_indices(work.sha256(), &proof.root, leaves, t);
    let siblings = Siblings::new(&indices, height(leaves));
    if proof.proof_nodes.len() != siblings.order.len() {
        return Err(VerifyError::ProofNodes {
            given: proof.proof_nodes.len(),
            expected: siblings.order.len(),
        });
    }

    let mut salt = Hasher::new();
    salt.update(work.sha256(), statement);
    let mut starts: Vec<Message> = indices
        .iter()
        .map(|index| {
            let mut start = Message::new(&salt, 8 + height(leaves) as usize * NODE_SIZE);
            start.push(&index.to_be_bytes());
            start
        })
        .collect();

    let root = climb(work, &salt, &indices, &siblings, proof, &mut starts);
    if root != proof.root {
        return Err(VerifyError::Root);
    }

    let messages: Vec<_> = starts.iter_mut().map(Message::pad).collect();
    let mut labels = digests(work.kernels().wide_sha256, salt.state(), &messages);
    work.finish_labels(&mut labels);
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

/// A proof and what it is said to prove.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The statement of the round.
    pub statement: &'a [u8],
    /// The number of leaves.
    pub leaves: u64,
    /// The proof.
    pub proof: &'a Proof,
}

/// Verifies several proofs, as [`verify`] does, on up to `threads` threads (at least one, at most
/// [`MAX_THREADS`](crate::MAX_THREADS)). The results are in the order of the claims.
#[must_use]
pub fn verify_many(
    work: &Work,
    t: usize,
    claims: &[Claim<'_>],
    threads: usize,
) -> Vec<Result<(), VerifyError>> {
    let mut results = vec![Ok(()); claims.len()];
    let threads = threads.min(claims.len()).min(MAX_THREADS);
    let Ok(()) = try_for_each(
        claims.iter().zip(&mut results),
        threads,
        |(claim, result)| {
            *result = verify(work, claim.statement, claim.leaves, t, claim.proof);
            Ok::<(), Infallible>(())
        },
    );
    results
}

/// What a label's first hash takes after the whole blocks of the statement.
struct Message {
    bytes: Vec<u8>,
    /// Bytes of the statement's whole blocks.
    before: u64,
}

impl Message {
    /// The statement's last bytes; there will be up to `more` others.
    fn new(salt: &Hasher, more: usize) -> Self {
        let tail = salt.tail();
        let mut bytes = Vec::with_capacity((tail.len() + more + 9).next_multiple_of(64));
        bytes.extend_from_slice(tail);
        Self {
            bytes,
            before: salt.total() - tail.len() as u64,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The whole message with its padding.
    fn pad(&mut self) -> &[Block] {
        let length = self.bytes.len();
        let bits = (self.before + length as u64) * 8;
        self.bytes.push(0x80);
        self.bytes.resize((length + 9).next_multiple_of(64) - 8, 0);
        self.bytes.extend_from_slice(&bits.to_be_bytes());
        self.bytes.as_chunks().0
    }
}

/// The order of a proof's nodes, by height.
struct Siblings {
    /// Positions in the proof, sorted by the height of the node; within a height by index.
    order: Vec<u16>,
    /// Where the heights begin in `order`.
    begin: [usize; 66],
    height: u32,
}

impl Siblings {
    fn new(indices: &[u64], height: u32) -> Self {
        let mut begin = [0; 66];
        for_each_sibling(indices, height, &mut |h, _| begin[h as usize + 1] += 1);
        for h in 0..65 {
            begin[h + 1] += begin[h];
        }
        // A proof gives the nodes of a height in the order of their indices.
        let mut order = vec![0; begin[65]];
        let mut next = begin;
        let mut position = 0;
        for_each_sibling(indices, height, &mut |h, _| {
            order[next[h as usize]] = position;
            next[h as usize] += 1;
            position += 1;
        });
        Self {
            order,
            begin,
            height,
        }
    }

    /// The positions of the nodes at a height.
    fn at(&self, height: u32) -> &[u16] {
        let h = height as usize;
        &self.order[self.begin[h]..self.begin[h + 1]]
    }
}

/// A node above proven leaves: positions `first` up to `end` among them.
#[derive(Clone, Copy)]
struct OnPath {
    index: u64,
    first: usize,
    end: usize,
}

/// Computes the root, and gives every proven leaf its left siblings: `starts` are the beginnings
/// of the labels' first hashes.
fn climb(
    work: &Work,
    salt: &Hasher,
    indices: &[u64],
    siblings: &Siblings,
    proof: &Proof,
    starts: &mut [Message],
) -> Node {
    let hasher = NodeHasher::new(work.kernels().wide_sha256, salt);
    let mut path: Vec<OnPath> = (0..)
        .zip(indices)
        .map(|(first, &index)| OnPath {
            index,
            first,
            end: first + 1,
        })
        .collect();
    let mut nodes = proof.proven_leaves.clone();
    let mut pairs: Vec<[Node; 2]> = Vec::with_capacity(nodes.len());
    for h in 0..siblings.height {
        let mut given = siblings
            .at(h)
            .iter()
            .map(|&at| proof.proof_nodes[usize::from(at)]);
        pairs.clear();
        let (mut read, mut written) = (0, 0);
        while let Some(&node) = path.get(read) {
            let next = path.get(read + 1).copied();
            let neighbour = next.filter(|next| next.index == node.index ^ 1);
            let (pair, right) = match neighbour {
                Some(right) => ([nodes[read], nodes[read + 1]], right.first..right.end),
                None => {
                    let sibling = given.next().unwrap_or_default();
                    if node.index & 1 == 1 {
                        ([sibling, nodes[read]], node.first..node.end)
                    } else {
                        ([nodes[read], sibling], node.end..node.end)
                    }
                }
            };
            path[written] = OnPath {
                index: node.index >> 1,
                first: node.first,
                end: right.end,
            };
            read += if neighbour.is_some() { 2 } else { 1 };
            written += 1;
            for start in &mut starts[right] {
                start.push(&pair[0]);
            }
            pairs.push(pair);
        }
        path.truncate(written);
        nodes.truncate(written);
        hasher.parents(&pairs, &mut nodes);
    }
    nodes[0]
}
