//! Imports the state of a Go server (spacemeshos/poet), without changing it.
//!
//! | Go server | becomes |
//! |---|---|
//! | `DATADIR/state.bin` | the private key |
//! | `DBDIR/proofs` | the proofs; the challenges of the proof of work |
//! | `DBDIR/rounds/N` | the members of round N |
//! | `DATADIR/rounds/N/state.bin` | what the work of round N is bound to |
//! | `DATADIR/rounds/N/layercache_*.bin` | its tree log |
//!
//! Everything is read and checked before anything is stored. Then the logs are written, each under
//! another name until it is complete and checked. The database is filled last, in one transaction:
//! without it, there has been no import. So an interrupted import is simply started again.
//!
//! # What becomes of a round
//!
//! - *With a proof*: it is served as the Go server served it. Its members are registered if they
//!   are still known, for membership proofs.
//! - *Being worked on*: the work continues from its last complete subtree.
//! - *Not begun*: its members are registered. It starts on time, or at once if the time has passed. A
//!   round that is over and was never begun is skipped, as by the Go server.
//!
//! The Go server accepts challenges of any length. A node reads each as 32 bytes, cut or padded,
//! and so computes another statement than the one the work is bound to: no node would accept the
//! proof of such a round. So if a round is not finished, members with a challenge of another length
//! are left out, and if the round is being worked on, its work starts again for the others. A
//! finished round is served as it is.

mod adopt;
mod fetch;
mod layers;
mod leveldb;
mod source;
mod xdr;

use std::{collections::BTreeMap, io, path::PathBuf, sync::atomic::AtomicBool};

use jiff::{SignedDuration, Timestamp};
use poet_engine::{Node, Proof, SubtreeHeight, T, Work, membership, verify};
use poet_files::reason;
use poet_proto::{
    identity::{PRIVATE_KEY_VARIABLE, PrivateKey, PrivateKeyError, PublicKey},
    messages::PublishedProof,
};
use poet_rounds::{
    config::RoundsConfig,
    life::{EXPECTED_LEAVES_PER_SECOND, subtree_height},
    round_files::ROUNDS_FOLDER,
    schedule::{Schedule, ScheduleError},
    storage::{Challenge, Execution, Member, NodeId, PowChallenges, Setting},
};
use poet_storage::{
    DatabaseError, Imported, ImportedRound, SqliteReader, SqliteStorage,
    directory::{self, DATABASE_FILE, Directories, DirectoryError, OWNER_FILE},
};

pub use self::{
    adopt::{AdoptError, AdoptReport, AdoptSource, Adoption},
    fetch::FetchError,
    layers::LayerError,
    leveldb::LevelDbError,
    source::Source,
    xdr::XdrError,
};
use self::{
    layers::Layers,
    source::{GoRound, GoState},
};

/// How much clocks may differ that determine when the work on a round began.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

/// Why nothing was imported. The messages contain the causes, so there is no `source`.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ImportError {
    #[error(
        "--from {path} is not the data directory of a Go server: it has no state.bin; expected \
         what that server is given as --datadir, or POETDIR/data"
    )]
    NoDataDirectory { path: PathBuf },
    #[error(
        "--from-db {path} is not the database directory of a Go server: it has no folder proofs; \
         expected what that server is given as --dbdir, or POETDIR/db"
    )]
    NoDatabaseDirectory { path: PathBuf },
    #[error("cannot read {path}: {}", reason(cause))]
    Read { path: PathBuf, cause: io::Error },
    #[error(
        "{path}, which says whose work is in that directory, is damaged: expected a public key in \
         base64 (see `poet-service doctor`), or another --datadir"
    )]
    Owner { path: PathBuf },
    #[error("cannot write to {path}: {}", reason(cause))]
    Write { path: PathBuf, cause: io::Error },
    #[error("{path} is damaged, or of another version of the Go server: {cause}")]
    File { path: PathBuf, cause: XdrError },
    #[error(
        "{path} holds no private key: it has {bytes} bytes; expected the 64 of an ed25519 key, \
         the second half being the public key of the first ({cause})"
    )]
    Key {
        path: PathBuf,
        bytes: usize,
        cause: PrivateKeyError,
    },
    #[error("{PRIVATE_KEY_VARIABLE} is another key than the one in --from {path}")]
    OtherKey { path: PathBuf },
    #[error(transparent)]
    LevelDb(#[from] LevelDbError),
    #[error("the database {path} is damaged, entry {key:?}: {what}")]
    Entry {
        path: PathBuf,
        key: String,
        what: String,
    },
    #[error("round {round} is being worked on, but {path}, where its members are, is missing")]
    NoMembers { round: u64, path: PathBuf },
    #[error(
        "the members of round {round} in {path} do not give the statement in {state}: one of them \
         is damaged"
    )]
    Members {
        round: u64,
        path: PathBuf,
        state: PathBuf,
    },
    #[error("--genesis-time is not set: expected the schedule that the Go server runs with")]
    NoGenesis,
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    #[error(
        "the Go server began to work on round {round} at {started:.0}, which by the configured \
         schedule lasts from {start:.0} to {end:.0}: expected the --genesis-time, \
         --epoch-duration, --phase-shift and --cycle-gap that the Go server runs with"
    )]
    OtherSchedule {
        round: u64,
        started: Timestamp,
        start: Timestamp,
        end: Timestamp,
    },
    #[error(
        "--dbdir {path} holds another state already: {what}; expected a directory without \
         {DATABASE_FILE}"
    )]
    OtherState { path: PathBuf, what: String },
    #[error(
        "--datadir {path} holds the work of the server with public key {owner}: expected another \
         directory"
    )]
    OtherWork { path: PathBuf, owner: String },
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error("round {round}: {cause}")]
    Layers { round: u64, cause: LayerError },
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("interrupted: the same command goes on from here")]
    Interrupted,
}

