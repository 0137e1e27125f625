//! Constants of SHA-256, what the kernels combine from them at compile time, and the ends of a
//! chain.

use poet_engine::{Node, SHA256_IV as IV, State};

/// The round constants (FIPS 180-4, section 4.2.2).
#[rustfmt::skip]
pub(crate) const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// Words 8 to 15 of the block of a 32-byte message: a one bit, zeros, the length of 256 bits.
pub(crate) const PADDING: [u32; 8] = [0x8000_0000, 0, 0, 0, 0, 0, 0, 256];

/// The initial state for a block whose words 0 and 1 come without the previous hash's feed-forward
/// and without their round constants: these sums are in the state instead.
///
/// Round 0 adds up h + Ch(e, f, g) + K0 + W0; round 1 has round 0's g as its h and adds up
/// g + K1 + W1; after that both are gone. So g takes K1 and the feed-forward of W1, and h takes K0,
/// the feed-forward of W0, and the change of Ch that the new g brings. It is exact, because e, f
/// and g of round 0 are constants.
pub(crate) const INJECTED: State = {
    let [a, b, c, d, e, f, g, h] = IV;
    let g_injected = g.wrapping_add(IV[1]).wrapping_add(K[1]);
    let h_injected = h
        .wrapping_add(IV[0])
        .wrapping_add(K[0])
        .wrapping_add(ch(e, f, g))
        .wrapping_sub(ch(e, f, g_injected));
    [a, b, c, d, e, f, g_injected, h_injected]
};

const fn ch(e: u32, f: u32, g: u32) -> u32 {
    (e & f) ^ (!e & g)
}

/// The round constants of rounds `t` to `t + 3`.
pub(crate) const fn k(t: usize) -> [u32; 4] {
    [K[t], K[t + 1], K[t + 2], K[t + 3]]
}

/// The feed-forward of words `t` to `t + 3`.
pub(crate) const fn iv(t: usize) -> [u32; 4] {
    [IV[t], IV[t + 1], IV[t + 2], IV[t + 3]]
}

/// What rounds `t` and `t + 1` add to words of the raw state: feed-forward and round constants.
pub(crate) const fn iv_k(t: usize) -> [u32; 4] {
    [
        IV[t].wrapping_add(K[t]),
        IV[t + 1].wrapping_add(K[t + 1]),
        0,
        0,
    ]
}

/// Words `t` to `t + 3` of the padding, `t` from 8 on.
pub(crate) const fn padding(t: usize) -> [u32; 4] {
    [
        PADDING[t - 8],
        PADDING[t - 7],
        PADDING[t - 6],
        PADDING[t - 5],
    ]
}

/// Rounds `t` and `t + 1` of the padding: words and round constants.
pub(crate) const fn padding_k(t: usize) -> [u32; 4] {
    [
        PADDING[t - 8].wrapping_add(K[t]),
        PADDING[t - 7].wrapping_add(K[t + 1]),
        0,
        0,
    ]
}

/// The words of a digest.
pub(crate) fn words(digest: &Node) -> State {
    let mut words = State::default();
    for (word, bytes) in words.iter_mut().zip(digest.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

/// The digest of these words.
pub(crate) fn digest(words: State) -> Node {
    let mut digest = Node::default();
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(words) {
        *bytes = word.to_be_bytes();
    }
    digest
}
