//! The disk that holds the logs: what was written and, separately, what would survive a power
//! failure.

use std::{collections::BTreeMap, io, sync::Arc};

use poet_engine::{LogHeader, NODE_SIZE, file::BackingFile};

use crate::world::{Event, Fate, World, refused};

/// The logs, by the numbers of their rounds.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<u64, FileState>,
    /// Removed logs, which a power failure may bring back.
    removed: Vec<(u64, FileState)>,
    /// How many of a thousand syncs do nothing and report success.
    pub(crate) lying_syncs: u32,
}

#[derive(Default)]
pub(crate) struct FileState {
    /// The contents that a process reads.
    pub(crate) written: Vec<u8>,
    /// The contents after a power failure.
    synced: Vec<u8>,
    /// From here on, `written` differs from `synced`, as far as the system knows.
    dirty: usize,
    /// The number of bytes that were reported durable.
    pub(crate) promised: usize,
    /// Whether such a report was false.
    pub(crate) lied: bool,
    /// Whether a bit has changed: a process that finds it overwrites durable bytes.
    flipped: bool,
    /// From here on, after a failed sync, the system wrongly believes that bytes are written.
    forgotten: Option<usize>,
    /// Whether a process has it open.
    pub(crate) open: bool,
}

impl FileState {
    /// Returns the number of whole entries that were reported durable.
    pub(crate) fn promised_entries(&self) -> u64 {
        (self.promised.saturating_sub(LogHeader::BYTES) / NODE_SIZE) as u64
    }
}

impl FileState {
    /// Returns the number of whole entries that are durable and, as far as is known, right.
    pub(crate) fn synced_entries(&self) -> u64 {
        let same = if self.written.starts_with(&self.synced) {
            // Called at every step: byte by byte, it would take most of a world's time.
            self.synced.len()
        } else {
            let same = self.synced.iter().zip(&self.written);
            same.take_while(|(synced, written)| synced == written)
                .count()
        };
        (same.saturating_sub(LogHeader::BYTES) / NODE_SIZE) as u64
    }

    /// A process opens it. It cannot recognise entries that an earlier sync failed to write.
    pub(crate) fn opened(&mut self) {
        self.lied |= self.forgotten.is_some();
    }
}

impl Disk {
    pub(crate) fn remove(&mut self, round: u64) {
        if let Some(file) = self.files.remove(&round) {
            self.removed.push((round, file));
        }
    }

    /// The process has ended.
    pub(crate) fn close(&mut self) {
        for file in self.files.values_mut() {
            file.open = false;
        }
    }
}

impl World {
    /// Loses all or some of what was not synced.
    pub(crate) fn power_cut(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let mut lost = Vec::new();
        for (round, file) in std::mem::take(&mut state.disk.removed) {
            if state.rng.below(2) == 0 {
                state.disk.files.entry(round).or_insert(file);
            }
        }
        for file in state.disk.files.values_mut() {
            let mut left = file.synced.clone();
            // Any number of appended bytes may have reached the disk.
            if file.written.len() > left.len() && state.rng.below(2) == 0 {
                let more = (file.written.len() - left.len()) as u32;
                let more = state.rng.below(more + 1) as usize;
                left.extend_from_slice(&file.written[left.len()..][..more]);
            }
            if left.len() < file.written.len() {
                lost.push(Event::LostEntries);
            }
            let entries = left.len().saturating_sub(LogHeader::BYTES);
            if !entries.is_multiple_of(NODE_SIZE) {
                lost.push(Event::TornEntry);
            }
            // Only if a sync has lied.
            file.promised = file.promised.min(left.len());
            file.lied = file.flipped;
            file.forgotten = None;
            file.synced.clone_from(&left);
            file.dirty = left.len();
            file.written = left;
        }
        for event in lost {
            state.count(event);
        }
    }

    /// Flips a bit of a durable entry.
    pub(crate) fn flip_bit(&self) {
        let mut state = self.state();
        let state = &mut *state;
        let files = state.disk.files.len() as u32;
        if files == 0 {
            return;
        }
        let file = state.rng.below(files) as usize;
        let Some((round, file)) = state.disk.files.iter_mut().nth(file) else {
            return;
        };
        let entries = file
            .synced
            .len()
            .min(file.written.len())
            .saturating_sub(LogHeader::BYTES);
        if entries == 0 {
            return;
        }
        let place = LogHeader::BYTES + state.rng.below(entries as u32) as usize;
        let bit = 1 << state.rng.below(8);
        file.synced[place] ^= bit;
        file.written[place] ^= bit;
        // A repair that is not synced does not survive.
        file.flipped = true;
        file.lied = true;
        let round = *round;
        state.count(Event::FlippedBit);
        state.note(format_args!("byte {place} of log {round} changes"));
    }
}

