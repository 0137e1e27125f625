//! Reads a LevelDB without writing anything, as the Go server's goleveldb leaves it.
//!
//! ```text
//! CURRENT      names the manifest
//! MANIFEST-n   journal of changes to the set of tables; the newest journal number
//! n.ldb        table: sorted entries in blocks with checksums, compressed with Snappy
//! n.log        journal of batches that are not in a table yet
//! ```
//!
//! An entry's key ends with a sequence number; the entry of a key with the highest number is the
//! valid one. Every checksum is verified, and every table in the manifest must exist: the database
//! is read completely or not at all. Only an incomplete record at the end of a journal is skipped,
//! with a warning: its writer was never told that it is stored.
//!
//! Why not a crate: rusty-leveldb is the only maintained one without C++. It writes to the database
//! that it opens, which a copy would solve. But it cannot distinguish damage from the end: it stops
//! reading a journal, or the manifest, at the first damaged record, skips blocks of a table that it
//! cannot read, and panics on a damaged footer, all of that with `paranoid_checks`. Of 750
//! single-bit changes in two small databases, 530 lost registrations or proofs without an error. A
//! server that starts without some of its members makes proofs that are worthless to them, so this
//! is not acceptable. The crate knows the format, though, and the tests compare this reader with
//! it.
//! that will not do. It knows the format, though, and is what the tests compare this reader with.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use poet_files::reason;

/// Why a database cannot be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LevelDbError {
    #[error("cannot read {path}: {}", reason(cause))]
    Io { path: PathBuf, cause: io::Error },
    #[error("the database {path} is in use: expected the Go server to be stopped")]
    InUse { path: PathBuf },
    #[error("{path} is damaged: {what}")]
    Damaged { path: PathBuf, what: String },
    #[error("{path} is missing: the database is damaged")]
    Missing { path: PathBuf },
}

/// Locks the database in `folder`, so that no server can use it.
pub(super) fn lock(folder: &Path) -> Result<File, LevelDbError> {
    let path = folder.join("LOCK");
    let failed = |cause| LevelDbError::Io {
        path: path.clone(),
        cause,
    };
    let file = File::open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LevelDbError::InUse {
            path: folder.to_owned(),
        }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// The content of a database.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// All keys with their values.
    pub(super) entries: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Describes what was skipped.
    pub(super) warnings: Vec<String>,
}

pub(super) fn read(folder: &Path) -> Result<Content, LevelDbError> {
    let current = folder.join("CURRENT");
    let name = match read_file(&current) {
        Err(LevelDbError::Missing { .. }) if !was_begun(folder)? => return Ok(Content::default()),
        name => name?,
    };
    let manifest = std::str::from_utf8(&name)
        .ok()
        .and_then(|name| name.strip_suffix('\n'))
        .filter(|name| name.starts_with("MANIFEST-") && !name.contains(['/', '\\']))
        .ok_or_else(|| damaged(&current, "expected the name of a manifest"))?;
    let mut warnings = Vec::new();
    let live = Live::read(&folder.join(manifest), &mut warnings)?;
    let mut entries = Entries::default();
    for ((_level, number), bytes) in &live.tables {
        read_table(folder, *number, *bytes, &mut entries)?;
    }
    for number in live.journals(folder)? {
        let path = folder.join(format!("{number:06}.log"));
        records(&path, &mut warnings, |record| batch(record, &mut entries))?;
    }
    Ok(Content {
        entries: entries.into_live(),
        warnings,
    })
}

/// Returns whether `folder` contains more than what the Go server creates before the database.
fn was_begun(folder: &Path) -> Result<bool, LevelDbError> {
    for file in fs::read_dir(folder).map_err(|cause| io_error(folder, cause))? {
        let name = file.map_err(|cause| io_error(folder, cause))?.file_name();
        if name != "LOCK" && name != "LOG" {
            return Ok(true);
        }
    }
    Ok(false)
}

fn read_file(path: &Path) -> Result<Vec<u8>, LevelDbError> {
    fs::read(path).map_err(|cause| io_error(path, cause))
}

