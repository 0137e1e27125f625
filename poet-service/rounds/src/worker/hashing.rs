//! What hashes and keeps the log: a thread and a file, behind traits that a simulation can
//! implement.

use std::{
    collections::BTreeMap,
    fs, io,
    num::NonZero,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::Receiver,
    },
    thread,
    time::Duration,
};

#[cfg(not(feature = "fault-injection"))]
use poet_engine::run;
use poet_engine::{
    LogRead, MAX_THREADS, Node, ProveError, RoundWork, Tree,
    audit::AuditError,
    file::{FileLog, LogMonitor, LogView, LogWriter},
};
use poet_files::{Access, create_directory, reason};
use poet_host::{WorkPlace, niceness};

#[cfg(feature = "fault-injection")]
use super::fault::run;
use super::{
    Job, WorkError,
    audit::{AuditThreads, Auditors, Audits, RoundAudit},
};
use crate::{
    clock::Clock,
    round_files::{AUDIT_FILE, FINDINGS_FILE, LOG_FILE, NEW_FINDINGS_FILE, SAMPLED_FILE},
    standby::{Standby, Task},
};

/// How long to wait for a disk that does not answer before the process ends without it.
const DISK_PATIENCE: Duration = Duration::from_secs(2);

/// Hashes rounds and keeps their logs.
///
/// The log of a round changes hands: [`Hashing::open_log`] returns it to the worker, which resumes
/// from it; [`Hashing::start`] takes it while leaves are added; and [`Running::finish`] returns it
/// for the proof.
pub trait Hashing: Send + Sync + 'static {
    /// The log of a round.
    type Log: LogRead + Send;
    /// A round that is being hashed.
    type Running: Running<Log = Self::Log>;

    /// Opens the log of a round, or creates it. May block.
    ///
    /// # Errors
    /// Fails if the log cannot be opened or created, or belongs to other work.
    fn open_log(&self, round: u64, work: &RoundWork<'_>) -> Result<Self::Log, WorkError>;

    /// Cuts a log to its first `entries` entries, durably. May block.
    ///
    /// # Errors
    /// Fails if the file cannot be cut.
    fn cut_log(&self, log: &mut Self::Log, entries: u64) -> Result<(), WorkError>;

    /// Makes room for the log of an open round, so that its start needs no sync. May block.
    ///
    /// # Errors
    /// Fails if the file cannot be created; opening the log tries again.
    fn prepare(&self, round: u64) -> Result<(), WorkError> {
        let _ = round;
        Ok(())
    }

    /// Returns the rounds of which there are files: a log, or what comes before one and is left of one.
    /// May block.
    fn rounds(&self) -> Vec<u64>;

    /// Returns whether a round has a log. May block.
    fn has_log(&self, round: u64) -> bool;

    /// Removes the files of a round, if there are any. May block.
    fn remove_log(&self, round: u64);

    /// Starts to add leaves to `tree`, and the roots of finished subtrees to `log`, which
    /// represents all leaves of `tree`.
    ///
    /// # Errors
    /// Fails if the system does not provide a thread.
    fn start(&self, job: &Job, tree: Tree, log: Self::Log) -> Result<Self::Running, WorkError>;

    /// Like [`Hashing::start`], but appends entries that another server has made instead of
    /// hashing, and audits them. Stops when all their senders are dropped. `log` must represent all
    /// leaves of `tree`.
    ///
    /// # Errors
    /// Fails if [`Hashing::start`] does.
    fn follow(
        &self,
        job: &Job,
        tree: Tree,
        log: Self::Log,
        entries: Receiver<Vec<Node>>,
    ) -> Result<Self::Running, WorkError>;

    /// Runs a call on other cores while the work continues, and passes it the number of threads
    /// that it may use there. It may block. Calls run one after the other.
    fn aside(&self, call: Box<dyn FnOnce(usize) + Send>);

    /// Records that the proof of a round is not valid, and why.
    fn bad_proof(&self, job: &Job, reason: &WorkError) {
        tracing::error!(round = job.round, %reason, "the proof is not valid");
    }

    /// After a proof that was not valid because of `reason`: looks for the error in the `log` of
    /// the round and repairs it. Returns the tree that the log then represents, which may have
    /// fewer leaves. May block.
    ///
    /// # Errors
    /// Fails if the log cannot be read or written, or if `stop` is set.
    fn repair(
        &self,
        job: &Job,
        reason: &WorkError,
        tree: Tree,
        log: &mut Self::Log,
        stop: &AtomicBool,
    ) -> Result<Tree, WorkError>;

    /// Removes the `log` of a round whose proof is published. May audit the rest of it first, in
    /// the background. May block.
    fn retire(&self, job: &Job, tree: Tree, log: Self::Log) {
        drop((tree, log));
        self.remove_log(job.round);
    }
}

