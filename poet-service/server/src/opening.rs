//! Opens the configured storage, and checks that it is this server's.

use std::{fs, io, path::Path, sync::Arc};

use poet_proto::identity::PrivateKey;
use poet_rounds::{
    clock::Clock,
    storage::{Setting, Storage, StorageError},
};
use poet_storage::{
    History, PostgresStorage, SqliteStorage,
    directory::{self, DirectoryError, DirectoryLocks, GO_SERVER_PROOFS, GO_STATE_FILE},
    keep_damaged_log,
};

use crate::{
    config::Config,
    metrics::Metrics,
    start_error::{Place, StartError},
};

/// Opens the storage, after locking the directories.
pub(crate) fn open(
    config: &Config,
    metrics: Metrics,
    clock: &Arc<dyn Clock>,
) -> Result<(DirectoryLocks, Arc<dyn Storage>), StartError> {
    let directories = &config.directories;
    let locks = match &config.database {
        Some(_) => directories.lock_work()?,
        None => directories.lock()?,
    };
    let unusable = |cause: io::Error| match cause.kind() {
        io::ErrorKind::InvalidData => StartError::Owner(config.directories.datadir.clone()),
        _ => StartError::Directory(DirectoryError::Unusable {
            flag: "--datadir",
            path: config.directories.datadir.clone(),
            cause,
        }),
    };
    let owner = directory::owner(&config.directories.datadir).map_err(unusable)?;
    let other = |found| StartError::OtherOwner {
        datadir: config.directories.datadir.clone(),
        owner: owner.clone().unwrap_or_default(),
        place: Place::of(config),
        found,
    };
    let storage: Arc<dyn Storage> = match &config.database {
        Some(url) => {
            let (batch, clock) = (config.max_submit_batch, Arc::clone(clock));
            let storage = PostgresStorage::open(url, batch, clock, Arc::new(metrics))?;
            Arc::new(storage)
        }
        None => Arc::new(open_embedded(
            config,
            metrics,
            clock,
            owner.is_some(),
            &other,
        )?),
    };
    if let Some(owner) = &owner {
        match stored_key(&*storage)?.map(|key| directory::owner_text(&key.public())) {
            Some(key) if *owner == key => {}
            Some(key) => return Err(other(format!("that of {key}"))),
            // A damaged key is reported by the code that needs it.
            None if storage.setting(Setting::PrivateKey)?.is_some() => {}
            None => return Err(other("none".to_owned())),
        }
    }
    Ok((locks, storage))
}

/// Opens or creates the embedded database. Fails if a database should exist and does not.
fn open_embedded(
    config: &Config,
    metrics: Metrics,
    clock: &Arc<dyn Clock>,
    has_owner: bool,
    other: &dyn Fn(String) -> StartError,
) -> Result<SqliteStorage, StartError> {
    let database = config.directories.database();
    // A new database would have another key and no members.
    let missing = fs::metadata(&database).map_or(true, |metadata| metadata.len() == 0);
    if missing && has_owner {
        return Err(other("none".to_owned()));
    }
    // The same holds if the operator forgot to import what is there.
    for (flag, path, file) in [
        ("--datadir", &config.directories.datadir, GO_STATE_FILE),
        ("--dbdir", &config.directories.dbdir, GO_SERVER_PROOFS),
    ] {
        if missing && path.join(file).exists() {
            return Err(StartError::NotTakenOver {
                flag,
                path: path.clone(),
                dbdir: config.directories.dbdir.clone(),
            });
        }
    }
    keep_damaged_log(&database, clock.now())?;
    let (batch, clock) = (config.max_submit_batch, Arc::clone(clock));
    let storage = SqliteStorage::open(&database, batch, clock, Arc::new(metrics))?;
    Ok(storage)
}

/// Opens the history. If that is not possible, the server starts without it.
pub(crate) fn open_history(datadir: &Path) -> Option<Arc<History>> {
    History::open(datadir)
        .inspect_err(|error| tracing::warn!(%error, "there is no history for the operator's page"))
        .map(Arc::new)
        .ok()
}

/// Returns the stored key if it is valid. Code that needs it reports a damaged one.
fn stored_key(storage: &dyn Storage) -> Result<Option<PrivateKey>, StorageError> {
    let stored = storage.setting(Setting::PrivateKey)?;
    Ok(stored.and_then(|key| PrivateKey::from_bytes(&key).ok()))
}

/// Records in the working directory which server owns it, unless that is recorded already.
pub(crate) fn claim(config: &Config, storage: &dyn Storage) -> Result<(), StartError> {
    let unusable = |cause| DirectoryError::Unusable {
        flag: "--datadir",
        path: config.directories.datadir.clone(),
        cause,
    };
    if directory::owner(&config.directories.datadir)
        .map_err(unusable)?
        .is_none()
        && let Some(key) = stored_key(storage)?
    {
        directory::set_owner(&config.directories.datadir, &key.public()).map_err(unusable)?;
    }
    Ok(())
}
