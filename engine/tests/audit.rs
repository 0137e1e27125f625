//! Audits: a bit that flips anywhere is found and repaired, and the right culprit is blamed.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use poet_backend_generic::Generic;
use poet_engine::audit::{AuditError, AuditWith, Auditor, Culprit, Finding};
use poet_engine::{
    Chain, Kernels, LogRead as _, Node, ProveProgress, RoundWork, SubtreeHeight, T, Tree, Work,
    WorkFunction, prove, run, verify,
};

const STATEMENT: &[u8] = b"a statement that is longer than one block of SHA-256, to have a tail";
const DEPTH: u32 = 2;
static GO_ON: AtomicBool = AtomicBool::new(false);

fn work_with(wide_chain: &'static dyn Chain) -> Work {
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain,
    };
    Work::new(WorkFunction::Sha256, DEPTH, kernels).unwrap()
}

fn work() -> Work {
    work_with(Generic::get())
}

fn with(threads: usize) -> AuditWith<'static> {
    AuditWith {
        threads,
        stop: &GO_ON,
    }
}

/// A round on one thread: the work, its log and the auditor.
struct Round {
    k: SubtreeHeight,
    tree: Tree,
    log: Vec<Node>,
    auditor: Auditor,
    found: Vec<Finding>,
    threads: usize,
    /// The most leaves after the audited ones when the work had to go back.
    lost: u64,
}

impl Round {
    fn new(k: u32) -> Self {
        Self::on(&work(), k)
    }

    fn on(work: &Work, k: u32) -> Self {
        let k = SubtreeHeight::new(k).unwrap();
        Self {
            k,
            tree: Tree::new(work, STATEMENT),
            log: Vec::new(),
            auditor: RoundWork::new(work, STATEMENT, k).auditor(),
            found: Vec::new(),
            threads: 1,
            lost: 0,
        }
    }

    /// Works up to `leaves` leaves without an audit.
    fn hash(&mut self, leaves: u64) {
        let (target, progress) = (AtomicU64::new(leaves), AtomicU64::default());
        let log = &mut self.log;
        run(&mut self.tree, self.k, &target, &progress, |root| {
            log.push(root);
        });
    }

    /// Flips a bit of the next label.
    fn wrong_label(&mut self) {
        let mut label = self.tree.next_label();
        label[31] ^= 1;
        let (k, log) = (self.k.get(), &mut self.log);
        self.tree.push(label, |height, _, node| {
            if height == k {
                log.push(*node);
            }
        });
    }

    /// Flips a bit of the parked node at `position`, counted from the lowest.
    fn flip_parked(&mut self, position: usize) {
        let mut parked = self.tree.parked().to_vec();
        parked[position][3] ^= 0x40;
        let leaves = self.tree.leaves();
        self.tree = Tree::from_parked(&work(), STATEMENT, leaves, &parked).unwrap();
    }

    fn apply(&mut self, findings: Vec<Finding>) {
        for finding in &findings {
            let entry = finding.entry as usize;
            match finding.culprit {
                Culprit::Auditor => assert!(finding.right.is_empty()),
                Culprit::Copy => {
                    self.log[entry..][..finding.right.len()].copy_from_slice(&finding.right);
                }
                Culprit::Work => {
                    self.log.truncate(entry);
                    self.log.extend(&finding.right);
                    let lost = self.tree.leaves() - self.auditor.tree().leaves();
                    self.lost = self.lost.max(lost);
                    self.tree = self.auditor.tree().clone();
                }
            }
        }
        self.found.extend(findings);
    }

    /// Audits the whole log.
    fn audit(&mut self) {
        loop {
            let before = self.auditor.entries();
            let findings = self
                .auditor
                .step(&mut self.log.as_slice(), with(self.threads))
                .unwrap();
            if findings.is_empty() && self.auditor.entries() == before {
                return;
            }
            self.apply(findings);
        }
    }

    fn scrub(&mut self, chunks: u64) {
        let result = self
            .auditor
            .scrub(&mut self.log.as_slice(), chunks, with(self.threads));
        self.apply(result.unwrap().1);
    }

