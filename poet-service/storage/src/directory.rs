//! The server's directories: what they contain, and who owns them.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use poet_files::{Access, create_directory, reason, replace};
use poet_proto::{base64, identity::PublicKey};

/// In the directory of the database: the database.
pub const DATABASE_FILE: &str = "poet.sqlite";
/// In a Go server's working directory: its key.
pub const GO_STATE_FILE: &str = "state.bin";
/// In a Go server's database directory: a file of its proofs.
pub const GO_SERVER_PROOFS: &str = "proofs/CURRENT";
/// In the working directory: the public key of the server that owns it.
pub const OWNER_FILE: &str = "poet-service.owner";
/// In both directories: locked while a server runs, and holds its process id.
const LOCK_FILE: &str = "poet-service.lock";
/// How often to try to get a lock whose holder is ending, and how long to wait in between.
const LOCK_ATTEMPTS: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Returns the public key, in base64, of the server that owns `datadir`, if one was recorded.
///
/// # Errors
/// Fails if it cannot be read; `InvalidData` if it is not a key.
pub fn owner(datadir: &Path) -> io::Result<Option<String>> {
    let noted = match fs::read(datadir.join(OWNER_FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        noted => noted?,
    };
    let text = noted.trim_ascii();
    if text.is_empty() {
        return Ok(None);
    }
    let key = str::from_utf8(text).ok().and_then(base64::decode_bytes32);
    match key {
        Some(key) => Ok(Some(base64::encode(key))),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Records which server owns `datadir`.
///
/// # Errors
/// Fails if it cannot be written.
pub fn set_owner(datadir: &Path, key: &PublicKey) -> io::Result<()> {
    let text = owner_text(key) + "\n";
    replace(&datadir.join(OWNER_FILE), text.as_bytes(), Access::Private)
}

/// Removes the record of the owner of `datadir`.
///
/// # Errors
/// Fails if it cannot be removed.
pub fn remove_owner(datadir: &Path) -> io::Result<()> {
    fs::remove_file(datadir.join(OWNER_FILE))
}

/// Formats a public key as [`owner`] returns it.
pub fn owner_text(key: &PublicKey) -> String {
    base64::encode(key.as_bytes())
}

/// The directories in which a server stores what must survive.
#[derive(Clone, Debug)]
pub struct Directories {
    /// The database.
    pub dbdir: PathBuf,
    /// The work in progress. May be the same directory.
    pub datadir: PathBuf,
}

/// Directories that no other server may use. The system unlocks them when the process ends, for
/// whatever reason.
#[derive(Debug)]
pub struct DirectoryLocks {
    _locks: Vec<DirectoryLock>,
}

/// Why directories cannot be used.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum DirectoryError {
    #[error(
        "cannot use {flag} {path}: {}: expected a directory that can be written to",
        reason(cause)
    )]
    Unusable {
        flag: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error(
        "{flag} {path} is in use by another poet-service (process {pid}): expected one server for each directory"
    )]
    Locked {
        flag: &'static str,
        path: PathBuf,
        pid: String,
    },
    #[error(
        "cannot lock {flag} {path}: {}: its file system has no locks, as some network file systems \
         (NFS): expected a directory on a local disk",
        reason(cause)
    )]
    NoLocks {
        flag: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
}

impl Directories {
    /// Locks both directories, after creating missing ones.
    ///
    /// # Errors
    /// Fails if another server uses one of them, or one cannot be written to.
    pub fn lock(&self) -> Result<DirectoryLocks, DirectoryError> {
        let mut locks = vec![DirectoryLock::take("--dbdir", &self.dbdir)?];
        if !same_directory(&self.dbdir, &self.datadir) {
            locks.push(DirectoryLock::take("--datadir", &self.datadir)?);
        }
        Ok(DirectoryLocks { _locks: locks })
    }

    /// Locks only the working directory, after creating it if it is missing.
    ///
    /// # Errors
    /// Fails if [`Self::lock`] does.
    pub fn lock_work(&self) -> Result<DirectoryLocks, DirectoryError> {
        Ok(DirectoryLocks {
            _locks: vec![DirectoryLock::take("--datadir", &self.datadir)?],
        })
    }

    /// Like [`Self::lock`], but does not create a missing working directory.
    ///
    /// # Errors
    /// Fails if [`Self::lock`] does.
    pub fn lock_existing(&self) -> Result<DirectoryLocks, DirectoryError> {
        if self.datadir.is_dir() {
            return self.lock();
        }
        let database = DirectoryLock::take("--dbdir", &self.dbdir)?;
        Ok(DirectoryLocks {
            _locks: vec![database],
        })
    }

    /// Returns the path of the database.
    pub fn database(&self) -> PathBuf {
        self.dbdir.join(DATABASE_FILE)
    }
}

/// Returns whether two paths name the same directory.
fn same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// The lock of one directory.
#[derive(Debug)]
struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock, after creating the directory if it is missing.
    fn take(flag: &'static str, path: &Path) -> Result<Self, DirectoryError> {
        let failed = |cause| DirectoryError::Unusable {
            flag,
            path: path.to_owned(),
            cause,
        };
        create_directory(path, Access::Private).map_err(failed)?;
        let mut file = Access::Private
            .open_options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match try_lock(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // For the message only.
                if file.read_to_string(&mut pid).is_err() || pid.is_empty() {
                    pid = "unknown".to_owned();
                }
                return Err(DirectoryError::Locked {
                    flag,
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(cause)) => {
                return Err(DirectoryError::NoLocks {
                    flag,
                    path: path.to_owned(),
                    cause,
                });
            }
        }
        file.set_len(0)
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Locks a file. Waits a moment for a holder that is ending: a program that it has just started
/// shares its open files until that program's own code runs.
fn try_lock(file: &File) -> Result<(), TryLockError> {
    for _ in 1..LOCK_ATTEMPTS {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            result => return result,
        }
    }
    file.try_lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(owner(folder.path()).unwrap(), None);
        let key = poet_proto::identity::PrivateKey::generate()
            .unwrap()
            .public();
        set_owner(folder.path(), &key).unwrap();
        assert_eq!(owner(folder.path()).unwrap(), Some(owner_text(&key)));
        let file = folder.path().join(OWNER_FILE);
        for damaged in [&[0; 45][..], b"\xff\xfe", b"AAAA"] {
            fs::write(&file, damaged).unwrap();
            let error = owner(folder.path()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        fs::write(&file, "").unwrap();
        assert_eq!(owner(folder.path()).unwrap(), None);
    }
}
