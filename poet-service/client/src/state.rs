//! The registrations of a node, in a file that outlives this program, the servers, and changes of
//! the list of servers.
//!
//! One file holds the registrations of one node's one challenge. It is replaced as a whole, so that
//! it is always either the old one or the new one, and only one program at a time changes it.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{anyhow, bail, ensure};
use hex::FromHex;
use jiff::Timestamp;
use poet_files::{Output, reason};
use poet_proto::{
    json::{self, Bytes32, Seconds},
    member::{Challenge, NodeId},
    receipt::Receipt,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use crate::{http::Url, input::read_if_exists};

/// The default name of the file.
pub(crate) const DEFAULT_FILE: &str = "poet-client.json";
/// The version of the format that this program reads and writes.
const VERSION: u32 = 1;
/// Room for some thousands of registrations.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The contents of the file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StateFile {
    version: u32,
    #[serde(serialize_with = "hex::serialize", deserialize_with = "bytes32")]
    pub(crate) node_id: NodeId,
    #[serde(serialize_with = "hex::serialize", deserialize_with = "bytes32")]
    pub(crate) challenge: Challenge,
    pub(crate) registrations: Vec<StoredRegistration>,
}

/// A registration with a server.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct StoredRegistration {
    pub(crate) poet: Url,
    /// The server's key at the time.
    pub(crate) pubkey: Bytes32,
    pub(crate) round: u64,
    #[serde(deserialize_with = "json::time")]
    pub(crate) round_end: Timestamp,
    pub(crate) cycle_gap: Seconds,
    /// The server's receipt; the Go server gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) receipt: Option<Box<Receipt>>,
}

impl StateFile {
    pub(crate) fn new(node_id: NodeId, challenge: Challenge) -> Self {
        Self {
            version: VERSION,
            node_id,
            challenge,
            registrations: Vec::new(),
        }
    }

    /// Reads `path`; `None` if there is no such file.
    ///
    /// # Errors
    /// Fails if it cannot be read or is not a state file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let name = path.display();
        let option = format_args!("--state {name}");
        let Some(text) = read_if_exists(option, path, MAX_FILE_BYTES)? else {
            return Ok(None);
        };
        // First only the version: another version may have other fields.
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let foreign = |error: json::Malformed| {
            anyhow!("{option} is damaged or not a state file of poet-client: {error}")
        };
        let Version { version } = json::read(&text).map_err(foreign)?;
        ensure!(
            version == VERSION,
            "--state {name} has version {version}, and this poet-client reads version {VERSION}"
        );
        json::read(&text).map(Some).map_err(foreign)
    }

    /// Replaces `path` with this state, which is durable when this returns.
    ///
    /// # Errors
    /// Fails if the file cannot be written; it is then unchanged.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_string_pretty(self)?;
        json.push('\n');
        Output::open_file("--state", path)?.write(json.as_bytes())?;
        Ok(())
    }
}

/// Reads 32 bytes in hex.
fn bytes32<'de, D: Deserializer<'de>, T: FromHex>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    T::from_hex(text).map_err(|_| D::Error::custom("expected 32 bytes in hex"))
}

/// The lock of a state file, which only one program at a time can hold.
pub(crate) struct Lock(#[expect(dead_code, reason = "closing the file gives the lock up")] File);

impl Lock {
    /// Takes the lock of the state file at `path`. Locks a file next to it, since the state file
    /// itself is replaced.
    ///
    /// # Errors
    /// Fails if another program has it, or the file cannot be created.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        let cannot = |error| anyhow!("cannot lock --state {}: {}", path.display(), reason(&error));
        let mut beside = path.as_os_str().to_owned();
        beside.push(".lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(PathBuf::from(beside))
            .map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "--state {} is in use by another poet-client",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => Err(cannot(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_state_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        assert_eq!(StateFile::read(&path).unwrap(), None);
        let mut state = StateFile::new(NodeId([1; 32]), Challenge([2; 32]));
        state.write(&path).unwrap();
        state.registrations.push(StoredRegistration {
            poet: "https://poet.example".parse().unwrap(),
            pubkey: Bytes32([3; 32]),
            round: u64::MAX,
            round_end: "2026-12-06T20:00:00.123456789Z".parse().unwrap(),
            cycle_gap: Seconds(Duration::from_secs(12 * 3600)),
            receipt: None,
        });
        state.write(&path).unwrap();
        assert_eq!(StateFile::read(&path).unwrap(), Some(state));
        // No other file remains.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let lock = Lock::take(&path).unwrap();
        let error = Lock::take(&path).err().unwrap().to_string();
        assert!(error.ends_with("state.json is in use by another poet-client"));
        drop(lock);
        Lock::take(&path).unwrap();
    }
}
