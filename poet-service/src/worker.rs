//! The work: rounds are executed one after the other, proven, verified and published.
//!
//! Two threads share a round. One does nothing but hash. The other one watches the clock for it
//! and tells it when to stop: at the round's end, but not before there are enough leaves for a
//! proof, or when the server ends. Finished subtrees go to a tree log, from which the work goes on
//! after a restart.

use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use poet_engine::{
    LogError, LogHeader, MAX_THREADS, Proof, ProveError, ProveProgress, T, Tree, VerifyError, Work,
    file::{FileLog, LogMonitor, LogWriter},
    membership, prove, resume, run, verify,
};

use crate::{
    clock::{Clock, time_until},
    registration::Registration,
    storage::{Execution, PublishedProof, Storage, StorageError},
};

/// Leaves of a tick on the main network.
pub(crate) const TICK_LEAVES: u64 = 9_331_200;
/// How often the clock is read, which may have been set in the meantime.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);
/// How long to wait before a round that failed is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// The tree log in a round's folder.
const LOG_FILE: &str = "tree.log";

/// A round to execute.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub round: u64,
    /// What the work is bound to.
    pub execution: Execution,
    /// When the work ends.
    pub end: Timestamp,
}

/// The round that is being worked on.
#[derive(Clone, Debug)]
pub struct Executing {
    /// Its number.
    pub round: u64,
    /// When its work ends.
    pub end: Timestamp,
    /// Its members.
    pub members: u64,
    /// Leaves so far; goes on counting.
    pub leaves: Arc<AtomicU64>,
    /// When this process began to work on it, and with how many leaves.
    pub started: (Instant, u64),
    /// When the newest entry of the log became durable.
    pub durable: Arc<Mutex<Instant>>,
}

impl Executing {
    /// The speed of the work since it was begun.
    pub fn leaves_per_second(&self) -> f64 {
        let (since, before) = self.started;
        let made = self.leaves.load(Relaxed).saturating_sub(before);
        made as f64 / since.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// How long ago the newest entry of the log became durable.
    pub fn log_age(&self) -> Duration {
        let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.elapsed()
    }
}

/// Why a round could not be finished.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error("cannot create {path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot start the hashing thread: {0}")]
    Thread(io::Error),
    #[error("the hashing thread failed")]
    Hashing,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot make the proof: {0}")]
    Prove(#[from] ProveError),
    #[error("the proof is not valid: {0}")]
    Verify(#[from] VerifyError),
    #[error("the stored members do not give the statement that was worked on")]
    Members,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A running worker.
pub struct Worker {
    handle: WorkerHandle,
    thread: JoinHandle<()>,
}

/// What the rest of the service needs of the worker.
#[derive(Clone, Default)]
pub struct WorkerHandle(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// A round was queued, or the worker is to stop.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stop: bool,
    queue: VecDeque<Job>,
    executing: Option<Executing>,
    /// Whether the newest attempt at something failed.
    failing: bool,
}

impl WorkerHandle {
    /// Queues a round. Rounds are executed in the order in which they are queued.
    pub fn execute(&self, job: Job) {
        self.state().queue.push_back(job);
        self.0.changed.notify_all();
    }

    /// Whether the work, or writing its log, fails.
    pub fn failing(&self) -> bool {
        self.state().failing
    }

    /// How many rounds wait to be worked on.
    pub fn queued(&self) -> usize {
        self.state().queue.len()
    }

    /// The round that is being worked on.
    pub fn executing(&self) -> Option<Executing> {
        self.state().executing.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a round; `None` when the worker is to stop.
    fn next(&self) -> Option<Job> {
        let idle = |state: &mut State| !state.stop && state.queue.is_empty();
        let mut state = self
            .0
            .changed
            .wait_while(self.state(), idle)
            .unwrap_or_else(PoisonError::into_inner);
        if state.stop {
            None
        } else {
            state.queue.pop_front()
        }
    }

    /// Waits until the worker is to stop, at most for `timeout`. Says whether it is to stop.
    fn wait_for_stop(&self, timeout: Duration) -> bool {
        let running = |state: &mut State| !state.stop;
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.state(), timeout, running);
        waited.unwrap_or_else(PoisonError::into_inner).0.stop
    }
}

impl Worker {
    /// Starts a worker that keeps its logs below `rounds_dir`, and the id of the hashing thread in
    /// `id_file` while there is one.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        work: Work,
        id_file: PathBuf,
        rounds_dir: PathBuf,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        registration: Arc<Registration>,
    ) -> io::Result<Self> {
        let handle = WorkerHandle::default();
        let context = Context {
            id_file,
            work,
            rounds_dir,
            clock,
            storage,
            registration,
            handle: handle.clone(),
        };
        let thread = thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || context.serve())?;
        Ok(Self { handle, thread })
    }

    /// A handle for others.
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }

