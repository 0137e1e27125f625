//! Why the configuration cannot be used.

use std::{io, path::PathBuf};

use poet_files::reason;
use poet_proto::{
    certificate::TrustedKeysError,
    identity::{PRIVATE_KEY_VARIABLE, PrivateKeyError},
};

use crate::args::WorkerOption;

/// Why the configuration cannot be used. The messages contain the causes, so there is no `source`.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read --configfile {path}: {}: expected a text of name=value lines",
        reason(cause)
    )]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A line of the file is invalid.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line's number, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The default directories cannot be determined.
    #[error("the user's cache directory is unknown: expected --poetdir, or --datadir and --dbdir")]
    NoCacheDirectory,
    /// A certifier without a key.
    #[error("--certifier-url is given without --certifier-pubkey: expected both")]
    CertifierWithoutKey,
    /// The trusted keys cannot be used.
    #[error("--trusted-pub-keys-dir-path: {cause}")]
    TrustedKeys {
        /// Why.
        cause: TrustedKeysError,
    },
    /// No node could register.
    #[error(
        "with --pow=off and without certificates nobody could register: expected --pow=on, or \
         --certifier-pubkey or --trusted-pub-keys-dir-path with --certificates=on"
    )]
    NoRegistration,
    /// A burst without a rate.
    #[error("--rate-limit-burst is given without --rate-limit: expected both")]
    BurstWithoutRate,
    /// No server would work.
    #[error(
        "--worker={0} is given without --database, and no other server would work: expected --worker=on, or \
         --disable-worker, which publishes empty proofs"
    )]
    NobodyWorks(WorkerOption),
    /// The options are invalid.
    #[error(transparent)]
    Options(#[from] clap::Error),
    /// The key in the environment is invalid.
    #[error("{PRIVATE_KEY_VARIABLE}: {cause}")]
    PrivateKey {
        /// Why.
        cause: PrivateKeyError,
    },
}
