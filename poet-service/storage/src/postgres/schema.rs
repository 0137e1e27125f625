//! The tables in PostgreSQL and their migrations.

use std::time::Duration;

use tokio_postgres::{Client, error::SqlState, types::Type};

use super::{
    error::{Fault, PostgresError},
    url::DatabaseUrl,
};

/// Each entry migrates from one version of the schema to the next. Entries are only ever added.
const MIGRATIONS: [&str; 4] = [
    include_str!("schema.sql"),
    include_str!("early_proofs.sql"),
    include_str!("shared_log.sql"),
    include_str!("register.sql"),
];
/// The lock held while the schema is created, since servers may start at the same time.
const LOCK: i64 = 0x706f_6574;
/// How long another server may take to create it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a database reports about itself.
#[derive(Debug)]
pub(super) struct Described {
    /// Created with the schema.
    pub(super) id: Vec<u8>,
    /// Settings with which acknowledged data may be lost.
    pub(super) weak: Vec<&'static str>,
    /// Whether a replica that lags may take its place.
    pub(super) may_lag: bool,
}

/// Checks that a database can be used. If `create` is set, creates its tables, or migrates them to
/// this version.
pub(super) async fn prepare(
    client: &mut Client,
    server: &str,
    url: &DatabaseUrl,
    create: bool,
) -> Result<Described, Fault> {
    let server = server.to_owned();
    let known = MIGRATIONS.len() as i32;
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                    current_setting('synchronous_commit') = 'off',
                    current_setting('fsync') = 'off',
                    current_setting('full_page_writes') = 'off',
                    current_setting('data_checksums') = 'off',
                    coalesce(current_setting('synchronous_standby_names', true), '') = ''",
            &[],
        )
        .await?;
    if row.get::<_, i32>(0) < 140_000 {
        let found = row.get(1);
        return Err(Fault::Final(PostgresError::Old { server, found }));
    }
    let settings = ["fsync", "full_page_writes", "data_checksums"];
    let weak = (3..).zip(settings).filter(|(column, _)| row.get(*column));
    let weak = weak.map(|(_, setting)| setting).collect();
    let may_lag = create && row.get(6) && (url.has_replicas() || has_replicas(client).await?);
    if row.get(2) {
        client
            .execute_typed("SET synchronous_commit = on", &[])
            .await?;
    }
    let mut found = version(client).await?;
    if found.as_ref().is_none_or(|(version, _)| *version < known) && create {
        migrate(client, &server, url).await?;
        found = version(client).await?;
    }
    match found {
        Some((version, id)) if version == known => Ok(Described { id, weak, may_lag }),
        found => Err(Fault::Final(PostgresError::Schema {
            server,
            database: url.database().to_owned(),
            found: found.map_or(0, |(version, _)| version),
            known,
        })),
    }
}

/// Returns whether replicas are connected, which every user may see.
async fn has_replicas(client: &Client) -> Result<bool, Fault> {
    let query = "SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_replication)";
    match client
        .query_typed_one(query, &[])
        .await
        .map_err(Fault::from)
    {
        Ok(row) => Ok(row.get(0)),
        // Some managed databases do not tell.
        Err(Fault::Final(_)) => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Returns the version of the schema and the database's id; `None` if there is no schema.
async fn version(client: &Client) -> Result<Option<(i32, Vec<u8>)>, Fault> {
    // Queries a table, which a connection does not cache.
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables
                                WHERE schemaname = 'poet' AND tablename = 'schema_version')";
    let row = client.query_typed_one(there, &[]).await?;
    if !row.get::<_, bool>(0) {
        return Ok(None);
    }
    let query = "SELECT version, database_id FROM poet.schema_version";
    let row = client.query_typed_opt(query, &[]).await?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}

async fn migrate(client: &mut Client, server: &str, url: &DatabaseUrl) -> Result<(), Fault> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)
        .map_err(|error| Fault::Final(PostgresError::Statement(error.to_string())))?;
    let transaction = client.transaction().await?;
    let patience = format!("SET LOCAL statement_timeout = {}", PATIENCE.as_millis());
    transaction.batch_execute(&patience).await?;
    transaction
        .execute_typed("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)])
        .await?;
    // Another server may have been first.
    let found = version(transaction.client()).await?;
    let done = found.as_ref().map_or(0, |(version, _)| *version) as usize;
    for (number, migration) in (1_i32..).zip(MIGRATIONS).skip(done) {
        match transaction.batch_execute(migration).await {
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                return Err(Fault::Final(PostgresError::MayNotCreate {
                    server: server.to_owned(),
                    database: url.database().to_owned(),
                    user: url.user().to_owned(),
                }));
            }
            done => done?,
        }
        transaction
            .execute_typed(
                "INSERT INTO poet.schema_version (only_row, version, database_id) VALUES (true, $1, $2)
                 ON CONFLICT (only_row) DO UPDATE SET version = excluded.version",
                &[(&number, Type::INT4), (&&id[..], Type::BYTEA)],
            )
            .await?;
        tracing::info!(
            server,
            version = number,
            "created the tables of the database"
        );
    }
    Ok(transaction.commit().await?)
}
