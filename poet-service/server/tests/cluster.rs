//! Several servers, each in its own process, on one PostgreSQL database.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;
#[path = "../../storage/tests/suite/server.rs"]
mod database;
#[path = "common/program.rs"]
mod program;

use std::{path::Path, process::Command};

use common::{TestNode, await_some, members_of, verify_fetched};
use database::{PASSWORD, PostgresServer};
use jiff::Timestamp;
use program::{ServerProcess, command};
use tempfile::TempDir;

/// The directories of several machines.
fn machines<const N: usize>() -> [TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

/// A schedule that leaves time for the test before the start of round 0.
fn schedule() -> [String; 5] {
    let genesis = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    [
        format!("--genesis-time={genesis}"),
        "--epoch-duration=20s".to_owned(),
        "--phase-shift=15s".to_owned(),
        "--cycle-gap=8s".to_owned(),
        "--pow-difficulty=3".to_owned(),
    ]
}

fn start(folder: &Path, database: &str, schedule: &[String], more: &[&str]) -> ServerProcess {
    let database = format!("--database={database}");
    let mut options: Vec<&str> = schedule.iter().map(String::as_str).collect();
    options.push(&database);
    options.extend(more);
    ServerProcess::start(folder, &options)
}

#[test]
fn two_servers_are_one_poet() {
    let Some(mut database) = PostgresServer::start() else {
        return;
    };
    let url = database.database("poet");
    let [first, second] = machines();
    let schedule = schedule();
    let works = start(first.path(), &url, &schedule, &["--metrics-port=0"]);
    let serves = start(second.path(), &url, &schedule, &["--worker=off"]);
    let info = works.client.get("/v1/info").json();
    assert_eq!(serves.client.get("/v1/info").json(), info);

    // Each takes registrations, and a node may register with both.
    let nodes: Vec<_> = (1..=6).map(TestNode::new).collect();
    for (place, node) in nodes.iter().enumerate() {
        let server = if place % 2 == 0 { &works } else { &serves };
        assert_eq!(server.client.register(node), 0);
    }
    assert_eq!(serves.client.register(&nodes[0]), 0);
    let conflicting = nodes[1].with_challenge([1; 32]);
    let answer = (works.client).submit(&conflicting.request(&works.client.pow_params()));
    answer.assert_error(409, 6, "conflicting registration");

    // The database stops and comes back while the round is worked on.
    await_some("the work", || {
        works.log().contains(" working ").then_some(())
    });
    database.kill();
    for server in [&works, &serves] {
        await_some("the loss of the database", || {
            let ready = server.client.get("/readyz");
            (ready.status == 503).then(|| {
                assert!(
                    ready.body.contains("the database cannot be written"),
                    "{}",
                    ready.body
                );
            })
        });
        let refused = server
            .client
            .submit(&nodes[2].request(&server.client.pow_params()));
        assert_eq!(refused.status, 503, "{}", refused.body);
    }
    database.run();
    for server in [&works, &serves] {
        await_some("the return of the database", || {
            (server.client.get("/readyz").status == 200).then_some(())
        });
    }

    // Both serve what either publishes.
    let proof = works.client.await_proof(0);
    assert_eq!(serves.client.get("/v1/proofs/0").body, proof.body);
    let fetched = verify_fetched(&proof);
    assert_eq!(fetched.members, members_of(&nodes));
    await_some("the challenge of the new proof", || {
        let challenge = serves.client.pow_params().challenge;
        // The next round may have ended by now.
        (challenge == fetched.root || works.client.get("/v1/proofs/1").status == 200).then_some(())
    });
    // Both accept a proof of work for the parameters of either.
    let answer = (serves.client).submit(&nodes[3].request(&works.client.pow_params()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(serves.signal("TERM").code(), Some(0));
    assert_eq!(works.signal("TERM").code(), Some(0));
}

#[test]
fn when_one_machine_fails_the_other_has_the_round() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let url = database.database("poet");
    let [first, second] = machines();
    let schedule = schedule();
    let one = start(first.path(), &url, &schedule, &[]);
    let other = start(second.path(), &url, &schedule, &[]);
    let nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
    for node in &nodes {
        one.client.register(node);
    }
    for server in [&one, &other] {
        await_some("the work", || {
            server.log().contains(" working ").then_some(())
        });
    }
    one.kill();
    let proof = other.client.await_proof(0);
    assert_eq!(verify_fetched(&proof).members, members_of(&nodes));
    // It comes back, and serves a proof that it has not made.
    let one = start(first.path(), &url, &schedule, &[]);
    assert_eq!(one.client.get("/v1/proofs/0").body, proof.body);
    assert_eq!(
        one.client.get("/v1/info").json(),
        other.client.get("/v1/info").json()
    );
}

#[test]
fn a_proof_that_the_database_has_lost_is_stored_again() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let url = database.database("poet");
    let [folder] = machines();
    let server = start(folder.path(), &url, &schedule(), &[]);
    server.client.register(&TestNode::new(1));
    let root = verify_fetched(&server.client.await_proof(0)).root;
    let stored = || database.sql("poet", "SELECT root FROM poet.proofs WHERE round = 0");
    let before = stored();
    assert_eq!(before, format!("\\x{}", hex::encode(root)));
    // Like a database that did not have it yet when it took over.
    database.sql("poet", "DELETE FROM poet.proofs WHERE round = 0");
    await_some("the proof", || (stored() == before).then_some(()));
    assert!(
        server
            .log()
            .contains("ALARM: the storage has lost the proof")
    );
}

#[test]
fn what_differs_is_named_and_nothing_is_written() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let url = database.database("poet");
    let [first, second, third] = machines();
    let schedule = schedule();
    let server = start(first.path(), &url, &schedule, &[]);
    let refused =
        |folder: &Path, url: &str, more: &[&str], environment: &[(&str, &str)], expected: &str| {
            let done = command(folder)
                .arg("--restlisten=127.0.0.1:0")
                .arg(format!("--database={url}"))
                .args(&schedule)
                .args(more)
                .envs(environment.iter().copied())
                .output()
                .unwrap();
            let error = String::from_utf8(done.stderr).unwrap();
            let last = error.lines().last().unwrap_or_default();
            assert!(!done.status.success(), "{error}");
            assert!(last.contains(expected), "{last}");
        };
    let second = second.path();
    refused(
        second,
        &url,
        &["--cycle-gap=7s"],
        &[],
        "holds rounds of another schedule",
    );
    let tick = |leaves: u64| {
        let set = format!(
            "UPDATE poet.settings SET value = '\\x{leaves:016x}' WHERE name = 'tick_leaves'"
        );
        database.sql("poet", &set);
    };
    tick(1000);
    refused(second, &url, &[], &[], "counts ticks of 1000 leaves");
    tick(poet_engine::TICK_LEAVES);
    let key = poet_proto::identity::PrivateKey::generate().unwrap();
    let key = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key.to_bytes());
    refused(
        second,
        &url,
        &[],
        &[("POET_PRIVATE_KEY", &key)],
        "belongs to another private key than POET_PRIVATE_KEY gives",
    );
    refused(
        second,
        &database.url("none"),
        &[],
        &[],
        "there is no database none",
    );
    let away = "postgres://poet@127.0.0.1:1/poet";
    refused(
        second,
        away,
        &[],
        &[],
        "cannot reach the database at 127.0.0.1:1",
    );
    let there = format!("postgres://poet@127.0.0.1:{}/poet", database.port());
    let wrong = [("PGPASSWORD", "wrong")];
    refused(second, &there, &[], &wrong, "refuses user poet");
    // The work of another PoET.
    let other = database.database("other");
    refused(
        first.path(),
        &other,
        &[],
        &[],
        "is in use by another poet-service",
    );
    assert_eq!(server.signal("TERM").code(), Some(0));
    refused(
        first.path(),
        &other,
        &[],
        &[],
        "holds the work of the server with public key",
    );
    let written = "SELECT count(*) FROM poet.settings WHERE name <> 'probe'";
    assert_eq!(database.sql("other", written), "0");
    // With the right password from the environment, it starts.
    let server = ServerProcess::start_with(
        third.path(),
        &[
            &*format!("--database={there}"),
            &schedule[0],
            &schedule[1],
            &schedule[2],
            &schedule[3],
        ],
        &[("PGPASSWORD", PASSWORD)],
    );
    assert!(!server.log().contains(PASSWORD));

    // Without a shared database no other server works.
    let done = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .args(["check-config", "--worker=off"])
        .output()
        .unwrap();
    let error = String::from_utf8(done.stderr).unwrap();
    assert!(
        error.contains("--worker=off is given without --database"),
        "{error}"
    );
}
