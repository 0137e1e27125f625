//! `poet_worker`: the sequential work on a statement, its log, and the proof of it.
//!
//! The work loop runs in steps of about a millisecond, between which it looks at the clock and for
//! a request to stop; both cost nothing beside a step. Finished subtree roots wait in memory until
//! they are appended to the log: at the end of each call, and about every 50 ms within one. No
//! thread is started for that. Making them durable, which can take long, is a call of its own that
//! another thread may make while the work goes on. Until then they stay in memory, too: what the disk
//! does not take, or a failed sync loses, is written again ([`DurableLog`]).

use std::ffi::c_char;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use poet_engine::file::{DurableLog, FileLog, LogView};
use poet_engine::{
    LogError, LogRead, MAX_LEAVES, MAX_PROVEN_LEAVES, Node, ProveProgress, RoundWork,
    SubtreeHeight, Tree, Work, prove, run,
};

use crate::backend::{function, select, work};
use crate::boundary::call;
use crate::handle::Table;
use crate::poet_status::{BacklogFull, Busy, Cancelled, OutOfResources, Poisoned, TooFewLeaves};
use crate::pointer::{self, Out, OutVersioned};
use crate::status::Error;
use crate::work::statement;
use crate::{POET_T, poet_proof, poet_status, poet_work_info, proof};

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
    /// Leaves that poet_worker_audit, if one runs or ran, has found right or put right. From here on
    /// since version 1.1 of the ABI.
    pub audited_leaves: u64,
    /// Entries of the log that were put right since the worker was opened, or when it was: the disk or
    /// memory had changed them.
    pub repaired_entries: u64,
    /// Leaves that were taken back since the worker was opened, or when it was, because their entries
    /// were not what the work makes; they are made again.
    pub lost_leaves: u64,
    /// How often poet_worker_audit found that this machine computes wrongly: the work itself, or the
    /// audit. The machine should be replaced.
    pub mistakes: u64,
}

/// The size of poet_worker_progress in version 1.0 of the ABI.
const PROGRESS_SIZE_1_0: usize = 32;

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

/// Entries that may wait for the disk: 8 MiB, as in the server.
const BACKLOG_ENTRIES: usize = 1 << 18;

/// Entries that are in the file, and wait for a sync that nobody makes. After so many the work makes
/// one itself.
const UNSYNCED_ENTRIES: usize = BACKLOG_ENTRIES / 2;

pub(crate) struct Worker {
    info: poet_work_info,
    pub(crate) subtree_height: SubtreeHeight,
    pub(crate) leaves: AtomicU64,
    stop: AtomicBool,
    /// Of an audit, the request to stop is here, too.
    pub(crate) prove: ProveProgress,
    pub(crate) audit: AuditProgress,
    /// The log file, for syncing it.
    file: Option<LogView>,
    state: Mutex<State>,
}

/// What was found wrong and put right.
#[derive(Default)]
pub(crate) struct AuditProgress {
    pub(crate) audited_leaves: AtomicU64,
    pub(crate) repaired_entries: AtomicU64,
    pub(crate) lost_leaves: AtomicU64,
    pub(crate) mistakes: AtomicU64,
}

/// What only one thread may use.
pub(crate) struct State {
    pub(crate) work: Work,
    pub(crate) statement: Vec<u8>,
    pub(crate) tree: Tree,
    pub(crate) log: Log,
}

pub(crate) enum Log {
    Memory(Vec<Node>),
    File(DurableLog),
}

pub(crate) static WORKERS: Table<Worker> = Table::new("poet_worker", 2);

/// Why the log takes no more entries.
fn no_room(log: &mut Log) -> Error {
    match log.append() {
        Err(why) => Error::new(
            BacklogFull,
            format!("{BACKLOG_ENTRIES} entries wait for the log: {why}"),
        ),
        Ok(()) => out_of_memory(),
    }
}

fn out_of_memory() -> Error {
    Error::new(OutOfResources, "there is no memory for the log")
}

impl Log {
    /// Makes room for up to `count` entries, and returns for how many there is some.
    fn reserve(&mut self, count: usize) -> usize {
        match self {
            Self::Memory(log) => log.try_reserve(count).map_or(0, |()| count),
            Self::File(log) => log.reserve(count),
        }
    }

    /// Adds an entry for which there is room.
    pub(crate) fn push(&mut self, entry: Node) {
        match self {
            Self::Memory(log) => log.push(entry),
            Self::File(log) => {
                let pushed = log.push(entry);
                debug_assert!(pushed.is_ok(), "there is room");
            }
        }
    }

    /// Writes what is not in the file yet.
    pub(crate) fn append(&mut self) -> Result<(), LogError> {
        if let Self::File(log) = self {
            log.write()?;
            if log.backlog() > UNSYNCED_ENTRIES {
                log.sync()?;
            }
        }
        Ok(())
    }

