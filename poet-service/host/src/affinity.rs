//! Pinning threads to cores.

use std::thread;

#[cfg(feature = "hwloc")]
use by_hwloc::{allowed_cores, pin};
#[cfg(all(not(feature = "hwloc"), not(target_os = "linux")))]
use elsewhere::{allowed_cores, pin};
#[cfg(all(not(feature = "hwloc"), target_os = "linux"))]
use linux::{allowed_cores, pin};

/// Returns the cores on which this thread may run, in order. Call it before pinning any thread: a
/// thread inherits the affinity of the thread that starts it.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let mut cores = allowed_cores();
    cores.sort_unstable();
    cores
}

/// Runs `work` on its own thread, restricted to `cores`; `None` if the system does not permit that.
///
/// # Panics
/// Panics if `work` does.
pub fn on_cores<T: Send>(cores: &[usize], work: impl FnOnce() -> T + Send) -> Option<T> {
    let run = || pin(cores).then(work);
    let result = thread::scope(|scope| scope.spawn(run).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Restricts the calling thread to the last of its cores, so that samples are comparable. Does
/// nothing where the system does not support it.
pub fn pin_to_last() {
    if let Some(core) = allowed().last() {
        pin(&[*core]);
    }
}

#[cfg(target_os = "linux")]
pub(crate) mod linux {
    use rustix::thread::CpuSet;
    #[cfg(not(feature = "hwloc"))]
    use rustix::thread::{sched_getaffinity, sched_setaffinity};

    use crate::MAX_CORES;

    #[cfg(not(feature = "hwloc"))]
    pub(super) fn allowed_cores() -> Vec<usize> {
        sched_getaffinity(None).map_or_else(|_| Vec::new(), |set| cores(&set))
    }

    #[cfg(not(feature = "hwloc"))]
    pub(super) fn pin(cores: &[usize]) -> bool {
        sched_setaffinity(None, &set(cores)).is_ok()
    }

    pub(crate) fn cores(set: &CpuSet) -> Vec<usize> {
        (0..MAX_CORES).filter(|core| set.is_set(*core)).collect()
    }

    pub(crate) fn set(cores: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for core in cores.iter().filter(|core| **core < MAX_CORES) {
            set.set(*core);
        }
        set
    }
}

#[cfg(all(not(feature = "hwloc"), not(target_os = "linux")))]
mod elsewhere {
    pub(super) fn allowed_cores() -> Vec<usize> {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        cores.into_iter().map(|core| core.id).collect()
    }

    /// Only one core can be requested here.
    pub(super) fn pin(cores: &[usize]) -> bool {
        match cores {
            [core] => core_affinity::set_for_current(core_affinity::CoreId { id: *core }),
            _ => false,
        }
    }
}

#[cfg(feature = "hwloc")]
mod by_hwloc {
    use std::sync::LazyLock;

    use hwlocality::{
        Topology,
        cpu::{binding::CpuBindingFlags, cpuset::CpuSet},
        object::types::ObjectType,
    };

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
        // If the system does not report a thread's binding, the thread is not bound.
        let bound = topology.cpu_binding(CpuBindingFlags::THREAD).ok();
        let allowed = |place: &CpuSet| {
            topology.allowed_cpuset().includes(place)
                && bound.as_ref().is_none_or(|bound| bound.includes(place))
        };
        let places = places(topology).filter(|(_, place)| allowed(place));
        places.map(|(core, _)| core).collect()
    }

    pub(super) fn pin(cores: &[usize]) -> bool {
        TOPOLOGY.as_ref().is_some_and(|topology| {
            let wanted = places(topology).filter(|(id, _)| cores.contains(id));
            let found: Vec<_> = wanted.map(|(_, place)| place).collect();
            let all = found.iter().fold(CpuSet::new(), |all, place| all | place);
            found.len() == cores.len() && topology.bind_cpu(&all, CpuBindingFlags::THREAD).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_threads_stay_on_their_core() {
        let here = allowed();
        for core in &here {
            assert_eq!(on_cores(&[*core], allowed), Some(vec![*core]));
        }
        assert_eq!(on_cores(&here, allowed), Some(here));
        assert_eq!(on_cores(&[crate::MAX_CORES - 1], || ()), None);
    }
}
