//! The database of a server behind [`Storage`](poet_rounds::storage::Storage): an embedded SQLite
//! database, or a PostgreSQL database that several servers share. Also the server's directories.

mod checksum;
mod copy;
mod database;
pub mod directory;
mod error;
mod fill;
mod history;
mod imported;
mod postgres;
mod repeated;
mod sqlite;

pub use copy::{Copied, CopyError, Location, copy_database};
pub use database::{ChangedRegistrations, Database, is_changed_proof};
pub use error::DatabaseError;
pub use history::{HISTORY_FILE, History, MAX_MINUTES, Minute};
pub use imported::{Adopted, Imported, ImportedRound};
pub use postgres::{DatabaseUrl, PostgresError, PostgresStorage};
pub use sqlite::{
    LogDamage, SqliteReader, SqliteStorage, keep_damaged_log, log_bytes, log_damage,
    make_shrinkable,
};
