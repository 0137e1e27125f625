//! The suite that every backend passes.
#![cfg(target_arch = "x86_64")]

use poet_backend_aes_ni::{AesNi, Vaes};
use poet_conformance::suite;
use poet_engine::WorkFunction;

#[test]
fn aes_ni() {
    if let Some(backend) = suite::supported(AesNi::NAME, AesNi::get()) {
        suite::chain(backend, WorkFunction::Haraka256);
    }
}

#[test]
fn vaes() {
    if let Some(backend) = suite::supported(Vaes::NAME, Vaes::get()) {
        suite::chain(backend, WorkFunction::Haraka256);
    }
}
