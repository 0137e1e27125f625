//! Shared by the tests of the server: servers, clients and nodes.

// Not every test binary uses all of this.
#![allow(dead_code)]

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{Signer as _, SigningKey};
use jiff::{SignedDuration, Timestamp};
use poet_engine::{LABEL_DEPTH, Node, Proof, T, WorkFunction, membership, verify};
use poet_host::WorkPlace;
use poet_proto::{
    certificate::{Certifier, TrustedKeys},
    identity::PublicKey,
    member::NodeId,
    pow::{self, PowParams},
};
use poet_rounds::{
    clock::{Clock, ManualClock, SystemClock},
    worker::Executing,
};
use poet_service::{
    args::ServerArgs,
    config::Config,
    log_queue::RecentLines,
    notify::Notices,
    service::{Addresses, Server},
    start_error::StartError,
};
use serde_json::{Value, json};

/// Much longer than anything takes that a test waits for, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `condition` returns a value.
#[track_caller]
pub(crate) fn await_some<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within_patience(condition).unwrap_or_else(|| panic!("still waiting for {what}"))
}

fn within_patience<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        let value = condition();
        if value.is_some() || start.elapsed() > PATIENCE {
            return value;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Tries all cases at the same time, since most of that time is waiting. Fails if one does.
pub(crate) fn side_by_side<T: Send>(cases: impl IntoIterator<Item = T>, test: impl Fn(T) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            let test = &test;
            scope.spawn(move || test(case));
        }
    });
}

/// An HTTP answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// The response must be an error with this status, code and message.
    #[track_caller]
    pub(crate) fn assert_error(&self, status: u16, code: i32, message: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(
            self.json(),
            json!({"code": code, "message": message, "details": []})
        );
    }
}

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Client {
    url: String,
    agent: ureq::Agent,
}

impl Client {
    pub(crate) fn new(url: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(PATIENCE))
            .build()
            .into();
        Self {
            url: url.to_owned(),
            agent,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap()
    }