    /// Stops the work and waits until all of it is in the log.
    pub fn stop(self) {
        self.handle.state().stop = true;
        self.handle.0.changed.notify_all();
        if self.thread.join().is_err() {
            tracing::error!("the worker failed");
        }
    }
}

/// Removes the log of a published round. A log is left behind when the server ends between the
/// publication and the removal.
pub(crate) fn remove_log(rounds_dir: &Path, round: u64) {
    let folder = rounds_dir.join(round.to_string());
    let log = folder.join(LOG_FILE);
    match fs::remove_file(&log) {
        // Only if nothing else is in there.
        Ok(()) => drop(fs::remove_dir(&folder)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, log = %log.display(), "cannot remove an old log"),
    }
}

/// The file that holds the id of the hashing thread, for tools that give it a core or watch it.
/// It is there while the thread runs.
struct ThreadId(PathBuf);

impl ThreadId {
    fn write(path: PathBuf) -> Self {
        #[cfg(target_os = "linux")]
        {
            let id = rustix::thread::gettid().as_raw_nonzero().to_string();
            if let Err(error) = fs::write(&path, id) {
                tracing::warn!(%error, path = %path.display(), "cannot write the thread's id");
            }
        }
        Self(path)
    }
}

impl Drop for ThreadId {
    fn drop(&mut self) {
        // Where it was not written, there is none to remove.
        drop(fs::remove_file(&self.0));
    }
}

struct Context {
    /// See [`ThreadId`].
    id_file: PathBuf,
    work: Work,
    rounds_dir: PathBuf,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    registration: Arc<Registration>,
    handle: WorkerHandle,
}

impl Context {
    fn serve(&self) {
        while let Some(job) = self.handle.next() {
            let result = self.execute(&job);
            {
                let mut state = self.handle.state();
                state.executing = None;
                state.failing = result.is_err();
            }
            if let Err(error) = result {
                tracing::error!(
                    %error,
                    round = job.round,
                    "ALARM: the round could not be finished and will be tried again from its log"
                );
                self.handle.wait_for_stop(RETRY_INTERVAL);
                // Behind rounds that are due by now: one that fails for ever must not stop them.
                self.handle.execute(job);
            }
        }
    }

    /// Works on a round until its end and publishes it, or until the worker is to stop.
    fn execute(&self, job: &Job) -> Result<(), WorkError> {
        let Execution {
            statement,
            subtree_height,
        } = &job.execution;
        let folder = self.rounds_dir.join(job.round.to_string());
        fs::create_dir_all(&folder).map_err(|source| WorkError::Folder {
            path: folder.clone(),
            source,
        })?;
        let header = LogHeader::new(&self.work, statement, *subtree_height);
        let sha256 = self.work.kernels().sha256;
        let mut log = FileLog::open(&folder.join(LOG_FILE), &header, sha256)?;
        let tree = resume(&self.work, statement, *subtree_height, &mut log)?;
        tracing::info!(round = job.round, leaves = tree.leaves(), until = %job.end, "working");

        let (tree, mut log) = self.hash(job, tree, log)?;
        if self.handle.wait_for_stop(Duration::ZERO) {
            tracing::info!(
                round = job.round,
                leaves = tree.leaves(),
                "work interrupted"
            );
            return Ok(());
        }
        tracing::info!(
            round = job.round,
            leaves = tree.leaves(),
            "work done, proving"
        );
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let progress = ProveProgress::default();
        let proof = prove(&tree, *subtree_height, &mut log, T, threads, &progress)?;
        // Nothing unverified is published.
        verify(&self.work, statement, tree.leaves(), T, &proof)?;
        self.publish(job, tree.leaves(), proof)?;
        drop(log);
        remove_log(&self.rounds_dir, job.round);
        Ok(())
    }

