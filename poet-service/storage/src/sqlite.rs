//! The embedded storage: one SQLite file.
//!
//! All writes go through one thread. It takes whatever is queued, commits it as one transaction
//! and only then answers, so that an answer means durable, and a busy server needs few syncs:
//! while the disk works on one transaction, the next one gathers.
//!
//! Registrations are stored in the order in which they arrive, so that a commit writes at the end of
//! their table and nowhere else: by node id, each would change another page, and a million of them
//! write 4 GB. That a node registers once is seen to by the writer, which holds the members of the
//! open round in memory (about 130 bytes each); those who read a round sort it.
//!
//! SQLite does not notice a bit that has changed in a value. So a registration has a checksum, which also
//! tells which bit it was, and a proof has one, so that none is served that nodes would refuse. All other
//! things that are stored can be checked by what they are.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fs::{self, File},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use poet_engine::{Node, Proof, SubtreeHeight};
use poet_files::{Access, sync_directory};
use poet_proto::messages::PublishedProof;
use poet_rounds::{
    counters::Counters,
    storage::{
        Execution, Member, PowChallenges, PublishedRecord, Registered, Removed, RoundRecord,
        Setting, StorageFuture, UnfinishedRound,
    },
};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior,
    backup::{Backup, StepResult},
    ffi, params,
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    Adopted, DatabaseError as StorageError, Imported,
    place::{Change, Place},
    retention::{self, can_shrink, let_shrink},
    wal::{log_bytes, log_path},
};

/// Commands that may wait for the writer; further callers wait for room.
const QUEUED_COMMANDS: usize = 16_384;

/// How long to wait for another program that has locked the database, and for one that reads it when
/// the server ends.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How often a copy is begun, and how long it waits in between, while the database is locked.
const COPY_ATTEMPTS: u32 = 100;
const COPY_PAUSE: Duration = Duration::from_millis(100);
/// How long something that was written tells that writing is possible.
const WRITE_AGAIN: Duration = Duration::from_secs(60);
/// How often the same failure is said, and a log that is too long is looked after.
const MINUTE: Duration = Duration::from_secs(60);
/// SQLite cuts its log (-wal) to this, once all of it is in the database.
const KEPT_LOG_BYTES: u64 = 16 << 20;
/// A log that is longer, and remains so, is held by another program's read transaction.
const LONG_LOG_BYTES: u64 = 64 << 20;
/// With a log that is longer there are no more registrations: the disk's last space is for proofs.
const MAX_LOG_BYTES: u64 = 4 << 30;

const SCHEMA_VERSION: i64 = 3;
const SCHEMA: &str = "
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

const POW_CHALLENGE: &str = "pow_challenge";
const REMOVED_THROUGH: &str = "registrations_removed_through";
const POW_CHALLENGE_PREVIOUS: &str = "pow_challenge_previous";

/// Storage in an SQLite file.
#[derive(Debug)]
pub struct SqliteStorage {
    /// The writer replaces it when it opens the database again.
    reader: Arc<Mutex<Connection>>,
    commands: mpsc::Sender<Command>,
}

type Write = Box<dyn FnOnce(&Transaction<'_>) -> Result<(), StorageError> + Send>;
type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

enum Command {
    Register {
        round: u64,
        member: Member,
        max_members: u64,
        reply: Reply<Registered>,
    },
    OpenRound {
        round: u64,
        reply: Reply<u64>,
    },
    Write {
        write: Write,
        reply: Reply<()>,
    },
    Probe {
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// What to tell a caller once the transaction is durable.
enum Answer {
    Register(Reply<Registered>, Registered),
    OpenRound(Reply<u64>, u64),
    Write(Reply<()>),
}

impl Answer {
    // A caller that has gone away does not need its answer.
    fn send(self, durable: bool) {
        match self {
            Self::Register(reply, outcome) => drop(reply.send(result(durable, outcome))),
            Self::OpenRound(reply, members) => drop(reply.send(result(durable, members))),
            Self::Write(reply) => drop(reply.send(result(durable, ()))),
        }
    }
}

fn result<T>(durable: bool, value: T) -> Result<T, StorageError> {
    if durable {
        Ok(value)
    } else {
        Err(StorageError::Transaction)
    }
}

impl SqliteStorage {
    /// Opens or creates the database in the file `path`. A transaction holds at most `max_batch`
    /// registrations, which bounds how long one takes.
    ///
    /// # Errors
    /// When that fails, or the file is not such a database.
    pub fn open(
        path: &Path,
        max_batch: usize,
        counters: Arc<dyn Counters>,
    ) -> Result<Self, StorageError> {
        let writer = Writer::open(path, max_batch, counters)?;
        let reader = Arc::clone(&writer.reader);
        let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
        thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || writer.run(queue))?;
        Ok(Self { reader, commands })
    }

    /// Opens the database in the file `path` for reading only. What would write gets
    /// [`StorageError::Stopped`].
    ///
    /// # Errors
    /// When that fails, or the file is not such a database.
    pub fn open_to_read(path: &Path) -> Result<Self, StorageError> {
        let reader = open_to_read(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let (commands, _) = mpsc::channel(1);
        Ok(Self {
            reader: Arc::new(Mutex::new(reader)),
            commands,
        })
    }

    /// What SQLite finds to be damaged, at most a few things, and how the tables differ from those
    /// that they should be.
    ///
    /// # Errors
    /// When the database cannot be read at all.
    pub fn damage(&self) -> Result<Vec<String>, StorageError> {
        let reader = self.reader();
        let mut query = reader.prepare("PRAGMA integrity_check(5)")?;
        let found = query.query_map([], |row| row.get(0))?;
        let mut damage = found.collect::<Result<Vec<String>, _>>()?;
        damage.retain(|line| line != "ok");
        let expected = Connection::open_in_memory()?;
        expected.execute_batch(SCHEMA)?;
        let tables = |connection: &Connection| -> rusqlite::Result<Vec<(String, String)>> {
            let mut query = connection.prepare(
                "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name",
            )?;
            let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        };
        let (found, expected) = (tables(&reader)?, tables(&expected)?);
        for table in &expected {
            if !found.contains(table) {
                damage.push(format!("table {} is not as it was made", table.0));
            }
        }
        Ok(damage)
    }

    /// Whether the file gets smaller when registrations are removed.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn can_shrink(&self) -> Result<bool, StorageError> {
        Ok(can_shrink(&self.reader())?)
    }

    /// The newest round of which registrations were removed because it was over long ago, if any were.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn removed_through(&self) -> Result<Option<u64>, StorageError> {
        let round = read_setting(&self.reader(), REMOVED_THROUGH)?;
        let round = round.map(|bytes| bytes.try_into().map(u64::from_be_bytes));
        round
            .transpose()
            .map_err(|_| StorageError::Damaged("a round"))
    }

    /// Which registrations of a round have changed since they were stored.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn changed_registrations(&self, round: u64) -> Result<ChangedRegistrations, StorageError> {
        each_registration(&self.reader(), key(round)?, |_| {})
    }

    /// Stores all that another server knew in the file `path`, in one transaction. The database
    /// must not be open, and hold nothing yet.
    ///
    /// # Errors
    /// When that fails; then nothing is stored.
    pub fn import(path: &Path, imported: &Imported) -> Result<(), StorageError> {
        let mut connection = create(path)?;
        let transaction = connection.transaction()?;
        write_setting(
            &transaction,
            name(Setting::PrivateKey),
            &imported.private_key,
        )?;
        write_setting(
            &transaction,
            name(Setting::Schedule),
            imported.schedule.as_bytes(),
        )?;
        if let Some(challenges) = &imported.pow {
            write_pow_challenges(&transaction, challenges)?;
        }
        for imported in &imported.rounds {
            let round = key(imported.round)?;
            let execution = imported.execution.as_ref();
            transaction.execute(
                "INSERT INTO rounds (round, statement, subtree_height) VALUES (?, ?, ?)",
                params![
                    round,
                    execution.map(|execution| &execution.statement),
                    execution.map(|execution| execution.subtree_height.get()),
                ],
            )?;
            insert_members(&transaction, round, &imported.members)?;
            if let Some(proof) = &imported.proof {
                insert_proof(&transaction, round, proof)?;
            }
        }
        transaction.commit()?;
        connection.close().map_err(|(_, cause)| cause.into())
    }

    /// Stores a round of another server in the file `path`, which may be there and must not be open, in
    /// one transaction. The round must have no members yet.
    ///
    /// # Errors
    /// When that fails; then nothing is stored.
    pub fn adopt(path: &Path, adopted: &Adopted) -> Result<(), StorageError> {
        let mut connection = create(path)?;
        let transaction = connection.transaction()?;
        let schedule = name(Setting::Schedule);
        if read_setting(&transaction, schedule)?.is_none() {
            write_setting(&transaction, schedule, adopted.schedule.as_bytes())?;
        }
        let round = key(adopted.round)?;
        let Execution {
            statement,
            subtree_height,
        } = &adopted.execution;
        transaction.execute(
            "INSERT INTO rounds (round, statement, subtree_height) VALUES (?, ?, ?)
             ON CONFLICT (round) DO UPDATE
             SET statement = excluded.statement, subtree_height = excluded.subtree_height",
            params![round, statement, subtree_height.get()],
        )?;
        insert_members(&transaction, round, &adopted.members)?;
        transaction.commit()?;
        connection.close().map_err(|(_, cause)| cause.into())
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        lock(&self.reader)
    }

    /// Hands a command to the writer and waits for its answer.
    fn submit<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> StorageFuture<T> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let commands = self.commands.clone();
        Box::pin(async move {
            commands
                .send(command)
                .await
                .map_err(|_| StorageError::Stopped)?;
            Ok(answer.await.map_err(|_| StorageError::Stopped)??)
        })
    }

    fn write(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<(), StorageError> + Send + 'static,
    ) -> Result<(), StorageError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .blocking_send(Command::Write {
                write: Box::new(write),
                reply,
            })
            .map_err(|_| StorageError::Stopped)?;
        answer.blocking_recv().map_err(|_| StorageError::Stopped)?
    }
}

fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A connection has no state that a panic elsewhere could have left half done.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens or creates the database in the file `path`.
fn create(path: &Path) -> Result<Connection, StorageError> {
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
        0 => {
            let transaction = connection.transaction().map_err(open_error)?;
            transaction
                .execute_batch(SCHEMA)
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

/// The file holds the private key: it is nobody else's to read. SQLite gives its companion files
/// the same permissions.
fn create_private(path: &Path) -> Result<(), StorageError> {
    let mut options = Access::Private.open_options();
    match options.create(true).append(true).open(path) {
        Ok(_) => Ok(()),
        Err(cause) => Err(unusable(path, cause)),
    }
}

fn connect(path: &Path) -> Result<Connection, StorageError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_PATIENCE)?;
        // Before anything is written to a new file.
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

/// Whether a file system that lacks locks or shared memory is the reason of an error.
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

impl SqliteStorage {
    /// As [`Storage::setting`](poet_rounds::storage::Storage::setting).
    ///
    /// # Errors
    /// When the database fails.
    pub fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        read_setting(&self.reader(), name(setting))
    }

    pub(crate) fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        let value = value.to_vec();
        self.write(move |transaction| write_setting(transaction, name(setting), &value))
    }

    /// As [`Storage::pow_challenges`](poet_rounds::storage::Storage::pow_challenges).
    ///
    /// # Errors
    /// When the database fails.
    pub fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        read_pow_challenges(&self.reader())
    }

    pub(crate) fn store_pow_challenges(
        &self,
        challenges: &PowChallenges,
    ) -> Result<(), StorageError> {
        let challenges = challenges.clone();
        self.write(move |transaction| write_pow_challenges(transaction, &challenges))
    }

    /// As [`Storage::unfinished_rounds`](poet_rounds::storage::Storage::unfinished_rounds).
    ///
    /// # Errors
    /// When the database fails.
    pub fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        let reader = self.reader();
        let mut query = reader.prepare(
            "SELECT round, statement, subtree_height FROM rounds
             WHERE round NOT IN (SELECT round FROM proofs) ORDER BY round",
        )?;
        let mut rows = query.query([])?;
        let mut rounds = Vec::new();
        while let Some(row) = rows.next()? {
            let execution = match row.get::<_, Option<Vec<u8>>>(1)? {
                None => None,
                Some(statement) => Some(Execution {
                    statement,
                    subtree_height: SubtreeHeight::new(row.get(2)?)
                        .map_err(|_| StorageError::Damaged("a round"))?,
                }),
            };
            rounds.push(UnfinishedRound {
                round: unsigned(row.get(0)?)?,
                execution,
            });
        }
        Ok(rounds)
    }

    pub(crate) fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        let reader = self.reader();
        let mut query = reader.prepare(
            "SELECT round FROM rounds WHERE round >= ? AND statement IS NOT NULL ORDER BY round",
        )?;
        let mut settled = query.query([key(from)?])?;
        let mut first = from;
        while let Some(row) = settled.next()? {
            if unsigned(row.get(0)?)? != first {
                break;
            }
            first += 1;
        }
        Ok(first)
    }

    pub(crate) fn open_round(&self, round: u64) -> StorageFuture<u64> {
        self.submit(|reply| Command::OpenRound { round, reply })
    }

    pub(crate) fn register(
        &self,
        round: u64,
        member: Member,
        max_members: u64,
    ) -> StorageFuture<Registered> {
        self.submit(|reply| Command::Register {
            round,
            member,
            max_members,
            reply,
        })
    }

    pub(crate) fn queued(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    pub(crate) fn probe(&self) -> StorageFuture<()> {
        self.submit(|reply| Command::Probe { reply })
    }

    pub(crate) fn close(&self) -> StorageFuture<()> {
        self.submit(|reply| Command::Close { reply })
    }

    /// As [`Storage::newest_rounds`](poet_rounds::storage::Storage::newest_rounds).
    ///
    /// # Errors
    /// When the database fails.
    pub fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        let reader = self.reader();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let mut query = reader.prepare_cached(&format!(
            "{SELECT_RECORDS} ORDER BY rounds.round DESC LIMIT ?"
        ))?;
        let mut rows = query.query([count])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(read_record(row)?);
        }
        Ok(records)
    }

    /// As [`Storage::round`](poet_rounds::storage::Storage::round).
    ///
    /// # Errors
    /// When the database fails.
    pub fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        // A number that no record can have.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        let reader = self.reader();
        let mut query =
            reader.prepare_cached(&format!("{SELECT_RECORDS} WHERE rounds.round = ?"))?;
        let mut rows = query.query([round])?;
        rows.next()?.map(read_record).transpose()
    }

    /// As [`Storage::registrations`](poet_rounds::storage::Storage::registrations).
    ///
    /// # Errors
    /// When the database fails.
    pub fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        let mut members = Vec::new();
        each_registration(&self.reader(), key(round)?, |member| members.push(member))?;
        members.sort_unstable_by_key(|member| member.node_id);
        if members.is_sorted_by(|one, next| one.node_id < next.node_id) {
            Ok(members)
        } else {
            Err(StorageError::Damaged("a registration"))
        }
    }

    pub(crate) fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        count_members(&self.reader(), key(round)?)
    }

    /// As [`Storage::members`](poet_rounds::storage::Storage::members).
    ///
    /// # Errors
    /// When the database fails.
    pub fn members(&self, round: u64) -> Result<Vec<[u8; 32]>, StorageError> {
        let registrations = self.registrations(round)?;
        Ok(registrations
            .into_iter()
            .map(|member| member.challenge)
            .collect())
    }

    pub(crate) fn settle_round(
        &self,
        round: u64,
        execution: &Execution,
    ) -> Result<(), StorageError> {
        let Execution {
            statement,
            subtree_height,
        } = execution.clone();
        self.write(move |transaction| {
            transaction.execute(
                "UPDATE rounds SET statement = ?, subtree_height = ? WHERE round = ?",
                params![statement, subtree_height.get(), key(round)?],
            )?;
            Ok(())
        })
    }

    pub(crate) fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        let challenges = match (proof.root(), self.pow_challenges()?) {
            // Guessed as easily as it is empty: not to be asked for.
            (None, Some(challenges)) => challenges,
            (_, challenges) => PowChallenges {
                current: proof.proof.root,
                previous: challenges.map(|challenges| challenges.current),
            },
        };
        let rotated = challenges.clone();
        self.write(move |transaction| {
            insert_proof(transaction, key(round)?, &proof)?;
            write_pow_challenges(transaction, &rotated)
        })?;
        Ok(challenges)
    }

    pub(crate) fn remove_registrations(
        &self,
        before: u64,
        count: u32,
    ) -> Result<Removed, StorageError> {
        // No record has a greater number.
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let (outcome, told) = std::sync::mpsc::sync_channel(1);
        self.write(move |transaction| {
            let removed = retention::remove_registrations(transaction, before, count)?;
            if let Removed::Registrations { round, .. } = removed {
                write_setting(transaction, REMOVED_THROUGH, &round.to_be_bytes())?;
            }
            outcome.send(removed).map_err(|_| StorageError::Stopped)
        })?;
        told.recv().map_err(|_| StorageError::Stopped)
    }

    /// As [`Storage::proof`](poet_rounds::storage::Storage::proof).
    ///
    /// # Errors
    /// When the database fails.
    pub fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        // A number that no record can have.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        select_proof(&self.reader(), round)
    }
}

