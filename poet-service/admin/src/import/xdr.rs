//! Reads the XDR (RFC 4506) of the Go server's files: everything is a multiple of four bytes,
//! numbers are big-endian, byte strings and lists begin with their length.

use jiff::Timestamp;
use poet_engine::{MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Node, Proof, T};

/// Why bytes are malformed. `at` is the offset of the offending item.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum XdrError {
    #[error("it ends at byte {at}, in the middle of its data")]
    Truncated { at: usize },
    #[error("byte {at}: expected {expected}")]
    Unexpected { at: usize, expected: &'static str },
    #[error("its data ends at byte {at}, but there are more bytes")]
    Trailing { at: usize },
}

/// Reads the server's state, which is its private key.
pub(super) fn private_key(bytes: &[u8]) -> Result<Vec<u8>, XdrError> {
    Reader::whole(bytes, |reader| Ok(reader.opaque()?.to_vec()))
}

/// The state of a round that was handed to the worker.
#[derive(Debug)]
pub(super) struct RoundState {
    /// When the work began; `None` if it has not.
    pub(super) started: Option<Timestamp>,
    pub(super) statement: Vec<u8>,
    /// Leaves whose nodes are certainly on disk.
    pub(super) leaves: u64,
    pub(super) proof: Option<Proof>,
}

pub(super) fn round_state(bytes: &[u8]) -> Result<RoundState, XdrError> {
    Reader::whole(bytes, |reader| {
        let started = reader.time()?;
        reader.expect_present("the state of the work")?;
        reader.expect_number(T as u64, "150 proven leaves")?;
        // Members and parked nodes. No version that stores rounds like this fills them.
        reader.expect_number(0, "no members")?;
        let statement = reader.opaque()?.to_vec();
        reader.expect_number(0, "no parked nodes")?;
        let leaves = reader.hyper()?;
        let proof = if reader.present()? {
            Some(reader.proof()?.ok_or(XdrError::Unexpected {
                at: reader.at,
                expected: "a proof with a root",
            })?)
        } else {
            None
        };
        Ok(RoundState {
            started,
            statement,
            leaves,
            proof,
        })
    })
}

/// An entry of the database of proofs.
#[derive(Debug)]
pub(super) struct StoredProof {
    /// `None` if the server had no worker.
    pub(super) proof: Option<Proof>,
    pub(super) members: Vec<Vec<u8>>,
    pub(super) leaves: u64,
    pub(super) public_key: Vec<u8>,
    pub(super) round: String,
}

