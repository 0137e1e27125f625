//! The niceness of a thread, from -20 (first) to 19 (last).

use std::io;

/// The niceness of threads that take only what others leave.
pub const LOWEST_PRIORITY: i32 = 19;

/// Sets the niceness of the calling thread, and of those that it starts.
///
/// # Errors
/// Fails if the system does not permit it.
#[cfg(target_os = "linux")]
pub fn set(niceness: i32) -> io::Result<()> {
    // On Linux, threads have priorities of their own.
    Ok(rustix::process::setpriority_process(None, niceness)?)
}

/// Elsewhere it would be the whole process's: nothing happens.
///
/// # Errors
/// Never.
#[cfg(not(target_os = "linux"))]
pub fn set(_niceness: i32) -> io::Result<()> {
    Ok(())
}