    pub(crate) fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        // Nodes send a body with their GETs.
        let request = self
            .agent
            .get(format!("{}{path}", self.url))
            .force_send_body();
        request.send("{}").map(read)
    }

    pub(crate) fn get_with(&self, path: &str, header: &str, value: &str) -> Answer {
        let request = self
            .agent
            .get(format!("{}{path}", self.url))
            .header(header, value);
        read(request.call().unwrap())
    }

    pub(crate) fn post(&self, path: &str, body: impl ureq::AsSendBody) -> Answer {
        read(
            self.agent
                .post(format!("{}{path}", self.url))
                .send(body)
                .unwrap(),
        )
    }

    pub(crate) fn submit(&self, body: &Value) -> Answer {
        self.post("/v1/submit", body.to_string())
    }

    /// As [`Self::submit`], of a server that may end meanwhile.
    pub(crate) fn try_submit(&self, body: &Value) -> Option<Answer> {
        let request = self.agent.post(format!("{}/v1/submit", self.url));
        request.send(body.to_string()).ok().map(read)
    }

    pub(crate) fn pow_params(&self) -> PowParams {
        let params = self.get("/v1/pow_params").json();
        let params = &params["powParams"];
        PowParams {
            difficulty: params["difficulty"].as_u64().unwrap().try_into().unwrap(),
            challenge: bytes(&params["challenge"]),
        }
    }

    /// Registers `node` and returns its round.
    #[track_caller]
    pub(crate) fn register(&self, node: &TestNode) -> u64 {
        let answer = self.submit(&node.request(&self.pow_params()));
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["roundId"].as_str().unwrap().parse().unwrap()
    }

    /// Waits until the server is ready: a busy machine may keep it from its database for a while.
    #[track_caller]
    pub(crate) fn await_ready(&self) {
        let mut last = String::new();
        let ready = within_patience(|| {
            let answer = self.get("/readyz");
            last = answer.body;
            (answer.status == 200).then_some(())
        });
        assert!(ready.is_some(), "still not ready: {last}");
    }

    /// Waits until the server says that it is not ready, and that this is why.
    #[track_caller]
    pub(crate) fn await_unready(&self, reason: &str) {
        let mut last = String::new();
        let unready = within_patience(|| {
            let answer = self.get("/readyz");
            let expected = json!({"ok": false, "reason": reason});
            let unready = answer.status == 503 && answer.json() == expected;
            last = answer.body;
            unready.then_some(())
        });
        assert!(unready.is_some(), "still not \"{reason}\": {last}");
    }

    /// Waits for the proof of `round` and returns the response.
    pub(crate) fn await_proof(&self, round: u64) -> Answer {
        await_some("a proof", || {
            let answer = self.try_get(&format!("/v1/proofs/{round}")).ok()?;
            (answer.status == 200).then_some(answer)
        })
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Answer {
    let body = response
        .body_mut()
        .with_config()
        .limit(1 << 30)
        .read_to_string()
        .unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body,
    }
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

/// A node that registers.
#[derive(Clone)]
pub(crate) struct TestNode {
    key: SigningKey,
    pub(crate) challenge: [u8; 32],
}

/// A configuration with the certifier number 7 (see [`TestNode::certificate`]) and no other.
pub(crate) fn certifier() -> Certifier {
    let (_, _, key) = TestNode::new(1).certificate(7);
    Certifier {
        url: String::new(),
        pubkey: PublicKey::from_bytes(&key),
        trusted: TrustedKeys::default(),
    }
}

impl TestNode {
    /// Returns the node with this number.
    pub(crate) fn new(number: u32) -> Self {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&number.to_le_bytes());
        Self {
            key: SigningKey::from_bytes(&seed),
            challenge: seed.map(|byte| byte ^ 0x5a),
        }
    }

    pub(crate) fn with_challenge(&self, challenge: [u8; 32]) -> Self {
        Self {
            challenge,
            ..self.clone()
        }
    }

    pub(crate) fn id(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Returns a certificate for this node by the certifier with this number: the signed bytes, the
    /// signature and the certifier's key.
    pub(crate) fn certificate(&self, certifier: u8) -> (Vec<u8>, [u8; 64], [u8; 32]) {
        let certifier = SigningKey::from_bytes(&[certifier; 32]);
        // 32 bytes, then no expiration.
        let data = [&[32 << 2][..], &self.id(), &[0]].concat();
        let signature = certifier.sign(&data).to_bytes();
        (data, signature, certifier.verifying_key().to_bytes())
    }

    /// Returns a valid request.
    pub(crate) fn request(&self, params: &PowParams) -> Value {
        self.request_for(params, &self.challenge)
    }

    /// Returns a request to register `challenge`, which may have any length.
    pub(crate) fn request_for(&self, params: &PowParams, challenge: &[u8]) -> Value {
        let prefix = b"test";
        let nonce = pow::solve(params, NodeId(self.id()), challenge).unwrap();
        let signature = self.key.sign(&[&prefix[..], challenge].concat());
        json!({
            "nonce": nonce.to_string(),
            "powParams": {
                "difficulty": params.difficulty,
                "challenge": STANDARD.encode(&params.challenge),
            },
            "prefix": STANDARD.encode(prefix),
            "challenge": STANDARD.encode(challenge),
            "pubkey": STANDARD.encode(self.id()),
            "signature": STANDARD.encode(signature.to_bytes()),
        })
    }
}

/// Returns the challenges of `nodes` in the order in which a proof must list them.
pub(crate) fn members_of(nodes: &[TestNode]) -> Vec<[u8; 32]> {
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(TestNode::id);
    nodes.iter().map(|node| node.challenge).collect()
}

/// A proof as a client sees it, built only from the server's response.
#[derive(Debug)]
pub(crate) struct FetchedProof {
    pub(crate) members: Vec<[u8; 32]>,
    pub(crate) leaves: u64,
    pub(crate) root: Node,
}

/// Verifies a fetched proof with all of its labels, for the statement that its members determine.
#[track_caller]
pub(crate) fn verify_fetched(answer: &Answer) -> FetchedProof {
    assert_eq!(answer.status, 200);
    verify_json(&answer.json())
}

/// Like [`verify_fetched`], for the JSON of the response.
#[track_caller]
pub(crate) fn verify_json(json: &Value) -> FetchedProof {
    let list = |value: &Value| -> Vec<Node> {
        let entries = value.as_array().unwrap();
        entries
            .iter()
            .map(|entry| bytes(entry).try_into().unwrap())
            .collect()
    };
    let (poet, merkle) = (&json["proof"], &json["proof"]["proof"]);
    let proof = Proof {
        root: bytes(&merkle["root"]).try_into().unwrap(),
        proven_leaves: list(&merkle["provenLeaves"]),
        proof_nodes: list(&merkle["proofNodes"]),
    };
    let members = list(&poet["members"]);
    let leaves = poet["leaves"].as_str().unwrap().parse().unwrap();
    assert_eq!(bytes(&json["pubkey"]).len(), 32);
    let work = poet_backends::select(WorkFunction::Sha256, None)
        .unwrap()
        .work(LABEL_DEPTH);
    verify(
        &work.unwrap(),
        &membership::root(&members),
        leaves,
        T,
        &proof,
    )
    .unwrap();
    FetchedProof {
        members,
        leaves,
        root: proof.root,
    }
}

/// Starts a server in this process.
pub(crate) async fn start_server(
    config: Config,
    clock: Arc<dyn Clock>,
) -> Result<Server, StartError> {
    start_server_with_log(config, clock, RecentLines::default()).await
}

async fn start_server_with_log(
    config: Config,
    clock: Arc<dyn Clock>,
    recent: RecentLines,
) -> Result<Server, StartError> {
    let notices = Notices::start(&config.notify, Arc::clone(&clock)).unwrap();
    Server::start(config, WorkPlace::default(), clock, notices, recent).await
}

/// A server in this process, under a clock that the test sets.
pub(crate) struct LocalServer {
    runtime: tokio::runtime::Runtime,
    server: Option<Server>,
    pub(crate) client: Client,
    pub(crate) addresses: Addresses,
    clock: Option<Arc<ManualClock>>,
}

/// The genesis of the tests' network.
pub(crate) fn genesis() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

pub(crate) fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// Rounds of a minute that start at :30 and are worked on for 50 seconds.
pub(crate) fn config(folder: &Path) -> Config {
    let folder = folder.display();
    let options = [
        format!("--poetdir={folder}"),
        format!("--genesis-time={}", genesis()),
        "--epoch-duration=60s".to_owned(),
        "--phase-shift=30s".to_owned(),
        "--cycle-gap=10s".to_owned(),
        "--restlisten=127.0.0.1:0".to_owned(),
        "--rpclisten=127.0.0.1:0".to_owned(),
        "--config-rpclisten=127.0.0.1:0".to_owned(),
        "--metrics-port=0".to_owned(),
        "--pow-difficulty=4".to_owned(),
        "--no-trial".to_owned(),
        "--work-core=off".to_owned(),
        "--audit=full".to_owned(),
        // Tests set the clock.
        "--clock-leap-patience=0s".to_owned(),
    ];
    Config::load(ServerArgs::parse(options).unwrap()).unwrap()
}

impl LocalServer {
    /// Returns a client of its metrics listener, which is on all interfaces.
    pub(crate) fn monitoring(&self) -> Client {
        let port = self.addresses.metrics.unwrap().port();
        Client::new(&format!("http://127.0.0.1:{port}"))
    }

    /// Starts a server `seconds_after_genesis`.
    pub(crate) fn start(config: Config, seconds_after_genesis: i64) -> Self {
        Self::start_with_log(config, seconds_after_genesis, RecentLines::default())
    }

    /// The same, with these lines in its log.
    pub(crate) fn start_with_log(
        config: Config,
        seconds_after_genesis: i64,
        recent: RecentLines,
    ) -> Self {
        let clock = Arc::new(ManualClock::new(genesis() + seconds(seconds_after_genesis)));
        let mut server = Self::start_with(config, Arc::clone(&clock) as Arc<dyn Clock>, recent);
        server.clock = Some(clock);
        server
    }

    /// Starts a server under the real clock.
    pub(crate) fn start_in_real_time(config: Config) -> Self {
        Self::start_with(config, Arc::new(SystemClock), RecentLines::default())
    }

    fn start_with(config: Config, clock: Arc<dyn Clock>, recent: RecentLines) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(start_server_with_log(config, clock, recent));
        let server = server.unwrap();
        let addresses = *server.addresses();
        let client = Client::new(&format!("http://{}", addresses.rest));
        Self {
            runtime,
            server: Some(server),
            client,
            addresses,
            clock: None,
        }
    }

    /// Lets time pass.
    pub(crate) fn pass(&self, time: Duration) {
        self.clock.as_ref().unwrap().pass(time);
    }

    /// Sets the clock.
    pub(crate) fn at(&self, seconds_after_genesis: i64) {
        self.set_clock(genesis() + seconds(seconds_after_genesis));
    }

    /// Sets the clock.
    pub(crate) fn set_clock(&self, now: Timestamp) {
        self.clock.as_ref().unwrap().set(now);
    }

    /// Returns the address at which it serves REST.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addresses.rest)
    }

    pub(crate) fn open_round(&self) -> u64 {
        self.server
            .as_ref()
            .unwrap()
            .status_reader()
            .status()
            .open
            .round
    }

    /// Returns the round that is worked on.
    pub(crate) fn executing(&self) -> Option<Executing> {
        let reader = self.server.as_ref().unwrap().status_reader();
        reader.status().executing
    }

    pub(crate) fn await_open_round(&self, round: u64) {
        await_some("the next round", || {
            (self.open_round() == round).then_some(())
        });
    }

    /// Waits until some work for `round` has been done.
    pub(crate) fn await_work(&self, round: u64) {
        let reader = self.server.as_ref().unwrap().status_reader();
        await_some("work", || {
            let executing = reader.status().executing?;
            let leaves = executing.leaves.load(std::sync::atomic::Ordering::Relaxed);
            (executing.round == round && leaves > 200).then_some(())
        });
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.shutdown());
        }
    }
}