/// Opens a database that is there, of this version, without changing it.
fn open_to_read(path: &Path, access: OpenFlags) -> Result<Connection, StorageError> {
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

/// A database that a server may be using, to look at. Nothing in it is changed.
#[derive(Debug)]
pub struct SqliteReader(Connection);

impl SqliteReader {
    /// Opens the database in the file `path`.
    ///
    /// # Errors
    /// When there is none, or it is another version's.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        // For writing, because a connection that may not write leaves its companion files behind.
        let connection = open_to_read(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        Ok(Self(connection))
    }

    /// A stored setting.
    ///
    /// # Errors
    /// When the database fails.
    pub fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        read_setting(&self.0, name(setting))
    }

    /// Whether `round` was opened.
    ///
    /// # Errors
    /// When the database fails.
    pub fn has_round(&self, round: u64) -> Result<bool, StorageError> {
        let mut query = self.0.prepare("SELECT 1 FROM rounds WHERE round = ?")?;
        Ok(query.exists([key(round)?])?)
    }

    /// Copies the database, as it is at one moment, into the empty file `path`. Others may write
    /// meanwhile.
    ///
    /// # Errors
    /// When one of the two fails.
    pub fn copy_to(&self, path: &Path) -> Result<(), StorageError> {
        let mut copy = Connection::open(path)?;
        let backup = Backup::new(&self.0, &mut copy)?;
        // All pages in one step, under one read lock: a copy in several begins anew at each write.
        let mut attempts = COPY_ATTEMPTS;
        while backup.step(-1)? != StepResult::Done {
            // It was locked by one who tidies up.
            attempts -= 1;
            if attempts == 0 {
                let busy = ffi::Error::new(ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(busy, None).into());
            }
            std::thread::sleep(COPY_PAUSE);
        }
        drop(backup);
        // One file, without companions.
        copy.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
        drop(copy);
        File::open(path)?.sync_all()?;
        Ok(())
    }

    /// The proof of `round`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        // A number that no record can have.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        select_proof(&self.0, round)
    }
}

const INSERT_REGISTRATION: &str = "
    INSERT INTO registrations (round, number, node_id, challenge, checksum)
    VALUES (?, ?, ?, ?, ?)";

fn insert_members(
    transaction: &Transaction<'_>,
    round: i64,
    members: &[Member],
) -> Result<(), StorageError> {
    let mut insert = transaction.prepare_cached(INSERT_REGISTRATION)?;
    for (number, member) in (0..).zip(members) {
        let checksum = checksum(round, number, member);
        insert.execute(params![
            round,
            number,
            member.node_id,
            member.challenge,
            checksum
        ])?;
    }
    Ok(())
}

/// The length of a blob is known without reading it.
const SELECT_RECORDS: &str = "
    SELECT rounds.round, rounds.statement IS NOT NULL, proofs.leaves, length(proofs.members) / 32
    FROM rounds LEFT JOIN proofs ON proofs.round = rounds.round";

fn read_record(row: &Row<'_>) -> Result<RoundRecord, StorageError> {
    let published = match row.get::<_, Option<i64>>(2)? {
        None => None,
        Some(leaves) => Some(PublishedRecord {
            leaves: unsigned(leaves)?,
            members: unsigned(row.get(3)?)?,
        }),
    };
    Ok(RoundRecord {
        round: unsigned(row.get(0)?)?,
        settled: row.get(1)?,
        published,
    })
}

fn select_proof(
    connection: &Connection,
    round: i64,
) -> Result<Option<PublishedProof>, StorageError> {
    let mut query = connection.prepare_cached(
        "SELECT statement, leaves, root, proven_leaves, proof_nodes, members, checksum
         FROM proofs WHERE round = ?",
    )?;
    let mut rows = query.query([round])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let mut proof = read_proof(row)?;
    let stored: u32 = row.get(6)?;
    let mut query = connection.prepare_cached(
        "SELECT position, challenge FROM odd_members WHERE round = ? ORDER BY position",
    )?;
    let mut rows = query.query([round])?;
    while let Some(row) = rows.next()? {
        proof.odd_members.push((row.get(0)?, row.get(1)?));
    }
    if proof_checksum(round, &proof) == stored {
        Ok(Some(proof))
    } else {
        Err(StorageError::ProofChanged(round))
    }
}

fn insert_proof(
    transaction: &Transaction<'_>,
    round: i64,
    proof: &PublishedProof,
) -> Result<(), StorageError> {
    let leaves = i64::try_from(proof.leaves).map_err(|_| StorageError::Damaged("a proof"))?;
    transaction.execute(
        "INSERT INTO proofs
         (round, statement, leaves, root, proven_leaves, proof_nodes, members, checksum)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        params![
            round,
            proof.statement,
            leaves,
            proof.proof.root,
            proof.proof.proven_leaves.as_flattened(),
            proof.proof.proof_nodes.as_flattened(),
            proof.members.as_flattened(),
            proof_checksum(round, proof),
        ],
    )?;
    for (position, challenge) in &proof.odd_members {
        transaction.execute(
            "INSERT INTO odd_members (round, position, challenge) VALUES (?, ?, ?)",
            params![round, position, challenge],
        )?;
    }
    Ok(())
}

