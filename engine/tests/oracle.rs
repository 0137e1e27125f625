//! Compares the engine with the slow prover and verifier of the fuzz targets, in rounds small
//! enough for Miri.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicU64;

use poet_backend_generic::{Generic, GenericHaraka};
use poet_conformance::reference;
use poet_engine::{
    Chain, Claim, Kernels, Node, Proof, ProveProgress, RoundWork, SubtreeHeight, Tree, VerifyError,
    Work, WorkFunction, prove, run, verify, verify_many,
};

#[path = "../fuzz/src/oracle.rs"]
pub mod oracle;

const DEPTH: u32 = 2;
const T: usize = 3;

fn work(function: WorkFunction) -> Work {
    let chain: &'static dyn Chain = match function {
        WorkFunction::Sha256 => Generic::get(),
        WorkFunction::Haraka256 => GenericHaraka::get(),
    };
    let kernels = Kernels {
        sha256: Generic::get(),
        chain,
        wide_sha256: Generic::get(),
        wide_chain: chain,
    };
    Work::new(function, DEPTH, kernels).unwrap()
}

/// Runs a round through the engine: work, an interruption, the proof from the log.
fn round(work: &Work, statement: &[u8], leaves: u64, k: u32) -> Proof {
    let (height, done) = (SubtreeHeight::new(k).unwrap(), AtomicU64::new(0));
    let mut log = Vec::new();
    let mut tree = Tree::new(work, statement);
    for target in [leaves / 2, leaves] {
        run(&mut tree, height, &AtomicU64::new(target), &done, |root| {
            log.push(root);
        });
        let kept = RoundWork::new(work, statement, height)
            .resume(&mut log.as_slice())
            .unwrap();
        assert!(tree.parked().ends_with(kept.parked()));
        if target < leaves {
            log.truncate(kept.leaves() as usize >> k);
            tree = kept;
        }
    }
    let progress = ProveProgress::default();
    prove(&tree, height, &mut log.as_slice(), T, 2, &progress).unwrap()
}

/// The node of the tree over `labels`.
fn node(statement: &[u8], labels: &[Node], height: u32, index: u64) -> Node {
    let first = (index as usize) << height;
    match labels.get(first..) {
        None | Some([]) => poet_engine::ZERO,
        Some(labels) if height == 0 => labels[0],
        Some(_) => {
            let child = |side| node(statement, labels, height - 1, 2 * index + side);
            reference::node(statement, &child(0), &child(1))
        }
    }
}

#[test]
fn small_rounds() {
    let most = if cfg!(miri) { 6 } else { 40 };
    for function in [WorkFunction::Sha256, WorkFunction::Haraka256] {
        let work = work(function);
        let label = |first: Node| reference::hash(function, &first);
        for (leaves, statement) in
            (1..=most).zip([&b""[..], b"a statement", &[3; 64]].iter().cycle())
        {
            let labels = reference::labels(statement, leaves, function, DEPTH);
            let tree = |height, index| node(statement, &labels, height, index);
            let leaves = leaves as u64;
            let expected = oracle::prove(tree, leaves, T);
            let agree = |proof: &Proof| {
                let ours = verify(&work, statement, leaves, T, proof).is_ok();
                assert_eq!(ours, oracle::verify(&label, statement, leaves, T, proof));
                ours
            };
            for k in 0..3 {
                assert_eq!(
                    round(&work, statement, leaves, k),
                    expected,
                    "{leaves} leaves"
                );
            }
            assert_eq!(agree(&expected), leaves >= T as u64);
            for at in 0..expected.proof_nodes.len() {
                let mut wrong = expected.clone();
                wrong.proof_nodes[at][at % 32] ^= 1;
                assert!(!agree(&wrong), "node {at} of {leaves} leaves");
                wrong.proof_nodes.remove(at);
                assert!(!agree(&wrong), "without node {at} of {leaves} leaves");
            }
        }
    }
}

/// A chain that always ends in the same label, so that the nodes of a tree of any size are known.
struct Constant;

const LABEL: Node = [0x5a; 32];

impl Chain for Constant {
    fn one(&self, digest: &mut Node, _: u32) {
        *digest = LABEL;
    }

    fn many(&self, digests: &mut [Node], _: u32) {
        digests.fill(LABEL);
    }
}

