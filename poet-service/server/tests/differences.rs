//! The deliberate differences from the Go server, and the additions to its interface: a test for
//! each. If another file has the test, [`ROWS`] names it.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{fs, thread, time::Duration};

use common::{LocalServer, TestNode, await_some, config, members_of, verify_fetched};
use program::ServerProcess;

/// Every row, and the tests for it: `file::name`.
const ROWS: &[(&str, &[&str])] = &[
    (
        "challenges have exactly 32 bytes",
        &[
            "differences::a_challenge_of_another_length_spoils_no_proof",
            "transcripts::the_recorded_answers_are_reproduced",
            "grpc::every_error_has_its_code_and_message",
        ],
    ),
    (
        "a commit waits for nothing but the disk, and every 200 means durable",
        &[
            "differences::no_registration_waits_for_an_interval",
            "differences::a_duplicate_is_answered_when_the_first_is_durable",
            "process::a_round_survives_sigkill_and_its_proof_verifies",
        ],
    ),
    (
        "round ids are decimal numbers",
        &[
            "differences::keys_of_the_store_are_no_round_ids",
            "api::only_the_decimal_number_names_a_round",
        ],
    ),
    (
        "the rotated challenge of the proof of work persists, an empty one never matches",
        &[
            "differences::the_rotated_challenge_survives_a_restart",
            "rounds::a_restart_finds_every_round_where_it_was",
            "api::proofs_of_work_need_the_right_challenge",
        ],
    ),
    (
        "SIGINT and SIGTERM end the server cleanly, SIGKILL loses nothing acknowledged",
        &[
            "differences::no_signal_loses_a_registration",
            "process::signals_end_the_server_in_order",
        ],
    ),
    (
        "a proof is verified before it is published, and repaired from the log",
        &[
            "rounds::a_log_that_was_damaged_while_nothing_ran_is_repaired",
            "rounds::a_log_in_which_everything_is_wrong_costs_leaves_and_no_proof",
            "audit::a_proof_that_is_spoilt_is_made_again",
            "audit::a_proof_that_stays_wrong_is_never_published",
        ],
    ),
    (
        "it always starts again",
        &[
            "differences::it_starts_again_on_every_beginning_of_a_log",
            "differences::killed_at_the_start_of_the_work_it_starts_again",
            "process::a_round_survives_sigkill_and_its_proof_verifies",
        ],
    ),
    (
        "only subtree roots are stored",
        &["differences::of_the_tree_only_subtree_roots_are_stored"],
    ),
    (
        "a proof is served right after the end of the round",
        &["differences::a_proof_is_published_at_the_moment_the_round_ends"],
    ),
    (
        "proofs are encoded and compressed once and can be cached; no cap on REST",
        &[
            "api::proofs_can_be_cached_for_ever_and_their_absence_not_at_all",
            "api::proofs_are_compressed_for_those_who_take_it",
            "abuse::clients_that_do_not_read_are_cut_off",
            "abuse::clients_that_do_not_read_hold_no_memory",
            "grpc::the_longest_message_is_configured_and_rest_has_no_limit",
        ],
    ),
    (
        "requests have limits",
        &[
            "api::bodies_are_bounded",
            "api::garbage_gets_no_further_than_its_connection",
            "grpc::every_error_has_its_code_and_message",
            "grpc::garbage_gets_no_further_than_its_connection",
            "differences::a_body_that_is_cut_off_is_an_error",
            "abuse::slow_senders_are_cut_off",
            "abuse::an_address_has_a_share_of_the_connections",
            "abuse::idle_connections_make_room",
            "abuse::an_address_has_a_rate",
        ],
    ),
    (
        "the certifier is null when there is none, and certificates are ignored then",
        &["api::without_a_certifier_certificates_are_ignored"],
    ),
    (
        "without a genesis time there is a warning",
        &[
            "differences::only_without_a_genesis_time_there_is_a_warning",
            "process::the_file_is_read_and_the_command_line_wins",
        ],
    ),
    (
        "requests are read as the Go server reads them, over gRPC as over REST",
        &[
            "differences::requests_are_read_as_the_go_server_reads_them",
            "grpc::deadlines_are_those_of_rest",
            "transcripts::the_recorded_answers_are_reproduced",
        ],
    ),
    (
        "no method is overridden",
        &["differences::a_post_is_never_taken_for_a_get"],
    ),
    (
        "without a worker a round gets an empty proof when it closes, unless its work has begun",
        &[
            "differences::without_a_worker_a_round_that_closes_gets_an_empty_proof",
            "differences::work_that_has_begun_is_left_for_a_worker",
        ],
    ),
    (
        "trusted keys need no main certifier key, and nodes are told of no certifier then",
        &["differences::trusted_keys_need_no_main_key"],
    ),
    (
        "what cannot work is refused at the start",
        &[
            "differences::configurations_that_cannot_work_are_refused",
            "process::mistakes_are_explained",
        ],
    ),
    (
        "of the key directory only regular files are read, within bounds",
        &["process::trusted_keys_are_read_again_on_sighup"],
    ),
    (
        "health and readiness, over REST and gRPC",
        &[
            "health::alive_and_ready",
            "health::work_that_fails_is_told_and_forgotten_when_it_goes_on",
            "grpc::health_is_told_for_each_listener",
            "grpc::health_follows_readiness",
        ],
    ),
    ("the state of rounds", &["health::rounds_tell_their_state"]),
    (
        "a registration is answered with a receipt as well, in a field that clients skip",
        &[
            "transcripts::the_recorded_answers_are_reproduced",
            "api::registrations_follow_the_rules_in_order",
            "grpc::every_method_answers_as_over_rest",
        ],
    ),
    (
        "the members of a round",
        &[
            "health::the_members_of_a_round_are_listed_once_it_is_closed",
            "health::registrations_that_are_gone_are_said_to_be",
        ],
    ),
    (
        "parts of proofs, for downloads that broke off",
        &["api::a_broken_download_of_a_proof_goes_on"],
    ),
    (
        "pages of other sites can read",
        &["api::pages_of_other_sites_can_read_and_not_register"],
    ),
    (
        "membership proofs",
        &["health::members_get_a_proof_once_the_round_is_closed"],
    ),
];

