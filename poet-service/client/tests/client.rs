//! `poet-client` with real servers, and with servers that lie, hang, hide proofs or are late.
#![allow(clippy::unwrap_used)]

#[path = "../../server/tests/common/mod.rs"]
mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{LocalServer, TestNode, await_some, config, verify_json};
use ed25519_dalek::SigningKey;
use flate2::{Compression, write::GzEncoder};
use poet_engine::{ProofMessage, ProveProgress, SubtreeHeight, T, Tree, WorkFunction, membership};
use poet_proto::{
    certificate::{Certifier, TrustedKeys},
    identity::{PrivateKey, PublicKey},
    member::{Challenge, NodeId},
    receipt::{Acknowledged, Receipt},
};
use serde_json::{Value, json};
use tempfile::TempDir;

// The client -----------------------------------------------------------------------------------

/// A folder to run the client in, with a node's key and challenge.
struct Node {
    folder: TempDir,
    node: TestNode,
}

/// The result of running the client.
#[derive(Debug)]
struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    #[track_caller]
    fn assert_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        self
    }

    /// Returns the line of the output that begins with `name`.
    #[track_caller]
    fn line(&self, name: &str) -> &str {
        let mut lines = self.out.lines().filter(|line| line.starts_with(name));
        lines.next().unwrap_or_else(|| panic!("{name}: {self:?}"))
    }

    /// Returns the cells of the table row that begins with `name`.
    #[track_caller]
    fn row(&self, name: &str) -> Vec<&str> {
        self.line(name).split_whitespace().collect()
    }
}

impl Node {
    /// Returns the node with this number.
    fn new(number: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        let key = SigningKey::from_bytes(&seed).to_keypair_bytes();
        fs::write(folder.path().join("local.key"), hex::encode(key)).unwrap();
        Self {
            folder,
            node: TestNode::new(number),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_poet-client"));
        for variable in ["http_proxy", "https_proxy", "all_proxy"] {
            command
                .env_remove(variable)
                .env_remove(variable.to_uppercase());
        }
        command
            .current_dir(self.folder.path())
            .args(args)
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Run {
        finish(&mut self.command(args))
    }

    fn register_command(&self, poets: &[&str], more: &[&str]) -> Command {
        let challenge = hex::encode(self.node.challenge);
        let mut command = self.command(&["register", "--key=local.key", "--retry-delay=50ms"]);
        command.args(["--challenge", &challenge]).args(more);
        for poet in poets {
            command.args(["--poet", poet]);
        }
        command
    }

    /// Registers with `poets`, and soon gives up on those that fail.
    fn register(&self, poets: &[&str], more: &[&str]) -> Run {
        finish(&mut self.register_command(poets, more))
    }

    fn collect(&self, more: &[&str]) -> Run {
        finish(self.command(&["collect", "--retry-delay=50ms"]).args(more))
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("poet-client.json")).unwrap()).unwrap()
    }

    /// Returns the servers in the state file and their rounds.
    fn registrations(&self) -> BTreeMap<String, u64> {
        let state = self.state();
        let list = state["registrations"].as_array().unwrap();
        let entry = |it: &Value| {
            let poet = it["poet"].as_str().unwrap().to_owned();
            (poet, it["round"].as_u64().unwrap())
        };
        list.iter().map(entry).collect()
    }

    /// Makes all rounds in the state file end now, so that the test need not wait.
    fn rounds_end_now(&self) {
        let mut state = self.state();
        for registration in state["registrations"].as_array_mut().unwrap() {
            registration["roundEnd"] = json!(now());
            registration["cycleGap"] = json!("0s");
        }
        fs::write(self.path("poet-client.json"), state.to_string()).unwrap();
    }

    /// Returns the proof that was written, which must be valid.
    #[track_caller]
    fn verified_proof(&self) -> Value {
        let json = fs::read(self.path("proof.json")).unwrap();
        let proof = serde_json::from_slice(&json).unwrap();
        verify_json(&proof);
        proof
    }
}

fn now() -> String {
    jiff::Timestamp::try_from(std::time::SystemTime::now())
        .unwrap()
        .to_string()
}

