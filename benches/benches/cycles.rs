//! Everything in CPU cycles, as a table for people: kernels and peers, the work loop, verification.
//!
//! All are measured in turns, so that whatever the machine does affects all of them;
//! [`poet_bench::calibration`] explains how a cycle is measured.

use poet_bench::calibration::{Samples, cycles};
use poet_bench::synthetic::{self, MAINNET_LEAVES, MAINNET_SUBTREE_HEIGHT, STATEMENT};
use poet_bench::work::Counting;
use poet_bench::{is_measuring, kernels, peers, pin, work};
use poet_conformance::Rng;
use poet_conformance::reference::{self, Reference};
use poet_engine::{
    Block, Chain, Kernels, LABEL_DEPTH, Node, NodeMessage, RoundWork, SHA256_IV, Sha256,
    SubtreeHeight, T, Tree, Work, WorkFunction, verify,
};

/// The number of turns; a sample and its two calibrations take about 0.3 ms.
const ROUNDS: usize = 400;

/// Hashes per sample on one chain, ...
const ONE_HASHES: u32 = 2_000;

/// ... and about as many on many chains together, of which this many fill the lanes of every
/// kernel, ...
const BOUND_CHAINS: usize = 48;

/// ... with this many hashes in all, ...
const MANY_HASHES: u32 = 6_000;

/// ... and leaves of the work loop.
const LEAVES: u64 = 16;

/// The blocks of the first hash of a label in a mainnet round, ...
const FIRST_BLOCKS: usize = 10;

/// ... and nodes of the tree above the log, enough for about as many blocks.
const NODES: usize = 1024;

/// Entries per sample of the pass over a log: some chunks, and a part of one.
const LOG_ENTRIES: u64 = 20_001;

fn mainnet_height() -> SubtreeHeight {
    SubtreeHeight::new(MAINNET_SUBTREE_HEIGHT).expect("12 is a height")
}

/// Something to measure.
struct Subject {
    name: String,
    /// Hashes per sample.
    hashes: u64,
    /// Takes a sample: cycles and clock rate. Panics if the answer is wrong.
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

    /// First hashes of labels as in a mainnet round.
    fn messages(name: String, sha256: &'static dyn Sha256) -> Self {
        let mut rng = Rng::new(1);
        let blocks: Vec<Block> = (0..T * FIRST_BLOCKS).map(|_| rng.bytes()).collect();
        let mut end = vec![Node::default(); T];
        let hash = move |sha256: &dyn Sha256, digests: &mut [Node]| {
            let messages: Vec<&[Block]> = blocks.chunks(FIRST_BLOCKS).collect();
            sha256.hash_many(&SHA256_IV, &messages, digests);
        };
        hash(&Reference::new(WorkFunction::Sha256), &mut end);
        let wrong = format!("{name} is wrong");
        Self::new(name, (T * FIRST_BLOCKS) as u64, move || {
            let mut digests = vec![Node::default(); T];
            let taken = cycles(|| hash(sha256, &mut digests));
            assert_eq!(digests, end, "{wrong}");
            taken
        })
    }

    /// `count` nodes of a tree.
    fn nodes(name: String, sha256: &'static dyn Sha256, count: usize) -> Self {
        let mut rng = Rng::new(1);
        let children: Vec<[Node; 2]> = (0..count).map(|_| [rng.bytes(), rng.bytes()]).collect();
        let parent = |[left, right]: &[Node; 2]| reference::node(&STATEMENT, left, right);
        let end: Vec<Node> = children.iter().map(parent).collect();
        let message = NodeMessage::new(sha256, SHA256_IV, 0, &STATEMENT);
        let wrong = format!("{name} is wrong");
        Self::new(name, (message.blocks().len() * count) as u64, move || {
            let mut parents = vec![Node::default(); count];
            let taken = cycles(|| sha256.hash_nodes(&message, &children, &mut parents));
            assert_eq!(parents, end, "{wrong}");
            taken
        })
    }

    /// The work loop.
    fn prover(name: &str, start: Tree) -> Self {
        let mut expected = work::on(&kernels::portable(WorkFunction::Sha256), &start);
        work::add(&mut expected, LEAVES);
        Self::new(name.into(), work::compressions(&start, LEAVES), move || {
            // The previous subject has evicted the caches.
            work::add(&mut start.clone(), 1);
            let mut tree = start.clone();
            let taken = cycles(|| work::add(&mut tree, LEAVES));
            assert_eq!(tree.parked(), expected.parked(), "the work loop is wrong");
            taken
        })
    }

