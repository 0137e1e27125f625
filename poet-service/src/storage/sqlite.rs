//! The embedded storage: one SQLite file.
//!
//! All writes go through one thread. It takes whatever is queued, commits it as one transaction
//! and only then answers, so that an answer means durable, and a busy server needs few syncs:
//! while the disk works on one transaction, the next one gathers.

use std::{
    fs::OpenOptions,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use poet_engine::{Node, Proof, SubtreeHeight};
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Execution, Member, PowChallenges, PublishedProof, PublishedRecord, Registered, RoundRecord,
    Setting, Storage, StorageError, StorageFuture, UnfinishedRound,
};
use crate::metrics::Metrics;

/// Commands that may wait for the writer; further callers wait for room.
const QUEUED_COMMANDS: usize = 16_384;

const SCHEMA_VERSION: i64 = 1;
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
        node_id   BLOB NOT NULL,
        challenge BLOB NOT NULL,
        PRIMARY KEY (round, node_id)
    ) STRICT, WITHOUT ROWID;

    -- Lists of 32-byte values, one after the other.
    CREATE TABLE proofs (
        round         INTEGER PRIMARY KEY,
        statement     BLOB NOT NULL,
        leaves        INTEGER NOT NULL,
        root          BLOB NOT NULL,
        proven_leaves BLOB NOT NULL,
        proof_nodes   BLOB NOT NULL,
        members       BLOB NOT NULL
    ) STRICT;
";

const POW_CHALLENGE: &str = "pow_challenge";
const POW_CHALLENGE_PREVIOUS: &str = "pow_challenge_previous";

