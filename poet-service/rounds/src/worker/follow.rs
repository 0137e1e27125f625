//! What a server does with a round that it shares with other servers: whether to work or to follow,
//! what to do about entries that differ, and who makes the proof.

use std::{
    sync::{
        atomic::AtomicU64,
        mpsc::{Receiver, sync_channel},
    },
    time::Duration,
};

use poet_engine::{LogError, LogRead as _, Node, Tree, Work, file::LogView, run};

use super::{
    handle::{LOG_INTERVAL, WorkerHandle},
    hashing::Hashing,
    job::{Job, WorkError},
    shared::{AtEnd, DifferenceError, Feed, Part, Role},
};
use crate::{blocking::blocking, clock::Clock};

/// How long the start of the work waits for the shared log.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// Copied pieces that may wait for the disk.
const QUEUED_PIECES: usize = 4;

/// What a server does until something changes.
pub(super) enum Stretch<'a> {
    /// It works, and does not share the round.
    Alone,
    /// It works and hands in its entries.
    Works(&'a Part),
    /// It copies the entries of another server.
    Follows(&'a Part, Feed),
}

impl Stretch<'_> {
    pub(super) fn follows(&self) -> bool {
        matches!(self, Self::Follows(..))
    }

    /// Where another server's entries come from, if this one follows.
    pub(super) fn take_entries(&mut self) -> Option<Receiver<Vec<Node>>> {
        match self {
            Self::Follows(_, feed) => feed.receiver.take(),
            _ => None,
        }
    }

    /// The speed of the server that this one follows, if it follows one.
    pub(super) fn followed_rate(&self) -> Option<f64> {
        let Self::Follows(part, _) = self else {
            return None;
        };
        let seen = part.seen();
        let mut working = seen
            .iter()
            .flat_map(|seen| &seen.servers)
            .filter(|server| server.works);
        Some(
            working
                .next()
                .map_or(0.0, |server| server.leaves_per_second),
        )
    }

    pub(super) fn begin(&self, view: LogView) {
        match self {
            Self::Alone => {}
            Self::Works(part) => part.begin(Role::Works, view),
            Self::Follows(part, _) => part.begin(Role::Follows, view),
        }
    }

    /// From now on, the log may be cut.
    pub(super) fn pause(&self) {
        if let Self::Works(part) | Self::Follows(part, _) = self {
            part.pause();
        }
    }

    /// Does what is due during the round. Returns why the stretch must end, if it must. `entries`
    /// are durable, at this rate, and the stretch has lasted for `since`.
    pub(super) fn step(
        &mut self,
        entries: u64,
        leaves_per_second: f64,
        since: Duration,
    ) -> Option<&'static str> {
        match self {
            Self::Alone => None,
            Self::Works(part) => {
                part.set_rate(leaves_per_second);
                if part.is_published() {
                    return Some("the proof is published");
                }
                if part.differs() {
                    return Some("an entry differs from the shared log");
                }
                part.yields(entries, since)
            }
            Self::Follows(part, feed) => {
                if part.is_published() {
                    return Some("the proof is published");
                }
                blocking(|| part.copy(feed));
                if part.differs() {
                    return Some("an entry differs from the shared log");
                }
                if part.role(feed.entries, Role::Follows) == Role::Works {
                    return Some("nobody else works");
                }
                (part.tries_to_overtake(feed.entries)).then_some("this server may be faster")
            }
        }
    }

    /// Does what is due after the round. Returns whether the stretch continues, because entries of
    /// others are still missing.
    pub(super) fn step_at_end(&mut self, waited: Duration) -> bool {
        let Self::Follows(part, feed) = self else {
            return false;
        };
        blocking(|| part.copy(feed));
        let due = part.at_end(None, feed.entries, waited);
        !part.differs() && matches!(due, AtEnd::Wait | AtEnd::Behind)
    }
}

/// A round that servers share, and what its worker needs for that.
pub(super) struct Sharing<'a, H> {
    pub(super) part: Part,
    pub(super) job: &'a Job,
    pub(super) work: &'a Work,
    pub(super) hashing: &'a H,
    pub(super) clock: &'a dyn Clock,
    pub(super) handle: &'a WorkerHandle,
}

