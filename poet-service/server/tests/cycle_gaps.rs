//! Nodes with different cycle gaps: one chain of work, and a proof and a PoET for each gap.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use common::{
    Answer, Client, LocalServer, TestNode, await_some, bytes, config as config_of, genesis,
    members_of, seconds, verify_fetched,
};
use poet_engine::{LABEL_DEPTH, LogHeader, RoundWork, SubtreeHeight, WorkFunction, membership};
use poet_proto::pow::PowParams;
use poet_service::config::Config;
use program::{ServerProcess, command};
use serde_json::{Value, json};

// In these tests, round 0 starts 30 seconds after genesis. It ends 50 seconds later, for nodes with the
// gaps of 20 and 30 seconds after 40 and 30.

fn config(folder: &Path) -> Config {
    let mut config = config_of(folder);
    config.rounds.early_cycle_gaps = [20, 30].map(Duration::from_secs).into();
    config
}

/// What a node knows of a PoET: the address to which it appends paths, and the key.
struct Poet {
    client: Client,
    path: &'static str,
}

impl Poet {
    fn of(server: &LocalServer, path: &'static str) -> Self {
        let client = server.client.clone();
        Self { client, path }
    }

    fn get(&self, path: &str) -> Answer {
        self.client.get(&format!("{}{path}", self.path))
    }

    fn pow_params(&self) -> PowParams {
        let params = self.get("/v1/pow_params").json()["powParams"].clone();
        PowParams {
            difficulty: params["difficulty"].as_u64().unwrap().try_into().unwrap(),
            challenge: bytes(&params["challenge"]),
        }
    }

    /// Registers a node for round 0, and returns in how many seconds it ends.
    fn register(&self, node: &TestNode) -> f64 {
        let answer = self.submit(&node.request(&self.pow_params()));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let answer = answer.json();
        assert_eq!(answer["roundId"], "0");
        let end = answer["roundEnd"].as_str().unwrap();
        end.strip_suffix('s').unwrap().parse().unwrap()
    }

    fn submit(&self, request: &Value) -> Answer {
        let path = format!("{}/v1/submit", self.path);
        self.client.post(&path, request.to_string())
    }

    fn await_proof(&self) -> Answer {
        await_some("a proof", || {
            let answer = self.get("/v1/proofs/0");
            (answer.status == 200).then_some(answer)
        })
    }

    fn round(&self) -> Value {
        self.get("/v1/rounds/0").json()
    }
}

