//! The log of the one who appends to it.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::backing::{BackingFile, read_at};
use super::read_only::ReadOnlyLog;
use super::view::{Extent, HEADER_BYTES, LogView, io_error};
use crate::{HeaderError, LogError, LogHeader, LogRead, NODE_SIZE, Node, RoundWork};

/// A tree log in a file. It locks out other processes as long as it, or a [`LogView`] of it,
/// exists.
#[derive(Debug)]
pub struct FileLog(pub(super) LogView);

impl FileLog {
    /// Opens the log of `round` at `path`, or creates it. Cuts off what follows the last whole
    /// entry: the rest of an interrupted write. Existing entries are durable when this returns. A
    /// log without entries is not synced: the first sync makes the file durable with its first
    /// entries.
    ///
    /// # Errors
    /// Fails if the file cannot be used, another process has it open, or it is not the log of
    /// `round`; it is then unchanged.
    pub fn open(path: &Path, round: &RoundWork<'_>) -> Result<Self, LogError> {
        let name = path.display().to_string();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(|cause| io_error("open", &name, cause))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(LogError::Locked { path: name }),
            Err(TryLockError::Error(cause)) => return Err(io_error("lock", &name, cause)),
        }
        let log = Self::with_file(Box::new(file), name, round)?;
        #[cfg(unix)]
        if log.entries() == 0 {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            let directory = File::open(parent.unwrap_or(Path::new(".")))
                .map_err(|cause| log.0.error("open the directory of", cause))?;
            log.0.syncing().directory = Some(directory);
        }
        Ok(log)
    }

    /// Opens the log at `path` read-only, whatever work it belongs to and even if another process
    /// has it open.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn open_read_only(path: &Path) -> Result<ReadOnlyLog, LogError> {
        ReadOnlyLog::open(path)
    }

    /// Opens a log in a file without a name (or whose name does not matter), as [`FileLog::open`]
    /// does but without the lock. `file` must be open for reading and writing.
    ///
    /// # Errors
    /// Fails as [`FileLog::open`] does.
    pub fn in_file(
        file: impl BackingFile + 'static,
        round: &RoundWork<'_>,
    ) -> Result<Self, LogError> {
        Self::with_file(Box::new(file), "in a temporary file".to_owned(), round)
    }

    fn with_file(
        file: Box<dyn BackingFile>,
        path: String,
        round: &RoundWork<'_>,
    ) -> Result<Self, LogError> {
        let view = LogView::new(file, path);
        let file = &*view.0.file;
        let expected = round.header_bytes();
        let mut found = [0; LogHeader::BYTES];
        let length = read_at(file, &mut found, 0).map_err(|e| view.error("read", e))?;
        let size = file.size().map_err(|e| view.error("read", e))?;
        // A power failure can leave an unsynced header as zeros: the length without the bytes. The
        // entries after it are as good as any: proof and audit recompute them. (A device has zeros,
        // but no size.)
        let blank = size >= length as u64 && found[..length].iter().all(|byte| *byte == 0);
        let mut entries = 0;
        if length == LogHeader::BYTES {
            if !blank {
                LogHeader::read(round.work().kernels().sha256, &found)
                    .and_then(|found| found.check(&round.header()))
                    .map_err(|why| view.foreign(why))?;
            }
            entries = size.saturating_sub(HEADER_BYTES) / NODE_SIZE as u64;
            view.set_length(entries)?;
        } else if !blank && !expected.starts_with(&found[..length]) {
            return Err(view.foreign(HeaderError::Magic));
        }
        // The header is written even if it exists: after a failed sync the system may consider it
        // written when it is not. Existing entries need not be durable either: the process that
        // wrote them may have ended before syncing.
        view.write_at(0, &expected)?;
        if entries > 0 {
            file.sync().map_err(|cause| view.error("sync", cause))?;
        } else {
            view.syncing().header = Some(expected);
        }
        *view.extent() = Extent {
            entries,
            written: entries,
            durable: entries,
            failed_syncs: 0,
        };
        Ok(Self(view))
    }

    /// Returns a view for another thread.
    #[must_use]
    pub fn view(&self) -> LogView {
        self.0.clone()
    }

    /// Appends entries. After an error nothing has been appended, and the call can be repeated.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn append(&mut self, entries: &[Node]) -> Result<(), LogError> {
        let extent = *self.0.extent();
        self.0.write_entries(extent, extent.entries, entries)
    }

    /// Makes all appended entries durable.
    ///
    /// # Errors
    /// Fails if the sync fails, and from then on, since entries appended before may be lost.
    /// [`DurableLog`] keeps track of them and writes them again.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.0.sync()
    }

    /// Returns the number of entries that survive a power failure.
    #[must_use]
    pub fn durable_entries(&self) -> u64 {
        self.0.durable_entries()
    }

    /// Cuts the log to its first `entries` entries, durably. A shorter log is unchanged.
    ///
    /// # Errors
    /// Fails if a system call fails.
    pub fn cut(&mut self, entries: u64) -> Result<(), LogError> {
        let view = &self.0;
        let mut syncing = view.syncing();
        let entries = entries.min(view.entries());
        view.set_length(entries)?;
        {
            let mut extent = view.extent();
            extent.entries = entries;
            extent.written = extent.written.min(entries);
            extent.durable = extent.durable.min(entries);
        }
        view.sync_alone(&mut syncing).map(drop)
    }
}

impl LogRead for FileLog {
    fn entries(&self) -> u64 {
        self.0.entries()
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        self.0.read(start, out)
    }
}
