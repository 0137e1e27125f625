//! Pinned threads, and their priority.

use anyhow::{Context, Result};
use poet_host::{affinity, niceness};

/// Runs `work` on a new thread that is pinned to `core`.
///
/// # Errors
/// Fails if the system does not let a thread run there.
///
/// # Panics
/// Panics if `work` does.
pub fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> Result<T> {
    affinity::on_cores(&[core], work)
        .with_context(|| format!("the system does not let this process run on core {core}"))
}

/// Sets the priority of this thread, and of the threads it starts, to a nice value; -20 is the
/// highest.
///
/// # Errors
/// Fails if that is not permitted.
pub fn set_priority(nice: i32) -> Result<()> {
    niceness::set_program(nice).with_context(|| {
        format!("cannot set priority {nice}; below 0 it takes root or the capability CAP_SYS_NICE")
    })
}
