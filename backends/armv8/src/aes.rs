//! Haraka-256 on the AES extension.
//!
//! The function is described in [`poet_backend_generic::haraka`]. x86's AESENC adds its key last;
//! AESE adds it *first*, before SubBytes and ShiftRows, and AESMC is MixColumns. So a constant is
//! not added where it stands but *owed*: the state is `y ^ owed`, and the next AESE pays the debt
//! with its key operand.
//!
//! ```text
//! AES round:  y <- AESMC(AESE(y, owed));  owed <- constant
//! mix:        y <- mix(y);                owed <- mix(owed)          a constant as well
//! hash's end:                             owed <- owed ^ input       the feed-forward
//! ```
//!
//! A round is two pairs of AESE and AESMC, which most cores fuse, and ZIP1 with ZIP2. Of the
//! additions only that of the input is an instruction, and it is off the critical path.

use core::arch::aarch64::{
    uint8x16_t, vaeseq_u8, vaesmcq_u8, veorq_u8, vreinterpretq_u8_u32, vreinterpretq_u32_u8,
    vzip1q_u32, vzip2q_u32,
};
use core::mem::transmute;
use poet_backend_generic::haraka::{ROUND_CONSTANTS, ROUNDS};
use poet_engine::{Chain, Node};

poet_backend_token::token! {
    /// Haraka-256 v2 on the AES extension of ARMv8.
    ///
    /// A value exists only if the CPU has the extension.
    Armv8Aes, "armv8-aes", [aes: "aes"]
}

impl Chain for Armv8Aes {
    fn one(&self, digest: &mut Node, n: u32) {
        // SAFETY: `get` returns `self` only if it has found the extension.
        unsafe { lanes(core::array::from_mut(digest), n) }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        // SAFETY: `get` returns `self` only if it has found the extension.
        unsafe { many(digests, n) }
    }
}

/// A chain of `n` hashes from each digest.
#[target_feature(enable = "aes")]
fn many(digests: &mut [Node], n: u32) {
    let (groups, rest) = digests.as_chunks_mut();
    for group in groups {
        lanes::<4>(group, n);
    }
    let (groups, rest) = rest.as_chunks_mut();
    for group in groups {
        lanes::<2>(group, n);
    }
    for digest in rest {
        lanes(core::array::from_mut(digest), n);
    }
}

/// A constant for each of the two AES states.
type Keys = [uint8x16_t; 2];

/// What the second AES round of each round owes: the constants of the first.
const FIRST: [Keys; ROUNDS] = keys(false);

/// What is owed after the mix of each round: the mixed constants of its second AES round.
const MIXED: [Keys; ROUNDS] = keys(true);

/// The constants of the first AES round of each round, or the mixed ones of the second.
const fn keys(mixed: bool) -> [Keys; ROUNDS] {
    const WORD: u128 = 0xffff_ffff;
    let mut keys = [[0; 2]; ROUNDS];
    let mut round = 0;
    while round < ROUNDS {
        let [k0, k1, k2, k3] = [
            ROUND_CONSTANTS[4 * round],
            ROUND_CONSTANTS[4 * round + 1],
            ROUND_CONSTANTS[4 * round + 2],
            ROUND_CONSTANTS[4 * round + 3],
        ];
        keys[round] = if mixed {
            // Word i of a state is bits 32 i and on of the number.
            [
                k2 & WORD | (k3 & WORD) << 32 | (k2 >> 32 & WORD) << 64 | (k3 >> 32 & WORD) << 96,
                k2 >> 64 & WORD | (k3 >> 64 & WORD) << 32 | (k2 >> 96) << 64 | (k3 >> 96) << 96,
            ]
        } else {
            [k0, k1]
        };
        round += 1;
    }
    // SAFETY: both types are plain bytes, any value of which is valid. This is compiled for
    // little-endian only, so the bytes of a number are those of its AES state.
    unsafe { transmute::<[[u128; 2]; ROUNDS], [Keys; ROUNDS]>(keys) }
}

/// Chains of `n` hashes, `LANES` of them together.
#[target_feature(enable = "aes")]
fn lanes<const LANES: usize>(digests: &mut [Node; LANES], n: u32) {
    // SAFETY: plain bytes, any value of which is valid.
    let zero = unsafe { transmute::<u128, uint8x16_t>(0) };
    let mut y = [[zero; 2]; LANES];
    let mut owed = y;
    for lane in 0..LANES {
        // SAFETY: 32 plain bytes both, any value of which is valid.
        y[lane] = unsafe { transmute::<Node, [uint8x16_t; 2]>(digests[lane]) };
    }

    for _ in 0..n {
        let mut input = y;
        for lane in 0..LANES {
            input[lane] = add(y[lane], owed[lane]);
        }
        for round in 0..ROUNDS {
            for lane in 0..LANES {
                let owed = if round == 0 {
                    owed[lane]
                } else {
                    MIXED[round - 1]
                };
                y[lane] = aes_round(y[lane], owed);
            }
            for y in &mut y {
                *y = mix(aes_round(*y, FIRST[round]));
            }
        }
        for lane in 0..LANES {
            owed[lane] = add(input[lane], MIXED[ROUNDS - 1]);
        }
    }

    for lane in 0..LANES {
        // SAFETY: 32 plain bytes both, any value of which is valid.
        digests[lane] = unsafe { transmute::<[uint8x16_t; 2], Node>(add(y[lane], owed[lane])) };
    }
}

/// An AES round on both states: the addition of what is owed, SubBytes, ShiftRows, MixColumns.
#[target_feature(enable = "aes")]
fn aes_round(y: [uint8x16_t; 2], owed: Keys) -> [uint8x16_t; 2] {
    [
        vaesmcq_u8(vaeseq_u8(y[0], owed[0])),
        vaesmcq_u8(vaeseq_u8(y[1], owed[1])),
    ]
}

/// The sum of two pairs of states.
#[target_feature(enable = "neon")]
fn add(a: [uint8x16_t; 2], b: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    [veorq_u8(a[0], b[0]), veorq_u8(a[1], b[1])]
}

/// MIX-256: the words of both states alternate.
#[target_feature(enable = "neon")]
fn mix(y: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
    let (a, b) = (vreinterpretq_u32_u8(y[0]), vreinterpretq_u32_u8(y[1]));
    [
        vreinterpretq_u8_u32(vzip1q_u32(a, b)),
        vreinterpretq_u8_u32(vzip2q_u32(a, b)),
    ]
}
