//! Everything in CPU cycles, as a table for people: kernels and peers, the work loop, verification.
//!
//! All take turns, so that whatever the machine does meets all of them; see
//! [`poet_bench::calibration`] for how a cycle is measured.

use poet_bench::calibration::{Samples, cycles};
use poet_bench::synthetic::{self, MAINNET_LEAVES, MAINNET_SUBTREE_HEIGHT, STATEMENT};
use poet_bench::work::Counting;
use poet_bench::{is_measuring, kernels, peers, pin, work};
use poet_conformance::{Rng, reference::Reference};
use poet_engine::{
    Block, Chain, LABEL_DEPTH, RoundWork, Sha256, State, SubtreeHeight, T, Tree, Work,
    WorkFunction, verify,
};

/// Turns of everything; a sample and its two calibrations take about 0.3 ms.
const ROUNDS: usize = 400;

/// Hashes of a sample on one chain, ...
const ONE_HASHES: u32 = 2_000;

/// ... and about as many on many together, ...
const MANY_HASHES: u32 = 6_000;

/// ... and leaves of the work loop.
const LEAVES: u64 = 16;

/// Entries of a sample of the pass over a log: some chunks, and a part of one.
const LOG_ENTRIES: u64 = 20_001;

fn mainnet_height() -> SubtreeHeight {
    SubtreeHeight::new(MAINNET_SUBTREE_HEIGHT).expect("12 is a height")
}

/// Something that is measured.
struct Subject {
    name: String,
    /// Hashes of a sample.
    hashes: u64,
    /// Takes a sample: cycles and clock rate. Panics when the answer is wrong.
    sample: Box<dyn FnMut() -> Option<(f64, f64)>>,
    cycles_per_hash: Samples,
}

impl Subject {
    fn new(
        name: String,
        hashes: u64,
        sample: impl FnMut() -> Option<(f64, f64)> + 'static,
    ) -> Self {
        Self {
            name,
            hashes,
            sample: Box::new(sample),
            cycles_per_hash: Samples::default(),
        }
    }

    /// `count` chains of `n` hashes.
    fn chains(
        name: String,
        function: WorkFunction,
        chain: &'static dyn Chain,
        count: usize,
        n: u32,
    ) -> Self {
        let (start, end) = kernels::chains(function, count, n);
        let wrong = format!("{name} is wrong");
        Self::new(name, count as u64 * u64::from(n), move || {
            let mut digests = start.clone();
            let taken = cycles(|| match digests.as_mut_slice() {
                [digest] => chain.one(digest, n),
                digests => chain.many(digests, n),
            });
            assert_eq!(digests, end, "{wrong}");
            taken
        })
    }

    /// `count` independent blocks.
    fn blocks(name: String, sha256: &'static dyn Sha256, count: usize) -> Self {
        let mut rng = Rng::new(1);
        let blocks: Vec<Block> = (0..count).map(|_| rng.bytes()).collect();
        let start: Vec<State> = (0..count).map(|_| rng.words()).collect();
        let turns = MANY_HASHES as usize / count;
        let mut end = start.clone();
        for _ in 0..turns {
            let oracle = Reference::new(WorkFunction::Sha256);
            oracle.compress_many(&mut end, &blocks);
        }
        let wrong = format!("{name} is wrong");
        Self::new(name, (turns * count) as u64, move || {
            let mut states = start.clone();
            let taken = cycles(|| {
                for _ in 0..turns {
                    sha256.compress_many(&mut states, &blocks);
                }
            });
            assert_eq!(states, end, "{wrong}");
            taken
        })
    }

    /// The work loop.
    fn prover(name: &str, start: Tree) -> Self {
        let mut expected = work::on(&kernels::portable(WorkFunction::Sha256), &start);
        work::add(&mut expected, LEAVES);
        Self::new(name.into(), work::compressions(&start, LEAVES), move || {
            // What took its turn before has taken the caches, too.
            work::add(&mut start.clone(), 1);
            let mut tree = start.clone();
            let taken = cycles(|| work::add(&mut tree, LEAVES));
            assert_eq!(tree.parked(), expected.parked(), "the work loop is wrong");
            taken
        })
    }

    /// A proof of a mainnet round.
    fn verification(work: &Work) -> Self {
        let proof = synthetic::proof(work.kernels(), MAINNET_LEAVES, mainnet_height());
        let work = synthetic::work(work.kernels());
        let verified = {
            let proof = proof.clone();
            move |work: &Work| verify(work, &STATEMENT, MAINNET_LEAVES, T, &proof)
        };
        let mut wrong = proof;
        wrong.proof_nodes[0][0] ^= 1;
        assert!(verify(&work, &STATEMENT, MAINNET_LEAVES, T, &wrong).is_err());
        let hashes = Counting::count(&work, |work| assert_eq!(verified(work), Ok(())));
        Self::new(
            "verification of a mainnet proof".into(),
            hashes,
            move || {
                let mut result = Ok(());
                let taken = cycles(|| result = verified(&work));
                assert_eq!(result, Ok(()));
                taken
            },
        )
    }

