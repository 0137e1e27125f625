//! What is wrong with the directories of a server that does not run, and what can be put right.
//!
//! The database is looked at first: whether SQLite finds it whole, whose it is, and what it says of
//! each round. All else follows from it. The members of a round give the statement that its work is
//! bound to; the statement tells whether a tree log is the round's; the entries of a log are
//! recomputed from those before them; and a published proof is verified.
//!
//! Repairing never destroys: what is replaced is kept under a name with the time in it. What only a
//! backup can give back is said, not guessed.

mod database;
mod logs;
mod rounds;
mod tree_log;

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use poet_engine::{LogError, Work};
use poet_rounds::storage::{Execution, StorageError};
use poet_storage::{
    Database, DatabaseError, DatabaseUrl, PostgresStorage, SqliteStorage,
    directory::{self, Directories, DirectoryError, OWNER_FILE},
};

/// What to look at, and how.
#[derive(Clone, Debug)]
pub struct Examination {
    /// What is examined.
    pub directories: Directories,
    /// The shared database that is examined instead of the one in the directories.
    pub database: Option<DatabaseUrl>,
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
    /// The database cannot be reached, or belongs to another version of the program.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The database fails.
    #[error(transparent)]
    Storage(#[from] StorageError),
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
/// Fails if that is not possible; what was found until then has been written.
pub fn examine(
    examination: &Examination,
    work: &Work,
    report: &mut dyn Write,
) -> Result<Diagnosis, DoctorError> {
    let directories = &examination.directories;
    let locks = match &examination.database {
        None if !directories.dbdir.is_dir() => {
            return Err(DoctorError::NoDatabase(directories.dbdir.clone()));
        }
        None => Some(directories.lock_existing()?),
        Some(_) if !directories.datadir.is_dir() => None,
        Some(_) => Some(directories.lock_work()?),
    };
    let mut doctor = Doctor::new(examination, work, report);
    match &examination.database {
        None => doctor.examine()?,
        Some(url) => doctor.examine_shared(url)?,
    }
    let diagnosis = doctor.end()?;
    drop(locks);
    Ok(diagnosis)
}

/// Looks at a database alone, as [`examine`] does, whichever kind it is and whoever uses it.
///
/// # Errors
/// Fails if that is not possible; what was found until then has been written.
pub fn examine_database(
    database: &dyn Database,
    work: &Work,
    report: &mut dyn Write,
) -> Result<Diagnosis, DoctorError> {
    let nowhere = Examination {
        directories: Directories {
            dbdir: PathBuf::new(),
            datadir: PathBuf::new(),
        },
        database: None,
        full: false,
        repair: false,
        threads: 1,
    };
    let mut doctor = Doctor::new(&nowhere, work, report);
    doctor.whole(database)?;
    doctor.settings(database, Owner::None)?;
    doctor.rounds(database)?;
    doctor.end()
}

struct Doctor<'a> {
    examination: &'a Examination,
    work: &'a Work,
    database: PathBuf,
    report: &'a mut dyn Write,
    diagnosis: Diagnosis,
    /// What helps if the database is damaged.
    restore: &'static str,
    /// Rounds that have their proofs.
    published: BTreeSet<u64>,
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

impl<'a> Doctor<'a> {
    fn new(examination: &'a Examination, work: &'a Work, report: &'a mut dyn Write) -> Self {
        Self {
            examination,
            work,
            database: examination.directories.database(),
            report,
            diagnosis: Diagnosis::default(),
            restore: RESTORE_DATABASE,
            published: BTreeSet::new(),
        }
    }

    /// Writes what all came to.
    fn end(&mut self) -> Result<Diagnosis, DoctorError> {
        let diagnosis = self.diagnosis;
        self.line(&diagnosis.to_string())?;
        Ok(diagnosis)
    }
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
        let owner = self.owner()?;
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
        if !self.whole(&storage)? {
            return Ok(());
        }
        self.settings(&storage, owner)?;
        if let Some(mut unfinished) = self.rounds(&storage)? {
            self.logs(&mut unfinished)?;
        }
        self.size(&storage)
    }

    /// Looks at a shared database, which other servers may use, and at the work of this machine.
    fn examine_shared(&mut self, url: &DatabaseUrl) -> Result<(), DoctorError> {
        self.restore = RESTORE_SHARED;
        let storage = PostgresStorage::open_to_read(url)?;
        self.line(&format!("database {url}"))?;
        let datadir = &self.examination.directories.datadir;
        if datadir.is_dir() {
            let text = format!("no server uses {}", datadir.display());
            self.fine(&text)?;
        }
        let owner = self.owner()?;
        if !self.whole(&storage)? {
            return Ok(());
        }
        self.settings(&storage, owner)?;
        match self.rounds(&storage)? {
            Some(mut unfinished) => self.logs(&mut unfinished),
            None => Ok(()),
        }
    }

    /// Whose work the directory of the work holds.
    fn owner(&self) -> Result<Owner, DoctorError> {
        match directory::owner(&self.examination.directories.datadir) {
            Ok(None) => Ok(Owner::None),
            Ok(Some(key)) => Ok(Owner::Key(key)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Owner::Damaged),
            Err(cause) => {
                let path = self.examination.directories.datadir.join(OWNER_FILE);
                Err(self.io("read", &path, cause))
            }
        }
    }

    /// What the database's own product says of it. Says whether it could be read.
    fn whole(&mut self, storage: &dyn Database) -> Result<bool, DoctorError> {
        let product = storage.product();
        match storage.damage() {
            Ok(damage) if damage.is_empty() => {
                let text = match product {
                    "SQLite" => "SQLite finds it whole, and its tables are as they were made",
                    _ => "PostgreSQL reads all of its tables, and their numbers agree",
                };
                self.fine(text)?;
            }
            Ok(damage) => {
                self.damaged(&format!("{product}: {}", damage.join("; ")), self.restore)?;
            }
            Err(error) => {
                self.unreadable_database(&error)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn io(&self, action: &'static str, path: &Path, cause: io::Error) -> DoctorError {
        DoctorError::Io {
            action,
            path: path.to_owned(),
            cause,
        }
    }
}

fn unwritable(path: &Path, cause: io::Error) -> DoctorError {
    DoctorError::Io {
        action: "repair",
        path: path.to_owned(),
        cause,
    }
}

const RESTORE_SHARED: &str = "Restore the database from a backup, as PostgreSQL's manual says.";
const RESTORE_DATABASE: &str = "Restore the database from a backup, or let `sqlite3 FILE .recover` make \
    another from what can be read, and look at that.";
