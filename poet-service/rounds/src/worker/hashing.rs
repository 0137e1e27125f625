//! What does the hashing and keeps the log: a thread and a file, behind traits that a simulation
//! can stand in for.

use std::{
    collections::BTreeMap,
    fs, io,
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

#[cfg(not(feature = "fault-injection"))]
use poet_engine::run;
use poet_engine::{
    LogRead, RoundWork, Tree,
    file::{FileLog, LogMonitor, LogWriter},
};
use poet_files::{Access, create_directory};
use poet_host::WorkPlace;

#[cfg(feature = "fault-injection")]
use super::fault::run;
use super::{
    Job, WorkError,
    audit::{AuditThread, Audits, RoundAudit},
};
use crate::round_files::{AUDIT_FILE, FINDINGS_FILE, LOG_FILE, NEW_FINDINGS_FILE, SAMPLED_FILE};

/// How long a disk may take that does not answer, before the process ends without it.
const DISK_PATIENCE: Duration = Duration::from_secs(3);

/// Hashes rounds and keeps their logs.
///
/// The log of a round goes from hand to hand: [`Hashing::open_log`] gives it to the worker, which
/// resumes from it; [`Hashing::start`] takes it for as long as leaves are added; and
/// [`Running::finish`] gives it back, for the proof.
pub trait Hashing: Send + Sync + 'static {
    /// The log of a round.
    type Log: LogRead + Send;
    /// A round that is being hashed.
    type Running: Running<Log = Self::Log>;

    /// Opens the log of a round, or creates it. May block.
    ///
    /// # Errors
    /// When there cannot be one, or the one that is there belongs to other work.
    fn open_log(&self, round: u64, work: &RoundWork<'_>) -> Result<Self::Log, WorkError>;

    /// Cuts a log to its first `entries` entries, durably. May block.
    ///
    /// # Errors
    /// When the system cannot.
    fn cut_log(&self, log: &mut Self::Log, entries: u64) -> Result<(), WorkError>;

    /// The rounds that have a log. May block.
    fn logs(&self) -> Vec<u64>;

    /// Removes the log of a round, if there is one. May block.
    fn remove_log(&self, round: u64);

    /// Starts to add leaves to `tree` and the roots of finished subtrees to `log`, which stands for
    /// all leaves of `tree`.
    ///
    /// # Errors
    /// When the system has no thread to give.
    fn start(&self, job: &Job, tree: Tree, log: Self::Log) -> Result<Self::Running, WorkError>;

    /// Takes note that the proof of a round is not valid: `reason` says why.
    fn bad_proof(&self, job: &Job, reason: &WorkError) {
        tracing::error!(round = job.round, %reason, "the proof is not valid");
    }

    /// After a proof that was not valid: audits the whole `log` of a round, with all threads, and
    /// repairs it. Returns the tree that it stands for then, which can have fewer leaves. May block.
    ///
    /// # Errors
    /// When the log cannot be read or written.
    fn repair(&self, job: &Job, tree: Tree, log: &mut Self::Log) -> Result<Tree, WorkError>;
}

/// A round that is being hashed. Without a target the work goes on for ever; when this is dropped
/// it stops, and what was not durable may be lost.
pub trait Running: Send {
    /// The log that is written.
    type Log;

    /// Leaves so far; goes on counting.
    fn leaves(&self) -> Arc<AtomicU64>;

    /// How the work stands.
    fn status(&mut self) -> Status;

    /// Has the work stop as soon as there are `target` leaves.
    fn set_target(&mut self, target: u64);

    /// Waits until the work has stopped and everything is in the log and durable; not for ever, if the
    /// disk does not answer. Where the work is
    /// audited, and was not interrupted by a target of 0, what was wrong is then taken back: the tree
    /// can have fewer leaves. May block.
    ///
    /// # Errors
    /// When the log could not be written, or the hashing failed.
    fn finish(self) -> Result<(Tree, Self::Log), WorkError>;
}

/// How the work on a round stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Entries of the log that would survive a power failure now.
    pub durable_entries: u64,
    /// Why entries cannot be written at the moment.
    pub log_error: Option<String>,
    /// Whether no leaves are added any more.
    pub stopped: bool,
    /// The entry from which on the work was wrong: it has to be stopped, finished and started again.
    pub wrong_entry: Option<u64>,
}

