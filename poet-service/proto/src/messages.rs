//! Requests and answers, whatever form they travel in.

use jiff::{SignedDuration, Timestamp};
use poet_engine::{Node, Proof};

use crate::{
    certificate::{Certifier, SignedCertificate},
    identity::PublicKey,
    member::Challenge,
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

/// The answer to a registration that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// The round it is for.
    pub round: u64,
    /// From now until the end of the round's work.
    pub time_to_end: SignedDuration,
    /// The server's word on it.
    pub receipt: Receipt,
}

/// What the server tells about itself.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    /// Its key.
    pub public_key: &'a PublicKey,
    /// From genesis to the start of round 0.
    pub phase_shift: SignedDuration,
    /// From the end of a round to the start of the next one.
    pub cycle_gap: SignedDuration,
    /// Where nodes get certificates, if they need any.
    pub certifier: Option<&'a Certifier>,
}

/// A finished round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedProof {
    /// What the work was bound to: the membership root.
    pub statement: Vec<u8>,
    /// The challenges, in the byte order of their node ids.
    pub members: Vec<Challenge>,
    /// Challenges of another length, by their position among the members, where they stand cut or
    /// padded, as nodes read them. Rounds of the original server may have some.
    pub odd_members: Vec<(u32, Vec<u8>)>,
    /// Leaves of the tree.
    pub leaves: u64,
    /// The proof that they were made.
    pub proof: Proof,
}

impl PublishedProof {
    /// What a server publishes that does no work: the members, and no proof.
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

    /// The root, unless the proof is empty.
    pub fn root(&self) -> Option<&Node> {
        (self.leaves > 0).then_some(&self.proof.root)
    }

    /// The challenges as they were registered.
    pub fn registered_members(&self) -> impl Iterator<Item = &[u8]> {
        let mut odd = self.odd_members.iter().peekable();
        let members = self.members.iter().enumerate();
        members.map(move |(position, member)| {
            let replaced = odd.next_if(|(odd, _)| *odd as usize == position);
            replaced.map_or(&member.0[..], |(_, challenge)| challenge)
        })
    }
}
