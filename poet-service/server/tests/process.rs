//! The program as users run it: real time, real signals, killed at bad moments.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{fs, net::TcpListener, path::Path, process::Stdio};

use common::{TestNode, await_some, members_of, verify_fetched};
use program::{ServerProcess, command, install};

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

/// Returns the leaves from which the work on a round continued, according to the log.
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
    // Killed with the round still open, right after a response.
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
    // The challenge has changed, unless the next round has ended by now.
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
        // No reported leaf is missing.
        let log = fs::read_to_string(folder.path().join("log.txt")).unwrap();
        let interrupted = log
            .lines()
            .find(|line| line.contains("work interrupted"))
            .unwrap();
        let (_, reported) = interrupted.split_once("leaves=").unwrap();
        leaves = reported.trim().parse().unwrap();
        // An hour's log contains subtrees of 2^k leaves; the last, incomplete one is recomputed.
        let entries = (log_bytes(folder.path(), 0) - 96) / 32;
        let subtree_leaves = leaves.checked_div(entries).unwrap().next_power_of_two();
        leaves -= leaves % subtree_leaves;
    }
}

/// Runs the program. It must fail at the start with `code` and one clear message.
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
    let write = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let file = write("file", b"epoch-duration=30s\nepoch=1s\n");
    let no_text = write("no_text", b"epoch-duration=\xff");
    let no_value = write("no_value", b"[Server]\njsonlog\n");
    let bad_value = write("bad_value", b"cycle-gap=1 hour\n");
    let nobody = "--certifier-pubkey=AAAA";
    let key = "--certifier-pubkey=V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
    fs::create_dir(folder.join("keys")).unwrap();
    let bad_key = write("keys/a.key", b"not a key");
    let keys = folder.join("keys").display().to_string();
    let keys = format!("--trusted-pub-keys-dir-path={keys}");
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let (taken, metrics) = (
        format!("127.0.0.1:{port}"),
        format!("--metrics-port={port}"),
    );
    let listen = "--restlisten=127.0.0.1:0";

    // The options, the exit code, and parts of the one sentence: the option and what is expected.
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["--no-such-option"], 2, &["--no-such-option"]),
        (&["serve"], 2, &["serve"]),
        (&["--epoch-duration"], 2, &["--epoch-duration"]),
        (
            &["--epoch-duration=fast"],
            2,
            &["--epoch-duration", "'fast'", "expected a duration"],
        ),
        (
            &["--cycle-gap=10"],
            2,
            &["--cycle-gap", "unit", "expected a duration"],
        ),
        (
            &["--phase-shift=-1h"],
            2,
            &["--phase-shift", "not negative"],
        ),
        (&["--genesis-time=now"], 2, &["--genesis-time", "RFC 3339"]),
        (
            &["--genesis-time=2023-02-30T00:00:00Z"],
            2,
            &["--genesis-time", "RFC 3339"],
        ),
        (&["--pow=no"], 2, &["--pow", "on or off"]),
        (
            &["--pow-difficulty=1000"],
            2,
            &["--pow-difficulty", "from 0 to 256"],
        ),
        (
            &["--restlisten=8080"],
            2,
            &["--restlisten", "expected host:port"],
        ),
        (
            &["--metrics-port=0x50"],
            2,
            &["--metrics-port", "expected a port"],
        ),
        (
            &["--maxlogfilesize=0"],
            2,
            &["--maxlogfilesize", "from 1 to 1000000"],
        ),
        (
            &[nobody],
            2,
            &["--certifier-pubkey", "expected the base64 form"],
        ),
        (
            &["--epoch-duration=5s", listen],
            1,
            &["cycle-gap is 10s", "shorter than the epoch"],
        ),
        (
            &["--epoch-duration=0s", "--cycle-gap=0s", listen],
            1,
            &["--epoch-duration is 0s", "at least 1ms"],
        ),
        (
            &["--configfile=/no/such/file"],
            1,
            &[
                "--configfile /no/such/file",
                "expected a text of name=value lines",
            ],
        ),
        (&["-c", "/"], 1, &["--configfile /", "expected a text"]),
        (
            &["-c", &no_text],
            1,
            &["--configfile", &no_text, "expected a text"],
        ),
        (
            &["-c", &file],
            1,
            &[&file, "line 2", "unknown option \"epoch\""],
        ),
        (
            &["-c", &no_value],
            1,
            &[&no_value, "line 2", "expected name=value"],
        ),
        (
            &["-c", &bad_value],
            1,
            &[&bad_value, "line 1", "--cycle-gap", "expected a duration"],
        ),
        (
            &["--datadir", &format!("{file}/x"), listen],
            1,
            &[
                "--datadir",
                &file,
                "expected a directory that can be written to",
            ],
        ),
        (
            &["--dbdir", &file, listen],
            1,
            &[
                "--dbdir",
                &file,
                "expected a directory that can be written to",
            ],
        ),
        (
            &["--logdir", &file, listen],
            1,
            &[
                "--logdir",
                &file,
                "expected a directory that can be written to",
            ],
        ),
        // Not even root can write there.
        (
            &["--dbdir=/proc/poet", listen],
            1,
            &[
                "--dbdir /proc/poet",
                "expected a directory that can be written to",
            ],
        ),
        (
            &["--restlisten", &taken],
            1,
            &[
                "--restlisten",
                &taken,
                "expected addresses",
                "a port that is free",
            ],
        ),
        (
            &[listen, "--rpclisten", &taken],
            1,
            &["--rpclisten", &taken, "a port that is free"],
        ),
        (
            &[listen, "--config-rpclisten", &taken],
            1,
            &["--config-rpclisten", &taken, "a port that is free"],
        ),
        (
            &[listen, &metrics],
            1,
            &["--metrics-port", &port.to_string(), "a port that is free"],
        ),
        (
            &["--restlisten=no.such.host.invalid:80"],
            1,
            &["--restlisten no.such.host.invalid:80", "expected addresses"],
        ),
        // A documentation address, which no machine has.
        (
            &["--restlisten=192.0.2.1:80"],
            1,
            &[
                "--restlisten 192.0.2.1:80",
                "expected addresses of this machine",
            ],
        ),
        (&["--pow=off", listen], 1, &["--pow=on"]),
        (&["--backend=abacus", listen], 1, &["abacus", "generic"]),
        (
            &["--certifier-url=http://c"],
            1,
            &["--certifier-pubkey", "expected both"],
        ),
        (&[&keys], 1, &["--trusted-pub-keys-dir-path", &bad_key]),
        (
            &[key, &keys],
            1,
            &[
                "--trusted-pub-keys-dir-path",
                &bad_key,
                "expected the base64 form",
            ],
        ),
        (
            &[key, "--trusted-pub-keys-dir-path=/no/keys"],
            1,
            &[
                "--trusted-pub-keys-dir-path",
                "/no/keys",
                "expected a directory",
            ],
        ),
    ];
    for (options, code, expected) in cases {
        assert_refused(folder, options, *code, expected);
    }
    // None of them left anything that prevents a proper start.
    drop(ServerProcess::start(folder, &[]));
}

