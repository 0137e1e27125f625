//! SHA-256 on the SHA extensions and SSE4.1: Intel since Goldmont and Ice Lake, AMD since Zen.

use core::arch::asm;
use core::arch::x86_64::*;
use core::array::{from_mut, from_ref};

use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV as IV, Sha256, State};

use crate::constants::*;
use crate::half::HalfMessage;

poet_backend_token::token! {
    /// SHA-256 on the SHA extensions, without AVX.
    ShaNi, "sha-ni", [sha: "sha", ssse3: "ssse3", sse4_1: "sse4.1"]
}

sha_traits!(ShaNi);
sha_functions!("sha,ssse3,sse4.1", _mm_sha256msg1_epu32);