fn finish(command: &mut Command) -> Run {
    let output = command.output().unwrap();
    Run {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Checks that no text of Rust or of a library reaches the user.
#[track_caller]
fn assert_plain(text: &str) {
    for part in [
        "os error",
        "Os {",
        "invalid digit",
        "non-zero type",
        "EOF",
        "Invalid string length",
        "UnknownIssuer",
        "deadline has elapsed",
    ] {
        assert!(!text.contains(part), "{part:?} is in: {text}");
    }
}

/// A client that runs concurrently with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

// Servers --------------------------------------------------------------------------------------

/// The response of a test server.
enum Reply {
    Json(u16, Value),
    /// Status, further header lines, body.
    Raw(u16, String, Vec<u8>),
    /// Nothing, until the client disconnects.
    Nothing,
    /// An endless body, as fast as the client reads.
    Endless,
    /// A body sent byte by byte.
    Drip,
}

impl Reply {
    fn not_found() -> Self {
        Self::Json(
            404,
            json!({"code": 5, "message": "proof not found", "details": []}),
        )
    }

    fn send(self, stream: &mut (impl Read + Write)) -> std::io::Result<()> {
        let head = |status: u16, more: &str, length: &str| {
            format!("HTTP/1.1 {status} Any\r\nconnection: close\r\n{more}{length}\r\n")
        };
        let unknown = "content-length: 1000000000\r\n";
        match self {
            Self::Json(status, json) => {
                Self::Raw(status, String::new(), json.to_string().into_bytes()).send(stream)
            }
            Self::Raw(status, more, body) => {
                let length = format!("content-length: {}\r\n", body.len());
                stream.write_all(head(status, &more, &length).as_bytes())?;
                stream.write_all(&body)?;
                stream.flush()
            }
            Self::Nothing => {
                drop(stream.read(&mut [0]));
                Ok(())
            }
            Self::Endless => {
                let spaces = vec![b' '; 1 << 16];
                stream.write_all(head(200, "", unknown).as_bytes())?;
                loop {
                    stream.write_all(&spaces)?;
                }
            }
            Self::Drip => {
                stream.write_all(head(200, "", unknown).as_bytes())?;
                loop {
                    stream.write_all(b" ")?;
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }
}

/// A server that responds as the test specifies.
struct FakeServer {
    url: String,
    submits: Arc<Mutex<Vec<Value>>>,
}

const FAKE_KEY: [u8; 32] = [0x66; 32];

impl FakeServer {
    /// `answer` gets the method, a space and the path. If it returns nothing, the server responds
    /// like an honest one without a proof.
    fn start(answer: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static) -> Self {
        Self::start_with(Ok, "http://127.0.0.1", answer)
    }

    fn start_with<S: Read + Write>(
        wrap: impl Fn(TcpStream) -> std::io::Result<S> + Send + Sync + 'static,
        host: &str,
        answer: impl Fn(&str) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{host}:{}", listener.local_addr().unwrap().port());
        let submits = Arc::new(Mutex::new(Vec::new()));
        let (shared, log) = (Arc::new((wrap, answer)), Arc::clone(&submits));
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, log) = (Arc::clone(&shared), Arc::clone(&log));
                thread::spawn(move || {
                    let mut stream = shared.0(stream)?;
                    let (request, body) = read_request(&mut stream)?;
                    if request == "POST /v1/submit" {
                        let body = serde_json::from_slice(&body).unwrap();
                        log.lock().unwrap().push(body);
                    }
                    shared.1(&request)
                        .unwrap_or_else(|| honest(&request))
                        .send(&mut stream)
                });
            }
        });
        Self { url, submits }
    }

    fn submits(&self) -> usize {
        self.submits.lock().unwrap().len()
    }
}

fn read_request(stream: &mut impl Read) -> std::io::Result<(String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    let request: Vec<_> = head.split(' ').take(2).collect();
    Ok((
        format!("{} {}", request[0].to_uppercase(), request[1]),
        body,
    ))
}

fn honest(request: &str) -> Reply {
    match request {
        "GET /v1/info" => Reply::Json(200, info(&FAKE_KEY)),
        "GET /v1/pow_params" => Reply::Json(
            200,
            json!({"powParams": {"difficulty": 3, "challenge": STANDARD.encode([9; 32])}}),
        ),
        "POST /v1/submit" => Reply::Json(200, json!({"roundId": "0", "roundEnd": "50s"})),
        _ => Reply::not_found(),
    }
}

/// As the Go server sends it: an empty certifier.
fn info(key: &[u8; 32]) -> Value {
    json!({
        "servicePubkey": STANDARD.encode(key),
        "phaseShift": "30s",
        "cycleGap": "10s",
        "certifier": {"url": "", "pubkey": ""},
        "unknownField": [1, {"deep": null}],
    })
}

fn error(status: u16, message: &str) -> Reply {
    Reply::Json(
        status,
        json!({"code": 3, "message": message, "details": []}),
    )
}

/// An address where nothing listens.
fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Starts a real server, 5 seconds before the start of round 0. Returns it and its address.
fn real_server(folder: &Path) -> (LocalServer, String) {
    let server = LocalServer::start(config(folder), 25);
    let url = format!("http://{}", server.addresses.rest);
    (server, url)
}

/// Lets `server` work on round 0 until its end, and returns the proof.
fn work(server: &LocalServer) -> Value {
    server.at(30);
    server.await_work(0);
    server.at(80);
    server.client.await_proof(0).json()
}

fn leaves(proof: &Value) -> u64 {
    proof["proof"]["leaves"].as_str().unwrap().parse().unwrap()
}

/// Returns a proof of many leaves for the node's challenge in which only the labels are wrong: each
/// takes one hash instead of 400.
fn without_work(node: &Node) -> Value {
    let challenge = node.node.challenge;
    let work = poet_backends::select(WorkFunction::Sha256, Some("generic"))
        .unwrap()
        .work(1)
        .unwrap();
    let subtree_height = SubtreeHeight::new(10).unwrap();
    let mut tree = Tree::new(&work, &challenge);
    let mut log = Vec::new();
    let leaves = 1_000_000;
    let (target, counted) = (AtomicU64::new(leaves), AtomicU64::new(0));
    poet_engine::run(&mut tree, subtree_height, &target, &counted, |root| {
        log.push(root);
    });
    let proof = poet_engine::prove(
        &tree,
        subtree_height,
        &mut log.as_slice(),
        T,
        1,
        &ProveProgress::default(),
    )
    .unwrap();
    let base64 = |node: &[u8; 32]| STANDARD.encode(node);
    let list = |nodes: &[[u8; 32]]| -> Vec<_> { nodes.iter().map(base64).collect() };
    json!({
        "proof": {
            "proof": {
                "root": base64(&proof.root),
                "provenLeaves": list(&proof.proven_leaves),
                "proofNodes": list(&proof.proof_nodes),
            },
            // With a single member, the statement is the challenge.
            "members": [base64(&challenge)],
            "leaves": leaves.to_string(),
        },
        "pubkey": STANDARD.encode(FAKE_KEY),
    })
}

// Register, collect ----------------------------------------------------------------------------

#[test]
fn the_best_of_all_valid_proofs_is_kept_whatever_the_others_do() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let (first, first_url) = real_server(folders[0].path());
    let (second, second_url) = real_server(folders[1].path());
    let (elsewhere, _) = real_server(folders[2].path());
    let node = Node::new(1);
    for other in 2..=4 {
        first.client.register(&TestNode::new(other));
        elsewhere.client.register(&TestNode::new(other));
    }

    // The proofs of the lying servers and of the late one are derived from a real one, below.
    let proofs: Arc<Mutex<BTreeMap<&str, Value>>> = Arc::default();
    let serving = |name: &'static str, key: [u8; 32]| {
        let proofs = Arc::clone(&proofs);
        FakeServer::start(move |request| match request {
            "GET /v1/info" => Some(Reply::Json(200, info(&key))),
            "GET /v1/proofs/0" => Some(Reply::Json(200, proofs.lock().unwrap().get(name)?.clone())),
            _ => None,
        })
    };
    let names = [
        "members",
        "label",
        "leaves",
        "without us",
        "identity",
        "junk nodes",
        "no work",
    ];
    let liars = names.map(|name| (name, serving(name, FAKE_KEY)));
    let garbage = FakeServer::start(|request| {
        (request == "GET /v1/proofs/0")
            .then(|| Reply::Raw(200, String::new(), b"<html>maintenance</html>".to_vec()))
    });
    let forbidden = FakeServer::start(|request| {
        (request == "GET /v1/proofs/0").then(|| error(403, "no\x1b[2J"))
    });
    let drip = FakeServer::start(|request| (request == "GET /v1/proofs/0").then_some(Reply::Drip));
    let slow =
        FakeServer::start(|request| (request == "GET /v1/proofs/0").then_some(Reply::Nothing));
    let asked = Arc::new(AtomicUsize::new(0));
    let late = {
        let (asked, proofs) = (Arc::clone(&asked), Arc::clone(&proofs));
        FakeServer::start(move |request| {
            if request != "GET /v1/proofs/0" || asked.fetch_add(1, SeqCst) < 2 {
                return None;
            }
            // Compressed, which clients accept.
            let proof = proofs.lock().unwrap()["late"].to_string();
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(proof.as_bytes()).unwrap();
            let body = encoder.finish().unwrap();
            Some(Reply::Raw(
                200,
                "content-encoding: gzip\r\n".to_owned(),
                body,
            ))
        })
    };

    let mut urls = vec![first_url.as_str(), &second_url];
    urls.extend(liars.iter().map(|(_, liar)| liar.url.as_str()));
    urls.extend([&garbage, &forbidden, &drip, &slow, &late].map(|fake| fake.url.as_str()));
    node.register(&urls, &[]).assert_code(0);
    assert_eq!(node.registrations().len(), urls.len());

    let (first_proof, second_proof) = (work(&first), work(&second));
    // More work than all others, but without our challenge.
    elsewhere.at(30);
    elsewhere.await_work(0);
    let enough = leaves(&first_proof).max(leaves(&second_proof));
    await_some("more work", || {
        let round = elsewhere.client.get("/v1/rounds/0").json();
        let done: u64 = round["leaves"].as_str()?.parse().ok()?;
        (done > 2 * enough).then_some(())
    });
    elsewhere.at(80);
    let foreign = elsewhere.client.await_proof(0).json();
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut proof = first_proof.clone();
        proof["pubkey"] = json!(STANDARD.encode(FAKE_KEY));
        change(&mut proof);
        proof
    };
    let bytes = |byte: u8| json!(STANDARD.encode([byte; 32]));
    {
        let ours = STANDARD.encode(node.node.challenge);
        let mut proofs = proofs.lock().unwrap();
        proofs.insert(
            "members",
            changed(&|proof| {
                let members = proof["proof"]["members"].as_array_mut().unwrap();
                let other = members.iter_mut().find(|member| **member != ours).unwrap();
                *other = bytes(0xee);
            }),
        );
        proofs.insert(
            "label",
            changed(&|proof| proof["proof"]["proof"]["provenLeaves"][77] = bytes(0xee)),
        );
        proofs.insert(
            "leaves",
            changed(&|proof| proof["proof"]["leaves"] = json!("91000000000")),
        );
        let mut without_us = foreign.clone();
        without_us["pubkey"] = json!(STANDARD.encode(FAKE_KEY));
        proofs.insert("without us", without_us);
        proofs.insert("identity", changed(&|proof| proof["pubkey"] = bytes(0x67)));
        proofs.insert(
            "junk nodes",
            changed(&|proof| {
                proof["proof"]["proof"]["proofNodes"] = vec![bytes(1); 5401].into();
            }),
        );
        proofs.insert("no work", without_work(&node));
        proofs.insert("late", changed(&|_| {}));
    }
    node.rounds_end_now();

    let run = node
        .collect(&["--until=12s", "--timeout=2s", "--message=proof.message"])
        .assert_code(3);
    for (url, proof) in [
        (&first_url, &first_proof),
        (&second_url, &second_proof),
        (&late.url, &first_proof),
    ] {
        let row = run.row(url);
        let members = proof["proof"]["members"].as_array().unwrap().len();
        assert_eq!(
            [row[1], row[2], row[3], row[4], row[6]],
            [
                "0",
                &leaves(proof).to_string(),
                "0",
                &members.to_string(),
                "yes"
            ]
        );
    }
    assert_eq!(asked.load(SeqCst), 3);
    let why = [
        (
            "members",
            "the proof is not valid: the proven leaves and nodes do not lead to the root",
        ),
        (
            "label",
            "the proof is not valid: the proven leaves and nodes do not lead to the root",
        ),
        ("leaves", "the proof is not valid: the proof has "),
        ("without us", "our challenge is not among its members"),
        (
            "identity",
            "the server's key is another one than at the registration",
        ),
        (
            "junk nodes",
            "invalid length 5401, expected a list of at most 5400 entries",
        ),
        ("no work", "is not what sha256 x 400 makes"),
    ];
    for ((name, expected), (_, liar)) in why.iter().zip(&liars) {
        let line = run.line(&liar.url);
        assert!(
            line.contains("  no: ") && line.contains(expected),
            "{name}: {line}"
        );
    }
    for (fake, expected) in [
        (&garbage, "its answer is not one of a PoET: unexpected text"),
        (&forbidden, "it answers 403: no?[2J"),
        (&drip, "no answer within"),
        (&slow, "no answer within"),
    ] {
        let line = run.line(&fake.url);
        assert!(line.contains(expected), "{line}");
    }

    // The best proof, whichever server sent it first.
    let best = if leaves(&second_proof) > leaves(&first_proof) {
        &second_proof
    } else {
        &first_proof
    };
    let written = node.verified_proof();
    assert_eq!(written["proof"], best["proof"]);
    let fetched = verify_json(&written);
    assert!(fetched.members.contains(&node.node.challenge));
    let message = fs::read(node.path("proof.message")).unwrap();
    let message = ProofMessage::from_scale(&message).unwrap();
    assert_eq!(message.statement[..], membership::root(&fetched.members));
    assert_eq!(
        (message.proof.root, message.leaves),
        (fetched.root, leaves(best))
    );
    assert_eq!(
        json!(STANDARD.encode(message.service_key)),
        written["pubkey"]
    );
    assert_eq!((&*message.round_id, message.signature), ("0", [0; 64]));
    let line = run.line("proof.json: ");
    assert!(line.contains(&format!("{} leaves", leaves(best))), "{line}");

    // The servers are gone, and what was collected remains.
    drop((first, second));
    let state = node.state();
    let run = node.collect(&["--until=100ms"]).assert_code(3);
    assert_eq!(run.row(&first_url)[2], "-");
    assert_eq!(node.verified_proof(), written);
    assert_eq!(node.state(), state);
}

