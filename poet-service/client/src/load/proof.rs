//! A fetched proof: decompressed, read and verified.

use std::{fmt, io::Read as _};

use anyhow::{Context as _, ensure};
use flate2::read::GzDecoder;
use poet_engine::{LABEL_DEPTH, Node, Proof, T, WorkFunction, membership, verify};
use poet_proto::base64;
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

/// The size of the longest proof, decompressed: 20 million members.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    proof: PoetProof,
    pubkey: Base64,
}

#[derive(Deserialize)]
struct PoetProof {
    proof: MerkleProof,
    members: Vec<Base64>,
    leaves: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MerkleProof {
    root: Base64,
    proven_leaves: Vec<Base64>,
    proof_nodes: Vec<Base64>,
}

/// 32 bytes in base64.
#[derive(Clone, Copy)]
struct Base64(Node);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64 of 32 bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                base64::decode_node(text)
                    .map(Base64)
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// A valid proof.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) leaves: u64,
    /// The challenges.
    pub(super) members: Vec<Node>,
    /// The length of the response, decompressed.
    pub(super) bytes: usize,
}

/// Verifies a compressed response: all labels, over the statement that its members determine.
pub(super) fn check(compressed: &[u8]) -> anyhow::Result<Verified> {
    let mut json = Vec::new();
    GzDecoder::new(compressed)
        .take(MAX_BYTES)
        .read_to_end(&mut json)
        .context("the answer is not gzip")?;
    let answer: Answer = serde_json::from_slice(&json).context("the answer is not a proof")?;
    ensure!(answer.pubkey.0 != Node::default(), "the server has no key");
    let nodes = |list: &[Base64]| -> Vec<Node> { list.iter().map(|entry| entry.0).collect() };
    let members = nodes(&answer.proof.members);
    let leaves = answer.proof.leaves.parse().context("the leaves")?;
    let merkle = &answer.proof.proof;
    let proof = Proof {
        root: merkle.root.0,
        proven_leaves: nodes(&merkle.proven_leaves),
        proof_nodes: nodes(&merkle.proof_nodes),
    };
    let work = poet_backends::select(WorkFunction::Sha256, None)?.work(LABEL_DEPTH)?;
    verify(&work, &membership::root(&members), leaves, T, &proof)
        .context("the proof is not valid")?;
    Ok(Verified {
        leaves,
        members,
        bytes: json.len(),
    })
}
