//! This server's part in a round that several servers share: it reports its state, hands in its
//! entries, and observes the other servers. A separate thread does this, and the hashing never
//! waits for it: while the storage is down, the local log queues what must be handed in.
//!
//! Each server also decides for itself whether it works (see [`Part::role`]): the log is the
//! election.

use std::{
    cmp::Reverse,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use poet_engine::{LogError, LogRead, Node, file::LogView};
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{Job, Standing, WorkerHandle};
use crate::{
    clock::Clock,
    config::{ClusterConfig, WorkerMode},
    rate::EXPECTED_LEAVES_PER_SECOND,
    standby::Standby,
    storage::{
        StorageError,
        shared_log::{Appended, ClusterServer, SharedLog, SharedRound},
    },
};

/// How often to hand in entries and look at the other servers.
const INTERVAL: Duration = Duration::from_millis(200);
/// Entries to hand in or copy at once: 256 KiB.
const PIECE: u64 = 8192;
/// How long to copy before doing other things.
const COPY_TIME: Duration = Duration::from_millis(500);
/// How recently a server must have been seen to count as working.
const ALIVE: Duration = Duration::from_secs(2);
/// How long the storage may be silent and still count as reachable.
const GAP: Duration = Duration::from_secs(1);
/// How much longer a standby waits than other servers.
const STANDBY_MARGIN: Duration = Duration::from_secs(2);
/// How many seconds of work a standby may be ahead of another server before that one follows it.
const STANDBY_AHEAD: u64 = 10;
/// How long two equally fast servers may both work.
const TIE: Duration = Duration::from_secs(30);
/// The ratio of their rates from which one server is clearly faster than another.
const CLEARLY_FASTER: f64 = 1.05;
/// How long a server works before its rate counts.
const MEASURED_AFTER: Duration = Duration::from_secs(10);
/// How long a server follows before it tries to overtake, after its start and after it has worked.
const FIRST_ATTEMPT: Duration = Duration::from_secs(60);
const NEXT_ATTEMPT: Duration = Duration::from_secs(300);
/// How long an attempt to overtake may take. A server that is 5 % faster needs 50 s from 1.5 s behind to
/// 1 s ahead.
const MAX_ATTEMPT: Duration = Duration::from_secs(120);
/// How long a measured rate keeps a server from trying again if it was not clearly faster.
const RATE_COUNTS: Duration = Duration::from_secs(3600);
/// How long the server that makes the proof may be silent, and how long it may take at most.
const SILENCE: Duration = Duration::from_secs(5);
const PROOF_PATIENCE: Duration = Duration::from_secs(120);
/// How long the storage may be down at the end of a round before later rounds get their turn.
const AWAY_AT_END: Duration = Duration::from_secs(30);
/// How many times per round this server may prove the shared log wrong. If it does so more often,
/// this server is probably at fault.
const MAX_REPLACEMENTS: u32 = 8;

/// The role of a server in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It hashes.
    Works,
    /// It copies and audits the entries of another server.
    Follows,
}

/// What to do at the end of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AtEnd {
    /// Wait: another server may be about to publish.
    Wait,
    /// Follow: the shared log has entries that this server lacks.
    Behind,
    /// The proof is published.
    Published,
    /// Make the proof, of this many leaves, or of all that this server has.
    Prove(Option<u64>),
    /// Give up for now: the storage has been down for a long time.
    Away,
}

/// The connection to the servers that share rounds with this one.
pub(crate) struct Cluster {
    log: Arc<dyn SharedLog>,
    config: ClusterConfig,
    standby: bool,
    clock: Arc<dyn Clock>,
    thread: Standby,
}

impl Cluster {
    /// # Errors
    /// Fails if the system does not provide a thread.
    pub(crate) fn start(
        log: Arc<dyn SharedLog>,
        config: ClusterConfig,
        mode: WorkerMode,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            log,
            config,
            standby: mode == WorkerMode::Standby,
            clock,
            thread: Standby::start("shared-log", || {})?,
        })
    }

    /// Takes part in a round until the returned value is dropped.
    pub(super) fn join(&self, job: &Job, handle: &WorkerHandle) -> Part {
        let part = Part(Arc::new(Inner {
            log: Arc::clone(&self.log),
            config: self.config.clone(),
            standby: self.standby,
            clock: Arc::clone(&self.clock),
            round: job.round,
            subtree_height: job.execution.subtree_height.get(),
            handle: handle.clone(),
            stop: AtomicBool::new(false),
            state: Mutex::default(),
        }));
        let inner = Arc::clone(&part.0);
        // It ends with the part. On a runtime with one thread, a simulation runs, which it shares.
        match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => drop(tokio::spawn(inner.keep_beside())),
            _ => drop(self.thread.run(move || inner.keep())),
        }
        part
    }
}

/// This server's part in a round.
pub(super) struct Part(Arc<Inner>);

