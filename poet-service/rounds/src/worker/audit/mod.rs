//! The auditors of a round: threads of low priority that recompute the log behind the hashing
//! thread, from the file (see [`poet_engine::audit`]).
//!
//! A copy that is wrong they repair where it is. When the work itself was wrong they stop it, and
//! when it has stopped, cut the log to what is right, from where the work goes on.
//!
//! Nobody waits for them. At the end of a round the proof is made of what there is, and the rest of
//! the log is audited after it is published: what that finds is reported. Only after a proof that is
//! not valid the log is audited before the next one is made, and first where the proof says that
//! something is wrong. What another process left unaudited is taken on trust if it is more than an
//! hour's work.
//!
//! Ordinary programs leave threads of the lowest priority next to nothing. So where the hashing thread
//! has a core of its own, auditors that fall behind go on with a priority like everybody's, and with a
//! higher one if that is not enough and permitted.
//!
//! In sampled mode they recompute one step in eight and take the others on trust. When something does
//! not fit, the round is audited as a whole, from its first entry on.
//!
//! The roots of audited chunks of entries are kept beside the log, as a tree log of their own. After
//! a restart the audit goes on behind the last of them; those before are compared with the log at
//! once, which takes seconds, not days. Those of a sampled audit have a file of their own: no full
//! audit relies on them. What was found is kept beside them, too.

mod auditors;
mod report;
mod round;

use std::{fmt, str::FromStr, thread};

use poet_engine::MAX_THREADS;

pub(super) use self::auditors::{AuditThreads, Auditors};
pub use self::report::{AuditReport, Audits, MAX_UNSYNCED_LEAVES};
pub use self::round::RoundAudit;

/// How much of the work is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// Everything.
    Full,
    /// A random eighth; everything from then on that something there is wrong.
    Sampled,
    /// Nothing, unless a proof turns out to be wrong.
    Off,
}

impl AuditMode {
    /// What is best for this machine: everything, if there is a core to spare.
    pub fn for_this_machine() -> Self {
        if cores() > 1 { Self::Full } else { Self::Off }
    }
}

impl FromStr for AuditMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "full" => Ok(Self::Full),
            "sampled" => Ok(Self::Sampled),
            "off" => Ok(Self::Off),
            _ => Err("expected full, sampled or off"),
        }
    }
}

impl fmt::Display for AuditMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Sampled => "sampled",
            Self::Off => "off",
        })
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS))
}
