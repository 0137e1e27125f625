//! A server on file systems that are temporarily full.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use common::{LocalServer, TestNode, await_some, config, members_of, verify_fetched};
use poet_storage::SqliteStorage;
use program::ServerProcess;

/// A small file system, which is unmounted when this is dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message, if no file system can be mounted.
    fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path())
            .output();
        let reason = match mount {
            Ok(mount) if mount.status.success() => return Some(Self(folder)),
            Ok(mount) => String::from_utf8_lossy(&mount.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!ci, "CI must be able to mount a file system: {reason}");
        eprintln!("skipped: no file system can be mounted here: {reason}");
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Uses up all the space that is left.
    fn fill(&self) {
        let mut bytes = 1 << 20;
        for part in 0.. {
            let filler = self.path().join(format!("filler{part}"));
            match fs::write(&filler, vec![1; bytes]) {
                Ok(()) => {}
                Err(_) if bytes > 512 => bytes /= 2,
                Err(_) => break,
            }
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(self.path()).unwrap().flatten() {
            if entry.file_name().to_str().unwrap().starts_with("filler") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A failure here cannot be handled.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

fn await_ready(server: &LocalServer) {
    await_some("readiness", || {
        (server.client.get("/readyz").status == 200).then_some(())
    });
}

#[track_caller]
fn await_unready(server: &LocalServer, reason: &str) {
    let answer = await_some("unreadiness", || {
        Some(server.client.get("/readyz")).filter(|answer| answer.status == 503)
    });
    assert_eq!(answer.json()["reason"], reason);
}

#[test]
fn while_the_database_is_on_a_full_disk_nothing_is_promised_and_nothing_lost() {
    let Some(disk) = SmallDisk::mount(2) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.directories.dbdir = disk.path().join("db");
    let server = LocalServer::start(config, 0);
    let params = server.client.pow_params();
    let mut acknowledged = Vec::new();
    // Submits until there is a response like this. Returns how many came before.
    let mut submit_until = |status: u16| {
        for count in 0..5_000 {
            let node = TestNode::new(acknowledged.len() as u32 + 1);
            let answer = server.client.submit(&node.request(&params));
            match answer.status {
                200 => acknowledged.push(node),
                503 => answer.assert_error(503, 14, "temporarily unavailable, try again later"),
                _ => panic!("{}: {}", answer.status, answer.body),
            }
            if answer.status == status {
                return count;
            }
        }
        panic!("still no {status}");
    };
    submit_until(200);
    disk.fill();
    // The database's files still have some room.
    submit_until(503);
    await_unready(&server, "the database cannot be written");
    disk.empty();
    await_ready(&server);
    assert_eq!(submit_until(200), 0);
    submit_until(200);

    server.at(30);
    server.await_work(0);
    server.at(80);
    let proof = verify_fetched(&server.client.await_proof(0));
    // A refused one may be in it, too: it was retried, and accepted later.
    assert_eq!(proof.members, members_of(&acknowledged));
}

#[test]
fn while_the_log_is_on_a_full_disk_the_work_goes_on() {
    let Some(disk) = SmallDisk::mount(16) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.directories.datadir = disk.path().join("data");
    let server = LocalServer::start(config, 0);
    server.client.register(&TestNode::new(1));
    let leaves = || server.executing().unwrap().leaves.load(Relaxed);
    server.at(30);
    server.await_work(0);
    disk.fill();
    await_unready(&server, "the work on a round fails");
    let before = leaves();
    await_some("further leaves", || {
        (leaves() > before + 5_000).then_some(())
    });
    disk.empty();
    await_ready(&server);

    // Full again, and this time the round ends meanwhile.
    disk.fill();
    await_unready(&server, "the work on a round fails");
    let worked = leaves();
    server.at(80);
    assert_eq!(server.client.get("/v1/proofs/0").status, 404);
    disk.empty();
    let proof = verify_fetched(&server.client.await_proof(0));
    assert!(
        proof.leaves >= worked,
        "{} leaves are lost",
        worked - proof.leaves
    );
    assert_eq!(proof.members, members_of(&[TestNode::new(1)]));
}

/// What was acknowledged survives a crash, although the database's files were removed meanwhile.
#[test]
fn a_database_that_is_removed_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = [
        "--epoch-duration=16s",
        "--phase-shift=8s",
        "--cycle-gap=14s",
    ];
    let server = ServerProcess::start(folder.path(), &schedule);
    let path = |name: &str| folder.path().join("db").join(name);
    let mut nodes = vec![TestNode::new(1)];
    let round = server.client.register(&nodes[0]);
    for name in ["poet.sqlite", "poet.sqlite-wal", "poet.sqlite-shm"] {
        fs::remove_file(path(name)).unwrap();
    }
    nodes.push(TestNode::new(2));
    assert_eq!(server.client.register(&nodes[1]), round);
    assert_eq!(server.client.get("/readyz").status, 200);
    let log = server.log();
    assert!(log.contains("ALARM: the database was removed"), "{log}");
    server.kill();
    let server = ServerProcess::start(folder.path(), &schedule);
    let proof = verify_fetched(&server.client.await_proof(round));
    assert_eq!(proof.members, members_of(&nodes));
}

/// A server whose database was replaced acknowledges nothing.
#[test]
fn a_database_that_is_replaced_gets_no_registrations() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    server.client.register(&TestNode::new(1));
    let database = folder.path().join("db/poet.sqlite");
    fs::rename(&database, folder.path().join("aside")).unwrap();
    fs::write(&database, "").unwrap();
    let request = TestNode::new(2).request(&server.client.pow_params());
    let refused = server.client.submit(&request);
    refused.assert_error(503, 14, "temporarily unavailable, try again later");
    await_unready(&server, "the database cannot be written");
    fs::rename(folder.path().join("aside"), &database).unwrap();
    await_ready(&server);
    server.client.register(&TestNode::new(2));
}

/// While the disk is full, the log says so once a minute and names the directory, whatever clients
/// do.
#[test]
fn a_full_disk_is_said_once() {
    let Some(disk) = SmallDisk::mount(2) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let dbdir = disk.path().join("db");
    let dbdir = format!("--dbdir={}", dbdir.display());
    let server = ServerProcess::start(
        folder.path(),
        &[&dbdir, "--epoch-duration=1h", "--phase-shift=30m"],
    );
    let params = server.client.pow_params();
    disk.fill();
    let mut refused = 0;
    for number in 0.. {
        let node = TestNode::new(number);
        refused += u32::from(server.client.submit(&node.request(&params)).status == 503);
        if refused == 50 {
            break;
        }
    }
    await_some("unreadiness", || {
        (server.client.get("/readyz").status == 503).then_some(())
    });
    let log = server.log();
    let mut lines = log.lines().filter(|line| line.contains("ERROR"));
    let line = lines
        .find(|line| line.contains("cannot write the database"))
        .unwrap();
    assert!(line.contains(disk.path().to_str().unwrap()), "{line}");
    let full = log.matches("disk is full").count();
    assert_eq!(full, 1, "{log}");
    let errors = log.lines().filter(|line| line.contains("ERROR")).count();
    assert!(errors <= 3, "{log}");
}

/// After a clean shutdown, the key and the registrations are in the database, not in its log, even
/// if another program reads it.
#[test]
fn after_a_clean_end_a_plain_copy_is_whole() {
    for reads in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let server =
            ServerProcess::start(folder.path(), &["--epoch-duration=1h", "--phase-shift=30m"]);
        for number in 0..5 {
            server.client.register(&TestNode::new(number));
        }
        let info = server.client.get("/v1/info").json();
        let database = folder.path().join("db/poet.sqlite");
        // This connection does not delay the shutdown, but keeps SQLite from checkpointing by
        // itself.
        let reader = reads.then(|| {
            let reader = SqliteStorage::open_to_read(&database).unwrap();
            assert_eq!(reader.newest_rounds(9).unwrap().len(), 1);
            reader
        });
        assert_eq!(server.signal("TERM").code(), Some(0));
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("db")).unwrap();
        fs::copy(&database, copy.path().join("db/poet.sqlite")).unwrap();
        drop(reader);
        let server =
            ServerProcess::start(copy.path(), &["--epoch-duration=1h", "--phase-shift=30m"]);
        assert_eq!(server.client.get("/v1/info").json(), info);
        let round = server.client.get("/v1/rounds/0").json();
        assert_eq!(round["members"], "5", "{round}");
    }
}

