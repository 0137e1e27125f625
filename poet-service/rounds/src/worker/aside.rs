//! Proofs of the leaves so far, made on other cores while the work continues: early ones, for nodes
//! with a longer cycle gap, and rehearsals of the proof at the end.
//!
//! A proof can be made for any number of leaves. These take the leaves under the entries that the
//! log has at that moment, once they are durable: whole subtrees, which are in the file, so that
//! the hashing thread need not be asked.
//!
//! What is due follows from the storage and the time: an early end has passed, and its gap has no
//! proof yet. Whichever process runs then makes it; one that starts late, of all the leaves that
//! there are by then. If an early proof is still missing at the end of the round, the round's proof
//! replaces it.

use std::{
    sync::{
        Arc, Weak,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use poet_engine::{Proof, ProveProgress, T, Work, file::LogView};
use poet_proto::duration::format_go;
use tokio::sync::oneshot;

use super::{
    Hashing, Job, Running, WorkError,
    proof::{check_proof, make_proof, published_proof},
};
use crate::{
    blocking::blocking,
    clock::{Clock, time_until},
    cycle_gaps::CycleGap,
    registration::Registration,
    storage::Storage,
};

/// How long to wait before trying again after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait at the end of the work for a proof that was told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
/// How many proofs of the work so far may be wrong before no more are made until the end of the
/// round: each stops the work while the error is looked for.
const MAX_WRONG_PROOFS: u32 = 2;
/// On a sound disk, the last entry of a round is durable this long after its end at the latest.
const LAST_ENTRY: Duration = Duration::from_millis(500);

/// The result of a rehearsal of a round's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    /// The round.
    pub round: u64,
    /// Leaves that the proof covers.
    pub leaves: u64,
    /// Threads that made the proof.
    pub threads: usize,
    /// How long making the proof took.
    pub proving: Duration,
    /// How long verifying it took.
    pub verifying: Duration,
    /// Members of the round.
    pub members: u64,
    /// How long encoding the response took, with all members.
    pub encoding: Duration,
    /// When the round ends.
    pub end: Timestamp,
    /// When the proof will be available, at the same speed and with the same number of threads.
    pub served: Timestamp,
}

/// Why there was no rehearsal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum RehearsalError {
    #[error(
        "no round is worked on now: expected a rehearsal between the start and the end of a round"
    )]
    NoWork,
    #[error(
        "round {round} has {leaves} leaves so far: expected at least {T}, try again in a moment"
    )]
    TooFewLeaves { round: u64, leaves: u64 },
    #[error("a rehearsal is under way: expected one at a time")]
    UnderWay,
    #[error(
        "the work was interrupted before the proof was finished: expected a rehearsal well before the end \
         of a round"
    )]
    Interrupted,
    #[error(
        "proofs of this round were wrong {MAX_WRONG_PROOFS} times, and none is made before its end: see \
         the ALARM in the log"
    )]
    GivenUp,
    #[error("the rehearsal failed: {0}: see the log of the server")]
    Failed(String),
}

/// A request for a rehearsal.
#[derive(Debug)]
pub(super) struct Request {
    reply: oneshot::Sender<Result<Rehearsal, RehearsalError>>,
    /// While this exists, there is no other rehearsal.
    _under_way: Arc<()>,
}

impl Request {
    fn answer(self, answer: Result<Rehearsal, RehearsalError>) {
        // Nobody waits if the client is gone.
        drop(self.reply.send(answer));
    }
}

/// At most one rehearsal at a time.
#[derive(Debug, Default)]
pub(super) struct Rehearsals {
    /// Whether there is work to make one of.
    open: bool,
    waiting: Option<Request>,
    under_way: Weak<()>,
}

impl Rehearsals {
    /// Sets whether there is work to make a rehearsal of. Closing answers the waiting request.
    pub(super) fn set_open(&mut self, open: bool) {
        self.open = open;
        if !open && let Some(request) = self.waiting.take() {
            request.answer(Err(RehearsalError::Interrupted));
        }
    }