    /// Each culprit, and how often it was blamed.
    fn culprits(&self) -> BTreeMap<&'static str, usize> {
        let mut culprits = BTreeMap::new();
        for finding in &self.found {
            let name = match finding.culprit {
                Culprit::Work => "work",
                Culprit::Copy => "copy",
                Culprit::Auditor => "auditor",
            };
            *culprits.entry(name).or_default() += 1;
        }
        culprits
    }

    /// Asserts that no error is left, and that the round can be proven.
    fn assert_sound(mut self) {
        self.hash(self.tree.leaves().max(T as u64 + 7));
        self.audit();
        let leaves = self.tree.leaves();
        let mut whole = Round::new(self.k.get());
        whole.hash(leaves);
        assert!(self.log == whole.log, "the log is wrong");
        assert_eq!(self.auditor.entries(), whole.log.len() as u64);
        let progress = ProveProgress::default();
        let log = &mut self.log.as_slice();
        let proof = prove(&self.tree, self.k, log, T, 2, &progress).unwrap();
        assert_eq!(verify(&work(), STATEMENT, leaves, T, &proof), Ok(()));
        assert_eq!(Some(proof.root), whole.tree.root());
    }
}

/// (subtree height, leaves of a round with several chunks)
const SIZES: [(u32, u64); 3] = [(0, 1_900), (1, 2_500), (3, 6_001)];

#[test]
fn the_roots_are_at_a_subtree_height_of_their_own() {
    for (k, roots) in [(0, 9), (12, 21), (15, 24), (16, 24), (24, 24)] {
        assert_eq!(Round::new(k).auditor.root_height().get(), roots);
    }
}

#[test]
fn a_right_log_is_found_right() {
    for (k, leaves) in SIZES {
        for threads in [1, 3] {
            let mut round = Round::new(k);
            round.threads = threads;
            for part in 1..=4 {
                round.hash(leaves * part / 4);
                round.audit();
                assert_eq!(round.auditor.entries(), round.log.len() as u64);
                round.scrub(3);
            }
            assert_eq!(round.culprits(), BTreeMap::new());
            let chunk = round.auditor.root_height().leaves();
            let roots = round.auditor.roots().len() as u64;
            assert_eq!(roots, round.log.len() as u64 * round.k.leaves() / chunk);
            assert!(roots > 0);
            round.assert_sound();
        }
    }
}

#[test]
fn a_wrong_label_costs_what_was_made_since() {
    for (k, leaves) in SIZES {
        for at in [0, 1, leaves / 2, leaves / 2 + 1, leaves - 500] {
            let mut round = Round::new(k);
            round.hash(at);
            round.audit();
            round.wrong_label();
            round.hash(leaves);
            // An error in a subtree that never ends goes unnoticed.
            let told = round.log.len() as u64 > (at >> k) + 1;
            round.audit();
            if told {
                assert_eq!(round.culprits(), BTreeMap::from([("work", 1)]), "{k} {at}");
                let found = round.found[0].entry << k;
                assert_eq!(found, at >> k << k);
                assert!(round.lost <= leaves - at, "{k} {at}: {}", round.lost);
                round.assert_sound();
            }
        }
    }
}

#[test]
fn a_flipped_parked_node_is_the_works_fault_at_any_height() {
    for (k, leaves) in SIZES {
        // All bits are set below this.
        let at: u64 = (leaves + 1).next_power_of_two() / 2 - 1;
        for position in 0..at.count_ones() as usize {
            let mut round = Round::new(k);
            round.hash(at);
            round.audit();
            round.flip_parked(position);
            round.hash(leaves + (2 << k));
            round.audit();
            assert_eq!(
                round.culprits(),
                BTreeMap::from([("work", 1)]),
                "subtree height {k}, parked node {position}"
            );
            round.assert_sound();
        }
    }
}

