//! A storm: the program is killed again and again at random moments while nodes register and short
//! rounds start and end. In the end every round must have a valid proof that contains every
//! acknowledged member.
//!
//! Moments are random and aimed: around the start and the end of rounds, and right after the server
//! has logged that it closes, proves or publishes one, so that each kind is hit.
//!
//! The environment sets the length of the storm and its seed:
//!
//! ```sh
//! POET_STORM_KILLS=400 POET_STORM_SEED=7 \
//!     cargo test --release -p poet-service --test kill_storm -- --nocapture --test-threads=1
//! ```
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/storm.rs"]
mod storm;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{Client, TestNode, await_some, verify_json};
use jiff::{SignedDuration, Timestamp};
use poet_conformance::Rng;
use poet_engine::LogHeader;
use program::command;
use rustix::process::{Pid, Signal, kill_process};
use storm::{Registrations, agent, answer, between, millis, seed, setting, submit};

/// Kills in CI: about a minute.
const DEFAULT_KILLS: u32 = 40;

const EPOCH: Duration = Duration::from_secs(2);
const GAP: Duration = Duration::from_millis(600);
/// The schedule of the storm: a round every two seconds, 1.4 of them work, with a proof after one.
const SHORT_ROUNDS: [&str; 4] = [
    "--epoch-duration=2s",
    "--phase-shift=1s",
    "--cycle-gap=600ms",
    "--early-cycle-gap=1s",
];
/// The path of the proofs for the longer cycle gap.
const EARLY_PATH: &str = "/gap/1s";
/// A round that does not end: its log contains the subtrees of a mainnet round.
const LONG_ROUND: [&str; 3] = [
    "--epoch-duration=336h",
    "--phase-shift=500ms",
    "--cycle-gap=12h",
];

const REGISTRARS: usize = 2;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often to request the leaves of a round.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// How old the newest sample may be to show how much work there was at a kill.
const MAX_SAMPLE_AGE: Duration = Duration::from_millis(300);
/// How many more kills to aim at the kinds of moments that were not hit by then.
const FURTHER_KILLS: u32 = 60;

fn kills() -> u32 {
    setting("POET_STORM_KILLS", DEFAULT_KILLS)
}

/// What a server was doing when it was killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Starting,
    Open,
    Closing,
    Executing,
    ProvingEarly,
    Proving,
    Publishing,
}

impl Moment {
    const ALL: [Self; 7] = [
        Self::Starting,
        Self::Open,
        Self::Closing,
        Self::Executing,
        Self::ProvingEarly,
        Self::Proving,
        Self::Publishing,
    ];
}

/// An event in the log of a server.
enum Event {
    Opened,
    Closed,
    Working { round: u64, leaves: u64 },
    EarlyEnd,
    PublishedEarly,
    Proving,
    Publishing,
    Published { round: u64 },
}

impl Event {
    fn parse(line: &str) -> Option<Self> {
        let number = |name: &str| -> Option<u64> {
            let (_, rest) = line.split_once(&format!(" {name}="))?;
            rest.split(' ').next()?.parse().ok()
        };
        let says = |text: &str| line.contains(text);
        if says(" open for registration ") {
            Some(Self::Opened)
        } else if says(" closed ") {
            Some(Self::Closed)
        } else if says(" working ") {
            Some(Self::Working {
                round: number("round")?,
                leaves: number("leaves")?,
            })
        } else if says(" an early end has come, proving ") {
            Some(Self::EarlyEnd)
        } else if says(" the early proof is verified and published ") {
            Some(Self::PublishedEarly)
        } else if says(" work done, proving ") {
            Some(Self::Proving)
        } else if says(" the proof is valid, publishing ") {
            Some(Self::Publishing)
        } else if says(" the proof is verified and published ") {
            let round = number("round")?;
            Some(Self::Published { round })
        } else {
            None
        }
    }
}

/// The leaves of a round at a moment.
#[derive(Clone, Copy)]
struct Sample {
    round: u64,
    leaves: f64,
    leaves_per_second: f64,
    at: Instant,
}