#[test]
fn one_member_set_and_one_chain_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    let [own, day, long] = ["", "/gap/20s", "/gap/30s"].map(|path| Poet::of(&server, path));
    let keys = [(&own, "10s"), (&day, "20s"), (&long, "30s")].map(|(poet, gap)| {
        let info = poet.get("/v1/info").json();
        assert_eq!(info["cycleGap"], gap);
        assert_eq!(info["phaseShift"], "30s");
        assert_eq!(info["certifier"], json!(null));
        info["servicePubkey"].clone()
    });
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);

    // Each node gets the end for its gap, and all are members.
    let nodes = [1, 2, 3].map(TestNode::new);
    assert_eq!(own.register(&nodes[0]), 80.0);
    assert_eq!(day.register(&nodes[1]), 70.0);
    assert_eq!(long.register(&nodes[2]), 60.0);
    // The same registration under another path is the same one.
    assert_eq!(day.register(&nodes[0]), 70.0);
    let mut late = TestNode::new(4).request(&own.pow_params());
    late["deadline"] = json!((genesis() + seconds(65)).to_string());
    for poet in [&own, &day] {
        let too_late = "too late to register for the desired round";
        poet.submit(&late).assert_error(400, 9, too_late);
    }
    assert_eq!(long.submit(&late).status, 200);
    let members = members_of(&[&nodes[..], &[TestNode::new(4)]].concat());
    let first_params = own.pow_params();

    server.at(30);
    server.await_work(0);
    for poet in [&own, &day, &long] {
        poet.get("/v1/proofs/0")
            .assert_error(404, 5, "proof not found");
        assert_eq!(poet.round()["state"], "executing");
    }
    assert_eq!(own.round()["early"][0]["proofReady"], false);

    // The longest gap begins first; the work continues.
    server.at(60);
    let answer = long.await_proof();
    assert_eq!(answer.json()["pubkey"], keys[2]);
    let shortest = verify_fetched(&answer);
    for poet in [&own, &day] {
        assert_eq!(poet.get("/v1/proofs/0").status, 404);
    }
    let more = |leaves: u64| {
        await_some("more work", || {
            let executing = server.executing().unwrap();
            let made = executing.leaves.load(std::sync::atomic::Ordering::Relaxed);
            (made > leaves + 100).then_some(())
        });
    };
    more(shortest.leaves);
    server.at(70);
    let answer = day.await_proof();
    assert_eq!(answer.json()["pubkey"], keys[1]);
    let middle = verify_fetched(&answer);
    more(middle.leaves);
    // Early proofs are served by the same rules as the others.
    let etag = answer.header("etag").unwrap();
    let path = "/gap/20s/v1/proofs/0";
    let again = server.client.get_with(path, "if-none-match", etag);
    assert_eq!(again.status, 304);

    let round = own.round();
    let end = |gap: &str, path: &str, seconds_after_genesis: i64, leaves: u64| {
        json!({
            "cycleGap": gap,
            "path": path,
            "end": (genesis() + seconds(seconds_after_genesis)).to_string(),
            "leaves": leaves.to_string(),
            "proofReady": true,
        })
    };
    let ends = [
        end("30s", "/gap/30s", 60, shortest.leaves),
        end("20s", "/gap/20s", 70, middle.leaves),
    ];
    assert_eq!(round["early"], json!(ends));
    assert_eq!(
        (&round["state"], &round["proofReady"]),
        (&json!("executing"), &json!(false))
    );
    let round = day.round();
    assert_eq!(round["state"], "published");
    assert_eq!(round["leaves"], middle.leaves.to_string());
    assert_eq!(round["end"], (genesis() + seconds(70)).to_string());
    assert_eq!(round["members"], "4");

    // Both cover the leaves in the log, from the first one on.
    let log = fs::read(folder.path().join("data/rounds/0/tree.log")).unwrap();
    let entries: &[[u8; 32]] = log[LogHeader::BYTES..].as_chunks().0;
    let backend = poet_backends::select(WorkFunction::Sha256, None).unwrap();
    let (work, statement) = (
        backend.work(LABEL_DEPTH).unwrap(),
        membership::root(&members),
    );
    let chain = RoundWork::new(&work, &statement, SubtreeHeight::new(0).unwrap());
    for proof in [&shortest, &middle] {
        let tree = chain.resume_at(&mut { entries }, proof.leaves).unwrap();
        assert_eq!(tree.root(), Some(proof.root));
    }

    // The challenge of the proof of work changes once, with the last proof.
    assert_eq!(own.pow_params(), first_params);
    server.at(80);
    let answer = own.await_proof();
    assert_eq!(answer.json()["pubkey"], keys[0]);
    let longest = verify_fetched(&answer);
    assert_eq!(long.pow_params().challenge, longest.root);
    assert!(shortest.leaves < middle.leaves && middle.leaves < longest.leaves);
    for proof in [&shortest, &middle, &longest] {
        assert_eq!(proof.members, members);
    }
}

