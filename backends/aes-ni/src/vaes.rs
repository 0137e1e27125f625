//! Haraka-256 on VAES: up to 16 chains, four in each pair of 512-bit registers.

use crate::aes_ni;
use core::arch::x86_64::{
    __m512i, _mm512_aesenc_epi128, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_permutex2var_epi64, _mm512_setr_epi64, _mm512_shuffle_ps, _mm512_unpackhi_epi32,
    _mm512_unpacklo_epi32, _mm512_xor_si512,
};
use core::mem::transmute;
use poet_backend_generic::haraka::{ROUND_CONSTANTS, ROUNDS};
use poet_engine::{Chain, Node};

poet_backend_token::token! {
    /// Haraka-256 v2 on the 512-bit form of VAES; AES-NI hashes what does not fill a register.
    ///
    /// A value exists only if the CPU has AES-NI, VAES and AVX-512.
    Vaes, "vaes", [aes: "aes", vaes: "vaes", avx2: "avx2", fma: "fma", avx512f: "avx512f"]
}

impl Chain for Vaes {
    fn one(&self, digest: &mut Node, n: u32) {
        // SAFETY: `get` returns `self` only if it has found AES-NI.
        unsafe { aes_ni::one(digest, n) }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        let (quads, rest) = digests.as_chunks_mut();
        let (groups, quads) = quads.as_chunks_mut();
        for group in groups {
            // SAFETY: `get` returns `self` only if it has found VAES and AVX-512.
            unsafe { lanes::<4>(group, n) }
        }
        let (groups, quads) = quads.as_chunks_mut();
        for group in groups {
            // SAFETY: as above.
            unsafe { lanes::<2>(group, n) }
        }
        for quad in quads {
            // SAFETY: as above.
            unsafe { lanes(core::array::from_mut(quad), n) }
        }
        // SAFETY: `get` returns `self` only if it has found AES-NI.
        unsafe { aes_ni::many(rest, n) }
    }
}

/// Four digests: 128 bytes, which fill two registers.
type Quad = [Node; 4];

/// The round constants as VAESENC takes them: each four times.
const KEYS: [__m512i; 4 * ROUNDS] = {
    let mut keys = [[0; 4]; 4 * ROUNDS];
    let mut i = 0;
    while i < keys.len() {
        keys[i] = [ROUND_CONSTANTS[i]; 4];
        i += 1;
    }
    // SAFETY: both types are 64 plain bytes, any value of which is valid. x86-64 is little-endian,
    // so the bytes of a number are those of its AES state.
    unsafe { transmute::<[[u128; 4]; 4 * ROUNDS], [__m512i; 4 * ROUNDS]>(keys) }
};

/// Chains of `n` hashes, `QUADS` times four of them together.
#[target_feature(enable = "avx512f,vaes")]
fn lanes<const QUADS: usize>(digests: &mut [Quad; QUADS], n: u32) {
    let mut s0 = [KEYS[0]; QUADS];
    let mut s1 = s0;
    // The un-mixed input of the next hash.
    let mut t0 = s0;
    let mut t1 = s0;
    for quad in 0..QUADS {
        [s0[quad], s1[quad]] = load(&digests[quad]);
        [t0[quad], t1[quad]] = unmix(s0[quad], s1[quad]);
    }

    for _ in 0..n {
        for quad in 0..QUADS {
            t0[quad] = _mm512_xor_si512(t0[quad], KEYS[18]);
            t1[quad] = _mm512_xor_si512(t1[quad], KEYS[19]);
        }
        for round in 0..ROUNDS {
            let keys = &KEYS[4 * round..];
            for s0 in &mut s0 {
                *s0 = _mm512_aesenc_epi128(*s0, keys[0]);
            }
            for s1 in &mut s1 {
                *s1 = _mm512_aesenc_epi128(*s1, keys[1]);
            }
            if round < ROUNDS - 1 {
                for s0 in &mut s0 {
                    *s0 = _mm512_aesenc_epi128(*s0, keys[2]);
                }
                for s1 in &mut s1 {
                    *s1 = _mm512_aesenc_epi128(*s1, keys[3]);
                }
            } else {
                for quad in 0..QUADS {
                    t0[quad] = _mm512_aesenc_epi128(s0[quad], t0[quad]);
                    t1[quad] = _mm512_aesenc_epi128(s1[quad], t1[quad]);
                }
                (s0, s1) = (t0, t1);
            }
            for quad in 0..QUADS {
                [s0[quad], s1[quad]] = mix(s0[quad], s1[quad]);
            }
        }
    }

    for quad in 0..QUADS {
        digests[quad] = store(s0[quad], s1[quad]);
    }
}

/// The first halves of four digests, and the second halves.
#[target_feature(enable = "avx512f")]
fn load(quad: &Quad) -> [__m512i; 2] {
    // SAFETY: 128 plain bytes both, any value of which is valid.
    let [x, y] = unsafe { transmute::<Quad, [__m512i; 2]>(*quad) };
    let first = _mm512_setr_epi64(0, 1, 4, 5, 8, 9, 12, 13);
    let second = _mm512_setr_epi64(2, 3, 6, 7, 10, 11, 14, 15);
    [
        _mm512_permutex2var_epi64(x, first, y),
        _mm512_permutex2var_epi64(x, second, y),
    ]
}

/// The inverse of [`load`].
#[target_feature(enable = "avx512f")]
fn store(s0: __m512i, s1: __m512i) -> Quad {
    let front = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    let back = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    let halves = [
        _mm512_permutex2var_epi64(s0, front, s1),
        _mm512_permutex2var_epi64(s0, back, s1),
    ];
    // SAFETY: 128 plain bytes both, any value of which is valid.
    unsafe { transmute::<[__m512i; 2], Quad>(halves) }
}

/// MIX-256: the words of both states alternate.
#[target_feature(enable = "avx512f")]
fn mix(s0: __m512i, s1: __m512i) -> [__m512i; 2] {
    [_mm512_unpacklo_epi32(s0, s1), _mm512_unpackhi_epi32(s0, s1)]
}

/// The inverse of [`mix`]: the even words, and the odd words.
#[target_feature(enable = "avx512f")]
fn unmix(s0: __m512i, s1: __m512i) -> [__m512i; 2] {
    let (s0, s1) = (_mm512_castsi512_ps(s0), _mm512_castsi512_ps(s1));
    let even = _mm512_shuffle_ps::<0b10_00_10_00>(s0, s1);
    let odd = _mm512_shuffle_ps::<0b11_01_11_01>(s0, s1);
    [_mm512_castps_si512(even), _mm512_castps_si512(odd)]
}
