//! `poet_proof`: a proof with its leaf count.

use poet_engine::{MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Node, Proof};

use crate::boundary::call;
use crate::handle::Table;
use crate::poet_status;
use crate::pointer::{self, Out};
use crate::status::Error;

/// The proven leaves in a proof of the Spacemesh network, and the most that a proof may have.
pub const POET_T: u32 = 150;

/// The most proof nodes that a proof may have.
pub const POET_MAX_PROOF_NODES: usize = 5400;

/// The most bytes in an encoded proof.
pub const POET_MAX_PROOF_BYTES: usize = 183_196;

const _: () = assert!(
    POET_T as usize == MAX_PROVEN_LEAVES
        && POET_MAX_PROOF_NODES == MAX_PROOF_NODES
        // Each node with its length, two list lengths, the leaf count.
        && POET_MAX_PROOF_BYTES == (1 + MAX_PROVEN_LEAVES + MAX_PROOF_NODES) * 33 + 2 + 2 + 9
);

/// A proof with its leaf count. It is immutable: any number of threads may use one handle at once.
pub struct poet_proof {
    _private: [u8; 0],
}

struct Counted {
    proof: Proof,
    leaves: u64,
}

static PROOFS: Table<Counted> = Table::new("poet_proof", 1);

/// Makes a handle for a proof.
pub(crate) fn open(proof: Proof, leaves: u64) -> Result<*mut poet_proof, Error> {
    PROOFS.open(Counted { proof, leaves })
}

/// Returns the bytes of an encoded proof.
///
/// # Safety
/// As [`pointer::slice`].
pub(crate) unsafe fn encoded<'a>(bytes: *const u8, length: usize) -> Result<&'a [u8], Error> {
    // SAFETY: the caller guarantees it.
    unsafe { pointer::slice(bytes, length, POET_MAX_PROOF_BYTES, "proof") }
}

/// Decodes a proof from the bytes by whose hash an ATX refers to it: SCALE of root, proven leaves,
/// proof nodes and leaf count. (What nodes store and gossip is a longer message, which begins with
/// these bytes.) Does not check whether the proof is valid: poet_verify does.
///
/// bytes: length bytes, not used after the call.
/// proof: receives the handle; the caller must close it with poet_proof_close.
///
/// Returns OK, NULL_POINTER, INVALID_LENGTH (over POET_MAX_PROOF_BYTES), MALFORMED_PROOF,
/// OUT_OF_RESOURCES, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_decode(
    bytes: *const u8,
    length: usize,
    proof: *mut *mut poet_proof,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (bytes, out) = unsafe { (encoded(bytes, length)?, Out::new(proof, "proof")?) };
        let (proof, leaves) = Proof::from_scale(bytes)?;
        out.write(open(proof, leaves)?);
        Ok(())
    })
}

/// Makes a proof from its parts. Does not check whether it is valid: poet_verify does.
///
/// root: 32 bytes.
/// proven_leaves: proven_leaf_count * 32 bytes, in increasing order of their index; at most POET_T.
/// proof_nodes: proof_node_count * 32 bytes; at most POET_MAX_PROOF_NODES.
/// leaves: the leaf count.
/// proof: receives the handle; the caller must close it with poet_proof_close.
///
/// Returns OK, NULL_POINTER, INVALID_LENGTH, OUT_OF_RESOURCES, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_assemble(
    root: *const u8,
    proven_leaves: *const u8,
    proven_leaf_count: usize,
    proof_nodes: *const u8,
    proof_node_count: usize,
    leaves: u64,
    proof: *mut *mut poet_proof,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (root, proven_leaves, proof_nodes, out) = unsafe {
            (
                pointer::node(root, "root")?,
                pointer::slice(
                    proven_leaves.cast::<Node>(),
                    proven_leaf_count,
                    MAX_PROVEN_LEAVES,
                    "proven_leaves",
                )?,
                pointer::slice(
                    proof_nodes.cast::<Node>(),
                    proof_node_count,
                    MAX_PROOF_NODES,
                    "proof_nodes",
                )?,
                Out::new(proof, "proof")?,
            )
        };
        let proof = Proof {
            root,
            proven_leaves: proven_leaves.to_vec(),
            proof_nodes: proof_nodes.to_vec(),
        };
        out.write(open(proof, leaves)?);
        Ok(())
    })
}

