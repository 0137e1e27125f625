//! What an early proof costs the hashing thread: its rate while another core makes the proof of a
//! mainnet round from a log in a file, relative to its rate before and after.
//!
//! ```sh
//! cargo bench -p poet-bench --bench early_proof -- 24000000
//! ```
//!
//! is the full size, as with `mainnet_proof`. Without a number it is a hundredth of that. The two
//! cores share their caches, memory and power, as in a server.

use std::{
    error::Error,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use poet_bench::{
    is_measuring, kernels,
    synthetic::{self, MAINNET_SUBTREE_HEIGHT, STATEMENT},
};
use poet_engine::{
    LABEL_DEPTH, Node, ProveProgress, RoundWork, SubtreeHeight, T, Tree, file::FileLog, prove, run,
    verify,
};
use poet_host::affinity;

/// The default number of entries.
const ENTRIES: u64 = 240_000;
/// How often the two rates are compared.
const PROOFS: usize = 9;

fn main() -> Result<(), Box<dyn Error>> {
    let cores = affinity::allowed();
    let (Some(first), Some(last)) = (cores.first(), cores.last().filter(|_| cores.len() > 1))
    else {
        println!("skipped: one core cannot hash and prove at the same time");
        return Ok(());
    };
    let number = std::env::args().find_map(|argument| argument.parse().ok());
    let (entries, k, proofs) = match number {
        Some(entries) => (entries, MAINNET_SUBTREE_HEIGHT, PROOFS),
        None if is_measuring() => (ENTRIES, MAINNET_SUBTREE_HEIGHT, PROOFS),
        None => (ENTRIES / 10, 3, 1),
    };
    let height = SubtreeHeight::new(k)?;
    let leaves = entries * height.leaves() + height.leaves() * 3 / 4;
    let selection = kernels::chosen();
    let hashing = selection.work(LABEL_DEPTH)?;
    let synthetic_work = synthetic::work(hashing.kernels());
    let round = RoundWork::new(&synthetic_work, &STATEMENT, height);
    let mut log = FileLog::in_file(tempfile::tempfile()?, &round)?;
    let chunk: Vec<Node> = vec![synthetic::Log::new(leaves, height).entry; 1 << 16];
    for start in (0..entries).step_by(chunk.len()) {
        let count = (entries - start).min(chunk.len() as u64);
        log.append(&chunk[..count as usize])?;
    }
    log.sync()?;
    println!("{entries} entries at k = {k}; hashing on core {last}, proving on core {first}");

    let (target, made) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
    let (ratios, times) = thread::scope(|scope| {
        let hasher = scope.spawn(|| {
            affinity::on_cores(&[*last], || {
                let mut tree = Tree::new(&hashing, &STATEMENT);
                run(&mut tree, height, &target, &made, |_| {});
            })
        });
        let stop = StopHashing(&target);
        let measured = affinity::on_cores(&[*first], || {
            let tree = synthetic::tree(&synthetic_work, leaves);
            let progress = ProveProgress::default();
            let (mut ratios, mut times) = (Vec::new(), Vec::new());
            let alone = |time: Duration| {
                let watch = Watch::start(&made);
                thread::sleep(time);
                watch.rate()
            };
            let time = Duration::from_millis(if is_measuring() { 3000 } else { 50 });
            let mut before = alone(time);
            for _ in 0..proofs {
                let watch = Watch::start(&made);
                let proof = prove(&tree, height, &mut log, T, 1, &progress)?;
                let checked = verify(&synthetic_work, &STATEMENT, leaves, T, &proof);
                let (rate, taken) = (watch.rate(), watch.start.elapsed());
                checked?;
                let after = alone(time);
                ratios.push(2.0 * rate / (before + after));
                times.push(taken.as_secs_f64());
                before = after;
            }
            Ok::<_, Box<dyn Error + Send + Sync>>((ratios, times))
        });
        drop(stop);
        hasher
            .join()
            .ok()
            .flatten()
            .ok_or("cannot pin the hashing")?;
        measured
            .ok_or("cannot pin the proof")?
            .map_err(|error| error.to_string())
    })?;
    println!(
        "the proof, made and verified on one core: {}",
        Spread::of(times, 3, " s")
    );
    println!(
        "the hashing meanwhile, to before and after: {}",
        Spread::of(ratios, 5, "")
    );
    Ok(())
}

/// Ends the hashing when dropped, whatever happened to the proofs.
struct StopHashing<'a>(&'a AtomicU64);

impl Drop for StopHashing<'_> {
    fn drop(&mut self) {
        self.0.store(0, Relaxed);
    }
}

/// Counts leaves over a time.
struct Watch<'a> {
    made: &'a AtomicU64,
    before: u64,
    start: Instant,
}

impl<'a> Watch<'a> {
    fn start(made: &'a AtomicU64) -> Self {
        Self {
            made,
            before: made.load(Relaxed),
            start: Instant::now(),
        }
    }

    /// Leaves per second since the start.
    fn rate(&self) -> f64 {
        (self.made.load(Relaxed) - self.before) as f64 / self.start.elapsed().as_secs_f64()
    }
}

/// The median of some values, and their range.
struct Spread {
    values: Vec<f64>,
    decimals: usize,
    unit: &'static str,
}

impl Spread {
    fn of(mut values: Vec<f64>, decimals: usize, unit: &'static str) -> Self {
        values.sort_by(f64::total_cmp);
        Self {
            values,
            decimals,
            unit,
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            values,
            decimals,
            unit,
        } = self;
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        write!(
            f,
            "{:.decimals$}{unit} (median of {}; {:.decimals$} to {:.decimals$})",
            at(values.len() / 2),
            values.len(),
            at(0),
            at(values.len().saturating_sub(1)),
        )
    }
}
