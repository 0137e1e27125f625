//! The embedded storage: one SQLite file.
//!
//! All writes go through one thread. It takes whatever is queued, commits it as one transaction and
//! only then answers. So an answer means that the data is durable, and a busy server needs few
//! syncs: while the disk works on one transaction, the next one gathers.
//!
//! Registrations are stored in order of arrival, so that a commit writes only at the end of their
//! table: ordered by node id, each would change another page, and a million of them would write 4
//! GB. The writer ensures that a node registers only once: it holds the members of the open round
//! in memory (about 130 bytes each). Readers sort a round.
//!
//! SQLite does not notice a flipped bit in a value. So each registration has a checksum, which also
//! shows which bit has changed, and each proof has one, so that the server never serves a proof
//! that nodes would reject. Everything else that is stored can be checked by itself.

mod early_proofs;
pub(crate) mod fill;
mod place;
mod retention;
mod rows;
mod schema;
mod storage;
#[cfg(test)]
mod tests;
mod wal;
mod whole;
mod writer;

use std::{
    fs::File,
    ops::RangeInclusive,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::Duration,
};

use poet_engine::membership;
use poet_proto::messages::PublishedProof;
use poet_rounds::{
    clock::Clock,
    counters::Counters,
    storage::{
        Challenge, EarlyProofRecord, Ended, Execution, Member, NodeId, PowChallenges, Registered,
        Removed, RoundRecord, Setting, StorageFuture, UnfinishedRound,
    },
};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension as _, Transaction,
    backup::{Backup, StepResult},
    ffi, params,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::wal::log_path;
use self::{
    retention::can_shrink,
    rows::{
        SELECT_RECORDS, count_members, each_registration, insert_members, insert_proof, key, name,
        read_execution, read_pow_challenges, read_record, read_setting, select_proof, unsigned,
        write_pow_challenges, write_setting,
    },
    schema::{SCHEMA, create, open_to_read},
    writer::{Command, Reply, Writer, lock},
};
pub use self::{
    retention::make_shrinkable,
    wal::{LogDamage, keep_damaged_log, log_bytes, log_damage},
};
use crate::{
    Adopted, ChangedRegistrations, DatabaseError as StorageError, Imported,
    database::{REMOVED_THROUGH, read_removed_through},
};

/// Commands that may wait for the writer; more callers wait for room.
const QUEUED_COMMANDS: usize = 16_384;

/// How often to start copying while the database is locked, and how long to wait in between.
const COPY_ATTEMPTS: u32 = 100;
const COPY_PAUSE: Duration = Duration::from_millis(100);

/// Storage in an SQLite file.
#[derive(Debug)]
pub struct SqliteStorage {
    /// The writer replaces it when it reopens the database.
    reader: Arc<Mutex<Connection>>,
    /// The same for long reads that may wait: a low-priority thread in the middle of one does not
    /// keep others from reading.
    patient_reader: Arc<Mutex<Connection>>,
    commands: mpsc::Sender<Command>,
}