/// Rounds of six minutes: their log contains every label.
const LONG: [&str; 4] = [
    "--epoch-duration=6m",
    "--phase-shift=500ms",
    "--cycle-gap=1m",
    "--audit=off",
];

/// The promise is to end within five seconds; this allows for a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn log_bytes(data: &Path) -> u64 {
    fs::metadata(data.join("rounds/0/tree.log")).map_or(0, |metadata| metadata.len())
}

/// Sends SIGTERM. Returns what the log says about the interrupted work.
#[track_caller]
fn end(server: ServerProcess, folder: &Path) -> String {
    let start = Instant::now();
    let status = server.signal("TERM");
    assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
    let log = fs::read_to_string(folder.join("log.txt")).unwrap();
    assert_eq!(status.code(), Some(0), "{log}");
    let mut lines = log.lines().filter(|line| line.contains("work interrupted"));
    lines.next().expect(&log).to_owned()
}

#[test]
fn sigterm_ends_a_server_that_waits_for_room() {
    let Some(disk) = SmallDisk::mount(3) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let data = disk.path().join("data");
    let option = format!("--datadir={}", data.display());
    let options = [&LONG[..], &[option.as_str()]].concat();
    let server = ServerProcess::start(folder.path(), &options);
    // Until the queue is full, and the hashing thread waits.
    let mut before = None;
    while before.is_none_or(|before| before != leaves(&server)) {
        before = Some(leaves(&server)).filter(|leaves| *leaves > 0);
        thread::sleep(Duration::from_secs(1));
    }
    let said = end(server, folder.path());
    assert!(said.contains("made again after a restart"), "{said}");

    // Everything that found room is there.
    let entries = (log_bytes(&data) - 96) / 32;
    assert!(entries > 10_000, "{entries}");
    let grown = Command::new("mount")
        .args(["-o", "remount,size=200m"])
        .arg(disk.path())
        .status();
    assert!(grown.unwrap().success());
    let server = ServerProcess::start(folder.path(), &options);
    await_some("the work", || (leaves(&server) > entries).then_some(()));
    let said = end(server, folder.path());
    assert!(said.contains("leaves="), "{said}");
}

