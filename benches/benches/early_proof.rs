//! What a proof of the work so far costs the hashing thread: its rate while another core makes the
//! proof of a mainnet round from a log in a file, to its rate while that core does nothing.
//!
//! ```sh
//! cargo bench -p poet-bench --bench early_proof -- 24000000
//! ```
//!
//! is the full size, as with `mainnet_proof`. Without a number it is a hundredth of that. The two
//! cores share their caches, memory and power, as in a server. The prover is a process of its own
//! that is stopped and continued every quarter of a second, so that the slow changes of a shared
//! machine's clock are in both rates.
//!
//! Every second turn belongs to a process that multiplies numbers in two registers instead. What
//! that costs the hashing is the price of a busy core, whatever it does: of the clock and power that
//! cores share, and of the threads that no longer find the other core idle.

#[cfg(unix)]
mod turns {
    use std::{
        error::Error,
        hint::black_box,
        io::{BufRead as _, BufReader, Write as _},
        process::{Child, Command, Stdio},
        sync::atomic::{AtomicU64, Ordering::Relaxed},
        thread,
        time::{Duration, Instant},
    };

    use poet_bench::{
        calibration, is_measuring, kernels,
        synthetic::{self, MAINNET_SUBTREE_HEIGHT, STATEMENT},
    };
    use poet_conformance::skip;
    use poet_engine::{
        LABEL_DEPTH, ProveProgress, RoundWork, SubtreeHeight, T, Tree, prove, run, verify,
    };
    use poet_host::affinity;
    use rustix::process::{Pid, Signal, kill_process};

    /// Entries, if the command line does not say.
    const ENTRIES: u64 = 240_000;
    /// The option with which this program makes proofs until it is killed.
    const PROVER: &str = "--prover";
    /// The option with which it keeps a core busy until it is killed.
    const BUSY: &str = "--busy";

    type Failure = Box<dyn Error + Send + Sync>;

    pub(super) fn main() -> Result<(), Failure> {
        let cores = affinity::allowed();
        let (Some(first), Some(last)) = (cores.first(), cores.last().filter(|_| cores.len() > 1))
        else {
            skip("one core cannot hash and prove at the same time");
            return Ok(());
        };
        let number = std::env::args().find_map(|argument| argument.parse().ok());
        let (entries, k) = match number {
            Some(entries) => (entries, MAINNET_SUBTREE_HEIGHT),
            None if is_measuring() => (ENTRIES, MAINNET_SUBTREE_HEIGHT),
            None => (ENTRIES / 10, 3),
        };
        let height = SubtreeHeight::new(k)?;
        if std::env::args().any(|argument| argument == PROVER) {
            let proving = affinity::on_cores(&[*first], || keep_proving(entries, height));
            return proving.ok_or("cannot pin the proof")?;
        }
        if std::env::args().any(|argument| argument == BUSY) {
            let busy = affinity::on_cores(&[*first], || {
                loop {
                    black_box(calibration::clock_hz());
                }
            });
            return busy.ok_or_else(|| "cannot pin the multiplications".into());
        }
        println!("{entries} entries at k = {k}; hashing on core {last}, proving on core {first}");
        let hashing = kernels::chosen().work(LABEL_DEPTH)?;
        let (target, made) = (AtomicU64::new(u64::MAX), AtomicU64::new(0));
        let mut prover = OnFirst::start(PROVER)?;
        let busy = OnFirst::start(BUSY)?;
        busy.signal(Signal::STOP)?;
        let times = prover.times(if is_measuring() { 3 } else { 1 })?;
        println!(
            "the proof, made and verified on one core: {}",
            spread(times, 3, " s")
        );
        let [proving, multiplying] = thread::scope(|scope| {
            let hasher = scope.spawn(|| {
                affinity::on_cores(&[*last], || {
                    let mut tree = Tree::new(&hashing, &STATEMENT);
                    run(&mut tree, height, &target, &made, |_| {});
                })
            });
            let stop = StopHashing(&target);
            let ratios = ratios([&prover, &busy], &made);
            drop(stop);
            let hashed = hasher.join().ok().flatten();
            hashed.ok_or("cannot pin the hashing")?;
            ratios
        })?;
        // The proofs were right, too.
        prover.times(1)?;
        println!(
            "the hashing meanwhile, to without: {}\n\
             while that core multiplies instead: {}",
            spread(proving, 5, ""),
            spread(multiplying, 5, "")
        );
        Ok(())
    }

