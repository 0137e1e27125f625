//! The end of a log after a power failure.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::AtomicU64;

use poet_backend_generic::Generic;
use poet_engine::{
    Kernels, LogError, LogRead, Node, RoundWork, SubtreeHeight, Tree, Work, WorkFunction, run,
};

const STATEMENT: &[u8] = b"a statement";

fn work() -> Work {
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain: g,
    };
    Work::new(WorkFunction::Sha256, 2, kernels).unwrap()
}

/// A log of this many entries.
fn log(k: SubtreeHeight, entries: u64) -> Vec<Node> {
    let (target, progress) = (AtomicU64::new(entries << k.get()), AtomicU64::new(0));
    let mut log = Vec::new();
    let mut tree = Tree::new(&work(), STATEMENT);
    run(&mut tree, k, &target, &progress, |root| log.push(root));
    assert_eq!(log.len() as u64, entries);
    log
}

/// Returns how many entries the log keeps, after asserting that the tree is that of the right ones.
#[track_caller]
fn sound(k: SubtreeHeight, log: &[Node], right: &[Node]) -> usize {
    let work = work();
    let round = RoundWork::new(&work, STATEMENT, k);
    let tree = round.resume_sound(&mut &*log).unwrap();
    let entries = (tree.leaves() >> k.get()) as usize;
    let expected = round.resume(&mut &right[..entries]).unwrap();
    assert_eq!(tree.parked(), expected.parked());
    assert_eq!(tree.leaves(), expected.leaves());
    entries
}

/// Damage to the end of a log.
type Damage<'a> = &'a dyn Fn(&mut [Node]);

#[test]
fn a_log_ends_before_its_first_damaged_entry() {
    for (k, entries) in [(0, 1), (0, 2), (0, 700), (3, 100), (6, 17)] {
        let k = SubtreeHeight::new(k).unwrap();
        let right = log(k, entries);
        assert_eq!(sound(k, &right, &right), right.len());
        for first in 0..right.len() {
            // Only some of them, where there are many.
            if right.len() > 100 && first % 97 > 1 && first + 3 < right.len() {
                continue;
            }
            let damages: [Damage<'_>; 5] = [
                &|tail| tail.fill([0; 32]),
                &|tail| tail.fill([0xa7; 32]),
                &|tail| tail[0][31] ^= 1,
                &|tail| tail[0][16..].fill(0),
                // A sector of other data, followed by zeros.
                &|tail| {
                    tail[0] = [9; 32];
                    tail[1..].fill([0; 32]);
                },
            ];
            for (number, damage) in damages.iter().enumerate() {
                let mut damaged = right.clone();
                damage(&mut damaged[first..]);
                // A single wrong entry before the last one is left to the audit.
                let single = (2..=3).contains(&number) && first + 1 < right.len();
                let expected = if single { right.len() } else { first };
                assert_eq!(
                    sound(k, &damaged, &right),
                    expected,
                    "k {}, {number}",
                    k.get()
                );
            }
        }
    }
    // A sector and a bit in the middle, or one entry more than are repaired.
    let k = SubtreeHeight::new(0).unwrap();
    let right = log(k, 700);
    let mut damaged = right.clone();
    damaged[300..316].fill([0; 32]);
    damaged[500][7] ^= 1;
    assert_eq!(sound(k, &damaged, &right), 700);
    damaged[300..333].fill([0; 32]);
    assert_eq!(sound(k, &damaged, &right), 300);
    let k = SubtreeHeight::new(2).unwrap();
    assert_eq!(sound(k, &[], &[]), 0);
    assert_eq!(sound(k, &[[0; 32]; 100], &[]), 0);
}

/// The audit repairs damage to entries synced long ago: nothing is cut.
#[test]
fn older_damage_is_not_the_end() {
    let k = SubtreeHeight::new(16).unwrap();
    let zero = SubtreeHeight::new(0).unwrap();
    // Roots of large subtrees are expensive to make; detecting that they are wrong is cheap.
    let mut log = log(zero, 40);
    assert_eq!(sound(k, &log, &log), 40);
    log.extend([[0; 32]; 50]);
    assert_eq!(sound(k, &log, &log), 40);
}

#[test]
fn a_log_that_cannot_be_read_is_an_error() {
    struct Broken;
    impl LogRead for Broken {
        fn entries(&self) -> u64 {
            100
        }
        fn read(&mut self, start: u64, _: &mut [Node]) -> Result<(), LogError> {
            let (entry, entries) = (start, 0);
            Err(LogError::Missing { entry, entries })
        }
    }
    let k = SubtreeHeight::new(0).unwrap();
    let work = work();
    let round = RoundWork::new(&work, STATEMENT, k);
    assert!(round.resume_sound(&mut Broken).is_err());
}
