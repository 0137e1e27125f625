//! Backs up a server's state, also while it runs, and restores it.
//!
//! A directory of backups holds a folder for each: `backup-` and the time. It contains a snapshot
//! of the database, the work on the rounds, and `manifest.json`, which lists both with their
//! SHA-256 and is written last. The work is copied before the database: a log belongs to the
//! members with which its round closed, and a database newer than the log contains them. Then the
//! copy is examined like `doctor` does, which cuts off a log entry that was being written.
//!
//! Nothing incomplete ever has its final name: a backup gets its name when it is complete, and a
//! restored state is moved into place when all of it is there.

use std::{
    fs::{self, DirEntry, File, TryLockError},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use poet_engine::Work;
use poet_files::{Access, create_directory, create_new, reason, rename_into_place, sync_directory};
use poet_rounds::round_files::{AUDIT_FILE, FINDINGS_FILE, LOG_FILE, ROUNDS_FOLDER, SAMPLED_FILE};
use poet_storage::{
    DatabaseError, SqliteReader,
    directory::{DATABASE_FILE, Directories, DirectoryError, OWNER_FILE},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::doctor::{self, DoctorError, Examination};

/// In a directory of backups: locked while one is made.
const LOCK: &str = "poet-backup.lock";
/// The prefixes of backups, and of incomplete ones.
const BACKUP: &str = "backup-";
const PARTIAL: &str = "partial-";
const MANIFEST: &str = "manifest.json";
const VERSION: u32 = 1;
/// Much more than a manifest of a thousand rounds takes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;
const DB: &str = "db";
const DATA: &str = "data";
/// The space that a directory needs besides the files themselves.
const SPARE_BYTES: u64 = 8 << 20;
/// The files of a round. First what was audited of the log: it must not be ahead of the log.
const ROUND_FILES: [&str; 4] = [AUDIT_FILE, SAMPLED_FILE, FINDINGS_FILE, LOG_FILE];

/// Why there is no backup, or nothing was restored. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BackupError {
    #[error("{0} is not a directory, or its name is not text: expected a directory for backups")]
    Place(PathBuf),
    #[error(
        "{place} is inside {directory}, which is backed up, or the other way round: expected a directory \
         elsewhere, best on another disk"
    )]
    Inside { place: PathBuf, directory: PathBuf },
    #[error(
        "{place} holds {name}, which is not a backup: expected an empty directory, or one with backups only"
    )]
    Foreign { place: PathBuf, name: String },
    #[error("another backup is being made in {0}: expected one at a time")]
    Busy(PathBuf),
    #[error("--dbdir {0} holds no database: expected the directory of a server")]
    NoDatabase(PathBuf),
    #[error(
        "{place} has room for {free} MB, and the backup needs {needed} MB: expected more room, or another \
         directory"
    )]
    NoRoom {
        place: PathBuf,
        free: u64,
        needed: u64,
    },
    #[error("cannot {action} {path}: {cause}")]
    Io {
        action: &'static str,
        path: PathBuf,
        cause: String,
    },
    #[error("cannot copy the database: {0}")]
    Database(#[from] DatabaseError),
    #[error("{what} is damaged, so it was not used: {found}")]
    Damaged { what: String, found: String },
    #[error("{0} holds no backup: expected a directory that `poet-service backup` has made")]
    NoBackup(PathBuf),
    #[error(
        "{0} exists already: expected directories without a server's state, or --replace, which keeps the \
         existing files under other names"
    )]
    Exists(PathBuf),
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Doctor(#[from] DoctorError),
}

/// Converts the failure of an operation on a path.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    move |error| BackupError::Io {
        action,
        path: path.to_owned(),
        cause: reason(&error),
    }
}

/// A backup that was made or restored.
#[derive(Debug)]
pub struct Done {
    /// Its path.
    pub backup: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The rounds whose work it contains.
    pub rounds: Vec<u64>,
    /// The number of older backups that were removed.
    pub removed: usize,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    version: u32,
    time: Timestamp,
    files: Vec<Listed>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    /// Relative, with slashes.
    path: String,
    bytes: u64,
    sha256: String,
}

