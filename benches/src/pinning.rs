//! Threads on cores, and their priority.

use anyhow::{Context, Result};
use poet_host::affinity;

/// Runs `work` on a thread of its own that is pinned to `core`.
///
/// # Errors
/// If the system does not let a thread run there.
///
/// # Panics
/// If `work` does.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    affinity::on_cores(&[core], work)
        .with_context(|| format!("the system does not let this process run on core {core}"))
}

/// Gives this thread, and those that it starts, a priority: a nice value, -20 for the highest.
///
/// # Errors
/// If that is not permitted.
#[cfg(unix)]
pub fn set_priority(nice: i32) -> Result<()> {
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
    anyhow::bail!("--priority is for Unix systems")
}
