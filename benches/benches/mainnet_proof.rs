//! The proof of a mainnet round, from a log in a file, on one thread: core time and memory.
//!
//! ```sh
//! cargo bench -p poet-bench --bench mainnet_proof -- 24000000
//! ```
//!
//! is the full size: 24 million entries at subtree height 12, for which a temporary file of 768 MB
//! is written. Without a number it is a hundredth of that; the 150 recomputed subtrees are the
//! same. [`poet_bench::synthetic`] explains why such a round can be made, and why it is as much
//! work as a real one.

use std::error::Error;
use std::fs::read_to_string;
use std::time::Instant;

use poet_bench::calibration::clock_hz;
use poet_bench::synthetic::{self, MAINNET_SUBTREE_HEIGHT, STATEMENT};
use poet_bench::{is_measuring, kernels, pin};
use poet_engine::{LABEL_DEPTH, ProveProgress, RoundWork, SubtreeHeight, T, prove, verify};

/// The default number of entries.
const ENTRIES: u64 = 240_000;

fn main() -> Result<(), Box<dyn Error>> {
    pin();
    let number = std::env::args().find_map(|argument| argument.parse().ok());
    let (entries, k) = match number {
        Some(entries) => (entries, MAINNET_SUBTREE_HEIGHT),
        None if is_measuring() => (ENTRIES, MAINNET_SUBTREE_HEIGHT),
        None => (ENTRIES / 10, 3),
    };
    let height = SubtreeHeight::new(k)?;
    // After the log comes most of a subtree.
    let leaves = entries * height.leaves() + height.leaves() * 3 / 4;
    let selection = kernels::chosen();
    let kernels = *selection.work(LABEL_DEPTH)?.kernels();
    let work = synthetic::work(&kernels);

    let round = RoundWork::new(&work, &STATEMENT, height);
    let mut log = synthetic::file_log(tempfile::tempfile()?, &round, entries)?;
    println!(
        "{entries} entries at k = {k}, {leaves} leaves, on {}",
        selection.throughput()
    );

    let before = memory();
    let pass = Taken::by(|| round.resume(&mut log))?;
    println!("the pass over the log alone: {pass}");

    let tree = synthetic::tree(&work, leaves);
    assert!(
        tree.parked().ends_with(pass.result.parked()),
        "the pass is wrong"
    );
    let progress = ProveProgress::default();
    let proof = Taken::by(|| prove(&tree, height, &mut log, T, 1, &progress))?;
    println!("the whole proof: {proof}");
    println!(
        "peak memory: {} kB, of which {before} kB before the proof",
        memory()
    );

    let verify = |leaves| verify(&work, &STATEMENT, leaves, T, &proof.result);
    assert_eq!(verify(leaves), Ok(()));
    assert!(verify(leaves + 1).is_err());
    Ok(())
}

/// A result, and the time that it took.
struct Taken<T> {
    result: T,
    wall_s: f64,
    core_s: f64,
    /// The mean of before and after.
    clock_hz: f64,
}

impl<T> Taken<T> {
    fn by<E>(work: impl FnOnce() -> Result<T, E>) -> Result<Self, E> {
        let clock_before = clock_hz();
        let (start, core) = (Instant::now(), core_s());
        let result = work()?;
        let (wall_s, core_s) = (start.elapsed().as_secs_f64(), core_s() - core);
        Ok(Self {
            result,
            wall_s,
            core_s,
            clock_hz: (clock_before + clock_hz()) / 2.0,
        })
    }
}

impl<T> std::fmt::Display for Taken<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.3} s of a core ({:.2} G cycles at {:.2} GHz), {:.3} s in all",
            self.core_s,
            self.core_s * self.clock_hz / 1e9,
            self.clock_hz / 1e9,
            self.wall_s
        )
    }
}

/// Returns the CPU time of this thread; NaN if the system does not report it.
fn core_s() -> f64 {
    let nanoseconds = read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}

/// Returns the peak memory of this process in kB; 0 if the system does not report it.
fn memory() -> u64 {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default()
}