/// The key of a test server.
fn server_key(seed: u8) -> PrivateKey {
    PrivateKey::from_bytes(&SigningKey::from_bytes(&[seed; 32]).to_keypair_bytes()).unwrap()
}

/// The response to a registration with this receipt.
fn with_receipt(receipt: &Value) -> Reply {
    Reply::Json(
        200,
        json!({"roundId": "0", "roundEnd": "50s", "receipt": receipt}),
    )
}

#[test]
fn a_receipt_shows_who_left_us_out() {
    let folder = tempfile::tempdir().unwrap();
    let (real, real_url) = real_server(folder.path());
    real.client.register(&TestNode::new(2));
    let node = Node::new(19);
    let acknowledged = Acknowledged {
        round: 0,
        node_id: NodeId(node.node.id()),
        challenge: Challenge(node.node.challenge),
        time: now().parse().unwrap(),
        round_end: "2100-01-01T00:00:00Z".parse().unwrap(),
    };
    let signed = |acknowledged, seed| {
        serde_json::to_value(&Receipt::sign(&[acknowledged], &server_key(seed))[0]).unwrap()
    };
    let good = signed(acknowledged, 1);
    let with = |field: &str, value: Value| {
        let mut changed = good.clone();
        changed[field] = value;
        changed
    };
    let other = |change: &dyn Fn(&mut Acknowledged)| {
        let mut other = acknowledged;
        change(&mut other);
        signed(other, 1)
    };
    // None of these receipts is valid, but the registrations count.
    let bad = [
        (
            with("time", json!("2026-01-01T00:00:00Z")),
            "forged or has been changed",
        ),
        (
            signed(acknowledged, 2),
            "another server than that of the registration",
        ),
        (
            other(&|it| it.round = 1),
            "another round than that of the registration",
        ),
        (
            other(&|it| it.node_id = NodeId([9; 32])),
            "another node than that",
        ),
        (
            other(&|it| it.challenge = Challenge([9; 32])),
            "another challenge than that",
        ),
        (
            with("signature", json!(7)),
            "expected 64 bytes in base64 in signature",
        ),
        (json!("word"), "expected a JSON object with roundId"),
    ];
    // All of them leave us out, but only the first has signed that we are a member.
    let without_us: Arc<Mutex<Option<Value>>> = Arc::default();
    let serving = |receipt: Value| {
        let without_us = Arc::clone(&without_us);
        FakeServer::start(move |request| match request {
            "GET /v1/info" => Some(Reply::Json(200, info(server_key(1).public().as_bytes()))),
            "POST /v1/submit" => Some(with_receipt(&receipt)),
            "GET /v1/proofs/0" => Some(Reply::Json(200, without_us.lock().unwrap().clone()?)),
            _ => None,
        })
    };
    let liar = serving(good.clone());
    let fakes = bad.map(|(receipt, reason)| (serving(receipt), reason));
    let mut urls = vec![real_url.as_str(), &liar.url];
    urls.extend(fakes.iter().map(|(fake, _)| fake.url.as_str()));
    let run = node.register(&urls, &[]).assert_code(0);
    for (fake, reason) in &fakes {
        let warning = format!("WARNING: {}: its receipt is not kept: ", fake.url);
        let mut lines = run.err.lines().filter(|line| line.starts_with(&warning));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("{reason}: {}", run.err));
        assert!(line.contains(reason), "{line}");
    }
    let run = node
        .run(&["verify-receipt", "poet-client.json"])
        .assert_code(3);
    let id = hex::encode(node.node.id());
    for url in [&real_url, &liar.url] {
        let line = run.line(&format!("{url}: valid: the server with key"));
        assert!(
            line.contains(&format!("node {id} is a member of round 0")),
            "{line}"
        );
    }
    for (fake, _) in &fakes {
        run.line(&format!("{}: not valid: there is no receipt", fake.url));
    }
    let run = node
        .run(&["verify-receipt", "--json", "poet-client.json"])
        .assert_code(3);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    let receipts = report["receipts"].as_array().unwrap();
    let valid = receipts.iter().filter(|receipt| receipt["valid"] == true);
    assert_eq!((valid.count(), receipts.len()), (2, 2 + fakes.len()));

    let mut proof = work(&real);
    // The real server has us as a member; a proof without us comes from another server.
    assert!(verify_json(&proof).members.contains(&node.node.challenge));
    let elsewhere = tempfile::tempdir().unwrap();
    let (other, _) = real_server(elsewhere.path());
    other.client.register(&TestNode::new(2));
    proof["proof"] = work(&other)["proof"].clone();
    proof["pubkey"] = json!(STANDARD.encode(server_key(1).public().as_bytes()));
    *without_us.lock().unwrap() = Some(proof);
    node.rounds_end_now();
    let run = node.collect(&["--until=10s"]).assert_code(3);
    assert_eq!(run.row(&real_url)[6], "yes");
    let left_out = "no: our challenge is not among its members";
    let line = run.line(&format!("{} ", liar.url));
    assert!(
        line.ends_with(&format!("{left_out}, although the server acknowledged it")),
        "{line}"
    );
    let evidence = run.line(&format!(
        "{}: the receipt in poet-client.json is evidence",
        liar.url
    ));
    assert!(
        evidence.contains(&format!("that node {id} is a member of round 0")),
        "{evidence}"
    );
    for (fake, _) in &fakes {
        let line = run.line(&format!("{} ", fake.url));
        assert!(line.ends_with(left_out), "{line}");
        assert!(!run.out.contains(&format!("{}: the receipt", fake.url)));
    }
}