/// Returns the current number of leaves of round 0.
fn leaves(server: &ServerProcess) -> u64 {
    let round = server.client.get("/v1/rounds/0").json();
    let leaves = &round["leaves"];
    leaves.as_str().map_or(0, |leaves| leaves.parse().unwrap())
}

/// Makes syncs of tree logs fail or hang once the file SYNC_TROUBLE exists.
const SYNC_TROUBLE: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sync_file(long call, int file) {
    char link[64], path[4096] = "";
    const char *trouble = getenv("SYNC_TROUBLE");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (trouble && access(trouble, F_OK) == 0 && readlink(link, path, sizeof path - 1) > 0 &&
        strstr(path, "tree.log")) {
        if (strstr(trouble, "fail")) {
            errno = EIO;
            return -1;
        }
        sleep(600);
    }
    return (int)syscall(call, file);
}
int fsync(int file) { return sync_file(SYS_fsync, file); }
int fdatasync(int file) { return sync_file(SYS_fdatasync, file); }
"#;

#[test]
fn sigterm_ends_a_server_whose_disk_fails_or_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("sync.c"), folder.path().join("sync.so"));
    fs::write(&source, SYNC_TROUBLE).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .output();
    if !compiled.is_ok_and(|done| done.status.success()) {
        let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!ci, "CI must have a C compiler");
        eprintln!("skipped: there is no C compiler here");
        return;
    }
    for trouble in ["fail", "hang"] {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join(trouble);
        let environment = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("SYNC_TROUBLE", marker.to_str().unwrap()),
        ];
        let server = ServerProcess::start_with(folder.path(), &LONG, &environment);
        let data = folder.path().join("data");
        await_some("the work", || (log_bytes(&data) > 4096).then_some(()));
        fs::write(&marker, "").unwrap();
        // What is computed from now on is affected.
        let before = leaves(&server);
        await_some("more", || (leaves(&server) > before + 50_000).then_some(()));
        let said = end(server, folder.path());
        let reason = match trouble {
            "fail" => "cannot sync the log",
            _ => "the disk does not answer",
        };
        assert!(said.contains(reason), "{said}");
    }
}
