//! A storm over several machines that are one PoET: three servers, a PostgreSQL and its synchronous
//! replica, each in a network namespace of its own. Servers are killed, lose their disks and stand still;
//! their links to the database are cut in one direction or in both; the database is killed, its replica
//! stands still, and takes over. Nodes register all the time, with whatever server answers. In the end:
//!
//! - every acknowledged registration is in the round that the answer named;
//! - each round has one proof, the same from every server, and it is valid;
//! - a proof has all leaves that the shared log ever had [`HAND_IN`] before the database failed, and all
//!   that any machine had made which could reach the database for [`HAND_IN`] after that;
//! - while one machine that may work and the database are undisturbed, the work stands still for at most
//!   [`STANDSTILL`];
//! - every round is published, and every server is ready.
//!
//! How long the storm is, and which one, is set by the environment:
//!
//! ```sh
//! POET_STORM_SECONDS=3600 POET_STORM_SEED=7 \
//!     cargo test -p poet-service --test cluster_storm -- --nocapture
//! ```
//!
//! Each machine has a sequence of faults that follows from the seed; what they meet does not.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "../../storage/tests/suite/server.rs"]
mod database;
#[path = "common/program.rs"]
mod program;
#[path = "common/storm.rs"]
mod storm;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Client, TestNode, await_some, verify_json};
use database::{Network, PASSWORD, PostgresServer, Psql};
use jiff::Timestamp;
use poet_conformance::{Rng, skip};
use poet_engine::TICK_LEAVES;
use program::command_in;
use rustix::process::{Pid, Signal, kill_process};
use storm::{Registrations, agent, answer, millis, seed, setting, submit};

/// The length of the storm in CI.
const DEFAULT_SECONDS: u64 = 60;

const EPOCH: Duration = Duration::from_secs(16);
const SHIFT: Duration = Duration::from_secs(4);
/// Longer than the silence of a server after which another one makes the proof.
const GAP: Duration = Duration::from_secs(6);
const WORKERS: [&str; 3] = ["on", "on", "standby"];

const REGISTRARS: usize = 2;
/// How long an answer may take before another server is asked.
const PATIENCE: Duration = Duration::from_secs(3);
const SAMPLE_INTERVAL: Duration = Duration::from_millis(150);

/// How long it may take until what a machine makes is in the database, and survives a crash there.
const HAND_IN: Duration = Duration::from_secs(3);
/// How long after a fault a machine may still be connecting, copying, or waiting for an answer.
const RECOVERY: Duration = Duration::from_secs(12);
/// `takeover-after`, what a standby waits longer, and what a busy machine takes for it.
const STANDSTILL: Duration = Duration::from_millis(500 + 2000 + 4000);

/// Set in the process that has namespaces of its own.
const INSIDE: &str = "POET_STORM_INSIDE";
const NAME: &str = "a_storm_over_several_machines_loses_nothing";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Kill,
    LoseDisk,
    Pause,
    CutToDatabase,
    CutFromDatabase,
    CutBoth,
    KillDatabase,
    PauseReplica,
    FailOver,
}

impl What {
    const OF_SERVERS: [Self; 8] = [
        Self::Kill,
        Self::Kill,
        Self::Kill,
        Self::LoseDisk,
        Self::Pause,
        Self::CutToDatabase,
        Self::CutFromDatabase,
        Self::CutBoth,
    ];
    const OF_DATABASES: [Self; 3] = [Self::FailOver, Self::KillDatabase, Self::PauseReplica];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Server(usize),
    Database,
}

#[derive(Debug)]
struct Fault {
    what: What,
    who: Who,
    from: Instant,
    to: Option<Instant>,
}

/// Leaves of a round at a moment: those of a server, or of the shared log.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    round: u64,
    leaves: u64,
    of: Who,
    /// In the shared log: who made the newest entry.
    worker: Option<usize>,
}

/// A server that worked when it was killed.
struct KilledWorker {
    at: Instant,
    round: u64,
    server: usize,
}

/// What the threads of a storm share.
struct Storm {
    folder: PathBuf,
    options: Vec<String>,
    /// The start of round 0.
    start: Instant,
    ended: AtomicBool,
    next_node: AtomicU32,
    registrations: Mutex<Registrations>,
    /// The database that takes writes.
    database: Mutex<Psql>,
    faults: Mutex<Vec<Fault>>,
    samples: Mutex<Vec<Sample>>,
    killed: Mutex<Vec<KilledWorker>>,
    /// The proofs as they were first served.
    proofs: Mutex<BTreeMap<u64, String>>,
    alarms: Mutex<Vec<String>>,
}

