//! `poet-service doctor`, and the server, on directories with all kinds of damage.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::AtomicU64,
};

use common::{LocalServer, TestNode, config, members_of, verify_fetched};
use poet_engine::{
    LABEL_DEPTH, LogHeader, Node, RoundWork, SubtreeHeight, Work, WorkFunction, membership, run,
};
use program::{ServerProcess, command};
use rusqlite::Connection;

const HEADER: usize = LogHeader::BYTES;

/// Directories as a server left them: round 0 is published, round 1 is being worked on, round 2 is
/// open. See tests/rounds.rs for the times.
struct Left {
    folder: tempfile::TempDir,
    copies: std::cell::Cell<u32>,
}

impl Left {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalServer::start(config(&folder.path().join("original")), 0);
        server.client.register(&TestNode::new(1));
        server.at(30);
        server.await_work(0);
        for node in nodes() {
            assert_eq!(server.client.register(&node), 1);
        }
        server.at(80);
        verify_fetched(&server.client.await_proof(0));
        server.at(90);
        server.await_work(1);
        assert_eq!(server.client.register(&TestNode::new(9)), 2);
        let log = folder.path().join("original/data/rounds/1/tree.log");
        common::await_some("the log", || {
            (fs::metadata(&log).ok()?.len() > 3000 * 32).then_some(())
        });
        drop(server);
        // A separate thread closes the database.
        let wal = folder.path().join("original/db/poet.sqlite-wal");
        common::await_some("the database", || (!wal.exists()).then_some(()));
        Self {
            folder,
            copies: std::cell::Cell::new(0),
        }
    }

    /// Makes a copy to damage.
    fn copy(&self) -> PathBuf {
        self.copies.set(self.copies.get() + 1);
        let copy = self.folder.path().join(self.copies.get().to_string());
        copy_files(&self.folder.path().join("original"), &copy);
        copy
    }
}

fn nodes() -> Vec<TestNode> {
    (2..8).map(TestNode::new).collect()
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn tree_log(folder: &Path, round: u64) -> PathBuf {
    folder.join(format!("data/rounds/{round}/tree.log"))
}

fn database(folder: &Path) -> PathBuf {
    folder.join("db/poet.sqlite")
}

/// The files whose contents matter.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = entry.path();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(contents(&path));
        } else if !name.ends_with(".lock") && !name.ends_with("-shm") && !name.ends_with("-wal") {
            files.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    files
}

/// Runs the doctor. Returns its exit code and its output.
fn doctor(folder: &Path, options: &[&str]) -> (i32, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .arg("doctor")
        .arg(format!("--poetdir={}", folder.display()))
        .arg("--no-trial")
        .args(options)
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code().unwrap(), text)
}

#[track_caller]
fn expect(folder: &Path, options: &[&str], code: i32, says: &[&str]) -> String {
    let (found, text) = doctor(folder, options);
    assert_eq!(found, code, "{text}");
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    text
}

