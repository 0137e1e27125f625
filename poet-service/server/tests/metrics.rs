//! The metrics for monitoring.
#![allow(clippy::unwrap_used)]

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{Client, LocalServer, TestNode, await_some, certifier, config};
use serde_json::json;

/// Returns the value of the sample with this name and labels.
fn value(text: &str, sample: &str) -> Option<f64> {
    let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
    let (_, value) = lines.find(|(name, _)| *name == sample)?;
    value.parse().ok()
}

#[test]
fn the_names_of_existing_dashboards_and_new_ones() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 10);
    let monitoring = server.monitoring();
    let scrape = || {
        let answer = monitoring.get("/metrics");
        assert_eq!(answer.status, 200);
        // Like the original server: a reader of this format knows counters by their names.
        let kind = answer.header("content-type").unwrap();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        answer.body
    };

    let params = server.client.pow_params();
    let node = TestNode::new(1);
    assert_eq!(server.client.register(&node), 0);
    let mut bad = node.request(&params);
    bad["powParams"] = json!(null);
    assert_eq!(server.client.submit(&bad).status, 400);
    assert_eq!(server.client.get("/v1/proofs/0").status, 404);
    // Unknown paths create no new series.
    assert_eq!(server.client.get("/v1/anything").status, 404);

    let text = scrape();
    let handled = |method: &str, code: &str| {
        value(
            &text,
            &format!(
                "grpc_server_handled_total{{grpc_service=\"rpc.api.v1.PoetService\",\
                 grpc_method=\"{method}\",grpc_type=\"unary\",grpc_code=\"{code}\"}}"
            ),
        )
    };
    assert_eq!(handled("Submit", "OK"), Some(1.0), "{text}");
    assert_eq!(handled("Submit", "InvalidArgument"), Some(1.0), "{text}");
    assert_eq!(handled("Proof", "NotFound"), Some(1.0), "{text}");
    assert!(!text.contains("anything"), "{text}");
    for (sample, expected) in [
        ("poet_registration_with_pow_total{result=\"valid\"}", 1.0),
        ("poet_registration_with_pow_total{result=\"invalid\"}", 1.0),
        ("poet_round_members_total{id=\"0\"}", 1.0),
        ("poet_storage_queue", 0.0),
        ("poet_worker_queue", 0.0),
    ] {
        assert_eq!(value(&text, sample), Some(expected), "{sample}: {text}");
    }
    for sample in [
        "poet_round_batch_write_latency_seconds_count",
        "poet_storage_bytes",
        "poet_database_wal_bytes",
        "poet_dbdir_free_bytes",
        "poet_datadir_free_bytes",
    ] {
        assert!(value(&text, sample).unwrap() > 0.0, "{sample}: {text}");
    }
    let labels =
        "grpc_service=\"rpc.api.v1.PoetService\",grpc_method=\"Submit\",grpc_type=\"unary\"";
    for (sample, expected) in [
        (
            format!("grpc_server_handling_seconds_bucket{{le=\"+Inf\",{labels}}}"),
            2.0,
        ),
        (
            format!("grpc_server_handling_seconds_count{{{labels}}}"),
            2.0,
        ),
        (
            "poet_round_batch_write_latency_seconds_bucket{le=\"+Inf\"}".to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(value(&text, &sample), Some(expected), "{sample}: {text}");
    }
    // The bounds of the original server.
    for bound in [
        "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10",
    ] {
        let sample = format!("grpc_server_handling_seconds_bucket{{le=\"{bound}\",{labels}}}");
        assert!(value(&text, &sample).is_some(), "{sample}: {text}");
    }
    for (name, kind) in [
        ("poet_round_members_total", "counter"),
        ("poet_registration_with_pow_total", "counter"),
        ("grpc_server_handled_total", "counter"),
        ("grpc_server_handling_seconds", "histogram"),
        ("poet_round_batch_write_latency_seconds", "histogram"),
        ("poet_storage_queue", "gauge"),
    ] {
        let described = format!("\n# TYPE {name} {kind}\n");
        assert!(text.contains(&described), "{described}: {text}");
    }

    server.at(30);
    server.await_work(0);
    let thread = folder.path().join("data/round.tid");
    if cfg!(target_os = "linux") {
        let id = std::fs::read_to_string(&thread).unwrap();
        let name = std::fs::read_to_string(format!("/proc/self/task/{id}/comm")).unwrap();
        assert_eq!(name, "hash\n");
    }
    let text = scrape();
    for name in [
        "poet_round_leaves_total",
        "poet_round_leaves_per_second",
        "poet_round_newest_leaves_per_second",
        "poet_round_expected_leaves",
    ] {
        let sample = format!("{name}{{id=\"0\"}}");
        assert!(value(&text, &sample).unwrap() > 0.0, "{sample}: {text}");
    }
    assert_eq!(value(&text, "poet_round_slow{id=\"0\"}"), Some(0.0));
    assert!(value(&text, "poet_round_expected_ticks{id=\"0\"}").is_some());
    assert!(value(&text, "poet_round_log_age_seconds{id=\"0\"}").unwrap() < 60.0);
    assert_eq!(
        value(&text, "poet_round_members_total{id=\"0\"}"),
        Some(1.0)
    );
    assert_eq!(
        value(&text, "poet_round_members_total{id=\"1\"}"),
        Some(0.0)
    );

    // The clock advances to 7 seconds after the round's end.
    server.at(87);
    server.client.await_proof(0);
    await_some("the lateness", || {
        (value(&scrape(), "poet_proof_lateness_seconds") == Some(7.0)).then_some(())
    });
    assert!(!thread.exists());
}

