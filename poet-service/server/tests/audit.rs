//! Deliberate faults in a whole server: each is found and reported, and the proof is valid.
//!
//! ```sh
//! cargo test -p poet-service --features fault-injection --test audit
//! ```
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    fs::{self, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    path::Path,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::Duration,
};

use common::{Client, TestNode, await_some, members_of, verify_fetched};
use poet_engine::LogHeader;
use program::ServerProcess;
use serde_json::{Value, json};

/// Three seconds of work, and then none for a long time.
const SCHEDULE: [&str; 4] = [
    "--phase-shift=3s",
    "--epoch-duration=1h",
    "--cycle-gap=59m57s",
    "--metrics-port=0",
];
/// A round that does not end in a test, with subtrees of 64 leaves: auditors, which have the lowest
/// priority, finish a step of them even on a busy machine.
const LONG_ROUND: [&str; 4] = [
    "--phase-shift=3s",
    "--epoch-duration=4h",
    "--cycle-gap=1h",
    "--audit=full",
];
const FAULT: &str = "POET_FAULT";

/// Endless work leaves auditors only the other cores: they would starve next to a second working
/// server. So a test of such work (which writes) runs alone.
static CORES: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    CORES.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    CORES.write().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a server with this fault.
fn server(folder: &Path, fault: &str, options: &[&str]) -> ServerProcess {
    let options = [&SCHEDULE[..], options].concat();
    ServerProcess::start_with(folder, &options, &[(FAULT, fault)])
}

fn nodes() -> Vec<TestNode> {
    (1..=3).map(TestNode::new).collect()
}