impl<H: Hashing> Sharing<'_, H> {
    /// Waits for the first look at the shared log, but not for long.
    pub(super) async fn await_first_look(&self) {
        let start = self.clock.monotonic();
        while !self.part.has_looked() && self.clock.monotonic().saturating_sub(start) < FIRST_LOOK {
            if self.handle.wait_for_stop(LOG_INTERVAL).await {
                return;
            }
        }
    }

    /// Returns what this server, whose role was `role`, does next. A follower's tree has no leaves
    /// beyond the log.
    pub(super) fn next_stretch(
        &self,
        role: &mut Role,
        tree: &mut Tree,
        log: &mut H::Log,
    ) -> Result<Stretch<'_>, WorkError> {
        let (job, part) = (self.job, &self.part);
        let (entries, before) = (log.entries(), *role);
        *role = part.role(entries, before);
        let others = part.seen().unwrap_or_default();
        let worker = others.worker.as_deref().unwrap_or("nobody");
        let shared = others.entries;
        if *role == Role::Works {
            let does = match part.is_attempt() {
                false => "this server works",
                true => "this server tries to overtake",
            };
            tracing::info!(round = job.round, entries, shared, worker, "{does}");
            return Ok(Stretch::Works(part));
        }
        tracing::info!(
            round = job.round,
            entries,
            shared,
            worker,
            "this server follows"
        );
        if tree.leaves() != entries << job.execution.subtree_height.get() {
            *tree = job.execution.round_work(self.work).resume(log)?;
        }
        let (sender, receiver) = sync_channel(QUEUED_PIECES);
        let last = match entries.checked_sub(1) {
            Some(last) => {
                let mut entry = [Node::default()];
                log.read(last, &mut entry)?;
                Some(entry[0])
            }
            None => None,
        };
        let feed = Feed {
            sender,
            receiver: Some(receiver),
            entries,
            last,
        };
        Ok(Stretch::Follows(part, feed))
    }

    /// Called when an entry of the shared log differs from this server's. Recomputes it; whichever
    /// log was wrong goes back. Returns the tree that the log then represents.
    pub(super) fn settle_difference(
        &self,
        tree: Tree,
        log: &mut H::Log,
    ) -> Result<Tree, WorkError> {
        let (job, part) = (self.job, &self.part);
        part.agree();
        let (entry, theirs) = match part.first_difference(log) {
            Ok(Some(difference)) => difference,
            Ok(None) => return Ok(tree),
            Err(DifferenceError::Log(error)) => return Err(error.into()),
            Err(DifferenceError::Storage(error)) => {
                tracing::warn!(round = job.round, %error, "cannot compare with the shared log");
                return Ok(tree);
            }
        };
        self.handle.state().disagreements += 1;
        let round = job.round;
        let work = job.execution.round_work(self.work);
        let mut own = [Node::default()];
        log.read(entry, &mut own)?;
        let right = work.recompute_entry(log, entry)?;
        if right == own[0] && part.may_replace() {
            let worker = part.seen().and_then(|seen| seen.worker);
            let worker = worker.as_deref().unwrap_or("unknown");
            tracing::error!(
                round,
                entry,
                worker,
                "ALARM: the shared log is wrong from this entry on: memory or CPU of the server \
                 that shared it are unreliable; it is replaced"
            );
            match part.replace(entry, &theirs, log) {
                Err(DifferenceError::Log(error)) => return Err(error.into()),
                Err(DifferenceError::Storage(error)) => {
                    tracing::warn!(round, %error, "cannot replace the wrong entries");
                }
                Ok(()) => {}
            }
            return Ok(tree);
        }
        let first_leaf = entry << job.execution.subtree_height.get();
        if part.has_made(entry) {
            tracing::error!(
                round,
                entry,
                first_leaf,
                "ALARM: this server's work went wrong, and continues from the shared log: its \
                 memory or CPU are \
                 unreliable"
            );
        } else {
            tracing::error!(
                round,
                entry,
                first_leaf,
                "ALARM: entries that were copied from the shared log are wrong, and are copied again"
            );
        }
        self.hashing.cut_log(log, entry)?;
        Ok(work.resume(log)?)
    }

    /// Waits for what is due at the end of a round. `leaves` is `Some` if this server has worked; its log
    /// has this many entries.
    pub(super) async fn await_end(
        &self,
        leaves: Option<u64>,
        entries: u64,
        waited: Duration,
    ) -> AtEnd {
        let start = self.clock.monotonic();
        loop {
            let waited = waited + self.clock.monotonic().saturating_sub(start);
            let due = self.part.at_end(leaves, entries, waited);
            if due != AtEnd::Wait || self.handle.wait_for_stop(LOG_INTERVAL).await {
                return due;
            }
        }
    }

    /// Returns the tree of this many leaves, if the log represents all of them except an incomplete
    /// last subtree; otherwise `tree`.
    pub(super) fn tree_of(
        &self,
        leaves: u64,
        tree: Tree,
        log: &mut H::Log,
    ) -> Result<Tree, LogError> {
        let subtree_height = self.job.execution.subtree_height;
        let entries = leaves >> subtree_height.get();
        if entries > log.entries() {
            return Ok(tree);
        }
        let work = self.job.execution.round_work(self.work);
        let mut tree = work.resume_at(log, entries)?;
        let (target, progress) = (AtomicU64::new(leaves), AtomicU64::new(0));
        run(&mut tree, subtree_height, &target, &progress, |_| {});
        Ok(tree)
    }
}
