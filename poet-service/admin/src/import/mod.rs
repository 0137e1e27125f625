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
mod error;
mod fetch;
mod layers;
mod leveldb;
mod plan;
mod report;
mod source;
mod xdr;

use std::{io, sync::atomic::AtomicBool};

use jiff::Timestamp;
use poet_engine::Work;
use poet_files::reason;
use poet_proto::identity::{PrivateKey, PublicKey};
use poet_rounds::{
    config::RoundsConfig,
    round_files::ROUNDS_FOLDER,
    schedule::Schedule,
    storage::{PowChallenges, Setting},
};
use poet_storage::{
    DatabaseError, Imported, SqliteReader, SqliteStorage,
    directory::{self, Directories, OWNER_FILE},
};

pub use self::{
    adopt::{AdoptError, AdoptReport, AdoptSource, Adoption},
    error::ImportError,
    fetch::FetchError,
    layers::LayerError,
    leveldb::LevelDbError,
    report::{ImportProgress, ImportReport, RoundReport, Taken},
    source::Source,
    xdr::XdrError,
};
use self::{
    layers::Layers,
    plan::{Plan, PlannedRound},
    source::GoState,
};

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
