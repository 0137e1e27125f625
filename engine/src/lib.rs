//! skeleton
#![cfg_attr(not(feature = "std"), no_std)]
pub mod hash;
pub use hash::*;
