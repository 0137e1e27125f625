//! The program as it is run: real time, real signals, killed at bad moments.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;

use std::{fs, net::TcpListener, path::Path, process::Stdio};

use common::{ServerProcess, TestNode, await_some, command, members_of, verify_fetched};

/// The size of the tree log of `round`.
fn log_bytes(folder: &Path, round: u64) -> u64 {
    let log = folder.join(format!("data/rounds/{round}/tree.log"));
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Waits until more than `bytes` of the work on `round` are in its log.
fn await_log(folder: &Path, round: u64, bytes: u64) -> u64 {
    await_some("the log", || {
        Some(log_bytes(folder, round)).filter(|size| *size > bytes)
    })
}

/// The leaves from which the work on a round went on, as the log says it.
fn resumed_leaves(server: &ServerProcess) -> u64 {
    await_some("the start of the work", || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains(" working "))?;
        let (_, rest) = line.split_once("leaves=")?;
        rest.split(' ').next()?.parse().ok()
    })
}

#[test]
fn a_round_survives_sigkill_and_its_proof_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let schedule = [
        "--epoch-duration=10s",
        "--phase-shift=5s",
        "--cycle-gap=4s",
        "--pow-difficulty=3",
    ];
    let server = ServerProcess::start(folder, &schedule);
    let nodes: Vec<_> = (1..=7).map(TestNode::new).collect();
    for node in &nodes {
        assert_eq!(server.client.register(node), 0);
    }
    // Killed with the round still open, right after an answer.
    server.kill();

    let server = ServerProcess::start(folder, &schedule);
    let conflicting = nodes[6].with_challenge([1; 32]);
    let answer = server
        .client
        .submit(&conflicting.request(&server.client.pow_params()));
    answer.assert_error(409, 6, "conflicting registration");

    // Killed in the middle of the work.
    let durable_bytes = await_log(folder, 0, 64 * 1024);
    server.kill();
    let server = ServerProcess::start(folder, &schedule);
    let resumed = resumed_leaves(&server);
    assert!(
        resumed >= (durable_bytes - 96) / 32,
        "{resumed} leaves of {durable_bytes} bytes"
    );

    let proof = server.client.await_proof(0);
    server.kill();
    let fetched = verify_fetched(&proof);
    assert_eq!(fetched.members, members_of(&nodes));
    assert!(fetched.leaves > resumed);

    // Killed right after the publication.
    let server = ServerProcess::start(folder, &schedule);
    assert_eq!(server.client.get("/v1/proofs/0").body, proof.body);
    // The challenge is rotated, unless the next round has ended by now.
    let challenge = server.client.pow_params().challenge;
    if server.client.get("/v1/proofs/1").status == 404 {
        assert_eq!(challenge, fetched.root);
    }
}

#[test]
fn signals_end_the_server_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["--epoch-duration=1h", "--phase-shift=500ms"];
    let mut leaves = 0;
    for signal in ["TERM", "INT"] {
        let server = ServerProcess::start(folder.path(), &schedule);
        let resumed = resumed_leaves(&server);
        assert!(resumed >= leaves);
        await_log(folder.path(), 0, log_bytes(folder.path(), 0) + 4096);
        let status = server.signal(signal);
        assert_eq!(status.code(), Some(0), "SIG{signal}");
        // Not a leaf that was reported is missing.
        let log = fs::read_to_string(folder.path().join("log.txt")).unwrap();
        let interrupted = log
            .lines()
            .find(|line| line.contains("work interrupted"))
            .unwrap();
        let (_, reported) = interrupted.split_once("leaves=").unwrap();
        leaves = reported.trim().parse().unwrap();
        // An hour's log keeps subtrees of 2^k leaves; the last, incomplete one is redone.
        let entries = (log_bytes(folder.path(), 0) - 96) / 32;
        let subtree_leaves = leaves.checked_div(entries).unwrap().next_power_of_two();
        leaves -= leaves % subtree_leaves;
    }
}

/// Runs the program and expects it to fail at the start with `code` and one clear message.
#[track_caller]
fn assert_refused(folder: &Path, options: &[&str], code: i32, expected: &[&str]) {
    assert_command_refused(command(folder).args(options), code, expected);
}

