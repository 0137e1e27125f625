//! Proof generation on one thread, and the pass over a log. The log of a mainnet round is the
//! benchmark `mainnet_proof`.

use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput};
use poet_bench::{kernels, peers::Sha2Compress, pin, synthetic};
use poet_engine::{
    Chain, LABEL_DEPTH, Node, ProveProgress, RoundWork, SubtreeHeight, T, WorkFunction, prove,
    verify,
};

/// Entries of the logs: a million, and the last chunk is not full.
const ENTRIES: u64 = 1_000_003;

fn main() {
    pin();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .sample_size(10)
        .configure_from_args();
    let selection = kernels::chosen();
    let kernels = *selection
        .work(LABEL_DEPTH)
        .expect("the network's depth")
        .kernels();

    let mut group = criterion.benchmark_group("log of a million entries");
    group.sampling_mode(SamplingMode::Flat);
    group.throughput(Throughput::Elements(ENTRIES));
    let height = SubtreeHeight::new(synthetic::MAINNET_SUBTREE_HEIGHT).expect("12 is a height");
    let leaves = ENTRIES << height.get();
    let idle = synthetic::idle_work(&kernels);
    let expected = synthetic::tree(&idle, leaves);
    group.bench_function("resume", |bencher| {
        let mut log = synthetic::Log::new(leaves, height);
        let mut tree = None;
        let round = RoundWork::new(&idle, &synthetic::STATEMENT, height);
        bencher.iter(|| tree = round.resume(&mut log).ok());
        let tree = tree.expect("the log can be read");
        assert_eq!(tree.leaves(), expected.leaves());
        assert_eq!(tree.parked(), expected.parked());
    });
    // The nodes of the tree above the log, a block each way.
    let hashes = u32::try_from(2 * ENTRIES).expect("a few million");
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

    let mut group = criterion.benchmark_group("prove");
    group.sampling_mode(SamplingMode::Flat);
    for (name, leaves, k) in [
        ("2^20 + 3 leaves, k = 0", (1 << 20) + 3, 0),
        ("2^26 + 3 leaves, k = 6", (1 << 26) + 3, 6),
    ] {
        let height = SubtreeHeight::new(k).expect("a subtree height");
        let work = synthetic::work(&kernels);
        let tree = synthetic::tree(&work, leaves);
        let expected = synthetic::proof(
            kernels::portable(WorkFunction::Sha256).kernels(),
            leaves,
            height,
        );
        group.bench_function(name, |bencher| {
            let mut log = synthetic::Log::new(leaves, height);
            let progress = ProveProgress::default();
            let mut proof = None;
            bencher.iter(|| proof = prove(&tree, height, &mut log, T, 1, &progress).ok());
            let proof = proof.expect("tree and log fit");
            assert_eq!(proof, expected);
            assert_eq!(
                verify(&work, &synthetic::STATEMENT, leaves, T, &proof),
                Ok(())
            );
        });
    }
    group.finish();
    criterion.final_summary();
}
