//! The recorded responses of the Go server, case by case (see `data/README.md`).
#![allow(clippy::unwrap_used)]

mod common;

use std::{collections::BTreeMap, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{Answer, Client, LocalServer, bytes, config, verify_fetched};
use poet_proto::{
    certificate::{Certifier, TrustedKeys, parse_public_key},
    member::NodeId,
    pow::{self, PowParams},
    receipt::Receipt,
};
use poet_rounds::registration::Rules;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Case {
    case: String,
    request: Request,
    status: u16,
    headers: BTreeMap<String, String>,
    response: Value,
}

#[derive(Deserialize)]
struct Request {
    method: String,
    path: String,
    body: Value,
}

/// Base64 as clients may write it: either alphabet, padded or not.
fn lenient(text: &Value) -> Vec<u8> {
    let standard = text
        .as_str()
        .unwrap_or_default()
        .replace('-', "+")
        .replace('_', "/");
    STANDARD
        .decode(format!(
            "{standard:=<width$}",
            width = standard.len().next_multiple_of(4)
        ))
        .unwrap()
}

/// Replaces the recorded challenge with the running server's, with a nonce for it.
fn with_current_pow(case: &str, mut body: Value, recorded: &Value, current: &PowParams) -> Value {
    for name in ["powParams", "pow_params"] {
        if body[name]["challenge"] != *recorded {
            continue;
        }
        body[name]["challenge"] = STANDARD.encode(&current.challenge).into();
        let challenge = lenient(&body["challenge"]);
        // With a key of another length, the proof of work is not checked.
        let node_id = NodeId::try_from(&lenient(&body["pubkey"])[..]).unwrap_or(NodeId([0; 32]));
        let nonce = if case == "submit_bad_nonce" {
            (0..).find(|nonce| !pow::is_valid(current, node_id, &challenge, *nonce))
        } else {
            pow::solve(current, node_id, &challenge)
        };
        let nonce = nonce.unwrap();
        // As a number if it was recorded as one.
        body["nonce"] = if body["nonce"].is_number() {
            nonce.into()
        } else {
            nonce.to_string().into()
        };
    }
    body
}

fn send(client: &Client, case: &Case, recorded: &Value, current: &PowParams) -> (Answer, Value) {
    let parsed = match &case.request.body {
        Value::String(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        body => body.clone(),
    };
    let path = &case.request.path;
    let answer = match (case.request.method.as_str(), &case.request.body) {
        ("GET", Value::Null) => client.get(path),
        ("POST", Value::String(text)) if !parsed.is_object() || parsed["pubkey"].is_null() => {
            client.post(path, text)
        }
        ("POST", _) => {
            let body = with_current_pow(&case.case, parsed.clone(), recorded, current);
            client.post(path, body.to_string())
        }
        (method, body) => panic!("{}: {method} {body}", case.case),
    };
    (answer, parsed)
}

/// Returns whether both have the same fields, and values of the same form.
fn assert_same_shape(case: &str, answer: &Value, recorded: &Value) {
    match (answer, recorded) {
        (Value::Object(answer), Value::Object(recorded)) => {
            assert!(answer.keys().eq(recorded.keys()), "{case}: {answer:?}");
            for (name, value) in answer {
                assert_same_shape(case, value, &recorded[name]);
            }
        }
        (Value::Array(answer), Value::Array(recorded)) => {
            for (value, recorded) in answer.iter().zip(recorded) {
                assert_same_shape(case, value, recorded);
            }
        }
        (Value::String(answer), Value::String(recorded)) => {
            let duration = |text: &str| {
                text.strip_suffix('s')
                    .is_some_and(|seconds| seconds.parse::<f64>().is_ok())
            };
            let hash = |text: &str| STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
            assert_eq!(duration(answer), duration(recorded), "{case}: {answer}");
            assert_eq!(hash(answer), hash(recorded), "{case}: {answer}");
        }
        _ => assert_eq!(answer, recorded, "{case}"),
    }
}

#[test]
fn the_recorded_answers_are_reproduced() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("data/rest.json")).unwrap();
    assert_eq!(cases.len(), 50);
    let recorded_challenge = cases
        .iter()
        .find(|case| case.case == "pow_params")
        .map(|case| case.response["powParams"]["challenge"].clone())
        .unwrap();

    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    fs::write(
        keys.join("a.key"),
        "UcgCBRH3p+kFVUTDMB830koB0ydKFYe2XLRBDHS/ovA=",
    )
    .unwrap();
    let certifier = Certifier {
        url: "http://certifier.example:80".to_owned(),
        pubkey: Some(parse_public_key("V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=").unwrap()),
        trusted: TrustedKeys::read(keys).unwrap(),
    };
    let mut config = config(folder.path());
    config.rounds.rules = Rules {
        pow_difficulty: 6,
        certifier: Some(certifier),
        ..config.rounds.rules
    };
    config.rounds.epoch_duration = std::time::Duration::from_secs(30);
    config.rounds.phase_shift = std::time::Duration::from_secs(16);
    config.rounds.cycle_gap = std::time::Duration::from_secs(8);
    // If the original server has nothing.
    config.page.public = false;
    let server = LocalServer::start(config, 2);
    let client = &server.client;
    let current = client.pow_params();
    let info = client.get("/v1/info").json();

    let mut members = BTreeMap::new();
    let mut root = Value::Null;
    for case in &cases {
        let name = case.case.as_str();
        if name == "proof_wait" {
            server.at(16);
            server.await_work(0);
            server.at(38);
            client.await_proof(0);
        }
        let (answer, sent) = send(client, case, &recorded_challenge, &current);
        match name {
            "submit_short_challenge" | "submit_empty_challenge" | "submit_long_challenge" => {
                assert_eq!(case.status, 200, "{name} was accepted then");
                let length = lenient(&sent["challenge"]).len();
                let message = format!("invalid challenge length: {length}, expected 32");
                answer.assert_error(400, 3, &message);
                continue;
            }
            _ => assert_eq!(answer.status, case.status, "{name}: {}", answer.body),
        }
        for (header, value) in &case.headers {
            assert_eq!(
                answer.header(header),
                Some(value.as_str()),
                "{name}: {header}"
            );
        }
        let mut response = answer.json();
        if case.status != 200 {
            let message = case.response["message"].as_str().unwrap();
            if message.starts_with("proto:") || message == "unexpected EOF" {
                assert_eq!(response["code"], case.response["code"], "{name}");
                assert_eq!(response["details"], json!([]), "{name}");
                assert!(!response["message"].as_str().unwrap().is_empty(), "{name}");
            } else {
                assert_eq!(response, case.response, "{name}");
            }
            continue;
        }
        match case.request.path.as_str() {
            "/v1/submit" => {
                // A deliberate addition, which nodes ignore. Everything else is as it was recorded.
                let receipt = response.as_object_mut().unwrap().remove("receipt");
                let receipt = Receipt::from_json(&receipt.unwrap()).unwrap();
                let acknowledged = receipt.acknowledged();
                assert_eq!(
                    acknowledged.node_id.0[..],
                    lenient(&sent["pubkey"]),
                    "{name}"
                );
                assert_eq!(
                    acknowledged.challenge.0[..],
                    lenient(&sent["challenge"]),
                    "{name}"
                );
                assert_eq!(
                    receipt.server().as_bytes()[..],
                    bytes(&info["servicePubkey"])
                );
                assert_same_shape(name, &response, &case.response);
                assert_eq!(response["roundId"], "0", "{name}");
                assert_eq!(response["roundEnd"], "36s", "{name}");
                let challenge = lenient(&sent["challenge"]).try_into().unwrap();
                members.insert(lenient(&sent["pubkey"]), challenge);
            }
            "/v1/pow_params" => {
                assert_same_shape(name, &response, &case.response);
                assert_eq!(response["powParams"]["difficulty"], 6);
                if name == "pow_params_after_round" {
                    assert_eq!(response["powParams"]["challenge"], root);
                }
            }
            "/v1/info" => {
                assert_same_shape(name, &response, &case.response);
                assert_eq!(response, info, "{name}");
                for field in ["phaseShift", "cycleGap", "certifier"] {
                    assert_eq!(response[field], case.response[field], "{name}: {field}");
                }
            }
            "/v1/proofs/0" => {
                // The recorded members include those that are refused here.
                let mut recorded = case.response.clone();
                recorded["proof"]["members"] = response["proof"]["members"].clone();
                assert_same_shape(name, &response, &recorded);
                let proof = verify_fetched(&answer);
                let expected: Vec<[u8; 32]> = members.values().copied().collect();
                assert_eq!(
                    proof.members, expected,
                    "members in the order of their node ids"
                );
                assert_eq!(response["pubkey"], info["servicePubkey"]);
                root = response["proof"]["proof"]["root"].clone();
                assert_eq!(bytes(&root), proof.root);
            }
            path => panic!("{name}: nothing is known of {path}"),
        }
    }
    assert_eq!(members.len(), 11);
}
