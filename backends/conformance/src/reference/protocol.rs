//! Labels and the tree, straight from PROTOCOL.md sections 2, 3 and 9.
//!
//! Nothing is stored between calls: every node is computed from the labels below it, so that a tree
//! of n leaves costs n^2.

use super::function::hash;
use super::sha256::sha256;
use poet_engine::{Node, WorkFunction, ZERO};

/// An inner node: SHA-256 of statement, left and right child.
#[must_use]
pub fn node(statement: &[u8], left: &Node, right: &Node) -> Node {
    sha256(&[statement, left, right])
}

/// Label `index`, given the left siblings on its path to the root, lowest first. The first of
/// `depth` hashes is SHA-256, the others are `function`.
#[must_use]
pub fn label(
    statement: &[u8],
    index: u64,
    parked: &[Node],
    function: WorkFunction,
    depth: u32,
) -> Node {
    let first = sha256(&[statement, &index.to_be_bytes(), parked.as_flattened()]);
    (1..depth).fold(first, |digest, _| hash(function, &digest))
}

/// The first `count` labels.
#[must_use]
pub fn labels(statement: &[u8], count: usize, function: WorkFunction, depth: u32) -> Vec<Node> {
    let mut labels = Vec::new();
    while labels.len() < count {
        let parked = parked(statement, &labels);
        labels.push(label(
            statement,
            labels.len() as u64,
            &parked,
            function,
            depth,
        ));
    }
    labels
}

/// The nodes of the tree over `labels` that still wait for a right sibling, lowest first: for every
/// bit h of the number of leaves, the node at height h that ends where the higher bits leave off.
#[must_use]
pub fn parked(statement: &[u8], labels: &[Node]) -> Vec<Node> {
    let leaves = labels.len();
    (0..usize::BITS)
        .filter(|height| leaves >> height & 1 == 1)
        .map(|height| subtree(statement, labels, height, (leaves >> height) - 1))
        .collect()
}

/// The root of the tree over `labels`, at height ceil(log2 of their number).
///
/// # Panics
/// Panics if there is no label: then there is no tree.
#[must_use]
pub fn root(statement: &[u8], labels: &[Node]) -> Node {
    assert!(!labels.is_empty(), "a tree has at least one leaf");
    let height = labels.len().next_power_of_two().ilog2();
    subtree(statement, labels, height, 0)
}

/// The node `index` at `height`; the ZERO node if there is no leaf below it.
fn subtree(statement: &[u8], labels: &[Node], height: u32, index: usize) -> Node {
    if index << height >= labels.len() {
        ZERO
    } else if height == 0 {
        labels[index]
    } else {
        let left = subtree(statement, labels, height - 1, 2 * index);
        let right = subtree(statement, labels, height - 1, 2 * index + 1);
        node(statement, &left, &right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use poet_engine::LABEL_DEPTH;

    /// The first labels of every statement, and the root after each of them.
    #[test]
    fn label_vectors() {
        for (i, v) in vectors::labels().iter().enumerate() {
            let ours = labels(&v.statement, 20, WorkFunction::Sha256, LABEL_DEPTH);
            assert_eq!(ours, v.labels[..20], "labels of statement {i}");
            for leaves in 1..=v.labels.len() {
                let root = root(&v.statement, &v.labels[..leaves]);
                assert_eq!(
                    root,
                    v.root_after_each_leaf[leaves - 1],
                    "{i}: {leaves} leaves"
                );
            }
        }
    }

    /// The last label of every statement, which hashes the most parked nodes.
    #[test]
    fn last_label_vectors() {
        for (i, v) in vectors::labels().iter().enumerate() {
            for index in [126, 127, 128, 129] {
                let parked = parked(&v.statement, &v.labels[..index]);
                assert_eq!(parked.len(), index.count_ones() as usize);
                let ours = label(
                    &v.statement,
                    index as u64,
                    &parked,
                    WorkFunction::Sha256,
                    LABEL_DEPTH,
                );
                assert_eq!(ours, v.labels[index], "label {index} of statement {i}");
            }
        }
    }
}
