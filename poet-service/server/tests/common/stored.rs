//! Rounds that are in a database before a server is started.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::{fs, path::Path};

use ed25519_dalek::SigningKey;
use poet_engine::{Proof, SubtreeHeight, membership};
use poet_proto::{messages::PublishedProof, schedule::Schedule};
use poet_rounds::storage::{Challenge, Execution, Member, NodeId};
use poet_storage::{Imported, ImportedRound, SqliteStorage};
use rusqlite::Connection;

/// The rounds 0 to `rounds` with many members, as another server left them: settled, and finished or not.
/// Their logs keep the roots of subtrees of this height.
pub(crate) fn store_rounds(
    folder: &Path,
    schedule: &Schedule,
    rounds: u64,
    members: u32,
    finished: bool,
    subtree_height: u32,
) {
    let db = folder.join("db");
    fs::create_dir_all(&db).unwrap();
    let members: Vec<_> = (0..members)
        .map(|number| {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Member {
                node_id: NodeId(bytes),
                challenge: Challenge(bytes),
            }
        })
        .collect();
    let challenges: Vec<_> = members.iter().map(|member| member.challenge).collect();
    let statement: Vec<_> = challenges.iter().map(|challenge| challenge.0).collect();
    let statement = membership::root(&statement);
    // Nobody verifies it.
    let proof = finished.then(|| PublishedProof {
        statement: statement.clone(),
        members: challenges,
        odd_members: Vec::new(),
        leaves: 1000,
        proof: Proof {
            root: [2; 32],
            proven_leaves: vec![[3; 32]; 150],
            proof_nodes: vec![[4; 32]; 100],
        },
    });
    let rounds = (0..rounds).map(|round| ImportedRound {
        round,
        execution: Some(Execution {
            statement: statement.clone(),
            subtree_height: SubtreeHeight::new(subtree_height).unwrap(),
        }),
        members: members.clone(),
        proof: proof.clone(),
    });
    let imported = Imported {
        private_key: SigningKey::from_bytes(&[5; 32]).to_keypair_bytes().to_vec(),
        schedule: schedule.to_string(),
        pow: None,
        rounds: rounds.collect(),
    };
    SqliteStorage::import(&db.join("poet.sqlite"), &imported).unwrap();
}

/// Replaces the schedule. A test that stores first and chooses the genesis then need not know how long
/// storing takes.
pub(crate) fn store_schedule(folder: &Path, schedule: &Schedule) {
    let database = Connection::open(folder.join("db/poet.sqlite")).unwrap();
    let changed = database.execute(
        "UPDATE settings SET value = ?1 WHERE name = 'schedule'",
        [schedule.to_string().into_bytes()],
    );
    assert_eq!(changed.unwrap(), 1);
}
