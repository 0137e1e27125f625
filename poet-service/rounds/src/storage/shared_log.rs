//! The log of a round that several servers share. It decides who works: the server with the longest
//! log. Others copy its entries, and take over when the log stops growing. Concurrent appends
//! cannot conflict, since all sound servers compute the same entries.

use std::time::Duration;

use poet_engine::Node;

use super::StorageError;

/// Where servers share the logs of rounds. All methods may block, for seconds at most, and can be
/// repeated if the answer was lost.
pub trait SharedLog: Send + Sync + 'static {
    /// Reports this server's state in a round to the others, if it takes part, and returns the
    /// state of the round's log and of all servers.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn look(&self, round: u64, own: Option<&ClusterServer>) -> Result<SharedRound, StorageError>;

    /// Appends entries of the server `name`, the first of which has number `first`. Entries that
    /// are there already must be equal.
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

    /// Returns up to `count` entries, from number `first` on.
    ///
    /// # Errors
    /// Fails if the storage does.
    fn read(&self, round: u64, first: u64, count: u64) -> Result<Vec<Node>, StorageError>;

    /// Replaces everything from entry `first` on, which was proven wrong, with `right`. Changes
    /// nothing if that entry is no longer `wrong`.
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

/// The result of appending entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// They are stored. The log has this many entries.
    Done(u64),
    /// The log has only this many entries, and ends before the first of them.
    Gap(u64),
    /// This entry of the log differs; nothing was appended.
    Differs(u64),
    /// The round's proof is stored, and its log no longer needed.
    Published,
}

/// The state of a round that servers share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedRound {
    /// Whether its proof is stored.
    pub published: bool,
    /// Entries of the log.
    pub entries: u64,
    /// The age of the newest entry, by the storage's clock; of the log itself while it is empty.
    pub quiet: Duration,
    /// The server that appended it.
    pub worker: Option<String>,
    /// The servers seen in the last minute, ordered by name.
    pub servers: Vec<ClusterServer>,
}

/// The state of a server in a round.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterServer {
    /// Its name.
    pub name: String,
    /// How long ago it reported.
    pub seen: Duration,
    /// Whether it hashes rather than follows.
    pub works: bool,
    /// Whether it works only while no other server does.
    pub standby: bool,
    /// Durable entries in its own log.
    pub entries: u64,
    /// Its speed, if it works.
    pub leaves_per_second: f64,
    /// At the end of the round: its number of leaves, if it worked.
    pub leaves: Option<u64>,
}
