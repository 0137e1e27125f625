//! Auditors next to the hashing thread: do they keep up with it, what do they cost it, and how soon
//! do they find a flipped bit?
//!
//! ```sh
//! cargo bench -p poet-bench --bench audit
//! ```
//!
//! takes about five minutes, and two idle cores: one for the hashing thread and one for the
//! auditor. A number after `--` sets how many bits are flipped at each subtree height.

use std::error::Error;
use std::fs::read_to_string;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use poet_bench::synthetic::{MAINNET_LEAVES, MAINNET_SUBTREE_HEIGHT, STATEMENT};
use poet_bench::{is_measuring, kernels, pinning};
use poet_conformance::Rng;
use poet_engine::audit::{AuditWith, Culprit, STEP_ENTRIES};
use poet_engine::file::{FileLog, LogView, LogWriter};
use poet_engine::{
    LABEL_DEPTH, LogError, LogRead, Node, RoundWork, SubtreeHeight, Tree, Work, run,
};
use poet_host::affinity;

/// How long the hashing thread runs in one window.
const WINDOW: Duration = Duration::from_secs(2);
const WINDOWS: usize = 9;
const FLIPS: u64 = 20;
/// How often the server's auditors look for entries.
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(1);

fn main() -> Result<(), Box<dyn Error>> {
    let cores = affinity::allowed();
    let (Some(first), Some(last)) = (cores.first().copied(), cores.last().copied()) else {
        return Err("the system does not tell the cores of this process".into());
    };
    let selection = kernels::chosen();
    let work = selection.work(LABEL_DEPTH)?;
    println!(
        "hashing on core {last} by {}, auditing on core {first} by {}",
        selection.latency(),
        selection.throughput()
    );
    let given = std::env::args().find_map(|argument| argument.parse().ok());
    let flips = given.unwrap_or(if is_measuring() { FLIPS } else { 1 });
    let heights = if is_measuring() {
        [0, MAINNET_SUBTREE_HEIGHT]
    } else {
        [0, 2]
    };
    for k in heights {
        let height = SubtreeHeight::new(k)?;
        rates(&work, height, (first, last))?;
        detection(&work, height, (first, last), flips)?;
    }
    Ok(())
}

/// Runs `work` on a new thread on `core`; the benchmark ends if that is not permitted.
fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> T {
    pinning::on_core(core, work).unwrap_or_else(|error| panic!("{error}"))
}

/// The entries of a long log from a given one on: earlier ones are never read.
struct Tail<'a> {
    start: u64,
    entries: &'a [Node],
}

impl LogRead for Tail<'_> {
    fn entries(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        LogRead::read(&mut self.entries, start - self.start, out)
    }
}

/// The speed of both, alone and together, late in a mainnet round.
fn rates(
    work: &Work,
    k: SubtreeHeight,
    (audit_core, hash_core): (usize, usize),
) -> Result<(), Box<dyn Error>> {
    let (windows, window) = if is_measuring() {
        (WINDOWS, WINDOW)
    } else {
        (1, Duration::from_millis(20))
    };
    let mut rng = Rng::new(1);
    let round = RoundWork::new(work, &STATEMENT, k);
    let chunk = round.auditor().root_height().leaves();
    // The longest log has 2^25 entries.
    let chunks = MAINNET_LEAVES.min(k.leaves() << 25) / chunk;
    let roots = (0..chunks).map(|_| rng.bytes()).collect();
    let mut auditor = round.auditor_with_roots(roots);
    let mut tree = auditor.tree().clone();
    let stop = AtomicBool::new(false);
    let (mut alone, mut together, mut audits) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..windows {
        // The entries of this window are audited in the next one.
        let mut entries = Vec::new();
        alone.push(on_core(hash_core, || {
            let start = Instant::now();
            hash(&mut tree, k, &mut entries, || start.elapsed() < window)
        }));
        let mut log = Tail {
            start: auditor.entries(),
            entries: &entries,
        };
        let auditing = AtomicBool::new(true);
        let (rate, audited) = thread::scope(|scope| {
            let hashing = scope.spawn(|| {
                on_core(hash_core, || {
                    hash(&mut tree, k, &mut Vec::new(), || auditing.load(Relaxed))
                })
            });
            let audited = on_core(audit_core, || {
                let (start, first) = (core_s(), auditor.tree().leaves());
                let with = AuditWith {
                    threads: 1,
                    stop: &stop,
                };
                while auditor.entries() < log.entries() {
                    let findings = auditor.step(&mut log, with).expect("a log in memory");
                    assert!(findings.is_empty(), "{findings:?}");
                }
                (auditor.tree().leaves() - first) as f64 / (core_s() - start)
            });
            auditing.store(false, Relaxed);
            (hashing.join().expect("no panic"), audited)
        });
        together.push(rate);
        audits.push(audited);
        // The leaves made meanwhile are in no log: the work resumes from the auditor's tree.
        tree = auditor.tree().clone();
    }
    let (alone, together, audits) = (median(alone), median(together), median(audits));
    println!(
        "subtree height {k}: the hashing thread makes {alone:.0} leaves/s alone, {together:.0} beside \
         an auditor ({change:+.2}%);\n    the auditor makes {audits:.0} leaves/s: {ratio:.2} times as \
         many",
        k = k.get(),
        change = (together / alone - 1.0) * 100.0,
        ratio = audits / together,
    );
    Ok(())
}

