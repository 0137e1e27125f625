//! The auditors of a round: low-priority threads that recompute the log behind the hashing thread,
//! from the file (see [`poet_engine::audit`]).
//!
//! They repair a wrong copy of a right entry in place. If the work itself was wrong, they stop it,
//! then cut the log to what is right, and the work continues from there.
//!
//! Nothing waits for them. At the end of a round the proof is made of whatever there is, and the
//! rest of the log is audited after its publication; what that finds is only reported. Only after
//! an invalid proof is the log audited before the next proof, first where the proof shows the
//! error. If another process left more than an hour's work unaudited, that is taken on trust.
//!
//! Ordinary programs leave next to no CPU time to threads of the lowest priority. So if the hashing
//! thread has a dedicated core, auditors that fall behind continue with a normal priority, and with
//! a higher one if that is not enough and the system permits it.
//!
//! In sampled mode they recompute one step in eight and take the others on trust. If they find an
//! error, the whole round is audited, from its first entry on.
//!
//! The roots of audited chunks of entries are stored next to the log, as a tree log of their own.
//! After a restart the audit continues after the last of them; the earlier ones are compared with
//! the log at once, which takes seconds rather than days. The roots of a sampled audit have a file
//! of their own: no full audit relies on them. The findings are stored there too.

mod auditors;
mod mode;
mod report;
mod round;

pub(super) use self::auditors::{AuditThreads, Auditors};
pub use self::mode::AuditMode;
pub use self::report::{AuditReport, Audits, MAX_UNSYNCED_LEAVES};
pub use self::round::RoundAudit;
