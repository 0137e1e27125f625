//! The niceness of a thread, from -20 (first) to 19 (last).

use std::io;

/// The niceness of threads that use only idle time.
pub const LOWEST_PRIORITY: i32 = 19;

/// Sets the niceness of the calling thread, and of the threads it starts.
///
/// # Errors
/// Fails if the system does not permit it.
#[cfg(target_os = "linux")]
pub fn set(niceness: i32) -> io::Result<()> {
    // On Linux, each thread has its own priority.
    Ok(rustix::process::setpriority_process(None, niceness)?)
}

/// Does nothing: elsewhere, niceness applies to the whole process.
///
/// # Errors
/// Never fails.
#[cfg(not(target_os = "linux"))]
pub fn set(_niceness: i32) -> io::Result<()> {
    Ok(())
}
