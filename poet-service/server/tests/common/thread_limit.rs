//! A control group with a limit on its threads, as service managers and containers set it.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::{fs, path::PathBuf};

use poet_conformance::skip;

/// Where the groups with such limits are, in the first and in the second version of control groups.
const ROOTS: [&str; 2] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"];

/// The group of one process, until this is dropped.
pub(crate) struct ThreadLimit {
    root: PathBuf,
    group: PathBuf,
}

impl ThreadLimit {
    /// `None`, with a message, where no group can be made.
    pub(crate) fn of(process: u32) -> Option<Self> {
        for root in ROOTS.map(PathBuf::from) {
            let limit = Self {
                group: root.join(format!("poet-test-{process}")),
                root,
            };
            let made = fs::create_dir(&limit.group)
                // Without it, the group has no limit.
                .and_then(|()| fs::metadata(limit.group.join("pids.max")))
                .and_then(|_| fs::write(limit.group.join("cgroup.procs"), process.to_string()));
            if made.is_ok() {
                return Some(limit);
            }
        }
        skip("no control group with a limit on threads can be made here");
        None
    }

    /// Sets how many threads there may be: a number, or `max`. Those that are there stay.
    pub(crate) fn allow(&self, threads: &str) {
        fs::write(self.group.join("pids.max"), threads).unwrap();
    }
}

impl Drop for ThreadLimit {
    fn drop(&mut self) {
        // A group is removed once nobody is in it. One that was not made has none.
        let processes = fs::read_to_string(self.group.join("cgroup.procs"));
        for process in processes.unwrap_or_default().lines() {
            drop(fs::write(self.root.join("cgroup.procs"), process));
        }
        drop(fs::remove_dir(&self.group));
    }
}
