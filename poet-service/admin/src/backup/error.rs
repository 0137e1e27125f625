//! Why there is no backup, or nothing was restored.

use std::{
    io,
    path::{Path, PathBuf},
};

use poet_files::reason;
use poet_storage::{DatabaseError, directory::DirectoryError};

use crate::doctor::DoctorError;

/// Why there is no backup, or nothing was restored. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BackupError {
    #[error("{0} is not a directory, or its name is not text: expected a directory for backups")]
    Place(PathBuf),
    #[error(
        "{place} is inside {directory}, which is backed up, or the other way round: expected a directory \
         elsewhere, best on another disk"
    )]
    Inside { place: PathBuf, directory: PathBuf },
    #[error(
        "{place} holds {name}, which is not a backup: expected an empty directory, or one with backups only"
    )]
    Foreign { place: PathBuf, name: String },
    #[error("another backup is being made in {0}: expected one at a time")]
    Busy(PathBuf),
    #[error("--dbdir {0} holds no database: expected the directory of a server")]
    NoDatabase(PathBuf),
    #[error(
        "{place} has room for {free} MB, and the backup needs {needed} MB: expected more room, or another \
         directory"
    )]
    NoRoom {
        place: PathBuf,
        free: u64,
        needed: u64,
    },
    #[error("cannot {action} {path}: {cause}")]
    Io {
        action: &'static str,
        path: PathBuf,
        cause: String,
    },
    #[error("cannot copy the database: {0}")]
    Database(#[from] DatabaseError),
    #[error("{what} is damaged, so it was not used: {found}")]
    Damaged { what: String, found: String },
    #[error("{0} holds no backup: expected a directory that `poet-service backup` has made")]
    NoBackup(PathBuf),
    #[error(
        "{0} exists already: expected directories without a server's state, or --replace, which keeps the \
         existing files under other names"
    )]
    Exists(PathBuf),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Doctor(#[from] DoctorError),
}

/// Converts the failure of an operation on a path.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    move |error| BackupError::Io {
        action,
        path: path.to_owned(),
        cause: reason(&error),
    }
}
