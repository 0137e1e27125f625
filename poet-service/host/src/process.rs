//! What this process takes of the machine.

use std::{fs, path::Path};

use crate::read::text;

/// What this process takes of the machine, as far as the system shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// CPU time of all threads, in seconds.
    pub cpu_seconds: f64,
    /// Memory that it has, in bytes.
    pub resident_bytes: u64,
    /// Addresses that it has, in bytes.
    pub virtual_bytes: u64,
    /// Its threads.
    pub threads: u64,
    /// Files and sockets that it has open.
    pub open_files: u64,
    /// How many it may have; 0 where there is no limit.
    pub max_open_files: u64,
}

impl Process {
    /// What this process takes at the moment.
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

/// The number after a name at the beginning of a line.
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