/// What the threads of a storm share.
#[derive(Default)]
struct Shared {
    /// The address of the server, while there is one.
    url: Mutex<Option<String>>,
    ended: AtomicBool,
    next_node: AtomicU32,
    registrations: Mutex<Registrations>,
    sample: Mutex<Option<Sample>>,
}

impl Shared {
    fn url(&self) -> Option<String> {
        self.url.lock().unwrap().clone()
    }

    /// Registers new nodes, each until a server acknowledges it.
    fn register(&self) {
        let agent = agent(PATIENCE);
        while !self.ended.load(Relaxed) {
            let node = TestNode::new(self.next_node.fetch_add(1, Relaxed));
            let mut registrations = self.registrations.lock().unwrap();
            registrations.sent.insert(node.challenge, node.id());
            drop(registrations);
            while !self.ended.load(Relaxed) {
                let Some(round) = self.url().and_then(|url| submit(&agent, &url, &node)) else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let mut registrations = self.registrations.lock().unwrap();
                let members = registrations.acknowledged.entry(round).or_default();
                members.push(node);
                break;
            }
            thread::sleep(Duration::from_millis(3));
        }
    }

    /// Keeps requesting the progress of the work.
    fn sample(&self, executing: impl Fn() -> Option<u64>) {
        let agent = agent(PATIENCE);
        while !self.ended.load(Relaxed) {
            let sample = || {
                let (url, round) = (self.url()?, executing()?);
                let at = Instant::now();
                let path = format!("{url}/v1/rounds/{round}");
                let (_, json) = answer(agent.get(&path).call())?;
                Some(Sample {
                    round,
                    leaves: json["leaves"].as_str()?.parse().ok()?,
                    leaves_per_second: json["leavesPerSecond"].as_f64()?,
                    at,
                })
            };
            if let Some(sample) = sample() {
                *self.sample.lock().unwrap() = Some(sample);
            }
            thread::sleep(SAMPLE_INTERVAL);
        }
    }
}

/// A server that is going to be killed.
struct Victim {
    child: Child,
    log: PathBuf,
    folder: PathBuf,
    /// Set when it serves.
    serves: Arc<AtomicBool>,
}

impl Victim {
    fn spawn(folder: &Path, schedule: &[String], log: PathBuf, shared: &Arc<Shared>) -> Self {
        let mut child = command(folder)
            .args(["--restlisten=127.0.0.1:0", "--no-trial", "--debuglog"])
            .args(schedule)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let serves = Arc::new(AtomicBool::new(false));
        let output = BufReader::new(child.stdout.take().unwrap());
        thread::spawn({
            let (shared, serves) = (Arc::clone(shared), Arc::clone(&serves));
            move || {
                for line in output.lines().map_while(Result::ok) {
                    if let Some(url) = line.strip_prefix("REST") {
                        *shared.url.lock().unwrap() = Some(url.trim().to_owned());
                        serves.store(true, Relaxed);
                    }
                }
            }
        });
        Self {
            child,
            log,
            folder: folder.to_owned(),
            serves,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn events(&self) -> Vec<Event> {
        self.log().lines().filter_map(Event::parse).collect()
    }

    /// Returns the leaves from which the work on `round` continued, if it did.
    fn resumed(&self, round: u64) -> Option<u64> {
        self.events().iter().find_map(|event| match event {
            Event::Working { round: on, leaves } if *on == round => Some(*leaves),
            _ => None,
        })
    }

    #[track_caller]
    fn await_serving(&mut self) {
        await_some("the start of a server", || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{status}: {}", self.log());
            }
            self.serves.load(Relaxed).then_some(())
        });
    }

