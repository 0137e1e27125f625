//! Threads on cores.

use std::thread;

use anyhow::{Result, bail};

#[cfg(feature = "hwloc")]
use by_hwloc::{allowed_cores, pin};

#[cfg(not(feature = "hwloc"))]
use by_affinity::{allowed_cores, pin};

/// The cores that this process may run on, in order. To be asked before any thread is pinned: a
/// thread's children may run where it may.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let mut cores = allowed_cores();
    cores.sort_unstable();
    cores
}

#[cfg(not(feature = "hwloc"))]
mod by_affinity {
    pub(super) fn allowed_cores() -> Vec<usize> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        cores.into_iter().map(|core| core.id).collect()
    }

    pub(super) fn pin(core: usize) -> bool {
        core_affinity::set_for_current(core_affinity::CoreId { id: core })
    }
}

#[cfg(feature = "hwloc")]
mod by_hwloc {
    use std::sync::LazyLock;

    use hwlocality::Topology;
    use hwlocality::cpu::binding::CpuBindingFlags;
    use hwlocality::cpu::cpuset::CpuSet;
    use hwlocality::object::types::ObjectType;

    static TOPOLOGY: LazyLock<Option<Topology>> = LazyLock::new(|| Topology::new().ok());

    /// The place of each core.
    fn places(topology: &Topology) -> impl Iterator<Item = (usize, CpuSet)> {
        let cores = topology.objects_with_type(ObjectType::PU);
        cores.filter_map(|core| Some((core.os_index()?, core.cpuset()?.clone_target())))
    }

    pub(super) fn allowed_cores() -> Vec<usize> {
        let Some(topology) = TOPOLOGY.as_ref() else {
            return Vec::new();
        };
        // Where the system does not tell how a thread is bound, it is not.
        let bound = topology.cpu_binding(CpuBindingFlags::THREAD).ok();
        let allowed = |place: &CpuSet| {
            topology.allowed_cpuset().includes(place)
                && bound.as_ref().is_none_or(|bound| bound.includes(place))
        };
        let places = places(topology).filter(|(_, place)| allowed(place));
        places.map(|(core, _)| core).collect()
    }

    pub(super) fn pin(core: usize) -> bool {
        let topology = TOPOLOGY.as_ref();
        topology.is_some_and(|topology| {
            let place = places(topology).find(|(id, _)| *id == core);
            place.is_some_and(|(_, place)| {
                topology.bind_cpu(&place, CpuBindingFlags::THREAD).is_ok()
            })
        })
    }
}

/// Runs `work` on a thread of its own that is pinned to `core`.
///
/// # Errors
/// When the system does not let a thread run there.
///
/// # Panics
/// When `work` does.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let run = || pin(core).then(work);
    let result = thread::scope(|scope| scope.spawn(run).join());
    match result {
        Ok(Some(result)) => Ok(result),
        Ok(None) => bail!("the system does not let this process run on core {core}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Gives this thread, and those that it starts, a priority: a nice value, -20 for the highest.
///
/// # Errors
/// When that is not permitted.
#[cfg(unix)]
pub fn set_priority(nice: i32) -> Result<()> {
    use anyhow::Context;
    rustix::process::setpriority_process(None, nice).with_context(|| {
        format!("cannot set priority {nice}; below 0 it takes root or the capability CAP_SYS_NICE")
    })
}

/// Gives this thread a priority.
///
/// # Errors
/// Always: priorities are those of Unix.
#[cfg(not(unix))]
pub fn set_priority(_nice: i32) -> Result<()> {
    bail!("--priority is for Unix systems")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_threads_stay_on_their_core() {
        for core in allowed() {
            let seen = on_core(core, allowed).unwrap();
            assert_eq!(seen, [core]);
        }
        assert!(on_core(1023, || ()).is_err());
    }
}
