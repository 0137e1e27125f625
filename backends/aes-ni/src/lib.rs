//! x86-64 backends: Haraka-256 v2 on AES-NI and on VAES.
//!
//! The function is described in `poet_backend_generic::haraka`. An AES round of it is one AESENC,
//! a mix is two unpacks: the work of a hash is 20 AESENC and 10 unpacks on two registers, s0 and
//! s1.
//!
//! 1. *Feed-forward for nothing.* A hash ends with `mix(t0, t1) ^ (i0, i1)`, where t0 and t1 come
//!    from its last two AESENC and (i0, i1) is its input. AESENC adds its key last and a mix only
//!    moves words, so that the input, un-mixed, can be added to the last two round keys instead:
//!    off the critical path. And the un-mixed input of a hash in a chain is (t0, t1) of the hash
//!    before. What is left in a round is two dependent AESENC and an unpack.
//! 2. *Latency.* On Golden Cove AESENC takes 3 cycles into the next AESENC and 6 through an unpack:
//!    9 cycles a round. About 10 are measured, 49.5 a hash; where the tenth goes is not known. More
//!    or fewer instructions on the ports, other shuffles and other orders do not change it.
//! 3. *Lanes.* A chain leaves the AES units idle most of the time: `AesNi` takes 6 chains at a
//!    time (12.7 cycles a hash, where two AESENC a cycle would allow 10), `Vaes` 16 of them, four
//!    in a register (5.2 cycles, bound 5). Fewer chains than that are served by fewer lanes.
//!
//! Cycles are those of one Golden Cove core at 3 GHz, by a calibrated chain of multiplies.
//!
//! On targets other than x86-64 this crate is empty.
#![no_std]

#[cfg(target_arch = "x86_64")]
mod aes_ni;
#[cfg(target_arch = "x86_64")]
mod vaes;

#[cfg(target_arch = "x86_64")]
pub use {aes_ni::AesNi, vaes::Vaes};
