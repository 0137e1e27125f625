//! Whether a database is still where it was opened.
//!
//! A file can be removed, moved, replaced or cut while it is open. What is then committed is durable in
//! a file that no other process finds, and lost when this one ends. So the path is compared with the
//! file that was opened before anything is committed.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::wal::log_path;

/// The files of an open database, as they were.
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
    /// Nothing is where the database was.
    Removed,
    /// Nothing is where its log was.
    LogRemoved,
    /// Another file is where the database or its log was.
    Replaced,
    /// Its directory is gone.
    NoFolder,
    /// It is shorter than it was: so many bytes.
    Shorter(u64),
}

type FileId = (u64, u64);

impl Place {
    /// Remembers where the files of a database are. It must be open, and its log must have been used.
    pub(super) fn of(database: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(database)?;
        Ok(Self {
            database: database.to_owned(),
            file: id(&metadata),
            log: id(&fs::metadata(log_path(database))?),
            bytes: metadata.len(),
        })
    }

    /// Compares the files with what they were.
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

    /// Takes note that the database has become shorter rightly.
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

/// Elsewhere, a file that is open can be neither moved nor removed.
#[cfg(not(unix))]
fn id(_metadata: &fs::Metadata) -> FileId {
    (0, 0)
}
