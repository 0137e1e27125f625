//! Where and how the hashing thread runs: on a core of its own.
//!
//! The work is one chain on one core, and whatever else runs there slows it down. At the start:
//!
//! 1. The server measures every core that the process may use for a moment, one core standing for
//!    those that share execution units (SMT siblings), and chooses the fastest that no other server
//!    on the machine has claimed. Cores within a percent of it count as equally fast; of those it
//!    takes the one that has served the fewest device interrupts, and the last one if that decides
//!    nothing. Measured on two cores, one of which serves the disk: 2,500 registrations a second
//!    slowed the hashing there by 7 to 10 %, and on the other core not at all.
//! 2. It probes which priority the hashing thread may use, if one is requested, and locks the
//!    program's memory against swapping.
//!
//! When the work on a round begins, the hashing thread moves itself to its core and moves all other
//! threads of the program off it, and off its siblings if that leaves a core; threads that they
//! start inherit that. When the work ends, all threads may run everywhere: the proof is made on all
//! cores, and the many registrations of a cycle gap, when nothing is hashed, can use them, too.
//!
//! If the system does not permit something, the server warns and goes on without it. With only one
//! core, the hashing thread must share it and keeps its priority: raised, it would starve the rest
//! of the server.
//!
//! Raising the priority is not the default, because Linux may schedule by groups: each session, or
//! each service, gets a share of every core in proportion to its weight there. A thread of the
//! highest ordinary priority takes nearly all weight of its group to its own core, and leaves next
//! to nothing for the group's other threads elsewhere. Measured on two cores with ten other busy
//! processes: a request took 0.3 ms (99 % of them less than 36 ms) with a core for the hashing, and
//! 10 to 44 ms (460 ms) with the priority raised as well, at the same hash rate.

use std::{fs, io, sync::Arc};

use poet_files::reason;
use rustix::{
    io::Errno,
    process::Pid,
    thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity},
};

use crate::{
    WorkCore, WorkPriority,
    affinity::{
        linux::{cores, set},
        on_cores,
    },
    choice::{Choice, Hash, choose, others, siblings, warn_if_taken},
    claim::{Claim, claim},
    list,
    priority::{lock_memory, permitted, raise},
};

/// How often to scan for threads until all are placed.
const MAX_SCANS: usize = 100;

/// Where and how the hashing thread runs. By default, like every other thread.
#[derive(Clone, Debug, Default)]
pub struct WorkPlace {
    place: Option<Place>,
    /// The core and the reason for it, in words.
    why: String,
    /// Keeps other servers off the core.
    _claim: Option<Arc<Claim>>,
}

#[derive(Clone, Debug)]
struct Place {
    core: usize,
    /// The cores of the process at its start.
    allowed: CpuSet,
    /// The cores of all other threads while there is a hashing thread.
    others: CpuSet,
    priority: WorkPriority,
}

impl WorkPlace {
    /// Chooses a core, measured with `hash`, which does some of the work and returns its number of
    /// hashes. Call it while no other part of the program runs.
    pub fn prepare(core: WorkCore, priority: WorkPriority, hash: Hash<'_>) -> Self {
        if core == WorkCore::Off {
            tracing::info!("the hashing thread shares its core: --work-core=off");
            return Self::shared("--work-core=off");
        }
        let allowed = match sched_getaffinity(None) {
            Ok(allowed) => allowed,
            Err(error) => {
                let error = reason(&error.into());
                tracing::warn!(
                    error,
                    "no core for the hashing thread: the system does not report its cores"
                );
                return Self::shared("the system does not report its cores");
            }
        };
        let take_claim = |core| claim(core, &siblings(core));
        let cores = cores(&allowed);
        if let [only] = cores[..] {
            tracing::info!("the hashing thread shares the only core of this process");
            let claim = take_claim(only)
                .inspect_err(|taken| warn_if_taken(only, taken))
                .ok();
            return Self {
                _claim: claim.map(Arc::new),
                ..Self::shared("this process has only one")
            };
        }
        let Some(Choice { core, why, claim }) = choose(core, &cores, hash, &take_claim) else {
            return Self::shared("no core could be had, as the log says");
        };
        let others = others(&cores, core, &siblings(core));
        if on_cores(&others, || ()).is_none() {
            tracing::warn!("no core for the hashing thread: the system keeps other threads on it");
            return Self::shared("the system keeps other threads on every core");
        }
        let priority = permitted(priority);
        let memory = lock_memory();
        tracing::info!(
            core,
            why,
            others = list(&others),
            %priority,
            memory = if memory { "locked" } else { "not locked" },
            "the hashing thread has a core of its own"
        );
        Self {
            why: format!("core {core}, its own: {why}"),
            place: Some(Place {
                core,
                allowed,
                others: set(&others),
                priority,
            }),
            _claim: claim.map(Arc::new),
        }
    }