#[test]
fn trees_of_any_height() {
    let kernels = Kernels {
        chain: &Constant,
        wide_chain: &Constant,
        ..*work(WorkFunction::Sha256).kernels()
    };
    let work = Work::new(WorkFunction::Sha256, DEPTH, kernels).unwrap();
    let statement = [9; 40];
    let nodes = oracle::constant_nodes(&statement, LABEL);
    let sizes = [
        3,
        (1 << 20) + 1,
        91_111_111_111,
        (1 << 56) - 1,
        1 << 63,
        u64::MAX,
    ];
    for leaves in sizes.into_iter().take(if cfg!(miri) { 3 } else { 6 }) {
        let tree = |height, index| oracle::constant_tree(&statement, &nodes, leaves, height, index);
        let proof = oracle::prove(tree, leaves, T);
        let slow = |proof: &Proof| oracle::verify(&|_| LABEL, &statement, leaves, T, proof);
        assert!(slow(&proof));
        assert_eq!(
            verify(&work, &statement, leaves, T, &proof),
            Ok(()),
            "{leaves}"
        );
        let mut wrong = proof;
        wrong.proof_nodes[0][0] ^= 1;
        assert!(!slow(&wrong));
        assert!(
            verify(&work, &statement, leaves, T, &wrong).is_err(),
            "{leaves}"
        );
    }
}

/// Few paths and many, which meet early and late: nodes that wait for the next level's are hashed
/// once, in their places.
#[test]
#[cfg_attr(miri, ignore = "thousands of leaves")]
fn any_number_of_paths() {
    let (work, statement) = (work(WorkFunction::Sha256), [9; 32]);
    let (k, progress) = (SubtreeHeight::new(0).unwrap(), ProveProgress::default());
    let (mut tree, mut log) = (Tree::new(&work, &statement), Vec::new());
    for leaves in [1, 2, 15, 16, 17, 33, 151, 300, 3_001] {
        let (target, done) = (AtomicU64::new(leaves), AtomicU64::new(0));
        run(&mut tree, k, &target, &done, |root| log.push(root));
        for t in 1..=leaves.min(150) as usize {
            let mut proof = prove(&tree, k, &mut log.as_slice(), t, 1, &progress).unwrap();
            let check = |proof: &Proof| verify(&work, &statement, leaves, t, proof);
            assert_eq!(check(&proof), Ok(()), "{t} of {leaves}");
            if let Some(node) = proof.proof_nodes.get_mut(t / 2) {
                node[7] ^= 1;
                assert_eq!(check(&proof), Err(VerifyError::Root), "{t} of {leaves}");
            }
        }
    }
}

/// The entries of a log are processed in chunks of 4,096, and the labels of a proof are shared
/// among threads: neither changes the result.
#[test]
#[cfg_attr(miri, ignore = "thousands of leaves")]
fn any_number_of_threads() {
    let (work, statement) = (work(WorkFunction::Sha256), [9; 32]);
    let (k, leaves) = (SubtreeHeight::new(0).unwrap(), 4 * 4_096 + 77);
    let (mut tree, mut log) = (Tree::new(&work, &statement), Vec::new());
    run(
        &mut tree,
        k,
        &AtomicU64::new(leaves),
        &AtomicU64::new(0),
        |root| {
            log.push(root);
        },
    );
    let progress = ProveProgress::default();
    let prove = |threads| prove(&tree, k, &mut log.as_slice(), 20, threads, &progress).unwrap();
    let proof = prove(1);
    let claim = Claim {
        statement: &statement,
        leaves,
        proof: &proof,
    };
    let mut wrong = proof.clone();
    wrong.proven_leaves[19][0] ^= 1;
    for threads in 1..=7 {
        assert_eq!(prove(threads), proof);
        assert_eq!(verify_many(&work, 20, &[claim], threads), [Ok(())]);
        let claim = Claim {
            proof: &wrong,
            ..claim
        };
        assert_eq!(
            verify_many(&work, 20, &[claim], threads),
            [Err(VerifyError::Root)]
        );
    }
    let mut log = log.clone();
    log[5_000][0] ^= 1;
    for threads in 1..=3 {
        let proof = poet_engine::prove(&tree, k, &mut log.as_slice(), 20, threads, &progress);
        assert!(proof.is_err());
    }
}