    /// Adds leaves until the end of the round, or until the worker is to stop.
    fn hash(&self, job: &Job, mut tree: Tree, log: FileLog) -> Result<(Tree, FileLog), WorkError> {
        let progress = Arc::new(AtomicU64::new(tree.leaves()));
        let members = self.storage.member_count(job.round)?;
        let durable = Arc::new(Mutex::new(Instant::now()));
        self.handle.state().executing = Some(Executing {
            round: job.round,
            end: job.end,
            members,
            leaves: Arc::clone(&progress),
            started: (Instant::now(), tree.leaves()),
            durable: Arc::clone(&durable),
        });
        let target = AtomicU64::new(u64::MAX);
        let mut writer = LogWriter::spawn(log)?;
        let monitor = writer.monitor();
        let subtree_height = job.execution.subtree_height;
        let hashed = thread::scope(|scope| {
            let (target, tree, writer) = (&target, &mut tree, &mut writer);
            let id_file = self.id_file.clone();
            let hashing = thread::Builder::new()
                .name("hash".to_owned())
                .spawn_scoped(scope, move || {
                    let _id = ThreadId::write(id_file);
                    run(tree, subtree_height, target, &progress, |root| {
                        writer.push(root);
                    });
                })
                .map_err(WorkError::Thread)?;
            self.watch(job, target, &monitor, &durable, || hashing.is_finished());
            hashing.join().map_err(|_| WorkError::Hashing)
        });
        // After a failure, too: what was done is then in the log, and the log is free.
        let log = writer.finish()?;
        hashed?;
        Ok((tree, log))
    }

    /// Sets `target` when it is time to stop.
    fn watch(
        &self,
        job: &Job,
        target: &AtomicU64,
        monitor: &LogMonitor,
        durable: &Mutex<Instant>,
        finished: impl Fn() -> bool,
    ) {
        let mut reported = None;
        let mut durable_entries = monitor.durable_entries();
        while !finished() {
            let left = time_until(self.clock.now(), job.end);
            if left.is_zero() {
                target.store(T as u64, Relaxed);
                return;
            }
            if self.handle.wait_for_stop(left.min(CLOCK_INTERVAL)) {
                target.store(0, Relaxed);
                return;
            }
            let entries = monitor.durable_entries();
            if entries != durable_entries {
                durable_entries = entries;
                *durable.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            let error = monitor.error();
            if error != reported {
                self.handle.state().failing = error.is_some();
                match &error {
                    Some(error) => {
                        tracing::error!(round = job.round, %error, "cannot write the log");
                    }
                    None => tracing::info!(round = job.round, "the log is written again"),
                }
                reported = error;
            }
        }
    }

    fn publish(&self, job: &Job, leaves: u64, proof: Proof) -> Result<(), WorkError> {
        let members = self.storage.members(job.round)?;
        let statement = job.execution.statement.clone();
        if membership::root(&members) != statement {
            return Err(WorkError::Members);
        }
        let member_count = members.len();
        let published = PublishedProof {
            statement,
            members,
            leaves,
            proof,
        };
        self.registration.publish(job.round, Arc::new(published))?;
        tracing::info!(
            round = job.round,
            leaves,
            members = member_count,
            "the proof is verified and published"
        );
        Ok(())
    }
}
