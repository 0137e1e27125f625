//! Removes registrations that are no longer needed, a few at a time, so that other commits do not
//! wait long.
//!
//! Removals leave free pages in the file. A database with `auto_vacuum = INCREMENTAL`, as new ones
//! have, returns those to the file system, also a few at a time. A database without it reuses them
//! and keeps its size until `doctor --repair` rewrites it.

use std::path::Path;

use poet_rounds::storage::Removed;
use rusqlite::{Connection, OptionalExtension as _, Transaction};

use crate::DatabaseError as StorageError;

/// Pages to return in one step: 1 MB.
const RELEASED_PAGES: u32 = 256;
/// The value of `auto_vacuum` that lets the file shrink.
const INCREMENTAL: i64 = 2;

/// Lets a new database shrink. Has no effect on an existing one.
pub(crate) fn let_shrink(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", INCREMENTAL)
}

/// Returns whether the file of a database can shrink.
pub(crate) fn can_shrink(connection: &Connection) -> rusqlite::Result<bool> {
    let mode: i64 = connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
    Ok(mode == INCREMENTAL)
}

/// Rewrites the database in the file `path` so that it can shrink from then on. No server may use
/// it, and there must be space for a second copy next to it.
///
/// # Errors
/// Fails if that is not possible; the database is then as it was.
pub fn make_shrinkable(path: &Path) -> Result<(), StorageError> {
    let connection = Connection::open(path)?;
    let_shrink(&connection)?;
    connection.execute_batch("VACUUM")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(())
}

/// Removes at most `count` registrations of the oldest published round below `before` that has any.
/// If no round has any, returns space to the file system.
pub(crate) fn remove_registrations(
    transaction: &Transaction<'_>,
    before: i64,
    count: u32,
) -> Result<Removed, StorageError> {
    let mut oldest = transaction.prepare_cached(
        "SELECT round FROM proofs WHERE round < ?
         AND EXISTS (SELECT 1 FROM registrations WHERE registrations.round = proofs.round)
         ORDER BY round LIMIT 1",
    )?;
    let round: Option<i64> = oldest.query_row([before], |row| row.get(0)).optional()?;
    let Some(round) = round else {
        return Ok(match release_pages(transaction)? {
            true => Removed::Space,
            false => Removed::Nothing,
        });
    };
    let mut delete = transaction.prepare_cached(
        "DELETE FROM registrations WHERE round = ?1 AND number <
         ?2 + (SELECT min(number) FROM registrations WHERE round = ?1)",
    )?;
    let removed = delete.execute((round, count))?;
    Ok(Removed::Registrations {
        round: round.unsigned_abs(),
        count: removed as u64,
    })
}

/// Releases free pages, which the file system gets at the next checkpoint. Returns whether there
/// were any.
fn release_pages(transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
    let free: i64 = transaction.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    if free == 0 || !can_shrink(transaction)? {
        return Ok(false);
    }
    // Each row of the result is one page.
    let mut release =
        transaction.prepare(&format!("PRAGMA incremental_vacuum({RELEASED_PAGES})"))?;
    let mut pages = release.query([])?;
    while pages.next()?.is_some() {}
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use poet_engine::{Proof, SubtreeHeight};
    use poet_proto::messages::PublishedProof;
    use poet_rounds::{
        clock::SystemClock,
        storage::{Challenge, Execution, Member, NodeId},
    };

    use super::*;
    use crate::{Imported, ImportedRound, SqliteStorage};

    fn members(count: u64) -> Vec<Member> {
        let member = |number: u64| {
            let mut id = [7; 32];
            id[..8].copy_from_slice(&number.to_be_bytes());
            Member {
                node_id: NodeId(id),
                challenge: Challenge(id.map(|byte| !byte)),
            }
        };
        (0..count).map(member).collect()
    }

    fn round(round: u64, members: Vec<Member>, published: bool) -> ImportedRound {
        let challenges = members.iter().map(|member| member.challenge).collect();
        let proof = Proof {
            root: [1; 32],
            proven_leaves: Vec::new(),
            proof_nodes: Vec::new(),
        };
        ImportedRound {
            round,
            execution: Some(Execution {
                statement: vec![2; 32],
                subtree_height: SubtreeHeight::new(0).unwrap(),
            }),
            members,
            proof: published.then_some(PublishedProof {
                statement: vec![2; 32],
                members: challenges,
                odd_members: Vec::new(),
                leaves: 5,
                proof,
            }),
        }
    }

    /// Rounds 1, 3 and 4 are published, round 2 is not.
    fn fill(path: &Path) {
        let imported = Imported {
            private_key: vec![1; 64],
            schedule: String::new(),
            pow: None,
            rounds: vec![
                round(1, members(20_000), true),
                round(2, members(3), false),
                round(3, members(5), true),
                round(4, members(6), true),
            ],
        };
        SqliteStorage::import(path, &imported).unwrap();
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn removed(round: u64, count: u64) -> Removed {
        Removed::Registrations { round, count }
    }

    #[test]
    fn old_registrations_are_removed_in_steps_and_the_file_shrinks() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        fill(&path);
        let storage = SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
        assert!(storage.can_shrink().unwrap());
        assert_eq!(storage.removed_through().unwrap(), None);
        let remove = |before| storage.remove_registrations(before, 7000).unwrap();
        assert_eq!(remove(1), Removed::Nothing);
        let full = fs::metadata(&path).unwrap().len();
        for count in [7000, 7000, 6000] {
            assert_eq!(remove(4), removed(1, count));
        }
        assert_eq!(remove(4), removed(3, 5));
        assert_eq!(storage.removed_through().unwrap(), Some(3));
        let mut steps = 0;
        while remove(4) != Removed::Nothing {
            steps += 1;
        }
        assert!(steps >= 2, "{steps}");
        for (round, left) in [(1, 0), (2, 3), (3, 0), (4, 6)] {
            assert_eq!(storage.member_count(round).unwrap(), left, "{round}");
        }
        assert_eq!(storage.proof(1).unwrap().unwrap().members.len(), 20_000);
        // The file is rightly shorter.
        let other = Connection::open(&path).unwrap();
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        other.query_row(checkpoint, [], |_| Ok(())).unwrap();
        let shrunk = fs::metadata(&path).unwrap().len();
        assert!(shrunk < full - 20_000 * 64, "{full} {shrunk}");
        assert_eq!(wait(storage.open_round(5)).unwrap(), 0);
        wait(storage.register(5, members(1)[0], 9)).unwrap();
        assert!(storage.damage().unwrap().is_empty());
    }

    #[test]
    fn a_database_of_old_keeps_its_size_until_it_is_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        fill(&path);
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("PRAGMA auto_vacuum = NONE; VACUUM")
            .unwrap();
        drop(other);
        let full = fs::metadata(&path).unwrap().len();
        let storage = SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
        assert!(!storage.can_shrink().unwrap());
        for _ in 0..4 {
            storage.remove_registrations(4, 7000).unwrap();
        }
        assert_eq!(
            storage.remove_registrations(4, 7000).unwrap(),
            Removed::Nothing
        );
        wait(storage.close()).unwrap();
        drop(storage);
        assert_eq!(fs::metadata(&path).unwrap().len(), full);
        make_shrinkable(&path).unwrap();
        assert!(fs::metadata(&path).unwrap().len() < full - 20_000 * 64);
        let storage = SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
        assert!(storage.can_shrink().unwrap());
        assert_eq!(storage.member_count(2).unwrap(), 3);
        assert!(storage.damage().unwrap().is_empty());
    }
}
