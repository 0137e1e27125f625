//! Portable backend: works on every CPU and is the baseline for the others.
//!
//! SHA-256 comes from the `sha2` crate and the AES round of Haraka-256 from the `aes` crate, both
//! forced to their portable paths, so that the tested code is the same on every machine.
#![no_std]

pub mod haraka;
mod sha256;

pub use haraka::GenericHaraka;
pub use sha256::Generic;
