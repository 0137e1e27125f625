//! The engine against the golden vectors and its own invariants, on every backend of this CPU.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use poet_conformance::{reference, vectors};
use poet_engine::{
    Claim, LABEL_DEPTH, LogRead, MAX_PROVEN_LEAVES, Node, Proof, ProofMessage, ProveError,
    ProveProgress, RoundWork, ScaleError, SubtreeHeight, T, Tree, TreeError, VerifyError, Work,
    WorkFunction, height, membership, prove, proven_indices, run, verify, verify_many,
};
use proptest::prelude::*;

mod common;
use common::{fast_work, works};

fn subtree_height(k: u32) -> SubtreeHeight {
    SubtreeHeight::new(k).unwrap()
}

/// Makes a tree of `leaves` leaves and its log.
fn grow(work: &Work, statement: &[u8], leaves: u64, k: u32) -> (Tree, Vec<Node>) {
    let mut log = Vec::new();
    let mut tree = Tree::new(work, statement);
    let progress = AtomicU64::new(0);
    let target = AtomicU64::new(leaves);
    run(&mut tree, subtree_height(k), &target, &progress, |root| {
        log.push(root);
    });
    assert_eq!(progress.load(Relaxed), leaves);
    assert_eq!(log.len() as u64, leaves >> k);
    (tree, log)
}

fn proof(tree: &Tree, log: &[Node], k: u32, threads: usize) -> Result<Proof, ProveError> {
    let progress = ProveProgress::default();
    let proof = prove(tree, subtree_height(k), &mut &*log, T, threads, &progress)?;
    let (done, total) = progress.hashes();
    assert!(done <= total, "{done} of {total}");
    Ok(proof)
}

#[test]
fn labels_and_roots() {
    for (name, work) in works(WorkFunction::Sha256, LABEL_DEPTH) {
        for vector in vectors::labels() {
            let mut tree = Tree::new(&work, &vector.statement);
            assert_eq!(tree.root(), None);
            for (i, expected) in vector.labels.iter().enumerate() {
                let label = tree.next_label();
                assert_eq!(&label, expected, "{name}: label {i}");
                tree.push(label, |_, _, _| {});
                let root = vector.root_after_each_leaf[i];
                assert_eq!(tree.root(), Some(root), "{name}: root after leaf {i}");
            }
        }
    }
}

#[test]
fn proofs() {
    // In parallel: this takes the longest of all under emulation.
    std::thread::scope(|scope| {
        for (name, work) in works(WorkFunction::Sha256, LABEL_DEPTH) {
            scope.spawn(move || proofs_by(name, &work));
        }
    });
}

fn proofs_by(name: &str, work: &Work) {
    for vector in vectors::proofs() {
        // The largest trees take a while on the slow backends; one height is enough there.
        let heights: &[u32] = match vector.leaves {
            0..2_000 => &[0, 1, 3, 7, 12, 24],
            2_000..20_000 => &[0, 5],
            _ => &[6],
        };
        let expected = Proof {
            root: vector.root,
            proven_leaves: vector.proven_leaves.clone(),
            proof_nodes: vector.proof_nodes.clone(),
        };
        for &k in heights {
            let (tree, log) = grow(work, &vector.statement, vector.leaves, k);
            let proof = proof(&tree, &log, k, 2).unwrap();
            assert_eq!(proof, expected, "{name}: {} leaves, k {k}", vector.leaves);
        }
        let result = verify(work, &vector.statement, vector.leaves, T, &expected);
        assert_eq!(result.is_ok(), vector.valid, "{name}: {result:?}");
        let indices = proven_indices(work.kernels().sha256, &vector.root, vector.leaves, T);
        assert_eq!(indices, vector.proven_leaf_indices, "{name}");
    }
}

#[test]
fn fiat_shamir() {
    for (name, work) in works(WorkFunction::Sha256, LABEL_DEPTH) {
        for vector in vectors::fiat_shamir() {
            let sha256 = work.kernels().sha256;
            let indices = proven_indices(sha256, &vector.root, vector.leaves, vector.t as usize);
            assert_eq!(indices, vector.indices_sorted, "{name}: {}", vector.leaves);
        }
    }
}

#[test]
fn membership_roots() {
    for vector in vectors::membership() {
        let members = &vector.members_in_tree_order;
        assert_eq!(
            membership::root(members),
            vector.root,
            "{} members",
            members.len()
        );
    }
}

