//! The PoET server of a Spacemesh network: nodes register challenges for a round over REST or
//! gRPC, the round closes, the sequential work is done, proven and verified, and the proof is served.
//!
//! ```text
//!  REST ──> registration ──(round closes: members, statement)──> worker ──(proof)──> registration
//!                │                                                 │                     │
//!             storage                                           tree log          proofs served
//! ```
//!
//! The rounds are in [`poet_rounds`], and what they store in [`poet_storage`]. This crate has
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`config`] | the configuration: command line over file over defaults |
//! | [`service`] | the server: directories, the rounds, the network around them, shutdown |
//! | [`api`] | REST and gRPC |
//! | `metrics` | monitoring |
//! | `record` | the history that the operator's page shows |
//! | `page` | web pages |
//! | [`notify`], [`systemd`] | notifications to the operator and to the service manager |
//! | [`limits`] | limits of clients |
//! | [`terminal`], [`logfile`] | logs and the status line |

pub mod api;
pub mod args;
pub mod config;
mod config_error;
mod config_file;
pub mod limits;
pub mod log_queue;
pub mod logfile;
mod metrics;
pub mod notify;
mod opening;
mod page;
mod paths;
mod probe;
mod proofs;
mod record;
mod reports;
mod retention;
pub mod service;
pub mod start_error;
pub mod status;
pub mod systemd;
pub mod terminal;
pub mod version;