fn io_error(path: &Path, cause: io::Error) -> LevelDbError {
    let path = path.to_owned();
    if cause.kind() == io::ErrorKind::NotFound {
        LevelDbError::Missing { path }
    } else {
        LevelDbError::Io { path, cause }
    }
}

fn damaged(path: &Path, what: impl Into<String>) -> LevelDbError {
    LevelDbError::Damaged {
        path: path.to_owned(),
        what: what.into(),
    }
}

/// The newest entry of each key: its sequence number, and its value unless it was deleted.
#[derive(Default)]
struct Entries(BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>);

impl Entries {
    fn add(&mut self, key: &[u8], sequence: u64, value: Option<&[u8]>) {
        let known = self.0.get(key).map(|(sequence, _)| *sequence);
        if known.is_none_or(|known| known <= sequence) {
            let value = value.map(<[u8]>::to_vec);
            self.0.insert(key.to_vec(), (sequence, value));
        }
    }

    fn into_live(self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let entries = self.0.into_iter();
        entries
            .filter_map(|(key, (_, value))| Some((key, value?)))
            .collect()
    }
}

/// The contents of the manifest.
#[derive(Debug, Default)]
struct Live {
    /// Tables by level and number, with their sizes. A table can move from one level to another.
    tables: BTreeMap<(u64, u64), u64>,
    /// Journals from this one on are not in tables yet; 0 if there is none.
    journal: Option<u64>,
    /// This journal is not in a table yet, either.
    previous_journal: u64,
}

impl Live {
    fn read(path: &Path, warnings: &mut Vec<String>) -> Result<Self, LevelDbError> {
        let mut live = Self::default();
        records(path, warnings, |record| live.apply(record))?;
        if live.journal.is_none() {
            return Err(damaged(path, "it names no journal"));
        }
        Ok(live)
    }

    /// Applies a change. Returns `None` if it is malformed.
    fn apply(&mut self, record: &[u8]) -> Option<()> {
        let mut reader = Reader(record);
        while !reader.0.is_empty() {
            match reader.varint()? {
                1 => {
                    if reader.slice()? != b"leveldb.BytewiseComparator" {
                        return None;
                    }
                }
                2 => self.journal = Some(reader.varint()?),
                // The next file's number, the newest sequence number.
                3 | 4 => drop(reader.varint()?),
                // Where compaction continues: level and key.
                5 => {
                    reader.varint()?;
                    reader.slice()?;
                }
                6 => {
                    let (level, number) = (reader.varint()?, reader.varint()?);
                    self.tables.remove(&(level, number));
                }
                7 => {
                    let (level, number) = (reader.varint()?, reader.varint()?);
                    let bytes = reader.varint()?;
                    let (_smallest, _largest) = (reader.slice()?, reader.slice()?);
                    self.tables.insert((level, number), bytes);
                }
                9 => self.previous_journal = reader.varint()?,
                _ => return None,
            }
        }
        Some(())
    }

    /// Returns the journals to read, in order.
    fn journals(&self, folder: &Path) -> Result<BTreeSet<u64>, LevelDbError> {
        let first = self.journal.unwrap_or(0);
        // The journal to which the server writes must exist.
        let mut journals: BTreeSet<u64> = (first > 0).then_some(first).into_iter().collect();
        let files = fs::read_dir(folder).map_err(|cause| io_error(folder, cause))?;
        for file in files {
            let name = file.map_err(|cause| io_error(folder, cause))?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_suffix(".log"))
                .and_then(|number| number.parse().ok());
            if let Some(number) = number
                && (number > first || number == self.previous_journal)
            {
                journals.insert(number);
            }
        }
        Ok(journals)
    }
}

/// A journal consists of blocks.
const BLOCK_BYTES: usize = 32 * 1024;
/// Before each part of a record: its checksum, length and kind.
const PART_HEADER_BYTES: usize = 7;

