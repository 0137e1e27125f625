//! The version of the server.

/// The version number.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from; empty if unknown, as in builds for tests.
pub const COMMIT: &str = env!("POET_COMMIT");
/// The version, with the commit if it is known.
pub const WITH_COMMIT: &str = env!("POET_VERSION");
