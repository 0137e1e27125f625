//! `poet_worker`: the sequential work on a statement, its log, and the proof of it.
//!
//! The work loop runs in steps of about a millisecond, between which it looks at the clock and for
//! a request to stop; both cost nothing beside a step. Finished subtree roots wait in memory until
//! they are appended to the log: at the end of each call, and about every 50 ms within one. No
//! thread is started for that. Making them durable, which can take long, is a call of its own that
//! another thread may make while the work goes on: it syncs the file through a second descriptor.

use std::ffi::c_char;
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use poet_engine::file::FileLog;
use poet_engine::{
    LogHeader, LogRead, MAX_LEAVES, MAX_PROVEN_LEAVES, Node, ProveProgress, SubtreeHeight, Tree,
    prove, resume, run,
};

use crate::backend::{function, select, work};
use crate::boundary::call;
use crate::handle::Table;
use crate::poet_status::{Busy, Io, OutOfResources, Poisoned, TooFewLeaves};
use crate::pointer::{self, Out};
use crate::status::Error;
use crate::work::statement;
use crate::{POET_T, poet_proof, poet_status, proof};

/// The greatest subtree height.
pub const POET_MAX_SUBTREE_HEIGHT: u32 = 24;

const _: () = assert!(POET_MAX_SUBTREE_HEIGHT == SubtreeHeight::MAX.get());

/// The sequential work on a statement. A worker is for one thread at a time, except where a function
/// says that it may be called during others; a second thread is told BUSY.
pub struct poet_worker {
    _private: [u8; 0],
}

/// How to open a worker. Set everything to zero, then struct_size and what is wanted: zero is a
/// usable value in every place.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_worker_options {
    /// sizeof(poet_worker_options).
    pub struct_size: usize,
    /// What the work is done for. It is not needed after the call. May be NULL if it is empty.
    pub statement: *const u8,
    /// Its length, at most POET_MAX_STATEMENT_BYTES.
    pub statement_bytes: usize,
    /// An existing directory for the log, as UTF-8. The log is the file tree.log in it; if it is there
    /// already, the work goes on where it stands. NULL: the log is kept in memory only.
    pub log_directory: *const c_char,
    /// The backend, as for poet_work_open.
    pub backend: *const c_char,
    /// A poet_work_function.
    pub work_function: u32,
    /// Hash invocations for a label; 0 means POET_LABEL_DEPTH.
    pub depth: u32,
    /// The log keeps 32 bytes for each 2^subtree_height leaves, and a proof recomputes up to 150
    /// times as many. Up to POET_MAX_SUBTREE_HEIGHT; 12 suits a round of two weeks, 0 one of minutes.
    pub subtree_height: u32,
    /// 0.
    pub reserved: u32,
}

/// How far a worker is.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_worker_progress {
    /// Leaves done.
    pub leaves: u64,
    /// Leaves that would survive a power failure. Without a log directory 0.
    pub durable_leaves: u64,
    /// Hashes done and to do, approximately, of the proof that is or was last made; 0 before.
    pub prove_hashes_done: u64,
    /// See prove_hashes_done.
    pub prove_hashes_total: u64,
}

/// Why poet_worker_advance returned.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum poet_advanced {
    /// All the leaves that were asked for are done (or the tree has as many as it may have, 2^56).
    Leaves = 1,
    /// The time was up.
    Time = 2,
    /// poet_worker_stop was called.
    Stopped = 3,
}

/// How long the work loop runs without looking at the clock.
const STEP: Duration = Duration::from_millis(1);

/// The most leaves of a step, for work functions with little depth.
const MAX_STEP_LEAVES: u64 = 4096;

/// How long finished entries may wait in memory.
const APPEND_INTERVAL: Duration = Duration::from_millis(50);

struct Worker {
    subtree_height: SubtreeHeight,
    leaves: AtomicU64,
    stop: AtomicBool,
    prove: ProveProgress,
    /// The log file, for syncing it.
    file: Option<File>,
    /// Entries that were written to the file, and those of them that are durable.
    written: AtomicU64,
    durable: AtomicU64,
    state: Mutex<State>,
}

