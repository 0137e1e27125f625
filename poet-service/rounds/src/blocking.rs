//! Calls that block, out of asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Makes a call that blocks (on the disk, the database or a computation) in a part of the server that
/// has a thread of its own. A runtime with one thread, on which a simulation runs, waits for it: there,
/// nothing happens beside anything else.
///
/// On the runtime's own threads it must not be used: another one would be made to stand in, and when
/// the system has none to give the task panics.
///
/// # Panics
/// Outside a runtime.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => call(),
        _ => tokio::task::block_in_place(call),
    }
}
