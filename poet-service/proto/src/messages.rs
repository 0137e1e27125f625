//! Requests and answers, independent of their encoding.

use jiff::{SignedDuration, Timestamp};
use poet_engine::{Node, Proof};

use crate::{
    certificate::{Certifier, SignedCertificate},
    identity::PublicKey,
    member::{Challenge, NodeId},
    pow::PowParams,
    receipt::Receipt,
};

/// A request to register.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "names and meaning are those of the API")]
pub struct SubmitRequest {
    pub nonce: u64,
    pub pow_params: PowParams,
    pub prefix: Vec<u8>,
    pub challenge: Vec<u8>,
    pub pubkey: Vec<u8>,
    pub signature: Vec<u8>,
    pub deadline: Option<Timestamp>,
    pub certificate: Option<SignedCertificate>,
    pub certificate_pubkey_hint: Vec<u8>,
}

/// A request to register, as its sender writes it: without copies.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// What is signed before the challenge.
    pub prefix: &'a [u8],
    /// The challenge to register.
    pub challenge: &'a Challenge,
    /// The node.
    pub node_id: &'a NodeId,
    /// The node's signature of prefix and challenge.
    pub signature: &'a [u8; 64],
    /// The latest end of the round, if there is one.
    pub deadline: Option<Timestamp>,
    /// Why the server should accept the node.
    pub admission: Admission<'a>,
}

/// Why a server should accept a node.
#[derive(Clone, Copy, Debug)]
pub enum Admission<'a> {
    /// A proof of work.
    Work {
        /// What it meets.
        params: &'a PowParams,
        /// The nonce that meets it.
        nonce: u64,
    },
    /// A certificate of the server's certifier.
    Certificate(&'a SignedCertificate),
}

/// The answer to a registration that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The round of the registration.
    pub round: u64,
    /// The time from now until the end of the round's work.
    pub time_to_end: SignedDuration,
    /// The signed acknowledgement.
    pub receipt: Receipt,
}

/// What a server publishes about itself.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    /// The server's key.
    pub public_key: &'a PublicKey,
    /// The time from genesis to the start of round 0.
    pub phase_shift: SignedDuration,
    /// The time from the end of a round to the start of the next one.
    pub cycle_gap: SignedDuration,
    /// Where nodes get certificates, if the server requires them.
    pub certifier: Option<&'a Certifier>,
}

/// A finished round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedProof {
    /// The statement of the work: the membership root.
    pub statement: Vec<u8>,
    /// The challenges, in the byte order of their node ids.
    pub members: Vec<Challenge>,
    /// Challenges that are not 32 bytes long, by their position among the members, which holds them
    /// truncated or padded, as nodes read them. Rounds of the original server may have some.
    pub odd_members: Vec<(u32, Vec<u8>)>,
    /// The number of leaves of the tree.
    pub leaves: u64,
    /// The proof of the work.
    pub proof: Proof,
}

impl PublishedProof {
    /// The publication of a server that does no work: the members, and no proof.
    pub fn empty(statement: Vec<u8>, members: Vec<Challenge>) -> Self {
        Self {
            statement,
            members,
            odd_members: Vec::new(),
            leaves: 0,
            proof: Proof {
                root: [0; 32],
                proven_leaves: Vec::new(),
                proof_nodes: Vec::new(),
            },
        }
    }

    /// Returns the root, unless the proof is empty.
    pub fn root(&self) -> Option<&Node> {
        (self.leaves > 0).then_some(&self.proof.root)
    }

    /// Returns the challenges as they were registered.
    pub fn registered_members(&self) -> impl Iterator<Item = &[u8]> {
        let mut odd = self.odd_members.iter().peekable();
        let members = self.members.iter().enumerate();
        members.map(move |(position, member)| {
            let replaced = odd.next_if(|(odd, _)| *odd as usize == position);
            replaced.map_or(&member.0[..], |(_, challenge)| challenge)
        })
    }
}
