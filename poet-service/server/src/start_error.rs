//! Why a server does not start.

use std::{fmt, io, path::PathBuf};

use jiff::Timestamp;
use poet_backends::SelectError;
use poet_engine::{DepthError, TICK_LEAVES};
use poet_files::reason;
use poet_proto::identity::{PRIVATE_KEY_VARIABLE, PrivateKeyError};
use poet_rounds::{life::RecoveryError, schedule::ScheduleError, storage::StorageError};
use poet_storage::{
    DatabaseError,
    directory::{DirectoryError, OWNER_FILE},
};

use crate::config::Config;

/// Why the server does not start. The messages contain the causes, so there is no `source`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum StartError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(
        "{place} holds rounds of another schedule ({stored}) than the configured one \
         ({configured}): expected the same --genesis-time, --epoch-duration, --phase-shift and \
         --cycle-gap, or another {}", place.other()
    )]
    OtherSchedule {
        place: Place,
        stored: String,
        configured: String,
    },
    #[error(
        "{place} counts ticks of {stored} leaves, this version ticks of {TICK_LEAVES}: expected a version \
         with the same tick size on all servers, or another {}", place.other()
    )]
    OtherTick { place: Place, stored: u64 },
    #[error(
        "{place}: the stored {what} is damaged: expected a sound one (see `poet-service \
         doctor`), or a backup"
    )]
    Damaged { place: Place, what: &'static str },
    #[error("{place}: the stored private key is damaged: {cause}")]
    StoredKey {
        place: Place,
        cause: PrivateKeyError,
    },
    #[error(
        "{place} belongs to another private key than {PRIVATE_KEY_VARIABLE} gives: expected \
         the same one, none, or another {}", place.other()
    )]
    OtherKey { place: Place },
    #[error(
        "--datadir {datadir} holds the work of the server with public key {owner}, but {place} \
         holds {found}: expected the database of that server (see `poet-service doctor`), \
         or another --poetdir"
    )]
    OtherOwner {
        datadir: PathBuf,
        owner: String,
        place: Place,
        found: String,
    },
    #[error(
        "--datadir {0}: the file {OWNER_FILE}, which says whose work this is, is damaged: expected a \
         sound one, which `poet-service doctor --repair` writes"
    )]
    Owner(PathBuf),
    #[error(
        "{flag} {path} holds the state of a Go server, and --dbdir {dbdir} no database yet: expected \
         `poet-service import` first, which takes it over, or another --poetdir"
    )]
    NotTakenOver {
        flag: &'static str,
        path: PathBuf,
        dbdir: PathBuf,
    },
    #[error(
        "the system gives this process too few threads: {}: expected room for some 30 (see `ulimit \
         -u`, TasksMax of systemd, pids.max of the control group)", reason(.0)
    )]
    Threads(io::Error),
    #[error(
        "the clock of this machine shows {0}: expected a time from 2020 to 9999: set the clock first"
    )]
    Clock(Timestamp),
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Backend(#[from] SelectError),
    #[error(transparent)]
    Depth(#[from] DepthError),
    #[error(
        "cannot listen on {flag} {address}: {}: expected addresses of this machine and a port that is \
         free and permitted at each of them",
        reason(cause)
    )]
    Listen {
        flag: &'static str,
        address: String,
        cause: io::Error,
    },
    #[error("the description of the gRPC interface is damaged: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The location of a server's database.
#[derive(Clone, Debug)]
pub enum Place {
    /// The directory of an embedded database.
    Directory(PathBuf),
    /// The URL of a shared database.
    Url(String),
}

impl Place {
    pub(crate) fn of(config: &Config) -> Self {
        match &config.database {
            Some(url) => Self::Url(url.to_string()),
            None => Self::Directory(config.directories.dbdir.clone()),
        }
    }

    /// The option that names another one.
    fn other(&self) -> &'static str {
        match self {
            Self::Directory(_) => "--poetdir",
            Self::Url(_) => "--database",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "--dbdir {}", path.display()),
            Self::Url(url) => write!(f, "--database {url}"),
        }
    }
}

impl StartError {
    pub(crate) fn recovery(place: Place, error: RecoveryError) -> Self {
        match error {
            RecoveryError::Schedule(error) => Self::Schedule(error),
            RecoveryError::OtherSchedule { stored, configured } => Self::OtherSchedule {
                place,
                stored,
                configured,
            },
            RecoveryError::OtherTick { stored } => Self::OtherTick { place, stored },
            RecoveryError::Damaged(what) => Self::Damaged { place, what },
            RecoveryError::Key(cause) => Self::StoredKey { place, cause },
            RecoveryError::OtherKey => Self::OtherKey { place },
            RecoveryError::Threads(cause) => Self::Threads(cause),
            RecoveryError::Clock(shown) => Self::Clock(shown),
            RecoveryError::Random(cause) => Self::Random(cause),
            RecoveryError::Storage(error) => Self::Storage(error),
        }
    }
}