    fn shared(why: &str) -> Self {
        Self {
            why: format!("shares its core: {why}"),
            ..Self::default()
        }
    }

    /// Returns where the thread runs, and why.
    pub fn describe(&self) -> &str {
        match self.why.as_str() {
            "" => "shares its core",
            why => why,
        }
    }

    /// Returns whether the hashing thread has a core that no other thread of the program uses.
    pub fn is_apart(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| !place.others.is_set(place.core))
    }

    /// Moves the calling thread, which hashes, to its core, and all other threads off it until the
    /// result is dropped.
    pub fn enter(&self) -> Occupied {
        let Some(place) = &self.place else {
            return Occupied(None);
        };
        if let Err(error) = sched_setaffinity(None, &set(&[place.core])) {
            let (error, core) = (reason(&error.into()), place.core);
            tracing::warn!(error, core, "the hashing thread cannot run on its core");
        }
        if let Err(reason) = raise(place.priority) {
            tracing::warn!("the priority of the hashing thread stays as it is: {reason}");
        }
        if place.others == place.allowed {
            return Occupied(None);
        }
        place_others(&place.others);
        Occupied(Some(place.allowed))
    }
}

/// Keeps other threads off the core of the hashing thread until dropped.
#[must_use]
#[derive(Debug)]
pub struct Occupied(Option<CpuSet>);

impl Drop for Occupied {
    fn drop(&mut self) {
        if let Some(allowed) = &self.0 {
            place_others(allowed);
            // If the system does not permit more cores, the thread stays where it is.
            let _ = sched_setaffinity(None, allowed);
        }
    }
}

/// Restricts all threads of this process except the calling one to `cores`.
fn place_others(cores: &CpuSet) {
    // A thread not yet placed may start others meanwhile. Once a scan finds every thread placed,
    // the threads they start are placed, too.
    for _ in 0..MAX_SCANS {
        match place_found(cores) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                let error = reason(&error);
                tracing::warn!(error, "some threads share the core of the hashing thread");
                return;
            }
        }
    }
    tracing::warn!("some threads may share the core of the hashing thread: too many are started");
}

/// Places the threads found; returns how many were elsewhere.
fn place_found(cores: &CpuSet) -> io::Result<usize> {
    let caller = gettid();
    let mut placed = 0;
    for entry in fs::read_dir("/proc/self/task")? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        let Some(id) = id.and_then(Pid::from_raw).filter(|id| *id != caller) else {
            continue;
        };
        match place(id, cores) {
            Ok(moved) => placed += usize::from(moved),
            // The thread has ended.
            Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(placed)
}

/// Restricts a thread to `cores`; returns whether it was elsewhere.
fn place(thread: Pid, cores: &CpuSet) -> rustix::io::Result<bool> {
    if sched_getaffinity(Some(thread))? == *cores {
        return Ok(false);
    }
    sched_setaffinity(Some(thread), cores)?;
    Ok(true)
}
