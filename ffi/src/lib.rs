//! libpoet: the PoET engine as a C library.
//!
//! One module for each C type. The header generated from these modules, `include/poet.h`, documents
//! what a caller may rely on; `ABI.md` documents what may change between versions.
//!
//! How the boundary keeps its guarantees:
//!
//! - *Handles* (`handle`) are tickets into a table, never addresses. A handle that was closed, made
//!   up, or belongs to another type or another copy of the library is detected without touching
//!   memory.
//! - *Panics* (`boundary`) are caught, silently; the handle in use is poisoned.
//! - *Pointers* (`pointer`) are checked for NULL, alignment and length before anything is read, and
//!   outputs are written last.

// The names are those of C.
#![allow(non_camel_case_types)]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("libpoet needs 64-bit pointers: a handle has as many bits");

mod boundary;
mod handle;
mod pointer;
mod status;

// In the order of the header.
mod library;

mod backend;

mod work;

mod worker;

mod audit;

mod proof;

mod verify;

mod membership;

pub use audit::*;
pub use backend::*;
pub use library::*;
pub use membership::*;
pub use proof::*;
pub use status::poet_status;
pub use verify::*;
pub use work::*;
pub use worker::*;
