//! `poet-service adopt`: working on another server's round under this server's own key.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::AtomicBool,
};

use common::{
    LocalServer, TestNode, await_some, bytes, config, genesis, members_of, seconds, verify_fetched,
};
use jiff::Timestamp;
use poet_admin::import::{AdoptError, AdoptReport, AdoptSource, Adoption};
use poet_engine::{LABEL_DEPTH, LogHeader, Work, WorkFunction};
use poet_service::config::Config;
use rusqlite::Connection;
use serde_json::Value;

fn work() -> Work {
    let selection = poet_backends::select(WorkFunction::Sha256, None).unwrap();
    selection.work(LABEL_DEPTH).unwrap()
}

/// Adopts a round of `from` into the directories of `config`.
fn adopt(
    from: impl AsRef<str>,
    round: u64,
    config: &Config,
    now: Timestamp,
) -> Result<AdoptReport, AdoptError> {
    let adoption = Adoption {
        source: &AdoptSource::find(from.as_ref())?,
        round,
        directories: &config.directories,
        config: &config.rounds,
        now,
        work: &work(),
        stop: &AtomicBool::new(false),
    };
    adoption.run(&mut |_| {})
}

fn at(second: i64) -> Timestamp {
    genesis() + seconds(second)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::write(target, fs::read(path).unwrap()).unwrap();
        }
    }
}

/// What a server of this kind leaves that was lost while it worked on round 0 and took
/// registrations for round 1.
struct Lost {
    folder: tempfile::TempDir,
    key: Value,
    /// Leaves in its log.
    leaves: u64,
}

fn nodes() -> Vec<TestNode> {
    (1..=5).map(TestNode::new).collect()
}

impl Lost {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lost = folder.path().join("lost");
        let server = LocalServer::start(config(&lost), 10);
        for node in nodes() {
            server.client.register(&node);
        }
        server.at(30);
        server.await_work(0);
        server.client.register(&TestNode::new(7));
        let key = server.client.get("/v1/info").json()["servicePubkey"].clone();
        let log = lost.join("data/rounds/0/tree.log");
        let entries = || (fs::metadata(&log).unwrap().len() - LogHeader::BYTES as u64) / 32;
        await_some("the log", || (entries() > 2000).then_some(()));

