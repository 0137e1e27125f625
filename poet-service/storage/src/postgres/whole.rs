//! The database as its operator sees it.

use std::{collections::BTreeMap, thread, time::Duration};

use poet_rounds::storage::{Execution, StorageError};
use tokio_postgres::{Client, Row, types::Type};

use super::{
    PostgresStorage,
    error::{Fault, PostgresError},
    settings::read_setting,
    storage::{LONG_PATIENCE, LONG_TIMEOUT},
    url::{DatabaseUrl, SERVER},
    values::{read_execution, unsigned},
    writer::PATIENCE,
};
use crate::{
    ChangedRegistrations, DatabaseError,
    database::{Database, PROBE, REMOVED_THROUGH, read_removed_through},
};

/// How often to look whether the connection of a stopped server is gone, and how long to wait in
/// between.
const LOOKS: u32 = 30;
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// Inconsistencies between the tables, at most a few lines.
const DAMAGE: &str = "
    SELECT format('round %s counts %s members, and %s are stored', round, members, count(node_id))
    FROM poet.rounds LEFT JOIN poet.registrations USING (round)
    GROUP BY round, members HAVING members <> count(node_id)
    UNION ALL
    SELECT format('a registration for round %s is not 32 and 32 bytes long', round)
    FROM poet.registrations WHERE octet_length(node_id) <> 32 OR octet_length(challenge) <> 32
    UNION ALL
    SELECT format('%s of round %s are there, which was never opened', what, round)
    FROM (SELECT DISTINCT 'registrations' AS what, round FROM poet.registrations
          UNION ALL SELECT 'proofs', round FROM poet.proofs
          UNION ALL SELECT DISTINCT 'early proofs', round FROM poet.early_proofs) AS found
    WHERE round NOT IN (SELECT round FROM poet.rounds)
    UNION ALL
    SELECT format('round %s is open, and a later one was opened', round)
    FROM poet.rounds WHERE NOT closed AND round < (SELECT max(round) FROM poet.rounds)
    LIMIT 5";

impl PostgresStorage {
    /// Fails if a server is connected to the database that `url` names.
    pub(crate) fn check_unused(&self, url: &DatabaseUrl) -> Result<(), DatabaseError> {
        for _ in 0..LOOKS {
            if self.server()?.is_none() {
                return Ok(());
            }
            thread::sleep(LOOK_PAUSE);
        }
        match self.server()? {
            None => Ok(()),
            Some(server) => Err(PostgresError::InUse(url.database().to_owned(), server).into()),
        }
    }

    /// Returns the address from which a server is connected, if one is.
    fn server(&self) -> Result<Option<String>, DatabaseError> {
        self.call(PATIENCE, async |client: &mut Client| {
            server_on(client).await
        })
    }
}

/// Returns the address from which a server is connected to this database, if one is.
pub(super) async fn server_on(client: &Client) -> Result<Option<String>, Fault> {
    let row = client
        .query_typed_opt(
            "SELECT coalesce(host(client_addr), 'the machine of the database')
             FROM pg_catalog.pg_stat_activity
             WHERE datname = current_database() AND starts_with(application_name, $1) LIMIT 1",
            &[(&SERVER, Type::TEXT)],
        )
        .await?;
    Ok(row.map(|row| row.get(0)))
}

impl Database for PostgresStorage {
    fn product(&self) -> &'static str {
        "PostgreSQL"
    }

    fn damage(&self) -> Result<Vec<String>, StorageError> {
        Ok(self.call(LONG_PATIENCE, async |client: &mut Client| {
            let transaction = client.transaction().await?;
            transaction.batch_execute(LONG_TIMEOUT).await?;
            let rows = transaction.query_typed(DAMAGE, &[]).await?;
            Ok(rows.iter().map(|row| row.get(0)).collect())
        })?)
    }

    fn all_settings(&self) -> Result<BTreeMap<String, Vec<u8>>, StorageError> {
        Ok(self.call(PATIENCE, async |client: &mut Client| {
            let query = "SELECT name, value FROM poet.settings WHERE name <> $1";
            let rows = client.query_typed(query, &[(&PROBE, Type::TEXT)]).await?;
            Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
        })?)
    }

    fn all_rounds(&self) -> Result<Vec<(u64, Option<Execution>)>, StorageError> {
        Ok(self.call(PATIENCE, async |client: &mut Client| {
            let query = "SELECT round, statement, subtree_height FROM poet.rounds ORDER BY round";
            let rows = client.query_typed(query, &[]).await?;
            let read = |row: &Row| Ok((unsigned(row.get(0))?, read_execution(row, 1)?));
            rows.iter().map(read).collect()
        })?)
    }

    fn removed_through(&self) -> Result<Option<u64>, StorageError> {
        let stored = self.call(PATIENCE, async |client: &mut Client| {
            read_setting(client, REMOVED_THROUGH).await
        })?;
        Ok(read_removed_through(stored)?)
    }

    fn changed_registrations(&self, _round: u64) -> Result<ChangedRegistrations, StorageError> {
        // PostgreSQL's pages have checksums, which it checks on each read.
        Ok(ChangedRegistrations::default())
    }
}
