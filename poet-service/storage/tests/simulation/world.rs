//! What survives a process: the time, the disk, and the record of what must be true. All random
//! numbers are drawn from here, in the order in which the single thread asks, so that each seed
//! gives one world.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use poet_conformance::Rng;
use poet_engine::{LogHeader, T, Work, membership, verify};
use poet_proto::messages::PublishedProof;
use poet_rounds::{
    clock::Clock,
    schedule::Schedule,
    storage::{Challenge, Execution, Member, NodeId, Storage},
};
use tokio::{sync::Notify, time::Instant};

use crate::{disk::Disk, storage::Command};

/// The maximum time from the decision to open a round until it is open: a slow transaction.
const MAX_LATENESS: SignedDuration = SignedDuration::from_secs(5);

/// How long after a fault everything must be in order again: a slow transaction, and some time to
/// try again.
const QUIET: Duration = Duration::from_secs(6);

/// How often each fault happens.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// How many of a thousand operations fail.
    pub(crate) errors: u32,
    /// Whether nothing can be written.
    pub(crate) full: bool,
    /// Whether transactions take up to seconds.
    pub(crate) slow: bool,
    /// How many of a thousand reads of the work's state are preceded by a flipped bit in it.
    pub(crate) mistakes: u32,
    /// Whether writes to logs hang, without an error.
    pub(crate) hangs: bool,
    /// Whether the work is half as fast.
    pub(crate) half_speed: bool,
}

/// Counts of events. A simulation in which some event never happens tests less than it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Event {
    Start,
    FailedStart,
    Stop,
    Kill,
    PowerCut,
    CrashInOperation,
    ClockForwards,
    ClockBackwards,
    DiskFull,
    RefusedByFullDisk,
    FailedRead,
    FailedTransaction,
    Reappeared,
    FailedLogWrite,
    FailedLogSync,
    TornEntry,
    LostEntries,
    LyingSync,
    FlippedBit,
    Resumed,
    Mistake,
    BadProof,
    Searched,
    Repaired,
    TakenBack,
    Registered,
    Conflict,
    Full,
    TooLate,
    OldChallenge,
    Unavailable,
    Carried,
    Published,
    ShortRound,
    EarlyProof,
    EarlyProofAtEnd,
}

impl Event {
    pub(crate) const ALL: [Self; 36] = [
        Self::Start,
        Self::FailedStart,
        Self::Stop,
        Self::Kill,
        Self::PowerCut,
        Self::CrashInOperation,
        Self::ClockForwards,
        Self::ClockBackwards,
        Self::DiskFull,
        Self::RefusedByFullDisk,
        Self::FailedRead,
        Self::FailedTransaction,
        Self::Reappeared,
        Self::FailedLogWrite,
        Self::FailedLogSync,
        Self::TornEntry,
        Self::LostEntries,
        Self::LyingSync,
        Self::FlippedBit,
        Self::Resumed,
        Self::Mistake,
        Self::BadProof,
        Self::Searched,
        Self::Repaired,
        Self::TakenBack,
        Self::Registered,
        Self::Conflict,
        Self::Full,
        Self::TooLate,
        Self::OldChallenge,
        Self::Unavailable,
        Self::Carried,
        Self::Published,
        Self::ShortRound,
        Self::EarlyProof,
        Self::EarlyProofAtEnd,
    ];
}

/// A world and everything in it.
pub(crate) struct World {
    state: Mutex<State>,
    /// The process has crashed, or must stop.
    over: Notify,
}

pub(crate) struct State {
    pub(crate) rng: Rng,
    pub(crate) faults: Faults,
    pub(crate) counts: BTreeMap<Event, u64>,
    pub(crate) disk: Disk,
    /// A transaction that failed, but may be there when the process restarts.
    pub(crate) limbo: Vec<Command>,
    pub(crate) oracle: Oracle,
    /// The number of operations until the process crashes.
    fuse: Option<u64>,
    crashed: bool,
    /// When something failed last.
    trouble: Instant,
    violation: Option<String>,
    /// When the process started.
    start: (Timestamp, Instant),
    /// The latest time that the clock has shown.
    latest: Timestamp,
    trace: Trace,
}

