//! Where and how the hashing thread runs: on a core of its own.
//!
//! The work is one chain on one core, and whatever else runs there is taken from it. At the start:
//!
//! 1. Every core that the process may use is measured for a moment, one of those that share
//!    execution units (SMT siblings) standing for all, and the fastest is chosen. Cores within a
//!    percent of it are as fast; of those the one is taken that has served the fewest interrupts of
//!    devices, the last one if that decides nothing. Measured on two cores, one of which serves the
//!    disk: 2,500 registrations a second cost the hashing there 7 to 10 %, on the other one nothing.
//! 2. It is found out which priority the hashing thread can have, if one is asked for, and the
//!    program's memory is kept from being swapped out.
//!
//! When the work on a round begins, the hashing thread moves itself to its core and all others of the
//! program off it, and off its siblings if that leaves a core; threads that these start inherit
//! that. When it ends, all may run everywhere: the proof is made on all cores, and the many
//! registrations of a cycle gap, in which nothing is hashed, have them, too.
//!
//! What the system does not permit is a warning; the work goes on without it. Where there is only
//! one core, the hashing thread has to share it, and keeps its priority: raised, it would starve
//! the rest of the server.
//!
//! Raising the priority is not the default, because Linux may schedule by groups: each session, or
//! each service, gets its share of every core by how much weight it has there. A thread of the highest
//! ordinary priority takes nearly all weight of its group to its own core, and what the group's other
//! threads have left elsewhere is next to nothing. Measured on two cores with ten other busy
//! processes: a request took 0.3 ms (99 % of them less than 36 ms) with a core for the hashing, and 10
//! to 44 ms (460 ms) with the priority raised, too, at the same rate of hashing.

use std::{fmt, str::FromStr};

use poet_engine::Work;

/// The most cores that an affinity mask has room for.
const MAX_CORES: usize = 1024;

/// Which core the hashing thread gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkCore {
    /// The fastest.
    #[default]
    Auto,
    /// The one with this number.
    Number(usize),
    /// None of its own.
    Off,
}

impl FromStr for WorkCore {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .ok()
                .filter(|core| *core < MAX_CORES)
                .map(Self::Number)
                .ok_or("expected auto, off or the number of a core"),
        }
    }
}

impl fmt::Display for WorkCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Number(core) => write!(f, "{core}"),
            Self::Off => f.write_str("off"),
        }
    }
}

/// How the hashing thread stands against others that want its core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WorkPriority {
    /// Like every other thread.
    #[default]
    Off,
    /// With the highest of the ordinary priorities.
    Nice,
    /// Before everything that is not real-time.
    Realtime,
}

impl FromStr for WorkPriority {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Off, Self::Nice, Self::Realtime]
            .into_iter()
            .find(|priority| priority.to_string() == text)
            .ok_or("expected off, nice or realtime")
    }
}

impl fmt::Display for WorkPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Nice => "nice",
            Self::Realtime => "realtime",
        })
    }
}

