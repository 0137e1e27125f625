//! The life of rounds, whatever happens to the process or to the clock.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::{LocalServer, TestNode, await_some, config, members_of, verify_fetched};
use poet_engine::{LogHeader, T};
use poet_rounds::worker::AuditMode;

// In these tests, round e starts 30 + 60 e seconds after genesis and ends 50 seconds later.

#[test]
fn a_round_from_registration_to_proof() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    let nodes: Vec<_> = (1..=9).map(TestNode::new).collect();
    for node in &nodes {
        assert_eq!(server.client.register(node), 0);
    }
    server.at(30);
    server.await_work(0);
    // Meanwhile the next round takes registrations, of known nodes and others.
    assert_eq!(server.client.register(&nodes[0].with_challenge([7; 32])), 1);
    assert_eq!(server.client.get("/v1/proofs/0").status, 404);
    server.at(80);
    let first = verify_fetched(&server.client.await_proof(0));
    assert_eq!(first.members, members_of(&nodes));
    assert_eq!(server.client.pow_params().challenge, first.root);

    server.at(90);
    server.await_work(1);
    server.at(140);
    let second = verify_fetched(&server.client.await_proof(1));
    assert_eq!(second.members, [[7; 32]]);
    // The first proof is still there.
    assert_eq!(
        verify_fetched(&server.client.await_proof(0)).root,
        first.root
    );
    // Only the proofs remain of the work; the open round has an empty folder.
    let rounds = folder.path().join("data/rounds");
    await_some("the logs' removal", || {
        let mut left = std::fs::read_dir(&rounds).unwrap();
        let prepared = left.next()?.ok()?;
        (left.next().is_none() && prepared.file_name() == "2").then_some(())
    });
    assert_eq!(std::fs::read_dir(rounds.join("2")).unwrap().count(), 0);
}

#[test]
fn what_a_removal_left_is_removed_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    server.at(30);
    server.await_work(0);
    server.at(80);
    verify_fetched(&server.client.await_proof(0));
    let round = folder.path().join("data/rounds/0");
    await_some("the removal", || (!round.exists()).then_some(()));
    drop(server);
    // The process may end anywhere in the removal.
    for left in [&["tree.log", "findings.json"][..], &["tree.log"], &[]] {
        std::fs::create_dir_all(&round).unwrap();
        for file in left {
            std::fs::write(round.join(file), "left").unwrap();
        }
        let server = LocalServer::start(config(folder.path()), 85);
        assert!(!round.exists(), "{left:?}");
        verify_fetched(&server.client.await_proof(0));
    }
}

#[test]
fn a_round_without_members_is_executed() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    server.at(30);
    server.await_work(0);
    server.at(80);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert!(proof.members.is_empty());
}

#[test]
fn a_round_that_is_over_at_once_still_gets_enough_leaves() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    server.client.register(&TestNode::new(1));
    // The clock jumps over all of round 0 and into the cycle gap.
    server.at(85);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert!(proof.leaves >= T as u64);
    assert_eq!(proof.members.len(), 1);
}

#[test]
fn the_clock_may_jump() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    server.client.register(&TestNode::new(1));
    server.at(30);
    server.await_work(0);
    // Back to before genesis: the round continues, and the open round stays open.
    server.at(-1_000_000);
    assert_eq!(server.client.register(&TestNode::new(1)), 1);
    assert_eq!(server.open_round(), 1);
    // Forwards by several rounds: the open one closes, those in between were never opened.
    server.at(30 + 60 * 5 + 1);
    server.await_open_round(6);
    verify_fetched(&server.client.await_proof(0));
    verify_fetched(&server.client.await_proof(1));
    assert_eq!(server.client.register(&TestNode::new(1)), 6);
    for skipped in 2..=5 {
        assert_eq!(
            server.client.get(&format!("/v1/proofs/{skipped}")).status,
            404
        );
    }
    // To the limits of time, in both directions.
    server.set_clock(jiff::Timestamp::MAX);
    verify_fetched(&server.client.await_proof(6));
    server.set_clock(jiff::Timestamp::MIN);
    assert_eq!(server.client.get("/v1/info").status, 200);
    // Once the clock is right again, so are the rounds.
    server.at(30 + 60 * 6 + 1);
    server.await_open_round(7);
    assert_eq!(server.client.register(&TestNode::new(2)), 7);
    server.at(30 + 60 * 7);
    server.await_work(7);
    server.at(30 + 60 * 7 + 50);
    let proof = verify_fetched(&server.client.await_proof(7));
    assert_eq!(proof.members, [TestNode::new(2).challenge]);
}

