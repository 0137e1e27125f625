//! Tests that this machine cannot run.

use std::io::Write as _;

/// Reports that a test cannot run here, and why. Its caller then returns.
///
/// # Panics
/// Panics in CI (`CI=true`), which must run every test.
pub fn skip(reason: &str) {
    let required = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(!required, "CI must be able to run this test: {reason}");
    note(&format!("skipped: {reason}"));
}

/// Writes a line to standard error. Not with `eprintln`, whose text the test harness keeps to itself
/// when a test passes.
pub(crate) fn note(line: &str) {
    // There is no other place to report a failure.
    drop(std::io::stderr().write_all(format!("{line}\n").as_bytes()));
}