#[test]
fn a_bad_copy_is_replaced_and_nothing_is_lost() {
    for (k, leaves) in SIZES {
        for (from, count) in [(0, 1), (1, 1), (100, 1), (511, 2), (700, 3), (600, 256)] {
            let mut round = Round::new(k);
            round.hash(leaves + (2 << k));
            // Much longer than the damage, so that much would be lost.
            let at_stake = round.log.len().saturating_sub(from);
            if at_stake < count * 8 + 2 && !(count == 1 && at_stake > 1) {
                continue;
            }
            for entry in &mut round.log[from..from + count] {
                entry[17] ^= 8;
            }
            round.audit();
            assert_eq!(
                round.culprits(),
                BTreeMap::from([("copy", 1)]),
                "subtree height {k}, {count} from entry {from}"
            );
            let finding = &round.found[0];
            assert_eq!((finding.entry as usize, finding.right.len()), (from, count));
            assert_eq!(round.lost, 0);
            round.assert_sound();
        }
    }
}

#[test]
fn what_changes_after_the_audit_is_found_by_reading_again() {
    for (k, leaves) in [(0, 2_222), (2, 5_000)] {
        let mut round = Round::new(k);
        round.hash(leaves);
        round.audit();
        let entries = round.log.len();
        // In the first chunk, in another one, and in the incomplete last one.
        for at in [0, 1, 511, 600, entries - 1] {
            round.log[at][0] ^= 1;
            for _ in 0..entries / 512 + 1 {
                round.scrub(1);
            }
            assert_eq!(
                round.culprits(),
                BTreeMap::from([("copy", 1)]),
                "entry {at}"
            );
            assert_eq!(round.found[0].entry, at as u64);
            round.found.clear();
        }
        // A whole sector.
        round.log[512..640].fill([0; 32]);
        round.scrub(2);
        round.scrub(2);
        assert_eq!(round.found[0].right.len(), 128);
        assert_eq!(round.culprits(), BTreeMap::from([("copy", 1)]));
        round.assert_sound();
    }
}

#[test]
fn old_damage_is_found_when_the_audit_goes_on_from_kept_roots() {
    let mut round = Round::new(1);
    round.hash(6_000);
    round.audit();
    let roots = round.auditor.roots().to_vec();
    let whole = round.log.clone();
    // The server ends, a bit flips on the disk, and the work resumes from the log.
    round.log[700][4] ^= 2;
    let mut log = round.log.as_slice();
    let entries = log.entries();
    round.tree = RoundWork::new(&work(), STATEMENT, round.k)
        .resume(&mut log)
        .unwrap();
    round.auditor = RoundWork::new(&work(), STATEMENT, round.k).auditor_with_roots(roots);
    round.hash(6_500);
    round.audit();
    // The old copy and everything after the start are wrong, and nothing else.
    assert_eq!(round.culprits(), BTreeMap::from([("copy", 1), ("work", 1)]));
    assert_eq!(round.found[0].entry, 700);
    assert_eq!(round.found[1].entry, entries);
    assert_eq!(round.log[..whole.len()], whole);
    round.assert_sound();
}

#[test]
fn roots_that_were_kept_wrongly_are_noticed() {
    let mut round = Round::new(0);
    round.hash(3_000);
    round.audit();
    let right = round.auditor.roots().to_vec();
    let mut roots = right.clone();
    roots[2][9] ^= 1;
    round.auditor = RoundWork::new(&work(), STATEMENT, round.k).auditor_with_roots(roots);
    round.audit();
    assert_eq!(round.culprits(), BTreeMap::from([("auditor", 1)]));
    assert_eq!(round.auditor.roots(), right);
    assert_eq!(round.lost, 0);
    round.assert_sound();
}

/// The portable kernel, made to fail the given number of times.
struct Unreliable(AtomicU32);

impl Chain for Unreliable {
    fn one(&self, digest: &mut Node, n: u32) {
        Generic::get().one(digest, n);
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        Generic::get().many(digests, n);
        let less = |wrong: u32| wrong.checked_sub(1);
        if self.0.fetch_update(Relaxed, Relaxed, less).is_ok() {
            let middle = digests.len() / 2;
            digests[middle][1] ^= 1;
        }
    }
}

