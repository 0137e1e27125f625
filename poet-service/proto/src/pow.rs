//! The proof of work that a registration may carry (protocol section 7).
//!
//! ```text
//! RIPEMD-256(pow_challenge || node_id || poet_challenge || le64(nonce))
//! ```
//!
//! must begin with as many zero bits as the difficulty says.

use crate::member::NodeId;
use ripemd::{Digest, Ripemd256};

/// What a proof of work must meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PowParams {
    /// The required number of leading zero bits.
    pub difficulty: u32,
    /// The server's challenge.
    pub challenge: Vec<u8>,
}

/// The highest difficulty that can be met.
pub const MAX_DIFFICULTY: u32 = 256;

/// Returns the hash whose leading zero bits count.
pub fn digest(
    pow_challenge: &[u8],
    node_id: NodeId,
    poet_challenge: &[u8],
    nonce: u64,
) -> [u8; 32] {
    Ripemd256::new()
        .chain_update(pow_challenge)
        .chain_update(node_id.0)
        .chain_update(poet_challenge)
        .chain_update(nonce.to_le_bytes())
        .finalize()
        .into()
}

/// Returns the number of leading zero bits.
pub fn leading_zero_bits(digest: &[u8; 32]) -> u32 {
    let zero_bytes = digest.iter().take_while(|byte| **byte == 0).count();
    let in_next = digest
        .get(zero_bytes)
        .map_or(0, |byte| byte.leading_zeros());
    zero_bytes as u32 * 8 + in_next
}

/// Returns whether `nonce` meets `params` for this node and challenge.
pub fn is_valid(params: &PowParams, node_id: NodeId, poet_challenge: &[u8], nonce: u64) -> bool {
    leading_zero_bits(&digest(&params.challenge, node_id, poet_challenge, nonce))
        >= params.difficulty
}

/// Returns the smallest nonce that meets `params`: the client's part, about `2^difficulty` hashes.
pub fn solve(params: &PowParams, node_id: NodeId, poet_challenge: &[u8]) -> Option<u64> {
    (0..u64::MAX).find(|nonce| is_valid(params, node_id, poet_challenge, *nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bits_over_byte_borders() {
        let mut digest = [0; 32];
        assert_eq!(leading_zero_bits(&digest), 256);
        digest[31] = 1;
        assert_eq!(leading_zero_bits(&digest), 255);
        digest[2] = 0x10;
        assert_eq!(leading_zero_bits(&digest), 19);
        digest[0] = 0xff;
        assert_eq!(leading_zero_bits(&digest), 0);
    }

    const NODE: NodeId = NodeId([1; 32]);
    const CHALLENGE: &[u8] = &[2; 32];

    #[test]
    fn a_solution_is_valid_at_its_difficulty_only() {
        let params = PowParams {
            difficulty: 10,
            challenge: vec![7; 32],
        };
        let nonce = solve(&params, NODE, CHALLENGE).unwrap();
        assert!(is_valid(&params, NODE, CHALLENGE, nonce));
        assert!(nonce > 0 && !is_valid(&params, NODE, CHALLENGE, nonce - 1));
        assert!(!is_valid(
            &PowParams {
                difficulty: MAX_DIFFICULTY,
                ..params
            },
            NODE,
            CHALLENGE,
            nonce
        ));
    }
}
