//! The log on a disk that is full, slow or failing: no pushed entry is lost, and the log catches up
//! by itself.

#![allow(clippy::unwrap_used)]

mod failing_disk;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use failing_disk::{Disk, entries, node, nodes, round, work};
use poet_conformance::skip;
use poet_engine::file::{FileLog, LogMonitor, LogWriter};
use poet_engine::{LogError, LogHeader, LogRead as _};

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
    // A server that starts now reads the whole entries and cuts off the torn one.
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
    // Room for some entries, then for all. Meanwhile the work goes on.
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
        // Nothing was written again after that.
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
    // The entries of hours of a long round.
    let nodes = nodes(200_000);
    for node in &nodes {
        writer.push(*node);
    }
    assert_eq!(monitor.durable_entries(), 0);
    // More than the queue holds: the push waits until the disk goes on.
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

/// The thread has as much memory of its own: it takes what is queued though it can write nothing.
#[test]
fn a_full_disk_makes_nobody_wait_while_there_is_memory() {
    let disk = Disk::default();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    disk.set(|state| state.room = Some(LogHeader::BYTES));
    let nodes = nodes(500_000);
    for node in &nodes {
        writer.push(*node);
    }
    // One attempt each second: at a few thousand entries each, there would be dozens.
    let refused = disk.state().refused_writes;
    assert!((1..20).contains(&refused), "{refused}");
    disk.set(|state| state.room = None);
    let mut log = writer.finish().unwrap();
    assert!(entries(&mut log) == nodes);
}

#[test]
fn a_full_queue_is_not_waited_for_when_the_work_is_given_up() {
    let disk = Disk::default();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    let monitor = writer.monitor();
    disk.set(|state| state.room = Some(LogHeader::BYTES + 100 * 32));
    let pushing = thread::spawn(move || {
        for i in 0..1_000_000 {
            writer.push(node(i));
        }
        writer
    });
    await_that("the report", || monitor.error().is_some());
    thread::sleep(Duration::from_millis(50));
    assert!(!pushing.is_finished(), "the queue has no bound");
    monitor.give_up();
    await_that("the end", || pushing.is_finished());
    let writer = pushing.join().unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.starts_with("cannot write the log"), "{error}");
    assert_eq!(entries(&mut disk.log()), nodes(100));
}

#[test]
fn what_does_not_follow_from_the_log_does_not_get_into_it() {
    let disk = Disk::default();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    disk.set(|state| state.stuck = true);
    writer.monitor().give_up();
    // More than the queue holds; after the refused entries there is room again.
    for i in 0..600_000 {
        writer.push(node(i));
    }
    disk.set(|state| state.stuck = false);
    await_that("the queue", || writer.monitor().durable_entries() > 0);
    for i in 600_000..600_010 {
        writer.push(node(i));
    }
    assert!(matches!(writer.finish(), Err(LogError::GivenUp)));
    let mut log = disk.log();
    let written = log.entries() as usize;
    assert!((200_000..600_000).contains(&written), "{written}");
    assert!(entries(&mut log) == nodes(written));
}

#[test]
fn a_disk_that_does_not_answer_is_waited_for_as_long_as_one_likes() {
    let disk = Disk::default();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    let monitor = writer.monitor();
    disk.set(|state| state.stuck_syncs = true);
    writer.push(node(0));
    await_that("the sync", || disk.state().syncs > 0);
    let error = writer.finish_within(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(error, LogError::TimedOut), "{error}");
    // Releases the thread.
    disk.set(|state| state.stuck_syncs = false);
    await_durable(&monitor, 1);
}

#[test]
fn a_process_that_is_killed_loses_less_than_a_second_and_so_does_a_power_failure() {
    // A busy machine delays some attempts.
    let tries = 6;
    let in_time = |what: &str, done: &dyn Fn(&Disk) -> usize| {
        let disk = Disk::default();
        let mut writer = LogWriter::spawn(disk.log()).unwrap();
        let mut least = Duration::MAX;
        for i in 0..tries {
            let start = Instant::now();
            writer.push(node(i));
            await_that(what, || done(&disk) > LogHeader::BYTES + i * 32);
            least = least.min(start.elapsed());
            if least < Duration::from_secs(1) && i > 1 {
                break;
            }
        }
        assert!(least < Duration::from_secs(1), "{what} took {least:?}");
    };
    in_time("the write", &|disk| disk.state().bytes.len());
    in_time("the sync", &|disk| disk.state().durable.len());
}

#[test]
fn entries_that_come_together_share_a_sync() {
    let disk = Disk::default();
    let start = Instant::now();
    let mut writer = LogWriter::spawn(disk.log()).unwrap();
    let before = disk.state().syncs;
    for i in 0..1_000 {
        writer.push(node(i));
        thread::sleep(Duration::from_millis(1));
    }
    let syncs = disk.state().syncs - before;
    let most = start.elapsed().as_millis() / 250 + 1;
    assert!(u128::from(syncs) <= most, "{syncs} syncs, expected {most}");
    // Nothing new, so nothing to sync.
    drop(writer.finish().unwrap());
    let mut idle = LogWriter::spawn(disk.log()).unwrap();
    idle.push(node(1_000));
    await_durable(&idle.monitor(), 1_001);
    let before = disk.state().syncs;
    thread::sleep(Duration::from_millis(600));
    assert_eq!(disk.state().syncs, before);
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

/// A small file system, mounted as long as this exists.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Returns why it cannot be mounted.
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
        // A failure to unmount cannot be handled here.
        drop(Command::new("umount").arg("-l").arg(self.0.path()).status());
    }
}

#[test]
fn a_small_file_system_fills_up_and_is_emptied() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(reason) => return skip(format!("no file system can be mounted: {reason}")),
    };
    let path = disk.file("tree.log");
    let log = FileLog::open(&path, &round(&work())).unwrap();
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
