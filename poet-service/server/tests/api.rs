//! The REST interface beyond the recorded responses: bad input, limits, caching, certificates.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{Answer, LocalServer, TestNode, await_some, bytes, certifier, config, verify_fetched};
use poet_proto::{
    member::{Challenge, NodeId},
    pow::PowParams,
    receipt::{Acknowledged, Receipt},
};
use poet_service::api::MAX_BODY_BYTES;
use serde_json::json;

/// A server in round 0, 10 seconds after genesis, and the folder it lives in.
fn server() -> (LocalServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (LocalServer::start(config(folder.path()), 10), folder)
}

/// Sends `request` unchanged and returns everything that the server sends until it closes.
fn raw(server: &LocalServer, request: &[u8]) -> String {
    String::from_utf8_lossy(&raw_bytes(server, request)).into_owned()
}

fn raw_bytes(server: &LocalServer, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.addresses.rest).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // A server that refuses early may close while the rest is still being sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

#[test]
fn registrations_follow_the_rules_in_order() {
    let (server, _folder) = server();
    let client = &server.client;
    let params = client.pow_params();
    let node = TestNode::new(1);
    let valid = node.request(&params);
    let with = |changes: &[(&str, serde_json::Value)]| {
        let mut request = valid.clone();
        for (field, value) in changes {
            request[*field] = value.clone();
        }
        client.submit(&request)
    };

    // Each request breaks its rule and all later ones.
    let late = ("deadline", json!("2025-01-01T00:00:00Z"));
    let no_pow = ("powParams", json!(null));
    let hint = ("certificatePubkeyHint", json!("AAAA"));
    let signature = ("signature", json!(""));
    let pubkey = ("pubkey", json!(STANDARD.encode([1; 31])));
    let all = [
        late.clone(),
        no_pow.clone(),
        hint.clone(),
        signature.clone(),
        pubkey,
    ];
    with(&all).assert_error(400, 3, "invalid public key");
    with(&all[..4]).assert_error(400, 3, "invalid signature");
    with(&all[..3]).assert_error(400, 3, "invalid certificate public key hint");
    with(&all[..2]).assert_error(400, 3, "invalid proof of work parameters");
    with(&all[..1]).assert_error(400, 9, "too late to register for the desired round");

    // Not a point of the curve.
    let mut nowhere = [0; 32];
    nowhere[0] = 2;
    let answer = with(&[("pubkey", json!(STANDARD.encode(nowhere)))]);
    answer.assert_error(400, 3, "invalid signature");

    // The round ends 80 s after genesis: a deadline at that very time is met.
    let answer = with(&[("deadline", json!("2026-01-01T00:01:19.999999999Z"))]);
    answer.assert_error(400, 9, "too late to register for the desired round");
    let answer = with(&[("deadline", json!("2026-01-01T00:01:20Z"))]);
    let assert_registered = |answer: &Answer| {
        let mut json = answer.json();
        let receipt = json.as_object_mut().unwrap().remove("receipt").unwrap();
        assert_eq!(json, json!({"roundId": "0", "roundEnd": "70s"}));
        Receipt::from_json(&receipt).unwrap()
    };
    let receipt = assert_registered(&answer);
    let acknowledged = Acknowledged {
        round: 0,
        node_id: NodeId(node.id()),
        challenge: Challenge(node.challenge),
        time: "2026-01-01T00:00:10Z".parse().unwrap(),
        round_end: "2026-01-01T00:01:20Z".parse().unwrap(),
    };
    assert_eq!(*receipt.acknowledged(), acknowledged);
    let key = bytes(&client.get("/v1/info").json()["servicePubkey"]);
    assert_eq!(receipt.server().as_bytes()[..], key);

    // Again: nothing changes. With another challenge: a conflict, and no receipt.
    assert_registered(&with(&[]));
    let other = node.with_challenge([9; 32]).request(&params);
    client
        .submit(&other)
        .assert_error(409, 6, "conflicting registration");
}

