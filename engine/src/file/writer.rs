//! The thread that writes a log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::durable::DurableLog;
use super::file_log::FileLog;
use crate::{LogError, Node};

/// Entries that may wait for the thread, and as many again that may wait for the disk: 8 MiB each,
/// hours of a long round, seconds of a short one.
const QUEUE_ENTRIES: usize = 1 << 18;
/// The most entries that the thread takes at once.
const TAKE: usize = 4096;
/// How often the thread polls the queue.
const POLL: Duration = Duration::from_millis(20);
/// How long an entry may wait to become durable.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);
/// How long the thread waits after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Appends entries to a log on its own thread, so that the hashing thread never waits for the disk:
/// entries go through a queue without lock or system call. Entries are durable about a quarter of a
/// second after they were pushed.
///
/// When the disk fails, the thread keeps the entries ([`DurableLog`]) and retries every second
/// ([`LogMonitor::error`] gives the reason); the hashing thread waits only when the queue is full.
/// A dropped writer writes its entries and ends by itself.
#[derive(Debug)]
pub struct LogWriter {
    queue: rtrb::Producer<Node>,
    /// Set when an entry did not get into the queue; no later one may.
    given_up: bool,
    monitor: LogMonitor,
    finished: mpsc::Receiver<Result<FileLog, LogError>>,
}

/// Another thread's access to a [`LogWriter`].
#[derive(Clone, Debug)]
pub struct LogMonitor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    durable: AtomicU64,
    error: Mutex<Option<String>>,
    /// Set to stop waiting for the queue.
    give_up: AtomicBool,
    /// The writing thread, once it runs.
    thread: OnceLock<Thread>,
}

impl LogWriter {
    /// Starts the thread.
    ///
    /// # Errors
    /// Fails if the system refuses the thread, or entries in `log` cannot be made durable.
    pub fn spawn(log: FileLog) -> Result<Self, LogError> {
        let view = log.view();
        let (writer, write) = Self::new(log)?;
        thread::Builder::new()
            .name("poet-log".into())
            .spawn(write)
            .map_err(|cause| view.error("start the writer of", cause))?;
        Ok(writer)
    }

    /// Returns a writer and the function that its thread must call, for callers that have a thread.
    /// The function returns after [`LogWriter::finish`], or when the writer is dropped.
    ///
    /// # Errors
    /// Fails if entries in `log` cannot be made durable.
    pub fn new(log: FileLog) -> Result<(Self, impl FnOnce() + Send + 'static), LogError> {
        let (queue, entries) = rtrb::RingBuffer::new(QUEUE_ENTRIES);
        let log = DurableLog::new(log, QUEUE_ENTRIES)?;
        let monitor = LogMonitor(Arc::new(Shared {
            durable: AtomicU64::new(log.durable_entries()),
            error: Mutex::new(None),
            give_up: AtomicBool::new(false),
            thread: OnceLock::new(),
        }));
        let (finish, finished) = mpsc::sync_channel(1);
        let write = {
            let monitor = monitor.clone();
            move || {
                monitor.0.thread.get_or_init(thread::current);
                // If the receiver is gone, this closes the log.
                drop(finish.send(write(log, entries, &monitor)));
            }
        };
        let writer = Self {
            queue,
            given_up: false,
            monitor,
            finished,
        };
        Ok((writer, write))
    }

    /// Returns a monitor for other threads.
    #[must_use]
    pub fn monitor(&self) -> LogMonitor {
        self.monitor.clone()
    }

    /// Queues an entry for the thread. Waits only while the queue is full, and until
    /// [`LogMonitor::give_up`].
    pub fn push(&mut self, mut entry: Node) {
        if self.given_up {
            return;
        }
        while let Err(rtrb::PushError::Full(refused)) = self.queue.push(entry) {
            let nobody_writes = self.queue.is_abandoned();
            if nobody_writes || self.monitor.0.give_up.load(Relaxed) {
                // `finish` reports it.
                self.given_up = true;
                return;
            }
            entry = refused;
            thread::sleep(POLL);
        }
    }