    pub(crate) fn repair(&mut self, start: u64, entries: &[Node]) -> Result<(), LogError> {
        match self {
            Self::Memory(log) => {
                let start = start as usize;
                log[start..start + entries.len()].copy_from_slice(entries);
                Ok(())
            }
            Self::File(log) => log.repair(start, entries),
        }
    }

    pub(crate) fn cut(&mut self, entries: u64) -> Result<(), LogError> {
        match self {
            Self::Memory(log) => {
                log.truncate(entries as usize);
                Ok(())
            }
            Self::File(log) => log.cut(entries),
        }
    }

    pub(crate) fn with_reader<R>(&mut self, body: impl FnOnce(&mut dyn LogRead) -> R) -> R {
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
        let round = RoundWork::new(&work, statement, subtree_height);
        let audit = AuditProgress::default();
        let (tree, log, file) = match directory {
            None => (Tree::new(&work, statement), Log::Memory(Vec::new()), None),
            Some(directory) => {
                let mut log = FileLog::open(&Path::new(directory).join("tree.log"), &round)?;
                let resumed = log.resume(&round)?;
                let lost = resumed.cut.saturating_mul(subtree_height.leaves());
                audit.repaired_entries.store(resumed.repaired, Relaxed);
                audit.lost_leaves.store(lost, Relaxed);
                let view = log.view();
                let log = DurableLog::new(log, BACKLOG_ENTRIES)?;
                (resumed.tree, Log::File(log), Some(view))
            }
        };
        Ok(Self {
            info: crate::work::info(&selection, &work),
            subtree_height,
            leaves: AtomicU64::new(tree.leaves()),
            stop: AtomicBool::new(false),
            prove: ProveProgress::default(),
            audit,
            file,
            state: Mutex::new(State {
                work,
                statement: statement.to_vec(),
                tree,
                log,
            }),
        })
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, State>, Error> {
        self.state.try_lock().map_err(|refused| match refused {
            TryLockError::WouldBlock => {
                Error::new(Busy, "another thread is using this poet_worker handle")
            }
            TryLockError::Poisoned(_) => {
                Error::new(Poisoned, "an earlier call with this poet_worker panicked")
            }
        })
    }

    /// Adds leaves. Says why it ended, and what is wrong with the log by then.
    fn advance(
        &self,
        leaves: u64,
        time: Option<Duration>,
    ) -> Result<(poet_advanced, Result<(), LogError>), Error> {
        let State { tree, log, .. } = &mut *self.lock()?;
        let k = self.subtree_height.get();
        let goal = tree.leaves().saturating_add(leaves).min(MAX_LEAVES);
        let start = Instant::now();
        // What an earlier call could not append. The work does not depend on it.
        let mut written = log.append();
        let mut appended = start;
        let mut now = start;
        // Not known before the first step, which is a single leaf.
        let mut leaf_time = STEP;
        let ended = loop {
            let done = tree.leaves();
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
            // Up to the leaf before the one that completes an entry for which there is no room.
            let room = log.reserve((step >> k) as usize + 1) as u64;
            let step = step.min((((done >> k) + room + 1) << k) - 1 - done);
            if step == 0 {
                return Err(no_room(log));
            }
            run(
                tree,
                self.subtree_height,
                &AtomicU64::new(done + step),
                &self.leaves,
                |root| log.push(root),
            );
            let before = now;
            now = Instant::now();
            leaf_time = ((now - before) / step as u32).max(Duration::from_nanos(1));
            if now - appended >= APPEND_INTERVAL {
                written = log.append();
                appended = now;
            }
        };
        if now > appended || written.is_ok() {
            written = log.append();
        }
        Ok((ended, written))
    }

    fn sync(&self) -> Result<(), Error> {
        match &self.file {
            Some(file) => Ok(file.sync()?),
            None => Ok(()),
        }
    }

    fn progress(&self) -> poet_worker_progress {
        let (done, total) = self.prove.hashes();
        poet_worker_progress {
            leaves: self.leaves.load(Relaxed),
            durable_leaves: self.file.as_ref().map_or(0, LogView::durable_entries)
                << self.subtree_height.get(),
            prove_hashes_done: done,
            prove_hashes_total: total,
            audited_leaves: self.audit.audited_leaves.load(Relaxed),
            repaired_entries: self.audit.repaired_entries.load(Relaxed),
            lost_leaves: self.audit.lost_leaves.load(Relaxed),
            mistakes: self.audit.mistakes.load(Relaxed),
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
        // If it fails, the proof is made from what is in memory.
        drop(state.log.append());
        let leaves = state.tree.leaves();
        if leaves < t as u64 {
            let text = format!("{leaves} leaves are too few: a proof shows {t}");
            return Err(Error::new(TooFewLeaves, text));
        }
        let (tree, threads) = (&state.tree, threads as usize);
        let proof = state
            .log
            .with_reader(|log| prove(tree, self.subtree_height, log, t, threads, &self.prove));
        proof::open(self.or_cancelled(proof)?, leaves)
    }

    /// A request to stop that has been answered counts no longer.
    pub(crate) fn or_cancelled<T, E: Into<Error>>(&self, result: Result<T, E>) -> Result<T, Error> {
        result.map_err(|why| {
            let why = why.into();
            if why.status == Cancelled {
                self.prove.stop().store(false, Relaxed);
            }
            why
        })
    }
}

/// Opens a worker. If the log directory has a log of the same work, statement and subtree height, the
/// worker goes on where it stands: at most 2^subtree_height - 1 leaves, and what a failure of the
/// power lost, are done again. No other worker and no other process can open that log meanwhile.
///
/// The last entry of the log is made once more, which takes as long as 2^subtree_height leaves and shows
/// whether the disk has changed the log. Some changed entries are put right, zeros at the end and what
/// cannot be put right are cut off: repaired_entries and lost_leaves of poet_worker_progress say so.
/// What the work itself got wrong is not found: for that there is poet_worker_audit.
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

/// Closes a worker. Everything is in the log, durable as far as poet_worker_sync made it, unless
/// poet_worker_advance says that the log cannot be written; then it is tried once more, and what is
/// missing is made again by the next worker.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, BUSY (another thread works with it: stop that first), PANIC.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_close(worker: *mut poet_worker) -> poet_status {
    call(|| {
        WORKERS.close_if(worker, |worker| match worker.lock() {
            Err(error) if error.status == Busy => Err(error),
            Err(_) => Ok(()),
            Ok(mut state) => {
                // What the disk does not take now is made again by the next worker.
                drop(state.log.append());
                Ok(())
            }
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
/// When the log cannot be written, because the disk is full, say, the work goes on all the same: the
/// leaves were added, advanced is written, and the call returns IO. The entries wait in memory, and every
/// call tries to write them, also one with leaves 0. When 2^18 entries wait (8 MiB: hours at
/// subtree_height 12, seconds at 0), the call returns BACKLOG_FULL and adds no leaf that would need
/// another one: wait a second before the next call. Nothing is lost as long as the worker is open.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, BUSY, POISONED, IO, BACKLOG_FULL, OUT_OF_RESOURCES, PANIC. After
/// OUT_OF_RESOURCES the leaves that were added stay. One thread at a time.
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
            let (ended, written) = worker.advance(leaves, time)?;
            advanced.write(ended);
            Ok(written?)
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

/// Makes the poet_worker_prove or poet_worker_audit that another thread is in return CANCELLED, within
/// about a millisecond of hashing, or a pass over the log; if none is, the next one returns it. So it does
/// not matter which of the two calls comes first. Since version 1.1 of the ABI.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_cancel(worker: *mut poet_worker) -> poet_status {
    call(|| {
        WORKERS.with(worker, |worker| {
            worker.prove.stop().store(true, Relaxed);
            Ok(())
        })
    })
}

/// Says what a poet_worker computes with, above all which backends were chosen. Since version 1.1 of the
/// ABI.
///
/// info_size: sizeof(poet_work_info) of the caller. info: receives the answer.
///
/// Returns OK, NULL_POINTER, STRUCT_SIZE, NOT_OPEN, POISONED, PANIC. Any thread, also during other calls.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_worker_describe(
    worker: *const poet_worker,
    info: *mut poet_work_info,
    info_size: usize,
) -> poet_status {
    call(|| {
        // SAFETY: the header asks the caller for it.
        let info = unsafe { Out::new(info, "info") }?;
        pointer::struct_size::<poet_work_info>(info_size, "poet_work_info")?;
        WORKERS.with(worker, |worker| {
            info.write(worker.info);
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
        let progress = unsafe {
            OutVersioned::new(
                progress,
                progress_size,
                PROGRESS_SIZE_1_0,
                "poet_worker_progress",
            )
        }?;
        WORKERS.with(worker, |worker| {
            progress.write(&worker.progress());
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
/// are not among that. Without a log directory it does nothing. Where nobody calls it,
/// poet_worker_advance does the same after every 2^17 entries.
///
/// IO: the system could not, and may have lost what was written since the last success. That counts as
/// unwritten then, durable_leaves does not rise, and this call returns IO until poet_worker_advance, which
/// keeps it in memory, has written it again.
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
/// It recomputes up to t subtrees of 2^subtree_height leaves and one pass over the log: see GUIDE.md for
/// how long that takes. poet_worker_cancel stops it. It does not need the disk to take what is missing in
/// the log.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (fewer than t),
/// IO, LOG_DAMAGED (poet_worker_audit can put it right), CANCELLED, OUT_OF_RESOURCES, PANIC. One thread at
/// a time.
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