struct Inner {
    log: Arc<dyn SharedLog>,
    config: ClusterConfig,
    standby: bool,
    clock: Arc<dyn Clock>,
    round: u64,
    subtree_height: u32,
    /// Receives the state of the round, for display.
    handle: WorkerHandle,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    works: bool,
    /// The local log, if its durable entries are this server's and must be handed in.
    view: Option<LogView>,
    /// Whether the log may be cut at the moment.
    paused: bool,
    rate: f64,
    /// The number of leaves of this server at the end, if it worked.
    leaves: Option<u64>,
    /// The number of local entries that are in the shared log.
    handed_in: u64,
    /// The latest state of the round; `None` while the storage does not answer. The log counts as
    /// quiet only for as long as this server could have seen it grow: after an outage of the
    /// storage, the other servers need a moment to hand in their entries.
    seen: Option<SharedRound>,
    /// When the storage answered last, and since when it has answered without a gap.
    answered: Option<(Duration, Duration)>,
    looked: bool,
    /// Whether an entry of the shared log differs from this server's.
    differs: bool,
    /// The first entry that this process has computed rather than copied.
    made_from: Option<u64>,
    /// Whether this server has just proven the shared log wrong, and so works on.
    proven: bool,
    replacements: u32,
    /// Since when another server has worked at the same time as this one.
    beside: Option<Duration>,
    /// The rate of this server when it last worked, and when that was.
    measured: Option<(Duration, f64)>,
    /// When this server may try to overtake.
    next_attempt: Option<Duration>,
    /// Whether its next stretch of work is to be an attempt to overtake.
    tries: bool,
    /// Whether it is trying to overtake.
    attempt: bool,
}

impl State {
    /// Begins to work or to follow, with this many entries.
    fn begin(&mut self, role: Role, entries: u64, now: Duration) {
        if role == Role::Works {
            let first = self.made_from.unwrap_or(entries).min(entries);
            self.made_from = Some(first);
        } else {
            let pause = match self.works {
                true => NEXT_ATTEMPT,
                false => FIRST_ATTEMPT,
            };
            self.next_attempt = self.next_attempt.max(Some(now + pause));
        }
        let there = self.seen.as_ref().map_or(0, |seen| seen.entries);
        self.handed_in = there.min(entries);
        self.works = role == Role::Works;
        self.rate = 0.0;
        self.beside = None;
    }
}

/// How the work of this server goes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    leaves_per_second: f64,
    /// How long another server has worked at the same time.
    beside: Duration,
    /// How long it has been trying to overtake, if it is.
    attempt: Option<Duration>,
}

/// The copy of a shared log.
pub(super) struct Feed {
    pub(super) sender: SyncSender<Vec<Node>>,
    /// Moves to what appends the entries.
    pub(super) receiver: Option<Receiver<Vec<Node>>>,
    /// The number of copied entries, and the last one.
    pub(super) entries: u64,
    pub(super) last: Option<Node>,
}

impl Part {
    /// Returns whether the shared log was looked at, successfully or not.
    pub(super) fn has_looked(&self) -> bool {
        self.0.state().looked
    }

    /// Returns whether the proof of the round is published.
    pub(super) fn is_published(&self) -> bool {
        (self.0.state().seen.as_ref()).is_some_and(|seen| seen.published)
    }

    /// Returns the latest known state of the round.
    pub(super) fn seen(&self) -> Option<SharedRound> {
        self.0.state().seen.clone()
    }

    /// Returns the next role of this server, whose role was `before` and whose log has this many
    /// entries.
    pub(super) fn role(&self, entries: u64, before: Role) -> Role {
        let mut state = self.0.state();
        let proven = mem::take(&mut state.proven);
        let tries = mem::take(&mut state.tries);
        state.attempt = tries && state.seen.is_some();
        match &state.seen {
            // A server that cannot reach the storage does not take over, and stops nothing.
            None => before,
            Some(_) if proven || tries => Role::Works,
            Some(seen) => self.0.role(seen, entries),
        }
    }

    /// Returns the role before anything is known.
    pub(super) fn first_role(&self) -> Role {
        match self.0.standby {
            true => Role::Follows,
            false => Role::Works,
        }
    }

    /// Called when the log starts to grow.
    pub(super) fn begin(&self, role: Role, view: LogView) {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state();
        state.begin(role, view.entries(), now);
        state.view = Some(view);
        state.paused = false;
    }

    /// Called when the log stops growing and may be cut. The other servers still see the earlier
    /// role: at the end of a round they wait for the rest of the entries.
    pub(super) fn pause(&self) {
        self.0.state().paused = true;
    }

    /// Sets the speed of this server's work.
    pub(super) fn set_rate(&self, leaves_per_second: f64) {
        self.0.state().rate = leaves_per_second;
    }

    /// Called when the round is over and this server, which has worked, has this many leaves.
    pub(super) fn end(&self, leaves: u64) {
        let mut state = self.0.state();
        state.works = false;
        state.leaves = Some(leaves);
        state.paused = false;
    }

