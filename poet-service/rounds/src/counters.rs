//! What happens while rounds live, for those who count it.

use std::time::Duration;

/// Counts for monitoring.
pub trait Counters: Send + Sync + 'static {
    /// A registration came with a certificate.
    fn registration_with_certificate(&self, valid: bool);

    /// A registration came with a proof of work.
    fn registration_with_pow(&self, valid: bool);

    /// Registrations were stored in one transaction, which took this long.
    fn batch_written(&self, took: Duration);

    /// The proof of a round was published, so long after its end.
    fn published(&self, round: u64, late: Duration);
}

/// Counts nothing.
impl Counters for () {
    fn registration_with_certificate(&self, _valid: bool) {}

    fn registration_with_pow(&self, _valid: bool) {}

    fn batch_written(&self, _took: Duration) {}

    fn published(&self, _round: u64, _late: Duration) {}
}
