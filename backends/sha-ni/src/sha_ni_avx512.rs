//! SHA-256 on the SHA extensions, with sigma0 by AVX-512VL instead of MSG1: rotations and a
//! three-way exclusive or, which leave the port of the SHA instructions to RNDS2.

use core::arch::asm;
use core::arch::x86_64::*;
use core::array::{from_mut, from_ref};

use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV as IV, Sha256, State};

use crate::constants::*;
use crate::half::HalfMessage;

poet_backend_token::token! {
    /// SHA-256 on the SHA extensions and AVX-512VL.
    ShaNiAvx512, "sha-ni-avx512", [sha: "sha", avx: "avx", avx2: "avx2", fma: "fma", avx512f: "avx512f", avx512vl: "avx512vl"]
}

sha_traits!(ShaNiAvx512);
sha_functions!("sha,avx,avx512f,avx512vl", msg1);

/// What MSG1 computes: each word of `low` plus sigma0 of its successor, where `high` follows `low`.
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
