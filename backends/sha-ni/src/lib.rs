//! x86-64 backends of the PoET engine: SHA-256 on the SHA extensions and in the lanes of AVX2 and
//! AVX-512.
//!
//! | kernel | instruction set | written for |
//! |---|---|---|
//! | [`ShaNi`] | SHA, SSSE3, SSE4.1 | one chain, and messages |
//! | [`ShaNiAvx`] | the same in the three-operand encoding of AVX | one chain, and messages |
//! | [`ShaNiAvx512`] | the same, sigma0 by AVX-512VL | one chain, and messages |
//! | [`Avx512`] | AVX-512F and BW | 16 chains or blocks at once |
//! | [`Avx2`] | AVX2 | 8 chains or blocks at once |
//!
//! The kernels on the SHA extensions also interleave a few chains, which hides the latency of their
//! instructions. All kernels give the same values; which one is fastest depends on the CPU, so it
//! is measured (see the crate `poet-backends`) and not assumed.
//!
//! A kernel is a type without a public constructor: [`ShaNi::get`] and the others return one only
//! if the CPU and the operating system have what the kernel needs. So holding one makes calling its
//! code sound. On other architectures than x86-64 this crate is empty.
#![no_std]
#![cfg(target_arch = "x86_64")]

#[cfg(test)]
extern crate std;

#[macro_use]
mod sha;
#[macro_use]
mod lanes;

mod avx2;
mod avx512;
mod constants;
mod half;
mod sha_ni;
mod sha_ni_avx;
mod sha_ni_avx512;

pub use avx2::Avx2;
pub use avx512::Avx512;
pub use sha_ni::ShaNi;
pub use sha_ni_avx::ShaNiAvx;
pub use sha_ni_avx512::ShaNiAvx512;
