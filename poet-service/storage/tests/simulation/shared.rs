//! A database that several simulated servers share, and the links by which they reach it. It can be away,
//! and go back to what its synchronous replica has: all commits that were waited for, and of those that
//! were not (the logs of work, and how servers stand) all up to the newest that was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    ops::RangeInclusive,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use poet_engine::{Node, T, Work, membership, verify};
use poet_proto::messages::PublishedProof;
use poet_rounds::{
    clock::Clock as _,
    schedule::Schedule,
    storage::{
        Challenge, EarlyProofRecord, Execution, Member, NodeId, PowChallenges, Registered, Removed,
        RoundRecord, Setting, Storage, StorageError, StorageFuture, UnfinishedRound,
        shared_log::{Appended, ClusterServer, SharedLog, SharedRound},
    },
};
use tokio::time::Instant;

use crate::{
    memory::{MemoryStorage, Tables},
    storage::now,
    world::{Fate, World, WorldClock},
};

/// How long ago a server was seen of which others are told.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How soon a server notices what another one has handed in.
const NOTICED: Duration = Duration::from_millis(1500);

/// The log of a round.
#[derive(Clone)]
struct Log {
    entries: Arc<Vec<Node>>,
    grown: Instant,
    worker: Option<String>,
    /// How many entries there were, and since when.
    history: Vec<(Instant, u64)>,
}

impl Log {
    fn handed_in(&mut self, name: &str) {
        self.grown = Instant::now();
        self.worker = Some(name.to_owned());
        self.history.push((self.grown, self.entries.len() as u64));
    }

    /// How many entries the others had the time to notice.
    fn known(&self) -> u64 {
        let mut history = self.history.iter().rev();
        let known = history.find(|(since, _)| since.elapsed() >= NOTICED);
        known.map_or(0, |(_, entries)| *entries)
    }
}

/// What is not in the tables of one server's storage.
#[derive(Clone, Default)]
struct Logs {
    closed: BTreeSet<u64>,
    logs: BTreeMap<u64, Log>,
    servers: BTreeMap<String, (u64, Instant, ClusterServer)>,
}

struct State {
    logs: Logs,
    /// What a replica has.
    replica: (Tables, Logs),
    away: bool,
    /// What was promised.
    acknowledged: BTreeMap<u64, BTreeMap<NodeId, Challenge>>,
    statements: BTreeMap<u64, Execution>,
    proofs: BTreeMap<u64, Arc<PublishedProof>>,
    violation: Option<String>,
    counts: BTreeMap<&'static str, u64>,
}

pub(crate) struct Database {
    tables: Arc<Mutex<Tables>>,
    /// Never fails.
    memory: MemoryStorage,
    state: Mutex<State>,
    start: (Timestamp, Instant),
    schedule: Schedule,
    work: Work,
    /// A machine computes wrong.
    mistakes: bool,
}