fn proof_checksum(round: i64, proof: &PublishedProof) -> u32 {
    let Proof {
        root,
        proven_leaves,
        proof_nodes,
    } = &proof.proof;
    let mut crc = crc32c::crc32c(&round.to_be_bytes());
    crc = crc32c::crc32c_append(crc, &proof.leaves.to_be_bytes());
    let lists = [proven_leaves, proof_nodes, &proof.members];
    let values = [&proof.statement[..], root].into_iter();
    for value in values.chain(lists.map(|list| list.as_flattened())) {
        // With its length, so that nothing can change from one value to the next.
        crc = crc32c::crc32c_append(crc, &(value.len() as u64).to_be_bytes());
        crc = crc32c::crc32c_append(crc, value);
    }
    for (position, challenge) in &proof.odd_members {
        crc = crc32c::crc32c_append(crc, &position.to_be_bytes());
        crc = crc32c::crc32c_append(crc, challenge);
    }
    crc
}

fn read_proof(row: &Row<'_>) -> Result<PublishedProof, StorageError> {
    let list = |column: usize| -> Result<Vec<Node>, StorageError> {
        let bytes = row
            .get_ref(column)?
            .as_blob()
            .map_err(rusqlite::Error::from)?;
        match bytes.as_chunks() {
            (nodes, []) => Ok(nodes.to_vec()),
            _ => Err(StorageError::Damaged("a proof")),
        }
    };
    Ok(PublishedProof {
        statement: row.get(0)?,
        leaves: unsigned(row.get(1)?)?,
        proof: Proof {
            root: row.get(2)?,
            proven_leaves: list(3)?,
            proof_nodes: list(4)?,
        },
        members: list(5)?,
        odd_members: Vec::new(),
    })
}

fn name(setting: Setting) -> &'static str {
    match setting {
        Setting::PrivateKey => "private_key",
        Setting::Schedule => "schedule",
    }
}

/// SQLite's integers are signed; a round's number never gets near the difference.
fn key(round: u64) -> Result<i64, StorageError> {
    i64::try_from(round).map_err(|_| StorageError::Damaged("a round"))
}

fn unsigned(value: i64) -> Result<u64, StorageError> {
    u64::try_from(value).map_err(|_| StorageError::Damaged("a number"))
}

fn read_setting(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
    connection
        .query_row("SELECT value FROM settings WHERE name = ?", [name], |row| {
            row.get(0)
        })
        .optional()
        .map_err(StorageError::from)
}

fn write_setting(
    transaction: &Transaction<'_>,
    name: &str,
    value: &[u8],
) -> Result<(), StorageError> {
    transaction.execute(
        "INSERT INTO settings (name, value) VALUES (?, ?)
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        params![name, value],
    )?;
    Ok(())
}

fn read_pow_challenges(connection: &Connection) -> Result<Option<PowChallenges>, StorageError> {
    let read = |name| -> Result<Option<Node>, StorageError> {
        let value = read_setting(connection, name)?;
        value
            .map(|value| {
                value
                    .try_into()
                    .map_err(|_| StorageError::Damaged("a challenge"))
            })
            .transpose()
    };
    let previous = read(POW_CHALLENGE_PREVIOUS)?;
    Ok(read(POW_CHALLENGE)?.map(|current| PowChallenges { current, previous }))
}

fn write_pow_challenges(
    transaction: &Transaction<'_>,
    challenges: &PowChallenges,
) -> Result<(), StorageError> {
    write_setting(transaction, POW_CHALLENGE, &challenges.current)?;
    if let Some(previous) = &challenges.previous {
        write_setting(transaction, POW_CHALLENGE_PREVIOUS, previous)?;
    }
    Ok(())
}

/// The round that takes registrations.
struct OpenMembers {
    round: u64,
    /// Challenges by node id.
    members: HashMap<[u8; 32], [u8; 32]>,
}

/// How to undo in memory what a transaction did that failed.
#[derive(Default)]
struct Undo {
    /// New members of the round that was open at first.
    added: Vec<[u8; 32]>,
    /// That round, where another one was opened since.
    closed: Option<OpenMembers>,
    /// Whether another one was opened.
    opened: bool,
}

impl Undo {
    fn apply(self, open: &mut Option<OpenMembers>) {
        if self.opened {
            *open = self.closed;
        }
        if let Some(open) = open {
            for node_id in &self.added {
                open.members.remove(node_id);
            }
        }
    }
}

/// The thread that owns the only connection that writes.
struct Writer {
    connection: Connection,
    reader: Arc<Mutex<Connection>>,
    open: Option<OpenMembers>,
    max_batch: usize,
    counters: Arc<dyn Counters>,
    place: Place,
    /// Whether the database was closed to be opened again, which has not succeeded yet.
    closed: bool,
    /// A copy of what the database held when another file was put in its place.
    kept: Option<PathBuf>,
    /// When something was written last; `None` after a failure.
    written: Option<Instant>,
    /// How long the log (-wal) is, and when it was looked after.
    log_bytes: u64,
    max_log_bytes: u64,
    tended: Instant,
    /// Failures of the last minute, and when they were said.
    said: BTreeMap<String, Instant>,
}

