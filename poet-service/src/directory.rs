//! The server's directories: what is where, and whose they are.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poet_files::{Access, create_directory};
use poet_proto::identity::PublicKey;

use crate::service::StartError;

/// In the directory of the database: the database.
pub const DATABASE_FILE: &str = "poet.sqlite";
/// In the directory of the work: a folder for each round that is worked on.
pub(crate) const ROUNDS_FOLDER: &str = "rounds";
/// In a round's folder: the tree log.
pub(crate) const LOG_FILE: &str = "tree.log";
/// In a round's folder: the roots of what was audited of the tree log.
pub(crate) const AUDIT_FILE: &str = "audit.log";
/// In a round's folder: the same of an audit that took most entries on trust.
pub(crate) const SAMPLED_FILE: &str = "sampled.log";
/// In a round's folder: what audits have found, if they have.
pub(crate) const FINDINGS_FILE: &str = "findings.json";
/// In a round's folder: the same while it is being written.
pub(crate) const NEW_FINDINGS_FILE: &str = "findings.new";
/// In the directory of the work of a Go server: its key.
pub(crate) const GO_STATE_FILE: &str = "state.bin";
/// In the directory of the work: the public key of the server whose work it is.
const OWNER_FILE: &str = "poet-service.owner";
/// In both directories: locked while a server runs, and holds its process id.
const LOCK_FILE: &str = "poet-service.lock";

/// The public key, in base64, of the server whose work `datadir` holds, if that was ever noted.
pub(crate) fn owner(datadir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(datadir.join(OWNER_FILE)) {
        Ok(owner) => Ok(Some(owner.trim().to_owned()).filter(|owner| !owner.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Notes whose work `datadir` holds.
pub(crate) fn set_owner(datadir: &Path, key: &PublicKey) -> io::Result<()> {
    fs::write(datadir.join(OWNER_FILE), owner_text(key) + "\n")
}

/// Forgets whose work `datadir` holds.
pub(crate) fn remove_owner(datadir: &Path) -> io::Result<()> {
    fs::remove_file(datadir.join(OWNER_FILE))
}

/// A public key as [`owner`] gives it.
pub(crate) fn owner_text(key: &PublicKey) -> String {
    STANDARD.encode(key.as_bytes())
}

/// Where the tree log of a round is.
pub(crate) fn tree_log(datadir: &Path, round: u64) -> PathBuf {
    let rounds = datadir.join(ROUNDS_FOLDER);
    rounds.join(round.to_string()).join(LOG_FILE)
}

/// Whether two paths lead to one directory.
pub(crate) fn same_directory(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// A directory that no other server may use. The system releases it when the process ends,
/// however it ends.
#[derive(Debug)]
pub(crate) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes it, and makes the directory if there is none.
    pub(crate) fn take(flag: &'static str, path: &Path) -> Result<Self, StartError> {
        let failed = |cause| StartError::Directory {
            flag,
            path: path.to_owned(),
            cause,
        };
        create_directory(path, Access::Private).map_err(failed)?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path.join(LOCK_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // For the message only.
                if file.read_to_string(&mut pid).is_err() || pid.is_empty() {
                    pid = "unknown".to_owned();
                }
                return Err(StartError::Locked {
                    flag,
                    path: path.to_owned(),
                    pid,
                });
            }
            Err(TryLockError::Error(cause)) => {
                return Err(StartError::NoLocks {
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
    }
}
