//! Events in the life of rounds, for monitoring.

use std::time::Duration;

/// A proof that was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The number of its round.
    pub round: u64,
    /// The leaves of its tree.
    pub leaves: u64,
    /// The members of its round.
    pub members: u64,
    /// How long after the end of the round it was published.
    pub late: Duration,
}

/// Counts for monitoring.
pub trait Counters: Send + Sync + 'static {
    /// A registration came with a certificate.
    fn registration_with_certificate(&self, valid: bool);

    /// A registration came with a proof of work.
    fn registration_with_pow(&self, valid: bool);

    /// Registrations were stored in one transaction, which took this long.
    fn batch_written(&self, took: Duration);

    /// A round closed with this many members.
    fn closed(&self, round: u64, members: u64);

    /// A proof was published.
    fn published(&self, proof: &Published);
}

/// Counts nothing.
impl Counters for () {
    fn registration_with_certificate(&self, _valid: bool) {}

    fn registration_with_pow(&self, _valid: bool) {}

    fn batch_written(&self, _took: Duration) {}

    fn closed(&self, _round: u64, _members: u64) {}

    fn published(&self, _proof: &Published) {}
}
