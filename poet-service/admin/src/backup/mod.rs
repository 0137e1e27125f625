//! Backs up a server's state, also while it runs, and restores it.
//!
//! A directory of backups holds a folder for each: `backup-` and the time. It contains a snapshot
//! of the database, the work on the rounds, and `manifest.json`, which lists both with their
//! SHA-256 and is written last. The work is copied before the database: a log belongs to the
//! members with which its round closed, and a database newer than the log contains them. Then the
//! copy is examined like `doctor` does, which cuts off a log entry that was being written.
//!
//! Nothing incomplete ever has its final name: a backup gets its name when it is complete, and a
//! restored state is moved into place when all of it is there.

mod error;
mod layout;
mod make;
mod restore;

pub use self::{error::BackupError, layout::Done, make::back_up, restore::restore};
