//! Copies everything that a server stores from one database to another.
//!
//! The copy proceeds round by round, each in a transaction, and continues after an interruption:
//! what is there already is compared, not trusted. No server starts on an incomplete copy: a file
//! has another name until then, and a PostgreSQL database a setting.

use std::{collections::BTreeMap, path::PathBuf};

use poet_rounds::storage::{Execution, StorageError};

use crate::{
    DatabaseError, DatabaseUrl, PostgresStorage, SqliteStorage,
    database::{COPYING, Database},
    fill::{EarlyProof, Fill, StoredRound},
    postgres::fill::PostgresFill,
    sqlite::{fill::SqliteFill, log_damage},
};

/// The location of a database.
#[derive(Clone, Debug)]
pub enum Location {
    /// The file of an embedded database.
    File(PathBuf),
    /// The URL of a shared database.
    Url(Box<DatabaseUrl>),
}

/// What a copy contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Rounds.
    pub rounds: u64,
    /// How many of the rounds were there already.
    pub already: u64,
    /// Registrations in all rounds.
    pub registrations: u64,
    /// Proofs, early ones included.
    pub proofs: u64,
}

/// Why a copy failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum CopyError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("--from {0} holds no server's key: expected a database that a server has used")]
    Nothing(Location),
    #[error(
        "--from {0} is an unfinished copy: expected the database that it was made from, or a copy that \
         `poet-service copy-database` has completed"
    )]
    FromUnfinished(Location),
    #[error(
        "the log of --from {0} (-wal) is damaged: expected a sound one, as `poet-service doctor --repair` \
         makes it"
    )]
    LogDamaged(Location),
    #[error("--to {to} is not empty: {what}: expected an empty database or directory")]
    NotEmpty { to: Location, what: String },
    #[error(
        "{0} is not the same in both databases after the copy: expected no other program to change them \
         meanwhile; do not start a server on the copy, and copy again to an empty database"
    )]
    Differs(String),
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl Location {
    /// Opens the database for reading, as an operator, even if others use it.
    ///
    /// # Errors
    /// Fails if there is no database of this version.
    pub fn open_to_read(&self) -> Result<Box<dyn Database>, DatabaseError> {
        Ok(match self {
            Self::File(path) => Box::new(SqliteStorage::open_to_read(path)?),
            Self::Url(url) => Box::new(PostgresStorage::open_to_read(url)?),
        })
    }

    /// Fails if a server uses the database, as far as that is visible here: a file is locked
    /// through its directory.
    fn check_unused(&self) -> Result<(), DatabaseError> {
        match self {
            Self::File(_) => Ok(()),
            Self::Url(url) => PostgresStorage::open_to_read(url)?.check_unused(url),
        }
    }
}

/// Copies everything that a server stores to a database that is empty or holds a part of the same
/// copy, and compares both. No server may use either of them meanwhile: the caller holds the locks
/// of the directories. Reports to `progress` how many rounds of how many are done.
///
/// # Errors
/// Fails if a database cannot be used, or the target holds something else. What was copied until
/// then stays, and no server starts on it.
pub fn copy_database(
    from: &Location,
    to: &Location,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    from.check_unused()?;
    if let Location::File(path) = from
        && log_damage(path).map_err(DatabaseError::from)?.is_some()
    {
        return Err(CopyError::LogDamaged(from.clone()));
    }
    let source = from.open_to_read()?;
    let mut settings = source.all_settings()?;
    let key = settings.get(PRIVATE_KEY).cloned();
    let key = key.ok_or_else(|| CopyError::Nothing(from.clone()))?;
    if settings.contains_key(COPYING) {
        return Err(CopyError::FromUnfinished(from.clone()));
    }
    let rounds = source.all_rounds()?;
    let not_empty = |what: &str| CopyError::NotEmpty {
        to: to.clone(),
        what: what.to_owned(),
    };
    let fill = match find_target(to)? {
        Found::Complete(target) => {
            // Perhaps this copy completed it, and was interrupted before it could say so.
            return match compare(&*source, &*target, progress) {
                Ok(copied) => Ok(Copied {
                    already: copied.rounds,
                    ..copied
                }),
                Err(CopyError::Differs(_)) => Err(not_empty("it holds a server's state")),
                Err(error) => Err(error),
            };
        }
        Found::Other(what) => return Err(not_empty(what)),
        Found::Fill(fill) => fill,
    };
    to.check_unused()?;
    let target = fill.copied()?;
    let found = target.all_settings()?;
    if (found.get(PRIVATE_KEY)).is_some_and(|found| *found != key) {
        return Err(not_empty("it holds an unfinished copy of another server"));
    }
    settings.insert(COPYING.to_owned(), key);
    fill.store_settings(&settings)?;
    let mut there: BTreeMap<u64, Option<Execution>> = target.all_rounds()?.into_iter().collect();
    let (mut already, total) = (0, rounds.len() as u64);
    for (done, (round, execution)) in (1..).zip(&rounds) {
        let newer = rounds.last().is_some_and(|(last, _)| last > round);
        let closed = newer || execution.is_some();
        let read = read_round(&*source, *round, execution.clone(), closed)?;
        let same = match there.remove(round) {
            // An unreadable round counts as different.
            Some(execution) => {
                read_round(&*target, *round, execution, closed).is_ok_and(|found| found == read)
            }
            None => false,
        };
        if same {
            already += 1;
        } else {
            fill.store_round(read)?;
        }
        progress(done, total);
    }
    for round in there.into_keys() {
        fill.remove_round(round)?;
    }
    from.check_unused()?;
    drop(target);
    fill.finish()?;
    let target = to.open_to_read()?;
    let copied = compare(&*source, &*target, progress)?;
    Ok(Copied { already, ..copied })
}

