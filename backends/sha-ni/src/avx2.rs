//! SHA-256 in 8 lanes of AVX2: worth using on CPUs without SHA extensions, Intel from Haswell to
//! Comet Lake.

use core::arch::x86_64::*;
use core::slice::{from_mut, from_ref};

use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV as IV, Sha256, State};

use crate::constants::*;
use crate::half::HalfMessage;
use crate::lanes::sha;

poet_backend_token::token! {
    /// SHA-256 of 8 chains or blocks at once, on AVX2.
    Avx2, "avx2", [avx2: "avx2"]
}

/// Chains or messages in a vector.
const LANES: usize = 8;

/// Partial vectors lose against interleaved chains on the SHA extensions, if the CPU has them.
const PADDED_FROM: usize = 8;

/// Chains take turns in a vector if each turn has at least this many hashes: its beginning and end
/// take about as long as a quarter of a hash.
const MIN_STEPS: u32 = 8;

type V = __m256i;

lanes_kernel!(Avx2, "avx2");

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: V, b: V) -> V {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn xor(a: V, b: V, c: V) -> V {
    _mm256_xor_si256(_mm256_xor_si256(a, b), c)
}

#[inline]
#[target_feature(enable = "avx2")]
fn ch(e: V, f: V, g: V) -> V {
    _mm256_xor_si256(g, _mm256_and_si256(e, _mm256_xor_si256(f, g)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn maj(a: V, b: V, c: V) -> V {
    _mm256_or_si256(
        _mm256_and_si256(a, b),
        _mm256_and_si256(c, _mm256_or_si256(a, b)),
    )
}

/// Rotation by `RIGHT`; `LEFT` is 32 - `RIGHT`.
#[inline]
#[target_feature(enable = "avx2")]
fn ror<const RIGHT: i32, const LEFT: i32>(a: V) -> V {
    _mm256_or_si256(_mm256_srli_epi32::<RIGHT>(a), _mm256_slli_epi32::<LEFT>(a))
}

#[inline]
#[target_feature(enable = "avx2")]
fn shr<const RIGHT: i32>(a: V) -> V {
    _mm256_srli_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx2")]
fn splat(word: u32) -> V {
    _mm256_set1_epi32(word.cast_signed())
}

/// The words of `a` and `b` in turn.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(a: V, b: V) -> [V; 2] {
    let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    [
        _mm256_permute2x128_si256::<0x20>(low, high),
        _mm256_permute2x128_si256::<0x31>(low, high),
    ]
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> V {
    // SAFETY: the reference is valid for 32 bytes, and no alignment is required.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8; 32], vector: V) {
    // SAFETY: the reference is valid for 32 bytes, and no alignment is required.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) };
}

/// Reverses the bytes of each word: words are big-endian in a message and in a digest.
#[inline]
#[target_feature(enable = "avx2")]
fn swap(vector: V) -> V {
    let order = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    _mm256_shuffle_epi8(vector, _mm256_broadcastsi128_si256(order))
}
