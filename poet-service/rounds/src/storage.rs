//! What the service stores: its key, the registrations, the rounds and their proofs.
//!
//! A round has a record from the moment it opens. The record tells its state:
//!
//! | record | the round is |
//! |---|---|
//! | exists | open, or closed and not yet started |
//! | with [`Execution`] | being worked on |
//! | with a proof | published |
//!
//! So whenever a process ends, the next one knows how to continue. The early proofs of a round, for
//! nodes with longer cycle gaps, do not affect its state.

mod error;
pub mod shared_log;

use std::{
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

pub use self::error::StorageError;
use self::shared_log::SharedLog;

/// A storage operation that can be awaited without blocking a thread.
pub type StorageFuture<T> = Pin<Box<dyn Future<Output = Result<T, StorageError>> + Send>>;

/// Resolves when a storage has ended.
pub type Ended = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The result of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// The node is a new member.
    New,
    /// The same registration is stored already.
    Already,
    /// The node has registered another challenge.
    Conflict,
    /// The round is full.
    Full,
    /// The round does not, or no longer, take registrations.
    Closed,
}

/// What [`Storage::remove_registrations`] removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// Registrations of a round.
    Registrations {
        /// The round.
        round: u64,
        /// How many.
        count: u64,
    },
    /// Space that earlier removals had freed.
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
    /// Returns the round as the engine describes it, with its `work` function.
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

/// What is known about a round without reading its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundRecord {
    /// Its number.
    pub round: u64,
    /// Whether its membership is settled.
    pub settled: bool,
    /// Present once its proof is published.
    pub published: Option<PublishedRecord>,
}

/// What is known about a published round without reading its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedRecord {
    /// Leaves of the tree.
    pub leaves: u64,
    /// The number of members.
    pub members: u64,
}

/// What is known about an early proof without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyProofRecord {
    /// Its round.
    pub round: u64,
    /// The cycle gap that it was made for.
    pub gap: Duration,
    /// Leaves of the tree.
    pub leaves: u64,
}

/// The challenges of the proof of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowChallenges {
    /// The one that clients should use.
    pub current: Node,
    /// The one before it, still accepted.
    pub previous: Option<Node>,
}

/// Values that are stored once, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// The server's private key, 64 bytes.
    PrivateKey,
    /// The schedule that the rounds belong to, as text.
    Schedule,
    /// Leaves in a tick, 8 bytes, big-endian.
    TickLeaves,
}

/// The storage that registration and rounds need. When a method returns, or its future resolves,
/// its writes are durable.
///
/// Methods that return no future may block.
pub trait Storage: Send + Sync + 'static {
    /// Returns a stored setting.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError>;

    /// Stores a setting.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError>;

    /// Stores a setting unless there is one. Returns the stored one: if servers share the storage,
    /// that of the first.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn claim_setting(&self, setting: Setting, value: &[u8]) -> Result<Vec<u8>, StorageError> {
        if let Some(stored) = self.setting(setting)? {
            return Ok(stored);
        }
        self.store_setting(setting, value)?;
        Ok(value.to_vec())
    }

    /// Returns the challenges of the proof of work, if there are any yet.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError>;

    /// Stores the challenges of the proof of work.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError>;

    /// Stores the challenges of the proof of work unless there are some. Returns the stored ones.
    ///
    /// # Errors
    /// Fails if the storage does.
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

    /// Returns the rounds that were opened and have no proof, in increasing order.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError>;

    /// Returns the first unsettled round whose number is at least `from`.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError>;

    /// Opens `round` for registration and closes the open one: earlier calls of
    /// [`Storage::register`] are stored, later ones for another round get [`Registered::Closed`].
    /// Resolves to the number of members that `round` has already.
    fn open_round(&self, round: u64) -> StorageFuture<u64>;

    /// Registers `member` for `round`, unless the round has `max_members` already.
    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered>;

    /// Returns the number of operations that wait to be written.
    fn queued(&self) -> usize;

    /// Returns the number of members of a round.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn member_count(&self, round: u64) -> Result<u64, StorageError>;

    /// Checks that the storage can be read and written. Writes nothing if a write has succeeded
    /// recently.
    fn probe(&self) -> StorageFuture<()>;

    /// Ends the storage: tidies up, and accepts no more writes.
    fn close(&self) -> StorageFuture<()> {
        Box::pin(async { Ok(()) })
    }

    /// Waits until the storage stops working because a part of it has ended. Never resolves for a
    /// storage without such parts.
    fn ended(&self) -> Ended {
        Box::pin(future::pending())
    }

    /// Returns the newest `count` rounds that were opened, the newest first.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError>;

    /// Returns a round, if it was opened.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError>;

    /// Returns the registrations of a round, in the byte order of their node ids.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError>;

    /// Returns whether a node has registered for `round`. Takes as long as reading all
    /// registrations, but constant memory.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError>;

    /// Returns the challenges of a round, in the byte order of their node ids.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError>;

    /// Stores what the work of `round` is bound to.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError>;

    /// Stores the proof of `round` and makes its root the new challenge of the proof of work,
    /// unless the proof is empty, in one transaction. Returns the challenges. They must exist
    /// already.
    ///
    /// # Errors
    /// Fails if the storage fails, or the round has another proof.
    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError>;

    /// Removes at most `count` registrations of the oldest published round below `before` that has
    /// any. If no round has any, returns some space to the file system.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError>;

    /// Returns the proof of `round`.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError>;

    /// Stores a proof of `round` that was made before its end, for nodes whose cycle gap is `gap`.
    /// Its members are those of the round.
    ///
    /// # Errors
    /// Fails if the storage fails, or has such a proof already.
    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError>;

    /// Returns the proof of `round` that was made before its end for nodes whose cycle gap is
    /// `gap`.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError>;

    /// Returns the early proofs of these rounds, ordered by round and gap.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError>;

    /// Returns whether other servers may use this storage at the same time.
    fn shared(&self) -> bool {
        false
    }

    /// Returns the logs that servers share, if they share the storage.
    fn shared_log(&self) -> Option<Arc<dyn SharedLog>> {
        None
    }

    /// Returns how far this machine's clock is ahead of the storage's, if that has a clock and was
    /// asked.
    fn clock_offset(&self) -> Option<SignedDuration> {
        None
    }
}