/// A round that is being hashed. Without a target the work never ends; dropping this stops it, and
/// what is not durable may be lost.
pub trait Running: Send {
    /// The log that is written.
    type Log;

    /// Leaves so far. The count keeps growing.
    fn leaves(&self) -> Arc<AtomicU64>;

    /// A view of the log as far as it is written.
    fn log(&self) -> LogView;

    /// The state of the work.
    fn status(&mut self) -> Status;

    /// Stops the work as soon as there are `target` leaves.
    fn set_target(&mut self, target: u64);

    /// Waits until the work has stopped and everything is in the log and durable, but not for ever
    /// if the disk does not answer. Then removes what auditors have found to be wrong: the tree may
    /// have fewer leaves. May block.
    ///
    /// # Errors
    /// Fails if the log could not be written, or the hashing failed.
    fn finish(self) -> Result<(Tree, Self::Log), WorkError>;
}

/// The state of the work on a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Entries of the log that would survive a power failure now.
    pub durable_entries: u64,
    /// Why entries cannot be written at the moment.
    pub log_error: Option<String>,
    /// Whether the work has stopped.
    pub stopped: bool,
    /// The first wrong entry, if one was found: the work must be stopped, finished and started
    /// again.
    pub wrong_entry: Option<u64>,
    /// Whether the auditors have ended unexpectedly: the work must be started again, with new ones.
    pub auditors_failed: bool,
}

/// Hashes on a dedicated thread, with logs in files, and audits them.
pub struct HashingThread {
    /// See [`ThreadId`].
    id_file: PathBuf,
    rounds_dir: PathBuf,
    place: WorkPlace,
    thread: Standby,
    log_thread: Standby,
    audits: Audits,
    audit_threads: AuditThreads,
    aside: Standby,
    /// How many repairs of a round have found nothing.
    repairs: Mutex<BTreeMap<u64, u32>>,
}

impl HashingThread {
    /// Keeps its logs below `rounds_dir`, and the id of the hashing thread in `id_file` during the
    /// work. The thread runs at `place`.
    ///
    /// # Errors
    /// Fails if the system does not provide threads.
    pub fn new(
        id_file: PathBuf,
        rounds_dir: PathBuf,
        audits: Audits,
        place: WorkPlace,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let apart = place.is_apart();
        let lower = move || {
            if !apart && let Err(error) = niceness::set(niceness::LOWEST_PRIORITY) {
                tracing::warn!(
                    error = reason(&error),
                    "cannot lower the priority of proofs of the work so far"
                );
            }
        };
        Ok(Self {
            id_file,
            rounds_dir,
            audit_threads: AuditThreads::start(clock, apart, audits.mode())?,
            aside: Standby::start("aside", lower)?,
            place,
            thread: Standby::start("hash", || {})?,
            log_thread: Standby::start("log", || {})?,
            audits,
            repairs: Mutex::default(),
        })
    }

    fn folder(&self, round: u64) -> PathBuf {
        self.rounds_dir.join(round.to_string())
    }

    /// Runs `add` on the hashing thread: it adds leaves to `tree`, counts them and pushes the roots
    /// of finished subtrees to the writer, until it reaches the target.
    fn run(
        &self,
        job: &Job,
        mut tree: Tree,
        log: FileLog,
        follows: bool,
        add: impl FnOnce(&mut Tree, &AtomicU64, &AtomicU64, &mut LogWriter) + Send + 'static,
    ) -> Result<RunningThread, WorkError> {
        let leaves = Arc::new(AtomicU64::new(tree.leaves()));
        let target = Arc::new(AtomicU64::new(u64::MAX));
        let (view, work) = (log.view(), *tree.work());
        let (mut writer, write) = LogWriter::new(log)?;
        // It ends with the writer.
        drop(self.log_thread.run(write));
        let monitor = writer.monitor();
        let log = view.clone();
        let thread = self.thread.run({
            let (leaves, target) = (Arc::clone(&leaves), Arc::clone(&target));
            move || {
                // The writer must outlive a panic: its entries then reach the log.
                let added = panic::catch_unwind(AssertUnwindSafe(|| {
                    add(&mut tree, &target, &leaves, &mut writer);
                    tree
                }));
                (added.ok(), writer)
            }
        });
        let auditors = Auditors::start(
            &self.audit_threads,
            &self.audits,
            job,
            &work,
            view,
            &self.folder(job.round),
        );
        Ok(RunningThread {
            leaves,
            log,
            target: Target(target, monitor),
            thread,
            auditors,
            follows,
        })
    }
}

