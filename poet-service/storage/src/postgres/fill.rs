//! A PostgreSQL database as the target of a copy.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use poet_proto::schedule::Schedule;
use poet_rounds::storage::Setting;
use tokio_postgres::{Client, types::Type};

use super::{
    PostgresStorage,
    error::Fault,
    settings::{name, read_setting, write_setting},
    storage::{insert_early_proof, insert_proof},
    url::DatabaseUrl,
    values::key,
    whole::server_on,
};
use crate::{
    DatabaseError,
    database::{COPYING, Database, PROBE},
    fill::{Fill, StoredRound},
    postgres::PostgresError,
};

/// Registrations in one statement.
const BATCH: usize = 10_000;
/// How long a round may take; it may have millions of registrations.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
const TIMEOUT: &str = "SET LOCAL statement_timeout = '600s';
                       SET LOCAL idle_in_transaction_session_timeout = '600s'";

pub(crate) struct PostgresFill {
    storage: PostgresStorage,
    url: DatabaseUrl,
}

impl PostgresFill {
    /// Creates the tables if there are none.
    pub(crate) fn begin(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        let url = url.for_operator();
        let storage = PostgresStorage::open_to_fill(&url)?;
        Ok(Self { storage, url })
    }
}

impl Fill for PostgresFill {
    fn copied(&self) -> Result<Box<dyn Database>, DatabaseError> {
        Ok(Box::new(PostgresStorage::open_to_read(&self.url)?))
    }

    fn store_settings(&self, settings: &BTreeMap<String, Vec<u8>>) -> Result<(), DatabaseError> {
        let (settings, database) = (settings.clone(), self.url.database().to_owned());
        self.storage
            .call(PATIENCE, async move |client: &mut Client| {
                let transaction = client.transaction().await?;
                transaction
                    .batch_execute("LOCK TABLE poet.settings IN EXCLUSIVE MODE")
                    .await?;
                // If two copies start at once, the faster one has stored this.
                let copying = read_setting(transaction.client(), COPYING).await?;
                let key = read_setting(transaction.client(), name(Setting::PrivateKey)).await?;
                if copying.as_ref() != key.as_ref()
                    || key.is_some_and(|key| settings.get(COPYING) != Some(&key))
                {
                    let server = server_on(transaction.client()).await?;
                    let server = server.unwrap_or_else(|| "another copy".to_owned());
                    return Err(Fault::Final(PostgresError::InUse(database.clone(), server)));
                }
                transaction
                    .execute_typed(
                        "DELETE FROM poet.settings WHERE name <> $1",
                        &[(&PROBE, Type::TEXT)],
                    )
                    .await?;
                for (name, value) in &settings {
                    write_setting(transaction.client(), name, value).await?;
                }
                Ok(transaction.commit().await?)
            })
    }

    fn store_round(&self, stored: StoredRound) -> Result<(), DatabaseError> {
        let number = key(stored.round)?;
        let stored = Arc::new(stored);
        self.storage
            .call(PATIENCE, async move |client: &mut Client| {
                let transaction = client.transaction().await?;
                transaction.batch_execute(TIMEOUT).await?;
                remove(transaction.client(), number).await?;
                insert(transaction.client(), number, &stored).await?;
                Ok(transaction.commit().await?)
            })
    }

    fn remove_round(&self, round: u64) -> Result<(), DatabaseError> {
        let number = key(round)?;
        self.storage
            .call(PATIENCE, async move |client: &mut Client| {
                let transaction = client.transaction().await?;
                transaction.batch_execute(TIMEOUT).await?;
                remove(transaction.client(), number).await?;
                Ok(transaction.commit().await?)
            })
    }

    fn finish(self: Box<Self>) -> Result<(), DatabaseError> {
        self.storage.call(PATIENCE, async |client: &mut Client| {
            client
                .execute_typed(
                    "DELETE FROM poet.settings WHERE name = $1",
                    &[(&COPYING, Type::TEXT)],
                )
                .await?;
            Ok(())
        })
    }
}

/// Removes everything about a round.
async fn remove(client: &Client, round: i64) -> Result<(), Fault> {
    for table in [
        "rounds",
        "registrations",
        "proofs",
        "odd_members",
        "early_proofs",
    ] {
        let delete = format!("DELETE FROM poet.{table} WHERE round = $1");
        client
            .execute_typed(&delete, &[(&round, Type::INT8)])
            .await?;
    }
    Ok(())
}

async fn insert(client: &Client, round: i64, stored: &StoredRound) -> Result<(), Fault> {
    let schedule = read_setting(client, name(Setting::Schedule)).await?;
    let schedule = schedule.and_then(|text| str::from_utf8(&text).ok()?.parse::<Schedule>().ok());
    let starts =
        schedule.map(|schedule| schedule.start(stored.round).as_microsecond() as f64 / 1e6);
    let execution = stored.execution.as_ref();
    let statement = execution.map(|execution| &execution.statement);
    let height = execution.map(|execution| execution.subtree_height.get() as i32);
    client
        .execute_typed(
            "INSERT INTO poet.rounds (round, starts, closed, members, statement, subtree_height)
             VALUES ($1, to_timestamp($2), $3, $4, $5, $6)",
            &[
                (&round, Type::INT8),
                (&starts, Type::FLOAT8),
                (&stored.closed, Type::BOOL),
                (&(stored.members.len() as i64), Type::INT8),
                (&statement, Type::BYTEA),
                (&height, Type::INT4),
            ],
        )
        .await?;
    for members in stored.members.chunks(BATCH) {
        let nodes: Vec<&[u8]> = members.iter().map(|one| &one.node_id.0[..]).collect();
        let challenges: Vec<&[u8]> = members.iter().map(|one| &one.challenge.0[..]).collect();
        client
            .execute_typed(
                "INSERT INTO poet.registrations (round, node_id, challenge)
                 SELECT $1, * FROM unnest($2, $3)",
                &[
                    (&round, Type::INT8),
                    (&nodes, Type::BYTEA_ARRAY),
                    (&challenges, Type::BYTEA_ARRAY),
                ],
            )
            .await?;
    }
    if let Some(proof) = &stored.proof {
        insert_proof(client, round, proof).await?;
    }
    for early in &stored.early {
        insert_early_proof(client, round, early.gap, early.leaves, &early.proof).await?;
    }
    Ok(())
}
