//! What is wrong with the directories of a server that does not run, and what can be put right.
//!
//! The database is looked at first: whether SQLite finds it whole, whose it is, and what it says of
//! each round. All else follows from it. The members of a round give the statement that its work is
//! bound to; the statement tells whether a tree log is the round's; the entries of a log are
//! recomputed from those before them; and a published proof is verified.
//!
//! Repairing never destroys: what is replaced is kept under a name with the time in it. What only a
//! backup can give back is said, not guessed.

mod tree_log;

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use poet_engine::{LogError, Node, T, Work, file::FileLog, membership, verify};
use poet_proto::{
    duration::format_go,
    identity::{PrivateKey, PublicKey},
};
use poet_rounds::{
    round_files::{self, AUDIT_FILE, FINDINGS_FILE, ROUNDS_FOLDER, SAMPLED_FILE},
    schedule::Schedule,
    storage::{EarlyProofRecord, Execution, RoundRecord, Setting},
    worker::{AuditReport, MAX_UNSYNCED_LEAVES},
};
use poet_storage::{
    DatabaseError, LogDamage, SqliteStorage,
    directory::{
        self, DATABASE_FILE, Directories, DirectoryError, GO_SERVER_PROOFS, GO_STATE_FILE,
        OWNER_FILE,
    },
    keep_damaged_log, log_damage, make_shrinkable,
};
use rusqlite::Connection;

use self::tree_log::{Roots, State, Thoroughness, TreeLog, Wrong, put_back, set_aside};

/// What to look at, and how.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What is examined.
    pub directories: Directories,
    /// Whether all entries of tree logs are recomputed, or a sample.
    pub full: bool,
    /// Whether to put right what can be.
    pub repair: bool,
    /// Threads that recompute.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// Things that are damaged.
    pub damaged: u32,
    /// How many of them a repair can put right.
    pub repairable: u32,
    /// How many of them were put right.
    pub repaired: u32,
}

impl Diagnosis {
    /// Whether nothing is damaged any more.
    pub fn sound(&self) -> bool {
        self.damaged == self.repaired
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            damaged,
            repairable,
            repaired,
        } = self;
        match (damaged, repaired, repairable) {
            (0, ..) => f.write_str("sound"),
            (_, 0, 0) => write!(f, "damaged: {damaged}, which --repair cannot put right"),
            (_, 0, _) => write!(
                f,
                "damaged: {damaged}, of which --repair can put right {repairable}"
            ),
            _ => write!(f, "damaged: {damaged}, of which {repaired} were put right"),
        }
    }
}

/// Why nothing could be found out.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is nothing to look at.
    #[error("--dbdir {0} holds no database: expected the directory of a server")]
    NoDatabase(PathBuf),
    /// A server runs, or the directories cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The database belongs to another version of the program.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {cause}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A tree log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A thread has panicked, and has said why on standard error.
    #[error(
        "a thread that recomputes entries has failed, so nothing is known of the log: try again, and \
         on another machine if it fails again"
    )]
    Check,
    /// A Go server's directory.
    #[error(
        "{flag} {path} holds the state of a Go server, and --dbdir no database: expected `poet-service \
         import` first, which takes it over"
    )]
    NotTakenOver {
        /// Which directory.
        flag: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// The report cannot be written.
    #[error("cannot write the report: {0}")]
    Report(io::Error),
}

/// Looks at the directories, and writes what it finds to `report` as it finds it.
///
/// # Errors
/// When that is not possible; what was found until then has been written.
pub fn examine(
    examination: &Examination,
    work: &Work,
    report: &mut dyn Write,
) -> Result<Diagnosis, DoctorError> {
    let database = examination.directories.database();
    if !examination.directories.dbdir.is_dir() {
        return Err(DoctorError::NoDatabase(
            examination.directories.dbdir.clone(),
        ));
    }
    let locks = examination.directories.lock_existing()?;
    let mut doctor = Doctor {
        examination,
        work,
        database,
        report,
        diagnosis: Diagnosis::default(),
    };
    doctor.examine()?;
    let diagnosis = doctor.diagnosis;
    doctor.line(&diagnosis.to_string())?;
    drop(locks);
    Ok(diagnosis)
}

