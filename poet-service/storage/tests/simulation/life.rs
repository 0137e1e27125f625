//! The life of one world: processes start, are used, crash and start again, until enough rounds are
//! published; then all faults stop, and everything due must happen.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{Arc, Mutex, Once, OnceLock},
    time::Duration,
};

use ed25519_dalek::{Signer as _, SigningKey};
use jiff::{SignedDuration, Timestamp};
use poet_conformance::Rng;
use poet_engine::{Node, Work, WorkFunction};
use poet_proto::{
    identity::{PrivateKey, PublicKey},
    messages::{PublishedProof, SubmitRequest, Submitted},
    pow::{self, PowParams},
};
use poet_rounds::{
    config::{ClusterConfig, RoundsConfig, WorkerMode},
    life::{Parts, Rounds},
    publish::{ProofId, Publish},
    registration::{Registration, RegistrationError, Rules},
    schedule::Schedule,
    storage::{Challenge, Member, NodeId, Storage, StorageError},
    worker::{AuditMode, Audits},
};
use tokio::time::Instant;

use crate::{
    hashing::SimulatedHashing,
    memory::{MemoryStorage, Tables},
    storage::FaultyStorage,
    world::{Event, World, WorldClock},
};

/// Two hashes per label: the same code as with 400, in less time.
const DEPTH: u32 = 2;
/// How long the next due round may take once nothing fails any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// The storage behind the faults, as each process opens it.
pub(crate) trait Durable {
    fn open(&self) -> Arc<dyn Storage>;
}

impl Durable for Arc<Mutex<Tables>> {
    fn open(&self) -> Arc<dyn Storage> {
        Arc::new(MemoryStorage::new(Arc::clone(self)))
    }
}

/// The history of a world.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// A hash of everything that happened.
    pub(crate) trace: u64,
    pub(crate) counts: BTreeMap<Event, u64>,
}

/// The random parameters of a world. Half of all worlds lack each kind of fault, so that none hides
/// another.
struct Plan {
    rounds: usize,
    leaves_per_second: u32,
    crashes: bool,
    errors: bool,
    full: bool,
    slow: bool,
    forwards: bool,
    backwards: bool,
    lies: bool,
    mistakes: bool,
    audit: AuditMode,
    /// None of these faults.
    calm: bool,
    config: RoundsConfig,
}

impl Plan {
    fn draw(rng: &mut Rng, seed: u64, rounds: usize) -> Self {
        let mut coin = || rng.below(2) == 0;
        let calm = coin() && coin() && coin();
        let mut trouble = || !calm && coin();
        let (crashes, errors, full) = (trouble(), trouble(), trouble());
        let (slow, forwards, backwards) = (trouble(), trouble(), trouble());
        let (lies, mistakes) = (trouble(), trouble());
        let audit = [AuditMode::Full, AuditMode::Off][usize::from(coin())];
        let key = SigningKey::from_bytes(&[1; 32]).to_keypair_bytes();
        let epoch = u64::from(2000 + rng.below(18_000));
        let gap = epoch * u64::from(rng.below(60)) / 100;
        let millis = Duration::from_millis;
        // From half as many leaves as a proof needs to a few more.
        let leaves = 75 + rng.below(1000);
        let seconds = (epoch - gap) as u32 / 1000 + 1;
        // From a separate generator, so that other worlds stay the same.
        let mut apart = Rng::new(!seed);
        let mut early_cycle_gaps = Vec::new();
        if seed % 4 == 2 {
            let mut longer = || millis(gap + 1 + u64::from(apart.below((epoch - gap - 1) as u32)));
            early_cycle_gaps.extend([longer(), longer()]);
            early_cycle_gaps.dedup();
        }
        // Shorter than a round, or longer than several.
        let clock_leap_patience = match seed % 8 {
            7 => millis(u64::from(apart.below(60_000))),
            _ => Duration::ZERO,
        };
        Self {
            rounds,
            leaves_per_second: leaves / seconds + 1,
            crashes,
            errors,
            full,
            slow,
            forwards,
            backwards,
            lies,
            mistakes,
            audit,
            calm,
            config: RoundsConfig {
                genesis: Some(genesis()),
                epoch_duration: millis(epoch),
                phase_shift: millis(rng.below(10_000).into()),
                cycle_gap: millis(gap),
                early_cycle_gaps,
                rules: Rules {
                    pow: true,
                    pow_difficulty: rng.below(4),
                    max_round_members: [3, 8, 1 << 32][rng.below(3) as usize],
                    certifier: None,
                },
                // The server's key is always the same.
                private_key: Some(PrivateKey::from_bytes(&key).unwrap()),
                clock_leap_patience,
                worker: WorkerMode::On,
                cluster: ClusterConfig {
                    name: "alone".to_owned(),
                    takeover_after: Duration::from_secs(2),
                },
            },
        }
    }
}

