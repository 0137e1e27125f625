//! The entries that a log may still lose.

use std::collections::VecDeque;

use super::file_log::FileLog;
use super::view::LogView;
use crate::{LogError, LogRead, Node};

/// Entries per write, so that an interruption costs little.
const PIECE: usize = 4096;

/// A [`FileLog`] that keeps in memory every entry that is not durable, so that none is lost when
/// the disk is full or a sync fails. It has no thread and no clock: its owner decides when to write
/// and when to sync.
///
/// After a failed sync, everything since the last success is written again before it counts as
/// durable. Another thread may sync at any time ([`LogView::sync`]); that does not make durable
/// what is written during the sync.
///
/// ```text
///          durable    written     entries
/// file     ---------------------
/// backlog           ----------------------
/// ```
#[derive(Debug)]
pub struct DurableLog {
    log: FileLog,
    /// The entries that were not durable at the last check.
    backlog: VecDeque<Node>,
    /// The number of the first one.
    first: u64,
    capacity: usize,
}

impl DurableLog {
    /// Keeps at most `capacity` entries that are not durable.
    ///
    /// # Errors
    /// Fails if `log` has entries that are not durable and cannot be made so.
    pub fn new(mut log: FileLog, capacity: usize) -> Result<Self, LogError> {
        if log.durable_entries() < log.entries() {
            log.sync()?;
        }
        Ok(Self {
            first: log.entries(),
            log,
            backlog: VecDeque::new(),
            capacity,
        })
    }

    /// Returns a view for another thread. It shows only written entries.
    #[must_use]
    pub fn view(&self) -> LogView {
        self.log.view()
    }

    /// Returns the number of entries that survive a power failure.
    #[must_use]
    pub fn durable_entries(&self) -> u64 {
        self.log.durable_entries()
    }

    /// Returns the number of entries in memory: those that are not durable.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Reserves room for up to `count` entries. Returns for how many there is room: fewer if the
    /// backlog is full, or the system refuses memory.
    #[must_use]
    pub fn reserve(&mut self, count: usize) -> usize {
        self.forget_durable();
        let count = count.min(self.capacity.saturating_sub(self.backlog.len()));
        match self.backlog.try_reserve(count) {
            Ok(()) => count,
            Err(_) => (self.backlog.capacity() - self.backlog.len()).min(count),
        }
    }

    /// Adds an entry, in memory only.
    ///
    /// # Errors
    /// Returns the entry if there is no room for it ([`DurableLog::reserve`]).
    pub fn push(&mut self, entry: Node) -> Result<(), Node> {
        let full = self.backlog.len() >= self.backlog.capacity().min(self.capacity);
        if full && self.reserve(1) == 0 {
            return Err(entry);
        }
        self.backlog.push_back(entry);
        Ok(())
    }

    /// Writes to the file all entries that are unwritten or were lost by a failed sync.
    ///
    /// # Errors
    /// Fails if the file cannot be written. All entries are kept, and the call can be repeated.
    pub fn write(&mut self) -> Result<(), LogError> {
        self.forget_durable();
        let view = &self.log.0;
        let failed_syncs = view.extent().failed_syncs;
        let (front, back) = self.backlog.as_slices();
        loop {
            let extent = *view.extent();
            if extent.failed_syncs != failed_syncs {
                // Another thread's sync failed. Writing again could go on for ever.
                return Err(view.unwritten());
            }
            let written = (extent.written - self.first) as usize;
            let rest = match front.get(written..) {
                None | Some([]) => &back[written - front.len()..],
                Some(rest) => rest,
            };
            let piece = &rest[..rest.len().min(PIECE)];
            if piece.is_empty() {
                return Ok(());
            }
            view.write_entries(extent, extent.written, piece)?;
        }
    }

    /// Writes as [`DurableLog::write`] does, and makes everything durable.
    ///
    /// # Errors
    /// Fails as [`DurableLog::write`] does, and if the sync fails.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.write()?;
        if !self.backlog.is_empty() {
            self.log.sync()?;
            self.forget_durable();
        }
        Ok(())
    }

    /// Overwrites existing entries, starting at number `start`; those that were durable before are
    /// durable again.
    ///
    /// # Errors
    /// Fails if they do not exist or cannot be written. Entries in memory are repaired even then.
    pub fn repair(&mut self, start: u64, entries: &[Node]) -> Result<(), LogError> {
        let (end, have) = (start.saturating_add(entries.len() as u64), self.entries());
        if end > have {
            let entry = end - 1;
            return Err(LogError::Missing {
                entry,
                entries: have,
            });
        }
        for (number, entry) in (start..).zip(entries) {
            let kept = number.checked_sub(self.first);
            if let Some(kept) = kept.and_then(|kept| self.backlog.get_mut(kept as usize)) {
                *kept = *entry;
            }
        }
        let in_file = self.log.entries().clamp(start, end) - start;
        match &entries[..in_file as usize] {
            [] => Ok(()),
            old => self.log.0.repair(start, old),
        }
    }

    /// Cuts the log to its first `entries` entries, durably. A shorter log is unchanged.
    ///
    /// # Errors
    /// Fails if a system call fails.
    pub fn cut(&mut self, entries: u64) -> Result<(), LogError> {
        let result = self.log.cut(entries);
        // Skipped if the cut left the file unchanged. Whether the cut is durable yet does not
        // matter here.
        if self.log.entries() <= entries {
            self.first = self.first.min(entries);
            let kept = (entries - self.first).min(self.backlog.len() as u64);
            self.backlog.truncate(kept as usize);
        }
        result
    }

    /// Makes everything durable, and returns the log.
    ///
    /// # Errors
    /// Fails as [`DurableLog::sync`] does; entries that were only in memory are then lost.
    pub fn finish(mut self) -> Result<FileLog, LogError> {
        self.sync()?;
        Ok(self.log)
    }

    fn forget_durable(&mut self) {
        let durable = self.durable_entries();
        self.backlog.drain(..(durable - self.first) as usize);
        self.first = durable;
        if self.backlog.is_empty() && self.backlog.capacity() > 4 * PIECE {
            self.backlog = VecDeque::new();
        }
    }
}

impl LogRead for DurableLog {
    fn entries(&self) -> u64 {
        self.first + self.backlog.len() as u64
    }

    /// Reads entries that are in memory from there, so that a failing disk does not matter.
    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        let (end, entries) = (start.saturating_add(out.len() as u64), self.entries());
        if end > entries {
            let entry = end - 1;
            return Err(LogError::Missing { entry, entries });
        }
        let from_file = self.first.clamp(start, end) - start;
        let (old, new) = out.split_at_mut(from_file as usize);
        if !old.is_empty() {
            self.log.read(start, old)?;
        }
        if !new.is_empty() {
            let skipped = (start + from_file - self.first) as usize;
            for (to, entry) in new.iter_mut().zip(self.backlog.iter().skip(skipped)) {
                *to = *entry;
            }
        }
        Ok(())
    }
}