    /// Returns whether an entry of the shared log differs from this server's.
    pub(super) fn differs(&self) -> bool {
        self.0.state().differs
    }

    /// Returns why this server, which has worked for `since`, must stop and follow, if it must.
    pub(super) fn yields(&self, entries: u64, since: Duration) -> Option<&'static str> {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state();
        if since >= MEASURED_AFTER {
            state.measured = Some((now, state.rate));
        }
        let seen = state.seen.as_ref()?;
        let overtaken = state.attempt && self.0.has_overtaken(seen, since);
        let pace = Pace {
            leaves_per_second: state.rate,
            beside: (state.beside).map_or(Duration::ZERO, |first| now.saturating_sub(first)),
            attempt: (state.attempt && !overtaken).then_some(since),
        };
        let yields = self.0.yields(seen, entries, pace);
        if overtaken {
            state.attempt = false;
            drop(state);
            tracing::info!(
                round = self.0.round,
                entries,
                "this server has overtaken the other, and works"
            );
        }
        yields
    }

    /// Returns whether this server, which follows with this many entries, tries to overtake now. Its next
    /// role is then to work.
    pub(super) fn tries_to_overtake(&self, entries: u64) -> bool {
        let now = self.0.clock.monotonic();
        let mut state = self.0.state();
        let rate = state.measured.and_then(|(when, rate)| {
            let counts = now.saturating_sub(when) < RATE_COUNTS;
            counts.then_some(rate)
        });
        let due = state.next_attempt.is_some_and(|next| now >= next);
        let tries = due
            && (state.seen.as_ref()).is_some_and(|seen| self.0.may_overtake(seen, entries, rate));
        state.tries = tries;
        tries
    }

    /// Returns whether this server works to overtake another one.
    pub(super) fn is_attempt(&self) -> bool {
        self.0.state().attempt
    }

    /// Copies new entries of the shared log, for a limited time.
    pub(super) fn copy(&self, feed: &mut Feed) {
        let Inner {
            log, round, clock, ..
        } = &*self.0;
        let end = clock.monotonic() + COPY_TIME;
        while clock.monotonic() < end && !self.differs() {
            let there = self.0.state().seen.as_ref().map_or(0, |seen| seen.entries);
            if there <= feed.entries {
                return;
            }
            // Includes the last entry that is there: if an earlier one differs, so does this one.
            let first = feed.entries.saturating_sub(1);
            let Ok(mut entries) = log.read(*round, first, PIECE) else {
                // The thread that looks at the shared log reports the error.
                return;
            };
            if let Some(last) = &feed.last {
                match entries.first() {
                    // The shared log was cut meanwhile.
                    None => return,
                    Some(entry) if entry != last => {
                        self.0.state().differs = true;
                        return;
                    }
                    Some(_) => drop(entries.remove(0)),
                }
            }
            let (Some(last), count) = (entries.last().copied(), entries.len() as u64) else {
                return;
            };
            match feed.sender.try_send(entries) {
                Ok(()) => {}
                // The disk is slower than the copying.
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => return,
            }
            feed.entries += count;
            feed.last = Some(last);
        }
    }

    /// Returns what to do at the end of a round, which was `waited` ago. `leaves` is `Some` if this
    /// server has worked. Its log has this many entries.
    pub(super) fn at_end(&self, leaves: Option<u64>, entries: u64, waited: Duration) -> AtEnd {
        match &self.0.state().seen {
            // Others may have more.
            None if waited < AWAY_AT_END => AtEnd::Wait,
            None => AtEnd::Away,
            Some(seen) if self.0.is_behind(seen, entries) && waited < PROOF_PATIENCE => {
                AtEnd::Behind
            }
            Some(seen) => self.0.at_end(seen, leaves.is_some(), waited),
        }
    }

    /// Returns the first entry that differs between the local and the shared log, with its shared
    /// value. All later ones differ too.
    ///
    /// # Errors
    /// Fails if one of them cannot be read.
    pub(super) fn first_difference(
        &self,
        own: &mut dyn LogRead,
    ) -> Result<Option<(u64, Node)>, DifferenceError> {
        let Inner { log, round, .. } = &*self.0;
        let there = log.look(*round, None)?.entries;
        let mut differing = None;
        let (mut low, mut high) = (0, there.min(own.entries()));
        while low < high {
            let middle = low + (high - low) / 2;
            let mut entry = [Node::default()];
            own.read(middle, &mut entry)?;
            match log.read(*round, middle, 1)?.first() {
                Some(shared) if *shared != entry[0] => {
                    differing = Some((middle, *shared));
                    high = middle;
                }
                Some(_) => low = middle + 1,
                // The shared log was cut meanwhile.
                None => high = middle,
            }
        }
        Ok(differing)
    }

    /// Called when no difference is known any more.
    pub(super) fn agree(&self) {
        self.0.state().differs = false;
    }

    /// Returns whether this process has computed this entry rather than copied it.
    pub(super) fn has_made(&self, entry: u64) -> bool {
        (self.0.state().made_from).is_some_and(|first| entry >= first)
    }

    /// Returns whether this server may prove the shared log wrong once more.
    pub(super) fn may_replace(&self) -> bool {
        self.0.state().replacements < MAX_REPLACEMENTS
    }

    /// Replaces the shared log from an entry on that was proven wrong, and continues the work.
    ///
    /// # Errors
    /// Fails if the storage does.
    pub(super) fn replace(
        &self,
        entry: u64,
        wrong: &Node,
        own: &mut dyn LogRead,
    ) -> Result<(), DifferenceError> {
        let count = (own.entries() - entry).min(PIECE);
        let mut right = vec![Node::default(); count as usize];
        own.read(entry, &mut right)?;
        let Inner {
            log, round, config, ..
        } = &*self.0;
        log.replace(*round, &config.name, entry, wrong, &right)?;
        let mut state = self.0.state();
        state.replacements += 1;
        state.proven = true;
        state.handed_in = entry + count;
        Ok(())
    }
}

