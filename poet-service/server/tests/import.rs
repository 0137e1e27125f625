//! Importing from the Go server: everything it may leave behind, in any state.
//!
//! `data/go-server` has directories that it made; `data/README.md` says how.
#![allow(clippy::unwrap_used)]

mod common;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, atomic::AtomicBool},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{LocalServer, await_some, bytes, config, genesis, start_server, verify_fetched};
use jiff::Timestamp;
use poet_admin::import::{ImportError, ImportReport, RoundReport, Source, Taken, import};
use poet_engine::{LABEL_DEPTH, LogHeader, Work, WorkFunction, membership};
use poet_rounds::clock::ManualClock;
use poet_service::config::Config;
use serde_json::Value;

const NODE_BYTES: u64 = 32;

/// A copy of what the Go server left, and a destination for the import.
struct Takeover {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Takeover {
    fn of(name: &'static str) -> Self {
        let this = Self {
            folder: tempfile::tempdir().unwrap(),
            name,
        };
        copy(&fixtures().join(name), &this.path("go"));
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn source(&self) -> Source {
        Source {
            datadir: self.path("go/data"),
            dbdir: self.path("go/db"),
        }
    }

    /// The configuration that the Go server ran with.
    fn config(&self) -> Config {
        let seconds = std::time::Duration::from_secs;
        let mut config = config(&self.path("new"));
        if self.name == "finished" {
            config.rounds.genesis = Some(at("2026-11-20T12:06:43Z"));
            config.rounds.epoch_duration = seconds(30);
            config.rounds.phase_shift = seconds(16);
            config.rounds.cycle_gap = seconds(8);
        } else {
            let about = about(self.name);
            config.rounds.genesis = Some(at(about["genesis_time"].as_str().unwrap()));
            config.rounds.epoch_duration = seconds(3600);
            config.rounds.phase_shift = seconds(4);
            config.rounds.cycle_gap = seconds(600);
        }
        config
    }

    /// Imports at a time when round 0 is worked on.
    fn import(&self) -> Result<ImportReport, ImportError> {
        self.import_with(&self.config(), during_round_0(), false)
    }

    fn import_with(
        &self,
        config: &Config,
        now: Timestamp,
        stop: bool,
    ) -> Result<ImportReport, ImportError> {
        let stop = AtomicBool::new(stop);
        import(
            &self.source(),
            &config.directories,
            &config.rounds,
            now,
            &work(),
            &stop,
            &mut |_| {},
        )
    }

    /// Checks that the import fails with one sentence that contains these parts, and leaves nothing
    /// but locks.
    #[track_caller]
    fn refused(&self, parts: &[&str]) {
        let before = snapshot(&self.path("go"));
        let message = self.import().unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert!(!message.contains('\n'), "{message}");
        assert!(snapshot(&self.path("go")) == before);
        self.nothing_is_imported();
    }

    #[track_caller]
    fn nothing_is_imported(&self) {
        for path in snapshot(&self.path("new")).keys() {
            assert!(path.ends_with("poet-service.lock"), "{path:?}");
        }
        assert!(!self.path("new/data/rounds").exists());
    }

    fn layer(&self, height: u32) -> PathBuf {
        self.path(&format!("go/data/rounds/0/layercache_{height}.bin"))
    }

    fn log(&self) -> PathBuf {
        self.path("new/data/rounds/0/tree.log")
    }

    /// Replaces a database with that of another directory.
    fn replace(&self, database: &str, other: &str) {
        let path = self.path("go/db").join(database);
        drop(fs::remove_dir_all(&path));
        copy(&fixtures().join(other), &path);
    }

    fn start(&self, now: &str) -> LocalServer {
        let now = at(now).duration_since(genesis()).as_secs();
        LocalServer::start(self.config(), now)
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../admin/tests/data/go-server")
}

fn about(name: &str) -> Value {
    let text = fs::read_to_string(fixtures().join(name).join("about.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Returns the challenges of the members of round 0, in order.
fn members(name: &str) -> Vec<[u8; 32]> {
    let about = about(name);
    let hex = |value: &Value| -> [u8; 32] {
        let bytes = hex::decode(value.as_str().unwrap()).unwrap();
        bytes.try_into().unwrap()
    };
    let registered = about["registered"].as_array().unwrap();
    let members: BTreeMap<_, _> = registered
        .iter()
        .map(|member| (hex(&member[0]), hex(&member[1])))
        .collect();
    members.into_values().collect()
}

/// Returns the Go server's response to a request for the proof in `finished`.
fn recorded(case: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rest.json");
    let cases: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let mut cases = cases.as_array().unwrap().iter();
    cases.find(|recorded| recorded["case"] == case).unwrap()["response"].clone()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn during_round_0() -> Timestamp {
    at("2026-11-20T12:12:00Z")
}

fn work() -> Work {
    let selection = poet_backends::select(WorkFunction::Sha256, None).unwrap();
    selection.work(LABEL_DEPTH).unwrap()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::write(target, fs::read(path).unwrap()).unwrap();
        }
    }
}

/// All files with their contents.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(snapshot(&path));
        } else {
            let content = fs::read(&path).unwrap();
            files.insert(path, content);
        }
    }
    files
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut content = fs::read(path).unwrap();
    change(&mut content);
    fs::write(path, content).unwrap();
}

/// The state of a round as the Go server writes it, up to whether there is a proof.
fn round_state(started: &str, statement: &[u8], leaves: u64) -> Vec<u8> {
    let numbers = |numbers: &[u32]| -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    };
    [
        opaque(started.as_bytes()),
        numbers(&[1, 150, 0]),
        opaque(statement),
        numbers(&[0]),
        leaves.to_be_bytes().to_vec(),
    ]
    .concat()
}

fn opaque(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    out
}

#[test]
fn a_round_in_progress_goes_on_from_its_last_leaf() {
    let takeover = Takeover::of("stopped-cleanly");
    let before = snapshot(&takeover.path("go"));
    let report = takeover.import().unwrap();
    assert!(snapshot(&takeover.path("go")) == before);
    assert!(!report.already);
    assert_eq!(report.warnings, [""; 0]);
    let taken = Taken::Work {
        leaves: 40608,
        recorded: 40608,
    };
    assert_eq!(
        report.rounds,
        [RoundReport {
            round: 0,
            members: 20,
            taken
        }]
    );
    // Subtrees of 16 leaves.
    let log_bytes = fs::metadata(takeover.log()).unwrap().len();
    assert_eq!(log_bytes, LogHeader::BYTES as u64 + 40608 / 16 * NODE_BYTES);

    let about = about("stopped-cleanly");
    let server = takeover.start("2026-11-20T12:12:00Z");
    let leaves = || -> u64 {
        let round = server.client.get("/v1/rounds/0").json();
        round["leaves"]
            .as_str()
            .and_then(|leaves| leaves.parse().ok())
            .unwrap_or_default()
    };
    let first = await_some("the work", || Some(leaves()).filter(|leaves| *leaves > 0));
    assert!(first >= 40608, "{first}");
    let later = await_some("more leaves", || {
        Some(leaves()).filter(|leaves| *leaves > first + 1000)
    });
    let info = server.client.get("/v1/info").json();
    assert_eq!(info["servicePubkey"], about["service_pubkey"]);
    let challenge = bytes(&about["pow_challenge"]);
    assert_eq!(server.client.pow_params().challenge, challenge);

    server.set_clock(at("2026-11-20T13:01:18Z"));
    let answer = server.client.await_proof(0);
    let proof = verify_fetched(&answer);
    assert!(proof.leaves >= later);
    assert_eq!(proof.members, members("stopped-cleanly"));
    assert_eq!(answer.json()["pubkey"], about["service_pubkey"]);
    assert_eq!(server.client.pow_params().challenge, proof.root);
    drop(server);

    // There is nothing left to import.
    assert!(takeover.import().unwrap().already);
    assert!(!takeover.log().exists());
}

/// The Go server itself does not start on this directory.
#[test]
fn what_a_killed_server_had_done_is_not_lost() {
    let takeover = Takeover::of("killed");
    let report = takeover.import().unwrap();
    // Nothing was recorded as done, but the layer files are intact as far as they go.
    let taken = Taken::Work {
        leaves: 38912,
        recorded: 0,
    };
    assert_eq!(report.rounds[0].taken, taken);
    // The round is over: it is finished as it is.
    let server = takeover.start("2026-11-20T14:00:00Z");
    let proof = verify_fetched(&server.client.await_proof(0));
    assert!((38912..200_000).contains(&proof.leaves), "{}", proof.leaves);
    assert_eq!(proof.members, members("killed"));
}

#[test]
fn an_old_proof_is_served_as_it_was() {
    let takeover = Takeover::of("finished");
    let report = takeover.import().unwrap();
    let leaves = 738_136;
    let taken = Taken::Proof { leaves };
    assert_eq!(
        report.rounds,
        [RoundReport {
            round: 0,
            members: 14,
            taken
        }]
    );
    // Some challenges have other lengths, so the proof was never valid: nodes cut or pad them.
    let [warning] = &report.warnings[..] else {
        panic!("{:?}", report.warnings);
    };
    assert!(
        warning.contains("no node accepts its proof (3 of its members"),
        "{warning}"
    );

    let server = takeover.start("2026-11-20T12:07:22Z");
    let expected = recorded("proof_wait");
    let answer = server.client.get("/v1/proofs/0");
    assert_eq!(answer.json(), expected);
    // Byte for byte, in the order in which the Go server writes the fields.
    let list = |list: &Value| list.to_string();
    let (proof, merkle) = (&expected["proof"], &expected["proof"]["proof"]);
    let text = format!(
        r#"{{"proof":{{"proof":{{"root":{},"provenLeaves":{},"proofNodes":{}}},"members":{},"leaves":{}}},"pubkey":{}}}"#,
        merkle["root"],
        list(&merkle["provenLeaves"]),
        list(&merkle["proofNodes"]),
        list(&proof["members"]),
        proof["leaves"],
        expected["pubkey"],
    );
    assert_eq!(answer.body, text);
    let current = recorded("pow_params_after_round")["powParams"]["challenge"].clone();
    let params = server.client.get("/v1/pow_params").json();
    assert_eq!(params["powParams"]["challenge"], current);
    // The challenge that nodes were given before is still accepted.
    let node = common::TestNode::new(1);
    let mut before = server.client.pow_params();
    before.challenge = bytes(&recorded("pow_params")["powParams"]["challenge"]);
    let accepted = server.client.submit(&node.request(&before));
    assert_eq!(accepted.status, 200, "{}", accepted.body);
    let round = server.client.get("/v1/rounds/0").json();
    assert_eq!(round["leaves"], "738136", "{round}");
}

#[test]
fn lower_layers_give_the_same_log() {
    let log = |without: &[u32]| {
        let takeover = Takeover::of("stopped-cleanly");
        for height in without {
            fs::remove_file(takeover.layer(*height)).unwrap();
        }
        takeover.import().unwrap();
        fs::read(takeover.log()).unwrap()
    };
    assert!(log(&[]) == log(&[4]));
    let takeover = Takeover::of("stopped-cleanly");
    for height in [3, 4] {
        fs::remove_file(takeover.layer(height)).unwrap();
    }
    takeover.refused(&[
        "no layer file at or below height 4",
        "40608 leaves are recorded",
    ]);
}

#[test]
fn layers_are_cut_where_they_are_not_intact_but_not_below_the_record() {
    // Garbage after what is recorded.
    let takeover = Takeover::of("stopped-cleanly");
    change(&takeover.layer(4), |nodes| nodes.extend([7; 32 * 100 + 5]));
    let report = takeover.import().unwrap();
    let taken = Taken::Work {
        leaves: 40608,
        recorded: 40608,
    };
    assert_eq!(report.rounds[0].taken, taken);
    let log_bytes = fs::metadata(takeover.log()).unwrap().len();
    assert_eq!(log_bytes, LogHeader::BYTES as u64 + 40608 / 16 * NODE_BYTES);

    // Damage in what was not recorded.
    let takeover = Takeover::of("killed");
    change(&takeover.layer(4), |nodes| nodes[32 * 1000 + 3] ^= 1);
    let taken = Taken::Work {
        leaves: 16000,
        recorded: 0,
    };
    assert_eq!(takeover.import().unwrap().rounds[0].taken, taken);

    // Damage in what was recorded.
    for node in [0, 1000, 2537] {
        let takeover = Takeover::of("stopped-cleanly");
        change(&takeover.layer(4), |nodes| nodes[32 * node + 3] ^= 1);
        let name = format!("node {node} is not what the work gives");
        takeover.refused(&["round 0", "layercache_4.bin is damaged", &name]);
    }
    // Named by its place in the layer that was read.
    let takeover = Takeover::of("stopped-cleanly");
    fs::remove_file(takeover.layer(4)).unwrap();
    change(&takeover.layer(3), |nodes| nodes[32 * 1001] ^= 1);
    takeover.refused(&["layercache_3.bin is damaged", "node 1000 "]);

    let takeover = Takeover::of("stopped-cleanly");
    let layer = OpenOptions::new()
        .write(true)
        .open(takeover.layer(4))
        .unwrap();
    layer.set_len(2537 * NODE_BYTES + 31).unwrap();
    takeover.refused(&["layercache_4.bin is cut: it has 2537 nodes, 2538 are recorded"]);
    // The advice in the message works.
    fs::remove_file(takeover.layer(4)).unwrap();
    takeover.import().unwrap();
}

/// As after a kill: the server writes the end of a higher layer later.
#[test]
fn where_a_layer_ends_lower_ones_go_on() {
    let reference = Takeover::of("stopped-cleanly");
    reference.import().unwrap();
    let whole = fs::read(reference.log()).unwrap();

    let shorter = |nodes: usize| {
        let takeover = Takeover::of("stopped-cleanly");
        change(&takeover.path("go/data/rounds/0/state.bin"), |state| {
            let leaves = state.len() - 12;
            state[leaves..leaves + 8].copy_from_slice(&16_000_u64.to_be_bytes());
        });
        change(&takeover.layer(4), |layer| layer.truncate(32 * nodes));
        takeover
    };
    let taken = Taken::Work {
        leaves: 40608,
        recorded: 16000,
    };
    let takeover = shorter(1001);
    assert_eq!(takeover.import().unwrap().rounds[0].taken, taken);
    assert!(fs::read(takeover.log()).unwrap() == whole);
    // Stopped in either layer.
    let takeover = shorter(1001);
    let config = takeover.config();
    fs::create_dir_all(part_folder(&takeover)).unwrap();
    for entries in [1000, 1001, 2000] {
        let log = &whole[..LogHeader::BYTES + 32 * entries];
        fs::write(part_folder(&takeover).join("tree.log.part"), log).unwrap();
        let interrupted = takeover.import_with(&config, during_round_0(), true);
        assert!(matches!(interrupted, Err(ImportError::Interrupted)));
    }
    takeover.import().unwrap();
    assert!(fs::read(takeover.log()).unwrap() == whole);

    // Damage in the lower layer is after what is recorded; in the higher one it is reported.
    let takeover = shorter(1001);
    change(&takeover.layer(3), |layer| layer[32 * 4000] ^= 1);
    let taken = Taken::Work {
        leaves: 32000,
        recorded: 16000,
    };
    assert_eq!(takeover.import().unwrap().rounds[0].taken, taken);
    let takeover = shorter(1001);
    change(&takeover.layer(4), |layer| layer[32 * 900] ^= 1);
    takeover.refused(&["layercache_4.bin is damaged", "node 900 "]);
    // What is recorded must be in the highest one.
    let takeover = shorter(999);
    takeover.refused(&["layercache_4.bin is cut: it has 999 nodes, 1000 are recorded"]);
}

#[test]
fn an_interrupted_import_goes_on() {
    let reference = Takeover::of("stopped-cleanly");
    reference.import().unwrap();
    let log = fs::read(reference.log()).unwrap();

    let takeover = Takeover::of("stopped-cleanly");
    let config = takeover.config();
    let part = takeover.path("new/data/rounds/0/tree.log.part");
    for entries in 1..4 {
        let interrupted = takeover.import_with(&config, during_round_0(), true);
        assert!(matches!(interrupted, Err(ImportError::Interrupted)));
        assert_eq!(
            fs::metadata(&part).unwrap().len(),
            LogHeader::BYTES as u64 + entries * NODE_BYTES
        );
        assert!(!takeover.path("new/db/poet.sqlite").exists());
    }
    takeover.import().unwrap();
    assert!(!part.exists());
    assert!(fs::read(takeover.log()).unwrap() == log);

    // Ended between the log's completion and the database.
    let takeover = Takeover::of("stopped-cleanly");
    fs::create_dir_all(part_folder(&takeover)).unwrap();
    fs::write(takeover.log(), &log).unwrap();
    takeover.import().unwrap();
    assert!(fs::read(takeover.log()).unwrap() == log);

    // By a power failure, which left other bytes in the file.
    let takeover = Takeover::of("stopped-cleanly");
    fs::create_dir_all(part_folder(&takeover)).unwrap();
    let zeros = [&log[..LogHeader::BYTES], &[0; 32 * 50]].concat();
    fs::write(part_folder(&takeover).join("tree.log.part"), zeros).unwrap();
    takeover.import().unwrap();
    assert!(fs::read(takeover.log()).unwrap() == log);

    // With another schedule, and so another height.
    let takeover = Takeover::of("stopped-cleanly");
    let mut other = takeover.config();
    other.rounds.epoch_duration = std::time::Duration::from_secs(3600 * 24);
    let interrupted = takeover.import_with(&other, during_round_0(), true);
    assert!(matches!(interrupted, Err(ImportError::Interrupted)));
    takeover.import().unwrap();
    assert!(fs::read(takeover.log()).unwrap() == log);
}

fn part_folder(takeover: &Takeover) -> PathBuf {
    takeover.path("new/data/rounds/0")
}

#[test]
fn a_second_import_changes_nothing() {
    for name in ["stopped-cleanly", "killed", "finished"] {
        let takeover = Takeover::of(name);
        assert!(!takeover.import().unwrap().already);
        let before = snapshot(&takeover.path("new"));
        assert!(takeover.import().unwrap().already);
        let without_locks = |mut files: BTreeMap<PathBuf, Vec<u8>>| {
            files.retain(|path, _| !path.ends_with("poet-service.lock"));
            files
        };
        assert!(without_locks(snapshot(&takeover.path("new"))) == without_locks(before));
    }
}

#[test]
fn a_server_that_runs_is_left_alone() {
    for database in ["proofs", "rounds/1"] {
        let takeover = Takeover::of("stopped-cleanly");
        // As goleveldb locks it: with flock.
        let lock = File::open(takeover.path("go/db").join(database).join("LOCK")).unwrap();
        lock.lock().unwrap();
        takeover.refused(&["is in use: expected the Go server to be stopped", database]);
        drop(lock);
        takeover.import().unwrap();
    }
}

#[test]
fn a_destination_in_use_or_with_another_state_is_left_alone() {
    let takeover = Takeover::of("stopped-cleanly");
    let server = takeover.start("2026-11-20T12:11:00Z");
    let message = takeover.import().unwrap_err().to_string();
    assert!(
        message.contains("is in use by another poet-service"),
        "{message}"
    );
    drop(server);

    let message = takeover.import().unwrap_err().to_string();
    assert!(
        message.contains("holds the work of the server with public key"),
        "{message}"
    );
    fs::remove_file(takeover.path("new/data/poet-service.owner")).unwrap();
    let message = takeover.import().unwrap_err().to_string();
    assert!(
        message.contains("holds another state already: it belongs to another private key"),
        "{message}"
    );
    assert!(!takeover.log().exists());

    // The same server, with more than what was imported before.
    let takeover = Takeover::of("stopped-cleanly");
    let rounds = takeover.path("go/data/rounds");
    fs::rename(&rounds, takeover.path("rounds")).unwrap();
    let database = takeover.path("go/db/rounds/0");
    fs::rename(&database, takeover.path("members")).unwrap();
    assert_eq!(takeover.import().unwrap().rounds, []);
    fs::rename(takeover.path("rounds"), &rounds).unwrap();
    fs::rename(takeover.path("members"), &database).unwrap();
    let message = takeover.import().unwrap_err().to_string();
    assert!(
        message.contains("it has this key, but not round 0"),
        "{message}"
    );
    assert!(!takeover.log().exists());

    // The work of another server, whose database is elsewhere.
    let takeover = Takeover::of("stopped-cleanly");
    let owner = takeover.path("new/data/poet-service.owner");
    fs::create_dir_all(part_folder(&takeover)).unwrap();
    fs::write(takeover.log(), "precious").unwrap();
    fs::write(&owner, "another key\n").unwrap();
    let message = takeover.import().unwrap_err().to_string();
    assert!(
        message
            .contains("poet-service.owner, which says whose work is in that directory, is damaged"),
        "{message}"
    );
    let another = STANDARD.encode([7; 32]);
    fs::write(&owner, format!("{another}\n")).unwrap();
    let message = takeover.import().unwrap_err().to_string();
    let expected = format!("holds the work of the server with public key {another}");
    assert!(message.contains(&expected), "{message}");
    assert_eq!(fs::read(takeover.log()).unwrap(), b"precious");
    // Its own work.
    let about = about("stopped-cleanly");
    fs::write(&owner, about["service_pubkey"].as_str().unwrap()).unwrap();
    takeover.import().unwrap();

    // With another schedule, the rounds would differ.
    let takeover = Takeover::of("finished");
    takeover.import().unwrap();
    let mut other = takeover.config();
    other.rounds.cycle_gap = std::time::Duration::from_secs(9);
    let error = takeover.import_with(&other, during_round_0(), false);
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("its rounds follow another schedule"),
        "{message}"
    );
}