/// What was promised, and to whom.
pub(crate) struct Oracle {
    pub(crate) work: Work,
    pub(crate) schedule: Schedule,
    /// The storage behind all faults.
    pub(crate) truth: Option<Arc<dyn Storage>>,
    /// Registrations that were acknowledged.
    acknowledged: BTreeMap<u64, BTreeMap<NodeId, Challenge>>,
    /// Challenges that were sent for registration, with their nodes.
    asked: BTreeMap<Challenge, NodeId>,
    published: BTreeMap<u64, Arc<PublishedProof>>,
    published_early: BTreeMap<(u64, Duration), Arc<PublishedProof>>,
    /// The longer cycle gaps that get proofs.
    pub(crate) early_gaps: Vec<Duration>,
    /// In a world without faults, the leaves per second that each round must have.
    pub(crate) pace: Option<u32>,
    /// Whether the clock may be set.
    pub(crate) jumps: bool,
    /// How long a jump is not believed.
    pub(crate) patience: Duration,
    /// The time as it continues after a jump that is not believed, and since when.
    unbelieved: Option<(Timestamp, Instant)>,
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    Fails,
    /// The process crashes before the operation.
    CrashBefore,
    /// The process crashes after the operation.
    CrashAfter,
    /// The process had crashed before.
    Over,
}

