//! The logs of rounds that servers share, in the database.

use std::time::Duration;

use poet_engine::Node;
use poet_rounds::storage::{
    StorageError,
    shared_log::{Appended, ClusterServer, SharedLog, SharedRound},
};
use tokio_postgres::{Client, Row, types::Type};

use super::{
    calls::Calls,
    error::Fault,
    values::{key, list, unsigned},
};

/// How long a statement may take before the connection counts as hung.
const PATIENCE: Duration = Duration::from_secs(4);

/// The shared logs, with their own connection: nothing else waits for them, nor they for it.
pub(super) struct PostgresLog(pub(super) Calls);

impl SharedLog for PostgresLog {
    fn look(&self, round: u64, own: Option<&ClusterServer>) -> Result<SharedRound, StorageError> {
        let round = key(round)?;
        let own = own.cloned();
        Ok(self.0.call(PATIENCE, async move |client: &mut Client| {
            let own = own.as_ref();
            let name = own.map(|own| own.name.as_str());
            let entries = own.map(|own| own.entries as i64);
            let leaves = own.and_then(|own| own.leaves).map(|leaves| leaves as i64);
            let rows = client
                .query_typed(
                    "SELECT published, log_entries, quiet, last_worker, server, server_seen, server_works,
                            server_standby, server_entries, server_rate, server_leaves
                     FROM poet.look_at_log($1, $2, $3, $4, $5, $6, $7)",
                    &[
                        (&round, Type::INT8),
                        (&name, Type::TEXT),
                        (&own.map(|own| own.works), Type::BOOL),
                        (&own.map(|own| own.standby), Type::BOOL),
                        (&entries, Type::INT8),
                        (&own.map(|own| own.leaves_per_second), Type::FLOAT8),
                        (&leaves, Type::INT8),
                    ],
                )
                .await?;
            let first = rows.first().ok_or(Fault::Damaged("a log"))?;
            Ok(SharedRound {
                published: first.get(0),
                entries: unsigned(first.get(1))?,
                quiet: seconds(first.get(2)),
                worker: first.get(3),
                servers: rows.iter().filter_map(server).collect::<Result<_, _>>()?,
            })
        })?)
    }

    fn append(
        &self,
        round: u64,
        name: &str,
        first: u64,
        entries: &[Node],
    ) -> Result<Appended, StorageError> {
        let (round, number, name) = (key(round)?, key(first)?, name.to_owned());
        let entries = entries.as_flattened().to_vec();
        Ok(self.0.call(PATIENCE, async move |client: &mut Client| {
            let row = client
                .query_typed_one(
                    "SELECT now_entries, differs FROM poet.append_to_log($1, $2, $3, $4)",
                    &[
                        (&round, Type::INT8),
                        (&number, Type::INT8),
                        (&entries, Type::BYTEA),
                        (&name, Type::TEXT),
                    ],
                )
                .await?;
            let (there, differs): (Option<i64>, Option<i64>) = (row.get(0), row.get(1));
            Ok(match (there, differs) {
                (None, _) => Appended::Published,
                (_, Some(entry)) => Appended::Differs(unsigned(entry)?),
                (Some(there), None) if there < number => Appended::Gap(unsigned(there)?),
                (Some(there), None) => Appended::Done(unsigned(there)?),
            })
        })?)
    }

    fn read(&self, round: u64, first: u64, count: u64) -> Result<Vec<Node>, StorageError> {
        let (round, first, count) = (key(round)?, key(first)?, key(count)?);
        Ok(self.0.call(PATIENCE, async move |client: &mut Client| {
            let row = client
                .query_typed_one(
                    "SELECT poet.read_log($1, $2, $3)",
                    &[
                        (&round, Type::INT8),
                        (&first, Type::INT8),
                        (&count, Type::INT8),
                    ],
                )
                .await?;
            list(row.get(0))
        })?)
    }

    fn replace(
        &self,
        round: u64,
        name: &str,
        first: u64,
        wrong: &Node,
        right: &[Node],
    ) -> Result<(), StorageError> {
        let (round, first, name) = (key(round)?, key(first)?, name.to_owned());
        let (wrong, right) = (wrong.to_vec(), right.as_flattened().to_vec());
        Ok(self.0.call(PATIENCE, async move |client: &mut Client| {
            client
                .query_typed_one(
                    "SELECT poet.replace_in_log($1, $2, $3, $4, $5)",
                    &[
                        (&round, Type::INT8),
                        (&first, Type::INT8),
                        (&wrong, Type::BYTEA),
                        (&right, Type::BYTEA),
                        (&name, Type::TEXT),
                    ],
                )
                .await?;
            Ok(())
        })?)
    }
}

fn seconds(seconds: Option<f64>) -> Duration {
    Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or(Duration::MAX)
}

/// Returns the server in a row, if there is one.
fn server(row: &Row) -> Option<Result<ClusterServer, Fault>> {
    let name = row.get::<_, Option<String>>(4)?;
    let read = || {
        Ok(ClusterServer {
            name,
            seen: seconds(row.get(5)),
            works: row.get(6),
            standby: row.get(7),
            entries: unsigned(row.get(8))?,
            leaves_per_second: row.get(9),
            leaves: row.get::<_, Option<i64>>(10).map(unsigned).transpose()?,
        })
    };
    Some(read())
}
