//! Haraka-256 v2 (Koelbl, Lauridsen, Mendel and Rechberger, eprint 2016/098): its constants, which
//! every backend shares, and the portable chain.
//!
//! The state is two AES states, s0 and s1. Each of five rounds applies two AES rounds to both (each
//! is SubBytes, ShiftRows, MixColumns and the addition of a constant, as AESENC does it) and then
//! mixes them: with the columns, words of 32 bits, a0..a3 of s0 and b0..b3 of s1,
//!
//! ```text
//! s0 <- a0 b0 a1 b1
//! s1 <- a2 b2 a3 b3
//! ```
//!
//! In the end the input is added to the state (feed-forward).

use aes::hazmat::cipher_round_par;
use aes::{Block, ParBlocks};
use poet_engine::{Chain, Node};

use crate::sha256::Generic;

/// Rounds of Haraka-256; each applies two AES rounds to two states.
pub const ROUNDS: usize = 5;

/// The round constants of Haraka-256 (eprint 2016/098; the same as the first 20 of
/// `vectors/haraka.json`, whose others belong to Haraka-512).
///
/// AES round m (0 or 1) of round r adds number 4 r + 2 m to s0 and the next one to s1. Each is a
/// 128-bit number, most significant byte first: its little-endian bytes are the AES state, so that
/// it lies in the memory of a little-endian CPU as AESENC takes it.
pub const ROUND_CONSTANTS: [u128; 4 * ROUNDS] = [
    0x0684_704c_e620_c00a_b2c5_fef0_7581_7b9d,
    0x8b66_b4e1_88f3_a06b_640f_6ba4_2f08_f717,
    0x3402_de2d_53f2_8498_cf02_9d60_9f02_9114,
    0x0ed6_eae6_2e7b_4f08_bbf3_bcaf_fd5b_4f79,
    0xcbcf_b0cb_4872_448b_79ee_cd1c_be39_7044,
    0x7eea_cdee_6e90_32b7_8d53_35ed_2b8a_057b,
    0x67c2_8f43_5e2e_7cd0_e241_2761_da4f_ef1b,
    0x2924_d9b0_afca_cc07_675f_fde2_1fc7_0b3b,
    0xab4d_63f1_e686_7fe9_ecdb_8fca_b9d4_65ee,
    0x1c30_bf84_d4b7_cd64_5b2a_404f_ad03_7e33,
    0xb2cc_0bb9_9417_23bf_6902_8b2e_8df6_9800,
    0xfa04_78a6_de6f_5572_4aaa_9ec8_5c9d_2d8a,
    0xdfb4_9f2b_6b77_2a12_0efa_4f2e_2912_9fd4,
    0x1ea1_0344_f449_a236_32d6_11ae_bb6a_12ee,
    0xaf04_4988_4b05_0084_5f96_00c9_9ca8_eca6,
    0x2102_5ed8_9d19_9c4f_78a2_c7e3_27e5_93ec,
    0xbf3a_aaf8_a759_c9b7_b928_2ecd_82d4_0173,
    0x6260_700d_6186_b017_37f2_efd9_1030_7d6b,
    0x5aca_45c2_2130_0443_81c2_9153_f6fc_9ac6,
    0x9223_973c_226b_68bb_2caf_92e8_36d1_943a,
];

/// Haraka-256 v2 in portable Rust.
#[derive(Debug)]
pub struct GenericHaraka(());

static GENERIC_HARAKA: GenericHaraka = GenericHaraka(());

/// Chains hashed at once: the bit-sliced AES round processes eight states, used or not.
const LANES: usize = 4;

impl GenericHaraka {
    /// The name that selects this backend.
    pub const NAME: &'static str = Generic::NAME;

    /// Returns the backend; every CPU has it.
    #[must_use]
    pub fn get() -> &'static Self {
        &GENERIC_HARAKA
    }
}

impl Chain for GenericHaraka {
    fn one(&self, digest: &mut Node, n: u32) {
        self.many(core::slice::from_mut(digest), n);
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        for group in digests.chunks_mut(LANES) {
            let mut states = ParBlocks::default();
            for (state, digest) in states.chunks_exact_mut(2).zip(group.iter()) {
                state[0].copy_from_slice(&digest[..16]);
                state[1].copy_from_slice(&digest[16..]);
            }
            for _ in 0..n {
                hash(&mut states);
            }
            for (state, digest) in states.chunks_exact(2).zip(group) {
                digest[..16].copy_from_slice(&state[0]);
                digest[16..].copy_from_slice(&state[1]);
            }
        }
    }
}

/// Haraka-256 of four inputs, each of which is two adjacent states.
fn hash(states: &mut ParBlocks) {
    let input = *states;
    for constants in ROUND_CONSTANTS.as_chunks::<4>().0 {
        for constants in constants.as_chunks::<2>().0 {
            let mut keys = ParBlocks::default();
            for (i, key) in keys.iter_mut().enumerate() {
                key.copy_from_slice(&constants[i % 2].to_le_bytes());
            }
            cipher_round_par(states, &keys);
        }
        for state in states.chunks_exact_mut(2) {
            mix(state);
        }
    }
    for (byte, input) in states.iter_mut().flatten().zip(input.iter().flatten()) {
        *byte ^= input;
    }
}

/// MIX-256: the columns of the two states alternate.
fn mix(state: &mut [Block]) {
    let columns: [Block; 2] = [state[0], state[1]];
    for (i, column) in state
        .iter_mut()
        .flat_map(|block| block.chunks_exact_mut(4))
        .enumerate()
    {
        let from = 4 * (i / 2);
        column.copy_from_slice(&columns[i % 2][from..from + 4]);
    }
}
