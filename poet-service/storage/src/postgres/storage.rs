//! The database as the [`Storage`] of the rounds.

use std::{ops::RangeInclusive, pin::pin, sync::Arc, time::Duration};

use jiff::SignedDuration;
use poet_engine::{Proof, membership};
use poet_proto::messages::PublishedProof;
use poet_rounds::storage::{
    Challenge, EarlyProofRecord, Ended, Execution, Member, NodeId, PowChallenges, PublishedRecord,
    Registered, Removed, RoundRecord, Setting, Storage, StorageError, StorageFuture,
    UnfinishedRound, shared_log::SharedLog,
};
use tokio::sync::oneshot;
use tokio_postgres::{Client, Row, types::Type};

use super::{
    PostgresStorage,
    calls::Calls,
    error::{Fault, PostgresError},
    settings::{
        POW_CHALLENGE, claim_setting, name, read_pow_challenges, read_setting, value,
        write_pow_challenges, write_setting,
    },
    values::{challenges, key, list, read_execution, unsigned},
    writer::{Command, PATIENCE, Reply},
};
use crate::{
    DatabaseError,
    checksum::{early_proof_checksum, gap_nanos, proof_checksum},
    database::REMOVED_THROUGH,
};

/// How long reading or writing large values may take.
pub(super) const LONG_PATIENCE: Duration = Duration::from_secs(120);
pub(super) const LONG_TIMEOUT: &str = "SET LOCAL statement_timeout = '120s'";

/// Reads only the length of the large values.
const SELECT_RECORDS: &str = "
    SELECT rounds.round, rounds.statement IS NOT NULL, proofs.leaves,
           (octet_length(proofs.members) / 32)::bigint
    FROM poet.rounds LEFT JOIN poet.proofs ON proofs.round = rounds.round";

impl PostgresStorage {
    /// Sends a command to the writer. The future waits for the answer.
    fn submit<T: Send + 'static>(
        &self,
        command: impl FnOnce(Reply<T>) -> Command,
    ) -> StorageFuture<T> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let commands = self.commands.clone();
        Box::pin(async move {
            let stopped = || DatabaseError::from(PostgresError::Stopped);
            commands.send(command).await.map_err(|_| stopped())?;
            Ok(answer.await.map_err(|_| stopped())??)
        })
    }
}

