//! What a database must do that a copy is made in.

use std::{collections::BTreeMap, time::Duration};

use poet_engine::Proof;
use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{Execution, Member};

use crate::{DatabaseError, database::Database};

/// A database that a copy is made in.
pub(crate) trait Fill {
    /// What is in it already.
    fn copied(&self) -> Result<Box<dyn Database>, DatabaseError>;

    /// Stores settings, with [`COPYING`](crate::database::COPYING) among them until it is finished.
    fn store_settings(&self, settings: &BTreeMap<String, Vec<u8>>) -> Result<(), DatabaseError>;

    /// Stores a round in place of the one that is there.
    fn store_round(&self, round: StoredRound) -> Result<(), DatabaseError>;

    /// Removes a round.
    fn remove_round(&self, round: u64) -> Result<(), DatabaseError>;

    /// Makes it a database that a server may use.
    fn finish(self: Box<Self>) -> Result<(), DatabaseError>;
}

/// All that is stored of a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRound {
    pub(crate) round: u64,
    pub(crate) execution: Option<Execution>,
    /// Whether it takes no registrations any more.
    pub(crate) closed: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) proof: Option<PublishedProof>,
    pub(crate) early: Vec<EarlyProof>,
}

/// A proof for a longer cycle gap; its statement and members are the round's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EarlyProof {
    pub(crate) gap: Duration,
    pub(crate) leaves: u64,
    pub(crate) proof: Proof,
}