/// The progress of an import.
#[derive(Clone, Copy, Debug)]
pub enum ImportProgress {
    /// Converting the nodes of a layer to a tree log.
    Converting {
        /// The round.
        round: u64,
        /// The height of the layer.
        height: u32,
        /// Nodes read.
        done: u64,
        /// Nodes there are.
        total: u64,
    },
    /// Recomputing subtrees.
    Checking {
        /// The round.
        round: u64,
        /// Subtrees recomputed.
        done: u64,
        /// Subtrees to recompute.
        total: u64,
    },
    /// Looking for the end of what is intact.
    Searching {
        /// The round.
        round: u64,
    },
}

/// The result of an import.
#[derive(Debug)]
pub struct ImportReport {
    /// Whether everything was there before.
    pub already: bool,
    /// The server's public key.
    pub public_key: PublicKey,
    /// The rounds, in increasing order.
    pub rounds: Vec<RoundReport>,
    /// What the operator should know.
    pub warnings: Vec<String>,
}

/// What was imported of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundReport {
    /// Its number.
    pub round: u64,
    /// Its members.
    pub members: u64,
    /// What was imported besides them.
    pub taken: Taken,
}

/// What was imported of a round besides its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Its proof.
    Proof {
        /// Leaves proven.
        leaves: u64,
    },
    /// The work so far.
    Work {
        /// The number of leaves from which it continues.
        leaves: u64,
        /// The number of leaves that the Go server recorded.
        recorded: u64,
    },
    /// Nothing: the work has not begun.
    Members,
}

/// Imports the state in `source` into `directories`, for rounds as `config` describes them. Reports
/// its progress to `report`; `stop` interrupts it.
///
/// # Errors
/// Fails if anything is not as expected. Then nothing is imported, and `source` is unchanged.
pub fn import(
    source: &Source,
    directories: &Directories,
    config: &RoundsConfig,
    now: Timestamp,
    work: &Work,
    stop: &AtomicBool,
    report: &mut dyn FnMut(ImportProgress),
) -> Result<ImportReport, ImportError> {
    let genesis = config.genesis.ok_or(ImportError::NoGenesis)?;
    let schedule = config.schedule(genesis)?;
    let state = source.read()?;
    if let Some(given) = &config.private_key
        && given.to_bytes() != state.private_key.to_bytes()
    {
        return Err(ImportError::OtherKey {
            path: source.datadir.clone(),
        });
    }
    let _locks = directories.lock()?;
    check_owner(directories, &state.private_key.public())?;
    let plan = Plan::new(source, &state, &schedule, now, work)?;
    let already = is_there(directories, &state.private_key, &schedule, &plan.rounds)?;
    let leaves = if already {
        vec![0; plan.rounds.len()]
    } else {
        take_over_work(source, directories, work, &plan.rounds, stop, report)?
    };
    let done = ImportReport {
        already,
        public_key: state.private_key.public(),
        rounds: (plan.rounds.iter().zip(leaves))
            .map(|(round, leaves)| round.report(leaves))
            .collect(),
        warnings: plan.warnings,
    };
    if !already {
        let imported = Imported {
            private_key: state.private_key.to_bytes().to_vec(),
            schedule: schedule.to_string(),
            pow: pow_challenges(&state, &plan.rounds),
            rounds: (plan.rounds.into_iter())
                .map(|round| round.imported)
                .collect(),
        };
        store(directories, &done.public_key, &imported)?;
    }
    Ok(done)
}

