//! Several servers, each in its own process, on one PostgreSQL database.
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
    collections::BTreeSet,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use common::{TestNode, await_some, members_of, verify_fetched};
use database::{PASSWORD, PostgresServer};
use fake_time::{WallClock, fake_time};
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

/// When the early proof of [`LongRounds`] is due, and when round 0 ends, in seconds after the genesis.
const EARLY: u64 = 315;
const END: u64 = 615;

/// Rounds that start in real time, and end when the test says so.
struct LongRounds {
    clock: WallClock,
    genesis: Timestamp,
    schedule: [String; 6],
}

impl LongRounds {
    /// `None` if the time cannot be faked.
    fn new() -> Option<Self> {
        let clock = WallClock::new()?;
        let genesis = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        let schedule = [
            format!("--genesis-time={genesis}"),
            "--epoch-duration=1200s".to_owned(),
            "--phase-shift=15s".to_owned(),
            "--cycle-gap=600s".to_owned(),
            "--clock-leap-patience=0s".to_owned(),
            "--pow-difficulty=3".to_owned(),
        ];
        Some(Self {
            clock,
            genesis,
            schedule,
        })
    }

    fn start(&self, folder: &Path, database: &str, more: &[&str]) -> ServerProcess {
        let database = format!("--database={database}");
        let mut options: Vec<&str> = self.schedule.iter().map(String::as_str).collect();
        options.push(&database);
        options.extend(more);
        let clock = self.clock.environment();
        let clock = clock
            .each_ref()
            .map(|(name, value)| (*name, value.as_str()));
        ServerProcess::start_with(folder, &options, &clock)
    }

    /// Sets the clock of the servers.
    fn at(&self, seconds_after_genesis: u64) {
        (self.clock).set(self.genesis + Duration::from_secs(seconds_after_genesis));
    }
}