    fn send(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).unwrap();
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        self.send(signal);
        self.child.wait().unwrap()
    }

    /// Returns what it was doing when it was killed.
    fn moment(&self, past_start: bool) -> Moment {
        if !self.serves.load(Relaxed) {
            return Moment::Starting;
        }
        let mut moment = Moment::Open;
        // The start opens the first round.
        for event in self.events().iter().skip(1) {
            moment = match event {
                Event::Opened | Event::Closed => Moment::Closing,
                Event::Working { .. } | Event::PublishedEarly => Moment::Executing,
                Event::EarlyEnd => Moment::ProvingEarly,
                Event::Proving => Moment::Proving,
                Event::Publishing => Moment::Publishing,
                Event::Published { round } if tree_log(&self.folder, *round).exists() => {
                    Moment::Publishing
                }
                Event::Published { .. } => Moment::Open,
            }
        }
        match moment {
            Moment::Open if past_start => Moment::Closing,
            _ => moment,
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // A failed storm must not leave its server running. It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn tree_log(folder: &Path, round: u64) -> PathBuf {
    folder.join(format!("data/rounds/{round}/tree.log"))
}

/// The moment of a kill.
#[derive(Clone, Copy, Debug)]
enum Aim {
    /// This long after the process was started, whether or not it serves by then.
    AtStart(Duration),
    /// This long after it serves.
    Random(Duration),
    /// This many milliseconds after, or before, the start of the next round.
    RoundStart(i64),
    /// This many milliseconds after, or before, the end of the next round.
    RoundEnd(i64),
    /// This long after it logs that it is doing this.
    Saying(Moment, Duration),
}

impl Aim {
    fn choose(rng: &mut Rng) -> Self {
        match rng.below(11) {
            0 => Self::AtStart(millis(rng, 0, 60)),
            1..=3 => Self::Random(millis(rng, 0, 1500)),
            4 => Self::RoundStart(between(rng, -10, 60)),
            5 => Self::RoundEnd(between(rng, -10, 150)),
            6 | 7 => Self::at(Moment::Closing, rng),
            8 => Self::at(Moment::Proving, rng),
            9 => Self::at(Moment::ProvingEarly, rng),
            _ => Self::at(Moment::Publishing, rng),
        }
    }

    /// Chooses a moment.
    fn at(moment: Moment, rng: &mut Rng) -> Self {
        match moment {
            Moment::Starting => Self::AtStart(millis(rng, 0, 20)),
            Moment::Open => Self::RoundEnd(between(rng, 100, 500)),
            Moment::Executing => Self::RoundEnd(between(rng, -1000, -100)),
            // On a fast disk it is over before its lines can be read.
            Moment::Closing if rng.below(4) > 0 => Self::RoundStart(between(rng, 0, 20)),
            Moment::Closing | Moment::ProvingEarly | Moment::Proving | Moment::Publishing => {
                // They take some milliseconds.
                Self::Saying(moment, Duration::from_micros(rng.below(2000).into()))
            }
        }
    }
}

/// How a server is ended.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// By SIGKILL.
    Kill,
    /// By SIGTERM, as a service manager does.
    Terminate,
    /// By SIGKILL, after it was suspended and resumed.
    Stall(Duration, Duration),
}

impl Blow {
    fn choose(rng: &mut Rng) -> Self {
        match rng.below(8) {
            0 => Self::Terminate,
            1 => Self::Stall(millis(rng, 20, 700), millis(rng, 0, 200)),
            _ => Self::Kill,
        }
    }
}

/// The work done when a server was killed.
struct Interrupted {
    round: u64,
    leaves: f64,
    leaves_per_second: f64,
}

/// A storm and its results.
struct Storm {
    folder: PathBuf,
    genesis: Timestamp,
    options: Vec<String>,
    shared: Arc<Shared>,
    processes: u32,
    /// The work that was not resumed yet.
    interrupted: Option<Interrupted>,
    /// Milliseconds of work that each SIGKILL lost.
    lost_ms: Vec<f64>,
    hits: BTreeMap<Moment, u32>,
}

impl Storm {
    fn new(folder: &Path, schedule: &[&str]) -> Self {
        let genesis = Timestamp::now();
        let mut options = vec![format!("--genesis-time={genesis}")];
        options.extend(schedule.iter().map(|option| (*option).to_owned()));
        Self {
            folder: folder.to_owned(),
            genesis,
            options,
            shared: Arc::default(),
            processes: 0,
            interrupted: None,
            lost_ms: Vec::new(),
            hits: BTreeMap::new(),
        }
    }

