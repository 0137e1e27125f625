//! Reads and locks the directories of a Go server.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use poet_engine::Node;
use poet_proto::identity::PrivateKey;
use poet_storage::directory::GO_STATE_FILE;

use super::{
    error::ImportError,
    leveldb::{self, LevelDbError},
    xdr::{self, RoundState, StoredProof},
};

const ROUNDS_FOLDER: &str = "rounds";
const PROOFS_FOLDER: &str = "proofs";
const POW_CHALLENGE: &[u8] = b"pow_challenge";
const POW_CHALLENGE_PREVIOUS: &[u8] = b"pow_challenge_previous";

/// The directories of a Go server.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its `--datadir`.
    pub datadir: PathBuf,
    /// Its `--dbdir`.
    pub dbdir: PathBuf,
}

/// The state of a Go server.
pub(super) struct GoState {
    pub(super) private_key: PrivateKey,
    pub(super) pow: Option<Node>,
    pub(super) pow_previous: Option<Node>,
    pub(super) rounds: BTreeMap<u64, GoRound>,
    /// Describes what could not be read.
    pub(super) warnings: Vec<String>,
    /// Keep the Go server from starting while they are held.
    pub(super) _locks: Vec<File>,
}

/// The state of a round of a Go server.
#[derive(Default)]
pub(super) struct GoRound {
    /// Challenges by node id, if there were registrations.
    pub(super) members: Option<BTreeMap<Node, Vec<u8>>>,
    /// Present if the round was handed to the worker.
    pub(super) state: Option<RoundState>,
    /// Present if the round is finished.
    pub(super) proof: Option<StoredProof>,
}

impl Source {
    /// Returns the folder of the work on a round.
    pub(super) fn work(&self, round: u64) -> PathBuf {
        self.datadir.join(ROUNDS_FOLDER).join(round.to_string())
    }

    /// Returns the database of a round's members.
    pub(super) fn members(&self, round: u64) -> PathBuf {
        self.dbdir.join(ROUNDS_FOLDER).join(round.to_string())
    }

    /// Returns the database of proofs.
    pub(super) fn proofs(&self) -> PathBuf {
        self.dbdir.join(PROOFS_FOLDER)
    }

    pub(super) fn read(&self) -> Result<GoState, ImportError> {
        let state_file = self.datadir.join(GO_STATE_FILE);
        if !state_file.is_file() {
            return Err(ImportError::NoDataDirectory {
                path: self.datadir.clone(),
            });
        }
        let proofs = self.proofs();
        if !proofs.is_dir() {
            return Err(ImportError::NoDatabaseDirectory {
                path: self.dbdir.clone(),
            });
        }
        let with_members = numbered(&self.dbdir.join(ROUNDS_FOLDER))?;
        // Locks all of them before reading anything: a running server holds some.
        let databases = with_members.iter().map(|round| self.members(*round));
        let locks = std::iter::once(proofs.clone())
            .chain(databases)
            .map(|folder| leveldb::lock(&folder))
            .collect::<Result<_, LevelDbError>>()?;

        let bytes = read_file(&state_file)?;
        let private_key = xdr::private_key(&bytes).map_err(|cause| ImportError::File {
            path: state_file.clone(),
            cause,
        })?;
        let private_key =
            PrivateKey::from_bytes(&private_key).map_err(|cause| ImportError::Key {
                path: state_file,
                bytes: private_key.len(),
                cause,
            })?;

        let mut rounds: BTreeMap<u64, GoRound> = BTreeMap::new();
        let mut warnings = Vec::new();
        for round in with_members {
            let members = self.read_members(round, &mut warnings)?;
            rounds.entry(round).or_default().members = Some(members);
        }
        for round in numbered(&self.datadir.join(ROUNDS_FOLDER))? {
            let path = self.work(round).join(GO_STATE_FILE);
            // A folder without state belongs to a round that was about to begin.
            if path.exists() {
                let state = xdr::round_state(&read_file(&path)?)
                    .map_err(|cause| ImportError::File { path, cause })?;
                rounds.entry(round).or_default().state = Some(state);
            }
        }
        let content = leveldb::read(&proofs)?;
        warnings.extend(content.warnings);
        let mut entries = content.entries;
        let mut pow = |name: &[u8]| -> Result<Option<Node>, ImportError> {
            let value = entries.remove(name);
            value
                .map(|value| {
                    value.try_into().map_err(|_| ImportError::Entry {
                        path: proofs.clone(),
                        key: String::from_utf8_lossy(name).into_owned(),
                        what: "expected 32 bytes".to_owned(),
                    })
                })
                .transpose()
        };
        let (current, previous) = (pow(POW_CHALLENGE)?, pow(POW_CHALLENGE_PREVIOUS)?);
        for (key, value) in entries {
            let (round, proof) = read_proof(&key, &value).map_err(|what| ImportError::Entry {
                path: proofs.clone(),
                key: String::from_utf8_lossy(&key).into_owned(),
                what,
            })?;
            rounds.entry(round).or_default().proof = Some(proof);
        }
        Ok(GoState {
            private_key,
            pow: current,
            pow_previous: previous,
            rounds,
            warnings,
            _locks: locks,
        })
    }

    fn read_members(
        &self,
        round: u64,
        warnings: &mut Vec<String>,
    ) -> Result<BTreeMap<Node, Vec<u8>>, ImportError> {
        let path = self.members(round);
        let content = leveldb::read(&path)?;
        warnings.extend(content.warnings);
        content
            .entries
            .into_iter()
            .map(|(key, challenge)| match Node::try_from(key.as_slice()) {
                Ok(node_id) => Ok((node_id, challenge)),
                Err(_) => Err(ImportError::Entry {
                    path: path.clone(),
                    key: hex::encode(key),
                    what: "expected the 32 bytes of a node id".to_owned(),
                }),
            })
            .collect()
    }
}

fn read_proof(key: &[u8], value: &[u8]) -> Result<(u64, StoredProof), String> {
    let key = String::from_utf8_lossy(key);
    let round = parse_number(&key).ok_or("expected the number of a round")?;
    let proof = xdr::stored_proof(value).map_err(|error| error.to_string())?;
    if proof.round != key {
        return Err(format!("it holds the proof of round {:?}", proof.round));
    }
    Ok((round, proof))
}

fn read_file(path: &Path) -> Result<Vec<u8>, ImportError> {
    fs::read(path).map_err(|cause| unreadable(path, cause))
}

fn unreadable(path: &Path, cause: io::Error) -> ImportError {
    ImportError::Read {
        path: path.to_owned(),
        cause,
    }
}

/// Returns the folders in `folder` whose name is a number; none if it does not exist.
fn numbered(folder: &Path) -> Result<BTreeSet<u64>, ImportError> {
    let failed = |cause| unreadable(folder, cause);
    let entries = match fs::read_dir(folder) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed)?,
    };
    let mut numbers = BTreeSet::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let number = entry.file_name().to_str().and_then(parse_number);
        if let Some(number) = number
            && entry.path().is_dir()
        {
            numbers.insert(number);
        }
    }
    Ok(numbers)
}

/// Parses a round's number as the Go server writes it.
fn parse_number(text: &str) -> Option<u64> {
    let number: u32 = text.parse().ok()?;
    (number.to_string() == text).then_some(u64::from(number))
}
