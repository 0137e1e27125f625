//! A storage that commits in groups, takes time, fails, and crashes with the process in any of its
//! operations. Behind it is a storage that does not fail and holds the durable state.

use std::{
    future::Future,
    ops::RangeInclusive,
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{
    Challenge, EarlyProofRecord, Execution, Member, NodeId, PowChallenges, Registered, Removed,
    RoundRecord, Setting, Storage, StorageError, StorageFuture, UnfinishedRound,
};
use tokio::sync::{Notify, oneshot};

use crate::world::{Event, Fate, World, refused};

fn stopped() -> StorageError {
    StorageError::new("the storage has stopped")
}

/// A write.
#[derive(Clone)]
pub(crate) enum Command {
    OpenRound(u64),
    Register(u64, Member, u64),
    Probe,
    Setting(Setting, Vec<u8>),
    Challenges(PowChallenges),
    Settle(u64, Execution),
    Publish(u64, Arc<PublishedProof>),
    PublishEarly(u64, Duration, Arc<PublishedProof>),
    Remove(u64, u32),
}

/// The result of a write.
enum Outcome {
    Nothing,
    Opened(u64),
    Registered(Registered),
    Published(PowChallenges),
    Removed(Removed),
}

impl Command {
    /// Concurrent registrations have no order. Which of several waiting tasks tokio wakes first
    /// differs between two runs, so this sorts them.
    fn order(&self) -> Option<(u64, NodeId, Challenge)> {
        match self {
            Self::Register(round, member, _) => Some((*round, member.node_id, member.challenge)),
            _ => None,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::OpenRound(round) => format!("open {round}"),
            Self::Register(round, member, _) => {
                format!("register {:02x?} for {round}", &member.node_id.0[..2])
            }
            Self::Probe => "probe".to_owned(),
            Self::Setting(setting, _) => format!("store {setting:?}"),
            Self::Challenges(_) => "store challenges".to_owned(),
            Self::Settle(round, execution) => {
                format!(
                    "settle {round} at height {}",
                    execution.subtree_height.get()
                )
            }
            Self::Publish(round, _) => format!("publish {round}"),
            Self::PublishEarly(round, gap, _) => format!("publish {round} for gap {gap:?}"),
            Self::Remove(before, count) => {
                format!("remove {count} registrations of rounds before {before}")
            }
        }
    }

    fn apply(self, world: &World, storage: &dyn Storage) -> Result<Outcome, StorageError> {
        Ok(match self {
            Self::OpenRound(round) => Outcome::Opened(now(storage.open_round(round))?),
            Self::Register(round, member, max_members) => {
                let registered = now(storage.register(round, member, max_members))?;
                Outcome::Registered(registered)
            }
            Self::Probe => {
                now(storage.probe())?;
                Outcome::Nothing
            }
            Self::Setting(setting, value) => {
                storage.store_setting(setting, &value)?;
                Outcome::Nothing
            }
            Self::Challenges(challenges) => {
                storage.store_pow_challenges(&challenges)?;
                Outcome::Nothing
            }
            Self::Settle(round, execution) => {
                world.settling(round, &execution.statement);
                storage.settle_round(round, &execution)?;
                Outcome::Nothing
            }
            Self::Publish(round, proof) => {
                world.publishing(round, &proof);
                let challenges = storage.publish(round, Arc::clone(&proof))?;
                world.published(round, proof);
                Outcome::Published(challenges)
            }
            Self::PublishEarly(round, gap, proof) => {
                world.publishing_early(round, gap, &proof);
                storage.store_early_proof(round, gap, Arc::clone(&proof))?;
                world.published_early(round, gap, proof);
                Outcome::Nothing
            }
            Self::Remove(before, count) => {
                Outcome::Removed(storage.remove_registrations(before, count)?)
            }
        })
    }
}

/// Returns the value of a future that does not wait.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the storage behind the faults waits"),
    }
}

type Reply = oneshot::Sender<Result<Outcome, StorageError>>;

/// The storage as one process sees it.
pub(crate) struct FaultyStorage {
    world: Arc<World>,
    behind: Arc<dyn Storage>,
    waiting: Mutex<Vec<(Command, Reply)>>,
    changed: Notify,
    /// The open round, as the process opened it.
    open: Mutex<Option<u64>>,
}

impl FaultyStorage {
    /// Must be called in the runtime of the process.
    pub(crate) fn start(world: Arc<World>, behind: Arc<dyn Storage>) -> Arc<Self> {
        let storage = Arc::new(Self {
            world,
            behind,
            waiting: Mutex::default(),
            changed: Notify::new(),
            open: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&storage).write());
        storage
    }

    /// A transaction whose commit failed may be found complete after a restart, if nothing was
    /// committed since.
    pub(crate) fn reappear(world: &World, storage: &dyn Storage) {
        let limbo = std::mem::take(&mut world.state().limbo);
        if limbo.is_empty() || world.chance(500) {
            return;
        }
        world.count(Event::Reappeared);
        for command in limbo {
            world.note(format_args!("reappears: {}", command.name()));
            command.apply(world, storage).unwrap();
        }
    }

    /// Writes everything in the queue at once.
    async fn write(self: Arc<Self>) {
        loop {
            self.changed.notified().await;
            let bound = if self.world.state().faults.slow {
                4000
            } else {
                8
            };
            let took = Duration::from_millis(self.world.below(bound).into());
            tokio::time::sleep(took).await;
            if bound > 8 {
                self.world.trouble();
            }
            // The waiting callers were notified of the failure.
            drop(self.flush());
        }
    }

