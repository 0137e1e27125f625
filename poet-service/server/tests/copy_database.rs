//! `poet-service copy-database`, with servers that continue after it, and other commands on a
//! shared database.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;
#[path = "../../storage/tests/suite/server.rs"]
mod database;
#[path = "common/fake_time.rs"]
mod fake_time;
#[path = "common/program.rs"]
mod program;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{TestNode, await_some, members_of, verify_fetched};
use database::PostgresServer;
use fake_time::WallClock;
use jiff::Timestamp;
use poet_engine::{Proof, SubtreeHeight, membership};
use poet_proto::{identity::PrivateKey, messages::PublishedProof};
use poet_rounds::storage::{Challenge, Execution, Member, NodeId};
use poet_storage::{Imported, ImportedRound, SqliteReader, SqliteStorage};
use program::{ServerProcess, command};
use rusqlite::Connection;

/// Rounds in the database whose copying is interrupted.
const ROUNDS: u64 = 400;

fn copy_command(from: &str, to: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poet-service"));
    command
        .args(["copy-database", "--from", from, "--to", to])
        .stdin(Stdio::null());
    command
}

fn copy(from: &str, to: &str) -> Output {
    copy_command(from, to).output().unwrap()
}

fn said(done: &Output) -> String {
    assert!(done.status.success(), "{done:?}");
    String::from_utf8(done.stdout.clone()).unwrap()
}

/// Returns the one-sentence refusal.
fn refusal(done: &Output) -> String {
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let error = String::from_utf8(done.stderr.clone()).unwrap();
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn a_round_in_progress_goes_on_after_the_move_and_back() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let Some(clock) = WallClock::new() else {
        return;
    };
    let url = database.database("poet");
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let genesis = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    // Round 0 starts in real time; the test says when it ends, and when round 1 starts and ends.
    let after_genesis = |seconds| genesis + Duration::from_secs(seconds);
    let genesis = format!("--genesis-time={genesis}");
    let options = [
        &*genesis,
        "--epoch-duration=2000s",
        "--phase-shift=10s",
        "--cycle-gap=1000s",
        "--clock-leap-patience=0s",
        "--pow-difficulty=3",
    ];
    let (end, next_start, next_end) = (1010, 2010, 3010);
    let environment = clock.environment();
    let environment = (environment.each_ref()).map(|(name, value)| (*name, value.as_str()));
    let with = |more: &[&str]| {
        let options: Vec<&str> = options.iter().chain(more).copied().collect();
        ServerProcess::start_with(folder, &options, &environment)
    };
    let server = with(&[]);
    let info = server.client.get("/v1/info").json();
    let nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
    for node in &nodes {
        assert_eq!(server.client.register(node), 0);
    }
    let log = folder.join("data/rounds/0/tree.log");
    let entries = || {
        await_some("entries of the log", || {
            let bytes = fs::metadata(&log).ok()?.len();
            (bytes > 4096).then_some(bytes)
        })
    };
    entries();
    let dbdir = folder.join("db").display().to_string();
    let error = refusal(&copy(&dbdir, &url));
    assert!(
        error.contains("is in use by another poet-service"),
        "{error}"
    );
    assert_eq!(server.signal("TERM").code(), Some(0));
    let before = entries();
    let text = said(&copy(&dbdir, &url));
    assert!(text.contains("3 registrations, 0 proofs"), "{text}");
    assert!(text.contains("the copy is sound"), "{text}");
    let shared = format!("--database={url}");
    let server = with(&[&shared]);
    assert_eq!(server.client.get("/v1/info").json(), info);
    let leaves = await_some("the work", || {
        let log = server.log();
        let (_, rest) = log.split_once(" working ")?;
        let (_, leaves) = rest.split_once("leaves=")?;
        leaves.split_whitespace().next()?.parse::<u64>().ok()
    });
    assert!(leaves > 0, "{}", server.log());
    let later = TestNode::new(7);
    assert_eq!(server.client.register(&later), 1);
    // A server runs on it.
    let back = folder.join("back").display().to_string();
    let error = refusal(&copy(&url, &back));
    assert!(error.contains("is in use by a poet-service"), "{error}");

    clock.set(after_genesis(end));
    let proof = server.client.await_proof(0);
    let fetched = verify_fetched(&proof);
    assert_eq!(fetched.members, members_of(&nodes));
    assert!(before > 4096 && fetched.leaves > leaves);
    let of = |subcommand: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poet-service"));
        command
            .arg(subcommand)
            .args(more)
            .arg(format!("--poetdir={}", folder.display()))
            .arg(&shared)
            .env_remove("POET_PRIVATE_KEY");
        command.output().unwrap()
    };
    assert_eq!(said(&of("export", &["--proof=0"])), proof.body);
    let none = refusal(&of("export", &["--proof=9"]));
    assert!(
        none.contains("round 9 has no proof in postgres://"),
        "{none}"
    );
    let busy = of("doctor", &[]);
    assert_eq!(busy.status.code(), Some(2), "{busy:?}");
    assert_eq!(server.signal("TERM").code(), Some(0));
    for (subcommand, more, expected) in [
        ("backup", vec!["elsewhere"], "pg_dump"),
        ("restore", vec!["elsewhere"], "pg_restore"),
        ("adopt", vec!["--from=x", "--round=1"], "copy-database"),
        ("import", vec!["--from=x"], "copy-database"),
    ] {
        let error = refusal(&of(subcommand, &more));
        assert!(
            error.contains("works on the embedded database only"),
            "{error}"
        );
        assert!(error.contains(expected), "{error}");
    }

    // And back, before the work on the next round.
    let text = said(&copy(&url, &back));
    assert!(text.contains("4 registrations, 1 proofs"), "{text}");
    let server = with(&[&format!("--dbdir={back}")]);
    assert_eq!(server.client.get("/v1/info").json(), info);
    assert_eq!(server.client.get("/v1/proofs/0").body, proof.body);
    clock.set(after_genesis(next_start));
    await_some("the work on round 1", || {
        server.log().contains("working round=1").then_some(())
    });
    clock.set(after_genesis(next_end));
    let fetched = verify_fetched(&server.client.await_proof(1));
    assert_eq!(fetched.members, members_of(&[later]));
    assert_eq!(server.signal("TERM").code(), Some(0));
    examines_both_kinds(&database, &url, folder, &back);
}

