//! Registrations, signed before the clock starts.

use std::thread;

use ed25519_dalek::{Signer as _, SigningKey};
use jiff::Timestamp;
use poet_proto::{
    json,
    member::{Challenge, NodeId},
    messages::{Admission, Submission},
    pow::{self, PowParams},
};

/// What a node signs before its challenge: the genesis id of its network and a domain byte.
const PREFIX: [u8; 21] = [0x5a; 21];
/// A deadline that is later than the end of any round.
// 9999-01-01T00:00:00Z
const DEADLINE: Timestamp = Timestamp::constant(253_370_764_800, 0);

/// A node to register. It takes 136 bytes, so that a million of them fit the memory.
#[derive(Clone, Debug)]
pub(super) struct LoadNode {
    node_id: NodeId,
    pub(super) challenge: Challenge,
    signature: [u8; 64],
    nonce: u64,
}

impl LoadNode {
    /// Creates node `number` of `seed`.
    fn new(seed: u64, number: u64, params: &PowParams) -> Option<Self> {
        let mut secret = [0; 32];
        secret[..8].copy_from_slice(&seed.to_le_bytes());
        secret[8..16].copy_from_slice(&number.to_le_bytes());
        let key = SigningKey::from_bytes(&secret);
        let node_id = NodeId(key.verifying_key().to_bytes());
        // Any hash will do, since challenges look random.
        let challenge = Challenge(pow::digest(b"challenge", node_id, &[], number));
        let signature = key.sign(&[&PREFIX[..], &challenge.0].concat()).to_bytes();
        Some(Self {
            node_id,
            challenge,
            signature,
            nonce: pow::solve(params, node_id, &challenge.0)?,
        })
    }

    /// Returns the body of the request that registers it.
    pub(super) fn request(&self, params: &PowParams) -> String {
        json::write_submit_request(&Submission {
            prefix: &PREFIX,
            challenge: &self.challenge,
            node_id: &self.node_id,
            signature: &self.signature,
            deadline: Some(DEADLINE),
            admission: Admission::Work {
                params,
                nonce: self.nonce,
            },
        })
    }
}

/// Creates the first `count` nodes of `seed`. Returns `None` if the proof of work has no solution.
pub(super) fn prepare(seed: u64, count: usize, params: &PowParams) -> Option<Vec<LoadNode>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = count.div_ceil(threads).max(1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..count)
            .step_by(share)
            .map(|first| {
                let numbers = first..count.min(first + share);
                scope.spawn(move || {
                    numbers
                        .map(|number| LoadNode::new(seed, number as u64, params))
                        .collect::<Option<Vec<_>>>()
                })
            })
            .collect();
        let mut members = Vec::with_capacity(count);
        for worker in workers {
            members.append(&mut worker.join().ok()??);
        }
        Some(members)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use poet_proto::identity::PublicKey;

    use super::*;

    #[test]
    fn requests_are_valid() {
        let params = PowParams {
            difficulty: 3,
            challenge: vec![7; 32],
        };
        let members = prepare(5, 7, &params).unwrap();
        assert_eq!(members.len(), 7);
        for member in &members {
            let body = member.request(&params);
            let request = json::submit_request(body.as_bytes()).unwrap();
            assert_eq!(request.pow_params, params);
            assert_eq!(request.challenge, member.challenge.0);
            let deadline = request.deadline.unwrap();
            assert_eq!(deadline.to_string(), "9999-01-01T00:00:00Z");
            let key = PublicKey::from_bytes(&member.node_id.0).unwrap();
            assert!(key.verifies(&[&request.prefix, &request.challenge], &request.signature));
            assert!(pow::is_valid(
                &params,
                member.node_id,
                &request.challenge,
                request.nonce
            ));
        }
        // The same seed gives the same nodes, and another seed others.
        let again = prepare(5, 1, &params).unwrap();
        assert_eq!(again[0].node_id, members[0].node_id);
        assert_ne!(
            prepare(6, 1, &params).unwrap()[0].node_id,
            members[0].node_id
        );
    }
}
