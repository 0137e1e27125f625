//! What must survive, in an SQLite database behind [`Storage`](poet_rounds::storage::Storage), and
//! the server's directories.

pub mod directory;
mod error;
mod imported;
mod sqlite;

pub use error::DatabaseError;
pub use imported::{Imported, ImportedRound};
pub use sqlite::{
    ChangedRegistrations, LogDamage, SqliteReader, SqliteStorage, keep_damaged_log, log_bytes,
    log_damage,
};