impl Database {
    pub(crate) fn new(start: Timestamp, schedule: Schedule, work: Work, mistakes: bool) -> Self {
        let tables = Arc::<Mutex<Tables>>::default();
        Self {
            memory: MemoryStorage::new(Arc::clone(&tables)),
            tables,
            state: Mutex::new(State {
                logs: Logs::default(),
                replica: Default::default(),
                away: false,
                acknowledged: BTreeMap::new(),
                statements: BTreeMap::new(),
                proofs: BTreeMap::new(),
                violation: None,
                counts: BTreeMap::new(),
            }),
            start: (start, Instant::now()),
            schedule,
            work,
            mistakes,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn memory(&self) -> MemoryStorage {
        MemoryStorage::new(Arc::clone(&self.tables))
    }

    /// The time by its clock.
    pub(crate) fn now(&self) -> Timestamp {
        let (start, since) = self.start;
        start + SignedDuration::try_from(since.elapsed()).unwrap()
    }

    pub(crate) fn require(&self, condition: bool, what: impl FnOnce() -> String) {
        if !condition {
            self.state().violation.get_or_insert_with(what);
        }
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.state().violation.clone()
    }

    pub(crate) fn count(&self, what: &'static str) {
        *self.state().counts.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.state().counts.clone()
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// Goes back to what the replica has.
    pub(crate) fn go_back(&self) {
        let mut state = self.state();
        let (tables, logs) = state.replica.clone();
        *self.tables.lock().unwrap() = tables;
        state.logs = logs;
    }

    /// The proofs that were stored.
    pub(crate) fn proofs(&self) -> BTreeMap<u64, Arc<PublishedProof>> {
        self.state().proofs.clone()
    }

    /// What was done so far is on the replica.
    fn replicate(&self) {
        let tables = self.tables.lock().unwrap().clone();
        let mut state = self.state();
        state.replica = (tables, state.logs.clone());
    }

    /// Opens a round and closes those before it. Returns how many members it has, or how long it is too early.
    fn open(&self, round: u64) -> Result<u64, Duration> {
        if let Some(before) = round.checked_sub(1) {
            let wait = self.schedule.start(before).duration_since(self.now());
            if let Ok(wait) = Duration::try_from(wait)
                && !wait.is_zero()
            {
                self.count("opened too early");
                return Err(wait);
            }
        }
        let opened = self.memory.newest_rounds(usize::MAX).unwrap();
        let mut state = self.state();
        for earlier in opened.iter().filter(|record| record.round < round) {
            state.logs.closed.insert(earlier.round);
        }
        drop(state);
        Ok(now(self.memory().open_round(round)).unwrap())
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> Registered {
        let there = self.memory.round(round).unwrap().is_some();
        if !there || self.state().logs.closed.contains(&round) {
            return Registered::Closed;
        }
        let memory = self.memory();
        now(memory.open_round(round)).unwrap();
        now(memory.register(round, member, max_members)).unwrap()
    }

    /// The answer to a registration was yes.
    pub(crate) fn acknowledged(&self, round: u64, member: Member) {
        let stored = self.memory.registrations(round).unwrap().contains(&member);
        self.require(stored, || {
            format!("a registration for round {round} was acknowledged and is not stored")
        });
        let mut state = self.state();
        let members = state.acknowledged.entry(round).or_default();
        members.insert(member.node_id, member.challenge);
    }

    fn settle(&self, round: u64, execution: &Execution) {
        let members = self.memory.members(round).unwrap();
        let closed = self.state().logs.closed.contains(&round);
        self.require(closed, || {
            format!("round {round} is settled while it is open")
        });
        let right = membership::root(&members) == execution.statement;
        self.require(right, || {
            format!("round {round} is settled on another statement than its members'")
        });
        let known = self
            .state()
            .statements
            .entry(round)
            .or_insert_with(|| execution.clone())
            .clone();
        self.require(known == *execution, || {
            format!("round {round} has two statements")
        });
        self.memory.settle_round(round, execution).unwrap();
    }

    fn publish(
        &self,
        round: u64,
        proof: &Arc<PublishedProof>,
        by_clock: Timestamp,
    ) -> Result<PowChallenges, StorageError> {
        if let Some(stored) = self.memory.proof(round)? {
            self.count("second to publish");
            return match stored.proof.root == proof.proof.root {
                true => Ok(self.memory.pow_challenges()?.unwrap()),
                false => Err(StorageError::new("the round has another proof")),
            };
        }
        let before = self.state().proofs.insert(round, Arc::clone(proof));
        self.require(before.is_none(), || format!("round {round} lost its proof"));
        let members = self.memory.registrations(round)?;
        let challenges: Vec<_> = members.iter().map(|member| member.challenge).collect();
        let missing = {
            let state = self.state();
            let promised = state.acknowledged.get(&round).into_iter().flatten();
            let stored = |(node, challenge): (&NodeId, &Challenge)| {
                let mut found = members.iter();
                found.any(|member| member.node_id == *node && member.challenge == *challenge)
            };
            promised.filter(|one| !stored(*one)).count()
        };
        let statement = membership::root(&proof.members);
        let valid = verify(&self.work, &statement, proof.leaves, T, &proof.proof);
        let execution = self.state().statements.get(&round).cloned();
        let height = execution.map_or(0, |execution| execution.subtree_height.get());
        let durable = {
            let state = self.state();
            let (_, logs) = &state.replica;
            let entries = logs.logs.get(&round).map_or(0, Log::known);
            entries << height
        };
        for (ok, what) in [
            (missing == 0, "lacks an acknowledged member"),
            (
                challenges == proof.members,
                "has other members than are stored",
            ),
            (
                statement == proof.statement,
                "has another statement than its members'",
            ),
            (valid.is_ok(), "has a proof that is not valid"),
            (
                by_clock >= self.schedule.end(round),
                "is published before its end",
            ),
            (
                // What a machine has made wrong is no work.
                self.mistakes || proof.leaves >= durable,
                "has fewer leaves than were handed in",
            ),
        ] {
            self.require(ok, || {
                format!("round {round} {what}: {} leaves of {durable}", proof.leaves)
            });
        }
        let before = self
            .memory
            .pow_challenges()?
            .map(|challenges| challenges.current);
        let challenges = self.memory.publish(round, Arc::clone(proof))?;
        let rotated = challenges.current == proof.proof.root && challenges.previous == before;
        self.require(rotated, || {
            "the challenge of the proof of work is lost".to_owned()
        });
        self.state().logs.logs.remove(&round);
        self.count("published");
        Ok(challenges)
    }

    fn look(&self, round: u64, own: Option<&ClusterServer>) -> SharedRound {
        let record = self.memory.round(round).unwrap();
        let published = record.is_some_and(|record| record.published.is_some());
        let now = Instant::now();
        let mut state = self.state();
        let logs = &mut state.logs;
        if let Some(own) = own {
            if record.is_some() && !published {
                logs.log(round);
            }
            let name = own.name.clone();
            logs.servers.insert(name, (round, now, own.clone()));
        }
        let log = logs.logs.get(&round);
        let servers = logs.servers.values();
        let servers = servers.filter(|(of, seen, _)| *of == round && now - *seen < REMEMBERED);
        SharedRound {
            published,
            entries: log.map_or(0, |log| log.entries.len() as u64),
            quiet: log.map_or(Duration::ZERO, |log| now - log.grown),
            worker: log.and_then(|log| log.worker.clone()),
            servers: servers
                .map(|(_, seen, server)| ClusterServer {
                    seen: now - *seen,
                    ..server.clone()
                })
                .collect(),
        }
    }

    fn append(&self, round: u64, name: &str, first: u64, entries: &[Node]) -> Appended {
        let record = self.memory.round(round).unwrap();
        if record.is_none_or(|record| record.published.is_some()) {
            return Appended::Published;
        }
        let mut state = self.state();
        let log = state.logs.log(round);
        let there = log.entries.len() as u64;
        if first > there {
            return Appended::Gap(there);
        }
        let common = &log.entries[first as usize..];
        let differs = common
            .iter()
            .zip(entries)
            .position(|(one, other)| one != other);
        if let Some(place) = differs {
            drop(state);
            self.count("entries differ");
            self.require(self.mistakes, || {
                format!("entries of sound machines for round {round} differ")
            });
            return Appended::Differs(first + place as u64);
        }
        let new = entries.get(common.len()..).unwrap_or_default();
        if !new.is_empty() {
            let other = log.worker.as_ref().is_some_and(|worker| worker != name);
            Arc::make_mut(&mut log.entries).extend_from_slice(new);
            log.handed_in(name);
            let there = log.entries.len() as u64;
            drop(state);
            if other {
                self.count("another works");
            }
            return Appended::Done(there);
        }
        Appended::Done(there)
    }

    fn replace(&self, round: u64, name: &str, first: u64, wrong: &Node, right: &[Node]) {
        let mut state = self.state();
        let log = state.logs.log(round);
        if log.entries.get(first as usize) != Some(wrong) {
            return;
        }
        let entries = Arc::make_mut(&mut log.entries);
        entries.truncate(first as usize);
        entries.extend_from_slice(right);
        log.handed_in(name);
        drop(state);
        self.count("replaced");
    }
}

impl Logs {
    fn log(&mut self, round: u64) -> &mut Log {
        self.logs.entry(round).or_insert_with(|| Log {
            entries: Arc::default(),
            grown: Instant::now(),
            worker: None,
            history: Vec::new(),
        })
    }
}

/// How a server reaches the database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// Nothing gets there, or nothing comes back.
    pub(crate) cut_to: bool,
    pub(crate) cut_from: bool,
    /// Thousandths of all answers that are lost.
    pub(crate) lost: u32,
}

/// The database as one server has it.
#[derive(Clone)]
pub(crate) struct LinkedStorage {
    pub(crate) world: Arc<World>,
    pub(crate) database: Arc<Database>,
    pub(crate) link: Arc<Mutex<Link>>,
}

/// How an operation changes the database.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Commit {
    /// It only reads, or is not waited for.
    Not,
    Synchronous,
}

impl LinkedStorage {
    fn call<T>(
        &self,
        what: fmt::Arguments<'_>,
        commit: Commit,
        act: impl FnOnce(&Database) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let away = || Err(StorageError::new("the database is away"));
        let fate = self.world.fate(what, true);
        if !matches!(fate, Fate::Done | Fate::CrashAfter) {
            return away();
        }
        let link = *self.link.lock().unwrap();
        if link.cut_to || self.database.state().away {
            return away();
        }
        let done = act(&self.database);
        if commit == Commit::Synchronous {
            self.database.replicate();
        }
        if fate == Fate::CrashAfter {
            return away();
        }
        if link.cut_from || self.world.chance(link.lost) {
            self.database.count("answer lost");
            return away();
        }
        done
    }

    fn read<T>(
        &self,
        what: &str,
        read: impl FnOnce(&MemoryStorage) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        let what = format_args!("read {what}");
        self.call(what, Commit::Not, |database| read(&database.memory))
    }

    fn write<T>(
        &self,
        what: fmt::Arguments<'_>,
        write: impl FnOnce(&Database) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.call(what, Commit::Synchronous, write)
    }
}

fn ready<T: Send + 'static>(result: Result<T, StorageError>) -> StorageFuture<T> {
    Box::pin(std::future::ready(result))
}

impl Storage for LinkedStorage {
    fn setting(&self, setting: Setting) -> Result<Option<Vec<u8>>, StorageError> {
        self.read("a setting", |memory| memory.setting(setting))
    }

