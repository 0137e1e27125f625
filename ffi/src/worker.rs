//! `poet_worker`: the sequential work on a statement, its log, and its proof.
//!
//! The work loop runs in steps of about a millisecond, between which it checks the clock and for a
//! request to stop; both cost nothing compared with a step. Finished subtree roots wait in memory
//! until they are appended to the log: at the end of each call, and about every 50 ms within one.
//! No thread is started for that. Making them durable, which can take long, is a separate call that
//! another thread may make while the work goes on. Until then they stay in memory, too: what the
//! disk does not take, or a failed sync loses, is written again ([`DurableLog`]).

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
use crate::poet_status;
use crate::poet_status::{BacklogFull, Busy, Cancelled, OutOfResources, Poisoned, TooFewLeaves};
use crate::pointer::{self, Out, OutVersioned};
use crate::proof::{self, POET_T, poet_proof};
use crate::status::Error;
use crate::work::{info, poet_work_info, statement};

/// The greatest subtree height.
pub const POET_MAX_SUBTREE_HEIGHT: u32 = 24;

const _: () = assert!(POET_MAX_SUBTREE_HEIGHT == SubtreeHeight::MAX.get());

/// The sequential work on a statement. Only one thread at a time may use a worker, except for
/// functions that may be called during others; a second thread gets BUSY.
pub struct poet_worker {
    _private: [u8; 0],
}

/// How to open a worker. Set everything to zero, then struct_size and the fields you need: zero is
/// a valid value for every field.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_worker_options {
    /// sizeof(poet_worker_options).
    pub struct_size: usize,
    /// What the work is bound to. Not used after the call. May be NULL if it is empty.
    pub statement: *const u8,
    /// Its length, at most POET_MAX_STATEMENT_BYTES.
    pub statement_bytes: usize,
    /// An existing directory for the log, as UTF-8. The log is the file tree.log in it; if the file
    /// exists, the work goes on from its end. NULL: the log is kept in memory only.
    pub log_directory: *const c_char,
    /// The backend, as for poet_work_open.
    pub backend: *const c_char,
    /// A poet_work_function.
    pub work_function: u32,
    /// The number of hash invocations for a label; 0 means POET_LABEL_DEPTH.
    pub depth: u32,
    /// The log keeps 32 bytes for each 2^subtree_height leaves, and a proof recomputes up to 150
    /// times as many. Up to POET_MAX_SUBTREE_HEIGHT; 12 suits a round of two weeks, 0 one of minutes.
    pub subtree_height: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// The progress of a worker.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_worker_progress {
    /// The number of leaves done.
    pub leaves: u64,
    /// The number of leaves that would survive a power failure; 0 without a log directory.
    pub durable_leaves: u64,
    /// Hashes done and to do, approximately, of the current or last proof; 0 before the first.
    pub prove_hashes_done: u64,
    /// See prove_hashes_done.
    pub prove_hashes_total: u64,
    /// Leaves that the current or last poet_worker_audit has found right or repaired. This field
    /// and the following exist since version 1.1 of the ABI.
    pub audited_leaves: u64,
    /// Entries of the log that the disk or memory had changed, and that were repaired when the
    /// worker was opened or later.
    pub repaired_entries: u64,
    /// Leaves that were taken back when the worker was opened or later, because their entries were
    /// not what the work makes; they are made again.
    pub lost_leaves: u64,
    /// How often poet_worker_audit found that this machine computes wrongly: the work itself, or
    /// the audit. The machine should be replaced.
    pub mistakes: u64,
}

/// The size of poet_worker_progress in version 1.0 of the ABI.
const PROGRESS_SIZE_1_0: usize = 32;

/// Why poet_worker_advance returned.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum poet_advanced {
    /// All requested leaves are done (or the tree has as many as it may have, 2^56).
    Leaves = 1,
    /// The time was up.
    Time = 2,
    /// poet_worker_stop was called.
    Stopped = 3,
}

/// How long the work loop runs without checking the clock.
const STEP: Duration = Duration::from_millis(1);

/// The most leaves in a step, for work functions of small depth.
const MAX_STEP_LEAVES: u64 = 4096;

/// How long finished entries may wait in memory.
const APPEND_INTERVAL: Duration = Duration::from_millis(50);

/// Entries that may wait for the disk: 8 MiB, as in the server.
const BACKLOG_ENTRIES: usize = 1 << 18;

/// Entries that may be in the file without a sync by the caller. After that many the work makes one
/// itself.
const UNSYNCED_ENTRIES: usize = BACKLOG_ENTRIES / 2;

