//! The C functions compute what the protocol specifies.

use std::ptr::{null, null_mut};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{
    STATEMENT, Sendable, advance, encode, leaves, ok, open, options, progress, root, status,
};
use poet::poet_status::{
    Busy, InvalidProof, LogForeign, LogInUse, MalformedProof, NullPointer, Ok as OK, TooFewLeaves,
};
use poet::*;
use poet_conformance::vectors;

#[test]
fn labels_and_nodes_are_those_of_the_go_server() {
    let mut work = null_mut();
    ok(unsafe { poet_work_open(0, 0, null(), &raw mut work) });
    for vector in &vectors::labels() {
        let statement = &vector.statement;
        // The parked nodes, lowest first.
        let mut parked: Vec<[u8; 32]> = Vec::new();
        for (index, expected) in vector.labels.iter().enumerate().take(40) {
            let mut label = [0; 32];
            ok(unsafe {
                poet_work_label(
                    work,
                    statement.as_ptr(),
                    statement.len(),
                    index as u64,
                    parked.as_flattened().as_ptr(),
                    parked.len(),
                    label.as_mut_ptr(),
                )
            });
            assert_eq!(label, *expected);
            for _ in 0..index.trailing_ones() {
                let left = parked.remove(0);
                // In place, which is allowed.
                let node = label.as_mut_ptr();
                ok(unsafe {
                    poet_work_node(
                        work,
                        statement.as_ptr(),
                        statement.len(),
                        left.as_ptr(),
                        node,
                        node,
                    )
                });
            }
            parked.insert(0, label);
        }
    }
    ok(poet_work_close(work));
}

#[test]
fn chains_are_those_of_the_specification() {
    let mut work = null_mut();
    ok(unsafe { poet_work_open(1, 7, c"generic".as_ptr(), &raw mut work) });
    let mut digest = [0x11; 32];
    let start = digest;
    ok(unsafe { poet_work_chain(work, 0, digest.as_ptr(), digest.as_mut_ptr()) });
    assert_eq!(digest, start);
    ok(unsafe { poet_work_chain(work, 5, digest.as_ptr(), digest.as_mut_ptr()) });
    let mut again = start;
    for steps in [2, 3] {
        ok(unsafe { poet_work_chain(work, steps, again.as_ptr(), again.as_mut_ptr()) });
    }
    assert_eq!(again, digest);
    for vector in &vectors::haraka().haraka256_chain {
        let mut digest = vector.input;
        ok(unsafe {
            poet_work_chain(
                work,
                vector.iterations,
                digest.as_ptr(),
                digest.as_mut_ptr(),
            )
        });
        assert_eq!(digest, vector.output);
    }
    ok(poet_work_close(work));
}

#[test]
fn membership_roots_are_those_of_the_go_server() {
    for vector in &vectors::membership() {
        let nodes: Option<Vec<[u8; 32]>> = vector
            .members_in_tree_order
            .iter()
            .map(|challenge| challenge.as_slice().try_into().ok())
            .collect();
        let Some(nodes) = nodes else {
            continue;
        };
        let (mut root, mut bytes) = ([0; 32], usize::MAX);
        ok(unsafe {
            poet_membership_root(
                nodes.as_flattened().as_ptr(),
                nodes.len(),
                root.as_mut_ptr(),
                &raw mut bytes,
            )
        });
        assert_eq!(root[..bytes], vector.root[..]);
    }
}

#[test]
fn proofs_of_the_go_server_are_read_and_verified() {
    let proofs = vectors::proofs();
    let stored = vectors::scale_proofs();
    assert!(!stored.is_empty());
    for vector in &stored {
        let mut proof = null_mut();
        let bytes = &vector.scale_bytes;
        ok(unsafe { poet_proof_decode(bytes.as_ptr(), bytes.len(), &raw mut proof) });
        assert_eq!(encode(proof), *bytes);
        let mut reference = [0; 32];
        ok(unsafe { poet_proof_reference(proof, reference.as_mut_ptr()) });
        assert_eq!(reference, vector.reference);
        ok(poet_proof_close(proof));

        let of = |proof: &&vectors::ProofVector| {
            (proof.leaves, proof.root) == (vector.leaves, vector.root)
        };
        let proof = proofs.iter().find(of).unwrap();
        let status = unsafe {
            poet_verify(
                0,
                400,
                proof.statement.as_ptr(),
                proof.statement.len(),
                vector.leaves,
                150,
                bytes.as_ptr(),
                bytes.len(),
            )
        };
        assert_eq!(status == OK, proof.valid, "{} leaves", vector.leaves);
    }
}