impl SqliteStorage {
    /// Opens or creates the database in the file `path`. A transaction holds at most `max_batch`
    /// registrations, which limits how long it takes.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or created, or is no such database.
    pub fn open(
        path: &Path,
        max_batch: usize,
        clock: Arc<dyn Clock>,
        counters: Arc<dyn Counters>,
    ) -> Result<Self, StorageError> {
        let writer = Writer::open(path, max_batch, clock, counters)?;
        let reader = Arc::clone(&writer.reader);
        let patient_reader = Arc::clone(&writer.patient_reader);
        let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
        thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || writer.run(queue))?;
        Ok(Self {
            reader,
            patient_reader,
            commands,
        })
    }

    /// Opens the database in the file `path` for reading only. Writes fail with
    /// [`StorageError::Stopped`].
    ///
    /// # Errors
    /// Fails if the file cannot be opened, or is no such database.
    pub fn open_to_read(path: &Path) -> Result<Self, StorageError> {
        let reader = open_to_read(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let reader = Arc::new(Mutex::new(reader));
        let (commands, _) = mpsc::channel(1);
        Ok(Self {
            patient_reader: Arc::clone(&reader),
            reader,
            commands,
        })
    }

    /// Returns what SQLite finds damaged, at most a few things, and how the tables differ from the
    /// schema.
    ///
    /// # Errors
    /// Fails if the database cannot be read at all.
    pub fn damage(&self) -> Result<Vec<String>, StorageError> {
        let reader = self.reader();
        let mut query = reader.prepare("PRAGMA integrity_check(5)")?;
        let found = query.query_map([], |row| row.get(0))?;
        let mut damage = found.collect::<Result<Vec<String>, _>>()?;
        damage.retain(|line| line != "ok");
        let expected = Connection::open_in_memory()?;
        expected.execute_batch(SCHEMA)?;
        expected.execute_batch(early_proofs::SCHEMA)?;
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

    /// Returns whether removing registrations makes the file smaller.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn can_shrink(&self) -> Result<bool, StorageError> {
        Ok(can_shrink(&self.reader())?)
    }

    /// Returns the newest round whose registrations were removed because of its age, if there is
    /// one.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn removed_through(&self) -> Result<Option<u64>, StorageError> {
        read_removed_through(read_setting(&self.reader(), REMOVED_THROUGH)?)
    }

    /// Returns which registrations of a round have changed since they were stored.
    ///
    /// # Errors
    /// Fails if the database cannot be read.
    pub fn changed_registrations(&self, round: u64) -> Result<ChangedRegistrations, StorageError> {
        each_registration(&self.reader(), key(round)?, |_| {})
    }

    /// Stores everything that another server stored in the file `path`, in one transaction. The
    /// database must be empty, and not open.
    ///
    /// # Errors
    /// Fails if that is not possible; then nothing is stored.
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

    /// Stores a round of another server in the file `path`, in one transaction. The database may
    /// exist, but must not be open. The round must have no members yet.
    ///
    /// # Errors
    /// Fails if that is not possible; then nothing is stored.
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

    /// Sends a command to the writer and waits for the answer.
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

impl SqliteStorage {
    /// See [`Storage::setting`](poet_rounds::storage::Storage::setting).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        read_setting(&self.reader(), name(setting))
    }

    pub(crate) fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        let value = value.to_vec();
        self.write(move |transaction| write_setting(transaction, name(setting), &value))
    }

    /// See [`Storage::pow_challenges`](poet_rounds::storage::Storage::pow_challenges).
    ///
    /// # Errors
    /// Fails if the database fails.
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

    /// See [`Storage::unfinished_rounds`](poet_rounds::storage::Storage::unfinished_rounds).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        let reader = self.reader();
        let mut query = reader.prepare(
            "SELECT round, statement, subtree_height FROM rounds
             WHERE round NOT IN (SELECT round FROM proofs) ORDER BY round",
        )?;
        let mut rows = query.query([])?;
        let mut rounds = Vec::new();
        while let Some(row) = rows.next()? {
            rounds.push(UnfinishedRound {
                round: unsigned(row.get(0)?)?,
                execution: read_execution(row)?,
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

    pub(crate) fn ended(&self) -> Ended {
        let commands = self.commands.clone();
        Box::pin(async move { commands.closed().await })
    }

    /// See [`Storage::newest_rounds`](poet_rounds::storage::Storage::newest_rounds).
    ///
    /// # Errors
    /// Fails if the database fails.
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

    /// See [`Storage::round`](poet_rounds::storage::Storage::round).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        // No record can have this number.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        let reader = self.reader();
        let mut query =
            reader.prepare_cached(&format!("{SELECT_RECORDS} WHERE rounds.round = ?"))?;
        let mut rows = query.query([round])?;
        rows.next()?.map(read_record).transpose()
    }

    /// See [`Storage::registrations`](poet_rounds::storage::Storage::registrations).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        sorted_registrations(&lock(&self.patient_reader), round)
    }

    pub(crate) fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        let mut found = false;
        each_registration(&lock(&self.patient_reader), key(round)?, |member| {
            found |= member.node_id == node_id;
        })?;
        Ok(found)
    }

    pub(crate) fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        count_members(&self.reader(), key(round)?)
    }

    /// See [`Storage::members`](poet_rounds::storage::Storage::members).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        let registrations = sorted_registrations(&self.reader(), round)?;
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
            // The root of an empty proof is easy to guess, so it must not become a challenge.
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

    /// See [`Storage::proof`](poet_rounds::storage::Storage::proof).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        // No record can have this number.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        select_proof(&self.reader(), round)
    }

    pub(crate) fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        self.write(move |transaction| {
            early_proofs::insert(transaction, key(round)?, gap, proof.leaves, &proof.proof)
        })
    }

    /// See [`Storage::early_proof`](poet_rounds::storage::Storage::early_proof).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        // No record can have this number.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        select_early_proof(&self.reader(), round, gap)
    }

    /// See [`Storage::early_proofs`](poet_rounds::storage::Storage::early_proofs).
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        let number = |round: &u64| i64::try_from(*round).unwrap_or(i64::MAX);
        early_proofs::records(
            &self.reader(),
            number(rounds.start())..=number(rounds.end()),
        )
    }
}

