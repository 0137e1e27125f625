//! Registrations and openings, in order of arrival: those that queue up while the database is busy
//! go into one statement.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use jiff::SignedDuration;
use poet_rounds::{
    clock::Clock,
    counters::Counters,
    storage::{Challenge, Member, NodeId, Registered},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep},
};
use tokio_postgres::{Client, types::Type};

use super::{
    acknowledged::{Acknowledged, Position},
    error::{Fault, PostgresError},
    link::Link,
    opening::{Opened, open},
};
use crate::{DatabaseError, repeated::Repeated};

/// How long a statement may take before the connection counts as hung.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How far the database's clock may be behind when a round closes.
const MAX_WAIT: Duration = Duration::from_secs(3);
/// How long a successful write shows that writing is possible.
const WRITE_AGAIN: Duration = Duration::from_secs(60);

/// How far this machine's clock is ahead of the database's.
#[derive(Debug)]
pub(super) struct ClockOffset(AtomicI64);

impl ClockOffset {
    const UNKNOWN: i64 = i64::MIN;

    pub(super) fn unknown() -> Self {
        Self(AtomicI64::new(Self::UNKNOWN))
    }

    pub(super) fn set(&self, offset: SignedDuration) {
        let micros = i64::try_from(offset.as_micros()).unwrap_or(i64::MAX);
        self.0.store(micros, Relaxed);
    }

    pub(super) fn get(&self) -> Option<SignedDuration> {
        match self.0.load(Relaxed) {
            Self::UNKNOWN => None,
            micros => Some(SignedDuration::from_micros(micros)),
        }
    }
}

pub(super) type Reply<T> = oneshot::Sender<Result<T, DatabaseError>>;

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
    Probe {
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

/// Registrations for one round with one limit, in order.
struct Batch {
    round: i64,
    max_members: i64,
    nodes: Vec<NodeId>,
    challenges: Vec<Challenge>,
    replies: Vec<Reply<Registered>>,
}

pub(super) struct Writer {
    pub(super) link: Link,
    pub(super) max_batch: usize,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) clock_offset: Arc<ClockOffset>,
    pub(super) counters: Arc<dyn Counters>,
    pub(super) acknowledged: Acknowledged,
    /// When the last write succeeded, by the monotonic clock; `None` after a failure.
    pub(super) written: Option<Duration>,
    pub(super) failures: Repeated,
}