    /// The rate of the hashing in each turn of each of the others, to that in the turns of none
    /// before and after.
    fn ratios(others: [&OnFirst; 2], made: &AtomicU64) -> Result<[Vec<f64>; 2], Failure> {
        let (turns, turn) = match is_measuring() {
            true => (200, Duration::from_millis(250)),
            false => (2, Duration::from_millis(20)),
        };
        let rate = || {
            let (before, start) = (made.load(Relaxed), Instant::now());
            thread::sleep(turn);
            (made.load(Relaxed) - before) as f64 / start.elapsed().as_secs_f64()
        };
        let mut ratios = [const { Vec::new() }; 2];
        let [proving, _] = others;
        proving.signal(Signal::STOP)?;
        let mut before = rate();
        for _ in 0..turns {
            for (other, ratios) in others.iter().zip(&mut ratios) {
                other.signal(Signal::CONT)?;
                let meanwhile = rate();
                other.signal(Signal::STOP)?;
                let after = rate();
                ratios.push(2.0 * meanwhile / (before + after));
                before = after;
            }
        }
        proving.signal(Signal::CONT)?;
        Ok(ratios)
    }

    /// Makes proofs and says how long each took, until nobody reads that.
    fn keep_proving(entries: u64, height: SubtreeHeight) -> Result<(), Failure> {
        let leaves = entries * height.leaves() + height.leaves() * 3 / 4;
        let work = synthetic::work(kernels::chosen().work(LABEL_DEPTH)?.kernels());
        let round = RoundWork::new(&work, &STATEMENT, height);
        let mut log = synthetic::file_log(tempfile::tempfile()?, &round, entries)?;
        let tree = synthetic::tree(&work, leaves);
        loop {
            let start = Instant::now();
            let proof = prove(&tree, height, &mut log, T, 1, &ProveProgress::default())?;
            verify(&work, &STATEMENT, leaves, T, &proof)?;
            let seconds = start.elapsed().as_secs_f64();
            writeln!(std::io::stdout(), "{seconds}")?;
        }
    }

    /// This program once more, on the first core.
    struct OnFirst {
        child: Child,
        said: BufReader<std::process::ChildStdout>,
    }

    impl OnFirst {
        fn start(option: &str) -> Result<Self, Failure> {
            let mut child = Command::new(std::env::current_exe()?)
                .args(std::env::args().skip(1))
                .arg(option)
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .spawn()?;
            let said = child.stdout.take().ok_or("no output")?;
            Ok(Self {
                child,
                said: BufReader::new(said),
            })
        }

        /// How long so many proofs took.
        fn times(&mut self, proofs: usize) -> Result<Vec<f64>, Failure> {
            let mut times = Vec::new();
            for _ in 0..proofs {
                let mut line = String::new();
                self.said.read_line(&mut line)?;
                let time = line.trim().parse();
                times.push(time.map_err(|_| "the prover has failed")?);
            }
            Ok(times)
        }

        fn signal(&self, signal: Signal) -> Result<(), Failure> {
            let pid = i32::try_from(self.child.id())?;
            Ok(kill_process(
                Pid::from_raw(pid).ok_or("no process")?,
                signal,
            )?)
        }
    }

    impl Drop for OnFirst {
        fn drop(&mut self) {
            // Also one that is stopped.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }

    /// Ends the hashing when it is dropped, whatever became of the proofs.
    struct StopHashing<'a>(&'a AtomicU64);

    impl Drop for StopHashing<'_> {
        fn drop(&mut self) {
            self.0.store(0, Relaxed);
        }
    }

    /// The median of some values, and their quartiles.
    fn spread(mut values: Vec<f64>, decimals: usize, unit: &str) -> String {
        values.sort_by(f64::total_cmp);
        let at = |part: usize| {
            let place = (values.len() * part / 4).min(values.len().saturating_sub(1));
            values.get(place).copied().unwrap_or(f64::NAN)
        };
        format!(
            "{:.decimals$}{unit} (median of {}, quartiles {:.decimals$} and {:.decimals$})",
            at(2),
            values.len(),
            at(1),
            at(3),
        )
    }
}

#[cfg(unix)]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    turns::main()
}

#[cfg(not(unix))]
fn main() {
    poet_conformance::skip("this system cannot stop and continue a process");
}