/// What only one thread may use.
struct State {
    tree: Tree,
    log: Log,
    /// Entries that the log does not have yet.
    waiting: Vec<Node>,
}

enum Log {
    Memory(Vec<Node>),
    File(FileLog),
}

static WORKERS: Table<Worker> = Table::new("poet_worker", 2);

fn out_of_memory() -> Error {
    Error::new(OutOfResources, "there is no memory for the log")
}

impl Log {
    /// Appends all entries, or none.
    fn append(&mut self, entries: &mut Vec<Node>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        match self {
            Self::Memory(log) => {
                log.try_reserve(entries.len())
                    .map_err(|_| out_of_memory())?;
                log.append(entries);
            }
            Self::File(log) => {
                log.append(entries)?;
                entries.clear();
            }
        }
        Ok(())
    }

    fn entries(&self) -> u64 {
        match self {
            Self::Memory(log) => log.len() as u64,
            Self::File(log) => log.entries(),
        }
    }

    fn with_reader<R>(&mut self, body: impl FnOnce(&mut dyn LogRead) -> R) -> R {
        match self {
            Self::Memory(log) => body(&mut log.as_slice()),
            Self::File(log) => body(log),
        }
    }
}

impl Worker {
    fn open(
        options: &poet_worker_options,
        statement: &[u8],
        directory: Option<&str>,
        backend: Option<&str>,
    ) -> Result<Self, Error> {
        let subtree_height = SubtreeHeight::new(options.subtree_height)?;
        let selection = select(function(options.work_function)?, backend)?.for_one_chain()?;
        let work = work(&selection, options.depth)?;
        let (mut log, file) = match directory {
            None => (Log::Memory(Vec::new()), None),
            Some(directory) => {
                let path = Path::new(directory).join("tree.log");
                let header = LogHeader::new(&work, statement, subtree_height);
                let log = FileLog::open(&path, &header, work.kernels().sha256)?;
                let file = OpenOptions::new().write(true).open(&path);
                let file = file.and_then(|file| file.sync_data().map(|()| file));
                (Log::File(log), Some(file.map_err(|why| sync_error(&why))?))
            }
        };
        let tree = log.with_reader(|log| resume(&work, statement, subtree_height, log))?;
        let entries = if file.is_some() { log.entries() } else { 0 };
        Ok(Self {
            subtree_height,
            leaves: AtomicU64::new(tree.leaves()),
            stop: AtomicBool::new(false),
            prove: ProveProgress::default(),
            file,
            written: AtomicU64::new(entries),
            durable: AtomicU64::new(entries),
            state: Mutex::new(State {
                tree,
                log,
                waiting: Vec::new(),
            }),
        })
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>, Error> {
        self.state.try_lock().map_err(|refused| match refused {
            TryLockError::WouldBlock => {
                Error::new(Busy, "another thread is using this poet_worker handle")
            }
            TryLockError::Poisoned(_) => {
                Error::new(Poisoned, "an earlier call with this poet_worker panicked")
            }
        })
    }

    fn append(&self, state: &mut State) -> Result<(), Error> {
        state.log.append(&mut state.waiting)?;
        if self.file.is_some() {
            self.written.store(state.log.entries(), Relaxed);
        }
        Ok(())
    }

    fn advance(&self, leaves: u64, time: Option<Duration>) -> Result<poet_advanced, Error> {
        let state = &mut *self.lock()?;
        // Those that an earlier call could not append.
        self.append(state)?;
        let goal = state.tree.leaves().saturating_add(leaves).min(MAX_LEAVES);
        let start = Instant::now();
        let mut appended = start;
        let mut now = start;
        // Not known before the first step, which is a single leaf.
        let mut leaf_time = STEP;
        let ended = loop {
            let done = state.tree.leaves();
            let left = time.map(|time| time.saturating_sub(now - start));
            if self.stop.swap(false, Relaxed) {
                break poet_advanced::Stopped;
            }
            if done >= goal {
                break poet_advanced::Leaves;
            }
            if left == Some(Duration::ZERO) {
                break poet_advanced::Time;
            }
            let step = left.map_or(STEP, |left| left.min(STEP)).as_nanos() / leaf_time.as_nanos();
            let step = (step as u64).clamp(1, MAX_STEP_LEAVES).min(goal - done);
            let entries = (step >> self.subtree_height.get()) as usize + 1;
            state
                .waiting
                .try_reserve(entries)
                .map_err(|_| out_of_memory())?;
            run(
                &mut state.tree,
                self.subtree_height,
                &AtomicU64::new(done + step),
                &self.leaves,
                |root| state.waiting.push(root),
            );
            let before = now;
            now = Instant::now();
            leaf_time = ((now - before) / step as u32).max(Duration::from_nanos(1));
            if now - appended >= APPEND_INTERVAL {
                self.append(state)?;
                appended = now;
            }
        };
        self.append(state)?;
        Ok(ended)
    }

    fn sync(&self) -> Result<(), Error> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let written = self.written.load(Relaxed);
        file.sync_data().map_err(|why| sync_error(&why))?;
        self.durable.fetch_max(written, Relaxed);
        Ok(())
    }

