//! The contents of the file, shared by all that use it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backing::{BackingFile, read_at};
use crate::{HeaderError, LogError, LogHeader, LogRead, NODE_SIZE, Node};

pub(super) const HEADER_BYTES: u64 = LogHeader::BYTES as u64;

/// Another thread's access to a log: reads what has been written so far, syncs it, and repairs it.
#[derive(Clone, Debug)]
pub struct LogView(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) file: Box<dyn BackingFile>,
    path: String,
    extent: Mutex<Extent>,
    /// Held during a sync and until its result is in `extent`. Of several overlapping syncs the
    /// system reports a failure to one; another must not count as a success meanwhile.
    syncing: Mutex<Unsynced>,
}

/// What the first sync of a log without entries must also make durable.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// The header, written again before each sync until one succeeds: a failed sync may have
    /// dropped it.
    pub(super) header: Option<[u8; LogHeader::BYTES]>,
    /// The directory of a new file, which is durable only once its directory is.
    pub(super) directory: Option<File>,
}

/// The contents of the file.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    /// Readable entries.
    pub(super) entries: u64,
    /// Leading entries that are durable or have been written since the last failed sync.
    pub(super) written: u64,
    /// Entries that survive a power failure.
    pub(super) durable: u64,
    /// The number of failed syncs.
    pub(super) failed_syncs: u64,
}

impl LogView {
    pub(super) fn new(file: Box<dyn BackingFile>, path: String) -> Self {
        Self(Arc::new(Shared {
            file,
            path,
            extent: Mutex::default(),
            syncing: Mutex::default(),
        }))
    }

    /// Returns the number of entries that survive a power failure.
    #[must_use]
    pub fn durable_entries(&self) -> u64 {
        self.extent().durable
    }

    /// Makes durable what was written before this call.
    ///
    /// # Errors
    /// Fails if the sync fails, and until the entries lost by that have been written again.
    pub fn sync(&self) -> Result<(), LogError> {
        let mut syncing = self.syncing();
        let synced = self.sync_alone(&mut syncing)?;
        if synced.written < synced.entries {
            return Err(self.unwritten());
        }
        Ok(())
    }

    /// Overwrites existing entries durably, starting at number `start`.
    ///
    /// # Errors
    /// Fails if they do not exist or cannot be written.
    pub fn repair(&self, start: u64, entries: &[Node]) -> Result<(), LogError> {
        self.check(start, entries.len())?;
        self.write(start, entries)?;
        let mut syncing = self.syncing();
        self.sync_alone(&mut syncing).map(drop)
    }

    pub(super) fn extent(&self) -> MutexGuard<'_, Extent> {
        let extent = &self.0.extent;
        extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn syncing(&self) -> MutexGuard<'_, Unsynced> {
        let syncing = &self.0.syncing;
        syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs the file, and whatever must be synced with it. Returns the extent before the sync.
    pub(super) fn sync_alone(&self, unsynced: &mut Unsynced) -> Result<Extent, LogError> {
        if let Some(header) = &unsynced.header {
            self.write_at(0, header)?;
        }
        let before = *self.extent();
        let mut result = self.0.file.sync();
        if let (Ok(()), Some(directory)) = (&result, &unsynced.directory) {
            result = directory.sync_all();
        }
        if result.is_ok() {
            *unsynced = Unsynced::default();
        }
        let mut extent = self.extent();
        match result {
            Ok(()) => {
                extent.durable = extent.durable.max(before.written);
                Ok(before)
            }
            Err(cause) => {
                extent.written = extent.durable;
                extent.failed_syncs += 1;
                drop(extent);
                Err(self.error("sync", cause))
            }
        }
    }

    /// Writes entries, starting at number `start`: new ones, or lost ones again. `seen` is the
    /// extent at the time of the decision to write them.
    pub(super) fn write_entries(
        &self,
        seen: Extent,
        start: u64,
        entries: &[Node],
    ) -> Result<(), LogError> {
        self.write(start, entries)?;
        let end = start + entries.len() as u64;
        let mut extent = self.extent();
        extent.entries = extent.entries.max(end);
        // If a sync has failed meanwhile, these entries may already be lost.
        if extent.failed_syncs == seen.failed_syncs && extent.written == start {
            extent.written = end;
        }
        Ok(())
    }

    fn write(&self, start: u64, entries: &[Node]) -> Result<(), LogError> {
        self.write_at(
            HEADER_BYTES + start * NODE_SIZE as u64,
            entries.as_flattened(),
        )
    }

    pub(super) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
        let mut done = 0;
        while done < bytes.len() {
            match self.0.file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(self.error("write", ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("write", error)),
            }
        }
        Ok(())
    }

    pub(super) fn set_length(&self, entries: u64) -> Result<(), LogError> {
        let bytes = HEADER_BYTES + entries * NODE_SIZE as u64;
        let cut = self.0.file.cut(bytes);
        cut.map_err(|cause| self.error("cut", cause))
    }

    fn check(&self, start: u64, count: usize) -> Result<(), LogError> {
        let (end, entries) = (start.saturating_add(count as u64), self.entries());
        if end > entries {
            let entry = end - 1;
            return Err(LogError::Missing { entry, entries });
        }
        Ok(())
    }

    pub(super) fn error(&self, action: &'static str, cause: io::Error) -> LogError {
        io_error(action, &self.0.path, cause)
    }

    pub(super) fn foreign(&self, why: HeaderError) -> LogError {
        LogError::Foreign {
            path: self.0.path.clone(),
            why,
        }
    }

    pub(super) fn unwritten(&self) -> LogError {
        LogError::Unwritten {
            path: self.0.path.clone(),
            entry: self.extent().written,
        }
    }
}

impl LogRead for LogView {
    fn entries(&self) -> u64 {
        self.extent().entries
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        self.check(start, out.len())?;
        let bytes = out.as_flattened_mut();
        let offset = HEADER_BYTES + start * NODE_SIZE as u64;
        match read_at(&*self.0.file, bytes, offset) {
            Ok(read) if read == bytes.len() => Ok(()),
            Ok(_) => Err(self.error("read", ErrorKind::UnexpectedEof.into())),
            Err(cause) => Err(self.error("read", cause)),
        }
    }
}

pub(super) fn io_error(action: &'static str, path: &str, cause: io::Error) -> LogError {
    LogError::Io {
        action,
        path: path.to_owned(),
        cause,
    }
}