pub(crate) struct Worker {
    info: poet_work_info,
    pub(crate) subtree_height: SubtreeHeight,
    pub(crate) leaves: AtomicU64,
    stop: AtomicBool,
    /// Also holds the request to stop an audit.
    pub(crate) prove: ProveProgress,
    pub(crate) audit: AuditProgress,
    /// The log file, for syncing it.
    file: Option<LogView>,
    state: Mutex<State>,
}

/// What was found wrong and repaired.
#[derive(Default)]
pub(crate) struct AuditProgress {
    pub(crate) audited_leaves: AtomicU64,
    pub(crate) repaired_entries: AtomicU64,
    pub(crate) lost_leaves: AtomicU64,
    pub(crate) mistakes: AtomicU64,
}

/// The state that only one thread at a time may use.
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

/// Makes room for an entry in a log that had none, or returns why it takes no more.
fn make_room(log: &mut Log) -> Result<(), Error> {
    log.append().map_err(|why| {
        let text = format!("{BACKLOG_ENTRIES} entries wait for the log: {why}");
        Error::new(BacklogFull, text)
    })?;
    if log.reserve(1) == 0 {
        let text = "the system refused memory for the log";
        return Err(Error::new(OutOfResources, text));
    }
    Ok(())
}

impl Log {
    /// Reserves room for up to `count` entries, and returns for how many there is room.
    fn reserve(&mut self, count: usize) -> usize {
        match self {
            Self::Memory(log) => log.try_reserve(count).map_or(0, |()| count),
            Self::File(log) => log.reserve(count),
        }
    }

    /// Adds an entry for which room is reserved.
    pub(crate) fn push(&mut self, entry: Node) {
        match self {
            Self::Memory(log) => log.push(entry),
            Self::File(log) => {
                let pushed = log.push(entry);
                debug_assert!(pushed.is_ok(), "there is room");
            }
        }
    }

    /// Writes the entries that are not yet in the file.
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
            info: info(&selection, &work),
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

    /// Adds leaves. Returns why it ended, and the result of the last write to the log.
    fn advance(
        &self,
        leaves: u64,
        time: Option<Duration>,
    ) -> Result<(poet_advanced, Result<(), LogError>), Error> {
        let State { tree, log, .. } = &mut *self.lock()?;
        let k = self.subtree_height.get();
        let goal = tree.leaves().saturating_add(leaves).min(MAX_LEAVES);
        let start = Instant::now();
        // Entries that an earlier call could not append. The work does not depend on them.
        let mut written = log.append();
        let mut appended = start;
        let mut now = start;
        // Unknown before the first step, which is a single leaf.
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
            // Ends at the leaf before the one that completes an entry without room.
            let room = log.reserve((step >> k) as usize + 1) as u64;
            let step = step.min((((done >> k) + room + 1) << k) - 1 - done);
            if step == 0 {
                make_room(log)?;
                continue;
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
        // If this fails, the proof is made from memory.
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

    /// Resets a request to stop once it has been answered.
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

/// Opens a worker. If the log directory has a log of the same work, statement and subtree height,
/// the worker goes on from its end: at most 2^subtree_height - 1 leaves, and those that a power
/// failure lost, are made again. No other worker and no other process can open that log meanwhile.
///
/// Recomputes the last entry of the log, which takes as long as 2^subtree_height leaves and shows
/// whether the disk has changed the log. Repairs some changed entries; cuts off zeros at the end
/// and what cannot be repaired. repaired_entries and lost_leaves of poet_worker_progress count
/// them. Does not find errors of the work itself; poet_worker_audit does.
///
/// options: not used after the call, nor is what it points to.
/// worker: receives the handle; the caller must close it with poet_worker_close.
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
        // SAFETY: the header requires it of the caller.
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
/// poet_worker_advance has reported that the log cannot be written; then closing tries once more,
/// and the next worker makes the missing leaves again.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, BUSY (another thread is using it: stop that first), PANIC.
/// Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_close(worker: *mut poet_worker) -> poet_status {
    call(|| {
        WORKERS.close_if(worker, |worker| match worker.lock() {
            Err(error) if error.status == Busy => Err(error),
            Err(_) => Ok(()),
            Ok(mut state) => {
                // The next worker makes again what the disk does not take now.
                drop(state.log.append());
                Ok(())
            }
        })
    })
}

/// Does the sequential work: adds leaves until the given number is reached, the time is up, or
/// another thread calls poet_worker_stop, whichever comes first. The calling thread only hashes,
/// and appends to the log about every 50 ms and at the end. It returns at most one leaf late, or,
/// after a stop, about a millisecond. The caller may bind the thread to a core.
///
/// leaves: how many to add at most; UINT64_MAX for no limit.
/// time_us: how long to work, in microseconds; UINT64_MAX for no limit.
/// advanced: receives why it returned, a poet_advanced. If several reasons apply, a stop takes precedence
/// over leaves, and leaves over time.
///
/// If the log cannot be written, for example because the disk is full, the work goes on: the leaves
/// are added, advanced is written, and the call returns IO. The entries wait in memory, and every
/// call tries to write them, even one with leaves 0. When 2^18 entries wait (8 MiB: hours at
/// subtree_height 12, seconds at 0), the call returns BACKLOG_FULL and adds no leaf that would
/// complete another one: wait a second before the next call. Nothing is lost as long as the worker
/// is open.
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
        // SAFETY: the header requires it of the caller.
        let advanced = unsafe { Out::new(advanced, "advanced") }?;
        let time = (time_us != u64::MAX).then(|| Duration::from_micros(time_us));
        WORKERS.with(worker, |worker| {
            let (ended, written) = worker.advance(leaves, time)?;
            advanced.write(ended);
            Ok(written?)
        })
    })
}

