//! A proof and its wire format.

use alloc::string::String;
use alloc::vec::Vec;

use crate::Node;

/// What a PoET server publishes about its work (PROTOCOL.md section 5). Anybody who has the
/// statement and the number of leaves can verify it: [`verify`](crate::verify()).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The root of the tree.
    pub root: Node,
    /// The labels at the proven indices, in increasing order of index.
    pub proven_leaves: Vec<Node>,
    /// The siblings needed to rebuild the root, in the order of PROTOCOL.md section 5.
    pub proof_nodes: Vec<Node>,
}

/// The most leaves that the wire format of a proof allows.
pub const MAX_PROVEN_LEAVES: usize = 150;

/// The most nodes that the wire format of a proof allows.
pub const MAX_PROOF_NODES: usize = 5_400;

impl Proof {
    /// Encodes this proof of `leaves` leaves in SCALE: root, proven leaves, proof nodes and leaf
    /// count (PROTOCOL.md section 5). An ATX refers to the proof by the hash of these bytes; the
    /// message that nodes store and gossip begins with them: [`ProofMessage`].
    #[must_use]
    pub fn to_scale(&self, leaves: u64) -> Vec<u8> {
        let nodes = 1 + self.proven_leaves.len() + self.proof_nodes.len();
        let mut out = Vec::with_capacity(nodes * 33 + 20);
        put_node(&mut out, &self.root);
        for list in [&self.proven_leaves, &self.proof_nodes] {
            put_compact(&mut out, list.len() as u64);
            for node in list {
                put_node(&mut out, node);
            }
        }
        put_compact(&mut out, leaves);
        out
    }

    /// Decodes the output of [`Proof::to_scale`]: the proof and its leaf count.
    ///
    /// # Errors
    /// Fails if the bytes are not exactly such a proof, or its lists are longer than the wire
    /// format allows. Allocates only for nodes that are present.
    pub fn from_scale(bytes: &[u8]) -> Result<(Self, u64), ScaleError> {
        let mut reader = Reader { bytes, at: 0 };
        let proof = reader.proof()?;
        reader.end()?;
        Ok(proof)
    }

    /// Returns the reference by which an ATX names this proof of `leaves` leaves: the BLAKE3 hash
    /// of [`Proof::to_scale`].
    #[must_use]
    pub fn reference(&self, leaves: u64) -> Node {
        *blake3::hash(&self.to_scale(leaves)).as_bytes()
    }
}

/// The greatest length, in bytes, of a round id in a [`ProofMessage`].
pub const MAX_ROUND_ID_BYTES: usize = 32;

/// What nodes store and gossip: a proof with its origin and its statement. Its name on the network
/// is `PoetProofMessage` (PROTOCOL.md section 5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofMessage {
    /// The proof.
    pub proof: Proof,
    /// The number of leaves.
    pub leaves: u64,
    /// The public key of the server that made it.
    pub service_key: Node,
    /// The server's id of the round: a decimal number of at most [`MAX_ROUND_ID_BYTES`].
    pub round_id: String,
    /// What the work is bound to: the membership root.
    pub statement: Node,
    /// All zeros today; nodes ignore it.
    pub signature: [u8; 64],
}

impl ProofMessage {
    /// Encodes the message: [`Proof::to_scale`] and the fields after it.
    #[must_use]
    pub fn to_scale(&self) -> Vec<u8> {
        let mut out = self.proof.to_scale(self.leaves);
        put_node(&mut out, &self.service_key);
        put_compact(&mut out, self.round_id.len() as u64);
        out.extend_from_slice(self.round_id.as_bytes());
        out.extend_from_slice(&self.statement);
        out.extend_from_slice(&self.signature);
        out
    }

    /// Decodes the output of [`ProofMessage::to_scale`].
    ///
    /// # Errors
    /// Fails if the bytes are not exactly such a message, or as [`Proof::from_scale`] does.
    pub fn from_scale(bytes: &[u8]) -> Result<Self, ScaleError> {
        let mut reader = Reader { bytes, at: 0 };
        let (proof, leaves) = reader.proof()?;
        let service_key = reader.node()?;
        let at = reader.at;
        let length = reader.compact()?;
        let round_id = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_ROUND_ID_BYTES)
            .ok_or(ScaleError::RoundId { at })?;
        let round_id = reader.take(round_id)?;
        let round_id = core::str::from_utf8(round_id).map_err(|_| ScaleError::RoundId { at })?;
        let mut statement = [0; 32];
        statement.copy_from_slice(reader.take(32)?);
        let mut signature = [0; 64];
        signature.copy_from_slice(reader.take(64)?);
        reader.end()?;
        Ok(Self {
            proof,
            leaves,
            service_key,
            round_id: String::from(round_id),
            statement,
            signature,
        })
    }
}