        // While it runs, its members are the same over the network.
        let near = config(&folder.path().join("near"));
        let report = adopt(server.url(), 0, &near, at(35)).unwrap();
        assert_eq!((report.members, report.leaves), (5, 0));
        assert_eq!(report.from.as_bytes()[..], bytes(&key));
        let open = adopt(server.url(), 1, &near, at(35)).unwrap_err();
        assert!(
            open.to_string().contains("takes registrations until"),
            "{open}"
        );
        drop(server);
        let wal = lost.join("db/poet.sqlite-wal");
        await_some("the database", || (!wal.exists()).then_some(()));
        let leaves = entries();
        Self {
            folder,
            key,
            leaves,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn from(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn config(&self, name: &str) -> Config {
        config(&self.path(name))
    }

    /// A server with the adopted round finishes it under its own key.
    fn finish(&self, name: &str, at_least: u64) {
        let server = LocalServer::start(self.config(name), 40);
        server.await_work(0);
        let listed = server.client.get("/v1/rounds/0/members").json();
        assert_eq!(listed["total"], "5");
        // It continues with its own rounds.
        assert_eq!(server.client.register(&TestNode::new(8)), 1);
        server.at(80);
        let answer = server.client.await_proof(0);
        let proof = verify_fetched(&answer);
        assert_eq!(proof.members, members_of(&nodes()));
        assert!(proof.leaves >= at_least, "{} {at_least}", proof.leaves);
        let own = server.client.get("/v1/info").json()["servicePubkey"].clone();
        assert_eq!(answer.json()["pubkey"], own);
        assert_ne!(own, self.key);
    }
}

#[test]
fn a_round_of_a_lost_server_is_finished_under_another_key() {
    let lost = Lost::new();
    lost.finish("near", 0);
    // With its work, and from a backup of it: a folder of backups, the newest of which is used.
    let backup = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .args(["backup", "--no-trial", "--poetdir"])
        .args([lost.path("lost"), lost.path("place")])
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(backup.status.success(), "{backup:?}");
    fs::create_dir_all(lost.path("place/backup-20250101T000040Z")).unwrap();
    for (from, to) in [("lost", "directory"), ("place", "backup")] {
        let report = adopt(lost.from(from), 0, &lost.config(to), at(40)).unwrap();
        assert_eq!((report.members, report.leaves), (5, lost.leaves));
        assert!(!report.already);
        let again = adopt(lost.from(from), 0, &lost.config(to), at(40)).unwrap();
        assert!(again.already);
        lost.finish(to, lost.leaves);
    }
    // From the database alone, into a server that had a work log but no members in the round.
    let server = LocalServer::start(lost.config("idle"), 10);
    server.at(30);
    server.await_work(0);
    drop(server);
    let database = lost.from("lost/db/poet.sqlite");
    let report = adopt(&database, 0, &lost.config("idle"), at(40)).unwrap();
    assert_eq!((report.members, report.leaves), (5, 0));
    lost.finish("idle", 0);
}

#[test]
fn what_cannot_be_adopted_is_named_in_one_sentence() {
    let lost = Lost::new();
    let refused = |from: &str, round, config: &Config, now, part: &str| {
        let message = adopt(from, round, config, now).unwrap_err().to_string();
        assert!(message.contains(part), "{part:?} is not in: {message}");
        assert!(!message.contains('\n'), "{message}");
        assert!(
            !config
                .directories
                .datadir
                .join("rounds/0/tree.log")
                .exists()
        );
    };
    let from = lost.from("lost");
    let new = lost.config("new");
    refused(&from, 1, &new, at(40), "takes registrations until");
    refused(&from, 1, &new, at(91), "is not settled");
    refused(&from, 9, &new, at(40), "knows no round 9");
    let mut other = new.clone();
    other.rounds.cycle_gap = std::time::Duration::from_secs(20);
    refused(&from, 0, &other, at(40), "another schedule");
    other.rounds.genesis = None;
    refused(&from, 0, &other, at(40), "--genesis-time is not set");
    refused("http://127.0.0.1:1", 0, &new, at(40), "cannot be reached");
    let nothing = lost.from("nothing");
    refused(&nothing, 0, &new, at(40), "holds no server's state");
    let same = adopt(&from, 0, &lost.config("lost"), at(40)).unwrap_err();
    assert!(matches!(same, AdoptError::SameKey(_)), "{same}");
    // The database alone has no work, and when the round is over there is no time for it.
    let database = lost.from("lost/db/poet.sqlite");
    refused(&database, 0, &new, at(80), "was over at");

    // This server's own members.
    let own = lost.config("own");
    let server = LocalServer::start(own.clone(), 10);
    server.client.register(&TestNode::new(1));
    drop(server);
    refused(&from, 0, &own, at(40), "has 1 members of its own");
    // The work of another server.
    let foreign = lost.config("foreign");
    fs::create_dir_all(&foreign.directories.datadir).unwrap();
    let owner = foreign.directories.datadir.join("poet-service.owner");
    fs::write(owner, lost.key.as_str().unwrap()).unwrap();
    refused(&from, 0, &foreign, at(40), "the work of another server");

    // Damage.
    copy(&lost.path("lost"), &lost.path("damaged"));
    let log = lost.path("damaged/data/rounds/0/tree.log");
    let mut content = fs::read(&log).unwrap();
    content[LogHeader::BYTES + 32 * 100] ^= 1;
    fs::write(&log, content).unwrap();
    refused(
        &lost.from("damaged"),
        0,
        &new,
        at(40),
        "tree.log is damaged",
    );
    let sql = "UPDATE registrations SET challenge = zeroblob(32) WHERE round = 0 AND number = 2";
    let database = Connection::open(lost.path("damaged/db/poet.sqlite")).unwrap();
    database.execute(sql, []).unwrap();
    drop(database);
    refused(
        &lost.from("damaged"),
        0,
        &new,
        at(40),
        "do not give the statement",
    );
    assert!(!lost.path("new/db/poet.sqlite").exists());

    // Published by this server, and by the other one.
    let server = LocalServer::start(lost.config("lost"), 40);
    server.at(80);
    server.client.await_proof(0);
    refused(&server.url(), 0, &new, at(85), "is published");
    drop(server);
    refused(&from, 0, &new, at(85), "is published");
}

// Of the Go server -------------------------------------------------------------------------------

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../admin/tests/data/go-server")
}

fn about(name: &str) -> Value {
    let text = fs::read_to_string(fixtures().join(name).join("about.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The challenges of the members of round 0, in order.
fn members(name: &str) -> Vec<[u8; 32]> {
    let hex = |value: &Value| -> [u8; 32] {
        let bytes = hex::decode(value.as_str().unwrap()).unwrap();
        bytes.try_into().unwrap()
    };
    let about = about(name);
    let registered = about["registered"].as_array().unwrap().iter();
    let members: BTreeMap<_, _> = registered.map(|it| (hex(&it[0]), hex(&it[1]))).collect();
    members.into_values().collect()
}

/// The schedule of a Go server's directories.
fn go_config(name: &str, folder: &Path) -> Config {
    let mut config = config(folder);
    let (genesis, [epoch, shift, gap]) = match name {
        "finished" => ("2026-11-20T12:06:43Z".to_owned(), [30, 16, 8]),
        _ => (
            about(name)["genesis_time"].as_str().unwrap().to_owned(),
            [3600, 4, 600],
        ),
    };
    let seconds = std::time::Duration::from_secs;
    config.rounds.genesis = Some(genesis.parse().unwrap());
    config.rounds.epoch_duration = seconds(epoch);
    config.rounds.phase_shift = seconds(shift);
    config.rounds.cycle_gap = seconds(gap);
    config
}

#[test]
fn from_each_directory_of_a_go_server() {
    let now: Timestamp = "2026-11-20T12:12:00Z".parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, leaves) in [("stopped-cleanly", 40608), ("killed", 38912)] {
        let go = folder.path().join(name);
        copy(&fixtures().join(name), &go);
        let config = go_config(name, &folder.path().join(format!("{name}-adopted")));
        // Its --poetdir, or its --datadir.
        let go = match name {
            "killed" => go.join("data"),
            _ => go,
        };
        let report = adopt(go.to_str().unwrap(), 0, &config, now).unwrap();
        let count = members(name).len() as u64;
        assert_eq!((report.members, report.leaves), (count, leaves), "{name}");
        assert_eq!(report.warnings, [""; 0]);
        let theirs = bytes(&about(name)["service_pubkey"]);
        assert_eq!(report.from.as_bytes()[..], theirs);
        let again = adopt(go.to_str().unwrap(), 0, &config, now).unwrap();
        assert!(again.already);

        let start = now.duration_since(genesis()).as_secs();
        let server = LocalServer::start(config, start);
        server.await_work(0);
        server.set_clock("2026-11-20T14:00:00Z".parse().unwrap());
        let answer = server.client.await_proof(0);
        let proof = verify_fetched(&answer);
        assert_eq!(proof.members, members(name));
        assert!(proof.leaves >= leaves, "{name}: {}", proof.leaves);
        assert_ne!(bytes(&answer.json()["pubkey"]), theirs, "{name}");
    }
    let go = folder.path().join("finished");
    copy(&fixtures().join("finished"), &go);
    let config = go_config("finished", &folder.path().join("new"));
    let error = adopt(go.to_str().unwrap(), 0, &config, now).unwrap_err();
    assert!(error.to_string().contains("is published"), "{error}");
    // Rounds of another schedule, and rounds that it does not know.
    let other = go_config("finished", &folder.path().join("other"));
    let killed = folder.path().join("killed");
    let error = adopt(killed.to_str().unwrap(), 0, &other, now).unwrap_err();
    assert!(error.to_string().contains("another schedule"), "{error}");
    let error = adopt(killed.to_str().unwrap(), 77, &other, now).unwrap_err();
    assert!(error.to_string().contains("knows no round 77"), "{error}");
}

// The command ------------------------------------------------------------------------------------

#[test]
fn the_command_adopts_and_says_what() {
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    copy(&fixtures().join("stopped-cleanly"), &go);
    let genesis = about("stopped-cleanly")["genesis_time"].clone();
    let run = |round: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poet-service"));
        command
            .args(["adopt", "--round", round, "--from"])
            .arg(&go)
            .arg("--poetdir")
            .arg(folder.path().join("new"))
            .arg(format!("--genesis-time={}", genesis.as_str().unwrap()))
            .args(["--epoch-duration=1h", "--phase-shift=4s", "--cycle-gap=10m"])
            .arg("--no-trial")
            .env_remove("POET_PRIVATE_KEY")
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    let (code, out, err) = run("0");
    assert_eq!(code, Some(0), "{err}");
    for part in [
        "round 0   20 members, ends at 2026-11-20T",
        "work      goes on after 40608 leaves",
        "it serves the proof at /v1/proofs/0",
    ] {
        assert!(out.contains(part), "{part:?} is not in: {out}");
    }
    let (code, out, _) = run("0");
    assert_eq!(code, Some(0));
    assert!(out.contains("everything is there already"), "{out}");
    let (code, _, err) = run("5");
    assert_eq!(code, Some(1));
    assert!(err.contains("knows no round 5"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}