    /// A proof of a mainnet round.
    fn verification(name: &str, work: &Work) -> Self {
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
        Self::new(name.into(), hashes, move || {
            let mut result = Ok(());
            let taken = cycles(|| result = verified(&work));
            assert_eq!(result, Ok(()));
            taken
        })
    }

    /// The pass over a log.
    fn pass(name: &str, work: &Work) -> Self {
        let height = mainnet_height();
        let leaves = LOG_ENTRIES << height.get();
        let mut log = synthetic::Log::new(leaves, height);
        let expected = synthetic::tree(work, leaves);
        let mut passed = move |work: &Work| {
            let tree = RoundWork::new(work, &STATEMENT, height).resume(&mut log);
            tree.expect("the log can be read")
        };
        let hashes = Counting::count(work, |work| drop(passed(work)));
        let work = *work;
        Self::new(name.into(), hashes, move || {
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
    let selection = kernels::chosen();
    let work = selection.work(LABEL_DEPTH).expect("the network's depth");

    let mut one: Vec<_> = peers::all()
        .into_iter()
        .map(|(name, chain)| Subject::chains(name.into(), sha256, chain, 1, ONE_HASHES))
        .collect();
    let mut many = Vec::new();
    let mut independent = Vec::new();
    let mut engine = Vec::new();
    for function in [sha256, WorkFunction::Haraka256] {
        for kernel in kernels::all(function) {
            let name = match function {
                WorkFunction::Sha256 => kernel.name.to_owned(),
                WorkFunction::Haraka256 => format!("{function}: {}", kernel.name),
            };
            let bound = many.len();
            for count in [BOUND_CHAINS, T] {
                let name = format!("{name} x {count}");
                let n = MANY_HASHES / count as u32;
                many.push(Subject::chains(name, function, kernel.chain, count, n));
            }
            if function == sha256 {
                let title = |what: &str| format!("{name}: {what}");
                let hash = kernel.sha256;
                independent.push(Subject::messages(title("first hashes"), hash));
                independent.push(Subject::nodes(title("nodes"), hash, NODES));
                let kernels = Kernels {
                    wide_sha256: kernel.sha256,
                    wide_chain: kernel.chain,
                    ..*work.kernels()
                };
                let work = Work::new(function, LABEL_DEPTH, kernels).expect("the same depth");
                engine.push((
                    bound,
                    Subject::verification(&name, &work),
                    Subject::pass(&name, &work),
                ));
            }
            if kernel.latency {
                one.push(Subject::chains(name, function, kernel.chain, 1, ONE_HASHES));
            }
        }
    }

    let mut small = Tree::new(&work, &STATEMENT);
    work::add(&mut small, 300);
    let mut provers = [
        Subject::prover("small tree", small),
        Subject::prover("mainnet", synthetic::tree(&work, MAINNET_LEAVES)),
    ];

    let mut clock = Samples::default();
    for _ in 0..rounds {
        let subjects = one
            .iter_mut()
            .chain(&mut many)
            .chain(&mut independent)
            .chain(&mut provers)
            .chain(
                engine
                    .iter_mut()
                    .flat_map(|(_, verification, pass)| [verification, pass]),
            );
        for subject in subjects {
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
    table("independent messages", &independent, one[0].median(), hz);

    let latency = selection.latency().name;
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

    println!("\nThe engine, beside what the kernel takes for a hash of {BOUND_CHAINS} chains:");
    for (title, pass) in [
        ("verification of a mainnet proof".to_owned(), false),
        (format!("pass over {LOG_ENTRIES} entries of a log"), true),
    ] {
        println!(
            "{title:34} {:>10} {:>10} {:>8} {:>12} {:>9} {:>6} {:>7}",
            "M cycles", "ms", "hashes", "cycles/hash", "x chains", "kept", "spread"
        );
        for (bound, verification, passed) in &engine {
            let subject = if pass { passed } else { verification };
            let cycles = subject.median() * subject.hashes as f64;
            println!(
                "{:34} {:>10.3} {:>10.3} {:>8} {:>12.2} {:>9.3} {}",
                subject.name,
                cycles / 1e6,
                1e3 * cycles / hz,
                subject.hashes,
                subject.median(),
                subject.median() / many[*bound].median(),
                quality(&subject.cycles_per_hash),
            );
        }
    }
}

/// `reference`: the cycles per hash of sha2's `compress256`.
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

/// The number of samples kept, and their spread.
fn quality(samples: &Samples) -> String {
    format!("{:>6} {:>6.2}%", samples.count(), 100.0 * samples.spread())
}
