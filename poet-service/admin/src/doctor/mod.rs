//! Finds what is wrong with the directories of a stopped server, and repairs what it can.
//!
//! The database comes first: whether SQLite finds it intact, which server owns it, and what it says
//! about each round. Everything else follows from it. The members of a round determine the
//! statement that its work is bound to; the statement shows whether a tree log belongs to the
//! round; the entries of a log are recomputed from earlier ones; and published proofs are verified.
//!
//! A repair never destroys anything: it keeps the original under a name with the time in it. If
//! only a backup can restore something, the report says so.

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
use poet_files::reason;
use poet_rounds::storage::{Execution, StorageError};
use poet_storage::{
    Database, DatabaseError, DatabaseUrl, PostgresStorage, SqliteStorage,
    directory::{self, Directories, DirectoryError, OWNER_FILE},
};

/// What to examine, and how.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The directories to examine.
    pub directories: Directories,
    /// The shared database to examine, instead of the one in the directories.
    pub database: Option<DatabaseUrl>,
    /// Whether to recompute all entries of tree logs, or a sample.
    pub full: bool,
    /// Whether to repair what can be repaired.
    pub repair: bool,
    /// Threads that recompute.
    pub threads: usize,
}

/// The result of an examination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The number of damaged things.
    pub damaged: u32,
    /// How many of them a repair can fix.
    pub repairable: u32,
    /// How many of them were repaired.
    pub repaired: u32,
}

impl Diagnosis {
    /// Returns whether nothing is damaged, or everything was repaired.
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
            (_, 0, 0) => write!(f, "damaged: {damaged}, which --repair cannot repair"),
            (_, 0, _) => write!(
                f,
                "damaged: {damaged}, of which --repair can repair {repairable}"
            ),
            _ => write!(f, "damaged: {damaged}, of which {repaired} were repaired"),
        }
    }
}

/// Why the examination failed.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is no database.
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
    #[error("cannot {action} {path}: {}", reason(cause))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The cause.
        cause: io::Error,
    },
    /// A tree log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A thread has panicked. The reason is on standard error.
    #[error(
        "a thread that recomputes entries has failed, so nothing is known of the log: try again, and \
         on another machine if it fails again"
    )]
    Check,
    /// The directory belongs to a Go server.
    #[error(
        "{flag} {path} holds the state of a Go server, and --dbdir no database: expected `poet-service \
         import` first, which takes it over"
    )]
    NotTakenOver {
        /// The option that names it.
        flag: &'static str,
        /// The directory.
        path: PathBuf,
    },
    /// The report cannot be written.
    #[error("cannot write the report: {}", reason(.0))]
    Report(io::Error),
}

/// Examines the directories, and writes each finding to `report` immediately.
///
/// # Errors
/// Fails if that is not possible; earlier findings have been written.
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

/// Examines only a database, like [`examine`], of either kind and even if others use it.
///
/// # Errors
/// Fails if that is not possible; earlier findings have been written.
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
    /// What to do if the database is damaged.
    restore: &'static str,
    /// The rounds that have proofs.
    published: BTreeSet<u64>,
}

/// The server that owns the working directory.
enum Owner {
    None,
    Key(String),
    /// The file that names it is damaged.
    Damaged,
}

/// A round without a proof.
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

    /// Writes the summary.
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

    /// Reports damage that cannot be repaired.
    fn damaged(&mut self, text: &str, advice: &str) -> Result<(), DoctorError> {
        self.diagnosis.damaged += 1;
        self.line(&format!("  DAMAGED   {text}"))?;
        self.line(&format!("            {advice}"))
    }

    /// Reports damage that `repair` can fix. It returns what it did.
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

    /// Examines a shared database, which other servers may use, and the work of this machine.
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

    /// Returns the server that owns the working directory.
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

    /// Reports what the database's own software finds. Returns whether the database is readable.
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
