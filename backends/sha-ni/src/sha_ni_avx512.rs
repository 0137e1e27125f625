//! SHA-256 on the SHA extensions, with sigma0 by AVX-512VL instead of MSG1: rotations and a
//! three-way exclusive or, which leave the port of the SHA instructions to RNDS2.
//!
//! Several chains or blocks at once are left to [`ShaNiAvx`], whose features are among those needed
//! here. They need more registers than there are, and with AVX-512VL the compiler moves such vectors
//! two at a time through 256-bit registers: the trap described in the module `sha`.

use core::arch::x86_64::*;
use core::array::from_mut;
use core::slice::from_ref;

use poet_engine::{Block, Chain, Node, SHA256_IV as IV, Sha256, State};

use crate::ShaNiAvx;
use crate::constants::*;

token! {
    /// SHA-256 on the SHA extensions and AVX-512VL.
    ShaNiAvx512, "sha-ni-avx512", [SHA, AVX, AVX2, AVX512F, AVX512VL]
}

impl Sha256 for ShaNiAvx512 {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        // SAFETY: `self` exists only if `get` has found the features of this kernel.
        unsafe { compress(from_mut(state), blocks.as_chunks().0) };
    }

    fn compress_many(&self, states: &mut [State], blocks: &[Block]) {
        match ShaNiAvx::get() {
            Some(interleaved) => interleaved.compress_many(states, blocks),
            None => {
                for (state, block) in states.iter_mut().zip(blocks) {
                    self.compress(state, from_ref(block));
                }
            }
        }
    }
}

impl Chain for ShaNiAvx512 {
    fn one(&self, digest: &mut Node, n: u32) {
        // SAFETY: `self` exists only if `get` has found the features of this kernel.
        unsafe { chains(from_mut(digest), n) };
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        match ShaNiAvx::get() {
            Some(interleaved) => interleaved.many(digests, n),
            None => {
                for digest in digests {
                    self.one(digest, n);
                }
            }
        }
    }
}

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
