//! The database as its operator sees it.

use std::collections::BTreeMap;

use poet_rounds::storage::{Execution, StorageError};

use super::{
    SqliteStorage,
    rows::{read_execution, unsigned},
};
use crate::{
    ChangedRegistrations, DatabaseError,
    database::{Database, PROBE},
};

impl Database for SqliteStorage {
    fn product(&self) -> &'static str {
        "SQLite"
    }

    fn damage(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.damage()?)
    }

    fn all_settings(&self) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        let read = || {
            let reader = self.reader();
            let mut query = reader.prepare("SELECT name, value FROM settings WHERE name <> ?")?;
            let rows = query.query_map([PROBE], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<_>>()
        };
        Ok(read().map_err(DatabaseError::from)?)
    }

    fn all_rounds(&self) -> Result<Vec<(u64, Option<Execution>)>, StorageError> {
        let read = || {
            let reader = self.reader();
            let mut query = reader
                .prepare("SELECT round, statement, subtree_height FROM rounds ORDER BY round")?;
            let mut rows = query.query([])?;
            let mut rounds = Vec::new();
            while let Some(row) = rows.next()? {
                rounds.push((unsigned(row.get(0)?)?, read_execution(row)?));
            }
            Ok::<_, DatabaseError>(rounds)
        };
        Ok(read()?)
    }

    fn removed_through(&self) -> Result<Option<u64>, StorageError> {
        Ok(self.removed_through()?)
    }

    fn changed_registrations(&self, round: u64) -> Result<ChangedRegistrations, StorageError> {
        Ok(self.changed_registrations(round)?)
    }
}