#[test]
fn every_row_has_its_tests() {
    let tests = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for (row, names) in ROWS {
        assert!(!names.is_empty(), "{row}");
        for name in *names {
            let (file, function) = name.split_once("::").unwrap();
            let text = fs::read_to_string(tests.join(format!("{file}.rs"))).unwrap();
            let test = format!("#[test]\nfn {function}() {{");
            assert!(text.contains(&test), "{row}: there is no {name}");
        }
    }
}

fn server() -> (LocalServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (LocalServer::start(config(folder.path()), 10), folder)
}

#[test]
fn a_challenge_of_another_length_spoils_no_proof() {
    let (server, _folder) = server();
    let params = server.client.pow_params();
    for length in [0, 1, 31, 33, 64, 4000] {
        let request = TestNode::new(1).request_for(&params, &vec![7; length]);
        let message = format!("invalid challenge length: {length}, expected 32");
        server
            .client
            .submit(&request)
            .assert_error(400, 3, &message);
    }
    let nodes: Vec<_> = (1..=5).map(TestNode::new).collect();
    for node in &nodes {
        assert_eq!(server.client.register(node), 0);
    }
    server.at(30);
    server.await_work(0);
    server.at(80);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, members_of(&nodes));
}

#[test]
fn no_registration_waits_for_an_interval() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["--submit-flush-interval=1h", "--max-submit-batch-size=1000"];
    let server = ServerProcess::start(folder.path(), &options);
    // A single one, far fewer than a batch: the client gives up long before an hour has passed.
    server.client.register(&TestNode::new(1));
}

#[test]
fn a_duplicate_is_answered_when_the_first_is_durable() {
    let (server, folder) = server();
    let request = TestNode::new(1).request(&server.client.pow_params());
    let database = folder.path().join("db/poet.sqlite");
    let other = rusqlite::Connection::open(database).unwrap();
    let stored = || -> u32 {
        let query = "SELECT count(*) FROM registrations";
        other.query_row(query, [], |row| row.get(0)).unwrap()
    };
    // Nothing can be written, for less time than the server waits.
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        let submit = || scope.spawn(|| server.client.submit(&request));
        let submitted: Vec<_> = (0..4).map(|_| submit()).collect();
        thread::sleep(Duration::from_millis(500));
        assert!(submitted.iter().all(|answer| !answer.is_finished()));
        assert_eq!(stored(), 0);
        other.execute_batch("ROLLBACK").unwrap();
        for answer in submitted {
            let answer = answer.join().unwrap();
            // On a very busy machine, the server may give up waiting, and says so.
            assert!([200, 503].contains(&answer.status), "{}", answer.body);
            if answer.status == 200 {
                assert_eq!(stored(), 1);
            }
        }
    });
    assert_eq!(server.client.submit(&request).status, 200);
    assert_eq!(stored(), 1);
}