/// Hashing in a thread that does nothing else, with logs in files and auditors behind it.
#[derive(Debug)]
pub struct HashingThread {
    /// See [`ThreadId`].
    id_file: PathBuf,
    rounds_dir: PathBuf,
    place: WorkPlace,
    audits: Audits,
    /// How often rounds had to be repaired.
    repairs: Mutex<BTreeMap<u64, u32>>,
}

impl HashingThread {
    /// Keeps its logs below `rounds_dir`, and the id of the hashing thread in `id_file` while there
    /// is one. The thread runs at `place`.
    pub fn new(id_file: PathBuf, rounds_dir: PathBuf, audits: Audits, place: WorkPlace) -> Self {
        Self {
            id_file,
            rounds_dir,
            audits,
            repairs: Mutex::default(),
            place,
        }
    }

    fn folder(&self, round: u64) -> PathBuf {
        self.rounds_dir.join(round.to_string())
    }
}

impl Hashing for HashingThread {
    type Log = FileLog;
    type Running = RunningThread;

    fn open_log(&self, round: u64, work: &RoundWork<'_>) -> Result<FileLog, WorkError> {
        let folder = self.folder(round);
        create_directory(&folder, Access::Private).map_err(|source| WorkError::Folder {
            path: folder.clone(),
            source,
        })?;
        self.audits.remember(round, &folder);
        Ok(FileLog::open(&folder.join(LOG_FILE), work)?)
    }

    fn cut_log(&self, log: &mut FileLog, entries: u64) -> Result<(), WorkError> {
        Ok(log.cut(entries)?)
    }

    fn logs(&self) -> Vec<u64> {
        let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
        match fs::read_dir(&self.rounds_dir) {
            Ok(entries) => entries.flatten().filter_map(number).collect(),
            // Without the folder, there are none.
            Err(_) => Vec::new(),
        }
    }

    fn remove_log(&self, round: u64) {
        let folder = self.folder(round);
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
                    tracing::warn!(%error, log = %log.display(), "cannot remove an old log");
                }
            }
        }
        // Only if nothing else is in there.
        drop(fs::remove_dir(&folder));
    }

    fn start(&self, job: &Job, mut tree: Tree, log: FileLog) -> Result<RunningThread, WorkError> {
        let leaves = Arc::new(AtomicU64::new(tree.leaves()));
        let target = Arc::new(AtomicU64::new(u64::MAX));
        let subtree_height = job.execution.subtree_height;
        let (view, work) = (log.view(), *tree.work());
        let mut writer = LogWriter::spawn(log)?;
        let monitor = writer.monitor();
        let thread = thread::Builder::new()
            .name("hash".to_owned())
            .spawn({
                let (leaves, target) = (Arc::clone(&leaves), Arc::clone(&target));
                let (id_file, place) = (self.id_file.clone(), self.place.clone());
                move || {
                    let _core = place.enter();
                    let _id = ThreadId::write(&id_file);
                    // The writer must outlive a panic: what it has is then in the log.
                    let hashed = panic::catch_unwind(AssertUnwindSafe(|| {
                        run(&mut tree, subtree_height, &target, &leaves, |root| {
                            writer.push(root);
                        });
                        tree
                    }));
                    (hashed.ok(), writer)
                }
            })
            .map_err(WorkError::Thread)?;
        let folder = self.folder(job.round);
        Ok(RunningThread {
            leaves,
            target: Target(target, monitor),
            thread,
            auditors: AuditThread::start(&self.audits, job, &work, view, &folder),
        })
    }

    fn bad_proof(&self, job: &Job, reason: &WorkError) {
        (self.audits).bad_proof(job.round, &self.folder(job.round), reason);
    }

    fn repair(&self, job: &Job, tree: Tree, log: &mut FileLog) -> Result<Tree, WorkError> {
        let folder = self.folder(job.round);
        let roots = folder.join(AUDIT_FILE);
        // What was taken on trust may be what is wrong. If it stays there, that is noticed.
        drop(fs::remove_file(folder.join(SAMPLED_FILE)));
        let count = {
            let mut repairs = self.repairs.lock().unwrap_or_else(PoisonError::into_inner);
            let count = repairs.entry(job.round).or_default();
            *count += 1;
            *count
        };
        // What was audited is compared, the rest recomputed: that is all, unless audits were wrong.
        // So the second time, and only then, since it may take hours, everything is recomputed.
        if count == 2 {
            match fs::remove_file(&roots) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %roots.display(), "cannot begin an audit anew");
                }
                _ => {}
            }
        }
        tracing::info!(round = job.round, "auditing the whole log");
        let mut audit = RoundAudit::new(&self.audits, job, tree.work(), log.view(), Some(&roots));
        audit.all()?;
        audit.settle(tree, log)?;
        Ok(audit.tree().clone())
    }
}