pub(super) fn stored_proof(bytes: &[u8]) -> Result<StoredProof, XdrError> {
    Reader::whole(bytes, |reader| {
        Ok(StoredProof {
            proof: reader.proof()?,
            members: reader.list(usize::MAX, |reader| Ok(reader.opaque()?.to_vec()))?,
            leaves: reader.hyper()?,
            public_key: reader.opaque()?.to_vec(),
            round: reader.text()?.to_owned(),
        })
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Reads a value that takes all of `bytes`.
    fn whole<T>(
        bytes: &'a [u8],
        read: impl FnOnce(&mut Self) -> Result<T, XdrError>,
    ) -> Result<T, XdrError> {
        let mut reader = Self { bytes, at: 0 };
        let value = read(&mut reader)?;
        if reader.at != bytes.len() {
            return Err(XdrError::Trailing { at: reader.at });
        }
        Ok(value)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let taken = self.bytes[self.at..]
            .get(..count)
            .ok_or(XdrError::Truncated {
                at: self.bytes.len(),
            })?;
        self.at += count;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, XdrError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(u32::from_be_bytes(bytes))
    }

    fn hyper(&mut self) -> Result<u64, XdrError> {
        Ok(u64::from(self.number()?) << 32 | u64::from(self.number()?))
    }

    fn expect_number(&mut self, value: u64, expected: &'static str) -> Result<(), XdrError> {
        let at = self.at;
        if u64::from(self.number()?) == value {
            Ok(())
        } else {
            Err(XdrError::Unexpected { at, expected })
        }
    }

    fn present(&mut self) -> Result<bool, XdrError> {
        let at = self.at;
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(XdrError::Unexpected {
                at,
                expected: "0 or 1",
            }),
        }
    }

    fn expect_present(&mut self, expected: &'static str) -> Result<(), XdrError> {
        let at = self.at;
        if self.present()? {
            Ok(())
        } else {
            Err(XdrError::Unexpected { at, expected })
        }
    }

    fn opaque(&mut self) -> Result<&'a [u8], XdrError> {
        let length = self.number()? as usize;
        let bytes = self.take(length)?;
        let at = self.at;
        let padding = self.take(length.next_multiple_of(4) - length)?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(XdrError::Unexpected {
                at,
                expected: "zeros up to the next multiple of four bytes",
            });
        }
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, XdrError> {
        let at = self.at;
        std::str::from_utf8(self.opaque()?).map_err(|_| XdrError::Unexpected {
            at,
            expected: "a text",
        })
    }

    /// Reads a time as text; Go's zero time means none.
    fn time(&mut self) -> Result<Option<Timestamp>, XdrError> {
        let at = self.at;
        match self.text()? {
            "0001-01-01T00:00:00Z" => Ok(None),
            text => text.parse().map(Some).map_err(|_| XdrError::Unexpected {
                at,
                expected: "a time in RFC 3339",
            }),
        }
    }

    fn list<T>(
        &mut self,
        limit: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, XdrError>,
    ) -> Result<Vec<T>, XdrError> {
        let at = self.at;
        let length = self.number()? as usize;
        // Every entry takes at least four bytes: allocates memory only for what is there.
        if length > limit.min((self.bytes.len() - self.at) / 4) {
            return Err(XdrError::Unexpected {
                at,
                expected: "the length of a list that fits in here",
            });
        }
        (0..length).map(|_| read(self)).collect()
    }

    fn node(&mut self) -> Result<Node, XdrError> {
        let at = self.at;
        self.opaque()?.try_into().map_err(|_| XdrError::Unexpected {
            at,
            expected: "32 bytes",
        })
    }

    /// Reads a proof; `None` if it is empty.
    fn proof(&mut self) -> Result<Option<Proof>, XdrError> {
        if self.bytes[self.at..].starts_with(&[0; 12]) {
            self.take(12)?;
            return Ok(None);
        }
        Ok(Some(Proof {
            root: self.node()?,
            proven_leaves: self.list(MAX_PROVEN_LEAVES, Self::node)?,
            proof_nodes: self.list(MAX_PROOF_NODES, Self::node)?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opaque(bytes: &[u8]) -> Vec<u8> {
        let mut out = (bytes.len() as u32).to_be_bytes().to_vec();
        out.extend(bytes);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn state() -> Vec<u8> {
        let mut bytes = opaque(b"2026-11-20T12:11:18.001728603Z");
        for number in [1, 150, 0] {
            bytes.extend(u32::to_be_bytes(number));
        }
        bytes.extend(opaque(&[7; 32]));
        bytes.extend([0; 4]);
        bytes.extend(u64::to_be_bytes(1 << 40 | 3));
        bytes.extend([0; 4]);
        bytes
    }

    #[test]
    fn the_state_of_a_round() {
        let read = round_state(&state()).unwrap();
        let started = "2026-11-20T12:11:18.001728603Z".parse().unwrap();
        assert_eq!(read.started, Some(started));
        assert_eq!(read.statement, [7; 32]);
        assert_eq!(read.leaves, 1 << 40 | 3);
        assert!(read.proof.is_none());

        let never = [opaque(b"0001-01-01T00:00:00Z"), state()[36..].to_vec()].concat();
        assert!(round_state(&never).unwrap().started.is_none());
    }

    #[test]
    fn every_prefix_and_every_extension_is_refused() {
        let whole = state();
        for length in 0..whole.len() {
            assert!(round_state(&whole[..length]).is_err(), "{length}");
        }
        let longer = [&whole[..], &[0]].concat();
        assert_eq!(
            round_state(&longer).unwrap_err(),
            XdrError::Trailing { at: whole.len() }
        );
    }

    #[test]
    fn damage_is_refused_with_its_place() {
        for (at, value, message) in [
            (4, b'x', "byte 0: expected a time in RFC 3339"),
            (34, 1, "byte 34: expected zeros up to the next multiple"),
            (39, 0, "byte 36: expected the state of the work"),
            (39, 2, "byte 36: expected 0 or 1"),
            (43, 151, "byte 40: expected 150 proven leaves"),
            (47, 1, "byte 44: expected no members"),
            (48, 0xff, "it ends at byte 100"),
        ] {
            let mut bytes = state();
            bytes[at] = value;
            let error = round_state(&bytes).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        // Lists that claim more than there is allocate no memory.
        let huge = [&opaque(&[1; 32])[..], &[0xff; 4]].concat();
        assert!(stored_proof(&huge).is_err());
    }
}
