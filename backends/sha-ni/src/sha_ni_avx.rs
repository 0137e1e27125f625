//! SHA-256 on the SHA extensions, with everything else in the three-operand encoding of AVX: fewer
//! instructions, as nothing has to be copied before it is overwritten.

use core::arch::x86_64::*;

use poet_engine::{Block, Node, SHA256_IV as IV, State};

use crate::constants::*;

token! {
    /// SHA-256 on the SHA extensions and AVX.
    ShaNiAvx, "sha-ni-avx", [SHA, AVX]
}

/// Chains and messages that are computed at once.
const INTERLEAVED: usize = 3;

sha_kernel!(ShaNiAvx, "sha,avx", _mm_sha256msg1_epu32);