#[test]
fn open_metrics_is_for_those_who_ask_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 10);
    let monitoring = server.monitoring();
    // As Prometheus requests it.
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4";
    let answer = monitoring.get_with("/metrics", "accept", accept);
    let kind = answer.header("content-type").unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(
        answer
            .body
            .contains("\n# TYPE poet_round_members counter\n")
    );
    assert!(
        answer
            .body
            .contains("\npoet_round_members_total{id=\"0\"} 0\n")
    );
    assert!(answer.body.ends_with("# EOF\n"), "{}", answer.body);
}

#[test]
fn certificates_and_the_operators_calls_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.rules.certifier = Some(certifier());
    let server = LocalServer::start(config, 10);
    let params = server.client.pow_params();
    for (number, status) in [(1, 200), (2, 401), (3, 401)] {
        // All of them carry the certificate of the first one.
        let (data, signature, _) = TestNode::new(1).certificate(7);
        let mut request = TestNode::new(number).request(&params);
        request["certificate"] =
            json!({"data": STANDARD.encode(data), "signature": STANDARD.encode(signature)});
        assert_eq!(server.client.submit(&request).status, status);
    }
    let private = Client::new(&format!("http://{}", server.addresses.private));
    assert_eq!(private.post("/v1/reload_trusted_keys", "").status, 400);
    let text = server.monitoring().get("/metrics").body;
    let poet = "grpc_service=\"rpc.api.v1.PoetService\",grpc_method=\"Submit\"";
    let operator =
        "grpc_service=\"rpc.api.v1.ConfigurationService\",grpc_method=\"ReloadTrustedKeys\"";
    let handled = |method: &str, code: &str| {
        format!("grpc_server_handled_total{{{method},grpc_type=\"unary\",grpc_code=\"{code}\"}}")
    };
    for (sample, expected) in [
        ("poet_registration_with_cert_total{result=\"valid\"}", 1.0),
        ("poet_registration_with_cert_total{result=\"invalid\"}", 2.0),
        (&handled(poet, "Unauthenticated"), 2.0),
        (&handled(operator, "FailedPrecondition"), 1.0),
    ] {
        assert_eq!(value(&text, sample), Some(expected), "{sample}: {text}");
    }
    // Without any, there is no series: monitoring can distinguish that from zero.
    assert!(
        !text.contains("poet_registration_with_pow_total{"),
        "{text}"
    );
}

#[test]
fn without_a_port_nothing_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.listeners.metrics = None;
    let server = LocalServer::start(config, 10);
    assert!(server.addresses.metrics.is_none());
    assert_eq!(server.client.get("/metrics").status, 404);
}

#[test]
fn escaped_paths_count_as_what_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = LocalServer::start(config(folder.path()), 0);
    for path in ["/v1/info", "/v1/%69nfo", "/v1/%2569nfo"] {
        server.client.get(path);
    }
    let text = server.monitoring().get("/metrics").body;
    let counted = text
        .lines()
        .find(|line| line.starts_with("grpc_server_handled_total") && line.contains("\"Info\""));
    // The third one names nothing.
    assert!(counted.unwrap().ends_with(" 2"), "{counted:?}");
}