    fn store_setting(&self, setting: Setting, value: &[u8]) -> Result<(), StorageError> {
        self.write(format_args!("store {setting:?}"), |database| {
            database.memory.store_setting(setting, value)
        })
    }

    fn pow_challenges(&self) -> Result<Option<PowChallenges>, StorageError> {
        self.read("challenges", Storage::pow_challenges)
    }

    fn store_pow_challenges(&self, challenges: &PowChallenges) -> Result<(), StorageError> {
        self.write(format_args!("store challenges"), |database| {
            database.memory.store_pow_challenges(challenges)
        })
    }

    fn unfinished_rounds(&self) -> Result<Vec<UnfinishedRound>, StorageError> {
        self.read("unfinished rounds", Storage::unfinished_rounds)
    }

    fn first_unsettled_round(&self, from: u64) -> Result<u64, StorageError> {
        self.read("the first unsettled round", |memory| {
            memory.first_unsettled_round(from)
        })
    }

    fn open_round(&self, round: u64) -> StorageFuture<u64> {
        let storage = self.clone();
        Box::pin(async move {
            loop {
                let opened = storage.write(format_args!("open {round}"), |database| {
                    Ok(database.open(round))
                })?;
                match opened {
                    Ok(members) => return Ok(members),
                    Err(wait) => tokio::time::sleep(wait).await,
                }
            }
        })
    }

