//! The niceness of a thread, from -20 (first) to 19 (last).

use std::io;

/// The niceness of threads that use only idle time.
pub const LOWEST_PRIORITY: i32 = 19;

/// Sets the niceness of the calling thread, and of the threads and programs it starts. Does nothing
/// on systems other than Linux, where niceness applies to the whole process.
///
/// # Errors
/// Fails if the system does not permit it.
pub fn set(niceness: i32) -> io::Result<()> {
    if cfg!(target_os = "linux") {
        return set_program(niceness);
    }
    Ok(())
}

/// Sets the niceness of this program. Must be called before it starts threads: on Linux, each
/// thread has its own niceness.
///
/// # Errors
/// Fails if the system does not permit it, or is not a Unix.
#[cfg(unix)]
pub fn set_program(niceness: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, niceness)?)
}

/// Fails: only Unix systems have niceness.
///
/// # Errors
/// Always fails.
#[cfg(not(unix))]
pub fn set_program(_niceness: i32) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "only Unix systems have priorities of this kind",
    ))
}