    /// Requests a rehearsal.
    pub(super) fn ask(
        &mut self,
    ) -> Result<oneshot::Receiver<Result<Rehearsal, RehearsalError>>, RehearsalError> {
        if !self.open {
            return Err(RehearsalError::NoWork);
        }
        if self.under_way.strong_count() > 0 {
            return Err(RehearsalError::UnderWay);
        }
        let (reply, answer) = oneshot::channel();
        let under_way = Arc::new(());
        self.under_way = Arc::downgrade(&under_way);
        self.waiting = Some(Request {
            reply,
            _under_way: under_way,
        });
        Ok(answer)
    }

    /// Takes the waiting request, if there is one.
    pub(super) fn take(&mut self) -> Option<Request> {
        self.waiting.take()
    }
}

/// What a proof is for.
enum Purpose {
    /// To be published.
    Early(Box<CycleGap>),
    /// To be timed.
    Rehearsal(Request),
}

/// A proof that is being made.
struct Proving {
    progress: Arc<ProveProgress>,
    result: Receiver<Result<(), WorkError>>,
}

/// What another thread needs to make a proof.
struct Task {
    job: Job,
    work: Work,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    registration: Arc<Registration>,
    log: LogView,
    /// Entries of the log.
    entries: u64,
    progress: Arc<ProveProgress>,
    /// Leaves per second.
    rate: f64,
}

/// The proofs of a round's leaves so far.
pub(super) struct Aside<'a> {
    job: &'a Job,
    work: Work,
    clock: &'a Arc<dyn Clock>,
    storage: &'a Arc<dyn Storage>,
    registration: &'a Arc<Registration>,
    /// Early proofs that the storage lacks, the earliest end first; `None` if they must be looked
    /// up.
    missing: Option<Vec<CycleGap>>,
    /// The number of entries at the last early end that passed: they are proven once durable.
    at_end: Option<u64>,
    proving: Option<Proving>,
    /// A rehearsal that waits for entries to become durable.
    waiting: Option<Request>,
    /// When to try again, on the monotonic clock.
    retry: Duration,
    wrong_proofs: u32,
    wrong_proof: Option<WorkError>,
}

impl<'a> Aside<'a> {
    pub(super) fn new(
        job: &'a Job,
        work: Work,
        clock: &'a Arc<dyn Clock>,
        storage: &'a Arc<dyn Storage>,
        registration: &'a Arc<Registration>,
    ) -> Self {
        Self {
            job,
            work,
            clock,
            storage,
            registration,
            missing: None,
            at_end: None,
            proving: None,
            waiting: None,
            retry: Duration::ZERO,
            wrong_proofs: 0,
            wrong_proof: None,
        }
    }

    /// Starts what is due and handles what has finished. Returns whether the work must stop because
    /// a proof was wrong.
    pub(super) fn step<H: Hashing>(
        &mut self,
        hashing: &H,
        running: &H::Running,
        durable_entries: u64,
        rate: f64,
        rehearsals: impl FnOnce() -> Option<Request>,
    ) -> bool {
        if let Some(proving) = &self.proving {
            let result = match proving.result.try_recv() {
                Err(TryRecvError::Empty) => return false,
                Ok(result) => result,
                Err(TryRecvError::Disconnected) => Err(WorkError::Aside),
            };
            self.finished(result);
        }
        if self.wrong_proof.is_some() {
            return true;
        }
        let now = self.clock.monotonic();
        if now >= self.retry
            && self.wrong_proofs < MAX_WRONG_PROOFS
            && let Some(gap) = self.due()
        {
            let k = self.job.execution.subtree_height.get();
            let made = running.leaves().load(Relaxed) >> k;
            let entries = (*self.at_end.get_or_insert(made)).max((T as u64).div_ceil(1 << k));
            if durable_entries >= entries {
                self.at_end = None;
                let purpose = Purpose::Early(Box::new(gap));
                self.start(hashing, running, entries, rate, purpose);
                return false;
            }
        }
        if let Some(request) = self.waiting.take().or_else(rehearsals) {
            let durable = durable_entries << self.job.execution.subtree_height.get();
            let (round, leaves) = (self.job.round, running.leaves().load(Relaxed));
            if self.wrong_proofs >= MAX_WRONG_PROOFS {
                request.answer(Err(RehearsalError::GivenUp));
            } else if leaves < T as u64 {
                request.answer(Err(RehearsalError::TooFewLeaves { round, leaves }));
            } else if durable < T as u64 {
                // The entries are on their way to the disk.
                self.waiting = Some(request);
            } else {
                let purpose = Purpose::Rehearsal(request);
                self.start(hashing, running, durable_entries, rate, purpose);
            }
        }
        false
    }