impl Hashing for HashingThread {
    type Log = FileLog;
    type Running = RunningThread;

    fn prepare(&self, round: u64) -> Result<(), WorkError> {
        let path = self.folder(round);
        create_directory(&path, Access::Private).map_err(|cause| WorkError::Folder { path, cause })
    }

    fn open_log(&self, round: u64, work: &RoundWork<'_>) -> Result<FileLog, WorkError> {
        self.prepare(round)?;
        let folder = self.folder(round);
        self.audits.remember(round, &folder);
        Ok(FileLog::open(&folder.join(LOG_FILE), work)?)
    }

    fn cut_log(&self, log: &mut FileLog, entries: u64) -> Result<(), WorkError> {
        Ok(log.cut(entries)?)
    }

    fn rounds(&self) -> Vec<u64> {
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        match fs::read_dir(&self.rounds_dir) {
            Ok(entries) => entries.flatten().filter_map(number).collect(),
            // Without the folder, there are no files.
            Err(_) => Vec::new(),
        }
    }

    fn has_log(&self, round: u64) -> bool {
        self.folder(round).join(LOG_FILE).exists()
    }

    fn remove_log(&self, round: u64) {
        remove_folder(&self.folder(round));
    }

    fn start(&self, job: &Job, tree: Tree, log: FileLog) -> Result<RunningThread, WorkError> {
        let subtree_height = job.execution.subtree_height;
        let (id_file, place) = (self.id_file.clone(), self.place.clone());
        self.run(
            job,
            tree,
            log,
            false,
            move |tree, target, leaves, writer| {
                let _core = place.enter();
                let _id = ThreadId::write(&id_file);
                run(tree, subtree_height, target, leaves, |root| {
                    writer.push(root);
                });
            },
        )
    }

    fn follow(
        &self,
        job: &Job,
        tree: Tree,
        log: FileLog,
        entries: Receiver<Vec<Node>>,
    ) -> Result<RunningThread, WorkError> {
        let (execution, work) = (job.execution.clone(), *tree.work());
        self.run(job, tree, log, true, move |tree, _, leaves, writer| {
            let round = execution.round_work(&work);
            for entry in entries.into_iter().flatten() {
                round.add_entry(tree, entry);
                leaves.store(tree.leaves(), Relaxed);
                writer.push(entry);
            }
        })
    }

    fn aside(&self, call: Box<dyn FnOnce(usize) + Send>) {
        let apart = self.place.is_apart();
        // The call reports its own result.
        drop(self.aside.run(move || {
            let cores = thread::available_parallelism().map_or(1, NonZero::get);
            // If the hashing thread has a dedicated core, `cores` does not include it.
            let others = if apart { cores } else { cores - 1 };
            call(others.clamp(1, MAX_THREADS));
        }));
    }

    fn bad_proof(&self, job: &Job, reason: &WorkError) {
        (self.audits).bad_proof(job.round, &self.folder(job.round), reason);
    }

    fn repair(
        &self,
        job: &Job,
        reason: &WorkError,
        tree: Tree,
        log: &mut FileLog,
        stop: &AtomicBool,
    ) -> Result<Tree, WorkError> {
        let folder = self.folder(job.round);
        let work = *tree.work();
        let mut search = RoundAudit::new(&self.audits, job, &work, log.view(), None);
        let shown = match reason {
            WorkError::Prove(ProveError::WrongEntry { entry }) => Some(*entry),
            _ => None,
        };
        if search.search(&tree, shown, stop)? {
            return Ok(search.go_back(tree, log)?);
        }
        drop(search);
        let count = {
            let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
            let count = repairs.entry(job.round).or_default();
            *count += 1;
            *count
        };
        if !(2..=3).contains(&count) {
            // The log looks consistent. Perhaps only the proof was wrong.
            return Ok(tree);
        }
        // The error may be in what was taken on trust. If this file remains, the audit notices.
        drop(fs::remove_file(folder.join(SAMPLED_FILE)));
        let roots = folder.join(AUDIT_FILE);
        // First, compares what was audited and recomputes the rest: that suffices, unless audits
        // were wrong. After that, once only, since it may take days, recomputes everything.
        if count == 3 {
            match fs::remove_file(&roots) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let error = poet_files::reason(&error);
                    tracing::warn!(error, path = %roots.display(), "cannot begin an audit again");
                }
                _ => {}
            }
        }
        tracing::error!(
            round = job.round,
            "ALARM: auditing the whole log: its proof is not valid, and nothing else explains why"
        );
        let mut audit = RoundAudit::new(&self.audits, job, &work, log.view(), Some(&roots));
        #[cfg(feature = "fault-injection")]
        super::fault::audit(stop);
        let audited = audit.all(stop);
        if matches!(audited, Err(AuditError::Stopped)) {
            // The next repair continues from what is audited by now.
            let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
            repairs.insert(job.round, 1);
        }
        audited?;
        Ok(audit.settle(tree, log)?)
    }

    fn retire(&self, job: &Job, tree: Tree, log: FileLog) {
        let folder = self.folder(job.round);
        let audit = RoundAudit::in_folder(&self.audits, job, tree.work(), log.view(), &folder);
        drop(log);
        match audit {
            Some(audit) => {
                let remove = move || remove_folder(&folder);
                self.audit_threads.audit_late(audit, tree, remove);
            }
            None => remove_folder(&folder),
        }
    }
}