#[test]
fn an_auditor_that_is_wrong_blames_itself() {
    for wrong in 1..=3 {
        let chain: &'static Unreliable = Box::leak(Box::new(Unreliable(AtomicU32::new(0))));
        let mut round = Round::on(&work_with(chain), 1);
        round.hash(4_000);
        chain.0.store(wrong, Relaxed);
        round.audit();
        assert_eq!(chain.0.load(Relaxed), 0);
        assert!(!round.found.is_empty());
        let auditor = round.found.iter().all(|f| f.culprit == Culprit::Auditor);
        assert!(auditor, "{:?}", round.found);
        assert_eq!(round.lost, 0);
        round.assert_sound();
    }
}

#[test]
fn who_is_wrong_at_the_end_of_a_log_is_told_by_the_caller() {
    let mut round = Round::new(2);
    round.hash(800);
    let last = round.log.len() - 1;
    round.log[last][5] ^= 1;
    round.audit();
    assert!(round.auditor.undecided() && round.found.is_empty());
    let (read, findings) = round
        .auditor
        .scrub(&mut round.log.as_slice(), 9, with(1))
        .unwrap();
    assert_eq!((read, findings.len()), (0, 0));
    let finding = round.auditor.decide(Culprit::Work).unwrap();
    assert_eq!(finding.entry, last as u64);
    assert!(!round.auditor.undecided());
    assert_eq!(round.auditor.decide(Culprit::Work), None);
    round.apply(vec![finding]);
    round.assert_sound();
}

#[test]
fn an_auditor_stops_when_it_is_told_and_can_go_on() {
    let mut round = Round::new(4);
    round.hash(20_000);
    let stop = AtomicBool::new(true);
    let log = &mut round.log.as_slice();
    let with = AuditWith {
        threads: 2,
        stop: &stop,
    };
    assert!(matches!(
        round.auditor.step(log, with),
        Err(AuditError::Stopped)
    ));
    assert_eq!(round.auditor.entries(), 0);
    round.assert_sound();
}

impl Round {
    /// A round with a sampled audit.
    fn sampled(k: u32, seed: u64) -> Self {
        let mut round = Self::new(k);
        round.auditor = round.auditor.sampled(seed);
        round
    }
}

#[test]
fn a_sample_of_a_right_log_is_about_an_eighth() {
    for (k, leaves) in [(0, 30_000), (2, 60_000)] {
        let mut round = Round::sampled(k, 1);
        for part in 1..=4 {
            round.hash(leaves * part / 4);
            round.audit();
            assert_eq!(round.auditor.entries(), round.log.len() as u64);
            round.scrub(99);
        }
        assert!(round.auditor.samples() && round.found.is_empty());
        let (entries, recomputed) = (round.auditor.entries(), round.auditor.recomputed());
        assert!(recomputed > entries / 16, "{recomputed} of {entries}");
        assert!(recomputed < entries / 5, "{recomputed} of {entries}");
        round.assert_sound();
    }
}

#[test]
fn a_single_wrong_label_is_found_if_it_is_in_the_sample() {
    let mut found = 0;
    for seed in 0..24 {
        let mut round = Round::sampled(1, seed);
        round.hash(2_001);
        round.wrong_label();
        round.hash(3_000);
        round.audit();
        if round.auditor.samples() {
            // All later entries follow from it.
            assert!(round.found.is_empty());
            assert_eq!(round.auditor.entries(), round.log.len() as u64);
            assert!(round.auditor.recomputed() < round.auditor.entries() / 2);
            continue;
        }
        found += 1;
        assert_eq!(round.culprits(), BTreeMap::from([("work", 1)]));
        assert_eq!(round.found[0].entry, 1_000);
        round.assert_sound();
    }
    assert!((1..=12).contains(&found), "{found}");
}

#[test]
fn what_a_sample_finds_leads_to_the_first_mistake() {
    let mut trusting = 0;
    for k in [0, 2] {
        for seed in 0..4 {
            let mut round = Round::sampled(k, seed);
            round.hash(1_025);
            round.audit();
            round.wrong_label();
            round.hash(4_095);
            round.audit();
            // With most seeds it is not in the sample.
            if !round.auditor.samples() {
                continue;
            }
            trusting += 1;
            assert!(round.found.is_empty());
            round.flip_parked(5);
            round.hash(20_000);
            round.audit();
            assert!(!round.auditor.samples(), "{seed}");
            assert_eq!(round.culprits(), BTreeMap::from([("work", 1)]), "{seed}");
            assert_eq!(round.found[0].entry, 1_025 >> k, "{seed}");
            round.assert_sound();
        }
    }
    assert!(trusting > 0);
}

