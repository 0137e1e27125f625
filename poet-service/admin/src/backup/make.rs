//! Makes a backup.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use poet_engine::Work;
use poet_files::{Access, create_directory, create_new, rename_into_place, sync_directory};
use poet_rounds::round_files::ROUNDS_FOLDER;
use poet_storage::{
    SqliteReader,
    directory::{DATABASE_FILE, Directories, OWNER_FILE},
};

use super::{
    error::{BackupError, failed},
    layout::{
        BACKUP, DATA, DB, Done, Listed, MANIFEST, Manifest, PARTIAL, ROUND_FILES, VERSION, backups,
        check_outside, copy_if_there, entries, examine, hash, name_of, rounds,
    },
};

/// In a directory of backups: locked while one is made.
const LOCK: &str = "poet-backup.lock";
/// The space that a directory needs besides the files themselves.
const SPARE_BYTES: u64 = 8 << 20;

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
