//! The PoET server of a Spacemesh network: nodes register challenges for a round over REST or
//! gRPC, the round closes, the sequential work is done, proven and verified, and the proof is served.
//!
//! ```text
//!  REST ──> registration ──(round closes: members, statement)──> worker ──(proof)──> registration
//!                │                                                 │                     │
//!             storage                                           tree log          proofs served
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`config`] | the configuration: command line over file over defaults |
//! | [`schedule`], [`clock`] | when rounds open, start and end; pure functions of an injected time |
//! | [`registration`] | the rules of registration, whatever the transport |
//! | [`storage`] | what must survive: group commit in SQLite behind a trait |
//! | [`worker`] | the hashing thread, its log, auditors, proofs |
//! | [`rate`] | whether the hashing thread has become slow |
//! | [`machine`] | all of that together: the life of rounds, start, recovery and end, without network |
//! | [`service`] | the server: directories, the machine, the network around it, shutdown |
//! | [`api`] | REST and its JSON, gRPC |
//! | [`doctor`] | what is wrong with the directories of a server that does not run |
//! | [`metrics`] | what monitoring is told |
//! | [`import`] | taking over from the Go server |
//! | [`limits`] | what the system allows the process |
//! | [`terminal`], [`logfile`] | logs and the status line |

pub mod api;
pub mod args;
mod blocking;
pub mod clock;
pub mod config;
mod directory;
pub mod doctor;
pub mod import;
pub mod limits;
mod log_queue;
pub mod logfile;
pub mod machine;
pub mod metrics;
mod parts;
mod proofs;
pub mod rate;
pub mod registration;
pub mod schedule;
pub mod service;
mod standby;
pub mod storage;
pub mod terminal;
pub mod worker;

pub use proofs::EncodedProof;