impl Manifest {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn rounds(&self) -> Vec<u64> {
        let round = |file: &Listed| {
            let path = file.path.strip_prefix("data/rounds/")?;
            let (round, name) = path.split_once('/')?;
            (name == LOG_FILE).then(|| round.parse().ok())?
        };
        self.files.iter().filter_map(round).collect()
    }
}

/// Copies the state of the server with these directories, which may be running, into a new folder
/// of `place`, and removes all but the newest `keep` backups there.
///
/// # Errors
/// Fails if that is not possible, or the copy is not sound; earlier backups are then unchanged.
pub fn back_up(
    directories: &Directories,
    place: &Path,
    keep: usize,
    work: &Work,
    now: Timestamp,
) -> Result<Done, BackupError> {
    let database = directories.database();
    if !database.is_file() {
        return Err(BackupError::NoDatabase(directories.dbdir.clone()));
    }
    check_outside(directories, place)?;
    create_directory(place, Access::Private).map_err(failed("create", place))?;
    let _lock = lock(place)?;
    for entry in entries(place)? {
        if name_of(&entry).starts_with(PARTIAL) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(failed("remove", &path))?;
        }
    }
    check_room(directories, place)?;
    let time = now.to_zoned(TimeZone::UTC);
    let stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ").to_string();
    let partial = place.join(format!("{PARTIAL}{stamp}"));
    let made = make(directories, &partial, work, now).and_then(|manifest| {
        let name = (1..)
            .map(|number| match number {
                1 => format!("{BACKUP}{stamp}"),
                _ => format!("{BACKUP}{stamp}-{number}"),
            })
            .find(|name| !place.join(name).exists());
        let backup = place.join(name.unwrap_or_default());
        rename_into_place(&partial, &backup).map_err(failed("write", &backup))?;
        Ok((backup, manifest))
    });
    let (backup, manifest) = match made {
        Ok(made) => made,
        Err(error) => {
            // An incomplete copy is useless. If this fails, the next backup removes it.
            drop(fs::remove_dir_all(&partial));
            return Err(error);
        }
    };
    let backups = backups(place)?;
    let old = &backups[..backups.len().saturating_sub(keep.max(1))];
    for path in old {
        fs::remove_dir_all(path).map_err(failed("remove", path))?;
    }
    Ok(Done {
        backup,
        bytes: manifest.bytes(),
        rounds: manifest.rounds(),
        removed: old.len(),
    })
}

/// Restores the newest backup in `place`, or the backup `place`, into these directories. With
/// `replace`, existing files are kept under a name with the time in it.
///
/// # Errors
/// Fails if the backup is damaged, a state exists there, or the server runs; nothing is lost then.
pub fn restore(
    directories: &Directories,
    place: &Path,
    replace: bool,
    work: &Work,
    now: Timestamp,
) -> Result<Done, BackupError> {
    let backup = if place.join(MANIFEST).exists() {
        place.to_owned()
    } else {
        let newest = backups(place)?.pop();
        newest.ok_or_else(|| BackupError::NoBackup(place.to_owned()))?
    };
    let manifest = read_manifest(&backup)?;
    check_outside(directories, &backup)?;
    let _locks = directories.lock()?;
    let present = present(directories)?;
    if let (Some(path), false) = (present.first(), replace) {
        return Err(BackupError::Exists(path.clone()));
    }
    // Copies everything next to its final place, and examines it there.
    let stamp = now.as_second();
    let fresh = Directories {
        dbdir: directories.dbdir.join(format!(".restored-{stamp}")),
        datadir: directories.datadir.join(format!(".restored-{stamp}")),
    };
    let placed = copy_back(&manifest, &backup, &fresh)
        .and_then(|()| examine(&fresh, work, &backup.display().to_string()))
        .and_then(|()| {
            for path in &present {
                let mut kept = path.clone().into_os_string();
                kept.push(format!(".kept-{stamp}"));
                match rename_into_place(path, Path::new(&kept)) {
                    // The last connection to the database may have removed its log.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    moved => moved.map_err(failed("move", path))?,
                }
            }
            // The database last: a server does not start without it.
            for (from, to, name) in [
                (&fresh.datadir, &directories.datadir, ROUNDS_FOLDER),
                (&fresh.datadir, &directories.datadir, OWNER_FILE),
                (&fresh.dbdir, &directories.dbdir, DATABASE_FILE),
            ] {
                let (from, to) = (from.join(name), to.join(name));
                if from.exists() {
                    rename_into_place(&from, &to).map_err(failed("write", &to))?;
                }
            }
            Ok(())
        });
    for folder in [&fresh.dbdir, &fresh.datadir] {
        drop(fs::remove_dir_all(folder));
    }
    placed?;
    Ok(Done {
        backup,
        bytes: manifest.bytes(),
        rounds: manifest.rounds(),
        removed: 0,
    })
}

