//! The log on a disk that is full, slow or failing: nothing that was pushed is lost, and the log
//! catches up by itself.

#![allow(clippy::unwrap_used)]

use std::io::{Error, ErrorKind, Result};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use poet_backend_generic::Generic;
use poet_engine::file::{FileLog, LogFile, LogMonitor, LogWriter};
use poet_engine::{Kernels, LogHeader, LogRead as _, Node, SubtreeHeight, Work, WorkFunction};

/// A disk, with what is on it, what is only in memory, and what is wrong with it.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    /// As reads see it.
    bytes: Vec<u8>,
    /// As it is after a power failure.
    durable: Vec<u8>,
    /// Bytes of the file that the disk has room for.
    room: Option<usize>,
    /// The most bytes that a call reads or writes.
    short: Option<usize>,
    /// Syncs that fail; each one loses what was written since the last good one, as Linux does: the
    /// pages count as clean afterwards.
    failing_syncs: u32,
    /// Calls that are interrupted.
    interruptions: u32,
    /// Writes hang.
    stuck: bool,
    /// Where bytes are that were written and never synced.
    dirty: Vec<std::ops::Range<usize>>,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    fn log(&self) -> FileLog {
        FileLog::in_file(self.clone(), &header(), Generic::get()).unwrap()
    }

    /// The disk after a power failure.
    fn after_power_failure(&self) -> Self {
        let bytes = self.state().durable.clone();
        let disk = Self::default();
        disk.set(|state| {
            state.durable.clone_from(&bytes);
            state.bytes = bytes;
        });
        disk
    }
}

