//! SHA-256 in 16 lanes of AVX-512: Intel servers since Skylake, AMD since Zen 4.

use core::arch::x86_64::*;
use core::slice::{from_mut, from_ref};

use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV as IV, Sha256, State};

use crate::constants::*;
use crate::half::HalfMessage;
use crate::lanes::sha;

poet_backend_token::token! {
    /// SHA-256 of 16 chains or blocks at once, on AVX-512.
    Avx512, "avx512", [avx2: "avx2", fma: "fma", avx512f: "avx512f", avx512bw: "avx512bw"]
}

/// Chains or messages in a vector.
const LANES: usize = 16;

/// From this many on, vectors with unused lanes beat interleaved chains on the SHA extensions,
/// which take 98 cycles a hash where a vector takes 820, however many of its lanes are in use.
const PADDED_FROM: usize = 9;

/// Chains take turns in a vector if each turn has at least this many hashes: its beginning and end
/// take about as long as a quarter of a hash.
const MIN_STEPS: u32 = 8;

type V = __m512i;

lanes_kernel!(Avx512, "avx512f,avx512bw");

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add(a: V, b: V) -> V {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0x96>(a, b, c)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ch(e: V, f: V, g: V) -> V {
    _mm512_ternarylogic_epi32::<0xca>(e, f, g)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn maj(a: V, b: V, c: V) -> V {
    _mm512_ternarylogic_epi32::<0xe8>(a, b, c)
}

/// Rotation by `RIGHT`; `LEFT` is 32 - `RIGHT`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ror<const RIGHT: i32, const LEFT: i32>(a: V) -> V {
    _mm512_ror_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn shr<const RIGHT: u32>(a: V) -> V {
    _mm512_srli_epi32::<RIGHT>(a)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn splat(word: u32) -> V {
    _mm512_set1_epi32(word.cast_signed())
}

/// The words of `a` and `b` in turn.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave(a: V, b: V) -> [V; 2] {
    let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    [
        _mm512_permutex2var_epi32(a, low, b),
        _mm512_permutex2var_epi32(a, high, b),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(bytes: &[u8; 64]) -> V {
    // SAFETY: the reference is valid for 64 bytes, and no alignment is required.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store(bytes: &mut [u8; 64], vector: V) {
    // SAFETY: the reference is valid for 64 bytes, and no alignment is required.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) };
}

/// Reverses the bytes of each word: words are big-endian in a message and in a digest.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swap(vector: V) -> V {
    let order = _mm_setr_epi8(3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
    _mm512_shuffle_epi8(vector, _mm512_broadcast_i32x4(order))
}