/// Passes every record of a journal to `each`, which returns whether it is well-formed.
fn records(
    path: &Path,
    warnings: &mut Vec<String>,
    mut each: impl FnMut(&[u8]) -> Option<()>,
) -> Result<(), LevelDbError> {
    let bytes = read_file(path)?;
    let mut record = Vec::new();
    let mut inside = false;
    // The starts of the record and of the part.
    let (mut begin, mut at) = (0, 0);
    while at < bytes.len() {
        let left_in_block = BLOCK_BYTES - at % BLOCK_BYTES;
        if left_in_block < PART_HEADER_BYTES {
            at += left_in_block;
            continue;
        }
        let Some((header, rest)) = bytes[at..].split_first_chunk::<PART_HEADER_BYTES>() else {
            inside = true;
            break;
        };
        // Space that a file system allocated for a write that never happened.
        if *header == [0; PART_HEADER_BYTES] && rest.iter().all(|byte| *byte == 0) {
            break;
        }
        let [c0, c1, c2, c3, l0, l1, kind] = *header;
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        let wrong = || damaged(path, format!("the record at byte {at} is not intact"));
        if PART_HEADER_BYTES + length > left_in_block {
            return Err(wrong());
        }
        let Some(data) = rest.get(..length) else {
            inside = true;
            break;
        };
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&[kind]), data);
        if masked(checksum) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(wrong());
        }
        // A whole record, or the first, a middle or the last part of one.
        let (begins, ends) = match kind {
            1 => (true, true),
            2 => (true, false),
            3 => (false, false),
            4 => (false, true),
            _ => return Err(wrong()),
        };
        if begins == inside {
            return Err(wrong());
        }
        if begins {
            record.clear();
            begin = at;
        }
        record.extend_from_slice(data);
        inside = !ends;
        at += PART_HEADER_BYTES + length;
        if ends {
            each(&record).ok_or_else(|| {
                let what = format!("the record at byte {begin} cannot be understood");
                damaged(path, what)
            })?;
            begin = at;
        }
    }
    if inside {
        warnings.push(format!(
            "{}: the last {} bytes are a record that was never completed, or damaged: left out",
            path.display(),
            bytes.len() - begin
        ));
    }
    Ok(())
}

/// Masks a checksum as LevelDB stores it.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Reads a batch of entries. Returns `None` if it is malformed.
fn batch(record: &[u8], entries: &mut Entries) -> Option<()> {
    let mut reader = Reader(record);
    let sequence = u64::from_le_bytes(*reader.chunk()?);
    let count = u32::from_le_bytes(*reader.chunk()?);
    for number in 0..u64::from(count) {
        let [kind] = *reader.chunk()?;
        let key = reader.slice()?;
        let value = match kind {
            0 => None,
            1 => Some(reader.slice()?),
            _ => return None,
        };
        entries.add(key, sequence.checked_add(number)?, value);
    }
    reader.0.is_empty().then_some(())
}

const FOOTER_BYTES: usize = 48;
const MAGIC: [u8; 8] = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
/// After each block: how it is compressed, and its checksum.
const BLOCK_TRAILER_BYTES: usize = 5;
/// Blocks are much smaller: an entry is at most a proof with its members.
const MAX_BLOCK_BYTES: u64 = 1 << 30;

fn read_table(
    folder: &Path,
    number: u64,
    bytes: u64,
    entries: &mut Entries,
) -> Result<(), LevelDbError> {
    let mut path = folder.join(format!("{number:06}.ldb"));
    let old = path.with_extension("sst");
    if !path.exists() && old.exists() {
        path = old;
    }
    let file = File::open(&path).map_err(|cause| io_error(&path, cause))?;
    let found = file
        .metadata()
        .map_err(|cause| io_error(&path, cause))?
        .len();
    if found != bytes {
        let what = format!("it has {found} bytes, expected {bytes}");
        return Err(damaged(&path, what));
    }
    let table = Table { path, file, bytes };
    let footer = table.read(bytes.saturating_sub(FOOTER_BYTES as u64), FOOTER_BYTES)?;
    let wrong = |table: &Table, what| damaged(&table.path, what);
    let Some(handles) = footer.strip_suffix(&MAGIC) else {
        return Err(wrong(&table, "it does not end as a table does"));
    };
    let mut handles = Reader(handles);
    let index = (|| {
        let _meta_index = handles.handle()?;
        handles.handle()
    })();
    let index = index.ok_or_else(|| wrong(&table, "its index cannot be found"))?;
    let index = table.block(index)?;
    let mut blocks = Vec::new();
    each_entry(&index, |_, value| {
        blocks.push(Reader(value).handle()?);
        Some(())
    })
    .ok_or_else(|| wrong(&table, "its index cannot be understood"))?;
    for block in blocks {
        let content = table.block(block)?;
        each_entry(&content, |key, value| {
            let (key, suffix) = key.split_last_chunk::<8>()?;
            let suffix = u64::from_le_bytes(*suffix);
            let value = match suffix & 0xff {
                0 => None,
                1 => Some(value),
                _ => return None,
            };
            entries.add(key, suffix >> 8, value);
            Some(())
        })
        .ok_or_else(|| {
            let what = format!("the block at byte {} cannot be understood", block.0);
            damaged(&table.path, what)
        })?;
    }
    Ok(())
}