#[test]
fn receipts_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    let (real, url) = real_server(folder.path());
    let node = Node::new(20);
    node.register(&[&url], &[]).assert_code(0);
    let receipt = node.state()["registrations"][0]["receipt"].clone();
    let write = |content: &str| fs::write(node.path("r.json"), content).unwrap();
    let verify = |more: &[&str]| node.run(&[&["verify-receipt", "r.json"], more].concat());
    let key = receipt["servicePubkey"].as_str().unwrap();
    assert_eq!(real.client.get("/v1/info").json()["servicePubkey"], key);
    let hex_key = hex::encode(STANDARD.decode(key).unwrap());
    let answer = json!({"roundId": "0", "roundEnd": "50s", "receipt": receipt});
    for content in [&receipt, &answer, &node.state()] {
        write(&content.to_string());
        for more in [vec![], vec!["--pubkey", key], vec!["--pubkey", &hex_key]] {
            let run = verify(&more).assert_code(0);
            assert!(
                run.out.contains("valid: the server with key"),
                "{}",
                run.out
            );
        }
    }
    let other = STANDARD.encode(server_key(3).public().as_bytes());
    let run = verify(&["--pubkey", &other]).assert_code(1);
    assert!(
        run.out.contains(&format!("expected {other}")),
        "{}",
        run.out
    );
    // Copied into the file of another registration.
    for (field, value, expected) in [
        ("nodeId", json!("00".repeat(32)), "another node"),
        ("challenge", json!("00".repeat(32)), "another challenge"),
    ] {
        let mut state = node.state();
        state[field] = value;
        write(&state.to_string());
        let run = verify(&[]).assert_code(1);
        assert!(run.out.contains(expected), "{}", run.out);
    }
    for (field, value, expected) in [
        ("pubkey", json!(other), "another server"),
        ("round", json!(1), "another round"),
    ] {
        let mut state = node.state();
        state["registrations"][0][field] = value;
        write(&state.to_string());
        let run = verify(&[]).assert_code(1);
        assert!(run.out.contains(expected), "{}", run.out);
    }
    let mut forged = receipt.clone();
    forged["roundId"] = json!("1");
    for (content, expected) in [
        (String::new(), "r.json is not JSON"),
        (receipt.to_string()[..50].to_owned(), "r.json is not JSON"),
        (
            "[]".to_owned(),
            "it is not a receipt: expected a JSON object",
        ),
        ("{}".to_owned(), "it is not a receipt: expected"),
        (
            r#"{"registrations":[]}"#.to_owned(),
            "holds no registration",
        ),
        (
            forged.to_string(),
            "the receipt was forged or has been changed since",
        ),
        (" ".repeat(2 << 20), "is too long"),
    ] {
        write(&content);
        let run = verify(&[]).assert_code(1);
        assert_eq!(run.err.lines().count(), 1, "{}", run.err);
        assert!(
            run.err.starts_with("error: ") && run.err.contains(expected),
            "{}",
            run.err
        );
    }
    let run = verify(&["--pubkey=AAAA"]).assert_code(2);
    assert!(run.err.contains("32 bytes in base64 or hex"), "{}", run.err);
    let run = node.run(&["verify-receipt", "none.json"]).assert_code(1);
    assert!(run.err.contains("cannot read none.json"), "{}", run.err);
}

#[test]
fn without_a_valid_proof_every_server_has_a_reason() {
    let node = Node::new(5);
    let never = FakeServer::start(|_| None);
    let denied =
        FakeServer::start(|request| (request == "GET /v1/proofs/0").then(|| error(400, "go away")));
    let idle = FakeServer::start(|request| {
        let proof = json!({
            "proof": {
                "proof": {"root": "", "provenLeaves": [], "proofNodes": []},
                "members": [],
                "leaves": "0",
            },
            "pubkey": STANDARD.encode(FAKE_KEY),
        });
        (request == "GET /v1/proofs/0").then_some(Reply::Json(200, proof))
    });
    node.register(&[&never.url, &denied.url, &idle.url], &[])
        .assert_code(0);
    node.rounds_end_now();
    let run = node.collect(&["--until=3s"]).assert_code(1);
    assert!(
        run.line(&idle.url)
            .contains("no: its proof is empty: the server does no work")
    );
    assert!(
        run.line(&never.url)
            .contains("no: it answers 404: proof not found")
    );
    assert!(
        run.line(&denied.url)
            .contains("no: it answers 400: go away")
    );
    assert!(
        run.out
            .ends_with("no server gave a valid proof: nothing was written\n")
    );
    assert!(!node.path("proof.json").exists());
    // The round is not over yet.
    let mut state = node.state();
    state["registrations"][0]["roundEnd"] = json!("2100-01-01T00:00:00Z");
    fs::write(node.path("poet-client.json"), state.to_string()).unwrap();
    let run = node.collect(&["--until=3s"]).assert_code(1);
    assert!(
        run.out
            .contains("no: its round ends at 2100-01-01T00:00:00Z only"),
        "{}",
        run.out
    );
}

#[test]
fn a_server_that_hangs_or_fails_holds_up_nobody_and_is_asked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (real, real_url) = real_server(folder.path());
    let hanging = FakeServer::start(|_| Some(Reply::Nothing));
    let attempts = Arc::new(AtomicUsize::new(0));
    let recovering = {
        let attempts = Arc::clone(&attempts);
        FakeServer::start(move |request| match request {
            "GET /v1/info" => match attempts.fetch_add(1, SeqCst) {
                0 => Some(error(503, "starting")),
                1 => Some(error(429, "slowly")),
                2 => Some(Reply::not_found()),
                3 => Some(Reply::Raw(200, String::new(), b"hello".to_vec())),
                _ => None,
            },
            _ => None,
        })
    };
    let node = Node::new(6);
    let running = Running::start(
        &mut node.register_command(&[&hanging.url, &real_url, &recovering.url], &["--until=1h"]),
    );
    await_some("the registrations", || {
        let state = fs::read(node.path("poet-client.json")).ok()?;
        let state: Value = serde_json::from_slice(&state).unwrap();
        (state["registrations"].as_array()?.len() == 2).then_some(())
    });
    // One at a time.
    let run = node.register(&[&real_url], &[]).assert_code(1);
    assert!(
        run.err.contains("is in use by another poet-client"),
        "{}",
        run.err
    );
    // Killed while a server hangs: nothing is lost, and no server is asked twice.
    running.kill();
    assert_eq!(node.registrations().len(), 2);
    let run = node
        .register(&[&real_url, &recovering.url, &dead()], &["--until=3s"])
        .assert_code(3);
    assert!(
        run.out
            .contains("not registered: cannot be reached: connection refused")
    );
    assert_eq!(recovering.submits(), 1);
    assert_eq!(attempts.load(SeqCst), 5);

    // Killed while it collects, and started again.
    let proof = work(&real);
    node.rounds_end_now();
    let running = Running::start(&mut node.command(&["collect", "--retry-delay=50ms"]));
    await_some("the proof", || {
        node.path("proof.json").exists().then_some(())
    });
    running.kill();
    assert_eq!(node.verified_proof()["proof"], proof["proof"]);
    let run = node.collect(&["--until=1s"]).assert_code(3);
    assert_eq!(run.row(&real_url)[6], "yes");
}

