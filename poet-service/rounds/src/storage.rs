//! What the service remembers: its key, the registrations, the rounds and their proofs.
//!
//! A round has a record here from the moment it opens. Its life is told by what the record holds:
//!
//! | record | the round is |
//! |---|---|
//! | there | open, or closed and not yet started |
//! | with [`Execution`] | being worked on |
//! | with a proof | published |
//!
//! so that whatever the moment at which a process ends, the next one knows how to go on. The
//! early proofs of a round, for nodes with longer cycle gaps, change nothing of that.

pub mod shared_log;

use std::{
    error::Error,
    fmt,
    future::{self, Future},
    ops::RangeInclusive,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use jiff::SignedDuration;
use poet_engine::{Node, RoundWork, SubtreeHeight, Work};
pub use poet_proto::member::{Challenge, Member, NodeId};
use poet_proto::messages::PublishedProof;

use self::shared_log::SharedLog;

/// A storage operation that is waited for without blocking a thread.
pub type StorageFuture<T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send>>;

/// The end of a storage, which is waited for.
pub type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What became of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// It is a new member.
    New,
    /// The same registration was there already.
    Already,
    /// The node has registered another challenge.
    Conflict,
    /// The round has no room.
    Full,
    /// The round does not take registrations (any more).
    Closed,
}

/// What was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Registrations of a round.
    Registrations {
        /// Which round.
        round: u64,
        /// How many.
        count: u64,
    },
    /// Space that what was removed before had left.
    Space,
    /// There was nothing to remove.
    Nothing,
}

/// What the work of a round is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// The membership root.
    pub statement: Vec<u8>,
    /// The height of the subtrees in the round's tree log.
    pub subtree_height: SubtreeHeight,
}

impl Execution {
    /// The round as the engine knows it, by its `work` function.
    pub fn round_work<'a>(&'a self, work: &'a Work) -> RoundWork<'a> {
        RoundWork::new(work, &self.statement, self.subtree_height)
    }
}

/// A round that was opened and has no proof yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfinishedRound {
    /// Its number.
    pub round: u64,
    /// Present once its membership is settled.
    pub execution: Option<Execution>,
}

/// What is known of a round without reading its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundRecord {
    /// Its number.
    pub round: u64,
    /// Whether its membership is settled.
    pub settled: bool,
    /// Present once its proof is published.
    pub published: Option<PublishedRecord>,
}

/// What is known of a published round without reading its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedRecord {
    /// Leaves of the tree.
    pub leaves: u64,
    /// How many members it has.
    pub members: u64,
}

/// What is known of an early proof without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyProofRecord {
    /// Its round.
    pub round: u64,
    /// The cycle gap for which it was made.
    pub gap: Duration,
    /// Leaves of the tree.
    pub leaves: u64,
}

/// The challenges of the proof of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowChallenges {
    /// What clients are told to use.
    pub current: Node,
    /// What they were told before; still accepted.
    pub previous: Option<Node>,
}

/// Things that are stored once, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The server's private key, 64 bytes.
    PrivateKey,
    /// The schedule that the rounds belong to, as text.
    Schedule,
    /// Leaves in a tick, 8 bytes, big-endian.
    TickLeaves,
}

/// Why the storage failed. The text says it; the rounds do not tell causes apart.
#[derive(Debug)]
pub struct StorageError(Box<dyn Error + Send + Sync>);

