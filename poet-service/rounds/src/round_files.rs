//! The files in the working directory.

use std::path::{Path, PathBuf};

/// In the working directory: a folder for each round that is worked on.
pub const ROUNDS_FOLDER: &str = "rounds";
/// In a round's folder: the tree log.
pub const LOG_FILE: &str = "tree.log";
/// In a round's folder: the roots of the audited parts of the tree log.
pub const AUDIT_FILE: &str = "audit.log";
/// In a round's folder: the same for an audit that took most entries on trust.
pub const SAMPLED_FILE: &str = "sampled.log";
/// In a round's folder: the findings of audits, if there are any.
pub const FINDINGS_FILE: &str = "findings.json";
/// In a round's folder: the same while it is being written.
pub const NEW_FINDINGS_FILE: &str = "findings.new";

/// Returns the path of a round's tree log.
pub fn tree_log(datadir: &Path, round: u64) -> PathBuf {
    let rounds = datadir.join(ROUNDS_FOLDER);
    rounds.join(round.to_string()).join(LOG_FILE)
}
