//! Rounds at the times of the main network, under a clock that the test sets: late starts,
//! downtime, and clocks that jump.
#![allow(clippy::unwrap_used)]

mod common;

use std::{path::Path, time::Duration};

use common::{LocalServer, TestNode, await_some, config, genesis, members_of, verify_fetched};
use jiff::Timestamp;
use poet_service::config::Config;
use serde_json::Value;

const HOUR: u64 = 3600;

/// The main network's schedule.
fn mainnet(folder: &Path) -> Config {
    let mut config = config(folder);
    config.rounds.genesis = Some(at("2023-07-14T08:00:00Z"));
    config.rounds.epoch_duration = Duration::from_secs(336 * HOUR);
    config.rounds.phase_shift = Duration::from_secs(240 * HOUR);
    config.rounds.cycle_gap = Duration::from_secs(12 * HOUR);
    config
}

fn at(time: &str) -> Timestamp {
    time.parse().unwrap()
}

/// Starts a server of the main network at this time.
fn start(folder: &Path, time: &str) -> LocalServer {
    let after_genesis = at(time).duration_since(genesis()).as_secs();
    LocalServer::start(mainnet(folder), after_genesis)
}

fn set(server: &LocalServer, time: &str) {
    server.set_clock(at(time));
}

/// Returns what the server reports about a round that it knows.
fn round(server: &LocalServer, round: u64) -> Option<Value> {
    let answer = server.client.get(&format!("/v1/rounds/{round}"));
    match answer.status {
        200 => Some(answer.json()),
        404 => None,
        status => panic!("{status}: {}", answer.body),
    }
}

fn state(server: &LocalServer, number: u64) -> Option<String> {
    Some(round(server, number)?["state"].as_str().unwrap().to_owned())
}

/// Waits for the proof of `round`, which must have these members.
fn await_members(server: &LocalServer, round: u64, nodes: &[TestNode]) {
    let proof = verify_fetched(&server.client.await_proof(round));
    assert_eq!(proof.members, members_of(nodes), "round {round}");
}

/// Lets every part of the server read the clock a few times.
fn settle() {
    std::thread::sleep(Duration::from_millis(400));
}

#[test]
fn mainnet_rounds_have_mainnets_numbers_and_times() {
    // For each time of a first start: the round that opens, its times, and the time to its end that
    // a registering node is given.
    for (now, open, starts, ends, left) in [
        // Long before genesis, at genesis, and on the border of round 0.
        (
            "2020-01-01T00:00:00Z",
            0,
            "2023-07-24T08:00:00Z",
            "2023-08-06T20:00:00Z",
            "113515200s",
        ),
        (
            "2023-07-14T08:00:00Z",
            0,
            "2023-07-24T08:00:00Z",
            "2023-08-06T20:00:00Z",
            "2030400s",
        ),
        (
            "2023-07-24T07:59:59Z",
            0,
            "2023-07-24T08:00:00Z",
            "2023-08-06T20:00:00Z",
            "1166401s",
        ),
        (
            "2023-07-24T08:00:00Z",
            1,
            "2023-08-07T08:00:00Z",
            "2023-08-20T20:00:00Z",
            "2376000s",
        ),
        // In the cycle gap.
        (
            "2023-08-06T22:00:00Z",
            1,
            "2023-08-07T08:00:00Z",
            "2023-08-20T20:00:00Z",
            "1202400s",
        ),
        // On leap days, and in a year without one.
        (
            "2024-02-29T12:00:00Z",
            16,
            "2024-03-04T08:00:00Z",
            "2024-03-17T20:00:00Z",
            "1497600s",
        ),
        (
            "2028-02-29T00:00:00Z",
            121,
            "2028-03-13T08:00:00Z",
            "2028-03-26T20:00:00Z",
            "2318400s",
        ),
        (
            "2100-02-28T23:59:59Z",
            1999,
            "2100-03-08T08:00:00Z",
            "2100-03-21T20:00:00Z",
            "1800001s",
        ),
        (
            "9999-01-01T00:00:00Z",
            208_070,
            "9999-01-11T08:00:00Z",
            "9999-01-24T20:00:00Z",
            "2059200s",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = start(folder.path(), now);
        assert_eq!(server.open_round(), open, "{now}");
        let told = round(&server, open).unwrap();
        assert_eq!(told["state"], "open", "{now}");
        assert_eq!(
            (&told["start"], &told["end"]),
            (&starts.into(), &ends.into())
        );
        let node = TestNode::new(1);
        let answer = server
            .client
            .submit(&node.request(&server.client.pow_params()));
        let answer = answer.json();
        assert_eq!(answer["roundId"], open.to_string(), "{now}");
        assert_eq!(answer["roundEnd"], left, "{now}");
        // No other round is known, nor worked on, although the network works on one at this time.
        let known = server.client.get("/v1/rounds").json();
        assert_eq!(known["rounds"].as_array().unwrap().len(), 1, "{now}");
        // Only a folder for the work on the open one exists.
        for entry in std::fs::read_dir(folder.path().join("data/rounds"))
            .into_iter()
            .flatten()
        {
            let entry = entry.unwrap();
            assert_eq!(*entry.file_name(), *open.to_string(), "{now}");
            assert_eq!(std::fs::read_dir(entry.path()).unwrap().count(), 0, "{now}");
        }
        let info = server.client.get("/v1/info").json();
        assert_eq!(info["phaseShift"], "864000s");
        assert_eq!(info["cycleGap"], "43200s");
    }
}

#[test]
fn two_rounds_of_mainnet_from_before_genesis_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2023-07-01T00:00:00Z");
    let nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
    assert_eq!(server.client.register(&nodes[0]), 0);
    set(&server, "2023-07-14T08:00:00Z");
    assert_eq!(server.client.register(&nodes[1]), 0);
    set(&server, "2023-07-24T07:59:59.999Z");
    settle();
    assert_eq!(server.client.register(&nodes[2]), 0);

    set(&server, "2023-07-24T08:00:00Z");
    server.await_work(0);
    assert_eq!(server.open_round(), 1);
    assert_eq!(server.client.register(&nodes[0]), 1);
    // A week later, and a moment before the end, it is still the same.
    for time in ["2023-07-31T08:00:00Z", "2023-08-06T19:59:59.999Z"] {
        set(&server, time);
        settle();
        assert_eq!(state(&server, 0).as_deref(), Some("executing"), "{time}");
        assert_eq!(state(&server, 1).as_deref(), Some("open"), "{time}");
    }
    set(&server, "2023-08-06T20:00:00Z");
    await_members(&server, 0, &nodes);

    // In the cycle gap no round is worked on, and nodes register for the next one.
    set(&server, "2023-08-07T07:59:59Z");
    settle();
    assert_eq!(server.client.register(&nodes[1]), 1);
    assert_eq!(state(&server, 1).as_deref(), Some("open"));
    set(&server, "2023-08-07T08:00:00Z");
    server.await_work(1);
    set(&server, "2023-08-20T20:00:00Z");
    await_members(&server, 1, &nodes[..2]);
}