    /// Stops the proof that is being made, since the work stops.
    pub(super) fn interrupt(&mut self) {
        self.at_end = None;
        // When this server works again, another one may have published some.
        self.missing = None;
        if let Some(request) = self.waiting.take() {
            request.answer(Err(RehearsalError::Interrupted));
        }
        if let Some(proving) = &self.proving {
            proving.progress.stop().store(true, Relaxed);
        }
    }

    /// Waits until no proof is being made, but not for ever.
    pub(super) fn join(&mut self) {
        let Some(proving) = &self.proving else { return };
        match blocking(|| proving.result.recv_timeout(STOP_PATIENCE)) {
            Ok(result) => self.finished(result),
            Err(RecvTimeoutError::Disconnected) => self.finished(Err(WorkError::Aside)),
            Err(RecvTimeoutError::Timeout) => {
                tracing::warn!(
                    round = self.job.round,
                    "a proof of the work so far waits for the disk, and is abandoned"
                );
                self.proving = None;
                self.missing = None;
            }
        }
    }

    /// Returns why a proof of the work so far is wrong, if one is. Each error is returned once.
    pub(super) fn take_wrong_proof(&mut self) -> Option<WorkError> {
        self.wrong_proof.take()
    }

    /// Returns the gap whose end has passed without a proof.
    fn due(&mut self) -> Option<CycleGap> {
        let round = self.job.round;
        if self.missing.is_none() {
            match blocking(|| self.registration.gaps_without_proof(round)) {
                Ok(missing) => self.missing = Some(missing.into_iter().cloned().collect()),
                Err(error) => {
                    tracing::error!(%error, round, "cannot read which early proofs there are");
                    self.retry = self.clock.monotonic() + RETRY_INTERVAL;
                }
            }
        }
        let next = self.missing.as_ref()?.first()?;
        let schedule = self.registration.schedule();
        let end = schedule.end_before(round, next.duration());
        time_until(self.clock.now(), end)
            .is_zero()
            .then(|| next.clone())
    }

    fn start<H: Hashing>(
        &mut self,
        hashing: &H,
        running: &H::Running,
        entries: u64,
        rate: f64,
        purpose: Purpose,
    ) {
        let progress = Arc::<ProveProgress>::default();
        let task = Task {
            job: self.job.clone(),
            work: self.work,
            clock: Arc::clone(self.clock),
            storage: Arc::clone(self.storage),
            registration: Arc::clone(self.registration),
            log: running.log(),
            entries,
            progress: Arc::clone(&progress),
            rate,
        };
        let (finish, result) = channel();
        hashing.aside(Box::new(move |threads| {
            let made = task.make(purpose, threads);
            // Dropped first: whoever waits for it may open the log again.
            drop(task);
            drop(finish.send(made));
        }));
        self.proving = Some(Proving { progress, result });
    }

    fn finished(&mut self, result: Result<(), WorkError>) {
        self.proving = None;
        // Whatever the result, the storage knows.
        self.missing = None;
        let round = self.job.round;
        match result {
            Ok(()) => {}
            Err(error) if error.is_stop() => {}
            Err(error) if error.is_wrong_proof() => {
                self.wrong_proofs += 1;
                if self.wrong_proofs == MAX_WRONG_PROOFS {
                    tracing::error!(
                        round,
                        "ALARM: proofs of the work so far are wrong again: none is made before the end \
                         of the round"
                    );
                }
                self.wrong_proof = Some(error);
            }
            Err(error) => {
                tracing::error!(%error, round, "cannot make a proof of the work so far");
                self.retry = self.clock.monotonic() + RETRY_INTERVAL;
            }
        }
    }
}

