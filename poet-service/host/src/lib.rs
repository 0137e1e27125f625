//! The machine that a program runs on, and what the system allows a process.

mod cores;
pub mod open_files;

pub use cores::{Occupied, WorkCore, WorkPlace, WorkPriority};