#[test]
fn a_sampled_audit_repairs_bad_copies() {
    for seed in 0..4 {
        let mut round = Round::sampled(1, seed);
        round.hash(9_000);
        // Changed before it was read: later samples do not follow from it.
        round.log[301][8] ^= 1;
        round.audit();
        assert!(!round.auditor.samples());
        assert_eq!(round.culprits(), BTreeMap::from([("copy", 1)]), "{seed}");
        assert_eq!(round.found[0].entry, 301);
        assert_eq!(round.lost, 0);
        round.assert_sound();

        let mut round = Round::sampled(1, seed);
        round.hash(9_000);
        round.audit();
        // Changed later: found in whole chunks and in the rest.
        let last = round.log.len() - 1;
        for at in [301, last] {
            round.log[at][8] ^= 1;
            round.scrub(99);
            round.scrub(99);
            assert_eq!(round.culprits(), BTreeMap::from([("copy", 1)]), "{seed}");
            assert_eq!(round.found[0].entry, at as u64);
            assert!(round.auditor.samples());
            round.found.clear();
        }
        round.assert_sound();
    }
}

#[test]
fn damage_beside_a_wrong_label_that_was_trusted_leads_to_both() {
    let mut trusted = 0;
    for seed in 0..6 {
        let mut round = Round::sampled(1, seed);
        round.hash(200);
        round.wrong_label();
        round.hash(3_000);
        round.audit();
        if !round.auditor.samples() {
            continue;
        }
        trusted += 1;
        round.log[90][8] ^= 1;
        round.scrub(1);
        assert!(!round.auditor.samples() && round.found.is_empty());
        round.audit();
        // First an error of the log, then one of the work.
        let found: Vec<_> = round.found.iter().map(|f| (f.culprit, f.entry)).collect();
        assert_eq!(found, [(Culprit::Copy, 90), (Culprit::Work, 100)]);
        round.assert_sound();
    }
    assert!(trusted > 0);
}

#[test]
fn a_sampled_audit_goes_on_from_kept_roots() {
    let mut round = Round::sampled(1, 3);
    round.hash(6_000);
    round.audit();
    let roots = round.auditor.roots().to_vec();
    assert_eq!(roots.len(), 3_000 / 512);
    round.log[700][4] ^= 2;
    round.auditor = RoundWork::new(&work(), STATEMENT, round.k)
        .auditor_with_roots(roots)
        .sampled(4);
    let findings = round
        .auditor
        .check(&mut round.log.as_slice(), with(1))
        .unwrap();
    round.apply(findings);
    assert_eq!(round.culprits(), BTreeMap::from([("copy", 1)]));
    round.hash(7_000);
    round.audit();
    assert!(round.auditor.samples());
    assert_eq!(round.culprits(), BTreeMap::from([("copy", 1)]));
    round.assert_sound();
}

#[test]
fn a_sampled_auditor_that_is_wrong_blames_itself_in_the_end() {
    let chain: &'static Unreliable = Box::leak(Box::new(Unreliable(AtomicU32::new(0))));
    let mut round = Round::on(&work_with(chain), 1);
    round.auditor = round.auditor.sampled(7);
    round.hash(9_000);
    chain.0.store(1, Relaxed);
    round.audit();
    assert_eq!(chain.0.load(Relaxed), 0);
    assert!(!round.auditor.samples());
    assert_eq!(round.culprits(), BTreeMap::from([("auditor", 1)]));
    assert_eq!(round.lost, 0);
    round.assert_sound();
}

#[cfg(feature = "fault-injection")]
mod faults {
    use poet_engine::fault::{Fault, run_with_fault};

    use super::*;

