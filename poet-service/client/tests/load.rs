//! The load generator with a server: it checks every response, and notices wrong ones. Speed is not
//! tested here; `docs/LOAD.md` says how to measure it.
#![allow(clippy::unwrap_used)]

#[path = "../../server/tests/common/mod.rs"]
mod common;

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, SystemTime},
};

use common::{LocalServer, config};
use jiff::Timestamp;

/// Rounds that open one after the other, the first of them now, each for so many seconds. After that, it
/// is worked on for three.
fn server(folder: &Path, seconds: u64) -> LocalServer {
    let mut config = config(folder);
    config.rounds.genesis = Some(now());
    config.rounds.phase_shift = Duration::from_secs(seconds);
    config.rounds.epoch_duration = Duration::from_secs(seconds);
    config.rounds.cycle_gap = Duration::from_secs(seconds - 3);
    config.rounds.rules.pow_difficulty = 3;
    LocalServer::start_in_real_time(config)
}

/// A server whose first round stays open, for a limited number of members.
fn open_server(folder: &Path, members: u64) -> LocalServer {
    let mut config = config(folder);
    config.rounds.rules.max_round_members = members;
    LocalServer::start(config, 0)
}

fn now() -> Timestamp {
    SystemTime::now().try_into().unwrap()
}

fn load(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poet-client"))
        .arg("load")
        .args(arguments)
        .output()
        .unwrap()
}

/// Returns what it printed, and whether everything was right.
#[track_caller]
fn told(output: &Output) -> (String, bool) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    println!("{text}{errors}");
    (text + &errors, output.status.success())
}

#[test]
fn thousands_register_and_fetch_the_proof() {
    let folder = tempfile::tempdir().unwrap();
    let server = server(folder.path(), 12);
    let url = server.url();

    let arguments = [
        "register",
        "--url",
        &url,
        "--members=3000",
        "--connections=300",
        "--keys-seed=7",
        "--await-proof",
    ];
    let (text, right) = told(&load(&arguments));
    assert!(right);
    assert!(text.contains("registered  3000 of 3000 in "), "{text}");
    assert!(text.contains("errors      none\n"), "{text}");
    assert!(text.contains(" 0 of ours missing\n"), "{text}");
    // Usually the first round; on a slow machine, any.
    let round = text.lines().find_map(|line| {
        let (id, members) = line.strip_prefix("round       ")?.split_once(": ")?;
        println!("{members} in round {id}");
        Some(id.to_owned())
    });
    let round = round.unwrap();

    let arguments = ["fetch", "--url", &url, "--round", &round, "--clients=300"];
    let (text, right) = told(&load(&arguments));
    assert!(right);
    assert!(
        text.contains("served      300 of 300 clients in "),
        "{text}"
    );
    assert!(text.contains("errors      none\n"), "{text}");

    // The same as one object.
    let json = |arguments: &[&str]| -> serde_json::Value {
        let output = load(arguments);
        assert!(output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let fetched = json(&[&arguments[..], &["--json"]].concat());
    assert_eq!(fetched["served"], 300);
    assert_eq!(fetched["errors"], serde_json::json!({}));
    assert!(fetched["proof"]["leaves"].as_u64().unwrap() > 150);
    assert!(fetched["latencySeconds"]["p99"].as_f64().unwrap() > 0.0);
    let registered = json(&["register", "--url", &url, "--members=20", "--json"]);
    assert_eq!(registered["registered"], 20);
    let rounds = registered["rounds"].as_array().unwrap();
    let members = rounds
        .iter()
        .map(|round| round["members"].as_u64().unwrap());
    assert_eq!(members.sum::<u64>(), 20);

    // With a rate, and as fast as it goes.
    for options in [&["--rate=500"][..], &[]] {
        let arguments = ["register", "--url", &url, "--members=200"];
        let (text, right) = told(&load(&[&arguments, options].concat()));
        assert!(right);
        assert!(text.contains("registered  200 of 200 in "), "{text}");
    }
}

#[test]
fn refused_registrations_are_counted_by_kind() {
    let folder = tempfile::tempdir().unwrap();
    let server = open_server(folder.path(), 7);
    let url = server.url();
    let (text, right) = told(&load(&["register", "--url", &url, "--members=20"]));
    assert!(!right);
    assert!(text.contains("registered  7 of 20 in "), "{text}");
    assert!(text.contains("13  status 429: {"), "{text}");
    assert!(text.contains("maximum number of round members"), "{text}");
    assert!(text.contains("round       0: 7 members"), "{text}");
}

#[test]
fn what_cannot_be_done_is_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let server = open_server(folder.path(), 7);
    let url = server.url();
    let not_http = serve(vec![b"220 mail.example ESMTP\r\n\r\n".to_vec()]);
    let closed = serve(vec![Vec::new()]);
    let not_json = serve(vec![
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n<".to_vec(),
    ]);
    for (arguments, expected) in [
        (
            &["fetch", "--url", &url, "--round=0"][..],
            "error: round 0 has no proof: expected --wait or another one",
        ),
        (
            &["register", "--url=localhost:1", "--members=1"],
            "error: --url localhost:1: expected http://host:port",
        ),
        (
            &["register", "--url=http://127.0.0.1:1", "--members=1"],
            "error: cannot connect to 127.0.0.1:1: Connection refused\n",
        ),
        (
            &["register", "--url=http://nowhere.invalid", "--members=1"],
            "error: --url http://nowhere.invalid: cannot resolve the name: ",
        ),
        (
            &["register", "--url", &not_http, "--members=1"],
            "error: the answer is not HTTP\n",
        ),
        (
            &["register", "--url", &closed, "--members=1"],
            "error: the connection was closed before the answer\n",
        ),
        (
            &["register", "--url", &not_json, "--members=1"],
            "error: /v1/pow_params: unexpected answer: unexpected text at line 1 column 1\n",
        ),
        (
            &["register", "--members=1", "--rate=0"],
            "expected a number of requests per second, at least 0.001",
        ),
        // So low a rate that the last request would never be sent.
        (
            &["register", "--members=1", "--rate=1e-300"],
            "expected a number of requests per second, at least 0.001",
        ),
    ] {
        let (text, right) = told(&load(arguments));
        assert!(!right && text.contains(expected), "{text}");
        for part in [
            "os error",
            "invalid digit",
            "failed to lookup",
            "message completed",
        ] {
            assert!(!text.contains(part), "{text}");
        }
    }
}

/// Responds to each connection with the next of `answers`, repeating the last one.
fn serve(answers: Vec<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut answers = answers.into_iter();
        let mut current = answers.next().unwrap();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n{}") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(&current).unwrap();
            current = answers.next().unwrap_or(current);
        }
    });
    url
}