/// It would serve under a new key, and register nodes that get no proof under the old one.
#[test]
fn a_server_does_not_start_where_an_import_is_to_be_made_or_ended() {
    let takeover = Takeover::of("stopped-cleanly");
    let expect_refusal = |config: Config, part: &str| {
        let database = config.directories.dbdir.join("poet.sqlite");
        let clock = Arc::new(ManualClock::new(during_round_0()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let started = runtime.block_on(start_server(config, clock));
        let message = started.map(drop).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        assert!(!database.exists());
    };
    let mut config = takeover.config();
    config.directories.datadir = takeover.path("go/data");
    expect_refusal(config, "expected `poet-service import` first");
    takeover.import().unwrap();
    // As after a kill just before the database was there.
    let database = takeover.config().directories.dbdir.join("poet.sqlite");
    fs::remove_file(&database).unwrap();
    expect_refusal(
        takeover.config(),
        "holds the work of the server with public key",
    );
    takeover.import().unwrap();
    let server = takeover.start("2026-11-20T12:12:00Z");
    assert_eq!(
        server.client.get("/v1/info").json()["servicePubkey"],
        about("stopped-cleanly")["service_pubkey"]
    );
}

#[test]
fn the_schedule_must_be_that_of_the_rounds() {
    let takeover = Takeover::of("stopped-cleanly");
    let refused = |config: &Config, part: &str| {
        let error = takeover.import_with(config, during_round_0(), false);
        let message = error.unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
        takeover.nothing_is_imported();
    };
    let mut config = takeover.config();
    config.rounds.genesis = None;
    refused(&config, "--genesis-time is not set");
    config.rounds.genesis = Some(at("2026-11-20T12:21:14Z"));
    refused(
        &config,
        "began to work on round 0 at 2026-11-20T12:11:18Z, which by the configured schedule lasts \
         from 2026-11-20T12:21:18Z to 2026-11-20T13:11:18Z",
    );
    config.rounds.genesis = Some(at("2026-11-19T12:11:14Z"));
    refused(
        &config,
        "which by the configured schedule lasts from 2026-11-19",
    );
    config.rounds.epoch_duration = config.rounds.cycle_gap;
    refused(&config, "expected a gap shorter than the epoch");
}

#[test]
fn the_server_only_starts_with_the_schedule_of_the_import() {
    let takeover = Takeover::of("finished");
    takeover.import().unwrap();
    let mut other = takeover.config();
    other.rounds.cycle_gap = std::time::Duration::from_secs(9);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let clock = std::sync::Arc::new(poet_rounds::clock::SystemClock);
    let refused = runtime.block_on(start_server(other, clock));
    let message = refused.err().unwrap().to_string();
    assert!(
        message.contains("holds rounds of another schedule"),
        "{message}"
    );
}

#[test]
fn damage_is_named_and_nothing_is_imported() {
    let damaged = |path: &str, damage: &dyn Fn(&mut Vec<u8>), parts: &[&str]| {
        let takeover = Takeover::of("stopped-cleanly");
        change(&takeover.path("go").join(path), damage);
        takeover.refused(parts);
    };
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 1);
    let state = "data/state.bin";
    damaged(state, &cut, &["state.bin", "it ends at byte 67"]);
    damaged(state, &|bytes| bytes.push(0), &["there are more bytes"]);
    damaged(
        state,
        &|bytes| bytes[40] ^= 1,
        &["state.bin holds no private key"],
    );
    let short = |bytes: &mut Vec<u8>| *bytes = opaque(&bytes[4..67]);
    damaged(
        state,
        &short,
        &["state.bin holds no private key: it has 63 bytes"],
    );
    let state = "data/rounds/0/state.bin";
    damaged(state, &cut, &[state, "it ends at byte 99"]);
    damaged(state, &Vec::clear, &[state, "it ends at byte 0"]);
    damaged(
        state,
        &|bytes| bytes[43] = 151,
        &[state, "or of another version", "byte 40: expected 150"],
    );
    damaged(
        state,
        &|bytes| bytes[60] ^= 1,
        &["the members of round 0", "do not give the statement"],
    );
    damaged(
        "db/rounds/0/000001.log",
        &|bytes| bytes[100] ^= 1,
        &["rounds/0/000001.log is damaged", "record at byte 86"],
    );
    damaged(
        "db/proofs/000002.ldb",
        &|bytes| bytes[10] ^= 1,
        &["000002.ldb is damaged", "block at byte 0 is not intact"],
    );
    damaged(
        "db/proofs/MANIFEST-000000",
        &|bytes| bytes[10] ^= 1,
        &["MANIFEST-000000 is damaged"],
    );
    damaged("db/rounds/1/CURRENT", &Vec::clear, &["CURRENT is damaged"]);

    let missing = |path: &str, parts: &[&str]| {
        let takeover = Takeover::of("stopped-cleanly");
        let path = takeover.path("go").join(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        takeover.refused(parts);
    };
    missing(
        "data/state.bin",
        &["is not the data directory of a Go server"],
    );
    missing("data", &["is not the data directory of a Go server"]);
    missing(
        "db/proofs",
        &["is not the database directory of a Go server"],
    );
    missing("db/proofs/000002.ldb", &["000002.ldb is missing"]);
    missing(
        "db/rounds/0",
        &["round 0 is being worked on, but", "is missing"],
    );

    let takeover = Takeover::of("stopped-cleanly");
    takeover.replace("proofs", "finished/db/rounds/0");
    takeover.refused(&["proofs is damaged, entry", "expected the number of a round"]);
    let takeover = Takeover::of("stopped-cleanly");
    takeover.replace("rounds/0", "stopped-cleanly/db/proofs");
    takeover.refused(&["rounds/0 is damaged, entry", "32 bytes of a node id"]);
}

#[test]
fn a_record_that_was_never_completed_is_left_out_with_a_warning() {
    let takeover = Takeover::of("finished");
    change(&takeover.path("go/db/proofs/000001.log"), |journal| {
        journal.truncate(40_000);
    });
    let report = takeover.import_with(&takeover.config(), at("2026-11-20T12:07:00Z"), false);
    let warnings = report.unwrap().warnings;
    assert!(
        warnings[0].contains("000001.log: the last 40000 bytes"),
        "{warnings:?}"
    );
}

#[test]
fn another_key_in_the_environment_is_refused() {
    let takeover = Takeover::of("finished");
    let mut other = takeover.config();
    other.rounds.private_key = Some(poet_proto::identity::PrivateKey::generate().unwrap());
    let error = takeover.import_with(&other, during_round_0(), false);
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("POET_PRIVATE_KEY is another key"),
        "{message}"
    );
    takeover.nothing_is_imported();
}

#[test]
fn members_of_a_round_that_is_not_begun() {
    // Round 1 with 14 members, 3 of which have a challenge of another length.
    let takeover = Takeover::of("stopped-cleanly");
    takeover.replace("rounds/1", "finished/db/rounds/0");
    let report = takeover.import().unwrap();
    let expected = RoundReport {
        round: 1,
        members: 11,
        taken: Taken::Members,
    };
    assert_eq!(report.rounds[1], expected);
    assert_eq!(report.warnings.len(), 3);
    for warning in &report.warnings {
        assert!(warning.starts_with("round 1: member ") && warning.contains("expected 32"));
    }
    let server = takeover.start("2026-11-20T12:12:00Z");
    assert_eq!(server.open_round(), 1);
    let round = server.client.get("/v1/rounds/1").json();
    assert_eq!(round["members"], "11", "{round}");
    server.set_clock(at("2026-11-20T15:00:00Z"));
    verify_fetched(&server.client.await_proof(0));
    let proof = verify_fetched(&server.client.await_proof(1));
    assert_eq!(proof.members, usable_members());

    // Too late: the Go server would not begin it, either.
    let takeover = Takeover::of("stopped-cleanly");
    takeover.replace("rounds/1", "finished/db/rounds/0");
    let report = takeover.import_with(&takeover.config(), at("2026-11-20T15:00:00Z"), false);
    let report = report.unwrap();
    assert_eq!(report.rounds.len(), 1);
    assert!(report.warnings[0].contains("round 1: it has members, but was not begun"));
}

/// The challenges of `finished` that have 32 bytes.
fn usable_members() -> Vec<[u8; 32]> {
    let proof = recorded("proof_wait");
    let members = proof["proof"]["members"].as_array().unwrap();
    members
        .iter()
        .filter_map(|member| bytes(member).try_into().ok())
        .collect()
}

/// The Go server ignores an empty challenge in the place of a left sibling.
fn statement_of_finished() -> Vec<u8> {
    let proof = recorded("proof_wait");
    let members = proof["proof"]["members"].as_array().unwrap();
    let mut members: Vec<_> = members.iter().map(bytes).collect();
    assert!(members.remove(4).is_empty());
    membership::root(&members)
}

#[test]
fn work_that_no_node_would_accept_begins_anew() {
    let takeover = Takeover::of("stopped-cleanly");
    takeover.replace("rounds/0", "finished/db/rounds/0");
    let state = round_state("2026-11-20T12:11:18Z", &statement_of_finished(), 40608);
    let state = [state, vec![0; 4]].concat();
    fs::write(takeover.path("go/data/rounds/0/state.bin"), state).unwrap();
    let report = takeover.import().unwrap();
    assert_eq!(report.rounds[0].taken, Taken::Members);
    assert!(
        report.warnings[0].contains("it starts again"),
        "{:?}",
        report.warnings
    );
    assert_eq!(report.warnings.len(), 4);
    let server = takeover.start("2026-11-20T12:12:00Z");
    server.await_work(0);
    server.set_clock(at("2026-11-20T14:00:00Z"));
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, usable_members());
}