#[test]
fn a_round_that_is_passed_over_is_worked_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    // The clock is ahead, and nodes register for a round far in the future.
    server.at(30 + 60 * 5 + 1);
    server.await_open_round(6);
    assert_eq!(server.client.register(&TestNode::new(1)), 6);
    // It is corrected, and then jumps over that round while another one is open.
    server.at(30 + 60 + 1);
    server.await_open_round(2);
    server.at(30 + 60 * 8 + 1);
    server.await_open_round(9);
    let proof = verify_fetched(&server.client.await_proof(6));
    assert_eq!(proof.members, [TestNode::new(1).challenge]);
}

#[test]
fn a_round_that_was_never_opened_here_is_not_worked_on() {
    let folder = tempfile::tempdir().unwrap();
    // In the middle of round 3.
    let server = LocalServer::start(config(folder.path()), 30 + 3 * 60 + 20);
    assert_eq!(server.client.register(&TestNode::new(1)), 4);
    server.at(30 + 4 * 60);
    server.await_work(4);
    server.at(30 + 4 * 60 + 50);
    verify_fetched(&server.client.await_proof(4));
    assert_eq!(server.client.get("/v1/proofs/3").status, 404);
}

#[test]
fn a_restart_finds_every_round_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let restart = |server: LocalServer, at| {
        drop(server);
        LocalServer::start(config(folder.path()), at)
    };
    let node = TestNode::new(1);
    let server = LocalServer::start(config(folder.path()), 0);
    let first_params = server.client.pow_params();
    assert_eq!(server.client.register(&node), 0);

    // Open: members are still there, the challenge of the proof of work is the same.
    let server = restart(server, 10);
    assert_eq!(server.client.pow_params(), first_params);
    let other = node.with_challenge([9; 32]);
    let conflict = server.client.submit(&other.request(&first_params));
    conflict.assert_error(409, 6, "conflicting registration");

    // Closed while no server was running.
    let server = restart(server, 40);
    assert_eq!(server.client.register(&other), 1);
    server.await_work(0);

    // Working: continues from its log.
    let server = restart(server, 41);
    server.await_work(0);
    server.at(80);
    let first = verify_fetched(&server.client.await_proof(0));
    assert_eq!(first.members, [node.challenge]);

    // Published: the proof and the new challenge are still there, and the previous one is still
    // accepted.
    let server = restart(server, 85);
    assert_eq!(
        verify_fetched(&server.client.get("/v1/proofs/0")).root,
        first.root
    );
    assert_eq!(server.client.pow_params().challenge, first.root);
    let answer = server
        .client
        .submit(&TestNode::new(2).request(&first_params));
    assert_eq!(answer.status, 200, "{}", answer.body);

    // Down for several rounds: what was opened is finished, with its members, though late.
    let server = restart(server, 30 + 5 * 60 + 10);
    assert_eq!(server.open_round(), 6);
    let second = verify_fetched(&server.client.await_proof(1));
    assert_eq!(second.members, members_of(&[other, TestNode::new(2)]));
    assert_eq!(server.client.get("/v1/proofs/2").status, 404);

    // Two proofs later, the first challenge is forgotten.
    let answer = server
        .client
        .submit(&TestNode::new(3).request(&first_params));
    answer.assert_error(400, 3, "invalid proof of work parameters");
    assert_eq!(server.client.register(&TestNode::new(3)), 6);
}

#[test]
fn registrations_at_the_closing_moment_are_in_the_round_they_were_told() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    let params = server.client.pow_params();
    let accepted = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (client, params, accepted) = (server.client.clone(), &params, &accepted);
            scope.spawn(move || {
                // Until the next round is open.
                for number in 0.. {
                    let node = TestNode::new(thread + 4 * number);
                    let answer = client.submit(&node.request(params));
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    let round = answer.json()["roundId"].as_str().unwrap().to_owned();
                    let last = round == "1";
                    accepted.lock().unwrap().push((round, node));
                    if last {
                        break;
                    }
                }
            });
        }
        await_some("some of them", || {
            (accepted.lock().unwrap().len() > 100).then_some(())
        });
        server.at(30);
    });
    server.await_work(0);
    server.at(80);
    let first = verify_fetched(&server.client.await_proof(0));
    server.at(90);
    server.await_work(1);
    server.at(140);
    let second = verify_fetched(&server.client.await_proof(1));

    let accepted = accepted.into_inner().unwrap();
    let told = |id: &str| -> Vec<_> {
        accepted
            .iter()
            .filter(|(round, _)| round == id)
            .map(|(_, node)| node.clone())
            .collect()
    };
    assert_eq!(first.members, members_of(&told("0")));
    assert_eq!(second.members, members_of(&told("1")));
    assert_eq!(second.members.len(), 4);
}