#[test]
fn a_wrong_proof_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let genuine = server(folder.path(), 6);
    let (text, right) = told(&load(&[
        "register",
        "--url",
        &genuine.url(),
        "--members=3",
        "--await-proof",
    ]));
    assert!(right);
    let round = text.split("round       ").nth(1).unwrap();
    let round = round.split(':').next().unwrap();
    let answer = genuine.client.get_with(
        &format!("/v1/proofs/{round}"),
        "accept-encoding",
        "identity",
    );
    let answers = |json: &str| -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(json.as_bytes()).unwrap();
        let body = encoder.finish().unwrap();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        [head.into_bytes(), body].concat()
    };
    let right_answer = answers(&answer.body);
    let fetch = |url: &str| told(&load(&["fetch", "--url", url, "--round=0", "--clients=5"]));

    let url = serve(vec![right_answer.clone()]);
    let (text, right) = fetch(&url);
    assert!(right, "{text}");

    // It is served before it is compressed. The first client waits for that; the others need not.
    let plain = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{}",
        answer.body.len(),
        answer.body
    );
    let url = serve(vec![plain.clone().into(), right_answer.clone()]);
    let (text, right) = fetch(&url);
    assert!(right, "{text}");
    let url = serve(vec![right_answer.clone(), plain.into()]);
    let (text, right) = fetch(&url);
    assert!(!right, "{text}");
    assert!(text.contains("5  the proof is not compressed"), "{text}");

    // Only the first client gets the right proof.
    let mut changed = right_answer.clone();
    *changed.last_mut().unwrap() ^= 1;
    let url = serve(vec![right_answer.clone(), changed]);
    let (text, right) = fetch(&url);
    assert!(!right, "{text}");
    assert!(
        text.contains("5  another proof than the first client got"),
        "{text}"
    );

    let mut short = right_answer.clone();
    short.truncate(right_answer.len() - 1);
    let (text, right) = fetch(&serve(vec![right_answer, short]));
    assert!(!right, "{text}");

    // All get the same, which is no valid proof.
    let members = "\"members\":[";
    assert!(answer.body.contains(members));
    let other = "\"members\":[\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\",";
    let url = serve(vec![answers(&answer.body.replace(members, other))]);
    let (text, right) = fetch(&url);
    assert!(!right, "{text}");
    assert!(text.contains("error: the proof is not valid"), "{text}");
    let leaves = "\"leaves\":\"";
    assert!(answer.body.contains(leaves));
    let worded = answer.body.replace(leaves, "\"leaves\":\"many");
    for (body, expected) in [
        (
            &*worded,
            "error: the answer is not a proof: invalid value: other text, expected a whole number",
        ),
        (
            &answer.body[..1000],
            "error: the answer is not a proof: it ends too early, at line 1 column 1000\n",
        ),
    ] {
        let (text, right) = fetch(&serve(vec![answers(body)]));
        assert!(!right && text.contains(expected), "{text}");
    }
}
