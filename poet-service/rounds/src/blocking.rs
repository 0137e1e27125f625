//! Blocking calls in asynchronous code.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Makes a call that blocks (on the disk, the database or a computation) in a part of the server
/// that has its own thread. A single-threaded runtime, as in a simulation, waits for it: there,
/// nothing runs concurrently.
///
/// Must not be used on the runtime's own threads: the runtime would start another thread, and if
/// the system does not provide one, the task panics.
///
/// # Panics
/// Outside a runtime.
pub fn blocking<T>(call: impl FnOnce() -> T) -> T {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => call(),
        _ => tokio::task::block_in_place(call),
    }
}