/// Makes a poet_worker_advance running on another thread return; if none is running, the next one
/// returns at once. So the order of the two calls does not matter.
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

/// Makes a poet_worker_prove or poet_worker_audit running on another thread return CANCELLED,
/// within about a millisecond of hashing, or a pass over the log; if none is running, the next one
/// returns it. So the order of the two calls does not matter. Since version 1.1 of the ABI.
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

/// Describes how a poet_worker computes, above all which backends it uses. Since version 1.1 of the
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
        // SAFETY: the header requires it of the caller.
        let info = unsafe { Out::new(info, "info") }?;
        pointer::struct_size::<poet_work_info>(info_size, "poet_work_info")?;
        WORKERS.with(worker, |worker| {
            info.write(worker.info);
            Ok(())
        })
    })
}

/// Reads the progress of a worker.
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
        // SAFETY: the header requires it of the caller.
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

/// Reads the number of leaves done.
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
        // SAFETY: the header requires it of the caller.
        let leaves = unsafe { Out::new(leaves, "leaves") }?;
        WORKERS.with(worker, |worker| {
            leaves.write(worker.leaves.load(Relaxed));
            Ok(())
        })
    })
}

/// Makes the log file durable. After it has returned OK, everything that was appended before the
/// call survives a power failure. That excludes up to 50 ms of a running poet_worker_advance.
/// Without a log directory it does nothing. If it is never called, poet_worker_advance syncs after
/// every 2^17 entries.
///
/// IO: the sync failed, and may have lost what was written since the last success. That then counts
/// as unwritten, durable_leaves does not rise, and this call returns IO until poet_worker_advance,
/// which keeps it in memory, has written it again.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, POISONED, IO, PANIC. Any thread, also during other calls; it
/// may take long, so call it from a separate thread.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_sync(worker: *const poet_worker) -> poet_status {
    call(|| WORKERS.with(worker, Worker::sync))
}

/// Computes the root of the current tree.
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
        // SAFETY: the header requires it of the caller.
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
/// threads: how many threads share the work, 1 to POET_MAX_THREADS, including the calling one; the
/// others end before the call returns.
/// proof: receives the handle; the caller must close it with poet_proof_close. It is independent of the
/// worker.
///
/// Recomputes up to t subtrees of 2^subtree_height leaves and makes one pass over the log; GUIDE.md
/// says how long that takes. poet_worker_cancel stops it. It works even if the disk does not take
/// the entries missing in the log.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, TOO_FEW_LEAVES (fewer than t),
/// IO, LOG_DAMAGED (poet_worker_audit can repair it), CANCELLED, OUT_OF_RESOURCES, PANIC. One
/// thread at a time.
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
        // SAFETY: the header requires it of the caller.
        let proof = unsafe { Out::new(proof, "proof") }?;
        WORKERS.with(worker, |worker| {
            proof.write(worker.prove(t, threads)?);
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As when the disk takes entries again after the backlog has filled up during a call.
    #[test]
    fn a_full_backlog_that_can_be_written_has_room_again() {
        let selection = select(poet_engine::WorkFunction::Sha256, None).unwrap();
        let work = work(&selection, 1).unwrap();
        let round = RoundWork::new(&work, b"", SubtreeHeight::new(0).unwrap());
        let file = FileLog::in_file(tempfile::tempfile().unwrap(), &round).unwrap();
        let mut log = Log::File(DurableLog::new(file, BACKLOG_ENTRIES).unwrap());
        assert_eq!(log.reserve(usize::MAX), BACKLOG_ENTRIES);
        for _ in 0..BACKLOG_ENTRIES {
            log.push([1; 32]);
        }
        assert_eq!(log.reserve(1), 0);
        make_room(&mut log).unwrap();
        assert_eq!(log.reserve(1), 1);
    }
}
