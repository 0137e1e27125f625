//! What every storage must do.

use std::{sync::Arc, time::Duration};

use poet_engine::{Proof, SubtreeHeight, membership};
use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{
    Challenge, EarlyProofRecord, Execution, Member, NodeId, PowChallenges, PublishedRecord,
    Registered, Removed, RoundRecord, Setting, Storage, UnfinishedRound,
};

/// A storage that can be opened several times, one after the other.
pub(crate) trait Database {
    fn open(&self) -> Arc<dyn Storage>;
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub(crate) fn member(node: u32, challenge: u8) -> Member {
    let mut node_id = [7; 32];
    node_id[..4].copy_from_slice(&node.to_be_bytes());
    Member {
        node_id: NodeId(node_id),
        challenge: Challenge([challenge; 32]),
    }
}

fn challenges_of(members: &[u8]) -> Vec<Challenge> {
    members.iter().map(|byte| Challenge([*byte; 32])).collect()
}

pub(crate) fn sample_proof(root: u8) -> PublishedProof {
    PublishedProof {
        statement: vec![9; 32],
        members: challenges_of(&[1, 2]),
        odd_members: vec![(1, vec![2; 40])],
        leaves: 1 << 40,
        proof: Proof {
            root: [root; 32],
            proven_leaves: vec![[4; 32]; 150],
            proof_nodes: vec![[5; 32]; 7],
        },
    }
}

fn execution(statement: &[u8]) -> Execution {
    Execution {
        statement: statement.to_vec(),
        subtree_height: SubtreeHeight::new(12).unwrap(),
    }
}

fn challenges(current: u8, previous: Option<u8>) -> PowChallenges {
    PowChallenges {
        current: [current; 32],
        previous: previous.map(|byte| [byte; 32]),
    }
}

type Case = fn(&dyn Database);

/// All cases, each with its name and its own database.
pub(crate) const CASES: [(&str, Case); 9] = [
    ("rules", registrations_follow_the_rules),
    ("order", the_first_of_several_counts),
    ("together", many_at_once_are_all_answered),
    ("limit", a_limit_is_kept_within_a_transaction),
    ("life", a_rounds_life_is_remembered),
    ("second_proof", a_second_proof_is_refused),
    ("settings", the_first_setting_is_kept),
    ("removal", old_registrations_are_removed_in_steps),
    ("early_proofs", a_round_has_a_proof_for_each_gap),
];

fn registrations_follow_the_rules(database: &dyn Database) {
    let storage = database.open();
    let register = |round, member| wait(storage.register(round, member, 3)).unwrap();
    let nothing_open = register(4, member(1, 1));
    assert_eq!(nothing_open, Registered::Closed);
    assert_eq!(wait(storage.open_round(4)).unwrap(), 0);
    assert_eq!(register(4, member(2, 20)), Registered::New);
    assert_eq!(register(4, member(1, 10)), Registered::New);
    assert_eq!(register(4, member(1, 10)), Registered::Already);
    assert_eq!(register(4, member(1, 11)), Registered::Conflict);
    assert_eq!(register(3, member(1, 10)), Registered::Closed);
    assert_eq!(register(4, member(3, 30)), Registered::New);
    assert_eq!(register(4, member(4, 40)), Registered::Full);
    assert_eq!(register(4, member(1, 10)), Registered::Full);
    assert_eq!(storage.members(4).unwrap(), challenges_of(&[10, 20, 30]));
    assert_eq!(
        storage.registrations(4).unwrap(),
        [member(1, 10), member(2, 20), member(3, 30)]
    );

    // Another round takes over; the node may register there again.
    assert_eq!(wait(storage.open_round(5)).unwrap(), 0);
    assert_eq!(register(4, member(5, 50)), Registered::Closed);
    assert_eq!(register(5, member(1, 11)), Registered::New);

    // After a restart, members are still there and counted.
    wait(storage.close()).unwrap();
    drop(storage);
    let storage = database.open();
    assert_eq!(wait(storage.open_round(5)).unwrap(), 1);
    assert_eq!(
        wait(storage.register(5, member(1, 11), 2)).unwrap(),
        Registered::Already
    );
    assert_eq!(storage.member_count(4).unwrap(), 3);
    assert_eq!(storage.member_count(6).unwrap(), 0);
    wait(storage.probe()).unwrap();
}

fn the_first_of_several_counts(database: &dyn Database) {
    use Registered::{Already, Conflict, New};
    let storage = database.open();
    wait(async {
        storage.open_round(0).await.unwrap();
        for node in [1, 2] {
            let registered = storage.register(0, member(node, 1), 99).await;
            assert_eq!(registered.unwrap(), New);
        }
        // Each with its node and its challenge.
        let expected = [
            (4, 1, New),
            (1, 1, Already),
            (3, 2, New),
            (4, 2, Conflict),
            (2, 2, Conflict),
            (3, 2, Already),
            (4, 1, Already),
            (0, 3, New),
            (3, 1, Conflict),
            (2, 1, Already),
        ];
        let pending = expected.map(|(node, challenge, _)| {
            tokio::spawn(storage.register(0, member(node, challenge), 99))
        });
        for (pending, expected) in pending.into_iter().zip(expected) {
            assert_eq!(pending.await.unwrap().unwrap(), expected.2, "{expected:?}");
        }
    });
    assert_eq!(storage.members(0).unwrap(), challenges_of(&[3, 1, 1, 2, 1]));
    assert_eq!(storage.member_count(0).unwrap(), 5);
}

fn many_at_once_are_all_answered(database: &dyn Database) {
    let storage = database.open();
    wait(async {
        storage.open_round(0).await.unwrap();
        let pending: Vec<_> = (0..600_u32)
            .map(|i| {
                // Each of 200 nodes registers twice with one challenge, and once with another.
                let member = member(i % 200, if i < 400 { 7 } else { 8 });
                tokio::spawn(storage.register(0, member, u64::MAX))
            })
            .collect();
        let mut found = [0; 3];
        for handle in pending {
            match handle.await.unwrap().unwrap() {
                Registered::New => found[0] += 1,
                Registered::Already => found[1] += 1,
                Registered::Conflict => found[2] += 1,
                outcome => panic!("{outcome:?}"),
            }
        }
        assert_eq!(found, [200; 3]);
    });
    assert_eq!(storage.members(0).unwrap(), [Challenge([7; 32]); 200]);
    assert_eq!(storage.member_count(0).unwrap(), 200);
}

fn a_limit_is_kept_within_a_transaction(database: &dyn Database) {
    let storage = database.open();
    wait(async {
        storage.open_round(2).await.unwrap();
        let pending: Vec<_> = (0..90_u32)
            .map(|i| tokio::spawn(storage.register(2, member(i / 2, 3), 20)))
            .collect();
        let mut outcomes = Vec::new();
        for handle in pending {
            outcomes.push(handle.await.unwrap().unwrap());
        }
        // In order: each node is new and then known, until there is no room.
        for (i, outcome) in outcomes.into_iter().enumerate() {
            let expected = match i {
                0..39 if i % 2 == 0 => Registered::New,
                0..39 => Registered::Already,
                _ => Registered::Full,
            };
            assert_eq!(outcome, expected, "{i}");
        }
    });
    assert_eq!(storage.member_count(2).unwrap(), 20);
}

fn a_rounds_life_is_remembered(database: &dyn Database) {
    let storage = database.open();
    assert_eq!(storage.first_unsettled_round(7).unwrap(), 7);
    assert_eq!(storage.round(7).unwrap(), None);
    wait(storage.open_round(7)).unwrap();
    let unfinished = |execution| {
        [UnfinishedRound {
            round: 7,
            execution,
        }]
    };
    assert_eq!(storage.unfinished_rounds().unwrap(), unfinished(None));
    // A round without members has a statement, too.
    storage.settle_round(7, &execution(&[])).unwrap();
    for (from, first) in [(0, 0), (6, 6), (7, 8), (8, 8)] {
        assert_eq!(storage.first_unsettled_round(from).unwrap(), first);
    }
    let settled = Some(execution(&[]));
    assert_eq!(storage.unfinished_rounds().unwrap(), unfinished(settled));
    assert_eq!(storage.pow_challenges().unwrap(), None);
    storage.store_pow_challenges(&challenges(8, None)).unwrap();
    let rotated = storage.publish(7, Arc::new(sample_proof(3))).unwrap();
    assert_eq!(rotated, challenges(3, Some(8)));
    wait(storage.open_round(8)).unwrap();
    // The root of an empty proof is no challenge.
    let empty = PublishedProof::empty(vec![1; 32], challenges_of(&[4]));
    assert_eq!(
        storage.publish(8, Arc::new(empty.clone())).unwrap(),
        rotated
    );

    wait(storage.close()).unwrap();
    drop(storage);
    let storage = database.open();
    assert_eq!(storage.pow_challenges().unwrap(), Some(rotated));
    assert_eq!(storage.proof(7).unwrap(), Some(sample_proof(3)));
    assert_eq!(storage.proof(8).unwrap(), Some(empty));
    assert_eq!(storage.proof(9).unwrap(), None);
    assert_eq!(storage.proof(u64::MAX).unwrap(), None);
    assert_eq!(storage.round(u64::MAX).unwrap(), None);
    assert_eq!(storage.unfinished_rounds().unwrap(), []);
    let record = |round, settled, leaves, members| RoundRecord {
        round,
        settled,
        published: Some(PublishedRecord { leaves, members }),
    };
    let (seventh, eighth) = (record(7, true, 1 << 40, 2), record(8, false, 0, 1));
    assert_eq!(storage.round(7).unwrap(), Some(seventh));
    assert_eq!(storage.newest_rounds(9).unwrap(), [eighth, seventh]);
    assert_eq!(storage.newest_rounds(1).unwrap(), [eighth]);
}

fn a_second_proof_is_refused(database: &dyn Database) {
    let storage = database.open();
    storage.store_pow_challenges(&challenges(8, None)).unwrap();
    wait(storage.open_round(7)).unwrap();
    storage.publish(7, Arc::new(sample_proof(3))).unwrap();
    // It must not change the challenges either.
    assert!(storage.publish(7, Arc::new(sample_proof(6))).is_err());
    assert_eq!(
        storage.pow_challenges().unwrap(),
        Some(challenges(3, Some(8)))
    );
    assert_eq!(storage.proof(7).unwrap(), Some(sample_proof(3)));
    // And the storage continues to work.
    assert_eq!(wait(storage.open_round(8)).unwrap(), 0);
}

fn the_first_setting_is_kept(database: &dyn Database) {
    let storage = database.open();
    let setting = Setting::PrivateKey;
    assert_eq!(storage.setting(setting).unwrap(), None);
    assert_eq!(storage.claim_setting(setting, b"one").unwrap(), b"one");
    assert_eq!(storage.claim_setting(setting, b"two").unwrap(), b"one");
    assert_eq!(storage.setting(Setting::Schedule).unwrap(), None);
    storage.store_setting(setting, b"three").unwrap();
    assert_eq!(storage.setting(setting).unwrap().unwrap(), b"three");
    let claim = |byte| {
        storage
            .claim_pow_challenges(&challenges(byte, None))
            .unwrap()
    };
    assert_eq!(claim(1), challenges(1, None));
    assert_eq!(claim(2), challenges(1, None));
}

fn old_registrations_are_removed_in_steps(database: &dyn Database) {
    let storage = database.open();
    for round in 1..=4 {
        wait(storage.open_round(round)).unwrap();
        for node in 0..5 {
            wait(storage.register(round, member(node, 1), 9)).unwrap();
        }
        // One round is not published.
        if round != 2 {
            storage.publish(round, Arc::new(sample_proof(3))).unwrap();
        }
    }
    let remove = |before| storage.remove_registrations(before, 3).unwrap();
    assert_eq!(remove(1), Removed::Nothing);
    for (round, count) in [(1, 3), (1, 2), (3, 3), (3, 2)] {
        assert_eq!(remove(4), Removed::Registrations { round, count });
    }
    for (round, left) in [(1, 0), (2, 5), (3, 0), (4, 5)] {
        assert_eq!(storage.member_count(round).unwrap(), left);
        assert_eq!(storage.registrations(round).unwrap().len() as u64, left);
    }
    assert_eq!(storage.proof(1).unwrap(), Some(sample_proof(3)));
}

fn a_round_has_a_proof_for_each_gap(database: &dyn Database) {
    let day = Duration::from_secs(24 * 3600);
    let storage = database.open();
    wait(storage.open_round(7)).unwrap();
    // Not in the order of the ids.
    for (node, challenge) in [(2, 20), (1, 10)] {
        wait(storage.register(7, member(node, challenge), 10)).unwrap();
    }
    let members = challenges_of(&[10, 20]);
    let statement = membership::root(&members);
    storage.settle_round(7, &execution(&statement)).unwrap();
    let proof = |leaves| PublishedProof {
        statement: statement.clone(),
        members: members.clone(),
        odd_members: Vec::new(),
        leaves,
        ..sample_proof(3)
    };
    let store = |gap, leaves| storage.store_early_proof(7, gap, Arc::new(proof(leaves)));
    assert_eq!(storage.early_proof(7, day).unwrap(), None);
    store(day, 1000).unwrap();
    store(2 * day, 900).unwrap();
    assert!(store(day, 1001).is_err());
    assert_eq!(storage.early_proof(7, day).unwrap(), Some(proof(1000)));
    assert_eq!(storage.early_proof(7, day / 2).unwrap(), None);
    assert_eq!(storage.early_proof(u64::MAX, day).unwrap(), None);
    // The round continues.
    assert_eq!(storage.unfinished_rounds().unwrap().len(), 1);
    assert_eq!(storage.proof(7).unwrap(), None);
    assert_eq!(storage.pow_challenges().unwrap(), None);

    storage.publish(7, Arc::new(proof(2000))).unwrap();
    drop(storage);
    let storage = database.open();
    assert_eq!(storage.early_proof(7, day).unwrap(), Some(proof(1000)));
    assert_eq!(storage.early_proof(7, 2 * day).unwrap(), Some(proof(900)));
    let record = |gap, leaves| EarlyProofRecord {
        round: 7,
        gap,
        leaves,
    };
    let records = [record(day, 1000), record(2 * day, 900)];
    assert_eq!(storage.early_proofs(0..=u64::MAX).unwrap(), records);
    assert_eq!(storage.early_proofs(8..=9).unwrap(), []);
    // Works without its registrations, which may be removed once a round is published.
    while storage.remove_registrations(8, 10).unwrap() != Removed::Nothing {}
    assert_eq!(storage.early_proof(7, day).unwrap(), Some(proof(1000)));
}