    /// The pass over a log.
    fn pass(work: &Work) -> Self {
        let height = mainnet_height();
        let leaves = LOG_ENTRIES << height.get();
        let mut log = synthetic::Log::new(leaves, height);
        let expected = synthetic::tree(work, leaves);
        let mut passed = move |work: &Work| {
            let tree = RoundWork::new(work, &STATEMENT, height).resume(&mut log);
            tree.expect("the log can be read")
        };
        let hashes = Counting::count(work, |work| drop(passed(work)));
        let (work, name) = (*work, format!("pass over {LOG_ENTRIES} entries of a log"));
        Self::new(name, hashes, move || {
            let mut tree = None;
            let taken = cycles(|| tree = Some(passed(&work)));
            let tree = tree.expect("it has been made");
            assert_eq!(tree.parked(), expected.parked(), "the pass is wrong");
            taken
        })
    }

    fn median(&self) -> f64 {
        self.cycles_per_hash.median()
    }
}

fn main() {
    pin();
    let rounds = if is_measuring() { ROUNDS } else { 1 };

    let sha256 = WorkFunction::Sha256;
    let mut one: Vec<_> = peers::all()
        .into_iter()
        .map(|(name, chain)| Subject::chains(name.into(), sha256, chain, 1, ONE_HASHES))
        .collect();
    let mut many = Vec::new();
    let mut blocks = Vec::new();
    for function in [sha256, WorkFunction::Haraka256] {
        for kernel in kernels::all(function) {
            let name = match function {
                WorkFunction::Sha256 => kernel.name.to_owned(),
                WorkFunction::Haraka256 => format!("{function}: {}", kernel.name),
            };
            for count in [48, T] {
                let name = format!("{name} x {count}");
                let n = MANY_HASHES / count as u32;
                many.push(Subject::chains(name, function, kernel.chain, count, n));
            }
            if function == sha256 {
                blocks.push(Subject::blocks(name.clone(), kernel.sha256, 32));
            }
            if kernel.latency {
                one.push(Subject::chains(name, function, kernel.chain, 1, ONE_HASHES));
            }
        }
    }

    let selection = kernels::chosen();
    let work = selection.work(LABEL_DEPTH).expect("the network's depth");
    let mut small = Tree::new(&work, &STATEMENT);
    work::add(&mut small, 300);
    let mut provers = [
        Subject::prover("small tree", small),
        Subject::prover("mainnet", synthetic::tree(&work, MAINNET_LEAVES)),
    ];
    let mut verification = Subject::verification(&work);
    let mut pass = Subject::pass(&work);

    let mut clock = Samples::default();
    for _ in 0..rounds {
        let subjects = one
            .iter_mut()
            .chain(&mut many)
            .chain(&mut blocks)
            .chain(&mut provers);
        for subject in subjects.chain([&mut verification, &mut pass]) {
            if let Some((cycles, hz)) = (subject.sample)() {
                subject.cycles_per_hash.push(cycles / subject.hashes as f64);
                clock.push(hz);
            }
        }
    }

    let hz = clock.median();
    println!(
        "Medians of up to {rounds} samples, on a core at {:.2} GHz.",
        hz / 1e9
    );
    println!("Kept: samples with a steady clock. Spread: between their quartiles.");
    table("one chain", &one, one[0].median(), hz);
    table("many chains", &many, one[0].median(), hz);
    table("32 independent blocks", &blocks, one[0].median(), hz);

    let (latency, throughput) = (selection.latency().name, selection.throughput().name);
    let kernel = one.iter().find(|subject| subject.name == latency);
    let kernel = kernel.map_or(f64::NAN, Subject::median);
    println!(
        "\nThe work loop on {latency}, and what it would make if it hashed as the kernel does:"
    );
    println!(
        "{:24} {:>11} {:>12} {:>12} {:>10} {:>8} {:>6} {:>7}",
        "tree", "hashes/leaf", "cycles/hash", "leaves/s", "predicted", "reached", "kept", "spread"
    );
    for subject in &provers {
        let hashes = subject.hashes as f64 / LEAVES as f64;
        let cycles = subject.median();
        println!(
            "{:24} {hashes:>11.2} {cycles:>12.2} {:>12.0} {:>10.0} {:>7.2}% {}",
            subject.name,
            hz / (cycles * hashes),
            hz / (kernel * hashes),
            100.0 * kernel / cycles,
            quality(&subject.cycles_per_hash),
        );
    }

    println!("\nThe engine with {throughput} for many chains:");
    println!(
        "{:34} {:>10} {:>10} {:>8} {:>12} {:>6} {:>7}",
        "", "M cycles", "ms", "hashes", "cycles/hash", "kept", "spread"
    );
    for subject in [&verification, &pass] {
        let cycles = subject.median() * subject.hashes as f64;
        println!(
            "{:34} {:>10.3} {:>10.3} {:>8} {:>12.2} {}",
            subject.name,
            cycles / 1e6,
            1e3 * cycles / hz,
            subject.hashes,
            subject.median(),
            quality(&subject.cycles_per_hash),
        );
    }
}

/// `reference`: the cycles for a hash of sha2's `compress256`.
fn table(title: &str, subjects: &[Subject], reference: f64, hz: f64) {
    println!(
        "\n{title:26} {:>11} {:>11} {:>20} {:>6} {:>7}",
        "cycles/hash", "M hashes/s", "x sha2 compress256", "kept", "spread"
    );
    for subject in subjects {
        let cycles = subject.median();
        println!(
            "{:26} {cycles:>11.2} {:>11.2} {:>20.3} {}",
            subject.name,
            hz / cycles / 1e6,
            reference / cycles,
            quality(&subject.cycles_per_hash),
        );
    }
}

/// Samples kept and their spread.
fn quality(samples: &Samples) -> String {
    format!("{:>6} {:>6.2}%", samples.count(), 100.0 * samples.spread())
}