#[test]
fn another_list_of_servers_loses_no_registration() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (first, first_url) = real_server(folders[0].path());
    let (second, second_url) = real_server(folders[1].path());
    let node = Node::new(7);
    node.register(&[&first_url], &[]).assert_code(0);
    let run = node
        .register(&[&format!("{second_url}/")], &[])
        .assert_code(0);
    assert!(run.line(&first_url).ends_with("(registered earlier)"));
    assert_eq!(node.registrations().len(), 2);
    let (first_proof, second_proof) = (work(&first), work(&second));
    node.rounds_end_now();
    let run = node.collect(&["--tick-size=100"]).assert_code(0);
    for (url, proof) in [(&first_url, &first_proof), (&second_url, &second_proof)] {
        assert_eq!(run.row(url)[3], (leaves(proof) / 100).to_string());
        assert_eq!(run.row(url)[6], "yes");
    }

    // A better proof replaces the existing one, a worse one does not.
    let (worse, better) = if leaves(&first_proof) < leaves(&second_proof) {
        (first_proof, second_proof)
    } else {
        (second_proof, first_proof)
    };
    for there in [&worse, &better] {
        fs::write(node.path("proof.json"), there.to_string()).unwrap();
        node.collect(&[]).assert_code(0);
        assert_eq!(leaves(&node.verified_proof()), leaves(&better));
    }
}

#[test]
fn in_real_time_from_a_new_key_to_a_verified_proof() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.rounds.genesis = Some(now().parse().unwrap());
    config.rounds.epoch_duration = Duration::from_secs(8);
    config.rounds.phase_shift = Duration::from_secs(5);
    config.rounds.cycle_gap = Duration::from_secs(3);
    let server = LocalServer::start_in_real_time(config);
    let url = &server.url();
    let node = Node::new(8);
    fs::remove_file(node.path("local.key")).unwrap();
    node.register(&[url], &["--generate-key"]).assert_code(0);
    let key = fs::read_to_string(node.path("local.key")).unwrap();
    assert_eq!(hex::decode(&key).unwrap().len(), 64);
    let run = node.register(&[url], &["--generate-key"]).assert_code(0);
    assert!(!run.out.contains(&key[..64]));
    assert_eq!(fs::read_to_string(node.path("local.key")).unwrap(), key);
    let run = node.collect(&[]).assert_code(0);
    assert_eq!(run.row(url)[6], "yes");
    let proof = node.verified_proof();

    // Written to something that is no file: the proof alone, and the summary elsewhere.
    let parse = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let run = node.collect(&["--out=-"]).assert_code(0);
    assert_eq!(parse(&run.out), proof);
    assert!(run.err.contains("our challenge is member 0 of 1"));
    let pipe = node.path("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let reader = thread::spawn(move || fs::read_to_string(pipe).unwrap());
    node.collect(&["--out=pipe"]).assert_code(0);
    assert_eq!(parse(&reader.join().unwrap()), proof);
    std::os::unix::fs::symlink("linked.json", node.path("link")).unwrap();
    node.collect(&["--out=link"]).assert_code(0);
    assert!(node.path("link").is_symlink());
    let linked = fs::read_to_string(node.path("linked.json")).unwrap();
    assert_eq!(parse(&linked), proof);
}

// Registrations --------------------------------------------------------------------------------

#[test]
fn certificates_are_used_where_they_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::new(9);
    let (data, signature, certifier) = node.node.certificate(1);
    let mut certified = config(folder.path());
    certified.rounds.rules.pow = false;
    certified.rounds.rules.certifier = Some(Certifier {
        url: "http://certifier.example".to_owned(),
        pubkey: PublicKey::from_bytes(&certifier),
        trusted: TrustedKeys::default(),
    });
    let server = LocalServer::start(certified, 25);
    let url = format!("http://{}", server.addresses.rest);
    let file = |name: &str, data: &[u8], signature: &[u8; 64]| {
        let json = json!({
            "certificate": STANDARD.encode(data),
            "signature": STANDARD.encode(signature),
            "pub_key": STANDARD.encode(certifier),
        });
        fs::write(node.path(name), json.to_string()).unwrap();
    };
    file("own.json", &data, &signature);
    let (data, signature, _) = TestNode::new(10).certificate(1);
    file("other.json", &data, &signature);

    let run = node
        .register(&[&url], &["--certificate=other.json"])
        .assert_code(1);
    let line = run.line(&url);
    assert!(
        line.contains("it answers 400: registration by proof of work is switched off")
            && line.contains("its certifier is http://certifier.example"),
        "{line}"
    );
    node.register(
        &[&url],
        &["--certificate=other.json", "--certificate=own.json"],
    )
    .assert_code(0);

    // A server that rejects the certificate gets a proof of work.
    let refusing = Arc::new(AtomicUsize::new(0));
    let fake = {
        let refusing = Arc::clone(&refusing);
        FakeServer::start(move |request| match request {
            "GET /v1/info" => {
                let mut info = info(&FAKE_KEY);
                info["certifier"] =
                    json!({"url": "http://c", "pubkey": STANDARD.encode(certifier)});
                Some(Reply::Json(200, info))
            }
            "POST /v1/submit" if refusing.fetch_add(1, SeqCst) == 0 => {
                Some(error(401, "invalid certificate"))
            }
            _ => None,
        })
    };
    node.register(&[&fake.url], &["--certificate=own.json"])
        .assert_code(0);
    let submits = fake.submits.lock().unwrap();
    assert_eq!(submits.len(), 2);
    assert!(submits[0]["certificate"].is_object() && submits[0]["nonce"].is_null());
    assert!(submits[1]["certificate"].is_null() && submits[1]["nonce"].is_string());
}

#[test]
fn a_submission_is_what_a_node_sends() {
    let fake = FakeServer::start(|_| None);
    let node = Node::new(11);
    let genesis = "00112233445566778899aabbccddeeff00112233";
    let deadline = "2100-01-01T00:00:00Z";
    let more = [
        "--genesis-id",
        genesis,
        "--deadline",
        deadline,
        "--phase-shift=30s",
    ];
    node.register(&[&fake.url], &more).assert_code(0);
    let submits = fake.submits.lock().unwrap();
    let request = poet_proto::json::submit_request(submits[0].to_string().as_bytes());
    let request = request.unwrap();
    assert_eq!(hex::encode(&request.prefix), format!("{genesis}04"));
    assert_eq!(request.challenge, node.node.challenge);
    assert_eq!(request.pubkey, node.node.id());
    assert_eq!(request.deadline.unwrap().to_string(), deadline);
    let public = PublicKey::from_bytes(&node.node.id()).unwrap();
    assert!(public.verifies(&[&request.prefix, &request.challenge], &request.signature));
    assert_eq!(request.pow_params.difficulty, 3);
    assert!(poet_proto::pow::is_valid(
        &request.pow_params,
        NodeId(node.node.id()),
        &request.challenge,
        request.nonce
    ));
}

