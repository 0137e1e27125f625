//! Takes over the members of another server's round and works on it under this server's own key,
//! for nodes whose server is lost or slow.
//!
//! The other server is a server of this kind (its directories, a backup, its database, or its
//! address) or a Go server (its directories). Only a settled round can be adopted: its members, in
//! order, determine the statement that the work is bound to, whoever does it. So earlier work is
//! valid under any key, and is copied if it is available.
//!
//! The source is checked and not changed. First the log is copied, under another name until it is
//! complete; the database is written last, in one transaction.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use jiff::Timestamp;
use poet_engine::{LogError, LogRead as _, NODE_SIZE, Work, file::FileLog, membership};
use poet_files::{Access, create_directory, reason, replace_through};
use poet_proto::identity::{PrivateKey, PublicKey};
use poet_rounds::{
    config::RoundsConfig,
    life::{EXPECTED_LEAVES_PER_SECOND, subtree_height},
    round_files::{self, LOG_FILE, ROUNDS_FOLDER},
    schedule::{Schedule, ScheduleError},
    storage::{Execution, Member, Setting},
};
use poet_storage::{
    Adopted, DatabaseError, SqliteStorage,
    directory::{
        self, DATABASE_FILE, Directories, DirectoryError, GO_SERVER_PROOFS, GO_STATE_FILE,
    },
};

use super::{
    error::ImportError,
    fetch::{self, FetchError},
    layers::{LayerError, Layers},
    plan::{CLOCK_TOLERANCE, statement, usable},
    report::ImportProgress,
    source::Source,
};
use crate::log_copy;

/// The prefix of the folders of backups.
const BACKUP: &str = "backup-";
/// The log while it is being copied.
const PART_FILE: &str = "tree.log.part";

/// Why nothing was adopted. The messages contain the causes, so there is no `source`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum AdoptError {
    #[error(
        "--from {0} holds no server's state: expected the --poetdir of a server of this kind or of a Go \
         server, a backup, a database, or the address of a server"
    )]
    NoSource(PathBuf),
    #[error("--from {url}: {cause}")]
    Fetch { url: String, cause: FetchError },
    #[error("--from {from} knows no round {round}: expected one that its server has closed")]
    NoRound { from: String, round: u64 },
    #[error(
        "round {round} of --from {from} takes registrations until {start:.0}: expected a round that is \
         closed"
    )]
    Open {
        from: String,
        round: u64,
        start: Timestamp,
    },
    #[error(
        "round {round} of --from {from} is not settled: its server was to begin it at {start:.0} and has \
         not; expected a round whose work has begun"
    )]
    Unsettled {
        from: String,
        round: u64,
        start: Timestamp,
    },
    #[error("round {round} of --from {from} is published: its nodes can have that proof")]
    Published { from: String, round: u64 },
    #[error("round {round} of --from {from} has no members: there is nobody to work for")]
    NoMembers { from: String, round: u64 },
    #[error(
        "the members of round {round} in --from {from} do not give the statement that its server worked \
         on: they are damaged; expected a sound copy"
    )]
    Members { from: String, round: u64 },
    #[error(
        "the rounds of --from {from} follow another schedule ({theirs}) than the configured one \
         ({ours}): expected the same --genesis-time, --epoch-duration, --phase-shift and --cycle-gap"
    )]
    OtherSchedule {
        from: String,
        theirs: String,
        ours: String,
    },
    #[error(
        "--from {0} is of a server with this server's own key: expected another server's round; to \
         continue its own rounds, start a server there or restore its backup"
    )]
    SameKey(String),
    #[error(
        "round {round} was over at {end:.0}, and there is no work on it to take over: expected a round \
         with time left"
    )]
    Over { round: u64, end: Timestamp },
    #[error(
        "this server has {members} members of its own in round {round}, and one server gives one proof of \
         a round: expected a server without members in it"
    )]
    OwnMembers { round: u64, members: u64 },
    #[error("this server has published round {0}: expected a server that has not")]
    OwnProof(u64),
    #[error(
        "{0} holds the log of other work: expected to find none; move it away if nobody needs it"
    )]
    OtherLog(PathBuf),
    #[error(
        "the log of the work {0} is damaged: expected a sound copy; if that file is moved away, the \
         work begins with the first leaf"
    )]
    Log(PathBuf),
    #[error(
        "--dbdir {dbdir} holds no database, but --datadir {datadir} the work of another server: expected \
         the directories of this server, or new ones"
    )]
    OtherWork { dbdir: PathBuf, datadir: PathBuf },
    #[error("--genesis-time is not set: expected the schedule that the other server runs with")]
    NoGenesis,
    #[error("cannot {action} {path}: {}", reason(cause))]
    Io {
        action: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error("cannot read the log of the work: {0}")]
    Read(#[from] LogError),
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("round {round}: {cause}")]
    Layers { round: u64, cause: LayerError },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("interrupted: the same command goes on from here")]
    Interrupted,
}