/// Why the first difference could not be found.
#[derive(Debug, thiserror::Error)]
pub(super) enum DifferenceError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Log(#[from] LogError),
}

impl Drop for Part {
    fn drop(&mut self) {
        self.0.stop.store(true, Relaxed);
        // The log may be opened again.
        self.0.state().view = None;
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in entries and looks at the other servers until it is stopped.
    fn keep(&self) {
        let mut failed = false;
        while !self.stop.load(Relaxed) {
            failed = self.turn(failed);
            thread::sleep(INTERVAL);
        }
        self.handle.set_standing(None);
    }

    /// As [`Self::keep`], where nothing may block.
    async fn keep_beside(self: Arc<Self>) {
        let mut failed = false;
        while !self.stop.load(Relaxed) {
            failed = self.turn(failed);
            tokio::time::sleep(INTERVAL).await;
        }
        self.handle.set_standing(None);
    }

    /// Hands in and looks once, which `failed` the last time. Returns whether it fails now.
    fn turn(&self, failed: bool) -> bool {
        let result = self.hand_in().and_then(|()| self.look());
        if let Err(error) = &result
            && !failed
        {
            tracing::warn!(
                round = self.round,
                %error,
                "the log cannot be shared; the work continues, and its entries are shared later"
            );
        } else if result.is_ok() && failed {
            tracing::info!(round = self.round, "the log is shared again");
        }
        let failed = result.is_err();
        let mut state = self.state();
        state.looked = true;
        if failed {
            state.seen = None;
            state.answered = None;
            state.beside = None;
        }
        failed
    }

    /// Hands in the durable entries.
    fn hand_in(&self) -> Result<(), StorageError> {
        while !self.stop.load(Relaxed) {
            let (first, entries) = {
                let state = self.state();
                let Some(view) = &state.view else {
                    return Ok(());
                };
                let hands_in = state.works || state.leaves.is_some();
                if state.differs || state.paused || !hands_in {
                    return Ok(());
                }
                let durable = view.durable_entries();
                if durable <= state.handed_in {
                    return Ok(());
                }
                // Includes the last entry that was handed in: if an earlier one differs, so does
                // this one.
                let first = state.handed_in.saturating_sub(1);
                let mut entries = vec![Node::default(); (durable - first).min(PIECE) as usize];
                let mut view = view.clone();
                if view.read(first, &mut entries).is_err() {
                    // The log was cut just now; or the disk fails, which is reported elsewhere.
                    return Ok(());
                }
                (first, entries)
            };
            let appended = self
                .log
                .append(self.round, &self.config.name, first, &entries)?;
            let mut state = self.state();
            match appended {
                Appended::Done(_) => state.handed_in = first + entries.len() as u64,
                Appended::Gap(there) => state.handed_in = there,
                Appended::Differs(_) => state.differs = true,
                Appended::Published => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reports this server's state and reads that of the others.
    fn look(&self) -> Result<(), StorageError> {
        let own = {
            let state = self.state();
            let durable = state.view.as_ref().map_or(0, LogView::durable_entries);
            // A number of leaves counts only if the server that makes the proof has the entries for
            // it.
            let leaves =
                (state.leaves).filter(|leaves| state.handed_in >= leaves >> self.subtree_height);
            ClusterServer {
                name: self.config.name.clone(),
                seen: Duration::ZERO,
                works: state.works,
                standby: self.standby,
                entries: durable,
                leaves_per_second: state.rate,
                leaves,
            }
        };
        let seen = self.log.look(self.round, Some(&own))?;
        self.handle.set_standing(Some(Standing {
            round: self.round,
            subtree_height: self.subtree_height,
            own: Some(self.config.name.clone()),
            seen: seen.clone(),
        }));
        let mut seen = seen;
        let now = self.clock.monotonic();
        let mut state = self.state();
        let since = match state.answered {
            Some((last, since)) if now.saturating_sub(last) < GAP => since,
            _ => now,
        };
        state.answered = Some((now, since));
        seen.quiet = seen.quiet.min(now.saturating_sub(since));
        state.beside = (self.rivals(&seen).next()).map(|_| state.beside.unwrap_or(now));
        state.seen = Some(seen);
        Ok(())
    }

    fn others<'a>(&self, seen: &'a SharedRound) -> impl Iterator<Item = &'a ClusterServer> {
        let own = self.config.name.clone();
        seen.servers.iter().filter(move |server| server.name != own)
    }

    /// Returns whether this server yields to `server`, because it works.
    fn steps_back_for(&self, server: &ClusterServer) -> bool {
        server.works && server.seen < ALIVE && (!server.standby || self.standby)
    }

    /// The servers at work for which this one steps back.
    fn rivals<'a>(&self, seen: &'a SharedRound) -> impl Iterator<Item = &'a ClusterServer> {
        (self.others(seen)).filter(|server| self.steps_back_for(server))
    }

