//! A database as its operator sees it: all that is in it, and whether it is whole.

use std::collections::BTreeMap;

use poet_rounds::storage::{Execution, Storage, StorageError};

use crate::DatabaseError;

/// Registrations that are not as they were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangedRegistrations {
    /// How many.
    pub count: u64,
    /// Of how many it is known what they were.
    pub known: u64,
}

/// A storage of which all can be read, whichever kind of database it is.
pub trait Database: Storage {
    /// What finds it whole, or damaged.
    fn product(&self) -> &'static str;

    /// What is damaged in it as far as the product and the numbers of records tell, at most a few things.
    ///
    /// # Errors
    /// Fails if the database cannot be read at all.
    fn damage(&self) -> Result<Vec<String>, StorageError>;

    /// All settings by their names, but for what only tries whether something can be written.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn all_settings(&self) -> Result<BTreeMap<String, Vec<u8>>, StorageError>;

    /// All rounds in increasing order, with what their work is bound to.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn all_rounds(&self) -> Result<Vec<(u64, Option<Execution>)>, StorageError>;

    /// The newest round of which registrations were removed because it was over long ago, if any were.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn removed_through(&self) -> Result<Option<u64>, StorageError>;

    /// Which registrations of a round have changed since they were stored, if that can be known.
    ///
    /// # Errors
    /// Fails if the database fails.
    fn changed_registrations(&self, round: u64) -> Result<ChangedRegistrations, StorageError>;
}

/// The setting by which the newest round is stored of which registrations were removed.
pub(crate) const REMOVED_THROUGH: &str = "registrations_removed_through";
/// The setting that is there while a database is filled with a copy.
pub(crate) const COPYING: &str = "copying";
/// The setting that is written to try whether something can be written.
pub(crate) const PROBE: &str = "probe";

/// Whether a proof has changed since it was stored.
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
