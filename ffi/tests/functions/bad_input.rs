//! Whatever the arguments, a function returns a status with a text, writes no output, and the
//! process lives.

use std::ffi::{CString, c_char};
use std::fs;
use std::ptr::{null, null_mut, without_provenance_mut};

use crate::common::{STATEMENT, advance, encode, last_error, ok, open, options, status};
use poet::poet_status::{
    Backend, BufferTooSmall, InvalidArgument, InvalidLength, InvalidProof, Io, LogForeign,
    MalformedProof, NotOpen, NullPointer, Ok as OK, StructSize, TooFewLeaves, TooManyLeaves,
};
use poet::*;
use poet_conformance::Rng;

const UNTOUCHED: u8 = 0xa5;
const HUGE: [usize; 3] = [usize::MAX, isize::MAX as usize, 1 << 40];

fn work() -> *mut poet_work {
    let mut work = null_mut();
    ok(unsafe { poet_work_open(0, 5, null(), &raw mut work) });
    work
}

/// A worker of 150 leaves, and its proof.
fn proven() -> (*mut poet_worker, *mut poet_proof) {
    let worker = open(&options());
    advance(worker, 150, u64::MAX);
    let mut proof = null_mut();
    ok(unsafe { poet_worker_prove(worker, 150, 1, &raw mut proof) });
    (worker, proof)
}

fn verify(function: u32, depth: u32, leaves: u64, t: u32, bytes: &[u8]) -> poet_status {
    unsafe {
        poet_verify(
            function,
            depth,
            STATEMENT.as_ptr(),
            STATEMENT.len(),
            leaves,
            t,
            bytes.as_ptr(),
            bytes.len(),
        )
    }
}