fn number(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

/// Returns a metric, with its labels as they are written.
fn metric(server: &ServerProcess, name: &str) -> u64 {
    let metrics = Client::new(server.told("metrics").strip_suffix("/metrics").unwrap());
    let text = metrics.get("/metrics").body;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    let line = lines.find(|rest| rest.starts_with(' '));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

/// Runs a round with a fault to its end. Returns the server, and its report of the round's audit.
fn round_with(folder: &Path, fault: &str, disturb: impl FnOnce(&Path)) -> (ServerProcess, Value) {
    audited_round_with("full", folder, fault, disturb)
}

fn audited_round_with(
    mode: &str,
    folder: &Path,
    fault: &str,
    disturb: impl FnOnce(&Path),
) -> (ServerProcess, Value) {
    let _turn = beside_others();
    let server = server(folder, fault, &[&format!("--audit={mode}")]);
    for node in nodes() {
        assert_eq!(server.client.register(&node), 0);
    }
    disturb(folder);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, members_of(&nodes()), "{fault}");
    // Nothing waited for the audit, which continues until it knows.
    let round = await_some("the audit", || {
        let round = server.client.get("/v1/rounds/0").json();
        let audit = &round["audit"];
        let all = number(&audit["auditedLeaves"]) == proof.leaves;
        (all || audit["workErrors"] != 0).then_some(round)
    });
    assert_eq!(round["proofReady"], true);
    (server, round["audit"].clone())
}

/// A fault of the work: the work goes back, once. If the proof does not contain the fault and
/// auditors got too little CPU time before the end, the fault is reported after it.
#[track_caller]
fn assert_rolled_back(fault: &str) {
    assert_audit_rolled_back("full", fault);
}

/// The same in another mode. Returns the server's log.
#[track_caller]
fn assert_audit_rolled_back(mode: &str, fault: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (server, audit) = audited_round_with(mode, folder.path(), fault, |_| {});
    let log = server.log();
    let expected = json!({"workErrors": 1, "logErrors": 0, "auditorErrors": 0});
    for (name, count) in expected.as_object().unwrap() {
        assert_eq!(&audit[name], count, "{fault}: {audit}\n{log}");
    }
    let rollbacks = audit["rollbacks"].as_u64().unwrap();
    let (event, alarm) = match rollbacks {
        0 => (
            "the work of the published round was wrong from entry ",
            "ALARM: the work of a published round was wrong",
        ),
        _ => (
            "the work was wrong from entry ",
            "ALARM: the work went wrong",
        ),
    };
    println!("{fault}: {rollbacks} rollbacks");
    assert!(rollbacks <= 1, "{fault}: {audit}\n{log}");
    assert_eq!(
        rollbacks == 1,
        number(&audit["lostLeaves"]) > 0,
        "{fault}: {audit}"
    );
    let last = audit["lastEvent"].as_str().unwrap();
    assert!(last.starts_with(event), "{last}");
    assert_eq!(log.matches(alarm).count(), 1, "{fault}: {log}");
    assert_eq!(metric(&server, "poet_audit_rollbacks_total"), rollbacks);
    assert_eq!(
        metric(&server, "poet_audit_mismatches_total{culprit=\"work\"}"),
        1
    );
    assert_eq!(
        metric(&server, "poet_audit_lost_leaves_total"),
        number(&audit["lostLeaves"])
    );
    log
}

/// A fault of the log only: it is repaired, and nothing is lost.
#[track_caller]
fn assert_repaired(fault: &str, disturb: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let (server, audit) = round_with(folder.path(), fault, disturb);
    let log = server.log();
    let expected = json!({"workErrors": 0, "logErrors": 1, "auditorErrors": 0, "rollbacks": 0});
    for (name, count) in expected.as_object().unwrap() {
        assert_eq!(&audit[name], count, "{fault}: {audit}\n{log}");
    }
    assert_eq!(audit["lostLeaves"], "0");
    assert!(
        log.contains("ALARM: entries of the log were damaged"),
        "{fault}: {log}"
    );
    assert_eq!(
        metric(&server, "poet_audit_mismatches_total{culprit=\"log\"}"),
        1
    );
}

#[test]
fn a_label() {
    assert_rolled_back("label@5000");
}

#[test]
fn the_statement() {
    assert_rolled_back("statement@5000");
}

#[test]
fn a_low_parked_node() {
    assert_rolled_back("parked:0@5001");
}

#[test]
fn a_high_parked_node() {
    assert_rolled_back("parked:12@5000");
}

#[test]
fn what_is_kept_of_a_parked_node_for_later() {
    assert_rolled_back("prefix:9@5000");
}

#[test]
fn a_sample_finds_a_fault_that_stays() {
    let log = assert_audit_rolled_back("sampled", "statement@5000");
    let alarms = log.matches("ALARM: the sampled audit found something wrong");
    assert_eq!(alarms.count(), 1, "{log}");
}

#[test]
fn an_entry_on_its_way_to_the_disk() {
    assert_repaired("queue@5000", |_| {});
}

/// Flips a bit of an entry, once there are enough of them.
fn flip_on_disk(folder: &Path, entry: u64, entries: u64) {
    let log = folder.join("data/rounds/0/tree.log");
    await_some("entries", || {
        let length = fs::metadata(&log).ok()?.len();
        (length > LogHeader::BYTES as u64 + entries * 32).then_some(())
    });
    let mut file = OpenOptions::new().read(true).write(true).open(log).unwrap();
    let at = SeekFrom::Start(LogHeader::BYTES as u64 + entry * 32 + 7);
    let mut byte = [0];
    file.seek(at).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(at).unwrap();
    file.write_all(&[byte[0] ^ 4]).unwrap();
}

/// A fault that never happens, for tests that need none of these.
const NO_FAULT: &str = "label@99999999999";

#[test]
fn the_log_on_the_disk() {
    assert_repaired(NO_FAULT, |folder| flip_on_disk(folder, 100, 4_000));
}

/// A fault in a round that does not end, so that only the auditors can find it during the work:
/// they do, the work continues from what is right, and the end of the log is audited, too.
#[track_caller]
fn assert_found_at_work(fault: &str, culprit: &str, disturb: impl FnOnce(&Path)) {
    let _turn = alone();
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start_with(folder.path(), &LONG_ROUND, &[(FAULT, fault)]);
    assert_eq!(server.client.register(&nodes()[0]), 0);
    disturb(folder.path());
    let round = || server.client.get("/v1/rounds/0").json();
    let found = await_some("the finding", || {
        let round = round();
        let errors = |name: &str| round["audit"][name].as_u64().unwrap_or(0);
        let found = errors("workErrors") + errors("logErrors") + errors("auditorErrors");
        (found > 0).then_some(round)
    });
    assert_eq!(found["audit"][culprit], 1, "{fault}: {found}");
    let lost = number(&found["audit"]["lostLeaves"]);
    println!("{fault}: {lost} leaves were lost");
    assert_eq!(culprit == "workErrors", lost > 0, "{fault}: {found}");
    // Faults are at 15,000 leaves at most, and a log may be audited far beyond them when it
    // changes.
    let before = number(&found["audit"]["auditedLeaves"]).max(15_000);
    await_some("the audit of what came after", || {
        let round = round();
        let audited = number(&round["audit"]["auditedLeaves"]);
        assert_eq!(round["proofReady"], false);
        (audited > before + 20_000).then_some(())
    });
    let audit = round()["audit"].clone();
    let errors = ["workErrors", "logErrors", "auditorErrors"];
    let count: u64 = errors
        .map(|name| audit[name].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(count, 1, "{fault}: {audit}");

    // The next process reports it, too.
    server.kill();
    let server = ServerProcess::start(folder.path(), &LONG_ROUND);
    let after = await_some("the work", || {
        let round = server.client.get("/v1/rounds/0").json();
        Some(round["audit"].clone()).filter(Value::is_object)
    });
    for name in [&errors[..], &["rollbacks", "lostLeaves", "lastEvent"]].concat() {
        assert_eq!(after[name], audit[name], "{fault}: {name}");
    }
}

#[test]
fn a_label_at_work() {
    assert_found_at_work("label@15000", "workErrors", |_| {});
}

#[test]
fn a_statement_at_work() {
    assert_found_at_work("statement@15000", "workErrors", |_| {});
}

#[test]
fn a_parked_node_at_work() {
    assert_found_at_work("parked:3@15000", "workErrors", |_| {});
}

#[test]
fn a_parked_node_above_the_log_at_work() {
    assert_found_at_work("prefix:13@15000", "workErrors", |_| {});
}

#[test]
fn an_entry_on_its_way_to_the_disk_at_work() {
    assert_found_at_work("queue@15000", "logErrors", |_| {});
}

#[test]
fn an_old_entry_on_the_disk_at_work() {
    assert_found_at_work(NO_FAULT, "logErrors", |folder| {
        flip_on_disk(folder, 3, 2_000);
    });
}

/// A proof for nodes with a longer cycle gap also checks the work: a wrong one stops the work for a
/// moment, and is made again.
#[test]
fn an_early_proof_that_is_spoilt_is_made_again() {
    let _turn = beside_others();
    let folder = tempfile::tempdir().unwrap();
    let server = server(
        folder.path(),
        "proof@1",
        &[
            "--audit=full",
            "--cycle-gap=59m40s",
            "--early-cycle-gap=59m58s",
        ],
    );
    for node in nodes() {
        assert_eq!(server.client.register(&node), 0);
    }
    let early = await_some("the early proof", || {
        let answer = server.client.get("/gap/59m58s/v1/proofs/0");
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(verify_fetched(&early).members, members_of(&nodes()));
    verify_fetched(&server.client.await_proof(0));
    let audit = server.client.get("/v1/rounds/0").json()["audit"].clone();
    assert_eq!(audit["badProofs"], 1, "{audit}");
    assert_eq!(audit["lostLeaves"], "0");
    let log = server.log();
    assert_eq!(
        log.matches("ALARM: the proof is not valid and is not published")
            .count(),
        1,
        "{log}"
    );
    assert!(
        log.contains("stopping the work: a proof of it is not valid"),
        "{log}"
    );
}

#[test]
fn a_proof_that_is_spoilt_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let (server, audit) = round_with(folder.path(), "proof@1", |_| {});
    assert_eq!(audit["badProofs"], 1, "{audit}");
    assert_eq!(audit["lostLeaves"], "0");
    assert!(
        server
            .log()
            .contains("ALARM: the proof is not valid and is not published")
    );
    assert_eq!(metric(&server, "poet_audit_bad_proofs_total"), 1);
}

#[test]
fn without_auditors_a_wrong_label_is_found_by_the_proof() {
    let _turn = beside_others();
    let folder = tempfile::tempdir().unwrap();
    // Most leaves come after the fault, so that some of them are proven.
    let server = server(folder.path(), "statement@300", &["--audit=off"]);
    server.client.register(&nodes()[0]);
    let proof = verify_fetched(&server.client.await_proof(0));
    let audit = server.client.get("/v1/rounds/0").json()["audit"].clone();
    assert_eq!(audit["badProofs"], 1, "{audit}");
    assert_eq!(audit["rollbacks"], 1, "{audit}");
    assert!(number(&audit["lostLeaves"]) > 0 && proof.leaves < 1_000);
    let log = server.log();
    assert!(
        !log.contains("auditing the whole log"),
        "a few entries lead to it: {log}"
    );
}

#[test]
fn a_proof_that_nothing_explains_leads_to_ever_more_thorough_audits() {
    let folder = tempfile::tempdir().unwrap();
    let (server, audit) = round_with(folder.path(), "proof@3", |_| {});
    assert_eq!(audit["badProofs"], 3, "{audit}");
    assert_eq!(audit["lostLeaves"], "0");
    // The proof is made again, then after an audit, then after one that relies on nothing: it
    // recomputes each subtree, which is a leaf here, once more.
    let audits = server.log().matches("auditing the whole log").count();
    assert_eq!(audits, 2, "{}", server.log());
    let leaves = number(&server.client.get("/v1/rounds/0").json()["leaves"]);
    let recomputed = metric(&server, "poet_audit_subtrees_total");
    assert!(recomputed >= 2 * leaves, "{recomputed} of {leaves}");
}

#[test]
fn the_proof_does_not_wait_for_the_audit() {
    let _turn = beside_others();
    let folder = tempfile::tempdir().unwrap();
    // A round of some length that is not audited until just before its end.
    let schedule = [
        "--phase-shift=3s",
        "--epoch-duration=1h",
        "--cycle-gap=59m48s",
        "--metrics-port=0",
    ];
    let off = ServerProcess::start(folder.path(), &[&schedule[..], &["--audit=off"]].concat());
    off.client.register(&nodes()[0]);
    let leaves = |server: &ServerProcess| {
        let round = server.client.get("/v1/rounds/0").json();
        round["leaves"]
            .as_str()
            .map(|leaves| leaves.parse::<u64>().unwrap())
    };
    await_some("leaves", || leaves(&off).filter(|leaves| *leaves > 20_000));
    thread::sleep(Duration::from_secs(8));
    off.kill();
    let server = ServerProcess::start(folder.path(), &[&schedule[..], &["--audit=full"]].concat());
    let proof = verify_fetched(&server.client.await_proof(0));
    assert!(proof.leaves > 20_000);
    let log = await_some("the audit", || {
        Some(server.log()).filter(|log| log.contains("the round is audited"))
    });
    let at = |text: &str| {
        log.find(text)
            .unwrap_or_else(|| panic!("no {text} in {log}"))
    };
    assert!(at("the proof is verified and published") < at("the round is audited"));
    let audit = server.client.get("/v1/rounds/0").json()["audit"].clone();
    assert_eq!(number(&audit["auditedLeaves"]), proof.leaves);
    // Then its log is no longer needed.
    await_some("the end of the log", || {
        (!folder.path().join("data/rounds/0").exists()).then_some(())
    });
}

/// Nothing delays a round, not even an earlier one whose whole log is being audited.
#[test]
fn a_long_audit_makes_way_for_the_next_round() {
    let _turn = beside_others();
    let folder = tempfile::tempdir().unwrap();
    let schedule = [
        "--phase-shift=3s",
        "--epoch-duration=12s",
        "--cycle-gap=9s",
        "--metrics-port=0",
    ];
    // Two proofs of round 0, then one of round 1.
    let faults = [(FAULT, "long-audit@3")];
    let server = ServerProcess::start_with(folder.path(), &schedule, &faults);
    assert_eq!(server.client.register(&nodes()[0]), 0);
    // Then round 0 gets another turn.
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, members_of(&nodes()[..1]));
    verify_fetched(&server.client.await_proof(1));
    let log = server.log();
    let mut from = 0;
    for event in [
        "auditing the whole log: its proof is not valid, and nothing else explains why round=0",
        "error=the next round has begun, and comes first round=0",
        "working round=1",
        "the proof is verified and published round=1",
        "the proof is verified and published round=0",
    ] {
        let at = log[from..].find(event);
        from += at.unwrap_or_else(|| panic!("no {event} there in {log}"));
    }
}

#[test]
fn a_proof_that_stays_wrong_is_never_published() {
    let _turn = beside_others();
    let folder = tempfile::tempdir().unwrap();
    let spoilt = server(folder.path(), "proof@1000000", &[]);
    spoilt.client.register(&nodes()[0]);
    // Tried again from the log, more than once.
    await_some("the alarms", || {
        let log = spoilt.log();
        (log.matches("ALARM: the round could not be finished")
            .count()
            >= 2)
            .then_some(())
    });
    assert_eq!(spoilt.client.get("/v1/proofs/0").status, 404);
    spoilt.client.await_unready("the work on a round fails");
    spoilt.kill();
    // The work is not lost.
    let server = ServerProcess::start(folder.path(), &SCHEDULE);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, members_of(&nodes()[..1]));
}