#[test]
fn a_proof_that_was_made_but_not_handed_over() {
    let takeover = Takeover::of("finished");
    takeover.replace("proofs", "stopped-cleanly/db/proofs");
    let recorded = recorded("proof_wait");
    let merkle = &recorded["proof"]["proof"];
    let list = |list: &Value| -> Vec<u8> {
        let nodes = list.as_array().unwrap();
        let length = (nodes.len() as u32).to_be_bytes().to_vec();
        nodes.iter().fold(length, |mut bytes, node| {
            bytes.extend(opaque(&common::bytes(node)));
            bytes
        })
    };
    let state = [
        round_state("2026-11-20T12:06:59Z", &statement_of_finished(), 738_136),
        1_u32.to_be_bytes().to_vec(),
        opaque(&bytes(&merkle["root"])),
        list(&merkle["provenLeaves"]),
        list(&merkle["proofNodes"]),
    ];
    fs::create_dir_all(takeover.path("go/data/rounds/0")).unwrap();
    fs::write(takeover.path("go/data/rounds/0/state.bin"), state.concat()).unwrap();
    let report = takeover.import().unwrap();
    assert_eq!(report.rounds[0].taken, Taken::Proof { leaves: 738_136 });
    let server = takeover.start("2026-11-20T12:07:22Z");
    assert_eq!(server.client.get("/v1/proofs/0").json(), recorded);
}