#[test]
fn nonsense_at_the_registration_is_named() {
    let submit = |reply: fn() -> Reply| {
        FakeServer::start(move |request| (request == "POST /v1/submit").then(reply))
    };
    let at_info = |reply: fn() -> Reply| {
        FakeServer::start(move |request| (request == "GET /v1/info").then(reply))
    };
    let conflict = submit(|| error(409, "conflicting registration"));
    let too_late = submit(|| error(400, "too late to register for the desired round"));
    let far = submit(|| Reply::Json(200, json!({"roundId": "0", "roundEnd": "8640001s"})));
    let past = submit(|| Reply::Json(200, json!({"roundId": "0", "roundEnd": "-5.5s"})));
    let word = submit(|| Reply::Json(200, json!({"roundId": "../x", "roundEnd": "5s"})));
    let hard = FakeServer::start(|request| {
        let params = json!({"powParams": {"difficulty": 256, "challenge": ""}});
        (request == "GET /v1/pow_params").then_some(Reply::Json(200, params))
    });
    let endless = at_info(|| Reply::Endless);
    let bomb = at_info(|| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 2 << 20]).unwrap();
        let body = encoder.finish().unwrap();
        Reply::Raw(200, "content-encoding: gzip\r\n".to_owned(), body)
    });
    let redirect = at_info(|| {
        let place = "location: http://elsewhere.example/v1/info\r\n".to_owned();
        Reply::Raw(301, place, Vec::new())
    });
    let short_key = at_info(|| {
        let mut info = info(&FAKE_KEY);
        info["servicePubkey"] = json!(STANDARD.encode([1; 31]));
        Reply::Json(200, info)
    });
    let shifted = at_info(|| {
        let mut info = info(&FAKE_KEY);
        info["phaseShift"] = json!("240h");
        Reply::Json(200, info)
    });
    let cases = [
        (&conflict, "it answers 409: conflicting registration"),
        (
            &too_late,
            "it answers 400: too late to register for the desired round",
        ),
        (&far, "too late to be of use"),
        (&past, "it says that its round has ended already"),
        (&word, "its answer is not one of a PoET"),
        (
            &hard,
            "it asks for a proof of work of 256 bits, expected at most 32",
        ),
        (&endless, "its answer is longer than 1048576 bytes"),
        (&bomb, "its answer is longer than 1048576 bytes"),
        (
            &redirect,
            "it answers 301 and points to http://elsewhere.example/v1/info",
        ),
        (&short_key, "invalid length 31, expected 32 bytes"),
        (&shifted, "its phase shift is 240h0m0s, expected 30s"),
    ];
    let urls: Vec<_> = cases.iter().map(|(fake, _)| fake.url.as_str()).collect();
    let node = Node::new(12);
    let run = node
        .register(&urls, &["--until=8s", "--phase-shift=30s"])
        .assert_code(1);
    for (fake, expected) in cases {
        let line = run.line(&fake.url);
        assert!(
            line.contains("not registered: ") && line.contains(expected),
            "{line}"
        );
    }
    assert!(node.registrations().is_empty());
}

#[test]
fn bad_input_is_one_sentence_and_nothing_is_lost() {
    let fake = FakeServer::start(|_| None);
    let node = Node::new(13);
    let challenge = hex::encode(node.node.challenge);
    let refused = |run: Run, code: i32, expected: &[&str]| {
        let run = run.assert_code(code);
        let errors: Vec<_> = run
            .err
            .lines()
            .filter(|line| line.contains("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{}", run.err);
        assert_plain(errors[0]);
        for part in expected {
            assert!(
                errors[0].contains(part),
                "{part:?} is not in: {}",
                errors[0]
            );
        }
    };
    let register = |more: &[&str]| node.register(&[&fake.url], more);
    let long = |args: &[&str]| node.run(args);

    // The command line.
    refused(long(&["register"]), 2, &["required arguments"]);
    refused(
        register(&["--poet=localhost"]),
        2,
        &["--poet", "expected http://"],
    );
    refused(
        register(&["--poet=http://localhost:99999"]),
        2,
        &["--poet", "expected a port from 1 to 65535"],
    );
    refused(
        register(&["--until=soon"]),
        2,
        &["--until", "RFC 3339", "30m"],
    );
    refused(
        register(&["--challenge=00"]),
        2,
        &["--challenge", "32 bytes in hex"],
    );
    refused(
        register(&["--deadline=2020-01-01T00:00:00Z"]),
        1,
        &["--deadline", "has passed"],
    );
    refused(long(&["watch", "nowhere"]), 2, &["expected http://"]);
    for (command, expected) in [
        (&["collect", "--round=x"][..], "expected a whole number"),
        (&["collect", "--tick-size=0"], "whole number, at least 1"),
        (&["watch", "http://a", "--tick-size=-"], "at least 1"),
        (&["schedule", "http://a", "--rounds=many"], "from 1 to "),
        (&["schedule", "http://a", "--rounds=0"], "from 1 to "),
        (&["load", "fetch", "--round=-1"], "expected a whole number"),
        (&["load", "fetch", "--round=1", "--clients=0"], "at least 1"),
        (
            &["load", "register", "--members=0"],
            "whole number from 1 to ",
        ),
        (
            &["load", "register", "--members=9", "--connections=x"],
            "at least 1",
        ),
        (
            &["load", "register", "--members=9", "--keys-seed="],
            "expected a whole number",
        ),
    ] {
        refused(
            long(command),
            2,
            &[
                command[command.len() - 1].split('=').next().unwrap(),
                expected,
            ],
        );
    }

    // Keys.
    fs::write(node.path("pem.key"), "-----BEGIN PRIVATE KEY-----\n").unwrap();
    fs::write(node.path("public.key"), hex::encode(node.node.id())).unwrap();
    for name in ["pem.key", "public.key"] {
        refused(
            register(&["--key", name]),
            1,
            &[name, "not a node's key", "64-byte ed25519 private key"],
        );
    }
    let mut pair = hex::decode(fs::read(node.path("local.key")).unwrap()).unwrap();
    pair[40] ^= 1;
    fs::write(node.path("halves.key"), pair).unwrap();
    refused(
        register(&["--key=halves.key"]),
        1,
        &["second half is not the public key"],
    );
    refused(
        register(&["--key=none.key"]),
        1,
        &["cannot read --key none.key: there is no such file or directory"],
    );
    refused(
        register(&["--certificate=pem.key"]),
        1,
        &["--certificate pem.key is not a certificate: unexpected text at line 1 column 2"],
    );
    refused(
        register(&["--certificate=none"]),
        1,
        &["cannot read --certificate none: there is no such file or directory"],
    );
    fs::create_dir(node.path("folder")).unwrap();
    for (arguments, option) in [
        (&["collect", "--state=folder"][..], "--state folder"),
        (&["verify-receipt", "folder"], "folder"),
    ] {
        let expected = format!("cannot read {option}: it is a directory");
        refused(long(arguments), 1, &[&expected]);
    }
    refused(
        register(&["--key=folder"]),
        1,
        &["cannot read --key folder: it is a directory"],
    );
    refused(
        long(&["verify-receipt", "none"]),
        1,
        &["cannot read none: there is no such file or directory"],
    );
    refused(
        long(&["write-pages", "local.key/pages"]),
        1,
        &["cannot write the pages: a part of its path is not a directory"],
    );

    // State files.
    refused(
        node.collect(&[]),
        1,
        &["no --state poet-client.json", "register"],
    );
    refused(
        register(&["--state=no/such/folder"]),
        1,
        &["cannot lock --state no/such/folder: there is no such file or directory"],
    );
    register(&[]).assert_code(0);
    let good = node.state();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut state = good.clone();
        change(&mut state);
        state.to_string().into_bytes()
    };
    let text = good.to_string();
    let damaged: [(Vec<u8>, &[&str]); 9] = [
        (Vec::new(), &["damaged or not a state file"]),
        (
            text.as_bytes()[..text.len() / 2].to_vec(),
            &["damaged or not a state file", "ends too early"],
        ),
        (
            b"{\"name\": \"other\"}".to_vec(),
            &["damaged or not a state file", "version"],
        ),
        (
            with(&|state| state["version"] = json!(2)),
            &["has version 2", "reads version 1"],
        ),
        (
            with(&|state| state["more"] = json!(2)),
            &["damaged or not a state file", "more"],
        ),
        (
            with(&|state| state["registrations"][0]["roundEnd"] = json!("yesterday")),
            &["damaged or not a state file", "expected a time in RFC 3339"],
        ),
        (
            with(&|state| state["nodeId"] = json!("zz")),
            &["damaged or not a state file", "expected 32 bytes in hex"],
        ),
        (
            with(&|state| state["registrations"][0]["cycleGap"] = json!("-1s")),
            &["damaged or not a state file", "expected a duration such as"],
        ),
        (
            with(&|state| state["registrations"][0]["poet"] = json!("file:///etc")),
            &["damaged or not a state file", "expected http://"],
        ),
    ];
    for (content, expected) in damaged {
        fs::write(node.path("poet-client.json"), &content).unwrap();
        refused(register(&[]), 1, expected);
        refused(node.collect(&[]), 1, expected);
        assert_eq!(fs::read(node.path("poet-client.json")).unwrap(), content);
    }
    fs::write(node.path("poet-client.json"), text).unwrap();
    refused(
        register(&["--challenge", &"ab".repeat(32)]),
        1,
        &["another challenge", &challenge, "expected another file"],
    );
    let other = Node::new(14);
    fs::copy(other.path("local.key"), node.path("other.key")).unwrap();
    refused(
        register(&["--key=other.key"]),
        1,
        &["another node", &hex::encode(node.node.id())],
    );
    assert_eq!(node.state(), good);

    // Obstacles to writing the proof are reported before waiting for the end of a round.
    refused(
        node.collect(&["--out=none/p.json"]),
        1,
        &["cannot write --out none/p.json: the directory none does not exist"],
    );
    fs::write(node.path("proof.json"), "precious").unwrap();
    refused(
        node.collect(&[]),
        1,
        &["--out proof.json exists and is not a proof of this challenge"],
    );
    refused(node.collect(&["--out=folder"]), 1, &["--out folder"]);
    assert_eq!(fs::read(node.path("proof.json")).unwrap(), b"precious");
    assert_eq!(fake.submits(), 1);

    let nobody = Node::new(15);
    let run = nobody.register(&[&dead()], &["--until=3s"]).assert_code(1);
    assert!(
        run.out
            .contains("not registered: cannot be reached: connection refused")
    );
    // What listens there is no PoET, no HTTP, or has no TLS.
    let words = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = words.local_addr().unwrap();
    thread::spawn(move || {
        for stream in words.incoming() {
            drop(stream.unwrap().write_all(b"220 mail.example ESMTP\r\n\r\n"));
        }
    });
    let empty = FakeServer::start(|_| Some(Reply::Raw(200, String::new(), Vec::new())));
    let [http, https] = ["http", "https"].map(|scheme| format!("{scheme}://{place}"));
    let urls = [&*http, &*https, &*empty.url, "http://nowhere.invalid"];
    let mut command = nobody.register_command(&urls, &["--until=2s"]);
    command.env("SSL_CERT_FILE", tls_data("ca.pem"));
    let run = finish(&mut command).assert_code(1);
    assert_plain(&(run.out.clone() + &run.err));
    for (url, expected) in [
        (urls[0], "its answer is not HTTP, or its head is too long"),
        (
            urls[1],
            "cannot be reached: it answers https with something else",
        ),
        (
            urls[2],
            "its answer is not one of a PoET: it ends too early",
        ),
        (urls[3], "cannot be reached: "),
    ] {
        let line = run.line(url);
        assert!(line.contains(expected), "{line}");
    }
}