/// A log's file.
#[derive(Clone)]
pub(crate) struct SimulatedFile {
    pub(crate) world: Arc<World>,
    pub(crate) round: u64,
}

impl std::fmt::Debug for SimulatedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "log {}", self.round)
    }
}

impl SimulatedFile {
    fn with<T>(&self, change: impl FnOnce(&mut FileState) -> T) -> io::Result<T> {
        let mut state = self.world.state();
        match state.disk.files.get_mut(&self.round) {
            Some(file) => Ok(change(file)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let offset = offset as usize;
        self.with(|file| {
            let end = offset + bytes.len();
            if file.written.len() < end {
                file.written.resize(end, 0);
            }
            file.written[offset..end].copy_from_slice(bytes);
            file.dirty = file.dirty.min(offset);
            if file.forgotten.is_some_and(|from| from >= offset) {
                file.forgotten = None;
            }
            bytes.len()
        })
    }

    fn make_durable(&self) -> io::Result<()> {
        self.with(|file| {
            let dirty = file.dirty.min(file.written.len());
            file.synced.resize(dirty, 0);
            file.synced.extend_from_slice(&file.written[dirty..]);
            file.dirty = file.written.len();
        })
    }
}

impl BackingFile for SimulatedFile {
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        match self
            .world
            .fate(format_args!("read log {} at {offset}", self.round), false)
        {
            Fate::Done => {}
            _ => return Err(refused(&self.world)),
        }
        self.with(|file| {
            let there = file.written.get(offset as usize..).unwrap_or_default();
            let count = there.len().min(bytes.len());
            bytes[..count].copy_from_slice(&there[..count]);
            count
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let (round, length) = (self.round, bytes.len());
        let fate = self.world.fate(
            format_args!("write {length} to log {round} at {offset}"),
            true,
        );
        let part = |world: &World| &bytes[..world.below(length as u32 + 1) as usize];
        match fate {
            // Short writes are no failures.
            Fate::Done if length > 1 && self.world.chance(20) => {
                let part = &bytes[..1 + self.world.below(length as u32 - 1) as usize];
                self.write(part, offset)
            }
            Fate::Done => self.write(bytes, offset),
            Fate::Fails => {
                self.world.count(Event::FailedLogWrite);
                // Some of it may be there nevertheless.
                self.write(part(&self.world), offset)?;
                Err(refused(&self.world))
            }
            Fate::CrashBefore | Fate::CrashAfter => {
                self.write(part(&self.world), offset)?;
                Err(refused(&self.world))
            }
            Fate::Over => Err(refused(&self.world)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let fate = self
            .world
            .fate(format_args!("sync log {}", self.round), true);
        match fate {
            Fate::Done => {
                let lying = self.world.state().disk.lying_syncs;
                if self.world.chance(lying) {
                    self.world.count(Event::LyingSync);
                    self.with(|file| file.lied = true)?;
                } else {
                    self.make_durable()?;
                }
                self.with(|file| file.promised = file.written.len())
            }
            Fate::CrashAfter => {
                self.make_durable()?;
                Err(refused(&self.world))
            }
            Fate::Fails => {
                self.world.count(Event::FailedLogSync);
                if self.world.chance(500) {
                    // The system forgets that these bytes were never written: the next sync does
                    // not write them either.
                    self.with(|file| {
                        let from = file.forgotten.unwrap_or(file.dirty).min(file.dirty);
                        file.forgotten = (from < file.written.len()).then_some(from);
                        file.dirty = file.written.len();
                    })?;
                }
                Err(refused(&self.world))
            }
            Fate::CrashBefore | Fate::Over => Err(refused(&self.world)),
        }
    }

    fn size(&self) -> io::Result<u64> {
        self.with(|file| file.written.len() as u64)
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        match self
            .world
            .fate(format_args!("cut log {} to {bytes}", self.round), false)
        {
            Fate::Done => {}
            _ => return Err(refused(&self.world)),
        }
        self.with(|file| {
            let bytes = bytes as usize;
            file.written.truncate(bytes);
            file.dirty = file.dirty.min(bytes);
            file.promised = file.promised.min(bytes);
        })
    }
}