    #[test]
    fn every_fault_of_the_hashing_thread_is_found() {
        for k in [0, 3] {
            let (at, leaves) = (1_023, 4_200);
            for fault in [
                Fault::Label,
                Fault::Statement,
                Fault::Parked(0),
                Fault::Parked(5),
                Fault::Parked(9),
                Fault::Prefix(0),
                Fault::Prefix(5),
                Fault::Prefix(9),
                // Absent at first.
                Fault::Parked(11),
            ] {
                let mut round = Round::new(k);
                let (target, progress) = (AtomicU64::new(leaves), AtomicU64::default());
                let log = &mut round.log;
                let tree = &mut round.tree;
                let push = |root| log.push(root);
                run_with_fault(tree, round.k, &target, &progress, push, at, fault);
                let mut right = Round::new(k);
                right.hash(leaves);
                assert!(round.log != right.log, "{fault:?} did nothing");
                assert_eq!(round.log[..1_000 >> k], right.log[..1_000 >> k]);
                round.audit();
                assert_eq!(round.culprits(), BTreeMap::from([("work", 1)]), "{fault:?}");
                round.assert_sound();
            }
        }
    }
}

#[test]
fn entries_taken_on_trust_are_not_recomputed() {
    for (k, trusted) in [(0, 700), (0, 512), (2, 3), (3, 1500)] {
        let mut round = Round::new(k);
        round.hash(1600 << k);
        // A wrong trusted entry goes unnoticed; all later entries differ, and so do the states from
        // which they would be recomputed.
        let log = &mut round.log.as_slice();
        round.auditor.take_on_trust(log, trusted, with(1)).unwrap();
        assert_eq!(round.auditor.entries(), trusted);
        assert_eq!(round.auditor.recomputed(), 0);
        // Fewer than are audited already, or more than the log has.
        round.auditor.take_on_trust(log, 1, with(1)).unwrap();
        round.auditor.take_on_trust(log, 1601, with(1)).unwrap();
        assert_eq!(round.auditor.entries(), trusted);
        round.audit();
        assert_eq!(round.auditor.recomputed(), 1600 - trusted);
        // Later changes are found in trusted entries, too.
        round.log[trusted as usize / 2][0] ^= 1;
        round.scrub(10);
        assert_eq!(round.culprits(), BTreeMap::from([("copy", 1)]));
        round.assert_sound();
    }
}

#[test]
fn a_search_finds_a_bad_copy_by_recomputing_few() {
    for bad in [0, 1, 511, 512, 777, 1599] {
        let mut round = Round::new(1);
        round.hash(3200);
        round.log[bad][5] ^= 8;
        let log = &mut round.log.as_slice();
        let found = round.auditor.search(log, 1599, with(1)).unwrap();
        assert_eq!(found, Some(bad as u64));
        assert_eq!(round.auditor.entries(), bad as u64);
        round.audit();
        round
            .auditor
            .decide(Culprit::Copy)
            .into_iter()
            .for_each(|finding| round.log[finding.entry as usize] = finding.right[0]);
        let recomputed = round.auditor.recomputed();
        assert_eq!(recomputed, 1600 - bad as u64);
        round.assert_sound();
    }
}

#[test]
fn a_search_finds_where_the_work_went_wrong() {
    // A label that the proof may show.
    let mut round = Round::new(1);
    round.hash(1000);
    round.wrong_label();
    round.hash(4000);
    let log = &mut round.log.as_slice();
    assert_eq!(round.auditor.search(log, 1999, with(1)).unwrap(), None);
    assert_eq!(round.auditor.entries(), 0);
    assert_eq!(round.auditor.search(log, 500, with(1)).unwrap(), Some(500));
    round.audit();
    assert_eq!(round.culprits(), BTreeMap::from([("work", 1)]));
    round.assert_sound();
    // A state that stays wrong.
    let mut round = Round::new(1);
    round.hash(1000);
    round.flip_parked(0);
    round.hash(4000);
    let log = &mut round.log.as_slice();
    let found = round.auditor.search(log, 1999, with(1)).unwrap();
    assert_eq!(found, Some(500));
    // Nothing is wrong.
    let mut round = Round::new(2);
    round.hash(400);
    let log = &mut round.log.as_slice();
    assert_eq!(round.auditor.search(log, 99, with(1)).unwrap(), None);
    assert!(round.auditor.search(log, 100, with(1)).is_err());
}
