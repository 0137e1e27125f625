//! The proof of a round: made, verified, and put together for publication.

use poet_engine::{LogRead, Proof, ProveProgress, T, Tree, membership, prove, verify};
use poet_proto::messages::PublishedProof;

#[cfg(feature = "fault-injection")]
use super::fault;
use super::{Job, WorkError};
use crate::storage::Storage;

/// Makes the proof of the leaves of `tree`, from the log that represents them.
pub(super) fn make_proof(
    job: &Job,
    tree: &Tree,
    log: &mut dyn LogRead,
    threads: usize,
    progress: &ProveProgress,
) -> Result<Proof, WorkError> {
    let subtree_height = job.execution.subtree_height;
    let proof = prove(tree, subtree_height, log, T, threads, progress)?;
    #[cfg(feature = "fault-injection")]
    let proof = fault::proof(proof);
    Ok(proof)
}

/// Verifies a proof. Only verified proofs are published.
pub(super) fn check_proof(job: &Job, tree: &Tree, proof: &Proof) -> Result<(), WorkError> {
    let statement = &job.execution.statement;
    Ok(verify(tree.work(), statement, tree.leaves(), T, proof)?)
}

/// Combines a proof with the members of its round.
pub(super) fn published_proof(
    storage: &dyn Storage,
    job: &Job,
    leaves: u64,
    proof: Proof,
) -> Result<PublishedProof, WorkError> {
    let members = storage.members(job.round)?;
    let statement = job.execution.statement.clone();
    if membership::root(&members) != statement {
        return Err(WorkError::Members);
    }
    Ok(PublishedProof {
        statement,
        members,
        odd_members: Vec::new(),
        leaves,
        proof,
    })
}
