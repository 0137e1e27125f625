//! Backs up a running server, restores the backup and continues its work; and what is refused.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{LocalServer, TestNode, await_some, config, members_of, verify_fetched};
use jiff::{SignedDuration, Timestamp};
use poet_admin::backup::{BackupError, Done, back_up, restore};
use poet_conformance::skip;
use poet_engine::{LABEL_DEPTH, Work, WorkFunction};
use poet_storage::directory::Directories;

fn work() -> Work {
    let selection = poet_backends::select(WorkFunction::Sha256, None).unwrap();
    selection.work(LABEL_DEPTH).unwrap()
}

/// The directories of the server in `folder`.
fn directories(folder: &Path) -> Directories {
    config(folder).directories
}

fn at(second: i64) -> Timestamp {
    common::genesis() + SignedDuration::from_secs(second)
}

/// Makes a backup of the server in `folder` at a second. Three are kept.
fn backup(folder: &Path, place: &Path, second: i64) -> Result<Done, BackupError> {
    back_up(&directories(folder), place, 3, &work(), at(second))
}

fn put_back(place: &Path, folder: &Path, replace: bool) -> Result<Done, BackupError> {
    restore(&directories(folder), place, replace, &work(), at(500))
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[track_caller]
fn refused(result: Result<Done, BackupError>, part: &str) {
    let message = result.unwrap_err().to_string();
    assert!(message.contains(part), "{message}");
    // One sentence, without Rust's error texts.
    for word in ["os error", "Os {", "\n"] {
        assert!(!message.contains(word), "{message}");
    }
}

/// Starts a server that works on round 0 with three members, and takes registrations for round 1.
struct Running {
    folder: tempfile::TempDir,
    server: LocalServer,
    nodes: Vec<TestNode>,
}

impl Running {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalServer::start(config(folder.path()), 10);
        let nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
        for node in &nodes {
            server.client.register(node);
        }
        server.at(30);
        server.await_work(0);
        server.client.register(&nodes[0]);
        let log = folder.path().join("data/rounds/0/tree.log");
        await_some("some of the log", || {
            (fs::metadata(&log).ok()?.len() > 96 + 100 * 32).then_some(())
        });
        Self {
            folder,
            server,
            nodes,
        }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[test]
fn a_backup_of_a_running_server_goes_on_elsewhere() {
    let running = Running::start();
    let place = tempfile::tempdir().unwrap();
    let key = running.server.client.get("/v1/info").json()["servicePubkey"].clone();
    let done = backup(running.path(), place.path(), 31).unwrap();
    assert_eq!((&done.rounds[..], done.removed), (&[0][..], 0));
    assert_eq!(
        done.backup,
        place.path().join("backup-2026-01-01T00-00-31Z")
    );
    // Repeatedly into the same directory, even within one second.
    for (second, removed) in [(32, 0), (32, 0), (33, 1), (34, 1)] {
        let done = backup(running.path(), place.path(), second).unwrap();
        assert_eq!(done.removed, removed, "{second}");
    }
    let kept = [
        "backup-2026-01-01T00-00-32Z-2",
        "backup-2026-01-01T00-00-33Z",
        "backup-2026-01-01T00-00-34Z",
        "poet-backup.lock",
    ];
    assert_eq!(names(place.path()), kept);
    // The running server is unchanged.
    running.server.client.await_ready();
    let Running {
        folder,
        server,
        nodes,
    } = running;
    refused(
        put_back(place.path(), folder.path(), true),
        "in use by another poet-service",
    );
    drop(server);

    let elsewhere = tempfile::tempdir().unwrap();
    let done = put_back(place.path(), elsewhere.path(), false).unwrap();
    assert!(done.backup.ends_with("backup-2026-01-01T00-00-34Z"));
    let leaves = fs::metadata(elsewhere.path().join("data/rounds/0/tree.log"))
        .unwrap()
        .len();
    let server = LocalServer::start(config(elsewhere.path()), 40);
    assert_eq!(server.client.get("/v1/info").json()["servicePubkey"], key);
    server.await_work(0);
    server.at(80);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, members_of(&nodes));
    assert!(proof.leaves >= (leaves - 96) / 32);
    server.at(90);
    server.await_work(1);
    server.at(140);
    let proof = verify_fetched(&server.client.await_proof(1));
    assert_eq!(proof.members, members_of(&nodes[..1]));
    drop(server);
    // Replaces what is there only on request, and then keeps it.
    refused(
        put_back(place.path(), elsewhere.path(), false),
        "poet.sqlite exists already",
    );
    put_back(place.path(), elsewhere.path(), true).unwrap();
    let kept = names(&elsewhere.path().join("db"));
    assert!(
        kept.iter()
            .any(|name| name.starts_with("poet.sqlite.kept-")),
        "{kept:?}"
    );
    let server = LocalServer::start(config(elsewhere.path()), 40);
    server.await_work(0);
}

#[test]
fn a_place_that_cannot_hold_backups_is_refused() {
    let running = Running::start();
    let path = running.path();
    for inside in ["db", "data/backups", "data/rounds/new/one", "."] {
        refused(backup(path, &path.join(inside), 31), "is inside");
    }
    // The round that is worked on, and an empty folder for the next one.
    assert_eq!(names(&path.join("data/rounds")), ["0", "1"]);
    #[cfg(unix)]
    {
        let link = tempfile::tempdir().unwrap();
        let link = link.path().join("link");
        std::os::unix::fs::symlink(path.join("data"), &link).unwrap();
        refused(backup(path, &link.join("x"), 31), "is inside");
    }
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("holiday.jpg"), "").unwrap();
    refused(
        backup(path, place.path(), 31),
        "holds holiday.jpg, which is not a backup",
    );
    assert_eq!(names(place.path()), ["holiday.jpg"]);
    let file = place.path().join("holiday.jpg");
    refused(backup(path, &file, 31), "cannot create");
    let none = tempfile::tempdir().unwrap();
    refused(backup(none.path(), place.path(), 31), "holds no database");
    refused(put_back(none.path(), none.path(), false), "holds no backup");
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_place_is_refused_and_earlier_backups_stay() {
    let running = Running::start();
    let place = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "none"])
        .arg(place.path())
        .output();
    if !mounted.as_ref().is_ok_and(|mount| mount.status.success()) {
        return skip(format_args!(
            "no file system can be mounted here: {mounted:?}"
        ));
    }
    struct Unmount(PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            drop(Command::new("umount").arg("-l").arg(&self.0).status());
        }
    }
    let _unmount = Unmount(place.path().to_owned());
    backup(running.path(), place.path(), 31).unwrap();
    let before = names(place.path());
    fs::write(place.path().join("poet-backup.lock"), vec![1; 20 << 20]).unwrap();
    refused(
        backup(running.path(), place.path(), 32),
        "expected more room",
    );
    assert_eq!(names(place.path()), before);
    put_back(place.path(), tempfile::tempdir().unwrap().path(), false).unwrap();
}

