//! The suite that every backend passes.

use poet_backend_generic::{Generic, GenericHaraka, haraka};
use poet_conformance::{suite, vectors};
use poet_engine::WorkFunction;

#[test]
fn sha256() {
    suite::sha256(Generic::get());
}

#[test]
fn sha256_chain() {
    suite::chain(Generic::get(), WorkFunction::Sha256);
}

#[test]
fn haraka_chain() {
    suite::chain(GenericHaraka::get(), WorkFunction::Haraka256);
}

/// The constants that all backends share are those of Haraka's authors.
#[test]
fn haraka_constants() {
    let theirs = vectors::haraka().round_constants;
    let theirs = theirs.iter().map(|&bytes| u128::from_be_bytes(bytes));
    assert!(
        theirs
            .take(haraka::ROUND_CONSTANTS.len())
            .eq(haraka::ROUND_CONSTANTS)
    );
}
