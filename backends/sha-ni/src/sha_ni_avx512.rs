//! SHA-256 on the SHA extensions, with sigma0 by AVX-512VL instead of MSG1: rotations and a
//! three-way exclusive or, which leave the port of the SHA instructions to RNDS2.

use core::arch::x86_64::*;

use poet_engine::{Block, Node, SHA256_IV as IV, State};

use crate::constants::*;

token! {
    /// SHA-256 on the SHA extensions and AVX-512VL.
    ShaNiAvx512, "sha-ni-avx512", [SHA, AVX, AVX512F, AVX512VL]
}

/// Chains and messages that are computed at once.
const INTERLEAVED: usize = 3;

sha_kernel!(ShaNiAvx512, "sha,avx,avx512f,avx512vl", msg1);

/// What MSG1 computes: W[i] + sigma0(W[i + 1]) for the four words in `low`, `high` following.
#[inline]
#[target_feature(enable = "avx,avx512f,avx512vl")]
fn msg1(low: __m128i, high: __m128i) -> __m128i {
    const XOR: i32 = 0x96;
    let next = _mm_alignr_epi8::<4>(high, low);
    let sigma0 = _mm_ternarylogic_epi32::<XOR>(
        _mm_ror_epi32::<7>(next),
        _mm_ror_epi32::<18>(next),
        _mm_srli_epi32::<3>(next),
    );
    _mm_add_epi32(low, sigma0)
}
