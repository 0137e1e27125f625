//! The tree log: the roots of consecutive complete subtrees of `2^k` leaves, and nothing else.
//!
//! Everything about a round follows from it: the state from which to go on, the proof, and whether
//! the log itself is right. A log is a header that identifies the work, followed by entries of 32
//! bytes; entry j is the node at height k with index j.

use alloc::string::String;

use crate::sha256::Hasher;
use crate::tree::MAX_LEAVES;
use crate::{MAX_DEPTH, NODE_SIZE, Node, Sha256, Work, WorkFunction};

/// The height of the subtrees whose roots a log keeps, 0 to 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubtreeHeight(u8);

/// The number is not a subtree height.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("subtree height {given} is out of range: expected 0 to {max}", max = SubtreeHeight::MAX.get())]
pub struct SubtreeHeightError {
    /// The given number.
    pub given: u32,
}

impl SubtreeHeight {
    /// The greatest height: subtrees of 16,777,216 leaves.
    pub const MAX: Self = Self(24);

    /// The height `k`.
    ///
    /// # Errors
    /// Fails if `k` is over 24.
    pub fn new(k: u32) -> Result<Self, SubtreeHeightError> {
        match u8::try_from(k) {
            Ok(k) if k <= Self::MAX.0 => Ok(Self(k)),
            _ => Err(SubtreeHeightError { given: k }),
        }
    }

    /// Returns the smallest height that keeps the log of a round of `leaves` leaves under 1 GiB.
    #[must_use]
    pub fn for_round(leaves: u64) -> Self {
        const ENTRIES: u64 = (1 << 30) / NODE_SIZE as u64;
        let fits = |k: &u8| leaves >> k < ENTRIES;
        Self((0..Self::MAX.0).find(fits).unwrap_or(Self::MAX.0))
    }

    /// Returns the height as a number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0 as u32
    }

    /// Returns the height `levels` higher; the sum must be at most [`SubtreeHeight::MAX`].
    pub(crate) fn above(self, levels: u32) -> Self {
        debug_assert!(self.get() + levels <= Self::MAX.get());
        Self(self.0 + levels as u8)
    }

    /// Returns the number of leaves in a subtree of this height.
    #[must_use]
    pub const fn leaves(self) -> u64 {
        1 << self.0
    }
}

/// Read access to the entries of a log.
pub trait LogRead {
    /// Returns the number of entries.
    fn entries(&self) -> u64;

    /// Reads `out.len()` entries, starting at number `start`.
    ///
    /// # Errors
    /// Fails if they are missing or cannot be read.
    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError>;
}

/// A log in memory.
impl LogRead for &[Node] {
    fn entries(&self) -> u64 {
        self.len() as u64
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        let entries = usize::try_from(start)
            .ok()
            .and_then(|start| self.get(start..)?.get(..out.len()))
            .ok_or(LogError::Missing {
                entry: start.saturating_add(out.len() as u64).saturating_sub(1),
                entries: self.entries(),
            })?;
        out.copy_from_slice(entries);
        Ok(())
    }
}

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The storage failed.
    #[cfg(feature = "std")]
    #[error("cannot {action} the log {path}: {}", reason(cause))]
    Io {
        /// The operation that failed.
        action: &'static str,
        /// The file.
        path: String,
        /// The system's error.
        cause: std::io::Error,
    },
    /// Another process has the log open.
    #[error("the log {path} is in use by another process")]
    Locked {
        /// The file.
        path: String,
    },
    /// The log belongs to other work, or the file is not a log.
    #[error("the log {path} cannot be used: {why}")]
    Foreign {
        /// The file.
        path: String,
        /// What differs.
        why: HeaderError,
    },
    /// An entry is missing.
    #[error("the log has {entries} entries, entry {entry} is needed")]
    Missing {
        /// The number of the entry, from 0.
        entry: u64,
        /// The number of entries in the log.
        entries: u64,
    },
    /// The log represents more leaves than a tree may have.
    #[error("a log of {entries} entries stands for more than {MAX_LEAVES} leaves")]
    TooLong {
        /// The number of entries.
        entries: u64,
    },
    /// A sync failed, and the entries it may have lost have not been written again.
    #[error(
        "the log {path} may have lost entries from {entry} on: a sync failed, and they have not \
         been written again"
    )]
    Unwritten {
        /// The file.
        path: String,
        /// The first of these entries.
        entry: u64,
    },
    /// The work was stopped while the writer thread's queue was full.
    #[error("the work was stopped before all of its entries could be written to the log")]
    GivenUp,
    /// The writer thread did not end in time.
    #[error("the log could not be written in time: the disk does not answer")]
    TimedOut,
    /// The writer thread ended without a result.
    #[error("the thread that writes the log has stopped")]
    WriterStopped,
}

/// Why bytes are not the expected header of a log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The magic number is wrong.
    #[error("it is not a tree log")]
    Magic,
    /// The header is damaged.
    #[error("its header is damaged")]
    Checksum,
    /// The header is intact, but this version does not support its contents.
    #[error("it was written by another version of this program")]
    Unknown,
    /// The log was made with another work function.
    #[error("it was made with {found}, not with {expected}")]
    WorkFunction {
        /// The work function of the log.
        found: String,
        /// The expected one.
        expected: String,
    },
    /// The log was made with another subtree height.
    #[error("it has subtree height {found}, not {expected}")]
    SubtreeHeight {
        /// The height of the log.
        found: u32,
        /// The expected one.
        expected: u32,
    },
    /// The log belongs to another statement.
    #[error("it belongs to another statement")]
    Statement,
}