/// Why bytes are not a proof or a [`ProofMessage`] in SCALE. `at` is the offset of the offending
/// byte.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScaleError {
    /// The bytes end too early.
    #[error("the bytes end at {at}, in the middle of the proof")]
    Truncated {
        /// Where more bytes were expected.
        at: usize,
    },
    /// A compact integer is wider than 64 bits or not in its shortest form.
    #[error("byte {at}: not a canonical compact integer of at most 64 bits")]
    Compact {
        /// Where the integer begins.
        at: usize,
    },
    /// A node or the service's key is not 32 bytes long.
    #[error("byte {at}: a node or key of {length} bytes, expected 32")]
    NodeLength {
        /// Where the length stands.
        at: usize,
        /// The encoded length.
        length: u64,
    },
    /// A list is longer than the wire format allows.
    #[error("byte {at}: a list of {length} nodes, the limit is {limit}")]
    TooLong {
        /// Where the length stands.
        at: usize,
        /// The encoded length.
        length: u64,
        /// The greatest length allowed.
        limit: usize,
    },
    /// A round id is too long or not UTF-8.
    #[error("byte {at}: the id of a round, expected text of at most {MAX_ROUND_ID_BYTES} bytes")]
    RoundId {
        /// Where it begins.
        at: usize,
    },
    /// More bytes follow the proof.
    #[error("the proof ends at byte {at}, but there are more bytes")]
    TrailingBytes {
        /// Where the proof ends.
        at: usize,
    },
}

fn put_node(out: &mut Vec<u8>, node: &Node) {
    put_compact(out, node.len() as u64);
    out.extend_from_slice(node);
}

/// Appends a compact integer: the two low bits of the first byte give the size (1, 2 or 4 bytes in
/// all, or 4 + n bytes after it); the value is little-endian.
fn put_compact(out: &mut Vec<u8>, value: u64) {
    if value < 1 << 6 {
        out.push((value as u8) << 2);
    } else if value < 1 << 14 {
        out.extend_from_slice(&((value as u16) << 2 | 1).to_le_bytes());
    } else if value < 1 << 30 {
        out.extend_from_slice(&((value as u32) << 2 | 2).to_le_bytes());
    } else {
        let length = (8 - value.leading_zeros() / 8) as usize;
        out.push(((length - 4) as u8) << 2 | 3);
        out.extend_from_slice(&value.to_le_bytes()[..length]);
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], ScaleError> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(ScaleError::Truncated {
            at: self.bytes.len(),
        })?;
        self.at += length;
        Ok(taken)
    }

    fn little_endian(&mut self, length: usize) -> Result<u64, ScaleError> {
        let mut value = [0; 8];
        value[..length].copy_from_slice(self.take(length)?);
        Ok(u64::from_le_bytes(value))
    }

    fn compact(&mut self) -> Result<u64, ScaleError> {
        let at = self.at;
        let first = self
            .bytes
            .get(at)
            .copied()
            .ok_or(ScaleError::Truncated { at })?;
        let value = match first & 3 {
            mode @ 0..=2 => self.little_endian(1 << mode)? >> 2,
            _ => {
                self.at += 1;
                let length = usize::from(first >> 2) + 4;
                if length > 8 {
                    return Err(ScaleError::Compact { at });
                }
                self.little_endian(length)?
            }
        };
        let mut canonical = Vec::with_capacity(9);
        put_compact(&mut canonical, value);
        if canonical != self.bytes[at..self.at] {
            return Err(ScaleError::Compact { at });
        }
        Ok(value)
    }

    fn proof(&mut self) -> Result<(Proof, u64), ScaleError> {
        let proof = Proof {
            root: self.node()?,
            proven_leaves: self.nodes(MAX_PROVEN_LEAVES)?,
            proof_nodes: self.nodes(MAX_PROOF_NODES)?,
        };
        Ok((proof, self.compact()?))
    }

    fn end(&self) -> Result<(), ScaleError> {
        if self.at == self.bytes.len() {
            Ok(())
        } else {
            Err(ScaleError::TrailingBytes { at: self.at })
        }
    }

    fn node(&mut self) -> Result<Node, ScaleError> {
        let at = self.at;
        let length = self.compact()?;
        if length != 32 {
            return Err(ScaleError::NodeLength { at, length });
        }
        let mut node = [0; 32];
        node.copy_from_slice(self.take(32)?);
        Ok(node)
    }

    fn nodes(&mut self, limit: usize) -> Result<Vec<Node>, ScaleError> {
        let at = self.at;
        let length = self.compact()?;
        if length > limit as u64 {
            return Err(ScaleError::TooLong { at, length, limit });
        }
        (0..length).map(|_| self.node()).collect()
    }
}