#[test]
fn every_pointer_may_be_null() {
    let (work, (worker, proof)) = (work(), proven());
    let node = [0; 32];
    let mut out = [UNTOUCHED; 64];
    let (node, o) = (node.as_ptr(), out.as_mut_ptr());
    let options = options();
    let claim = poet_claim {
        statement: null(),
        statement_bytes: 0,
        leaves: 1,
        proof: node,
        proof_bytes: 32,
    };
    let size = size_of::<poet_claim>();
    // For outputs of eight bytes; their values do not matter.
    let mut place = 0_u64;
    let p = &raw mut place;
    let refused = unsafe {
        [
            poet_last_error(null_mut(), 10),
            poet_backend_list(0, 0, null_mut(), size_of::<poet_backend>(), 1, p.cast()),
            poet_backend_list(0, 0, null_mut(), size_of::<poet_backend>(), 0, null_mut()),
            poet_work_open(0, 0, null(), null_mut()),
            poet_work_close(null_mut()),
            poet_work_describe(null(), null_mut(), size_of::<poet_work_info>()),
            poet_work_describe(work, null_mut(), size_of::<poet_work_info>()),
            poet_work_label(null(), null(), 0, 0, null(), 0, o),
            poet_work_label(work, null(), 1, 0, null(), 0, o),
            poet_work_label(work, null(), 0, 1, null(), 1, o),
            poet_work_label(work, null(), 0, 0, null(), 0, null_mut()),
            poet_work_node(null(), null(), 0, node, node, o),
            poet_work_node(work, null(), 1, node, node, o),
            poet_work_node(work, null(), 0, null(), node, o),
            poet_work_node(work, null(), 0, node, null(), o),
            poet_work_node(work, null(), 0, node, node, null_mut()),
            poet_work_chain(null(), 1, node, o),
            poet_work_chain(work, 1, null(), o),
            poet_work_chain(work, 1, node, null_mut()),
            poet_worker_open(null(), p.cast()),
            poet_worker_open(&raw const options, null_mut()),
            poet_worker_close(null_mut()),
            poet_worker_advance(null_mut(), 1, 1, p.cast()),
            poet_worker_advance(worker, 1, 1, null_mut()),
            poet_worker_stop(null_mut()),
            poet_worker_read_progress(null(), null_mut(), size_of::<poet_worker_progress>()),
            poet_worker_read_progress(worker, null_mut(), size_of::<poet_worker_progress>()),
            poet_worker_leaves(null(), p),
            poet_worker_leaves(worker, null_mut()),
            poet_worker_sync(null()),
            poet_worker_root(null(), o),
            poet_worker_root(worker, null_mut()),
            poet_worker_prove(null_mut(), 150, 1, p.cast()),
            poet_worker_prove(worker, 150, 1, null_mut()),
            poet_proof_decode(null(), 1, p.cast()),
            poet_proof_decode(node, 32, null_mut()),
            poet_proof_assemble(null(), node, 1, node, 1, 1, p.cast()),
            poet_proof_assemble(node, null(), 1, node, 1, 1, p.cast()),
            poet_proof_assemble(node, node, 1, null(), 1, 1, p.cast()),
            poet_proof_assemble(node, node, 1, node, 1, 1, null_mut()),
            poet_proof_close(null_mut()),
            poet_proof_encode(null(), o, 64, p.cast()),
            poet_proof_encode(proof, null_mut(), 64, p.cast()),
            poet_proof_encode(proof, o, 64, null_mut()),
            poet_proof_reference(null(), o),
            poet_proof_reference(proof, null_mut()),
            poet_proof_leaves(null(), p),
            poet_proof_leaves(proof, null_mut()),
            poet_proof_root(null(), o),
            poet_proof_root(proof, null_mut()),
            poet_proof_proven_leaves(null(), o, 2, p.cast()),
            poet_proof_proven_leaves(proof, null_mut(), 2, p.cast()),
            poet_proof_proven_leaves(proof, o, 2, null_mut()),
            poet_proof_nodes(null(), o, 2, p.cast()),
            poet_proof_nodes(proof, o, 2, null_mut()),
            poet_verify(0, 0, null(), 1, 150, 150, node, 32),
            poet_verify(0, 0, null(), 0, 150, 150, null(), 32),
            poet_verify_many(0, 0, 150, null(), size, 1, 1, p.cast()),
            poet_verify_many(0, 0, 150, &raw const claim, size, 1, 1, null_mut()),
            poet_membership_root(null(), 1, o, p.cast()),
            poet_membership_root(node, 1, null_mut(), p.cast()),
            poet_membership_root(node, 1, o, null_mut()),
        ]
    };
    for (i, status) in refused.iter().enumerate() {
        assert_eq!(*status, NullPointer, "call {i}");
    }
    assert_eq!(out, [UNTOUCHED; 64]);
    assert_eq!(place, 0);
    assert!(last_error().ends_with(" is NULL"));
    ok(poet_work_close(work));
    ok(poet_worker_close(worker));
    ok(poet_proof_close(proof));
}

#[test]
fn nothing_is_a_length() {
    let (work, (worker, proof)) = (work(), proven());
    let (mut out, mut place) = ([UNTOUCHED; 64], 7_usize);
    let (o, p) = (out.as_mut_ptr(), &raw mut place);
    unsafe {
        ok(poet_work_label(work, null(), 0, 0, null(), 0, o));
        let label = out;
        ok(poet_work_label(work, o, 0, 0, o, 0, o));
        assert_eq!(out, label);
        ok(poet_membership_root(null(), 0, o, p));
        assert_eq!((out, place), (label, 0));
        let mut other = null_mut();
        for bytes in [null(), o.cast_const()] {
            assert_eq!(poet_proof_decode(bytes, 0, &raw mut other), MalformedProof);
            assert_eq!(
                poet_verify(0, 5, bytes, 0, 150, 150, bytes, 0),
                MalformedProof
            );
        }
        let none = (null(), null_mut());
        ok(poet_verify_many(
            0,
            5,
            150,
            none.0,
            size_of::<poet_claim>(),
            0,
            1,
            none.1,
        ));
        assert_eq!(poet_proof_encode(proof, o, 0, p), BufferTooSmall);
        assert_eq!(poet_proof_proven_leaves(proof, o, 0, p), BufferTooSmall);
        assert_eq!(poet_last_error(o.cast(), 0), BufferTooSmall);
        ok(poet_last_error(o.cast(), 1));
        assert_eq!(out[0], 0);
        let mut empty = options();
        (empty.statement, empty.statement_bytes) = (null(), 0);
        assert_eq!(status(&empty), OK);
        ok(poet_proof_assemble(
            o,
            null(),
            0,
            null(),
            0,
            0,
            &raw mut other,
        ));
        assert_eq!(encode(other).len(), 33 + 1 + 1 + 1);
        ok(poet_proof_close(other));
    }
    assert_eq!(advance(worker, 0, 0), poet_advanced::Leaves);
    assert_eq!(advance(worker, 1, 0), poet_advanced::Time);
    ok(poet_work_close(work));
    ok(poet_worker_close(worker));
    ok(poet_proof_close(proof));
}