/// Storage in an SQLite file.
#[derive(Debug)]
pub struct SqliteStorage {
    reader: Mutex<Connection>,
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
    pub fn open(path: &Path, max_batch: usize, metrics: Metrics) -> Result<Self, StorageError> {
        create_private(path)?;
        let open_error = |cause| StorageError::Open {
            path: path.to_owned(),
            cause,
        };
        let mut connection = connect(path).map_err(open_error)?;
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
        let reader = connect(path).map_err(open_error)?;
        let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
        thread::Builder::new()
            .name("storage".to_owned())
            .spawn(move || {
                Writer {
                    connection,
                    open: None,
                    max_batch,
                    metrics,
                }
                .run(queue);
            })?;
        Ok(Self {
            reader: Mutex::new(reader),
            commands,
        })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        // A connection has no state that a panic elsewhere could have left half done.
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
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
            answer.await.map_err(|_| StorageError::Stopped)?
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

/// The file holds the private key: it is nobody else's to read. SQLite gives its companion files
/// the same permissions.
fn create_private(path: &Path) -> Result<(), StorageError> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?;
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // In WAL mode, FULL syncs the log at every commit; the default NORMAL does not.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

impl Storage for SqliteStorage {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        read_setting(&self.reader(), name(setting))
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        let value = value.to_vec();
        self.write(move |transaction| write_setting(transaction, name(setting), &value))
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        read_pow_challenges(&self.reader())
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        let challenges = challenges.clone();
        self.write(move |transaction| write_pow_challenges(transaction, &challenges))
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
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

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
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

    fn open_round(&self, round: u64) -> StorageFuture<u64> {
        self.submit(|reply| Command::OpenRound { round, reply })
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered> {
        self.submit(|reply| Command::Register {
            round,
            member,
            max_members,
            reply,
        })
    }

    fn queued(&self) -> usize {
        self.commands.max_capacity() - self.commands.capacity()
    }

    fn probe(&self) -> StorageFuture<()> {
        self.submit(|reply| Command::Write {
            // Another value each time, so that there is something to write.
            write: Box::new(|transaction| {
                transaction.execute(
                    "INSERT INTO settings (name, value) VALUES ('probe', randomblob(8))
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                    [],
                )?;
                Ok(())
            }),
            reply,
        })
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
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

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
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

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        let reader = self.reader();
        let mut query = reader.prepare(
            "SELECT node_id, challenge FROM registrations WHERE round = ? ORDER BY node_id",
        )?;
        let members = query.query_map([key(round)?], |row| {
            Ok(Member {
                node_id: row.get(0)?,
                challenge: row.get(1)?,
            })
        })?;
        members
            .collect::<Result<_, _>>()
            .map_err(StorageError::from)
    }

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        count_members(&self.reader(), key(round)?)
    }

    fn members(&self, round: u64) -> Result<Vec<[u8; 32]>, StorageError> {
        let reader = self.reader();
        let mut query = reader
            .prepare("SELECT challenge FROM registrations WHERE round = ? ORDER BY node_id")?;
        let challenges = query.query_map([key(round)?], |row| row.get(0))?;
        challenges
            .collect::<Result<_, _>>()
            .map_err(StorageError::from)
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
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

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        let challenges = PowChallenges {
            current: proof.proof.root,
            previous: self.pow_challenges()?.map(|challenges| challenges.current),
        };
        let rotated = challenges.clone();
        self.write(move |transaction| {
            let leaves =
                i64::try_from(proof.leaves).map_err(|_| StorageError::Damaged("a proof"))?;
            transaction.execute(
                "INSERT INTO proofs
                 (round, statement, leaves, root, proven_leaves, proof_nodes, members)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                params![
                    key(round)?,
                    proof.statement,
                    leaves,
                    proof.proof.root,
                    proof.proof.proven_leaves.as_flattened(),
                    proof.proof.proof_nodes.as_flattened(),
                    proof.members.as_flattened(),
                ],
            )?;
            write_pow_challenges(transaction, &rotated)
        })?;
        Ok(challenges)
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        // A number that no record can have.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        let reader = self.reader();
        let mut query = reader.prepare_cached(
            "SELECT statement, leaves, root, proven_leaves, proof_nodes, members
             FROM proofs WHERE round = ?",
        )?;
        let mut rows = query.query([round])?;
        rows.next()?.map(read_proof).transpose()
    }
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
#[derive(Clone, Copy)]
struct OpenRound {
    round: u64,
    members: u64,
}

/// The thread that owns the only connection that writes.
struct Writer {
    connection: Connection,
    open: Option<OpenRound>,
    max_batch: usize,
    metrics: Metrics,
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        while queue.blocking_recv_many(&mut batch, self.max_batch) > 0 {
            let open_before = self.open;
            let mut answers = Vec::with_capacity(batch.len());
            let start = Instant::now();
            let durable = match self.commit(batch.drain(..), &mut answers) {
                Ok(()) => {
                    self.metrics.batch_written(start.elapsed());
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "a transaction failed, nothing of it was stored");
                    // Nothing happened: neither did a change of the open round.
                    self.open = open_before;
                    false
                }
            };
            for answer in answers {
                answer.send(durable);
            }
        }
    }

    /// Does the commands in one transaction. When it fails, commands without an answer are
    /// dropped, which tells their callers.
    fn commit(
        &mut self,
        batch: impl Iterator<Item = Command>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), StorageError> {
        let Self {
            connection, open, ..
        } = self;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for command in batch {
            answers.push(match command {
                Command::Register {
                    round,
                    member,
                    max_members,
                    reply,
                } => {
                    let outcome = match open {
                        Some(open) if open.round == round => {
                            register(&transaction, open, &member, max_members)?
                        }
                        _ => Registered::Closed,
                    };
                    Answer::Register(reply, outcome)
                }
                Command::OpenRound { round, reply } => {
                    let members = open_round(&transaction, round)?;
                    *open = Some(OpenRound { round, members });
                    Answer::OpenRound(reply, members)
                }
                Command::Write { write, reply } => {
                    write(&transaction)?;
                    Answer::Write(reply)
                }
            });
        }
        transaction.commit()?;
        Ok(())
    }
}

fn register(
    transaction: &Transaction<'_>,
    open: &mut OpenRound,
    member: &Member,
    max_members: u64,
) -> Result<Registered, StorageError> {
    // First the room, then whether the node is known: the order that clients know.
    if open.members >= max_members {
        return Ok(Registered::Full);
    }
    let round = key(open.round)?;
    let inserted = transaction
        .prepare_cached(
            "INSERT INTO registrations (round, node_id, challenge) VALUES (?, ?, ?)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![round, member.node_id, member.challenge])?;
    if inserted > 0 {
        open.members += 1;
        return Ok(Registered::New);
    }
    let registered: [u8; 32] = transaction
        .prepare_cached("SELECT challenge FROM registrations WHERE round = ? AND node_id = ?")?
        .query_row(params![round, member.node_id], |row| row.get(0))?;
    Ok(if registered == member.challenge {
        Registered::Already
    } else {
        Registered::Conflict
    })
}

fn open_round(transaction: &Transaction<'_>, round: u64) -> Result<u64, StorageError> {
    let round = key(round)?;
    transaction.execute(
        "INSERT INTO rounds (round) VALUES (?) ON CONFLICT DO NOTHING",
        [round],
    )?;
    count_members(transaction, round)
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
        SqliteStorage::open(&folder.path().join("poet.sqlite"), 100, Metrics::default()).unwrap()
    }

    fn sample_proof() -> PublishedProof {
        PublishedProof {
            statement: vec![9; 32],
            members: vec![[1; 32], [2; 32]],
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
    fn foreign_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("poet.sqlite");
        std::fs::write(&path, "this is not a database, and longer than a header").unwrap();
        let error = SqliteStorage::open(&path, 100, Metrics::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("poet.sqlite"), "{error}");

        let path = folder.path().join("newer.sqlite");
        drop(SqliteStorage::open(&path, 100, Metrics::default()).unwrap());
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 99)
            .unwrap();
        let error = SqliteStorage::open(&path, 100, Metrics::default())
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
