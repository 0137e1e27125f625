//! What a server has observed of itself, minute by minute, for the operator's page.
//!
//! It has its own SQLite file: nobody relies on it, so it costs registrations no sync, and a
//! damaged file is created again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use poet_files::Access;
use rusqlite::{Connection, OpenFlags, Row, params};

use crate::{DatabaseError as StorageError, sqlite::log_path};

/// The file, in the working directory.
pub const HISTORY_FILE: &str = "history.sqlite";

/// The maximum number of minutes: ten weeks.
pub const MAX_MINUTES: usize = 100_800;
/// The number of rounds whose lateness is stored.
const KEPT_ROUNDS: i64 = 1_000;

const SCHEMA_VERSION: i64 = 1;
const SCHEMA: &str = "
    CREATE TABLE minutes (
        minute        INTEGER PRIMARY KEY,  -- since 1970
        round         INTEGER,              -- that was worked on at its end
        leaves        INTEGER NOT NULL,     -- of that round, at its end
        registrations INTEGER NOT NULL,     -- in it
        ready         INTEGER NOT NULL,     -- whether the server was, at its end
        memory        INTEGER NOT NULL,     -- bytes, at its end
        free          INTEGER NOT NULL      -- bytes of the disk, at its end
    ) STRICT;

    CREATE TABLE published (
        round        INTEGER PRIMARY KEY,
        milliseconds INTEGER NOT NULL       -- from the end of the round to its proof
    ) STRICT;
";

/// What was observed at the end of a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minute {
    /// Minutes since 1970.
    pub minute: i64,
    /// The round that was worked on.
    pub round: Option<u64>,
    /// Leaves of that round.
    pub leaves: u64,
    /// Registrations in this minute.
    pub registrations: u64,
    /// Whether the server was ready.
    pub ready: bool,
    /// Memory used by the server, in bytes.
    pub memory: u64,
    /// Free space on the disk, in bytes.
    pub free: u64,
}

/// The file.
#[derive(Debug)]
pub struct History {
    connection: Mutex<Connection>,
}