/// A backup inside the directories would copy itself, and be lost with them.
fn check_outside(directories: &Directories, place: &Path) -> Result<(), BackupError> {
    let place = resolved(place)?;
    for directory in [&directories.dbdir, &directories.datadir] {
        let directory = resolved(directory)?;
        if place.starts_with(&directory) || directory.starts_with(&place) {
            return Err(BackupError::Inside { place, directory });
        }
    }
    Ok(())
}

/// Returns a path without links, as far as it exists.
fn resolved(path: &Path) -> Result<PathBuf, BackupError> {
    let absolute = std::path::absolute(path).map_err(failed("use", path))?;
    let mut rest = Vec::new();
    let mut existing = absolute.as_path();
    loop {
        match existing.canonicalize() {
            Ok(found) => return Ok(rest.iter().rev().fold(found, |path, name| path.join(name))),
            Err(error) => match (existing.file_name(), existing.parent()) {
                (Some(name), Some(parent)) => {
                    rest.push(name.to_owned());
                    existing = parent;
                }
                _ => return Err(failed("use", path)(error)),
            },
        }
    }
}

/// Locks `place`, so that one backup at a time is made there.
fn lock(place: &Path) -> Result<File, BackupError> {
    for entry in entries(place)? {
        let name = name_of(&entry);
        let ours = name == LOCK
            || [BACKUP, PARTIAL]
                .iter()
                .any(|start| name.starts_with(start));
        if !ours {
            let place = place.to_owned();
            return Err(BackupError::Foreign { place, name });
        }
    }
    let path = place.join(LOCK);
    let mut options = Access::Private.open_options();
    let file = options.create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(failed("write", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(BackupError::Busy(place.to_owned())),
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, BackupError> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(failed("read", folder))
}

fn name_of(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// Returns the backups in a directory, the oldest first.
fn backups(place: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut backups: Vec<_> = entries(place)?
        .iter()
        .filter(|entry| name_of(entry).starts_with(BACKUP))
        .map(DirEntry::path)
        .collect();
    backups.sort();
    Ok(backups)
}

#[cfg(unix)]
fn check_room(directories: &Directories, place: &Path) -> Result<(), BackupError> {
    let length = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    let database = directories.database();
    let mut log = database.clone().into_os_string();
    log.push("-wal");
    let mut needed = length(database) + length(PathBuf::from(log)) + SPARE_BYTES;
    for round in rounds(directories)? {
        needed += ROUND_FILES
            .iter()
            .map(|name| length(round.join(name)))
            .sum::<u64>();
    }
    let space = rustix::fs::statvfs(place).map_err(|error| failed("use", place)(error.into()))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    if free < needed {
        return Err(BackupError::NoRoom {
            place: place.to_owned(),
            free: free / 1_000_000,
            needed: needed.div_ceil(1_000_000),
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_room(_directories: &Directories, _place: &Path) -> Result<(), BackupError> {
    Ok(())
}

/// Returns the folders of the rounds that are worked on.
fn rounds(directories: &Directories) -> Result<Vec<PathBuf>, BackupError> {
    let folder = directories.datadir.join(ROUNDS_FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let is_round = |entry: &DirEntry| name_of(entry).parse::<u64>().is_ok();
    let rounds = entries(&folder)?.into_iter().filter(is_round);
    Ok(rounds.map(|entry| entry.path()).collect())
}

/// Makes a backup in the new folder `partial`.
fn make(
    directories: &Directories,
    partial: &Path,
    work: &Work,
    now: Timestamp,
) -> Result<Manifest, BackupError> {
    let copy = Directories {
        dbdir: partial.join(DB),
        datadir: partial.join(DATA),
    };
    for folder in [&copy.dbdir, &copy.datadir.join(ROUNDS_FOLDER)] {
        create_directory(folder, Access::Private).map_err(failed("create", folder))?;
    }
    copy_if_there(
        &directories.datadir.join(OWNER_FILE),
        &copy.datadir.join(OWNER_FILE),
    )?;
    for round in rounds(directories)? {
        let name = round.file_name().unwrap_or_default();
        let to = copy.datadir.join(ROUNDS_FOLDER).join(name);
        create_directory(&to, Access::Private).map_err(failed("create", &to))?;
        let mut whole = false;
        for file in ROUND_FILES {
            whole = copy_if_there(&round.join(file), &to.join(file))?;
        }
        // The round was published meanwhile: the database, which comes next, contains its proof.
        if !whole {
            fs::remove_dir_all(&to).map_err(failed("remove", &to))?;
        }
    }
    let database = copy.database();
    create_new(&database, b"", Access::Private).map_err(failed("write", &database))?;
    let reader = SqliteReader::open(&directories.database())?;
    reader.copy_to(&database)?;
    examine(&copy, work, "the copy")?;
    let mut files = Vec::new();
    let mut add = |path: String| -> Result<(), BackupError> {
        let file = partial.join(&path);
        let (bytes, sha256) = hash(&file)?;
        files.push(Listed {
            path,
            bytes,
            sha256,
        });
        Ok(())
    };
    add(format!("{DB}/{DATABASE_FILE}"))?;
    if copy.datadir.join(OWNER_FILE).exists() {
        add(format!("{DATA}/{OWNER_FILE}"))?;
    }
    for round in rounds(&copy)? {
        let number = round.file_name().unwrap_or_default().to_string_lossy();
        for file in ROUND_FILES {
            if round.join(file).exists() {
                add(format!("{DATA}/{ROUNDS_FOLDER}/{number}/{file}"))?;
            }
        }
        sync_directory(&round).map_err(failed("write", &round))?;
    }
    let manifest = Manifest {
        version: VERSION,
        time: now,
        files,
    };
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    let path = partial.join(MANIFEST);
    create_new(&path, &text, Access::Private).map_err(failed("write", &path))?;
    for folder in [&copy.dbdir, &copy.datadir, &partial.to_owned()] {
        sync_directory(folder).map_err(failed("write", folder))?;
    }
    Ok(manifest)
}

/// Copies a file, if it exists. Returns whether it does.
fn copy_if_there(from: &Path, to: &Path) -> Result<bool, BackupError> {
    let mut source = match File::open(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        source => source.map_err(failed("read", from))?,
    };
    let mut options = Access::Private.open_options();
    let file = options.create_new(true).write(true).open(to);
    let mut file = file.map_err(failed("write", to))?;
    io::copy(&mut source, &mut file).map_err(failed("copy", from))?;
    file.sync_all().map_err(failed("write", to))?;
    Ok(true)
}

/// Fails if the doctor finds damage that it cannot repair. `what` is examined.
fn examine(directories: &Directories, work: &Work, what: &str) -> Result<(), BackupError> {
    let examination = Examination {
        directories: directories.clone(),
        database: None,
        full: false,
        repair: true,
        threads: 1,
    };
    let mut report = Vec::new();
    let diagnosis = doctor::examine(&examination, work, &mut report)?;
    if diagnosis.sound() {
        return Ok(());
    }
    let report = String::from_utf8_lossy(&report).into_owned();
    let mut found = report
        .lines()
        .filter_map(|line| line.trim().strip_prefix("DAMAGED"));
    Err(BackupError::Damaged {
        what: what.to_owned(),
        found: found.next().unwrap_or_default().trim().to_owned(),
    })
}

/// Returns the length of a file and its SHA-256.
fn hash(path: &Path) -> Result<(u64, String), BackupError> {
    let mut file = File::open(path).map_err(failed("read", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(failed("read", path))?;
        if read == 0 {
            return Ok((bytes, hex::encode(hash.finalize())));
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
}

fn read_manifest(backup: &Path) -> Result<Manifest, BackupError> {
    let path = backup.join(MANIFEST);
    let mut text = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_MANIFEST_BYTES).read_to_end(&mut text))
        .map_err(failed("read", &path))?;
    let damaged = |found: String| BackupError::Damaged {
        what: backup.display().to_string(),
        found,
    };
    let manifest: Manifest = serde_json::from_slice(&text)
        .map_err(|_| damaged(format!("{MANIFEST} is not what a backup has")))?;
    if manifest.version != VERSION {
        let version = manifest.version;
        return Err(damaged(format!(
            "{MANIFEST} has version {version}, expected {VERSION}"
        )));
    }
    for file in &manifest.files {
        // Must not read outside of the backup, nor write outside of the directories.
        let inside = file
            .path
            .split('/')
            .all(|part| !matches!(part, "" | "." | ".."));
        let known = file.path == format!("{DB}/{DATABASE_FILE}")
            || file.path == format!("{DATA}/{OWNER_FILE}")
            || file.path.starts_with("data/rounds/");
        if !inside || !known {
            return Err(damaged(format!("{MANIFEST} lists {:?}", file.path)));
        }
        let found = backup.join(&file.path);
        let (bytes, sha256) = hash(&found)?;
        if (bytes, &sha256) != (file.bytes, &file.sha256) {
            return Err(damaged(format!("{} is not as it was written", file.path)));
        }
    }
    let has_database = manifest.files.iter().any(|file| file.path.starts_with(DB));
    has_database
        .then_some(manifest)
        .ok_or_else(|| damaged(format!("{MANIFEST} lists no database")))
}

/// Returns which files of a server's state exist in its directories.
fn present(directories: &Directories) -> Result<Vec<PathBuf>, BackupError> {
    let database = directories.database();
    let mut present = Vec::new();
    for suffix in ["", "-wal", "-shm"] {
        let mut path = database.clone().into_os_string();
        path.push(suffix);
        present.push(PathBuf::from(path));
    }
    present.push(directories.datadir.join(OWNER_FILE));
    // An empty folder is no state.
    let rounds = directories.datadir.join(ROUNDS_FOLDER);
    if rounds.is_dir() && entries(&rounds)?.is_empty() {
        fs::remove_dir(&rounds).map_err(failed("remove", &rounds))?;
    }
    present.push(rounds);
    present.retain(|path| path.exists());
    Ok(present)
}

fn copy_back(manifest: &Manifest, backup: &Path, fresh: &Directories) -> Result<(), BackupError> {
    for file in &manifest.files {
        let from = backup.join(&file.path);
        let to = match file.path.split_once('/') {
            Some((DB, rest)) => fresh.dbdir.join(rest),
            Some((_, rest)) => fresh.datadir.join(rest),
            None => continue,
        };
        if let Some(folder) = to.parent() {
            create_directory(folder, Access::Private).map_err(failed("create", folder))?;
        }
        copy_if_there(&from, &to)?;
    }
    for folder in [&fresh.dbdir, &fresh.datadir] {
        create_directory(folder, Access::Private).map_err(failed("create", folder))?;
        let mut parents = vec![folder.clone()];
        parents.extend(rounds(fresh)?);
        for folder in parents {
            sync_directory(&folder).map_err(failed("write", &folder))?;
        }
    }
    Ok(())
}

/// Describes the backup in a line.
impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rounds: Vec<_> = self.rounds.iter().map(u64::to_string).collect();
        let work = match rounds.len() {
            0 => "no work".to_owned(),
            1 => format!("the work on round {}", rounds[0]),
            _ => format!("the work on rounds {}", rounds.join(", ")),
        };
        let megabytes = self.bytes as f64 / 1e6;
        write!(
            f,
            "{}: {megabytes:.1} MB, verified; the database and {work}",
            self.backup.display()
        )
    }
}
