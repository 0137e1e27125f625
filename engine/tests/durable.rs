//! Entries that may be lost are kept until they are durable, whatever the disk does and whichever
//! thread syncs.

#![allow(clippy::unwrap_used)]

mod failing_disk;

use std::sync::{Arc, Mutex};

use failing_disk::{Disk, entries, node, nodes};
use poet_engine::file::DurableLog;
use poet_engine::{LogError, LogRead as _};
use proptest::collection::vec;
use proptest::prelude::*;

const CAPACITY: usize = 40;

/// What happens to a log.
#[derive(Clone, Debug)]
enum Step {
    Push(usize),
    Write,
    /// The disk has room for this many bytes of later entries.
    Room(usize),
    NoLimit,
    ShortWrites(usize),
    /// This many syncs fail, and lose what was not synced.
    FailSyncs(u32),
    Sync,
    /// Another thread syncs. During the sync, this many entries are pushed and written.
    OtherSync {
        meanwhile: usize,
    },
    /// Another thread syncs during a write.
    OtherSyncDuringWrite,
    /// Another thread overwrites an entry.
    Repair,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..30_usize).prop_map(Step::Push),
        4 => Just(Step::Write),
        1 => (0..600_usize).prop_map(Step::Room),
        2 => Just(Step::NoLimit),
        1 => (1..70_usize).prop_map(Step::ShortWrites),
        2 => (1..3_u32).prop_map(Step::FailSyncs),
        3 => Just(Step::Sync),
        3 => (0..20_usize).prop_map(|meanwhile| Step::OtherSync { meanwhile }),
        2 => Just(Step::OtherSyncDuringWrite),
        1 => Just(Step::Repair),
    ]
}

/// A log, and the number of entries pushed to it.
struct Logged {
    log: DurableLog,
    pushed: usize,
}

impl Logged {
    fn push(&mut self, count: usize) {
        for _ in 0..count {
            let before = self.log.backlog();
            match self.log.push(node(self.pushed)) {
                Ok(()) => self.pushed += 1,
                Err(refused) => {
                    assert_eq!(refused, node(self.pushed));
                    assert_eq!(before, CAPACITY, "refused before it is full");
                }
            }
        }
        assert!(self.log.backlog() <= CAPACITY, "the backlog has no bound");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_counts_as_durable_that_a_power_failure_takes(steps in vec(step(), 1..60)) {
        let disk = Disk::default();
        let log = DurableLog::new(disk.log(), CAPACITY).unwrap();
        let view = log.view();
        let logged = Arc::new(Mutex::new(Logged { log, pushed: 0 }));
        let mut durable = 0;
        for step in steps {
            let this = || logged.lock().unwrap();
            // Failures are the subject of this test.
            match step {
                Step::Push(count) => this().push(count),
                Step::Write => drop(this().log.write()),
                Step::Room(bytes) => disk.set(|s| s.room = Some(s.bytes.len() + bytes)),
                Step::NoLimit => disk.set(|s| (s.room, s.short) = (None, None)),
                Step::ShortWrites(bytes) => disk.set(|s| s.short = Some(bytes)),
                Step::FailSyncs(count) => disk.set(|s| s.failing_syncs = count),
                Step::Sync => {
                    let mut this = this();
                    if this.log.sync().is_ok() {
                        prop_assert_eq!(this.log.durable_entries(), this.pushed as u64);
                        prop_assert_eq!(this.log.backlog(), 0);
                    }
                }
                Step::OtherSync { meanwhile } => {
                    let before = view.entries();
                    let other = Arc::clone(&logged);
                    disk.set(|s| s.during_sync = Some(Box::new(move || {
                        let mut this = other.lock().unwrap();
                        this.push(meanwhile);
                        drop(this.log.write());
                    })));
                    if view.sync().is_ok() {
                        // Everything written before it, and no more.
                        prop_assert_eq!(view.durable_entries(), before);
                    }
                    disk.set(|s| s.during_sync = None);
                }
                Step::OtherSyncDuringWrite => {
                    let other = view.clone();
                    disk.set(|s| s.during_write = Some(Box::new(move || drop(other.sync()))));
                    drop(this().log.write());
                    disk.set(|s| s.during_write = None);
                }
                Step::Repair => {
                    if let Some(last) = view.entries().checked_sub(1) {
                        drop(view.repair(last / 2, &[node(last as usize / 2)]));
                    }
                }
            }
            let mut this = this();
            let now = this.log.durable_entries();
            prop_assert!(now >= durable, "{} entries were durable, now {}", durable, now);
            durable = now;
            let after = entries(&mut disk.after_power_failure().log());
            prop_assert!(after.starts_with(&nodes(durable as usize)));
            // Whatever the disk holds, no entry is missing.
            prop_assert_eq!(this.log.entries(), this.pushed as u64);
            let kept = this.pushed.saturating_sub(CAPACITY);
            let mut newest = vec![[0; 32]; this.pushed - kept];
            this.log.read(kept as u64, &mut newest).unwrap();
            prop_assert_eq!(&newest, &nodes(this.pushed)[kept..]);
        }
        disk.set(|s| (s.room, s.short, s.failing_syncs) = (None, None, 0));
        drop(view);
        let Logged { log, pushed } = Arc::into_inner(logged).unwrap().into_inner().unwrap();
        prop_assert_eq!(entries(&mut log.finish().unwrap()), nodes(pushed));
        prop_assert_eq!(entries(&mut disk.after_power_failure().log()), nodes(pushed));
    }
}

#[test]
fn a_sync_that_succeeds_after_one_that_failed_makes_nothing_durable() {
    let disk = Disk::default();
    let mut log = DurableLog::new(disk.log(), CAPACITY).unwrap();
    let view = log.view();
    for node in nodes(5) {
        log.push(node).unwrap();
    }
    log.write().unwrap();
    disk.set(|state| state.failing_syncs = 1);
    assert!(matches!(
        view.sync(),
        Err(LogError::Io { action: "sync", .. })
    ));
    let error = view.sync().unwrap_err();
    assert!(
        matches!(error, LogError::Unwritten { entry: 0, .. }),
        "{error}"
    );
    assert_eq!(view.durable_entries(), 0);
    log.write().unwrap();
    view.sync().unwrap();
    assert_eq!(view.durable_entries(), 5);
    assert_eq!(entries(&mut disk.after_power_failure().log()), nodes(5));
}

#[test]
fn what_was_appended_before_is_made_durable_first() {
    let disk = Disk::default();
    let mut log = disk.log();
    log.append(&nodes(3)).unwrap();
    assert_eq!(log.durable_entries(), 0);
    disk.set(|state| state.failing_syncs = 1);
    assert!(DurableLog::new(log, CAPACITY).is_err());

    let disk = Disk::default();
    let mut log = disk.log();
    log.append(&nodes(3)).unwrap();
    let log = DurableLog::new(log, CAPACITY).unwrap();
    assert_eq!((log.durable_entries(), log.entries()), (3, 3));
}

#[test]
fn a_cut_takes_back_what_was_durable() {
    let disk = Disk::default();
    let mut log = disk.log();
    let view = log.view();
    log.append(&nodes(9)).unwrap();
    log.sync().unwrap();
    log.cut(4).unwrap();
    assert_eq!(view.durable_entries(), 4);
    log.append(&nodes(9)[4..]).unwrap();
    // These are not durable just because the disk once held as many.
    assert_eq!(view.durable_entries(), 4);
    assert_eq!(entries(&mut disk.after_power_failure().log()), nodes(4));
}