#[test]
fn keys_of_the_store_are_no_round_ids() {
    let (server, _folder) = server();
    server.at(30);
    server.await_work(0);
    server.at(80);
    server.client.await_proof(0);
    for key in [
        "pow_challenge",
        "pow_challenge_previous",
        "probe",
        "schedule",
    ] {
        let answer = server.client.get(&format!("/v1/proofs/{key}"));
        answer.assert_error(404, 5, "proof not found");
    }
}

#[test]
fn the_rotated_challenge_survives_a_restart() {
    let (server, folder) = server();
    let first = server.client.pow_params();
    server.at(30);
    server.await_work(0);
    server.at(80);
    let root = verify_fetched(&server.client.await_proof(0)).root;
    drop(server);
    let server = LocalServer::start(config(folder.path()), 85);
    let rotated = server.client.pow_params();
    assert_eq!(rotated.challenge, root);
    // The previous one is still accepted; an empty one never is.
    let submit = |number, params| {
        let request = TestNode::new(number).request(params);
        server.client.submit(&request)
    };
    assert_eq!(submit(1, &first).status, 200);
    assert_eq!(submit(2, &rotated).status, 200);
    let empty = poet_proto::pow::PowParams {
        challenge: Vec::new(),
        ..first
    };
    submit(3, &empty).assert_error(400, 3, "invalid proof of work parameters");
}

#[cfg(unix)]
#[test]
fn no_signal_loses_a_registration() {
    let folder = tempfile::tempdir().unwrap();
    // The round must stay open until the end of the test.
    let options = ["--phase-shift=1h", "--epoch-duration=1h"];
    let mut nodes = Vec::new();
    for signal in ["INT", "TERM", "KILL"] {
        let server = ServerProcess::start(folder.path(), &options);
        let node = TestNode::new(nodes.len() as u32);
        assert_eq!(server.client.register(&node), 0);
        nodes.push(node);
        let code = server.signal(signal).code();
        let expected = (signal != "KILL").then_some(0);
        assert_eq!(code, expected, "SIG{signal}");
    }
    let server = ServerProcess::start(folder.path(), &options);
    let params = server.client.pow_params();
    for node in nodes {
        let conflicting = node.with_challenge([9; 32]).request(&params);
        let answer = server.client.submit(&conflicting);
        answer.assert_error(409, 6, "conflicting registration");
    }
}

#[test]
fn it_starts_again_on_every_beginning_of_a_log() {
    let (server, folder) = server();
    let node = TestNode::new(1);
    assert_eq!(server.client.register(&node), 0);
    server.at(30);
    server.await_work(0);
    drop(server);
    // What a kill or a power failure can leave of the first moments: no folder, an empty one, and
    // every length of the file up to some entries.
    let round = folder.path().join("data/rounds/0");
    let log = round.join("tree.log");
    let whole = fs::read(&log).unwrap();
    let lengths = [
        None,
        Some(0),
        Some(1),
        Some(95),
        Some(96),
        Some(97),
        Some(127),
        Some(128),
    ];
    for length in lengths.into_iter().chain([Some(130), Some(160)]) {
        fs::remove_dir_all(&round).unwrap();
        if let Some(length) = length {
            fs::create_dir(&round).unwrap();
            fs::write(&log, &whole[..length]).unwrap();
        }
        let server = LocalServer::start(config(folder.path()), 35);
        server.await_work(0);
    }
    let server = LocalServer::start(config(folder.path()), 80);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, [node.challenge]);
}

#[test]
fn killed_at_the_start_of_the_work_it_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["--epoch-duration=20s", "--phase-shift=2s", "--cycle-gap=5s"];
    let server = ServerProcess::start(folder.path(), &schedule);
    let node = TestNode::new(1);
    assert_eq!(server.client.register(&node), 0);
    // As soon as the round's folder exists, before its log has any content.
    let rounds = folder.path().join("data/rounds/0");
    let started = || rounds.exists().then_some(());
    await_some("the start of the work", started);
    server.kill();
    // And a few more times, as early as possible.
    for _ in 0..3 {
        ServerProcess::start(folder.path(), &schedule).kill();
    }
    let server = ServerProcess::start(folder.path(), &schedule);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, [node.challenge]);
}