#[test]
fn lengths_that_no_memory_has_are_refused() {
    let (work, (worker, proof)) = (work(), proven());
    let node = [0; 32];
    let (mut out, mut place) = ([UNTOUCHED; 32], 7_usize);
    let (n, o, p) = (node.as_ptr(), out.as_mut_ptr(), &raw mut place);
    let mut handle = null_mut();
    let mut claim = poet_claim {
        statement: n,
        statement_bytes: 1,
        leaves: 1,
        proof: n,
        proof_bytes: 1,
    };
    let size = size_of::<poet_claim>();
    let mut result = OK;
    for huge in HUGE {
        let refused = unsafe {
            [
                poet_work_label(work, n, huge, 0, null(), 0, o),
                poet_work_label(work, n, 1, 0, n, huge, o),
                poet_work_node(work, n, huge, n, n, o),
                poet_proof_decode(n, huge, &raw mut handle),
                poet_proof_assemble(n, n, huge, n, 1, 1, &raw mut handle),
                poet_proof_assemble(n, n, 1, n, huge, 1, &raw mut handle),
                poet_verify(0, 0, n, huge, 150, 150, n, 1),
                poet_verify(0, 0, n, 1, 150, 150, n, huge),
                poet_verify_many(0, 0, 150, &raw const claim, size, huge, 1, &raw mut result),
                poet_membership_root(n, huge, o, p),
            ]
        };
        assert_eq!(refused, [InvalidLength; 10]);
        let mut long = options();
        long.statement_bytes = huge;
        assert_eq!(status(&long), InvalidLength);
        for field in [true, false] {
            (claim.statement_bytes, claim.proof_bytes) = if field { (huge, 1) } else { (1, huge) };
            ok(unsafe {
                poet_verify_many(0, 0, 150, &raw const claim, size, 1, 1, &raw mut result)
            });
            assert_eq!(result, InvalidLength);
        }
    }
    assert_eq!(
        unsafe { poet_work_chain(work, u32::MAX, n, o) },
        InvalidLength
    );
    // A tree of the greatest size cannot be completed here, but requested.
    assert_eq!(advance(worker, u64::MAX, 1), poet_advanced::Time);
    assert_eq!((out, place, handle.is_null()), ([UNTOUCHED; 32], 7, true));
    ok(poet_work_close(work));
    ok(poet_worker_close(worker));
    ok(poet_proof_close(proof));
}