#[test]
fn paths_are_read_as_durations() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.early_cycle_gaps = vec![Duration::from_secs(40)];
    let server = LocalServer::start(config, 0);
    let info = server.client.get("/gap/40s/v1/info");
    assert_eq!(info.status, 200);
    for path in [
        "/gap/0m40s/v1/info",
        "/gap/40000ms/v1/info",
        "/gap/%340s/v1/%69nfo",
    ] {
        assert_eq!(server.client.get(path).json(), info.json(), "{path}");
    }
    for path in [
        "/gap/40/v1/info",
        "/gap/10s/v1/info",
        "/gap/-40s/v1/info",
        "/gap//v1/info",
        "/gap/40s",
        "/gap/40s/",
        "/gap/40s/v1",
        "/gap/40s/gap/40s/v1/info",
    ] {
        let answer = server.client.get(path);
        answer.assert_error(404, 5, "Not Found");
    }
    let answer = server.client.post("/gap/40s/v1/info", "{}");
    answer.assert_error(501, 12, "Method Not Allowed");
    // Its list of rounds and its members are served there, too.
    server.client.register(&TestNode::new(1));
    let rounds = server.client.get("/gap/40s/v1/rounds").json();
    assert_eq!(rounds["rounds"][0]["state"], "open");
    assert_eq!(rounds["rounds"][0]["early"], json!([]));
    server.at(30);
    server.await_work(0);
    let id = hex::encode(TestNode::new(1).id());
    let member = server
        .client
        .get(&format!("/gap/40s/v1/rounds/0/members/{id}"));
    assert_eq!(member.json()["index"], 0);
}

/// What is due follows from the storage and the time, whichever process runs then.
#[test]
fn an_early_end_may_come_while_nothing_runs() {
    let node = TestNode::new(1);
    // (down from, up at): before, over, and after early ends; over the end of the round.
    for (down, up) in [(45, 50), (50, 65), (65, 68), (72, 75), (50, 82)] {
        let folder = tempfile::tempdir().unwrap();
        let server = LocalServer::start(config(folder.path()), 0);
        server.client.register(&node);
        server.at(30);
        server.await_work(0);
        server.at(down);
        let paths = [(30, "/gap/30s"), (40, "/gap/20s"), (50, "")];
        let mut before = Vec::new();
        for (end, path) in paths {
            if 30 + end <= down {
                let proof = Poet::of(&server, path).await_proof();
                before.push((path, proof.json()));
            }
        }
        drop(server);
        let server = LocalServer::start(config(folder.path()), up);
        for (path, proof) in before {
            assert_eq!(Poet::of(&server, path).await_proof().json(), proof);
        }
        let mut leaves = Vec::new();
        for (end, path) in paths {
            server.at(up.max(30 + end));
            let answer = Poet::of(&server, path).await_proof();
            let proof = verify_fetched(&answer);
            assert_eq!(proof.members, [node.challenge]);
            let key = &Poet::of(&server, path).get("/v1/info").json()["servicePubkey"];
            assert_eq!(answer.json()["pubkey"], *key, "{path}");
            leaves.push(proof.leaves);
        }
        assert!(leaves.is_sorted(), "{down} to {up}: {leaves:?}");
    }
}

/// A new gap gets proofs from now on, and one that is no longer configured disappears; neither
/// affects other proofs.
#[test]
fn gaps_may_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config_of(folder.path()), 0);
    server.client.register(&TestNode::new(1));
    server.at(30);
    server.await_work(0);
    server.at(80);
    let proof = server.client.await_proof(0).json();
    drop(server);
    let server = LocalServer::start(config(folder.path()), 85);
    assert_eq!(server.client.await_proof(0).json(), proof);
    let day = Poet::of(&server, "/gap/20s");
    assert_eq!(day.get("/v1/proofs/0").status, 404);
    day.get("/v1/rounds/0")
        .assert_error(404, 5, "round not found");
    let rounds = day.get("/v1/rounds").json();
    assert_eq!(rounds["rounds"][0]["id"], "1");
    drop(server);
    let server = LocalServer::start(config_of(folder.path()), 86);
    assert_eq!(server.client.await_proof(0).json(), proof);
    assert_eq!(server.client.get("/gap/20s/v1/info").status, 404);
}

/// Twenty seconds of work, with early ends after four and eight.
const SHORT_ROUND: [&str; 5] = [
    "--phase-shift=3s",
    "--epoch-duration=1h",
    "--cycle-gap=59m40s",
    "--early-cycle-gap=59m56s",
    "--early-cycle-gap=59m52s",
];