    /// Returns whether the newest entry is from a standby, and this server is none.
    fn made_by_standby(&self, seen: &SharedRound) -> bool {
        let by = |server: &&ClusterServer| seen.worker.as_ref() == Some(&server.name);
        !self.standby
            && self
                .others(seen)
                .find(by)
                .is_some_and(|server| server.standby)
    }

    /// How long the shared log may be quiet before this server works.
    fn patience(&self) -> Duration {
        match self.standby {
            true => self.config.takeover_after + STANDBY_MARGIN,
            false => self.config.takeover_after,
        }
    }

    fn role(&self, seen: &SharedRound, entries: u64) -> Role {
        let second = (EXPECTED_LEAVES_PER_SECOND >> self.subtree_height).max(1);
        if entries > seen.entries + second {
            // The others see that, and follow.
            return Role::Works;
        }
        let patience = self.patience();
        let by_another = match &seen.worker {
            // At the start of a round, a standby waits.
            None => self.standby,
            Some(name) => *name != self.config.name && !self.made_by_standby(seen),
        };
        let busy = by_another || self.others(seen).any(|server| self.steps_back_for(server));
        match busy && seen.quiet < patience || entries < seen.entries {
            true => Role::Follows,
            false => Role::Works,
        }
    }

    fn yields(&self, seen: &SharedRound, entries: u64, pace: Pace) -> Option<&'static str> {
        let own = &self.config.name;
        let rate = pace.leaves_per_second;
        let per_second = (rate as u64 >> self.subtree_height).max(1);
        let by_another = seen.worker.as_ref().is_some_and(|name| name != own);
        // A standby is about to step back.
        let seconds = match self.made_by_standby(seen) {
            true => STANDBY_AHEAD,
            false => 1,
        };
        let ahead = by_another && seen.entries > entries + seconds * per_second;
        // If nothing of theirs comes, this server continues.
        let comes = seen.quiet < self.patience();
        if self.standby && comes && self.rivals(seen).any(|server| !server.standby) {
            return Some("a server works that is not a standby");
        }
        if let Some(since) = pace.attempt {
            let faster = |server: &ClusterServer| is_clearly_faster(rate, server.leaves_per_second);
            let slow = since >= MEASURED_AFTER && !self.rivals(seen).all(faster);
            return (slow || since >= MAX_ATTEMPT).then_some("this server is not clearly faster");
        }
        if ahead {
            return Some("the shared log is ahead");
        }
        // Of two that are not equal, the faster one gets ahead.
        let equal = |server: &ClusterServer| {
            let other = server.leaves_per_second;
            !is_clearly_faster(rate, other) && !is_clearly_faster(other, rate)
        };
        let before = |server: &ClusterServer| {
            server.name < *own && server.standby == self.standby && equal(server)
        };
        (pace.beside > TIE && self.rivals(seen).any(before)).then_some("another server is as fast")
    }

    /// Returns whether this server, which follows with this many entries, may be faster than the one that
    /// works. Its own rate is known if it has worked lately.
    fn may_overtake(&self, seen: &SharedRound, entries: u64, rate: Option<f64>) -> bool {
        let mut rivals = self.rivals(seen);
        let (Some(worker), None) = (rivals.next(), rivals.next()) else {
            return false;
        };
        let two_seconds = (2.0 * worker.leaves_per_second) as u64 >> self.subtree_height;
        worker.standby == self.standby
            && worker.leaves_per_second > 0.0
            && entries + two_seconds.max(1) >= seen.entries
            && rate.is_none_or(|rate| is_clearly_faster(rate, worker.leaves_per_second))
    }

    /// Returns whether this server, which has tried to overtake for `since`, has succeeded.
    fn has_overtaken(&self, seen: &SharedRound, since: Duration) -> bool {
        let newest = seen.worker.as_ref() == Some(&self.config.name);
        self.rivals(seen).next().is_none() || newest && since >= MEASURED_AFTER
    }

    /// Returns whether a log of this many entries lacks some of the shared one, which is still needed.
    fn is_behind(&self, seen: &SharedRound, entries: u64) -> bool {
        !seen.published && seen.entries > entries
    }

    fn at_end(&self, seen: &SharedRound, worked: bool, waited: Duration) -> AtEnd {
        let own = &self.config.name;
        let finishing = (self.others(seen))
            .any(|server| server.works && server.leaves.is_none() && server.seen < ALIVE);
        let counted = seen.servers.iter().filter(|server| server.leaves.is_some());
        let most = counted.max_by_key(|server| (server.leaves, Reverse(&server.name)));
        let wait = match most {
            _ if seen.published => return AtEnd::Published,
            Some(most) if most.name == *own => finishing && waited < ALIVE,
            Some(most) => {
                if most.seen >= SILENCE || waited >= PROOF_PATIENCE {
                    return AtEnd::Prove(most.leaves);
                }
                true
            }
            None if worked => waited < ALIVE,
            None => finishing && waited < 2 * SILENCE || waited < self.config.takeover_after,
        };
        match wait {
            true => AtEnd::Wait,
            false => AtEnd::Prove(None),
        }
    }
}