    fn spawn(&mut self) -> Victim {
        self.processes += 1;
        let log = self.folder.join(format!("log-{}.txt", self.processes));
        Victim::spawn(&self.folder, &self.options, log, &self.shared)
    }

    /// Returns the next future start of a round, moved by `offset_ms`.
    fn next_start(&self, offset_ms: i64) -> Timestamp {
        let first = self.genesis + SignedDuration::from_millis(1000 + offset_ms);
        let passed = Timestamp::now().duration_since(first).as_secs_f64();
        let epochs = (passed / EPOCH.as_secs_f64()).floor().max(-1.0) + 1.0;
        first + SignedDuration::try_from(EPOCH.mul_f64(epochs)).unwrap()
    }

    /// Waits for the chosen moment.
    fn wait(&mut self, victim: &mut Victim, aim: Aim) {
        let wait_until = |time: Timestamp| {
            if let Ok(left) = Duration::try_from(time.duration_since(Timestamp::now())) {
                thread::sleep(left);
            }
        };
        if let Aim::AtStart(delay) = aim {
            thread::sleep(delay);
            return;
        }
        victim.await_serving();
        match aim {
            Aim::AtStart(delay) | Aim::Random(delay) => thread::sleep(delay),
            Aim::RoundStart(offset_ms) => wait_until(self.next_start(offset_ms)),
            Aim::RoundEnd(offset_ms) => {
                let work_ms = i64::try_from((EPOCH - GAP).as_millis()).unwrap();
                wait_until(self.next_start(work_ms + offset_ms));
            }
            Aim::Saying(moment, delay) => {
                let said = |victim: &Victim| {
                    let events = victim.events();
                    let aimed_at = events.iter().skip(1).filter(|event| {
                        matches!(
                            (moment, event),
                            (Moment::Closing, Event::Opened | Event::Closed)
                                | (Moment::ProvingEarly, Event::EarlyEnd)
                                | (Moment::Proving, Event::Proving)
                                | (Moment::Publishing, Event::Publishing)
                        )
                    });
                    aimed_at.count()
                };
                let before = said(victim);
                let start = Instant::now();
                // Two epochs suffice for everything; if not, another moment is as good.
                while said(victim) == before && start.elapsed() < EPOCH * 2 {
                    thread::sleep(Duration::from_micros(200));
                }
                thread::sleep(delay);
            }
        }
    }

    /// Ends a server, and records the work done by then.
    fn strike(&mut self, mut victim: Victim, blow: Blow) {
        let starting = !victim.serves.load(Relaxed);
        if let Blow::Stall(still, going) = blow {
            victim.send(Signal::STOP);
            thread::sleep(still);
            victim.send(Signal::CONT);
            thread::sleep(going);
        }
        let sample = self.shared.sample.lock().unwrap().take();
        *self.shared.url.lock().unwrap() = None;
        let past_start = self.next_start(0) > self.next_start(200);
        let killed = Instant::now();
        let status = match blow {
            Blow::Terminate => victim.end(Signal::TERM),
            Blow::Kill | Blow::Stall(..) => victim.end(Signal::KILL),
        };
        if let Blow::Terminate = blow {
            assert!(
                starting || status.code() == Some(0),
                "{status}: {}",
                victim.log()
            );
        }
        let log = victim.log();
        assert!(!log.contains("panicked") && !log.contains("ALARM"), "{log}");
        self.measure(&victim);
        let moment = victim.moment(past_start);
        *self.hits.entry(moment).or_default() += 1;
        if let (Blow::Kill, Moment::Executing, Some(sample)) = (blow, moment, sample)
            && killed - sample.at < MAX_SAMPLE_AGE
            && sample.leaves_per_second > 1.0
        {
            let since = (killed - sample.at).as_secs_f64();
            self.interrupted = Some(Interrupted {
                round: sample.round,
                leaves: sample.leaves + since * sample.leaves_per_second,
                leaves_per_second: sample.leaves_per_second,
            });
        }
    }

