//! SHA-256 on the SHA2 extension.
//!
//! SHA256H and SHA256H2 do four rounds, on ABCD and on EFGH; SHA256SU0 and SHA256SU1 make the next
//! four words of the message schedule. A chain hashes a block whose first eight words are the
//! digest before and whose other eight are padding, W8 = 2^31 and W15 = 256, so that
//!
//! 1. the digest stays in the registers in which the rounds leave it. The feed-forward, the
//!    initial state, is added together with the round constants: from the last four rounds of a
//!    hash to the first four of the next, which start from a constant state, it is one addition.
//! 2. W + K of rounds 8 to 15 are constants, and so is SHA256SU0 of the two vectors of padding:
//!    it is the first of them, because sigma0 sees zeros only.
//! 3. the schedule is written next to the rounds that last need its inputs; the rounds are the
//!    critical path, and out-of-order execution runs the schedule ahead of them.

use core::arch::aarch64::{
    uint32x4_t, vaddq_u32, vreinterpretq_u8_u32, vreinterpretq_u32_u8, vrev32q_u8, vsha256h2q_u32,
    vsha256hq_u32, vsha256su0q_u32, vsha256su1q_u32, vsubq_u32,
};
use core::mem::transmute;
use poet_engine::{Block, Chain, Node, SHA256_IV, Sha256, State};

poet_backend_token::token! {
    /// SHA-256 on the SHA2 extension of ARMv8.
    ///
    /// A value exists only if the CPU has the extension.
    Armv8Sha2, "armv8-sha2", [sha2: "sha2"]
}

impl Sha256 for Armv8Sha2 {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        // SAFETY: `get` returns `self` only if it has found the extension.
        unsafe { compress(state, blocks) }
    }

    fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
        // SAFETY: `get` returns `self` only if it has found the extension.
        unsafe { hash_many(start, messages, digests) }
    }
}

impl Chain for Armv8Sha2 {
    fn one(&self, digest: &mut Node, n: u32) {
        // SAFETY: `get` returns `self` only if it has found the extension.
        unsafe { chains(core::array::from_mut(digest), n) }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        // SAFETY: `get` returns `self` only if it has found the extension.
        unsafe { many(digests, n) }
    }
}

/// Chains, or blocks, hashed together.
const LANES: usize = 4;

/// Four words, one round or one word of the schedule each.
type Words = [u32; 4];

/// The round constants (FIPS 180-4, section 4.2.2).
const K: [Words; 16] = [
    [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5],
    [0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5],
    [0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3],
    [0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174],
    [0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc],
    [0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da],
    [0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7],
    [0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967],
    [0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13],
    [0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85],
    [0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3],
    [0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070],
    [0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5],
    [0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3],
    [0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208],
    [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2],
];

/// ABCD and EFGH of the initial state.
const IV: [Words; 2] = [
    [SHA256_IV[0], SHA256_IV[1], SHA256_IV[2], SHA256_IV[3]],
    [SHA256_IV[4], SHA256_IV[5], SHA256_IV[6], SHA256_IV[7]],
];

/// W8 to W11 and W12 to W15 of a message of 32 bytes.
const PADDING: [Words; 2] = [[0x8000_0000, 0, 0, 0], [0, 0, 0, 256]];

/// Added to the raw state of a hash, gives W + K of the first eight rounds of the next.
const IV_K: [Words; 2] = [sum(IV[0], K[0]), sum(IV[1], K[1])];

/// W + K of rounds 8 to 15.
const PADDING_K: [Words; 2] = [sum(PADDING[0], K[2]), sum(PADDING[1], K[3])];

const fn sum(a: Words, b: Words) -> Words {
    [
        a[0].wrapping_add(b[0]),
        a[1].wrapping_add(b[1]),
        a[2].wrapping_add(b[2]),
        a[3].wrapping_add(b[3]),
    ]
}

/// Four words in a register.
const fn vector(words: Words) -> uint32x4_t {
    // SAFETY: 16 plain bytes both, any value of which is valid; on little-endian the first word is
    // the lowest lane.
    unsafe { transmute::<Words, uint32x4_t>(words) }
}

