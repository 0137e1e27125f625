//! Calls that block, out of asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Makes a call that blocks (on the disk, the database or a computation) while the runtime's other
/// tasks go on. A runtime with one thread, on which a simulation runs, waits for it: there, nothing
/// happens beside anything else.
///
/// # Panics
/// Outside a runtime.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => call(),
        _ => tokio::task::block_in_place(call),
    }
}
