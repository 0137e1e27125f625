//! Damage in SQLite's write-ahead log.
//!
//! The log is a header of 32 bytes followed by frames. Each frame has 24 bytes that say which page
//! of the database follows, then the page. A frame has a checksum over everything before it, and
//! says whether it ends a transaction. After a crash, SQLite accepts the log up to the last whole
//! transaction before the first frame with a wrong checksum, and silently drops the rest. That is
//! right for the one transaction that was being written: all earlier ones were synced before it
//! began. Whole transactions after a wrong frame were lost in another way, by a disk or file system
//! that changed what it had stored; they had been acknowledged.
//!
//! (The format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>.)

use std::{
    fs::{self, File},
    io::{self, BufReader, ErrorKind, Read},
    path::{Path, PathBuf},
};

use jiff::Timestamp;

use crate::DatabaseError as StorageError;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// SQLite's default, which the database uses.
const PAGE_BYTES: usize = 4096;
/// SQLite's maximum.
const MAX_PAGE_BYTES: usize = 1 << 16;
/// Without the lowest bit, which is the byte order of the checksums.
const MAGIC: u32 = 0x377f_0682;

/// Damage in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogDamage {
    /// The number of the first wrong frame, from 0.
    pub frame: u64,
    /// The number of whole transactions that SQLite drops because of it.
    pub transactions: u64,
}

/// Returns the path of a database's log.
pub(crate) fn log_path(database: &Path) -> PathBuf {
    let mut path = database.as_os_str().to_owned();
    path.push("-wal");
    path.into()
}

/// Returns the length of a database's log; 0 if there is none.
pub fn log_bytes(database: &Path) -> u64 {
    fs::metadata(log_path(database)).map_or(0, |metadata| metadata.len())
}

