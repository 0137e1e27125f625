//! Encodes proofs for gRPC.

use poet_proto::messages::PublishedProof;

/// The prefix of a message on the wire: whether it is compressed, and its length.
pub(crate) const FRAME_PREFIX_BYTES: usize = 5;

/// Encodes a `ProofResponse` as one frame. By hand and from borrowed parts: with a million members,
/// messages that own their parts would take several times its size.
pub(crate) fn proof_frame(published: &PublishedProof, public_key: &[u8; 32]) -> Vec<u8> {
    let proof = &published.proof;
    let mut merkle = Vec::new();
    push_entries(&mut merkle, 1, published.root());
    push_entries(&mut merkle, 2, &proof.proven_leaves);
    push_entries(&mut merkle, 3, &proof.proof_nodes);
    let mut head = Vec::with_capacity(merkle.len() + MAX_NESTING_BYTES);
    push_length(&mut head, 1, merkle.len());
    head.append(&mut merkle);
    let mut leaves = Vec::new();
    if published.leaves > 0 {
        leaves.push(tag(3, 0));
        push_varint(&mut leaves, published.leaves);
    }
    let members: usize = published
        .registered_members()
        .map(|member| 1 + varint_bytes(member.len() as u64) + member.len())
        .sum();
    let poet_bytes = head.len() + members + leaves.len();

    let mut frame =
        Vec::with_capacity(FRAME_PREFIX_BYTES + MAX_NESTING_BYTES + poet_bytes + ENTRY_BYTES);
    frame.extend([0; FRAME_PREFIX_BYTES]);
    push_length(&mut frame, 1, poet_bytes);
    frame.append(&mut head);
    push_entries(&mut frame, 2, published.registered_members());
    frame.append(&mut leaves);
    push_entries(&mut frame, 2, [*public_key]);
    // Memory runs out before a frame has too many members for this field.
    let announced = u32::try_from(frame.len() - FRAME_PREFIX_BYTES).unwrap_or(u32::MAX);
    frame[1..FRAME_PREFIX_BYTES].copy_from_slice(&announced.to_be_bytes());
    frame
}

/// 32 bytes with their tag and their length.
const ENTRY_BYTES: usize = 34;
/// The maximum size of the prefix of a nested message.
const MAX_NESTING_BYTES: usize = 11;

/// The prefix of a field: its number, and 2 for bytes and messages or 0 for a number.
const fn tag(field: u8, wire_type: u8) -> u8 {
    field << 3 | wire_type
}

fn push_entries(
    buffer: &mut Vec<u8>,
    field: u8,
    entries: impl IntoIterator<Item = impl AsRef<[u8]>>,
) {
    for entry in entries {
        let entry = entry.as_ref();
        push_length(buffer, field, entry.len());
        buffer.extend(entry);
    }
}

fn push_length(buffer: &mut Vec<u8>, field: u8, bytes: usize) {
    buffer.push(tag(field, 2));
    push_varint(buffer, bytes as u64);
}

const fn varint_bytes(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn push_varint(buffer: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        buffer.push(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.push(value as u8);
}
