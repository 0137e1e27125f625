//! The limit on open files; every connection counts against it.

/// Raises the limit on open files as far as the system allows, and returns it; `None` if there is
/// no limit, or it is unknown.
#[cfg(unix)]
pub fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    // The hard limit may exceed what the system grants; the limit is then unchanged.
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

/// There is no limit to raise here.
#[cfg(not(unix))]
pub fn raise_limit() -> Option<u64> {
    None
}