impl State {
    fn interrupt(&mut self) -> Result<()> {
        if self.interruptions > 0 {
            self.interruptions -= 1;
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl LogFile for Disk {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.state();
        state.interrupt()?;
        let there = state.bytes.get(offset as usize..).unwrap_or_default();
        let most = bytes.len().min(state.short.unwrap_or(usize::MAX));
        let count = there.len().min(most);
        bytes[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        let state = self.state();
        let mut state = self.0.1.wait_while(state, |state| state.stuck).unwrap();
        state.interrupt()?;
        let start = offset as usize;
        let room = state.room.unwrap_or(usize::MAX).saturating_sub(start);
        let count = bytes.len().min(state.short.unwrap_or(usize::MAX)).min(room);
        if count == 0 {
            return Err(ErrorKind::StorageFull.into());
        }
        let end = start + count;
        if state.bytes.len() < end {
            state.bytes.resize(end, 0);
        }
        state.bytes[start..end].copy_from_slice(&bytes[..count]);
        state.dirty.push(start..end);
        Ok(count)
    }

    fn sync(&self) -> Result<()> {
        let mut state = self.state();
        state.interrupt().map_err(|_| Error::other("interrupted"))?;
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            // The length is known, the content is gone.
            state.dirty.clear();
            return Err(Error::other("input/output error"));
        }
        let length = state.bytes.len();
        state.durable.resize(length, 0);
        for range in std::mem::take(&mut state.dirty) {
            let new = state.bytes[range.clone()].to_vec();
            state.durable[range].copy_from_slice(&new);
        }
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn cut(&self, bytes: u64) -> Result<()> {
        let mut state = self.state();
        let length = bytes as usize;
        state.bytes.resize(length, 0);
        for range in &mut state.dirty {
            *range = range.start.min(length)..range.end.min(length);
        }
        Ok(())
    }
}

fn header() -> LogHeader {
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain: g,
    };
    let work = Work::new(WorkFunction::Sha256, 3, kernels).unwrap();
    LogHeader::new(&work, b"statement", SubtreeHeight::new(2).unwrap())
}

fn node(i: usize) -> Node {
    let mut node = [0xa5; 32];
    node[..8].copy_from_slice(&i.to_be_bytes());
    node
}

fn nodes(count: usize) -> Vec<Node> {
    (0..count).map(node).collect()
}

fn entries(log: &mut FileLog) -> Vec<Node> {
    let mut entries = vec![[0; 32]; log.entries() as usize];
    log.read(0, &mut entries).unwrap();
    entries
}

#[track_caller]
fn await_that(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "waiting for {what}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

fn await_durable(monitor: &LogMonitor, count: usize) {
    await_that("durable entries", || {
        monitor.durable_entries() == count as u64
    });
    assert_eq!(monitor.error(), None);
}

#[test]
fn short_and_interrupted_calls_are_continued() {
    let disk = Disk::default();
    disk.set(|state| state.short = Some(7));
    let mut log = disk.log();
    let nodes = nodes(40);
    for part in nodes.chunks(9) {
        disk.set(|state| state.interruptions = 2);
        log.append(part).unwrap();
    }
    disk.set(|state| state.interruptions = 2);
    assert_eq!(entries(&mut log), nodes);
    log.sync().unwrap();
    assert_eq!(entries(&mut disk.after_power_failure().log()), nodes);
}

#[test]
fn a_write_that_fails_in_the_middle_of_an_entry_is_repeated() {
    let disk = Disk::default();
    let mut log = disk.log();
    let nodes = nodes(10);
    // Room for three and a half entries.
    disk.set(|state| state.room = Some(LogHeader::BYTES + 112));
    let error = log.append(&nodes).unwrap_err().to_string();
    assert!(error.starts_with("cannot write the log"), "{error}");
    assert_eq!(log.entries(), 0);
    // A server that starts now sees the whole entries, and cuts the torn one off.
    assert_eq!(entries(&mut disk.log()), nodes[..3]);
    assert_eq!(disk.state().bytes.len(), LogHeader::BYTES + 3 * 32);
    disk.set(|state| state.room = None);
    log.append(&nodes).unwrap();
    assert_eq!(entries(&mut log), nodes);
}

#[test]
fn a_full_disk_is_waited_for() {
    let disk = Disk::default();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    let monitor = writer.monitor();
    let nodes = nodes(20_000);
    for node in &nodes[..100] {
        writer.push(*node);
    }
    await_durable(&monitor, 100);
    disk.set(|state| state.room = Some(LogHeader::BYTES + 5_000 * 32 + 11));
    for node in &nodes[100..10_000] {
        writer.push(*node);
    }
    await_that("the report", || monitor.error().is_some());
    // Space for some, and for all. Meanwhile the work goes on.
    disk.set(|state| state.room = Some(LogHeader::BYTES + 15_000 * 32 + 1));
    for node in &nodes[10_000..] {
        writer.push(*node);
    }
    disk.set(|state| state.room = None);
    await_durable(&monitor, nodes.len());
    let mut log = writer.finish().unwrap();
    assert!(entries(&mut log) == nodes);
    assert!(entries(&mut disk.after_power_failure().log()) == nodes);
}

#[test]
fn what_a_failed_sync_dropped_is_written_again() {
    for pushed_meanwhile in [0, 300] {
        let disk = Disk::default();
        let mut writer = LogWriter::spawn(disk.log()).unwrap();
        let monitor = writer.monitor();
        let nodes = nodes(1_500);
        for node in &nodes[..200] {
            writer.push(*node);
        }
        await_durable(&monitor, 200);
        disk.set(|state| state.failing_syncs = 2);
        for node in &nodes[200..1_200 - pushed_meanwhile] {
            writer.push(*node);
        }
        await_that("the report", || monitor.error().is_some());
        let error = monitor.error().unwrap();
        assert!(error.starts_with("cannot sync the log"), "{error}");
        assert_eq!(monitor.durable_entries(), 200);
        for node in &nodes[1_200 - pushed_meanwhile..] {
            writer.push(*node);
        }
        await_durable(&monitor, nodes.len());
        // Nobody has written anything again after that.
        assert!(entries(&mut disk.after_power_failure().log()) == nodes);
        assert!(entries(&mut writer.finish().unwrap()) == nodes);
    }
}

#[test]
fn a_write_that_hangs_makes_only_a_full_queue_wait() {
    let disk = Disk::default();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    let monitor = writer.monitor();
    disk.set(|state| state.stuck = true);
    // Hours of a long round.
    let nodes = nodes(200_000);
    for node in &nodes {
        writer.push(*node);
    }
    assert_eq!(monitor.durable_entries(), 0);
    // More than the queue holds: this waits until the disk goes on.
    let pushing = thread::spawn(move || {
        for i in 200_000..300_000 {
            writer.push(node(i));
        }
        writer
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!pushing.is_finished(), "the queue has no bound");
    disk.set(|state| state.stuck = false);
    let mut log = pushing.join().unwrap().finish().unwrap();
    let written = entries(&mut log);
    assert!(written.len() == 300_000 && written.starts_with(&nodes));
}

#[test]
fn a_view_reads_and_repairs_what_another_thread_writes() {
    let disk = Disk::default();
    let log = disk.log();
    let mut view = log.view();
    let mut writer = LogWriter::spawn(log).unwrap();
    for node in nodes(50) {
        writer.push(node);
    }
    await_that("the entries", || view.entries() == 50);
    let mut read = [[0; 32]; 2];
    view.read(48, &mut read).unwrap();
    assert_eq!(read, [node(48), node(49)]);
    view.repair(10, &[node(1_010), node(1_011)]).unwrap();
    assert!(view.repair(49, &[node(0), node(0)]).is_err());
    let mut log = writer.finish().unwrap();
    let mut expected = nodes(50);
    expected[10..12].copy_from_slice(&[node(1_010), node(1_011)]);
    assert_eq!(entries(&mut log), expected);
    assert_eq!(entries(&mut disk.after_power_failure().log()), expected);
}

#[test]
fn a_log_is_cut_durably_and_continued() {
    let disk = Disk::default();
    let mut log = disk.log();
    log.append(&nodes(30)).unwrap();
    log.sync().unwrap();
    log.cut(40).unwrap();
    assert_eq!(log.entries(), 30);
    log.cut(20).unwrap();
    let mut writer = LogWriter::spawn(log).unwrap();
    assert_eq!(writer.monitor().durable_entries(), 20);
    for i in 20..25 {
        writer.push(node(i));
    }
    assert_eq!(entries(&mut writer.finish().unwrap()), nodes(25));
    assert_eq!(entries(&mut disk.after_power_failure().log()), nodes(25));
}

/// A small file system of its own, while this is there.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Says why, if there is none.
    fn mount() -> std::result::Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "none"])
            .arg(folder.path())
            .output()
            .map_err(|error| format!("mount cannot be run: {error}"))?;
        if mount.status.success() {
            Ok(Self(folder))
        } else {
            Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned())
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nobody can do anything about a failure here.
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_small_file_system_fills_up_and_is_emptied() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(reason) => return eprintln!("skipped: no file system can be mounted here: {reason}"),
    };
    let path = disk.file("tree.log");
    let log = FileLog::open(&path, &header(), Generic::get()).unwrap();
    let mut writer = LogWriter::spawn(log).unwrap();
    let monitor = writer.monitor();
    std::fs::write(disk.file("other"), vec![1; 900_000]).unwrap();
    // 640 kB.
    let nodes = nodes(20_000);
    for node in &nodes {
        writer.push(*node);
    }
    await_that("the report", || monitor.error().is_some());
    let error = monitor.error().unwrap();
    assert!(error.contains("No space left on device"), "{error}");
    std::fs::remove_file(disk.file("other")).unwrap();
    await_durable(&monitor, nodes.len());
    assert!(entries(&mut writer.finish().unwrap()) == nodes);
}