#[test]
fn of_the_tree_only_subtree_roots_are_stored() {
    let folder = tempfile::tempdir().unwrap();
    // As many leaves are expected as in a round of the main network.
    let mut config = config(folder.path());
    config.rounds.epoch_duration = Duration::from_secs(336 * 3600);
    config.rounds.cycle_gap = Duration::from_secs(12 * 3600);
    let server = LocalServer::start(config.clone(), 10);
    server.at(30);
    let leaves = |server: &LocalServer| -> Option<u64> {
        let round = server.client.get("/v1/rounds/0").json();
        round["leaves"].as_str()?.parse().ok()
    };
    let made = await_some("work", || leaves(&server).filter(|made| *made > 5 * 4096));
    drop(server);
    // 32 bytes for each 4,096 leaves, and nothing else.
    let log = folder.path().join("data/rounds/0/tree.log");
    let bytes = fs::metadata(&log).unwrap().len() - 96;
    let entries = bytes / 32;
    assert!(
        bytes.is_multiple_of(32) && entries >= made / 4096,
        "{bytes} of {made}"
    );
    for file in fs::read_dir(log.parent().unwrap()).unwrap() {
        let file = file.unwrap();
        // The audited ones are stored next to them.
        let known =
            ["tree.log", "audit.log", "sampled.log"].contains(&file.file_name().to_str().unwrap());
        let length = file.metadata().unwrap().len();
        assert!(known && length <= 96 + bytes, "{file:?}: {length}");
    }
    // They suffice to continue from.
    let server = LocalServer::start(config, 35);
    let resumed = await_some("work", || leaves(&server));
    assert!(resumed >= entries * 4096, "{resumed} of {entries} entries");
}

#[test]
fn a_proof_is_published_at_the_moment_the_round_ends() {
    let (server, _folder) = server();
    server.at(30);
    server.await_work(0);
    // From here on the clock stands still: nothing may wait for a later time.
    server.at(80);
    server.client.await_proof(0);
    let monitoring = server.monitoring();
    await_some("the lateness", || {
        let text = monitoring.get("/metrics").body;
        text.contains("\npoet_proof_lateness_seconds 0.0\n")
            .then_some(())
    });
}