/// Killed before an early end, at that moment, and when its proof is published.
#[test]
fn early_proofs_survive_kills() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path(), &SHORT_ROUND);
    let node = TestNode::new(1);
    assert_eq!(server.client.register(&node), 0);
    await_some("the work", || {
        server.log().contains("working").then_some(())
    });
    server.kill();
    let server = ServerProcess::start(folder.path(), &SHORT_ROUND);
    await_some("the early end", || {
        server.log().contains("an early end has come").then_some(())
    });
    server.kill();
    let server = ServerProcess::start(folder.path(), &SHORT_ROUND);
    let get = |server: &ServerProcess, path: &str| {
        await_some("a proof", || {
            let answer = server.client.get(path);
            (answer.status == 200).then_some(answer)
        })
    };
    let first = get(&server, "/gap/59m56s/v1/proofs/0");
    server.kill();
    let server = ServerProcess::start(folder.path(), &SHORT_ROUND);
    let again = get(&server, "/gap/59m56s/v1/proofs/0");
    assert_eq!(again.json(), first.json());
    let second = get(&server, "/gap/59m52s/v1/proofs/0");
    let last = get(&server, "/v1/proofs/0");
    let proofs = [first, second, last].map(|answer| verify_fetched(&answer));
    for proof in &proofs {
        assert_eq!(proof.members, [node.challenge]);
    }
    assert!(proofs.is_sorted_by_key(|proof| proof.leaves));
    let log = server.log();
    assert!(!log.contains("ALARM") && !log.contains("panicked"), "{log}");
}

fn check_config(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .arg("check-config")
        .args(options)
        .env_remove("POET_PRIVATE_KEY")
        .output()
        .unwrap()
}