/// Stores everything except the logs.
fn store(
    directories: &Directories,
    key: &PublicKey,
    imported: &Imported,
) -> Result<(), ImportError> {
    // Before there is a database: a server started on an incomplete one would generate a key.
    directory::set_owner(&directories.datadir, key).map_err(|cause| ImportError::Write {
        path: directories.datadir.clone(),
        cause,
    })?;
    let stored = SqliteStorage::import(&directories.database(), imported);
    if stored.is_err()
        && let Err(error) = directory::remove_owner(&directories.datadir)
    {
        tracing::warn!(error = reason(&error), "cannot remove what was imported");
    }
    Ok(stored?)
}

/// Fails if the logs of another server would be replaced.
fn check_owner(directories: &Directories, key: &PublicKey) -> Result<(), ImportError> {
    let path = directories.datadir.clone();
    match directory::owner(&path) {
        Ok(Some(owner)) if owner != directory::owner_text(key) => {
            Err(ImportError::OtherWork { path, owner })
        }
        Ok(_) => Ok(()),
        Err(cause) => {
            let path = path.join(OWNER_FILE);
            Err(match cause.kind() {
                io::ErrorKind::InvalidData => ImportError::Owner { path },
                _ => ImportError::Read { path, cause },
            })
        }
    }
}

/// Returns whether everything to import is there already. Fails if anything else is there.
fn is_there(
    directories: &Directories,
    private_key: &PrivateKey,
    schedule: &Schedule,
    rounds: &[PlannedRound],
) -> Result<bool, ImportError> {
    let path = directories.database();
    if !path.exists() {
        return Ok(false);
    }
    let database = match SqliteReader::open(&path) {
        // An interrupted import has created only the file.
        Err(DatabaseError::Schema { found: 0, .. }) => return Ok(false),
        database => database?,
    };
    let other = |what: String| {
        Err(ImportError::OtherState {
            path: directories.dbdir.clone(),
            what,
        })
    };
    match database.setting(Setting::PrivateKey)? {
        None => return Ok(false),
        Some(key) if key != private_key.to_bytes() => {
            return other("it belongs to another private key".to_owned());
        }
        Some(_) => {}
    }
    let stored = database.setting(Setting::Schedule)?.unwrap_or_default();
    if stored != schedule.to_string().as_bytes() {
        let stored = String::from_utf8_lossy(&stored);
        return other(format!("its rounds follow another schedule ({stored})"));
    }
    for PlannedRound { imported, .. } in rounds {
        let round = imported.round;
        let known = match &imported.proof {
            Some(proof) => (database.proof(round)?)
                .is_some_and(|known| known.proof == proof.proof && known.leaves == proof.leaves),
            None => database.has_round(round)?,
        };
        if !known {
            return other(format!("it has this key, but not round {round}"));
        }
    }
    Ok(true)
}

/// Makes the logs of all rounds that are being worked on. Returns for every round the number of
/// leaves from which the work continues.
fn take_over_work(
    source: &Source,
    directories: &Directories,
    work: &Work,
    rounds: &[PlannedRound],
    stop: &AtomicBool,
    report: &mut dyn FnMut(ImportProgress),
) -> Result<Vec<u64>, ImportError> {
    let mut made: Vec<Layers<'_>> = Vec::new();
    let mut leaves = Vec::with_capacity(rounds.len());
    for PlannedRound { imported, recorded } in rounds {
        let (Some(recorded), Some(execution)) = (recorded, &imported.execution) else {
            leaves.push(0);
            continue;
        };
        let round = imported.round;
        let folder = directories
            .datadir
            .join(ROUNDS_FOLDER)
            .join(round.to_string());
        let layers = Layers {
            work,
            round,
            statement: &execution.statement,
            subtree_height: execution.subtree_height,
            recorded: *recorded,
            source: source.work(round),
            target: folder,
            stop,
        };
        match layers.take_over(report) {
            Ok(taken) => leaves.push(taken),
            Err(LayerError::Interrupted) => return Err(ImportError::Interrupted),
            Err(cause) => {
                for layers in made {
                    layers.remove();
                }
                return Err(ImportError::Layers { round, cause });
            }
        }
        made.push(layers);
    }
    Ok(leaves)
}

