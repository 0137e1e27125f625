//! Single labels and nodes, for a prover that keeps the tree itself.

use crate::sha256::Hasher;
use crate::tree::{MAX_LEAVES, node};
use crate::{Node, TreeError, Work};

impl Work {
    /// Returns the label of leaf `index` (PROTOCOL.md section 2), given the left siblings on its
    /// path from the lowest to the highest: one for each set bit of `index`.
    ///
    /// [`Tree`](crate::Tree) makes the same labels and keeps the siblings.
    ///
    /// # Errors
    /// Fails if the number of siblings does not match `index`, or `index` is not below
    /// [`MAX_LEAVES`].
    pub fn label(
        &self,
        statement: &[u8],
        index: u64,
        left_siblings: &[Node],
    ) -> Result<Node, TreeError> {
        if index >= MAX_LEAVES {
            return Err(TreeError::TooManyLeaves { leaves: index });
        }
        if left_siblings.len() != index.count_ones() as usize {
            return Err(TreeError::Parked {
                leaves: index,
                expected: index.count_ones(),
                given: left_siblings.len(),
            });
        }
        let sha256 = self.sha256();
        let mut hasher = Hasher::new();
        hasher.update(sha256, statement);
        hasher.update(sha256, &index.to_be_bytes());
        hasher.update(sha256, left_siblings.as_flattened());
        let mut label = hasher.finish(sha256);
        self.finish_label(&mut label);
        Ok(label)
    }

    /// Returns the node over `left` and `right` (PROTOCOL.md section 3).
    #[must_use]
    pub fn node(&self, statement: &[u8], left: &Node, right: &Node) -> Node {
        let mut salt = Hasher::new();
        salt.update(self.sha256(), statement);
        node(self, &salt, left, right)
    }
}
