//! What is stored in one transaction to take over the state of another server.

use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{Execution, Member, PowChallenges};

/// Everything that another server stored.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its private key, 64 bytes.
    pub private_key: Vec<u8>,
    /// The schedule of its rounds, as text.
    pub schedule: String,
    /// Its challenges of the proof of work, if it had any.
    pub pow: Option<PowChallenges>,
    /// Its rounds.
    pub rounds: Vec<ImportedRound>,
}

/// A settled round of another server on which this one also works.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The schedule of the rounds of both, as text.
    pub schedule: String,
    /// Its number.
    pub round: u64,
    /// What its work is bound to.
    pub execution: Execution,
    /// The registrations.
    pub members: Vec<Member>,
}

/// A round of another server.
#[derive(Clone, Debug)]
pub struct ImportedRound {
    /// Its number.
    pub round: u64,
    /// Present once its membership is settled.
    pub execution: Option<Execution>,
    /// The registrations.
    pub members: Vec<Member>,
    /// Present once the round is finished.
    pub proof: Option<PublishedProof>,
}