/// The source of the round.
#[derive(Clone, Debug)]
pub enum AdoptSource {
    /// The address of a server of this kind.
    Url(String),
    /// The database of a server of this kind, and its working directory, if it exists.
    Database {
        /// The file.
        database: PathBuf,
        /// The directory.
        datadir: Option<PathBuf>,
    },
    /// The directories of a Go server.
    Go(Source),
}

impl AdoptSource {
    /// Returns the source that `from` names.
    ///
    /// # Errors
    /// Fails if it holds no server's state.
    pub fn find(from: &str) -> Result<Self, AdoptError> {
        if from.starts_with("http://") || from.starts_with("https://") {
            return Ok(Self::Url(from.trim_end_matches('/').to_owned()));
        }
        let path = Path::new(from);
        if path.is_file() {
            let (database, datadir) = (path.to_owned(), None);
            return Ok(Self::Database { database, datadir });
        }
        Self::in_directory(path)
            .or_else(|| Self::in_directory(&newest_backup(path)?))
            .ok_or_else(|| AdoptError::NoSource(path.to_owned()))
    }

    fn in_directory(path: &Path) -> Option<Self> {
        let (db, data) = (path.join("db"), path.join("data"));
        for (dbdir, datadir) in [(&db, &data), (&path.to_owned(), &path.to_owned())] {
            let database = dbdir.join(DATABASE_FILE);
            if database.is_file() {
                let datadir = datadir.is_dir().then(|| datadir.clone());
                return Some(Self::Database { database, datadir });
            }
        }
        // The Go server's --poetdir, or its --datadir with the database directory next to it.
        let beside = path.canonicalize().ok()?.with_file_name("db");
        for (datadir, dbdir) in [(&data, &db), (&path.to_owned(), &beside)] {
            if datadir.join(GO_STATE_FILE).is_file() {
                let (datadir, dbdir) = (datadir.clone(), dbdir.clone());
                return Some(Self::Go(Source { datadir, dbdir }));
            }
        }
        None
    }

    fn name(&self) -> String {
        match self {
            Self::Url(url) => url.clone(),
            Self::Database { database, .. } => database.display().to_string(),
            Self::Go(source) => source.datadir.display().to_string(),
        }
    }
}

/// Returns the newest backup in a directory: their names contain the time.
fn newest_backup(place: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(place).ok()?.flatten();
    let is_backup = |name: &str| name.starts_with(BACKUP);
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let newest = names.filter(|name| is_backup(name)).max()?;
    Some(place.join(newest))
}

/// The result of adopting a round.
#[derive(Debug)]
pub struct AdoptReport {
    /// Whether everything was there before.
    pub already: bool,
    /// The other server's key.
    pub from: PublicKey,
    /// The number of members.
    pub members: u64,
    /// The leaf from which this server continues.
    pub leaves: u64,
    /// When the round ends.
    pub end: Timestamp,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// A round of another server.
struct Foreign {
    key: PublicKey,
    /// Ordered by their ids.
    members: Vec<Member>,
    execution: Execution,
    work: ForeignWork,
    warnings: Vec<String>,
    /// Keep the other server from starting meanwhile.
    _locks: Vec<File>,
}

/// The work done on it so far.
enum ForeignWork {
    None,
    /// A tree log.
    Log(PathBuf),
    /// Layers of a Go server, and the number of leaves that it recorded.
    Layers(PathBuf, u64),
}

/// What to adopt, and for which server.
pub struct Adoption<'a> {
    /// The source of the round.
    pub source: &'a AdoptSource,
    /// The number of the round.
    pub round: u64,
    /// This server's directories.
    pub directories: &'a Directories,
    /// The configuration of rounds, with the schedule.
    pub config: &'a RoundsConfig,
    /// The time.
    pub now: Timestamp,
    /// The work function.
    pub work: &'a Work,
    /// Interrupts the command.
    pub stop: &'a AtomicBool,
}