/// The genesis of all worlds.
pub(crate) fn genesis() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// The proofs as clients get them: as published, or else from the storage.
pub(crate) struct Served {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) roots: Mutex<BTreeMap<ProofId, Node>>,
}

impl Publish for Served {
    fn prepare(
        &self,
        id: ProofId,
        _server: &PublicKey,
        proof: &PublishedProof,
    ) -> Box<dyn FnOnce() + '_> {
        let root = proof.proof.root;
        Box::new(move || {
            self.roots.lock().unwrap().insert(id, root);
        })
    }

    fn compress(&self, _id: ProofId) {}
}

impl Served {
    /// Returns the root of a proof.
    pub(crate) fn root(&self, id: ProofId) -> Result<Option<Node>, StorageError> {
        if let Some(root) = self.roots.lock().unwrap().get(&id) {
            return Ok(Some(*root));
        }
        let proof = match id.early {
            None => self.storage.proof(id.round)?,
            Some(gap) => self.storage.early_proof(id.round, gap)?,
        };
        Ok(proof.map(|proof| proof.proof.root))
    }
}

/// A running process.
struct Process {
    rounds: Rounds,
    served: Arc<Served>,
}

pub(crate) fn work() -> Work {
    static WORK: OnceLock<Work> = OnceLock::new();
    *WORK.get_or_init(|| {
        let backend = poet_backends::select(WorkFunction::Sha256, None).unwrap();
        backend.work(DEPTH).unwrap()
    })
}

/// Nodes from a small set.
pub(crate) fn node(number: u32) -> &'static SigningKey {
    static NODES: OnceLock<Vec<SigningKey>> = OnceLock::new();
    let nodes = NODES.get_or_init(|| {
        let key = |number: u8| SigningKey::from_bytes(&[number; 32]);
        (0..48).map(key).collect()
    });
    &nodes[number as usize % nodes.len()]
}

thread_local! {
    /// Whether a task of the process on this thread has panicked: the runtime would hide it.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether a task has panicked since the last call.
pub(crate) fn panicked() -> bool {
    PANICKED.take()
}

/// Records panics, and prints them as usual.
pub(crate) fn notice_panics() {
    static NOTICED: Once = Once::new();
    NOTICED.call_once(|| {
        let tell = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICKED.set(true);
            tell(panic);
        }));
    });
}

/// Why a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It did not even start.
    Refused,
    /// It crashed in an operation.
    Crashed,
    Killed,
    /// The power failed.
    PowerCut,
    Stopped,
    /// It has done everything.
    Done,
}