#[test]
fn requests_are_read_as_the_go_server_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    // Every nonce is valid.
    config.rounds.rules.pow_difficulty = 0;
    let server = LocalServer::start(config, 10);
    let request = TestNode::new(1).request(&server.client.pow_params());
    let with = |field: &str, value: &str| {
        let mut request = request.clone();
        request[field] = "VALUE".into();
        request.to_string().replace("\"VALUE\"", value)
    };
    let taken = |body: &str| {
        let answer = server.client.post("/v1/submit", body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    };
    let refused = |body: &str| {
        let answer = server.client.post("/v1/submit", body);
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["code"], 3, "{body}");
    };
    for nonce in ["-0", "1e19", "\"18446744073709551615\"", "1.0", "null"] {
        taken(&with("nonce", nonce));
    }
    for nonce in ["\"01\"", "\"1.\"", "\" 1\"", "-1", "1e20", "true"] {
        refused(&with("nonce", nonce));
    }
    for deadline in [
        "\"0001-01-01T00:00:00Z\"",
        "\"9999-12-31T23:59:59.999999999Z\"",
        "\"2099-06-01T1:00:00,5+24:00\"",
        "null",
    ] {
        taken(&with("deadline", deadline));
    }
    for deadline in [
        "\"2099-06-01 00:00:00Z\"",
        "\"2099-06-01t00:00:00z\"",
        "\"2099-06-01T00:00:00+25:00\"",
        "\"2099-06-01T00:00:60Z\"",
        "\"2099-06-01T00:00:00.0123456789Z\"",
        "\"10000-01-01T00:00:00Z\"",
        "4083955200",
    ] {
        refused(&with("deadline", deadline));
    }
    let signature = request["signature"].as_str().unwrap();
    let (line, rest) = signature.split_at(76);
    let (unpadded, _) = rest.split_once('=').unwrap();
    taken(&with("signature", &format!("\"{line}\\n{unpadded}\"")));
    taken(&with("signature", &format!("\"{line}\\r\\n\\r\\n{rest}\"")));
    refused(&with("signature", &format!("\"{line}\\n{rest}\"")));
    taken(&with("more", "{\"any\": [\"\\ud83d\\ude00\"]}"));
    refused(&with("more", "\"\\ud83d\""));
    refused(&with("more", "[\"\\ude00\\ud83d\"]"));
    let body = request.to_string();
    for (before, after) in [
        ("\r\n\t ", ""),
        ("", "{}"),
        ("", " and more"),
        ("", "\u{c}"),
    ] {
        taken(&format!("{before}{body}{after}"));
    }
    for before in ["\u{feff}", "\u{c}", "{}", "null"] {
        let answer = server.client.post("/v1/submit", format!("{before}{body}"));
        assert_eq!(answer.status, 400, "{before:?}");
    }

    // Addresses are read with their escapes decoded.
    let info = server.client.get("/v1/info").body;
    for path in [
        "/v1/%69nfo",
        "/%76%31/info",
        "/v1%2Finfo",
        "/v1/%69nfo?a=%62",
    ] {
        assert_eq!(server.client.get(path).body, info, "{path}");
    }
    let answer = server.client.post("/v1/%73ubmit", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    server
        .client
        .get("/v1/%70roofs/%30")
        .assert_error(404, 5, "proof not found");
    for path in [
        "/v1/%2569nfo",
        "/v1/info%3F",
        "/v1/info%23",
        "/v1/%ff",
        "/v1/inf%",
    ] {
        let answer = server.client.get(path);
        assert_eq!(answer.status, 404, "{path}");
    }
    let answer = server.client.post("/v1/%69nfo", "{}");
    answer.assert_error(501, 12, "Method Not Allowed");
}

#[test]
fn a_post_is_never_taken_for_a_get() {
    let (server, _folder) = server();
    for (header, value) in [
        ("content-type", "application/x-www-form-urlencoded"),
        ("x-http-method-override", "GET"),
    ] {
        let agent = ureq::Agent::config_builder().http_status_as_error(false);
        let agent: ureq::Agent = agent.build().into();
        let request = agent.post(format!("{}/v1/info", server.url()));
        let answer = request.header(header, value).send("").unwrap();
        assert_eq!(answer.status(), 501, "{header}");
    }
}

/// A configuration without a worker.
fn idle(folder: &std::path::Path) -> poet_service::config::Config {
    let mut config = config(folder);
    config.rounds.worker = poet_rounds::config::WorkerMode::Nobody;
    config
}

#[test]
fn without_a_worker_a_round_that_closes_gets_an_empty_proof() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(idle(folder.path()), 10);
    let params = server.client.pow_params();
    let nodes: Vec<_> = (1..=3).map(TestNode::new).collect();
    for node in &nodes {
        assert_eq!(server.client.register(node), 0);
    }
    let unfinished = server.client.get("/v1/proofs/0");
    unfinished.assert_error(404, 5, "proof not found");
    server.at(30);
    let proof = server.client.await_proof(0).json();
    let members: Vec<_> = proof["proof"]["members"].as_array().unwrap().clone();
    let members: Vec<_> = members.iter().map(common::bytes).collect();
    assert_eq!(members, members_of(&nodes));
    let mut rest = proof.clone();
    rest["proof"]["members"] = serde_json::json!([]);
    let empty = serde_json::json!({
        "proof": {
            "proof": {"root": "", "provenLeaves": [], "proofNodes": []},
            "members": [],
            "leaves": "0",
        },
        "pubkey": server.client.get("/v1/info").json()["servicePubkey"],
    });
    assert_eq!(rest, empty);
    // The root of an empty proof is predictable, so it must not become a challenge.
    assert_eq!(server.client.pow_params(), params);
    let round = server.client.get("/v1/rounds/0").json();
    assert_eq!(
        (&round["state"], &round["members"]),
        (&"published".into(), &"3".into())
    );
    let node_id = hex::encode(nodes[1].id());
    let membership = server
        .client
        .get(&format!("/v1/rounds/0/members/{node_id}"));
    assert_eq!(membership.status, 200, "{}", membership.body);
    // The next round is an ordinary one.
    assert_eq!(server.client.register(&TestNode::new(4)), 1);
    drop(server);

    // A round that closes while no server runs is published by the next server; what is published
    // stays.
    let server = LocalServer::start(idle(folder.path()), 95);
    let next = server.client.await_proof(1).json();
    assert_eq!(next["proof"]["members"].as_array().unwrap().len(), 1);
    drop(server);
    let server = LocalServer::start(config(folder.path()), 100);
    assert_eq!(server.client.get("/v1/proofs/0").json(), proof);
    server.at(150);
    server.await_work(2);
    assert_eq!(server.client.get("/v1/proofs/1").json(), next);
}

