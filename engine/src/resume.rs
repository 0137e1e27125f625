//! Resuming work from its log.

use crate::Work;
use crate::log::{LogError, LogRead, SubtreeHeight};
use crate::tree::{MAX_LEAVES, Tree};
use crate::upper::absorb;

/// The tree of all leaves that the log stands for: where the work goes on.
///
/// # Errors
/// When the log cannot be read, or is longer than a tree may be.
pub fn resume(
    work: &Work,
    statement: &[u8],
    subtree_height: SubtreeHeight,
    log: &mut dyn LogRead,
) -> Result<Tree, LogError> {
    let entries = log.entries();
    if entries > MAX_LEAVES >> subtree_height.get() {
        return Err(LogError::TooLong { entries });
    }
    let mut tree = Tree::new(work, statement);
    absorb(&mut tree, subtree_height, log, entries, &mut ())?;
    Ok(tree)
}