/// Runs the world with this seed on a storage.
///
/// # Errors Fails with the violated requirement.
pub(crate) fn live(
    seed: u64,
    rounds: usize,
    durable: &dyn Durable,
    print: bool,
) -> Result<Record, String> {
    notice_panics();
    let mut rng = Rng::new(seed);
    let plan = Plan::draw(&mut rng, seed, rounds);
    let config = &plan.config;
    let schedule = Schedule::new(
        genesis(),
        config.epoch_duration,
        config.phase_shift,
        config.cycle_gap,
    )
    .unwrap();
    let start = genesis() + SignedDuration::from_millis(rng.below(20_000).into());
    let world = Arc::new(World::new(rng.next_u64(), work(), schedule, start, print));
    if plan.calm {
        world.state().oracle.pace = Some(plan.leaves_per_second);
    }
    world.state().oracle.patience = config.clock_leap_patience;
    world.state().oracle.early_gaps = config.early_cycle_gaps.clone();
    world.state().oracle.jumps = plan.forwards || plan.backwards;
    let audit = plan.audit;
    let life = Life {
        world: Arc::clone(&world),
        plan,
        recent: Mutex::default(),
        told: Mutex::default(),
        audits: Audits::new(audit, 1),
    };
    loop {
        let end = life.process(durable, false);
        if let Some(violation) = world.violation() {
            return Err(violation);
        }
        if end == End::Done {
            break;
        }
    }
    // What the last process left must suffice for another one.
    life.process(durable, true);
    let report = life.audits.total();
    world.state().counts.insert(Event::Repaired, report.copies);
    world
        .state()
        .counts
        .insert(Event::TakenBack, report.rollbacks);
    match world.violation() {
        Some(violation) => Err(violation),
        None => Ok(Record {
            trace: world.trace_hash(),
            counts: world.state().counts.clone(),
        }),
    }
}

/// How long a leap of its clock must last.
pub(crate) const CALM_PATIENCE: Duration = Duration::from_secs(300);

/// Runs a process without faults in a round of twenty minutes, to read its state.
pub(crate) fn calm_round(look: impl AsyncFnOnce(&Arc<World>, &Rounds)) {
    notice_panics();
    let mut plan = Plan::draw(&mut Rng::new(1), 1, 1);
    plan.config.epoch_duration = Duration::from_secs(1200);
    plan.config.phase_shift = Duration::from_secs(10);
    plan.config.cycle_gap = Duration::ZERO;
    plan.config.clock_leap_patience = CALM_PATIENCE;
    plan.leaves_per_second = 100;
    let config = &plan.config;
    let (epoch, shift) = (config.epoch_duration, config.phase_shift);
    let schedule = Schedule::new(genesis(), epoch, shift, config.cycle_gap).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(1, work(), schedule, genesis(), false));
        let life = Life {
            world: Arc::clone(&world),
            plan,
            recent: Mutex::default(),
            told: Mutex::default(),
            audits: Audits::new(AuditMode::Off, 1),
        };
        let behind = Arc::<Mutex<Tables>>::default().open();
        world.state().oracle.truth = Some(Arc::clone(&behind));
        world.state().oracle.patience = CALM_PATIENCE;
        world.boot(None);
        let process = life.start(behind).await.unwrap();
        tokio::time::sleep(shift + Duration::from_secs(1)).await;
        look(&world, &process.rounds).await;
        process.rounds.stop().await;
        assert_eq!(world.violation(), None);
    });
    assert!(!panicked());
}

struct Life {
    world: Arc<World>,
    plan: Plan,
    /// The last requests, to be repeated.
    recent: Mutex<Vec<Member>>,
    /// The parameters of proofs of work that clients were given.
    told: Mutex<Vec<PowParams>>,
    audits: Audits,
}

