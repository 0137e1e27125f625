//! The rounds of a PoET server: registration, the sequential work, the proof. No network, no
//! configuration file, no database: those are behind the traits [`Storage`](storage::Storage),
//! [`Publish`](publish::Publish), [`Counters`](counters::Counters), [`Clock`](clock::Clock) and
//! [`Hashing`](worker::Hashing).
//!
//! | module | what it does |
//! |---|---|
//! | [`life`] | the life of rounds, start, recovery and end |
//! | [`cycle_gaps`] | what a server is to nodes with other cycle gaps than the schedule's |
//! | [`schedule`], [`clock`] | when rounds open, start and end; pure functions of an injected time |
//! | [`registration`] | who may register for which round |
//! | `receipts` | signatures that acknowledge registrations |
//! | [`worker`] | the hashing thread, its log, auditors, proofs |
//! | [`rate`] | whether the hashing has become slow |
//! | [`parts`] | what runs from the start to the end, none of which may end before |
//! | [`storage`], [`publish`], [`counters`] | what rounds need of the rest of a server |
//! | [`round_files`] | what is where in the directory of the work |

mod blocking;
mod checks;
pub mod clock;
pub mod config;
pub mod counters;
pub mod cycle_gaps;
pub mod life;
pub mod parts;
pub mod publish;
pub mod rate;
mod receipts;
pub mod registration;
pub mod round_files;
mod standby;
mod steady;
pub mod storage;
pub mod worker;

pub use blocking::blocking;
pub use poet_proto::schedule;
