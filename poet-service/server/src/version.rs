//! Which version of the server this is.

/// Its number.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from; empty where that is not known, as in builds for tests.
pub const COMMIT: &str = env!("POET_COMMIT");
/// The version, and the commit where it is known.
pub const WITH_COMMIT: &str = env!("POET_VERSION");