#[test]
fn a_round_is_worked_on_proven_and_verified() {
    let worker = open(&options());
    assert_eq!(advance(worker, 10, u64::MAX), poet_advanced::Leaves);
    let mut proof = null_mut();
    assert_eq!(
        unsafe { poet_worker_prove(worker, 150, 1, &raw mut proof) },
        TooFewLeaves
    );
    assert_eq!(advance(worker, 190, u64::MAX), poet_advanced::Leaves);
    assert_eq!(leaves(worker), 200);
    ok(unsafe { poet_worker_prove(worker, 150, 2, &raw mut proof) });
    let progress = progress(worker);
    assert_eq!((progress.leaves, progress.durable_leaves), (200, 0));
    assert!(progress.prove_hashes_total > 0);

    let bytes = encode(proof);
    let verify = |statement: &[u8], leaves, t, bytes: &[u8]| unsafe {
        poet_verify(
            0,
            5,
            statement.as_ptr(),
            statement.len(),
            leaves,
            t,
            bytes.as_ptr(),
            bytes.len(),
        )
    };
    ok(verify(STATEMENT, 200, 150, &bytes));
    assert_eq!(verify(b"another", 200, 150, &bytes), InvalidProof);
    assert_eq!(verify(STATEMENT, 201, 150, &bytes), InvalidProof);
    assert_eq!(verify(STATEMENT, 200, 149, &bytes), InvalidProof);
    assert_eq!(verify(STATEMENT, 200, 150, &bytes[1..]), MalformedProof);

    // The parts make the same proof.
    let (mut root_of_proof, mut count, mut nodes) = ([0; 32], 0, 0);
    let (mut labels, mut siblings) = (vec![[0; 32]; 150], vec![[0; 32]; 5400]);
    let mut total = 0;
    let mut again = null_mut();
    unsafe {
        ok(poet_proof_root(proof, root_of_proof.as_mut_ptr()));
        ok(poet_proof_leaves(proof, &raw mut total));
        let buffer = labels.as_mut_ptr().cast();
        ok(poet_proof_proven_leaves(proof, buffer, 150, &raw mut count));
        let buffer = siblings.as_mut_ptr().cast();
        ok(poet_proof_nodes(proof, buffer, 5400, &raw mut nodes));
        ok(poet_proof_assemble(
            root_of_proof.as_ptr(),
            labels.as_ptr().cast(),
            count,
            siblings.as_ptr().cast(),
            nodes,
            total,
            &raw mut again,
        ));
    }
    assert_eq!((count, total), (150, 200));
    assert_eq!(root_of_proof, root(worker));
    assert_eq!(encode(again), bytes);

    // Many at once: each gets its own result.
    let claim = poet_claim {
        statement: STATEMENT.as_ptr(),
        statement_bytes: STATEMENT.len(),
        leaves: 200,
        proof: bytes.as_ptr(),
        proof_bytes: bytes.len(),
    };
    let wrong = poet_claim { leaves: 7, ..claim };
    let missing = poet_claim {
        proof: null(),
        ..claim
    };
    let short = poet_claim {
        proof_bytes: 9,
        ..claim
    };
    let mut claims = vec![claim, wrong, missing, short];
    claims.extend([claim; 300]);
    let mut results = vec![NullPointer; claims.len()];
    ok(unsafe {
        poet_verify_many(
            0,
            5,
            150,
            claims.as_ptr(),
            size_of::<poet_claim>(),
            claims.len(),
            3,
            results.as_mut_ptr(),
        )
    });
    assert_eq!(
        results[..4],
        [OK, InvalidProof, NullPointer, MalformedProof]
    );
    assert_eq!(results[4..], [OK; 300]);

    ok(poet_proof_close(proof));
    ok(poet_proof_close(again));
    ok(poet_worker_close(worker));
}