/// Closes a handle. Calls that use it on other threads run to their end.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, PANIC. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn poet_proof_close(proof: *mut poet_proof) -> poet_status {
    call(|| PROOFS.close(proof))
}

/// Encodes the proof as the bytes that poet_proof_decode reads: SCALE of root, proven leaves, proof
/// nodes and leaf count. poet_proof_reference hashes them. A node stores more: the service's id,
/// the round's id, the statement and a signature as well.
///
/// bytes: room for capacity bytes (POET_MAX_PROOF_BYTES always suffice), or NULL with capacity 0 to
/// get only the length. length: receives the number of bytes.
///
/// Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_encode(
    proof: *const poet_proof,
    bytes: *mut u8,
    capacity: usize,
    length: *mut usize,
) -> poet_status {
    call(|| {
        PROOFS.with(proof, |counted| {
            let encoded = counted.proof.to_scale(counted.leaves);
            // SAFETY: the header requires it of the caller.
            unsafe { pointer::write_all(&encoded, bytes, capacity, length, "bytes") }
        })
    })
}

/// Computes the reference by which an ATX names the proof: BLAKE3 of its encoded bytes.
///
/// reference: receives 32 bytes.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_reference(
    proof: *const poet_proof,
    reference: *mut u8,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let reference = unsafe { pointer::out_node(reference, "reference") }?;
        PROOFS.with(proof, |counted| {
            reference.write(counted.proof.reference(counted.leaves));
            Ok(())
        })
    })
}

/// Reads the leaf count of the proof.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_leaves(
    proof: *const poet_proof,
    leaves: *mut u64,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let leaves = unsafe { Out::new(leaves, "leaves") }?;
        PROOFS.with(proof, |counted| {
            leaves.write(counted.leaves);
            Ok(())
        })
    })
}

/// Reads the root of the proof.
///
/// root: receives 32 bytes.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_root(proof: *const poet_proof, root: *mut u8) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let root = unsafe { pointer::out_node(root, "root") }?;
        PROOFS.with(proof, |counted| {
            root.write(counted.proof.root);
            Ok(())
        })
    })
}

/// Reads the labels of the proven leaves, in increasing order of their index.
///
/// labels: room for capacity * 32 bytes, or NULL with capacity 0 to get only their number.
/// count: receives the number of labels, at most POET_T.
///
/// Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_proven_leaves(
    proof: *const poet_proof,
    labels: *mut u8,
    capacity: usize,
    count: *mut usize,
) -> poet_status {
    call(|| {
        PROOFS.with(proof, |counted| {
            let found = &counted.proof.proven_leaves;
            // SAFETY: the header requires it of the caller.
            unsafe { pointer::write_all(found, labels.cast(), capacity, count, "labels") }
        })
    })
}

/// Reads the nodes that lead from the proven leaves to the root, in the order of the proof.
///
/// nodes: room for capacity * 32 bytes, or NULL with capacity 0 to get only their number.
/// count: receives the number of nodes, at most POET_MAX_PROOF_NODES.
///
/// Returns OK, NULL_POINTER, BUFFER_TOO_SMALL, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_proof_nodes(
    proof: *const poet_proof,
    nodes: *mut u8,
    capacity: usize,
    count: *mut usize,
) -> poet_status {
    call(|| {
        PROOFS.with(proof, |counted| {
            let found = &counted.proof.proof_nodes;
            // SAFETY: the header requires it of the caller.
            unsafe { pointer::write_all(found, nodes.cast(), capacity, count, "nodes") }
        })
    })
}