#[test]
fn proofs_of_work_need_the_right_challenge() {
    let (server, _folder) = server();
    let current = server.client.pow_params();
    for wrong in [
        PowParams {
            challenge: Vec::new(),
            ..current.clone()
        },
        PowParams {
            challenge: vec![0; 32],
            ..current.clone()
        },
        PowParams {
            challenge: current.challenge[1..].to_vec(),
            ..current.clone()
        },
        PowParams {
            difficulty: current.difficulty + 1,
            ..current.clone()
        },
        PowParams {
            difficulty: 0,
            challenge: Vec::new(),
        },
    ] {
        let answer = server.client.submit(&TestNode::new(1).request(&wrong));
        answer.assert_error(400, 3, "invalid proof of work parameters");
    }
}

#[test]
fn a_full_round_takes_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.rules.max_round_members = 2;
    let server = LocalServer::start(config, 10);
    let params = server.client.pow_params();
    for number in 1..=2 {
        assert_eq!(server.client.register(&TestNode::new(number)), 0);
    }
    for number in 1..=3 {
        let answer = server
            .client
            .submit(&TestNode::new(number).request(&params));
        answer.assert_error(429, 8, "maximum number of round members reached");
    }
}

#[test]
fn without_a_certifier_certificates_are_ignored() {
    let (server, _folder) = server();
    let client = &server.client;
    assert_eq!(client.get("/v1/info").json()["certifier"], json!(null));
    let certificate = json!({"data": "anVuaw==", "signature": "AAAA"});
    let mut request = TestNode::new(1).request(&client.pow_params());
    request["certificate"] = certificate.clone();
    assert_eq!(client.submit(&request).status, 200);
    // Then the proof of work decides, and never with a 401, which would crash a node.
    request["powParams"] = json!(null);
    client
        .submit(&request)
        .assert_error(400, 3, "invalid proof of work parameters");
}

#[test]
fn methods_of_registration_can_be_switched_off() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.rules.pow = false;
    config.rounds.rules.certifier = Some(certifier());
    let server = LocalServer::start(config, 10);
    let mut request = TestNode::new(1).request(&server.client.pow_params());
    // Not a 401: only nodes that sent a certificate expect that.
    let message = "registration by proof of work is switched off: expected a certificate";
    server.client.submit(&request).assert_error(400, 9, message);
    let (data, signature, _) = TestNode::new(1).certificate(7);
    request["certificate"] =
        json!({"data": STANDARD.encode(data), "signature": STANDARD.encode(signature)});
    assert_eq!(server.client.submit(&request).status, 200);
}

#[test]
fn only_the_decimal_number_names_a_round() {
    let (server, _folder) = server();
    server.at(30);
    server.await_work(0);
    server.at(80);
    server.client.await_proof(0);
    for id in [
        "00",
        "+0",
        "-0",
        "0x0",
        "0.0",
        "%20",
        "0%20",
        "%FF",
        "%",
        "pow_challenge",
        "1",
        "0/0/",
        "18446744073709551615",
        "18446744073709551616",
        "\u{660}",
        "..",
        "0;",
        "0%00",
    ] {
        let answer = server
            .client
            .get(&format!("/v1/proofs/{}", id.replace('\u{660}', "%D9%A0")));
        assert_eq!(answer.status, 404, "{id}: {}", answer.body);
        assert_eq!(answer.json()["code"], 5, "{id}");
    }
    let long = server
        .client
        .get(&format!("/v1/proofs/{}", "9".repeat(5000)));
    long.assert_error(404, 5, "proof not found");
    assert_eq!(server.client.get("/v1/proofs/%30").status, 200);
}