#[test]
fn stored_form() {
    let proofs = vectors::proofs();
    for vector in vectors::scale_proofs() {
        let proof = proofs
            .iter()
            .find(|proof| (proof.leaves, proof.root) == (vector.leaves, vector.root))
            .unwrap();
        let proof = Proof {
            root: proof.root,
            proven_leaves: proof.proven_leaves.clone(),
            proof_nodes: proof.proof_nodes.clone(),
        };
        assert_eq!(proof.to_scale(vector.leaves), vector.scale_bytes);
        assert_eq!(proof.reference(vector.leaves), vector.reference);
        assert_eq!(
            Proof::from_scale(&vector.scale_bytes),
            Ok((proof, vector.leaves))
        );
        for cut in 0..vector.scale_bytes.len() {
            assert!(
                Proof::from_scale(&vector.scale_bytes[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        let longer = [&vector.scale_bytes[..], &[0]].concat();
        assert!(Proof::from_scale(&longer).is_err());
    }
}

/// The message of PROTOCOL.md section 5, written without the engine: the golden bytes of the proof,
/// the key and the round's id with their lengths times four, statement and signature without.
#[test]
fn what_nodes_store_and_gossip() {
    for vector in vectors::scale_proofs() {
        for round_id in ["0", "115", "18446744073709551615", &"7".repeat(32)] {
            let (proof, leaves) = Proof::from_scale(&vector.scale_bytes).unwrap();
            let message = ProofMessage {
                proof,
                leaves,
                service_key: [0xc5; 32],
                round_id: round_id.to_owned(),
                statement: [0x57; 32],
                signature: [0; 64],
            };
            let mut bytes = vector.scale_bytes.clone();
            bytes.push(128);
            bytes.extend([0xc5; 32]);
            bytes.push(4 * round_id.len() as u8);
            bytes.extend(round_id.bytes());
            bytes.extend([0x57; 32]);
            bytes.extend([0; 64]);
            assert_eq!(message.to_scale(), bytes);
            assert_eq!(ProofMessage::from_scale(&bytes), Ok(message));
            let end = vector.scale_bytes.len();
            assert_eq!(
                Proof::from_scale(&bytes),
                Err(ScaleError::TrailingBytes { at: end })
            );
            for cut in end..bytes.len() {
                assert!(ProofMessage::from_scale(&bytes[..cut]).is_err(), "{cut}");
            }
            bytes.push(0);
            assert!(ProofMessage::from_scale(&bytes).is_err());
        }
    }
}

#[test]
fn messages_that_nodes_do_not_read() {
    let vectors = vectors::scale_proofs();
    let proof = &vectors[0].scale_bytes;
    let tail = |key: &[u8], round_id: &[u8]| {
        let rest = [key, round_id, &[0; 96]].concat();
        ProofMessage::from_scale(&[&proof[..], &rest].concat())
    };
    let key = [&[128][..], &[1; 32]].concat();
    assert!(tail(&key, b"\x04" as &[u8]).is_err());
    assert!(tail(&key, b"\x045").is_ok());
    let (key_at, id_at) = (proof.len(), proof.len() + 33);
    for length in [0, 31, 33] {
        let key = vec![1; length as usize];
        let key = [&[4 * length as u8][..], &key].concat();
        let error = ScaleError::NodeLength { at: key_at, length };
        assert_eq!(tail(&key, b"\x045"), Err(error));
    }
    let long = [&[4 * 33][..], &[b'7'; 33]].concat();
    for id in [&long[..], b"\x04\xff", b"\x03\xff\xff\xff\xff"] {
        assert_eq!(tail(&key, id), Err(ScaleError::RoundId { at: id_at }));
    }
}

#[test]
fn stored_form_keeps_every_leaf_count() {
    for bits in 0..64 {
        for leaves in [
            1u64 << bits,
            (1 << bits) - 1,
            (1 << bits) + 1,
            u64::MAX - (1 << bits),
        ] {
            let proof = Proof {
                root: [7; 32],
                proven_leaves: vec![[1; 32]; MAX_PROVEN_LEAVES],
                proof_nodes: vec![],
            };
            let bytes = proof.to_scale(leaves);
            assert_eq!(Proof::from_scale(&bytes), Ok((proof, leaves)));
        }
    }
}

#[test]
fn any_flipped_bit_is_noticed() {
    // Few proven leaves, so that every bit can be flipped.
    const SHOWN: usize = 12;
    let work = fast_work(WorkFunction::Sha256, 3);
    let statement = [5; 32];
    let leaves = 1_000;
    let (tree, log) = grow(&work, &statement, leaves, 4);
    let k = subtree_height(4);
    let progress = ProveProgress::default();
    let good = prove(&tree, k, &mut &log[..], SHOWN, 1, &progress).unwrap();
    assert!(good.proof_nodes.len() > 50);
    verify(&work, &statement, leaves, SHOWN, &good).unwrap();

    let refused = |statement: &[u8], leaves: u64, proof: &Proof, what: &str| {
        assert!(
            verify(&work, statement, leaves, SHOWN, proof).is_err(),
            "{what}"
        );
    };
    for bit in 0..64 {
        refused(&statement, leaves ^ (1 << bit), &good, "leaf count");
    }
    for bit in 0..256 {
        let flip = |node: &mut Node| node[bit / 8] ^= 1 << (bit % 8);
        let mut other = statement;
        flip(&mut other);
        refused(&other, leaves, &good, "statement");
        let mut bad = good.clone();
        flip(&mut bad.root);
        refused(&statement, leaves, &bad, "root");
        for i in 0..good.proven_leaves.len() {
            let mut bad = good.clone();
            flip(&mut bad.proven_leaves[i]);
            refused(&statement, leaves, &bad, "proven leaf");
        }
        for i in 0..good.proof_nodes.len() {
            let mut bad = good.clone();
            flip(&mut bad.proof_nodes[i]);
            refused(&statement, leaves, &bad, "proof node");
        }
    }
}

#[test]
fn a_made_up_tree_is_noticed_at_its_labels() {
    // The tree is consistent, so only the labels show that they are not the work's.
    let honest = fast_work(WorkFunction::Sha256, 5);
    let lazy = fast_work(WorkFunction::Sha256, 4);
    let (tree, log) = grow(&lazy, b"round", 500, 0);
    let proof = proof(&tree, &log, 0, 1).unwrap();
    verify(&lazy, b"round", 500, T, &proof).unwrap();
    let result = verify(&honest, b"round", 500, T, &proof);
    assert!(
        matches!(result, Err(VerifyError::Label { .. })),
        "{result:?}"
    );
}

#[test]
fn the_aes_work_function_goes_through_the_whole_engine() {
    let statement = b"another network";
    let sha256 = fast_work(WorkFunction::Sha256, 7);
    let labels = reference::labels(statement, 300, WorkFunction::Haraka256, 7);
    for (name, work) in works(WorkFunction::Haraka256, 7) {
        for k in [0, 4] {
            let (tree, log) = grow(&work, statement, 300, k);
            let root = reference::root(statement, &labels);
            assert_eq!(tree.root(), Some(root), "{name}");
            let proof = proof(&tree, &log, k, 2).unwrap();
            verify(&work, statement, 300, T, &proof).unwrap();
            // The tree is the same; only the labels show that it is other work.
            let error = verify(&sha256, statement, 300, T, &proof).unwrap_err();
            let message = error.to_string();
            assert!(
                message.ends_with("is not what sha256 x 7 makes"),
                "{message}"
            );
            let deeper = fast_work(WorkFunction::Haraka256, 8);
            let error = verify(&deeper, statement, 300, T, &proof).unwrap_err();
            let message = error.to_string();
            assert!(
                message.ends_with("is not what haraka256 x 8 makes"),
                "{message}"
            );
        }
    }
}

#[test]
fn depths_out_of_range_are_refused() {
    let kernels = *fast_work(WorkFunction::Sha256, 1).kernels();
    for depth in [0, (1 << 20) + 1, u32::MAX] {
        let error = Work::new(WorkFunction::Sha256, depth, kernels).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(&format!("depth {depth} is out of range")),
            "{message}"
        );
    }
}

#[test]
fn many_proofs_are_verified_each_for_itself() {
    let work = fast_work(WorkFunction::Sha256, 2);
    let statements: Vec<[u8; 1]> = (0..20).map(|i| [i]).collect();
    let proofs: Vec<Proof> = statements
        .iter()
        .map(|statement| {
            let (tree, log) = grow(&work, statement, 200, 0);
            proof(&tree, &log, 0, 1).unwrap()
        })
        .collect();
    let claims: Vec<Claim<'_>> = statements
        .iter()
        .zip(&proofs)
        .map(|(statement, proof)| Claim {
            statement,
            // Every third one claims another leaf.
            leaves: 200 + u64::from(statement[0] % 3 == 0),
            proof,
        })
        .collect();
    for threads in [0, 1, 3, 5000] {
        let results = verify_many(&work, T, &claims, threads);
        assert_eq!(results.len(), 20);
        for (i, result) in results.iter().enumerate() {
            assert_eq!(result.is_ok(), i % 3 != 0, "{i}: {result:?}");
        }
    }
    assert_eq!(verify_many(&work, T, &[], 2), []);
}

#[test]
fn wrong_shapes_are_refused() {
    let work = fast_work(WorkFunction::Sha256, 2);
    let (tree, log) = grow(&work, b"", 300, 2);
    let good = proof(&tree, &log, 2, 1).unwrap();
    let check = |leaves, t, proof: &Proof| verify(&work, b"", leaves, t, proof);
    assert_eq!(check(300, T, &good), Ok(()));
    assert_eq!(
        check(300, 0, &good),
        Err(VerifyError::SecurityParameter { t: 0 })
    );
    assert_eq!(
        check(300, 151, &good),
        Err(VerifyError::SecurityParameter { t: 151 })
    );
    assert_eq!(
        check(149, T, &good),
        Err(VerifyError::TooFewLeaves { leaves: 149, t: T })
    );
    assert_eq!(
        check(0, T, &good),
        Err(VerifyError::TooFewLeaves { leaves: 0, t: T })
    );
    let mut short = good.clone();
    short.proven_leaves.pop();
    assert!(matches!(
        check(300, T, &short),
        Err(VerifyError::ProvenLeaves { given: 149, .. })
    ));
    let mut long = good.clone();
    long.proof_nodes.push([0; 32]);
    assert!(matches!(
        check(300, T, &long),
        Err(VerifyError::ProofNodes { .. })
    ));
    for leaves in [1 << 40, u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) + 1] {
        assert!(check(leaves, T, &good).is_err(), "{leaves}");
    }
}

#[test]
fn proving_refuses_what_does_not_fit() {
    let work = fast_work(WorkFunction::Sha256, 2);
    let empty = Tree::new(&work, b"");
    assert!(matches!(
        proof(&empty, &[], 3, 1),
        Err(ProveError::NoLeaves)
    ));
    let (tree, log) = grow(&work, b"", 1_000, 3);
    for threads in [0, 1025] {
        assert!(matches!(
            proof(&tree, &log, 3, threads),
            Err(ProveError::Threads { .. })
        ));
    }
    assert!(matches!(
        proof(&tree, &log[1..], 3, 1),
        Err(ProveError::Log(_))
    ));
    for entry in 0..log.len() {
        let mut wrong = log.clone();
        wrong[entry][9] ^= 4;
        let error = proof(&tree, &wrong, 3, 2).unwrap_err();
        // 1,000 leaves leave parked nodes everywhere in the log, so each entry counts.
        assert!(
            matches!(error, ProveError::WrongTree | ProveError::WrongEntry { .. }),
            "{error}"
        );
    }
}

#[test]
fn a_wrong_entry_is_noticed_when_its_subtree_is_shown() {
    let work = fast_work(WorkFunction::Sha256, 2);
    let (_, log) = grow(&work, b"", 2_000, 3);
    let k = subtree_height(3);
    let mut shown = 0;
    for entry in 0..log.len() {
        // The work goes on from the wrong entry, so the tree is consistent with it.
        let mut wrong = log[..=entry].to_vec();
        wrong[entry][9] ^= 4;
        let mut tree = RoundWork::new(&work, b"", k)
            .resume(&mut &wrong[..])
            .unwrap();
        let target = AtomicU64::new(2_000);
        run(&mut tree, k, &target, &AtomicU64::new(0), |root| {
            wrong.push(root);
        });
        let root = tree.root().unwrap();
        let indices = proven_indices(work.kernels().sha256, &root, tree.leaves(), T);
        let result = proof(&tree, &wrong, 3, 2);
        if indices.iter().any(|index| index >> 3 == entry as u64) {
            shown += 1;
            let Err(ProveError::WrongEntry { entry: found }) = result else {
                panic!("entry {entry}: {result:?}");
            };
            assert_eq!(found, entry as u64);
        } else {
            result.unwrap();
        }
    }
    assert!(shown > 50, "{shown}");
}

#[test]
fn parked_nodes_must_fit_the_leaf_count() {
    let work = fast_work(WorkFunction::Sha256, 2);
    let (tree, _) = grow(&work, b"s", 77, 0);
    let again = Tree::from_parked(&work, b"s", 77, tree.parked()).unwrap();
    assert_eq!(again.root(), tree.root());
    let error = Tree::from_parked(&work, b"s", 76, tree.parked()).unwrap_err();
    assert_eq!(
        error,
        TreeError::Parked {
            leaves: 76,
            expected: 3,
            given: 4
        }
    );
    let error = Tree::from_parked(&work, b"s", u64::MAX, tree.parked()).unwrap_err();
    assert_eq!(error, TreeError::TooManyLeaves { leaves: u64::MAX });
}

#[test]
fn default_subtree_heights() {
    let default = |leaves| SubtreeHeight::for_round(leaves).get();
    assert_eq!(default(0), 0);
    assert_eq!(default((1 << 25) - 1), 0);
    assert_eq!(default(1 << 25), 1);
    // A mainnet round: 91 billion leaves.
    assert_eq!(default(91_000_000_000), 12);
    assert_eq!(default(u64::MAX), 24);
    assert!(SubtreeHeight::new(24).is_ok());
    assert_eq!(
        SubtreeHeight::new(25).unwrap_err().to_string(),
        "subtree height 25 is out of range: expected 0 to 24"
    );
}

#[test]
fn heights() {
    let expected = [
        (0, 0),
        (1, 0),
        (2, 1),
        (3, 2),
        (4, 2),
        (5, 3),
        (1 << 63, 63),
        (u64::MAX, 64),
    ];
    for (leaves, expected) in expected {
        assert_eq!(height(leaves), expected, "{leaves}");
    }
}

#[test]
fn a_log_over_many_chunks_gives_the_same_proof() {
    // More than two chunks of the pass over the log, and a ragged end.
    let work = fast_work(WorkFunction::Sha256, 1);
    let leaves = 3 * 4096 + 1234;
    let (tree, log) = grow(&work, b"chunks", leaves, 0);
    let expected = proof(&tree, &log, 0, 1).unwrap();
    verify(&work, b"chunks", leaves, T, &expected).unwrap();
    for k in [1, 2, 5, 10] {
        let (tree, log) = grow(&work, b"chunks", leaves, k);
        assert_eq!(proof(&tree, &log, k, 3).unwrap(), expected, "k {k}");
        let resumed = RoundWork::new(&work, b"chunks", subtree_height(k))
            .resume(&mut &log[..])
            .unwrap();
        assert_eq!(resumed.leaves(), leaves >> k << k);
        assert!(tree.parked().ends_with(resumed.parked()));
    }
}

/// A log that claims any number of entries.
struct Claims(u64);

impl LogRead for Claims {
    fn entries(&self) -> u64 {
        self.0
    }

    fn read(&mut self, _: u64, out: &mut [Node]) -> Result<(), poet_engine::LogError> {
        out.fill([1; 32]);
        Ok(())
    }
}

#[test]
fn a_log_longer_than_any_tree_is_refused() {
    let work = fast_work(WorkFunction::Sha256, 1);
    for entries in [u64::MAX, 1 << 60, (1 << 32) + 1] {
        let error = RoundWork::new(&work, b"", subtree_height(24))
            .resume(&mut Claims(entries))
            .unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
    }
}

proptest! {
    /// Whatever the subtree height, the number of threads and the points of interruption, one
    /// statement and one number of leaves make one proof: that of the naive tree.
    #[test]
    fn one_proof_whatever_the_way(
        statement in prop::collection::vec(any::<u8>(), 0..200),
        leaves in 1u64..700,
        depth in 1u32..6,
        k in 0u32..=24,
        threads in 1usize..5,
        interruptions in prop::collection::vec(0u64..700, 0..4),
    ) {
        let work = fast_work(WorkFunction::Sha256, depth);
        let mut log: Vec<Node> = Vec::new();
        let mut tree = Tree::new(&work, &statement);
        let progress = AtomicU64::new(0);
        for stop in interruptions.into_iter().chain([leaves]) {
            let target = AtomicU64::new(stop.min(leaves));
            run(&mut tree, subtree_height(k), &target, &progress, |root| log.push(root));
            if stop < leaves {
                // Everything but the log is lost.
                tree = RoundWork::new(&work, &statement, subtree_height(k)).resume(&mut &log[..]).unwrap();
                prop_assert_eq!(tree.leaves(), (log.len() as u64) << k);
            }
        }
        let labels =
            reference::labels(&statement, leaves as usize, WorkFunction::Sha256, depth);
        prop_assert_eq!(tree.root(), Some(reference::root(&statement, &labels)));

        let proof = proof(&tree, &log, k, threads).unwrap();
        let indices = proven_indices(work.kernels().sha256, &proof.root, leaves, T);
        let proven: Vec<Node> = indices.iter().map(|i| labels[*i as usize]).collect();
        prop_assert_eq!(&proof.proven_leaves, &proven);
        let valid = verify(&work, &statement, leaves, T, &proof);
        prop_assert_eq!(valid.is_ok(), leaves >= T as u64, "{:?}", valid);
    }

    /// Random bytes are not a proof, and decoding them fails with an error.
    #[test]
    fn random_bytes_are_not_a_proof(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Ok((proof, leaves)) = Proof::from_scale(&bytes) {
            prop_assert_eq!(proof.to_scale(leaves), bytes);
        }
    }
}
