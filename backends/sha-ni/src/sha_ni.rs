//! SHA-256 on the SHA extensions and SSE4.1: Intel since Goldmont and Ice Lake, AMD since Zen.

use core::arch::x86_64::*;

use poet_engine::{Block, Node, SHA256_IV as IV, State};

use crate::constants::*;

token! {
    /// SHA-256 on the SHA extensions, with no need of AVX.
    ShaNi, "sha-ni", [SHA, SSSE3, SSE4_1]
}

/// Chains and messages that are computed at once.
const INTERLEAVED: usize = 3;

sha_kernel!(ShaNi, "sha,ssse3,sse4.1", _mm_sha256msg1_epu32);
