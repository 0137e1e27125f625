//! The checksum of a proof, by which one that has changed since it was stored is known.

use poet_engine::Proof;
use poet_proto::messages::PublishedProof;

pub(crate) fn proof_checksum(round: i64, proof: &PublishedProof) -> u32 {
    let Proof {
        root,
        proven_leaves,
        proof_nodes,
    } = &proof.proof;
    let mut crc = crc32c::crc32c(&round.to_be_bytes());
    crc = crc32c::crc32c_append(crc, &proof.leaves.to_be_bytes());
    let lists = [proven_leaves, proof_nodes, &proof.members];
    let values = [&proof.statement[..], root].into_iter();
    for value in values.chain(lists.map(|list| list.as_flattened())) {
        // With its length, so that nothing can change from one value to the next.
        crc = crc32c::crc32c_append(crc, &(value.len() as u64).to_be_bytes());
        crc = crc32c::crc32c_append(crc, value);
    }
    for (position, challenge) in &proof.odd_members {
        crc = crc32c::crc32c_append(crc, &position.to_be_bytes());
        crc = crc32c::crc32c_append(crc, challenge);
    }
    crc
}