impl Storage for PostgresStorage {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            read_setting(client, name(setting)).await
        })?)
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        let value = value.to_vec();
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            write_setting(client, name(setting), &value).await
        })?)
    }

    fn claim_setting(&self, setting: Setting, value: &[u8]) -> Result<Vec<u8>, StorageError> {
        let value = value.to_vec();
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            claim_setting(client, name(setting), &value).await
        })?)
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        Ok(self.call(PATIENCE, async |client: &mut Client| {
            read_pow_challenges(client).await
        })?)
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        let challenges = challenges.clone();
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let transaction = client.transaction().await?;
            write_pow_challenges(transaction.client(), &challenges).await?;
            Ok(transaction.commit().await?)
        })?)
    }

    fn claim_pow_challenges(
        &self,
        challenges: &PowChallenges,
    ) -> Result<PowChallenges, StorageError> {
        let given = challenges.clone();
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            claim_setting(client, POW_CHALLENGE, &given.current).await?;
            let stored = read_pow_challenges(client).await?;
            stored.ok_or(Fault::Damaged("a challenge"))
        })?)
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        Ok(self.call(PATIENCE, async |client: &mut Client| {
            let rows = client
                .query_typed(
                    "SELECT round, statement, subtree_height FROM poet.rounds
                     WHERE round NOT IN (SELECT round FROM poet.proofs) ORDER BY round",
                    &[],
                )
                .await?;
            let mut rounds = Vec::with_capacity(rows.len());
            for row in rows {
                rounds.push(UnfinishedRound {
                    round: unsigned(row.get(0))?,
                    execution: read_execution(&row, 1)?,
                });
            }
            Ok(rounds)
        })?)
    }

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        let key = key(from)?;
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let rows = client
                .query_typed(
                    "SELECT round FROM poet.rounds
                     WHERE round >= $1 AND statement IS NOT NULL ORDER BY round",
                    &[(&key, Type::INT8)],
                )
                .await?;
            let mut first = from;
            for row in rows {
                if unsigned(row.get(0))? != first {
                    break;
                }
                first += 1;
            }
            Ok(first)
        })?)
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

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        let round = key(round)?;
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let query = "SELECT members FROM poet.rounds WHERE round = $1";
            let row = client
                .query_typed_opt(query, &[(&round, Type::INT8)])
                .await?;
            row.map_or(Ok(0), |row| unsigned(row.get(0)))
        })?)
    }

    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        let (round, node_id) = (key(round)?, node_id.0.to_vec());
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let query = "SELECT 1 FROM poet.registrations WHERE round = $1 AND node_id = $2";
            let row = client
                .query_typed_opt(query, &[(&round, Type::INT8), (&node_id, Type::BYTEA)])
                .await?;
            Ok(row.is_some())
        })?)
    }

    fn probe(&self) -> StorageFuture<()> {
        self.submit(|reply| Command::Probe { reply })
    }

    fn close(&self) -> StorageFuture<()> {
        self.submit(|reply| Command::Close { reply })
    }

    fn ended(&self) -> Ended {
        let commands = self.commands.clone();
        let [calls, log] = [&self.calls, &self.log.0].map(Calls::closed);
        Box::pin(async move {
            tokio::select! {
                () = commands.closed() => {}
                () = calls => {}
                () = log => {}
            }
        })
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let query = format!("{SELECT_RECORDS} ORDER BY rounds.round DESC LIMIT $1");
            let rows = client.query_typed(&query, &[(&count, Type::INT8)]).await?;
            rows.iter().map(read_record).collect()
        })?)
    }

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        // No record can have this number.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let query = format!("{SELECT_RECORDS} WHERE rounds.round = $1");
            let row = client
                .query_typed_opt(&query, &[(&round, Type::INT8)])
                .await?;
            row.as_ref().map(read_record).transpose()
        })?)
    }

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        let round = key(round)?;
        Ok(self.call(LONG_PATIENCE, async move |client: &mut Client| {
            let transaction = client.transaction().await?;
            transaction.batch_execute(LONG_TIMEOUT).await?;
            let query = "SELECT node_id, challenge FROM poet.registrations
                         WHERE round = $1 ORDER BY node_id";
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 1] =
                [(&round, Type::INT8)];
            // Row by row, since a list of all rows would need the memory twice.
            let rows = transaction.query_typed_raw(query, parameters).await?;
            let mut rows = pin!(rows);
            let mut members = Vec::new();
            while let Some(row) = next(&mut rows).await {
                let row = row?;
                members.push(Member {
                    node_id: NodeId(value(row.get(0), "a registration")?),
                    challenge: Challenge(value(row.get(1), "a registration")?),
                });
            }
            Ok(members)
        })?)
    }

    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        let registrations = self.registrations(round)?;
        Ok(registrations
            .into_iter()
            .map(|member| member.challenge)
            .collect())
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        let (number, given) = (key(round)?, execution.clone());
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let height = given.subtree_height.get() as i32;
            let parameters: [(&(dyn tokio_postgres::types::ToSql + Sync), Type); 3] = [
                (&number, Type::INT8),
                (&given.statement, Type::BYTEA),
                (&height, Type::INT4),
            ];
            client
                .execute_typed(
                    "UPDATE poet.rounds SET statement = $2, subtree_height = $3, closed = true
                     WHERE round = $1 AND statement IS NULL",
                    &parameters,
                )
                .await?;
            let row = client
                .query_typed_opt(
                    "SELECT statement, subtree_height FROM poet.rounds WHERE round = $1",
                    &[(&number, Type::INT8)],
                )
                .await?;
            let stored = row
                .map(|row| read_execution(&row, 0))
                .transpose()?
                .flatten();
            // If the table lacks the round, nothing is settled, as in the embedded database.
            match stored {
                Some(stored) if stored != given => {
                    Err(Fault::Final(PostgresError::OtherStatement(round)))
                }
                _ => Ok(()),
            }
        })?)
    }

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        let number = key(round)?;
        Ok(self.call(LONG_PATIENCE, async move |client: &mut Client| {
            let transaction = client.transaction().await?;
            transaction.batch_execute(LONG_TIMEOUT).await?;
            if !insert_proof(transaction.client(), number, &proof).await? {
                let checksum = i64::from(proof_checksum(number, &proof));
                // Perhaps published by this very server, which lost the answer.
                let row = transaction
                    .query_typed_one(
                        "SELECT root, checksum FROM poet.proofs WHERE round = $1",
                        &[(&number, Type::INT8)],
                    )
                    .await?;
                let same =
                    row.get::<_, &[u8]>(0) == proof.proof.root && row.get::<_, i64>(1) == checksum;
                let challenges = read_pow_challenges(transaction.client()).await?;
                return match challenges {
                    Some(challenges) if same && first_of(&challenges, &proof) => Ok(challenges),
                    _ => Err(Fault::Final(PostgresError::Published(round))),
                };
            }
            transaction
                .execute_typed(
                    "SELECT FROM poet.settings WHERE name = $1 FOR UPDATE",
                    &[(&POW_CHALLENGE, Type::TEXT)],
                )
                .await?;
            let before = read_pow_challenges(transaction.client()).await?;
            let challenges = match (proof.root(), before) {
                // The root of an empty proof is easy to guess, so it must not become a challenge.
                (None, Some(challenges)) => challenges,
                (_, challenges) => PowChallenges {
                    current: proof.proof.root,
                    previous: challenges.map(|challenges| challenges.current),
                },
            };
            write_pow_challenges(transaction.client(), &challenges).await?;
            // The log of its work is no longer needed.
            transaction
                .query_typed_one("SELECT poet.drop_log($1)", &[(&number, Type::INT8)])
                .await?;
            transaction.commit().await?;
            Ok(challenges)
        })?)
    }

    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError> {
        // No record has a greater number.
        let before = i64::try_from(before).unwrap_or(i64::MAX);
        let count = i64::from(count);
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let transaction = client.transaction().await?;
            let oldest = transaction
                .query_typed_opt(
                    "SELECT round FROM poet.rounds
                     WHERE round < $1 AND members > 0
                     AND EXISTS (SELECT FROM poet.proofs WHERE proofs.round = rounds.round)
                     ORDER BY round LIMIT 1 FOR UPDATE",
                    &[(&before, Type::INT8)],
                )
                .await?;
            // The database itself returns space to the file system.
            let Some(oldest) = oldest else {
                return Ok(Removed::Nothing);
            };
            let round: i64 = oldest.get(0);
            let removed = transaction
                .execute_typed(
                    "DELETE FROM poet.registrations WHERE round = $1 AND node_id IN
                     (SELECT node_id FROM poet.registrations WHERE round = $1 LIMIT $2)",
                    &[(&round, Type::INT8), (&count, Type::INT8)],
                )
                .await?;
            transaction
                .execute_typed(
                    "UPDATE poet.rounds SET members = greatest(members - $2, 0) WHERE round = $1",
                    &[(&round, Type::INT8), (&(removed as i64), Type::INT8)],
                )
                .await?;
            let through = unsigned(round)?.to_be_bytes();
            write_setting(transaction.client(), REMOVED_THROUGH, &through).await?;
            transaction.commit().await?;
            Ok(Removed::Registrations {
                round: unsigned(round)?,
                count: removed,
            })
        })?)
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        // No record can have this number.
        let Ok(round) = key(round) else {
            return Ok(None);
        };
        Ok(self.call(LONG_PATIENCE, async move |client: &mut Client| {
            let transaction = client.transaction().await?;
            transaction.batch_execute(LONG_TIMEOUT).await?;
            read_proof(transaction.client(), round).await
        })?)
    }

    fn store_early_proof(
        &self,
        round: u64,
        gap: Duration,
        proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        let (number, nanos) = (key(round)?, gap_nanos(gap)?);
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            if insert_early_proof(client, number, gap, proof.leaves, &proof.proof).await? {
                return Ok(());
            }
            // Perhaps stored by this very server, which lost the answer.
            let row = client
                .query_typed_one(
                    "SELECT root, checksum FROM poet.early_proofs WHERE round = $1 AND cycle_gap = $2",
                    &[(&number, Type::INT8), (&nanos, Type::INT8)],
                )
                .await?;
            let checksum = early_proof_checksum(number, nanos, proof.leaves, &proof.proof);
            let checksum = i64::from(checksum);
            match row.get::<_, &[u8]>(0) == proof.proof.root && row.get::<_, i64>(1) == checksum {
                true => Ok(()),
                false => Err(Fault::Final(PostgresError::Published(round))),
            }
        })?)
    }

    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        // No record can have this number.
        let Ok(number) = key(round) else {
            return Ok(None);
        };
        let gap = gap_nanos(gap)?;
        let found = self.call(PATIENCE, async move |client: &mut Client| {
            let row = client
                .query_typed_opt(
                    "SELECT early.leaves, early.root, early.proven_leaves, early.proof_nodes,
                            early.checksum, rounds.statement
                     FROM poet.early_proofs AS early JOIN poet.rounds USING (round)
                     WHERE round = $1 AND cycle_gap = $2",
                    &[(&number, Type::INT8), (&gap, Type::INT8)],
                )
                .await?;
            let Some(row) = row else { return Ok(None) };
            let leaves = unsigned(row.get(0))?;
            let proof = Proof {
                root: value(row.get(1), "a proof")?,
                proven_leaves: list(row.get(2))?,
                proof_nodes: list(row.get(3))?,
            };
            let checksum = i64::from(early_proof_checksum(number, gap, leaves, &proof));
            if checksum != row.get::<_, i64>(4) {
                return Err(Fault::ProofChanged(number));
            }
            let statement: Vec<u8> = row.get(5);
            let query = "SELECT members FROM poet.proofs WHERE round = $1";
            // A published round has its members in the proof.
            let published = client
                .query_typed_opt(query, &[(&number, Type::INT8)])
                .await?;
            let members = published.map(|row| challenges(row.get(0))).transpose()?;
            Ok(Some((leaves, proof, statement, members)))
        })?;
        let Some((leaves, proof, statement, published)) = found else {
            return Ok(None);
        };
        let members = match published {
            Some(members) => members,
            None => self.members(round)?,
        };
        if membership::root(&members) != statement {
            return Err(DatabaseError::ProofChanged(number).into());
        }
        Ok(Some(PublishedProof {
            statement,
            members,
            odd_members: Vec::new(),
            leaves,
            proof,
        }))
    }

    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        let number = |round: &u64| i64::try_from(*round).unwrap_or(i64::MAX);
        let (first, last) = (number(rounds.start()), number(rounds.end()));
        Ok(self.call(PATIENCE, async move |client: &mut Client| {
            let rows = client
                .query_typed(
                    "SELECT round, cycle_gap, leaves FROM poet.early_proofs
                     WHERE round BETWEEN $1 AND $2 ORDER BY round, cycle_gap",
                    &[(&first, Type::INT8), (&last, Type::INT8)],
                )
                .await?;
            let record = |row: &Row| {
                Ok(EarlyProofRecord {
                    round: unsigned(row.get(0))?,
                    gap: Duration::from_nanos(unsigned(row.get(1))?),
                    leaves: unsigned(row.get(2))?,
                })
            };
            rows.iter().map(record).collect()
        })?)
    }

    fn shared(&self) -> bool {
        true
    }

    fn shared_log(&self) -> Option<Arc<dyn SharedLog>> {
        Some(Arc::clone(&self.log) as Arc<dyn SharedLog>)
    }

    fn clock_offset(&self) -> Option<SignedDuration> {
        self.clock_offset.get()
    }
}