/// The doctor finds the same in either kind of database, and says which kind it is.
fn examines_both_kinds(database: &PostgresServer, url: &str, folder: &Path, dbdir: &str) {
    let doctor = |option: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poet-service"));
        command
            .arg("doctor")
            .arg(format!("--poetdir={}", folder.display()))
            .arg(option);
        let done = command.output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        let error = String::from_utf8(done.stderr).unwrap();
        (done.status.code(), text, error)
    };
    let (embedded, shared) = (format!("--dbdir={dbdir}"), format!("--database={url}"));
    let (code, text, _) = doctor(&embedded);
    assert_eq!(code, Some(0), "{text}");
    let (code, text, _) = doctor(&shared);
    assert_eq!(code, Some(0), "{text}");
    for expected in [
        "database postgres://",
        "public key",
        "schedule ",
        "the proof is valid: 3 members",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let change = |sqlite: &str, postgres: &str, expected: &str| {
        let file = Connection::open(Path::new(dbdir).join("poet.sqlite")).unwrap();
        file.execute_batch(sqlite).unwrap();
        drop(file);
        database.sql("poet", postgres);
        for option in [&embedded, &shared] {
            let (code, text, error) = doctor(option);
            assert_eq!(code, Some(1), "{text} {error}");
            assert!(text.contains(expected), "{option} {expected}: {text}");
        }
    };
    change(
        "DELETE FROM registrations WHERE round = 0 AND number = 1",
        "DELETE FROM poet.registrations WHERE round = 0 AND node_id =
             (SELECT node_id FROM poet.registrations WHERE round = 0 LIMIT 1)",
        "the registrations are not the members of the proof",
    );
    let (_, text, _) = doctor(&shared);
    assert!(
        text.contains("round 0 counts 3 members, and 2 are stored"),
        "{text}"
    );
    change(
        "UPDATE proofs SET leaves = leaves + 1",
        "UPDATE poet.proofs SET leaves = leaves + 1",
        "the proof has changed since it was stored",
    );
    change(
        "UPDATE settings SET value = x'01' WHERE name = 'private_key'",
        "UPDATE poet.settings SET value = '\\x01' WHERE name = 'private_key'",
        "the private key",
    );
    let other = "x".repeat(60);
    change(
        &format!("UPDATE settings SET value = CAST('{other}' AS BLOB) WHERE name = 'schedule'"),
        &format!("UPDATE poet.settings SET value = '{other}' WHERE name = 'schedule'"),
        "the schedule cannot be read",
    );
    database.sql("poet", "UPDATE poet.schema_version SET version = 99");
    let (code, _, error) = doctor(&shared);
    assert_eq!(code, Some(2));
    assert!(error.contains("has schema 99"), "{error}");
}