impl Life {
    /// A process, from its start to its end. The last one meets no faults and finishes everything.
    fn process(&self, durable: &dyn Durable, last: bool) -> End {
        let world = &self.world;
        // Before the runtime, so that its time stands still while it is read.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let end = runtime.block_on(async {
            let behind = durable.open();
            world.state().oracle.truth = Some(Arc::clone(&behind));
            FaultyStorage::reappear(world, &*behind);
            // Whatever the open round was, the next process opens one itself.
            let behind = durable.open();
            world.state().oracle.truth = Some(Arc::clone(&behind));
            let fuse = (self.plan.crashes && !last).then(|| {
                // As often in the first few operations as in hundreds of later ones.
                let bits = world.below(11);
                u64::from(world.below(1 << bits))
            });
            world.calm_down();
            world.boot(fuse);
            let end = self.run(behind, last).await;
            world.note(format_args!("{end:?}"));
            world.halt();
            end
        });
        // All tasks end where they are.
        drop(runtime);
        world.require(!panicked(), || "the server panicked".to_owned());
        world.state().disk.close();
        if end == End::PowerCut || (end == End::Crashed && world.chance(500)) {
            world.power_cut();
        }
        if end != End::Done {
            self.pause();
        }
        end
    }

    /// Lasts until the process is started again.
    fn pause(&self) {
        let world = &self.world;
        let epochs = if world.chance(100) { 3 } else { 0 };
        let epoch = self.plan.config.epoch_duration.as_millis() as u32;
        let millis = world.below(500 + epochs * epoch);
        world.pass(Duration::from_millis(millis.into()));
    }

    async fn run(&self, behind: Arc<dyn Storage>, last: bool) -> End {
        let world = &self.world;
        world.count(Event::Start);
        if self.plan.errors && !last && world.chance(200) {
            world.state().faults.errors = 100;
        }
        let process = match self.start(behind).await {
            Ok(process) => process,
            Err(_) if world.crashed() => return End::Crashed,
            Err(error) => {
                let errors = world.state().faults.errors > 0;
                world.require(errors, || format!("the server does not start: {error}"));
                world.count(Event::FailedStart);
                return End::Refused;
            }
        };
        world.state().faults.errors = 0;
        if self.plan.mistakes && !last {
            world.state().faults.mistakes = 2;
        }
        if last {
            self.finish(&process).await;
            process.rounds.stop().await;
            return End::Done;
        }
        loop {
            if world.crashed() {
                return End::Crashed;
            }
            if world.all_published_count() >= self.plan.rounds as u64 {
                // Half of all worlds end well without another start.
                if world.chance(500) {
                    world.calm_down();
                    self.finish(&process).await;
                    process.rounds.stop().await;
                }
                return End::Done;
            }
            let epoch = self.plan.config.epoch_duration.as_millis() as u32;
            let wait = Duration::from_millis((1 + world.below(epoch / 6)).into());
            if tokio::time::timeout(wait, world.over()).await.is_ok() {
                return End::Crashed;
            }
            if let Some(end) = self.happen(&process).await {
                if end == End::Stopped {
                    process.rounds.stop().await;
                    if world.crashed() {
                        return End::Crashed;
                    }
                }
                return end;
            }
        }
    }

    async fn start(&self, behind: Arc<dyn Storage>) -> Result<Process, String> {
        let world = &self.world;
        let storage: Arc<dyn Storage> = FaultyStorage::start(Arc::clone(world), behind);
        let served = Arc::new(Served {
            storage: Arc::clone(&storage),
            roots: Mutex::default(),
        });
        let parts = Parts {
            clock: Arc::new(WorldClock(Arc::clone(world))),
            storage,
            work: work(),
            hashing: SimulatedHashing {
                world: Arc::clone(world),
                leaves_per_second: self.plan.leaves_per_second,
                audits: self.audits.clone(),
                reached: Arc::default(),
            },
            // Results in subtrees of 1 to 16 leaves; a later version may expect faster machines. In
            // a longer round, each subtree is a leaf.
            expected_leaves_per_second: match self.plan.config.epoch_duration.as_secs() {
                0..100 => (1 << 25) << world.below(5),
                _ => 1000,
            },
            publish: Arc::clone(&served) as Arc<dyn Publish>,
            counters: Arc::new(()),
        };
        let start = Rounds::start(&self.plan.config, parts);
        tokio::select! {
            biased;
            rounds = start => rounds
                .map(|rounds| Process { rounds, served })
                .map_err(|error| error.to_string()),
            () = world.over() => Err("crashed".to_owned()),
        }
    }

    /// Lets something happen to a running process. Returns how it ended, if it did.
    async fn happen(&self, process: &Process) -> Option<End> {
        let (world, rounds) = (&self.world, &process.rounds);
        let plan = &self.plan;
        match world.below(100) {
            0..60 => self.ask(rounds),
            60..75 => self.rush(rounds).await,
            75..79 => {
                let full = plan.full && !world.state().faults.full;
                if full {
                    world.count(Event::DiskFull);
                }
                world.note(format_args!("disk full: {full}"));
                world.state().faults.full = full;
            }
            79..83 => {
                let slow = plan.slow && !world.state().faults.slow;
                world.note(format_args!("storage slow: {slow}"));
                world.state().faults.slow = slow;
            }
            83..88 => {
                let errors = if plan.errors { world.below(300) } else { 0 };
                world.note(format_args!("errors: {errors}"));
                world.state().faults.errors = errors * world.below(2);
            }
            88..90 if plan.forwards => world.jump(self.jump()),
            90..92 if plan.backwards => world.jump(-self.jump()),
            92 if plan.lies => world.flip_bit(),
            93 if plan.lies => {
                let lying = world.below(2) * 500;
                world.state().disk.lying_syncs = lying;
            }
            94 if plan.crashes => {
                world.count(Event::Kill);
                return Some(End::Killed);
            }
            95 if plan.crashes => {
                world.count(Event::PowerCut);
                return Some(End::PowerCut);
            }
            96 if !plan.calm => {
                world.count(Event::Stop);
                return Some(End::Stopped);
            }
            _ => self.look(process).await,
        }
        None
    }

    /// How far the clock jumps.
    fn jump(&self) -> SignedDuration {
        let epoch = self.plan.config.epoch_duration.as_millis() as u32;
        let bound = [10, 1000, epoch, 4 * epoch][self.world.below(4) as usize];
        SignedDuration::from_millis((1 + self.world.below(bound)).into())
    }

    /// Many nodes register around the moment at which the round closes.
    async fn rush(&self, rounds: &Rounds) {
        let world = &self.world;
        let registration = rounds.registration();
        let start = registration
            .schedule()
            .start(registration.open_round().round);
        let now = poet_rounds::clock::Clock::now(&WorldClock(Arc::clone(world)));
        let left = Duration::try_from(start.duration_since(now)).unwrap_or_default();
        let early = Duration::from_millis(world.below(30).into());
        let wait = left.saturating_sub(early);
        if wait > self.plan.config.epoch_duration {
            return;
        }
        if tokio::time::timeout(wait, world.over()).await.is_ok() {
            return;
        }
        for _ in 0..2 + world.below(6) {
            self.ask(rounds);
            let pause = Duration::from_millis(world.below(20).into());
            tokio::time::sleep(pause).await;
        }
    }

    /// A node registers; the answer is checked when it comes.
    fn ask(&self, rounds: &Rounds) {
        let world = &self.world;
        let registration = Arc::clone(rounds.registration());
        let kind = world.below(100);
        let recent = {
            let recent = self.recent.lock().unwrap();
            let count = recent.len() as u32;
            (count > 0).then(|| recent[world.below(count) as usize])
        };
        let number = world.below(48);
        let fresh = || Member {
            node_id: NodeId(node(number).verifying_key().to_bytes()),
            challenge: Challenge(world.state().rng.bytes()),
        };
        let member = match (kind, recent) {
            // The same again, or another challenge of the same node.
            (0..20, Some(member)) => member,
            (20..30, Some(member)) => Member {
                challenge: fresh().challenge,
                ..member
            },
            _ => fresh(),
        };
        {
            let mut recent = self.recent.lock().unwrap();
            recent.push(member);
            if recent.len() > 8 {
                recent.remove(0);
            }
        }
        world.asked(member);
        let params = {
            let mut told = self.told.lock().unwrap();
            told.push(registration.pow_params());
            if told.len() > 20 {
                told.remove(0);
            }
            let newest = told.len() - 1;
            let chosen = if kind >= 90 {
                world.below(told.len() as u32) as usize
            } else {
                newest
            };
            told[chosen].clone()
        };
        let deadline = (80..84).contains(&kind).then(|| {
            let end = registration.schedule().end(registration.open_round().round);
            end + SignedDuration::from_millis(i64::from(world.below(3)) - 1)
        });
        let request = request(member, &params, deadline, kind == 84);
        let asked = Asked {
            member,
            deadline,
            spoilt: kind == 84,
        };
        tokio::spawn(asked.answer(Arc::clone(world), registration, request));
    }

    /// Checks what clients see now.
    async fn look(&self, process: &Process) {
        let (world, rounds) = (&self.world, &process.rounds);
        // Waits for answers on their way.
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        world.right_round_open(rounds.registration().open_round().round);
        let open = rounds.registration().open_round();
        let stored = world.truth().member_count(open.round).unwrap();
        world.require(world.crashed() || open.members == stored, || {
            format!("the open round has {stored} members, not {}", open.members)
        });
        let published = world.all_published();
        for unfinished in world.truth().unfinished_rounds().unwrap() {
            let round = unfinished.round;
            let id = ProofId { round, early: None };
            let answer = process.served.root(id);
            let early =
                matches!(answer, Ok(Some(_))) && !world.all_published().contains_key(&round);
            world.require(!early, || {
                format!("the proof of round {round} is served before it is stored")
            });
            for gap in &self.plan.config.early_cycle_gaps {
                let early = Some(*gap);
                let answer = process.served.root(ProofId { round, early });
                let stored = world.all_early().contains_key(&(round, *gap));
                world.require(!matches!(answer, Ok(Some(_))) || stored, || {
                    format!(
                        "the proof of round {round} for gap {gap:?} is served before it is stored"
                    )
                });
            }
        }
        let newest = published.len().saturating_sub(3);
        let newest = published.iter().skip(newest);
        let mut served: Vec<_> = newest
            .map(|(round, proof)| {
                let (round, early) = (*round, None);
                (ProofId { round, early }, proof.proof.root)
            })
            .collect();
        let early = world.all_early();
        let newest = early.iter().skip(early.len().saturating_sub(6));
        served.extend(newest.map(|(&(round, gap), proof)| {
            let early = Some(gap);
            (ProofId { round, early }, proof.proof.root)
        }));
        for (id, expected) in served {
            // While the storage fails, there is no answer.
            if let Ok(root) = process.served.root(id) {
                world.require(root == Some(expected), || {
                    format!("the proof {id:?} is another one now, or none")
                });
            }
        }
    }

    /// Nothing fails any more: everything due must be published.
    async fn finish(&self, process: &Process) {
        let (world, rounds) = (&self.world, &process.rounds);
        let schedule = rounds.registration().schedule().clone();
        let clock = WorldClock(Arc::clone(world));
        let storage = world.state().oracle.truth.clone().unwrap();
        // The clock jumps.
        world.state().oracle.pace = None;
        world.state().oracle.jumps = true;
        // Rounds that were opened while the clock was ahead become due, too.
        let newest = storage.newest_rounds(1).unwrap()[0].round;
        let now = poet_rounds::clock::Clock::now(&clock);
        world.jump(schedule.end(newest).duration_since(now) + SignedDuration::from_millis(1));
        tokio::time::sleep(self.plan.config.clock_leap_patience).await;
        let mut left = PATIENCE;
        let mut before = usize::MAX;
        let late = loop {
            let unfinished = storage.unfinished_rounds().unwrap();
            let due = unfinished.iter().map(|unfinished| unfinished.round);
            let late: Vec<_> = due.filter(|round| *round <= newest).collect();
            if late.len() < before {
                before = late.len();
                left = PATIENCE;
            }
            if late.is_empty() || left.is_zero() {
                break late;
            }
            let step = Duration::from_secs(1);
            tokio::time::sleep(step).await;
            left -= step;
        };
        world.require(late.is_empty(), || {
            format!("without any trouble, rounds {late:?} are not published")
        });
        world.require(!rounds.worker().failing(), || {
            "without any trouble, the worker fails".to_owned()
        });
        for (round, proof) in &world.all_published() {
            let stored = storage.proof(*round).unwrap();
            world.require(stored.as_ref() == Some(&**proof), || {
                format!("the proof of round {round} has changed")
            });
            let records = storage.early_proofs(*round..=*round).unwrap();
            let gaps: Vec<_> = records.iter().map(|record| record.gap).collect();
            let mut expected = self.plan.config.early_cycle_gaps.clone();
            expected.sort_unstable();
            world.require(gaps == expected, || {
                format!("round {round} has early proofs for {gaps:?}, not for {expected:?}")
            });
        }
        for (&(round, gap), proof) in &world.all_early() {
            let stored = storage.early_proof(round, gap).unwrap();
            world.require(stored.as_ref() == Some(&**proof), || {
                format!("the proof of round {round} for gap {gap:?} has changed")
            });
        }
        self.look(process).await;
    }
}

