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
//! | [`pow`], [`certificate`], [`identity`] | what a registration is checked against |
//! | [`storage`] | what must survive: group commit in SQLite behind a trait |
//! | [`worker`] | the hashing thread, its log, proofs |
//! | [`service`] | all of it together: the life of rounds, start, recovery and shutdown |
//! | [`api`] | REST and its JSON, gRPC |
//! | [`metrics`] | what monitoring is told |
//! | [`terminal`], [`logfile`] | logs and the status line |

pub mod api;
pub mod args;
pub mod certificate;

pub mod clock;
pub mod config;
pub mod duration;
pub mod identity;
pub mod logfile;
pub mod metrics;
pub mod pow;
mod proofs;
pub mod registration;
pub mod schedule;
pub mod service;
pub mod storage;
pub mod terminal;
pub mod worker;

pub use proofs::EncodedProof;
