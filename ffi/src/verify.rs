//! Verification, without a handle.

use poet_engine::{Claim, MAX_PROVEN_LEAVES, MAX_THREADS, Proof, Work, verify, verify_many};

use crate::backend::{function, select, work};
use crate::boundary::call;
use crate::poet_status;
use crate::poet_status::{InvalidLength, InvalidProof};
use crate::pointer;
use crate::proof::{POET_T, encoded};
use crate::status::Error;
use crate::work::statement;

/// The most proofs that one call verifies.
pub const POET_MAX_CLAIMS: usize = 1 << 20;

/// The most threads that a call may use.
pub const POET_MAX_THREADS: u32 = 1024;

const _: () = assert!(POET_MAX_THREADS as usize == MAX_THREADS);

/// Proofs decoded at a time, so that memory does not grow with their number.
const BATCH: usize = 256;

/// A proof, and what it claims to prove.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_claim {
    /// The statement; may be NULL if it is empty.
    pub statement: *const u8,
    /// Its length, at most POET_MAX_STATEMENT_BYTES.
    pub statement_bytes: usize,
    /// The number of leaves.
    pub leaves: u64,
    /// The encoded proof.
    pub proof: *const u8,
    /// Its length, at most POET_MAX_PROOF_BYTES.
    pub proof_bytes: usize,
}

/// Verifies that an encoded proof shows the given number of leaves of work on a statement. On the
/// Spacemesh network (depth 400, T = 150) it takes about a millisecond.
///
/// work_function: a poet_work_function. depth: as for poet_work_open.
/// statement: statement_bytes bytes; may be NULL if there are none.
/// leaves: the number of leaves; the one in the proof must be the same.
/// t: how many leaves must be proven, 1 to POET_T, on the network POET_T.
/// proof: proof_bytes bytes, as poet_proof_encode writes them.
///
/// Returns OK (valid), INVALID_PROOF, MALFORMED_PROOF, TOO_FEW_LEAVES (fewer than t), NULL_POINTER,
/// INVALID_ARGUMENT, INVALID_LENGTH, BACKEND, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_verify(
    work_function: u32,
    depth: u32,
    statement: *const u8,
    statement_bytes: usize,
    leaves: u64,
    t: u32,
    proof: *const u8,
    proof_bytes: usize,
) -> poet_status {
    call(|| {
        let claim = poet_claim {
            statement,
            statement_bytes,
            leaves,
            proof,
            proof_bytes,
        };
        // SAFETY: the header requires it of the caller.
        let (statement, proof) = unsafe { open(&claim) }?;
        let work = kernels(work_function, depth)?;
        Ok(verify(&work, statement, leaves, t as usize, &proof)?)
    })
}

/// Verifies several proofs, as poet_verify does.
///
/// work_function, depth, t: as for poet_verify, for all of them.
/// claims: count entries; count: at most POET_MAX_CLAIMS.
/// claim_size: sizeof(poet_claim) of the caller, the distance from one entry to the next.
/// threads: how many threads share the work, 1 to POET_MAX_THREADS, including the calling one; the
/// others end before the call returns.
/// results: room for count entries; receives what poet_verify would return for each claim.
///
/// Returns OK (all were checked; they need not be valid), NULL_POINTER, INVALID_ARGUMENT,
/// INVALID_LENGTH, STRUCT_SIZE, BACKEND, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_verify_many(
    work_function: u32,
    depth: u32,
    t: u32,
    claims: *const poet_claim,
    claim_size: usize,
    count: usize,
    threads: u32,
    results: *mut poet_status,
) -> poet_status {
    call(|| {
        let t = t as usize;
        if !(1..=MAX_PROVEN_LEAVES).contains(&t) {
            return Err(Error::argument(format!("t is {t}, expected 1 to {POET_T}")));
        }
        if !(1..=POET_MAX_THREADS).contains(&threads) {
            return Err(Error::argument(format!(
                "{threads} threads are out of range: expected 1 to {POET_MAX_THREADS}"
            )));
        }
        pointer::struct_size::<poet_claim>(claim_size, "poet_claim")?;
        if count > POET_MAX_CLAIMS {
            let text = format!("{count} claims are too many: the limit is {POET_MAX_CLAIMS}");
            return Err(Error::new(InvalidLength, text));
        }
        let work = kernels(work_function, depth)?;
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the header requires it of the caller.
        unsafe {
            pointer::leading_size(claims, "claims")?;
            pointer::Out::new(results, "results")?;
        }
        let claims = (0..count).map(|i| {
            // SAFETY: the caller guarantees `count` entries of `claim_size` bytes.
            unsafe { pointer::versioned(claims.byte_add(i * claim_size), claim_size, "poet_claim") }
        });
        let claims = claims.collect::<Result<Vec<_>, _>>()?;
        let mut statuses = Vec::with_capacity(count);
        for batch in claims.chunks(BATCH) {
            statuses.extend(verify_batch(&work, t, batch, threads as usize));
        }
        // SAFETY: the caller guarantees `count` entries; `statuses` has as many, elsewhere.
        unsafe { results.copy_from_nonoverlapping(statuses.as_ptr(), statuses.len()) };
        Ok(())
    })
}

fn verify_batch(work: &Work, t: usize, batch: &[poet_claim], threads: usize) -> Vec<poet_status> {
    let opened: Vec<_> = batch
        .iter()
        // SAFETY: the caller of `poet_verify_many` guarantees each claim.
        .map(|claim| unsafe { open(claim) }.map_err(|error| error.status))
        .collect();
    let open_claims = batch.iter().zip(&opened);
    let claims: Vec<_> = open_claims
        .filter_map(|(claim, opened)| {
            let (statement, proof) = opened.as_ref().ok()?;
            let leaves = claim.leaves;
            Some(Claim {
                statement,
                leaves,
                proof,
            })
        })
        .collect();
    let mut results = verify_many(work, t, &claims, threads).into_iter();
    let result = |opened: &Result<_, poet_status>| match opened {
        Err(status) => *status,
        Ok(_) => match results.next() {
            Some(Ok(())) => poet_status::Ok,
            Some(Err(why)) => Error::from(why).status,
            // There is a result for each claim.
            None => poet_status::Panic,
        },
    };
    opened.iter().map(result).collect()
}

/// Returns the statement and the proof of a claim.
///
/// # Safety
/// The pointers must be as the header requires.
unsafe fn open(claim: &poet_claim) -> Result<(&[u8], Proof), Error> {
    // SAFETY: the caller guarantees it.
    let (statement, bytes) = unsafe {
        (
            statement(claim.statement, claim.statement_bytes)?,
            encoded(claim.proof, claim.proof_bytes)?,
        )
    };
    let (proof, leaves) = Proof::from_scale(bytes)?;
    if leaves != claim.leaves {
        let text = format!("the proof is of {leaves} leaves, not of {}", claim.leaves);
        return Err(Error::new(InvalidProof, text));
    }
    Ok((statement, proof))
}

fn kernels(work_function: u32, depth: u32) -> Result<Work, Error> {
    work(&select(function(work_function)?, None)?, depth)
}