fn is_clearly_faster(rate: f64, other: f64) -> bool {
    rate >= CLEARLY_FASTER * other
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    struct Nobody;

    impl SharedLog for Nobody {
        fn look(&self, _: u64, _: Option<&ClusterServer>) -> Result<SharedRound, StorageError> {
            Err(StorageError::new("away"))
        }

        fn append(&self, _: u64, _: &str, _: u64, _: &[Node]) -> Result<Appended, StorageError> {
            Err(StorageError::new("away"))
        }

        fn read(&self, _: u64, _: u64, _: u64) -> Result<Vec<Node>, StorageError> {
            Err(StorageError::new("away"))
        }

        fn replace(
            &self,
            _: u64,
            _: &str,
            _: u64,
            _: &Node,
            _: &[Node],
        ) -> Result<(), StorageError> {
            Err(StorageError::new("away"))
        }
    }

    /// Creates the part of server `m`.
    fn inner(standby: bool) -> Inner {
        Inner {
            log: Arc::new(Nobody),
            config: ClusterConfig {
                name: "m".to_owned(),
                takeover_after: Duration::from_secs(2),
            },
            standby,
            clock: Arc::new(crate::clock::SystemClock),
            round: 0,
            subtree_height: 12,
            handle: WorkerHandle::default(),
            stop: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    fn server(name: &str, works: bool, standby: bool) -> ClusterServer {
        ClusterServer {
            name: name.to_owned(),
            seen: Duration::from_millis(100),
            works,
            standby,
            entries: 1000,
            leaves_per_second: 1e5,
            leaves: None,
        }
    }

    fn seen(worker: Option<&str>, quiet: u64, servers: Vec<ClusterServer>) -> SharedRound {
        SharedRound {
            published: false,
            entries: if worker.is_some() { 1000 } else { 0 },
            quiet: Duration::from_millis(quiet),
            worker: worker.map(str::to_owned),
            servers,
        }
    }

    #[test]
    fn the_log_is_the_election() {
        use Role::{Follows, Works};
        let (on, standby) = (inner(false), inner(true));
        let z = |works, standby| vec![server("z", works, standby)];
        for (worker, quiet, servers, entries, of_on, of_standby) in [
            // The start of a round, and another server has just begun.
            (None, 0, vec![], 0, Works, Follows),
            (None, 3900, vec![], 0, Works, Follows),
            (None, 4100, vec![], 0, Works, Works),
            (None, 100, z(true, false), 0, Follows, Follows),
            // Another server works, and then stops.
            (Some("z"), 100, z(true, false), 1000, Follows, Follows),
            (Some("z"), 1900, z(true, false), 1000, Follows, Follows),
            (Some("z"), 2100, z(true, false), 1000, Works, Follows),
            (Some("z"), 4100, z(true, false), 1000, Works, Works),
            // Not before everything is copied.
            (Some("z"), 9000, vec![], 999, Follows, Follows),
            // This server was restarted.
            (Some("m"), 100, vec![], 1000, Works, Works),
            (Some("m"), 100, z(true, false), 1000, Follows, Follows),
            // This server was cut off, and has more entries.
            (Some("z"), 100, z(true, false), 1030, Works, Works),
            (Some("z"), 100, z(true, false), 1010, Follows, Follows),
            // A standby works.
            (Some("z"), 100, z(true, true), 1000, Works, Follows),
            (Some("z"), 100, z(true, true), 900, Follows, Follows),
        ] {
            let seen = seen(worker, quiet, servers);
            assert_eq!(on.role(&seen, entries), of_on, "{seen:?} {entries}");
            assert_eq!(
                standby.role(&seen, entries),
                of_standby,
                "{seen:?} {entries}"
            );
        }
    }

    /// Works at 24 entries a second, as the others do, and has done so beside another one for some seconds.
    fn pace(beside: u64) -> Pace {
        Pace {
            leaves_per_second: 1e5,
            beside: Duration::from_secs(beside),
            attempt: None,
        }
    }

    #[test]
    fn whoever_is_behind_yields_and_of_two_equals_one() {
        let (on, standby) = (inner(false), inner(true));
        let both = |name| seen(Some(name), 100, vec![server(name, true, false)]);
        assert!(on.yields(&both("z"), 970, pace(1)).is_some());
        assert!(on.yields(&both("z"), 980, pace(1)).is_none());
        assert!(standby.yields(&both("z"), 2000, pace(1)).is_some());
        // Of two equally fast servers, one.
        assert!(on.yields(&both("z"), 1000, pace(40)).is_none());
        assert!(on.yields(&both("a"), 1000, pace(40)).is_some());
        assert!(on.yields(&both("a"), 1000, pace(20)).is_none());
        // Unless they are not equal: then one of them gets ahead.
        for rate in [0.9e5, 1.1e5] {
            let mut unequal = both("a");
            unequal.servers[0].leaves_per_second = rate;
            assert!(on.yields(&unequal, 1000, pace(40)).is_none());
            assert!(on.yields(&unequal, 970, pace(40)).is_some());
        }
        // Not to a standby, which yields itself, unless that has more; nor to a server that was not seen
        // for a while.
        let by_standby = seen(Some("a"), 100, vec![server("a", true, true)]);
        assert!(on.yields(&by_standby, 770, pace(40)).is_none());
        assert!(on.yields(&by_standby, 750, pace(40)).is_some());
        // A standby works on if nothing comes from others.
        let mut quiet = both("z");
        quiet.quiet = Duration::from_secs(5);
        assert!(standby.yields(&quiet, 1000, pace(1)).is_none());
        let mut gone = both("a");
        gone.servers[0].seen = Duration::from_secs(3);
        assert!(on.yields(&gone, 1000, pace(40)).is_none());
        assert!(standby.yields(&gone, 1000, pace(1)).is_none());
    }

    /// The server `m`, at some time.
    fn part(standby: bool) -> (Part, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let part = Part(Arc::new(Inner {
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            ..inner(standby)
        }));
        (part, clock)
    }

    /// Has seen a round in which `worker` works at this rate, and whose newest entry is from `newest`.
    fn see(part: &Part, worker: &str, standby: bool, leaves_per_second: f64, newest: &str) {
        let mut server = server(worker, true, standby);
        server.leaves_per_second = leaves_per_second;
        part.0.state().seen = Some(seen(Some(newest), 100, vec![server]));
    }

    fn begin(part: &Part, role: Role) {
        let now = part.0.clock.monotonic();
        part.0.state().begin(role, 1000, now);
    }

    #[test]
    fn a_faster_server_overtakes_and_one_that_is_not_does_not_try_again_for_long() {
        let (part, clock) = part(false);
        let pass = |seconds| clock.set(clock.now() + Duration::from_secs(seconds));
        begin(&part, Role::Follows);
        see(&part, "z", false, 1e5, "z");
        assert_eq!(part.role(1000, Role::Follows), Role::Follows);
        // Not at once; and not before it has copied everything.
        assert!(!part.tries_to_overtake(1000));
        pass(60);
        assert!(!part.tries_to_overtake(900));
        see(&part, "z", true, 1e5, "z");
        assert!(!part.tries_to_overtake(1000), "a standby steps back anyway");
        see(&part, "z", false, 1e5, "z");
        assert!(part.tries_to_overtake(990));
        assert_eq!(part.role(990, Role::Follows), Role::Works);
        assert!(part.is_attempt());
        begin(&part, Role::Works);
        // Behind at first, which ends nothing. After some seconds it is known to be too slow.
        part.set_rate(1.04e5);
        assert_eq!(part.yields(960, Duration::from_secs(9)), None);
        let why = part.yields(1000, Duration::from_secs(10));
        assert_eq!(why, Some("this server is not clearly faster"));
        assert_eq!(part.role(1000, Role::Works), Role::Follows);
        assert!(!part.is_attempt());
        begin(&part, Role::Follows);
        // Its rate is known now.
        pass(280);
        see(&part, "z", false, 0.5e5, "z");
        assert!(!part.tries_to_overtake(1000), "too soon");
        pass(20);
        see(&part, "z", false, 1e5, "z");
        assert!(!part.tries_to_overtake(1000), "not clearly faster");
        // The other one has become slow.
        see(&part, "z", false, 0.9e5, "z");
        assert!(part.tries_to_overtake(1000));
        assert_eq!(part.role(1000, Role::Follows), Role::Works);
        begin(&part, Role::Works);
        part.set_rate(1.04e5);
        assert_eq!(part.yields(1000, Duration::from_secs(10)), None);
        // Two may work for long, if one of them will be ahead.
        part.0.state().beside = Some(Duration::ZERO);
        see(&part, "a", false, 0.9e5, "a");
        assert_eq!(part.yields(1000, Duration::from_secs(60)), None);
        assert!(part.is_attempt());
        see(&part, "a", false, 0.9e5, "m");
        assert_eq!(part.yields(1000, Duration::from_secs(61)), None);
        assert!(!part.is_attempt(), "it has overtaken");
        assert_eq!(part.yields(1000, Duration::from_secs(900)), None);
    }

    #[test]
    fn an_attempt_to_overtake_ends_in_time_and_an_old_rate_counts_no_more() {
        let (part, clock) = part(false);
        let pass = |seconds| clock.set(clock.now() + Duration::from_secs(seconds));
        begin(&part, Role::Follows);
        pass(60);
        see(&part, "z", false, 1e5, "z");
        assert!(part.tries_to_overtake(1000));
        assert_eq!(part.role(1000, Role::Follows), Role::Works);
        begin(&part, Role::Works);
        part.set_rate(1.06e5);
        assert_eq!(part.yields(990, Duration::from_secs(119)), None);
        assert!(part.yields(990, Duration::from_secs(120)).is_some());
        assert_eq!(part.role(990, Role::Works), Role::Follows);
        begin(&part, Role::Follows);
        see(&part, "z", false, 2e5, "z");
        pass(3500);
        assert!(!part.tries_to_overtake(1000));
        pass(100);
        assert!(part.tries_to_overtake(1000));
        // The other one fails meanwhile: then this is its work.
        assert_eq!(part.role(1000, Role::Follows), Role::Works);
        begin(&part, Role::Works);
        part.set_rate(1e5);
        part.0.state().seen = Some(seen(Some("z"), 100, vec![server("z", false, false)]));
        assert_eq!(part.yields(990, Duration::from_secs(1)), None);
        assert!(!part.is_attempt());
        // While the storage is away nobody tries.
        begin(&part, Role::Follows);
        pass(3600);
        part.0.state().seen = None;
        assert!(!part.tries_to_overtake(1000));
        // A standby overtakes a standby only.
        let (part, clock) = self::part(true);
        begin(&part, Role::Follows);
        clock.set(clock.now() + Duration::from_secs(60));
        see(&part, "z", false, 1e5, "z");
        assert!(!part.tries_to_overtake(1000));
        see(&part, "z", true, 1e5, "z");
        assert!(part.tries_to_overtake(1000));
    }

    #[test]
    fn the_most_leaves_are_proven() {
        let on = inner(false);
        let second = Duration::from_secs(1);
        let with = |own: Option<u64>, other: Option<u64>, age: u64| {
            let mut servers = vec![
                server("m", false, false),
                server("z", other.is_none(), false),
            ];
            servers[0].leaves = own;
            servers[1].leaves = other;
            servers[1].seen = Duration::from_secs(age);
            seen(Some("z"), 100, servers)
        };
        for (own, other, age, waited, expected) in [
            (Some(7), Some(6), 0, 0, AtEnd::Prove(None)),
            (Some(7), Some(7), 0, 0, AtEnd::Prove(None)),
            (Some(7), Some(8), 0, 0, AtEnd::Wait),
            (Some(7), Some(8), 6, 0, AtEnd::Prove(Some(8))),
            (Some(7), Some(8), 0, 121, AtEnd::Prove(Some(8))),
            // The other server is still working; or has gone.
            (Some(7), None, 0, 1, AtEnd::Wait),
            (Some(7), None, 0, 3, AtEnd::Prove(None)),
            (Some(7), None, 3, 1, AtEnd::Prove(None)),
            // A follower.
            (None, Some(8), 0, 3, AtEnd::Wait),
            (None, Some(8), 6, 3, AtEnd::Prove(Some(8))),
            (None, None, 0, 3, AtEnd::Wait),
            (None, None, 3, 1, AtEnd::Wait),
            (None, None, 3, 3, AtEnd::Prove(None)),
        ] {
            let (seen, waited) = (with(own, other, age), waited * second);
            let found = on.at_end(&seen, own.is_some(), waited);
            assert_eq!(found, expected, "{seen:?} {waited:?}");
            let published = SharedRound {
                published: true,
                ..seen
            };
            assert_eq!(
                on.at_end(&published, own.is_some(), waited),
                AtEnd::Published
            );
        }
        let on = Part(Arc::new(on));
        for leaves in [None, Some(7)] {
            assert_eq!(on.at_end(leaves, 7, second), AtEnd::Wait);
            assert_eq!(on.at_end(leaves, 7, 40 * second), AtEnd::Away);
        }
        // Nobody makes the proof without all that was handed in.
        on.0.state().seen = Some(with(Some(7), None, 3));
        for leaves in [None, Some(7)] {
            assert_eq!(on.at_end(leaves, 999, 3 * second), AtEnd::Behind);
            assert_eq!(on.at_end(leaves, 1000, 3 * second), AtEnd::Prove(None));
        }
        on.0.state().seen = None;
        assert_eq!(on.role(5, Role::Works), Role::Works);
        assert_eq!(on.role(5, Role::Follows), Role::Follows);
    }
}
