//! What must survive, in an SQLite database behind [`Storage`](poet_rounds::storage::Storage), and
//! the server's directories.

pub mod directory;
mod error;
mod history;
mod imported;
mod place;
mod retention;
mod sqlite;
mod storage;
mod wal;

pub use error::DatabaseError;
pub use history::{HISTORY_FILE, History, MAX_MINUTES, Minute};
pub use imported::{Adopted, Imported, ImportedRound};
pub use retention::make_shrinkable;
pub use sqlite::{ChangedRegistrations, SqliteReader, SqliteStorage};
pub use wal::{LogDamage, keep_damaged_log, log_bytes, log_damage};
