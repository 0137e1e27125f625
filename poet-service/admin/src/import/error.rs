//! Why nothing was imported.

use std::{io, path::PathBuf};

use jiff::Timestamp;
use poet_files::reason;
use poet_proto::identity::{PRIVATE_KEY_VARIABLE, PrivateKeyError};
use poet_rounds::schedule::ScheduleError;
use poet_storage::{
    DatabaseError,
    directory::{DATABASE_FILE, DirectoryError},
};

use super::{layers::LayerError, leveldb::LevelDbError, xdr::XdrError};

/// Why nothing was imported. The messages contain the causes, so there is no `source`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ImportError {
    #[error(
        "--from {path} is not the data directory of a Go server: it has no state.bin; expected \
         what that server is given as --datadir, or POETDIR/data"
    )]
    NoDataDirectory { path: PathBuf },
    #[error(
        "--from-db {path} is not the database directory of a Go server: it has no folder proofs; \
         expected what that server is given as --dbdir, or POETDIR/db"
    )]
    NoDatabaseDirectory { path: PathBuf },
    #[error("cannot read {path}: {}", reason(cause))]
    Read { path: PathBuf, cause: io::Error },
    #[error(
        "{path}, which says whose work is in that directory, is damaged: expected a public key in \
         base64 (see `poet-service doctor`), or another --datadir"
    )]
    Owner { path: PathBuf },
    #[error("cannot write to {path}: {}", reason(cause))]
    Write { path: PathBuf, cause: io::Error },
    #[error("{path} is damaged, or of another version of the Go server: {cause}")]
    File { path: PathBuf, cause: XdrError },
    #[error(
        "{path} holds no private key: it has {bytes} bytes; expected the 64 of an ed25519 key, \
         the second half being the public key of the first ({cause})"
    )]
    Key {
        path: PathBuf,
        bytes: usize,
        cause: PrivateKeyError,
    },
    #[error("{PRIVATE_KEY_VARIABLE} is another key than the one in --from {path}")]
    OtherKey { path: PathBuf },
    #[error(transparent)]
    LevelDb(#[from] LevelDbError),
    #[error("the database {path} is damaged, entry {key:?}: {what}")]
    Entry {
        path: PathBuf,
        key: String,
        what: String,
    },
    #[error("round {round} is being worked on, but {path}, where its members are, is missing")]
    NoMembers { round: u64, path: PathBuf },
    #[error(
        "the members of round {round} in {path} do not give the statement in {state}: one of them \
         is damaged"
    )]
    Members {
        round: u64,
        path: PathBuf,
        state: PathBuf,
    },
    #[error("--genesis-time is not set: expected the schedule that the Go server runs with")]
    NoGenesis,
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(
        "the Go server began to work on round {round} at {started:.0}, which by the configured \
         schedule lasts from {start:.0} to {end:.0}: expected the --genesis-time, \
         --epoch-duration, --phase-shift and --cycle-gap that the Go server runs with"
    )]
    OtherSchedule {
        round: u64,
        started: Timestamp,
        start: Timestamp,
        end: Timestamp,
    },
    #[error(
        "--dbdir {path} holds another state already: {what}; expected a directory without \
         {DATABASE_FILE}"
    )]
    OtherState { path: PathBuf, what: String },
    #[error(
        "--datadir {path} holds the work of the server with public key {owner}: expected another \
         directory"
    )]
    OtherWork { path: PathBuf, owner: String },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("round {round}: {cause}")]
    Layers { round: u64, cause: LayerError },
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("interrupted: the same command goes on from here")]
    Interrupted,
}