/// Returns whether a stored proof is the newest one.
fn first_of(challenges: &PowChallenges, proof: &PublishedProof) -> bool {
    proof.root().is_none_or(|root| *root == challenges.current)
}

async fn next<T>(stream: &mut std::pin::Pin<&mut T>) -> Option<T::Item>
where
    T: futures_core::Stream,
{
    std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await
}

fn read_record(row: &Row) -> Result<RoundRecord, Fault> {
    let published = match row.get::<_, Option<i64>>(2) {
        None => None,
        Some(leaves) => Some(PublishedRecord {
            leaves: unsigned(leaves)?,
            members: unsigned(row.get(3))?,
        }),
    };
    Ok(RoundRecord {
        round: unsigned(row.get(0))?,
        settled: row.get(1),
        published,
    })
}

/// Stores a proof, unless the round has one. Returns whether it was stored.
pub(super) async fn insert_proof(
    client: &Client,
    round: i64,
    proof: &PublishedProof,
) -> Result<bool, Fault> {
    let leaves = i64::try_from(proof.leaves).map_err(|_| Fault::Damaged("a proof"))?;
    let stored = client
        .execute_typed(
            "INSERT INTO poet.proofs
             (round, statement, leaves, root, proven_leaves, proof_nodes, members, checksum)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
            &[
                (&round, Type::INT8),
                (&proof.statement, Type::BYTEA),
                (&leaves, Type::INT8),
                (&&proof.proof.root[..], Type::BYTEA),
                (&proof.proof.proven_leaves.as_flattened(), Type::BYTEA),
                (&proof.proof.proof_nodes.as_flattened(), Type::BYTEA),
                (&Challenge::concat(&proof.members), Type::BYTEA),
                (&i64::from(proof_checksum(round, proof)), Type::INT8),
            ],
        )
        .await?;
    if stored == 0 {
        return Ok(false);
    }
    for (position, challenge) in &proof.odd_members {
        client
            .execute_typed(
                "INSERT INTO poet.odd_members (round, position, challenge) VALUES ($1, $2, $3)",
                &[
                    (&round, Type::INT8),
                    (&i64::from(*position), Type::INT8),
                    (challenge, Type::BYTEA),
                ],
            )
            .await?;
    }
    Ok(true)
}