    fn register(&self, round: u64, member: Member, max_members: u64) -> StorageFuture<Registered> {
        let what = format_args!("register {:02x?} for {round}", &member.node_id.0[..2]);
        ready(self.write(what, |database| {
            Ok(database.register(round, member, max_members))
        }))
    }

    fn queued(&self) -> usize {
        0
    }

    fn member_count(&self, round: u64) -> Result<u64, StorageError> {
        self.read("the member count", |memory| memory.member_count(round))
    }

    fn probe(&self) -> StorageFuture<()> {
        ready(self.write(format_args!("probe"), |_| Ok(())))
    }

    fn newest_rounds(&self, count: usize) -> Result<Vec<RoundRecord>, StorageError> {
        self.read("the newest rounds", |memory| memory.newest_rounds(count))
    }

    fn round(&self, round: u64) -> Result<Option<RoundRecord>, StorageError> {
        self.read("a round", |memory| memory.round(round))
    }

    fn is_member(&self, round: u64, node_id: NodeId) -> Result<bool, StorageError> {
        self.read("a registration", |memory| memory.is_member(round, node_id))
    }

    fn registrations(&self, round: u64) -> Result<Vec<Member>, StorageError> {
        self.read("registrations", |memory| memory.registrations(round))
    }

    fn members(&self, round: u64) -> Result<Vec<Challenge>, StorageError> {
        self.read("members", |memory| memory.members(round))
    }

