//! SHA-256 in 16 lanes of AVX-512: Intel servers since Skylake, AMD since Zen 4.

use core::arch::x86_64::*;

use poet_engine::{Block, Node, SHA256_IV as IV, State};

use crate::constants::*;

token! {
    /// SHA-256 of 16 chains or blocks at once, on AVX-512.
    Avx512, "avx512", [AVX512F]
}

/// Chains or messages in a vector.
const LANES: usize = 16;

/// From so many on, vectors with unused lanes beat interleaved chains on the SHA extensions, which
/// take 100 cycles a hash where a vector of any filling takes 820.
const PADDED_FROM: usize = 9;

type V = __m512i;

lanes_kernel!(Avx512, "avx512f");

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: V, b: V) -> V {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn ch(e: V, f: V, g: V) -> V {
    _mm512_ternarylogic_epi32::<0xca>(e, f, g)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn maj(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
}

/// Rotation by `RIGHT`; `LEFT` is what is missing to 32.
#[inline]
#[target_feature(enable = "avx512f")]
fn ror<const RIGHT: i32, const LEFT: i32>(a: V) -> V {
    _mm512_ror_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn shr<const RIGHT: u32>(a: V) -> V {
    _mm512_srli_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(word: u32) -> V {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(lane: &[u32; LANES]) -> V {
    // SAFETY: the reference is valid for 64 bytes, and nothing is asked of their alignment.
    unsafe { _mm512_loadu_si512(lane.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(vector: V) -> [u32; LANES] {
    let mut lane = [0; LANES];
    // SAFETY: `lane` is valid for 64 bytes, and nothing is asked of its alignment.
    unsafe { _mm512_storeu_si512(lane.as_mut_ptr().cast(), vector) };
    lane
}
