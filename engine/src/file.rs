//! The tree log as a file, and the thread that writes it.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::{HeaderError, LogError, LogHeader, LogRead, NODE_SIZE, Node, Sha256};

const HEADER_BYTES: u64 = LogHeader::BYTES as u64;

/// What a log needs of its file. A [`File`] has it; tests have files that fail.
pub trait LogFile: fmt::Debug + Send + Sync {
    /// Reads some of the bytes from `offset` on, and says how many; 0 at the end of the file.
    ///
    /// # Errors
    /// When the system cannot.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of the bytes to `offset`, and says how many.
    ///
    /// # Errors
    /// When the system cannot.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes durable what was written. After an error, what was written since the last success may
    /// be lost, even if a later call succeeds.
    ///
    /// # Errors
    /// When the system cannot.
    fn sync(&self) -> io::Result<()>;

    /// The length, in bytes.
    ///
    /// # Errors
    /// When the system cannot tell.
    fn size(&self) -> io::Result<u64>;

    /// Cuts the file to this length.
    ///
    /// # Errors
    /// When the system cannot.
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

/// Reads until `bytes` are full or the file ends, and says how many were read.
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

/// A tree log in a file, locked against other processes while it, or a [`LogView`] of it, is there.
#[derive(Debug)]
pub struct FileLog(LogView);

/// A log that another thread has: to read what has been written so far, and to repair it.
#[derive(Clone, Debug)]
pub struct LogView {
    file: Arc<dyn LogFile>,
    path: Arc<str>,
    entries: Arc<AtomicU64>,
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
        let log = Self::with_file(Arc::new(file), &name, header, hash)?;
        // A file that was just created is durable only when its directory is.
        #[cfg(unix)]
        if log.entries() == 0 {
            let parent = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))
                .and_then(|directory| directory.sync_all())
                .map_err(|cause| log.0.error("sync the directory of", cause))?;
        }
        Ok(log)
    }

    /// A log in a file that has no name (or whose name does not matter): the same, without the
    /// lock. `file` must be open for reading and writing.
    ///
    /// # Errors
    /// As [`FileLog::open`].
    pub fn in_file(
        file: impl LogFile + 'static,
        header: &LogHeader,
        hash: &dyn Sha256,
    ) -> Result<Self, LogError> {
        Self::with_file(Arc::new(file), "in a temporary file", header, hash)
    }

    fn with_file(
        file: Arc<dyn LogFile>,
        path: &str,
        header: &LogHeader,
        hash: &dyn Sha256,
    ) -> Result<Self, LogError> {
        let view = LogView {
            file,
            path: path.into(),
            entries: Arc::default(),
        };
        let expected = header.encode(hash);
        let mut found = [0; LogHeader::BYTES];
        let length = read_at(&*view.file, &mut found, 0).map_err(|e| view.error("read", e))?;
        let size = view.file.size().map_err(|e| view.error("read", e))?;
        // What a power cut can leave of a header that was not synced: the length without the bytes.
        // The entries behind it are as good as any: proof and audit recompute them. (A device has
        // zeros, but no size.)
        let blank = size >= length as u64 && found[..length].iter().all(|byte| *byte == 0);
        if length == LogHeader::BYTES {
            if !blank {
                LogHeader::decode(hash, &found)
                    .and_then(|found| found.check(header))
                    .map_err(|why| view.foreign(why))?;
            }
            view.cut(size.saturating_sub(HEADER_BYTES) / NODE_SIZE as u64)?;
        } else if !blank && !expected.starts_with(&found[..length]) {
            return Err(view.foreign(HeaderError::Magic));
        }
        // Not only if it is new, or its creation was interrupted: after a sync that failed, the
        // system may take for written what is not. Nor need entries be durable that are there: the
        // process that wrote them may have ended before.
        view.write_at(0, &expected)?;
        view.sync()?;
        Ok(Self(view))
    }

    /// A view for another thread.
    #[must_use]
    pub fn view(&self) -> LogView {
        self.0.clone()
    }

    /// Appends entries. After an error nothing has been appended, and the call can be repeated.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn append(&mut self, entries: &[Node]) -> Result<(), LogError> {
        let before = self.entries();
        self.0.write(before, entries)?;
        let after = before + entries.len() as u64;
        self.0.entries.store(after, Ordering::Release);
        Ok(())
    }

    /// Makes everything that was appended durable. After an error, what was appended since the last
    /// success has to be written again ([`LogView::rewrite`]).
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.0.sync()
    }

    /// Cuts the log to its first `entries` entries, durably. A log that is shorter stays as it is.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn cut(&mut self, entries: u64) -> Result<(), LogError> {
        self.0.cut(entries.min(self.entries()))?;
        self.0.sync()
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
    /// Writes entries anew, durably, `start` being the number of the first one. They must be there.
    ///
    /// # Errors
    /// When they are not there, or cannot be written.
    pub fn repair(&self, start: u64, entries: &[Node]) -> Result<(), LogError> {
        self.rewrite(start, entries)?;
        self.sync()
    }

    /// As [`LogView::repair`], without making them durable.
    ///
    /// # Errors
    /// When they are not there, or cannot be written.
    pub fn rewrite(&self, start: u64, entries: &[Node]) -> Result<(), LogError> {
        self.check(start, entries.len())?;
        self.write(start, entries)
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
            match self.file.write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(self.error("write", ErrorKind::WriteZero.into())),
                Ok(written) => done += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error("write", error)),
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), LogError> {
        self.file.sync().map_err(|cause| self.error("sync", cause))
    }

    fn cut(&self, entries: u64) -> Result<(), LogError> {
        self.file
            .cut(HEADER_BYTES + entries * NODE_SIZE as u64)
            .map_err(|cause| self.error("cut", cause))?;
        self.entries.store(entries, Ordering::Release);
        Ok(())
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
        io_error(action, &self.path, cause)
    }

    fn foreign(&self, why: HeaderError) -> LogError {
        LogError::Foreign {
            path: self.path.to_string(),
            why,
        }
    }
}