#[test]
fn structs_of_other_sizes_are_refused_unless_they_only_have_more() {
    let good = options();
    let size = size_of::<poet_worker_options>();
    for wrong in [
        0,
        1,
        8,
        size - 8,
        size - 1,
        size + 1,
        4097,
        1 << 20,
        usize::MAX,
    ] {
        let mut options = good;
        options.struct_size = wrong;
        assert_eq!(status(&options), StructSize, "{wrong}");
    }
    #[repr(C)]
    struct Later {
        known: poet_worker_options,
        more: [u64; 2],
    }
    let mut later = Later {
        known: good,
        more: [0; 2],
    };
    later.known.struct_size = size_of::<Later>();
    let mut worker = null_mut();
    let options = (&raw const later).cast();
    ok(unsafe { poet_worker_open(options, &raw mut worker) });
    later.more[1] = 1;
    let options = (&raw const later).cast();
    let mut other = null_mut();
    assert_eq!(
        unsafe { poet_worker_open(options, &raw mut other) },
        StructSize
    );

    let work = work();
    let mut progress = [0_u64; 100];
    let mut info = [0_u32; 100];
    let mut backends = [0_u64; 2000];
    let mut count = 0;
    let claim = [0_u64; 20];
    let mut result = OK;
    unsafe {
        for wrong in [0, 1, 7, 31, 33, 4104, usize::MAX] {
            let place = progress.as_mut_ptr().cast();
            assert_eq!(poet_worker_read_progress(worker, place, wrong), StructSize);
            let place = info.as_mut_ptr().cast();
            assert_eq!(poet_work_describe(work, place, wrong), StructSize);
            let place = backends.as_mut_ptr().cast();
            assert_eq!(
                poet_backend_list(0, 0, place, wrong, 10, &raw mut count),
                StructSize
            );
            let place = claim.as_ptr().cast();
            assert_eq!(
                poet_verify_many(0, 0, 1, place, wrong, 1, 1, &raw mut result),
                StructSize
            );
        }
        // Entries of a later version are further apart.
        let stride = size_of::<poet_backend>() + 16;
        let place = backends.as_mut_ptr().cast();
        ok(poet_backend_list(
            0,
            0,
            place,
            stride,
            2000 * 8 / stride,
            &raw mut count,
        ));
        let last: *mut poet_backend = backends.as_mut_ptr().cast();
        let last = last.byte_add((count - 1) * stride);
        let name = (*last).name.first_chunk().unwrap();
        assert_eq!(*name, b"generic\0".map(|byte| byte as c_char));
    }
    ok(poet_work_close(work));
    ok(poet_worker_close(worker));
}

#[test]
fn numbers_out_of_their_range_are_refused() {
    let (worker, proof) = proven();
    let bytes = encode(proof);
    let mut work = null_mut();
    let mut count = 0;
    let mut other = null_mut();
    unsafe {
        let size = size_of::<poet_backend>();
        for (function, measure) in [(2, 0), (u32::MAX, 0), (0, 2)] {
            assert_eq!(
                poet_backend_list(function, measure, null_mut(), size, 0, &raw mut count),
                InvalidArgument
            );
        }
        for (function, depth) in [
            (2, 1),
            (u32::MAX, 1),
            (0, POET_MAX_DEPTH + 1),
            (0, u32::MAX),
        ] {
            assert_eq!(
                poet_work_open(function, depth, null(), &raw mut work),
                InvalidArgument
            );
            assert_eq!(verify(function, depth, 150, 150, &bytes), InvalidArgument);
        }
        for (t, threads) in [(0, 1), (151, 1), (u32::MAX, 1), (150, 0), (150, 1025)] {
            assert_eq!(
                poet_worker_prove(worker, t, threads, &raw mut other),
                InvalidArgument
            );
            let mut result = OK;
            let size = size_of::<poet_claim>();
            assert_eq!(
                poet_verify_many(0, 0, t, null(), size, 0, threads, &raw mut result),
                InvalidArgument
            );
        }
    }
    for t in [0, 151, u32::MAX] {
        assert_eq!(verify(0, 5, 150, t, &bytes), InvalidArgument);
    }
    assert_eq!(verify(0, 5, u64::MAX, 150, &bytes), InvalidProof);
    let base = options();
    for wrong in [
        poet_worker_options {
            work_function: 2,
            ..base
        },
        poet_worker_options {
            depth: u32::MAX,
            ..base
        },
        poet_worker_options {
            subtree_height: 25,
            ..base
        },
        poet_worker_options {
            subtree_height: u32::MAX,
            ..base
        },
        poet_worker_options {
            reserved: 1,
            ..base
        },
        poet_worker_options {
            backend: c"\xff".as_ptr(),
            ..base
        },
        poet_worker_options {
            log_directory: c"\xff".as_ptr(),
            ..base
        },
    ] {
        assert_eq!(status(&wrong), InvalidArgument);
    }
    let unknown = poet_worker_options {
        backend: c"abacus".as_ptr(),
        ..base
    };
    assert_eq!(status(&unknown), Backend);
    assert!(last_error().contains("abacus"));

    let opened = self::work();
    let siblings = [0; 32 * 64];
    let mut label = [0; 32];
    let (s, l) = (siblings.as_ptr(), label.as_mut_ptr());
    for (index, count, status) in [
        (0, 1, InvalidArgument),
        (1, 0, InvalidArgument),
        (1 << 56, 1, TooManyLeaves),
        (u64::MAX, 64, TooManyLeaves),
        (u64::MAX, 65, InvalidLength),
    ] {
        assert_eq!(
            unsafe { poet_work_label(opened, null(), 0, index, s, count, l) },
            status
        );
    }
    // Misaligned outputs and structs.
    let mut place = [0_u64; 20];
    let odd = unsafe { place.as_mut_ptr().byte_add(1) };
    unsafe {
        assert_eq!(poet_worker_leaves(worker, odd), InvalidArgument);
        assert_eq!(
            poet_worker_open(odd.cast(), place.as_mut_ptr().cast()),
            InvalidArgument
        );
        assert_eq!(
            poet_proof_decode(bytes.as_ptr(), bytes.len(), odd.cast()),
            InvalidArgument
        );
    }
    assert_eq!(place, [0; 20]);
    ok(poet_work_close(opened));
    ok(poet_worker_close(worker));
    ok(poet_proof_close(proof));
}

