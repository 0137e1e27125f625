//! `poet-bench`, the CPU benchmark, and what the benchmarks of the PoET engine share with it.
//!
//! The program (`cargo run --release -p poet-bench`; see `benches/README.md`) goes from [`options`]
//! through [`session`], which uses [`poet_host`], [`measure`], [`load`], [`prover`] and
//! [`endurance`], to a [`report`]. Its [`verdict`] follows from the measurements and what is
//! [`known`] of kinds of cores; [`sentences`] and [`sections`] put it in words, for the terminal,
//! [`html`], [`csv`] and Markdown ([`table`]). [`mod@compare`] compares reports; [`check`] finds
//! what costs ticks.
//!
//! | benchmark | what it measures |
//! |---|---|
//! | `audit` | auditors next to the hashing thread: rates, and time until a flipped bit is found |
//! | `cycles` | everything in CPU cycles, as a table for people |
//! | `kernels` | every kernel of this CPU, and peers |
//! | `prover` | the work loop |
//! | `proof` | proof generation, and the pass over a log |
//! | `verification` | verification |
//! | `mainnet_proof` | the proof of a mainnet round from a log in a file: time and memory |
//! | `early_proof` | the hashing thread while another core makes such a proof |
//!
//! `cargo bench -p poet-bench` runs all of them, `--bench NAME` one; without `--bench`, as in
//! `cargo test --benches`, everything runs once. Each checks the answers that it times. The feature
//! `openssl` adds OpenSSL to the peers.
//!
//! Two techniques allow honest measurements of a round without running it for two weeks:
//! [`work::Counting`] counts the compressions that a computation takes, so that a plain loop can be
//! given the same number, and [`synthetic`] makes rounds of any length on which the engine does all
//! its work.

pub mod calibration;
pub mod check;
pub mod compare;
pub mod csv;
pub mod endurance;
pub mod histogram;
pub mod html;
pub mod judge;
pub mod kernels;
pub mod known;
pub mod load;
pub mod measure;
pub mod options;
pub mod peers;
pub mod pinning;
pub mod plot;
pub mod progress;
pub mod prover;
mod reading;
pub mod report;
pub mod sample;
pub mod sections;
pub mod sentences;
pub mod session;
pub mod stat;
pub mod synthetic;
pub mod table;
pub mod verdict;
pub mod windows;
pub mod words;
pub mod work;

/// Returns whether this is `cargo bench`, not `cargo test --benches`, which runs everything once.
#[must_use]
pub fn is_measuring() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

pub use poet_host::affinity::pin_to_last as pin;
