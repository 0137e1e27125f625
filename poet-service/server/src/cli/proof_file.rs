//! Reads proofs from files.
//!
//! There are four formats: the JSON that `prove` writes (hex), a saved response of `GET
//! /v1/proofs/{id}` (base64), in which the members determine the statement, and two in SCALE: the
//! bare proof, and the message that nodes store and gossip.

use std::fmt;

use poet_engine::{
    MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Node, Proof, ProofMessage, ScaleError, Work, membership,
};
use poet_proto::{
    base64::{decode_lenient, encode},
    json::reason,
    member::Challenge,
};
use serde::Serialize;
use serde_json::{Map, Value};

/// Why a text is not hexadecimal.
pub(crate) const NOT_HEX: &str = "not hex: expected hexadecimal digits, two for each byte";

/// A proof with everything that its file claims.
#[derive(Debug)]
pub(crate) struct ProofFile {
    pub(crate) statement: Vec<u8>,
    pub(crate) leaves: u64,
    pub(crate) proof: Proof,
    /// The indices of the proven leaves, if the file has them.
    pub(crate) indices: Option<Vec<u64>>,
    /// The name and depth of the work function, if the file has them.
    pub(crate) work: Option<(String, u64)>,
    /// The format of the file, with what only that format contains.
    pub(crate) format: ProofFormat,
}

/// The format of a file with a proof.
#[derive(Debug)]
pub(crate) enum ProofFormat {
    /// The output of `prove`.
    Written,
    /// A response of a server.
    Served {
        /// The number of members in the statement.
        members: usize,
        /// The server's public key, if the response contains it.
        service_key: Option<Vec<u8>>,
    },
    /// The bare proof, whose hash ATXs refer to.
    Bare,
    /// The message that nodes store and gossip.
    Message {
        /// The server's public key.
        service_key: Node,
        /// The id of the round on that server.
        round_id: String,
        /// Whether the signature, which nothing checks today, is not all zeros.
        signed: bool,
    },
}

impl fmt::Display for ProofFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written => f.write_str("JSON of `prove`"),
            Self::Served { .. } => f.write_str("the answer of a server"),
            Self::Bare => f.write_str("a bare proof in SCALE, by whose hash an ATX refers to it"),
            Self::Message {
                service_key,
                round_id,
                signed,
            } => {
                write!(
                    f,
                    "the message that nodes store (PoetProofMessage), of round {round_id:?} of the \
                     server with the key {}",
                    encode(service_key)
                )?;
                f.write_str(if *signed {
                    "; its signature was not checked"
                } else {
                    ""
                })
            }
        }
    }
}

/// The format that `prove` writes.
#[derive(Serialize)]
struct Written {
    #[serde(with = "hex")]
    statement: Vec<u8>,
    leaves: u64,
    #[serde(with = "hex")]
    root: Node,
    proven_leaf_indices: Vec<u64>,
    proven_leaves: Vec<String>,
    proof_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    work: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    depth: Option<u32>,
}

/// Encodes a proof as JSON. Names the work function if it is not Spacemesh's.
pub(crate) fn to_json(
    work: &Work,
    statement: &[u8],
    leaves: u64,
    indices: Vec<u64>,
    proof: &Proof,
) -> anyhow::Result<String> {
    let spacemesh = super::is_spacemesh(work);
    let hex = |nodes: &[Node]| nodes.iter().map(hex::encode).collect();
    let mut json = serde_json::to_string_pretty(&Written {
        statement: statement.to_vec(),
        leaves,
        root: proof.root,
        proven_leaf_indices: indices,
        proven_leaves: hex(&proof.proven_leaves),
        proof_nodes: hex(&proof.proof_nodes),
        work: (!spacemesh).then(|| work.function().name()),
        depth: (!spacemesh).then(|| work.depth()),
    })?;
    json.push('\n');
    Ok(json)
}

/// What is wrong with a file, and where in it.
type Wrong = String;

/// Reads any of the formats. `statement` is needed for the one that lacks it.
///
/// # Errors
/// Fails with one sentence that says what is wrong, and where.
pub(crate) fn parse(bytes: &[u8], statement: Option<&[u8]>) -> Result<ProofFile, Wrong> {
    // The length of the root. No JSON begins with it.
    match (bytes.first(), statement) {
        (Some(0x80), statement) => match Proof::from_scale(bytes) {
            // The bytes after the proof make it a message.
            Err(ScaleError::TrailingBytes { .. }) => message(bytes),
            Err(error) => Err(error.to_string()),
            Ok((proof, leaves)) => bare(proof, leaves, statement),
        },
        (_, Some(_)) => Err("it holds its own statement: expected no --statement".into()),
        (_, None) => parse_json(bytes),
    }
}

fn bare(proof: Proof, leaves: u64, statement: Option<&[u8]>) -> Result<ProofFile, Wrong> {
    let statement = statement
        .ok_or("it does not hold the statement it was made for: expected --statement")?
        .to_vec();
    Ok(ProofFile {
        statement,
        leaves,
        proof,
        indices: None,
        work: None,
        format: ProofFormat::Bare,
    })
}

fn message(bytes: &[u8]) -> Result<ProofFile, Wrong> {
    let message = ProofMessage::from_scale(bytes).map_err(|error| error.to_string())?;
    Ok(ProofFile {
        statement: message.statement.to_vec(),
        leaves: message.leaves,
        proof: message.proof,
        indices: None,
        work: None,
        format: ProofFormat::Message {
            service_key: message.service_key,
            round_id: message.round_id,
            signed: message.signature != [0; 64],
        },
    })
}