#[test]
fn a_damaged_backup_is_refused_and_nothing_is_lost() {
    let running = Running::start();
    let place = tempfile::tempdir().unwrap();
    let made = backup(running.path(), place.path(), 31).unwrap().backup;
    drop(running);
    let elsewhere = tempfile::tempdir().unwrap();
    put_back(place.path(), elsewhere.path(), false).unwrap();
    let before = fs::read(elsewhere.path().join("db/poet.sqlite")).unwrap();
    for file in [
        "db/poet.sqlite",
        "data/rounds/0/tree.log",
        "data/poet-service.owner",
        "manifest.json",
    ] {
        let path = made.join(file);
        let sound = fs::read(&path).unwrap();
        for damage in ["flip", "cut", "empty", "remove"] {
            let mut bytes = sound.clone();
            let middle = bytes.len() / 2;
            match damage {
                "flip" => bytes[middle] ^= 0x80,
                "cut" => bytes.truncate(middle),
                _ => bytes.clear(),
            }
            fs::remove_file(&path).unwrap();
            if damage != "remove" {
                fs::write(&path, &bytes).unwrap();
            }
            let part = match (damage, file) {
                ("remove", "manifest.json") => "cannot read",
                ("remove", _) => "no such file",
                _ => "is damaged, so it was not used",
            };
            refused(put_back(place.path(), elsewhere.path(), true), part);
            fs::write(&path, &sound).unwrap();
        }
    }
    // It must not name anything outside of it.
    let manifest = made.join("manifest.json");
    let sound = fs::read_to_string(&manifest).unwrap();
    for path in [
        "data/rounds/../../../x",
        "/etc/passwd",
        "db/../../x",
        "data//x",
    ] {
        fs::write(&manifest, sound.replace("db/poet.sqlite", path)).unwrap();
        refused(put_back(place.path(), elsewhere.path(), true), "is damaged");
    }
    assert_eq!(
        fs::read(elsewhere.path().join("db/poet.sqlite")).unwrap(),
        before
    );
    assert!(
        !names(&elsewhere.path().join("db"))
            .iter()
            .any(|name| name.contains("kept"))
    );
}

#[test]
fn health_says_whether_the_server_is_ready() {
    let running = Running::start();
    let health = |listen: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_poet-service"))
            .args(["health", "--poetdir=/nowhere", "--restlisten", listen])
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let address = running.server.addresses.rest;
    let own = address.to_string();
    assert_eq!(health(&own), (Some(0), "ready\n".to_owned()));
    assert_eq!(health(&format!("0.0.0.0:{}", address.port())).0, Some(0));
    // Its proof is a minute late, because the working directory's file system is not writable.
    let next = running.path().join("data/rounds/1");
    drop(fs::remove_dir(&next));
    fs::write(&next, "").unwrap();
    running.server.at(80);
    running.server.client.await_proof(0);
    running.server.at(90);
    let reason = "error: not ready: the work on a round fails\n".to_owned();
    await_some("an unready server", || {
        (health(&own) == (Some(1), reason.clone())).then_some(())
    });
    drop(running);
    let (code, text) = health(&own);
    assert_eq!(code, Some(1));
    assert!(text.contains("nothing listens there"), "{text}");
}