/// Ends a storm of which a part has failed.
struct EndOnPanic<'a>(&'a Storm);

impl Drop for EndOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.ended.store(true, Relaxed);
        }
    }
}

impl Storm {
    fn ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn url(server: usize) -> String {
        format!("http://10.213.{}.2:{}", server + 1, port(server))
    }

    /// The round that is worked on.
    fn executing(&self) -> Option<u64> {
        let passed = Instant::now().checked_duration_since(self.start)?;
        Some((passed.as_secs_f64() / EPOCH.as_secs_f64()) as u64)
    }

    fn works(&self, round: u64) -> (Instant, Instant) {
        let start = self.start + EPOCH * u32::try_from(round).unwrap();
        (start, start + (EPOCH - GAP))
    }

    fn fault(&self, what: What, who: Who, act: impl FnOnce()) {
        let place = {
            let mut faults = self.faults.lock().unwrap();
            faults.push(Fault {
                what,
                who,
                from: Instant::now(),
                to: None,
            });
            faults.len() - 1
        };
        act();
        self.faults.lock().unwrap()[place].to = Some(Instant::now());
    }

    /// Whether nothing was wrong with a machine, from a moment to another.
    fn calm(&self, who: Who, from: Instant, to: Instant) -> bool {
        let faults = self.faults.lock().unwrap();
        let mut of = faults.iter().filter(|fault| fault.who == who);
        of.all(|fault| fault.from > to || fault.to.is_some_and(|ended| ended < from))
    }

    /// Registers new nodes, each until that is acknowledged.
    fn register(&self, mut rng: Rng) {
        let agent = agent(PATIENCE);
        while !self.ended() {
            let node = TestNode::new(self.next_node.fetch_add(1, Relaxed));
            let mut registrations = self.registrations.lock().unwrap();
            registrations.sent.insert(node.challenge, node.id());
            drop(registrations);
            while !self.ended() {
                let server = rng.below(WORKERS.len() as u32) as usize;
                let Some(round) = submit(&agent, &Self::url(server), &node) else {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                };
                let mut registrations = self.registrations.lock().unwrap();
                let members = registrations.acknowledged.entry(round).or_default();
                members.push(node);
                break;
            }
            thread::sleep(Duration::from_millis(30));
        }
    }

    fn sampled(&self, sample: Sample) {
        self.samples.lock().unwrap().push(sample);
    }

    /// Keeps asking a server how far its work is, and for its proofs.
    fn sample(&self, server: usize) {
        let agent = agent(Duration::from_secs(1));
        let url = Self::url(server);
        let mut unproven = 0;
        while !self.ended() {
            let get = |path: String| answer(agent.get(format!("{url}/v1/{path}")).call());
            if let Some(round) = self.executing() {
                let at = Instant::now();
                let leaves = || {
                    let (_, json) = get(format!("rounds/{round}"))?;
                    let executing = json["state"] == "executing";
                    json["leaves"].as_str()?.parse().ok().filter(|_| executing)
                };
                if let Some(leaves) = leaves() {
                    self.sampled(Sample {
                        at,
                        round,
                        leaves,
                        of: Who::Server(server),
                        worker: None,
                    });
                }
                if unproven < round
                    && let Some((status, json)) = get(format!("proofs/{unproven}"))
                    && (status == 200 || unproven + 4 < round)
                {
                    if status == 200 {
                        self.served(unproven, &json.to_string());
                    }
                    unproven += 1;
                }
            }
            thread::sleep(SAMPLE_INTERVAL);
        }
    }

    /// A server has served this proof, which must be that of all others.
    #[track_caller]
    fn served(&self, round: u64, proof: &str) {
        let mut proofs = self.proofs.lock().unwrap();
        let first = proofs.entry(round).or_insert_with(|| proof.to_owned());
        assert_eq!(*first, proof, "round {round} has two proofs");
    }

