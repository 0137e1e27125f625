//! Where proofs go when they are finished.

use poet_proto::{identity::PublicKey, messages::PublishedProof};

/// Serves proofs to clients.
pub trait Publish: Send + Sync + 'static {
    /// Prepares the proof of `round` by the server with this key. Clients must not have it yet: it is
    /// not stored. They may once the returned function is called. May block.
    fn prepare(
        &self,
        round: u64,
        server: &PublicKey,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_>;
}
