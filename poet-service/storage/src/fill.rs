//! What a database must provide to be the target of a copy.

use std::{collections::BTreeMap, time::Duration};

use poet_engine::Proof;
use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{Execution, Member};

use crate::{DatabaseError, database::Database};

/// The target of a copy.
pub(crate) trait Fill {
    /// Opens what is copied already.
    fn copied(&self) -> Result<Box<dyn Database>, DatabaseError>;

    /// Stores settings, including [`COPYING`](crate::database::COPYING) until the copy is complete.
    fn store_settings(&self, settings: &BTreeMap<String, Vec<u8>>) -> Result<(), DatabaseError>;

    /// Stores a round, replacing an earlier copy of it.
    fn store_round(&self, round: StoredRound) -> Result<(), DatabaseError>;

    /// Removes a round.
    fn remove_round(&self, round: u64) -> Result<(), DatabaseError>;

    /// Lets servers use the database.
    fn finish(self: Box<Self>) -> Result<(), DatabaseError>;
}

/// Everything stored about a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredRound {
    pub(crate) round: u64,
    pub(crate) execution: Option<Execution>,
    /// Whether it no longer takes registrations.
    pub(crate) closed: bool,
    pub(crate) members: Vec<Member>,
    pub(crate) proof: Option<PublishedProof>,
    pub(crate) early: Vec<EarlyProof>,
}

/// A proof for a longer cycle gap. Its statement and members are the round's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EarlyProof {
    pub(crate) gap: Duration,
    pub(crate) leaves: u64,
    pub(crate) proof: Proof,
}
