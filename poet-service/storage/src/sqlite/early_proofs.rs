//! Early proofs, for nodes with longer cycle gaps, in SQLite. Their statement and members are
//! stored with the round.

use std::{ops::RangeInclusive, time::Duration};

use poet_engine::{Node, Proof};
use poet_rounds::storage::EarlyProofRecord;
use rusqlite::{Connection, Transaction, params};

use crate::{
    DatabaseError,
    checksum::{early_proof_checksum, gap_nanos},
};

/// The table.
pub(super) const SCHEMA: &str = "
    -- Proofs that were made before the end of a round. Lists of 32-byte values, one after the other.
    CREATE TABLE early_proofs (
        round         INTEGER NOT NULL,
        cycle_gap     INTEGER NOT NULL,  -- of the nodes that they are for, in nanoseconds
        leaves        INTEGER NOT NULL,
        root          BLOB NOT NULL,
        proven_leaves BLOB NOT NULL,
        proof_nodes   BLOB NOT NULL,
        checksum      INTEGER NOT NULL,  -- CRC-32C of all that
        PRIMARY KEY (round, cycle_gap)
    ) STRICT;
";

/// Stores a proof, unless there is one.
pub(super) fn insert(
    transaction: &Transaction<'_>,
    round: i64,
    gap: Duration,
    leaves: u64,
    proof: &Proof,
) -> Result<(), DatabaseError> {
    let gap = gap_nanos(gap)?;
    transaction.execute(
        "INSERT INTO early_proofs
         (round, cycle_gap, leaves, root, proven_leaves, proof_nodes, checksum)
         VALUES (?, ?, ?, ?, ?, ?, ?)",
        params![
            round,
            gap,
            i64::try_from(leaves).map_err(|_| damaged())?,
            proof.root,
            proof.proven_leaves.as_flattened(),
            proof.proof_nodes.as_flattened(),
            early_proof_checksum(round, gap, leaves, proof),
        ],
    )?;
    Ok(())
}

/// Reads a proof and its number of leaves.
pub(super) fn select(
    connection: &Connection,
    round: i64,
    gap: Duration,
) -> Result<Option<(u64, Proof)>, DatabaseError> {
    let gap = gap_nanos(gap)?;
    let mut query = connection.prepare_cached(
        "SELECT leaves, root, proven_leaves, proof_nodes, checksum
         FROM early_proofs WHERE round = ? AND cycle_gap = ?",
    )?;
    let mut rows = query.query([round, gap])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let list = |column: usize| -> Result<Vec<Node>, DatabaseError> {
        let bytes = row.get_ref(column)?.as_blob();
        match bytes.map_err(rusqlite::Error::from)?.as_chunks() {
            (nodes, []) => Ok(nodes.to_vec()),
            _ => Err(damaged()),
        }
    };
    let leaves = u64::try_from(row.get::<_, i64>(0)?).map_err(|_| damaged())?;
    let proof = Proof {
        root: row.get(1)?,
        proven_leaves: list(2)?,
        proof_nodes: list(3)?,
    };
    if early_proof_checksum(round, gap, leaves, &proof) == row.get::<_, u32>(4)? {
        Ok(Some((leaves, proof)))
    } else {
        Err(DatabaseError::ProofChanged(round))
    }
}

/// Reads what is known about the proofs of these rounds.
pub(super) fn records(
    connection: &Connection,
    rounds: RangeInclusive<i64>,
) -> Result<Vec<EarlyProofRecord>, DatabaseError> {
    let mut query = connection.prepare_cached(
        "SELECT round, cycle_gap, leaves FROM early_proofs
         WHERE round BETWEEN ? AND ? ORDER BY round, cycle_gap",
    )?;
    let mut rows = query.query([rounds.start(), rounds.end()])?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |column: usize| -> Result<u64, DatabaseError> {
            u64::try_from(row.get::<_, i64>(column)?).map_err(|_| damaged())
        };
        records.push(EarlyProofRecord {
            round: number(0)?,
            gap: Duration::from_nanos(number(1)?),
            leaves: number(2)?,
        });
    }
    Ok(records)
}

fn damaged() -> DatabaseError {
    DatabaseError::Damaged("a proof")
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use poet_engine::{SubtreeHeight, membership};
    use poet_proto::messages::PublishedProof;
    use poet_rounds::{
        clock::SystemClock,
        storage::{Challenge, Execution, Member, NodeId},
    };

    use super::*;
    use crate::SqliteStorage;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn open(path: &Path) -> SqliteStorage {
        SqliteStorage::open(path, 100, Arc::new(SystemClock), Arc::new(())).unwrap()
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

    /// Creates a storage in which round 7 is settled, and a proof of it with a given number of
    /// leaves.
    fn settled(path: &Path) -> (SqliteStorage, impl Fn(u64) -> PublishedProof) {
        let storage = open(path);
        wait(storage.open_round(7)).unwrap();
        // Not in the order of the ids.
        for node in [2, 1] {
            let member = Member {
                node_id: NodeId([node; 32]),
                challenge: Challenge([10 * node; 32]),
            };
            wait(storage.register(7, member, 10)).unwrap();
        }
        let members = vec![Challenge([10; 32]), Challenge([20; 32])];
        let execution = Execution {
            statement: membership::root(&members),
            subtree_height: SubtreeHeight::new(3).unwrap(),
        };
        storage.settle_round(7, &execution).unwrap();
        let proof = move |leaves| PublishedProof {
            statement: execution.statement.clone(),
            members: members.clone(),
            odd_members: Vec::new(),
            leaves,
            proof: Proof {
                root: [3; 32],
                proven_leaves: vec![[4; 32]; 150],
                proof_nodes: vec![[5; 32]; 7],
            },
        };
        (storage, proof)
    }

    #[test]
    fn what_has_changed_is_not_served() {
        for change in [
            "UPDATE early_proofs SET leaves = leaves + 1",
            "UPDATE early_proofs SET cycle_gap = cycle_gap * 2",
            "UPDATE early_proofs SET root = zeroblob(32)",
            "UPDATE early_proofs SET proof_nodes = zeroblob(64)",
            "UPDATE early_proofs SET proof_nodes = zeroblob(65)",
            "UPDATE rounds SET statement = zeroblob(32)",
        ] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("poet.sqlite");
            let (storage, proof) = settled(&path);
            let proof = Arc::new(proof(1000));
            storage.store_early_proof(7, DAY, proof).unwrap();
            let file = Connection::open(&path).unwrap();
            assert_eq!(file.execute(change, []).unwrap(), 1);
            let found = [DAY, 2 * DAY].map(|gap| storage.early_proof(7, gap));
            assert!(found.iter().any(Result::is_err), "{change}");
            assert!(!found.iter().any(|found| matches!(found, Ok(Some(_)))));
        }
    }

    /// A database of the version without early proofs gets their table, and keeps everything else.
    #[test]
    fn an_older_database_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        let (storage, proof) = settled(&path);
        drop(storage);
        let file = Connection::open(&path).unwrap();
        file.execute_batch("DROP TABLE early_proofs; PRAGMA user_version = 3")
            .unwrap();
        drop(file);
        let storage = open(&path);
        assert_eq!(storage.members(7).unwrap(), proof(1).members);
        let early = Arc::new(proof(1000));
        storage.store_early_proof(7, DAY, early).unwrap();
        assert_eq!(storage.damage().unwrap(), [""; 0]);
    }
}