#[cfg(target_os = "linux")]
pub use linux::WorkPlace;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::WorkPlace;

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        cmp::Reverse,
        collections::BTreeMap,
        fs, io, thread,
        time::{Duration, Instant},
    };

    use poet_engine::{LABEL_DEPTH, ZERO};
    use rustix::{
        io::Errno,
        mm::{MlockAllFlags, mlockall},
        process::{Pid, Resource, Rlimit, getrlimit, setpriority_process, setrlimit},
        thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity},
    };
    use thread_priority::{
        RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
        set_thread_priority_and_policy, thread_native_id,
    };

    use super::{MAX_CORES, Work, WorkCore, WorkPriority};

    /// How long all cores together are measured, and one of them at least and at most.
    const TRIAL: Duration = Duration::from_millis(400);
    const CORE_TRIAL: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(40)];
    /// Differences below are noise.
    const MARGIN: f64 = 1.01;

    const HIGHEST_PRIORITY: i32 = -20;
    /// How often threads are looked for until all are where they should be.
    const MAX_SCANS: usize = 100;
    /// Any real-time priority comes before all ordinary ones; the kernel's own come before this.
    const REALTIME_PRIORITY: i32 = 1;

    /// Where and how the hashing thread runs. The default is: like every other thread.
    #[derive(Clone, Debug, Default)]
    pub struct WorkPlace(Option<Place>);

    #[derive(Clone, Debug)]
    struct Place {
        core: usize,
        /// The cores of the process as it was started.
        allowed: CpuSet,
        /// Where all other threads run while there is a hashing thread.
        others: CpuSet,
        priority: WorkPriority,
    }

    impl WorkPlace {
        /// Chooses a core, measured with the kernel of `work`. To be called while nothing else of
        /// the program runs.
        pub fn prepare(core: WorkCore, priority: WorkPriority, work: &Work) -> Self {
            if core == WorkCore::Off {
                tracing::info!("the hashing thread shares its core: --work-core=off");
                return Self::default();
            }
            let allowed = match sched_getaffinity(None) {
                Ok(allowed) => allowed,
                Err(error) => {
                    tracing::warn!(%error, "no core for the hashing thread: the system does not tell which there are");
                    return Self::default();
                }
            };
            let cores = cores(&allowed);
            if cores.len() < 2 {
                tracing::info!("the hashing thread shares the only core of this process");
                return Self::default();
            }
            let Some((core, why)) = choose(core, &cores, work) else {
                return Self::default();
            };
            let others = others(&cores, core, &siblings(core));
            if on_cores(&others, || ()).is_none() {
                tracing::warn!(
                    "no core for the hashing thread: the system keeps other threads on it"
                );
                return Self::default();
            }
            let mut place = Place {
                core,
                allowed,
                others: set(&others),
                priority,
            };
            place.priority = place.permitted();
            let memory = lock_memory();
            tracing::info!(
                core,
                why,
                others = list(&others),
                priority = %place.priority,
                memory = if memory { "locked" } else { "not locked" },
                "the hashing thread has a core of its own"
            );
            Self(Some(place))
        }

        /// Whether the hashing thread has a core that no other thread of the process runs on.
        pub(crate) fn is_apart(&self) -> bool {
            self.0
                .as_ref()
                .is_some_and(|place| !place.others.is_set(place.core))
        }

        /// Called by the hashing thread: moves it to its core, and all other threads off it until
        /// the result is dropped.
        pub(crate) fn enter(&self) -> Occupied {
            let Some(place) = &self.0 else {
                return Occupied(None);
            };
            if let Err(error) = sched_setaffinity(None, &set(&[place.core])) {
                tracing::warn!(%error, core = place.core, "the hashing thread cannot run on its core");
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

    /// While it is there, other threads keep off the core of the hashing thread.
    #[must_use]
    #[derive(Debug)]
    pub(crate) struct Occupied(Option<CpuSet>);

    impl Drop for Occupied {
        fn drop(&mut self) {
            if let Some(allowed) = &self.0 {
                place_others(allowed);
            }
        }
    }

    /// Lets all threads of this process but the calling one run on `cores`.
    fn place_others(cores: &CpuSet) {
        // A thread that has not been placed yet may start others meanwhile. Once all that are found
        // are where they should be, those that they start are, too.
        for _ in 0..MAX_SCANS {
            match place_found(cores) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "some threads share the core of the hashing thread");
                    return;
                }
            }
        }
        tracing::warn!(
            "some threads may share the core of the hashing thread: too many are started"
        );
    }

    /// Places the threads that are found; returns how many were somewhere else.
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
                // It has ended.
                Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(placed)
    }

    /// Lets a thread run on `cores`; returns whether it was somewhere else.
    fn place(thread: Pid, cores: &CpuSet) -> rustix::io::Result<bool> {
        if sched_getaffinity(Some(thread))? == *cores {
            return Ok(false);
        }
        sched_setaffinity(Some(thread), cores)?;
        Ok(true)
    }

    impl Place {
        /// The priority that the hashing thread can have, tried by a thread on its core.
        fn permitted(&self) -> WorkPriority {
            let attempt = |priority| {
                thread::scope(|scope| scope.spawn(move || raise(priority)).join())
                    .unwrap_or_else(|_| Err("the attempt failed".to_owned()))
            };
            let mut priority = self.priority;
            if priority == WorkPriority::Realtime {
                match attempt(priority) {
                    Ok(()) => warn_if_limited(),
                    Err(reason) => {
                        tracing::warn!("--work-priority=realtime is not permitted: {reason}");
                        priority = WorkPriority::Nice;
                    }
                }
            }
            if priority == WorkPriority::Nice {
                match attempt(priority) {
                    Ok(()) => warn_if_grouped(),
                    Err(reason) => {
                        tracing::warn!("--work-priority=nice is not permitted: {reason}");
                        priority = WorkPriority::Off;
                    }
                }
            }
            priority
        }
    }

    /// The core, and why that one.
    fn choose(core: WorkCore, allowed: &[usize], work: &Work) -> Option<(usize, String)> {
        if let WorkCore::Number(core) = core {
            // It may be one that the scheduler leaves alone, and so not be among the allowed ones.
            let pinned = on_cores(&[core], || ());
            if pinned.is_none() {
                tracing::warn!(
                    "--work-core={core}: the system does not let this process run there, the \
                     hashing thread shares cores {}",
                    list(allowed)
                );
            }
            return pinned.map(|()| (core, "--work-core".to_owned()));
        }
        let candidates = candidates(allowed, siblings);
        let count = u32::try_from(candidates.len()).unwrap_or(u32::MAX);
        let time = (TRIAL / count).clamp(CORE_TRIAL[0], CORE_TRIAL[1]);
        let rates: Vec<_> = candidates
            .iter()
            .filter_map(|core| Some((*core, on_cores(&[*core], || hash_rate(work, time))?)))
            .collect();
        // Without the table, no core has any.
        let table = fs::read_to_string("/proc/interrupts").unwrap_or_default();
        let Some((core, rate)) = fastest(&rates, &device_interrupts(&table)) else {
            tracing::warn!("no core for the hashing thread: the system lets no thread choose one");
            return None;
        };
        let why = format!("fastest of {count}, {:.2} M hashes/s", rate / 1e6);
        Some((core, why))
    }

    /// Runs something on a core of `cores`; `None` when the system does not permit that.
    fn on_cores<T: Send>(cores: &[usize], run: impl FnOnce() -> T + Send) -> Option<T> {
        thread::scope(|scope| {
            let pinned = move || {
                sched_setaffinity(None, &set(cores)).ok()?;
                Some(run())
            };
            scope.spawn(pinned).join().ok().flatten()
        })
    }

    /// How fast the chain is. The first third of the time is for the clock to get up.
    fn hash_rate(work: &Work, time: Duration) -> f64 {
        let mut digest = ZERO;
        let mut run_for = |time: Duration| {
            let (start, mut hashes) = (Instant::now(), 0);
            while start.elapsed() < time {
                work.kernels().chain.one(&mut digest, LABEL_DEPTH);
                hashes += u64::from(LABEL_DEPTH);
            }
            hashes as f64 / start.elapsed().as_secs_f64()
        };
        run_for(time / 3);
        run_for(time * 2 / 3)
    }

    /// One of the cores that share execution units stands for all of them.
    fn candidates(allowed: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
        let last = |core: &usize| {
            let siblings = siblings(*core);
            !siblings
                .iter()
                .any(|sibling| sibling > core && allowed.contains(sibling))
        };
        allowed.iter().copied().filter(last).collect()
    }

    fn fastest(rates: &[(usize, f64)], interrupts: &BTreeMap<usize, u64>) -> Option<(usize, f64)> {
        let best = rates.iter().map(|(_, rate)| *rate).max_by(f64::total_cmp)?;
        let fast = rates.iter().filter(|(_, rate)| rate * MARGIN >= best);
        fast.max_by_key(|(core, _)| (Reverse(interrupts.get(core)), *core))
            .copied()
    }

    /// How many interrupts of devices each core has served, from `/proc/interrupts`: a column for each
    /// core, and a row for each device, which has a number. Rows with letters are the system's own.
    fn device_interrupts(table: &str) -> BTreeMap<usize, u64> {
        let mut rows = table.lines();
        let header = rows.next().unwrap_or_default().split_whitespace();
        let cores: Vec<usize> = header
            .filter_map(|name| name.strip_prefix("CPU")?.parse().ok())
            .collect();
        let mut interrupts: BTreeMap<_, _> = cores.iter().map(|core| (*core, 0)).collect();
        for row in rows {
            let mut fields = row.split_whitespace();
            let number = fields.next().and_then(|name| name.strip_suffix(':'));
            if number.is_none_or(|number| number.parse::<u32>().is_err()) {
                continue;
            }
            for (core, count) in cores.iter().zip(fields) {
                *interrupts.entry(*core).or_default() += count.parse::<u64>().unwrap_or(0);
            }
        }
        interrupts
    }

    /// Where all other threads run.
    fn others(allowed: &[usize], core: usize, siblings: &[usize]) -> Vec<usize> {
        let without = |taken: &[usize]| -> Vec<usize> {
            let rest = allowed.iter().copied();
            rest.filter(|other| *other != core && !taken.contains(other))
                .collect()
        };
        let apart = without(siblings);
        if apart.is_empty() {
            without(&[])
        } else {
            apart
        }
    }

    /// The cores that share the execution units of `core`, itself among them.
    fn siblings(core: usize) -> Vec<usize> {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
        // Where the system does not tell, there are none.
        parse_list(&fs::read_to_string(path).unwrap_or_default())
    }

    /// `0-3,8` is 0, 1, 2, 3 and 8.
    fn parse_list(text: &str) -> Vec<usize> {
        let ranges = text.trim().split(',').filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            (last < MAX_CORES).then_some(first..=last)
        });
        ranges.flatten().collect()
    }

    fn list(cores: &[usize]) -> String {
        let cores: Vec<_> = cores.iter().map(usize::to_string).collect();
        cores.join(",")
    }

    fn cores(set: &CpuSet) -> Vec<usize> {
        (0..MAX_CORES).filter(|core| set.is_set(*core)).collect()
    }

    fn set(cores: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for core in cores {
            set.set(*core);
        }
        set
    }

    /// Raises the priority of the calling thread.
    fn raise(priority: WorkPriority) -> Result<(), String> {
        match priority {
            WorkPriority::Off => Ok(()),
            WorkPriority::Nice => setpriority_process(None, HIGHEST_PRIORITY).map_err(|error| {
                format!("{error}: expected CAP_SYS_NICE, or LimitNICE={HIGHEST_PRIORITY} in the unit file")
            }),
            WorkPriority::Realtime => {
                let policy =
                    ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
                let priority = ThreadPriority::from_posix(thread_priority::ScheduleParams {
                    sched_priority: REALTIME_PRIORITY,
                });
                set_thread_priority_and_policy(thread_native_id(), priority, policy).map_err(|error| {
                    format!("{error}: expected CAP_SYS_NICE, or LimitRTPRIO={REALTIME_PRIORITY} in the unit file")
                })
            }
        }
    }

    /// Most kernels let real-time threads have 95 % of the time, and leave the core idle for the
    /// rest.
    fn warn_if_limited() {
        const LIMIT: &str = "/proc/sys/kernel/sched_rt_runtime_us";
        let limit = fs::read_to_string(LIMIT).unwrap_or_default();
        if !matches!(limit.trim(), "" | "-1") {
            tracing::warn!(
                "with --work-priority=realtime the kernel may take up to 5 % of the time from the \
                 hashing thread, unless kernel.sched_rt_runtime_us is -1 (it is {})",
                limit.trim()
            );
        }
    }

    /// See the module's page.
    fn warn_if_grouped() {
        const GROUPS: &str = "/proc/sys/kernel/sched_autogroup_enabled";
        if fs::read_to_string(GROUPS).is_ok_and(|groups| groups.trim() == "1") {
            tracing::warn!(
                "with --work-priority=nice the other threads of this server may starve while other \
                 programs are busy, unless kernel.sched_autogroup_enabled is 0"
            );
        }
    }

    /// Keeps the memory that is used from being swapped out. Only without a limit on that: with
    /// one, a server whose memory grows over it could not go on.
    fn lock_memory() -> bool {
        let unlimited = Rlimit {
            current: None,
            maximum: None,
        };
        if getrlimit(Resource::Memlock).current.is_some()
            && let Err(error) = setrlimit(Resource::Memlock, unlimited)
        {
            tracing::warn!(
                "the memory is not locked: {error}: expected CAP_SYS_RESOURCE, or \
                 LimitMEMLOCK=infinity in the unit file"
            );
            return false;
        }
        // Pages as they are used, not all that is reserved.
        let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
        let locked = mlockall(flags);
        if let Err(error) = locked {
            tracing::warn!(%error, "the memory is not locked");
        }
        locked.is_ok()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn lists_are_read() {
            assert_eq!(parse_list("0\n"), [0]);
            assert_eq!(parse_list("0-2,8,10-11\n"), [0, 1, 2, 8, 10, 11]);
            assert!(parse_list("").is_empty());
            assert_eq!(parse_list("x,3,9999999"), [3]);
            assert_eq!(list(&[0, 1, 8]), "0,1,8");
        }

        /// Four physical cores: 0 to 3, with siblings 4 to 7.
        fn smt(core: usize) -> Vec<usize> {
            vec![core % 4, core % 4 + 4]
        }

        #[test]
        fn one_sibling_stands_for_all() {
            assert_eq!(candidates(&[0, 1, 2, 3, 4, 5, 6, 7], smt), [4, 5, 6, 7]);
            assert_eq!(candidates(&[0, 1, 4], smt), [1, 4]);
            assert_eq!(candidates(&[3, 5], |_| Vec::new()), [3, 5]);
        }

        #[test]
        fn the_fastest_core_is_taken_and_noise_does_not_choose() {
            let none = BTreeMap::new();
            let rates = [(0, 10.0), (1, 12.0), (2, 11.0)];
            assert_eq!(fastest(&rates, &none), Some((1, 12.0)));
            let rates = [(0, 10.05), (1, 10.0), (2, 9.0)];
            assert_eq!(fastest(&rates, &none), Some((1, 10.0)));
            let busy = BTreeMap::from([(0, 7), (1, 5000), (2, 0)]);
            assert_eq!(fastest(&rates, &busy), Some((0, 10.05)));
            assert_eq!(fastest(&[], &none), None);
        }

        #[test]
        fn interrupts_of_devices_are_counted_by_core() {
            let table = "           CPU0       CPU2
  1:         10          0  IO-APIC   1-edge      i8042
 36:          5    5081051  PCI-MSI  virtio1-req.0
LOC:    6415006    6655821  Local timer interrupts
ERR:          3
 40:          x          1";
            let expected = BTreeMap::from([(0, 15), (2, 5_081_052)]);
            assert_eq!(device_interrupts(table), expected);
            assert!(device_interrupts("").is_empty());
        }

        #[test]
        fn the_others_keep_away_from_the_core_and_its_siblings() {
            let all = [0, 1, 2, 3, 4, 5, 6, 7];
            assert_eq!(others(&all, 5, &smt(5)), [0, 2, 3, 4, 6, 7]);
            // Cores that are not allowed are for nobody; one outside can be the hashing thread's.
            assert_eq!(others(&[0, 1], 7, &smt(7)), [0, 1]);
            // The sibling is all there is.
            assert_eq!(others(&[0, 4], 4, &smt(4)), [0]);
            assert_eq!(others(&[0, 1], 1, &[1]), [0]);
        }

        #[test]
        fn pinned_threads_run_where_they_should() {
            let here = cores(&sched_getaffinity(None).unwrap());
            for core in &here {
                let seen = on_cores(&[*core], || cores(&sched_getaffinity(None).unwrap()));
                assert_eq!(seen, Some(vec![*core]));
            }
            assert_eq!(on_cores(&[MAX_CORES - 1], || ()), None);
            assert_eq!(cores(&set(&here)), here);
        }

        #[test]
        fn the_fastest_is_one_of_those_allowed() {
            let work = poet_backends::select(poet_engine::WorkFunction::Sha256, None)
                .unwrap()
                .work(LABEL_DEPTH)
                .unwrap();
            let here = cores(&sched_getaffinity(None).unwrap());
            let (core, why) = choose(WorkCore::Auto, &here, &work).unwrap();
            assert!(
                here.contains(&core) && why.starts_with("fastest of "),
                "{why}"
            );
            let named = choose(WorkCore::Number(here[0]), &here, &work);
            assert_eq!(named, Some((here[0], "--work-core".to_owned())));
            assert_eq!(choose(WorkCore::Number(MAX_CORES - 1), &here, &work), None);
        }
    }
}