impl Adoption<'_> {
    /// Adopts the round. Reports its progress to `report`.
    ///
    /// # Errors
    /// Fails if anything is not as expected. Then nothing is adopted, and the source is unchanged.
    pub fn run(&self, report: &mut dyn FnMut(ImportProgress)) -> Result<AdoptReport, AdoptError> {
        let genesis = self.config.genesis.ok_or(AdoptError::NoGenesis)?;
        let schedule = self.config.schedule(genesis)?;
        let foreign = match self.source {
            AdoptSource::Url(url) => self.over_network(url, &schedule)?,
            AdoptSource::Database { database, datadir } => {
                self.of_this_kind(database, datadir.as_deref(), &schedule)?
            }
            AdoptSource::Go(source) => self.of_go_server(source, &schedule)?,
        };
        if foreign.members.is_empty() {
            let (from, round) = (self.source.name(), self.round);
            return Err(AdoptError::NoMembers { from, round });
        }
        let _locks = self.directories.lock()?;
        let mut done = AdoptReport {
            already: self.is_there(&foreign, &schedule)?,
            from: foreign.key,
            members: foreign.members.len() as u64,
            leaves: 0,
            end: schedule.end(self.round),
            warnings: foreign.warnings.clone(),
        };
        if done.already {
            return Ok(done);
        }
        if done.end <= self.now && matches!(foreign.work, ForeignWork::None) {
            let (round, end) = (self.round, done.end);
            return Err(AdoptError::Over { round, end });
        }
        done.leaves = self.take_work(&foreign, report)?;
        let adopted = Adopted {
            schedule: schedule.to_string(),
            round: self.round,
            execution: foreign.execution,
            members: foreign.members,
        };
        SqliteStorage::adopt(&self.directories.database(), &adopted)?;
        Ok(done)
    }

    /// Explains why a round is not settled, by when it starts and what is known of it.
    fn not_settled(&self, schedule: &Schedule) -> AdoptError {
        let (from, round, start) = (self.source.name(), self.round, schedule.start(self.round));
        match self.now < start {
            true => AdoptError::Open { from, round, start },
            false => AdoptError::Unsettled { from, round, start },
        }
    }

    fn other_schedule(&self, theirs: String, schedule: &Schedule) -> AdoptError {
        AdoptError::OtherSchedule {
            from: self.source.name(),
            theirs,
            ours: schedule.to_string(),
        }
    }

    /// Used if no log determines the height of the subtrees.
    fn execution(&self, statement: Vec<u8>, schedule: &Schedule) -> Execution {
        Execution {
            statement,
            subtree_height: subtree_height(schedule, EXPECTED_LEAVES_PER_SECOND),
        }
    }

    fn over_network(&self, url: &str, schedule: &Schedule) -> Result<Foreign, AdoptError> {
        let round = self.round;
        let from = || self.source.name();
        let failed = |cause| AdoptError::Fetch {
            url: url.to_owned(),
            cause,
        };
        let server = fetch::RemoteServer::new(url).map_err(failed)?;
        let info = server.info().map_err(failed)?;
        let found = server.round(round).map_err(failed)?;
        let found = found.ok_or_else(|| AdoptError::NoRound {
            from: from(),
            round,
        })?;
        let (start, end) = (schedule.start(round), schedule.end(round));
        if (found.start, found.end) != (start, end) {
            let theirs = format!("round {round} from {} to {}", found.start, found.end);
            return Err(AdoptError::OtherSchedule {
                from: from(),
                theirs,
                ours: format!("round {round} from {start} to {end}"),
            });
        }
        if found.is_published() {
            let from = from();
            return Err(AdoptError::Published { from, round });
        }
        let Some(members) = server.members(round).map_err(failed)? else {
            return Err(self.not_settled(schedule));
        };
        Ok(Foreign {
            key: info,
            execution: self.execution(root(&members), schedule),
            members,
            work: ForeignWork::None,
            warnings: Vec::new(),
            _locks: Vec::new(),
        })
    }

    fn of_this_kind(
        &self,
        database: &Path,
        datadir: Option<&Path>,
        schedule: &Schedule,
    ) -> Result<Foreign, AdoptError> {
        let round = self.round;
        let from = self.source.name();
        let storage = SqliteStorage::open_to_read(database)?;
        let key = stored_key(&storage)?;
        let key = key.ok_or_else(|| AdoptError::NoSource(database.to_owned()))?;
        let theirs = storage.setting(Setting::Schedule)?.unwrap_or_default();
        if theirs != schedule.to_string().as_bytes() {
            let theirs = String::from_utf8_lossy(&theirs).into_owned();
            return Err(self.other_schedule(theirs, schedule));
        }
        match storage.round(round)? {
            None => return Err(AdoptError::NoRound { from, round }),
            Some(record) if record.published.is_some() => {
                return Err(AdoptError::Published { from, round });
            }
            Some(_) => {}
        }
        let unfinished = storage.unfinished_rounds()?;
        let found = unfinished.into_iter().find(|found| found.round == round);
        let Some(execution) = found.and_then(|found| found.execution) else {
            return Err(self.not_settled(schedule));
        };
        let members = storage.registrations(round)?;
        if root(&members) != execution.statement {
            return Err(AdoptError::Members { from, round });
        }
        let log = datadir.map(|datadir| round_files::tree_log(datadir, round));
        Ok(Foreign {
            key,
            members,
            execution,
            work: log
                .filter(|log| log.is_file())
                .map_or(ForeignWork::None, ForeignWork::Log),
            warnings: Vec::new(),
            _locks: Vec::new(),
        })
    }

    fn of_go_server(&self, source: &Source, schedule: &Schedule) -> Result<Foreign, AdoptError> {
        let round = self.round;
        let from = self.source.name();
        let mut state = source.read()?;
        let found = state.rounds.remove(&round);
        let found = found.ok_or_else(|| AdoptError::NoRound {
            from: from.clone(),
            round,
        })?;
        if found.proof.is_some() {
            return Err(AdoptError::Published { from, round });
        }
        let begun = found.state.and_then(|state| Some((state.started?, state)));
        let Some((started, begun)) = begun else {
            return Err(self.not_settled(schedule));
        };
        if begun.proof.is_some() {
            return Err(AdoptError::Published { from, round });
        }
        let (start, end) = (schedule.start(round), schedule.end(round));
        if start.duration_since(started) > CLOCK_TOLERANCE
            || started.duration_since(end) > CLOCK_TOLERANCE
        {
            let theirs = format!("round {round} began at {started:.0}");
            return Err(self.other_schedule(theirs, schedule));
        }
        let Some(registered) = found.members else {
            let path = source.members(round);
            return Err(ImportError::NoMembers { round, path }.into());
        };
        let challenges: Vec<_> = registered.values().cloned().collect();
        if statement(&challenges) != begun.statement {
            return Err(AdoptError::Members { from, round });
        }
        let members = usable(&registered);
        let odd = registered.len() - members.len();
        let mut warnings = state.warnings;
        let work = if odd > 0 {
            warnings.push(format!(
                "round {round}: {odd} members have a challenge of another length than 32 bytes; no node \
                 would accept a proof for them: they are left out, and the work starts again"
            ));
            ForeignWork::None
        } else {
            ForeignWork::Layers(source.work(round), begun.leaves)
        };
        Ok(Foreign {
            key: state.private_key.public(),
            execution: self.execution(root(&members), schedule),
            members,
            work,
            warnings,
            _locks: state._locks,
        })
    }

    /// Returns whether this server has adopted exactly that already. Fails if it has anything else
    /// of the round.
    fn is_there(&self, foreign: &Foreign, schedule: &Schedule) -> Result<bool, AdoptError> {
        let round = self.round;
        let directories = self.directories;
        let path = directories.database();
        let given = self.config.private_key.as_ref().map(PrivateKey::public);
        if given.is_some_and(|key| key == foreign.key) {
            return Err(AdoptError::SameKey(self.source.name()));
        }
        let storage = match path.is_file().then(|| SqliteStorage::open_to_read(&path)) {
            // An interrupted command has created only the file.
            None | Some(Err(DatabaseError::Schema { found: 0, .. })) => {
                let owned = directory::owner(&directories.datadir).map_or(true, |it| it.is_some());
                if owned
                    || directories.datadir.join(GO_STATE_FILE).exists()
                    || directories.dbdir.join(GO_SERVER_PROOFS).exists()
                {
                    let (dbdir, datadir) = (directories.dbdir.clone(), directories.datadir.clone());
                    return Err(AdoptError::OtherWork { dbdir, datadir });
                }
                return Ok(false);
            }
            Some(storage) => storage?,
        };
        if stored_key(&storage)? == Some(foreign.key) {
            return Err(AdoptError::SameKey(self.source.name()));
        }
        let stored = storage.setting(Setting::Schedule)?;
        if let Some(stored) = stored.filter(|it| *it != schedule.to_string().as_bytes()) {
            let stored = String::from_utf8_lossy(&stored).into_owned();
            return Err(ImportError::OtherState {
                path: directories.dbdir.clone(),
                what: format!("its rounds follow another schedule ({stored})"),
            }
            .into());
        }
        if storage
            .round(round)?
            .is_some_and(|it| it.published.is_some())
        {
            return Err(AdoptError::OwnProof(round));
        }
        let members = storage.registrations(round)?;
        if members == foreign.members {
            return Ok(true);
        }
        match members.len() as u64 {
            0 => Ok(false),
            members => Err(AdoptError::OwnMembers { round, members }),
        }
    }

    /// Copies the other server's work. Returns the number of leaves from which it continues.
    fn take_work(
        &self,
        foreign: &Foreign,
        report: &mut dyn FnMut(ImportProgress),
    ) -> Result<u64, AdoptError> {
        let rounds = self.directories.datadir.join(ROUNDS_FOLDER);
        let target = rounds.join(self.round.to_string());
        self.clear(&target, foreign)?;
        let log = match &foreign.work {
            ForeignWork::None => return Ok(0),
            ForeignWork::Log(log) => log,
            ForeignWork::Layers(source, recorded) => {
                let layers = Layers {
                    work: self.work,
                    round: self.round,
                    statement: &foreign.execution.statement,
                    subtree_height: foreign.execution.subtree_height,
                    recorded: *recorded,
                    source: source.clone(),
                    target,
                    stop: self.stop,
                };
                return layers.take_over(report).map_err(|cause| match cause {
                    LayerError::Interrupted => AdoptError::Interrupted,
                    cause => AdoptError::Layers {
                        round: self.round,
                        cause,
                    },
                });
            }
        };
        // Without what a running server appends after this.
        let entries = self.check(log, foreign)?;
        let copy = || {
            create_directory(&rounds, Access::Private)?;
            create_directory(&target, Access::Private)?;
            let mut log = FileLog::open_read_only(log).map_err(log_copy::cause)?;
            let header = log.header().map_err(log_copy::cause)?;
            replace_through(&target.join(PART_FILE), &target.join(LOG_FILE), |copy| {
                log_copy::write(copy, &header, &mut log, entries)
            })
        };
        copy().map_err(|cause| AdoptError::Io {
            action: "copy the log of the work to",
            path: target.clone(),
            cause,
        })?;
        Ok(entries * foreign.execution.subtree_height.leaves())
    }

    /// Removes the log of a round that had no members. Fails if there is a log of other work.
    fn clear(&self, target: &Path, foreign: &Foreign) -> Result<(), AdoptError> {
        let path = target.join(LOG_FILE);
        let found = match FileLog::open_read_only(&path) {
            Err(LogError::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            log => log?.header()?,
        };
        let nobody = Execution {
            statement: Vec::new(),
            ..foreign.execution
        };
        let ours = [&foreign.execution, &nobody].map(|it| it.round_work(self.work).header_bytes());
        if !ours.iter().any(|header| found == header) {
            return Err(AdoptError::OtherLog(path));
        }
        fs::remove_dir_all(target).map_err(|cause| AdoptError::Io {
            action: "remove",
            path,
            cause,
        })
    }

    /// Checks that the last entry of a log follows from all earlier ones. Returns the number of
    /// entries.
    fn check(&self, path: &Path, foreign: &Foreign) -> Result<u64, AdoptError> {
        let damaged = || AdoptError::Log(path.to_owned());
        let work = foreign.execution.round_work(self.work);
        let mut log = FileLog::open_read_only(path)?;
        if log.header()? != work.header_bytes() {
            return Err(damaged());
        }
        let entries = log.entries();
        for entry in [0, entries.saturating_sub(1)] {
            let mut stored = [[0; NODE_SIZE]];
            if entry < entries {
                log.read(entry, &mut stored)?;
                if work.recompute_entry(&mut log, entry)? != stored[0] {
                    return Err(damaged());
                }
            }
        }
        Ok(entries)
    }
}

fn root(members: &[Member]) -> Vec<u8> {
    let challenges: Vec<_> = members.iter().map(|member| member.challenge).collect();
    membership::root(&challenges)
}

fn stored_key(storage: &SqliteStorage) -> Result<Option<PublicKey>, DatabaseError> {
    let key = storage.setting(Setting::PrivateKey)?;
    Ok(key.and_then(|key| Some(PrivateKey::from_bytes(&key).ok()?.public())))
}