impl LogRead for LogView {
    fn entries(&self) -> u64 {
        self.entries.load(Ordering::Acquire)
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        self.check(start, out.len())?;
        let bytes = out.as_flattened_mut();
        let offset = HEADER_BYTES + start * NODE_SIZE as u64;
        match read_at(&*self.file, bytes, offset) {
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

/// Entries that may wait for the writer: 8 MiB, hours of a long round, seconds of a short one.
const QUEUE_ENTRIES: usize = 1 << 18;
/// Entries that are written by one call.
const PIECE: usize = 4096;
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
/// ([`LogMonitor::error`] says why); only a full queue makes the hashing thread wait. Entries leave
/// the queue when they are durable and not before: after a sync that failed, the system may have
/// dropped what it could not write, so all of it is written again. A writer that is dropped writes
/// what it has and ends by itself.
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
        let path = Arc::clone(&log.0.path);
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
    let mut durable = log.entries();
    let mut sync_failed = false;
    loop {
        // The other end of the queue is gone. Asked before the queue is written, so that nothing
        // can come after this.
        let finished = queue.is_abandoned();
        let due = finished || last_sync.elapsed() >= SYNC_INTERVAL;
        let result = write_queued(&mut log, &mut queue, durable, sync_failed).and_then(|()| {
            if due && log.entries() > durable {
                sync_failed = true;
                log.sync()?;
                last_sync = Instant::now();
                forget(&mut queue, log.entries() - durable);
                durable = log.entries();
                shared.durable.store(durable, Ordering::Relaxed);
            }
            sync_failed = false;
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

/// Writes the entries in the queue to the file, without taking them out: those that are not there
/// yet, or all of them. The first one is number `durable` of the log.
fn write_queued(
    log: &mut FileLog,
    queue: &mut rtrb::Consumer<Node>,
    durable: u64,
    all: bool,
) -> Result<(), LogError> {
    let Ok(waiting) = queue.read_chunk(queue.slots()) else {
        return Ok(());
    };
    let (first, second) = waiting.as_slices();
    let mut start = durable;
    for entries in [first, second] {
        let written = (log.entries() - start).min(entries.len() as u64) as usize;
        let (old, new) = entries.split_at(written);
        if all {
            log.0.rewrite(start, old)?;
        }
        // In pieces, so that an interruption costs little.
        for piece in new.chunks(PIECE) {
            log.append(piece)?;
        }
        start += entries.len() as u64;
    }
    Ok(())
}

/// Takes entries that are durable out of the queue.
fn forget(queue: &mut rtrb::Consumer<Node>, count: u64) {
    if let Ok(chunk) = queue.read_chunk(count as usize) {
        chunk.commit_all();
    }
}
