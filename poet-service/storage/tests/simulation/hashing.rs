//! Hashing at the pace of simulated time, with the log on a simulated disk. The leaves, the log and
//! its readers are real, and so is the code that decides when an entry is durable ([`DurableLog`]).
//! The hashing thread and the log's writer are simulated, step by step, whenever the state of the
//! work is read.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, TryRecvError},
    },
    time::Duration,
};

use poet_engine::{
    LogError, LogRead, Node, RoundWork, Tree,
    file::{DurableLog, FileLog, LogView},
    run,
};
use poet_rounds::{
    storage::Execution,
    worker::{AuditMode, Audits, Hashing, Job, RoundAudit, Running, Status, WorkError},
};
use tokio::time::Instant;

use crate::{
    disk::SimulatedFile,
    world::{Event, Fate, World, refused},
};

/// As in the log's real writer: how long an entry may wait to become durable, and how long to wait
/// after a failure.
const SYNC_INTERVAL: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);
/// The hashing never waits for the disk.
const BACKLOG: usize = usize::MAX;
/// How long the auditors gather entries.
const AUDIT_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct SimulatedHashing {
    pub(crate) world: Arc<World>,
    pub(crate) leaves_per_second: u32,
    pub(crate) audits: Audits,
    /// The number of leaves that each round reached in this process.
    pub(crate) reached: Arc<Mutex<BTreeMap<u64, u64>>>,
}

/// An open log, which no other process uses.
pub(crate) struct SimulatedLog {
    open: OpenFile,
    log: FileLog,
}

/// The log's file. Dropping this closes it.
struct OpenFile(SimulatedFile);

impl Drop for OpenFile {
    fn drop(&mut self) {
        let SimulatedFile { world, round } = &self.0;
        if let Some(file) = world.state().disk.files.get_mut(round) {
            file.open = false;
        }
    }
}

impl LogRead for SimulatedLog {
    fn entries(&self) -> u64 {
        self.log.entries()
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        self.log.read(start, out)
    }
}

impl SimulatedHashing {
    /// Adds leaves, or entries that another server has made.
    fn run(
        &self,
        job: &Job,
        tree: Tree,
        log: SimulatedLog,
        others: Option<Receiver<Vec<Node>>>,
    ) -> Result<SimulatedRun, WorkError> {
        let subtree_height = job.execution.subtree_height;
        let SimulatedLog { open, log } = log;
        let round = open.0.round;
        let entries = tree.leaves() >> subtree_height.get();
        self.world.require(entries == log.entries(), || {
            format!("round {round} starts from other leaves than its log stands for")
        });
        let reached = self.reached.lock().unwrap().get(&round).copied();
        let lost = reached.is_some_and(|reached| reached >> subtree_height.get() > entries);
        self.world.require(!lost, || {
            format!("the work on round {round} is lost without a crash")
        });
        if tree.leaves() > 0 {
            self.world.count(Event::Resumed);
        }
        let now = Instant::now();
        Ok(SimulatedRun {
            world: Arc::clone(&self.world),
            leaves_per_second: self.leaves_per_second,
            half_speed: false,
            started: (now, tree.leaves()),
            leaves: Arc::new(AtomicU64::new(tree.leaves())),
            target: u64::MAX,
            last_sync: now,
            retry: now,
            error: None,
            audit: (self.audits.mode() == AuditMode::Full)
                .then(|| RoundAudit::new(&self.audits, job, tree.work(), log.view(), None)),
            last_audit: now,
            execution: job.execution.clone(),
            entries: others,
            view: log.view(),
            reached: Arc::clone(&self.reached),
            tree,
            log: DurableLog::new(log, BACKLOG)?,
            open,
        })
    }
}

impl Hashing for SimulatedHashing {
    type Log = SimulatedLog;
    type Running = SimulatedRun;

    fn open_log(&self, round: u64, work: &RoundWork<'_>) -> Result<SimulatedLog, WorkError> {
        self.world.opening_log(round, &work.header());
        let path = || format!("of round {round}");
        let error = || LogError::Io {
            action: "open",
            path: path(),
            cause: refused(&self.world),
        };
        match self.world.fate(format_args!("open log {round}"), false) {
            Fate::Done => {}
            _ => return Err(error().into()),
        }
        let promised = {
            let mut state = self.world.state();
            let file = state.disk.files.entry(round).or_default();
            if std::mem::replace(&mut file.open, true) {
                return Err(LogError::Locked { path: path() }.into());
            }
            file.promised_entries()
        };
        let file = SimulatedFile {
            world: Arc::clone(&self.world),
            round,
        };
        let opened = FileLog::in_file(file.clone(), work);
        let mut state = self.world.state();
        let crashed = state.crashed();
        let Some(there) = state.disk.files.get_mut(&round) else {
            return Err(error().into());
        };
        let log = opened.inspect_err(|_| there.open = false)?;
        there.opened();
        let entries = log.entries();
        state.note(format_args!("log {round} has {entries} entries"));
        drop(state);
        self.world.require(crashed || entries >= promised, || {
            format!("log {round} has {entries} entries, of {promised} that were durable")
        });
        Ok(SimulatedLog {
            open: OpenFile(file),
            log,
        })
    }

