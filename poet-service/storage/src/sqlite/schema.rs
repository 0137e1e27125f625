//! Creates and opens the database.

use std::{io, path::Path, time::Duration};

use poet_files::Access;
use rusqlite::{Connection, OpenFlags, ffi};

use super::{early_proofs, retention::let_shrink};
use crate::DatabaseError as StorageError;

/// How long to wait for another program that has locked the database.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_secs(5);
/// SQLite truncates its log (-wal) to this size once all of it is in the database.
pub(super) const KEPT_LOG_BYTES: u64 = 16 << 20;

pub(super) const SCHEMA_VERSION: i64 = 4;
/// The version before early proofs, which differs only in lacking their table.
const WITHOUT_EARLY_PROOFS: i64 = 3;
pub(super) const SCHEMA: &str = "
    CREATE TABLE settings (
        name  TEXT PRIMARY KEY,
        value BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE rounds (
        round          INTEGER PRIMARY KEY,
        statement      BLOB,    -- set when the membership is settled
        subtree_height INTEGER  -- likewise
    ) STRICT;

    CREATE TABLE registrations (
        round     INTEGER NOT NULL,
        number    INTEGER NOT NULL,  -- in the order of their arrival, from 0
        node_id   BLOB NOT NULL,     -- once in a round
        challenge BLOB NOT NULL,
        checksum  INTEGER NOT NULL,  -- CRC-32C of all that
        PRIMARY KEY (round, number)
    ) STRICT, WITHOUT ROWID;

    -- Lists of 32-byte values, one after the other.
    CREATE TABLE proofs (
        round         INTEGER PRIMARY KEY,
        statement     BLOB NOT NULL,
        leaves        INTEGER NOT NULL,
        root          BLOB NOT NULL,
        proven_leaves BLOB NOT NULL,
        proof_nodes   BLOB NOT NULL,
        members       BLOB NOT NULL,
        checksum      INTEGER NOT NULL  -- CRC-32C of all that, and of its odd members
    ) STRICT;

    -- Members of a proof whose challenge has another length; `members` has 32 bytes of it.
    CREATE TABLE odd_members (
        round     INTEGER NOT NULL,
        position  INTEGER NOT NULL,
        challenge BLOB NOT NULL,
        PRIMARY KEY (round, position)
    ) STRICT, WITHOUT ROWID;
";

/// Opens or creates the database in the file `path`.
pub(super) fn create(path: &Path) -> Result<Connection, StorageError> {
    create_private(path)?;
    let open_error = |cause| StorageError::Open {
        path: path.to_owned(),
        cause,
    };
    let mut connection = connect(path)?;
    let version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(open_error)?;
    match version {
        SCHEMA_VERSION => {}
        0 | WITHOUT_EARLY_PROOFS => {
            let transaction = connection.transaction().map_err(open_error)?;
            let tables = if version == 0 { SCHEMA } else { "" };
            transaction
                .execute_batch(tables)
                .and_then(|()| transaction.execute_batch(early_proofs::SCHEMA))
                .and_then(|()| transaction.pragma_update(None, "user_version", SCHEMA_VERSION))
                .and_then(|()| transaction.commit())
                .map_err(open_error)?;
        }
        found => {
            let path = path.to_owned();
            return Err(StorageError::Schema {
                path,
                found,
                known: SCHEMA_VERSION,
            });
        }
    }
    Ok(connection)
}

/// The file holds the private key, so nobody else may read it. SQLite gives its companion files the
/// same permissions.
pub(super) fn create_private(path: &Path) -> Result<(), StorageError> {
    let mut options = Access::Private.open_options();
    match options.create(true).append(true).open(path) {
        Ok(_) => Ok(()),
        Err(cause) => Err(unusable(path, cause)),
    }
}

pub(super) fn connect(path: &Path) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_PATIENCE)?;
        // Must precede the first write to a new file.
        let_shrink(&connection)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        // In WAL mode, FULL syncs the log at every commit; the default NORMAL does not.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let limit = KEPT_LOG_BYTES as i64;
        connection.pragma_update_and_check(None, "journal_size_limit", limit, |_| Ok(()))?;
        // Opens the log.
        connection.query_row("PRAGMA user_version", [], |_| Ok(()))?;
        Ok((connection, mode))
    };
    let path = path.to_owned();
    match open() {
        Ok((connection, mode)) if mode == "wal" => Ok(connection),
        Ok((_, mode)) => Err(StorageError::FileSystem {
            path,
            cause: format!("SQLite cannot keep a log there, only journal_mode={mode}"),
        }),
        Err(cause) if lacks_locks(&cause) => Err(StorageError::FileSystem {
            path,
            cause: cause.to_string(),
        }),
        Err(cause) => Err(StorageError::Open { path, cause }),
    }
}

/// Returns whether an error means that the file system lacks locks or shared memory.
fn lacks_locks(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    code.is_some_and(|code| {
        [
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_IOERR_LOCK,
            ffi::SQLITE_IOERR_RDLOCK,
            ffi::SQLITE_IOERR_UNLOCK,
            ffi::SQLITE_IOERR_SHMLOCK,
            ffi::SQLITE_IOERR_SHMMAP,
        ]
        .contains(&code)
    })
}

/// Opens an existing database of this version, without changing it.
pub(super) fn open_to_read(path: &Path, access: OpenFlags) -> Result<Connection, StorageError> {
    let open_error = |cause| StorageError::Open {
        path: path.to_owned(),
        cause,
    };
    let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(open_error)?;
    connection
        .pragma_update(None, "query_only", true)
        .map_err(open_error)?;
    let found = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(open_error)?;
    if found == SCHEMA_VERSION {
        Ok(connection)
    } else {
        Err(StorageError::Schema {
            path: path.to_owned(),
            found,
            known: SCHEMA_VERSION,
        })
    }
}

pub(super) fn unusable(path: &Path, cause: io::Error) -> StorageError {
    StorageError::File {
        path: path.to_owned(),
        cause,
    }
}
