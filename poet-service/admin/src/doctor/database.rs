//! Examines the database as a file, and what it says about its server.

use std::{fmt, fs, path::PathBuf};

use poet_proto::identity::{PrivateKey, PublicKey};
use poet_rounds::{
    clock::{Clock as _, SystemClock},
    schedule::Schedule,
    storage::Setting,
};
use poet_storage::{
    Database, DatabaseError, LogDamage, SqliteStorage,
    directory::{self, DATABASE_FILE, GO_SERVER_PROOFS, GO_STATE_FILE, OWNER_FILE},
    keep_damaged_log, log_damage, make_shrinkable,
};
use rusqlite::Connection;

use super::{Doctor, DoctorError, Owner, tree_log::set_aside, unwritable};

impl Doctor<'_> {
    /// Checks whether removing registrations makes the file smaller.
    pub(super) fn size(&mut self, storage: &SqliteStorage) -> Result<(), DoctorError> {
        let read = || Ok::<_, DatabaseError>((storage.removed_through()?, storage.can_shrink()?));
        match read() {
            Ok((Some(_), false)) => {}
            Ok(_) => return Ok(()),
            Err(error) => return self.unreadable_database(&error),
        }
        if !self.examination.repair {
            return self.note(
                "the database keeps its size when registrations are removed: it was made by an older \
                 version; --repair rewrites it, which needs space for a second copy",
            );
        }
        make_shrinkable(&self.database)?;
        self.line("  repaired  the database was rewritten, and can shrink from now on")
    }

    pub(super) fn no_database(&mut self, owner: &Owner) -> Result<(), DoctorError> {
        let whose = match owner {
            Owner::Key(owner) => format!("it was that of the server with public key {owner}"),
            Owner::Damaged => format!("its owner is not known: {OWNER_FILE} is damaged"),
            Owner::None => {
                return Err(match self.go_server() {
                    Some((flag, path)) => DoctorError::NotTakenOver { flag, path },
                    None => DoctorError::NoDatabase(self.examination.directories.dbdir.clone()),
                });
            }
        };
        let advice = match self.newest_copy() {
            None => "Restore it from a backup: the key and the registrations are lost with it."
                .to_owned(),
            Some(copy) => format!(
                "The server made a copy of it, {}: give that the name {DATABASE_FILE}.",
                copy.display()
            ),
        };
        self.damaged(&format!("it is gone, or empty; {whose}"), &advice)
    }

    /// Returns the copy that a server made of a database that was removed or replaced while it ran.
    pub(super) fn newest_copy(&self) -> Option<PathBuf> {
        let is_copy = |entry: &fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap_or_default();
            let suffix = name.strip_prefix(DATABASE_FILE).unwrap_or_default();
            suffix == ".new" || suffix.starts_with(".kept-")
        };
        let entries = fs::read_dir(&self.examination.directories.dbdir)
            .into_iter()
            .flatten();
        let copies = entries.flatten().filter(is_copy);
        let newest = copies.max_by_key(|entry| entry.metadata().and_then(|of| of.modified()).ok());
        newest.map(|entry| entry.path())
    }

    /// Returns the directory that holds the state of a Go server, if one does.
    pub(super) fn go_server(&self) -> Option<(&'static str, PathBuf)> {
        let examination = self.examination;
        [
            ("--datadir", &examination.directories.datadir, GO_STATE_FILE),
            ("--dbdir", &examination.directories.dbdir, GO_SERVER_PROOFS),
        ]
        .into_iter()
        .find(|(_, path, file)| path.join(file).exists())
        .map(|(flag, path, _)| (flag, path.clone()))
    }

    pub(super) fn left_by_go_server(&mut self) -> Result<(), DoctorError> {
        match self.go_server() {
            None => Ok(()),
            Some((flag, path)) => self.note(&format!(
                "{flag} {} also holds the state of a Go server, which this one does not use",
                path.display()
            )),
        }
    }

    pub(super) fn unreadable_database(
        &mut self,
        error: &dyn fmt::Display,
    ) -> Result<(), DoctorError> {
        self.damaged(&error.to_string(), self.restore)
    }

    pub(super) fn write_ahead_log(&mut self) -> Result<(), DoctorError> {
        let found = log_damage(&self.database)
            .map_err(|cause| self.io("read the log of", &self.database, cause))?;
        let Some(LogDamage {
            frame,
            transactions,
        }) = found
        else {
            return Ok(());
        };
        let database = self.database.clone();
        self.repairable(
            &format!(
                "its log (-wal) is wrong from frame {frame} on, with {transactions} whole \
                 transactions: registrations that were acknowledged shortly before the server \
                 ended may be lost"
            ),
            "keeps a copy and goes on with what is right in it",
            || {
                let kept = keep_damaged_log(&database, SystemClock.now())?;
                let connection = Connection::open(&database).map_err(DatabaseError::from)?;
                connection
                    .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
                    .map_err(DatabaseError::from)?;
                let kept = kept.unwrap_or_default();
                Ok(format!(
                    "what was right is in it; original: {}",
                    kept.display()
                ))
            },
        )
    }

    pub(super) fn settings(
        &mut self,
        storage: &dyn Database,
        owner: Owner,
    ) -> Result<(), DoctorError> {
        match storage.setting(Setting::PrivateKey) {
            Ok(Some(bytes)) => match PrivateKey::from_bytes(&bytes) {
                Ok(key) => self.key(&key.public(), owner)?,
                Err(error) => self.damaged(
                    &format!("the private key: {error}"),
                    "Restore the database from a backup.",
                )?,
            },
            Ok(None) => self.note("it has no key yet: the server was never started")?,
            Err(error) => self.unreadable_database(&error)?,
        }
        match storage.setting(Setting::Schedule) {
            Ok(None) => {}
            Ok(Some(bytes)) => match read_schedule(&bytes) {
                Some(schedule) => self.fine(&format!("schedule {schedule}"))?,
                None => self.damaged(
                    "the schedule cannot be read",
                    "Restore the database from a backup.",
                )?,
            },
            Err(error) => self.unreadable_database(&error)?,
        }
        match storage.pow_challenges() {
            Ok(_) => Ok(()),
            Err(error) => self.unreadable_database(&error),
        }
    }

    /// Checks the server's key, and whether the work belongs to it.
    pub(super) fn key(&mut self, public: &PublicKey, owner: Owner) -> Result<(), DoctorError> {
        let key = directory::owner_text(public);
        let datadir = &self.examination.directories.datadir;
        match owner {
            Owner::Key(owner) if owner != key => self.damaged(
                &format!(
                    "its public key is {key}, but {} holds the work of {owner}",
                    datadir.display()
                ),
                "Give --dbdir and --datadir of one server.",
            ),
            Owner::Damaged => {
                let path = datadir.join(OWNER_FILE);
                self.repairable(
                    &format!("{} is damaged", path.display()),
                    "writes the key of this database to it; be sure that both directories are of one \
                     server",
                    || {
                        let write = || {
                            let kept = set_aside(&path)?;
                            directory::set_owner(datadir, public)?;
                            Ok(kept)
                        };
                        let kept = write().map_err(|cause| unwritable(&path, cause))?;
                        Ok(format!("{OWNER_FILE}; original: {}", kept.display()))
                    },
                )
            }
            _ => self.fine(&format!("public key {key}")),
        }
    }
}

pub(super) fn read_schedule(bytes: &[u8]) -> Option<Schedule> {
    str::from_utf8(bytes).ok()?.parse().ok()
}