    /// Records how much of the interrupted work a later server had to repeat.
    fn measure(&mut self, victim: &Victim) {
        if let Some(Interrupted {
            round,
            leaves,
            leaves_per_second,
        }) = self.interrupted
            && let Some(resumed) = victim.resumed(round)
        {
            let lost = (leaves - resumed as f64) / leaves_per_second;
            self.lost_ms.push((lost * 1000.0).max(0.0));
            self.interrupted = None;
        }
    }

    /// Checks every round that was ever open, and every registration.
    fn check(&mut self, victim: &mut Victim) {
        victim.await_serving();
        let client = Client::new(&self.shared.url().unwrap());
        let registrations = self.shared.registrations.lock().unwrap();
        let last = *registrations.acknowledged.keys().last().unwrap();
        let (mut proofs, mut members) = (0, 0);
        for round in 0..=last {
            let acknowledged = registrations.acknowledged.get(&round);
            if client.get(&format!("/v1/rounds/{round}")).status == 404 {
                assert!(acknowledged.is_none(), "round {round} is forgotten");
                continue;
            }
            let proof = verify_json(&client.await_proof(round).json());
            let early = client.get(&format!("{EARLY_PATH}/v1/proofs/{round}"));
            let early = verify_json(&early.json());
            assert_eq!(early.members, proof.members, "round {round}");
            assert!(early.leaves <= proof.leaves, "round {round}");
            let ids = registrations.ids(round, &proof.members);
            for node in acknowledged.into_iter().flatten() {
                assert!(
                    ids.binary_search(&node.id()).is_ok(),
                    "an acknowledged member of round {round} is not in its proof"
                );
                members += 1;
            }
            proofs += 1;
        }
        println!("{proofs} proofs are valid, with all of {members} acknowledged members");
        assert!(proofs > 0 && members > 0);
    }

    fn report(&mut self) {
        let total: u32 = self.hits.values().sum();
        let hits = self.hits.iter();
        let hits: Vec<_> = hits
            .map(|(moment, count)| format!("{moment:?} {count}"))
            .collect();
        println!("{total} kills: {}", hits.join(", ").to_lowercase());
        self.lost_ms.sort_by(f64::total_cmp);
        let (Some(median), Some(worst)) = (
            self.lost_ms.get(self.lost_ms.len() / 2),
            self.lost_ms.last(),
        ) else {
            panic!("no kill showed how much work it costs")
        };
        println!(
            "work lost by a SIGKILL: median {median:.0} ms, worst {worst:.0} ms ({} measured)",
            self.lost_ms.len()
        );
        // The promise. The worst case depends on how long the machine keeps the writer from running.
        assert!(
            *median < 1000.0,
            "a SIGKILL costs more than a second of work"
        );
    }
}

#[test]
fn every_round_survives_a_storm_of_kills() {
    let (kills, mut rng) = (kills(), Rng::new(seed()));
    let folder = tempfile::tempdir().unwrap();
    let mut storm = Storm::new(folder.path(), &SHORT_ROUNDS);
    let shared = Arc::clone(&storm.shared);
    let genesis = storm.genesis;
    let executing = || {
        let passed = Timestamp::now().duration_since(genesis).as_secs_f64() - 1.0;
        (passed >= 0.0).then_some((passed / EPOCH.as_secs_f64()) as u64)
    };
    thread::scope(|scope| {
        let _ended = EndOnDrop(&shared);
        for _ in 0..REGISTRARS {
            scope.spawn(|| shared.register());
        }
        scope.spawn(|| shared.sample(executing));
        for kill in 0..kills + FURTHER_KILLS {
            let missing = |moment: &Moment| !storm.hits.contains_key(moment);
            let aim = if kill < kills {
                Aim::choose(&mut rng)
            } else if let Some(moment) = Moment::ALL.into_iter().find(missing) {
                Aim::at(moment, &mut rng)
            } else {
                break;
            };
            let blow = Blow::choose(&mut rng);
            let mut victim = storm.spawn();
            storm.wait(&mut victim, aim);
            storm.strike(victim, blow);
        }
        shared.ended.store(true, Relaxed);
    });
    let mut survivor = storm.spawn();
    storm.check(&mut survivor);
    storm.measure(&survivor);
    storm.report();
    for moment in Moment::ALL {
        assert!(
            storm.hits.contains_key(&moment),
            "no kill while {moment:?}: {:?}",
            storm.hits
        );
    }
    assert_eq!(survivor.end(Signal::TERM).code(), Some(0));
    assert_sound(folder.path());
}

