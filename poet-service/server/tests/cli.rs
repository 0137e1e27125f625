//! The operator commands, as a user runs them.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use poet_conformance::{report_skipped, skip, vectors};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

fn poet() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_poet-service"));
    command.env_remove("POET_BACKEND");
    command
}

fn run(args: &[&str]) -> Output {
    poet().args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The command fails with this code and a message that contains `needle`; it does not panic.
fn refused(args: &[&str], code: i32, needle: &str) {
    let output = run(args);
    let message = stderr(&output) + &stdout(&output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(message.contains(needle), "{args:?}: {message}");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_str().unwrap().to_owned()
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The vectors as `prove` prints them: the file without `valid`.
fn expected(leaves: u64) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../backends/conformance/vectors/proofs.json");
    let Value::Array(all) = json(&fs::read_to_string(path).unwrap()) else {
        panic!("proofs.json is a list");
    };
    let mut vector = all.into_iter().find(|v| v["leaves"] == leaves).unwrap();
    vector.as_object_mut().unwrap().remove("valid");
    vector
}

#[test]
fn prove_prints_the_golden_proofs_and_verify_accepts_them() {
    let directory = Directory::new();
    for vector in vectors::proofs() {
        let statement = hex::encode(&vector.statement);
        let leaves = vector.leaves.to_string();
        let output = run(&["prove", "--statement", &statement, "--leaves", &leaves]);
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(json(&stdout(&output)), expected(vector.leaves));

        let file = directory.path("proof.json");
        fs::write(&file, &output.stdout).unwrap();
        let output = run(&["verify", &file]);
        if vector.valid {
            let line = format!("valid: {leaves} leaves, 0 ticks of 9331200 leaves\n");
            assert_eq!(stdout(&output), line);
            assert_eq!(output.status.code(), Some(0));
        } else {
            let line = format!("invalid: {leaves} leaves are too few: a proof shows 150\n");
            assert_eq!(stdout(&output), line);
            assert_eq!(output.status.code(), Some(1));
        }
    }
}

#[test]
fn every_option_gives_the_same_proof() {
    let directory = Directory::new();
    let vector = expected(1000);
    let statement = vector["statement"].as_str().unwrap();
    for options in [
        &["--subtree-height", "0"][..],
        &["--subtree-height", "24"],
        &["--subtree-height", "5", "--threads", "3"],
        &["--backend", "generic"],
        &["--threads", "1"],
    ] {
        let out = directory.path("proof.json");
        let log = directory.path("log");
        let mut args = vec!["prove", "--statement", statement, "--leaves", "1000"];
        args.extend(["--out", &out, "--log", &log]);
        args.extend(options);
        let output = run(&args);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
        assert_eq!(
            json(&fs::read_to_string(&out).unwrap()),
            vector,
            "{options:?}"
        );
        fs::remove_file(out).unwrap();
        fs::remove_file(log).unwrap();
    }
}

/// Starts a long run with a log and waits until the log has some entries.
fn start(log: &str, leaves: &str) -> Child {
    let child = poet()
        .args(["prove", "--statement", "aa", "--leaves", leaves])
        .args(["--subtree-height", "3", "--log", log])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let length = || fs::metadata(log).map_or(0, |metadata| metadata.len());
    let before = length();
    while length() < before.max(96) + 100 * 32 {
        assert!(
            begin.elapsed() < Duration::from_secs(60),
            "the log does not grow"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_where_it_stopped() {
    let directory = Directory::new();
    let log = directory.path("log");
    // More leaves than can be made before the signals arrive.
    let mut killed = start(&log, "100000000");
    killed.kill().unwrap();
    killed.wait().unwrap();

    let interrupted = start(&log, "100000000");
    let interrupt = Command::new("kill")
        .args(["-INT", &interrupted.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    let output = interrupted.wait_with_output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("going on from leaf"), "{message}");
    assert!(
        message.contains("the same command goes on from it"),
        "{message}"
    );

    let entries = (fs::metadata(&log).unwrap().len() - 96) / 32;
    let leaves = (entries * 8 + 1003).to_string();
    let args = [
        "prove",
        "--statement",
        "aa",
        "--leaves",
        &leaves,
        "--subtree-height",
        "3",
    ];
    let resumed = run(&[&args[..], &["--log", &log]].concat());
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    let in_log = format!("going on from leaf {}", entries * 8);
    assert!(stderr(&resumed).contains(&in_log), "{}", stderr(&resumed));
    assert_eq!(stdout(&resumed), stdout(&run(&args)));
}

#[test]
fn a_log_of_something_else_is_refused() {
    let directory = Directory::new();
    let log = directory.path("log");
    let prove = |statement, leaves, k| {
        let args = ["prove", "--statement", statement, "--leaves", leaves];
        [&args[..], &["--subtree-height", k, "--log", &log]].concat()
    };
    assert!(run(&prove("aa", "400", "3")).status.success());
    refused(
        &prove("ab", "400", "3"),
        1,
        "it belongs to another statement",
    );
    refused(
        &prove("aa", "400", "4"),
        1,
        "it has subtree height 3, not 4",
    );
    refused(
        &prove("aa", "399", "3"),
        1,
        "the log stands for 400 leaves already",
    );
    fs::write(&log, "something").unwrap();
    refused(&prove("aa", "400", "3"), 1, "it is not a tree log");
}

#[test]
fn a_wrong_log_entry_makes_no_proof() {
    let directory = Directory::new();
    let log = directory.path("log");
    let out = directory.path("proof.json");
    let args = [
        "prove",
        "--statement",
        "aa",
        "--leaves",
        "1024",
        "--subtree-height",
        "3",
    ];
    let args = [&args[..], &["--log", &log, "--out", &out]].concat();
    assert!(run(&args).status.success());
    fs::remove_file(&out).unwrap();
    let mut bytes = fs::read(&log).unwrap();
    bytes[96 + 32 * 77] ^= 1;
    fs::write(&log, bytes).unwrap();
    let output = run(&args);
    // The tree is made from the log, so only the labels show the damage.
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(!Path::new(&out).exists());
}

#[test]
fn backends_are_listed_with_what_was_found_out_about_them() {
    let listed = run(&["backends"]);
    let text = stdout(&listed);
    assert!(listed.status.success(), "{text}");
    let generic = text
        .lines()
        .find(|line| line.starts_with("generic"))
        .unwrap();
    assert!(generic.contains("passed"), "{text}");
    assert!(text.contains("fastest of the trial"), "{text}");

    let text = stdout(&run(&["backends", "--backend", "generic"]));
    assert!(
        text.contains("one chain: generic (forced by --backend)"),
        "{text}"
    );
    assert!(
        text.contains("many chains: generic (forced by --backend)"),
        "{text}"
    );
    let text = stdout(&run(&["backends", "--no-trial", "--work", "haraka256"]));
    assert!(text.contains("(preference order, trial off)"), "{text}");
    let output = poet()
        .arg("backends")
        .env("POET_BACKEND", "generic")
        .output()
        .unwrap();
    let text = stdout(&output);
    assert!(
        text.contains("one chain: generic (forced by POET_BACKEND)"),
        "{text}"
    );
    refused(
        &["backends", "--backend", "abacus"],
        1,
        "unknown backend \"abacus\"",
    );
}

#[test]
fn a_backend_for_many_chains_does_not_hash_one() {
    let usable = |report: &poet_backends::BackendReport| report.excluded.is_none();
    let reports = poet_backends::survey(poet_engine::WorkFunction::Sha256);
    let many = reports.iter().find(|it| !it.latency && usable(it));
    let Some(many) = many else {
        return report_skipped("this CPU has no backend for many chains only");
    };
    let directory = Directory::new();
    let (poetdir, file) = (directory.path("poet"), directory.path("proof.json"));
    let backend = format!("--backend={}", many.name);
    let reason = "hashes only many chains at once, and this work is one chain";
    for command in [
        &["--poetdir", &poetdir][..],
        &["check-config", "--poetdir", &poetdir],
        &["prove", "--statement=00", "--leaves=150", "--no-trial"],
    ] {
        refused(&[command, &[&backend]].concat(), 1, reason);
    }
    let prove = [
        "prove",
        "--statement=00",
        "--leaves=150",
        "--no-trial",
        "--out",
        &file,
    ];
    let mut command = poet();
    command.args(prove).env("POET_BACKEND", many.name);
    let output = command.output().unwrap();
    assert!(stderr(&output).contains("(forced by POET_BACKEND)"));
    // Verification uses many chains.
    assert!(run(&prove).status.success());
    assert!(run(&["verify", &backend, &file]).status.success());
}

#[test]
fn bad_arguments_are_named() {
    refused(&["prove", "--statement", "aa"], 2, "--leaves");
    refused(
        &["prove", "--statement", "xx", "--leaves", "1"],
        2,
        "not hex",
    );
    refused(
        &["prove", "--statement", "a", "--leaves", "1"],
        2,
        "not hex",
    );
    let prove = ["prove", "--statement", "aa", "--leaves"];
    refused(&[&prove[..], &["0"]].concat(), 2, "--leaves");
    refused(
        &[&prove[..], &["18446744073709551616"]].concat(),
        2,
        "--leaves",
    );
    refused(
        &[&prove[..], &["72057594037927937"]].concat(),
        2,
        "--leaves",
    );
    let prove = ["prove", "--statement", "aa", "--leaves", "200"];
    refused(
        &[&prove[..], &["--subtree-height", "25"]].concat(),
        2,
        "expected 0 to 24",
    );
    refused(
        &[&prove[..], &["--threads", "0"]].concat(),
        2,
        "expected a number from 1",
    );
    refused(
        &[&prove[..], &["--backend", "abacus"]].concat(),
        1,
        "generic",
    );
    refused(&[&prove[..], &["--depth", "0"]].concat(), 2, "--depth");
    refused(
        &[&prove[..], &["--work", "md5"]].concat(),
        2,
        "sha256 or haraka256",
    );
    refused(
        &[&prove[..], &["--log", "/nowhere/log"]].concat(),
        1,
        "/nowhere/log",
    );
    refused(
        &[&prove[..], &["--out", "/nowhere/out"]].concat(),
        1,
        "cannot write --out /nowhere/out: the directory /nowhere does not exist",
    );
    refused(&["prowe"], 2, "prowe");
    let output = poet()
        .args(prove)
        .env("POET_BACKEND", "abacus")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("abacus"), "{}", stderr(&output));
}

#[test]
fn the_output_of_prove_stays_what_it_is() {
    let directory = Directory::new();
    let prove = |out: &str| {
        let leaves = ["prove", "--no-trial", "--statement=aa", "--leaves=200"];
        run(&[&leaves[..], &["--out", out]].concat())
    };
    let proof = prove("-").stdout;
    assert_eq!(prove("/dev/stdout").stdout, proof);
    let shell = |program: &str, path: &str| {
        let status = Command::new(program).arg(path).status().unwrap();
        assert!(status.success());
    };
    let pipe = directory.path("pipe");
    shell("mkfifo", &pipe);
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || fs::read(pipe).unwrap()
    });
    assert!(prove(&pipe).status.success());
    assert_eq!(reader.join().unwrap(), proof);
    let link = directory.path("link");
    std::os::unix::fs::symlink("target", &link).unwrap();
    assert!(prove(&link).status.success());
    assert!(Path::new(&link).is_symlink());
    assert_eq!(fs::read(directory.path("target")).unwrap(), proof);
    // Nothing remains except what was requested.
    assert_eq!(fs::read_dir(directory.0.path()).unwrap().count(), 3);

    // Not the machine's own device: a bug here would break it for everyone.
    let full = directory.path("full");
    let node = Command::new("mknod").args([&full, "c", "1", "7"]).output();
    if !node.is_ok_and(|made| made.status.success()) {
        return skip("no device can be made here");
    }
    let output = prove(&full);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("cannot write --out {full}: no space left on the device");
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    let kind = fs::symlink_metadata(full).unwrap().file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&kind));
}

#[test]
fn the_aes_work_function_has_its_own_proofs() {
    let directory = Directory::new();
    let file = directory.path("proof.json");
    let prove = [
        "prove",
        "--statement",
        "aa",
        "--leaves",
        "200",
        "--out",
        &file,
    ];
    let other = ["--work", "haraka256"];
    assert!(run(&[&prove[..], &other].concat()).status.success());
    let verify = ["verify", &file];
    let valid = run(&[&verify[..], &other].concat());
    assert!(valid.status.success(), "{}", stdout(&valid));
    let made = "made with haraka256 x 1024, not with sha256 x 400";
    refused(&verify, 1, made);
    let depth = ["--work", "haraka256", "--depth", "1023"];
    let made = "made with haraka256 x 1024, not with haraka256 x 1023";
    refused(&[&verify[..], &depth].concat(), 1, made);

    assert!(run(&prove).status.success());
    let made = "is not what haraka256 x 1024 makes";
    refused(&[&verify[..], &other].concat(), 1, made);
}

fn verify_text(text: &str) -> Output {
    let mut child = poet()
        .args(["verify", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn verify_says_what_is_wrong_and_where() {
    let good = expected(256);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        value.to_string()
    };
    assert!(verify_text(&good.to_string()).status.success());

    let leaf = |v: &mut Value, text: &str| v["proven_leaves"][3] = text.into();
    for (text, needle) in [
        (
            String::new(),
            "not JSON: it ends too early, at line 1 column 0",
        ),
        ("{".into(), "line 1 column 1"),
        ("[]".into(), "expected a JSON object, found a list"),
        ("{}".into(), "statement is missing"),
        (
            with(&|v| leaf(v, "00")),
            "proven_leaves[3]: 1 bytes, expected 32",
        ),
        (
            "<html>".into(),
            "not JSON: unexpected text at line 1 column 1",
        ),
        (
            with(&|v| leaf(v, "zz")),
            "proven_leaves[3]: not hex: expected hexadecimal digits, two for each byte",
        ),
        (
            with(&|v| v["proof_nodes"] = 7.into()),
            "proof_nodes: expected a list, found a number",
        ),
        (
            with(&|v| v["root"] = Value::Null),
            "root: expected a string, found null",
        ),
        (
            with(&|v| v["leaves"] = (-1).into()),
            "leaves: expected a whole number",
        ),
        (
            with(&|v| v["leaves"] = 1.5.into()),
            "leaves: expected a whole number",
        ),
        (
            with(&|v| v["proof_nodes"] = vec![Value::Null; 5401].into()),
            "proof_nodes: 5401 entries, at most 5400 are allowed",
        ),
        (
            r#"{"proof": 1}"#.into(),
            "proof: expected an object, found a number",
        ),
        (r#"{"proof": {}}"#.into(), "proof.proof is missing"),
        (
            r#"{"proof": {"proof": {}, "members": ["*"], "leaves": "1"}}"#.into(),
            "proof.members[0]: not base64: expected groups of four characters",
        ),
    ] {
        let output = verify_text(&text);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{needle}: {message}");
        assert!(message.contains(needle), "{needle}: {message}");
        // No texts of libraries.
        for part in ["EOF", "expected value", "Invalid", "Odd number", "offset"] {
            assert!(!message.contains(part), "{message}");
        }
    }
    for (text, needle) in [
        (with(&|v| v["leaves"] = 257.into()), "invalid: "),
        (with(&|v| v["leaves"] = u64::MAX.into()), "invalid: "),
        (
            with(&|v| v["statement"] = "".into()),
            "do not lead to the root",
        ),
        (
            with(&|v| v["proven_leaf_indices"][0] = 200.into()),
            "proven leaf indices",
        ),
        (
            with(&|v| {
                v["work"] = "haraka256".into();
                v["depth"] = 1024.into();
            }),
            "made with haraka256 x 1024, not with sha256 x 400",
        ),
        (
            with(&|v| drop(v["proof_nodes"].as_array_mut().unwrap().pop())),
            "nodes, expected",
        ),
    ] {
        let output = verify_text(&text);
        let message = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{needle}: {message}");
        assert!(
            message.starts_with("invalid: ") && message.contains(needle),
            "{message}"
        );
    }
    refused(&["verify", "/nowhere/proof.json"], 2, "/nowhere/proof.json");
    refused(
        &["verify", env!("CARGO_MANIFEST_DIR")],
        2,
        env!("CARGO_MANIFEST_DIR"),
    );
}

/// What a node stores of the golden proof of 4,097 leaves, encoded by PROTOCOL.md section 5 from
/// its golden bytes.
fn stored_message(service_key: &[u8; 32], round_id: &str, statement: &[u8]) -> Vec<u8> {
    let vectors = vectors::scale_proofs();
    let mut bytes = vectors.last().unwrap().scale_bytes.clone();
    bytes.push(128);
    bytes.extend(service_key);
    bytes.push(4 * round_id.len() as u8);
    bytes.extend(round_id.bytes());
    bytes.extend(statement);
    bytes.extend([0; 64]);
    bytes
}

#[test]
fn verify_recognises_what_it_is_given_and_checks_all_of_it() {
    let directory = Directory::new();
    let file = directory.path("proof");
    let vector = vectors::scale_proofs().pop().unwrap();
    let proofs = vectors::proofs();
    let same = |proof: &&vectors::ProofVector| proof.root == vector.root;
    let statement = &proofs.iter().find(same).unwrap().statement;
    assert_eq!(statement.len(), 32);
    let hex_statement = hex::encode(statement);
    // The base point of the curve: a public key.
    let mut key = [0x66; 32];
    key[0] = 0x58;
    let base64_key = "WGZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=";
    let verify = |bytes: &[u8], options: &[&str], code: i32, said: &str| {
        fs::write(&file, bytes).unwrap();
        let output = run(&[&["verify", &file], options].concat());
        let text = stdout(&output) + &stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{options:?}: {text}");
        assert!(text.contains(said), "{options:?}: {text}");
        text
    };
    let (with_statement, other) = (["--statement", &hex_statement], ["--statement", "00"]);

    let bare = &vector.scale_bytes;
    let text = verify(bare, &with_statement, 0, "valid: 4097 leaves");
    assert!(text.contains("read as a bare proof"), "{text}");
    verify(bare, &[], 2, "expected --statement");
    verify(bare, &other, 1, "invalid: ");
    for origin in [["--round=7", ""], ["--service-key", base64_key]] {
        let origin = origin.into_iter().filter(|option| !option.is_empty());
        let options: Vec<&str> = with_statement.into_iter().chain(origin).collect();
        verify(bare, &options, 1, "invalid: it does not say ");
    }

    let message = stored_message(&key, "7", statement);
    let text = verify(&message, &[], 0, "valid: 4097 leaves");
    let form =
        format!("PoetProofMessage), of round \"7\" of the server with the key {base64_key}\n");
    assert!(text.contains(&form), "{text}");
    verify(&message, &with_statement, 0, "valid");
    verify(
        &message,
        &["--round=7", "--service-key", base64_key],
        0,
        "valid",
    );
    verify(
        &message,
        &["--round=8"],
        1,
        "it is of round 7, not of round 8",
    );
    let another = "V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
    let needle = "not of --service-key";
    verify(&message, &["--service-key", another], 1, needle);
    verify(&message, &other, 1, "it is for the statement");
    let wrong_statement = stored_message(&key, "7", &[1; 32]);
    verify(&wrong_statement, &[], 1, "do not lead to the root");
    for id in ["", "07", "+7", "seven", "18446744073709551616"] {
        let message = stored_message(&key, id, statement);
        verify(&message, &[], 1, "expected a decimal number");
    }
    let no_point = stored_message(&[2; 32], "7", statement);
    verify(&no_point, &[], 1, "no ed25519 public key");
    let mut signed = message.clone();
    *signed.last_mut().unwrap() = 1;
    verify(&signed, &[], 0, "its signature was not checked");
    verify(&message[..message.len() - 1], &[], 2, "the bytes end at");
    verify(
        &[&message[..], &[0]].concat(),
        &[],
        2,
        "there are more bytes",
    );
}

/// The Go server's recorded proof is not valid for its nodes: it let challenges of other lengths
/// into the membership tree. The tree itself is sound.
#[test]
fn the_recorded_proof_is_invalid_because_of_its_members() {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/data/rest.json"]
        .iter()
        .collect();
    let Value::Array(cases) = json(&fs::read_to_string(path).unwrap()) else {
        panic!("rest.json is a list");
    };
    let case = cases
        .iter()
        .find(|case| case["case"] == "proof_wait")
        .unwrap();
    let output = verify_text(&case["response"].to_string());
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("do not lead to the root"),
        "{}",
        stdout(&output)
    );
}

/// The texts of Rust's own errors, and of a crash.
const NOT_FOR_USERS: [&str; 6] = [
    "os error",
    "entity not found",
    "stream did not contain",
    "invalid digit",
    "invalid utf-8",
    "panicked",
];

/// Runs a command that may fail, and checks its words. `{}` in its arguments is the folder. If it is
/// the server, and it serves, it is ended.
fn speaks_plainly(folder: &Path, arguments: &str) {
    let arguments = arguments.replace("{}", folder.to_str().unwrap());
    let mut command = poet();
    command.args(arguments.split(' ')).stdin(Stdio::null());
    command.env_remove("POET_PRIVATE_KEY");
    let stderr = folder.join("stderr");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let mut text = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let line = line.unwrap_or_default();
        if line.starts_with("REST") {
            let pid = Pid::from_child(&child);
            kill_process(pid, Signal::TERM).unwrap();
        }
        text += &line;
    }
    let status = child.wait().unwrap();
    text += &fs::read_to_string(stderr).unwrap();
    for words in NOT_FOR_USERS {
        assert!(!text.contains(words), "{arguments}: {text}");
    }
    match status.code() {
        Some(0) => {}
        Some(1 | 2) => assert!(!text.trim().is_empty(), "{arguments}"),
        _ => panic!("{arguments}: {status}: {text}"),
    }
}

const SERVER: &str =
    "--restlisten=127.0.0.1:0 --rpclisten=127.0.0.1:0 --config-rpclisten=127.0.0.1:0 --no-trial";

/// Makes a server's state in `home`.
fn state(folder: &Path) {
    speaks_plainly(folder, &format!("{SERVER} --poetdir={{}}/home"));
    assert!(folder.join("home/db/poet.sqlite").is_file());
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn binary() -> Vec<u8> {
    (0..=255).cycle().take(2000).collect()
}

#[test]
fn errors_of_files_are_in_plain_words() {
    let made = Directory::new();
    state(made.0.path());
    // `PATH` is a file that is missing, or not what it should be.
    for command in [
        "SERVER --poetdir=PATH",
        "SERVER --poetdir={}/poet --configfile=PATH",
        "SERVER --poetdir={}/poet --datadir=PATH",
        "SERVER --poetdir={}/poet --dbdir=PATH",
        "SERVER --poetdir={}/poet --logdir=PATH",
        "SERVER --poetdir={}/poet --trusted-pub-keys-dir-path=PATH",
        "check-config --poetdir={}/poet --configfile=PATH",
        "check-config --poetdir=PATH",
        "check-config --poetdir={}/poet --trusted-pub-keys-dir-path=PATH",
        "doctor --no-trial --poetdir=PATH",
        "doctor --no-trial --poetdir={}/poet --dbdir=PATH",
        "doctor --no-trial --dbdir={}/home/db --datadir=PATH --repair",
        "backup --no-trial --poetdir={}/home PATH",
        "backup --no-trial --poetdir=PATH {}/backups",
        "restore --no-trial --poetdir={}/new PATH",
        "restore --no-trial --poetdir=PATH {}/backups",
        "import --no-trial --genesis-time=2020-01-01T00:00:00Z --poetdir={}/new --from=PATH",
        "import --no-trial --genesis-time=2020-01-01T00:00:00Z --poetdir={}/new --from={}/go --from-db=PATH",
        "adopt --no-trial --genesis-time=2020-01-01T00:00:00Z --poetdir={}/new --round=1 --from=PATH",
        "verify --no-trial PATH",
        "prove --no-trial --statement=00 --leaves=200 --log=PATH",
        "prove --no-trial --statement=00 --leaves=200 --out=PATH",
        "export --poetdir={}/home --proof=0 --out=PATH",
        "export --poetdir=PATH --proof=0",
        "copy-database --from=PATH --to={}/new",
        "copy-database --from={}/home/db --to=PATH",
        "health --restlisten=127.0.0.1:1 --configfile=PATH",
        "rehearse --restlisten=127.0.0.1:1 --configfile=PATH",
        "schedule --poetdir={}/poet --configfile=PATH",
        "schedule --poetdir=PATH",
        "notify-test --poetdir={}/poet --notify-command=PATH",
    ] {
        for path in [
            "missing/too",
            "directory",
            "empty",
            "binary",
            "binary/below",
        ] {
            let directory = Directory::new();
            let folder = directory.0.path();
            copy(&made.0.path().join("home"), &folder.join("home"));
            for name in ["directory", "go", "go/proofs"] {
                fs::create_dir(folder.join(name)).unwrap();
            }
            fs::write(folder.join("go/state.bin"), "garbage").unwrap();
            fs::write(folder.join("empty"), "").unwrap();
            fs::write(folder.join("binary"), binary()).unwrap();
            let command = command.replace("SERVER", SERVER);
            speaks_plainly(folder, &command.replace("PATH", &format!("{{}}/{path}")));
        }
    }
    // Without a value.
    for command in [
        "--datadir={}/poet --poetdir=",
        "--poetdir={}/poet --configfile=",
        "--poetdir={}/poet --datadir=",
        "--poetdir={}/poet --dbdir=",
        "--poetdir={}/poet --logdir=",
    ] {
        speaks_plainly(made.0.path(), &format!("{SERVER} {command}"));
    }
}

#[test]
fn errors_of_a_servers_own_files_are_in_plain_words() {
    let made = Directory::new();
    state(made.0.path());
    for file in [
        "db/poet.sqlite",
        "db/poet.sqlite-wal",
        "db/poet-service.lock",
        "data/poet-service.owner",
        "data/poet-service.lock",
        "data/rounds",
        "data/state.bin",
    ] {
        for command in [
            "SERVER --poetdir={}/home",
            "doctor --no-trial --repair --poetdir={}/home",
            "backup --no-trial --poetdir={}/home {}/backups",
            "adopt --no-trial --genesis-time=2020-01-01T00:00:00Z --poetdir={}/new --round=0 --from={}/home",
            "copy-database --from={}/home/db --to={}/new",
        ] {
            for is_directory in [true, false] {
                let directory = Directory::new();
                let folder = directory.0.path();
                copy(&made.0.path().join("home"), &folder.join("home"));
                let path = folder.join("home").join(file);
                if path.is_dir() {
                    fs::remove_dir_all(&path).unwrap();
                } else if path.exists() {
                    fs::remove_file(&path).unwrap();
                }
                if is_directory {
                    fs::create_dir(&path).unwrap();
                } else {
                    fs::write(&path, binary()).unwrap();
                }
                speaks_plainly(folder, &command.replace("SERVER", SERVER));
            }
        }
    }
}
