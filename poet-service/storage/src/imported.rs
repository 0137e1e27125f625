//! What is stored at once when the state of another server is taken over.

use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{Execution, Member, PowChallenges};

/// All that another server knew.
#[derive(Clone, Debug)]
pub struct Imported {
    /// Its private key, 64 bytes.
    pub private_key: Vec<u8>,
    /// The schedule that its rounds belong to, as text.
    pub schedule: String,
    /// Its challenges of the proof of work, if it had any.
    pub pow: Option<PowChallenges>,
    /// Its rounds.
    pub rounds: Vec<ImportedRound>,
}

/// The settled round of another server that this one works on as well.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// The schedule that the rounds of both belong to, as text.
    pub schedule: String,
    /// Its number.
    pub round: u64,
    /// What its work is bound to.
    pub execution: Execution,
    /// Who registered.
    pub members: Vec<Member>,
}

/// A round of another server.
#[derive(Clone, Debug)]
pub struct ImportedRound {
    /// Its number.
    pub round: u64,
    /// Present once its membership is settled.
    pub execution: Option<Execution>,
    /// Who registered.
    pub members: Vec<Member>,
    /// Present once it is finished.
    pub proof: Option<PublishedProof>,
}