/// The name of a setting that every server has.
const PRIVATE_KEY: &str = "private_key";

/// What the target of a copy holds.
enum Found {
    /// Nothing, or a part of a copy.
    Fill(Box<dyn Fill>),
    /// The state of a server.
    Complete(Box<dyn Database>),
    /// Something else.
    Other(&'static str),
}

fn find_target(to: &Location) -> Result<Found, CopyError> {
    match to {
        Location::File(path) => {
            if path.exists() {
                return Ok(match SqliteStorage::open_to_read(path) {
                    Ok(database) => Found::Complete(Box::new(database)),
                    Err(DatabaseError::Schema { found: 0, .. }) => {
                        Found::Other("it has a file without tables")
                    }
                    Err(error) => return Err(error.into()),
                });
            }
            Ok(Found::Fill(Box::new(SqliteFill::begin(path)?)))
        }
        Location::Url(url) => {
            let fill = PostgresFill::begin(url)?;
            let database = fill.copied()?;
            let settings = database.all_settings()?;
            if settings.contains_key(COPYING) {
                return Ok(Found::Fill(Box::new(fill)));
            }
            if settings.contains_key(PRIVATE_KEY) {
                return Ok(Found::Complete(database));
            }
            if settings.is_empty() && database.all_rounds()?.is_empty() {
                return Ok(Found::Fill(Box::new(fill)));
            }
            Ok(Found::Other("it has settings or rounds, but no key"))
        }
    }
}

fn read_round(
    database: &dyn Database,
    round: u64,
    execution: Option<Execution>,
    closed: bool,
) -> Result<StoredRound, StorageError> {
    let mut early = Vec::new();
    for record in database.early_proofs(round..=round)? {
        if let Some(found) = database.early_proof(round, record.gap)? {
            early.push(EarlyProof {
                gap: record.gap,
                leaves: found.leaves,
                proof: found.proof,
            });
        }
    }
    Ok(StoredRound {
        round,
        execution,
        closed,
        members: database.registrations(round)?,
        proof: database.proof(round)?,
        early,
    })
}

/// Fails unless both databases hold the same.
fn compare(
    one: &dyn Database,
    other: &dyn Database,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Copied, CopyError> {
    if one.all_settings()? != other.all_settings()? {
        return Err(CopyError::Differs("the settings".to_owned()));
    }
    let (rounds, others) = (one.all_rounds()?, other.all_rounds()?);
    if rounds != others {
        return Err(CopyError::Differs("the list of rounds".to_owned()));
    }
    let mut copied = Copied::default();
    let total = rounds.len() as u64;
    for (round, execution) in rounds {
        let read = |database| read_round(database, round, execution.clone(), true);
        let found = read(one)?;
        if found != read(other)? {
            return Err(CopyError::Differs(format!("round {round}")));
        }
        copied.rounds += 1;
        copied.registrations += found.members.len() as u64;
        copied.proofs += u64::from(found.proof.is_some()) + found.early.len() as u64;
        progress(copied.rounds, total);
    }
    Ok(copied)
}