#[test]
fn bad_private_keys_are_explained() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let folder = tempfile::tempdir().unwrap();
    let mut halves = ed25519_key();
    halves[40] ^= 1;
    for (value, expected) in [
        (" ", "64-byte"),
        ("c2hvcnQ=", "64-byte"),
        ("not base64", "64-byte"),
        (
            &STANDARD.encode(halves),
            "not the public key of its first half",
        ),
    ] {
        let mut command = command(folder.path());
        command
            .env("POET_PRIVATE_KEY", value)
            .arg("--restlisten=127.0.0.1:0");
        assert_command_refused(&mut command, 1, &["POET_PRIVATE_KEY", expected]);
    }
}

#[test]
fn directories_that_hold_something_else_are_explained_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dbdir = folder.path().join("db");
    let database = dbdir.join("poet.sqlite");
    let refused = |expected: &str| {
        let expected = ["--dbdir", database.to_str().unwrap(), expected];
        assert_refused(folder.path(), &["--restlisten=127.0.0.1:0"], 1, &expected);
    };
    fs::create_dir_all(&database).unwrap();
    refused("expected a file of its own");
    fs::remove_dir(&database).unwrap();

    let foreign = b"no database at all, but somebody's precious text".repeat(100);
    fs::write(&database, &foreign).unwrap();
    refused("expected one of poet-service");
    assert_eq!(fs::read(&database).unwrap(), foreign);
    fs::remove_file(&database).unwrap();

    let newer = rusqlite::Connection::open(&database).unwrap();
    newer.pragma_update(None, "user_version", 999).unwrap();
    drop(newer);
    refused("schema 999");
}

