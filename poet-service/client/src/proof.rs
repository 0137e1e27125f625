//! Checks a server's proof, and that it contains our challenge.

use anyhow::Context as _;
use poet_engine::{LABEL_DEPTH, Node, ProofMessage, T, Work, WorkFunction, verify};
use poet_proto::{json, member::Challenge, messages::PublishedProof};

/// The maximum number of members to read: four times as many as are planned for.
const MAX_MEMBERS: usize = 1 << 22;

/// The response with a proof of a server that is not trusted.
pub(crate) type ProofResponse = json::ProofResponse<MAX_MEMBERS>;

/// A proof that our challenge existed before the work was done.
pub(crate) struct VerifiedProof {
    proof: PublishedProof,
    pubkey: [u8; 32],
    /// The index of our challenge among the members.
    pub(crate) index: usize,
}

/// Why a proof is of no use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoProof {
    #[error("our challenge is not among its members")]
    WithoutUs,
    #[error("{0}")]
    Invalid(String),
}

/// Returns the work function of the Spacemesh network.
///
/// # Errors
/// Fails if no backend works on this machine.
pub(crate) fn spacemesh_work() -> anyhow::Result<Work> {
    // There is little to verify: a trial would take longer than a slow backend does.
    let options = poet_backends::SelectOptions {
        forced: None,
        trial: false,
    };
    let selection = poet_backends::select_with(WorkFunction::Sha256, options)?;
    for warning in selection.warnings() {
        eprintln!("WARNING: {warning}");
    }
    Ok(selection.work(LABEL_DEPTH)?)
}

impl VerifiedProof {
    /// Checks everything: that the server's key is the one at the registration, that our challenge
    /// is a member, and that the work was done on the statement of these members, including the
    /// path of each of the 150 labels and all of their hashes.
    ///
    /// # Errors Fails with what is wrong.
    pub(crate) fn check(
        work: &Work,
        response: ProofResponse,
        challenge: Challenge,
        pubkey: &[u8; 32],
    ) -> Result<Self, NoProof> {
        if response.pubkey.0 != *pubkey {
            let reason = "the server's key is another one than at the registration";
            return Err(NoProof::Invalid(reason.to_owned()));
        }
        let invalid = |reason: &str| NoProof::Invalid(reason.to_owned());
        let proof = response.into_proof().map_err(invalid)?;
        verify(work, &proof.statement, proof.leaves, T, &proof.proof)
            .map_err(|error| NoProof::Invalid(format!("the proof is not valid: {error}")))?;
        // Last, so that a server that left us out has at least done the work.
        let index = proof.members.iter().position(|member| *member == challenge);
        let index = index.ok_or(NoProof::WithoutUs)?;
        Ok(Self {
            proof,
            pubkey: *pubkey,
            index,
        })
    }

    pub(crate) fn leaves(&self) -> u64 {
        self.proof.leaves
    }

    pub(crate) fn members(&self) -> usize {
        self.proof.members.len()
    }

    /// Returns the hash by which an ATX refers to the proof.
    pub(crate) fn reference(&self) -> Node {
        self.proof.proof.reference(self.proof.leaves)
    }

    /// Encodes the message that nodes store.
    pub(crate) fn to_message(&self, round: u64) -> anyhow::Result<Vec<u8>> {
        let statement = self.proof.statement[..].try_into();
        let message = ProofMessage {
            proof: self.proof.proof.clone(),
            leaves: self.proof.leaves,
            service_key: self.pubkey,
            round_id: round.to_string(),
            statement: statement.context("a round with a member has a statement of 32 bytes")?,
            signature: [0; 64],
        };
        Ok(message.to_scale())
    }

    /// Returns whether it was made by the server with this key.
    pub(crate) fn is_of(&self, pubkey: &[u8; 32]) -> bool {
        self.pubkey == *pubkey
    }

    /// Encodes the proof as servers send it.
    pub(crate) fn to_json(&self) -> String {
        json::proof_response(&self.proof, &self.pubkey)
    }
}