/// Systems that do not let a program place its threads.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use super::{Work, WorkCore, WorkPriority};

    /// Where and how the hashing thread runs: like every other thread.
    #[derive(Clone, Debug, Default)]
    pub struct WorkPlace;

    impl WorkPlace {
        /// Says so if something else is wanted.
        pub fn prepare(core: WorkCore, _priority: WorkPriority, _work: &Work) -> Self {
            if core != WorkCore::Off {
                tracing::info!("the hashing thread shares its core: --work-core is for Linux");
            }
            Self
        }

        pub(crate) fn is_apart(&self) -> bool {
            false
        }

        pub(crate) fn enter(&self) -> Occupied {
            Occupied
        }
    }

    /// Nothing.
    #[must_use]
    #[derive(Debug)]
    pub(crate) struct Occupied;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_written() {
        for core in [WorkCore::Auto, WorkCore::Off, WorkCore::Number(3)] {
            assert_eq!(core.to_string().parse(), Ok(core));
        }
        for priority in [
            WorkPriority::Off,
            WorkPriority::Nice,
            WorkPriority::Realtime,
        ] {
            assert_eq!(priority.to_string().parse(), Ok(priority));
        }
        for text in ["", "-1", "1024", "fast", "0,1"] {
            assert!(text.parse::<WorkCore>().is_err());
        }
        assert!("high".parse::<WorkPriority>().is_err());
    }
}
