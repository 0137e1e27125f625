//! Sequences of calls with any arguments that a C program can pass: handles that are open, closed,
//! of another type or made up, pointers that are NULL or misaligned, wrong sizes and numbers,
//! damaged proofs. Every call returns a status other than PANIC and POISONED, outputs are unchanged
//! unless it is OK, and the results of valid calls are asserted.
#![no_main]

use std::ffi::CString;
use std::ptr::{null, null_mut, without_provenance_mut};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet::poet_status::{Ok as OK, Panic, Poisoned};
use poet::*;

#[derive(Arbitrary, Debug)]
enum Handle {
    Null,
    MadeUp(usize),
    /// A handle made earlier, of any type, open or not.
    Earlier(u8),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Place {
    Null,
    Misaligned,
    Good,
}

/// Bytes with a length that may exceed any memory.
#[derive(Arbitrary, Debug)]
struct Bytes<'a> {
    bytes: &'a [u8],
    null: bool,
    huge: bool,
}

impl Bytes<'_> {
    fn pointer(&self) -> *const u8 {
        if self.null {
            null()
        } else {
            self.bytes.as_ptr()
        }
    }

    /// In units of `size` bytes.
    fn length(&self, size: usize) -> usize {
        if self.huge {
            usize::MAX - self.bytes.len()
        } else {
            self.bytes.len() / size
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Call<'a> {
    LastError(u8),
    StatusMessage(u32),
    Backends(u32, Place, u16, u8),
    WorkOpen(u8, u32, Option<&'a str>, Place),
    WorkClose(Handle),
    WorkDescribe(Handle, Place, u16),
    Label(Handle, Bytes<'a>, u64, Bytes<'a>, Place),
    Node(Handle, Bytes<'a>, Place, Place),
    Chain(Handle, u16, Place, Place),
    Membership(Bytes<'a>, Place, Place),
    WorkerOpen {
        size: Option<u16>,
        statement: Bytes<'a>,
        log: bool,
        backend: Option<&'a str>,
        function: u8,
        depth: u8,
        subtree_height: u8,
        reserved: bool,
        out: Place,
    },
    Advance(Handle, u8, u16, Place),
    Stop(Handle),
    Progress(Handle, Place, u16),
    Leaves(Handle, Place),
    Sync(Handle),
    Root(Handle, Place),
    Prove(Handle, u8, u8, Place),
    WorkerClose(Handle),
    Decode(Bytes<'a>, Place),
    Assemble(Place, Bytes<'a>, Bytes<'a>, u64, Place),
    ProofParts(Handle, Place, u16, Place),
    ProofClose(Handle),
    /// Verifies the encoding of the proof, damaged or not.
    Verify(Handle, Bytes<'a>, u8, u8, Option<(u16, u8)>),
    VerifyRaw(u32, u8, Bytes<'a>, u64, u32, Bytes<'a>),
    VerifyMany(u8, u8, u8, u16, bool, Bytes<'a>, u8),
}

const UNTOUCHED: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// Room for every output, which must not change unless the call succeeds.
struct Room([u64; 256]);

impl Room {
    fn at<T>(&mut self, place: Place) -> *mut T {
        match place {
            Place::Null => null_mut(),
            Place::Misaligned => self.0.as_mut_ptr().wrapping_byte_add(1).cast(),
            Place::Good => self.0.as_mut_ptr().cast(),
        }
    }

    fn check(&self, status: poet_status) -> bool {
        assert!(!matches!(status, Panic | Poisoned), "{status:?}");
        if status != OK {
            assert!(
                self.0.iter().all(|word| *word == UNTOUCHED),
                "an output of {status:?}"
            );
        }
        status == OK
    }
}

fuzz_target!(|calls: Vec<Call<'_>>| {
    let directory = tempfile::tempdir().expect("a directory");
    let path = CString::new(directory.path().to_str().expect("a path")).expect("a path");
    let mut room = Room([UNTOUCHED; 256]);
    let mut handles: Vec<usize> = Vec::new();
    let node = [7_u8; 32];
    let text = |text: Option<&str>| text.and_then(|text| CString::new(text).ok());
    for call in calls.iter().take(64) {
        let pick = |handle: &Handle| match *handle {
            Handle::Null => 0,
            Handle::MadeUp(address) => address,
            Handle::Earlier(i) if handles.is_empty() => usize::from(i),
            Handle::Earlier(i) => handles[usize::from(i) % handles.len()],
        };
        let work = |handle| without_provenance_mut::<poet_work>(pick(handle));
        let worker = |handle| without_provenance_mut::<poet_worker>(pick(handle));
        let proof = |handle| without_provenance_mut::<poet_proof>(pick(handle));
        let input = |place| match place {
            Place::Null => null(),
            _ => node.as_ptr(),
        };
        let mut opened = false;
        room.0 = [UNTOUCHED; 256];
        // SAFETY: pointers point to buffers of the given lengths, or must be refused: NULL,
        // misaligned, or with a length over every limit.
        unsafe {
            let status = match call {
                Call::LastError(capacity) => {
                    let ok = poet_last_error(room.at(Place::Good), usize::from(*capacity)) == OK;
                    assert_eq!(ok, *capacity > 0);
                    continue;
                }
                Call::StatusMessage(number) => {
                    assert!(!poet_status_message(*number).is_null());
                    continue;
                }
                Call::Backends(function, place, size, capacity) => {
                    let mut count = 0;
                    let size = usize::from(*size);
                    // No more than there is room for.
                    let capacity = usize::from(*capacity).min(2048 / size.max(1));
                    let place = room.at(*place);
                    poet_backend_list(*function, 0, place, size, capacity, &raw mut count)
                }
                Call::WorkOpen(function, depth, backend, out) => {
                    opened = true;
                    let backend = text(*backend);
                    let backend = backend.as_ref().map_or(null(), |name| name.as_ptr());
                    if !backend.is_null() && *backend == b'f' as _ {
                        // Not the trial: it takes long.
                        continue;
                    }
                    poet_work_open(u32::from(*function), *depth, backend, room.at(*out))
                }
                Call::WorkClose(handle) => poet_work_close(work(handle)),
                Call::WorkDescribe(handle, out, size) => {
                    poet_work_describe(work(handle), room.at(*out), usize::from(*size))
                }
                Call::Label(handle, statement, index, siblings, out) => poet_work_label(
                    work(handle),
                    statement.pointer(),
                    statement.length(1),
                    *index,
                    siblings.pointer(),
                    siblings.length(32),
                    room.at(*out),
                ),
                Call::Node(handle, statement, left, out) => poet_work_node(
                    work(handle),
                    statement.pointer(),
                    statement.length(1),
                    input(*left),
                    node.as_ptr(),
                    room.at(*out),
                ),
                Call::Chain(handle, steps, from, out) => {
                    poet_work_chain(work(handle), u32::from(*steps), input(*from), room.at(*out))
                }
                Call::Membership(challenges, root, length) => {
                    let mut bytes = 0;
                    let length = match length {
                        Place::Good => &raw mut bytes,
                        Place::Misaligned => (&raw mut bytes).wrapping_byte_add(1),
                        Place::Null => null_mut(),
                    };
                    let (pointer, count) = (challenges.pointer(), challenges.length(32));
                    poet_membership_root(pointer, count, room.at(*root), length)
                }
                Call::WorkerOpen {
                    size,
                    statement,
                    log,
                    backend,
                    function,
                    depth,
                    subtree_height,
                    reserved,
                    out,
                } => {
                    opened = true;
                    let backend = text(*backend).filter(|name| name.as_bytes() != b"fastest");
                    let mut options = [0_u64; 8192];
                    let known = poet_worker_options {
                        struct_size: size.map_or(size_of::<poet_worker_options>(), usize::from),
                        statement: statement.pointer(),
                        statement_bytes: statement.length(1),
                        log_directory: if *log { path.as_ptr() } else { null() },
                        backend: backend.as_ref().map_or(null(), |name| name.as_ptr()),
                        work_function: u32::from(*function),
                        depth: u32::from(*depth),
                        subtree_height: u32::from(*subtree_height),
                        reserved: u32::from(*reserved),
                    };
                    let place = options.as_mut_ptr().cast::<poet_worker_options>();
                    place.write(known);
                    poet_worker_open(place, room.at(*out))
                }
                Call::Advance(handle, leaves, time_us, out) => poet_worker_advance(
                    worker(handle),
                    u64::from(*leaves),
                    u64::from(*time_us),
                    room.at(*out),
                ),
                Call::Stop(handle) => poet_worker_stop(worker(handle)),
                Call::Progress(handle, out, size) => {
                    poet_worker_read_progress(worker(handle), room.at(*out), usize::from(*size))
                }
                Call::Leaves(handle, out) => poet_worker_leaves(worker(handle), room.at(*out)),
                Call::Sync(handle) => poet_worker_sync(worker(handle)),
                Call::Root(handle, out) => poet_worker_root(worker(handle), room.at(*out)),
                Call::Prove(handle, t, threads, out) => {
                    opened = true;
                    let threads = u32::from(*threads % 4);
                    poet_worker_prove(worker(handle), u32::from(*t), threads, room.at(*out))
                }
                Call::WorkerClose(handle) => poet_worker_close(worker(handle)),
                Call::Decode(bytes, out) => {
                    opened = true;
                    poet_proof_decode(bytes.pointer(), bytes.length(1), room.at(*out))
                }
                Call::Assemble(root, labels, nodes, leaves, out) => {
                    opened = true;
                    poet_proof_assemble(
                        input(*root),
                        labels.pointer(),
                        labels.length(32),
                        nodes.pointer(),
                        nodes.length(32),
                        *leaves,
                        room.at(*out),
                    )
                }
                Call::ProofParts(handle, out, capacity, count) => {
                    let proof = proof(handle);
                    // In nodes, no more than there is room for.
                    let capacity = usize::from(*capacity).min(60);
                    let mut length = 0_usize;
                    let count = match count {
                        Place::Good => &raw mut length,
                        Place::Misaligned => (&raw mut length).wrapping_byte_add(1),
                        Place::Null => null_mut(),
                    };
                    for function in [
                        poet_proof_proven_leaves,
                        poet_proof_nodes,
                        poet_proof_encode,
                    ] {
                        let status = function(proof, room.at(*out), capacity, count);
                        room.check(status);
                        room.0 = [UNTOUCHED; 256];
                    }
                    for function in [poet_proof_reference, poet_proof_root] {
                        let status = function(proof, room.at(*out));
                        room.check(status);
                        room.0 = [UNTOUCHED; 256];
                    }
                    poet_proof_leaves(proof, room.at(*out))
                }
                Call::ProofClose(handle) => poet_proof_close(proof(handle)),
                Call::Verify(handle, statement, depth, t, flip) => {
                    let (proof, mut leaves, mut length) = (proof(handle), 0, 0);
                    let mut bytes = vec![0; POET_MAX_PROOF_BYTES];
                    let (buffer, capacity) = (bytes.as_mut_ptr(), bytes.len());
                    if poet_proof_leaves(proof, &raw mut leaves) != OK
                        || poet_proof_encode(proof, buffer, capacity, &raw mut length) != OK
                    {
                        continue;
                    }
                    if let Some((at, bit)) = flip {
                        bytes[usize::from(*at) % length] ^= 1 << (bit % 8);
                    }
                    poet_verify(
                        0,
                        u32::from(*depth),
                        statement.pointer(),
                        statement.length(1),
                        leaves,
                        u32::from(*t),
                        bytes.as_ptr(),
                        length,
                    )
                }
                Call::VerifyRaw(function, depth, statement, leaves, t, bytes) => poet_verify(
                    *function,
                    u32::from(*depth),
                    statement.pointer(),
                    statement.length(1),
                    *leaves,
                    *t,
                    bytes.pointer(),
                    bytes.length(1),
                ),
                Call::VerifyMany(function, depth, t, size, null_claims, bytes, count) => {
                    let claim = poet_claim {
                        statement: bytes.pointer(),
                        statement_bytes: bytes.length(1),
                        leaves: 1,
                        proof: bytes.pointer(),
                        proof_bytes: bytes.length(1),
                    };
                    let count = usize::from(count % 8);
                    let mut claims = vec![0_u64; 8 * 65_536 / 8];
                    let size = usize::from(*size);
                    for i in 0..count {
                        let place = claims.as_mut_ptr().byte_add(i * size);
                        place.cast::<poet_claim>().write_unaligned(claim);
                    }
                    let claims = if *null_claims {
                        null()
                    } else {
                        claims.as_ptr().cast()
                    };
                    poet_verify_many(
                        u32::from(*function),
                        u32::from(*depth),
                        u32::from(*t),
                        claims,
                        size,
                        count,
                        2,
                        room.at(Place::Good),
                    )
                }
            };
            if room.check(status) && opened {
                handles.push(room.0[0] as usize);
            }
        }
    }
    for address in handles {
        // Whatever its type, and whether it is open: one of these closes it.
        poet_work_close(without_provenance_mut(address));
        poet_worker_close(without_provenance_mut(address));
        poet_proof_close(without_provenance_mut(address));
    }
});