#[test]
fn directories_of_a_go_server_are_not_used_before_they_are_taken_over() {
    let recorded =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../admin/tests/data/go-server/finished");
    let folder = tempfile::tempdir().unwrap();
    let go = |name: &str| recorded.join(name).display().to_string();
    let own = folder.path().join("own");
    // Both, or one of them with a new one.
    for (name, flag) in [
        ("data/state.bin", "--datadir"),
        ("db/proofs/CURRENT", "--dbdir"),
    ] {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::copy(go(name), &file).unwrap();
        let directory = folder.path().join(name.split('/').next().unwrap());
        let directory = directory.display().to_string();
        let expected = [
            flag,
            &directory,
            "a Go server",
            "`poet-service import` first",
        ];
        let option = format!("{flag}={directory}");
        assert_refused(&own, &[&option, "--restlisten=127.0.0.1:0"], 1, &expected);
    }
    // With a database next to it, it has been imported, or must not be.
    let database = ServerProcess::start(&own, &[]);
    database.signal("TERM");
    let option = format!("--datadir={}", folder.path().join("data").display());
    drop(ServerProcess::start(&own, &[&option]));
}

/// The start of a service whose user may not write, or not listen.
#[test]
fn missing_permissions_are_explained() {
    use std::os::unix::{fs::PermissionsExt as _, process::CommandExt as _};
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(folder.path(), 0o755);
    let program = folder.path().join("poet-service");
    install(env!("CARGO_BIN_EXE_poet-service").as_ref(), &program);
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).unwrap();
    mode(&closed, 0o555);
    let secret = folder.path().join("secret");
    fs::write(&secret, "jsonlog=true\n").unwrap();
    mode(&secret, 0o000);
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    mode(&own, 0o777);
    let command = |options: &[&str]| {
        let mut command = std::process::Command::new(&program);
        command
            .arg(format!("--poetdir={}", own.display()))
            .args(["--restlisten=127.0.0.1:0", "--rpclisten=127.0.0.1:0"])
            .arg("--config-rpclisten=127.0.0.1:0")
            .args(options)
            .env_remove("POET_PRIVATE_KEY");
        // Root may do everything, so this runs as another user.
        if rustix::process::geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        }
        command
    };
    let directory = "expected a directory that can be written to";
    for flag in ["--dbdir", "--datadir", "--logdir"] {
        let option = format!("{flag}={}/x", closed.display());
        let expected = [flag, "closed/x", "permission denied", directory];
        assert_command_refused(&mut command(&[&option]), 1, &expected);
    }
    let option = format!("--configfile={}", secret.display());
    let expected = ["--configfile", "permission denied", "expected a text"];
    assert_command_refused(&mut command(&[&option]), 1, &expected);
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

    // A pipe without a writer delays neither the reload nor the end.
    let made = std::process::Command::new("mkfifo")
        .arg(keys.join("x.key"))
        .status();
    assert!(made.unwrap().success());
    server.send_signal("HUP");
    await_some("the complaint", || {
        let log = server.log();
        log.contains("x.key is not a regular file").then_some(())
    });
    assert_eq!(server.signal("TERM").code(), Some(0));
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
    let key = poet_proto::identity::PrivateKey::generate().unwrap();
    let mut with_key = command(folder);
    with_key
        .env("POET_PRIVATE_KEY", STANDARD.encode(key.to_bytes()))
        .arg(listen);
    assert_command_refused(
        &mut with_key,
        1,
        &["--dbdir", "POET_PRIVATE_KEY", "expected the same one"],
    );
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
    // The last value of a repeated option counts.
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
        let key = poet_proto::identity::PrivateKey::from_bytes(&ed25519_key()).unwrap();
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
    // Nothing was created.
    assert!(!folder.path().join("db").exists() && !folder.path().join("logs").exists());

    // What the server would refuse.
    for (option, exit_code, expected) in [
        ("--cycle-gap=2h", 1, "expected a gap shorter than the epoch"),
        ("--backend=abacus", 1, "abacus"),
        (
            "--restlisten=:50002",
            1,
            "--restlisten and --rpclisten are given the same port 50002",
        ),
        (
            "--metrics-port=50001",
            1,
            "--config-rpclisten and --metrics-port are given the same port 50001",
        ),
        (
            "--dbdir=$POET_NO_SUCH/db",
            2,
            "the environment variable POET_NO_SUCH is not set",
        ),
    ] {
        let (code, _, error) = check(&[option]);
        assert_eq!(code, Some(exit_code), "{option}");
        assert!(error.contains(expected), "{error}");
    }
}