    /// Waits until everything is durable, and returns the log.
    ///
    /// # Errors
    /// Fails if the last attempt to write the remaining entries failed, or entries were given up.
    pub fn finish(self) -> Result<FileLog, LogError> {
        self.finish_within(Duration::MAX)
    }

    /// As [`LogWriter::finish`], but waits at most `patience`. After that the thread is left
    /// running: it keeps the log, and its lock, until the disk answers or the process ends.
    ///
    /// # Errors
    /// Fails as [`LogWriter::finish`] does, and if the time is up.
    pub fn finish_within(self, patience: Duration) -> Result<FileLog, LogError> {
        drop(self.queue);
        if let Some(thread) = self.monitor.0.thread.get() {
            thread.unpark();
        }
        let log = match self.finished.recv_timeout(patience) {
            Ok(result) => result?,
            Err(RecvTimeoutError::Timeout) => return Err(LogError::TimedOut),
            Err(RecvTimeoutError::Disconnected) => return Err(LogError::WriterStopped),
        };
        if self.given_up {
            return Err(LogError::GivenUp);
        }
        Ok(log)
    }
}

impl LogMonitor {
    /// Returns the number of entries that would survive a power failure now.
    #[must_use]
    pub fn durable_entries(&self) -> u64 {
        self.0.durable.load(Relaxed)
    }

    /// Returns why entries cannot be written at the moment; `None` if they can.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.0
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops waiting for room in the queue, for a process that must end although the disk is full.
    /// The first entry that does not fit is given up, with all later ones. The log stays right: the
    /// work can be repeated from its end.
    pub fn give_up(&self) {
        self.0.give_up.store(true, Relaxed);
    }
}

/// The thread.
fn write(
    mut log: DurableLog,
    mut queue: rtrb::Consumer<Node>,
    monitor: &LogMonitor,
) -> Result<FileLog, LogError> {
    let mut last_sync = Instant::now();
    loop {
        // The other end of the queue is gone. Checked before the queue is written, so that nothing
        // can arrive later.
        let finished = queue.is_abandoned();
        let mut result = take(&mut log, &mut queue);
        if result.is_ok() && (finished || last_sync.elapsed() >= SYNC_INTERVAL) {
            result = log.sync();
            last_sync = Instant::now();
        }
        monitor.0.durable.store(log.durable_entries(), Relaxed);
        let wait = if result.is_ok() { POLL } else { RETRY };
        *monitor
            .0
            .error
            .lock()
            .unwrap_or_else(PoisonError::into_inner) =
            result.as_ref().err().map(ToString::to_string);
        if finished {
            let empty = queue.is_empty();
            return result.and_then(|()| match empty {
                true => log.finish(),
                false => Err(LogError::GivenUp),
            });
        }
        thread::park_timeout(wait);
    }
}

/// Takes the entries out of the queue and writes them. If they cannot be written, it still takes as many as
/// there is room for in memory, so that the hashing need not wait for the disk until then.
fn take(log: &mut DurableLog, queue: &mut rtrb::Consumer<Node>) -> Result<(), LogError> {
    loop {
        let mut room = log.reserve(TAKE);
        if room == 0 {
            log.sync()?;
            room = log.reserve(TAKE);
        }
        let count = push_from(queue, log, room);
        if let Err(error) = log.write() {
            loop {
                let room = log.reserve(TAKE);
                if push_from(queue, log, room) == 0 {
                    return Err(error);
                }
            }
        }
        if count == 0 {
            return Ok(());
        }
    }
}

/// Moves up to `room` entries from the queue to the log's memory. Returns how many.
fn push_from(queue: &mut rtrb::Consumer<Node>, log: &mut DurableLog, room: usize) -> usize {
    let count = queue.slots().min(room);
    if let Ok(entries) = queue.read_chunk(count) {
        for entry in entries {
            let pushed = log.push(entry);
            debug_assert!(pushed.is_ok(), "there is room");
        }
    }
    count
}