#[test]
fn the_same_directories_can_be_used() {
    let takeover = Takeover::of("stopped-cleanly");
    let before = snapshot(&takeover.path("go"));
    let mut config = takeover.config();
    config.directories.datadir = takeover.path("go/data");
    config.directories.dbdir = takeover.path("go/db");
    takeover
        .import_with(&config, during_round_0(), false)
        .unwrap();
    let after = snapshot(&takeover.path("go"));
    for (path, content) in &before {
        assert!(after.get(path) == Some(content), "{path:?}");
    }
    // Two locks, the owner, the database and the log.
    assert_eq!(after.len(), before.len() + 5);
    // A failure leaves the layers unchanged, too.
    let takeover = Takeover::of("stopped-cleanly");
    change(&takeover.layer(4), |nodes| nodes[0] ^= 1);
    let before = snapshot(&takeover.path("go"));
    let mut config = takeover.config();
    config.directories.datadir = takeover.path("go/data");
    config.directories.dbdir = takeover.path("go/db");
    takeover
        .import_with(&config, during_round_0(), false)
        .unwrap_err();
    let mut after = snapshot(&takeover.path("go"));
    after.retain(|path, _| !path.ends_with("poet-service.lock"));
    assert!(after == before);
}

// The commands, as they are typed.

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .args(arguments)
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