/// What identifies the work of a log.
///
/// ```text
/// offset  bytes
///      0      8  "POETLOG1"
///      8      1  work function: 0 SHA-256, 1 Haraka-256
///      9      1  subtree height
///     10      2  0
///     12      4  depth, little-endian
///     16      8  length of the statement, little-endian
///     24      8  0
///     32     32  SHA-256 of the statement
///     64     32  SHA-256 of the 64 bytes before
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeader {
    function: WorkFunction,
    depth: u32,
    subtree_height: SubtreeHeight,
    statement_bytes: u64,
    statement_digest: Node,
}

const MAGIC: &[u8; 8] = b"POETLOG1";

impl LogHeader {
    /// The length of a header in bytes.
    pub const BYTES: usize = 96;

    /// The header of a log of `work` on `statement`.
    pub(crate) fn new(work: &Work, statement: &[u8], subtree_height: SubtreeHeight) -> Self {
        Self {
            function: work.function(),
            depth: work.depth(),
            subtree_height,
            statement_bytes: statement.len() as u64,
            statement_digest: sha256(work.sha256(), statement),
        }
    }

    /// The height of the subtrees.
    #[must_use]
    pub fn subtree_height(&self) -> SubtreeHeight {
        self.subtree_height
    }

    /// Returns the header as it stands in a log.
    #[must_use]
    pub fn encode(&self, hash: &dyn Sha256) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = self.function as u8;
        bytes[9] = self.subtree_height.0;
        bytes[12..16].copy_from_slice(&self.depth.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.statement_bytes.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.statement_digest);
        let checksum = sha256(hash, &bytes[..64]);
        bytes[64..].copy_from_slice(&checksum);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// Fails if the bytes are not a header that this version writes.
    pub fn read(hash: &dyn Sha256, bytes: &[u8]) -> Result<Self, HeaderError> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| HeaderError::Magic)?;
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        if sha256(hash, &bytes[..64]) != bytes[64..] {
            return Err(HeaderError::Checksum);
        }
        let function = match bytes[8] {
            0 => WorkFunction::Sha256,
            1 => WorkFunction::Haraka256,
            _ => return Err(HeaderError::Unknown),
        };
        let mut statement_digest = [0; 32];
        statement_digest.copy_from_slice(&bytes[32..64]);
        let number = |range: core::ops::Range<usize>| {
            let bytes = bytes[range].iter().rev();
            bytes.fold(0u64, |value, byte| value << 8 | u64::from(*byte))
        };
        let header = Self {
            function,
            depth: number(12..16) as u32,
            subtree_height: SubtreeHeight::new(number(9..10) as u32)
                .map_err(|_| HeaderError::Unknown)?,
            statement_bytes: number(16..24),
            statement_digest,
        };
        let known = (1..=MAX_DEPTH).contains(&header.depth);
        // Reject what this version does not write: it could not interpret it.
        if !known || header.encode(hash) != *bytes {
            return Err(HeaderError::Unknown);
        }
        Ok(header)
    }

    /// Checks that a log with this header belongs to the same work as `expected`.
    ///
    /// # Errors
    /// Returns what differs.
    pub fn check(&self, expected: &Self) -> Result<(), HeaderError> {
        if (self.function, self.depth) != (expected.function, expected.depth) {
            let name = |header: &Self| alloc::format!("{} x {}", header.function, header.depth);
            return Err(HeaderError::WorkFunction {
                found: name(self),
                expected: name(expected),
            });
        }
        if (self.statement_bytes, self.statement_digest)
            != (expected.statement_bytes, expected.statement_digest)
        {
            return Err(HeaderError::Statement);
        }
        if self.subtree_height != expected.subtree_height {
            return Err(HeaderError::SubtreeHeight {
                found: self.subtree_height.get(),
                expected: expected.subtree_height.get(),
            });
        }
        Ok(())
    }
}

/// Why the system refused an operation, without Rust's texts and numbers.
#[cfg(feature = "std")]
fn reason(cause: &std::io::Error) -> String {
    match cause.kind() {
        std::io::ErrorKind::UnexpectedEof => "it ends too early".into(),
        std::io::ErrorKind::WriteZero => "nothing more could be written".into(),
        _ => {
            let text = alloc::format!("{cause}");
            let words = text.split(" (os error ").next();
            words.unwrap_or_default().into()
        }
    }
}

/// SHA-256 of some bytes.
fn sha256(hash: &dyn Sha256, bytes: &[u8]) -> Node {
    let mut hasher = Hasher::new();
    hasher.update(hash, bytes);
    hasher.finish(hash)
}

#[cfg(test)]
#[cfg(all(feature = "std", unix))]
mod tests {
    use std::io::{Error, ErrorKind};
    use std::string::ToString as _;

    use super::*;

    #[test]
    fn reasons_are_words() {
        for (cause, words) in [
            (Error::from_raw_os_error(2), "No such file or directory"),
            (ErrorKind::UnexpectedEof.into(), "it ends too early"),
            (ErrorKind::WriteZero.into(), "nothing more could be written"),
        ] {
            let error = LogError::Io {
                action: "read",
                path: "tree.log".into(),
                cause,
            };
            assert_eq!(
                error.to_string(),
                alloc::format!("cannot read the log tree.log: {words}")
            );
        }
    }
}