impl Writer {
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut commands = Vec::new();
        while queue.recv_many(&mut commands, self.max_batch).await > 0 {
            let mut batch: Option<Batch> = None;
            for command in commands.drain(..) {
                match command {
                    Command::Register {
                        round,
                        member,
                        max_members,
                        reply,
                    } => {
                        let round = i64::try_from(round).unwrap_or(i64::MAX);
                        let max_members = i64::try_from(max_members).unwrap_or(i64::MAX);
                        let fits = |batch: &Batch| {
                            (batch.round, batch.max_members) == (round, max_members)
                        };
                        if !batch.as_ref().is_some_and(fits) {
                            self.register(batch.take()).await;
                        }
                        let batch = batch.get_or_insert_with(|| Batch {
                            round,
                            max_members,
                            nodes: Vec::new(),
                            challenges: Vec::new(),
                            replies: Vec::new(),
                        });
                        batch.nodes.push(member.node_id);
                        batch.challenges.push(member.challenge);
                        batch.replies.push(reply);
                    }
                    Command::OpenRound { round, reply } => {
                        self.register(batch.take()).await;
                        let opened = self.open_round(round).await;
                        // The caller may have stopped waiting.
                        drop(reply.send(opened));
                    }
                    Command::Probe { reply } => {
                        self.register(batch.take()).await;
                        let probed = self.probe().await;
                        drop(reply.send(probed));
                    }
                    Command::Close { reply } => {
                        self.register(batch.take()).await;
                        drop(reply.send(Ok(())));
                        return;
                    }
                }
            }
            self.register(batch.take()).await;
        }
    }

    async fn register(&mut self, batch: Option<Batch>) {
        let Some(Batch {
            round,
            max_members,
            nodes,
            challenges,
            replies,
        }) = batch
        else {
            return;
        };
        let start = self.clock.monotonic();
        let node_bytes: Vec<&[u8]> = nodes.iter().map(|node| &node.0[..]).collect();
        let challenge_bytes: Vec<&[u8]> = challenges
            .iter()
            .map(|challenge| &challenge.0[..])
            .collect();
        let stored = self
            .link
            .run(PATIENCE, async |client: &mut Client| {
                let row = client
                    .query_typed_one(
                        "SELECT poet.register($1, $2, $3, $4)",
                        &[
                            (&round, Type::INT8),
                            (&max_members, Type::INT8),
                            (&node_bytes, Type::BYTEA_ARRAY),
                            (&challenge_bytes, Type::BYTEA_ARRAY),
                        ],
                    )
                    .await?;
                let outcomes = match row.get::<_, Option<&str>>(0) {
                    None => vec![Registered::Closed; nodes.len()],
                    Some(letters) => letters.bytes().map_while(outcome).collect(),
                };
                if outcomes.len() == nodes.len() {
                    Ok(outcomes)
                } else {
                    Err(Fault::Damaged("a registration"))
                }
            })
            .await;
        match stored {
            Ok(outcomes) => {
                let now = self.clock.monotonic();
                self.counters.batch_written(now.saturating_sub(start));
                if outcomes.contains(&Registered::New) {
                    self.written = Some(now);
                }
                let members = nodes.iter().zip(&challenges).zip(outcomes);
                for (reply, ((node, challenge), outcome)) in replies.into_iter().zip(members) {
                    if matches!(outcome, Registered::New | Registered::Already) {
                        self.acknowledged.add(round, *node, *challenge);
                    }
                    drop(reply.send(Ok(outcome)));
                }
                // It logs the error.
                drop(self.look_back().await);
            }
            Err(error) => {
                self.failed(&error);
                for reply in replies {
                    drop(reply.send(Err(DatabaseError::Transaction)));
                }
            }
        }
    }

    async fn open_round(&mut self, round: u64) -> Result<u64, DatabaseError> {
        let start = Instant::now();
        loop {
            self.look_back().await?;
            let acknowledged = &self.acknowledged;
            let opened = self
                .link
                .run(PATIENCE, async |client: &mut Client| {
                    // A round must not close before everything that was acknowledged is stored.
                    if acknowledged.moved(Position::read(client).await?) {
                        return Ok(None);
                    }
                    open(client, round).await.map(Some)
                })
                .await;
            match opened {
                Ok(None) => {}
                Ok(Some(Opened::Members(members))) => {
                    let now = self.clock.monotonic();
                    self.written = Some(now);
                    self.acknowledged.opened(round, now);
                    return u64::try_from(members).map_err(|_| DatabaseError::Damaged("a round"));
                }
                Ok(Some(Opened::TooEarly(seconds))) => {
                    let wait = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
                    if start.elapsed().saturating_add(wait) > MAX_WAIT {
                        let round = round.saturating_sub(1);
                        return Err(PostgresError::TooEarly { round, seconds }.into());
                    }
                    sleep(wait + Duration::from_millis(1)).await;
                }
                Err(error) => {
                    self.failed(&error);
                    return Err(error);
                }
            }
        }
    }

    /// Ensures that a database that went back in time gets what was acknowledged.
    async fn look_back(&mut self) -> Result<(), DatabaseError> {
        let looked = (self.acknowledged)
            .look_back(&mut self.link, PATIENCE, self.max_batch)
            .await;
        looked.inspect_err(|error| self.failed(error))
    }

    /// Reads the database's clock, and writes something if nothing was written recently.
    async fn probe(&mut self) -> Result<(), DatabaseError> {
        let now = self.clock.monotonic();
        let must_write = (self.written).is_none_or(|at| now.saturating_sub(at) >= WRITE_AGAIN);
        let clock = Arc::clone(&self.clock);
        let probed = self
            .link
            .run(PATIENCE, async |client: &mut Client| {
                let (asked, before) = (clock.now(), clock.monotonic());
                let row = client
                    .query_typed_one(
                        "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint
                         FROM poet.schema_version",
                        &[],
                    )
                    .await?;
                // The clock was read halfway between.
                let half = (clock.monotonic().saturating_sub(before) / 2).as_micros() as i64;
                let here = asked.as_microsecond().saturating_add(half);
                let offset = here.saturating_sub(row.get::<_, i64>(0));
                if must_write {
                    client
                        .execute_typed(
                            "INSERT INTO poet.settings (name, value)
                             VALUES ('probe', int8send((random() * 1e15)::bigint))
                             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                            &[],
                        )
                        .await?;
                }
                Ok((offset, Position::read(client).await?))
            })
            .await;
        match probed {
            Ok((offset, position)) => {
                self.acknowledged.saw(position, self.link.connections());
                self.clock_offset.set(SignedDuration::from_micros(offset));
                if must_write {
                    self.written = Some(self.clock.monotonic());
                }
                self.look_back().await
            }
            Err(error) => {
                self.failed(&error);
                Err(error)
            }
        }
    }

    fn failed(&mut self, error: &DatabaseError) {
        self.written = None;
        if self.failures.is_due(&error.to_string()) {
            tracing::error!(%error, "cannot write the database; what fails is not stored");
        }
    }
}

fn outcome(letter: u8) -> Option<Registered> {
    match letter {
        b'n' => Some(Registered::New),
        b'a' => Some(Registered::Already),
        b'c' => Some(Registered::Conflict),
        b'f' => Some(Registered::Full),
        _ => None,
    }
}
