//! Why the database failed.

use std::path::PathBuf;

use poet_files::reason;
use poet_rounds::storage::StorageError;

use crate::postgres::PostgresError;

/// Why the database failed. The messages contain the causes, so there is no `source`.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The database cannot be used.
    #[error("cannot open the database {path} in --dbdir: {cause}: expected one of poet-service")]
    Open {
        /// Its file.
        path: PathBuf,
        /// Why.
        cause: rusqlite::Error,
    },
    /// The database's file cannot be created or written.
    #[error(
        "cannot write the database {path} in --dbdir: {}: expected a file of its own",
        reason(cause)
    )]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file system lacks something that the database needs.
    #[error(
        "cannot use the database {path} in --dbdir: its file system has no locks or no shared memory, \
         as network file systems such as NFS ({cause}): expected a directory on a local disk"
    )]
    FileSystem {
        /// Its file.
        path: PathBuf,
        /// What SQLite says.
        cause: String,
    },
    /// The file of the database was removed, replaced or cut.
    #[error("the database {path} in --dbdir {what}")]
    Lost {
        /// Its file.
        path: PathBuf,
        /// What happened to it, and what to do.
        what: String,
    },
    /// The database's log is too long for more registrations.
    #[error(
        "registrations are refused, because the log of the database (-wal) is too long: end the \
         program that holds a read transaction on it"
    )]
    LogFull,
    /// The database was made by another version of this program.
    #[error(
        "the database {path} in --dbdir has schema {found}, this version knows schema {known}: \
         expected the version of this program that made it"
    )]
    Schema {
        /// Its file.
        path: PathBuf,
        /// The schema found.
        found: i64,
        /// The schema that this version knows.
        known: i64,
    },
    /// The database failed.
    #[error("database: {0}")]
    Sqlite(rusqlite::Error),
    /// The database holds something that no server stored.
    #[error("database: damaged record of {0}")]
    Damaged(&'static str),
    /// A proof differs from what was published.
    #[error(
        "database: the proof of round {0} has changed since it was stored: memory or disk are unreliable"
    )]
    ProofChanged(i64),
    /// The transaction of this operation failed. The cause is in the log.
    #[error("database: the transaction failed")]
    Transaction,
    /// The storage has been shut down.
    #[error("the storage has stopped")]
    Stopped,
    /// The PostgreSQL database cannot be used.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The operating system failed.
    #[error("{}", reason(.0))]
    Io(#[from] std::io::Error),
}

impl From<DatabaseError> for StorageError {
    fn from(cause: DatabaseError) -> Self {
        Self::new(cause)
    }
}

impl From<rusqlite::Error> for DatabaseError {
    fn from(cause: rusqlite::Error) -> Self {
        Self::Sqlite(cause)
    }
}
