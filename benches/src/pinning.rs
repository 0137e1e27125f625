//! Threads on cores.

use std::thread;

use anyhow::{Result, bail};

/// The cores that this process may run on, in order. To be asked before any thread is pinned: a
/// thread's children may run where it may.
#[must_use]
pub fn allowed() -> Vec<usize> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let mut cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores
}

/// Runs `work` on a thread of its own that is pinned to `core`.
///
/// # Errors
/// When the system does not let a thread run there.
///
/// # Panics
/// When `work` does.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    let pinned = || core_affinity::set_for_current(core_affinity::CoreId { id: core });
    let run = || pinned().then(work);
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