    fn cut_log(&self, log: &mut SimulatedLog, entries: u64) -> Result<(), WorkError> {
        self.reached.lock().unwrap().remove(&log.open.0.round);
        Ok(log.log.cut(entries)?)
    }

    fn rounds(&self) -> Vec<u64> {
        self.world.state().disk.files.keys().copied().collect()
    }

    fn has_log(&self, round: u64) -> bool {
        self.world.state().disk.files.contains_key(&round)
    }

    fn remove_log(&self, round: u64) {
        let published = self.world.all_published().contains_key(&round)
            || self.world.published_elsewhere(round);
        // The log of an unsettled round may be for other members, if the round opened again.
        let settled = self.world.truth().round(round).unwrap();
        let settled = settled.is_some_and(|record| record.settled);
        self.world.require(published || !settled, || {
            format!("the log of round {round} is removed before its proof is published")
        });
        let fate = self.world.fate(format_args!("remove log {round}"), false);
        if matches!(fate, Fate::Done | Fate::CrashAfter) {
            self.world.state().disk.remove(round);
        }
    }

    fn start(&self, job: &Job, tree: Tree, log: SimulatedLog) -> Result<SimulatedRun, WorkError> {
        self.run(job, tree, log, None)
    }

    fn follow(
        &self,
        job: &Job,
        tree: Tree,
        log: SimulatedLog,
        entries: Receiver<Vec<Node>>,
    ) -> Result<SimulatedRun, WorkError> {
        self.run(job, tree, log, Some(entries))
    }

    fn aside(&self, call: Box<dyn FnOnce(usize) + Send>) {
        call(1);
    }

    fn repair(
        &self,
        job: &Job,
        _reason: &WorkError,
        tree: Tree,
        log: &mut SimulatedLog,
        stop: &AtomicBool,
    ) -> Result<Tree, WorkError> {
        self.world.count(Event::BadProof);
        let round = job.round;
        let view = log.log.view();
        let mut audit = RoundAudit::new(&self.audits, job, tree.work(), view, None);
        // Wrong leaves may be removed.
        self.reached.lock().unwrap().remove(&round);
        if audit.search(&tree, None, stop)? {
            self.world.count(Event::Searched);
            self.world
                .note(format_args!("something wrong is found in log {round}"));
        } else {
            self.world
                .note(format_args!("log {round} is audited as a whole"));
            audit.all(stop)?;
        }
        Ok(audit.settle(tree, &mut log.log)?)
    }
}

pub(crate) struct SimulatedRun {
    world: Arc<World>,
    leaves_per_second: u32,
    half_speed: bool,
    started: (Instant, u64),
    leaves: Arc<AtomicU64>,
    target: u64,
    execution: Execution,
    /// What another server makes, while this one follows it.
    entries: Option<Receiver<Vec<Node>>>,
    tree: Tree,
    open: OpenFile,
    log: DurableLog,
    last_sync: Instant,
    retry: Instant,
    error: Option<String>,
    audit: Option<RoundAudit>,
    last_audit: Instant,
    view: LogView,
    reached: Arc<Mutex<BTreeMap<u64, u64>>>,
}

impl SimulatedRun {
    /// Adds as many leaves as the time since the start allows.
    fn advance(&mut self) {
        let mistakes = self.world.state().faults.mistakes;
        if self.world.chance(mistakes) && !self.follows() {
            self.go_wrong();
        }
        let (hangs, half_speed) = {
            let faults = &self.world.state().faults;
            (faults.hangs, faults.half_speed)
        };
        if half_speed != self.half_speed {
            self.half_speed = half_speed;
            self.started = (Instant::now(), self.tree.leaves());
        }
        let (started, before) = self.started;
        let passed = started.elapsed().as_millis() as u64;
        let leaves_per_second = u64::from(self.leaves_per_second) / (1 + u64::from(half_speed));
        let due = before + passed * leaves_per_second / 1000;
        match self.follows() {
            true => drop(self.add_entries()),
            false => self.add_leaves(due.min(self.target)),
        }
        if !hangs && Instant::now() >= self.retry {
            let result = self.write();
            if result.is_err() {
                self.retry = Instant::now() + RETRY;
            }
            self.error = result.err().map(|error| error.to_string());
        }
        if let Some(audit) = &mut self.audit
            && self.last_audit.elapsed() >= AUDIT_INTERVAL
        {
            self.last_audit = Instant::now();
            // It is retried.
            drop(audit.catch_up(&AtomicBool::new(false)));
        }
    }