    /// Keeps asking the database how long the shared logs are.
    fn sample_database(&self) {
        const LOGS: &str = "SELECT round, entries << subtree_height, worker
                            FROM poet.logs JOIN poet.rounds USING (round) WHERE entries > 0";
        while !self.ended() {
            let at = Instant::now();
            let database = self.database.lock().unwrap().clone();
            let rows = database.try_sql("poet", LOGS).stdout;
            for row in String::from_utf8(rows).unwrap().lines() {
                let fields: Vec<_> = row.split('|').collect();
                let worker =
                    (0..WORKERS.len()).find(|one| fields[2].ends_with(&format!(":{}", port(*one))));
                self.sampled(Sample {
                    at,
                    round: fields[0].parse().unwrap(),
                    leaves: fields[1].parse().unwrap(),
                    of: Who::Database,
                    worker,
                });
            }
            thread::sleep(SAMPLE_INTERVAL);
        }
    }

    /// Notes that a server is going to be killed, if it works.
    fn killing(&self, server: usize) {
        let samples = self.samples.lock().unwrap();
        let newest = samples.iter().rfind(|sample| sample.of == Who::Database);
        let Some(newest) = newest else { return };
        let at = Instant::now();
        let (_, end) = self.works(newest.round);
        if newest.worker == Some(server)
            && newest.at + Duration::from_secs(1) > at
            && at + HAND_IN < end
        {
            let round = newest.round;
            self.killed
                .lock()
                .unwrap()
                .push(KilledWorker { at, round, server });
        }
    }

    /// How long it took until another server had made entries, for those that were killed while the
    /// database and another server were undisturbed, and did not come back before.
    fn takeovers(&self) -> Vec<Duration> {
        let samples = self.samples.lock().unwrap();
        let killed = self.killed.lock().unwrap();
        let took = killed.iter().filter_map(|killed| {
            let mut later = samples.iter().filter(|sample| {
                sample.of == Who::Database && sample.round == killed.round && sample.at > killed.at
            });
            let next = later.find(|sample| sample.worker != Some(killed.server))?;
            let calm = |who| self.calm(who, killed.at - HAND_IN, next.at);
            let another = (0..WORKERS.len())
                .any(|server| server != killed.server && calm(Who::Server(server)));
            let away = self.away(killed.server, killed.at, next.at);
            (calm(Who::Database) && another && away).then(|| next.at - killed.at)
        });
        let mut took: Vec<_> = took.collect();
        took.sort();
        took
    }

    /// Whether one fault of a server lasted for all this time.
    fn away(&self, server: usize, from: Instant, to: Instant) -> bool {
        let faults = self.faults.lock().unwrap();
        let covers = |fault: &Fault| {
            fault.who == Who::Server(server)
                && fault.from <= from
                && fault.to.is_none_or(|ended| ended >= to)
        };
        faults.iter().any(covers)
    }
}

fn port(server: usize) -> u16 {
    8081 + u16::try_from(server).unwrap()
}

/// Runs a script, which must succeed.
#[track_caller]
fn sh(script: &str) {
    let done = Command::new("sh").args(["-ec", script]).output().unwrap();
    assert!(done.status.success(), "{script}: {done:?}");
}

/// Makes a network namespace with one link, to this one, that forwards. Returns where a server listens there.
fn network(number: usize) -> Network {
    let (name, net) = (format!("m{number}"), format!("10.213.{number}"));
    sh(&format!(
        "ip netns add {name}
         ip link add {name} type veth peer name eth0 netns {name}
         ip addr add {net}.1/24 dev {name}
         ip link set {name} up
         ip -n {name} addr add {net}.2/24 dev eth0
         ip -n {name} link set lo up
         ip -n {name} link set eth0 up
         ip -n {name} route add default via {net}.1"
    ));
    Network {
        namespace: Some(format!("/run/netns/{name}").into()),
        address: format!("{net}.2"),
    }
}

/// The networks of databases: 8 to 15.
const DATABASES: &str = "10.213.8.0/21";

/// Changes what is forwarded between a server and the databases.
fn rules(change: &str, server: usize, what: What) {
    let net = format!("10.213.{}.0/24", server + 1);
    let to = format!("ip rule {change} from {net} to {DATABASES} blackhole\n");
    let from = format!("ip rule {change} from {DATABASES} to {net} blackhole\n");
    match what {
        What::CutToDatabase => sh(&to),
        What::CutFromDatabase => sh(&from),
        _ => sh(&(to + &from)),
    }
}

/// Deals one after the other, in random order, until all were dealt.
struct Deck(Vec<What>, Vec<What>);