/// The hashing thread at work on a round.
#[derive(Debug)]
pub struct RunningThread {
    leaves: Arc<AtomicU64>,
    target: Target,
    thread: JoinHandle<(Option<Tree>, LogWriter)>,
    auditors: Option<AuditThread>,
}

impl Running for RunningThread {
    type Log = FileLog;

    fn leaves(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.leaves)
    }

    fn status(&mut self) -> Status {
        Status {
            durable_entries: self.target.1.durable_entries(),
            log_error: self.target.1.error(),
            stopped: self.thread.is_finished(),
            wrong_entry: self.auditors.as_ref().and_then(AuditThread::wrong_entry),
        }
    }

    fn set_target(&mut self, target: u64) {
        self.target.0.store(target, Relaxed);
    }

    fn finish(self) -> Result<(Tree, FileLog), WorkError> {
        let Target(target, monitor) = &self.target;
        let interrupted = target.load(Relaxed) == 0;
        // What a full disk has not taken by now is made again after a restart.
        monitor.give_up();
        let (tree, writer) = self.thread.join().map_err(|_| WorkError::Hashing)?;
        let deadline = Instant::now() + DISK_PATIENCE;
        let log = writer.finish_within(DISK_PATIENCE);
        let auditors = self.auditors.and_then(|auditors| auditors.stop(deadline));
        let (mut log, tree) = (log?, tree.ok_or(WorkError::Hashing)?);
        let tree = match auditors {
            Some(mut auditors) if interrupted => auditors.go_back(tree, &mut log)?,
            Some(mut auditors) => auditors.settle(tree, &mut log)?,
            None => tree,
        };
        Ok((tree, log))
    }
}

/// The number of leaves at which the hashing thread stops, and the writer that it may wait for.
#[derive(Debug)]
struct Target(Arc<AtomicU64>, LogMonitor);

impl Drop for Target {
    fn drop(&mut self) {
        // Nobody waits for the thread any more.
        self.0.store(0, Relaxed);
        self.1.give_up();
    }
}

/// The file that holds the id of the hashing thread, for tools that give it a core or watch it.
/// It is there while the thread runs.
struct ThreadId<'a>(&'a Path);

impl<'a> ThreadId<'a> {
    fn write(path: &'a Path) -> Self {
        #[cfg(target_os = "linux")]
        {
            let id = rustix::thread::gettid().as_raw_nonzero().to_string();
            if let Err(error) = fs::write(path, id) {
                tracing::warn!(%error, path = %path.display(), "cannot write the thread's id");
            }
        }
        Self(path)
    }
}

impl Drop for ThreadId<'_> {
    fn drop(&mut self) {
        // Where it was not written, there is none to remove.
        drop(fs::remove_file(self.0));
    }
}
