//! Sequential-work engine for proofs of elapsed time (PoET).
//!
//! A PoET server hashes one long chain that cannot be parallelised and publishes a proof that it
//! did. This crate is everything between the hash functions (which backends provide, see
//! [`Sha256`] and [`Chain`]) and a service: labels and tree ([`Tree`]), the work loop ([`run`]),
//! the log of subtree roots from which a round can be resumed and proven ([`LogRead`],
//! [`RoundWork`]), its audit ([`mod@audit`]), proofs ([`prove()`], [`Proof`]) and the message in which
//! nodes store them ([`ProofMessage`]), verification ([`verify()`]) and the membership tree
//! ([`membership`]).
//!
//! "PROTOCOL.md section n" in these pages refers to the specification of the Spacemesh PoET
//! protocol, the page [`mod@protocol`].
//!
//! # Example
//!
//! ```
//! # use poet_backend_generic::Generic;
//! # let g = Generic::get();
//! # let kernels = Kernels { sha256: g, chain: g, wide_sha256: g, wide_chain: g };
//! use core::sync::atomic::AtomicU64;
//! use poet_engine::*;
//!
//! let work = Work::new(WorkFunction::Sha256, LABEL_DEPTH, kernels)?;
//! let statement = b"what the work is done for";
//!
//! // 200 leaves, with the roots of subtrees of 2^4 leaves kept.
//! let k = SubtreeHeight::new(4)?;
//! let mut log = Vec::new();
//! let mut tree = Tree::new(&work, statement);
//! run(&mut tree, k, &AtomicU64::new(200), &AtomicU64::new(0), |root| log.push(root));
//! assert_eq!(log.len(), 12);
//!
//! let proof = prove(&tree, k, &mut log.as_slice(), T, 1, &ProveProgress::default())?;
//! verify(&work, statement, 200, T, &proof)?;
//! assert!(verify(&work, statement, 201, T, &proof).is_err());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! `std` (default): the log as a file and its background writer ([`mod@file`]), threads in
//! [`prove()`] and audits. Without it the crate needs `alloc` only.
//!
//! `fault-injection`: faults on purpose, for tests.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

pub mod audit;
mod challenge;
#[cfg(feature = "fault-injection")]
pub mod fault;
#[cfg(feature = "std")]
pub mod file;
mod hash;
mod log;
pub mod membership;
mod parallel;
mod primitives;
mod proof;
#[doc = include_str!("../PROTOCOL.md")]
pub mod protocol {}
mod prove;
mod round;
mod run;
mod sha256;
mod tail;
mod tree;
mod upper;
mod verify;
mod wide;

pub use challenge::{T, proven_indices};
pub use hash::{
    Block, Chain, DepthError, Kernels, LABEL_DEPTH, MAX_DEPTH, NODE_SIZE, Node, NodeMessage,
    SHA256_IV, Sha256, State, TICK_LEAVES, Work, WorkFunction, ZERO,
};
pub use log::{HeaderError, LogError, LogHeader, LogRead, SubtreeHeight, SubtreeHeightError};
pub use parallel::MAX_THREADS;
pub use proof::{
    MAX_PROOF_NODES, MAX_PROVEN_LEAVES, MAX_ROUND_ID_BYTES, Proof, ProofMessage, ScaleError,
};
pub use prove::{ProveError, ProveProgress, prove};
pub use round::RoundWork;
pub use run::run;
pub use tree::{MAX_LEAVES, Tree, TreeError, height};
pub use verify::{Claim, VerifyError, verify, verify_many};