#[track_caller]
fn assert_command_refused(command: &mut std::process::Command, code: i32, expected: &[&str]) {
    let output = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{message}");
    let errors: Vec<_> = message
        .lines()
        .filter(|line| line.contains("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{message}");
    for part in expected {
        assert!(
            errors[0].contains(part),
            "{part:?} is not in: {}",
            errors[0]
        );
    }
    // Said once: no cause is repeated.
    let parts: Vec<_> = errors[0].split(": ").collect();
    let distinct: std::collections::BTreeSet<_> = parts.iter().collect();
    assert_eq!(parts.len(), distinct.len(), "{}", errors[0]);
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn mistakes_are_explained() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = folder.join("file");
    fs::write(&file, "epoch-duration=30s\nepoch=1s\n").unwrap();
    let file = file.display().to_string();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let listen = "--restlisten=127.0.0.1:0";

    let refused = |options: &[&str], code, expected: &[&str]| {
        assert_refused(folder, options, code, expected);
    };
    refused(&["--no-such-option"], 2, &["--no-such-option"]);
    refused(
        &["--epoch-duration=fast"],
        2,
        &["--epoch-duration", "'fast'", "expected a duration"],
    );
    refused(&["--genesis-time=now"], 2, &["--genesis-time", "RFC 3339"]);
    refused(&["--pow=no"], 2, &["--pow", "on or off"]);
    refused(
        &["--epoch-duration=5s", listen],
        1,
        &["cycle-gap is 10s", "shorter than the epoch"],
    );
    refused(
        &["--configfile=/no/such/file"],
        1,
        &["--configfile /no/such/file"],
    );
    refused(
        &["-c", &file],
        1,
        &[&file, "line 2", "unknown option \"epoch\""],
    );
    refused(
        &["--datadir", &format!("{file}/x"), listen],
        1,
        &["--datadir", &file],
    );
    refused(&["--dbdir", &file, listen], 1, &["--dbdir", &file]);
    refused(&["--restlisten", &taken], 1, &["--restlisten", &taken]);
    refused(
        &[listen, "--rpclisten", &taken],
        1,
        &["--rpclisten", &taken],
    );
    refused(
        &[listen, "--config-rpclisten", &taken],
        1,
        &["--config-rpclisten", &taken],
    );
    refused(
        &["--restlisten=no.such.host.invalid:80"],
        1,
        &["--restlisten no.such.host.invalid:80"],
    );
    refused(&["--logdir", &file, listen], 1, &["--logdir", &file]);
    refused(&["--pow=off", listen], 1, &["--pow=on"]);
    refused(&["--backend=abacus", listen], 1, &["abacus", "generic"]);
    refused(&["--certifier-url=http://c"], 1, &["--certifier-pubkey"]);
    let mut with_key = command(folder);
    with_key.env("POET_PRIVATE_KEY", "c2hvcnQ=").arg(listen);
    assert_command_refused(&mut with_key, 1, &["POET_PRIVATE_KEY", "64-byte"]);
}

#[test]
fn trusted_keys_are_read_again_on_sighup() {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let key = "V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
    let server = ServerProcess::start(
        folder.path(),
        &[
            "--epoch-duration=1h",
            &format!("--certifier-pubkey={key}"),
            &format!("--trusted-pub-keys-dir-path={}", keys.display()),
        ],
    );
    fs::write(keys.join("a.key"), "nonsense").unwrap();
    server.send_signal("HUP");
    await_some("the complaint", || {
        let log = server.log();
        (log.contains("the trusted keys are unchanged") && log.contains("a.key")).then_some(())
    });
    fs::write(keys.join("a.key"), key).unwrap();
    server.send_signal("HUP");
    await_some("the keys", || {
        server
            .log()
            .contains("trusted keys reloaded keys=1")
            .then_some(())
    });
    assert_eq!(server.client.get("/v1/info").status, 200);
}

#[test]
fn directories_belong_to_one_server_one_key_and_one_schedule() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let server = ServerProcess::start(folder, &[]);
    let listen = "--restlisten=127.0.0.1:0";
    assert_refused(
        folder,
        &[listen],
        1,
        &["--dbdir", "in use by another poet-service (process "],
    );
    let other_db = format!("--dbdir={}", folder.join("other").display());
    assert_refused(
        folder,
        &[listen, &other_db],
        1,
        &["--datadir", "in use by another"],
    );
    server.kill();

    // A lock does not outlive its process.
    ServerProcess::start(folder, &[]).kill();
    assert_refused(
        folder,
        &[listen, "--epoch-duration=40s"],
        1,
        &[
            "--dbdir",
            "another schedule",
            "epoch-duration=30s",
            "epoch-duration=40s",
        ],
    );
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let key = poet_service::identity::PrivateKey::generate().unwrap();
    let mut with_key = command(folder);
    with_key
        .env("POET_PRIVATE_KEY", STANDARD.encode(key.to_bytes()))
        .arg(listen);
    assert_command_refused(&mut with_key, 1, &["--dbdir", "POET_PRIVATE_KEY"]);
}

