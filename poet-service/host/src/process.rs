//! The resources that this process uses.

use std::{fs, path::Path};

use crate::read::text;

/// The resources that this process uses, as far as the system reports them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// The number of threads.
    pub threads: u64,
    /// The number of open files and sockets.
    pub open_files: u64,
    /// The limit on open files; 0 if there is none.
    pub max_open_files: u64,
}

impl Process {
    /// Reads the current values.
    #[must_use]
    pub fn read() -> Self {
        let root = Path::new("/");
        let status = text(root, "proc/self/status").unwrap_or_default();
        let field = |name: &str| field(&status, name).unwrap_or(0);
        let open_files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            cpu_seconds: cpu_seconds(),
            resident_bytes: field("VmRSS:") << 10,
            virtual_bytes: field("VmSize:") << 10,
            threads: field("Threads:"),
            open_files: open_files as u64,
            max_open_files: max_open_files(),
        }
    }
}

/// Returns the number after a name at the start of a line.
fn field(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

#[cfg(unix)]
fn max_open_files() -> u64 {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.unwrap_or(0)
}

#[cfg(not(unix))]
fn max_open_files() -> u64 {
    0
}

#[cfg(target_os = "linux")]
fn cpu_seconds() -> f64 {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(not(target_os = "linux"))]
fn cpu_seconds() -> f64 {
    0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_status() {
        let status = "Name:\thash\nVmSize:\t  20480 kB\nVmRSS:\t    5120 kB\nThreads:\t7\n";
        assert_eq!(field(status, "VmRSS:"), Some(5120));
        assert_eq!(field(status, "Threads:"), Some(7));
        assert_eq!(field(status, "VmSwap:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process() {
        let process = Process::read();
        assert!(process.resident_bytes > 1 << 16 && process.virtual_bytes > process.resident_bytes);
        assert!(process.threads > 0 && process.open_files > 2);
        let kept = vec![1_u8; 64 << 20];
        assert!(Process::read().resident_bytes > process.resident_bytes + (32 << 20));
        assert_eq!(kept.len(), 64 << 20);
    }
}