impl StorageError {
    /// A failure for this reason.
    pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }

    /// The reason, as the storage knows it.
    pub fn cause(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.0
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for StorageError {}

/// The storage that registration and rounds need. When a method returns, or its future resolves,
/// what it wrote is durable.
///
/// Methods that return no future may block.
pub trait Storage: Send + Sync + 'static {
    /// A stored setting.
    ///
    /// # Errors
    /// When the storage fails.
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError>;

    /// Stores a setting.
    ///
    /// # Errors
    /// When the storage fails.
    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError>;

    /// Stores a setting unless there is one. Returns the one that is stored then: of several servers
    /// that share the storage, the first one's.
    ///
    /// # Errors
    /// When the storage fails.
    fn claim_setting(&self, setting: Setting, value: &[u8]) -> Result<Vec<u8>, StorageError> {
        if let Some(stored) = self.setting(setting)? {
            return Ok(stored);
        }
        self.store_setting(setting, value)?;
        Ok(value.to_vec())
    }

    /// The challenges of the proof of work, if there are any yet.
    ///
    /// # Errors
    /// When the storage fails.
    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError>;

    /// Stores the challenges of the proof of work.
    ///
    /// # Errors
    /// When the storage fails.
    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError>;

    /// Stores the challenges of the proof of work unless there are some. Returns those that are stored
    /// then.
    ///
    /// # Errors
    /// When the storage fails.
    fn claim_pow_challenges(
        &self,
        challenges: &PowChallenges,
    ) -> Result<PowChallenges, StorageError> {
        if let Some(stored) = self.pow_challenges()? {
            return Ok(stored);
        }
        self.store_pow_challenges(challenges)?;
        Ok(challenges.clone())
    }

    /// Rounds that were opened and have no proof, in increasing order.
    ///
    /// # Errors
    /// When the storage fails.
    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError>;

    /// The first round, from number `from` on, whose membership is not settled.
    ///
    /// # Errors
    /// When the storage fails.
    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError>;

    /// Opens `round` for registration and closes whichever was open: registrations that were
    /// handed over before are in, later ones for another round get [`Registered::Closed`].
    /// Resolves to the number of members that `round` has already.
    fn open_round(&self, round: u64) -> StorageFuture<u64>;

    /// Registers `member` for `round`, unless the round has `max_members` already.
    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered>;

    /// Operations that wait to be written.
    fn queued(&self) -> usize;

    /// How many members a round has.
    ///
    /// # Errors
    /// When the storage fails.
    fn member_count(&self, round: u64) -> Result<u64, StorageError>;

    /// Finds out whether something can be read and written, without writing if that has succeeded a
    /// short while ago.
    fn probe(&self) -> StorageFuture<()>;

    /// Ends the storage: what can be tidied up is, and nothing is written any more.
    fn close(&self) -> StorageFuture<()> {
        Box::pin(async { Ok(()) })
    }

    /// Waits until the storage can do nothing any more, because a part of it has ended. Of one without
    /// parts of its own, that never happens.
    fn ended(&self) -> Ended {
        Box::pin(future::pending())
    }

    /// The newest rounds that were opened, at most `count`, the newest one first.
    ///
    /// # Errors
    /// When the storage fails.
    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError>;

    /// A round, if it was opened.
    ///
    /// # Errors
    /// When the storage fails.
    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError>;

    /// The registrations of a round, in the byte order of their node ids.
    ///
    /// # Errors
    /// When the storage fails.
    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError>;

    /// Whether a node has registered for `round`. Takes as long as reading all registrations, but no
    /// memory.
    ///
    /// # Errors
    /// When the storage fails.
    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError>;

    /// The challenges of a round, in the byte order of their node ids.
    ///
    /// # Errors
    /// When the storage fails.
    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError>;

    /// Records what the work of `round` is bound to.
    ///
    /// # Errors
    /// When the storage fails.
    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError>;

    /// Stores the proof of `round` and makes its root the new challenge of the proof of work, unless
    /// the proof is empty, in one transaction. Returns the challenges, which exist already.
    ///
    /// # Errors
    /// When the storage fails, or the round has another proof.
    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError>;

    /// Removes at most `count` registrations of the oldest published round below `before` that has some.
    /// Where none has, gives some space back to the file system.
    ///
    /// # Errors
    /// When the storage fails.
    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError>;

    /// The proof of `round`.
    ///
    /// # Errors
    /// When the storage fails.
    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError>;

    /// Stores a proof of `round` that was made before its end, for nodes whose cycle gap is `gap`. Its
    /// members are the round's.
    ///
    /// # Errors
    /// When the storage fails, or there is one.
    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError>;

    /// The proof of `round` that was made before its end for nodes whose cycle gap is `gap`.
    ///
    /// # Errors
    /// When the storage fails.
    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError>;

    /// The early proofs of these rounds, in the order of rounds and gaps.
    ///
    /// # Errors
    /// When the storage fails.
    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError>;

    /// Whether other servers may use it at the same time.
    fn shared(&self) -> bool {
        false
    }

    /// The logs of rounds that servers share, where they share the storage.
    fn shared_log(&self) -> Option<Arc<dyn SharedLog>> {
        None
    }

    /// How far the clock of this machine is ahead of the storage's, if that has one and was asked.
    fn clock_offset(&self) -> Option<SignedDuration> {
        None
    }
}
