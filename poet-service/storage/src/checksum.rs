//! Checksums of proofs, which show whether a stored proof has changed.

use std::time::Duration;

use poet_engine::Proof;
use poet_proto::{member::Challenge, messages::PublishedProof};

use crate::DatabaseError;

pub(crate) fn proof_checksum(round: i64, proof: &PublishedProof) -> u32 {
    let Proof {
        root,
        proven_leaves,
        proof_nodes,
    } = &proof.proof;
    let mut crc = crc32c::crc32c(&round.to_be_bytes());
    crc = crc32c::crc32c_append(crc, &proof.leaves.to_be_bytes());
    let values = [
        &proof.statement[..],
        root,
        proven_leaves.as_flattened(),
        proof_nodes.as_flattened(),
        &Challenge::concat(&proof.members),
    ];
    for value in values {
        // Includes the length, so that no byte can move from one value to the next.
        crc = crc32c::crc32c_append(crc, &(value.len() as u64).to_be_bytes());
        crc = crc32c::crc32c_append(crc, value);
    }
    for (position, challenge) in &proof.odd_members {
        crc = crc32c::crc32c_append(crc, &position.to_be_bytes());
        crc = crc32c::crc32c_append(crc, challenge);
    }
    crc
}

/// The same for an early proof, with its gap in nanoseconds; statement and members are the round's.
pub(crate) fn early_proof_checksum(round: i64, gap: i64, leaves: u64, proof: &Proof) -> u32 {
    let mut crc = crc32c::crc32c(&round.to_be_bytes());
    crc = crc32c::crc32c_append(crc, &gap.to_be_bytes());
    crc = crc32c::crc32c_append(crc, &leaves.to_be_bytes());
    let lists = [&proof.proven_leaves, &proof.proof_nodes];
    let root = [&proof.root[..]].into_iter();
    for value in root.chain(lists.map(|list| list.as_flattened())) {
        crc = crc32c::crc32c_append(crc, &(value.len() as u64).to_be_bytes());
        crc = crc32c::crc32c_append(crc, value);
    }
    crc
}

/// Converts a cycle gap to nanoseconds, as it is stored.
pub(crate) fn gap_nanos(gap: Duration) -> Result<i64, DatabaseError> {
    // Go's durations, of 63 bits, always fit.
    i64::try_from(gap.as_nanos()).map_err(|_| DatabaseError::Damaged("a cycle gap"))
}
