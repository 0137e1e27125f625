//! What the original interface lacks: health, rounds, membership proofs.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{Answer, LocalServer, TestNode, await_some, bytes, config, members_of};
use poet_engine::{Node, membership};
use serde_json::{Value, json};

fn server() -> (LocalServer, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (LocalServer::start(config(folder.path()), 10), folder)
}

#[test]
fn alive_and_ready() {
    let (server, folder) = server();
    let answer = server.client.get("/healthz");
    assert_eq!(
        (answer.status, answer.json()["ok"].clone()),
        (200, json!(true))
    );
    server.client.await_ready();
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    // Another program locks the database.
    let database = folder.path().join("db/poet.sqlite");
    let other = rusqlite::Connection::open(database).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    server
        .client
        .await_unready("the database cannot be written");
    assert_eq!(server.client.get("/healthz").status, 200);
    let monitoring = server.monitoring();
    let ready = |value: &str| {
        let sample = format!("\npoet_ready {value}\n");
        let text = monitoring.get("/metrics").body;
        text.contains(&sample).then_some(())
    };
    await_some("the metric of unreadiness", || ready("0.0"));
    other.execute_batch("ROLLBACK").unwrap();
    server.client.await_ready();
    await_some("the metric of readiness", || ready("1.0"));
}

#[test]
fn work_that_fails_is_told_and_forgotten_when_it_goes_on() {
    let (server, folder) = server();
    let node = TestNode::new(1);
    server.client.register(&node);
    // A file is in the place of the log's folder.
    let rounds = folder.path().join("data/rounds");
    std::fs::remove_dir_all(&rounds).unwrap();
    std::fs::write(&rounds, "in the way").unwrap();
    server.at(30);
    server.client.await_unready("the work on a round fails");
    assert_eq!(server.client.get("/healthz").status, 200);
    // Registration continues meanwhile, and the work continues afterwards.
    assert_eq!(server.client.register(&node), 1);
    std::fs::remove_file(&rounds).unwrap();
    server.await_work(0);
    server.client.await_ready();
    server.at(80);
    let proof = common::verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, [node.challenge]);
}

fn round(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()
}

#[test]
fn rounds_tell_their_state() {
    let (server, _folder) = server();
    let client = &server.client;
    client.register(&TestNode::new(1));
    let open = round(&client.get("/v1/rounds/0"));
    assert_eq!(
        open,
        json!({
            "id": "0", "state": "open", "members": "1", "proofReady": false,
            "start": "2026-01-01T00:00:30Z", "end": "2026-01-01T00:01:20Z",
            "leaves": null, "leavesPerSecond": null, "newestLeavesPerSecond": null, "slow": null,
            "expectedLeaves": null, "expectedTicks": null, "audit": null,
            "publishEpoch": "1", "rewardEpoch": "2", "early": [],
        })
    );
    server.at(30);
    server.await_work(0);
    let executing = round(&client.get("/v1/rounds/0"));
    assert_eq!(executing["state"], "executing");
    assert_eq!(executing["members"], "1");
    assert!(executing["leavesPerSecond"].as_u64().unwrap() > 0);
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&executing["expectedLeaves"]) > number(&executing["leaves"]));
    assert!(number(&executing["expectedTicks"]) < 100);
    assert!(number(&executing["audit"]["auditedLeaves"]) <= number(&executing["leaves"]));

    server.at(80);
    let proof = client.await_proof(0).json();
    let published = await_some("the published round", || {
        Some(round(&client.get("/v1/rounds/0"))).filter(|round| round["state"] == "published")
    });
    assert_eq!(published["leaves"], proof["proof"]["leaves"]);
    assert_eq!(published["proofReady"], true);
    // The rest of the round is audited after the publication, and nothing is wrong.
    let audit = await_some("the end of the audit", || {
        let audit = round(&client.get("/v1/rounds/0"))["audit"].clone();
        (audit["auditedLeaves"] == published["leaves"]).then_some(audit)
    });
    assert_eq!(
        audit,
        json!({
            "auditedLeaves": published["leaves"], "trustedLeaves": "0", "lagSeconds": null,
            "workErrors": 0, "logErrors": 0, "auditorErrors": 0, "rollbacks": 0, "lostLeaves": "0",
            "badProofs": 0, "lastEvent": null,
        })
    );
    assert_eq!(published["members"], "1");
    let ids = || -> Vec<Value> {
        let list = round(&client.get("/v1/rounds"));
        list["rounds"]
            .as_array()
            .unwrap()
            .iter()
            .map(|round| round["id"].clone())
            .collect()
    };
    await_some("the list", || (ids() == ["1", "0"]).then_some(()));

    for id in ["2", "00", "x", "18446744073709551615"] {
        let answer = client.get(&format!("/v1/rounds/{id}"));
        answer.assert_error(404, 5, "round not found");
    }
}

#[test]
fn the_list_of_rounds_is_at_most_a_second_old() {
    let (server, _folder) = server();
    let members = || round(&server.client.get("/v1/rounds"))["rounds"][0]["members"].clone();
    assert_eq!(members(), "0");
    server.client.register(&TestNode::new(1));
    server.pass(Duration::from_secs(1));
    assert_eq!(members(), "1");
}