#[test]
fn options_without_effect_are_named_in_one_warning_and_logs_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(
        folder.path(),
        &[
            "--lps=5",
            "--memory=26",
            "--tree-file-buffer=9",
            "--pow-difficulty=1",
            "--pow-difficulty=2",
        ],
    );
    // Of an option that is given twice, the last one counts.
    assert_eq!(server.client.pow_params().difficulty, 2);
    let warning = "without effect here: --lps, --memory, --tree-file-buffer";
    assert_eq!(server.log().matches(warning).count(), 1, "{}", server.log());
    let file = fs::read_to_string(folder.path().join("logs/poet.log")).unwrap();
    assert!(file.contains(warning) && !file.contains('\u{1b}'), "{file}");
}

#[test]
fn check_config_says_what_counts_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("poet.conf");
    fs::write(
        &file,
        "; ours\nepoch-duration=\"1h\"\nlps=7\npow-difficulty=3\n",
    )
    .unwrap();
    let check = |options: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_poet-service"));
        let key = poet_service::identity::PrivateKey::from_bytes(&ed25519_key()).unwrap();
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        command
            .args(["check-config", "-c"])
            .arg(&file)
            .arg(format!("--poetdir={}", folder.path().display()))
            .args(options)
            .env("POET_PRIVATE_KEY", STANDARD.encode(key.to_bytes()));
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            !text.contains(&STANDARD.encode(key.to_bytes())),
            "the key is secret"
        );
        (
            output.status.code(),
            text,
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, text, warnings) = check(&["--pow-difficulty=4"]);
    assert_eq!(code, Some(0), "{warnings}");
    let line = |name: &str| {
        let mut lines = text
            .lines()
            .filter(|line| line.split(' ').next() == Some(name));
        let line = lines.next().unwrap_or_else(|| panic!("{name}: {text}"));
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let file = file.display();
    assert_eq!(line("epoch-duration"), format!("1h0m0s {file}, line 2"));
    assert_eq!(line("pow-difficulty"), "4 command line");
    assert_eq!(line("cycle-gap"), "10s default");
    assert_eq!(line("certifier-url"), "(unset) default");
    assert!(line("POET_PRIVATE_KEY").ends_with("= environment"));
    assert_eq!(warnings, "WARNING: without effect here: --lps\n");
    // Nothing was made.
    assert!(!folder.path().join("db").exists() && !folder.path().join("logs").exists());

    let (code, _, error) = check(&["--cycle-gap=2h"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("expected a gap shorter than the epoch"),
        "{error}"
    );
}

/// A private key that is always the same.
fn ed25519_key() -> [u8; 64] {
    ed25519_dalek::SigningKey::from_bytes(&[5; 32]).to_keypair_bytes()
}

#[test]
fn the_file_is_read_and_the_command_line_wins() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("poet.conf");
    fs::write(
        &file,
        "; a comment\n[Service]\npow-difficulty = 9\nphase-shift=1h\njsonlog=true\n",
    )
    .unwrap();
    let file = file.display().to_string();
    let server = ServerProcess::start(folder.path(), &["-c", &file, "--pow-difficulty=8"]);
    assert_eq!(server.client.pow_params().difficulty, 8);
    assert_eq!(server.client.get("/v1/info").json()["phaseShift"], "3600s");
    let log = server.log();
    for line in log.lines() {
        let entry: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(entry["message"].is_string(), "{line}");
    }
    assert!(
        log.contains("rounds will not line up with any network"),
        "{log}"
    );
}
