//! The suite that every backend passes.
#![cfg(all(target_arch = "aarch64", target_endian = "little"))]

use poet_backend_armv8::{Armv8Aes, Armv8Sha2};
use poet_conformance::suite;
use poet_engine::WorkFunction;

#[test]
fn sha256() {
    if let Some(backend) = suite::supported(Armv8Sha2::NAME, Armv8Sha2::get()) {
        suite::sha256(backend);
    }
}

#[test]
fn sha256_chain() {
    if let Some(backend) = suite::supported(Armv8Sha2::NAME, Armv8Sha2::get()) {
        suite::chain(backend, WorkFunction::Sha256);
    }
}

#[test]
fn haraka_chain() {
    if let Some(backend) = suite::supported(Armv8Aes::NAME, Armv8Aes::get()) {
        suite::chain(backend, WorkFunction::Haraka256);
    }
}