/// A proof that was made and verified, and how long that took.
struct Proven {
    proof: Proof,
    /// How long one pass over the log took.
    passing: Duration,
    proving: Duration,
    verifying: Duration,
}

impl Task {
    fn leaves(&self) -> u64 {
        self.entries << self.job.execution.subtree_height.get()
    }

    /// Makes the proof and uses it for `purpose`.
    fn make(&self, purpose: Purpose, threads: usize) -> Result<(), WorkError> {
        match purpose {
            Purpose::Early(gap) => self.publish(&gap, threads),
            Purpose::Rehearsal(request) => {
                let rehearsed = self.rehearse(threads);
                request.answer(match &rehearsed {
                    Ok(rehearsal) => Ok(rehearsal.clone()),
                    Err(error) if error.is_stop() => Err(RehearsalError::Interrupted),
                    Err(error) => Err(RehearsalError::Failed(error.to_string())),
                });
                rehearsed.map(drop)
            }
        }
    }

    fn publish(&self, gap: &CycleGap, threads: usize) -> Result<(), WorkError> {
        let (round, leaves) = (self.job.round, self.leaves());
        let cycle_gap = format_go(gap.duration());
        tracing::info!(
            round,
            cycle_gap,
            leaves,
            threads,
            "an early end has come, proving"
        );
        let proof = self.prove(threads)?.proof;
        let published = published_proof(&*self.storage, &self.job, leaves, proof)?;
        let members = published.members.len();
        (self.registration).publish_early(round, gap, Arc::new(published))?;
        tracing::info!(
            round,
            cycle_gap,
            leaves,
            members,
            "the early proof is verified and published"
        );
        self.registration.compress(round);
        Ok(())
    }

    fn rehearse(&self, threads: usize) -> Result<Rehearsal, WorkError> {
        let (round, leaves) = (self.job.round, self.leaves());
        tracing::info!(
            round,
            leaves,
            threads,
            "rehearsing the end of the round, proving"
        );
        let Proven {
            proof,
            passing,
            proving,
            verifying,
        } = self.prove(threads)?;
        let begun = self.clock.monotonic();
        let published = published_proof(&*self.storage, &self.job, leaves, proof)?;
        let own = self.registration.gaps().own();
        drop(self.registration.prepare(round, own, &published));
        let encoding = self.clock.monotonic().saturating_sub(begun);
        let end = self.job.end;
        // The log is longer at the end, and the pass over it takes longer in proportion.
        let left = time_until(self.clock.now(), end).as_secs_f64();
        let growth = left * self.rate / leaves as f64;
        let longer = Duration::try_from_secs_f64(passing.as_secs_f64() * growth);
        let takes = [
            LAST_ENTRY,
            proving,
            verifying,
            encoding,
            longer.unwrap_or_default(),
        ];
        let takes = SignedDuration::try_from(takes.iter().sum::<Duration>());
        let served = takes.ok().and_then(|takes| end.checked_add(takes).ok());
        tracing::info!(
            round,
            leaves,
            ?proving,
            "the rehearsal has succeeded: the proof is valid"
        );
        Ok(Rehearsal {
            round,
            leaves,
            threads,
            proving,
            verifying,
            members: published.members.len() as u64,
            encoding,
            end,
            served: served.unwrap_or(Timestamp::MAX),
        })
    }

    fn prove(&self, threads: usize) -> Result<Proven, WorkError> {
        let mut log = self.log.clone();
        let begun = self.clock.monotonic();
        let round_work = self.job.execution.round_work(&self.work);
        let tree = round_work.resume_at(&mut log, self.entries)?;
        let passed = self.clock.monotonic();
        let proof = make_proof(&self.job, &tree, &mut log, threads, &self.progress)?;
        let proven = self.clock.monotonic();
        check_proof(&self.job, &tree, &proof)?;
        let verified = self.clock.monotonic();
        Ok(Proven {
            proof,
            passing: passed.saturating_sub(begun),
            proving: proven.saturating_sub(passed),
            verifying: verified.saturating_sub(proven),
        })
    }
}