#[test]
fn two_servers_are_one_poet() {
    let Some(mut database) = PostgresServer::start() else {
        return;
    };
    let Some(rounds) = LongRounds::new() else {
        return;
    };
    let url = database.database("poet");
    let [first, second] = machines();
    let works = rounds.start(first.path(), &url, &["--metrics-port=0"]);
    let serves = rounds.start(second.path(), &url, &["--worker=off"]);
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
        server
            .client
            .await_unready("the database cannot be written");
        let refused = server
            .client
            .submit(&nodes[2].request(&server.client.pow_params()));
        assert_eq!(refused.status, 503, "{}", refused.body);
    }
    database.run();
    for server in [&works, &serves] {
        server.client.await_ready();
    }

    // Both serve what either publishes.
    rounds.at(END);
    let proof = works.client.await_proof(0);
    assert_eq!(serves.client.get("/v1/proofs/0").body, proof.body);
    let fetched = verify_fetched(&proof);
    assert_eq!(fetched.members, members_of(&nodes));
    await_some("the challenge of the new proof", || {
        (serves.client.pow_params().challenge == fetched.root).then_some(())
    });
    // Both accept a proof of work for the parameters of either.
    let answer = (serves.client).submit(&nodes[3].request(&works.client.pow_params()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(serves.signal("TERM").code(), Some(0));
    assert_eq!(works.signal("TERM").code(), Some(0));
}

/// Whoever asks several servers at once gets into a round once, and not into one that is full; what is invalid
/// gets nowhere.
#[test]
fn servers_refuse_together_what_one_refuses() {
    const MOST: usize = 8;
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let Some(rounds) = LongRounds::new() else {
        return;
    };
    let url = database.database("poet");
    let machines: [_; 2] = machines();
    let most = format!("--max-round-members={MOST}");
    let servers = (machines.each_ref()).map(|folder| rounds.start(folder.path(), &url, &[&most]));
    let params = servers[0].client.pow_params();
    // Each of more nodes than there is room for asks both servers at once, with two challenges.
    let nodes: Vec<_> = (1..=12).map(TestNode::new).collect();
    let ask = |server: &ServerProcess, challenge: u8| -> Vec<TestNode> {
        let mut acknowledged = Vec::new();
        for place in 0..nodes.len() {
            // Each challenge in another order.
            let place = (place + usize::from(challenge) * 3) % nodes.len();
            let node = nodes[place].with_challenge([challenge; 32]);
            let mut request = node.request(&params);
            let answer = server.client.submit(&request);
            match answer.status {
                200 => {
                    assert_eq!(answer.json()["roundId"], "0", "it took too long");
                    acknowledged.push(node);
                }
                409 => answer.assert_error(409, 6, "conflicting registration"),
                _ => answer.assert_error(429, 8, "maximum number of round members reached"),
            }
            request["challenge"] = nodes[place].request(&params)["challenge"].take();
            let refused = server.client.submit(&request);
            refused.assert_error(400, 3, "invalid signature");
        }
        acknowledged
    };
    let acknowledged: Vec<TestNode> = thread::scope(|scope| {
        let asking: Vec<_> = (servers.iter())
            .flat_map(|server| [1, 2].map(|challenge| scope.spawn(move || ask(server, challenge))))
            .collect();
        let answered = asking.into_iter().map(|one| one.join().unwrap());
        answered.flatten().collect()
    });
    let members: BTreeSet<_> = (acknowledged.iter())
        .map(|node| (node.id(), node.challenge))
        .collect();
    let ids: BTreeSet<_> = members.iter().map(|(id, _)| id).collect();
    assert_eq!((members.len(), ids.len()), (MOST, MOST));

    rounds.at(END);
    let proof = verify_fetched(&servers[1].client.await_proof(0));
    let challenges: Vec<_> = members.iter().map(|(_, challenge)| *challenge).collect();
    assert_eq!(proof.members, challenges);
}

#[test]
fn when_one_machine_fails_the_other_has_the_round() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let Some(rounds) = LongRounds::new() else {
        return;
    };
    let url = database.database("poet");
    let [first, second] = machines();
    let one = rounds.start(first.path(), &url, &[]);
    let other = rounds.start(second.path(), &url, &[]);
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
    await_some("the takeover", || {
        other.log().contains("this server works").then_some(())
    });
    rounds.at(END);
    let proof = other.client.await_proof(0);
    assert_eq!(verify_fetched(&proof).members, members_of(&nodes));
    // It comes back, and serves a proof that it has not made.
    let one = rounds.start(first.path(), &url, &[]);
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
    let Some(rounds) = LongRounds::new() else {
        return;
    };
    let url = database.database("poet");
    let [folder] = machines();
    let server = rounds.start(folder.path(), &url, &["--early-cycle-gap=15m"]);
    server.client.register(&TestNode::new(1));
    await_some("the work", || {
        server.log().contains(" working ").then_some(())
    });
    rounds.at(EARLY);
    // The early one, before the round has ended.
    let early = || database.sql("poet", "SELECT root, leaves FROM poet.early_proofs");
    await_some("the early proof", || (!early().is_empty()).then_some(()));
    let before = early();
    database.sql("poet", "DELETE FROM poet.early_proofs");
    await_some("the early proof again", || {
        (early() == before).then_some(())
    });
    let lost = "ALARM: the storage has lost the proof";
    await_some("the alarm", || {
        let log = server.log();
        let mut lines = log.lines().filter(|line| line.contains(lost));
        lines.any(|line| line.contains("15m")).then_some(())
    });
    rounds.at(END);
    let root = verify_fetched(&server.client.await_proof(0)).root;
    let stored = || database.sql("poet", "SELECT root FROM poet.proofs WHERE round = 0");
    let before = stored();
    assert_eq!(before, format!("\\x{}", hex::encode(root)));
    // Like a database that did not have it yet when it took over.
    database.sql("poet", "DELETE FROM poet.proofs WHERE round = 0");
    await_some("the proof", || (stored() == before).then_some(()));
    await_some("both alarms", || {
        (server.log().matches(lost).count() == 2).then_some(())
    });
}

