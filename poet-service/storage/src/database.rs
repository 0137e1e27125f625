//! A database as its operator sees it: everything in it, and whether it is intact.

use std::collections::BTreeMap;

use poet_rounds::storage::{Execution, Storage, StorageError};

use crate::DatabaseError;

/// Registrations that have changed since they were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangedRegistrations {
    /// How many.
    pub count: u64,
    /// For how many of them the original is known.
    pub known: u64,
}

/// A storage that can be read completely, whatever kind of database it is.
pub trait Database: Storage {
    /// The name of the software that checks it.
    fn product(&self) -> &'static str;

    /// Returns what is damaged, at most a few things, as far as the software and the numbers of
    /// records show.
    ///
    /// # Errors
    /// Fails if the database cannot be read at all.
    fn damage(&self) -> Result<Vec<String>, StorageError>;

    /// Returns all settings by name, except the one that only tests whether the database can be
    /// written.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn all_settings(&self) -> Result<BTreeMap<String, Vec<u8>>, StorageError>;

    /// Returns all rounds in increasing order, with what their work is bound to.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn all_rounds(&self) -> Result<Vec<(u64, Option<Execution>)>, StorageError>;

    /// Returns the newest round whose registrations were removed because of its age, if there is
    /// one.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn removed_through(&self) -> Result<Option<u64>, StorageError>;

    /// Returns which registrations of a round have changed since they were stored, if that can be
    /// known.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn changed_registrations(&self, round: u64) -> Result<ChangedRegistrations, StorageError>;
}

/// The setting that holds the newest round whose registrations were removed.
pub(crate) const REMOVED_THROUGH: &str = "registrations_removed_through";
/// The setting that exists while a copy is being made.
pub(crate) const COPYING: &str = "copying";
/// The setting that is written to test whether the database can be written.
pub(crate) const PROBE: &str = "probe";

/// Returns whether the error says that a proof has changed since it was stored.
pub fn is_changed_proof(error: &StorageError) -> bool {
    let cause = error.cause().downcast_ref();
    matches!(cause, Some(DatabaseError::ProofChanged(_)))
}

pub(crate) fn read_removed_through(stored: Option<Vec<u8>>) -> Result<Option<u64>, DatabaseError> {
    let round = stored.map(|bytes| bytes.try_into().map(u64::from_be_bytes));
    round
        .transpose()
        .map_err(|_| DatabaseError::Damaged("a round"))
}
