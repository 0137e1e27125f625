//! The work loop, in a small tree and at the height of a mainnet round, and a plain loop of as many
//! compressions. The rates are leaves per second.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use poet_bench::synthetic::{self, MAINNET_LEAVES, STATEMENT};
use poet_bench::{kernels, peers::Sha2Compress, pin, work};
use poet_engine::{Chain, LABEL_DEPTH, Node, Tree, WorkFunction};

/// Leaves per iteration, enough that copying the tree does not matter.
const LEAVES: u64 = 16;

fn main() {
    pin();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
        .sample_size(50)
        .configure_from_args();
    let selection = kernels::chosen();
    let work = selection.work(LABEL_DEPTH).expect("the network's depth");
    let mut small = Tree::new(&work, &STATEMENT);
    work::add(&mut small, 300);
    compare(
        &mut criterion,
        "prover, small tree",
        selection.latency().name,
        &small,
    );
    let mainnet = synthetic::tree(&work, MAINNET_LEAVES);
    compare(
        &mut criterion,
        "prover, mainnet",
        selection.latency().name,
        &mainnet,
    );
    criterion.final_summary();
}

fn compare(criterion: &mut Criterion, name: &str, kernel: &str, start: &Tree) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(LEAVES));

    let mut expected = work::on(&kernels::portable(WorkFunction::Sha256), start);
    work::add(&mut expected, LEAVES);
    group.bench_function(kernel, |bencher| {
        let mut tree = start.clone();
        bencher.iter(|| {
            tree = start.clone();
            work::add(&mut tree, LEAVES);
        });
        assert_eq!(tree.parked(), expected.parked(), "the work loop is wrong");
    });

    let hashes = u32::try_from(work::compressions(start, LEAVES)).expect("a few thousand");
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