/// Returns the CPU time of this thread, so that rates are those of a core of its own even if it
/// must share one; the elapsed time if the system does not report it.
fn core_s() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let nanoseconds = read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |time| time / 1e9)
}

/// Adds leaves for a while, and returns the leaves per second.
fn hash(
    tree: &mut Tree,
    k: SubtreeHeight,
    entries: &mut Vec<Node>,
    go_on: impl Fn() -> bool,
) -> f64 {
    let progress = AtomicU64::default();
    let (start, before) = (core_s(), tree.leaves());
    // Called rarely enough not to matter. The entries fill the auditor's lanes.
    while go_on() || !tree.leaves().is_multiple_of(k.leaves() * STEP_ENTRIES) {
        let target = AtomicU64::new(tree.leaves() + k.leaves().clamp(64, 256));
        run(tree, k, &target, &progress, |root| entries.push(root));
    }
    (tree.leaves() - before) as f64 / (core_s() - start)
}

/// Where to flip a bit.
#[derive(Clone, Copy, Debug)]
enum Flip {
    Label,
    LowParked,
    HighParked,
    Queue,
}

/// Returns the time from the flip of a bit until its cause is known, through queue, file and
/// auditor as in the server.
fn detection(
    work: &Work,
    k: SubtreeHeight,
    (audit_core, hash_core): (usize, usize),
    flips: u64,
) -> Result<(), Box<dyn Error>> {
    let round = RoundWork::new(work, &STATEMENT, k);
    let mut times = Vec::new();
    let mut rng = Rng::new(7);
    for number in 0..flips {
        let flip =
            [Flip::Label, Flip::LowParked, Flip::HighParked, Flip::Queue][number as usize % 4];
        // After 0.3 to 1.3 seconds, anywhere in a subtree.
        let at = if is_measuring() {
            20_000
                + rng
                    .bytes::<8>()
                    .iter()
                    .fold(0, |n, b| n << 8 | u64::from(*b))
                    % 70_000
        } else {
            40
        };
        let log = FileLog::in_file(tempfile::tempfile()?, &round)?;
        let mut view = log.view();
        let mut writer = LogWriter::spawn(log)?;
        let target = AtomicU64::new(u64::MAX);
        let (flipped, found) = thread::scope(|scope| {
            let hashing = scope.spawn(|| {
                on_core(hash_core, || {
                    disturbed(work, k, &target, at, flip, &mut writer)
                })
            });
            let found = on_core(audit_core, || find(work, k, &mut view, flip));
            target.store(0, Relaxed);
            (hashing.join().expect("no panic"), found)
        });
        times.push(found.duration_since(flipped).as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    println!(
        "subtree height {}: of {flips} flipped bits each was found, after {:.2} s (median), {:.2} s \
         (worst)",
        k.get(),
        median(times.clone()),
        times.last().copied().unwrap_or_default()
    );
    Ok(())
}

/// The hashing thread, in which a bit flips at leaf `at`. Returns the time of the flip.
fn disturbed(
    work: &Work,
    k: SubtreeHeight,
    target: &AtomicU64,
    at: u64,
    flip: Flip,
    writer: &mut LogWriter,
) -> Instant {
    let progress = AtomicU64::default();
    let mut tree = Tree::new(work, &STATEMENT);
    run(&mut tree, k, &AtomicU64::new(at), &progress, |root| {
        writer.push(root);
    });
    let mut flip_entry = false;
    let mut parked = tree.parked().to_vec();
    let mut flip_parked = |position: usize| {
        parked[position][9] ^= 1;
        Tree::from_parked(work, &STATEMENT, at, &parked).expect("as many as before")
    };
    match flip {
        Flip::Label => {
            let mut label = tree.next_label();
            label[0] ^= 0x80;
            tree.push(label, |height, _, node| {
                if height == k.get() {
                    writer.push(*node);
                }
            });
        }
        Flip::LowParked => tree = flip_parked(0),
        Flip::HighParked => tree = flip_parked(tree.parked().len() - 1),
        Flip::Queue => flip_entry = true,
    }
    let flipped = Instant::now();
    run(&mut tree, k, target, &progress, |mut root| {
        if std::mem::take(&mut flip_entry) {
            root[31] ^= 1;
        }
        writer.push(root);
    });
    flipped
}

/// The server's auditor, until its first finding.
fn find(work: &Work, k: SubtreeHeight, log: &mut LogView, flip: Flip) -> Instant {
    let stop = AtomicBool::new(false);
    let with = AuditWith {
        threads: 1,
        stop: &stop,
    };
    let mut auditor = RoundWork::new(work, &STATEMENT, k).auditor();
    let mut last_step = Instant::now();
    loop {
        let new = log.entries() - auditor.entries();
        let enough = if auditor.undecided() { 1 } else { STEP_ENTRIES };
        if new < enough && (new == 0 || last_step.elapsed() < PATIENCE) {
            thread::sleep(POLL);
            continue;
        }
        last_step = Instant::now();
        let findings = auditor.step(log, with).expect("a log that can be read");
        if let Some(finding) = findings.first() {
            let expected = match flip {
                Flip::Queue => Culprit::Copy,
                _ => Culprit::Work,
            };
            assert_eq!(finding.culprit, expected, "{flip:?}");
            return Instant::now();
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