impl World {
    pub(crate) fn new(
        seed: u64,
        work: Work,
        schedule: Schedule,
        now: Timestamp,
        print: bool,
    ) -> Self {
        let state = State {
            rng: Rng::new(seed),
            faults: Faults::default(),
            counts: BTreeMap::new(),
            disk: Disk::default(),
            limbo: Vec::new(),
            oracle: Oracle {
                work,
                schedule,
                truth: None,
                acknowledged: BTreeMap::new(),
                asked: BTreeMap::new(),
                published: BTreeMap::new(),
                published_early: BTreeMap::new(),
                early_gaps: Vec::new(),
                pace: None,
                jumps: false,
                patience: Duration::ZERO,
                unbelieved: None,
            },
            fuse: None,
            crashed: true,
            trouble: Instant::now(),
            violation: None,
            start: (now, Instant::now()),
            latest: now,
            trace: Trace {
                hash: 0xcbf2_9ce4_8422_2325,
                line: String::new(),
                print,
            },
        };
        Self {
            state: Mutex::new(state),
            over: Notify::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Starts a process. It will crash in the operation with this number, if it gets there.
    pub(crate) fn boot(&self, fuse: Option<u64>) {
        let mut state = self.state();
        let now = state.now_stopped();
        state.start = (now, Instant::now());
        state.trouble = Instant::now();
        state.crashed = false;
        // A new process believes what the clock shows.
        state.oracle.unbelieved = None;
        state.fuse = fuse;
    }

    /// From now on, nothing that the process does has an effect.
    pub(crate) fn halt(&self) {
        let mut state = self.state();
        let now = state.now();
        state.start.0 = now;
        state.crashed = true;
        state.oracle.unbelieved = None;
        state.fuse = None;
    }

    pub(crate) fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// From now on, nothing fails.
    pub(crate) fn calm_down(&self) {
        let mut state = self.state();
        state.faults = Faults::default();
        state.disk.lying_syncs = 0;
        state.fuse = None;
    }

    /// Records that something failed or was slow.
    pub(crate) fn trouble(&self) {
        self.state().trouble = Instant::now();
    }

    /// Returns whether anything has failed since `then`, or is slow.
    pub(crate) fn trouble_since(&self, then: Instant) -> bool {
        let state = self.state();
        state.crashed || state.faults.slow || state.trouble >= then
    }

    /// Resolves when the process has crashed, or a requirement is violated.
    pub(crate) async fn over(&self) {
        loop {
            {
                let state = self.state();
                if state.crashed || state.violation.is_some() {
                    return;
                }
            }
            self.over.notified().await;
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.state().trace.hash
    }

    /// Decides the result of an operation, and lets the process crash if it must crash in this one.
    pub(crate) fn fate(&self, operation: fmt::Arguments<'_>, writes: bool) -> Fate {
        let mut state = self.state();
        if state.crashed {
            return Fate::Over;
        }
        let fate = state.draw_fate(writes);
        state.note(format_args!("{operation}: {fate:?}"));
        if fate != Fate::Done || state.faults.slow {
            state.trouble = Instant::now();
        }
        if matches!(fate, Fate::CrashBefore | Fate::CrashAfter) {
            state.count(Event::CrashInOperation);
            let now = state.now();
            state.start.0 = now;
            state.crashed = true;
            self.over.notify_one();
        }
        fate
    }

    pub(crate) fn require(&self, condition: bool, what: impl FnOnce() -> String) {
        if !condition {
            let mut state = self.state();
            if state.violation.is_none() {
                let what = what();
                state.note(format_args!("VIOLATION: {what}"));
                state.violation = Some(what);
            }
            self.over.notify_one();
        }
    }

    pub(crate) fn note(&self, what: fmt::Arguments<'_>) {
        self.state().note(what);
    }

    pub(crate) fn count(&self, event: Event) {
        self.state().count(event);
    }

    /// Returns a number below `bound`.
    pub(crate) fn below(&self, bound: u32) -> u32 {
        self.state().rng.below(bound)
    }

    /// Returns true in `thousandths` of all cases.
    pub(crate) fn chance(&self, thousandths: u32) -> bool {
        self.below(1000) < thousandths
    }

    /// The storage behind all faults.
    pub(crate) fn truth(&self) -> Arc<dyn Storage> {
        Arc::clone(self.state().oracle.truth.as_ref().unwrap())
    }

    /// Sets the clock.
    pub(crate) fn jump(&self, by: SignedDuration) {
        let mut state = self.state();
        state.note(format_args!("clock jumps by {by:?}"));
        state.count(if by.is_negative() {
            Event::ClockBackwards
        } else {
            Event::ClockForwards
        });
        let before = state.now();
        let steady = state
            .unbelieved()
            .map_or(before, |steady| steady.max(before));
        state.oracle.unbelieved = Some((steady, Instant::now()));
        state.start.0 += by;
        state.trouble = Instant::now();
    }

    /// Time passes while no process runs.
    pub(crate) fn pass(&self, time: Duration) {
        self.state().start.0 += time;
    }

    /// A node registers `challenge`.
    pub(crate) fn asked(&self, member: Member) {
        let mut state = self.state();
        state.oracle.asked.insert(member.challenge, member.node_id);
    }

    /// The registration was acknowledged.
    pub(crate) fn acknowledged(&self, round: u64, member: Member) {
        let stored = self.truth().registrations(round).unwrap();
        self.require(stored.contains(&member), || {
            format!("a registration for round {round} was acknowledged and is not stored")
        });
        let conflict = {
            let mut state = self.state();
            let round = state.oracle.acknowledged.entry(round).or_default();
            let before = round.insert(member.node_id, member.challenge);
            before.is_some_and(|before| before != member.challenge)
        };
        self.require(!conflict, || {
            format!("two registrations of one node for round {round} were acknowledged")
        });
    }

    /// The log of a round is about to be used.
    pub(crate) fn opening_log(&self, round: u64, header: &LogHeader) {
        if self.crashed() {
            // What an ended process still believes does not matter.
            return;
        }
        let truth = self.truth();
        let unfinished = truth.unfinished_rounds().unwrap();
        let found = unfinished.into_iter().find(|found| found.round == round);
        let work = self.state().oracle.work;
        let expected = found.map(|found| {
            // The record may come later: the registrations determine the same.
            let execution = found.execution.unwrap_or_else(|| Execution {
                statement: membership::root(&truth.members(round).unwrap()),
                subtree_height: header.subtree_height(),
            });
            execution.round_work(&work).header()
        });
        self.require(expected.as_ref() == Some(header), || {
            format!("round {round} is worked on without being opened here, or on another statement")
        });
    }

    /// A round is about to be opened.
    pub(crate) fn opening(&self, round: u64) {
        let late = {
            let mut state = self.state();
            let late = state
                .now()
                .duration_since(state.oracle.schedule.start(round));
            !state.oracle.jumps && late > MAX_LATENESS
        };
        self.require(!late, || format!("round {round} opens when it is over"));
    }

    /// This round takes registrations.
    pub(crate) fn right_round_open(&self, round: u64) {
        let allowed = {
            let mut state = self.state();
            if state.crashed || state.faults.slow || state.trouble.elapsed() < QUIET {
                return;
            }
            // Whether a jump at that time is believed depends on earlier ones.
            let jumped = state.oracle.unbelieved;
            let patience = state.oracle.patience + QUIET;
            if jumped.is_some_and(|(_, since)| since.elapsed() < patience) {
                return;
            }
            let now = state.now();
            let due = |time| state.oracle.schedule.open_round(time);
            // The clock is read ten times a second, and a transaction takes time.
            [due(now), due(now - SignedDuration::from_millis(200))]
        };
        let allowed = allowed.map(|due| self.truth().first_unsettled_round(due).unwrap());
        self.require(allowed.contains(&round), || {
            format!("round {round} is open, which should be one of {allowed:?}")
        });
    }

    /// A round is about to be settled on `statement`.
    pub(crate) fn settling(&self, round: u64, statement: &[u8]) {
        let members = self.truth().members(round).unwrap();
        self.require(membership::root(&members) == statement, || {
            format!("round {round} is settled on another statement than its members'")
        });
        let (start, latest) = {
            let state = self.state();
            (state.oracle.schedule.start(round), state.latest)
        };
        self.require(latest >= start, || {
            format!("round {round} is settled before its start")
        });
    }

    /// A proof is about to be stored.
    pub(crate) fn publishing(&self, round: u64, proof: &Arc<PublishedProof>) {
        let truth = self.truth();
        let members = truth.registrations(round).unwrap();
        let (work, missing, unknown, again, early, pace, late) = {
            let state = self.state();
            let oracle = &state.oracle;
            let promised = oracle.acknowledged.get(&round);
            let missing = promised.into_iter().flatten().any(|(node, challenge)| {
                !members
                    .iter()
                    .any(|member| member.node_id == *node && member.challenge == *challenge)
            });
            let unknown = members
                .iter()
                .any(|member| oracle.asked.get(&member.challenge) != Some(&member.node_id));
            let again = oracle.published.contains_key(&round);
            let early = state.latest < oracle.schedule.end(round);
            let schedule = &oracle.schedule;
            let end = schedule.end(round);
            let late = state.latest.duration_since(end) > SignedDuration::from_millis(500);
            let pace = oracle.pace.map(|pace| {
                let millis = schedule.work_duration().as_millis() as u64;
                let leaves = |millis| u64::from(pace) * millis / 1000;
                // The clock is read ten times a second, and transactions and syncs take time.
                leaves(millis.saturating_sub(250)).max(T as u64)
                    ..=leaves(millis + 250).max(T as u64)
            });
            (oracle.work, missing, unknown, again, early, pace, late)
        };
        let challenges: Vec<_> = members.iter().map(|member| member.challenge).collect();
        let statement = membership::root(&proof.members);
        let valid = verify(&work, &statement, proof.leaves, T, &proof.proof);
        for (ok, what) in [
            (!missing, "lacks an acknowledged member"),
            (!unknown, "has a member that nobody asked for"),
            (!again, "is published a second time"),
            (!early, "is published before its end"),
            (
                challenges == proof.members,
                "has other members than are stored",
            ),
            (
                statement == proof.statement,
                "has another statement than its members'",
            ),
            (valid.is_ok(), "has a proof that is not valid"),
            (
                pace.as_ref()
                    .is_none_or(|pace| pace.contains(&proof.leaves)),
                "has not the leaves that its time is good for",
            ),
            (
                // With fewer leaves, the server waited for enough of them.
                !late || pace.is_none() || proof.leaves == T as u64,
                "is published late",
            ),
        ] {
            self.require(ok, || format!("round {round} {what}"));
        }
        if proof.leaves < T as u64 + 10 {
            self.count(Event::ShortRound);
        }
    }

    /// A proof for nodes with a longer cycle gap is about to be stored.
    pub(crate) fn publishing_early(&self, round: u64, gap: Duration, proof: &PublishedProof) {
        let members = self.truth().members(round).unwrap();
        let unfinished = self.truth().unfinished_rounds().unwrap();
        let execution = unfinished
            .into_iter()
            .find_map(|unfinished| unfinished.execution.filter(|_| unfinished.round == round));
        let subtree = execution.map_or(1, |execution| execution.subtree_height.leaves());
        let (work, known, again, early, pace) = {
            let state = self.state();
            let oracle = &state.oracle;
            let end = oracle.schedule.end_before(round, gap);
            // The round's own proof is checked when it is published.
            let own = state.latest >= oracle.schedule.end(round);
            let pace = oracle.pace.filter(|_| !own).map(|pace| {
                let work = end.duration_since(oracle.schedule.start(round));
                let millis = work.as_millis() as u64;
                let leaves = |millis| u64::from(pace) * millis / 1000;
                // As for the proof of a round, but in whole subtrees.
                let enough = (T as u64).next_multiple_of(subtree);
                let least = leaves(millis.saturating_sub(250)) / subtree * subtree;
                // A proof whose end has come waits for earlier ones, which may wait for enough
                // leaves.
                least.max(enough)..=leaves(millis + 250).max(enough + leaves(500))
            });
            (
                oracle.work,
                oracle.early_gaps.contains(&gap),
                oracle.published_early.contains_key(&(round, gap))
                    || oracle.published.contains_key(&round),
                state.latest < end,
                pace,
            )
        };
        let statement = membership::root(&members);
        let valid = verify(&work, &statement, proof.leaves, T, &proof.proof);
        for (ok, what) in [
            (known, "is published for a gap that is not configured"),
            (!again, "is published early a second time, or after its end"),
            (!early, "is published before its early end"),
            (members == proof.members, "has other members early"),
            (statement == proof.statement, "has another statement early"),
            (valid.is_ok(), "has an early proof that is not valid"),
            (
                pace.is_none_or(|pace| pace.contains(&proof.leaves)),
                "has not the leaves early that its time is good for",
            ),
        ] {
            self.require(ok, || format!("round {round}, gap {gap:?}: it {what}"));
        }
    }

    /// A proof for nodes with a longer cycle gap was stored.
    pub(crate) fn published_early(&self, round: u64, gap: Duration, proof: Arc<PublishedProof>) {
        let mut state = self.state();
        state.count(Event::EarlyProof);
        state.note(format_args!(
            "round {round} published for gap {gap:?}: {} leaves",
            proof.leaves
        ));
        state.oracle.published_early.insert((round, gap), proof);
    }

    /// The proofs for nodes with longer cycle gaps.
    pub(crate) fn all_early(&self) -> BTreeMap<(u64, Duration), Arc<PublishedProof>> {
        self.state().oracle.published_early.clone()
    }

    /// A proof was stored.
    pub(crate) fn published(&self, round: u64, proof: Arc<PublishedProof>) {
        let challenges = self.truth().pow_challenges().unwrap().unwrap();
        self.require(challenges.current == proof.proof.root, || {
            format!("the challenge of the proof of work is not the root of round {round}")
        });
        let mut state = self.state();
        state.count(Event::Published);
        let early = state.oracle.published_early.iter();
        let same = early.filter(|((early, _), early_proof)| {
            *early == round && early_proof.proof.root == proof.proof.root
        });
        for _ in 0..same.count() {
            state.count(Event::EarlyProofAtEnd);
        }
        state.note(format_args!(
            "round {round} published: {} leaves, {} members, root {:02x?}",
            proof.leaves,
            proof.members.len(),
            &proof.proof.root[..4]
        ));
        state.oracle.published.insert(round, proof);
    }

    pub(crate) fn all_published_count(&self) -> u64 {
        self.state().oracle.published.len() as u64
    }

    /// The published rounds.
    pub(crate) fn all_published(&self) -> BTreeMap<u64, Arc<PublishedProof>> {
        self.state().oracle.published.clone()
    }
}

impl State {
    fn draw_fate(&mut self, writes: bool) -> Fate {
        if let Some(fuse) = &mut self.fuse {
            if *fuse == 0 {
                return if self.rng.below(2) == 0 {
                    Fate::CrashBefore
                } else {
                    Fate::CrashAfter
                };
            }
            *fuse -= 1;
        }
        if writes && self.faults.full {
            self.count(Event::RefusedByFullDisk);
            return Fate::Fails;
        }
        if self.rng.below(1000) < self.faults.errors {
            return Fate::Fails;
        }
        Fate::Done
    }

    pub(crate) fn count(&mut self, event: Event) {
        *self.counts.entry(event).or_default() += 1;
    }

    /// The wall-clock time. A process must be running.
    fn now(&mut self) -> Timestamp {
        let (start, instant) = self.start;
        let now = if self.crashed {
            start
        } else {
            start + SignedDuration::try_from(instant.elapsed()).unwrap()
        };
        self.latest = self.latest.max(now);
        if let Some(steady) = self.unbelieved() {
            self.latest = self.latest.max(steady);
        }
        now
    }

    /// The time of a process that does not believe the clock's jump.
    fn unbelieved(&self) -> Option<Timestamp> {
        let (then, since) = self.oracle.unbelieved?;
        let passed = since.elapsed();
        // The clock is read ten times a second.
        (passed <= self.oracle.patience + Duration::from_millis(200))
            .then(|| then + SignedDuration::try_from(passed).unwrap())
    }

    pub(crate) fn crashed(&self) -> bool {
        self.crashed
    }

    fn now_stopped(&self) -> Timestamp {
        self.start.0
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        let now = self.now();
        self.trace.add(now, what);
    }
}

/// A hash of everything that happened.
struct Trace {
    /// FNV-1a.
    hash: u64,
    line: String,
    print: bool,
}

impl Trace {
    fn add(&mut self, now: Timestamp, what: fmt::Arguments<'_>) {
        self.line.clear();
        writeln!(self.line, "{} {what}", now.as_millisecond()).unwrap();
        for byte in self.line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        if self.print {
            print!("{}", self.line);
        }
    }
}

/// The wall clock of a world.
pub(crate) struct WorldClock(pub(crate) Arc<World>);

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        self.0.state().now()
    }

    fn monotonic(&self) -> Duration {
        self.0.state().start.1.elapsed()
    }
}

/// The system's error when something fails.
pub(crate) fn refused(world: &World) -> io::Error {
    if world.state().faults.full {
        io::ErrorKind::StorageFull.into()
    } else {
        io::Error::other("simulated")
    }
}
