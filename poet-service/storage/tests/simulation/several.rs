//! Worlds of several servers and one database: machines crash, are killed, lose power and start again;
//! links are cut in each direction, and answers to commits get lost; the database is away, and goes back
//! to its synchronous replica; clocks differ; one machine computes wrong. Nodes register all the while.
//!
//! What must hold is checked as it happens (`shared.rs`, and `world.rs` for each machine): what was
//! acknowledged is stored, and a member of the round's proof; a round has one statement and one proof,
//! valid, not before its end, with all whole subtrees that were handed in; entries of sound machines are the
//! same; the challenge of the proof of work changes with each proof. When all trouble stops, every round
//! is published, and every server registers for the right one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use ed25519_dalek::SigningKey;
use jiff::SignedDuration;
use poet_conformance::Rng;
use poet_proto::{identity::PrivateKey, messages::Submitted};
use poet_rounds::{
    config::{ClusterConfig, RoundsConfig, WorkerMode},
    life::{Parts, Rounds},
    publish::Publish,
    registration::{Registration, Rules},
    schedule::Schedule,
    storage::{Challenge, Member, NodeId, Storage},
    worker::{AuditMode, Audits, WorkerHandle},
};
use tokio::time::{Instant, sleep};

use crate::{
    hashing::SimulatedHashing,
    life::{Served, genesis, node, notice_panics, panicked, request, work},
    shared::{Database, Link, LinkedStorage},
    world::World,
};

const MACHINES: usize = 3;
/// The machine that may compute wrong.
const ERRS: usize = 1;
const ROUNDS: usize = 5;
const STEP: Duration = Duration::from_millis(100);
/// How long everything may take until it is as it should be once nothing fails any more.
const PATIENCE: Duration = Duration::from_secs(600);

/// What a world went through.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Of all that happened on each machine.
    traces: Vec<u64>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// What is drawn once for a world. Each kind of trouble is absent from some worlds, so that none hides
/// another.
struct Plan {
    crashes: bool,
    cuts: bool,
    losses: bool,
    database: bool,
    clocks: bool,
    mistakes: bool,
    leaves_per_second: u32,
    expected_leaves_per_second: u64,
    epoch: Duration,
    shift: Duration,
    gap: Duration,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Self {
        let mut coin = || rng.below(3) > 0;
        let (crashes, cuts, losses) = (coin(), coin(), coin());
        let (database, clocks, mistakes) = (coin(), coin(), coin() && !coin());
        let millis = |millis: u32| Duration::from_millis(millis.into());
        Self {
            crashes,
            cuts,
            losses,
            database,
            clocks,
            mistakes,
            leaves_per_second: 20 + rng.below(60),
            // Makes for subtrees of 1 to 16 leaves.
            expected_leaves_per_second: (1 << 25) << rng.below(5),
            epoch: millis(20_000 + rng.below(30_000)),
            shift: millis(rng.below(10_000)),
            // Longer than the silence of a server after which another one makes the proof.
            gap: millis(6000 + rng.below(4000)),
        }
    }

    fn config(&self, machine: usize) -> RoundsConfig {
        let key = SigningKey::from_bytes(&[1; 32]).to_keypair_bytes();
        RoundsConfig {
            genesis: Some(genesis()),
            epoch_duration: self.epoch,
            phase_shift: self.shift,
            cycle_gap: self.gap,
            early_cycle_gaps: Vec::new(),
            rules: Rules {
                pow: true,
                pow_difficulty: 1,
                max_round_members: 1 << 32,
                certifier: None,
            },
            private_key: Some(PrivateKey::from_bytes(&key).unwrap()),
            clock_leap_patience: Duration::ZERO,
            worker: match machine {
                2 => WorkerMode::Standby,
                _ => WorkerMode::On,
            },
            cluster: ClusterConfig {
                name: format!("machine {machine}"),
                takeover_after: Duration::from_secs(2),
            },
        }
    }
}

/// A server that runs.
#[derive(Clone)]
struct Serving {
    registration: Arc<Registration>,
    worker: WorkerHandle,
}

struct Machine {
    number: usize,
    world: Arc<World>,
    link: Arc<Mutex<Link>>,
    audits: Audits,
    serving: Mutex<Option<Serving>>,
}