#[test]
fn work_that_has_begun_is_left_for_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 10);
    let node = TestNode::new(1);
    assert_eq!(server.client.register(&node), 0);
    server.at(30);
    server.await_work(0);
    drop(server);
    let server = LocalServer::start(idle(folder.path()), 40);
    // A later round gets an empty proof, this one none.
    server.at(90);
    server.client.await_proof(1);
    let answer = server.client.get("/v1/proofs/0");
    answer.assert_error(404, 5, "proof not found");
    drop(server);
    let server = LocalServer::start(config(folder.path()), 95);
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, [node.challenge]);
}

#[test]
fn trusted_keys_need_no_main_key() {
    let folder = tempfile::tempdir().unwrap();
    let node = TestNode::new(1);
    let (data, signature, key) = node.certificate(7);
    let base64 =
        |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(keys.join("a.key"), base64(&key) + "\n").unwrap();
    let mut config = config(folder.path());
    config.rounds.rules.certifier = Some(poet_proto::certificate::Certifier {
        url: String::new(),
        pubkey: None,
        trusted: poet_proto::certificate::TrustedKeys::read(keys).unwrap(),
    });
    let server = LocalServer::start(config, 10);
    assert!(server.client.get("/v1/info").json()["certifier"].is_null());
    let mut request = node.request(&server.client.pow_params());
    request["powParams"] = serde_json::Value::Null;
    request["certificate"] = serde_json::json!({
        "data": base64(&data),
        "signature": base64(&signature),
    });
    let no_key = "invalid certificate\nno matching cert public keys";
    server.client.submit(&request).assert_error(401, 16, no_key);
    request["certificatePubkeyHint"] = base64(&key[..4]).into();
    let answer = server.client.submit(&request);
    assert_eq!(answer.status, 200, "{}", answer.body);
    // Without a certificate, a proof of work suffices.
    assert_eq!(server.client.register(&TestNode::new(2)), 0);
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let neutral = "--certifier-pubkey=AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let key = "--certifier-pubkey=V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
    for (options, expected) in [
        // The Go server serves such a key in /v1/info, and crashes on the first certificate.
        (
            &["--certifier-pubkey=cHVia2V5"][..],
            "base64 form of a 32-byte",
        ),
        (&[neutral], "anybody can sign for this key"),
        (&["--certifier-url=http://c"], "--certifier-pubkey"),
        (
            &["--cycle-gap=30s", "--epoch-duration=30s"],
            "expected a gap shorter than the epoch",
        ),
        (
            &["--cycle-gap=31s", key],
            "expected a gap shorter than the epoch",
        ),
    ] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_poet-service"));
        let poetdir = format!("--poetdir={}", folder.path().display());
        let output = command.args(["check-config", &poetdir]).args(options);
        let output = output.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{options:?}");
        assert!(text.contains(expected), "{options:?}: {text}");
    }
}

#[test]
fn a_body_that_is_cut_off_is_an_error() {
    use std::{
        io::{Read as _, Write as _},
        net::{Shutdown, TcpStream},
    };
    let (server, _folder) = server();
    let mut stream = TcpStream::connect(server.addresses.rest).unwrap();
    let head = "POST /v1/submit HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"nonce\"";
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    // A server may send nothing to a client that has closed its side.
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
        "{answer}"
    );
    assert_eq!(server.client.get("/v1/info").status, 200);
}

#[test]
fn only_without_a_genesis_time_there_is_a_warning() {
    let warning = "rounds will not line up with any network";
    for (options, warned) in [
        (&[][..], true),
        (&["--genesis-time=2023-07-14T08:00:00Z"], false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let server = ServerProcess::start(folder.path(), options);
        assert_eq!(server.log().contains(warning), warned, "{options:?}");
    }
}
