//! The status codes, and the errors of this crate.

use std::ffi::CStr;

use poet_backends::{Reason, SelectError};
use poet_engine::audit::AuditError;
use poet_engine::{
    DepthError, LogError, ProveError, ScaleError, SubtreeHeightError, TreeError, VerifyError,
};

/// The result of a call. A number never changes its meaning; later versions add numbers.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum poet_status {
    /// The call succeeded. In every other case it wrote no output, unless the function says so.
    Ok = 0,
    /// A pointer is NULL but must not be.
    NullPointer = 1,
    /// An argument is out of its range, a name is not UTF-8, or a pointer is not aligned.
    InvalidArgument = 2,
    /// A length or a count is over its limit.
    InvalidLength = 3,
    /// The size in a struct (or next to an array of structs) is not one that this version knows, or
    /// the part after what it knows is not zero.
    StructSize = 4,
    /// The caller's buffer is too small; nothing was written.
    BufferTooSmall = 5,
    /// The handle is not open: it was closed, or never came from this copy of the library.
    NotOpen = 6,
    /// The handle is in use by another thread at this moment.
    Busy = 7,
    /// A call with this handle failed because of a defect in the library. It can only be closed.
    Poisoned = 8,
    /// This call failed because of a defect in the library (a caught panic).
    Panic = 9,
    /// The backend is unknown, cannot run on this CPU, or failed its self-test.
    Backend = 10,
    /// Reading or writing a file failed.
    Io = 11,
    /// Another worker or process has the log open.
    LogInUse = 12,
    /// The log belongs to other work, or the file is not a log. It is unchanged.
    LogForeign = 13,
    /// The log contains wrong entries.
    LogDamaged = 14,
    /// There are fewer leaves than the call needs.
    TooFewLeaves = 15,
    /// There are more leaves than a tree may have.
    TooManyLeaves = 16,
    /// The bytes are not a proof.
    MalformedProof = 17,
    /// The proof is not valid.
    InvalidProof = 18,
    /// The system refused memory, or there are too many open handles.
    OutOfResources = 19,
    /// The log cannot be written, and no more entries fit in memory.
    BacklogFull = 20,
    /// poet_worker_cancel was called.
    Cancelled = 21,
}

impl poet_status {
    const ALL: [(Self, &CStr); 22] = [
        (Self::Ok, c"ok"),
        (Self::NullPointer, c"a pointer is NULL but must not be"),
        (Self::InvalidArgument, c"an argument is out of range"),
        (Self::InvalidLength, c"a length is over its limit"),
        (Self::StructSize, c"a struct has an unknown size"),
        (Self::BufferTooSmall, c"the buffer is too small"),
        (Self::NotOpen, c"the handle is not open"),
        (Self::Busy, c"the handle is in use by another thread"),
        (Self::Poisoned, c"the handle is unusable after a defect"),
        (Self::Panic, c"a defect of the library"),
        (Self::Backend, c"the backend cannot be used"),
        (Self::Io, c"reading or writing a file failed"),
        (Self::LogInUse, c"the log is in use"),
        (Self::LogForeign, c"the log belongs to something else"),
        (Self::LogDamaged, c"the log is damaged"),
        (Self::TooFewLeaves, c"too few leaves"),
        (Self::TooManyLeaves, c"too many leaves"),
        (Self::MalformedProof, c"the bytes are not a proof"),
        (Self::InvalidProof, c"the proof is not valid"),
        (Self::OutOfResources, c"the system refused a resource"),
        (
            Self::BacklogFull,
            c"the log cannot be written, and memory for it is full",
        ),
        (Self::Cancelled, c"the call was cancelled"),
    ];

    /// Returns a general description of a status.
    pub(crate) fn message(number: u32) -> &'static CStr {
        let all = Self::ALL.iter();
        let mut found = all.filter(|(status, _)| *status as u32 == number);
        found.next().map_or(c"unknown status", |(_, text)| text)
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) status: poet_status,
    pub(crate) text: String,
}

impl Error {
    pub(crate) fn new(status: poet_status, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { status, text }
    }

    pub(crate) fn argument(text: impl Into<String>) -> Self {
        Self::new(poet_status::InvalidArgument, text)
    }

    fn of(status: poet_status, cause: &dyn std::error::Error) -> Self {
        Self::new(status, cause.to_string())
    }
}

impl From<SelectError> for Error {
    fn from(cause: SelectError) -> Self {
        // There is no command line here.
        let option = format!(" ({})", Reason::ForcedByOption);
        let text = cause.to_string().replace(&option, "");
        Self::new(poet_status::Backend, text)
    }
}

impl From<DepthError> for Error {
    fn from(cause: DepthError) -> Self {
        Self::of(poet_status::InvalidArgument, &cause)
    }
}

impl From<SubtreeHeightError> for Error {
    fn from(cause: SubtreeHeightError) -> Self {
        Self::of(poet_status::InvalidArgument, &cause)
    }
}

impl From<TreeError> for Error {
    fn from(cause: TreeError) -> Self {
        let status = match cause {
            TreeError::Parked { .. } => poet_status::InvalidArgument,
            TreeError::TooManyLeaves { .. } => poet_status::TooManyLeaves,
        };
        Self::of(status, &cause)
    }
}

impl From<LogError> for Error {
    fn from(cause: LogError) -> Self {
        let status = match cause {
            LogError::Io { .. }
            | LogError::Unwritten { .. }
            | LogError::GivenUp
            | LogError::TimedOut
            | LogError::WriterStopped => poet_status::Io,
            LogError::Locked { .. } => poet_status::LogInUse,
            LogError::Foreign { .. } => poet_status::LogForeign,
            LogError::Missing { .. } => poet_status::LogDamaged,
            LogError::TooLong { .. } => poet_status::TooManyLeaves,
        };
        Self::of(status, &cause)
    }
}

impl From<ProveError> for Error {
    fn from(cause: ProveError) -> Self {
        let status = match cause {
            ProveError::Log(cause) => return cause.into(),
            ProveError::Stopped => poet_status::Cancelled,
            ProveError::NoLeaves => poet_status::TooFewLeaves,
            ProveError::Threads { .. } => poet_status::InvalidArgument,
            ProveError::WrongEntry { .. } | ProveError::WrongTree => poet_status::LogDamaged,
        };
        Self::of(status, &cause)
    }
}

impl From<AuditError> for Error {
    fn from(cause: AuditError) -> Self {
        match cause {
            AuditError::Log(cause) => cause.into(),
            AuditError::Stopped => Self::of(poet_status::Cancelled, &cause),
        }
    }
}

impl From<ScaleError> for Error {
    fn from(cause: ScaleError) -> Self {
        Self::of(poet_status::MalformedProof, &cause)
    }
}

impl From<VerifyError> for Error {
    fn from(cause: VerifyError) -> Self {
        let status = match cause {
            VerifyError::SecurityParameter { .. } => poet_status::InvalidArgument,
            VerifyError::TooFewLeaves { .. } => poet_status::TooFewLeaves,
            VerifyError::ProvenLeaves { .. }
            | VerifyError::ProofNodes { .. }
            | VerifyError::Root
            | VerifyError::Label { .. } => poet_status::InvalidProof,
        };
        Self::of(status, &cause)
    }
}
