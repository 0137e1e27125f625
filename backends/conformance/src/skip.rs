use std::{
    env,
    fmt::Display,
    io::{Write as _, stderr},
    thread,
};

/// Reports that a test cannot run on this machine, and why. Call it and return.
///
/// The line goes to the real standard error: the test harness hides what a passed test prints.
///
/// # Panics
///
/// In CI, where the environment variable `CI` is `true`: its machine has what all tests need.
#[track_caller]
pub fn skip(reason: impl Display) {
    let required = env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!required, "CI must run this test: {reason}");
    report_skipped(reason);
}

/// The same for what no machine can install, such as an instruction set: not required in CI.
pub fn report_skipped(reason: impl Display) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    // Without a standard error there is nobody to tell.
    let _ = stderr().write_all(format!("{test}: skipped: {reason}\n").as_bytes());
}