#[test]
fn what_is_no_open_handle_is_refused() {
    let (work, (worker, proof)) = (work(), proven());
    ok(poet_work_close(work));
    ok(poet_worker_close(worker));
    ok(poet_proof_close(proof));
    let addresses = [
        work.addr(),
        worker.addr(),
        proof.addr(),
        1,
        0x7fff_0000_0000,
        usize::MAX,
        STATEMENT.as_ptr().addr(),
    ];
    let node = [0; 32];
    let mut out = [UNTOUCHED; 64];
    let (n, o) = (node.as_ptr(), out.as_mut_ptr());
    let mut place = [0_u64; 20];
    let p = place.as_mut_ptr();
    for address in addresses {
        let work: *mut poet_work = without_provenance_mut(address);
        let worker: *mut poet_worker = without_provenance_mut(address);
        let proof: *mut poet_proof = without_provenance_mut(address);
        let refused = unsafe {
            [
                poet_work_close(work),
                poet_work_describe(work, p.cast(), size_of::<poet_work_info>()),
                poet_work_label(work, n, 1, 0, n, 0, o),
                poet_work_node(work, n, 1, n, n, o),
                poet_work_chain(work, 1, n, o),
                poet_worker_close(worker),
                poet_worker_advance(worker, 1, 1, p.cast()),
                poet_worker_stop(worker),
                poet_worker_read_progress(worker, p.cast(), size_of::<poet_worker_progress>()),
                poet_worker_leaves(worker, p),
                poet_worker_sync(worker),
                poet_worker_root(worker, o),
                poet_worker_prove(worker, 150, 1, p.cast()),
                poet_proof_close(proof),
                poet_proof_encode(proof, o, 64, p.cast()),
                poet_proof_reference(proof, o),
                poet_proof_leaves(proof, p),
                poet_proof_root(proof, o),
                poet_proof_proven_leaves(proof, o, 2, p.cast()),
                poet_proof_nodes(proof, o, 2, p.cast()),
            ]
        };
        assert_eq!(refused, [NotOpen; 20]);
    }
    assert_eq!((out, place), ([UNTOUCHED; 64], [0; 20]));
}

#[test]
fn directories_and_logs_that_cannot_be_used_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |path: &str| {
        let path = directory.path().join(path);
        CString::new(path.to_str().unwrap()).unwrap()
    };
    let mut options = options();
    let missing = at("missing");
    options.log_directory = missing.as_ptr();
    assert_eq!(status(&options), Io);
    assert!(last_error().contains("missing"), "{}", last_error());
    fs::write(directory.path().join("file"), "").unwrap();
    let file = at("file");
    options.log_directory = file.as_ptr();
    assert_eq!(status(&options), Io);
    // Not even the superuser may write there.
    #[cfg(target_os = "linux")]
    {
        options.log_directory = c"/proc".as_ptr();
        assert_eq!(status(&options), Io);
    }
    let long = CString::new("x".repeat(100_000)).unwrap();
    options.log_directory = long.as_ptr();
    assert_eq!(status(&options), Io);

    fs::create_dir(directory.path().join("foreign")).unwrap();
    let log = directory.path().join("foreign/tree.log");
    let foreign = at("foreign");
    options.log_directory = foreign.as_ptr();
    fs::write(&log, "something else that must not be lost").unwrap();
    assert_eq!(status(&options), LogForeign);
    assert_eq!(
        fs::read_to_string(&log).unwrap(),
        "something else that must not be lost"
    );
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    assert_eq!(status(&options), Io);
}

