//! Restores a backup.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use poet_engine::Work;
use poet_files::{Access, create_directory, rename_into_place, sync_directory};
use poet_rounds::round_files::ROUNDS_FOLDER;
use poet_storage::directory::{DATABASE_FILE, Directories, OWNER_FILE};

use super::{
    error::{BackupError, failed},
    layout::{
        DATA, DB, Done, MANIFEST, Manifest, VERSION, backups, check_outside, copy_if_there,
        entries, examine, hash, rounds,
    },
};

/// Much more than a manifest of a thousand rounds takes.
const MAX_MANIFEST_BYTES: u64 = 1 << 20;

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
