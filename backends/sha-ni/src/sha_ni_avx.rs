//! SHA-256 on the SHA extensions, with everything else in the three-operand encoding of AVX: fewer
//! instructions, because nothing has to be copied before it is overwritten.

use core::arch::asm;
use core::arch::x86_64::*;
use core::array::{from_mut, from_ref};

use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV as IV, Sha256, State};

use crate::constants::*;
use crate::half::HalfMessage;

poet_backend_token::token! {
    /// SHA-256 on the SHA extensions and AVX.
    ShaNiAvx, "sha-ni-avx", [sha: "sha", avx: "avx"]
}

sha_traits!(ShaNiAvx);
sha_functions!("sha,avx", _mm_sha256msg1_epu32);