/// Removes the log of a round and the files next to it.
fn remove_folder(folder: &Path) {
    for file in [
        AUDIT_FILE,
        SAMPLED_FILE,
        FINDINGS_FILE,
        NEW_FINDINGS_FILE,
        LOG_FILE,
    ] {
        let log = folder.join(file);
        match fs::remove_file(&log) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let error = reason(&error);
                tracing::warn!(error, log = %log.display(), "cannot remove an old log");
            }
        }
    }
    // Fails if the folder holds anything else.
    drop(fs::remove_dir(folder));
}

/// The hashing thread while it works on a round.
#[derive(Debug)]
pub struct RunningThread {
    leaves: Arc<AtomicU64>,
    log: LogView,
    target: Target,
    thread: Task<(Option<Tree>, LogWriter)>,
    auditors: Option<Auditors>,
    /// Whether the entries are another server's.
    follows: bool,
}

impl Running for RunningThread {
    type Log = FileLog;

    fn leaves(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.leaves)
    }

    fn log(&self) -> LogView {
        self.log.clone()
    }

    fn status(&mut self) -> Status {
        Status {
            durable_entries: self.target.1.durable_entries(),
            log_error: self.target.1.error(),
            stopped: self.thread.is_finished(),
            wrong_entry: self.auditors.as_ref().and_then(Auditors::wrong_entry),
            auditors_failed: self.auditors.as_ref().is_some_and(Auditors::failed),
        }
    }

    fn set_target(&mut self, target: u64) {
        self.target.0.store(target, Relaxed);
    }

    fn finish(self) -> Result<(Tree, FileLog), WorkError> {
        let Target(_, monitor) = &self.target;
        // What a full disk has not taken by now is recomputed after a restart.
        monitor.give_up();
        let (tree, writer) = self.thread.join().ok_or(WorkError::Hashing)?;
        let log = writer.finish_within(DISK_PATIENCE);
        // Without auditors, or if they have failed, the proof shows whether something is wrong.
        let audit = (self.auditors).and_then(|auditors| auditors.stop(DISK_PATIENCE));
        let (mut log, tree) = (log?, tree.ok_or(WorkError::Hashing)?);
        let tree = match audit {
            Some(mut audit) => {
                audit.set_follows(self.follows);
                audit.settle(tree, &mut log)?
            }
            None => tree,
        };
        Ok((tree, log))
    }
}

/// The number of leaves at which the hashing thread stops, and the writer that it may be waiting
/// for.
#[derive(Debug)]
struct Target(Arc<AtomicU64>, LogMonitor);

impl Drop for Target {
    fn drop(&mut self) {
        // Nobody waits for the thread any more.
        self.0.store(0, Relaxed);
        self.1.give_up();
    }
}

/// The file with the id of the hashing thread, for tools that pin or watch it. It exists while the
/// thread runs.
struct ThreadId<'a>(&'a Path);

impl<'a> ThreadId<'a> {
    fn write(path: &'a Path) -> Self {
        #[cfg(target_os = "linux")]
        {
            let id = rustix::thread::gettid().as_raw_nonzero().to_string();
            if let Err(error) = fs::write(path, id) {
                let error = reason(&error);
                tracing::warn!(error, path = %path.display(), "cannot write the thread's id");
            }
        }
        Self(path)
    }
}

impl Drop for ThreadId<'_> {
    fn drop(&mut self) {
        // If it could not be written, there is none to remove.
        drop(fs::remove_file(self.0));
    }
}
