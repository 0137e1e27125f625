//! An embedded database as the target of a copy. It has another name until the copy is complete.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use poet_files::rename_into_place;
use rusqlite::{Connection, Transaction, params};

use super::{
    SqliteStorage, early_proofs,
    rows::{insert_members, insert_proof, key, write_setting},
    schema::{create, unusable},
};
use crate::{
    DatabaseError,
    database::{COPYING, Database},
    fill::{Fill, StoredRound},
};

/// The suffix of an unfinished copy.
const UNFINISHED: &str = ".unfinished";

pub(crate) struct SqliteFill {
    connection: RefCell<Connection>,
    path: PathBuf,
    complete: PathBuf,
}

impl SqliteFill {
    /// Continues or begins the copy that will have the name `complete`.
    pub(crate) fn begin(complete: &Path) -> Result<Self, DatabaseError> {
        let mut name = complete.as_os_str().to_owned();
        name.push(UNFINISHED);
        let path = PathBuf::from(name);
        Ok(Self {
            connection: RefCell::new(create(&path)?),
            path,
            complete: complete.to_owned(),
        })
    }

    fn write(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<(), DatabaseError>,
    ) -> Result<(), DatabaseError> {
        let mut connection = self.connection.borrow_mut();
        let transaction = connection.transaction()?;
        write(&transaction)?;
        Ok(transaction.commit()?)
    }
}

impl Fill for SqliteFill {
    fn copied(&self) -> Result<Box<dyn Database>, DatabaseError> {
        Ok(Box::new(SqliteStorage::open_to_read(&self.path)?))
    }

    fn store_settings(&self, settings: &BTreeMap<String, Vec<u8>>) -> Result<(), DatabaseError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM settings", [])?;
            for (name, value) in settings {
                write_setting(transaction, name, value)?;
            }
            Ok(())
        })
    }

    fn store_round(&self, stored: StoredRound) -> Result<(), DatabaseError> {
        self.write(|transaction| {
            let round = key(stored.round)?;
            remove(transaction, round)?;
            let execution = stored.execution.as_ref();
            transaction.execute(
                "INSERT INTO rounds (round, statement, subtree_height) VALUES (?, ?, ?)",
                params![
                    round,
                    execution.map(|execution| &execution.statement),
                    execution.map(|execution| execution.subtree_height.get()),
                ],
            )?;
            insert_members(transaction, round, &stored.members)?;
            if let Some(proof) = &stored.proof {
                insert_proof(transaction, round, proof)?;
            }
            for early in &stored.early {
                early_proofs::insert(transaction, round, early.gap, early.leaves, &early.proof)?;
            }
            Ok(())
        })
    }

    fn remove_round(&self, round: u64) -> Result<(), DatabaseError> {
        self.write(|transaction| remove(transaction, key(round)?))
    }

    fn finish(self: Box<Self>) -> Result<(), DatabaseError> {
        self.write(|transaction| {
            transaction.execute("DELETE FROM settings WHERE name = ?", [COPYING])?;
            Ok(())
        })?;
        // Before it gets its name, everything must be in this one file.
        let connection = self.connection.into_inner();
        let busy: bool =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            return Err(DatabaseError::Lost {
                path: self.path,
                what: "is read by another program: expected that nothing uses it".to_owned(),
            });
        }
        connection.close().map_err(|(_, cause)| cause)?;
        rename_into_place(&self.path, &self.complete)
            .map_err(|cause| unusable(&self.complete, cause))
    }
}

/// Removes everything about a round.
fn remove(transaction: &Transaction<'_>, round: i64) -> Result<(), DatabaseError> {
    for table in [
        "rounds",
        "registrations",
        "proofs",
        "odd_members",
        "early_proofs",
    ] {
        transaction.execute(&format!("DELETE FROM {table} WHERE round = ?"), [round])?;
    }
    Ok(())
}