#[test]
fn proofs_can_be_cached_for_ever_and_their_absence_not_at_all() {
    let (server, _folder) = server();
    let client = &server.client;
    let absent = client.get("/v1/proofs/0");
    absent.assert_error(404, 5, "proof not found");
    assert_eq!(absent.header("cache-control"), Some("no-store"));

    server.at(30);
    server.await_work(0);
    server.at(80);
    let proof = client.await_proof(0);
    verify_fetched(&proof);
    assert_eq!(
        proof.header("cache-control"),
        Some("public, max-age=31536000, immutable")
    );
    let etag = proof.header("etag").unwrap();
    for known in [etag, "*", &format!("\"x\", W/{etag}")] {
        let answer = client.get_with("/v1/proofs/0", "if-none-match", known);
        assert_eq!((answer.status, answer.body.as_str()), (304, ""), "{known}");
        assert_eq!(answer.header("etag"), Some(etag));
    }
    let answer = client.get_with("/v1/proofs/0", "if-none-match", "\"x\"");
    assert_eq!((answer.status, answer.body), (200, proof.body.clone()));

    for path in ["/v1/info", "/v1/pow_params"] {
        assert_eq!(
            client.get(path).header("cache-control"),
            Some("public, max-age=5")
        );
    }
}

// The row "proof rebuilt for each request" of the differences to the Go server.
#[test]
fn proofs_are_compressed_for_those_who_take_it() {
    let (server, _folder) = server();
    server.at(30);
    server.await_work(0);
    server.at(80);
    let plain = server.client.await_proof(0);
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    let request = "GET /v1/proofs/0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
                   accept-encoding: gzip\r\n\r\n";
    // It is compressed once it is served.
    let (answer, end, head) = await_some("a compressed proof", || {
        let answer = raw_bytes(&server, request.as_bytes());
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        head.contains("content-encoding: gzip")
            .then_some((answer, end, head))
    });
    let mut body = String::new();
    flate2::read::GzDecoder::new(&answer[end + 4..])
        .read_to_string(&mut body)
        .unwrap();
    assert_eq!(body, plain.body);
    // Each representation has its own tag, and either tag matches.
    let etag = plain.header("etag").unwrap();
    let gzip_etag = etag.replace("\"", "") + "-gzip";
    assert!(head.contains(&gzip_etag), "{head}");
    let known = format!("\"{gzip_etag}\"");
    let answer = server
        .client
        .get_with("/v1/proofs/0", "if-none-match", &known);
    assert_eq!((answer.status, answer.header("etag")), (304, Some(etag)));
}

#[test]
fn unknown_paths_and_methods() {
    let (server, _folder) = server();
    let client = &server.client;
    for path in [
        "/v1",
        "/v1/",
        "/v1/info/",
        "/v1/proofs",
        "/v2/info",
        "//v1/info",
        "/v1/%2e%2e",
    ] {
        client.get(path).assert_error(404, 5, "Not Found");
    }
    client
        .post("/v1/proofs/0", "")
        .assert_error(501, 12, "Method Not Allowed");
    client
        .post("/v1/pow_params", "{}")
        .assert_error(501, 12, "Method Not Allowed");
    client
        .post("/v1/nothing", "{}")
        .assert_error(404, 5, "Not Found");
}

#[test]
fn bodies_are_bounded() {
    let (server, _folder) = server();
    let client = &server.client;
    let padding = MAX_BODY_BYTES - "{}".len();
    let largest = format!("{{{}}}", " ".repeat(padding));
    client
        .post("/v1/submit", &largest)
        .assert_error(400, 3, "invalid public key");
    let too_large = "request body larger than 65536 bytes";
    client
        .post("/v1/submit", format!("{largest} "))
        .assert_error(413, 8, too_large);
    // A GET with a body does not bypass the limit.
    let request = format!(
        "GET /v1/info HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{largest} ",
        1 << 20
    );
    assert!(raw(&server, request.as_bytes()).starts_with("HTTP/1.1 413 "));
    // Nor does a length that is not announced.
    let mut chunked =
        "POST /v1/submit HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for _ in 0..20 {
        chunked += &format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    }
    assert!(raw(&server, chunked.as_bytes()).starts_with("HTTP/1.1 413 "));
    assert_eq!(client.get("/v1/info").status, 200);
}

