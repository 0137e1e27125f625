//! A log whose syncs fail, and lose what was not durable.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{advance, last_error, leaves, ok, open, progress, root};
use crate::disk::{Directory, expected_root, try_advance};
use poet::poet_status::{Io, Ok as OK};
use poet::*;
use poet_conformance::skip;

/// Syncs fail while the file that it names exists.
const FAILING_SYNC: &str = "FAILING_SYNC";

/// Runs this test again in a process in which syncs can fail: `failing_sync.c` takes the place of the C
/// library's functions.
#[test]
fn what_a_failed_sync_drops_is_written_again() {
    if let Some(switch) = env::var_os(FAILING_SYNC) {
        let switch = Switch(switch.into());
        with_entries_that_were_durable(&switch);
        from_the_first_sync_on(&switch);
        with_more_entries_than_may_be_unsynced(&switch);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("failing_sync.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/functions/failing_sync.c");
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .output();
    match compiled {
        Err(error) => return skip(format!("there is no C compiler: {error}")),
        Ok(cc) => assert!(
            cc.status.success(),
            "{}",
            String::from_utf8_lossy(&cc.stderr)
        ),
    }
    let test = "failing_sync::what_a_failed_sync_drops_is_written_again";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env("LD_PRELOAD", &library)
        .env(FAILING_SYNC, folder.path().join("failing"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
    assert!(said.contains("1 passed"), "{said}");
}

struct Switch(PathBuf);

impl Switch {
    fn fail(&self) {
        fs::write(&self.0, "").unwrap();
    }

    fn succeed(&self) {
        fs::remove_file(&self.0).unwrap();
    }
}

/// The file of a log of this many leaves on a healthy disk.
fn expected_log(leaves: u64) -> Vec<u8> {
    fs::read(Directory::with_leaves(leaves, 0).log()).unwrap()
}

fn durable(worker: *mut poet_worker) -> u64 {
    progress(worker).durable_leaves
}

#[track_caller]
fn assert_sync_fails(worker: *mut poet_worker, reason: &str) {
    assert_eq!(poet_worker_sync(worker), Io);
    assert!(last_error().contains(reason), "{}", last_error());
}

/// The worker's log is on the disk, and another worker goes on from it.
#[track_caller]
fn assert_complete(worker: *mut poet_worker, directory: &Directory) {
    let all = leaves(worker);
    assert_eq!(durable(worker), all);
    assert!(fs::read(directory.log()).unwrap() == expected_log(all));
    ok(poet_worker_close(worker));
    let worker = open(&directory.options(0));
    let found = progress(worker);
    assert_eq!(found.leaves, all);
    assert_eq!((found.repaired_entries, found.lost_leaves), (0, 0));
    assert_eq!(root(worker), expected_root(all));
    ok(poet_worker_close(worker));
}

fn with_entries_that_were_durable(switch: &Switch) {
    let directory = Directory::new();
    let worker = open(&directory.options(0));
    advance(worker, 100, u64::MAX);
    ok(poet_worker_sync(worker));
    assert_eq!(durable(worker), 100);
    advance(worker, 50, u64::MAX);
    let whole = expected_log(150);
    assert!(fs::read(directory.log()).unwrap() == whole);
    switch.fail();
    assert_sync_fails(worker, "cannot sync the log");
    assert_eq!(durable(worker), 100);
    let mut torn = whole[..96 + 32 * 100].to_vec();
    torn.resize(whole.len(), 0);
    assert!(
        fs::read(directory.log()).unwrap() == torn,
        "nothing is lost"
    );
    // A sync that succeeds now does not bring it back.
    switch.succeed();
    assert_sync_fails(worker, "have not been written again");
    assert_eq!(durable(worker), 100);
    // `advance` writes it again, whether it adds leaves or not.
    advance(worker, 0, u64::MAX);
    assert_eq!(durable(worker), 100);
    ok(poet_worker_sync(worker));
    assert_eq!(durable(worker), 150);
    assert_complete(worker, &directory);
}

/// Then even the header is lost.
fn from_the_first_sync_on(switch: &Switch) {
    let directory = Directory::new();
    let worker = open(&directory.options(0));
    switch.fail();
    advance(worker, 10, u64::MAX);
    for _ in 0..3 {
        assert_sync_fails(worker, "cannot sync the log");
        assert_eq!(durable(worker), 0);
        assert!(fs::read(directory.log()).unwrap().iter().all(|b| *b == 0));
        advance(worker, 10, u64::MAX);
    }
    switch.succeed();
    ok(poet_worker_sync(worker));
    assert_complete(worker, &directory);
}

/// `advance` makes the sync itself then, and does not stop the work for it.
fn with_more_entries_than_may_be_unsynced(switch: &Switch) {
    let directory = Directory::new();
    let worker = open(&directory.options(0));
    advance(worker, 100, u64::MAX);
    ok(poet_worker_sync(worker));
    switch.fail();
    let (status, ended) = try_advance(worker, 140_000);
    assert_eq!((status, ended), (Io, Some(poet_advanced::Leaves)));
    assert!(
        last_error().contains("cannot sync the log"),
        "{}",
        last_error()
    );
    assert_eq!((leaves(worker), durable(worker)), (140_100, 100));
    switch.succeed();
    assert_eq!(try_advance(worker, 0).0, OK);
    assert_complete(worker, &directory);
}