    fn settle_round(&self, round: u64, execution: &Execution) -> Result<(), StorageError> {
        self.write(format_args!("settle {round}"), |database| {
            database.settle(round, execution);
            Ok(())
        })
    }

    fn publish(
        &self,
        round: u64,
        proof: Arc<PublishedProof>,
    ) -> Result<PowChallenges, StorageError> {
        let by_clock = WorldClock(Arc::clone(&self.world)).now();
        self.write(format_args!("publish {round}"), |database| {
            database.publish(round, &proof, by_clock)
        })
    }

    fn remove_registrations(&self, before: u64, count: u32) -> Result<Removed, StorageError> {
        self.write(format_args!("remove registrations"), |database| {
            database.memory.remove_registrations(before, count)
        })
    }

    fn proof(&self, round: u64) -> Result<Option<PublishedProof>, StorageError> {
        self.read("a proof", |memory| memory.proof(round))
    }

    fn store_early_proof(
        &self,
        _round: u64,
        _gap: Duration,
        _proof: Arc<PublishedProof>,
    ) -> Result<(), StorageError> {
        unreachable!("these servers have no longer cycle gap")
    }

    fn early_proof(
        &self,
        round: u64,
        gap: Duration,
    ) -> Result<Option<PublishedProof>, StorageError> {
        self.read("an early proof", |memory| memory.early_proof(round, gap))
    }

    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        self.read("the early proofs", |memory| memory.early_proofs(rounds))
    }

    fn shared(&self) -> bool {
        true
    }

    fn shared_log(&self) -> Option<Arc<dyn SharedLog>> {
        Some(Arc::new(self.clone()))
    }
}

impl SharedLog for LinkedStorage {
    fn look(&self, round: u64, own: Option<&ClusterServer>) -> Result<SharedRound, StorageError> {
        self.call(
            format_args!("look at log {round}"),
            Commit::Not,
            |database| Ok(database.look(round, own)),
        )
    }

    fn append(
        &self,
        round: u64,
        name: &str,
        first: u64,
        entries: &[Node],
    ) -> Result<Appended, StorageError> {
        let what = format_args!("append {} to log {round} at {first}", entries.len());
        self.call(what, Commit::Not, |database| {
            Ok(database.append(round, name, first, entries))
        })
    }

    fn read(&self, round: u64, first: u64, count: u64) -> Result<Vec<Node>, StorageError> {
        self.call(format_args!("read log {round}"), Commit::Not, |database| {
            let state = database.state();
            let log = state.logs.logs.get(&round);
            let entries = log.map_or(&[][..], |log| &log.entries);
            let entries = entries.iter().skip(first as usize).take(count as usize);
            Ok(entries.copied().collect())
        })
    }

    fn replace(
        &self,
        round: u64,
        name: &str,
        first: u64,
        wrong: &Node,
        right: &[Node],
    ) -> Result<(), StorageError> {
        self.write(
            format_args!("replace log {round} from {first}"),
            |database| {
                database.replace(round, name, first, wrong, right);
                Ok(())
            },
        )
    }
}