#[test]
fn members_get_a_proof_once_the_round_is_closed() {
    let (server, _folder) = server();
    let client = &server.client;
    let nodes: Vec<_> = (1..=7).map(TestNode::new).collect();
    for node in &nodes {
        client.register(node);
    }
    let path = |round: &str, id: &[u8]| format!("/v1/rounds/{round}/members/{}", hex::encode(id));
    let early = client.get(&path("0", &nodes[0].id()));
    early.assert_error(400, 9, "the round still takes registrations");

    server.at(30);
    server.await_work(0);
    let root: Node = membership::root(&members_of(&nodes)).try_into().unwrap();
    for node in &nodes {
        let answer = client.get(&path("0", &node.id()));
        let json = answer.json();
        assert_eq!(bytes(&json["root"]), root, "{}", answer.body);
        assert_eq!(bytes(&json["challenge"]), node.challenge);
        let proof: Vec<Node> = json["proof"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| bytes(node).try_into().unwrap())
            .collect();
        let index = json["index"].as_u64().unwrap();
        assert!(membership::verify(&root, &node.challenge, index, &proof));
        // In base64, too.
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let key = URL_SAFE_NO_PAD.encode(node.id());
        assert_eq!(
            client.get(&format!("/v1/rounds/0/members/{key}")).json(),
            json
        );
    }
    let stranger = client.get(&path("0", &TestNode::new(8).id()));
    stranger.assert_error(404, 5, "not a member of the round");
    let unknown = client.get(&path("9", &nodes[0].id()));
    unknown.assert_error(404, 5, "round not found");
    for key in ["", "x", "AAAA", "zz"] {
        let answer = client.get(&format!("/v1/rounds/0/members/{key}"));
        assert!([400, 404].contains(&answer.status), "{key}");
    }
}

#[test]
fn the_members_of_a_round_are_listed_once_it_is_closed() {
    let (server, _folder) = server();
    let client = &server.client;
    // More than one piece of the response can hold.
    let mut nodes: Vec<_> = (1..=1100).map(TestNode::new).collect();
    let params = client.pow_params();
    for node in &nodes {
        assert_eq!(client.submit(&node.request(&params)).status, 200);
    }
    nodes.sort_by_key(TestNode::id);
    let path = "/v1/rounds/0/members";
    client
        .get(path)
        .assert_error(400, 9, "the round still takes registrations");
    client
        .get("/v1/rounds/9/members")
        .assert_error(404, 5, "round not found");

    server.at(30);
    server.await_work(0);
    let check = |query: &str, from: usize, listed: &[TestNode]| {
        let answer = client.get(&format!("{path}{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        assert_eq!(
            answer.header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        let json = answer.json();
        assert_eq!(json["roundId"], "0");
        assert_eq!(json["total"], "1100");
        assert_eq!(json["from"], from.to_string(), "{query}");
        let members = json["members"].as_array().unwrap();
        assert_eq!(members.len(), listed.len(), "{query}");
        for (member, node) in members.iter().zip(listed) {
            assert_eq!(bytes(&member["nodeId"]), node.id());
            assert_eq!(bytes(&member["challenge"]), node.challenge);
        }
        let etag = answer.header("etag").unwrap().to_owned();
        let known = client.get_with(&format!("{path}{query}"), "if-none-match", &etag);
        assert_eq!((known.status, known.body.as_str()), (304, ""));
        etag
    };
    let whole = check("", 0, &nodes);
    assert_eq!(check("?limit=1100", 0, &nodes), whole);
    let pages = [
        check("?from=0&limit=600", 0, &nodes[..600]),
        check("?from=600&limit=600", 600, &nodes[600..]),
        check("?limit=1&from=1099", 1099, &nodes[1099..]),
        check("?from=512", 512, &nodes[512..]),
        check("?limit=0", 0, &[]),
        check("?from=1100", 1100, &[]),
        check("?from=99999", 1100, &[]),
    ];
    assert!(!pages.contains(&whole));
    for query in [
        "?from=-1",
        "?limit=x",
        "?from=",
        "?limit=99999999999999999999",
    ] {
        let answer = client.get(&format!("{path}{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.contains("expected a whole number"), "{query}");
    }
    // The order is that of the proof.
    server.at(80);
    let proof = client.await_proof(0).json();
    let listed = client.get(path).json();
    let challenges: Vec<_> = (listed["members"].as_array().unwrap().iter())
        .map(|member| member["challenge"].clone())
        .collect();
    assert_eq!(proof["proof"]["members"], Value::Array(challenges));
}

#[test]
fn registrations_that_are_gone_are_said_to_be() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.keep_registrations = Some(Duration::from_secs(1));
    let server = LocalServer::start(config, 10);
    let node = TestNode::new(1);
    server.client.register(&node);
    server.at(30);
    server.await_work(0);
    server.client.register(&TestNode::new(2));
    let paths = [
        "/v1/rounds/0/members".to_owned(),
        format!("/v1/rounds/0/members/{}", hex::encode(node.id())),
    ];
    server.at(80);
    let proof = server.client.await_proof(0);
    let removed = || {
        let metrics = server.monitoring().get("/metrics").body;
        metrics.contains("\npoet_registrations_removed_total 1\n")
    };
    assert!(!removed());
    // From now on they are cached, too.
    for path in &paths {
        assert_eq!(server.client.get(path).status, 200);
    }
    server.at(82);
    await_some("the removal", || removed().then_some(()));
    for path in &paths {
        server.client.get(path).assert_error(
            410,
            5,
            "the registrations of the round are no longer kept: its challenges, in the same order, \
             are in its proof",
        );
    }
    // The proof stays, and so do the members of rounds that are not over.
    assert_eq!(server.client.get("/v1/proofs/0").body, proof.body);
    server.at(90);
    server.await_work(1);
    let listed = server.client.get("/v1/rounds/1/members").json();
    assert_eq!(listed["total"], "1");
}
