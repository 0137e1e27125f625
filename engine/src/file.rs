//! The tree log as a file, and the thread that writes it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{HeaderError, LogError, LogHeader, LogRead, NODE_SIZE, Node, Sha256};

const HEADER_BYTES: u64 = LogHeader::BYTES as u64;

/// A tree log in a file, locked against other processes while it is open.
#[derive(Debug)]
pub struct FileLog {
    file: File,
    path: String,
    entries: u64,
}

impl FileLog {
    /// Opens the log at `path`, or creates it. What is behind the last whole entry is cut off: it
    /// is the rest of a write that was interrupted.
    ///
    /// # Errors
    /// When the file cannot be used, another process has it open, or it is the log of something
    /// else than `header` says; then it is left as it is.
    pub fn open(path: &Path, header: &LogHeader, hash: &dyn Sha256) -> Result<Self, LogError> {
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
        let log = Self::with_file(file, name, header, hash)?;
        // A file that was just created is durable only when its directory is.
        #[cfg(unix)]
        if log.entries == 0 {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|directory| directory.sync_all())
                .map_err(|cause| log.error("sync the directory of", cause))?;
        }
        Ok(log)
    }

    /// A log in a file that has no name (or whose name does not matter): the same, without the
    /// lock. `file` must be open for reading and writing.
    ///
    /// # Errors
    /// As [`FileLog::open`].
    pub fn in_file(file: File, header: &LogHeader, hash: &dyn Sha256) -> Result<Self, LogError> {
        Self::with_file(file, "in a temporary file".into(), header, hash)
    }

    fn with_file(
        file: File,
        path: String,
        header: &LogHeader,
        hash: &dyn Sha256,
    ) -> Result<Self, LogError> {
        let mut log = Self {
            file,
            path,
            entries: 0,
        };
        let expected = header.encode(hash);
        let mut found = Vec::with_capacity(LogHeader::BYTES);
        log.file
            .rewind()
            .and_then(|()| (&log.file).take(HEADER_BYTES).read_to_end(&mut found))
            .map_err(|cause| log.error("read", cause))?;
        if let Ok(found) = <&[u8; LogHeader::BYTES]>::try_from(found.as_slice()) {
            LogHeader::decode(hash, found)
                .and_then(|found| found.check(header))
                .map_err(|why| log.foreign(why))?;
            let bytes = log.file.metadata().map_err(|e| log.error("read", e))?.len();
            log.entries = (bytes - HEADER_BYTES) / NODE_SIZE as u64;
            log.file
                .set_len(HEADER_BYTES + log.entries * NODE_SIZE as u64)
                .map_err(|cause| log.error("cut", cause))?;
        } else if expected.starts_with(&found) {
            // New, or its creation was interrupted.
            log.write_at(0, &expected)?;
            log.sync()?;
        } else {
            return Err(log.foreign(HeaderError::Magic));
        }
        Ok(log)
    }

    /// Appends entries. After an error nothing has been appended, and the call can be repeated.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, entries: &[Node]) -> Result<(), LogError> {
        self.write_at(
            HEADER_BYTES + self.entries * NODE_SIZE as u64,
            entries.as_flattened(),
        )?;
        self.entries += entries.len() as u64;
        Ok(())
    }

    /// Makes everything that was appended durable.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.file
            .sync_data()
            .map_err(|cause| self.error("sync", cause))
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), LogError> {
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(|cause| self.error("write", cause))
    }

    fn error(&self, action: &'static str, cause: std::io::Error) -> LogError {
        io_error(action, &self.path, cause)
    }

    fn foreign(&self, why: HeaderError) -> LogError {
        LogError::Foreign {
            path: self.path.clone(),
            why,
        }
    }
}

impl LogRead for FileLog {
    fn entries(&self) -> u64 {
        self.entries
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        let end = start.saturating_add(out.len() as u64);
        if end > self.entries {
            return Err(LogError::Missing {
                entry: end - 1,
                entries: self.entries,
            });
        }
        let offset = HEADER_BYTES + start * NODE_SIZE as u64;
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(out.as_flattened_mut()))
            .map_err(|cause| self.error("read", cause))
    }
}

fn io_error(action: &'static str, path: &str, cause: std::io::Error) -> LogError {
    LogError::Io {
        action,
        path: path.to_owned(),
        cause,
    }
}