    fn progress(&self) -> poet_worker_progress {
        let (done, total) = self.prove.hashes();
        poet_worker_progress {
            leaves: self.leaves.load(Relaxed),
            durable_leaves: self.durable.load(Relaxed) << self.subtree_height.get(),
            prove_hashes_done: done,
            prove_hashes_total: total,
        }
    }

    fn root(&self) -> Result<Node, Error> {
        let root = self.lock()?.tree.root();
        root.ok_or_else(|| Error::new(TooFewLeaves, "a tree without leaves has no root"))
    }

    fn prove(&self, t: u32, threads: u32) -> Result<*mut poet_proof, Error> {
        let t = t as usize;
        if !(1..=MAX_PROVEN_LEAVES).contains(&t) {
            return Err(Error::argument(format!("t is {t}, expected 1 to {POET_T}")));
        }
        let state = &mut *self.lock()?;
        self.append(state)?;
        let leaves = state.tree.leaves();
        if leaves < t as u64 {
            let text = format!("{leaves} leaves are too few: a proof shows {t}");
            return Err(Error::new(TooFewLeaves, text));
        }
        let (tree, threads) = (&state.tree, threads as usize);
        let proof = state
            .log
            .with_reader(|log| prove(tree, self.subtree_height, log, t, threads, &self.prove))?;
        proof::open(proof, leaves)
    }
}

fn sync_error(why: &std::io::Error) -> Error {
    Error::new(Io, format!("cannot sync the log: {why}"))
}

/// Opens a worker. If the log directory has a log of the same work, statement and subtree height, the
/// worker goes on where it stands: at most 2^subtree_height - 1 leaves, and what a failure of the
/// power lost, are done again. No other worker and no other process can open that log meanwhile.
///
/// options: not needed after the call, nor is what it points to.
/// worker: receives the handle; the caller closes it with poet_worker_close.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT, INVALID_LENGTH, STRUCT_SIZE, BACKEND, IO, LOG_IN_USE,
/// LOG_FOREIGN, TOO_MANY_LEAVES (the log is too long), OUT_OF_RESOURCES, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_open(
    options: *const poet_worker_options,
    worker: *mut *mut poet_worker,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let (options, statement, directory, backend, out) = unsafe {
            let size = pointer::leading_size(options, "options")?;
            let options = pointer::versioned(options, size, "poet_worker_options")?;
            (
                options,
                statement(options.statement, options.statement_bytes)?,
                pointer::text(options.log_directory, "log_directory")?,
                pointer::text(options.backend, "backend")?,
                Out::new(worker, "worker")?,
            )
        };
        if options.reserved != 0 {
            return Err(Error::argument("the reserved option is not 0"));
        }
        out.write(WORKERS.open(Worker::open(&options, statement, directory, backend)?)?);
        Ok(())
    })
}

/// Closes a worker. Everything is in the log already, durable as far as poet_worker_sync made it.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, BUSY (another thread works with it: stop that first), PANIC.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_close(worker: *mut poet_worker) -> poet_status {
    call(|| {
        WORKERS.close_if(worker, |worker| match worker.lock() {
            Err(error) if error.status == Busy => Err(error),
            _ => Ok(()),
        })
    })
}

