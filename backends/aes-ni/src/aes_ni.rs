//! Haraka-256 on AES-NI: one chain, and up to six interleaved.

use core::arch::asm;
use core::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_castps_si128, _mm_castsi128_ps, _mm_shuffle_ps,
    _mm_unpackhi_epi32, _mm_unpacklo_epi32, _mm_xor_si128,
};
use core::mem::transmute;
use poet_backend_generic::haraka::{ROUND_CONSTANTS, ROUNDS};
use poet_engine::{Chain, Node};

poet_backend_token::token! {
    /// Haraka-256 v2 on AES-NI.
    ///
    /// A value exists only if the CPU has AES-NI.
    AesNi, "aes-ni", [aes: "aes"]
}

impl Chain for AesNi {
    fn one(&self, digest: &mut Node, n: u32) {
        // SAFETY: `get` returns `self` only if it has found AES-NI.
        unsafe { one(digest, n) }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        // SAFETY: `get` returns `self` only if it has found AES-NI.
        unsafe { many(digests, n) }
    }
}

/// One chain of `n` hashes.
#[target_feature(enable = "aes")]
pub(crate) fn one(digest: &mut Node, n: u32) {
    lanes(core::array::from_mut(digest), n);
}

/// A chain of `n` hashes from each digest.
#[target_feature(enable = "aes")]
pub(crate) fn many(digests: &mut [Node], n: u32) {
    let (groups, rest) = digests.as_chunks_mut();
    for group in groups {
        lanes::<6>(group, n);
    }
    let (groups, rest) = rest.as_chunks_mut();
    for group in groups {
        lanes::<4>(group, n);
    }
    let (groups, rest) = rest.as_chunks_mut();
    for group in groups {
        lanes::<2>(group, n);
    }
    for digest in rest {
        one(digest, n);
    }
}

/// The round constants as AESENC takes them.
/// SAFETY: both types are 16 plain bytes, any value of which is valid. x86-64 is little-endian, so
/// the bytes of a number are those of its AES state.
const KEYS: [__m128i; 4 * ROUNDS] = unsafe { transmute(ROUND_CONSTANTS) };

/// Chains of `n` hashes, `LANES` of them together.
#[target_feature(enable = "aes")]
fn lanes<const LANES: usize>(digests: &mut [Node; LANES], n: u32) {
    let mut s0 = [KEYS[0]; LANES];
    let mut s1 = s0;
    // The un-mixed input of the next hash.
    let mut t0 = s0;
    let mut t1 = s0;
    for lane in 0..LANES {
        // SAFETY: 32 plain bytes both, any value of which is valid.
        [s0[lane], s1[lane]] = unsafe { transmute::<Node, [__m128i; 2]>(digests[lane]) };
        [t0[lane], t1[lane]] = unmix(s0[lane], s1[lane]);
    }

    for _ in 0..n {
        for lane in 0..LANES {
            t0[lane] = _mm_xor_si128(t0[lane], KEYS[18]);
            t1[lane] = _mm_xor_si128(t1[lane], KEYS[19]);
        }
        for round in 0..ROUNDS {
            let keys = &KEYS[4 * round..];
            for s0 in &mut s0 {
                *s0 = _mm_aesenc_si128(*s0, keys[0]);
            }
            for s1 in &mut s1 {
                *s1 = _mm_aesenc_si128(*s1, keys[1]);
            }
            if round < ROUNDS - 1 {
                for s0 in &mut s0 {
                    *s0 = _mm_aesenc_si128(*s0, keys[2]);
                }
                for s1 in &mut s1 {
                    *s1 = _mm_aesenc_si128(*s1, keys[3]);
                }
            } else {
                for lane in 0..LANES {
                    t0[lane] = _mm_aesenc_si128(s0[lane], t0[lane]);
                    t1[lane] = _mm_aesenc_si128(s1[lane], t1[lane]);
                }
                (s0, s1) = (t0, t1);
            }
            for lane in 0..LANES {
                [s0[lane], s1[lane]] = mix(s0[lane], s1[lane]);
                if LANES > 1 {
                    // No instruction, but the compiler keeps the order of such blocks. Otherwise it
                    // writes one lane after the other, and the CPU cannot look far enough ahead to
                    // interleave them: 14 cycles a hash instead of 12.7.
                    //
                    // SAFETY: the block is empty.
                    unsafe {
                        asm!("/* {} {} */", inout(xmm_reg) s0[lane], inout(xmm_reg) s1[lane],
                            options(nomem, nostack, preserves_flags));
                    }
                }
            }
        }
    }

    for lane in 0..LANES {
        // SAFETY: 32 plain bytes both, any value of which is valid.
        digests[lane] = unsafe { transmute::<[__m128i; 2], Node>([s0[lane], s1[lane]]) };
    }
}

/// MIX-256: the words of both states alternate.
#[target_feature(enable = "sse2")]
fn mix(s0: __m128i, s1: __m128i) -> [__m128i; 2] {
    [_mm_unpacklo_epi32(s0, s1), _mm_unpackhi_epi32(s0, s1)]
}

/// The inverse of [`mix`]: the even words, and the odd words.
#[target_feature(enable = "sse2")]
fn unmix(s0: __m128i, s1: __m128i) -> [__m128i; 2] {
    let (s0, s1) = (_mm_castsi128_ps(s0), _mm_castsi128_ps(s1));
    let even = _mm_shuffle_ps::<0b10_00_10_00>(s0, s1);
    let odd = _mm_shuffle_ps::<0b11_01_11_01>(s0, s1);
    [_mm_castps_si128(even), _mm_castps_si128(odd)]
}
