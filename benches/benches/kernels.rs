//! Every kernel of this CPU, and its peers.

use std::time::Duration;

use criterion::{Criterion, Throughput};
use poet_bench::{kernels, peers, pin};
use poet_engine::{Chain, LABEL_DEPTH, T, WorkFunction};

/// Hashes of a label after the first.
const HASHES: u32 = LABEL_DEPTH - 1;

fn main() {
    pin();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_secs(1))
        .sample_size(20)
        .configure_from_args();
    for function in [WorkFunction::Sha256, WorkFunction::Haraka256] {
        let kernels = kernels::all(function);
        let of = |latency: bool| {
            let kernels = kernels
                .iter()
                .filter(move |kernel| kernel.latency || !latency);
            kernels.map(|kernel| (kernel.name, kernel.chain))
        };
        let peers = match function {
            WorkFunction::Sha256 => peers::all(),
            WorkFunction::Haraka256 => Vec::new(),
        };
        compare(
            &mut criterion,
            function,
            1,
            peers.into_iter().chain(of(true)),
        );
        for count in [48, T] {
            compare(&mut criterion, function, count, of(false));
        }
    }
    criterion.final_summary();
}

/// Labels on `count` chains; every candidate must compute them correctly.
fn compare(
    criterion: &mut Criterion,
    function: WorkFunction,
    count: usize,
    candidates: impl Iterator<Item = (&'static str, &'static dyn Chain)>,
) {
    let (start, end) = kernels::chains(function, count, HASHES);
    let chains = if count == 1 { "chain" } else { "chains" };
    let mut candidates = candidates.peekable();
    if candidates.peek().is_none() {
        return;
    }
    let mut group = criterion.benchmark_group(format!("{function}, {count} {chains}"));
    group.throughput(Throughput::Elements(count as u64 * u64::from(HASHES)));
    for (name, chain) in candidates {
        let mut digests = start.clone();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                digests.copy_from_slice(&start);
                match digests.as_mut_slice() {
                    [digest] => chain.one(digest, HASHES),
                    digests => chain.many(digests, HASHES),
                }
            });
            assert_eq!(digests, end, "{name} is wrong");
        });
    }
    group.finish();
}
