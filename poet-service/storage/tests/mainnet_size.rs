//! The end of a round as large as mainnet's, with nothing audited: its proof must come at once.
//!
//! A log of random entries has no proof, and a right one takes two weeks to make. So this test's
//! chain does all the work of a label and then returns a constant. All nodes of a height are then
//! equal and the whole log is known, while making the proof takes as long as for a real one.
//! ```sh
//! cargo test -p poet-storage --test mainnet_size -- --ignored --nocapture
//! ```
//!
//! runs the full size, 24 million entries (a file of 768 MB), and prints how long it takes;
//! `taskset -c 1` before it leaves it one core.
#![allow(clippy::unwrap_used)]

use std::{
    hint::black_box,
    iter::successors,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use poet_conformance::reference;
use poet_engine::{
    Chain, Kernels, LABEL_DEPTH, Node, SubtreeHeight, T, Work, WorkFunction, file::FileLog, verify,
};
use poet_host::WorkPlace;
use poet_proto::{
    identity::{PrivateKey, PublicKey},
    messages::PublishedProof,
};
use poet_rounds::{
    clock::{Clock, ManualClock, SystemClock},
    config::{ClusterConfig, RoundsConfig, WorkerMode},
    life::{Parts, Rounds},
    publish::{ProofId, Publish},
    registration::Rules,
    storage::{Challenge, Execution, Member, NodeId, Storage},
    worker::{AuditMode, Audits, HashingThread},
};
use poet_storage::{Imported, ImportedRound, SqliteStorage};

/// The label of every leaf.
const LABEL: Node = [0x5a; 32];
/// The round's only member. Its challenge is the statement.
const MEMBER: Member = Member {
    node_id: NodeId([1; 32]),
    challenge: Challenge([7; 32]),
};
const SUBTREE_HEIGHT: u32 = 12;
/// Entries of the log of a round of two weeks.
const MAINNET_ENTRIES: u64 = 24_000_000;

/// A chain that does all its work and discards the result.
struct ConstantLabel(Kernels);

impl Chain for ConstantLabel {
    fn one(&self, digest: &mut Node, n: u32) {
        self.0.chain.one(digest, n);
        black_box(&digest);
        *digest = LABEL;
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        self.0.wide_chain.many(digests, n);
        black_box(&digests);
        digests.fill(LABEL);
    }
}

fn work() -> Work {
    let backend = poet_backends::select(WorkFunction::Sha256, None).unwrap();
    let kernels = *backend.work(LABEL_DEPTH).unwrap().kernels();
    let chain = Box::leak(Box::new(ConstantLabel(kernels)));
    let kernels = Kernels {
        chain,
        wide_chain: chain,
        ..kernels
    };
    Work::new(WorkFunction::Sha256, LABEL_DEPTH, kernels).unwrap()
}

/// Receives proofs, with the time.
#[derive(Default)]
struct Proofs(Mutex<Option<(Instant, PublishedProof)>>);

impl Publish for Proofs {
    fn prepare(
        &self,
        _id: ProofId,
        _server: &PublicKey,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_> {
        let proof = proof.clone();
        Box::new(move || *self.0.lock().unwrap() = Some((Instant::now(), proof)))
    }

    fn compress(&self, _id: ProofId) {}
}

/// Starts a server at the end of a round with this many entries in its log, none of them audited.
/// Returns how long it takes until the log is open again, and until the proof is published.
fn publish(entries: u64) -> (Duration, Duration) {
    let folder = tempfile::tempdir().unwrap();
    let genesis: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let key = SigningKey::from_bytes(&[5; 32]).to_keypair_bytes();
    let config = RoundsConfig {
        genesis: Some(genesis),
        epoch_duration: Duration::from_secs(336 * 3600),
        phase_shift: Duration::ZERO,
        cycle_gap: Duration::from_secs(12 * 3600),
        early_cycle_gaps: Vec::new(),
        rules: Rules {
            pow: true,
            pow_difficulty: 0,
            max_round_members: 10,
            certifier: None,
        },
        private_key: Some(PrivateKey::from_bytes(&key).unwrap()),
        clock_leap_patience: Duration::ZERO,
        worker: WorkerMode::On,
        cluster: ClusterConfig {
            name: "alone".to_owned(),
            takeover_after: Duration::from_secs(2),
        },
    };
    let execution = Execution {
        statement: MEMBER.challenge.0.to_vec(),
        subtree_height: SubtreeHeight::new(SUBTREE_HEIGHT).unwrap(),
    };
    let database = folder.path().join("poet.sqlite");
    let imported = Imported {
        private_key: key.to_vec(),
        schedule: config.schedule(genesis).unwrap().to_string(),
        pow: None,
        rounds: vec![ImportedRound {
            round: 0,
            execution: Some(execution.clone()),
            members: vec![MEMBER],
            proof: None,
        }],
    };
    SqliteStorage::import(&database, &imported).unwrap();
    let (work, rounds_dir) = (work(), folder.path().join("rounds"));
    std::fs::create_dir_all(rounds_dir.join("0")).unwrap();
    {
        let path = rounds_dir.join("0/tree.log");
        let mut log = FileLog::open(&path, &execution.round_work(&work)).unwrap();
        let parent = |node: &Node| Some(reference::node(&MEMBER.challenge.0, node, node));
        let entry = successors(Some(LABEL), parent).nth(SUBTREE_HEIGHT as usize);
        let chunk: Vec<Node> = vec![entry.unwrap(); 1 << 16];
        for start in (0..entries).step_by(chunk.len()) {
            let count = (entries - start).min(chunk.len() as u64);
            log.append(&chunk[..count as usize]).unwrap();
        }
        log.sync().unwrap();
    }
    // The round has just ended.
    let end = genesis + SignedDuration::from_hours(324);
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(end + SignedDuration::from_secs(1)));
    let storage = SqliteStorage::open(&database, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let (audits, proofs) = (Audits::new(AuditMode::Full, 1), Arc::new(Proofs::default()));
    let hashing = HashingThread::new(
        folder.path().join("round.tid"),
        rounds_dir,
        audits.clone(),
        WorkPlace::default(),
        Arc::clone(&clock),
    );
    let parts = Parts {
        clock,
        storage,
        work,
        hashing: hashing.unwrap(),
        expected_leaves_per_second: 78_000,
        publish: Arc::clone(&proofs) as Arc<dyn Publish>,
        counters: Arc::new(()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let begun = Instant::now();
    let mut opened = None;
    let (published, proof) = runtime.block_on(async {
        let rounds = Rounds::start(&config, parts).await.unwrap();
        let published = loop {
            // There is one when the tree is rebuilt from the log.
            if opened.is_none() && rounds.worker().executing().is_some() {
                opened = Some(begun.elapsed());
            }
            if let Some(published) = proofs.0.lock().unwrap().take() {
                break published;
            }
            // An audit of all this takes a quarter of an hour; of a round of two weeks, a day.
            assert!(begun.elapsed() < Duration::from_secs(300), "no proof");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        rounds.stop().await;
        published
    });
    // The audit continues after the proof and may have begun. What is taken on trust is not
    // recomputed.
    let audited = audits.round(0).unwrap_or_default().subtrees;
    assert!(proof.leaves >= entries << SUBTREE_HEIGHT);
    assert!(audited < entries / 8, "{audited} of {entries} entries");
    let statement = &execution.statement;
    verify(&work, statement, proof.leaves, T, &proof.proof).unwrap();
    assert_eq!(proof.members, [MEMBER.challenge]);
    let published = published - begun;
    (opened.unwrap_or(published), published)
}

#[test]
fn a_long_round_that_nobody_audited_is_published() {
    publish(MAINNET_ENTRIES / 100);
}

#[test]
#[ignore = "writes a file of 768 MB, and measures"]
fn a_round_of_mainnet_that_nobody_audited_is_published() {
    let (opened, published) = publish(MAINNET_ENTRIES);
    println!(
        "from the start of the server at the end of the round to the proof: {:.1} s, of which {:.1} s to open \
         the log",
        published.as_secs_f64(),
        opened.as_secs_f64()
    );
}
