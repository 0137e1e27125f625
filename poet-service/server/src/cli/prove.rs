//! `poet-service prove`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use poet_engine::file::{FileLog, LogWriter};
use poet_engine::{
    LogRead, MAX_LEAVES, MAX_THREADS, ProveProgress, RoundWork, SubtreeHeight, T, Tree, prove,
    proven_indices, run as work_loop, verify,
};
use poet_files::Output;

use super::{
    BackendArgs, INTERRUPTED, TICK, WorkArgs, available_threads, number, progress::Progress,
    proof_file,
};

/// How long an interrupted run waits for a disk that does not answer.
const DISK_PATIENCE: Duration = Duration::from_secs(3);

/// Do the work for a statement and print the proof
///
/// The proof is verified before it is printed. With --log, the same command continues an
/// interrupted run.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The statement to work on, in hex; may be empty
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    statement: Statement,

    /// How many leaves to make; no verifier accepts a proof of fewer than 150
    #[arg(long, value_name = "N", value_parser = number(1..=MAX_LEAVES))]
    leaves: u64,

    /// Keep the roots of subtrees of 2^K leaves, K from 0 to 24 [default: the smallest with a log
    /// under 1 GiB]
    #[arg(long, value_name = "K", value_parser = parse_subtree_height)]
    subtree_height: Option<SubtreeHeight>,

    #[command(flatten)]
    backend: BackendArgs,

    /// Keep the log in this file, and continue from it if it exists
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,

    /// Threads that make the proof when the work is done [default: all]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    threads: Option<usize>,

    /// Write the proof to this file; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,

    #[command(flatten)]
    work: WorkArgs,
}

/// A statement. A type of its own, because clap takes a `Vec` for a list of arguments.
#[derive(Clone, Debug)]
pub(super) struct Statement(pub(super) Vec<u8>);

pub(super) fn parse_hex(text: &str) -> Result<Statement, String> {
    hex::decode(text)
        .map(Statement)
        .map_err(|_| proof_file::NOT_HEX.to_owned())
}

fn parse_subtree_height(text: &str) -> Result<SubtreeHeight, String> {
    let k = text.parse().map_err(|_| "expected a number from 0 to 24")?;
    SubtreeHeight::new(k).map_err(|error| error.to_string())
}

fn parse_threads(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|threads| (1..=MAX_THREADS).contains(threads))
        .ok_or_else(|| format!("expected a number from 1 to {MAX_THREADS}"))
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let leaves = args.leaves;
    let Statement(statement) = &args.statement;
    let work = args.work.select_for_one_chain(&args.backend)?;
    // Checked before the work, so that its result is not lost.
    let out = Output::open("--out", &args.out)?;
    let k = args
        .subtree_height
        .unwrap_or_else(|| SubtreeHeight::for_round(leaves));

    let round = RoundWork::new(&work, statement, k);
    let mut log = match &args.log {
        Some(path) => FileLog::open(path, &round)?,
        None => {
            let file =
                tempfile::tempfile().context("cannot create a temporary file for the log")?;
            FileLog::in_file(file, &round)?
        }
    };
    let in_log = log.entries().saturating_mul(k.leaves());
    if in_log > leaves {
        bail!("the log stands for {in_log} leaves already, more than --leaves {leaves}");
    }
    if in_log > 0 {
        eprintln!("going on from leaf {in_log}");
    }
    let mut tree = round.resume(&mut log)?;

    let Some(mut log) = do_work(&mut tree, k, leaves, log)? else {
        let hint = match &args.log {
            Some(path) => format!(
                "{} has the work so far: the same command goes on from it",
                path.display()
            ),
            None => "without --log the work is lost".into(),
        };
        eprintln!("interrupted at leaf {}; {hint}", tree.leaves());
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let threads = args.threads.unwrap_or_else(available_threads);
    let proof = make_proof(&tree, k, &mut log, threads)?;
    if leaves >= T as u64 {
        verify(&work, statement, leaves, T, &proof).context(
            "the proof is not valid, so it is not printed; the hardware or the log is at fault",
        )?;
    } else {
        eprintln!("warning: no verifier accepts a proof of fewer than {T} leaves");
    }

    let indices = proven_indices(work.kernels().sha256, &proof.root, leaves, T);
    let json = proof_file::to_json(&work, statement, leaves, indices, &proof)?;
    out.write(json.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// Adds leaves to the tree until it has `leaves`. Returns the log with all its entries durable, or
/// `None` if the user interrupted the work.
fn do_work(
    tree: &mut Tree,
    k: SubtreeHeight,
    leaves: u64,
    log: FileLog,
) -> anyhow::Result<Option<FileLog>> {
    let target = Arc::new(AtomicU64::new(leaves));
    let interrupted = Arc::new(AtomicBool::new(false));
    ctrlc::set_handler({
        let (target, interrupted) = (Arc::clone(&target), Arc::clone(&interrupted));
        move || {
            interrupted.store(true, Relaxed);
            target.store(0, Relaxed);
        }
    })
    .context("cannot handle signals")?;

    let mut shown = Progress::new("leaves", tree.leaves());
    let progress = AtomicU64::new(tree.leaves());
    let mut writer = LogWriter::spawn(log)?;
    let monitor = writer.monitor();
    let failure = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            work_loop(tree, k, &target, &progress, |root| writer.push(root));
        });
        let mut failure = None;
        while !worker.is_finished() {
            shown.update(progress.load(Relaxed), leaves);
            if failure.is_none() {
                failure = monitor.error();
            }
            if failure.is_some() {
                target.store(0, Relaxed);
            }
            if target.load(Relaxed) == 0 {
                monitor.give_up();
            }
            thread::sleep(TICK);
        }
        failure
    });
    drop(shown);
    let log = match target.load(Relaxed) {
        0 => writer.finish_within(DISK_PATIENCE),
        _ => writer.finish(),
    };
    if let Some(failure) = failure {
        bail!(failure);
    }
    let done = !interrupted.load(Relaxed) || tree.leaves() >= leaves;
    Ok(done.then_some(log?))
}

fn make_proof(
    tree: &Tree,
    k: SubtreeHeight,
    log: &mut FileLog,
    threads: usize,
) -> anyhow::Result<poet_engine::Proof> {
    let mut shown = Progress::new("making the proof", 0);
    let progress = ProveProgress::default();
    let proof = thread::scope(|scope| {
        let prover = scope.spawn(|| prove(tree, k, log, T, threads, &progress));
        while !prover.is_finished() {
            let (done, total) = progress.hashes();
            shown.update(done, total);
            thread::sleep(TICK.min(Duration::from_millis(5)));
        }
        prover
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    drop(shown);
    Ok(proof)
}