/// The doctor recomputes all of the work and finds no damage.
fn assert_sound(folder: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_poet-service"))
        .args(["doctor", "--full", "--no-trial"])
        .arg(format!("--poetdir={}", folder.display()))
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{report}");
}

#[test]
fn kills_cost_a_long_round_little_work() {
    let (kills, mut rng) = (kills() / 8, Rng::new(seed()));
    let folder = tempfile::tempdir().unwrap();
    let mut storm = Storm::new(folder.path(), &LONG_ROUND);
    let shared = Arc::clone(&storm.shared);
    thread::scope(|scope| {
        let _ended = EndOnDrop(&shared);
        scope.spawn(|| shared.sample(|| Some(0)));
        for _ in 0..kills {
            let mut victim = storm.spawn();
            victim.await_serving();
            await_some("the work", || victim.resumed(0));
            thread::sleep(millis(&mut rng, 300, 1300));
            storm.strike(victim, Blow::Kill);
        }
        shared.ended.store(true, Relaxed);
    });
    let mut survivor = storm.spawn();
    let resumed = await_some("the work", || survivor.resumed(0));
    storm.measure(&survivor);
    storm.report();
    let entries =
        (fs::metadata(tree_log(folder.path(), 0)).unwrap().len() - LogHeader::BYTES as u64) / 32;
    // The log of a mainnet round contains subtrees of 2^12 leaves.
    assert_eq!(resumed % 4096, 0);
    assert!(0 < resumed && resumed <= entries * 4096);
    survivor.end(Signal::KILL);
    assert_sound(folder.path());
}

/// Simulates a power failure, which SIGKILL does not: written data that was not synced survives it.
/// The directories are copied twice while the server is suspended. In a third copy, everything
/// written in between is there or not, sector by sector, and the tree logs end anywhere. It must
/// contain everything that was acknowledged before the first copy.
#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let (cuts, mut rng) = (kills().div_ceil(8), Rng::new(seed()));
    let folder = tempfile::tempdir().unwrap();
    let mut storm = Storm::new(&folder.path().join("original"), &SHORT_ROUNDS);
    fs::create_dir(&storm.folder).unwrap();
    let shared = Arc::clone(&storm.shared);
    thread::scope(|scope| {
        let _ended = EndOnDrop(&shared);
        let mut original = storm.spawn();
        original.await_serving();
        for _ in 0..REGISTRARS {
            scope.spawn(|| shared.register());
        }
        for cut in 0..cuts {
            thread::sleep(millis(&mut rng, 300, 1500));
            let copies =
                ["before", "after", "torn"].map(|name| folder.path().join(format!("{cut}-{name}")));
            original.send(Signal::STOP);
            let acknowledged = shared.registrations.lock().unwrap().acknowledged.clone();
            copy(&storm.folder, &copies[0]);
            original.send(Signal::CONT);
            thread::sleep(millis(&mut rng, 0, 40));
            original.send(Signal::STOP);
            copy(&storm.folder, &copies[1]);
            original.send(Signal::CONT);
            let tree_logs = tear(&copies, &mut rng);
            assert_nothing_is_lost(
                &copies[2],
                &storm.options,
                &acknowledged,
                &tree_logs,
                &shared,
            );
        }
        shared.ended.store(true, Relaxed);
        assert_eq!(original.end(Signal::TERM).code(), Some(0));
    });
    println!("{cuts} power cuts survived");
}

/// Copies the files below a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// The unit in which disks write.
const SECTOR: usize = 512;

