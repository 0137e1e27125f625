//! The limit on open files, which every connection counts against.

/// Raises the number of files that the process may have open as far as the system allows, and
/// returns it; `None` where there is no limit, or none that is known.
#[cfg(unix)]
pub fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // The hard limit may be beyond what the system grants; then it stays as it was.
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// Raises the number of files that the process may have open: nothing to do here.
#[cfg(not(unix))]
pub fn raise_limit() -> Option<u64> {
    None
}