#[test]
fn compressed_bodies_are_refused() {
    let (server, _folder) = server();
    let message =
        "the request's body is compressed: expected it as it is, without Content-Encoding";
    let error = format!("{{\"code\":3,\"message\":\"{message}\",\"details\":[]}}");
    let head = "POST /v1/submit HTTP/1.1\r\nhost: x\r\nconnection: close\r\n";
    for (more, body) in [
        ("content-encoding: gzip\r\n", "{}"),
        ("content-encoding: br\r\n", "{}"),
        // Even without a response.
        ("", "\u{1f}\u{8b}\u{8}\0"),
    ] {
        // Not UTF-8: one byte per character.
        let body: Vec<u8> = body.chars().map(|c| c as u8).collect();
        let length = format!("content-length: {}\r\n\r\n", body.len());
        let answer = raw(
            &server,
            &[head.as_bytes(), more.as_bytes(), length.as_bytes(), &body].concat(),
        );
        assert!(answer.starts_with("HTTP/1.1 415 "), "{answer}");
        assert!(answer.ends_with(&error), "{answer}");
    }
    let identity = format!("{head}content-encoding: identity\r\ncontent-length: 2\r\n\r\n{{}}");
    assert!(raw(&server, identity.as_bytes()).contains("invalid public key"));
}

#[test]
fn requests_name_one_host() {
    let (server, _folder) = server();
    for (head, status) in [
        ("GET /v1/info HTTP/1.1\r\n", "400"),
        ("GET /v1/info HTTP/1.1\r\nhost: a\r\nhost: a\r\n", "400"),
        ("GET /v1/info HTTP/1.1\r\nhost: a b\r\n", "400"),
        (
            "GET /v1/info HTTP/1.1\r\nhost: poet.example:8080\r\n",
            "200",
        ),
        ("GET /v1/info HTTP/1.1\r\nhost: [::1]:8080\r\n", "200"),
        ("GET /v1/info HTTP/1.1\r\nhost:\r\n", "200"),
        ("GET /v1/info HTTP/1.0\r\n", "200"),
    ] {
        let answer = raw(
            &server,
            format!("{head}connection: close\r\n\r\n").as_bytes(),
        );
        assert_eq!(answer.split(' ').nth(1), Some(status), "{head}: {answer}");
    }
}

#[test]
fn garbage_gets_no_further_than_its_connection() {
    let (server, _folder) = server();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/info HTTP/9.9\r\n\r\n",
        b"GET /v1/info HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/submit HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        &[0; 4096],
    ] {
        let answer = raw(&server, garbage);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    let many_headers = (0..1000)
        .map(|i| format!("x-{i}: y\r\n"))
        .collect::<String>();
    let answer = raw(
        &server,
        format!("GET /v1/info HTTP/1.1\r\n{many_headers}\r\n").as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(100_000));
    assert!(!raw(&server, long.as_bytes()).contains(" 200 "));
    // A client that disconnects in the middle of its body.
    let mut stream = TcpStream::connect(server.addresses.rest).unwrap();
    stream
        .write_all(b"POST /v1/submit HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"nonce\"")
        .unwrap();
    drop(stream);
    assert_eq!(server.client.get("/v1/info").status, 200);
}

#[test]
fn connections_stay_open_after_a_get_with_a_body() {
    let (server, _folder) = server();
    let get = "GET /v1/info HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let last =
        "GET /v1/info HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    let answers = raw(&server, format!("{get}{get}{last}").as_bytes());
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
}

#[test]
fn the_key_is_the_one_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let mut with_key = config(folder.path());
    let key = poet_proto::identity::PrivateKey::generate().unwrap();
    with_key.rounds.private_key = Some(key.clone());
    let pubkey =
        |server: &LocalServer| bytes(&server.client.get("/v1/info").json()["servicePubkey"]);
    let server = LocalServer::start(with_key, 10);
    assert_eq!(pubkey(&server), key.public().as_bytes());
    drop(server);
    // It was stored.
    let server = LocalServer::start(config(folder.path()), 10);
    assert_eq!(pubkey(&server), key.public().as_bytes());
}