struct Doctor<'a> {
    examination: &'a Examination,
    work: &'a Work,
    database: PathBuf,
    report: &'a mut dyn Write,
    diagnosis: Diagnosis,
}

/// Whose work the directory of the work holds.
enum Owner {
    None,
    Key(String),
    /// The file that says so is damaged.
    Damaged,
}

/// A round that is not published.
struct Unfinished {
    execution: Execution,
    /// Whether it has a log.
    log: bool,
}

impl Doctor<'_> {
    fn line(&mut self, text: &str) -> Result<(), DoctorError> {
        writeln!(self.report, "{text}").map_err(DoctorError::Report)
    }

    fn fine(&mut self, text: &str) -> Result<(), DoctorError> {
        self.line(&format!("  ok        {text}"))
    }

    fn note(&mut self, text: &str) -> Result<(), DoctorError> {
        self.line(&format!("  note      {text}"))
    }

    /// Something is damaged, and there is nothing to repair it from.
    fn damaged(&mut self, text: &str, advice: &str) -> Result<(), DoctorError> {
        self.diagnosis.damaged += 1;
        self.line(&format!("  DAMAGED   {text}"))?;
        self.line(&format!("            {advice}"))
    }

    /// Something is damaged that can be put right: by `repair`, which says what it did.
    fn repairable(
        &mut self,
        text: &str,
        remedy: &str,
        repair: impl FnOnce() -> Result<String, DoctorError>,
    ) -> Result<(), DoctorError> {
        self.diagnosis.damaged += 1;
        self.diagnosis.repairable += 1;
        self.line(&format!("  DAMAGED   {text}"))?;
        if !self.examination.repair {
            return self.line(&format!("            --repair: {remedy}"));
        }
        let done = repair()?;
        self.diagnosis.repaired += 1;
        self.line(&format!("  repaired  {done}"))
    }

    fn examine(&mut self) -> Result<(), DoctorError> {
        let name = self.database.display().to_string();
        self.line(&format!("database {name}"))?;
        self.fine("no server uses it")?;
        let owner = match directory::owner(&self.examination.directories.datadir) {
            Ok(None) => Owner::None,
            Ok(Some(key)) => Owner::Key(key),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Owner::Damaged,
            Err(cause) => {
                let path = self.examination.directories.datadir.join(OWNER_FILE);
                return Err(self.io("read", &path, cause));
            }
        };
        let bytes = fs::metadata(&self.database).map_or(0, |metadata| metadata.len());
        if bytes == 0 {
            return self.no_database(&owner);
        }
        self.left_by_go_server()?;
        self.write_ahead_log()?;
        let storage = match SqliteStorage::open_to_read(&self.database) {
            Ok(storage) => storage,
            // A database without tables.
            Err(DatabaseError::Schema { found: 0, .. }) => return self.no_database(&owner),
            Err(error @ DatabaseError::Schema { .. }) => return Err(error.into()),
            Err(error) => return self.unreadable_database(&error),
        };
        match storage.damage() {
            Ok(damage) if damage.is_empty() => {
                self.fine("SQLite finds it whole, and its tables are as they were made")?;
            }
            Ok(damage) => {
                self.damaged(&format!("SQLite: {}", damage.join("; ")), RESTORE_DATABASE)?;
            }
            Err(error) => return self.unreadable_database(&error),
        }
        self.settings(&storage, owner)?;
        self.rounds(&storage)?;
        self.size(&storage)
    }

    /// Whether the file gets smaller where registrations are removed.
    fn size(&mut self, storage: &SqliteStorage) -> Result<(), DoctorError> {
        let read = || Ok::<_, DatabaseError>((storage.removed_through()?, storage.can_shrink()?));
        match read() {
            Ok((Some(_), false)) => {}
            Ok(_) => return Ok(()),
            Err(error) => return self.unreadable_database(&error),
        }
        if !self.examination.repair {
            return self.note(
                "the database keeps its size when registrations are removed: it was made by an older \
                 version; --repair writes it anew, which needs room for a second one",
            );
        }
        make_shrinkable(&self.database)?;
        self.line("  repaired  the database was written anew, and can shrink from now on")
    }

    fn no_database(&mut self, owner: &Owner) -> Result<(), DoctorError> {
        let whose = match owner {
            Owner::Key(owner) => format!("it was that of the server with public key {owner}"),
            Owner::Damaged => format!("whose it was is not known: {OWNER_FILE} is damaged"),
            Owner::None => {
                return Err(match self.go_server() {
                    Some((flag, path)) => DoctorError::NotTakenOver { flag, path },
                    None => DoctorError::NoDatabase(self.examination.directories.dbdir.clone()),
                });
            }
        };
        let advice = match self.newest_copy() {
            None => {
                "Restore it from a backup: with it went the key and the registrations.".to_owned()
            }
            Some(copy) => format!(
                "The server made a copy of it, {}: give that the name {DATABASE_FILE}.",
                copy.display()
            ),
        };
        self.damaged(&format!("it is gone, or empty; {whose}"), &advice)
    }

    /// What a server has kept of a database that was removed or replaced while it ran.
    fn newest_copy(&self) -> Option<PathBuf> {
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

    /// Which directory holds the state of a Go server, if one does.
    fn go_server(&self) -> Option<(&'static str, PathBuf)> {
        let examination = self.examination;
        [
            ("--datadir", &examination.directories.datadir, GO_STATE_FILE),
            ("--dbdir", &examination.directories.dbdir, GO_SERVER_PROOFS),
        ]
        .into_iter()
        .find(|(_, path, file)| path.join(file).exists())
        .map(|(flag, path, _)| (flag, path.clone()))
    }

    fn left_by_go_server(&mut self) -> Result<(), DoctorError> {
        match self.go_server() {
            None => Ok(()),
            Some((flag, path)) => self.note(&format!(
                "{flag} {} also holds the state of a Go server, which this one does not use",
                path.display()
            )),
        }
    }

    fn io(&self, action: &'static str, path: &Path, cause: io::Error) -> DoctorError {
        DoctorError::Io {
            action,
            path: path.to_owned(),
            cause,
        }
    }

    fn unreadable_database(&mut self, error: &DatabaseError) -> Result<(), DoctorError> {
        self.damaged(&error.to_string(), RESTORE_DATABASE)
    }

    fn write_ahead_log(&mut self) -> Result<(), DoctorError> {
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
                let kept = keep_damaged_log(&database)?;
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

    fn settings(&mut self, storage: &SqliteStorage, owner: Owner) -> Result<(), DoctorError> {
        match storage.setting(Setting::PrivateKey) {
            Ok(Some(bytes)) => match PrivateKey::from_bytes(&bytes) {
                Ok(key) => self.key(&key.public(), owner)?,
                Err(error) => self.damaged(
                    &format!("the private key: {error}"),
                    "Restore the database from a backup.",
                )?,
            },
            Ok(None) => self.note("it has no key yet: the server was never up")?,
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

    /// The server's key, and whether the work is that of its server.
    fn key(&mut self, public: &PublicKey, owner: Owner) -> Result<(), DoctorError> {
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

    fn rounds(&mut self, storage: &SqliteStorage) -> Result<(), DoctorError> {
        let read = || {
            let mut records = storage.newest_rounds(usize::MAX)?;
            records.reverse();
            let unfinished = storage.unfinished_rounds()?;
            let settled = unfinished
                .into_iter()
                .filter_map(|round| Some((round.round, round.execution?)));
            Ok::<_, DatabaseError>((records, settled.collect::<BTreeMap<_, _>>()))
        };
        let (records, mut settled) = match read() {
            Ok(read) => read,
            Err(error) => return self.unreadable_database(&error),
        };
        let mut unfinished = BTreeMap::new();
        for record in records {
            let execution = settled.remove(&record.round);
            let state = match (&record.published, &execution) {
                (Some(_), _) => "published",
                (None, Some(_)) => "being worked on",
                (None, None) => "open, or closed and not yet begun",
            };
            self.line(&format!("round {}, {state}", record.round))?;
            self.members(storage, &record, execution.as_ref())?;
            if let Some(execution) = execution {
                unfinished.insert(
                    record.round,
                    Unfinished {
                        execution,
                        log: false,
                    },
                );
            }
        }
        self.logs(&mut unfinished)
    }

    /// The members of a round, and what follows from them.
    fn members(
        &mut self,
        storage: &SqliteStorage,
        record: &RoundRecord,
        execution: Option<&Execution>,
    ) -> Result<(), DoctorError> {
        let read = || {
            Ok::<_, DatabaseError>((
                storage.members(record.round)?,
                storage.changed_registrations(record.round)?,
            ))
        };
        let (members, changed) = match read() {
            Ok(read) => read,
            Err(error) => return self.unreadable_database(&error),
        };
        if changed.count > 0 {
            self.damaged(
                &format!(
                    "of its registrations, {} have changed since they were stored",
                    changed.count
                ),
                &format!(
                    "What they were is known of {}, and the server goes on with that. Check the disk \
                     and the memory, and restore the database from a backup.",
                    changed.known
                ),
            )?;
        }
        self.early_proofs(storage, record.round)?;
        if record.published.is_some() {
            let removed = match storage.removed_through() {
                Ok(round) => round.is_some_and(|round| record.round <= round),
                Err(error) => return self.unreadable_database(&error),
            };
            return match storage.proof(record.round) {
                Ok(Some(published)) => {
                    if published.leaves == 0 && members == published.members {
                        let count = members.len();
                        return self.fine(&format!(
                            "{count} members and an empty proof: it closed under --disable-worker"
                        ));
                    }
                    // With challenges of other lengths only the original server knows how it came
                    // to the statement.
                    let odd = !published.odd_members.is_empty();
                    let statement = if odd {
                        published.statement
                    } else {
                        membership::root(&published.members).to_vec()
                    };
                    let verified =
                        verify(self.work, &statement, published.leaves, T, &published.proof);
                    match verified {
                        Ok(()) if odd || members == published.members => self.fine(&format!(
                            "the proof is valid: {} members, {} leaves",
                            members.len(),
                            published.leaves
                        )),
                        Ok(()) if removed && is_part(&members, &published.members) => {
                            self.fine(&format!(
                                "the proof is valid: {} members, {} leaves; the registrations of {} \
                                 were removed, as keep-registrations says",
                                published.members.len(),
                                published.leaves,
                                published.members.len() - members.len()
                            ))
                        }
                        Ok(()) => self.damaged(
                            "the registrations are not the members of the proof, which is valid",
                            RESTORE_DATABASE,
                        ),
                        Err(error) => self.damaged(
                            &format!("the proof is not valid: {error}"),
                            "Restore the database from a backup; nodes may still have the proof.",
                        ),
                    }
                }
                Ok(None) => Ok(()),
                Err(DatabaseError::ProofChanged(_)) => self.damaged(
                    "the proof has changed since it was stored",
                    "Restore the database from a backup; nodes may still have the proof.",
                ),
                Err(error) => self.unreadable_database(&error),
            };
        }
        let count = members.len();
        match execution {
            Some(execution) if membership::root(&members) != execution.statement => self.damaged(
                &format!("its {count} registrations do not give the statement that is worked on"),
                "Restore the database from a backup: without the members there is no proof.",
            ),
            Some(_) => self.fine(&format!("the statement is that of its {count} members")),
            None => self.fine(&format!("{count} members")),
        }
    }

    /// The proofs of a round for nodes with longer cycle gaps.
    fn early_proofs(&mut self, storage: &SqliteStorage, round: u64) -> Result<(), DoctorError> {
        let records = match storage.early_proofs(round..=round) {
            Ok(records) => records,
            Err(error) => return self.unreadable_database(&error),
        };
        for EarlyProofRecord { gap, leaves, .. } in records {
            let cycle_gap = format_go(gap);
            let verified = match storage.early_proof(round, gap) {
                Ok(None) => continue,
                Ok(Some(published)) => {
                    let statement = &published.statement;
                    verify(self.work, statement, leaves, T, &published.proof)
                        .map_err(|error| format!("is not valid: {error}"))
                }
                Err(DatabaseError::ProofChanged(_)) => {
                    Err("has changed since it was stored".to_owned())
                }
                Err(error) => return self.unreadable_database(&error),
            };
            match verified {
                Ok(()) => self.fine(&format!(
                    "the proof for the cycle gap {cycle_gap} is valid: {leaves} leaves"
                ))?,
                Err(what) => self.damaged(
                    &format!("the proof for the cycle gap {cycle_gap} {what}"),
                    "Restore the database from a backup; nodes may still have the proof.",
                )?,
            }
        }
        Ok(())
    }

    /// The tree logs of rounds that are being worked on, and all others.
    fn logs(&mut self, unfinished: &mut BTreeMap<u64, Unfinished>) -> Result<(), DoctorError> {
        let folder = self.examination.directories.datadir.join(ROUNDS_FOLDER);
        self.line(&format!("work {}", folder.display()))?;
        let mut found: Vec<u64> = match fs::read_dir(&folder) {
            Ok(entries) => entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => return Err(self.io("read", &folder, cause)),
        };
        found.sort_unstable();
        let mut aside = Vec::new();
        for round in found {
            match unfinished.get(&round).map(|round| round.execution.clone()) {
                Some(execution) => {
                    let log = self.log(round, &execution, unfinished, &mut aside)?;
                    if let Some(round) = unfinished.get_mut(&round) {
                        round.log = log;
                    }
                }
                None => self.log_without_round(round, unfinished, &mut aside)?,
            }
        }
        // One that was in the wrong place may be another's.
        for kept in aside {
            let Some(round) = self.belongs_to(&kept, unfinished) else {
                continue;
            };
            let Some(found) = unfinished.get_mut(&round).filter(|found| !found.log) else {
                continue;
            };
            found.log = true;
            let execution = found.execution.clone();
            let path = round_files::tree_log(&self.examination.directories.datadir, round);
            put_back(&kept, &path).map_err(|cause| self.io("move a log to", &path, cause))?;
            self.line(&format!(
                "  repaired  {} is that of round {round}",
                kept.display()
            ))?;
            self.log(round, &execution, unfinished, &mut Vec::new())?;
        }
        for (round, Unfinished { log, .. }) in unfinished {
            if !*log {
                self.note(&format!(
                    "round {round} has no log: the work on it begins with the first leaf"
                ))?;
            }
        }
        Ok(())
    }

    /// The log in the folder of a round that is being worked on. Says whether there is one now.
    fn log(
        &mut self,
        round: u64,
        execution: &Execution,
        unfinished: &BTreeMap<u64, Unfinished>,
        aside: &mut Vec<PathBuf>,
    ) -> Result<bool, DoctorError> {
        let path = round_files::tree_log(&self.examination.directories.datadir, round);
        let log = TreeLog {
            work: self.work,
            execution,
            path: path.clone(),
        };
        let thoroughness = Thoroughness {
            full: self.examination.full,
            threads: self.examination.threads,
        };
        let unwritable = |cause| DoctorError::Io {
            action: "repair",
            path: path.clone(),
            cause,
        };
        match log.examine(thoroughness)? {
            State::Missing => return Ok(false),
            State::New => {
                self.note(&format!(
                    "round {round}: the log was being created, which the server does again"
                ))?;
            }
            State::Sound {
                entries,
                recomputed,
                rest,
            } => {
                let leaves = entries * execution.subtree_height.leaves();
                let mut text = format!(
                    "round {round}: the log is right: {leaves} leaves in {entries} entries, \
                     {recomputed} of them recomputed"
                );
                if rest > 0 {
                    let _ = write!(text, "; {rest} bytes behind them are cut off by the server");
                }
                self.fine(&text)?;
                self.next_to(&log, round, leaves)?;
            }
            State::Header(why) => {
                self.repairable(
                    &format!("round {round}: the log: {why}, but its entries are the round's"),
                    "writes the header again",
                    || {
                        let kept = log.repair_header().map_err(unwritable)?;
                        Ok(format!("the header; original: {}", kept.display()))
                    },
                )?;
                return self.again(&log, round);
            }
            State::Wrong(wrong) => {
                let (what, remedy) = describe(&wrong, execution);
                self.repairable(&format!("round {round}: the log: {what}"), &remedy, || {
                    let kept = log.repair(&wrong).map_err(unwritable)?;
                    Ok(format!("the log; original: {}", kept.display()))
                })?;
                return self.again(&log, round);
            }
            State::Foreign(why) => {
                let whose = match self.belongs_to(&path, unfinished) {
                    Some(other) => format!(" (it is that of round {other})"),
                    None => String::new(),
                };
                self.repairable(
                    &format!("round {round}: the log cannot be used: {why}{whose}"),
                    "sets it aside, so that the work begins anew, unless another log is the round's",
                    || {
                        let kept = set_aside(&path).map_err(unwritable)?;
                        let done = format!("set aside as {}", kept.display());
                        aside.push(kept);
                        Ok(done)
                    },
                )?;
                return Ok(!self.examination.repair);
            }
        }
        Ok(true)
    }

    /// Looks again at a log that was repaired.
    fn again(&mut self, log: &TreeLog<'_>, round: u64) -> Result<bool, DoctorError> {
        if self.examination.repair {
            let thoroughness = Thoroughness {
                full: self.examination.full,
                threads: self.examination.threads,
            };
            match log.examine(thoroughness)? {
                State::Sound { entries, .. } => {
                    self.fine(&format!(
                        "round {round}: the log is right now, with {entries} entries"
                    ))?;
                    let leaves = entries * log.execution.subtree_height.leaves();
                    self.next_to(log, round, leaves)?;
                }
                other => self.damaged(
                    &format!("round {round}: the log is still wrong: {other:?}"),
                    "Check this machine's memory and disk, and repair with --full.",
                )?,
            }
        }
        Ok(true)
    }

    /// What auditors keep next to a log that is right, of so many leaves.
    fn next_to(&mut self, log: &TreeLog<'_>, round: u64, leaves: u64) -> Result<(), DoctorError> {
        for name in [AUDIT_FILE, SAMPLED_FILE] {
            let path = log.path.with_file_name(name);
            match log.roots(name)? {
                Roots::Missing => {}
                Roots::Foreign => self.note(&format!(
                    "round {round}: {name} is of other work: the server begins the audit again"
                ))?,
                Roots::Right { leaves: audited } => {
                    if name == AUDIT_FILE && audited > leaves.saturating_add(MAX_UNSYNCED_LEAVES) {
                        self.damaged(
                            &format!(
                                "round {round}: the log was longer: {audited} leaves had been audited"
                            ),
                            "If there is a copy of the log, put it back; otherwise the server makes \
                             them again.",
                        )?;
                    } else {
                        self.fine(&format!("round {round}: {name} fits the log"))?;
                    }
                }
                Roots::Header => self.set_aside(
                    &format!("round {round}: the header of {name} is damaged"),
                    "sets it aside; the log is audited again",
                    &path,
                )?,
                Roots::Wrong {
                    first,
                    roots,
                    zeros,
                } => {
                    let what = if zeros {
                        "zeros from there on, as a power failure or fsck leaves them"
                    } else {
                        "not that of the log"
                    };
                    self.repairable(
                        &format!("round {round}: {name}: root {first} of {roots} is wrong: {what}"),
                        "cuts it there; what is behind is audited again",
                        || {
                            let kept = log.cut_roots(name, first);
                            let kept = kept.map_err(|cause| unwritable(&path, cause))?;
                            Ok(format!("{name}; original: {}", kept.display()))
                        },
                    )?;
                }
            }
        }
        let path = log.path.with_file_name(FINDINGS_FILE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(self.io("read", &path, cause)),
            Ok(json) if serde_json::from_slice::<AuditReport>(&json).is_ok() => {
                self.fine(&format!("round {round}: {FINDINGS_FILE} can be read"))
            }
            Ok(_) => self.set_aside(
                &format!("round {round}: {FINDINGS_FILE}, what audits have found, is damaged"),
                "sets it aside",
                &path,
            ),
        }
    }

    /// A damaged file that is not needed.
    fn set_aside(&mut self, text: &str, remedy: &str, path: &Path) -> Result<(), DoctorError> {
        self.repairable(text, remedy, || {
            let kept = set_aside(path).map_err(|cause| unwritable(path, cause))?;
            Ok(format!("set aside as {}", kept.display()))
        })
    }

    /// A folder for a round that nothing is known to be done for.
    fn log_without_round(
        &mut self,
        round: u64,
        unfinished: &BTreeMap<u64, Unfinished>,
        aside: &mut Vec<PathBuf>,
    ) -> Result<(), DoctorError> {
        let path = round_files::tree_log(&self.examination.directories.datadir, round);
        if !path.exists() {
            return Ok(());
        }
        let published = SqliteStorage::open_to_read(&self.database)
            .and_then(|storage| storage.round(round))
            .is_ok_and(|record| record.is_some_and(|record| record.published.is_some()));
        if published && self.belongs_to(&path, unfinished).is_none() {
            return self.note(&format!(
                "round {round} is published, the server removes the log that is left"
            ));
        }
        self.repairable(
            &format!(
                "{} is the log of a round that is not worked on",
                path.display()
            ),
            "sets it aside, or puts it where it belongs",
            || {
                let kept = set_aside(&path).map_err(|cause| DoctorError::Io {
                    action: "rename",
                    path: path.clone(),
                    cause,
                })?;
                let done = format!("set aside as {}", kept.display());
                aside.push(kept);
                Ok(done)
            },
        )
    }

    /// The round that a log belongs to, by its header.
    fn belongs_to(&self, path: &Path, unfinished: &BTreeMap<u64, Unfinished>) -> Option<u64> {
        let found = FileLog::open_read_only(path).ok()?.header().ok()?;
        let matches = |execution: &Execution| {
            let log = TreeLog {
                work: self.work,
                execution,
                path: PathBuf::new(),
            };
            log.header()[..] == found
        };
        let mut rounds = unfinished.iter();
        rounds
            .find(|(_, round)| matches(&round.execution))
            .map(|(round, _)| *round)
    }
}

/// Whether `part` is what is left of `all` when some are removed.
fn is_part(part: &[Node], all: &[Node]) -> bool {
    let mut all = all.iter();
    part.iter().all(|member| all.any(|other| other == member))
}

fn unwritable(path: &Path, cause: io::Error) -> DoctorError {
    DoctorError::Io {
        action: "repair",
        path: path.to_owned(),
        cause,
    }
}

const RESTORE_DATABASE: &str = "Restore the database from a backup, or let `sqlite3 FILE .recover` make \
    another from what can be read, and look at that.";

/// What is wrong with entries, and what a repair does about it.
fn describe(wrong: &Wrong, execution: &Execution) -> (String, String) {
    let Wrong {
        entries,
        right,
        kept,
    } = wrong;
    let first = right.keys().next().unwrap_or(kept);
    let what = format!("entry {first} of {entries} is wrong");
    if kept == entries {
        let count = right.len();
        let remedy = format!("puts {count} of them right, which is known; no work is lost");
        return (what, remedy);
    }
    let lost = (entries - kept) * execution.subtree_height.leaves();
    let remedy = format!("cuts the log to {kept} entries; {lost} leaves are made again");
    (what, remedy)
}

fn read_schedule(bytes: &[u8]) -> Option<Schedule> {
    str::from_utf8(bytes).ok()?.parse().ok()
}
