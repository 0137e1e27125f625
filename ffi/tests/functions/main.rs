//! The C functions, called as from C.

#![allow(clippy::unwrap_used)]
#![allow(
    clippy::undocumented_unsafe_blocks,
    reason = "pointers lead to variables of the test, or are what the library must refuse"
)]

mod bad_input;
mod common;
mod disk;
#[cfg(target_os = "linux")]
mod failing_sync;
mod round;