/// A database with many published rounds.
fn filled(dbdir: &Path) {
    fs::create_dir_all(dbdir).unwrap();
    let key = PrivateKey::generate().unwrap();
    let round = |round: u64| {
        let member = |node: u64| Member {
            node_id: NodeId(std::array::from_fn(|i| (node >> (8 * (i % 4))) as u8)),
            challenge: Challenge([round as u8; 32]),
        };
        let members: Vec<_> = (0..50).map(member).collect();
        let challenges: Vec<_> = members.iter().map(|one| one.challenge).collect();
        let statement = membership::root(&challenges).to_vec();
        ImportedRound {
            round,
            execution: Some(Execution {
                statement: statement.clone(),
                subtree_height: SubtreeHeight::new(3).unwrap(),
            }),
            members,
            proof: Some(PublishedProof {
                statement,
                members: challenges,
                odd_members: Vec::new(),
                leaves: 1000,
                proof: Proof {
                    root: [round as u8; 32],
                    proven_leaves: vec![[1; 32]; 150],
                    proof_nodes: vec![[2; 32]; 900],
                },
            }),
        }
    };
    let imported = Imported {
        private_key: key.to_bytes().to_vec(),
        schedule: String::new(),
        pow: None,
        rounds: (0..ROUNDS).map(round).collect(),
    };
    SqliteStorage::import(&dbdir.join("poet.sqlite"), &imported).unwrap();
}

/// Kills a copy when `copied` rounds show that it is incomplete. Returns whether it was.
fn kill_in_the_middle(mut child: Child, copied: impl Fn() -> u64) -> bool {
    let start = Instant::now();
    while copied() < 10 {
        assert!(start.elapsed() < Duration::from_secs(120));
        if child.try_wait().unwrap().is_some() {
            return false;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap().code().is_none()
}

fn start_copy(from: &str, to: &str) -> Child {
    copy_command(from, to)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_copy_that_is_killed_goes_on() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let dbdir = folder.path().join("db");
    filled(&dbdir);
    let from = dbdir.display().to_string();
    let url = database.database("poet");
    let rounds = "SELECT CASE WHEN to_regclass('poet.rounds') IS NULL THEN 0
                         ELSE (xpath('/row/c/text()', query_to_xml('SELECT count(*) AS c FROM poet.rounds',
                               false, true, '')))[1]::text::bigint END";
    let copied = || database.sql("poet", rounds).parse::<u64>().unwrap();
    assert!(kill_in_the_middle(start_copy(&from, &url), copied));
    assert!((10..ROUNDS).contains(&copied()));
    // No server starts on it.
    let refused = command(folder.path())
        .arg("--restlisten=127.0.0.1:0")
        .arg(format!("--database={url}"))
        .output()
        .unwrap();
    let error = String::from_utf8(refused.stderr).unwrap();
    assert!(error.contains("holds an unfinished copy"), "{error}");
    // Its proofs are made up, so the copy is as damaged as the original.
    let done = copy(&from, &url);
    let complaint = String::from_utf8(done.stderr).unwrap();
    assert!(
        complaint.contains("the copy is damaged, as --from is"),
        "{complaint}"
    );
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains(&format!("{ROUNDS} rounds (")), "{text}");
    assert!(!text.contains("(0 of them"), "{text}");

    let to = folder.path().join("back");
    let back = to.display().to_string();
    let unfinished = to.join("poet.sqlite.unfinished");
    let copied = || {
        let database = SqliteReader::open(&unfinished);
        let count = |database: &SqliteReader| {
            (0..ROUNDS)
                .take_while(|round| database.has_round(*round).unwrap_or(false))
                .count() as u64
        };
        database.as_ref().map_or(0, count)
    };
    assert!(kill_in_the_middle(start_copy(&url, &back), copied));
    assert!((10..ROUNDS).contains(&copied()));
    assert!(!to.join("poet.sqlite").exists());
    let text = String::from_utf8(copy(&url, &back).stdout).unwrap();
    assert!(text.contains(&format!("{ROUNDS} rounds (")), "{text}");
    assert!(!text.contains("(0 of them"), "{text}");
    assert!(!unfinished.exists());
    let dump = |dbdir: &Path| {
        let file = Connection::open(dbdir.join("poet.sqlite")).unwrap();
        let mut query = file
            .prepare("SELECT quote(round) || quote(members) || quote(proof_nodes) || checksum FROM proofs")
            .unwrap();
        let rows = query.query_map([], |row| row.get::<_, String>(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>()
    };
    assert!(dump(&dbdir) == dump(&to));
}