impl Deck {
    fn new(all: &[What]) -> Self {
        Self(all.to_vec(), Vec::new())
    }

    fn deal(&mut self, rng: &mut Rng) -> What {
        if self.1.is_empty() {
            self.1.clone_from(&self.0);
        }
        let place = rng.below(self.1.len() as u32) as usize;
        self.1.swap_remove(place)
    }
}

/// A machine with a server, which is started again whenever it ends.
struct Machine<'a> {
    storm: &'a Storm,
    server: usize,
    namespace: PathBuf,
    child: Option<Child>,
    processes: u32,
}

impl Machine<'_> {
    fn folder(&self) -> PathBuf {
        self.storm.folder.join(self.server.to_string())
    }

    fn log(&self) -> PathBuf {
        self.folder().join(format!("log-{}.txt", self.processes))
    }

    fn spawn(&mut self) {
        self.processes += 1;
        fs::create_dir_all(self.folder()).unwrap();
        let child = command_in(&self.namespace, &self.folder())
            .arg(format!("--restlisten=0.0.0.0:{}", port(self.server)))
            .arg(format!("--worker={}", WORKERS[self.server]))
            .args(&self.storm.options)
            .env("PGPASSWORD", PASSWORD)
            .stdout(Stdio::null())
            .stderr(File::create(self.log()).unwrap())
            .spawn();
        self.child = Some(child.unwrap());
    }

    fn send(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    /// Starts it again if it could not start, since the database was away.
    fn watch(&mut self) {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait().unwrap()
        {
            let log = fs::read_to_string(self.log()).unwrap();
            assert!(
                !log.contains(" open for registration "),
                "{status} in the middle: {log}"
            );
            self.look_at_log();
            self.spawn();
        }
    }

    fn wait(&mut self, time: Duration) {
        let start = Instant::now();
        while start.elapsed() < time && !self.storm.ended() {
            thread::sleep(Duration::from_millis(50));
            self.watch();
        }
    }

    fn await_ready(&mut self) {
        let agent = agent(PATIENCE);
        let url = format!("{}/readyz", Storm::url(self.server));
        await_some("a server that is ready", || {
            self.watch();
            let (status, _) = answer(agent.get(&url).call())?;
            (status == 200).then_some(())
        });
    }

    fn kill(&mut self) {
        self.send(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        self.look_at_log();
    }

    fn look_at_log(&self) {
        let log = fs::read_to_string(self.log()).unwrap();
        assert!(!log.contains("panicked"), "{log}");
        // That the database is away at the end of a round is the storm's doing.
        let expected = |line: &str| line.contains("will be tried again from its log");
        let alarms = log
            .lines()
            .filter(|line| line.contains("ALARM") && !expected(line));
        let said = alarms.map(|line| format!("{}: {line}", self.server));
        self.storm.alarms.lock().unwrap().extend(said);
    }

    /// One fault after the other.
    fn weather(&mut self, mut rng: Rng) {
        let _end = EndOnPanic(self.storm);
        let mut deck = Deck::new(&What::OF_SERVERS);
        loop {
            self.wait(millis(&mut rng, 1000, 9000));
            if self.storm.ended() {
                return;
            }
            let what = deck.deal(&mut rng);
            let long = match rng.below(3) {
                0 => millis(&mut rng, 0, 500),
                _ => millis(&mut rng, 500, 6000),
            };
            self.storm
                .fault(what, Who::Server(self.server), || match what {
                    What::Kill | What::LoseDisk => {
                        self.storm.killing(self.server);
                        self.kill();
                        if what == What::LoseDisk {
                            fs::remove_dir_all(self.folder().join("data")).unwrap_or_default();
                        }
                        thread::sleep(long);
                        self.spawn();
                        self.await_ready();
                    }
                    What::Pause => {
                        self.send(Signal::STOP);
                        thread::sleep(long);
                        self.send(Signal::CONT);
                    }
                    _ => {
                        rules("add", self.server, what);
                        self.wait(long);
                        rules("del", self.server, what);
                    }
                });
        }
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // A storm that failed must not leave its servers behind; one that ended is no error.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A database and its synchronous replica.
struct Databases<'a> {
    storm: &'a Storm,
    primary: PostgresServer,
    replica: PostgresServer,
}

impl Databases<'_> {
    fn weather(&mut self, mut rng: Rng) {
        let _end = EndOnPanic(self.storm);
        let mut deck = Deck::new(&What::OF_DATABASES);
        loop {
            let start = Instant::now();
            let calm = millis(&mut rng, 4000, 20_000);
            while start.elapsed() < calm {
                if self.storm.ended() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
            let what = deck.deal(&mut rng);
            let long = millis(&mut rng, 0, 4000);
            self.storm.fault(what, Who::Database, || {
                match what {
                    What::KillDatabase => {
                        self.primary.kill();
                        thread::sleep(long);
                        self.primary.run();
                    }
                    What::PauseReplica => {
                        self.replica.signal("STOP");
                        thread::sleep(long);
                        self.replica.signal("CONT");
                    }
                    _ => self.fail_over(long),
                }
                await_synchronous(&self.primary);
            });
        }
    }

    /// The replica, which has all that was acknowledged, takes over, and gets a replica in the other's place.
    fn fail_over(&mut self, long: Duration) {
        self.primary.kill();
        thread::sleep(long);
        assert_eq!(self.replica.sql("postgres", "SELECT pg_promote()"), "t");
        *self.storm.database.lock().unwrap() = self.replica.psql();
        let replica = self
            .replica
            .replica_on(self.primary.network().clone(), Some(self.primary.port()));
        let promoted = std::mem::replace(&mut self.replica, replica);
        self.primary = promoted;
    }
}

fn await_synchronous(primary: &PostgresServer) {
    let replicas = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    await_some("the replica", || {
        (primary.sql("postgres", replicas) == "1").then_some(())
    });
}

/// What proofs must have, and what the storm says of itself.
struct Outcome {
    /// Leaves of each round's proof.
    leaves: BTreeMap<u64, u64>,
    missing: usize,
    acknowledged: usize,
}

impl Storm {
    /// Fetches and verifies every proof from every server.
    fn proofs(&self) -> Outcome {
        let registrations = self.registrations.lock().unwrap();
        let last = *registrations.acknowledged.keys().last().unwrap();
        let clients: Vec<_> = (0..WORKERS.len())
            .map(|server| Client::new(&Self::url(server)))
            .collect();
        let mut outcome = Outcome {
            leaves: BTreeMap::new(),
            missing: 0,
            acknowledged: 0,
        };
        for round in 0..=last {
            let acknowledged = registrations.acknowledged.get(&round);
            if clients[0].get(&format!("/v1/rounds/{round}")).status == 404 {
                assert!(acknowledged.is_none(), "round {round} is forgotten");
                continue;
            }
            for client in &clients {
                let proof = client.await_proof(round).json();
                self.served(round, &proof.to_string());
            }
            let proof = verify_json(&clients[0].await_proof(round).json());
            let ids = registrations.ids(round, &proof.members);
            for node in acknowledged.into_iter().flatten() {
                outcome.acknowledged += 1;
                if ids.binary_search(&node.id()).is_err() {
                    println!("round {round} has not got node {}", hex::encode(node.id()));
                    outcome.missing += 1;
                }
            }
            outcome.leaves.insert(round, proof.leaves);
        }
        outcome
    }

    /// What a proof has not got of what was handed in, or could have been. Returns how many samples count,
    /// too.
    fn lost_work(&self, proven: &BTreeMap<u64, u64>) -> (usize, Vec<String>) {
        let (mut counted, mut lost) = (0, Vec::new());
        for sample in self.samples.lock().unwrap().iter() {
            let Some(proven) = proven.get(&sample.round) else {
                continue;
            };
            let handed_in = sample.at + HAND_IN;
            let counts = match sample.of {
                Who::Database => self.calm(Who::Database, sample.at, handed_in),
                server => [server, Who::Database]
                    .iter()
                    .all(|who| self.calm(*who, sample.at - RECOVERY, handed_in)),
            };
            counted += usize::from(counts);
            if counts && sample.leaves > *proven {
                lost.push(format!("{sample:?}: {proven} leaves are proven"));
            }
        }
        (counted, lost)
    }

    /// The time in which no server made a new leaf of a round, where it was longer than a second.
    fn standstills(&self, round: u64) -> Vec<(Instant, Instant)> {
        let (start, end) = self.works(round);
        let samples = self.samples.lock().unwrap();
        let of_round = samples
            .iter()
            .filter(|sample| sample.round == round && sample.at < end);
        let mut of_round: Vec<_> = of_round.map(|sample| (sample.at, sample.leaves)).collect();
        of_round.sort_unstable();
        let (mut since, mut leaves) = (start, 0);
        let mut found = Vec::new();
        let mut grown = |at, since| {
            if at > since + Duration::from_secs(1) {
                found.push((since, at));
            }
        };
        for (at, more) in of_round {
            if more > leaves {
                grown(at, since);
                (since, leaves) = (at, more);
            }
        }
        grown(end, since);
        found
    }

    /// Whether somebody could have worked for a part of this time that is too long.
    fn unexplained(&self, from: Instant, to: Instant) -> bool {
        let mut start = from;
        while start + STANDSTILL < to {
            let calm = |who| self.calm(who, start - RECOVERY, start + STANDSTILL);
            let somebody = (0..WORKERS.len()).any(|server| calm(Who::Server(server)));
            if calm(Who::Database) && somebody {
                return true;
            }
            start += Duration::from_millis(100);
        }
        false
    }

    /// Says what there was, and checks that it is as it must be.
    fn report(&self, outcome: &Outcome) {
        let mut counts = BTreeMap::<What, usize>::new();
        for fault in self.faults.lock().unwrap().iter() {
            *counts.entry(fault.what).or_default() += 1;
        }
        println!("faults: {counts:?}");
        let Outcome {
            acknowledged,
            missing,
            leaves,
        } = outcome;
        println!("registrations: {acknowledged} acknowledged, {missing} missing");
        let total: u64 = leaves.values().sum();
        let ticks = |leaves: f64| leaves / TICK_LEAVES as f64;
        println!(
            "rounds: {}, each with one valid proof; {:.2} ticks in all",
            leaves.len(),
            ticks(total as f64)
        );
        let took = self.takeovers();
        if let (Some(median), Some(worst)) = (took.get(took.len() / 2), took.last()) {
            println!(
                "from SIGKILL of the worker to the first entries of another: median {:.1} s, worst {:.1} s \
                 ({} measured)",
                median.as_secs_f64(),
                worst.as_secs_f64(),
                took.len()
            );
        }
        let (mut worked, mut stood, mut unexplained) = (Duration::ZERO, Duration::ZERO, Vec::new());
        // Those that were over before the storm.
        let sampled = leaves.keys().filter(|round| {
            let (_, end) = self.works(**round);
            let samples = self.samples.lock().unwrap();
            samples.last().is_some_and(|last| last.at > end)
        });
        for round in sampled {
            worked += EPOCH - GAP;
            for (from, to) in self.standstills(*round) {
                stood += to - from;
                if self.unexplained(from, to) {
                    unexplained.push((*round, from - self.works(*round).0, to - from));
                }
            }
        }
        let rate = total as f64 / (worked.saturating_sub(stood)).as_secs_f64().max(1.0);
        println!(
            "the work stood still for {:.1} s of {:.0} s: {:.4} ticks lost",
            stood.as_secs_f64(),
            worked.as_secs_f64(),
            ticks(rate * stood.as_secs_f64())
        );
        let (counted, lost) = self.lost_work(leaves);
        println!("{counted} samples of work that must be in the proofs");
        let alarms = self.alarms.lock().unwrap();
        for alarm in &*alarms {
            println!("{alarm}");
        }
        assert_eq!(*missing, 0);
        assert!(lost.is_empty(), "{} of {counted}: {lost:#?}", lost.len());
        assert!(unexplained.is_empty(), "nobody worked: {unexplained:?}");
        assert!(alarms.is_empty());
        assert!(*acknowledged > 0 && counted > 0);
        for what in What::OF_SERVERS.into_iter().chain(What::OF_DATABASES) {
            assert!(counts.contains_key(&what), "no {what:?}: {counts:?}");
        }
    }
}

#[test]
fn a_storm_over_several_machines_loses_nothing() {
    if env::var_os(INSIDE).is_some() {
        return storm_in_namespaces();
    }
    if database::programs().is_none() {
        // Says so, and whether it must be there.
        assert!(PostgresServer::start().is_none());
        return;
    }
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-ec", script])
            .stdin(Stdio::null());
        command
    };
    // Nothing of it is seen outside, and all of it goes with the first process.
    let setup = "mkdir -p /run/netns
        mount -t tmpfs none /run/netns
        echo 1 >/proc/sys/net/ipv4/ip_forward
        ip link set lo up\n";
    let may = unshare(&format!(
        "{setup} ip netns add m1
         ip link add m1 type veth peer name eth0 netns m1
         ip rule add from 10.213.1.0/24 to {DATABASES} blackhole"
    ));
    let reason = match { may }.output() {
        Ok(made) if made.status.success() => None,
        Ok(made) => Some(String::from_utf8_lossy(&made.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = reason {
        return skip(format_args!(
            "no network namespaces can be made here (root and iproute2): {reason}"
        ));
    }
    // The shell stays, and takes care of processes whose parents were killed.
    let status = unshare(&format!("{setup} \"$0\" \"$@\"; exit $?"))
        .arg(env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

fn storm_in_namespaces() {
    let seconds = Duration::from_secs(setting("POET_STORM_SECONDS", DEFAULT_SECONDS));
    let mut rng = Rng::new(seed());
    let networks: Vec<_> = (1..=WORKERS.len()).map(network).collect();
    let places = [network(8), network(9)];
    let folder = tempfile::tempdir().unwrap();
    let programs = database::programs().unwrap();
    let primary =
        PostgresServer::start_on(programs, tempfile::tempdir().unwrap(), places[0].clone());
    primary.database("poet");
    // Before there is a replica, which takes it over.
    let synchronous = "ALTER SYSTEM SET synchronous_standby_names = '*'";
    primary.sql("postgres", synchronous);
    primary.sql("postgres", "SELECT pg_reload_conf()");
    let replica = primary.replica_on(places[1].clone(), None);
    await_synchronous(&primary);

    let genesis = Timestamp::now();
    let storm = Storm {
        folder: folder.path().to_owned(),
        options: vec![
            format!("--genesis-time={genesis}"),
            format!("--epoch-duration={}s", EPOCH.as_secs()),
            format!("--phase-shift={}s", SHIFT.as_secs()),
            format!("--cycle-gap={}s", GAP.as_secs()),
            "--takeover-after=500ms".to_owned(),
            "--pow-difficulty=1".to_owned(),
            "--no-trial".to_owned(),
            format!(
                "--database=postgres://poet@{}:{},{}:{}/poet",
                places[0].address,
                primary.port(),
                places[1].address,
                replica.port()
            ),
        ],
        start: Instant::now() + SHIFT,
        ended: AtomicBool::new(false),
        next_node: AtomicU32::new(1),
        registrations: Mutex::default(),
        database: Mutex::new(primary.psql()),
        faults: Mutex::default(),
        samples: Mutex::default(),
        killed: Mutex::default(),
        proofs: Mutex::default(),
        alarms: Mutex::default(),
    };
    let storm = &storm;
    let mut databases = Databases {
        storm,
        primary,
        replica,
    };
    let mut machines: Vec<_> = networks
        .iter()
        .enumerate()
        .map(|(server, network)| Machine {
            storm,
            server,
            namespace: network.namespace.clone().unwrap(),
            child: None,
            processes: 0,
        })
        .collect();
    for machine in &mut machines {
        machine.spawn();
    }
    for machine in &mut machines {
        machine.await_ready();
    }
    let mut chance = || Rng::new(rng.next_u64());
    thread::scope(|scope| {
        for machine in &mut machines {
            let rng = chance();
            scope.spawn(move || machine.weather(rng));
        }
        let rng = chance();
        scope.spawn(|| databases.weather(rng));
        for server in 0..WORKERS.len() {
            scope.spawn(move || {
                let _end = EndOnPanic(storm);
                storm.sample(server);
            });
        }
        scope.spawn(|| storm.sample_database());
        for _ in 0..REGISTRARS {
            let rng = chance();
            scope.spawn(move || {
                let _end = EndOnPanic(storm);
                storm.register(rng);
            });
        }
        let start = Instant::now();
        while start.elapsed() < seconds && !storm.ended() {
            thread::sleep(Duration::from_millis(100));
        }
        storm.ended.store(true, Relaxed);
    });
    for machine in &mut machines {
        machine.await_ready();
    }
    let outcome = storm.proofs();
    for machine in &mut machines {
        machine.send(Signal::TERM);
        let ended = machine.child.take().unwrap().wait().unwrap();
        assert_eq!(ended.code(), Some(0));
        machine.look_at_log();
    }
    storm.report(&outcome);
}
