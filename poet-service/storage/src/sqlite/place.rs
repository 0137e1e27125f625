//! Checks whether a database is still where it was opened.
//!
//! A file can be removed, moved, replaced or cut while it is open. What is then committed is
//! durable in a file that no other process can find, and is lost when this one ends. So before each
//! commit, the path is compared with the file that was opened.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::wal::log_path;

/// The files of an open database, as they were when it was opened.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) database: PathBuf,
    file: FileId,
    log: FileId,
    bytes: u64,
}

/// How a database's files have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The database's path no longer exists.
    Removed,
    /// The log's path no longer exists.
    LogRemoved,
    /// The path of the database or its log leads to another file.
    Replaced,
    /// The directory no longer exists.
    NoFolder,
    /// The database is shorter than it was. This is its size in bytes.
    Shorter(u64),
}

type FileId = (u64, u64);

impl Place {
    /// Records the files of a database. It must be open, and its log must have been used.
    pub(super) fn of(database: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(database)?;
        Ok(Self {
            database: database.to_owned(),
            file: id(&metadata),
            log: id(&fs::metadata(log_path(database))?),
            bytes: metadata.len(),
        })
    }

    /// Compares the files with the recorded ones.
    pub(super) fn change(&mut self) -> io::Result<Option<Change>> {
        let Some(metadata) = found(&self.database)? else {
            let folder = self.database.parent().is_none_or(Path::is_dir);
            return Ok(Some(if folder {
                Change::Removed
            } else {
                Change::NoFolder
            }));
        };
        if id(&metadata) != self.file {
            return Ok(Some(Change::Replaced));
        }
        match found(&log_path(&self.database))? {
            None => return Ok(Some(Change::LogRemoved)),
            Some(log) if id(&log) != self.log => return Ok(Some(Change::Replaced)),
            Some(_) => {}
        }
        if metadata.len() < self.bytes {
            return Ok(Some(Change::Shorter(metadata.len())));
        }
        self.bytes = metadata.len();
        Ok(None)
    }

    /// Called when the database has rightly become shorter.
    pub(super) fn shrunk(&mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

fn found(path: &Path) -> io::Result<Option<fs::Metadata>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn id(metadata: &fs::Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

/// On other systems, an open file cannot be moved or removed.
#[cfg(not(unix))]
fn id(_metadata: &fs::Metadata) -> FileId {
    (0, 0)
}