impl Takeover {
    /// The command that imports what a server with the hourly rounds of `killed` or
    /// `stopped-cleanly` left.
    fn command(&self) -> Command {
        let genesis = about(self.name)["genesis_time"]
            .as_str()
            .unwrap()
            .to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_poet-service"));
        command
            .arg("import")
            .arg("--from")
            .arg(self.path("go/data"))
            .arg("--poetdir")
            .arg(self.path("new"))
            .arg(format!("--genesis-time={genesis}"))
            .args(["--epoch-duration=1h", "--phase-shift=4s", "--cycle-gap=10m"])
            .arg("--no-trial")
            .env_remove("POET_PRIVATE_KEY")
            .stdin(Stdio::null());
        command
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The command fails with one line that contains this.
#[track_caller]
fn fails(arguments: &[&str], code: i32, part: &str) {
    let output = run(arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(part), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[cfg(unix)]
#[test]
fn a_signal_interrupts_the_command() {
    let takeover = Takeover::of("killed");
    // Zeros that take no space on the disk, and hours to read.
    fs::remove_file(takeover.layer(4)).unwrap();
    let layer = File::create(takeover.layer(0)).unwrap();
    layer.set_len(1 << 36).unwrap();
    let part = takeover.path("new/data/rounds/0/tree.log.part");
    let bytes = || fs::metadata(&part).map_or(0, |metadata| metadata.len());
    let mut before = LogHeader::BYTES as u64;
    for signal in ["INT", "KILL", "TERM"] {
        let command = takeover
            .command()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        await_some("the conversion", || (bytes() > before).then_some(()));
        let kill = format!("kill -{signal} {}", command.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
        let output = command.wait_with_output().unwrap();
        assert!(output.stdout.is_empty());
        if signal != "KILL" {
            assert_eq!(output.status.code(), Some(130));
            assert_eq!(
                text(&output.stderr),
                "interrupted: the same command goes on from here\n"
            );
            // A whole number of entries, more than before.
            assert_eq!((bytes() - LogHeader::BYTES as u64) % NODE_BYTES, 0);
        }
        before = bytes();
    }
    assert!(!takeover.path("new/db/poet.sqlite").exists());
}

#[test]
fn killed_at_any_moment_it_goes_on() {
    let reference = Takeover::of("stopped-cleanly");
    reference.import().unwrap();
    let whole = fs::read(reference.log()).unwrap();

    let takeover = Takeover::of("stopped-cleanly");
    let source = snapshot(&takeover.path("go"));
    let mut kills = 0;
    for delay in (0..).step_by(2).map(std::time::Duration::from_millis) {
        let mut command = takeover.command().stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(delay);
        drop(command.kill());
        if command.wait().unwrap().success() {
            break;
        }
        kills += 1;
        assert!(snapshot(&takeover.path("go")) == source);
    }
    assert!(kills > 0);
    assert!(takeover.import().unwrap().already);
    assert!(fs::read(takeover.log()).unwrap() == whole);
    let database = |takeover: &Takeover| {
        let database = takeover.path("new/db/poet.sqlite");
        let database = rusqlite::Connection::open(database).unwrap();
        let members = "SELECT group_concat(hex(node_id) || hex(challenge)) FROM registrations";
        let members: String = database.query_row(members, [], |row| row.get(0)).unwrap();
        members
    };
    assert_eq!(database(&takeover), database(&reference));
}

#[test]
fn the_commands_import_and_export() {
    let takeover = Takeover::of("finished");
    let path = |name| takeover.path(name).to_str().unwrap().to_owned();
    let (from, new, out) = (path("go/data"), path("new"), path("proof"));
    let schedule = [
        "--poetdir",
        &new,
        "--genesis-time=2026-11-20T12:06:43Z",
        "--epoch-duration=30s",
        "--phase-shift=16s",
        "--cycle-gap=8s",
    ];
    let command = [&["import", "--from", &from], &schedule[..]].concat();
    let output = run(&command);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "identity  tbthc2cNUW0MASMFp/AAEGfwqUG/f4g+OjirEI4vRfY=\n\
         round 0   14 members, the proof of 738136 leaves\n\
         imported: the server can be started with the same options\n"
    );
    assert!(text(&output.stderr).starts_with("WARNING: round 0: no node accepts its proof"));
    let output = run(&command);
    assert!(output.status.success());
    assert!(text(&output.stdout).ends_with("everything is there already: nothing was changed\n"));
    let nowhere = path("nowhere");
    fails(
        &[
            "import",
            "--from",
            &nowhere,
            "--poetdir",
            &new,
            "--genesis-time=2026-11-20T12:06:43Z",
        ],
        1,
        "nowhere is not the data directory of a Go server",
    );
    fails(
        &["import", "--from", &from, "--poetdir", &new],
        1,
        "--genesis-time is not set",
    );

    // While a server runs.
    let server = takeover.start("2026-11-20T12:07:22Z");
    let body = server.client.get("/v1/proofs/0").body;
    let export = ["export", "--poetdir", &new, "--proof"];
    let output = run(&[&export[..], &["0"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), body);
    fails(
        &[&export[..], &["7"]].concat(),
        1,
        "round 7 has no proof in",
    );
    drop(server);

    let output = run(&[&export[..], &["0", "--out", &out]].concat());
    assert!(output.status.success() && output.stdout.is_empty());
    assert_eq!(fs::read_to_string(&out).unwrap(), body);
    let output = run(&["verify", &out]);
    assert_eq!(output.status.code(), Some(1));

    // It is valid for the statement that the work is bound to.
    let output = run(&[&export[..], &["0", "--out", &out, "--format=bytes"]].concat());
    let told = text(&output.stderr);
    let statement = hex::encode(statement_of_finished());
    assert!(
        told.starts_with(&format!("statement {statement}\nreference ")),
        "{told}"
    );
    let output = run(&["verify", &out, "--statement", &statement]);
    assert_eq!(
        text(&output.stdout),
        "valid: 738136 leaves, 0 ticks of 9331200 leaves\n"
    );
    fails(&["verify", &out], 2, "expected --statement");
    let output = run(&["verify", &out, "--statement", "00"]);
    assert_eq!(output.status.code(), Some(1));
    change(Path::new(&out), |bytes| bytes.truncate(bytes.len() - 1));
    fails(
        &["verify", &out, "--statement", &statement],
        2,
        "the bytes end at",
    );
    // What nodes store after verifying it.
    let format = ["0", "--out", &out, "--format=message"];
    assert!(run(&[&export[..], &format].concat()).status.success());
    let key = serde_json::from_str::<serde_json::Value>(&body).unwrap()["pubkey"].clone();
    let key = ["--service-key", key.as_str().unwrap()];
    let output = run(&[&["verify", &out, "--round=0"], &key[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let output = run(&["verify", &out, "--round=1"]);
    assert_eq!(output.status.code(), Some(1));
    fs::write(&out, body).unwrap();
    fails(
        &["verify", &out, "--statement", &statement],
        2,
        "its own statement",
    );
    fails(
        &["export", "--poetdir", &nowhere, "--proof", "0"],
        1,
        "has no poet.sqlite",
    );
    let key = STANDARD.encode(&fs::read(takeover.path("go/data/state.bin")).unwrap()[4..]);
    assert!(!told.contains(&key));
}