#[test]
fn a_broken_download_of_a_proof_goes_on() {
    let (server, _folder) = server();
    server.at(30);
    server.await_work(0);
    server.at(80);
    let whole = server.client.await_proof(0);
    let etag = whole.header("etag").unwrap();
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    let all = whole.body.as_bytes();
    let length = all.len();
    let get = |headers: &str| {
        let request =
            format!("GET /v1/proofs/0 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        let answer = raw_bytes(&server, request.as_bytes());
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec())
            .unwrap()
            .to_lowercase();
        (head, answer[end + 4..].to_vec())
    };
    for (headers, from, to) in [
        ("range: bytes=0-99\r\n".to_owned(), 0, 100),
        ("range: bytes=100-\r\n".to_owned(), 100, length),
        ("range: bytes=-10\r\n".to_owned(), length - 10, length),
        (
            format!("range: bytes=7-\r\nif-range: {etag}\r\n"),
            7,
            length,
        ),
        // Ranges of the uncompressed proof, even for clients that accept gzip.
        (
            "accept-encoding: gzip\r\nrange: bytes=5-9\r\n".to_owned(),
            5,
            10,
        ),
    ] {
        let (head, body) = get(&headers);
        assert!(head.starts_with("http/1.1 206 "), "{headers}: {head}");
        let range = format!("content-range: bytes {from}-{}/{length}", to - 1);
        assert!(head.contains(&range), "{headers}: {head}");
        assert!(head.contains(&format!("etag: {etag}")), "{head}");
        assert!(
            head.contains("immutable") && !head.contains("content-encoding"),
            "{head}"
        );
        assert!(body == all[from..to], "{headers}");
    }
    for headers in [
        "range: bytes=0-1,5-6\r\n",
        "range: lines=1-2\r\n",
        "range: bytes=9-8\r\n",
        "range: bytes=5-9\r\nif-range: \"other\"\r\n",
        "range: bytes=5-9\r\nif-range: Thu, 26 Nov 2026 19:00:00 GMT\r\n",
    ] {
        let (head, body) = get(headers);
        assert!(head.starts_with("http/1.1 200 "), "{headers}: {head}");
        assert!(body == all, "{headers}");
    }
    let (head, _) = get(&format!("range: bytes=5-9\r\nif-none-match: {etag}\r\n"));
    assert!(head.starts_with("http/1.1 304 "), "{head}");
    let (head, body) = get(&format!("range: bytes={length}-\r\n"));
    assert!(head.starts_with("http/1.1 416 "), "{head}");
    assert!(
        head.contains(&format!("content-range: bytes */{length}")),
        "{head}"
    );
    let body = String::from_utf8(body).unwrap();
    assert!(body.contains("begins after the end of the proof"), "{body}");
}

#[test]
fn pages_of_other_sites_can_read_and_not_register() {
    let (server, _folder) = server();
    let ask = |method: &str, path: &str, headers: &str| {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\norigin: https://a.example\r\n\
             {headers}\r\n"
        );
        raw(&server, request.as_bytes()).to_lowercase()
    };
    let open = "access-control-allow-origin: *";
    for path in [
        "/v1/info",
        "/v1/pow_params",
        "/v1/rounds",
        "/v1/proofs/7",
        "/readyz",
        "/none",
    ] {
        for method in ["GET", "HEAD"] {
            let answer = ask(method, path, "");
            assert!(answer.contains(open), "{method} {path}: {answer}");
            assert!(
                answer.contains("access-control-expose-headers: "),
                "{answer}"
            );
            let asked = format!("access-control-request-method: {method}\r\n");
            let answer = ask("OPTIONS", path, &asked);
            assert!(answer.starts_with("http/1.1 204 "), "{path}: {answer}");
            assert!(answer.contains(open), "{answer}");
            assert!(
                answer.contains("access-control-allow-methods: get, head"),
                "{answer}"
            );
        }
    }
    for (method, headers) in [
        ("POST", "content-length: 2\r\n\r\n{}"),
        ("OPTIONS", "access-control-request-method: POST\r\n"),
        ("OPTIONS", ""),
    ] {
        let answer = ask(method, "/v1/submit", headers);
        assert!(
            !answer.contains("access-control-allow"),
            "{method}: {answer}"
        );
        assert!(!answer.starts_with("http/1.1 2"), "{method}: {answer}");
    }
}
