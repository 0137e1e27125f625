//! The log of a round that several servers share. It decides who works: the server with the longest log
//! does, others copy its entries, and go on when the log no longer grows. What servers do at the same
//! time cannot conflict, since all sound ones make the same entries.

use std::time::Duration;

use poet_engine::Node;

use super::StorageError;

/// Where servers share the logs of rounds. All methods may block, for seconds at most, and whatever they
/// do can be done again when the answer was lost.
pub trait SharedLog: Send + Sync + 'static {
    /// Tells others how this server stands with a round, if it takes part in it, and returns how the
    /// round's log and the servers stand.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn look(&self, round: u64, own: Option<&Server>) -> Result<SharedRound, StorageError>;

    /// Appends entries for the server `name`, the first of which has number `first`. Those that are
    /// there already must be the same.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn append(
        &self,
        round: u64,
        name: &str,
        first: u64,
        entries: &[Node],
    ) -> Result<Appended, StorageError>;

    /// Entries from number `first` on: `count`, or as many as there are.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn read(&self, round: u64, first: u64, count: u64) -> Result<Vec<Node>, StorageError>;

    /// Replaces everything from entry `first` on, which was proven to be wrong, by `right`. Nothing
    /// changes if that entry is not `wrong` any more.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn replace(
        &self,
        round: u64,
        name: &str,
        first: u64,
        wrong: &Node,
        right: &[Node],
    ) -> Result<(), StorageError>;
}

/// What became of entries that were handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// They are there. The log has so many entries.
    Done(u64),
    /// The log ends before the first of them: it has only so many entries.
    Gap(u64),
    /// Another entry is there in place of this one, and nothing was appended.
    Differs(u64),
    /// The round's proof is stored, and its log is not needed any more.
    Published,
}

/// How a round stands that servers share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedRound {
    /// Whether its proof is stored.
    pub published: bool,
    /// Entries of the log.
    pub entries: u64,
    /// How long ago the newest one was handed in, by the storage's clock; since the log was made if there
    /// is none.
    pub quiet: Duration,
    /// Who handed it in.
    pub worker: Option<String>,
    /// The servers that were seen in the last minute, by name.
    pub servers: Vec<Server>,
}

/// How a server stands with a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// How long ago it said so.
    pub seen: Duration,
    /// Whether it hashes. Otherwise it follows.
    pub works: bool,
    /// Whether it works only when nobody else does.
    pub standby: bool,
    /// Entries of its own log that are durable.
    pub entries: u64,
    /// How fast it is, if it works.
    pub leaves_per_second: f64,
    /// At the end of the round: how many leaves it has, if it worked.
    pub leaves: Option<u64>,
}