#[test]
fn a_server_that_comes_late_works_on_the_next_round_only() {
    let folder = tempfile::tempdir().unwrap();
    // In the middle of round 86.
    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    assert_eq!(server.client.register(&TestNode::new(1)), 87);
    settle();
    assert_eq!(state(&server, 86), None);
    set(&server, "2026-11-22T20:00:00Z");
    settle();
    assert_eq!(state(&server, 86), None);
    assert_eq!(server.client.get("/v1/proofs/86").status, 404);
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    set(&server, "2026-12-06T20:00:00Z");
    await_members(&server, 87, &[TestNode::new(1)]);
    assert_eq!(server.client.get("/v1/proofs/86").status, 404);
}

#[test]
fn a_server_that_starts_in_the_cycle_gap_is_in_time_for_the_next_round() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2026-11-23T07:59:00Z");
    assert_eq!(server.client.register(&TestNode::new(1)), 87);
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    assert_eq!(state(&server, 86), None);
    set(&server, "2026-12-06T20:00:00Z");
    await_members(&server, 87, &[TestNode::new(1)]);
}

#[test]
fn a_round_without_members_is_executed_with_the_empty_statement() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    set(&server, "2026-12-06T20:00:00Z");
    // Verified for the statement of no members.
    await_members(&server, 87, &[]);
    drop(server);
    let database = rusqlite::Connection::open(folder.path().join("db/poet.sqlite")).unwrap();
    let query = "SELECT statement FROM proofs WHERE round = 87";
    let statement: Vec<u8> = database.query_row(query, [], |row| row.get(0)).unwrap();
    assert_eq!(statement, b"");
}

#[test]
fn after_being_down_for_several_rounds_what_was_begun_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    assert_eq!(server.client.register(&TestNode::new(1)), 87);
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    assert_eq!(server.client.register(&TestNode::new(2)), 88);
    let leaves = || -> u64 {
        let told = round(&server, 87).unwrap();
        told["leaves"].as_str().unwrap().parse().unwrap()
    };
    // Enough for a few entries of the log.
    await_some("work", || (leaves() > 3 << 12).then_some(()));
    drop(server);

    // Half a year later: 87 was being worked on, 88 was open, and 89 to 99 never existed.
    let server = start(folder.path(), "2027-05-20T00:00:00Z");
    assert_eq!(server.open_round(), 100);
    await_members(&server, 87, &[TestNode::new(1)]);
    let kept = verify_fetched(&server.client.get("/v1/proofs/87")).leaves;
    assert!(kept >= 3 << 12, "{kept}");
    await_members(&server, 88, &[TestNode::new(2)]);
    for missed in 89..100 {
        assert_eq!(state(&server, missed), None);
        let answer = server.client.get(&format!("/v1/proofs/{missed}"));
        answer.assert_error(404, 5, "proof not found");
    }
    assert_eq!(server.client.register(&TestNode::new(1)), 100);
    set(&server, "2027-05-24T08:00:00Z");
    server.await_work(100);
}