/// Makes the third copy from the two others. Returns the number of whole entries in each tree log.
fn tear([before, after, torn]: &[PathBuf; 3], rng: &mut Rng) -> BTreeMap<u64, u64> {
    let read = |folder: &Path, name: &str| fs::read(folder.join("db").join(name)).unwrap();
    fs::create_dir_all(torn.join("db")).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(torn.join("db").join(name), bytes).unwrap();
    let (log, database) = ("poet.sqlite-wal", "poet.sqlite");
    let (log_before, log_after) = (read(before, log), read(after, log));
    write(log, &mix(&log_before, &log_after, rng));
    // The log restarts, with another header, only after the database is synced.
    let synced = log_before.get(..32) != log_after.get(..32);
    let database_after = read(after, database);
    if synced {
        write(database, &database_after);
    } else {
        write(
            database,
            &mix(&read(before, database), &database_after, rng),
        );
    }
    // An index that matches neither version of the log.
    write("poet.sqlite-shm", &read(before, "poet.sqlite-shm"));

    let mut entries = BTreeMap::new();
    let Ok(rounds) = fs::read_dir(after.join("data/rounds")) else {
        return entries;
    };
    for round in rounds {
        let round = round.unwrap().file_name().into_string().unwrap();
        let round = round.parse().unwrap();
        let Ok(log) = fs::read(tree_log(after, round)) else {
            continue;
        };
        let before = fs::metadata(tree_log(before, round)).map_or(0, |metadata| metadata.len());
        // A quarter of a second's entries may not be synced yet.
        let from = usize::try_from(before).unwrap().saturating_sub(1 << 19);
        let length = from + rng.next_u64() as usize % (log.len() - from + 1);
        let path = tree_log(torn, round);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &log[..length]).unwrap();
        let whole = length.saturating_sub(LogHeader::BYTES) / 32;
        entries.insert(round, whole as u64);
    }
    entries
}

/// Takes each sector from one of two versions of a file.
fn mix(before: &[u8], after: &[u8], rng: &mut Rng) -> Vec<u8> {
    let shorter = before.len().min(after.len());
    let longer = before.len().max(after.len());
    let mut mixed = vec![0; shorter + rng.next_u64() as usize % (longer - shorter + 1)];
    for (number, sector) in mixed.chunks_mut(SECTOR).enumerate() {
        let source = if rng.below(2) == 0 { before } else { after };
        let start = number * SECTOR;
        let end = (start + sector.len()).min(source.len());
        if let Some(bytes) = source.get(start..end) {
            sector[..bytes.len()].copy_from_slice(bytes);
        }
    }
    mixed
}

fn assert_nothing_is_lost(
    folder: &Path,
    options: &[String],
    acknowledged: &BTreeMap<u64, Vec<TestNode>>,
    tree_logs: &BTreeMap<u64, u64>,
    shared: &Shared,
) {
    let own = Arc::new(Shared::default());
    let mut server = Victim::spawn(folder, options, folder.join("log.txt"), &own);
    server.await_serving();
    let client = Client::new(&own.url().unwrap());
    for (round, nodes) in acknowledged {
        let proof = verify_json(&client.await_proof(*round).json());
        let registrations = shared.registrations.lock().unwrap();
        let ids = proof
            .members
            .iter()
            .map(|member| registrations.sent[member]);
        let ids: Vec<_> = ids.collect();
        for node in nodes {
            assert!(ids.contains(&node.id()), "round {round}: {}", server.log());
        }
        // It continued from what remained of the log.
        if let (Some(resumed), Some(entries)) = (server.resumed(*round), tree_logs.get(round)) {
            assert_eq!(resumed, *entries, "round {round}: {}", server.log());
        }
    }
    let log = server.log();
    // Here several transactions are torn, as if the disk had ignored syncs: that must be noticed.
    let alarm = |line: &str| line.contains("ALARM") && !line.contains("the database's log");
    assert!(
        !log.contains("panicked") && !log.lines().any(alarm),
        "{log}"
    );
    server.end(Signal::KILL);
}

/// Stops the threads of a storm, even if it failed.
struct EndOnDrop<'a>(&'a Shared);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Relaxed);
    }
}