fn parse_json(json: &[u8]) -> Result<ProofFile, Wrong> {
    let value: Value =
        serde_json::from_slice(json).map_err(|error| format!("not JSON: {}", reason(&error)))?;
    let Value::Object(file) = &value else {
        return Err(format!("expected a JSON object, found {}", kind(&value)));
    };
    if file.contains_key("proof") {
        served(file)
    } else {
        written(file)
    }
}

fn written(file: &Map<String, Value>) -> Result<ProofFile, Wrong> {
    let at = At {
        object: file,
        path: "",
    };
    let indices = match file.get("proven_leaf_indices") {
        Some(_) => Some(at.list("proven_leaf_indices", MAX_PROVEN_LEAVES, number)?),
        None => None,
    };
    let work = match file.get("work") {
        Some(_) => Some((at.text("work")?.to_owned(), at.get("depth", number)?)),
        None => None,
    };
    Ok(ProofFile {
        statement: at.get("statement", hex)?,
        leaves: at.get("leaves", number)?,
        proof: Proof {
            root: at.get("root", |value| node(&hex(value)?))?,
            proven_leaves: at.list("proven_leaves", MAX_PROVEN_LEAVES, |value| {
                node(&hex(value)?)
            })?,
            proof_nodes: at.list("proof_nodes", MAX_PROOF_NODES, |value| node(&hex(value)?))?,
        },
        indices,
        work,
        format: ProofFormat::Written,
    })
}

fn served(file: &Map<String, Value>) -> Result<ProofFile, Wrong> {
    let file = At {
        object: file,
        path: "",
    };
    let outer = file.object("proof", "proof.")?;
    let proof = outer.object("proof", "proof.proof.")?;
    // A node cuts or pads every challenge to 32 bytes before it computes the statement.
    let members = outer.list("members", usize::MAX, |value| {
        Ok(Challenge::cut_or_padded(&base64(value)?))
    })?;
    let nodes = |name, limit| proof.list(name, limit, |value| node(&base64(value)?));
    let leaves = outer.get("leaves", number)?;
    let service_key = match file.object.get("pubkey") {
        Some(_) => Some(file.get("pubkey", base64)?),
        None => None,
    };
    Ok(ProofFile {
        statement: membership::root(&members),
        leaves,
        proof: Proof {
            root: proof.get("root", |value| match &base64(value)?[..] {
                // A server that does no work.
                [] if leaves == 0 => Ok([0; 32]),
                root => node(root),
            })?,
            proven_leaves: nodes("provenLeaves", MAX_PROVEN_LEAVES)?,
            proof_nodes: nodes("proofNodes", MAX_PROOF_NODES)?,
        },
        indices: None,
        work: None,
        format: ProofFormat::Served {
            members: members.len(),
            service_key,
        },
    })
}

/// An object in the file, and the path to it.
struct At<'a> {
    object: &'a Map<String, Value>,
    path: &'static str,
}

impl<'a> At<'a> {
    fn value(&self, name: &str) -> Result<&'a Value, Wrong> {
        let value = self.object.get(name);
        value.ok_or_else(|| format!("{}{name} is missing", self.path))
    }

    fn get<T>(&self, name: &str, read: impl Fn(&Value) -> Result<T, Wrong>) -> Result<T, Wrong> {
        read(self.value(name)?).map_err(|wrong| format!("{}{name}: {wrong}", self.path))
    }

    fn text(&self, name: &str) -> Result<&'a str, Wrong> {
        text(self.value(name)?).map_err(|wrong| format!("{}{name}: {wrong}", self.path))
    }

    fn object(&self, name: &str, path: &'static str) -> Result<At<'a>, Wrong> {
        match self.value(name)? {
            Value::Object(object) => Ok(At { object, path }),
            other => Err(format!(
                "{}{name}: expected an object, found {}",
                self.path,
                kind(other)
            )),
        }
    }

    fn list<T>(
        &self,
        name: &str,
        limit: usize,
        read: impl Fn(&Value) -> Result<T, Wrong>,
    ) -> Result<Vec<T>, Wrong> {
        let path = format!("{}{name}", self.path);
        let list = match self.value(name)? {
            Value::Array(list) => list,
            other => return Err(format!("{path}: expected a list, found {}", kind(other))),
        };
        if list.len() > limit {
            return Err(format!(
                "{path}: {} entries, at most {limit} are allowed",
                list.len()
            ));
        }
        list.iter()
            .enumerate()
            .map(|(i, value)| read(value).map_err(|wrong| format!("{path}[{i}]: {wrong}")))
            .collect()
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn text(value: &Value) -> Result<&str, Wrong> {
    value
        .as_str()
        .ok_or_else(|| format!("expected a string, found {}", kind(value)))
}

/// Reads a 64-bit number, which protobuf's JSON writes as a string.
fn number(value: &Value) -> Result<u64, Wrong> {
    match value {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    }
    .ok_or_else(|| "expected a whole number from 0 to 2^64 - 1".into())
}

fn node(bytes: &[u8]) -> Result<Node, Wrong> {
    bytes
        .try_into()
        .map_err(|_| format!("{} bytes, expected 32", bytes.len()))
}

fn hex(value: &Value) -> Result<Vec<u8>, Wrong> {
    let bytes = hex::decode(text(value)?);
    bytes.map_err(|_| NOT_HEX.into())
}

fn base64(value: &Value) -> Result<Vec<u8>, Wrong> {
    let bytes = decode_lenient(text(value)?);
    bytes.ok_or_else(|| "not base64: expected groups of four characters, padded with =".into())
}
