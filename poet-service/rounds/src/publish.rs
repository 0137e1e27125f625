//! Where finished proofs go.

use std::time::Duration;

use poet_proto::{identity::PublicKey, messages::PublishedProof};

/// Identifies a proof: each round has one per cycle gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProofId {
    /// The round.
    pub round: u64,
    /// The gap, if it is longer than the schedule's.
    pub early: Option<Duration>,
}

/// Serves proofs to clients.
pub trait Publish: Send + Sync + 'static {
    /// Prepares a proof by the server with this key for being served. Clients may get it only once
    /// the returned function is called, since it is not stored before. May block.
    fn prepare(
        &self,
        id: ProofId,
        server: &PublicKey,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_>;

    /// Compresses a proof that is served, if it is not compressed yet. For a large one this takes
    /// longer than all that happens before, so clients get it without. May block.
    fn compress(&self, id: ProofId);
}
