//! A disk in memory that is full, slow or failing.

#![allow(dead_code, reason = "each test uses some of it")]
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::io::{Error, ErrorKind, Result};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use poet_backend_generic::Generic;
use poet_engine::file::{BackingFile, FileLog};
use poet_engine::{Kernels, LogRead, Node, RoundWork, SubtreeHeight, Work, WorkFunction};

/// A disk: its contents, the unsynced writes, and its faults.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

type Meanwhile = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(crate) struct State {
    /// The contents that reads return.
    pub(crate) bytes: Vec<u8>,
    /// The contents after a power failure.
    pub(crate) durable: Vec<u8>,
    /// The number of bytes of the file that fit on the disk.
    pub(crate) room: Option<usize>,
    /// The number of writes for which there was no room.
    pub(crate) refused_writes: u32,
    /// The most bytes that a call reads or writes.
    pub(crate) short: Option<usize>,
    /// The number of syncs that fail; each one loses what was written since the last success, as on
    /// Linux: the pages count as clean afterwards.
    pub(crate) failing_syncs: u32,
    /// The number of calls that are interrupted.
    pub(crate) interruptions: u32,
    /// Writes hang.
    pub(crate) stuck: bool,
    /// Syncs hang.
    pub(crate) stuck_syncs: bool,
    /// The number of syncs begun.
    pub(crate) syncs: u32,
    /// What other threads do during the next sync, and before the next write takes effect.
    pub(crate) during_sync: Option<Meanwhile>,
    pub(crate) during_write: Option<Meanwhile>,
    /// The ranges that were written and never synced.
    pub(crate) dirty: Vec<std::ops::Range<usize>>,
}

impl Disk {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    pub(crate) fn log(&self) -> FileLog {
        FileLog::in_file(self.clone(), &round(&work())).unwrap()
    }

    /// Returns the disk after a power failure.
    pub(crate) fn after_power_failure(&self) -> Self {
        let bytes = self.state().durable.clone();
        let disk = Self::default();
        disk.set(|state| {
            state.durable.clone_from(&bytes);
            state.bytes = bytes;
        });
        disk
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a disk with {} bytes", self.bytes.len())
    }
}

impl State {
    fn interrupt(&mut self) -> Result<()> {
        if self.interruptions > 0 {
            self.interruptions -= 1;
            return Err(ErrorKind::Interrupted.into());
        }
        Ok(())
    }
}

impl BackingFile for Disk {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<usize> {
        let mut state = self.state();
        state.interrupt()?;
        let there = state.bytes.get(offset as usize..).unwrap_or_default();
        let most = bytes.len().min(state.short.unwrap_or(usize::MAX));
        let count = there.len().min(most);
        bytes[..count].copy_from_slice(&there[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<usize> {
        let meanwhile = self.state().during_write.take();
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let state = self.state();
        let mut state = self.0.1.wait_while(state, |state| state.stuck).unwrap();
        state.interrupt()?;
        let start = offset as usize;
        let room = state.room.unwrap_or(usize::MAX).saturating_sub(start);
        let count = bytes.len().min(state.short.unwrap_or(usize::MAX)).min(room);
        if count == 0 {
            state.refused_writes += 1;
            return Err(ErrorKind::StorageFull.into());
        }
        let end = start + count;
        if state.bytes.len() < end {
            state.bytes.resize(end, 0);
        }
        state.bytes[start..end].copy_from_slice(&bytes[..count]);
        state.dirty.push(start..end);
        Ok(count)
    }

    /// Makes durable what was dirty when it began.
    fn sync(&self) -> Result<()> {
        let mut state = self.state();
        state.interrupt().map_err(|_| Error::other("interrupted"))?;
        state.syncs += 1;
        let dirty = std::mem::take(&mut state.dirty);
        let meanwhile = state.during_sync.take();
        drop(state);
        if let Some(meanwhile) = meanwhile {
            meanwhile();
        }
        let state = self.state();
        let mut state = self.0.1.wait_while(state, |s| s.stuck_syncs).unwrap();
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            // The length is kept; the content is lost, including what was written during the sync.
            state.dirty.clear();
            return Err(Error::other("input/output error"));
        }
        let length = state.bytes.len();
        state.durable.resize(length, 0);
        for range in dirty {
            let new = state.bytes[range.clone()].to_vec();
            state.durable[range].copy_from_slice(&new);
        }
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn cut(&self, bytes: u64) -> Result<()> {
        let mut state = self.state();
        let length = bytes as usize;
        state.bytes.resize(length, 0);
        for range in &mut state.dirty {
            *range = range.start.min(length)..range.end.min(length);
        }
        Ok(())
    }
}

pub(crate) fn work() -> Work {
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain: g,
    };
    Work::new(WorkFunction::Sha256, 3, kernels).unwrap()
}

pub(crate) fn round(work: &Work) -> RoundWork<'_> {
    RoundWork::new(work, b"statement", SubtreeHeight::new(2).unwrap())
}

pub(crate) fn node(i: usize) -> Node {
    let mut node = [0xa5; 32];
    node[..8].copy_from_slice(&i.to_be_bytes());
    node
}

pub(crate) fn nodes(count: usize) -> Vec<Node> {
    (0..count).map(node).collect()
}

pub(crate) fn entries(log: &mut dyn LogRead) -> Vec<Node> {
    let mut entries = vec![[0; 32]; log.entries() as usize];
    log.read(0, &mut entries).unwrap();
    entries
}
