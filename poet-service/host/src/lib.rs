//! The machine that a program runs on, and what the system allows a process.

pub mod open_files;
