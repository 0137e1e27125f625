//! A fetched proof: decompressed, read and verified.

use std::io::Read as _;

use anyhow::{Context as _, anyhow, ensure};
use flate2::read::GzDecoder;
use poet_engine::{LABEL_DEPTH, T, WorkFunction, verify};
use poet_proto::{
    json::{self, ProofResponse},
    member::Challenge,
};

/// The size of the longest proof, decompressed: 20 million members.
const MAX_BYTES: u64 = 1 << 30;
/// As many as fit.
const MAX_MEMBERS: usize = 1 << 25;

/// A valid proof.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) leaves: u64,
    pub(super) members: Vec<Challenge>,
    /// The length of the response, decompressed.
    pub(super) bytes: usize,
}

/// Verifies a compressed response: all labels, over the statement that its members determine.
pub(super) fn check(compressed: &[u8]) -> anyhow::Result<Verified> {
    let mut text = Vec::new();
    GzDecoder::new(compressed)
        .take(MAX_BYTES)
        .read_to_end(&mut text)
        .map_err(|_| anyhow!("the answer is not gzip, or cut off"))?;
    let response: ProofResponse<MAX_MEMBERS> =
        json::read(&text).context("the answer is not a proof")?;
    ensure!(response.pubkey.0 != [0; 32], "the server has no key");
    let proof = response.into_proof().map_err(anyhow::Error::msg)?;
    let work = poet_backends::select(WorkFunction::Sha256, None)?.work(LABEL_DEPTH)?;
    verify(&work, &proof.statement, proof.leaves, T, &proof.proof)
        .context("the proof is not valid")?;
    Ok(Verified {
        leaves: proof.leaves,
        members: proof.members,
        bytes: text.len(),
    })
}
