//! What every backend is tested against; a dev-dependency, never part of a program.
//!
//! - [`vectors`]: the golden vectors, decoded.
//! - [`reference`](mod@reference): slow oracles that follow the standards line by line.
//! - [`suite`]: the tests that every backend must pass.
//! - [`skip()`]: how a test says that it cannot run on a machine.
//!
//! A backend's own test is one line for each trait it implements:
//!
//! ```
//! use poet_conformance::{reference::Reference, suite};
//! use poet_engine::WorkFunction;
//!
//! let backend = Reference::new(WorkFunction::Haraka256);
//! suite::chain(&backend, WorkFunction::Haraka256);
//! ```
//!
//! Everything here panics on an error, with a message that names the case.

pub mod reference;
mod rng;
mod skip;
pub mod suite;
pub mod vectors;

pub use rng::Rng;
pub use skip::{report_skipped, skip};