#[test]
fn a_log_is_resumed_and_makes_the_same_tree() {
    let directory = tempfile::tempdir().unwrap();
    let path = std::ffi::CString::new(directory.path().to_str().unwrap()).unwrap();
    let mut options = options();
    options.log_directory = path.as_ptr();
    options.subtree_height = 3;

    let memory = open(&super::common::options());
    advance(memory, 1000, u64::MAX);

    let worker = open(&options);
    advance(worker, 501, u64::MAX);
    assert_eq!(progress(worker).durable_leaves, 0);
    ok(poet_worker_sync(worker));
    assert_eq!(progress(worker).durable_leaves, 496);
    assert_eq!(status(&options), LogInUse);
    ok(poet_worker_close(worker));

    let mut other = options;
    other.statement_bytes -= 1;
    assert_eq!(status(&other), LogForeign);
    other = options;
    other.work_function = 1;
    assert_eq!(status(&other), LogForeign);

    let worker = open(&options);
    assert_eq!(leaves(worker), 496);
    assert_eq!(progress(worker).durable_leaves, 496);
    advance(worker, 504, u64::MAX);
    assert_eq!(root(worker), root(memory));
    let mut proofs = [null_mut(); 2];
    ok(unsafe { poet_worker_prove(worker, 150, 1, &raw mut proofs[0]) });
    ok(unsafe { poet_worker_prove(memory, 150, 1, &raw mut proofs[1]) });
    assert_eq!(encode(proofs[0]), encode(proofs[1]));
    for proof in proofs {
        ok(poet_proof_close(proof));
    }
    ok(poet_worker_close(worker));
    ok(poet_worker_close(memory));
}

#[test]
fn work_ends_when_the_time_is_up() {
    let worker = open(&options());
    for milliseconds in [0, 1, 30] {
        let start = Instant::now();
        let ended = advance(worker, u64::MAX, milliseconds * 1000);
        assert_eq!(ended, poet_advanced::Time);
        assert!(start.elapsed() >= Duration::from_millis(milliseconds));
    }
    assert!(leaves(worker) > 0);
    ok(poet_worker_close(worker));
}

#[test]
fn another_thread_watches_and_stops_the_work_and_nothing_else() {
    let worker = open(&options());
    let shared = Sendable(worker);
    let work = thread::spawn(move || {
        let Sendable(worker) = { shared };
        advance(worker, u64::MAX, u64::MAX)
    });
    while leaves(worker) < 100 {
        thread::yield_now();
    }
    assert!(progress(worker).leaves >= 100);
    let mut node = [0; 32];
    assert_eq!(unsafe { poet_worker_root(worker, node.as_mut_ptr()) }, Busy);
    assert_eq!(poet_worker_close(worker), Busy);
    ok(poet_worker_sync(worker));
    let mut proof = null_mut();
    let busy = unsafe { poet_worker_prove(worker, 150, 1, &raw mut proof) };
    assert_eq!(busy, Busy);
    ok(poet_worker_stop(worker));
    assert_eq!(work.join().unwrap(), poet_advanced::Stopped);

    // An earlier stop is not lost, and counts once.
    ok(poet_worker_stop(worker));
    assert_eq!(advance(worker, u64::MAX, u64::MAX), poet_advanced::Stopped);
    assert_eq!(advance(worker, 1, u64::MAX), poet_advanced::Leaves);
    ok(poet_worker_close(worker));
}

#[test]
fn backends_are_listed_and_can_be_chosen() {
    for (function, measure) in [(0, 0), (0, 1), (1, 0)] {
        let mut count = 0;
        let size = size_of::<poet_backend>();
        ok(unsafe { poet_backend_list(function, 0, null_mut(), size, 0, &raw mut count) });
        let mut backends = Vec::with_capacity(count);
        ok(unsafe {
            poet_backend_list(
                function,
                measure,
                backends.as_mut_ptr(),
                size,
                count,
                &raw mut count,
            )
        });
        unsafe { backends.set_len(count) };
        let usable = backends.iter().filter(|backend| backend.excluded[0] == 0);
        for backend in usable.clone() {
            assert_eq!(backend.many_hashes_per_s > 0.0, measure == 1);
            let mut work = null_mut();
            let name = backend.name.as_ptr();
            ok(unsafe { poet_work_open(function, 0, name, &raw mut work) });
            let info = super::common::describe(work);
            assert_eq!((info.work_function, info.depth), (function, 400));
            assert_eq!(info.many_backend, backend.name);
            if backend.sequential == 1 {
                assert_eq!(info.one_backend, backend.name);
            }
            ok(poet_work_close(work));
            // A worker hashes one chain.
            let opened = super::common::status(&poet_worker_options {
                work_function: function,
                backend: name,
                ..super::common::options()
            });
            let expected = match backend.sequential {
                1 => poet_status::Ok,
                _ => poet_status::Backend,
            };
            assert_eq!(opened, expected, "{}", super::common::last_error());
        }
        assert!(usable.count() >= 1);
    }
}