/// Cores are checked only on Linux.
#[cfg(target_os = "linux")]
#[test]
fn check_config_finds_a_core_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let check = |core: &str| {
        let mut command = command(folder.path());
        // The command comes first, and the last value of a repeated option counts.
        let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        command = std::process::Command::new(command.get_program());
        command.arg("check-config").args(arguments);
        command.arg(format!("--work-core={core}")).output().unwrap()
    };
    let output = check("1023");
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--work-core 1023 is not a core"), "{error}");
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..1023).find(|core| allowed.is_set(*core)).unwrap();
    assert_eq!(check(&core.to_string()).status.code(), Some(0));
}

#[cfg(unix)]
#[test]
fn directories_logs_and_locks_are_private_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    // A folder that the server creates, and an existing one that is open to all.
    for (name, open) in [("new", false), ("open", true)] {
        let poetdir = folder.path().join(name);
        for directory in ["data", "db", "logs"].map(|name| poetdir.join(name)) {
            if open {
                fs::create_dir_all(&directory).unwrap();
                fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
            }
        }
        let server = command(&poetdir);
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", "umask 0; exec \"$0\" \"$@\""])
            .arg(server.get_program())
            .args(server.get_args())
            .args(["--restlisten=127.0.0.1:0", "--phase-shift=500ms"]);
        let mut child = shell.stderr(std::process::Stdio::null()).spawn().unwrap();
        let work = poetdir.join("data/rounds/0/tree.log");
        await_some("the work", || work.exists().then_some(()));
        let files = [
            "data/poet-service.lock",
            "db/poet-service.lock",
            "db/poet.sqlite",
            "logs/poet.log",
        ];
        for file in files.map(|file| poetdir.join(file)) {
            assert_eq!(mode(&file), 0o600, "{}", file.display());
        }
        let made = if open {
            &["data/rounds"][..]
        } else {
            &["", "data", "db", "logs", "data/rounds"]
        };
        for directory in made.iter().map(|name| poetdir.join(name)) {
            assert_eq!(mode(&directory), 0o700, "{}", directory.display());
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn an_empty_private_key_is_none() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .arg("check-config")
        .env("POET_PRIVATE_KEY", "")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("POET_PRIVATE_KEY"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words, ["POET_PRIVATE_KEY", "(unset)", "default"]);
}