#[test]
fn a_replica_that_may_lag_is_warned_of() {
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let url = database.database("poet");
    let warning = "expected synchronous replicas, in the setting synchronous_standby_names";
    let schedule = schedule();
    let warns = |url: &str| {
        let [folder] = machines();
        let database = format!("--database={url}");
        let mut options: Vec<&str> = schedule.iter().map(String::as_str).collect();
        options.push(&database);
        let password = [("PGPASSWORD", PASSWORD)];
        let server = ServerProcess::start_with(folder.path(), &options, &password);
        // The line that comes after the warning.
        await_some("the open round", || {
            server.log().contains("open for registration").then_some(())
        });
        server.log().matches(warning).count()
    };
    assert_eq!(warns(&url), 0, "there is no replica");
    let replica = database.replica();
    await_some("the replica", || {
        let count = database.sql("postgres", "SELECT count(*) FROM pg_stat_replication");
        (count == "1").then_some(())
    });
    assert_eq!(warns(&url), 1);
    database.sql(
        "postgres",
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
    );
    database.sql("postgres", "SELECT pg_reload_conf()");
    await_some("the setting", || {
        let names = database.sql("postgres", "SHOW synchronous_standby_names");
        (names == "*").then_some(())
    });
    assert_eq!(warns(&url), 0, "it does not lag");
    // One that is not connected, but may be asked.
    database.sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
    database.sql("postgres", "SELECT pg_reload_conf()");
    drop(replica);
    await_some("the setting", || {
        let names = database.sql("postgres", "SHOW synchronous_standby_names");
        let count = database.sql("postgres", "SELECT count(*) FROM pg_stat_replication");
        (names.is_empty() && count == "0").then_some(())
    });
    assert_eq!(warns(&url), 0);
    let port = database.port();
    let both = format!("postgres://poet@127.0.0.1:{port},127.0.0.1:1/poet");
    assert_eq!(warns(&both), 1);
}

/// Registers nodes from number `first` on, at one server, until some are in round 1. Returns the challenges
/// that are in round 0, and those in round 1.
fn register_over_the_close(server: &ServerProcess, first: u32) -> [Vec<[u8; 32]>; 2] {
    let mut registered = [Vec::new(), Vec::new()];
    let start = Instant::now();
    for number in first.. {
        if registered[1].len() >= 10 {
            break;
        }
        assert!(start.elapsed() < Duration::from_secs(120));
        let node = TestNode::new(number);
        let answer = (server.client).submit(&node.request(&server.client.pow_params()));
        match answer.status {
            200 => {
                let round = answer.json()["roundId"].as_str().unwrap().to_owned();
                registered[round.parse::<usize>().unwrap()].push(node.challenge);
            }
            503 => {}
            _ => panic!("{}", answer.body),
        }
        thread::sleep(Duration::from_millis(5));
    }
    registered
}

#[test]
fn servers_whose_clocks_differ_close_a_round_once() {
    let Some(library) = fake_time() else { return };
    let Some(database) = PostgresServer::start() else {
        return;
    };
    let url = format!("--database={}", database.database("poet"));
    let [first, second] = machines();
    let schedule = schedule();
    let mut options: Vec<&str> = schedule.iter().map(String::as_str).collect();
    options.push(&url);
    let ahead = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", "+1s"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let right = ServerProcess::start(first.path(), &options);
    let ahead = ServerProcess::start_with(second.path(), &options, &ahead);
    let registered: Vec<_> = thread::scope(|scope| {
        let load: Vec<_> = [(&right, 1), (&ahead, 2), (&right, 3), (&ahead, 4)]
            .into_iter()
            .map(|(server, place)| {
                scope.spawn(move || register_over_the_close(server, place * 1_000_000))
            })
            .collect();
        load.into_iter().map(|load| load.join().unwrap()).collect()
    });
    await_some("the warning", || {
        let warning = "the clock of this machine differs from the database's";
        ahead.log().contains(warning).then_some(())
    });
    let acknowledged = |round: usize| -> BTreeSet<[u8; 32]> {
        registered
            .iter()
            .flat_map(|one| one[round].clone())
            .collect()
    };
    let members: BTreeSet<_> = verify_fetched(&right.client.await_proof(0))
        .members
        .into_iter()
        .collect();
    assert!(members.is_superset(&acknowledged(0)));
    assert!(members.is_disjoint(&acknowledged(1)));
    assert!(acknowledged(0).len() > 50, "{}", acknowledged(0).len());
    let next = "SELECT encode(challenge, 'hex') FROM poet.registrations WHERE round = 1";
    let next = database.sql("poet", next);
    for challenge in acknowledged(1) {
        assert!(next.contains(&hex::encode(challenge)));
    }
    assert_eq!(
        ahead.client.await_proof(0).body,
        right.client.get("/v1/proofs/0").body
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