    fn write(&mut self) -> Result<(), LogError> {
        if self.last_sync.elapsed() < SYNC_INTERVAL {
            return self.log.write();
        }
        self.log.sync()?;
        self.last_sync = Instant::now();
        Ok(())
    }

    /// Flips a bit of the state.
    fn go_wrong(&mut self) {
        let mut parked = self.tree.parked().to_vec();
        if parked.is_empty() {
            return;
        }
        let node = self.world.below(parked.len() as u32) as usize;
        parked[node][self.world.below(32) as usize] ^= 1 << self.world.below(8);
        let (work, leaves) = (*self.tree.work(), self.tree.leaves());
        self.tree = Tree::from_parked(&work, &self.execution.statement, leaves, &parked).unwrap();
        self.world.count(Event::Mistake);
        let round = self.open.0.round;
        self.world.note(format_args!(
            "the work of round {round} goes wrong at leaf {leaves}"
        ));
    }

    fn add_leaves(&mut self, target: u64) {
        let target = AtomicU64::new(target);
        let Self {
            tree,
            leaves,
            execution,
            log,
            ..
        } = self;
        run(tree, execution.subtree_height, &target, leaves, |root| {
            log.push(root).expect("a backlog without end");
        });
    }

    /// Adds what has come of another server's entries. Returns whether there may be more.
    fn add_entries(&mut self) -> bool {
        let Some(entries) = &self.entries else {
            return false;
        };
        let work = *self.tree.work();
        let round = self.execution.round_work(&work);
        loop {
            match entries.try_recv() {
                Ok(entries) => {
                    for entry in entries {
                        round.add_entry(&mut self.tree, entry);
                        self.log.push(entry).expect("a backlog without end");
                    }
                    self.leaves.store(self.tree.leaves(), Relaxed);
                }
                Err(end) => return end == TryRecvError::Empty,
            }
        }
    }

    fn follows(&self) -> bool {
        self.entries.is_some()
    }
}

impl Running for SimulatedRun {
    type Log = SimulatedLog;

    fn leaves(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.leaves)
    }

    fn log(&self) -> LogView {
        self.view.clone()
    }

    fn status(&mut self) -> Status {
        if !self.world.crashed() {
            self.advance();
            let (round, durable) = (self.open.0.round, self.log.durable_entries());
            let synced = {
                let state = self.world.state();
                let file = state.disk.files.get(&round);
                file.filter(|file| !file.lied)
                    .map(|file| file.synced_entries())
            };
            self.world
                .require(synced.is_none_or(|synced| synced >= durable), || {
                    format!("of log {round}, {durable} entries are said to be durable and are not")
                });
        }
        Status {
            durable_entries: self.log.durable_entries(),
            log_error: self.error.clone(),
            stopped: match self.follows() {
                true => !self.add_entries(),
                false => self.tree.leaves() >= self.target,
            },
            wrong_entry: self.audit.as_ref().and_then(RoundAudit::wrong_entry),
            auditors_failed: false,
        }
    }

    fn set_target(&mut self, target: u64) {
        self.target = target;
    }

    fn finish(mut self) -> Result<(Tree, SimulatedLog), WorkError> {
        // However long it takes.
        match self.follows() {
            true => drop(self.add_entries()),
            false => self.add_leaves(self.target),
        }
        let leaves = self.leaves.load(Relaxed);
        let round = self.open.0.round;
        self.world
            .note(format_args!("round {round} has {leaves} leaves"));
        let wrong = self
            .audit
            .as_ref()
            .is_some_and(|audit| audit.wrong_entry().is_some());
        if !wrong {
            self.reached.lock().unwrap().insert(round, leaves);
        }
        let mut log = self.log.finish()?;
        // Wrong leaves may be removed.
        self.reached.lock().unwrap().remove(&round);
        let tree = match self.audit {
            Some(mut audit) => audit.settle(self.tree, &mut log)?,
            None => self.tree,
        };
        let open = self.open;
        Ok((tree, SimulatedLog { open, log }))
    }
}
