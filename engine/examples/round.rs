//! Works on a round for some seconds, and resumes it when run again:
//!
//! ```sh
//! cargo run --release --example round -- round.log 5
//! ```
//!
//! It may be killed at any moment: leaves that it reports as durable are kept.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use poet_backend_generic::Generic;
use poet_engine::file::{FileLog, LogWriter};
use poet_engine::*;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(seconds)) = (args.next(), args.next()) else {
        return Err("usage: round LOG SECONDS".into());
    };
    let time = Duration::from_secs_f64(seconds.parse()?);

    // Portable Rust. `poet-backends` has faster backends, and selects one.
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain: g,
    };
    let work = Work::new(WorkFunction::Sha256, LABEL_DEPTH, kernels)?;
    let statement = b"the membership root of a round";
    let round = RoundWork::new(&work, statement, SubtreeHeight::new(4)?);

    // A new log, or the last run's. Entries that the disk has changed are repaired or made again.
    let mut log = FileLog::open(Path::new(&path), &round)?;
    let resumed = log.resume(&round)?;
    let mut tree = resumed.tree;
    println!("from leaf {}", tree.leaves());

    // One thread hashes, another writes, and this one watches.
    let mut writer = LogWriter::spawn(log)?;
    let monitor = writer.monitor();
    let (target, leaves) = (AtomicU64::new(u64::MAX), AtomicU64::new(tree.leaves()));
    let start = Instant::now();
    let height = round.subtree_height();
    thread::scope(|scope| {
        let hashing = scope.spawn(|| {
            run(&mut tree, height, &target, &leaves, |root| {
                writer.push(root);
            });
        });
        while !hashing.is_finished() {
            thread::sleep(Duration::from_millis(250));
            let durable = monitor.durable_entries() << height.get();
            println!("leaf {}, {durable} durable", leaves.load(Relaxed));
            if let Some(error) = monitor.error() {
                println!("{error}; the work goes on");
            }
            if start.elapsed() >= time {
                // A proof is impossible before that.
                target.store(T as u64, Relaxed);
            }
        }
    });
    let mut log = writer.finish()?;

    let progress = ProveProgress::default();
    let proof = prove(&tree, height, &mut log, T, 1, &progress)?;
    verify(&work, statement, tree.leaves(), T, &proof)?;
    println!(
        "a proof of {} leaves, {} bytes",
        tree.leaves(),
        proof.to_scale(tree.leaves()).len()
    );
    Ok(())
}