struct Table {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Table {
    fn read(&self, at: u64, count: usize) -> Result<Vec<u8>, LevelDbError> {
        let mut bytes = vec![0; count];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(|cause| io_error(&self.path, cause))?;
        Ok(bytes)
    }

    /// Reads the block with this offset and length.
    fn block(&self, (at, length): (u64, u64)) -> Result<Vec<u8>, LevelDbError> {
        let wrong = |what: &str| damaged(&self.path, format!("the block at byte {at} {what}"));
        let end = at
            .checked_add(length)
            .and_then(|end| end.checked_add(BLOCK_TRAILER_BYTES as u64));
        if end.is_none_or(|end| end > self.bytes) || length > MAX_BLOCK_BYTES {
            return Err(wrong("is beyond its end"));
        }
        let mut block = self.read(at, length as usize + BLOCK_TRAILER_BYTES)?;
        let Some((content, checksum)) = block.split_last_chunk::<4>() else {
            return Err(wrong("is beyond its end"));
        };
        if masked(crc32c::crc32c(content)) != u32::from_le_bytes(*checksum) {
            return Err(wrong("is not intact"));
        }
        let compression = content.last().copied();
        block.truncate(length as usize);
        match compression {
            Some(0) => Ok(block),
            Some(1) => {
                let length = snap::raw::decompress_len(&block).unwrap_or(usize::MAX);
                if length as u64 > MAX_BLOCK_BYTES {
                    return Err(wrong("cannot be decompressed"));
                }
                snap::raw::Decoder::new()
                    .decompress_vec(&block)
                    .map_err(|_| wrong("cannot be decompressed"))
            }
            _ => Err(wrong("is compressed in an unknown way")),
        }
    }
}

/// Passes the entries of a block to `each`. Returns `None` if the block is malformed, or `each`
/// does.
fn each_entry(block: &[u8], mut each: impl FnMut(&[u8], &[u8]) -> Option<()>) -> Option<()> {
    // After the entries: offsets of entries with full keys, and the number of these offsets.
    let (rest, restarts) = block.split_last_chunk::<4>()?;
    let restarts = u32::from_le_bytes(*restarts) as usize;
    let entries = rest.len().checked_sub(restarts.checked_mul(4)?)?;
    let mut reader = Reader(&rest[..entries]);
    let mut key = Vec::new();
    while !reader.0.is_empty() {
        // A key shares a prefix with the key before.
        let shared = usize::try_from(reader.varint()?).ok()?;
        let own = reader.varint()?;
        let value_bytes = reader.varint()?;
        if shared > key.len() {
            return None;
        }
        key.truncate(shared);
        key.extend_from_slice(reader.take(own)?);
        each(&key, reader.take(value_bytes)?)?;
    }
    Some(())
}

/// The bytes that are left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(count).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn chunk<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let [byte] = *self.chunk()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Reads bytes that follow their length.
    fn slice(&mut self) -> Option<&'a [u8]> {
        let length = self.varint()?;
        self.take(length)
    }

    /// Reads the offset and the length of a block.
    fn handle(&mut self) -> Option<(u64, u64)> {
        Some((self.varint()?, self.varint()?))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, rc::Rc};

    use rusty_leveldb::{DB, MemEnv, Options, env::Env};

    use super::*;

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }

        fn bytes(&mut self, bound: usize) -> Vec<u8> {
            let length = self.below(bound);
            // Few distinct values, so that the data is compressible.
            (0..length).map(|_| self.below(4) as u8).collect()
        }
    }

    /// Copies a database from memory to a folder.
    fn dump(env: &dyn Env, name: &str, folder: &Path) {
        for child in env.children(Path::new(name)).unwrap() {
            let mut bytes = Vec::new();
            let mut file = env
                .open_sequential_file(&Path::new(name).join(&child))
                .unwrap();
            file.read_to_end(&mut bytes).unwrap();
            fs::write(folder.join(child), bytes).unwrap();
        }
    }

    #[test]
    fn reads_what_another_implementation_writes() {
        for (seed, compressor) in [(1, 0), (2, 1), (3, 1), (4, 0)] {
            let mut random = Random(seed);
            let env: Rc<Box<dyn Env>> = Rc::new(Box::new(MemEnv::new()));
            let options = || Options {
                env: Rc::clone(&env),
                compressor,
                // Small, so that there are many tables, and compactions.
                write_buffer_size: 40_000,
                max_file_size: 20_000,
                ..Options::default()
            };
            let mut expected = BTreeMap::new();
            for session in 0..4 {
                let mut database = DB::open("db", options()).unwrap();
                for _ in 0..250 * (1 + session) {
                    let key = format!("key {:03}", random.below(500)).into_bytes();
                    if random.below(5) == 0 {
                        database.delete(&key).unwrap();
                        expected.remove(&key);
                    } else {
                        // Some take several blocks of a journal.
                        let bound = if random.below(50) == 0 { 120_000 } else { 300 };
                        let value = random.bytes(bound);
                        database.put(&key, &value).unwrap();
                        expected.insert(key, value);
                    }
                }
                database.close().unwrap();
                drop(database);
                let folder = tempfile::tempdir().unwrap();
                dump(&**env, "db", folder.path());
                let content = read(folder.path()).unwrap();
                assert!(
                    content.entries == expected,
                    "seed {seed}, session {session}"
                );
                assert_eq!(content.warnings, [""; 0]);
            }
            let tables = env.children(Path::new("db")).unwrap();
            let tables = tables
                .iter()
                .filter(|name| name.extension().is_some_and(|ext| ext == "ldb"));
            assert!(tables.count() > 3);
        }
    }

    /// Two journals, tables on two levels, with and without Snappy; not closed, as after a kill.
    #[test]
    fn reads_what_goleveldb_writes() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goleveldb");
        let content = read(&data.join("many-tables")).unwrap();
        assert_eq!(content.warnings, [""; 0]);
        let expected = fs::read_to_string(data.join("many-tables.txt")).unwrap();
        let expected: BTreeMap<_, _> = expected
            .lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .collect();
        assert_eq!(expected.len(), 262);
        assert_eq!(content.entries, expected);
        let manifest = data.join("many-tables/MANIFEST-000038");
        let live = Live::read(&manifest, &mut Vec::new()).unwrap();
        let levels: BTreeSet<u64> = live.tables.keys().map(|(level, _)| *level).collect();
        assert!(levels.len() > 1 && live.tables.len() > 8, "{live:?}");
        assert_eq!(live.journals(&data.join("many-tables")).unwrap().len(), 2);
    }

    fn fixture(name: &str) -> (tempfile::TempDir, Content) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/go-server");
        let folder = tempfile::tempdir().unwrap();
        for file in fs::read_dir(source.join(name)).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
        }
        let content = read(folder.path()).unwrap();
        assert_eq!(content.warnings, [""; 0]);
        (folder, content)
    }

    const FIXTURES: [(&str, usize); 4] = [
        ("finished/db/rounds/0", 14),
        ("finished/db/rounds/1", 0),
        ("finished/db/proofs", 2),
        ("stopped-cleanly/db/rounds/0", 20),
    ];

    #[test]
    fn a_changed_byte_is_never_passed_over_in_silence() {
        let mut random = Random(5);
        for (name, entries) in FIXTURES {
            let (folder, whole) = fixture(name);
            assert_eq!(whole.entries.len(), entries);
            let mut refused = 0;
            for file in fs::read_dir(folder.path()).unwrap() {
                let path = file.unwrap().path();
                let bytes = fs::read(&path).unwrap();
                let step = 1 + bytes.len() / 300;
                for at in (0..bytes.len()).step_by(step) {
                    let mut changed = bytes.clone();
                    changed[at] ^= 1 << random.below(8);
                    fs::write(&path, changed).unwrap();
                    match read(folder.path()) {
                        Err(_) => refused += 1,
                        Ok(content) => assert!(
                            content.entries == whole.entries || !content.warnings.is_empty(),
                            "{name}, {path:?}, byte {at}"
                        ),
                    }
                }
                fs::write(&path, bytes).unwrap();
            }
            assert!(refused > 40, "{name}: {refused}");
        }
    }

    #[test]
    fn a_cut_journal_ends_with_its_last_whole_record() {
        let (folder, whole) = fixture("stopped-cleanly/db/rounds/0");
        let path = folder.path().join("000001.log");
        let bytes = fs::read(&path).unwrap();
        let mut counts = BTreeSet::new();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let content = read(folder.path()).unwrap();
            let mut known = content.entries.iter();
            assert!(known.all(|(key, value)| whole.entries.get(key) == Some(value)));
            counts.insert(content.entries.len());
            // As a file system leaves it after a power failure.
            if content.warnings.is_empty() {
                let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
                file.write_all(&[0; 4096]).unwrap();
                let padded = read(folder.path()).unwrap();
                assert_eq!(padded.entries, content.entries);
            } else {
                assert!(content.warnings[0].contains("never completed"));
            }
        }
        assert!(counts.contains(&0) && counts.len() > 1, "{counts:?}");
    }

    /// The Go server may be killed while it creates one.
    #[test]
    fn a_database_that_was_not_yet_used_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        for file in ["LOCK", "LOG"] {
            fs::write(folder.path().join(file), "").unwrap();
            assert!(read(folder.path()).unwrap().entries.is_empty());
        }
        // The manifest is that of a database with an empty first journal.
        let (folder, _) = fixture("finished/db/rounds/1");
        let manifest = folder.path().join("MANIFEST-000000");
        let mut edit = vec![1, 26];
        edit.extend(b"leveldb.BytewiseComparator");
        edit.extend([2, 0, 3, 1, 4, 0]);
        let record = |edit: &[u8]| {
            let checksum = crc32c::crc32c_append(crc32c::crc32c(&[1]), edit);
            let length = (edit.len() as u16).to_le_bytes();
            [&masked(checksum).to_le_bytes()[..], &length, &[1], edit].concat()
        };
        fs::write(&manifest, record(&edit)).unwrap();
        assert!(read(folder.path()).unwrap().entries.is_empty());
        fs::remove_file(folder.path().join("000001.log")).unwrap();
        assert!(read(folder.path()).unwrap().entries.is_empty());
        // A manifest that has lost its content is an error.
        for content in [&[][..], &record(&edit[..28])] {
            fs::write(&manifest, content).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(error.ends_with("it names no journal"), "{error}");
        }
        fs::remove_file(folder.path().join("CURRENT")).unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("CURRENT is missing"), "{error}");
    }

    #[test]
    fn what_is_missing_is_named() {
        for (name, file) in [
            ("finished/db/rounds/0", "CURRENT"),
            ("finished/db/rounds/0", "MANIFEST-000004"),
            ("finished/db/rounds/0", "000002.ldb"),
            ("finished/db/rounds/0", "000003.log"),
        ] {
            let (folder, _) = fixture(name);
            fs::remove_file(folder.path().join(file)).unwrap();
            let error = read(folder.path()).unwrap_err().to_string();
            assert!(
                error.contains(file) && error.contains("is missing"),
                "{error}"
            );
        }
        let (folder, _) = fixture("finished/db/rounds/0");
        fs::write(folder.path().join("000002.ldb"), "short").unwrap();
        let error = read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("it has 5 bytes, expected 720"), "{error}");
    }
}
