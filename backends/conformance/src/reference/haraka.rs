//! Haraka v2 (Koelbl, Lauridsen, Mendel and Rechberger, eprint 2016/098).
//!
//! The state is two (Haraka-256) or four (Haraka-512) AES states. Each of five rounds applies two
//! AES rounds to each of them and then permutes their columns, which are words of four bytes. In
//! the end the input is added (feed-forward).

use super::aes_round;
use crate::vectors;
use std::sync::LazyLock;

/// A column of an AES state.
type Word = [u8; 4];

/// The round constants as AES states: the vectors have them most significant byte first.
static ROUND_CONSTANTS: LazyLock<Vec<[u8; 16]>> = LazyLock::new(|| {
    let reverse = |number: [u8; 16]| u128::from_be_bytes(number).to_le_bytes();
    vectors::haraka()
        .round_constants
        .into_iter()
        .map(reverse)
        .collect()
});

/// Haraka-256 v2: 32 bytes to 32 bytes.
#[must_use]
pub fn haraka256(input: &[u8; 32]) -> [u8; 32] {
    // MIX-256: the columns of both states alternate.
    permute(*input, [0, 4, 1, 5, 2, 6, 3, 7])
}

/// Haraka-512 v2: 64 bytes to 32 bytes.
#[must_use]
pub fn haraka512(input: &[u8; 64]) -> [u8; 32] {
    let out = permute(
        *input,
        [3, 11, 7, 15, 8, 0, 12, 4, 9, 1, 13, 5, 2, 10, 6, 14],
    );
    // Truncation: the last two columns of the first two states, the first two of the others.
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&out[8..16]);
    digest[8..16].copy_from_slice(&out[24..32]);
    digest[16..24].copy_from_slice(&out[32..40]);
    digest[24..].copy_from_slice(&out[48..56]);
    digest
}

/// The five rounds and the feed-forward. After a round, column i of the state is the former column
/// `mix[i]`.
fn permute<const BYTES: usize, const WORDS: usize>(
    input: [u8; BYTES],
    mix: [usize; WORDS],
) -> [u8; BYTES] {
    let mut constants = ROUND_CONSTANTS.iter();
    let mut state = input;
    for _round in 0..5 {
        for _aes_round in 0..2 {
            for lane in state.as_chunks_mut().0 {
                *lane = aes_round(lane, constants.next().expect("40 constants are enough"));
            }
        }
        let words: Vec<Word> = state.as_chunks().0.to_vec();
        for (word, from) in state.as_chunks_mut().0.iter_mut().zip(mix) {
            *word = words[from];
        }
    }
    core::array::from_fn(|i| state[i] ^ input[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haraka256_vectors() {
        for (i, v) in vectors::haraka().haraka256.iter().enumerate() {
            assert_eq!(haraka256(&v.input), v.output, "haraka256[{i}]");
        }
    }

    #[test]
    fn haraka512_vectors() {
        for (i, v) in vectors::haraka().haraka512.iter().enumerate() {
            assert_eq!(haraka512(&v.input), v.output, "haraka512[{i}]");
        }
    }

    #[test]
    fn chain_vectors() {
        for (i, v) in vectors::haraka().haraka256_chain.iter().enumerate() {
            let last = (0..v.iterations).fold(v.input, |digest, _| haraka256(&digest));
            assert_eq!(last, v.output, "haraka256_chain[{i}]");
        }
    }
}
