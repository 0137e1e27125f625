//! A round to execute, and why that may fail.

use std::{io, path::PathBuf};

use jiff::Timestamp;
use poet_engine::{LogError, ProveError, VerifyError, audit::AuditError};
use poet_files::reason;

use crate::storage::{Execution, StorageError};

/// A round to execute.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its number.
    pub round: u64,
    /// What the work is bound to.
    pub execution: Execution,
    /// Whether that was stored before. If not, and a log is bound to something else, then the
    /// members have changed since: the clock was set back, and the round opened again.
    pub settled: bool,
    /// When the work starts.
    pub start: Timestamp,
    /// When the work ends.
    pub end: Timestamp,
}

/// Why a round could not be finished.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum WorkError {
    #[error("cannot create {path}: {}", reason(cause))]
    Folder { path: PathBuf, cause: io::Error },
    #[error("cannot start the hashing thread: {}", reason(.0))]
    Thread(io::Error),
    #[error("the hashing thread failed")]
    Hashing,
    #[error("the auditors ended unexpectedly")]
    Auditors,
    #[error("the thread for proofs of the work so far failed")]
    Aside,
    #[error("the server ends")]
    Stopped,
    #[error("the next round has begun, and comes first")]
    NextRound,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("cannot make the proof: {0}")]
    Prove(#[from] ProveError),
    #[error("the proof is not valid: {0}")]
    Verify(#[from] VerifyError),
    #[error("the stored members do not give the statement that was worked on")]
    Members,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<AuditError> for WorkError {
    fn from(error: AuditError) -> Self {
        match error {
            AuditError::Log(error) => Self::Log(error),
            AuditError::Stopped => Self::Stopped,
        }
    }
}

impl WorkError {
    /// Returns whether this means that a proof was told to stop.
    pub(super) fn is_stop(&self) -> bool {
        matches!(self, Self::Prove(ProveError::Stopped))
    }

    /// Returns whether a proof, or what it was made from, is wrong.
    pub(super) fn is_wrong_proof(&self) -> bool {
        matches!(
            self,
            Self::Verify(_) | Self::Prove(ProveError::WrongEntry { .. })
        )
    }
}
