//! The thread that writes: it commits queued commands as one transaction, and watches the files.

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::{self, File},
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use poet_files::sync_directory;
use poet_rounds::{
    clock::Clock,
    counters::Counters,
    storage::{Challenge, Member, NodeId, Registered, Setting},
};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{
    place::{Change, Place},
    rows::{INSERT_REGISTRATION, checksum, each_registration, key, name, read_setting, unsigned},
    schema::{BUSY_PATIENCE, connect, create, create_private, unusable},
    wal::{log_bytes, log_path},
};
use crate::{DatabaseError as StorageError, repeated::Repeated};

/// How long to wait, when the server ends, for another program that reads the database.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);
/// How long a successful write shows that writing is possible.
const WRITE_AGAIN: Duration = Duration::from_secs(60);
/// How often to check a log that is too long.
const TEND_INTERVAL: Duration = Duration::from_secs(60);
/// A longer log that remains so is held by another program's read transaction.
const LONG_LOG_BYTES: u64 = 64 << 20;
/// With a longer log, registrations are refused: the disk's last space is for proofs.
const MAX_LOG_BYTES: u64 = 4 << 30;

pub(super) type Write = Box<dyn FnOnce(&Transaction<'_>) -> Result<(), StorageError> + Send>;
pub(super) type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

pub(super) enum Command {
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

/// The answer to a caller once the transaction is durable.
pub(super) enum Answer {
    Register(Reply<Registered>, Registered),
    OpenRound(Reply<u64>, u64),
    Write(Reply<()>),
}

impl Answer {
    // The caller may be gone.
    pub(super) fn send(self, durable: bool) {
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

/// The round that takes registrations.
pub(super) struct OpenMembers {
    pub(super) round: u64,
    /// Challenges by node id.
    pub(super) members: HashMap<NodeId, Challenge>,
}

/// How to undo in memory what a failed transaction did.
#[derive(Default)]
pub(super) struct Undo {
    /// New members of the round that was open before.
    added: Vec<NodeId>,
    /// That round, if another one was opened since.
    closed: Option<OpenMembers>,
    /// Whether another round was opened.
    opened: bool,
}

impl Undo {
    pub(super) fn apply(self, open: &mut Option<OpenMembers>) {
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

/// The thread with the only connection that writes.
pub(super) struct Writer {
    pub(super) connection: Connection,
    pub(super) reader: Arc<Mutex<Connection>>,
    pub(super) patient_reader: Arc<Mutex<Connection>>,
    pub(super) open: Option<OpenMembers>,
    pub(super) max_batch: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) counters: Arc<dyn Counters>,
    pub(super) place: Place,
    /// Whether the database was closed to be reopened, and reopening has failed so far.
    pub(super) closed: bool,
    /// The path of a copy of the database, made when another file had taken its place.
    pub(super) kept: Option<PathBuf>,
    /// When the last write succeeded, by the monotonic clock; `None` after a failure.
    pub(super) written: Option<Duration>,
    /// The length of the log (-wal), and when it was last checked.
    pub(super) log_bytes: u64,
    pub(super) long_log_bytes: u64,
    pub(super) max_log_bytes: u64,
    pub(super) tended: Duration,
    pub(super) failures: Repeated,
}

impl Writer {
    pub(super) fn open(
        path: &Path,
        max_batch: usize,
        clock: Arc<dyn Clock>,
        counters: Arc<dyn Counters>,
    ) -> Result<Self, StorageError> {
        let connection = create(path)?;
        let reader = connect(path)?;
        let place = Place::of(path).map_err(|cause| unusable(path, cause))?;
        Ok(Self {
            connection,
            reader: Arc::new(Mutex::new(reader)),
            patient_reader: Arc::new(Mutex::new(connect(path)?)),
            open: None,
            max_batch,
            counters,
            place,
            closed: false,
            kept: None,
            written: None,
            log_bytes: 0,
            long_log_bytes: LONG_LOG_BYTES,
            max_log_bytes: MAX_LOG_BYTES,
            tended: clock.monotonic(),
            failures: Repeated::new(Arc::clone(&clock)),
            clock,
        })
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        let mut close = None;
        while close.is_none() && queue.blocking_recv_many(&mut batch, self.max_batch) > 0 {
            let mut answers = Vec::with_capacity(batch.len());
            let mut undo = Undo::default();
            let is_register = |command: &Command| matches!(command, Command::Register { .. });
            let registers = batch.iter().any(is_register);
            let is_close = |command: &mut Command| matches!(command, Command::Close { .. });
            close = batch.extract_if(.., is_close).next();
            let start = self.clock.monotonic();
            let durable = match self.commit(batch.drain(..), &mut answers, &mut undo) {
                Ok(()) => {
                    // Batches without registrations are the server's own, and are not counted.
                    if registers {
                        let took = self.clock.monotonic().saturating_sub(start);
                        self.counters.batch_written(took);
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

    /// Logs that a transaction failed.
    fn complain(&mut self, error: &StorageError) {
        let error = error.to_string();
        if self.failures.is_due(&error) {
            let database = self.place.database.display();
            tracing::error!(%error, %database, "cannot write the database; what fails is not stored");
        }
    }

    /// Executes the commands in one transaction. If it fails, commands without an answer are
    /// dropped, which notifies their callers.
    pub(super) fn commit(
        &mut self,
        batch: impl Iterator<Item = Command>,
        answers: &mut Vec<Answer>,
        undo: &mut Undo,
    ) -> Result<(), StorageError> {
        self.hold_place()?;
        let now = self.clock.monotonic();
        let Self {
            connection, open, ..
        } = self;
        let log_full = self.log_bytes > self.max_log_bytes;
        let must_write = (self.written).is_none_or(|at| now.saturating_sub(at) >= WRITE_AGAIN);
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
                    // Rounds opened later were not open before the transaction.
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
                // Removed from the queue before.
                Command::Close { .. } => continue,
            });
        }
        transaction.commit()?;
        if connection.total_changes() != before {
            self.written = Some(self.clock.monotonic());
        }
        Ok(())
    }

    /// Ensures that the database is where other processes will find it.
    fn hold_place(&mut self) -> Result<(), StorageError> {
        if self.closed {
            return self.open_again();
        }
        let change = self.place.change();
        let Some(change) = change.map_err(|cause| unusable(&self.place.database, cause))? else {
            // An earlier copy lacks what is stored from now on.
            self.kept = None;
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
                // What the file lacks may be in its log or in memory. A start would remove the log
                // of an empty database.
                match self.keep_copy() {
                    Ok(kept) => lost(&format!(
                        "was cut while the server used it: stop the server, put {} in its place, which \
                         has everything, and remove -wal and -shm",
                        kept.display()
                    )),
                    Err(_) => lost(
                        "was cut while the server used it: stop the server and restore the database \
                         from a backup",
                    ),
                }
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

    /// Returns the size of the database as SQLite knows it.
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

    /// Writes a database whose file is gone again, with everything in it.
    fn put_back(&mut self) -> Result<(), StorageError> {
        let database = self.place.database.clone();
        let new = with_suffix(&database, ".new");
        self.copy_to(&new)?;
        // An old log must never be next to a new database. Programs that have it open keep it.
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
            // Fails, rather than replace it, if the file exists again.
            .and_then(|()| fs::hard_link(&new, &database))
            .and_then(|()| fs::remove_file(&new))
            .and_then(|()| sync_directory(folder))
            .map_err(|cause| unusable(&database, cause))?;
        self.open_again()
    }

    /// Copies everything to a file next to the one that has taken the database's place.
    fn keep_copy(&mut self) -> Result<PathBuf, StorageError> {
        if let Some(kept) = &self.kept {
            return Ok(kept.clone());
        }
        let time = self.clock.now().strftime(".kept-%Y%m%dT%H%M%SZ");
        let kept = with_suffix(&self.place.database, &time.to_string());
        self.copy_to(&kept)?;
        self.kept = Some(kept.clone());
        Ok(kept)
    }

    /// Closes the database and opens the one in its place.
    fn open_again(&mut self) -> Result<(), StorageError> {
        self.closed = true;
        let database = self.place.database.clone();
        let mut reader = lock(&self.reader);
        // First closes the old one: the last connection to close removes the log by its name.
        self.connection = Connection::open_in_memory()?;
        *reader = Connection::open_in_memory()?;
        let mut patient_reader = lock(&self.patient_reader);
        *patient_reader = Connection::open_in_memory()?;
        self.connection = connect(&database)?;
        *reader = connect(&database)?;
        *patient_reader = connect(&database)?;
        self.place = Place::of(&database).map_err(|cause| unusable(&database, cause))?;
        self.closed = false;
        Ok(())
    }

    /// Checks a long log: empties it, or logs why that is not possible.
    pub(super) fn tend_log(&mut self) {
        self.log_bytes = log_bytes(&self.place.database);
        let now = self.clock.monotonic();
        let waits = now.saturating_sub(self.tended) < TEND_INTERVAL;
        if self.log_bytes <= self.long_log_bytes || waits {
            return;
        }
        self.tended = now;
        match self.checkpoint(Duration::ZERO) {
            Ok(true) => self.log_bytes = log_bytes(&self.place.database),
            Ok(false) => {
                let (log, bytes) = (log_path(&self.place.database), self.log_bytes);
                tracing::warn!(
                    log = %log.display(),
                    bytes,
                    "a read transaction keeps the log of the database from being emptied; if this line is \
                     repeated, another program holds it: the log grows until that program ends it"
                );
            }
            Err(error) => self.complain(&error),
        }
    }

    /// Moves everything from the log to the database, so that a copy of that file is complete.
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

    /// Moves the log's contents to the database and truncates it. Returns whether that was
    /// possible: not while others read an older state.
    fn checkpoint(&self, patience: Duration) -> Result<bool, StorageError> {
        let connection = &self.connection;
        connection.busy_timeout(patience)?;
        let busy: rusqlite::Result<bool> =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0));
        connection.busy_timeout(BUSY_PATIENCE)?;
        Ok(!busy?)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Reads something, and writes something if `must_write`.
fn probe(transaction: &Transaction<'_>, must_write: bool) -> Result<(), StorageError> {
    // Forces a read of the file, not of memory.
    transaction.release_memory()?;
    read_setting(transaction, name(Setting::PrivateKey))?;
    if must_write {
        // A different value each time, so that there is something to write.
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
    // Checks the limit before the member, which is the order that clients know.
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
                    member.node_id.0,
                    member.challenge.0,
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

/// Waits for a connection.
pub(super) fn lock(connection: &Mutex<Connection>) -> MutexGuard<'_, Connection> {
    // A panic elsewhere cannot have left a connection in a broken state.
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}