    fn flush(&self) -> Result<(), StorageError> {
        let mut waiting = std::mem::take(&mut *self.waiting.lock().unwrap());
        if waiting.is_empty() {
            return Ok(());
        }
        for concurrent in waiting
            .chunk_by_mut(|(one, _), (other, _)| one.order().is_some() && other.order().is_some())
        {
            concurrent.sort_by_key(|(command, _)| command.order());
        }
        let (commands, replies): (Vec<_>, Vec<_>) = waiting.into_iter().unzip();
        let (outcomes, result) = match self.commit(commands) {
            Ok(outcomes) => (outcomes.into_iter().map(Ok).collect(), Ok(())),
            Err(error) => {
                let failed = || Err(StorageError::new("the transaction failed"));
                let outcomes: Vec<_> = replies.iter().map(|_| failed()).collect();
                (outcomes, Err(error))
            }
        };
        for (reply, outcome) in replies.into_iter().zip(outcomes) {
            // The caller may be gone.
            drop(reply.send(outcome));
        }
        result
    }

    /// Commits a transaction, or fails.
    fn commit(&self, commands: Vec<Command>) -> Result<Vec<Outcome>, StorageError> {
        let names: Vec<_> = commands.iter().map(Command::name).collect();
        let fate = self
            .world
            .fate(format_args!("commit {}", names.join(", ")), true);
        match fate {
            Fate::Done | Fate::CrashAfter => {}
            Fate::Over => return Err(stopped()),
            Fate::Fails | Fate::CrashBefore => {
                self.world.count(Event::FailedTransaction);
                let before = self.open.lock().unwrap().map(Command::OpenRound);
                self.world.state().limbo = before.into_iter().chain(commands).collect();
                return Err(StorageError::new(refused(&self.world)));
            }
        }
        self.world.state().limbo.clear();
        let mut outcomes = Vec::new();
        for command in commands {
            if let Command::OpenRound(round) = command {
                self.world.opening(round);
                *self.open.lock().unwrap() = Some(round);
            }
            outcomes.push(command.apply(&self.world, &*self.behind)?);
        }
        if fate == Fate::CrashAfter {
            return Err(stopped());
        }
        Ok(outcomes)
    }

    /// Commits at once, after everything in the queue.
    fn commit_now(&self, command: Command) -> Result<Outcome, StorageError> {
        // The callers in the queue are notified.
        drop(self.flush());
        self.commit(vec![command])?.pop().ok_or_else(stopped)
    }

    /// Commits with whatever else is in the queue by then.
    fn commit_soon<T: Send + 'static>(
        &self,
        command: Command,
        take: impl FnOnce(Outcome) -> Option<T> + Send + 'static,
    ) -> StorageFuture<T> {
        let (reply, answer) = oneshot::channel();
        self.waiting.lock().unwrap().push((command, reply));
        self.changed.notify_one();
        Box::pin(async move {
            let outcome = answer.await.map_err(|_| stopped())??;
            take(outcome).ok_or_else(stopped)
        })
    }

    fn read<T>(
        &self,
        what: &str,
        read: impl FnOnce(&dyn Storage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match self.world.fate(format_args!("read {what}"), false) {
            Fate::Done => read(&*self.behind),
            Fate::Fails => {
                self.world.count(Event::FailedRead);
                Err(StorageError::new(refused(&self.world)))
            }
            Fate::CrashBefore | Fate::CrashAfter | Fate::Over => Err(stopped()),
        }
    }
}

impl Storage for FaultyStorage {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        self.read("a setting", |storage| storage.setting(setting))
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        self.commit_now(Command::Setting(setting, value.to_vec()))
            .map(drop)
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        self.read("challenges", |storage| storage.pow_challenges())
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        self.commit_now(Command::Challenges(challenges.clone()))
            .map(drop)
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        self.read("unfinished rounds", |storage| storage.unfinished_rounds())
    }

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        self.read("the first unsettled round", |storage| {
            storage.first_unsettled_round(from)
        })
    }

    fn open_round(&self, round: u64) -> StorageFuture<u64> {
        self.commit_soon(Command::OpenRound(round), |outcome| match outcome {
            Outcome::Opened(members) => Some(members),
            _ => None,
        })
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered> {
        let command = Command::Register(round, member, max_members);
        self.commit_soon(command, |outcome| match outcome {
            Outcome::Registered(registered) => Some(registered),
            _ => None,
        })
    }

    fn queued(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        self.read("the member count", |storage| storage.member_count(round))
    }

    fn probe(&self) -> StorageFuture<()> {
        self.commit_soon(Command::Probe, |_| Some(()))
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        self.read("the newest rounds", |storage| storage.newest_rounds(count))
    }

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        self.read("a round", |storage| storage.round(round))
    }

    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        self.read("a registration", |storage| {
            storage.is_member(round, node_id)
        })
    }

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        self.read("registrations", |storage| storage.registrations(round))
    }

    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        self.read("members", |storage| storage.members(round))
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        self.commit_now(Command::Settle(round, execution.clone()))
            .map(drop)
    }

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        match self.commit_now(Command::Publish(round, proof))? {
            Outcome::Published(challenges) => Ok(challenges),
            _ => Err(stopped()),
        }
    }

    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError> {
        match self.commit_now(Command::Remove(before, count))? {
            Outcome::Removed(removed) => Ok(removed),
            _ => Err(stopped()),
        }
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        self.read("a proof", |storage| storage.proof(round))
    }

    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        self.commit_now(Command::PublishEarly(round, gap, proof))
            .map(drop)
    }

    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        self.read("an early proof", |storage| storage.early_proof(round, gap))
    }

    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        self.read("the early proofs", |storage| storage.early_proofs(rounds))
    }
}