/// Stores a proof for a longer cycle gap, unless there is one. Returns whether it was stored.
pub(super) async fn insert_early_proof(
    client: &Client,
    round: i64,
    gap: Duration,
    leaves: u64,
    proof: &Proof,
) -> Result<bool, Fault> {
    let gap = gap_nanos(gap).map_err(|_| Fault::Damaged("a cycle gap"))?;
    let checksum = i64::from(early_proof_checksum(round, gap, leaves, proof));
    let leaves = i64::try_from(leaves).map_err(|_| Fault::Damaged("a proof"))?;
    let stored = client
        .execute_typed(
            "INSERT INTO poet.early_proofs
             (round, cycle_gap, leaves, root, proven_leaves, proof_nodes, checksum)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            &[
                (&round, Type::INT8),
                (&gap, Type::INT8),
                (&leaves, Type::INT8),
                (&&proof.root[..], Type::BYTEA),
                (&proof.proven_leaves.as_flattened(), Type::BYTEA),
                (&proof.proof_nodes.as_flattened(), Type::BYTEA),
                (&checksum, Type::INT8),
            ],
        )
        .await?;
    Ok(stored > 0)
}

async fn read_proof(client: &Client, round: i64) -> Result<Option<PublishedProof>, Fault> {
    let row = client
        .query_typed_opt(
            "SELECT statement, leaves, root, proven_leaves, proof_nodes, members, checksum
             FROM poet.proofs WHERE round = $1",
            &[(&round, Type::INT8)],
        )
        .await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let mut proof = PublishedProof {
        statement: row.get(0),
        leaves: unsigned(row.get(1))?,
        proof: Proof {
            root: value(row.get(2), "a proof")?,
            proven_leaves: list(row.get(3))?,
            proof_nodes: list(row.get(4))?,
        },
        members: challenges(row.get(5))?,
        odd_members: Vec::new(),
    };
    let odd = client
        .query_typed(
            "SELECT position, challenge FROM poet.odd_members WHERE round = $1 ORDER BY position",
            &[(&round, Type::INT8)],
        )
        .await?;
    for odd in odd {
        let position =
            u32::try_from(odd.get::<_, i64>(0)).map_err(|_| Fault::Damaged("a proof"))?;
        proof.odd_members.push((position, odd.get(1)));
    }
    if i64::from(proof_checksum(round, &proof)) == row.get::<_, i64>(6) {
        Ok(Some(proof))
    } else {
        Err(Fault::ProofChanged(round))
    }
}