#[test]
fn impossible_gaps_are_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let poetdir = format!("--poetdir={}", folder.path().display());
    for (gaps, expected) in [
        (
            &["--early-cycle-gap=12h"][..],
            "--early-cycle-gap is 12h0m0s and --cycle-gap 12h0m0s: expected an early gap longer than the \
             cycle gap",
        ),
        (
            &["--early-cycle-gap=336h"],
            "--early-cycle-gap is 336h0m0s and --epoch-duration 336h0m0s: expected an early gap shorter \
             than the epoch",
        ),
        (
            &["--early-cycle-gap=24h", "--early-cycle-gap=24h0m"],
            "--early-cycle-gap 24h0m0s is given twice: expected each gap once",
        ),
        (
            &["--early-cycle-gap=335h59m59.999s"],
            "--early-cycle-gap 335h59m59.999s leaves 1ms of work, in which a fast machine makes 100 \
             leaves: expected time for the 150 that a proof needs",
        ),
    ] {
        let mut options = vec!["--epoch-duration=336h", "--cycle-gap=12h", &poetdir];
        options.extend(gaps);
        let output = check_config(&options);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(errors, format!("error: {expected}\n"));
        assert_eq!(output.status.code(), Some(1));
        // The server reports the same.
        let output = command(folder.path()).args(&options).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn check_config_prints_what_nodes_need() {
    let folder = tempfile::tempdir().unwrap();
    let poetdir = format!("--poetdir={}", folder.path().display());
    let options = [&SHORT_ROUND[..], &[&poetdir]].concat();
    let text = String::from_utf8(check_config(&options).stdout).unwrap();
    assert!(text.contains("known after the first start"), "{text}");

    let server = ServerProcess::start(folder.path(), &SHORT_ROUND);
    let address = server.told("REST").strip_prefix("http://").unwrap();
    let listen = format!("--restlisten={address}");
    let options = [&options[..], &[&listen]].concat();
    let text = String::from_utf8(check_config(&options).stdout).unwrap();
    let (_, nodes) = text.split_once("\n\n").unwrap();
    let lines: Vec<_> = nodes.lines().skip(1).collect();
    let gaps = [
        ("59m40s", ""),
        ("59m56s", "/gap/59m56s"),
        ("59m52s", "/gap/59m52s"),
    ];
    assert_eq!(lines.len(), 2 * gaps.len(), "{nodes}");
    for ((gap, path), lines) in gaps.into_iter().zip(lines.chunks(2)) {
        assert_eq!(lines[0], format!("cycle gap {gap}"));
        let poet: Value = serde_json::from_str(lines[1]).unwrap();
        assert_eq!(poet["address"], format!("http://{address}{path}"));
        // Like a node: the address with a path appended.
        let client = Client::new(poet["address"].as_str().unwrap());
        assert_eq!(
            client.get("/v1/info").json()["servicePubkey"],
            poet["pubkey"]
        );
    }
}

#[test]
fn the_end_of_a_round_can_be_rehearsed() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config_of(folder.path());
    config.work.audit_threads = 1;
    let server = LocalServer::start(config, 0);
    let operator = Client::new(&format!("http://{}", server.addresses.private));
    let rehearse = || operator.post("/v1/rehearse", "");
    let no_work =
        "no round is worked on now: expected a rehearsal between the start and the end of a round";
    rehearse().assert_error(400, 9, no_work);
    server.client.register(&TestNode::new(1));
    server.at(30);
    server.await_work(0);
    // Concurrent requests run one after the other, or are refused.
    let answers: Vec<_> = thread::scope(|scope| {
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(rehearse)).collect();
        asked
            .into_iter()
            .map(|asked| asked.join().unwrap())
            .collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(!made.is_empty());
    for answer in refused {
        let under_way = "a rehearsal is under way: expected one at a time";
        answer.assert_error(400, 9, under_way);
    }
    let rehearsed = made[0].json();
    assert_eq!(
        (&rehearsed["round"], &rehearsed["members"]),
        (&json!("0"), &json!("1"))
    );
    let leaves: u64 = rehearsed["leaves"].as_str().unwrap().parse().unwrap();
    assert!(leaves >= 150);
    assert!(rehearsed["provingSeconds"].as_f64().unwrap() > 0.0);
    assert_eq!(rehearsed["end"], (genesis() + seconds(80)).to_string());
    let served: jiff::Timestamp = rehearsed["served"].as_str().unwrap().parse().unwrap();
    assert!(served > genesis() + seconds(80));
    // Nothing is published, and the round ends as usual.
    assert_eq!(server.client.get("/v1/proofs/0").status, 404);
    server.at(80);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert!(proof.leaves >= leaves);
    rehearse().assert_error(400, 9, no_work);
    // It is not public.
    assert_eq!(server.client.post("/v1/rehearse", "").status, 404);
}

#[test]
fn rehearse_says_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let run = |address: &str| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_poet-service"));
        let listen = format!("--config-rpclisten={address}");
        let poetdir = format!("--poetdir={}", folder.path().display());
        let output = program
            .args(["rehearse", &listen, &poetdir])
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, _, errors) = run("127.0.0.1:1");
    assert_eq!(code, 1);
    assert!(
        errors.contains("error: cannot reach the server at 127.0.0.1:1: "),
        "{errors}"
    );

    let server = ServerProcess::start(folder.path(), &SHORT_ROUND);
    let operator = server.told("operator").strip_prefix("http://").unwrap();
    let operator = operator.split(' ').next().unwrap().to_owned();
    let (code, _, errors) = run(&operator);
    assert_eq!(code, 1);
    assert!(
        errors.contains("error: no round is worked on now: "),
        "{errors}"
    );
    // The wrong listener.
    let rest = server.told("REST").strip_prefix("http://").unwrap();
    let (code, _, errors) = run(rest);
    assert_eq!(code, 1);
    assert!(errors.contains("error: Not Found"), "{errors}");
    await_some("the work", || {
        let round = server.client.get("/v1/rounds/0").json();
        let leaves: u64 = round["leaves"].as_str()?.parse().unwrap();
        (leaves > 1000).then_some(())
    });
    let (code, text, errors) = run(&operator);
    assert_eq!(code, 0, "{errors}");
    assert!(
        text.starts_with("round 0: the proof of ") && text.contains("is valid\n"),
        "{text}"
    );
    for part in ["proving ", "verifying ", "encoding ", "The round ends at "] {
        assert!(text.contains(part), "{text}");
    }
}