#[test]
fn log_files_are_rotated_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let logs = folder.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let names = || {
        let entries = fs::read_dir(&logs).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    };
    let fill = |name: &str| {
        fs::write(logs.join("poet.log"), vec![name.as_bytes()[0]; 999_999]).unwrap();
    };
    let first_byte = |file: &str| fs::read(logs.join(file)).unwrap()[0];
    // Another line does not fit into 1 MB: three starts, each on a full log.
    for name in ["a", "b", "c"] {
        fill(name);
        let options = ["--maxlogfiles=2", "--maxlogfilesize=1"];
        ServerProcess::start(folder.path(), &options).kill();
    }
    assert_eq!(names(), ["poet.log", "poet.log.1", "poet.log.2"]);
    assert_eq!(
        (first_byte("poet.log.1"), first_byte("poet.log.2")),
        (b'c', b'b')
    );
    // It would fit into the 10 MB of the default, and without rotation nothing is too long.
    for options in [&[][..], &["--maxlogfiles=0", "--maxlogfilesize=1"]] {
        fill("d");
        ServerProcess::start(folder.path(), options).kill();
        assert_eq!(first_byte("poet.log"), b'd');
        assert_eq!(first_byte("poet.log.1"), b'c');
    }
}

#[test]
fn requests_are_named_in_answers_and_logs() {
    for json in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let options = ["--debuglog", &format!("--jsonlog={json}")];
        let server = ServerProcess::start(folder.path(), &options);
        let header = "x-request-id";
        // An id from a proxy is kept, one that could break a log line is not.
        let given = server.client.get_with("/v1/info", header, "proxy-1");
        assert_eq!(given.header(header), Some("proxy-1"));
        let broken = server.client.get_with("/v1/info", header, "a \"b\"");
        let made = broken.header(header).unwrap().to_owned();
        assert!(!made.contains(' ') && made.len() > 8, "{made}");
        // Errors have one, too, and so have unknown paths.
        let refused = server.client.post("/v1/submit", "{");
        let refused_id = refused.header(header).unwrap().to_owned();
        assert_ne!(refused_id, made);
        let unknown = server.client.get_with("/nowhere", header, "proxy-2");
        assert_eq!(
            (unknown.status, unknown.header(header)),
            (404, Some("proxy-2"))
        );

        let lines = |id: &str| -> Vec<String> {
            let log = server.log();
            let about = log.lines().filter(|line| line.contains(id));
            about.map(str::to_owned).collect()
        };
        for id in ["proxy-1", "proxy-2", &made] {
            await_some("the line about a request", || lines(id).pop());
        }
        // Every log line about a request contains its name.
        let about = await_some("both lines about a request", || {
            Some(lines(&refused_id)).filter(|about| about.len() == 2)
        });
        assert!(about[0].contains("registration refused"), "{about:?}");
        assert!(about[1].contains("answered"), "{about:?}");
        if json {
            let entry: serde_json::Value = serde_json::from_str(&about[0]).unwrap();
            assert_eq!(entry["span"]["id"], *refused_id);
            let entry: serde_json::Value = serde_json::from_str(&about[1]).unwrap();
            assert_eq!(entry["span"]["id"], *refused_id);
            assert_eq!(
                (&entry["status"], &entry["path"]),
                (&400.into(), &"/v1/submit".into())
            );
        } else {
            let named = format!("request{{id=\"{refused_id}\"}}");
            assert!(about.iter().all(|line| line.contains(&named)), "{about:?}");
        }
        // Text from a client never begins a line.
        let forged = "{\"pubkey\":[\n\"2026-01-01 ERROR forged\"]}";
        assert_eq!(server.client.post("/v1/submit", forged).status, 400);
        let line = await_some("the line that quotes it", || lines("ERROR forged").pop());
        assert!(line.contains("registration refused"), "{line}");
        let file = fs::read_to_string(folder.path().join("logs/poet.log")).unwrap();
        assert!(file.contains(&refused_id));
    }
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
