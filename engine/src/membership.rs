//! The membership tree: which challenges a round proves (PROTOCOL.md section 6), and how a member
//! shows that its challenge is among them without the others.

use alloc::vec::Vec;

use crate::{Node, ZERO};

/// Returns the root over `challenges`, which must be in increasing byte order of their node ids. It
/// is the round's statement: empty without members, the challenge itself with one.
///
/// A real node's challenge has 32 bytes; other lengths are hashed as they are, as the Go server
/// does, so that its proofs can be checked.
pub fn root<C: AsRef<[u8]>>(challenges: &[C]) -> Vec<u8> {
    match challenges {
        [] => Vec::new(),
        [only] => only.as_ref().to_vec(),
        many => {
            let mut level: Vec<Node> = many
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(left.as_ref(), right.as_ref()),
                    odd => node(odd[0].as_ref(), &ZERO),
                })
                .collect();
            while level.len() > 1 {
                for i in 0..level.len().div_ceil(2) {
                    let right = level.get(2 * i + 1).unwrap_or(&ZERO);
                    level[i] = node(&level[2 * i], right);
                }
                level.truncate(level.len().div_ceil(2));
            }
            level[0].to_vec()
        }
    }
}

/// A membership tree with all of its nodes, from which each member's proof is read. It takes twice
/// the memory of its challenges.
#[derive(Clone, Debug)]
pub struct MembershipTree {
    /// The challenges, then each level up to the root.
    levels: Vec<Vec<Node>>,
}

impl MembershipTree {
    /// The tree over `challenges`, which must be in increasing byte order of their node ids.
    #[must_use]
    pub fn new(challenges: Vec<Node>) -> Self {
        let mut levels = Vec::new();
        let mut level = challenges;
        while level.len() > 1 {
            let above = level
                .chunks(2)
                .map(|pair| node(&pair[0], pair.get(1).unwrap_or(&ZERO)))
                .collect();
            levels.push(level);
            level = above;
        }
        levels.push(level);
        Self { levels }
    }

    /// Returns the root, as [`root`] computes it; `None` without members.
    #[must_use]
    pub fn root(&self) -> Option<&Node> {
        self.levels.last()?.first()
    }

    /// Returns the challenge at `index`.
    #[must_use]
    pub fn challenge(&self, index: usize) -> Option<&Node> {
        self.levels.first()?.get(index)
    }

    /// Returns the proof that the challenge at `index` is in the tree: the siblings of the nodes on
    /// the path from it to the root, lowest first. `None` if there is no such challenge.
    #[must_use]
    pub fn proof(&self, index: usize) -> Option<Vec<Node>> {
        self.challenge(index)?;
        let below_root = &self.levels[..self.levels.len() - 1];
        let siblings = below_root.iter().enumerate().map(|(height, level)| {
            let sibling = (index >> height) ^ 1;
            *level.get(sibling).unwrap_or(&ZERO)
        });
        Some(siblings.collect())
    }
}

/// Returns whether `proof` shows that `challenge` is the one at `index` in the tree with this
/// `root`.
///
/// The tree is padded with zeros, so the result means nothing for a challenge of 32 zero bytes.
#[must_use]
pub fn verify(root: &Node, challenge: &Node, index: u64, proof: &[Node]) -> bool {
    root_above(challenge, index, proof).is_some_and(|reached| reached == *root)
}

/// Returns the root that `proof` leads to from `challenge` at `index`, or `None` if a tree of that height
/// has no such index.
#[must_use]
pub fn root_above(challenge: &Node, index: u64, proof: &[Node]) -> Option<Node> {
    let mut place = index;
    let mut reached = *challenge;
    for sibling in proof {
        reached = if place & 1 == 0 {
            node(&reached, sibling)
        } else {
            node(sibling, &reached)
        };
        place >>= 1;
    }
    // An index beyond the tree's width must fail.
    (place == 0).then_some(reached)
}

/// `BLAKE3(0x01 || left || right)`.
fn node(left: &[u8], right: &[u8]) -> Node {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[1]).update(left).update(right);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenges(count: u8) -> Vec<Node> {
        (1..=count).map(|i| [i; 32]).collect()
    }

    #[test]
    fn every_member_has_a_proof_and_nobody_else() {
        for count in 0..=40 {
            let challenges = challenges(count);
            let tree = MembershipTree::new(challenges.clone());
            assert_eq!(
                tree.root().map_or(Vec::new(), |root| root.to_vec()),
                root(&challenges)
            );
            assert_eq!(tree.proof(usize::from(count)), None);
            for (index, challenge) in challenges.iter().enumerate() {
                let proof = tree.proof(index).unwrap();
                let root = tree.root().unwrap();
                assert_eq!(tree.challenge(index), Some(challenge));
                // As high as the tree.
                assert_eq!(1_usize << proof.len(), challenges.len().next_power_of_two());
                assert!(verify(root, challenge, index as u64, &proof));
                assert!(!verify(root, &[0xee; 32], index as u64, &proof));
                assert!(!verify(&[0xee; 32], challenge, index as u64, &proof));
                // Another index, inside the tree or beyond it.
                assert!(proof.is_empty() || !verify(root, challenge, index as u64 ^ 1, &proof));
                let beyond = index as u64 + (1 << proof.len());
                assert!(!verify(root, challenge, beyond, &proof));
                assert!(!verify(root, challenge, u64::MAX, &proof));
                // Too short, too long, changed.
                if let Some((_, short)) = proof.split_last() {
                    assert!(!verify(root, challenge, index as u64, short));
                    let mut changed = proof.clone();
                    changed[proof.len() / 2][7] ^= 1;
                    assert!(!verify(root, challenge, index as u64, &changed));
                }
                let long = [&proof[..], &[ZERO]].concat();
                assert!(!verify(root, challenge, index as u64, &long));
            }
        }
    }
}