/// Entries that may wait for the writer: 8 MiB, hours of a long round, seconds of a short one.
const QUEUE_ENTRIES: usize = 1 << 18;
/// How often the writer looks for entries.
const POLL: Duration = Duration::from_millis(20);
/// How long an entry may wait to become durable.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);
/// How long the writer waits after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Appends entries to a [`FileLog`] in a thread of its own, so that the hashing thread never
/// waits for the disk: entries go through a queue without lock or system call. Entries are durable
/// about a quarter of a second after they were pushed.
///
/// When the disk fails, the writer keeps the entries and tries again every second
/// ([`LogMonitor::error`] says why); only a full queue makes the hashing thread wait. A writer that
/// is dropped writes what it has and ends by itself.
#[derive(Debug)]
pub struct LogWriter {
    queue: rtrb::Producer<Node>,
    shared: Arc<Shared>,
    thread: JoinHandle<Result<FileLog, LogError>>,
}

/// What other threads may see of a [`LogWriter`].
#[derive(Clone, Debug)]
pub struct LogMonitor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    durable: AtomicU64,
    error: Mutex<Option<String>>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn spawn(log: FileLog) -> Result<Self, LogError> {
        let (queue, entries) = rtrb::RingBuffer::new(QUEUE_ENTRIES);
        let shared = Arc::new(Shared {
            durable: AtomicU64::new(log.entries()),
            error: Mutex::new(None),
        });
        let path = log.path.clone();
        let thread = thread::Builder::new()
            .name("poet-log".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write(log, entries, &shared)
            })
            .map_err(|cause| io_error("start the writer of", &path, cause))?;
        Ok(Self {
            queue,
            shared,
            thread,
        })
    }

    /// A view for other threads.
    #[must_use]
    pub fn monitor(&self) -> LogMonitor {
        LogMonitor(Arc::clone(&self.shared))
    }

    /// Hands an entry to the writer. Waits only when the queue is full.
    pub fn push(&mut self, mut entry: Node) {
        while let Err(rtrb::PushError::Full(refused)) = self.queue.push(entry) {
            if self.queue.is_abandoned() {
                // The writer has ended: `finish` says why.
                return;
            }
            entry = refused;
            thread::sleep(POLL);
        }
    }

    /// Waits until everything is durable, and returns the log.
    ///
    /// # Errors
    /// When the last try to write what was still waiting failed.
    pub fn finish(self) -> Result<FileLog, LogError> {
        let Self { queue, thread, .. } = self;
        drop(queue);
        thread.thread().unpark();
        thread.join().unwrap_or(Err(LogError::WriterStopped))
    }
}

impl LogMonitor {
    /// Entries that would survive a power failure now.
    #[must_use]
    pub fn durable_entries(&self) -> u64 {
        self.0.durable.load(Ordering::Relaxed)
    }

    /// Why entries cannot be written at the moment; `None` when they can.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.0
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The writer's thread.
fn write(
    mut log: FileLog,
    mut queue: rtrb::Consumer<Node>,
    shared: &Shared,
) -> Result<FileLog, LogError> {
    let mut last_sync = Instant::now();
    let mut synced = log.entries();
    loop {
        // The other end of the queue is gone. Asked before the queue is emptied, so that nothing
        // can come after this.
        let finished = queue.is_abandoned();
        let due = finished || last_sync.elapsed() >= SYNC_INTERVAL;
        let result = append_queued(&mut log, &mut queue).and_then(|()| {
            if due && log.entries() > synced {
                log.sync()?;
                synced = log.entries();
                last_sync = Instant::now();
                shared.durable.store(synced, Ordering::Relaxed);
            }
            Ok(())
        });
        let wait = if result.is_ok() { POLL } else { RETRY };
        *shared.error.lock().unwrap_or_else(PoisonError::into_inner) =
            result.as_ref().err().map(ToString::to_string);
        if finished {
            return result.map(|()| log);
        }
        thread::park_timeout(wait);
    }
}

/// Moves entries from the queue to the file; after an error they are still in the queue.
fn append_queued(log: &mut FileLog, queue: &mut rtrb::Consumer<Node>) -> Result<(), LogError> {
    while let Ok(chunk) = queue.read_chunk(queue.slots().min(4096))
        && !chunk.is_empty()
    {
        let (first, second) = chunk.as_slices();
        log.append(first)?;
        let appended = first.len();
        if let Err(error) = log.append(second) {
            chunk.commit(appended);
            return Err(error);
        }
        chunk.commit_all();
    }
    Ok(())
}
