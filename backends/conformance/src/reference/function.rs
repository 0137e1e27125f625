//! The work functions.

use poet_engine::{Node, WorkFunction};

use super::haraka::haraka256;
use super::sha256::sha256;

/// Applies `function` once.
#[must_use]
pub fn hash(function: WorkFunction, digest: &Node) -> Node {
    match function {
        WorkFunction::Sha256 => sha256(&[digest]),
        WorkFunction::Haraka256 => haraka256(digest),
    }
}
