//! The tree log as a file.
//!
//! A [`FileLog`] is read, appended to and synced by its owner; a [`LogView`] of it gives other
//! threads what they may do. [`DurableLog`] keeps in memory what the file may still lose, and
//! [`LogWriter`] is a thread that does so for the hashing thread.
//!
//! All of them share one record of the file's contents because of what a failed sync means: the
//! system may have dropped everything written since the last successful sync, and reports that only
//! once. So whichever thread's sync fails, everything since the last success counts as unwritten,
//! and a later sync makes durable only what has been written again.

mod durable;
mod read_only;
mod resume;
mod writer;

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use self::durable::DurableLog;
pub use self::read_only::ReadOnlyLog;
pub use self::resume::Resumed;
pub use self::writer::{LogMonitor, LogWriter};
use crate::{HeaderError, LogError, LogHeader, LogRead, NODE_SIZE, Node, RoundWork};

const HEADER_BYTES: u64 = LogHeader::BYTES as u64;

/// What a log needs of its file. [`File`] implements it; so do failing files in tests.
pub trait LogFile: fmt::Debug + Send + Sync {
    /// Reads some bytes starting at `offset`, and returns how many; 0 at the end of the file.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of the bytes at `offset`, and returns how many.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes durable what was written. After an error, everything written since the last success
    /// may be lost, even if a later call succeeds.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn sync(&self) -> io::Result<()>;

    /// Returns the length in bytes.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn size(&self) -> io::Result<u64>;

    /// Truncates the file to this length.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn cut(&self, bytes: u64) -> io::Result<()>;
}

impl LogFile for File {
    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, bytes, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}

/// Reads until `bytes` are full or the file ends, and returns how many were read.
fn read_at(file: &dyn LogFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// A tree log in a file. It locks out other processes as long as it, or a [`LogView`] of it,
/// exists.
#[derive(Debug)]
pub struct FileLog(LogView);

/// Another thread's access to a log: reads what has been written so far, syncs it, and repairs it.
#[derive(Clone, Debug)]
pub struct LogView(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Box<dyn LogFile>,
    path: String,
    extent: Mutex<Extent>,
    /// Held during a sync and until its result is in `extent`. Of several overlapping syncs the
    /// system reports a failure to one; another must not count as a success meanwhile.
    syncing: Mutex<Unsynced>,
}

/// What the first sync of a log without entries must also make durable.
#[derive(Debug, Default)]
struct Unsynced {
    /// The header, written again before each sync until one succeeds: a failed sync may have
    /// dropped it.
    header: Option<[u8; LogHeader::BYTES]>,
    /// The directory of a new file, which is durable only once its directory is.
    directory: Option<File>,
}

/// The contents of the file.
#[derive(Clone, Copy, Debug, Default)]
struct Extent {
    /// Readable entries.
    entries: u64,
    /// Leading entries that are durable or have been written since the last failed sync.
    written: u64,
    /// Entries that survive a power failure.
    durable: u64,
    /// The number of failed syncs.
    failed_syncs: u64,
}

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
    pub fn in_file(file: impl LogFile + 'static, round: &RoundWork<'_>) -> Result<Self, LogError> {
        Self::with_file(Box::new(file), "in a temporary file".to_owned(), round)
    }

    fn with_file(
        file: Box<dyn LogFile>,
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

impl LogView {
    fn new(file: Box<dyn LogFile>, path: String) -> Self {
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

    fn extent(&self) -> MutexGuard<'_, Extent> {
        let extent = &self.0.extent;
        extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn syncing(&self) -> MutexGuard<'_, Unsynced> {
        let syncing = &self.0.syncing;
        syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs the file, and whatever must be synced with it. Returns the extent before the sync.
    fn sync_alone(&self, unsynced: &mut Unsynced) -> Result<Extent, LogError> {
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
    fn write_entries(&self, seen: Extent, start: u64, entries: &[Node]) -> Result<(), LogError> {
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

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
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

    fn set_length(&self, entries: u64) -> Result<(), LogError> {
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

    fn error(&self, action: &'static str, cause: io::Error) -> LogError {
        io_error(action, &self.0.path, cause)
    }

    fn foreign(&self, why: HeaderError) -> LogError {
        LogError::Foreign {
            path: self.0.path.clone(),
            why,
        }
    }

    fn unwritten(&self) -> LogError {
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

fn io_error(action: &'static str, path: &str, cause: io::Error) -> LogError {
    LogError::Io {
        action,
        path: path.to_owned(),
        cause,
    }
}