/// Reads an early proof, with the statement and the members of its round.
fn select_early_proof(
    connection: &Connection,
    round: i64,
    gap: Duration,
) -> Result<Option<PublishedProof>, StorageError> {
    let Some((leaves, proof)) = early_proofs::select(connection, round, gap)? else {
        return Ok(None);
    };
    let query = "SELECT statement FROM rounds WHERE round = ?";
    let statement: Vec<u8> = connection.query_row(query, [round], |row| row.get(0))?;
    // A published round has its members in the proof.
    let query = "SELECT members FROM proofs WHERE round = ?";
    let published: Option<Vec<u8>> = connection
        .query_row(query, [round], |row| row.get(0))
        .optional()?;
    let members = match published {
        Some(members) => Challenge::split(&members).ok_or(StorageError::Damaged("a proof"))?,
        None => {
            let members = sorted_registrations(connection, unsigned(round)?)?;
            members.iter().map(|member| member.challenge).collect()
        }
    };
    if membership::root(&members) != statement {
        return Err(StorageError::ProofChanged(round));
    }
    Ok(Some(PublishedProof {
        statement,
        members,
        odd_members: Vec::new(),
        leaves,
        proof,
    }))
}

/// A read-only view of a database that a server may be using.
#[derive(Debug)]
pub struct SqliteReader(Connection);

impl SqliteReader {
    /// Opens the database in the file `path`.
    ///
    /// # Errors
    /// Fails if there is none, or it is of another version.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        // Opened for writing, because a read-only connection would leave its companion files
        // behind.
        let connection = open_to_read(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        Ok(Self(connection))
    }

    /// Returns a stored setting.
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        read_setting(&self.0, name(setting))
    }

    /// Returns whether `round` was opened.
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn has_round(&self, round: u64) -> Result<bool, StorageError> {
        let mut query = self.0.prepare("SELECT 1 FROM rounds WHERE round = ?")?;
        Ok(query.exists([key(round)?])?)
    }

    /// Copies a snapshot of the database into the empty file `path`. Others may write meanwhile.
    ///
    /// # Errors
    /// Fails if either database fails.
    pub fn copy_to(&self, path: &Path) -> Result<(), StorageError> {
        let mut copy = Connection::open(path)?;
        let backup = Backup::new(&self.0, &mut copy)?;
        // All pages in one step, under one read lock: a copy in several steps restarts after each
        // write.
        let mut attempts = COPY_ATTEMPTS;
        while backup.step(-1)? != StepResult::Done {
            // Another connection had locked it for a checkpoint.
            attempts -= 1;
            if attempts == 0 {
                let busy = ffi::Error::new(ffi::SQLITE_BUSY);
                return Err(rusqlite::Error::SqliteFailure(busy, None).into());
            }
            thread::sleep(COPY_PAUSE);
        }
        drop(backup);
        // A single file, without companion files.
        copy.pragma_update_and_check(None, "journal_mode", "delete", |_| Ok(()))?;
        drop(copy);
        File::open(path)?.sync_all()?;
        Ok(())
    }

    /// Returns the proof of `round`.
    ///
    /// # Errors
    /// Fails if the database fails.
    pub fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        // No record can have this number.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        select_proof(&self.0, round)
    }
}

/// Reads the registrations of a round, in the byte order of their node ids.
fn sorted_registrations(reader: &Connection, round: u64) -> Result<Vec<Member>, StorageError> {
    let mut members = Vec::new();
    each_registration(reader, key(round)?, |member| members.push(member))?;
    members.sort_unstable_by_key(|member| member.node_id);
    if members.is_sorted_by(|one, next| one.node_id < next.node_id) {
        Ok(members)
    } else {
        Err(StorageError::Damaged("a registration"))
    }
}