/// ABCD and EFGH.
type Registers = [uint32x4_t; 2];

const IV_REGISTERS: Registers = [vector(IV[0]), vector(IV[1])];

/// Four rounds; `wk` is W + K.
#[target_feature(enable = "sha2")]
fn rounds([abcd, efgh]: Registers, wk: uint32x4_t) -> Registers {
    [
        vsha256hq_u32(abcd, efgh, wk),
        vsha256h2q_u32(efgh, abcd, wk),
    ]
}

/// The four words of the schedule that follow the sixteen of `w`.
#[target_feature(enable = "sha2")]
fn schedule(w: [uint32x4_t; 4]) -> uint32x4_t {
    vsha256su1q_u32(vsha256su0q_u32(w[0], w[1]), w[2], w[3])
}

/// The sums of two pairs of registers.
#[target_feature(enable = "neon")]
fn add(a: Registers, b: Registers) -> Registers {
    [vaddq_u32(a[0], b[0]), vaddq_u32(a[1], b[1])]
}

/// Converts 32 bytes to eight big-endian words, or back.
#[target_feature(enable = "neon")]
fn swap(words: Registers) -> Registers {
    words.map(|word| vreinterpretq_u32_u8(vrev32q_u8(vreinterpretq_u8_u32(word))))
}

/// The rounds that add `k`, the last of the 64 and a multiple of 16, in each lane. `w` are the words
/// of the schedule for the first 16 of them.
#[target_feature(enable = "sha2")]
fn finish<const LANES: usize>(
    state: &mut [Registers; LANES],
    mut w: [[uint32x4_t; 4]; LANES],
    k: &[[Words; 4]],
) {
    let Some((last, scheduled)) = k.split_last() else {
        return;
    };
    for k in scheduled {
        for i in 0..4 {
            for lane in 0..LANES {
                let w = &mut w[lane];
                let next = schedule([w[i], w[(i + 1) % 4], w[(i + 2) % 4], w[(i + 3) % 4]]);
                state[lane] = rounds(state[lane], vaddq_u32(w[i], vector(k[i])));
                w[i] = next;
            }
        }
    }
    for i in 0..4 {
        for lane in 0..LANES {
            state[lane] = rounds(state[lane], vaddq_u32(w[lane][i], vector(last[i])));
        }
    }
}

/// Compresses `blocks`, in order, into `state`.
#[target_feature(enable = "sha2")]
fn compress(state: &mut State, blocks: &[Block]) {
    // SAFETY: 32 plain bytes both, any value of which is valid; on little-endian the first word of
    // each half is the lowest lane.
    let mut registers = unsafe { transmute::<State, Registers>(*state) };
    blocks_of(core::array::from_mut(&mut registers), [blocks]);
    // SAFETY: as above.
    *state = unsafe { transmute::<Registers, State>(registers) };
}

/// Compresses the blocks of each message, in order, into the state with its number. The messages have
/// the same length.
#[target_feature(enable = "sha2")]
fn blocks_of<const LANES: usize>(state: &mut [Registers; LANES], messages: [&[Block]; LANES]) {
    let shortest = messages.iter().map(|message| message.len()).min();
    for i in 0..shortest.unwrap_or_default() {
        let start = *state;
        let mut w = [[start[0][0]; 4]; LANES];
        for lane in 0..LANES {
            w[lane] = words(&messages[lane][i]);
        }
        finish(state, w, K.as_chunks().0);
        for lane in 0..LANES {
            state[lane] = add(state[lane], start[lane]);
        }
    }
}

/// The digests of messages that continue from `start`.
#[target_feature(enable = "sha2")]
fn hash_many(start: &State, messages: &[&[Block]], digests: &mut [Node]) {
    let count = messages.len().min(digests.len());
    let (groups, rest) = messages[..count].as_chunks();
    let (digest_groups, digests) = digests[..count].as_chunks_mut();
    for (messages, digests) in groups.iter().zip(digest_groups) {
        hash::<LANES>(start, messages, digests);
    }
    let (groups, rest) = rest.as_chunks();
    let (digest_groups, digests) = digests.as_chunks_mut();
    for (messages, digests) in groups.iter().zip(digest_groups) {
        hash::<2>(start, messages, digests);
    }
    for (message, digest) in rest.iter().zip(digests) {
        hash(start, &[*message], core::array::from_mut(digest));
    }
}