/// The root of the newest proof is the challenge that nodes were given last. The Go server forgets
/// that on a restart and returns to the stored one, so that is accepted as well.
fn pow_challenges(state: &GoState, rounds: &[PlannedRound]) -> Option<PowChallenges> {
    let newest = rounds
        .iter()
        .rev()
        .find_map(|round| Some(round.imported.proof.as_ref()?.proof.root));
    match newest {
        Some(root) if state.pow != Some(root) => Some(PowChallenges {
            current: root,
            previous: state.pow,
        }),
        _ => Some(PowChallenges {
            current: state.pow?,
            previous: state.pow_previous,
        }),
    }
}

/// The plan of an import.
struct Plan {
    rounds: Vec<PlannedRound>,
    warnings: Vec<String>,
}

struct PlannedRound {
    imported: ImportedRound,
    /// The number of leaves that the Go server recorded, if its work is imported.
    recorded: Option<u64>,
}

impl PlannedRound {
    fn report(&self, leaves: u64) -> RoundReport {
        let registered = self.imported.members.len();
        let (members, taken) = match (&self.imported.proof, self.recorded) {
            (Some(proof), _) => {
                let leaves = proof.leaves;
                (proof.members.len(), Taken::Proof { leaves })
            }
            (None, Some(recorded)) => (registered, Taken::Work { leaves, recorded }),
            (None, None) => (registered, Taken::Members),
        };
        RoundReport {
            round: self.imported.round,
            members: members as u64,
            taken,
        }
    }
}

impl Plan {
    fn new(
        source: &Source,
        state: &GoState,
        schedule: &Schedule,
        now: Timestamp,
        work: &Work,
    ) -> Result<Self, ImportError> {
        let mut planner = Planner {
            source,
            schedule,
            now,
            work,
            public_key: state.private_key.public(),
            subtree_height: subtree_height(schedule, EXPECTED_LEAVES_PER_SECOND),
            warnings: state.warnings.clone(),
        };
        let mut rounds = Vec::new();
        for (number, round) in &state.rounds {
            rounds.extend(planner.round(*number, round)?);
        }
        Ok(Self {
            rounds,
            warnings: planner.warnings,
        })
    }
}

/// Decides what becomes of each round.
struct Planner<'a> {
    source: &'a Source,
    schedule: &'a Schedule,
    now: Timestamp,
    work: &'a Work,
    public_key: PublicKey,
    subtree_height: SubtreeHeight,
    warnings: Vec<String>,
}