#[test]
fn a_clock_that_jumps_within_a_round_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    server.client.register(&TestNode::new(1));
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    for time in [
        "2026-11-30T00:00:00Z",
        "2026-11-23T08:00:01Z",
        "2026-12-06T19:59:59Z",
        // Before its start, and before the start of the one before.
        "2026-11-23T07:00:00Z",
        "2026-11-01T00:00:00Z",
        "2026-12-01T00:00:00Z",
    ] {
        set(&server, time);
        settle();
        assert_eq!(state(&server, 87).as_deref(), Some("executing"), "{time}");
        assert_eq!(server.client.get("/v1/proofs/87").status, 404, "{time}");
    }
    // Nodes that register meanwhile get the round that they are told, which is not this one.
    set(&server, "2026-11-23T07:00:00Z");
    settle();
    let told = server.client.register(&TestNode::new(2));
    assert_ne!(told, 87);
    set(&server, "2026-12-06T20:00:00Z");
    await_members(&server, 87, &[TestNode::new(1)]);
    set(&server, "2026-12-07T08:00:00Z");
    server.await_work(88);
    set(&server, "2026-12-20T20:00:00Z");
    await_members(&server, told, &[TestNode::new(2)]);
}

#[test]
fn a_clock_that_jumps_over_the_end_of_a_round_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    server.client.register(&TestNode::new(1));
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    assert_eq!(server.client.register(&TestNode::new(2)), 88);
    // Into the middle of round 90.
    set(&server, "2027-01-08T00:00:00Z");
    await_members(&server, 87, &[TestNode::new(1)]);
    await_members(&server, 88, &[TestNode::new(2)]);
    assert_eq!(server.client.register(&TestNode::new(3)), 91);
    // Back again. Published rounds stay published, and no node registers for those two again.
    set(&server, "2026-11-25T00:00:00Z");
    server.await_open_round(89);
    assert_eq!(server.client.register(&TestNode::new(4)), 89);
    await_members(&server, 87, &[TestNode::new(1)]);
    // In time, every round gets its proof.
    for (starts, number, ends, member) in [
        (
            "2026-12-21T08:00:00Z",
            89,
            "2027-01-03T20:00:00Z",
            Some(TestNode::new(4)),
        ),
        ("2027-01-04T08:00:00Z", 90, "2027-01-17T20:00:00Z", None),
        (
            "2027-01-18T08:00:00Z",
            91,
            "2027-01-31T20:00:00Z",
            Some(TestNode::new(3)),
        ),
    ] {
        set(&server, starts);
        server.await_work(number);
        set(&server, ends);
        await_members(&server, number, member.as_slice());
    }
}

/// A round that took registrations while the clock was ahead, and was skipped later.
#[test]
fn members_of_a_round_that_the_clock_passed_over_are_not_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    set(&server, "2027-01-08T00:00:00Z");
    server.await_open_round(91);
    assert_eq!(server.client.register(&TestNode::new(1)), 91);
    // 87 was closed on the way.
    set(&server, "2026-11-25T00:00:00Z");
    server.await_open_round(88);
    assert_eq!(server.client.register(&TestNode::new(2)), 88);
    set(&server, "2027-05-20T00:00:00Z");
    server.await_open_round(100);
    await_members(&server, 88, &[TestNode::new(2)]);
    await_members(&server, 91, &[TestNode::new(1)]);
}

/// As above, but the round was closed while the clock was ahead, and the server restarted in
/// between.
#[test]
fn a_round_that_was_closed_too_early_is_worked_on_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path(), "2027-01-08T00:00:00Z");
    assert_eq!(server.client.register(&TestNode::new(1)), 91);
    set(&server, "2027-01-18T08:00:00Z");
    server.await_work(91);
    drop(server);

    let server = start(folder.path(), "2026-11-20T20:00:00Z");
    assert_eq!(server.client.register(&TestNode::new(2)), 87);
    settle();
    assert_eq!(state(&server, 91).as_deref(), Some("waiting"));
    set(&server, "2026-11-23T08:00:00Z");
    server.await_work(87);
    set(&server, "2026-12-06T20:00:00Z");
    await_members(&server, 87, &[TestNode::new(2)]);
    set(&server, "2027-01-18T08:00:00Z");
    server.await_work(91);
    set(&server, "2027-01-31T20:00:00Z");
    await_members(&server, 91, &[TestNode::new(1)]);
}
