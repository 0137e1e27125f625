//! What a backup consists of, and how its files are copied and checked.

use std::{
    fs::{self, DirEntry, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use poet_engine::Work;
use poet_files::Access;
use poet_rounds::round_files::{AUDIT_FILE, FINDINGS_FILE, LOG_FILE, ROUNDS_FOLDER, SAMPLED_FILE};
use poet_storage::directory::Directories;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{BackupError, failed};
use crate::doctor::{self, Examination};

/// The prefixes of backups, and of incomplete ones.
pub(super) const BACKUP: &str = "backup-";
pub(super) const PARTIAL: &str = "partial-";
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const VERSION: u32 = 1;
pub(super) const DB: &str = "db";
pub(super) const DATA: &str = "data";
/// The files of a round. First what was audited of the log: it must not be ahead of the log.
pub(super) const ROUND_FILES: [&str; 4] = [AUDIT_FILE, SAMPLED_FILE, FINDINGS_FILE, LOG_FILE];

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

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    pub(super) version: u32,
    pub(super) time: Timestamp,
    pub(super) files: Vec<Listed>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listed {
    /// Relative, with slashes.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Manifest {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    pub(super) fn rounds(&self) -> Vec<u64> {
        let round = |file: &Listed| {
            let path = file.path.strip_prefix("data/rounds/")?;
            let (round, name) = path.split_once('/')?;
            (name == LOG_FILE).then(|| round.parse().ok())?
        };
        self.files.iter().filter_map(round).collect()
    }
}

/// A backup inside the directories would copy itself, and be lost with them.
pub(super) fn check_outside(directories: &Directories, place: &Path) -> Result<(), BackupError> {
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
pub(super) fn resolved(path: &Path) -> Result<PathBuf, BackupError> {
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

pub(super) fn entries(folder: &Path) -> Result<Vec<DirEntry>, BackupError> {
    fs::read_dir(folder)
        .and_then(Iterator::collect)
        .map_err(failed("read", folder))
}

pub(super) fn name_of(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// Returns the backups in a directory, the oldest first.
pub(super) fn backups(place: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut backups: Vec<_> = entries(place)?
        .iter()
        .filter(|entry| name_of(entry).starts_with(BACKUP))
        .map(DirEntry::path)
        .collect();
    backups.sort();
    Ok(backups)
}

/// Returns the folders of the rounds that are worked on.
pub(super) fn rounds(directories: &Directories) -> Result<Vec<PathBuf>, BackupError> {
    let folder = directories.datadir.join(ROUNDS_FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let is_round = |entry: &DirEntry| name_of(entry).parse::<u64>().is_ok();
    let rounds = entries(&folder)?.into_iter().filter(is_round);
    Ok(rounds.map(|entry| entry.path()).collect())
}

/// Copies a file, if it exists. Returns whether it does.
pub(super) fn copy_if_there(from: &Path, to: &Path) -> Result<bool, BackupError> {
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
pub(super) fn examine(
    directories: &Directories,
    work: &Work,
    what: &str,
) -> Result<(), BackupError> {
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
pub(super) fn hash(path: &Path) -> Result<(u64, String), BackupError> {
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