impl Planner<'_> {
    fn round(&mut self, number: u64, round: &GoRound) -> Result<Option<PlannedRound>, ImportError> {
        if let Some(stored) = &round.proof {
            let Some(proof) = stored.proof.clone() else {
                self.warn(
                    number,
                    "its proof is empty, as a server without worker makes it: left out",
                );
                return Ok(None);
            };
            if stored.public_key != self.public_key.as_bytes() {
                self.warn(
                    number,
                    "its proof was served under another key than today's",
                );
            }
            let proof = published(stored.members.clone(), stored.leaves, proof);
            return Ok(Some(self.finished(number, round, proof)));
        }
        let Some(state) = round.state.as_ref().filter(|state| state.started.is_some()) else {
            return Ok(self.waiting(number, round));
        };
        self.check_schedule(number, state.started)?;
        let Some(members) = &round.members else {
            return Err(ImportError::NoMembers {
                round: number,
                path: self.source.members(number),
            });
        };
        let challenges: Vec<_> = members.values().cloned().collect();
        if statement(&challenges) != state.statement {
            return Err(ImportError::Members {
                round: number,
                path: self.source.members(number),
                state: self.source.work(number),
            });
        }
        if let Some(proof) = state.proof.clone() {
            // Made, but not stored in the database of proofs yet.
            let proof = published(challenges, state.leaves, proof);
            return Ok(Some(self.finished(number, round, proof)));
        }
        let usable = usable(members);
        if usable.len() < members.len() {
            self.warn(
                number,
                "no node would accept a proof of the work done so far, which is bound to a \
                 challenge of another length: it starts again",
            );
            return Ok(self.waiting(number, round));
        }
        Ok(Some(PlannedRound {
            imported: ImportedRound {
                round: number,
                execution: Some(self.execution(state.statement.clone())),
                members: usable,
                proof: None,
            },
            recorded: Some(state.leaves),
        }))
    }

    fn warn(&mut self, round: u64, what: &str) {
        self.warnings.push(format!("round {round}: {what}"));
    }

    fn execution(&self, statement: Vec<u8>) -> Execution {
        Execution {
            statement,
            subtree_height: self.subtree_height,
        }
    }

    /// Checks that the work on a round began when the round starts.
    fn check_schedule(&self, round: u64, started: Option<Timestamp>) -> Result<(), ImportError> {
        let (start, end) = (self.schedule.start(round), self.schedule.end(round));
        match started {
            Some(started)
                if start.duration_since(started) > CLOCK_TOLERANCE
                    || started.duration_since(end) > CLOCK_TOLERANCE =>
            {
                Err(ImportError::OtherSchedule {
                    round,
                    started,
                    start,
                    end,
                })
            }
            _ => Ok(()),
        }
    }

    fn finished(&mut self, number: u64, round: &GoRound, proof: PublishedProof) -> PlannedRound {
        // As nodes see it.
        let statement = membership::root(&proof.members);
        if let Err(error) = verify(self.work, &statement, proof.leaves, T, &proof.proof) {
            let odd = match proof.odd_members.len() {
                0 => String::new(),
                count => format!(" ({count} of its members have a challenge of another length)"),
            };
            let what = format!("no node accepts its proof{odd}: {error}; it is served as it is");
            self.warn(number, &what);
        }
        let members = round.members.as_ref().map(usable).unwrap_or_default();
        let complete = members.iter().map(|member| &member.challenge);
        let members = if complete.eq(&proof.members) && proof.odd_members.is_empty() {
            members
        } else {
            Vec::new()
        };
        PlannedRound {
            imported: ImportedRound {
                round: number,
                execution: Some(self.execution(proof.statement.clone())),
                members,
                proof: Some(proof),
            },
            recorded: None,
        }
    }

    /// Plans a round whose work has not begun. Returns `None` if there is nothing to import.
    fn waiting(&mut self, number: u64, round: &GoRound) -> Option<PlannedRound> {
        let registered = round
            .members
            .as_ref()
            .filter(|members| !members.is_empty())?;
        if self.schedule.end(number) <= self.now {
            self.warn(
                number,
                "it has members, but was not begun before it was over: left out",
            );
            return None;
        }
        for (node_id, challenge) in registered {
            if challenge.len() != 32 {
                let what = format!(
                    "member {} has a challenge of {} bytes, expected 32: left out",
                    hex::encode(node_id),
                    challenge.len()
                );
                self.warn(number, &what);
            }
        }
        Some(PlannedRound {
            imported: ImportedRound {
                round: number,
                execution: None,
                members: usable(registered),
                proof: None,
            },
            recorded: None,
        })
    }
}

/// Returns the members with challenges that nodes can use.
fn usable(members: &BTreeMap<Node, Vec<u8>>) -> Vec<Member> {
    let members = members.iter();
    members
        .filter_map(|(node_id, challenge)| {
            Some(Member {
                node_id: NodeId(*node_id),
                challenge: challenge.as_slice().try_into().ok()?,
            })
        })
        .collect()
}

/// Returns the statement that the Go server binds its work to. It treats an empty challenge in the
/// place of a left sibling as missing, so that the next one takes its place.
fn statement(challenges: &[Vec<u8>]) -> Vec<u8> {
    let mut leaves: Vec<&[u8]> = Vec::with_capacity(challenges.len());
    for challenge in challenges {
        if !challenge.is_empty() || leaves.len() % 2 == 1 {
            leaves.push(challenge);
        }
    }
    membership::root(&leaves)
}

/// Returns a proof with the members as nodes read them.
fn published(challenges: Vec<Vec<u8>>, leaves: u64, proof: Proof) -> PublishedProof {
    let statement = statement(&challenges);
    let members = challenges.iter();
    let members = members.map(|challenge| Challenge::cut_or_padded(challenge));
    let members = members.collect();
    let odd_members = (0..)
        .zip(challenges)
        .filter(|(_, challenge)| challenge.len() != 32)
        .collect();
    PublishedProof {
        statement,
        members,
        odd_members,
        leaves,
        proof,
    }
}
