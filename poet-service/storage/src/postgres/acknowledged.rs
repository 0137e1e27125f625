//! The registrations that this server has acknowledged, in case the database loses them.
//!
//! After a fail-over to a lagging replica, or a restore, a database is in an earlier state. That
//! shows in its timeline, which each fail-over changes, or in the end of its log, which otherwise
//! only grows. This server then hands in again whatever it has acknowledged for the open round.

use std::{collections::HashMap, time::Duration};

use poet_rounds::storage::{Challenge, NodeId};
use tokio_postgres::{Client, types::Type};

use super::{error::Fault, link::Link, opening::open};
use crate::DatabaseError;

/// How long a closed round may still be lost: no replica that is promoted lags behind by more.
const REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// The timeline is in the name of the file that receives the log.
const POSITION: &str = "
    SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int,
           (pg_current_wal_flush_lsn() - '0/0')::bigint";

/// The position of a database in its history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    timeline: i32,
    /// The end of the durable part of its log: commits of shared logs are not waited for.
    end: i64,
}

impl Position {
    /// Returns `None` if the database does not report it: some hosted ones lack these functions.
    pub(super) async fn read(client: &Client) -> Result<Option<Self>, Fault> {
        match client
            .query_typed_one(POSITION, &[])
            .await
            .map_err(Fault::from)
        {
            Ok(row) => Ok(Some(Self {
                timeline: row.get(0),
                end: row.get(1),
            })),
            Err(Fault::Final(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }
}

/// Registrations acknowledged for a round.
struct Round {
    round: u64,
    members: HashMap<NodeId, Challenge>,
    /// When the next round was opened, by the monotonic clock; `None` while this one is open.
    closed: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Acknowledged {
    /// The open round is the last one.
    rounds: Vec<Round>,
    /// The last known position of the database.
    seen: Option<Position>,
    /// The connection on which it was read.
    connection: u64,
}

impl Acknowledged {
    /// Called when this server has opened a round, now.
    pub(super) fn opened(&mut self, round: u64, now: Duration) {
        let is_kept = |closed| now.saturating_sub(closed) < REMEMBERED;
        self.rounds.retain(|one| one.closed.is_none_or(is_kept));
        if self.rounds.last().is_some_and(|open| open.round == round) {
            return;
        }
        for earlier in &mut self.rounds {
            earlier.closed.get_or_insert(now);
        }
        self.rounds.push(Round {
            round,
            members: HashMap::new(),
            closed: None,
        });
    }

    pub(super) fn add(&mut self, round: i64, node: NodeId, challenge: Challenge) {
        let found = self.rounds.iter_mut().find(|one| one.round as i64 == round);
        if let Some(found) = found {
            found.members.insert(node, challenge);
        }
    }

    /// Stores the position of the database, unless it must be examined first.
    pub(super) fn saw(&mut self, position: Option<Position>, connection: u64) {
        if self.connection == connection {
            self.seen = position;
        }
    }

    /// Returns whether the database is no longer the one that was examined.
    pub(super) fn moved(&self, position: Option<Position>) -> bool {
        match (self.seen, position) {
            (Some(seen), Some(found)) => found.timeline != seen.timeline || found.end < seen.end,
            _ => false,
        }
    }

    /// On a new connection, examines where the database is, and hands in again what it may have
    /// lost, in statements of at most `max_batch` registrations, each within `patience`.
    pub(super) async fn look_back(
        &mut self,
        link: &mut Link,
        patience: Duration,
        max_batch: usize,
    ) -> Result<(), DatabaseError> {
        while self.connection != link.connections() {
            let connection = link.connections();
            let position = link
                .run(patience, async |client: &mut Client| {
                    Position::read(client).await
                })
                .await?;
            if self.moved(position) {
                self.hand_in(link, patience, max_batch).await?;
            }
            // Unless the operation has opened yet another connection.
            if connection == link.connections() {
                self.connection = connection;
                self.seen = position;
            }
        }
        Ok(())
    }

    async fn hand_in(
        &self,
        link: &mut Link,
        patience: Duration,
        max_batch: usize,
    ) -> Result<(), DatabaseError> {
        let (mut again, mut lost) = (0, 0);
        for Round {
            round,
            members,
            closed,
        } in &self.rounds
        {
            if closed.is_none() {
                // The opening of this round may be lost, too.
                link.run(patience, async |client: &mut Client| {
                    open(client, *round).await
                })
                .await?;
            }
            let number = i64::try_from(*round).map_err(|_| DatabaseError::Damaged("a round"))?;
            let members: Vec<_> = members.iter().collect();
            for members in members.chunks(max_batch.max(1)) {
                let nodes: Vec<&[u8]> = members.iter().map(|(node, _)| &node.0[..]).collect();
                let challenges: Vec<&[u8]> = members.iter().map(|(_, one)| &one.0[..]).collect();
                let (added, missing) = link
                    .run(patience, async |client: &mut Client| {
                        register_again(client, number, &nodes, &challenges).await
                    })
                    .await?;
                again += added;
                lost += missing;
            }
        }
        match (again, lost) {
            (0, 0) => tracing::warn!(
                "another database has taken over, and has everything that this server has acknowledged"
            ),
            _ => tracing::error!(
                again,
                lost,
                "ALARM: the database went back to an older state and has lost registrations that this \
                 server has acknowledged: `again` of them were registered again, `lost` of them are for a \
                 round that has closed"
            ),
        }
        Ok(())
    }
}

/// Registers again. Returns how many were missing, and how many can no longer be stored.
async fn register_again(
    client: &Client,
    round: i64,
    nodes: &[&[u8]],
    challenges: &[&[u8]],
) -> Result<(u64, u64), Fault> {
    // No limit: there was room for them before.
    let row = client
        .query_typed_one(
            "SELECT poet.register($1, $2, $3, $4)",
            &[
                (&round, Type::INT8),
                (&i64::MAX, Type::INT8),
                (&nodes, Type::BYTEA_ARRAY),
                (&challenges, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    if let Some(letters) = row.get::<_, Option<&str>>(0) {
        let count = |letter| letters.bytes().filter(|one| *one == letter).count() as u64;
        return Ok((count(b'n'), count(b'c')));
    }
    let row = client
        .query_typed_one(
            "SELECT count(*) FROM unnest($2, $3) AS given (node_id, challenge)
             WHERE NOT EXISTS (SELECT FROM poet.registrations AS known
                               WHERE known.round = $1 AND known.node_id = given.node_id
                                 AND known.challenge = given.challenge)",
            &[
                (&round, Type::INT8),
                (&nodes, Type::BYTEA_ARRAY),
                (&challenges, Type::BYTEA_ARRAY),
            ],
        )
        .await?;
    Ok((0, row.get::<_, i64>(0).unsigned_abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_round_is_forgotten_when_it_can_no_longer_be_lost() {
        let mut acknowledged = Acknowledged::default();
        let remembered = |acknowledged: &Acknowledged| {
            let rounds = acknowledged.rounds.iter();
            rounds.map(|one| one.round).collect::<Vec<_>>()
        };
        let second = Duration::from_secs(1);
        acknowledged.opened(4, second);
        // However long it is open.
        acknowledged.opened(5, second + 10 * REMEMBERED);
        assert_eq!(remembered(&acknowledged), [4, 5]);
        acknowledged.opened(5, 11 * REMEMBERED);
        assert_eq!(remembered(&acknowledged), [4, 5]);
        acknowledged.opened(6, second + 11 * REMEMBERED);
        assert_eq!(remembered(&acknowledged), [5, 6]);
    }
}