/// Returns the damage in a database's log, if there is any.
///
/// # Errors
/// Fails if it cannot be read.
pub fn log_damage(database: &Path) -> io::Result<Option<LogDamage>> {
    match File::open(log_path(database)) {
        Ok(log) => damage(BufReader::new(log)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Copies the log of a database if it is damaged, before SQLite recovers what it can and overwrites
/// it. The copy is named after the time `now`.
///
/// # Errors
/// Fails if it cannot be read or copied.
pub fn keep_damaged_log(database: &Path, now: Timestamp) -> Result<Option<PathBuf>, StorageError> {
    let Some(LogDamage {
        frame,
        transactions,
    }) = log_damage(database)?
    else {
        return Ok(None);
    };
    let log = log_path(database);
    let mut kept = log.clone().into_os_string();
    kept.push(format!(".damaged-{}", now.strftime("%Y%m%dT%H%M%SZ")));
    let kept = PathBuf::from(kept);
    fs::copy(&log, &kept)?;
    tracing::error!(
        log = %log.display(),
        frame,
        transactions,
        kept = %kept.display(),
        "ALARM: the database's log was changed by the disk; registrations of its last transactions \
         may be lost"
    );
    Ok(Some(kept))
}

/// Reads a log frame by frame, so that only one frame at a time is in memory.
fn damage(mut log: impl Read) -> io::Result<Option<LogDamage>> {
    let mut header = [0; HEADER_BYTES];
    if !read_whole(&mut log, &mut header)? {
        return Ok(None);
    }
    let word = |offset: usize| {
        let bytes = &header[offset..offset + 4];
        bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u32::from(*byte))
    };
    let (magic, page_bytes) = (word(0), word(8) as usize);
    let mut checksum = Checksum::new(magic & 1 == 1);
    checksum.add(&header[..24]);
    let mut valid =
        magic & !1 == MAGIC && checksum.is(&header[24..]) && page_bytes <= MAX_PAGE_BYTES;
    let mut first_wrong = (!valid).then_some(0);
    // A wrong header says nothing about the frames.
    let page_bytes = if valid { page_bytes } else { PAGE_BYTES };
    // The salts of a log are in its header and in each frame.
    let mut salts: Option<[u8; 8]> = header[16..].first_chunk().copied().filter(|_| valid);
    let mut frame = vec![0; FRAME_HEADER_BYTES + page_bytes];
    let mut transactions = 0;
    let mut number = 0;
    while read_whole(&mut log, &mut frame)? {
        let (head, page) = frame.split_at(FRAME_HEADER_BYTES);
        let this = number;
        number += 1;
        let found = head[8..].first_chunk().copied();
        salts = salts.or(found);
        if found != salts {
            // A leftover of an earlier log; or the salts themselves are wrong.
            valid = false;
            first_wrong.get_or_insert(this);
            continue;
        }
        if valid {
            checksum.add(&head[..8]);
            checksum.add(page);
            if checksum.is(&head[16..24]) {
                continue;
            }
            valid = false;
            first_wrong.get_or_insert(this);
        }
        // The last frame of a transaction contains the size of the database.
        if head[4..8] != [0; 4] {
            transactions += 1;
        }
    }
    // The last dropped transaction may be the one that was being written.
    Ok(first_wrong
        .filter(|_| transactions > 1)
        .map(|frame| LogDamage {
            frame,
            transactions,
        }))
}

/// Fills `out`. Returns `false` if the log ends before.
fn read_whole(log: &mut impl Read, out: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(out) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// The checksum of a log.
struct Checksum {
    sums: [u32; 2],
    big_endian: bool,
}

impl Checksum {
    fn new(big_endian: bool) -> Self {
        Self {
            sums: [0; 2],
            big_endian,
        }
    }

    /// Adds whole pairs of words.
    fn add(&mut self, bytes: &[u8]) {
        let word = |bytes: [u8; 4]| {
            if self.big_endian {
                u32::from_be_bytes(bytes)
            } else {
                u32::from_le_bytes(bytes)
            }
        };
        for [a, b, c, d, e, f, g, h] in bytes.as_chunks().0 {
            let [first, second] = &mut self.sums;
            *first = first
                .wrapping_add(word([*a, *b, *c, *d]))
                .wrapping_add(*second);
            *second = second
                .wrapping_add(word([*e, *f, *g, *h]))
                .wrapping_add(*first);
        }
    }

    fn is(&self, stored: &[u8]) -> bool {
        let [first, second] = self.sums.map(u32::to_be_bytes);
        stored == [first, second].as_flattened()
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    /// Creates a log of some transactions that are not in the database yet.
    fn log() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        let connection = Connection::open(&path).unwrap();
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        for _ in 0..9 {
            connection
                .execute("INSERT INTO t VALUES (randomblob(9000))", [])
                .unwrap();
        }
        let log = fs::read(log_path(&path)).unwrap();
        assert_eq!(log_damage(&path).unwrap(), None);
        log
    }

    #[test]
    fn interrupted_writes_are_no_damage() {
        let log = log();
        assert!(log.len() > 100_000);
        for length in 0..log.len() {
            if length % 977 == 0 {
                assert_eq!(damage(&log[..length]).unwrap(), None, "{length} bytes");
            }
        }
        let mut last = log.clone();
        *last.last_mut().unwrap() ^= 1;
        assert_eq!(damage(&*last).unwrap(), None);
        assert_eq!(damage(&[0; 9000][..]).unwrap(), None);
    }

    #[test]
    fn frames_of_an_older_log_are_no_damage() {
        let (mut newer, older) = (log(), log());
        newer.truncate(HEADER_BYTES + 3 * (FRAME_HEADER_BYTES + 4096));
        newer.extend_from_slice(&older[newer.len()..]);
        assert_eq!(damage(&*newer).unwrap(), None);
    }

    #[test]
    fn what_was_stored_and_has_changed_is_damage() {
        let log = log();
        for place in (0..HEADER_BYTES).chain((0..log.len() * 3 / 4).step_by(1231)) {
            let mut changed = log.clone();
            changed[place] ^= 4;
            let found = damage(&*changed).unwrap();
            let frame = place.saturating_sub(HEADER_BYTES) / (FRAME_HEADER_BYTES + 4096);
            let frame = frame as u64;
            assert!(
                found.is_some_and(|found| found.frame == frame && found.transactions > 1),
                "{place}: {found:?}"
            );
        }
    }
}