/// Works on round 0, ends the server, lets `damage` change the entries of the log and starts again
/// when the round is over. Returns the server, and the number of entries.
fn with_damaged_log(
    folder: &std::path::Path,
    audit: AuditMode,
    damage: impl FnOnce(&mut [u8]),
) -> (LocalServer, u64) {
    let config = || {
        let mut config = config(folder);
        config.work.audit = audit;
        config
    };
    let server = LocalServer::start(config(), 0);
    server.client.register(&TestNode::new(1));
    server.at(30);
    await_some("many leaves", || {
        (server.executing()?.leaves.load(Relaxed) > 3_000).then_some(())
    });
    drop(server);
    let log = folder.join("data/rounds/0/tree.log");
    let mut bytes = std::fs::read(&log).unwrap();
    let entries = (bytes.len() - LogHeader::BYTES) as u64 / 32;
    assert!(entries > 3_000);
    damage(&mut bytes[LogHeader::BYTES..]);
    std::fs::write(&log, bytes).unwrap();
    (LocalServer::start(config(), 80), entries)
}

#[test]
fn a_log_that_was_damaged_while_nothing_ran_is_repaired() {
    for audit in [AuditMode::Full, AuditMode::Off] {
        let folder = tempfile::tempdir().unwrap();
        // A sector, and a bit.
        let (server, entries) = with_damaged_log(folder.path(), audit, |log| {
            log[32_768..33_280].fill(0);
            log[50_000] ^= 1;
        });
        let proof = verify_fetched(&server.client.await_proof(0));
        assert_eq!(proof.members, members_of(&[TestNode::new(1)]));
        // What was computed after the damage is lost, and nothing else.
        assert!(proof.leaves >= entries, "{audit}: {}", proof.leaves);
        let round = server.client.get("/v1/rounds/0").json();
        assert!(
            round["audit"]["logErrors"].as_u64().unwrap() >= 1,
            "{audit}: {round}"
        );
    }
}

#[test]
fn a_log_in_which_everything_is_wrong_costs_leaves_and_no_proof() {
    for audit in [AuditMode::Full, AuditMode::Off] {
        let folder = tempfile::tempdir().unwrap();
        let (server, entries) = with_damaged_log(folder.path(), audit, |log| {
            for byte in log {
                *byte ^= 1;
            }
        });
        let proof = verify_fetched(&server.client.await_proof(0));
        assert_eq!(proof.members, members_of(&[TestNode::new(1)]));
        // The round is over: there are as many leaves as a proof needs, and a few more.
        assert!(proof.leaves < entries, "{audit}: {}", proof.leaves);
        // The file was damaged. Nothing was computed wrong, or there was no audit.
        let round = server.client.get("/v1/rounds/0").json();
        let blamed = |name: &str| round["audit"][name].as_u64().unwrap_or_default();
        for name in ["workErrors", "auditorErrors", "badProofs"] {
            assert_eq!(blamed(name), 0, "{audit}: {round}");
        }
    }
}

#[test]
fn while_the_database_is_stuck_nothing_is_promised_and_nothing_lost() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    let params = server.client.pow_params();
    assert_eq!(server.client.register(&TestNode::new(1)), 0);

    // Another program locks the database for longer than the server waits.
    let database = folder.path().join("db/poet.sqlite");
    let other = rusqlite::Connection::open(database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = server.client.submit(&TestNode::new(2).request(&params));
    refused.assert_error(503, 14, "temporarily unavailable, try again later");
    other.execute_batch("ROLLBACK").unwrap();

    assert_eq!(server.client.register(&TestNode::new(3)), 0);
    server.at(30);
    server.await_work(0);
    server.at(80);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(
        proof.members,
        members_of(&[TestNode::new(1), TestNode::new(3)])
    );
}
