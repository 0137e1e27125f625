//! A prover and a verifier that follow PROTOCOL.md line by line: slow, and independent of the
//! engine. They share with it only the oracles of the hash functions.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use poet_conformance::reference::{node, sha256};
use poet_engine::{Node, Proof, ZERO};

/// Turns the first digest of a label into the label.
pub type Label<'a> = &'a dyn Fn(Node) -> Node;

/// Section 4: the proven leaves.
#[must_use]
pub fn proven(root: &Node, leaves: u64, t: usize) -> BTreeSet<u64> {
    if t as u64 > leaves {
        return (0..leaves).collect();
    }
    let mut proven = BTreeSet::new();
    for j in 0_u32.. {
        if proven.len() == t {
            break;
        }
        let digest = sha256(&[root, &j.to_be_bytes()]);
        let (number, _) = digest.split_first_chunk().expect("32 bytes");
        proven.insert(u64::from_be_bytes(*number) % leaves);
    }
    proven
}

/// ceil(log2 leaves).
fn height(leaves: u64) -> u32 {
    (0..64).find(|&h| leaves <= 1 << h).unwrap_or(64)
}

/// Section 5: the proof of a tree whose nodes are known, each by its height and index.
pub fn prove(mut tree: impl FnMut(u32, u64) -> Node, leaves: u64, t: usize) -> Proof {
    let root = tree(height(leaves), 0);
    let indices = proven(&root, leaves, t);
    let mut places = Vec::new();
    needed(
        &mut indices.iter().copied().collect(),
        height(leaves),
        &mut places,
    );
    Proof {
        root,
        proven_leaves: indices.iter().map(|&index| tree(0, index)).collect(),
        proof_nodes: places
            .into_iter()
            .map(|(h, index)| tree(h, index))
            .collect(),
    }
}

/// Climbs from the smallest unused leaf to height `end`, and records the missing nodes.
fn needed(unused: &mut VecDeque<u64>, end: u32, places: &mut Vec<(u32, u64)>) {
    let Some(index) = unused.pop_front() else {
        return;
    };
    for h in 0..end {
        let sibling = index >> h ^ 1;
        if unused.front().is_some_and(|next| next >> h == sibling) {
            needed(unused, h, places);
        } else {
            places.push((h, sibling));
        }
    }
}

/// Section 3, for identical leaves: the complete node of each height.
#[must_use]
pub fn constant_nodes(statement: &[u8], label: Node) -> Vec<Node> {
    let parent = |child: &Node| Some(node(statement, child, child));
    std::iter::successors(Some(label), parent)
        .take(65)
        .collect()
}

/// Section 3: a node of the tree of `leaves` such leaves; `complete` are the complete ones.
#[must_use]
pub fn constant_tree(
    statement: &[u8],
    complete: &[Node],
    leaves: u64,
    height: u32,
    index: u64,
) -> Node {
    let first = u128::from(index) << height;
    let end = (u128::from(index) + 1) << height;
    if first >= leaves.into() {
        ZERO
    } else if end <= leaves.into() {
        complete[height as usize]
    } else {
        let child = |side| constant_tree(statement, complete, leaves, height - 1, 2 * index + side);
        node(statement, &child(0), &child(1))
    }
}

/// Section 5: whether `proof` shows `leaves` leaves, `t` of them proven.
#[must_use]
pub fn verify(label: Label<'_>, statement: &[u8], leaves: u64, t: usize, proof: &Proof) -> bool {
    if t == 0 || t > 150 || leaves < t as u64 || proof.proven_leaves.len() != t {
        return false;
    }
    let indices = proven(&proof.root, leaves, t);
    let mut climb = Climb {
        statement,
        proven: &indices,
        unused: indices
            .iter()
            .copied()
            .zip(proof.proven_leaves.iter().copied())
            .collect(),
        nodes: proof.proof_nodes.iter().copied().collect(),
        left_siblings: BTreeMap::new(),
    };
    let Some(root) = climb.up_to(height(leaves)) else {
        return false;
    };
    if root != proof.root || !climb.unused.is_empty() || !climb.nodes.is_empty() {
        return false;
    }
    indices
        .iter()
        .zip(&proof.proven_leaves)
        .all(|(&index, proven)| {
            let parked = climb.left_siblings.remove(&index).unwrap_or_default();
            let first = sha256(&[statement, &index.to_be_bytes(), parked.as_flattened()]);
            label(first) == *proven
        })
}

struct Climb<'a> {
    statement: &'a [u8],
    proven: &'a BTreeSet<u64>,
    /// Proven leaves not yet climbed from.
    unused: VecDeque<(u64, Node)>,
    nodes: VecDeque<Node>,
    /// For each proven leaf, lowest first.
    left_siblings: BTreeMap<u64, Vec<Node>>,
}

impl Climb<'_> {
    /// Climbs from the smallest unused leaf, and returns the node at height `end`; `None` if there
    /// are too few nodes.
    fn up_to(&mut self, end: u32) -> Option<Node> {
        let (index, mut current) = self.unused.pop_front()?;
        for h in 0..end {
            let place = index >> h;
            let further = self
                .unused
                .front()
                .is_some_and(|next| next.0 >> h == place ^ 1);
            let sibling = if further {
                self.up_to(h)?
            } else {
                self.nodes.pop_front()?
            };
            let (left, right, right_place) = if place % 2 == 0 {
                (current, sibling, place + 1)
            } else {
                (sibling, current, place)
            };
            // The left child is a left sibling of the leaves under the right one.
            let first = right_place << h;
            let last = first + ((1 << h) - 1);
            for leaf in self.proven.range(first..=last) {
                self.left_siblings.entry(*leaf).or_default().push(left);
            }
            current = node(self.statement, &left, &right);
        }
        Some(current)
    }
}