impl History {
    /// Opens or creates the file in `folder`. Replaces a damaged file.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or created.
    pub fn open(folder: &Path) -> Result<Self, StorageError> {
        let path = folder.join(HISTORY_FILE);
        let connection = match connect(&path) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "the history cannot be used and is created again");
                for file in files(&path) {
                    match fs::remove_file(&file) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(error.into());
                        }
                        _ => {}
                    }
                }
                connect(&path)?
            }
        };
        Ok(Self {
            connection: Mutex::new(connection),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds or replaces a minute. Removes minutes before `oldest`, and those beyond
    /// [`MAX_MINUTES`].
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn add(&self, minute: &Minute, oldest: i64) -> Result<(), StorageError> {
        let limit = minute.minute.saturating_sub(MAX_MINUTES as i64) + 1;
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT OR REPLACE INTO minutes
             (minute, round, leaves, registrations, ready, memory, free)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
            params![
                minute.minute,
                minute.round.map(signed),
                signed(minute.leaves),
                signed(minute.registrations),
                minute.ready,
                signed(minute.memory),
                signed(minute.free),
            ],
        )?;
        // If the clock was ahead once, there are minutes in the future.
        transaction.execute(
            "DELETE FROM minutes WHERE minute < ? OR minute > ?",
            params![oldest.max(limit), minute.minute],
        )?;
        Ok(transaction.commit()?)
    }

    /// Returns the minutes from `from` on, in order.
    ///
    /// # Errors
    /// Fails if they cannot be read.
    pub fn minutes(&self, from: i64) -> Result<Vec<Minute>, StorageError> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(
            "SELECT minute, round, leaves, registrations, ready, memory, free FROM minutes
             WHERE minute >= ? ORDER BY minute LIMIT ?",
        )?;
        let rows = query.query_map(params![from, MAX_MINUTES as i64], minute)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Records how long after the end of its round a proof was published.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub fn published(&self, round: u64, late: Duration) -> Result<(), StorageError> {
        let round = signed(round);
        let late = i64::try_from(late.as_millis()).unwrap_or(i64::MAX);
        let connection = self.connection();
        connection.execute(
            "INSERT OR REPLACE INTO published (round, milliseconds) VALUES (?, ?)",
            params![round, late],
        )?;
        connection.execute(
            "DELETE FROM published WHERE round <= ?",
            [round.saturating_sub(KEPT_ROUNDS)],
        )?;
        Ok(())
    }

    /// Returns how long after the end of their rounds proofs were published, as far as that is
    /// known.
    pub fn lateness(&self) -> BTreeMap<u64, Duration> {
        let connection = self.connection();
        let read = || -> rusqlite::Result<BTreeMap<u64, Duration>> {
            let mut query =
                connection.prepare_cached("SELECT round, milliseconds FROM published")?;
            let rows = query.query_map([], |row| {
                Ok((
                    row.get::<_, i64>(0)?.unsigned_abs(),
                    Duration::from_millis(row.get::<_, i64>(1)?.unsigned_abs()),
                ))
            })?;
            rows.collect()
        };
        read().unwrap_or_default()
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn minute(row: &Row<'_>) -> rusqlite::Result<Minute> {
    let number = |column| Ok::<_, rusqlite::Error>(row.get::<_, i64>(column)?.unsigned_abs());
    Ok(Minute {
        minute: row.get(0)?,
        round: row.get::<_, Option<i64>>(1)?.map(i64::unsigned_abs),
        leaves: number(2)?,
        registrations: number(3)?,
        ready: row.get(4)?,
        memory: number(5)?,
        free: number(6)?,
    })
}

/// Returns the file and the companion files that SQLite creates.
fn files(path: &Path) -> [PathBuf; 3] {
    let log = log_path(path);
    let shared = log.with_extension("sqlite-shm");
    [path.to_owned(), log, shared]
}

fn connect(path: &Path) -> Result<Connection, StorageError> {
    let mut options = Access::Private.open_options();
    options.create(true).append(true).open(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A power failure may cost the last minutes.
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    match version {
        SCHEMA_VERSION => {
            // All tables must be there.
            connection.query_row("SELECT count(*) FROM minutes", [], |_| Ok(()))?;
            connection.query_row("SELECT count(*) FROM published", [], |_| Ok(()))?;
        }
        0 => {
            let transaction = connection.transaction()?;
            transaction.execute_batch(SCHEMA)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
            transaction.commit()?;
        }
        found => {
            return Err(StorageError::Schema {
                path: path.to_owned(),
                found,
                known: SCHEMA_VERSION,
            });
        }
    }
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Minute {
        Minute {
            minute,
            round: Some(7),
            leaves: 70_000 * minute.unsigned_abs(),
            registrations: 3,
            ready: minute % 2 == 0,
            memory: 5_000_000,
            free: 1 << 40,
        }
    }

    #[test]
    fn minutes_survive_and_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let history = History::open(folder.path()).unwrap();
        for minute in 100..110 {
            history.add(&at(minute), 0).unwrap();
        }
        // A minute that exists already, and one after a pause.
        history.add(&at(109), 0).unwrap();
        let idle = Minute {
            round: None,
            leaves: 0,
            ..at(200)
        };
        history.add(&idle, 102).unwrap();
        drop(history);
        let history = History::open(folder.path()).unwrap();
        let minutes = history.minutes(0).unwrap();
        let mut expected: Vec<_> = (102..110).map(at).collect();
        expected.push(idle);
        assert_eq!(minutes, expected);
        assert_eq!(history.minutes(150).unwrap(), [idle]);
        // Nothing asks for fewer minutes, and the limit holds.
        let last = 200 + MAX_MINUTES as i64;
        history.add(&at(last), 0).unwrap();
        assert_eq!(history.minutes(0).unwrap(), [at(last)]);
        // A clock that was set back.
        history.add(&at(150), 0).unwrap();
        assert_eq!(history.minutes(0).unwrap(), [at(150)]);
    }

    #[test]
    fn lateness_survives_and_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let late = Duration::from_millis(83);
        let history = History::open(folder.path()).unwrap();
        history.published(5, late).unwrap();
        history.published(6, Duration::MAX).unwrap();
        drop(history);
        let history = History::open(folder.path()).unwrap();
        let longest = Duration::from_millis(i64::MAX.unsigned_abs());
        assert_eq!(
            history.lateness(),
            BTreeMap::from([(5, late), (6, longest)])
        );
        history.published(1_005, late).unwrap();
        let rounds: Vec<_> = history.lateness().into_keys().collect();
        assert_eq!(rounds, [6, 1_005]);
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        for damage in [&b"no database at all, but some text"[..], &[]] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(HISTORY_FILE);
            fs::write(&path, damage).unwrap();
            History::open(folder.path())
                .unwrap()
                .add(&at(1), 0)
                .unwrap();
            // A file of another version.
            let connection = Connection::open(&path).unwrap();
            connection.pragma_update(None, "user_version", 77).unwrap();
            drop(connection);
            let history = History::open(folder.path()).unwrap();
            assert_eq!(history.minutes(0).unwrap(), []);
        }
        // Fails if no file can be created.
        assert!(History::open(Path::new("/nowhere/at/all")).is_err());
    }
}