/// Does the sequential work: adds leaves until there are so many more, or the time is up, or another
/// thread calls poet_worker_stop, whichever comes first. The calling thread does nothing but hash, and
/// append to the log about every 50 ms and at the end. It returns at most one leaf late, or, after a
/// stop, about a millisecond. To bind the thread to a core is up to the caller.
///
/// leaves: how many to add at most; UINT64_MAX for no limit.
/// time_us: how long to go on, in microseconds; UINT64_MAX for no limit.
/// advanced: receives why it returned, a poet_advanced. If several reasons meet, a stop goes before
/// leaves, and leaves before time.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, BUSY, POISONED, IO, OUT_OF_RESOURCES, PANIC. After IO or
/// OUT_OF_RESOURCES the leaves that were added stay: the next call first appends what is missing in the
/// log, and then goes on. One thread at a time.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_advance(
    worker: *mut poet_worker,
    leaves: u64,
    time_us: u64,
    advanced: *mut poet_advanced,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let advanced = unsafe { Out::new(advanced, "advanced") }?;
        let time = (time_us != u64::MAX).then(|| Duration::from_micros(time_us));
        WORKERS.with(worker, |worker| {
            advanced.write(worker.advance(leaves, time)?);
            Ok(())
        })
    })
}

/// Makes the poet_worker_advance that another thread is in return; if none is, the next one returns at
/// once. So it does not matter which of the two calls comes first.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_stop(worker: *mut poet_worker) -> poet_status {
    call(|| {
        WORKERS.with(worker, |worker| {
            worker.stop.store(true, Relaxed);
            Ok(())
        })
    })
}

/// Tells how far a worker is.
///
/// progress: receives the answer. progress_size: sizeof(poet_worker_progress) of the caller.
///
/// Returns OK, NULL_POINTER, STRUCT_SIZE, NOT_OPEN, POISONED, PANIC. Any thread, also during other
/// calls.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_read_progress(
    worker: *const poet_worker,
    progress: *mut poet_worker_progress,
    progress_size: usize,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let progress = unsafe { Out::new(progress, "progress") }?;
        pointer::struct_size::<poet_worker_progress>(progress_size, "poet_worker_progress")?;
        WORKERS.with(worker, |worker| {
            progress.write(worker.progress());
            Ok(())
        })
    })
}

/// The number of leaves done.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_leaves(
    worker: *const poet_worker,
    leaves: *mut u64,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let leaves = unsafe { Out::new(leaves, "leaves") }?;
        WORKERS.with(worker, |worker| {
            leaves.write(worker.leaves.load(Relaxed));
            Ok(())
        })
    })
}

/// Makes what is in the log file durable. After it has returned OK, everything that was appended
/// before it was called survives a power failure: up to 50 ms of a poet_worker_advance that is running
/// are not among that. Without a log directory it does nothing.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, IO, PANIC. Any thread, also during other calls; it may
/// take long, so a thread of its own is the place for it.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_sync(worker: *const poet_worker) -> poet_status {
    call(|| WORKERS.with(worker, Worker::sync))
}

/// The root of the tree as it is.
///
/// root: receives 32 bytes.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (there are none), PANIC. One
/// thread at a time.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_root(
    worker: *const poet_worker,
    root: *mut u8,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let root = unsafe { pointer::out_node(root, "root") }?;
        WORKERS.with(worker, |worker| {
            root.write(worker.root()?);
            Ok(())
        })
    })
}

/// Makes the proof of all leaves done. The worker can go on afterwards.
///
/// t: how many leaves to prove, 1 to POET_T, on the Spacemesh network POET_T.
/// threads: how many threads share the work, 1 to POET_MAX_THREADS, the calling one among them; the
/// others end before the call returns.
/// proof: receives the handle; the caller closes it with poet_proof_close. It does not depend on the
/// worker any more.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (fewer than t),
/// IO, LOG_DAMAGED, OUT_OF_RESOURCES, PANIC. One thread at a time.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_prove(
    worker: *mut poet_worker,
    t: u32,
    threads: u32,
    proof: *mut *mut poet_proof,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let proof = unsafe { Out::new(proof, "proof") }?;
        WORKERS.with(worker, |worker| {
            proof.write(worker.prove(t, threads)?);
            Ok(())
        })
    })
}