fn tls_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/tls")
        .join(name)
}

#[test]
fn https_needs_a_certificate_that_the_system_trusts() {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};

    let chain = CertificateDer::from_pem_file(tls_data("server.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tls_data("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let tls = Arc::new(tls);
    let wrap = move |stream| {
        let connection = rustls::ServerConnection::new(Arc::clone(&tls)).unwrap();
        Ok(rustls::StreamOwned::new(connection, stream))
    };
    let fake = FakeServer::start_with(wrap, "https://localhost", |_| None);
    let node = Node::new(16);
    let run = |authority: &Path| {
        let mut command = node.register_command(&[&fake.url], &["--until=3s"]);
        finish(
            command
                .env("SSL_CERT_FILE", authority)
                .env_remove("SSL_CERT_DIR"),
        )
    };
    // Issued by another authority; the server's own certificate is no authority.
    let line = run(&tls_data("server.pem")).assert_code(1);
    let reason = line.line(&fake.url);
    assert!(
        reason.contains(
            "cannot be reached: this system does not trust the issuer of its certificate"
        ),
        "{line:?}"
    );
    run(&tls_data("ca.pem")).assert_code(0);
    assert_eq!(node.registrations()[&fake.url], 0);

    let empty = node.path("empty.pem");
    fs::write(&empty, "").unwrap();
    fs::remove_file(node.path("poet-client.json")).unwrap();
    for (file, reason) in [
        (empty, ""),
        (
            node.path("none.pem"),
            "none.pem: there is no such file or directory\n",
        ),
    ] {
        let none = run(&file).assert_code(1);
        assert!(
            none.err.contains("https needs trusted certificates") && none.err.contains(reason),
            "{none:?}"
        );
        assert_plain(&none.err);
    }
}

// JSON, schedule, rounds ------------------------------------------------------------------------

#[test]
fn everything_that_came_of_it_is_json_if_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (server, url) = real_server(folder.path());
    let node = Node::new(61);
    let dead = dead();
    let run = node
        .register(&[&url, &dead], &["--json", "--until=2s"])
        .assert_code(3);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    let registered = &report["registrations"][0];
    assert_eq!(
        (&registered["poet"], &registered["round"]),
        (&json!(url), &json!(0))
    );
    assert_eq!(registered["rewardEpoch"], 2);
    assert_eq!(report["failed"][0]["poet"], dead);
    assert!(run.err.contains(&format!(
        "{url}: registered in round 0, which is rewarded in epoch 2"
    )));
    let leaves = leaves(&work(&server));
    node.rounds_end_now();
    let run = node.collect(&["--json"]).assert_code(0);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["servers"][0]["valid"], true);
    assert_eq!(report["best"]["leaves"], leaves);
    node.verified_proof();
}

/// Two servers of one network share a table; a Go server reports no schedule.
#[test]
fn schedules_are_those_of_the_servers() {
    let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let (_first, one) = real_server(folders[0].path());
    let (_second, two) = real_server(folders[1].path());
    let go = FakeServer::start(|_| None);
    let node = Node::new(62);
    let run = node
        .run(&["schedule", "--json", &one, &go.url, &two])
        .assert_code(3);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["schedules"].as_array().unwrap().len(), 1);
    let table = &report["schedules"][0];
    assert_eq!(table["poets"], json!([one, two]));
    assert_eq!(table["genesis"], "2026-01-01T00:00:00Z");
    assert_eq!(
        (&table["epochSeconds"], &table["cycleGapSeconds"]),
        (&json!(60.0), &json!(10.0))
    );
    assert_eq!(report["failed"][0]["poet"], go.url);
    // In a known time zone, and in an unknown one.
    let zone =
        |name: &str| finish(node.command(&["schedule", &one]).env("TZ", name)).assert_code(0);
    assert!(zone("XYZ-3").out.contains(" XYZ ("));
    let absurd = zone("Absurd/Zone\u{7}");
    assert!(
        absurd
            .err
            .contains("is no time zone that this machine knows"),
        "{}",
        absurd.err
    );
    assert!(absurd.out.contains(" UTC"), "{}", absurd.out);
    let ics = node.run(&["schedule", "--ics", &one]).assert_code(0).out;
    assert!(ics.starts_with("BEGIN:VCALENDAR\r\n") && ics.ends_with("END:VCALENDAR\r\n"));
}

