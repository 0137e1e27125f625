//! Where proofs go when they are finished.

use std::time::Duration;

use poet_proto::{identity::PublicKey, messages::PublishedProof};

/// Which proof: one of a round for each cycle gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProofId {
    /// The round.
    pub round: u64,
    /// The gap, if it is longer than the schedule's.
    pub early: Option<Duration>,
}

/// Serves proofs to clients.
pub trait Publish: Send + Sync + 'static {
    /// Prepares a proof by the server with this key. Clients must not have it yet: it is not stored.
    /// They may once the returned function is called. May block.
    fn prepare(
        &self,
        id: ProofId,
        server: &PublicKey,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_>;
}