struct Several {
    plan: Plan,
    schedule: Schedule,
    database: Arc<Database>,
    machines: Vec<Machine>,
    /// Nothing fails any more; and then all ends.
    calm: AtomicBool,
    over: AtomicBool,
    rng: Mutex<Rng>,
}

/// Lives the life of the world with this seed.
///
/// # Errors
/// Says what was not as it must be.
pub(crate) fn live(seed: u64, print: bool) -> Result<Record, String> {
    notice_panics();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let record = runtime.block_on(async {
        let several = Arc::new(Several::new(seed, print));
        several.live().await;
        match several.violation() {
            Some(violation) => Err(violation),
            None => Ok(several.record()),
        }
    });
    drop(runtime);
    match panicked() {
        true => Err("a server panicked".to_owned()),
        false => record,
    }
}

impl Several {
    fn new(seed: u64, print: bool) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::draw(&mut rng);
        let schedule = Schedule::new(genesis(), plan.epoch, plan.shift, plan.gap).unwrap();
        let start = genesis();
        let database = Arc::new(Database::new(
            start,
            schedule.clone(),
            work(),
            plan.mistakes,
        ));
        let machines = (0..MACHINES).map(|number| {
            // Less than the server minds.
            let ahead = match plan.clocks {
                true => i64::from(rng.below(3800)) - 1900,
                false => 0,
            };
            let now = start + SignedDuration::from_millis(ahead);
            let world = World::new(rng.next_u64(), work(), schedule.clone(), now, print);
            world.state().oracle.truth = Some(Arc::new(database.memory()));
            world.state().oracle.shared = true;
            Machine {
                number,
                world: Arc::new(world),
                link: Arc::default(),
                audits: Audits::new(
                    match plan.mistakes && number == ERRS && rng.below(2) == 0 {
                        true => AuditMode::Off,
                        false => AuditMode::Full,
                    },
                    1,
                ),
                serving: Mutex::default(),
            }
        });
        let machines = machines.collect();
        Self {
            plan,
            schedule,
            database,
            machines,
            calm: AtomicBool::new(false),
            over: AtomicBool::new(false),
            rng: Mutex::new(rng),
        }
    }

    fn record(&self) -> Record {
        let mut counts = self.database.counts();
        for machine in &self.machines {
            for (event, count) in &machine.world.state().counts {
                if *event == crate::world::Event::Mistake {
                    *counts.entry("mistake").or_default() += count;
                }
            }
        }
        let traces = self.machines.iter();
        Record {
            traces: traces.map(|machine| machine.world.trace_hash()).collect(),
            counts,
        }
    }

    fn violation(&self) -> Option<String> {
        let of_machine = |machine: &Machine| {
            let violation = machine.world.violation()?;
            Some(format!("machine {}: {violation}", machine.number))
        };
        let of_machines = self.machines.iter().find_map(of_machine);
        self.database.violation().or(of_machines)
    }

    fn below(&self, bound: u32) -> u32 {
        self.rng.lock().unwrap().below(bound)
    }

    fn millis(&self, bound: u32) -> Duration {
        Duration::from_millis(self.below(bound).into())
    }

    async fn live(self: &Arc<Self>) {
        let machines: Vec<_> = (0..MACHINES)
            .map(|number| tokio::spawn(Arc::clone(self).machine(number)))
            .collect();
        tokio::spawn(Arc::clone(self).links());
        tokio::spawn(Arc::clone(self).storms());
        tokio::spawn(Arc::clone(self).clients());
        let longest = self.plan.epoch * (4 * ROUNDS as u32);
        let start = Instant::now();
        while self.database.proofs().len() < ROUNDS
            && start.elapsed() < longest
            && self.violation().is_none()
        {
            sleep(STEP).await;
        }
        self.calm.store(true, Relaxed);
        self.database.set_away(false);
        for machine in &self.machines {
            machine.world.calm_down();
            *machine.link.lock().unwrap() = Link::default();
        }
        self.finish().await;
        self.over.store(true, Relaxed);
        for machine in machines {
            machine.await.unwrap();
        }
    }

    /// Nothing fails any more: all that is due is published, and every server registers.
    async fn finish(&self) {
        let memory = self.database.memory();
        let newest = memory.newest_rounds(1).unwrap();
        let newest = newest.first().map_or(0, |record| record.round);
        let start = Instant::now();
        let patience = PATIENCE + self.plan.epoch * 2;
        let mut missing = Vec::new();
        while start.elapsed() < patience && self.violation().is_none() {
            let unfinished = memory.unfinished_rounds().unwrap();
            missing = unfinished
                .iter()
                .map(|unfinished| unfinished.round)
                .filter(|round| *round <= newest)
                .collect();
            if missing.is_empty() && self.machines.iter().all(|machine| self.serves(machine)) {
                break;
            }
            sleep(STEP).await;
        }
        self.database.require(missing.is_empty(), || {
            format!("without any trouble, rounds {missing:?} are not published")
        });
        for machine in &self.machines {
            self.database.require(self.serves(machine), || {
                let number = machine.number;
                format!("without any trouble, machine {number} does not serve as it should")
            });
        }
        for (round, proof) in self.database.proofs() {
            let stored = memory.proof(round).unwrap();
            self.database.require(stored.as_ref() == Some(&*proof), || {
                format!("the proof of round {round} has changed")
            });
        }
    }

    /// Whether a server registers for the right round, works, and serves all proofs.
    fn serves(&self, machine: &Machine) -> bool {
        let serving = machine.serving.lock().unwrap().clone();
        let Some(Serving {
            registration,
            worker,
        }) = serving
        else {
            return false;
        };
        let due = |by: i64| {
            let time = self.database.now() + SignedDuration::from_millis(by);
            self.schedule.open_round(time)
        };
        let open = registration.open_round().round;
        (due(-2500)..=due(2500)).contains(&open) && !worker.failing()
    }

    /// A machine, on which a server is started whenever there is none.
    async fn machine(self: Arc<Self>, number: usize) {
        let machine = &self.machines[number];
        let world = &machine.world;
        while self.violation().is_none() {
            let fuse = (self.plan.crashes && !self.calm.load(Relaxed)).then(|| {
                // As often in the first few operations as in thousands of later ones.
                let bits = world.below(13);
                u64::from(world.below(1 << bits))
            });
            world.boot(fuse);
            if self.plan.mistakes && number == ERRS && !self.calm.load(Relaxed) {
                world.state().faults.mistakes = 3;
            }
            self.database.count("start");
            let started = self.start(machine).await;
            let mut halted = Instant::now();
            if let Some(rounds) = started {
                *machine.serving.lock().unwrap() = Some(Serving {
                    registration: Arc::clone(rounds.registration()),
                    worker: rounds.worker().clone(),
                });
                let stops = self.serve(machine).await;
                machine.serving.lock().unwrap().take();
                if stops {
                    self.stop(machine, rounds).await;
                    halted = Instant::now();
                    world.halt();
                } else {
                    halted = Instant::now();
                    world.halt();
                    // It can do nothing any more, and goes.
                    self.stop(machine, rounds).await;
                }
            }
            world.halt();
            world.state().disk.close();
            if self.over.load(Relaxed) {
                return;
            }
            if self.plan.crashes && world.chance(300) {
                self.database.count("power cut");
                world.power_cut();
            }
            let pause = match self.calm.load(Relaxed) {
                true => 500,
                false => 1 + world.below(15_000),
            };
            sleep(Duration::from_millis(pause.into())).await;
            world.pass(halted.elapsed());
        }
    }

    async fn stop(&self, machine: &Machine, rounds: Rounds) {
        let ended = tokio::time::timeout(PATIENCE, rounds.stop()).await;
        self.database.require(ended.is_ok(), || {
            format!("the server of machine {} does not end", machine.number)
        });
    }

    /// Until the server crashes, is killed, or is to stop. Returns whether it is to stop in order.
    async fn serve(&self, machine: &Machine) -> bool {
        let world = &machine.world;
        let end = Instant::now() + Duration::from_millis(world.below(120_000).into());
        let kill = world.chance(700);
        while !self.over.load(Relaxed) {
            if tokio::time::timeout(STEP, world.over()).await.is_ok() {
                self.database.count("crash in an operation");
                return false;
            }
            if self.plan.crashes && !self.calm.load(Relaxed) && Instant::now() >= end {
                self.database.count(if kill { "kill" } else { "stop" });
                return !kill;
            }
        }
        true
    }

    /// A server, unless it crashes before it serves.
    async fn start(&self, machine: &Machine) -> Option<Rounds> {
        let world = &machine.world;
        let storage: Arc<dyn Storage> = Arc::new(LinkedStorage {
            world: Arc::clone(world),
            database: Arc::clone(&self.database),
            link: Arc::clone(&machine.link),
        });
        let served = Arc::new(Served {
            storage: Arc::clone(&storage),
            roots: Mutex::default(),
        });
        let parts = Parts {
            clock: Arc::new(crate::world::WorldClock(Arc::clone(world))),
            storage,
            work: work(),
            hashing: SimulatedHashing {
                world: Arc::clone(world),
                leaves_per_second: self.plan.leaves_per_second,
                audits: machine.audits.clone(),
                reached: Arc::default(),
            },
            expected_leaves_per_second: self.plan.expected_leaves_per_second,
            publish: served as Arc<dyn Publish>,
            counters: Arc::new(()),
        };
        let config = self.plan.config(machine.number);
        tokio::select! {
            biased;
            rounds = Rounds::start(&config, parts) => rounds.ok(),
            () = world.over() => None,
        }
    }

    /// What happens to the links.
    async fn links(self: Arc<Self>) {
        loop {
            sleep(self.millis(6000)).await;
            if self.calm.load(Relaxed) {
                return;
            }
            let machine = &self.machines[self.below(MACHINES as u32) as usize];
            let cut = |bound| self.plan.cuts && self.below(bound) == 0;
            let link = Link {
                cut_to: cut(4),
                cut_from: cut(4),
                lost: match self.plan.losses {
                    true => [0, 10, 200][self.below(3) as usize],
                    false => 0,
                },
            };
            if link.cut_to || link.cut_from {
                self.database.count("cut");
            }
            machine.world.note(format_args!("{link:?}"));
            *machine.link.lock().unwrap() = link;
        }
    }

    /// What happens to the database.
    async fn storms(self: Arc<Self>) {
        if !self.plan.database {
            return;
        }
        loop {
            sleep(self.millis(40_000)).await;
            if self.calm.load(Relaxed) {
                return;
            }
            self.database.set_away(true);
            // It is started again, or a replica takes over: either may have lost what nobody waited for.
            if self.below(3) > 0 {
                self.database.count("database went back");
                self.database.go_back();
            }
            self.database.count("database away");
            sleep(self.millis(8000)).await;
            self.database.set_away(false);
        }
    }

    /// Nodes register with any server.
    async fn clients(self: Arc<Self>) {
        let mut recent = Vec::new();
        while !self.over.load(Relaxed) {
            sleep(self.millis(600)).await;
            let machine = &self.machines[self.below(MACHINES as u32) as usize];
            let serving = machine.serving.lock().unwrap().clone();
            let Some(Serving { registration, .. }) = serving else {
                continue;
            };
            let fresh = Member {
                node_id: NodeId(node(self.below(48)).verifying_key().to_bytes()),
                challenge: Challenge(self.rng.lock().unwrap().bytes()),
            };
            let member = match recent.get(self.below(16) as usize) {
                // The same again, or another challenge of the same node.
                Some(member) if self.below(2) == 0 => *member,
                Some(Member { node_id, .. }) => Member {
                    node_id: *node_id,
                    ..fresh
                },
                None => fresh,
            };
            recent.push(member);
            if recent.len() > 8 {
                recent.remove(0);
            }
            let request = request(member, &registration.pow_params(), None, false);
            let several = Arc::clone(&self);
            tokio::spawn(async move {
                let gap = registration.gaps().own().clone();
                let answer = registration.submit(&gap, request).await;
                if let Ok(Submitted { round, .. }) = answer {
                    several.database.count("registered");
                    several.database.acknowledged(round, member);
                }
            });
        }
    }
}
