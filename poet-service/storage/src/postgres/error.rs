//! Why PostgreSQL cannot be used, in words.

use std::{error::Error as _, io};

use poet_files::reason;
use rustls::CertificateError;
use tokio_postgres::error::SqlState;

/// Why PostgreSQL cannot be used. Each message names what is wrong and what was expected.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum PostgresError {
    #[error(
        "cannot reach the database at {server}: {cause}: expected a running PostgreSQL there (--database)"
    )]
    Unreachable { server: String, cause: String },
    #[error(
        "the database at {server} refuses user {user}: {cause}: expected the right password in PGPASSWORD, \
         or in the file that PGPASSFILE names (default: ~/.pgpass)"
    )]
    Refused {
        server: String,
        user: String,
        cause: String,
    },
    #[error(
        "the password for the database cannot be read: {0}: expected a file as PGPASSFILE names it"
    )]
    Password(String),
    #[error(
        "there is no database {database} at {server}: expected an existing one, as `createdb` creates"
    )]
    NoDatabase { server: String, database: String },
    #[error(
        "the connection to the database at {server} is not secure: {cause}: expected what sslmode and \
         sslrootcert in --database ask for"
    )]
    Tls { server: String, cause: String },
    #[error("the database at {server} is PostgreSQL {found}: expected version 14 or newer")]
    Old { server: String, found: String },
    #[error("the database at {server} is read-only: expected the primary server, not a replica")]
    ReadOnly { server: String },
    #[error(
        "the database {database} at {server} has schema {found}, this version knows schema {known}: \
         expected a version of this program that knows it"
    )]
    Schema {
        server: String,
        database: String,
        found: i32,
        known: i32,
    },
    #[error(
        "the database {database} at {server} holds no PoET, and user {user} may not make one: expected a \
         first start as a user who may create the schema `poet`"
    )]
    MayNotCreate {
        server: String,
        database: String,
        user: String,
    },
    #[error(
        "the database at {server} is another PoET's than the one this server was started with: expected \
         the same one after a fail-over"
    )]
    Another { server: String },
    #[error("the connection to the database is lost: {0}")]
    Lost(String),
    #[error("the database does not answer in time")]
    Timeout,
    #[error("the database is unreachable: {0}")]
    Away(String),
    #[error("the database: {0}")]
    Statement(String),
    #[error(
        "round {round} does not close yet: it starts in {seconds:.3} s by the database's clock: expected \
         clocks that agree"
    )]
    TooEarly { round: u64, seconds: f64 },
    #[error(
        "ALARM: another server has settled round {0} differently: expected the same members and the same \
         statement on all of them"
    )]
    OtherStatement(u64),
    #[error("another server has published the proof of round {0}")]
    Published(u64),
    #[error(
        "the database {0} holds an unfinished copy: expected `poet-service copy-database` again with the \
         same options, or another database"
    )]
    Unfinished(String),
    #[error(
        "the database {0} is in use by a poet-service at {1}: expected all servers on it to be stopped"
    )]
    InUse(String, String),
    #[error("the storage has stopped")]
    Stopped,
}

/// Why one operation failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// It is final, as far as this connection can tell.
    Final(PostgresError),
    /// The stored value is damaged.
    Damaged(&'static str),
    /// A proof differs from the stored one.
    ProofChanged(i64),
    /// The same operation may succeed on this connection.
    Repeat(PostgresError),
    /// The same operation may succeed on another connection.
    Lost(PostgresError),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refused) = error.as_db_error() else {
            return Self::Lost(PostgresError::Lost(words(&error)));
        };
        let statement = || PostgresError::Statement(refused.message().to_owned());
        let code = refused.code();
        // From a server that is ending, starting, or no longer the primary.
        if code.code().starts_with("57P")
            || code.code().starts_with("08")
            || *code == SqlState::READ_ONLY_SQL_TRANSACTION
            || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        {
            return Self::Lost(PostgresError::Lost(refused.message().to_owned()));
        }
        if *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
        {
            return Self::Repeat(statement());
        }
        if *code == SqlState::QUERY_CANCELED {
            return Self::Final(PostgresError::Timeout);
        }
        Self::Final(statement())
    }
}

/// Describes an error that is no answer of the database.
pub(super) fn words(error: &tokio_postgres::Error) -> String {
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(error) = inner.downcast_ref::<io::Error>() {
            return match error.get_ref() {
                Some(inner) => inner.to_string(),
                None => reason(error),
            };
        }
        match inner.source() {
            Some(next) => cause = Some(next),
            None => return inner.to_string(),
        }
    }
    error.to_string()
}

/// Returns what is wrong with a certificate.
fn certificate(error: &tokio_postgres::Error) -> Option<&'static str> {
    let io = error.source()?.downcast_ref::<io::Error>()?;
    match io.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(reason) => Some(match reason {
            CertificateError::UnknownIssuer => {
                "its certificate was issued by none of the authorities in sslrootcert"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "its certificate is for another name"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            _ => "its certificate does not verify",
        }),
        _ => None,
    }
}

/// Describes why no connection was made.
pub(super) fn connecting(
    error: &tokio_postgres::Error,
    server: &str,
    user: &str,
    database: &str,
) -> PostgresError {
    let (server, user, database) = (server.to_owned(), user.to_owned(), database.to_owned());
    if let Some(refused) = error.as_db_error() {
        let (code, cause) = (refused.code(), refused.message().to_owned());
        return if *code == SqlState::INVALID_CATALOG_NAME {
            PostgresError::NoDatabase { server, database }
        } else if code.code().starts_with("28") {
            PostgresError::Refused {
                server,
                user,
                cause,
            }
        } else {
            PostgresError::Unreachable { server, cause }
        };
    }
    let cause = words(error);
    let mut sources = std::iter::successors(error.source(), |error| (*error).source());
    let denied = |error: &(dyn std::error::Error + 'static)| {
        let error = error.downcast_ref::<io::Error>();
        error.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    match error.to_string().as_str() {
        "error performing TLS handshake" => PostgresError::Tls {
            server,
            cause: certificate(error).map_or(cause, str::to_owned),
        },
        "invalid configuration" | "authentication error" => PostgresError::Refused {
            server,
            user,
            cause,
        },
        // The driver's own error, after it asked the server.
        _ if cause == "database does not allow writes" && sources.any(denied) => {
            PostgresError::ReadOnly { server }
        }
        _ => PostgresError::Unreachable { server, cause },
    }
}