impl Writer {
    fn open(
        path: &Path,
        max_batch: usize,
        counters: Arc<dyn Counters>,
    ) -> Result<Self, StorageError> {
        let connection = create(path)?;
        let reader = connect(path)?;
        let place = Place::of(path).map_err(|cause| unusable(path, cause))?;
        Ok(Self {
            connection,
            reader: Arc::new(Mutex::new(reader)),
            open: None,
            max_batch,
            counters,
            place,
            closed: false,
            kept: None,
            written: None,
            log_bytes: 0,
            max_log_bytes: MAX_LOG_BYTES,
            tended: Instant::now(),
            said: BTreeMap::new(),
        })
    }

    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        let mut close = None;
        while close.is_none() && queue.blocking_recv_many(&mut batch, self.max_batch) > 0 {
            let mut answers = Vec::with_capacity(batch.len());
            let mut undo = Undo::default();
            let is_register = |command: &Command| matches!(command, Command::Register { .. });
            let registers = batch.iter().any(is_register);
            let is_close = |command: &mut Command| matches!(command, Command::Close { .. });
            close = batch.extract_if(.., is_close).next();
            let start = Instant::now();
            let durable = match self.commit(batch.drain(..), &mut answers, &mut undo) {
                Ok(()) => {
                    // Of others, there are only those of the server itself.
                    if registers {
                        self.counters.batch_written(start.elapsed());
                    }
                    true
                }
                Err(error) => {
                    self.complain(&error);
                    self.written = None;
                    undo.apply(&mut self.open);
                    false
                }
            };
            for answer in answers {
                answer.send(durable);
            }
            if self.log_bytes > self.max_log_bytes {
                self.complain(&StorageError::LogFull);
            }
            self.tend_log();
        }
        if let Some(Command::Close { reply }) = close {
            self.empty_log();
            drop(reply.send(Ok(())));
        }
    }

    /// Says that a transaction failed, the same at most once a minute: while a disk is full, all do.
    fn complain(&mut self, error: &StorageError) {
        self.said.retain(|_, said| said.elapsed() < MINUTE);
        let error = error.to_string();
        if !self.said.contains_key(&error) {
            let database = self.place.database.display();
            tracing::error!(%error, %database, "cannot write the database; what fails is not stored");
            self.said.insert(error, Instant::now());
        }
    }

    /// Does the commands in one transaction. When it fails, commands without an answer are
    /// dropped, which tells their callers.
    fn commit(
        &mut self,
        batch: impl Iterator<Item = Command>,
        answers: &mut Vec<Answer>,
        undo: &mut Undo,
    ) -> Result<(), StorageError> {
        self.hold_place()?;
        let Self {
            connection, open, ..
        } = self;
        let log_full = self.log_bytes > self.max_log_bytes;
        let must_write = self.written.is_none_or(|at| at.elapsed() >= WRITE_AGAIN);
        let before = connection.total_changes();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for command in batch {
            answers.push(match command {
                Command::Register { reply, .. } if log_full => {
                    drop(reply.send(Err(StorageError::LogFull)));
                    continue;
                }
                Command::Probe { reply } if log_full => {
                    drop(reply.send(Err(StorageError::LogFull)));
                    continue;
                }
                Command::Register {
                    round,
                    member,
                    max_members,
                    reply,
                } => {
                    let outcome = match open {
                        Some(open) if open.round == round => {
                            register(&transaction, open, &member, max_members, undo)?
                        }
                        _ => Registered::Closed,
                    };
                    Answer::Register(reply, outcome)
                }
                Command::OpenRound { round, reply } => {
                    let opened = open_round(&transaction, round)?;
                    let members = opened.members.len() as u64;
                    let before = open.replace(opened);
                    // Whatever is opened after that was not open at first.
                    if !mem::replace(&mut undo.opened, true) {
                        undo.closed = before;
                    }
                    Answer::OpenRound(reply, members)
                }
                Command::Write { write, reply } => {
                    write(&transaction)?;
                    Answer::Write(reply)
                }
                Command::Probe { reply } => {
                    probe(&transaction, must_write)?;
                    Answer::Write(reply)
                }
                // Taken out before.
                Command::Close { .. } => continue,
            });
        }
        transaction.commit()?;
        if connection.total_changes() != before {
            self.written = Some(Instant::now());
        }
        Ok(())
    }

    /// Makes sure that the database is where others will find it.
    fn hold_place(&mut self) -> Result<(), StorageError> {
        if self.closed {
            return self.open_again();
        }
        let change = self.place.change();
        let Some(change) = change.map_err(|cause| unusable(&self.place.database, cause))? else {
            return Ok(());
        };
        let path = self.place.database.clone();
        let lost = |what: &str| StorageError::Lost {
            path: path.clone(),
            what: what.to_owned(),
        };
        Err(match change {
            Change::Removed => {
                self.put_back()?;
                tracing::error!(
                    database = %path.display(),
                    "ALARM: the database was removed while the server used it; it was written again, \
                     with everything in it"
                );
                return Ok(());
            }
            Change::LogRemoved => {
                if !self.checkpoint(BUSY_PATIENCE)? {
                    return Err(lost(
                        "has lost its log (-wal) while another program reads it: end that program",
                    ));
                }
                self.open_again()?;
                tracing::error!(
                    database = %path.display(),
                    "ALARM: the log of the database (-wal) was removed while the server used it; \
                     nothing of it was lost"
                );
                return Ok(());
            }
            Change::Shorter(bytes) => {
                if bytes >= self.bytes()? {
                    // By a VACUUM.
                    self.place.shrunk(bytes);
                    return Ok(());
                }
                lost(
                    "was cut while the server used it: stop the server and restore the database from \
                     a backup",
                )
            }
            Change::NoFolder => lost(
                "is gone with its directory: put the directory back where it was; what was removed is, \
                 on Linux, in /proc/PID/fd for as long as this server runs",
            ),
            Change::Replaced => {
                let kept = self.keep_copy()?;
                lost(&format!(
                    "was replaced by another file while the server used it: stop the server, put {} \
                     in its place, which has everything, and remove -wal and -shm",
                    kept.display()
                ))
            }
        })
    }

    /// How large the database is by what SQLite knows.
    fn bytes(&self) -> Result<u64, StorageError> {
        let pragma = |name: &str| {
            let value = self
                .connection
                .pragma_query_value(None, name, |row| row.get(0))?;
            unsigned(value)
        };
        Ok(pragma("page_count")? * pragma("page_size")?)
    }

    /// Writes everything to a new file, durably.
    fn copy_to(&self, path: &Path) -> Result<(), StorageError> {
        let failed = |cause| unusable(path, cause);
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        create_private(path)?;
        let name = path
            .to_str()
            .ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?;
        self.connection.execute("VACUUM INTO ?", [name])?;
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(failed)
    }

    /// Writes a database again of which the file is gone, with everything that it held.
    fn put_back(&mut self) -> Result<(), StorageError> {
        let database = self.place.database.clone();
        let new = with_suffix(&database, ".new");
        self.copy_to(&new)?;
        // The old log must never stand beside the new database. Whoever has it open keeps it.
        for old in [log_path(&database), with_suffix(&database, "-shm")] {
            match fs::remove_file(&old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unusable(&old, error));
                }
                _ => {}
            }
        }
        let folder = database.parent().unwrap_or(Path::new("."));
        sync_directory(folder)
            // Fails if there is a file again by now, and does not replace it.
            .and_then(|()| fs::hard_link(&new, &database))
            .and_then(|()| fs::remove_file(&new))
            .and_then(|()| sync_directory(folder))
            .map_err(|cause| unusable(&database, cause))?;
        self.open_again()
    }

    /// Keeps a copy of everything beside the file that has taken the database's place.
    fn keep_copy(&mut self) -> Result<PathBuf, StorageError> {
        if let Some(kept) = &self.kept {
            return Ok(kept.clone());
        }
        let time = Timestamp::now().strftime(".kept-%Y%m%dT%H%M%SZ");
        let kept = with_suffix(&self.place.database, &time.to_string());
        self.copy_to(&kept)?;
        self.kept = Some(kept.clone());
        Ok(kept)
    }

    /// Closes the database and opens what is in its place.
    fn open_again(&mut self) -> Result<(), StorageError> {
        self.closed = true;
        let database = self.place.database.clone();
        let mut reader = lock(&self.reader);
        // The old one first: whoever closes a database last removes its log, by its name.
        self.connection = Connection::open_in_memory()?;
        *reader = Connection::open_in_memory()?;
        self.connection = connect(&database)?;
        *reader = connect(&database)?;
        self.place = Place::of(&database).map_err(|cause| unusable(&database, cause))?;
        self.closed = false;
        Ok(())
    }

    /// Looks after a log that is long: empties it, or says why that is impossible.
    fn tend_log(&mut self) {
        self.log_bytes = log_bytes(&self.place.database);
        if self.log_bytes <= LONG_LOG_BYTES || self.tended.elapsed() < MINUTE {
            return;
        }
        self.tended = Instant::now();
        match self.checkpoint(Duration::ZERO) {
            Ok(true) => self.log_bytes = log_bytes(&self.place.database),
            Ok(false) => {
                let (log, bytes) = (log_path(&self.place.database), self.log_bytes);
                tracing::warn!(
                    log = %log.display(),
                    bytes,
                    "another program holds a read transaction on the database, whose log grows until \
                     that is ended"
                );
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Moves all that is in the log to the database, so that copies of that file are whole.
    fn empty_log(&mut self) {
        match self
            .hold_place()
            .and_then(|()| self.checkpoint(CLOSE_PATIENCE))
        {
            Ok(true) => {}
            Ok(false) => {
                let log = log_path(&self.place.database);
                tracing::warn!(
                    log = %log.display(),
                    "another program reads the database: what was stored last is in its log"
                );
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Moves the log's contents to the database and cuts it. Says whether that was possible: as long as
    /// others read an older state, it is not.
    fn checkpoint(&self, patience: Duration) -> Result<bool, StorageError> {
        let connection = &self.connection;
        connection.busy_timeout(patience)?;
        let busy: rusqlite::Result<bool> =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        connection.busy_timeout(BUSY_PATIENCE)?;
        Ok(!busy?)
    }
}

fn unusable(path: &Path, cause: io::Error) -> StorageError {
    StorageError::File {
        path: path.to_owned(),
        cause,
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads something, and writes something if it must.
fn probe(transaction: &Transaction<'_>, must_write: bool) -> Result<(), StorageError> {
    // From the file, not from memory.
    transaction.release_memory()?;
    read_setting(transaction, name(Setting::PrivateKey))?;
    if must_write {
        // Another value each time, so that there is something to write.
        transaction.execute(
            "INSERT INTO settings (name, value) VALUES ('probe', randomblob(8))
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            [],
        )?;
    }
    Ok(())
}

fn register(
    transaction: &Transaction<'_>,
    open: &mut OpenMembers,
    member: &Member,
    max_members: u64,
    undo: &mut Undo,
) -> Result<Registered, StorageError> {
    // First the room, then whether the node is known: the order that clients know.
    let number = open.members.len() as u64;
    if number >= max_members {
        return Ok(Registered::Full);
    }
    match open.members.entry(member.node_id) {
        Entry::Occupied(registered) if *registered.get() == member.challenge => {
            Ok(Registered::Already)
        }
        Entry::Occupied(_) => Ok(Registered::Conflict),
        Entry::Vacant(free) => {
            let (round, number) = (key(open.round)?, key(number)?);
            transaction
                .prepare_cached(INSERT_REGISTRATION)?
                .execute(params![
                    round,
                    number,
                    member.node_id,
                    member.challenge,
                    checksum(round, number, member)
                ])?;
            free.insert(member.challenge);
            if !undo.opened {
                undo.added.push(member.node_id);
            }
            Ok(Registered::New)
        }
    }
}

fn open_round(transaction: &Transaction<'_>, round: u64) -> Result<OpenMembers, StorageError> {
    let row = key(round)?;
    transaction.execute(
        "INSERT INTO rounds (round) VALUES (?) ON CONFLICT DO NOTHING",
        [row],
    )?;
    let mut members = HashMap::new();
    let mut twice = false;
    each_registration(transaction, row, |member| {
        twice |= members.insert(member.node_id, member.challenge).is_some();
    })?;
    if twice {
        return Err(StorageError::Damaged("a registration"));
    }
    Ok(OpenMembers { round, members })
}

/// Registrations that are not as they were stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangedRegistrations {
    /// How many.
    pub count: u64,
    /// Of how many it is known what they were.
    pub known: u64,
}

/// Reads the registrations of a round in the order of their arrival, as they were stored. One that has
/// changed, and of which that is not known, is read as it is: it must not stop a round.
fn each_registration(
    connection: &Connection,
    round: i64,
    mut tell: impl FnMut(Member),
) -> Result<ChangedRegistrations, StorageError> {
    let mut query = connection.prepare_cached(
        "SELECT number, node_id, challenge, checksum FROM registrations
         WHERE round = ? ORDER BY number",
    )?;
    let mut rows = query.query([round])?;
    let mut changed = ChangedRegistrations::default();
    while let Some(row) = rows.next()? {
        let (number, stored): (_, u32) = (row.get(0)?, row.get(3)?);
        let mut member = Member {
            node_id: row.get(1)?,
            challenge: row.get(2)?,
        };
        if checksum(round, number, &member) != stored {
            let known = restored(round, number, &member, stored);
            tracing::error!(
                round,
                number,
                known = known.is_some(),
                "ALARM: a registration has changed in the database since it was stored: memory or \
                 disk are unreliable"
            );
            changed.count += 1;
            changed.known += u64::from(known.is_some());
            member = known.unwrap_or(member);
        }
        tell(member);
    }
    Ok(changed)
}

fn checksum(round: i64, number: i64, member: &Member) -> u32 {
    let place = [round.to_be_bytes(), number.to_be_bytes()];
    let crc = crc32c::crc32c(place.as_flattened());
    let crc = crc32c::crc32c_append(crc, &member.node_id);
    crc32c::crc32c_append(crc, &member.challenge)
}

/// What a registration was before one bit of it, or of its checksum, changed, if that is all.
fn restored(round: i64, number: i64, member: &Member, stored: u32) -> Option<Member> {
    if (checksum(round, number, member) ^ stored).is_power_of_two() {
        return Some(*member);
    }
    let mut bits = (0..32).flat_map(|byte| (0..8).map(move |bit| (byte, 1 << bit)));
    bits.find_map(|(byte, bit)| {
        let (mut node, mut challenge) = (*member, *member);
        node.node_id[byte] ^= bit;
        challenge.challenge[byte] ^= bit;
        let fits = |member: &Member| checksum(round, number, member) == stored;
        [node, challenge].into_iter().find(fits)
    })
}

fn count_members(connection: &Connection, round: i64) -> Result<u64, StorageError> {
    let members = connection.query_row(
        "SELECT count(*) FROM registrations WHERE round = ?",
        [round],
        |row| row.get(0),
    )?;
    unsigned(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u8, challenge: u8) -> Member {
        Member {
            node_id: [node; 32],
            challenge: [challenge; 32],
        }
    }

    fn wait<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn open(folder: &tempfile::TempDir) -> SqliteStorage {
        SqliteStorage::open(&folder.path().join("poet.sqlite"), 100, Arc::new(())).unwrap()
    }

    fn sample_proof() -> PublishedProof {
        PublishedProof {
            statement: vec![9; 32],
            members: vec![[1; 32], [2; 32]],
            odd_members: vec![(1, vec![2; 40])],
            leaves: 1 << 40,
            proof: Proof {
                root: [3; 32],
                proven_leaves: vec![[4; 32]; 150],
                proof_nodes: vec![[5; 32]; 7],
            },
        }
    }

    #[test]
    fn registrations_follow_the_rules() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        let register = |round, member| wait(storage.register(round, member, 3)).unwrap();

        assert_eq!(
            register(4, member(1, 1)),
            Registered::Closed,
            "nothing is open yet"
        );
        assert_eq!(wait(storage.open_round(4)).unwrap(), 0);
        assert_eq!(register(4, member(2, 20)), Registered::New);
        assert_eq!(register(4, member(1, 10)), Registered::New);
        assert_eq!(register(4, member(1, 10)), Registered::Already);
        assert_eq!(register(4, member(1, 11)), Registered::Conflict);
        assert_eq!(register(3, member(1, 10)), Registered::Closed);
        assert_eq!(register(4, member(3, 30)), Registered::New);
        assert_eq!(register(4, member(4, 40)), Registered::Full);
        assert_eq!(register(4, member(1, 10)), Registered::Full);
        assert_eq!(storage.members(4).unwrap(), [[10; 32], [20; 32], [30; 32]]);

        // Another round takes over; the node may register there again.
        assert_eq!(wait(storage.open_round(5)).unwrap(), 0);
        assert_eq!(register(4, member(5, 50)), Registered::Closed);
        assert_eq!(register(5, member(1, 11)), Registered::New);

        // After a restart, members are still there and counted.
        drop(storage);
        let storage = open(&folder);
        assert_eq!(wait(storage.open_round(5)).unwrap(), 1);
        assert_eq!(
            wait(storage.register(5, member(1, 11), 2)).unwrap(),
            Registered::Already
        );
    }

    #[test]
    fn many_at_once_share_transactions_and_all_are_answered() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        wait(async {
            storage.open_round(0).await.unwrap();
            let pending: Vec<_> = (0..500_u16)
                .map(|i| {
                    let mut member = member(0, 7);
                    // Each of 250 nodes twice.
                    member.node_id[..2].copy_from_slice(&(i % 250).to_be_bytes());
                    tokio::spawn(storage.register(0, member, u64::MAX))
                })
                .collect();
            let mut new = 0;
            for handle in pending {
                match handle.await.unwrap().unwrap() {
                    Registered::New => new += 1,
                    outcome => assert_eq!(outcome, Registered::Already),
                }
            }
            assert_eq!(new, 250);
        });
        assert_eq!(storage.members(0).unwrap().len(), 250);
    }

    #[test]
    fn one_bit_that_has_changed_is_known() {
        let stored = member(3, 9);
        let sum = checksum(5, 7, &stored);
        for bit in 0..512 {
            let mut changed = stored;
            let Member { node_id, challenge } = &mut changed;
            [node_id, challenge][bit / 256][bit / 8 % 32] ^= 1 << (bit % 8);
            assert_ne!(checksum(5, 7, &changed), sum);
            assert_eq!(restored(5, 7, &changed, sum), Some(stored));
        }
        for bit in 0..32 {
            assert_eq!(restored(5, 7, &stored, sum ^ 1 << bit), Some(stored));
        }
        assert_eq!(restored(5, 7, &member(4, 11), sum), None);
    }

    #[test]
    fn a_rounds_life_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        assert_eq!(storage.first_unsettled_round(7).unwrap(), 7);
        wait(storage.open_round(7)).unwrap();
        assert_eq!(
            storage.unfinished_rounds().unwrap(),
            [UnfinishedRound {
                round: 7,
                execution: None
            }]
        );
        let execution = Execution {
            statement: Vec::new(),
            subtree_height: SubtreeHeight::new(12).unwrap(),
        };
        storage.settle_round(7, &execution).unwrap();
        for (from, first) in [(0, 0), (6, 6), (7, 8), (8, 8)] {
            assert_eq!(storage.first_unsettled_round(from).unwrap(), first);
        }
        assert_eq!(
            storage.unfinished_rounds().unwrap(),
            [UnfinishedRound {
                round: 7,
                execution: Some(execution)
            }]
        );

        let first = PowChallenges {
            current: [8; 32],
            previous: None,
        };
        storage.store_pow_challenges(&first).unwrap();
        let rotated = storage.publish(7, Arc::new(sample_proof())).unwrap();
        assert_eq!(
            rotated,
            PowChallenges {
                current: [3; 32],
                previous: Some([8; 32])
            }
        );

        drop(storage);
        let storage = open(&folder);
        assert_eq!(storage.pow_challenges().unwrap(), Some(rotated));
        assert_eq!(storage.proof(7).unwrap(), Some(sample_proof()));
        assert_eq!(storage.proof(8).unwrap(), None);
        assert_eq!(storage.proof(u64::MAX).unwrap(), None);
        // Whatever changes, it is noticed.
        let zeros = "x'0000000000000000000000000000000000000000000000000000000000000000'";
        for change in [
            "UPDATE proofs SET leaves = leaves - 1".to_owned(),
            "UPDATE proofs SET checksum = checksum + 1".to_owned(),
            "UPDATE odd_members SET position = 0".to_owned(),
            "UPDATE odd_members SET challenge = x'02'".to_owned(),
            "DELETE FROM odd_members".to_owned(),
            "UPDATE proofs SET proof_nodes = x'',
                 proven_leaves = CAST(proven_leaves || proof_nodes AS BLOB)"
                .to_owned(),
            format!("UPDATE proofs SET statement = {zeros}"),
            format!("UPDATE proofs SET root = {zeros}"),
            format!("UPDATE proofs SET proven_leaves = {zeros}"),
            format!("UPDATE proofs SET proof_nodes = {zeros}"),
            format!("UPDATE proofs SET members = {zeros}"),
        ] {
            let other = Connection::open(folder.path().join("poet.sqlite")).unwrap();
            let copies = "CREATE TEMP TABLE one AS SELECT * FROM proofs;
                          CREATE TEMP TABLE two AS SELECT * FROM odd_members;";
            other.execute_batch(copies).unwrap();
            assert_eq!(other.execute(&change, []).unwrap(), 1, "{change}");
            let error = storage.proof(7).unwrap_err();
            assert!(
                matches!(error, StorageError::ProofChanged(7)),
                "{change}: {error}"
            );
            let back = "DELETE FROM proofs; INSERT INTO proofs SELECT * FROM one;
                        DELETE FROM odd_members; INSERT INTO odd_members SELECT * FROM two;";
            other.execute_batch(back).unwrap();
            assert_eq!(storage.proof(7).unwrap(), Some(sample_proof()));
        }
        assert_eq!(storage.unfinished_rounds().unwrap(), []);
        for (from, first) in [(0, 0), (6, 6), (7, 8), (8, 8)] {
            assert_eq!(storage.first_unsettled_round(from).unwrap(), first);
        }
    }

    #[test]
    fn a_failed_transaction_is_reported_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        storage
            .store_pow_challenges(&PowChallenges {
                current: [8; 32],
                previous: None,
            })
            .unwrap();
        storage.publish(7, Arc::new(sample_proof())).unwrap();
        // The round has a proof already: the second one must not rotate the challenges either.
        let before = storage.pow_challenges().unwrap();
        assert!(storage.publish(7, Arc::new(sample_proof())).is_err());
        assert_eq!(storage.pow_challenges().unwrap(), before);
        // And the writer goes on.
        assert_eq!(wait(storage.open_round(8)).unwrap(), 0);
    }

    #[test]
    fn registrations_of_a_failed_transaction_did_not_happen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        drop(open(&folder));
        let mut writer = Writer::open(&path, 100, Arc::new(())).unwrap();
        // The answers' receivers stay, so that each answer could be sent.
        let mut replies = Vec::new();
        let mut reply = || {
            let (sender, receiver) = oneshot::channel();
            replies.push(receiver);
            sender
        };
        let mut opened = Vec::new();
        let mut open = |round| {
            let (reply, receiver) = oneshot::channel();
            opened.push(receiver);
            Command::OpenRound { round, reply }
        };
        let mut register = |round, node| Command::Register {
            round,
            member: member(node, node),
            max_members: 10,
            reply: reply(),
        };
        let failing = || Command::Write {
            write: Box::new(|_| Err(StorageError::Stopped)),
            reply: oneshot::channel().0,
        };
        let mut commit = |commands: Vec<Command>| {
            let (mut answers, mut undo) = (Vec::new(), Undo::default());
            let done = writer.commit(commands.into_iter(), &mut answers, &mut undo);
            if done.is_err() {
                undo.apply(&mut writer.open);
            }
            let open = writer.open.as_ref();
            let mut members: Vec<_> = open.unwrap().members.keys().map(|id| id[0]).collect();
            members.sort_unstable();
            (done.is_ok(), open.unwrap().round, members)
        };
        let batch = vec![open(4), register(4, 1), register(4, 2)];
        assert_eq!(commit(batch), (true, 4, vec![1, 2]));
        let batch = vec![register(4, 1), register(4, 3), failing()];
        assert_eq!(commit(batch), (false, 4, vec![1, 2]));
        let batch = vec![
            register(4, 3),
            open(5),
            register(5, 1),
            open(6),
            register(6, 4),
            failing(),
        ];
        assert_eq!(commit(batch), (false, 4, vec![1, 2]));
        let batch = vec![register(4, 3), open(5), register(5, 9)];
        assert_eq!(commit(batch), (true, 5, vec![9]));
        drop(writer);
        let storage = SqliteStorage::open(&path, 100, Arc::new(())).unwrap();
        assert_eq!(storage.members(4).unwrap(), [[1; 32], [2; 32], [3; 32]]);
        assert_eq!(storage.members(5).unwrap(), [[9; 32]]);
    }

    fn sizes(folder: &tempfile::TempDir) -> (u64, u64) {
        let path = folder.path().join("poet.sqlite");
        (fs::metadata(&path).unwrap().len(), log_bytes(&path))
    }

    #[test]
    fn a_probe_writes_only_when_nothing_was_written_lately() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        let (_, empty) = sizes(&folder);
        wait(storage.probe()).unwrap();
        let before = sizes(&folder);
        assert!(before.1 > empty, "the first one writes");
        for _ in 0..9 {
            wait(storage.probe()).unwrap();
        }
        assert_eq!(sizes(&folder), before);
        // Reading is tried in any case.
        let other = Connection::open(folder.path().join("poet.sqlite")).unwrap();
        other
            .execute_batch("ALTER TABLE settings RENAME TO gone")
            .unwrap();
        assert!(wait(storage.probe()).is_err());
        other
            .execute_batch("ALTER TABLE gone RENAME TO settings")
            .unwrap();
        let before = sizes(&folder);
        wait(storage.probe()).unwrap();
        assert!(sizes(&folder).1 > before.1, "after a failure it writes");
    }

    #[test]
    fn when_it_is_closed_everything_is_in_the_database() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        wait(storage.open_round(3)).unwrap();
        wait(storage.register(3, member(1, 1), 9)).unwrap();
        assert!(sizes(&folder).1 > 0);
        wait(storage.close()).unwrap();
        assert_eq!(sizes(&folder).1, 0);
        let path = folder.path().join("poet.sqlite");
        let only = Connection::open(format!("file:{}?immutable=1", path.display())).unwrap();
        assert_eq!(count_members(&only, 3).unwrap(), 1);
        let error = wait(storage.register(3, member(2, 2), 9)).unwrap_err();
        assert_eq!(error.to_string(), StorageError::Stopped.to_string());
        assert_eq!(storage.members(3).unwrap().len(), 1, "it can still be read");
    }

    #[test]
    fn a_log_that_is_held_is_limited_and_shrinks_when_it_is_released() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        let mut writer = Writer::open(&path, 100, Arc::new(())).unwrap();
        writer.max_log_bytes = 20 << 20;
        let mut run = |command| {
            let (mut answers, mut undo) = (Vec::new(), Undo::default());
            let done = writer.commit([command].into_iter(), &mut answers, &mut undo);
            for answer in answers {
                answer.send(done.is_ok());
            }
            writer.tend_log();
            done
        };
        let (reply, _opened) = oneshot::channel();
        run(Command::OpenRound { round: 1, reply }).unwrap();
        let other = Connection::open(&path).unwrap();
        other
            .execute_batch("BEGIN; SELECT count(*) FROM rounds")
            .unwrap();
        other
            .query_row("SELECT count(*) FROM rounds", [], |_| Ok(()))
            .unwrap();
        let fill = |bytes: u32| Command::Write {
            write: Box::new(move |transaction| {
                write_setting(transaction, "filler", &vec![7; bytes as usize])
            }),
            reply: oneshot::channel().0,
        };
        run(fill(9 << 20)).unwrap();
        run(fill(11 << 20)).unwrap();
        assert!(log_bytes(&path) > 20 << 20);
        let register = || {
            let (reply, answer) = oneshot::channel();
            let (round, member, max_members) = (1, member(1, 1), 9);
            let command = Command::Register {
                round,
                member,
                max_members,
                reply,
            };
            (command, answer)
        };
        let (command, answer) = register();
        run(command).unwrap();
        let refused = answer.blocking_recv().unwrap();
        assert!(matches!(refused, Err(StorageError::LogFull)), "{refused:?}");
        other.execute_batch("COMMIT").unwrap();
        // SQLite moves all of it with the next transaction, and cuts it with the one after that.
        run(fill(1)).unwrap();
        run(fill(2)).unwrap();
        assert!(log_bytes(&path) <= KEPT_LOG_BYTES, "{}", log_bytes(&path));
        let (command, answer) = register();
        run(command).unwrap();
        assert_eq!(answer.blocking_recv().unwrap().unwrap(), Registered::New);
    }

    #[test]
    fn a_database_that_is_removed_is_written_again() {
        let names = ["poet.sqlite", "poet.sqlite-wal", "poet.sqlite-shm"];
        for removed in [&names[..], &names[..1], &names[1..2], &names[1..]] {
            let folder = tempfile::tempdir().unwrap();
            let storage = open(&folder);
            wait(storage.open_round(3)).unwrap();
            wait(storage.register(3, member(1, 1), 9)).unwrap();
            for name in removed {
                fs::remove_file(folder.path().join(name)).unwrap();
            }
            assert_eq!(
                wait(storage.register(3, member(2, 2), 9)).unwrap(),
                Registered::New
            );
            assert_eq!(storage.members(3).unwrap(), [[1; 32], [2; 32]]);
            assert_eq!(
                wait(storage.register(3, member(1, 1), 9)).unwrap(),
                Registered::Already
            );
            // As it would be found after a crash.
            let crashed = tempfile::tempdir().unwrap();
            for name in names {
                fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
            }
            assert_eq!(open(&crashed).members(3).unwrap(), [[1; 32], [2; 32]]);
            assert_eq!(
                fs::read_dir(folder.path()).unwrap().count(),
                3,
                "{removed:?}"
            );
        }
    }

    #[test]
    fn nothing_is_promised_in_a_database_that_nobody_will_find() {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        wait(storage.open_round(3)).unwrap();
        wait(storage.register(3, member(1, 1), 9)).unwrap();
        let path = folder.path().join("poet.sqlite");
        let refused = |what: &str| {
            assert!(
                wait(storage.register(3, member(2, 2), 9)).is_err(),
                "{what}"
            );
            assert!(wait(storage.probe()).is_err(), "{what}");
        };
        // Another one in its place: what this one held is kept.
        let (aside, other) = (folder.path().join("aside"), tempfile::tempdir().unwrap());
        drop(open(&other));
        fs::rename(&path, &aside).unwrap();
        fs::copy(other.path().join("poet.sqlite"), &path).unwrap();
        refused("replaced");
        let kept = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let mut kept = kept.filter(|path| path.to_str().unwrap().contains(".kept-"));
        let kept = Connection::open(kept.next().unwrap()).unwrap();
        assert_eq!(count_members(&kept, 3).unwrap(), 1);
        fs::rename(&aside, &path).unwrap();
        wait(storage.probe()).unwrap();
        // Its directory elsewhere.
        let moved = folder.path().with_extension("moved");
        fs::rename(folder.path(), &moved).unwrap();
        refused("moved with its directory");
        fs::rename(&moved, folder.path()).unwrap();
        assert_eq!(
            wait(storage.register(3, member(2, 2), 9)).unwrap(),
            Registered::New
        );
        // Cut.
        let other = Connection::open(&path).unwrap();
        let checkpoint = || {
            let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
            other.query_row(checkpoint, [], |_| Ok(())).unwrap();
        };
        checkpoint();
        wait(storage.probe()).unwrap();
        let bytes = fs::read(&path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bytes.len() as u64 / 2).unwrap();
        refused("cut");
        fs::write(&path, &bytes).unwrap();
        wait(storage.probe()).unwrap();
        // Made smaller by another program, rightly.
        let fill = |sql| other.execute_batch(sql).unwrap();
        fill("CREATE TABLE filler AS SELECT randomblob(99999)");
        checkpoint();
        wait(storage.probe()).unwrap();
        fill("DROP TABLE filler; VACUUM");
        checkpoint();
        assert!(fs::metadata(&path).unwrap().len() < 99_999);
        wait(storage.probe()).unwrap();
    }

    #[test]
    fn foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        std::fs::write(&path, "this is not a database, and longer than a header").unwrap();
        let error = SqliteStorage::open(&path, 100, Arc::new(()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("poet.sqlite"), "{error}");

        let path = folder.path().join("newer.sqlite");
        drop(SqliteStorage::open(&path, 100, Arc::new(())).unwrap());
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let error = SqliteStorage::open(&path, 100, Arc::new(()))
            .unwrap_err()
            .to_string();
        assert!(error.contains("schema 99"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn the_database_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let _storage = open(&folder);
        for entry in std::fs::read_dir(folder.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
        }
    }
}
