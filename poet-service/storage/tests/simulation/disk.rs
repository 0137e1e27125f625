//! The disk on which logs are: it has what was written and, apart from it, what would survive a
//! power cut.

use std::{collections::BTreeMap, io, sync::Arc};

use poet_engine::{LogHeader, NODE_SIZE, file::LogFile};

use crate::world::{Event, Fate, World, refused};

/// The logs, by the numbers of their rounds.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<u64, FileState>,
    /// Removed, but a power cut may bring them back.
    removed: Vec<(u64, FileState)>,
    /// Thousandths of all syncs that do nothing and say they did.
    pub(crate) lying_syncs: u32,
}

#[derive(Default)]
pub(crate) struct FileState {
    /// What a process reads.
    pub(crate) written: Vec<u8>,
    /// What is there after a power cut.
    synced: Vec<u8>,
    /// From here on, `written` is not `synced`, as far as the system knows.
    dirty: usize,
    /// Bytes that a process was told are durable.
    pub(crate) promised: usize,
    /// A process was told so, and it is not true.
    pub(crate) lied: bool,
    /// A bit of it has changed: whoever finds that writes over what is durable.
    flipped: bool,
    /// From here on the system takes bytes for written that are not, after a failed sync.
    forgotten: Option<usize>,
    /// A process has it open.
    pub(crate) open: bool,
}

impl FileState {
    /// Whole entries that a process was told are durable.
    pub(crate) fn promised_entries(&self) -> u64 {
        (self.promised.saturating_sub(LogHeader::BYTES) / NODE_SIZE) as u64
    }
}

impl FileState {
    /// Whole entries that are durable, and right as far as they are known to be.
    pub(crate) fn synced_entries(&self) -> u64 {
        let same = if self.written.starts_with(&self.synced) {
            // This is asked at every step: byte by byte, it would take most of a world's time.
            self.synced.len()
        } else {
            let same = self.synced.iter().zip(&self.written);
            same.take_while(|(synced, written)| synced == written)
                .count()
        };
        (same.saturating_sub(LogHeader::BYTES) / NODE_SIZE) as u64
    }

    /// A process opens it. Entries that a sync failed to write before, it cannot tell from others.
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

    /// The process is gone.
    pub(crate) fn close(&mut self) {
        for file in self.files.values_mut() {
            file.open = false;
        }
    }
}

impl World {
    /// What was not synced is lost, or some of it.
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
            // Of what was appended, some may have reached the disk: any number of bytes.
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

    /// A bit of an entry that was durable changes.
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
        // A repair that is not synced leaves it as it is.
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

impl LogFile for SimulatedFile {
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
