//! aarch64 backends: SHA-256 on the SHA2 extension of ARMv8, Haraka-256 v2 on its AES extension.
//!
//! Written for latency from the architecture's rules, and tested with an emulator; nothing has been
//! measured on silicon.
//!
//! On other targets, including big-endian aarch64, this crate is empty.
#![no_std]

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aes;
#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod sha2;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub use {aes::Armv8Aes, sha2::Armv8Sha2};
