//! A server on file systems that are temporarily full.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_disk.rs"]
mod small_disk;

use std::{
    env, fs,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

use common::{LocalServer, TestNode, await_some, config, members_of, verify_fetched};
use poet_storage::SqliteStorage;
use program::ServerProcess;
use rusqlite::Connection;
use small_disk::SmallDisk;

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
    server
        .client
        .await_unready("the database cannot be written");
    disk.empty();
    server.client.await_ready();
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
    server.client.await_unready("the work on a round fails");
    let before = leaves();
    await_some("further leaves", || {
        (leaves() > before + 5_000).then_some(())
    });
    disk.empty();
    server.client.await_ready();

    // Full again, and this time the round ends meanwhile.
    disk.fill();
    server.client.await_unready("the work on a round fails");
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
    server.client.await_ready();
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
    server
        .client
        .await_unready("the database cannot be written");
    fs::rename(folder.path().join("aside"), &database).unwrap();
    server.client.await_ready();
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
    server
        .client
        .await_unready("the database cannot be written");
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

/// Registrations that come while another program reads the database; all of a large network with
/// `POET_TEST_REGISTRATIONS=320000`.
fn registrations() -> u32 {
    let number = env::var("POET_TEST_REGISTRATIONS").ok();
    number.map_or(12_000, |number| number.parse().unwrap())
}

/// The most that a commit of registrations adds to the database's log: the last pages of the table and of
/// its index, and what is written on the way to a new one.
const COMMIT_BYTES: u64 = 8 * 4120;
/// The most that the log keeps once nobody holds it.
const KEPT_LOG_BYTES: u64 = 16 << 20;

/// Peak of a server's resident memory.
fn peak_bytes(server: &ServerProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let mut lines = status.lines();
    let peak = lines.find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes << 10
}

/// The log of the database grows with what is written only, shrinks when the reader ends, and a start
/// after a crash reads it piece by piece.
#[test]
fn a_reader_holds_the_databases_log_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("db/poet.sqlite-wal");
    let log_bytes = || fs::metadata(&log).map_or(0, |metadata| metadata.len());
    let options = [
        "--epoch-duration=9h",
        "--phase-shift=8h",
        "--pow-difficulty=0",
    ];
    let server = ServerProcess::start(folder.path(), &options);
    let reader = Connection::open(folder.path().join("db/poet.sqlite")).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let read = "SELECT count(*) FROM registrations";
    reader.query_row(read, [], |_| Ok(())).unwrap();

    let before = log_bytes();
    let (registrations, next) = (registrations(), AtomicU32::new(0));
    let params = server.client.pow_params();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    if number >= registrations {
                        break;
                    }
                    let answer = server
                        .client
                        .submit(&TestNode::new(number).request(&params));
                    assert_eq!(answer.status, 200, "{}", answer.body);
                }
            });
        }
    });
    let held = log_bytes();
    let most = before + u64::from(registrations) * COMMIT_BYTES;
    assert!(held > before && held < most, "{before} to {held}");
    // Nothing is written when nobody registers: readiness is seen without.
    for _ in 0..50 {
        server.client.await_ready();
    }
    assert!(
        log_bytes() <= held + COMMIT_BYTES,
        "{held} to {}",
        log_bytes()
    );
    server.kill();

    // The start checks the whole log.
    let server = ServerProcess::start(folder.path(), &options);
    let peak = peak_bytes(&server);
    println!("{registrations} registrations: a log of {held} bytes, a start in {peak}");
    let members = u64::from(registrations) * 400;
    assert!(peak < (100 << 20) + members, "{peak} bytes of memory");
    let round = server.client.get("/v1/rounds/0").json();
    assert_eq!(round["members"], registrations.to_string());

    drop(reader);
    // SQLite moves all of it with the next transaction, and cuts it with the one after that.
    for number in 0..2 {
        server
            .client
            .register(&TestNode::new(registrations + number));
    }
    assert!(log_bytes() <= KEPT_LOG_BYTES, "{}", log_bytes());
}