/// Its round started while it was down: the next one is not the requested one.
#[test]
fn no_later_round_is_entered_unasked() {
    let open = |round: u64, submitted: u64| {
        FakeServer::start(move |request| match request {
            "GET /v1/rounds" => Some(Reply::Json(
                200,
                json!({"rounds": [{
                    "id": round.to_string(), "state": "open", "members": "0", "proofReady": false,
                    "start": "2026-01-01T00:00:30Z", "end": "2026-01-01T00:01:20Z",
                }]}),
            )),
            "POST /v1/submit" => Some(Reply::Json(
                200,
                json!({"roundId": submitted.to_string(), "roundEnd": "50s"}),
            )),
            _ => None,
        })
    };
    let node = Node::new(63);
    let fair = open(0, 0);
    node.register(&[&fair.url], &[]).assert_code(0);
    let sent = fair.submits.lock().unwrap()[0].clone();
    assert_eq!(sent["deadline"], "2026-01-01T00:01:20Z");
    // A server that ignores the requested deadline.
    let pushy = open(0, 1);
    let run = node.register(&[&pushy.url], &[]).assert_code(1);
    assert!(
        run.out
            .contains("into round 1, although round 0 was asked for"),
        "{}",
        run.out
    );
}

#[test]
fn proofs_of_different_rounds_are_not_compared() {
    let node = Node::new(64);
    let folder = tempfile::tempdir().unwrap();
    let (server, url) = real_server(folder.path());
    node.register(&[&url], &[]).assert_code(0);
    work(&server);
    node.rounds_end_now();
    let mut state = node.state();
    let mut other = state["registrations"][0].clone();
    other["poet"] = json!(dead());
    other["round"] = json!(1);
    state["registrations"].as_array_mut().unwrap().push(other);
    fs::write(node.path("poet-client.json"), state.to_string()).unwrap();
    let run = node.collect(&["--until=1s"]).assert_code(1);
    assert!(
        run.err.contains("expected --round with one of 0, 1"),
        "{}",
        run.err
    );
    let run = node.collect(&["--until=1s", "--round=2"]).assert_code(1);
    assert!(
        run.err.contains("no registration in round 2"),
        "{}",
        run.err
    );
    node.collect(&["--round=0"]).assert_code(0);
    node.verified_proof();
}

// Watch ----------------------------------------------------------------------------------------

#[test]
fn watch_shows_what_each_server_is_doing() {
    let folder = tempfile::tempdir().unwrap();
    let (real, url) = real_server(folder.path());
    real.client.register(&TestNode::new(1));
    real.at(30);
    real.await_work(0);
    real.await_open_round(1);
    let go = FakeServer::start(|_| None);
    let node = Node::new(17);
    let dead = dead();
    let urls = ["watch", "--once", &url, &go.url, &dead];
    let run = node.run(&[&urls[..], &["--json"]].concat()).assert_code(3);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    let poets = report["poets"].as_array().unwrap();
    assert_eq!(poets[0]["poet"], url);
    assert_eq!(
        poets[0]["pubkey"],
        real.client.get("/v1/info").json()["servicePubkey"]
    );
    assert_eq!(poets[0]["open"]["round"], 1);
    assert_eq!(poets[0]["open"]["members"], 0);
    assert_eq!(poets[0]["executing"]["round"], 0);
    assert_eq!(poets[0]["executing"]["members"], 1);
    assert!(poets[0]["executing"]["leaves"].as_u64().unwrap() > 200);
    assert!(poets[0]["executing"]["leavesPerSecond"].is_u64());
    assert_eq!(poets[0]["executing"]["expectedTicks"], 0);
    assert_eq!(poets[0]["published"], Value::Null);
    assert_eq!(poets[1]["pubkey"], STANDARD.encode(FAKE_KEY));
    assert_eq!(poets[1]["phaseShift"], "30s");
    assert_eq!(poets[1]["open"], Value::Null);
    assert_eq!(poets[1]["error"], Value::Null);
    assert_eq!(poets[2]["error"], "cannot be reached: connection refused");

    real.at(80);
    real.client.await_proof(0);
    await_some("the list of rounds", || {
        let list = real.client.get("/v1/rounds").json();
        let rounds = list["rounds"].as_array()?.clone();
        rounds
            .iter()
            .any(|round| round["proofReady"] == true)
            .then_some(())
    });
    let run = node.run(&urls).assert_code(3);
    assert_eq!(run.row(&url)[1], "ready");
    assert_eq!(run.row("  open")[..4], ["open", "round", "1", "0"]);
    assert_eq!(run.row("  proof")[..4], ["proof", "round", "0", "1"]);
    assert!(
        run.out.lines().all(|line| line.chars().count() <= 80),
        "{}",
        run.out
    );
    assert_eq!(run.row(&go.url)[1], "answers");
    assert!(run.out.contains("it does not list its rounds"));
    assert_eq!(run.row(&dead)[1..], ["NO", "ANSWER"]);
    assert!(
        run.out
            .contains("  cannot be reached: connection refused\n")
    );
    assert!(!run.out.contains('\x1b'), "a pipe is no terminal");
    node.run(&["watch", "--once", &dead]).assert_code(1);
    node.run(&["watch", "--once", &go.url]).assert_code(0);
}

#[test]
fn watch_notices_late_proofs_and_other_keys() {
    use std::io::{BufRead as _, BufReader};

    // First it works on a round that should be over, then has its proof, then has another key.
    let looks = Arc::new(AtomicUsize::new(0));
    let fake = {
        let looks = Arc::clone(&looks);
        FakeServer::start(move |request| {
            let look = looks.load(SeqCst);
            match request {
                "GET /v1/info" => {
                    let key = if look < 2 { FAKE_KEY } else { [0x67; 32] };
                    Some(Reply::Json(200, info(&key)))
                }
                "GET /v1/rounds" => {
                    looks.fetch_add(1, SeqCst);
                    let ready = look > 0;
                    Some(Reply::Json(
                        200,
                        json!({"rounds": [{
                            "id": "7", "state": if ready { "published" } else { "mending" },
                            "start": "2020-01-01T00:00:00Z", "end": "2020-01-01T00:00:50Z",
                            "members": "3", "leaves": "50", "leavesPerSecond": null,
                            "expectedLeaves": null, "expectedTicks": null, "proofReady": ready,
                        }]}),
                    ))
                }
                _ => None,
            }
        })
    };
    let node = Node::new(18);
    let args = [
        "watch",
        "--json",
        "--interval=100ms",
        "--tick-size=10",
        &fake.url,
    ];
    let mut running = Running::start(&mut node.command(&args));
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let (mut overdue, mut late) = (false, false);
    loop {
        let report: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        let poet = &report["poets"][0];
        overdue |= poet["overdue"]["round"] == 7;
        late |= poet["published"]["lateSeconds"].as_f64() > Some(1.0);
        if poet["pubkeyChanged"].is_string() {
            assert_eq!(poet["firstPubkey"], STANDARD.encode(FAKE_KEY));
            assert_eq!(poet["pubkey"], STANDARD.encode([0x67; 32]));
            assert_eq!(poet["published"]["ticks"], 5);
            break;
        }
    }
    assert!(overdue && late);
    drop(lines);
}