/// Hashes messages together up to the end of the shortest, and then the rest of each.
#[target_feature(enable = "sha2")]
fn hash<const LANES: usize>(
    start: &State,
    messages: &[&[Block]; LANES],
    digests: &mut [Node; LANES],
) {
    // SAFETY: as in `compress`.
    let start = unsafe { transmute::<State, Registers>(*start) };
    let mut registers = [start; LANES];
    let shortest = messages.iter().map(|message| message.len()).min();
    let split = messages.map(|message| message.split_at(shortest.unwrap_or_default()));
    blocks_of(&mut registers, split.map(|(together, _)| together));
    for lane in 0..LANES {
        let (_, alone) = split[lane];
        blocks_of(core::array::from_mut(&mut registers[lane]), [alone]);
        // SAFETY: 32 plain bytes both, any value of which is valid.
        digests[lane] = unsafe { transmute::<Registers, Node>(swap(registers[lane])) };
    }
}

/// The sixteen words of a block.
#[target_feature(enable = "neon")]
fn words(block: &Block) -> [uint32x4_t; 4] {
    // SAFETY: 64 plain bytes both, any value of which is valid.
    let [a, b, c, d] = unsafe { transmute::<Block, [uint32x4_t; 4]>(*block) };
    let ([a, b], [c, d]) = (swap([a, b]), swap([c, d]));
    [a, b, c, d]
}

/// A chain of `n` hashes from each digest.
#[target_feature(enable = "sha2")]
fn many(digests: &mut [Node], n: u32) {
    let (groups, rest) = digests.as_chunks_mut();
    for group in groups {
        chains::<LANES>(group, n);
    }
    let (groups, rest) = rest.as_chunks_mut();
    for group in groups {
        chains::<2>(group, n);
    }
    for digest in rest {
        chains(core::array::from_mut(digest), n);
    }
}

/// Chains of `n` hashes, `LANES` of them together.
#[target_feature(enable = "sha2")]
fn chains<const LANES: usize>(digests: &mut [Node; LANES], n: u32) {
    let padding = [vector(PADDING[0]), vector(PADDING[1])];
    // The state after the last rounds of a hash, without the feed-forward.
    let mut raw = [IV_REGISTERS; LANES];
    for lane in 0..LANES {
        // SAFETY: 32 plain bytes both, any value of which is valid.
        let [x, y] = swap(unsafe { transmute::<Node, Registers>(digests[lane]) });
        raw[lane] = [vsubq_u32(x, IV_REGISTERS[0]), vsubq_u32(y, IV_REGISTERS[1])];
    }

    for _ in 0..n {
        let mut w = [[padding[0]; 4]; LANES];
        for lane in 0..LANES {
            let [w0, w4] = add(raw[lane], IV_REGISTERS);
            let [wk0, wk4] = add(raw[lane], [vector(IV_K[0]), vector(IV_K[1])]);
            let state = rounds(rounds(IV_REGISTERS, wk0), wk4);
            let state = rounds(state, vector(PADDING_K[0]));
            raw[lane] = rounds(state, vector(PADDING_K[1]));

            let w16 = schedule([w0, w4, padding[0], padding[1]]);
            let w20 = schedule([w4, padding[0], padding[1], w16]);
            // SHA256SU0 of the padding is its first half.
            let w24 = vsha256su1q_u32(padding[0], w16, w20);
            let w28 = schedule([padding[1], w16, w20, w24]);
            w[lane] = [w16, w20, w24, w28];
        }
        finish(&mut raw, w, K[4..].as_chunks().0);
    }

    for lane in 0..LANES {
        let words = add(raw[lane], IV_REGISTERS);
        // SAFETY: 32 plain bytes both, any value of which is valid.
        digests[lane] = unsafe { transmute::<Registers, Node>(swap(words)) };
    }
}