pub(crate) fn request(
    member: Member,
    params: &PowParams,
    deadline: Option<Timestamp>,
    spoilt: bool,
) -> SubmitRequest {
    let Member { node_id, challenge } = member;
    let prefix = b"simulation";
    let keys = (0..48).map(node);
    let key = keys
        .into_iter()
        .find(|key| key.verifying_key().to_bytes() == node_id.0)
        .unwrap();
    let mut signature = key
        .sign(&[&prefix[..], &challenge.0].concat())
        .to_bytes()
        .to_vec();
    if spoilt {
        signature[0] ^= 1;
    }
    SubmitRequest {
        nonce: pow::solve(params, node_id, &challenge.0).unwrap(),
        pow_params: params.clone(),
        prefix: prefix.to_vec(),
        challenge: challenge.0.to_vec(),
        pubkey: node_id.0.to_vec(),
        signature,
        deadline,
        ..SubmitRequest::default()
    }
}

/// A request, and its allowed answers.
struct Asked {
    member: Member,
    deadline: Option<Timestamp>,
    spoilt: bool,
}

impl Asked {
    async fn answer(
        self,
        world: Arc<World>,
        registration: Arc<Registration>,
        request: SubmitRequest,
    ) {
        let first = registration.open_round().round;
        let challenges = world.truth().pow_challenges().unwrap().unwrap();
        let challenge = &request.pow_params.challenge;
        let known = *challenge == challenges.current
            || challenges
                .previous
                .is_some_and(|previous| *challenge == previous);
        let begun = Instant::now();
        let gap = registration.gaps().own().clone();
        let answer = registration.submit(&gap, request).await;
        world.note(format_args!(
            "{:02x?} is answered {answer:?}",
            &self.member.node_id.0[..2]
        ));
        let event = match &answer {
            Ok(Submitted {
                round, time_to_end, ..
            }) => {
                let end = registration.schedule().end(*round);
                let now = poet_rounds::clock::Clock::now(&WorldClock(Arc::clone(&world)));
                // Otherwise, it is the end by a clock that does not believe a leap yet.
                let exact = world.state().oracle.patience.is_zero();
                world.require(!exact || *time_to_end == end.duration_since(now), || {
                    format!("the end of round {round} is not in {time_to_end:?}")
                });
                world.require(self.deadline.is_none_or(|deadline| end <= deadline), || {
                    format!("round {round} was too late for a registration and accepted it")
                });
                world.acknowledged(*round, self.member);
                if *round == first {
                    Event::Registered
                } else {
                    Event::Carried
                }
            }
            Err(RegistrationError::Conflict) => Event::Conflict,
            Err(RegistrationError::RoundFull) => Event::Full,
            Err(RegistrationError::TooLate) => Event::TooLate,
            Err(RegistrationError::PowParams) => Event::OldChallenge,
            Err(_) => Event::Unavailable,
        };
        // Two rounds without members may have the same root, and so the same challenge.
        let expected = match &answer {
            Ok(_) => !self.spoilt && known,
            Err(RegistrationError::Signature) => self.spoilt,
            Err(RegistrationError::PowParams) => !known,
            Err(RegistrationError::TooLate) => self.deadline.is_some(),
            Err(RegistrationError::Unavailable) => world.trouble_since(begun),
            Err(error) => matches!(
                error,
                RegistrationError::Conflict | RegistrationError::RoundFull
            ),
        };
        world.require(expected, || {
            let Self { spoilt, .. } = self;
            format!(
                "a registration was answered {answer:?}; challenge known: {known}, signature \
                 spoilt: {spoilt}"
            )
        });
        world.count(event);
    }
}