/// Checks that damage is found, is left alone without --repair, and is then repaired so that the
/// server finishes the round. Returns the log after the repair.
#[track_caller]
fn expect_repair(folder: &Path, options: &[&str], says: &[&str]) -> Vec<u8> {
    let before = contents(folder);
    let text = expect(folder, options, 1, &["DAMAGED", "--repair: "]);
    for part in says {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    assert_eq!(contents(folder), before);
    let with_repair = [options, &["--repair"]].concat();
    expect(folder, &with_repair, 0, &["repaired  "]);
    // The original still exists.
    let after = contents(folder);
    for (path, bytes) in before {
        let kept = after.iter().any(|(kept, now)| {
            let name = path.display().to_string();
            *now == bytes && kept.display().to_string().starts_with(&name)
        });
        assert!(kept, "{} is gone", path.display());
    }
    let repaired = fs::read(tree_log(folder, 1)).unwrap_or_default();
    expect(folder, options, 0, &["sound"]);
    expect_finished(folder);
    repaired
}

/// The server finishes round 1 with a valid proof, and round 0 still has its proof.
#[track_caller]
fn expect_finished(folder: &Path) {
    let server = LocalServer::start(config(folder), 141);
    let proof = verify_fetched(&server.client.await_proof(1));
    assert_eq!(proof.members, members_of(&nodes()));
    assert_eq!(
        verify_fetched(&server.client.get("/v1/proofs/0")).members,
        members_of(&[TestNode::new(1)])
    );
}

#[test]
fn what_is_sound_is_left_alone() {
    let left = Left::new();
    let folder = left.copy();
    let before = contents(&folder);
    for options in [&[][..], &["--full"], &["--repair"]] {
        expect(
            &folder,
            options,
            0,
            &[
                "no server uses it",
                "SQLite finds it whole",
                "public key ",
                "schedule genesis-time=2026-01-01T00:00:00Z ",
                "round 0, published\n  ok        the proof is valid: 1 members",
                "round 1, being worked on\n  ok        the statement is that of its 6 members",
                "round 2, open, or closed and not yet begun\n  ok        1 members",
                "round 1: the log is right: ",
                "\nsound\n",
            ],
        );
        assert_eq!(contents(&folder), before);
    }
    // The same with the names of the directories, and with all the options of a server.
    let (db, data) = (folder.join("db"), folder.join("data"));
    let options = [
        format!("--dbdir={}", db.display()),
        format!("--datadir={}", data.display()),
        "--poetdir=/nowhere".to_owned(),
        "--epoch-duration=1h".to_owned(),
    ];
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    expect(&folder, &options, 0, &["sound"]);
    expect_finished(&folder);
}

#[test]
fn what_cannot_be_checked_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    expect(folder, &[], 2, &["error: --dbdir ", " holds no database"]);
    let server = ServerProcess::start(folder, &[]);
    let pid = fs::read_to_string(folder.join("db/poet-service.lock")).unwrap();
    let running = format!("is in use by another poet-service (process {pid})");
    expect(folder, &[], 2, &[&running]);
    expect(folder, &["--repair"], 2, &[&running]);
    server.kill();
    expect(folder, &[], 0, &["sound"]);

    let connection = Connection::open(database(folder)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    expect(
        folder,
        &["--repair"],
        2,
        &["has schema 99, this version knows"],
    );
    refused(folder, &["has schema 99"]);
    expect(folder, &["--nonsense"], 2, &["--nonsense"]);
}

/// The server does not start, and gives the reason in one sentence.
#[track_caller]
fn refused(folder: &Path, says: &[&str]) {
    let output = command(folder)
        .arg("--restlisten=127.0.0.1:0")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let error = text.lines().find(|line| line.starts_with("error: "));
    let error = error.unwrap_or_else(|| panic!("{text}"));
    for part in says {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn damaged_logs_are_repaired() {
    let left = Left::new();
    let right = fs::read(tree_log(&left.copy(), 1)).unwrap();
    let entries = (right.len() - HEADER) / 32;
    let damaged = |damage: &dyn Fn(&mut Vec<u8>)| {
        let folder = left.copy();
        let mut log = right.clone();
        damage(&mut log);
        fs::write(tree_log(&folder, 1), log).unwrap();
        folder
    };

    // Flipped bits: what is right is known, and no work is lost.
    for entry in [0, 1, 777, entries / 2, entries - 1] {
        let folder = damaged(&|log| log[HEADER + entry * 32 + entry % 32] ^= 0x10);
        let says = format!("round 1: the log: entry {entry} of {entries} is wrong");
        let repaired = expect_repair(&folder, &[], &[&says, "no work is lost"]);
        assert_eq!(repaired, right, "entry {entry}");
    }
    let folder = damaged(&|log| {
        for entry in [5, 6, 1000] {
            log[HEADER + entry * 32] ^= 1;
        }
    });
    assert_eq!(expect_repair(&folder, &[], &["entry 5 of"]), right);

    // A whole sector: too much to restore, so the work is cut there.
    let sector = |log: &mut Vec<u8>| log[HEADER + 900 * 32..HEADER + 1800 * 32].fill(7);
    let folder = damaged(&sector);
    let repaired = expect_repair(
        &folder,
        &[],
        &["entry 900 of", "cuts the log to 900 entries"],
    );
    assert_eq!(repaired, right[..HEADER + 900 * 32]);
    // Unless all of it is recomputed.
    let folder = damaged(&sector);
    let repaired = expect_repair(&folder, &["--full"], &["entry 900 of"]);
    assert!(repaired.len() >= HEADER + 900 * 32 && right.starts_with(&repaired));

    // A header whose remaining bytes identify it.
    for place in [0, 9, 20, 40, 70] {
        let folder = damaged(&|log| log[place] ^= 1);
        let repaired = expect_repair(&folder, &[], &["but its entries are the round's"]);
        assert_eq!(repaired, right, "byte {place}");
    }

    // No log at all.
    let folder = damaged(&|log| *log = b"something else entirely".repeat(99));
    let repaired = expect_repair(&folder, &[], &["it is not a tree log", "starts again"]);
    assert!(repaired.is_empty());

    // Interrupted writes are no damage.
    for length in [0, 50, HEADER, HEADER + 100 * 32 + 7, right.len() - 1] {
        let folder = damaged(&|log| log.truncate(length));
        expect(&folder, &[], 0, &["sound"]);
        expect_finished(&folder);
    }
    let folder = left.copy();
    fs::remove_file(tree_log(&folder, 1)).unwrap();
    expect(&folder, &[], 0, &["round 1 has no log"]);
    expect_finished(&folder);
}

/// A log whose end is missing is right as far as it goes. The audited roots show that there was
/// more.
#[test]
fn a_log_that_was_longer_is_noticed() {
    let left = Left::new();
    let folder = left.copy();
    let (work, statement) = (work(), membership::root(&members_of(&nodes())));
    let height = SubtreeHeight::new(0).unwrap();
    let height = RoundWork::new(&work, &statement, height)
        .auditor()
        .root_height();
    // Some minutes' worth more.
    let roots = (10 << 20) / height.leaves();
    let mut audit = audit_log(&folder);
    audit.resize(HEADER + roots as usize * 32, 7);
    fs::write(tree_log(&folder, 1).with_file_name("audit.log"), audit).unwrap();
    let before = contents(&folder);
    for options in [&[][..], &["--repair"]] {
        let says = "round 1: the log was longer: 10485760 leaves had been audited";
        expect(&folder, options, 1, &["the log is right", says]);
        assert_eq!(contents(&folder), before);
    }
    // The server reports it, too, and makes them again.
    let server = LocalServer::start(config(&folder), 100);
    let event = common::await_some("the event", || {
        let round = server.client.get("/v1/rounds/1").json();
        Some(round["audit"]["lastEvent"].as_str()?.to_owned())
    });
    assert!(
        event.starts_with("the log is shorter than it was: "),
        "{event}"
    );
    drop(server);
    expect(&folder, &[], 0, &["sound"]);
    expect_finished(&folder);
}

/// What auditors that have caught up store next to the log of round 1.
fn audit_log(folder: &Path) -> Vec<u8> {
    let log = fs::read(tree_log(folder, 1)).unwrap();
    let mut entries: &[Node] = log[HEADER..].as_chunks().0;
    let (work, statement) = (work(), membership::root(&members_of(&nodes())));
    let round = RoundWork::new(&work, &statement, SubtreeHeight::new(0).unwrap());
    let auditor = round.auditor();
    let chunks = round.with_subtree_height(auditor.root_height());
    let mut audit = chunks.header_bytes().to_vec();
    for chunk in 0..entries.len() as u64 / auditor.chunk_entries() {
        audit.extend(auditor.chunk_root(&mut entries, chunk).unwrap());
    }
    audit
}

#[test]
fn every_file_that_the_server_reads_is_checked() {
    let left = Left::new();
    let right = audit_log(&left.copy());
    let roots = (right.len() - HEADER) / 32;
    assert!(roots >= 5, "{roots}");
    let with = |name: &str, bytes: &[u8]| {
        let folder = left.copy();
        let path = folder.join("data").join(name);
        fs::write(&path, bytes).unwrap();
        (folder, path)
    };
    let audit = "rounds/1/audit.log";
    let (folder, path) = with(audit, &right);
    expect(&folder, &[], 0, &["round 1: audit.log fits the log"]);
    assert_eq!(fs::read(path).unwrap(), right);

    // Zeros, as a power failure leaves them; other values; and a flipped bit.
    let half = roots / 2;
    let damages: [(Damage<'_>, usize, &str); 4] = [
        (
            &|log| log[HEADER + half * 32..].fill(0),
            half,
            "zeros from there on",
        ),
        (
            &|log| log[HEADER + 32..].fill(0xa7),
            1,
            "not that of the log",
        ),
        (&|log| log[HEADER + 70] ^= 4, 2, "not that of the log"),
        (&|log| log[HEADER..].fill(0), 0, "zeros from there on"),
    ];
    for (damage, first, says) in damages {
        let mut damaged = right.clone();
        damage(&mut damaged);
        let (folder, path) = with(audit, &damaged);
        let wrong = format!("audit.log: root {first} of {roots} is wrong: {says}");
        expect(&folder, &["--repair"], 0, &[&wrong]);
        assert_eq!(fs::read(path).unwrap(), right[..HEADER + first * 32]);
        let (folder, _) = with(audit, &damaged);
        expect_repair(&folder, &[], &[&wrong]);
    }
    let mut damaged = right.clone();
    damaged[20] ^= 1;
    let (folder, _) = with(audit, &damaged);
    expect_repair(&folder, &[], &["the header of audit.log is damaged"]);
    let mut damaged = right.clone();
    damaged[HEADER..].fill(0);
    let (folder, _) = with("rounds/1/sampled.log", &damaged);
    expect_repair(&folder, &[], &["sampled.log: root 0 of"]);

    let (folder, _) = with("rounds/1/findings.json", &[0; 300]);
    expect_repair(
        &folder,
        &[],
        &["findings.json, what audits have found, is damaged"],
    );

    for damage in [&[0; 45][..], b"\xff\xff", b"no key"] {
        let (folder, _) = with("poet-service.owner", damage);
        refused(
            &folder,
            &["poet-service.owner", "is damaged", "doctor --repair"],
        );
        expect_repair(&folder, &[], &["poet-service.owner is damaged"]);
    }

    // What a Go server has left, with a database and without.
    let (folder, _) = with("state.bin", b"a key");
    expect(&folder, &[], 0, &["also holds the state of a Go server"]);
    fs::remove_dir_all(folder.join("db")).unwrap();
    fs::create_dir(folder.join("db")).unwrap();
    fs::remove_file(folder.join("data/poet-service.owner")).unwrap();
    expect(
        &folder,
        &[],
        2,
        &[
            "holds the state of a Go server",
            "`poet-service import` first",
        ],
    );

    // The server has kept a copy of the database.
    let folder = left.copy();
    let copy = folder.join("db/poet.sqlite.kept-20260101T000000Z");
    fs::rename(database(&folder), &copy).unwrap();
    let says = "The server made a copy of it, ";
    expect(
        &folder,
        &[],
        1,
        &[
            "it is gone, or empty",
            says,
            "give that the name poet.sqlite",
        ],
    );
    fs::rename(&copy, database(&folder)).unwrap();
    expect(&folder, &[], 0, &["sound"]);
}

/// Changes the bytes of a file.
type Damage<'a> = &'a dyn Fn(&mut [u8]);

/// What a power failure does to the end of a log costs only the work that was not synced, and is
/// not reported as a fault.
#[test]
fn zeros_at_the_end_of_the_logs_are_cut_and_made_again() {
    let left = Left::new();
    let entries = (fs::read(tree_log(&left.copy(), 1)).unwrap().len() - HEADER) / 32;
    let damages: [(&str, Damage<'_>); 3] = [
        ("zeros", &|tail| tail.fill(0)),
        ("garbage", &|tail| tail.fill(0x5a)),
        ("a bit", &|tail| *tail.last_mut().unwrap() ^= 1),
    ];
    for (name, damage) in damages {
        let folder = left.copy();
        let mut audit = audit_log(&folder);
        let half = HEADER + (audit.len() - HEADER) / 64 * 32;
        damage(&mut audit[half..]);
        fs::write(tree_log(&folder, 1).with_file_name("audit.log"), audit).unwrap();
        let mut log = fs::read(tree_log(&folder, 1)).unwrap();
        let sector = log.len() - 512;
        damage(&mut log[sector..]);
        fs::write(tree_log(&folder, 1), log).unwrap();
        expect(&folder, &[], 1, &["the log: entry "]);

        let server = LocalServer::start(config(&folder), 100);
        server.await_work(1);
        common::await_some("more work", || {
            let audited =
                server.client.get("/v1/rounds/1").json()["audit"]["auditedLeaves"].clone();
            let audited: usize = audited.as_str()?.parse().ok()?;
            (audited > entries + 3000).then_some(())
        });
        server.at(141);
        verify_fetched(&server.client.await_proof(1));
        let audit = server.client.get("/v1/rounds/1").json()["audit"].clone();
        for count in ["workErrors", "logErrors", "auditorErrors", "rollbacks"] {
            assert_eq!(audit[count], 0, "{name}: {audit}");
        }
        assert_eq!(audit["lastEvent"], serde_json::Value::Null, "{name}");
    }
}

/// The same by the log of the program: one line for each file, and no alarm.
#[test]
fn a_power_failure_is_called_that() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let schedule = ["--epoch-duration=16s", "--phase-shift=2s", "--cycle-gap=4s"];
    let server = ServerProcess::start(folder, &schedule);
    let round = server.client.register(&TestNode::new(1));
    let path = |name: &str| folder.join(format!("data/rounds/{round}/{name}"));
    let enough = |name: &str, entries: u64| {
        let bytes = fs::metadata(path(name)).map_or(0, |metadata| metadata.len());
        (bytes > HEADER as u64 + entries * 32).then_some(())
    };
    common::await_some("a log", || {
        enough("tree.log", 3000).and(enough("audit.log", 2))
    });
    server.kill();
    let zero = |name: &str, from: usize| {
        let mut bytes = fs::read(path(name)).unwrap();
        bytes[from..].fill(0);
        fs::write(path(name), bytes).unwrap();
    };
    zero("audit.log", HEADER + 32);
    let bytes = fs::metadata(path("tree.log")).unwrap().len() as usize;
    zero("tree.log", (bytes - HEADER) / 32 * 32 + HEADER - 512);
    let server = ServerProcess::start(folder, &schedule);
    let proof = verify_fetched(&server.client.await_proof(round));
    assert_eq!(proof.members, members_of(&[TestNode::new(1)]));
    let log = server.log();
    assert!(!log.contains("ALARM"), "{log}");
    for name in ["tree.log", "audit.log"] {
        let says = |line: &&str| line.contains("power failure") && line.contains(name);
        assert_eq!(log.lines().filter(says).count(), 1, "{name}: {log}");
    }
}

/// Neither the work nor the auditors made an error.
#[test]
fn a_bit_that_changes_in_the_record_of_the_audit_is_damage_of_the_disk() {
    let left = Left::new();
    let folder = left.copy();
    let mut audit = audit_log(&folder);
    audit[HEADER + 5] ^= 1;
    fs::write(tree_log(&folder, 1).with_file_name("audit.log"), audit).unwrap();
    let server = LocalServer::start(config(&folder), 100);
    server.await_work(1);
    let audit = common::await_some("the finding", || {
        let audit = server.client.get("/v1/rounds/1").json()["audit"].clone();
        (!audit["lastEvent"].is_null()).then_some(audit)
    });
    assert_eq!(
        audit["lastEvent"],
        "the record of the audit was damaged at entry 0"
    );
    for (count, expected) in [("logErrors", 1), ("auditorErrors", 0), ("workErrors", 0)] {
        assert_eq!(audit[count], expected, "{audit}");
    }
}

/// However long the database's own log is, checking it needs little memory.
#[cfg(target_os = "linux")]
#[test]
fn a_long_log_of_the_database_is_not_read_into_memory() {
    let left = Left::new();
    let folder = left.copy();
    let wal = fs::File::create(folder.join("db/poet.sqlite-wal")).unwrap();
    wal.set_len(1 << 30).unwrap();
    let program = env!("CARGO_BIN_EXE_poet-service");
    let limited = format!(
        "ulimit -v 900000; exec {program} doctor --poetdir={} --no-trial",
        folder.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &limited])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}

#[test]
fn logs_in_wrong_places_are_put_back() {
    let left = Left::new();
    let right = fs::read(tree_log(&left.copy(), 1)).unwrap();
    for other in [0, 2, 77] {
        let folder = left.copy();
        fs::create_dir_all(tree_log(&folder, other).parent().unwrap()).unwrap();
        fs::rename(tree_log(&folder, 1), tree_log(&folder, other)).unwrap();
        expect(
            &folder,
            &[],
            1,
            &["is the log of a round that is not worked on"],
        );
        expect(&folder, &["--repair"], 0, &["is that of round 1"]);
        assert_eq!(fs::read(tree_log(&folder, 1)).unwrap(), right);
        expect_finished(&folder);
    }
    // The log of another round, while this round's is nowhere: the server refuses to use it.
    let folder = left.copy();
    let work = work();
    let other = RoundWork::new(&work, b"another", SubtreeHeight::new(0).unwrap());
    let mut log = other.header_bytes().to_vec();
    log.extend_from_slice(&right[HEADER..]);
    fs::write(tree_log(&folder, 1), log).unwrap();
    expect_repair(&folder, &[], &["it belongs to another statement"]);
}

fn work() -> Work {
    poet_backends::select(WorkFunction::Sha256, None)
        .unwrap()
        .work(LABEL_DEPTH)
        .unwrap()
}

#[test]
fn mistakes_of_the_work_itself_are_found_by_recomputing_all() {
    let left = Left::new();
    let folder = left.copy();
    let path = tree_log(&folder, 1);
    let right = fs::read(&path).unwrap();
    let entries: &[Node] = right[HEADER..].as_chunks().0;
    // The hashing got entry 1000 wrong, and continued from it.
    let mut made = entries[..1000].to_vec();
    made.push([9; 32]);
    let statement = membership::root(&members_of(&nodes()));
    let height = SubtreeHeight::new(0).unwrap();
    let work = work();
    let round = RoundWork::new(&work, &statement, height);
    let mut tree = round.resume(&mut made.as_slice()).unwrap();
    let (target, progress) = (AtomicU64::new(2500), AtomicU64::new(0));
    run(&mut tree, height, &target, &progress, |root| {
        made.push(root);
    });
    fs::write(&path, [&right[..HEADER], made.as_flattened()].concat()).unwrap();

    let says = ["entry 1000 of 2500 is wrong", "leaves are made again"];
    let repaired = expect_repair(&folder, &["--full"], &says);
    // What was recomputed to find the cause is not lost.
    assert!(repaired.len() > HEADER + 1000 * 32 && right.starts_with(&repaired));
}

#[test]
fn damaged_databases_are_explained() {
    let left = Left::new();
    let whole = fs::read(database(&left.copy())).unwrap();
    let with = |bytes: &[u8]| {
        let folder = left.copy();
        fs::write(database(&folder), bytes).unwrap();
        folder
    };
    let changed = |sql: &str| {
        let folder = left.copy();
        let connection = Connection::open(database(&folder)).unwrap();
        connection.execute_batch(sql).unwrap();
        folder
    };
    let damaged = |folder: &Path, says: &[&str]| {
        for options in [&[][..], &["--repair"]] {
            let before = contents(folder);
            expect(folder, options, 1, says);
            // Nothing is invented to replace it.
            assert_eq!(contents(folder), before);
        }
    };

    // Missing: it is not replaced by a new one with another key.
    for gone in [true, false] {
        let folder = with(&[]);
        if gone {
            fs::remove_file(database(&folder)).unwrap();
        }
        damaged(
            &folder,
            &["it is gone, or empty", "Restore it from a backup"],
        );
        refused(
            &folder,
            &[
                "--datadir",
                "holds the work of the server with public key",
                "holds none",
            ],
        );
    }
    damaged(&with(&b"no database".repeat(1000)), &["not a database"]);
    refused(&with(&b"no database".repeat(1000)), &["not a database"]);
    damaged(&with(&whole[..whole.len() / 2]), &["malformed", "Restore"]);

    // Whichever page is lost.
    for page in 0..whole.len() / 4096 {
        let mut bytes = whole.clone();
        bytes[page * 4096..(page + 1) * 4096].fill(0);
        let folder = with(&bytes);
        expect(&folder, &[], 1, &["DAMAGED"]);
        if page == 0 {
            refused(&folder, &["not a database"]);
        }
    }

    // Values that were changed behind SQLite's back, as by a flipped bit.
    let other = "x'00000000000000000000000000000000000000000000000000000000000000ff'";
    damaged(
        &changed(&format!(
            "UPDATE registrations SET challenge = {other}
             WHERE node_id = (SELECT node_id FROM registrations WHERE round = 1 LIMIT 1)"
        )),
        &["its 6 registrations do not give the statement"],
    );
    // One bit of a round that is still open: the original is known.
    let mut flipped = TestNode::new(9).challenge;
    flipped[5] ^= 0x20;
    let folder = changed(&format!(
        "UPDATE registrations SET challenge = x'{}' WHERE round = 2",
        hex::encode(flipped)
    ));
    damaged(
        &folder,
        &[
            "round 2, open",
            "of its registrations, 1 have changed since they were stored",
            "What they were is known of 1",
        ],
    );
    let server = LocalServer::start(config(&folder), 141);
    assert_eq!(server.client.register(&TestNode::new(9)), 2);
    server.at(150);
    server.await_work(2);
    server.at(201);
    let proof = verify_fetched(&server.client.await_proof(2));
    assert_eq!(proof.members, members_of(&[TestNode::new(9)]));
    drop(server);
    damaged(
        &changed("DELETE FROM registrations WHERE round = 1"),
        &["its 0 registrations do not give the statement"],
    );
    damaged(
        &changed("DELETE FROM registrations WHERE round = 0"),
        &["the registrations are not the members of the proof, which is valid"],
    );
    // Unless they were removed because of the round's age.
    let folder = changed(
        "DELETE FROM registrations WHERE round = 0;
         INSERT INTO settings VALUES ('registrations_removed_through', x'0000000000000000')",
    );
    let removed = "the registrations of 1 were removed, as keep-registrations says";
    expect(&folder, &[], 0, &[removed, "sound"]);
    let mode = || {
        let database = Connection::open(database(&folder)).unwrap();
        let mode: i64 = database
            .pragma_query_value(None, "auto_vacuum", |row| row.get(0))
            .unwrap();
        mode
    };
    assert_eq!(mode(), 2);
    Connection::open(database(&folder))
        .unwrap()
        .execute_batch("PRAGMA auto_vacuum = NONE; VACUUM")
        .unwrap();
    expect(&folder, &[], 0, &["the database keeps its size", "sound"]);
    assert_eq!(mode(), 0);
    expect(&folder, &["--repair"], 0, &["was rewritten", "sound"]);
    assert_eq!(mode(), 2);
    for column in ["root", "proven_leaves", "members"] {
        damaged(
            &changed(&format!("UPDATE proofs SET {column} = {other}")),
            &["the proof has changed since it was stored"],
        );
    }
    damaged(
        &changed("UPDATE proofs SET leaves = leaves + 1"),
        &["the proof has changed since it was stored"],
    );
    damaged(
        &changed("DROP TABLE proofs"),
        &["table proofs is not as it was made"],
    );
    let key = changed("UPDATE settings SET value = x'00' WHERE name = 'private_key'");
    damaged(&key, &["the private key: "]);
    refused(&key, &["the stored private key is damaged"]);
    damaged(
        &changed("UPDATE settings SET value = x'ff' WHERE name = 'schedule'"),
        &["the schedule cannot be read"],
    );

    // Another server's.
    let folder = left.copy();
    let somebody = "A".repeat(43) + "=";
    fs::write(
        folder.join("data/poet-service.owner"),
        somebody.clone() + "\n",
    )
    .unwrap();
    damaged(&folder, &[&format!("holds the work of {somebody}")]);
    refused(
        &folder,
        &[&format!("with public key {somebody}"), "holds that of "],
    );
}

#[cfg(unix)]
#[test]
fn a_damaged_database_log_is_kept_and_what_is_right_in_it_used() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let schedule = ["--epoch-duration=1h", "--phase-shift=30m"];
    let server = ServerProcess::start(folder, &schedule);
    for number in 0..20 {
        server.client.register(&TestNode::new(number));
    }
    server.kill();
    let wal = folder.join("db/poet.sqlite-wal");
    let mut bytes = fs::read(&wal).unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    fs::write(&wal, &bytes).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_files(folder, copy.path());

    let kept = |folder: &Path| {
        let files = fs::read_dir(folder.join("db")).unwrap().flatten();
        let names = files.map(|entry| entry.path());
        let kept: Vec<_> = names
            .filter(|path| path.display().to_string().contains("-wal.damaged-"))
            .collect();
        kept
    };
    expect(
        folder,
        &[],
        1,
        &[
            "its log (-wal) is wrong from frame",
            "registrations that were acknowledged",
        ],
    );
    assert_eq!(fs::read(&wal).unwrap(), bytes);
    expect(folder, &["--repair"], 0, &["repaired  "]);
    let found = kept(folder);
    assert_eq!(found.len(), 1);
    assert_eq!(fs::read(&found[0]).unwrap(), bytes);
    expect(folder, &[], 0, &["sound"]);

    // The server also continues, with an alarm.
    let server = ServerProcess::start(copy.path(), &schedule);
    assert_eq!(kept(copy.path()).len(), 1);
    let log = server.log();
    assert!(
        log.contains("ALARM: the database's log was changed"),
        "{log}"
    );
    assert_eq!(server.client.register(&TestNode::new(0)), 0);
}