#[test]
fn a_log_that_was_changed_gives_no_proof() {
    let directory = tempfile::tempdir().unwrap();
    let path = CString::new(directory.path().to_str().unwrap()).unwrap();
    let mut options = options();
    options.log_directory = path.as_ptr();
    options.subtree_height = 1;
    let worker = open(&options);
    advance(worker, 400, u64::MAX);
    // Until then the proof is made from memory.
    ok(poet_worker_sync(worker));
    let mut proof = null_mut();
    let log = directory.path().join("tree.log");
    let mut bytes = fs::read(&log).unwrap();
    for byte in bytes[96..].iter_mut().step_by(32) {
        *byte ^= 1;
    }
    fs::write(&log, bytes).unwrap();
    assert_eq!(
        unsafe { poet_worker_prove(worker, 150, 1, &raw mut proof) },
        poet_status::LogDamaged
    );
    fs::write(&log, []).unwrap();
    assert_eq!(
        unsafe { poet_worker_prove(worker, 150, 1, &raw mut proof) },
        Io
    );
    ok(poet_worker_close(worker));
}

#[cfg(target_os = "linux")]
#[test]
fn a_device_is_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let path = CString::new(directory.path().to_str().unwrap()).unwrap();
    let mut options = options();
    options.log_directory = path.as_ptr();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("tree.log")).unwrap();
    assert_eq!(status(&options), LogForeign);
}

#[test]
fn damaged_proofs_are_refused() {
    let (worker, proof) = proven();
    let bytes = encode(proof);
    let mut other = null_mut();
    for length in 0..bytes.len() {
        assert_eq!(
            unsafe { poet_proof_decode(bytes.as_ptr(), length, &raw mut other) },
            MalformedProof
        );
    }
    assert_eq!(
        verify(0, 5, 150, 150, &bytes[..bytes.len() - 1]),
        MalformedProof
    );
    assert_eq!(verify(0, 5, 149, 150, &bytes), InvalidProof);
    let mut rng = Rng::new(5);
    for _ in 0..2000 {
        let mut damaged = bytes.clone();
        let at = rng.below(damaged.len() as u32) as usize;
        damaged[at] ^= 1 << rng.below(8);
        let status = verify(0, 5, 150, 150, &damaged);
        assert!(
            matches!(status, MalformedProof | InvalidProof),
            "{status:?}"
        );
        assert!(!last_error().is_empty());
    }
    for length in 0..500 {
        let random: Vec<u8> = (0..length).map(|_| rng.below(256) as u8).collect();
        let status = unsafe { poet_proof_decode(random.as_ptr(), length, &raw mut other) };
        assert_eq!(status, MalformedProof);
    }
    assert!(other.is_null());
    assert_eq!(verify(0, 5, 100, 150, &bytes), InvalidProof);
    let few = unsafe {
        let mut few = null_mut();
        ok(poet_proof_assemble(
            [0; 32].as_ptr(),
            null(),
            0,
            null(),
            0,
            9,
            &raw mut few,
        ));
        let bytes = encode(few);
        ok(poet_proof_close(few));
        bytes
    };
    assert_eq!(verify(0, 5, 9, 150, &few), TooFewLeaves);
    ok(poet_worker_close(worker));
    ok(poet_proof_close(proof));
}

#[test]
fn every_number_has_a_message() {
    for number in (0..100).chain([u32::MAX]) {
        let text = unsafe { std::ffi::CStr::from_ptr(poet_status_message(number)) };
        let text = text.to_str().unwrap();
        assert_eq!(text == "unknown status", number > 21, "{number}");
    }
}
