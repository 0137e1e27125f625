//! Verification on one thread: of a small honest proof, and of a mainnet round's.

use std::time::Duration;

use criterion::{Criterion, SamplingMode};
use poet_bench::synthetic::{self, MAINNET_LEAVES, MAINNET_SUBTREE_HEIGHT, STATEMENT};
use poet_bench::work::Counting;
use poet_bench::{kernels, peers::Sha2Compress, pin};
use poet_engine::{
    Chain, LABEL_DEPTH, Node, Proof, ProveProgress, SubtreeHeight, T, Tree, Work, WorkFunction,
    prove, verify,
};

/// Leaves of the honest proof; 0.2 s of work.
const LEAVES: u64 = 12_345;

fn main() {
    pin();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .sample_size(50)
        .configure_from_args();
    let selection = kernels::chosen();
    let work = selection.work(LABEL_DEPTH).expect("the network's depth");
    let name = selection.throughput().name;

    let proof = honest_proof(&work);
    compare(
        &mut criterion,
        "verify, 12,345 leaves",
        name,
        &work,
        LEAVES,
        &proof,
    );

    let height = SubtreeHeight::new(MAINNET_SUBTREE_HEIGHT).expect("12 is a height");
    let proof = synthetic::proof(work.kernels(), MAINNET_LEAVES, height);
    let work = synthetic::work(work.kernels());
    compare(
        &mut criterion,
        "verify, mainnet",
        name,
        &work,
        MAINNET_LEAVES,
        &proof,
    );
    criterion.final_summary();
}

fn honest_proof(work: &Work) -> Proof {
    // With k = 0 the labels are the log.
    let height = SubtreeHeight::new(0).expect("0 is a height");
    let mut tree = Tree::new(work, &STATEMENT);
    let mut labels = Vec::new();
    while tree.leaves() < LEAVES {
        let label = tree.next_label();
        tree.push(label, |_, _, _| {});
        labels.push(label);
    }
    let progress = ProveProgress::default();
    prove(&tree, height, &mut labels.as_slice(), T, 1, &progress).expect("tree and log fit")
}

fn compare(
    criterion: &mut Criterion,
    title: &str,
    kernel: &str,
    work: &Work,
    leaves: u64,
    proof: &Proof,
) {
    let verify = |work: &Work, proof| verify(work, &STATEMENT, leaves, T, proof);
    let mut wrong = proof.clone();
    wrong.proof_nodes[0][0] ^= 1;
    assert!(verify(work, &wrong).is_err());

    let mut group = criterion.benchmark_group(title);
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(kernel, |bencher| {
        let mut result = Ok(());
        bencher.iter(|| result = verify(work, proof));
        assert_eq!(result, Ok(()));
    });

    let hashes = Counting::count(work, |work| assert_eq!(verify(work, proof), Ok(())));
    let hashes = u32::try_from(hashes).expect("tens of thousands");
    let (chain, end) = kernels::chains(WorkFunction::Sha256, 1, hashes);
    group.bench_function("sha2 compress256, as many hashes", |bencher| {
        let mut digest = Node::default();
        bencher.iter(|| {
            digest = chain[0];
            Sha2Compress.one(&mut digest, hashes);
        });
        assert_eq!(digest, end[0], "sha2 is wrong");
    });
    group.finish();
}
