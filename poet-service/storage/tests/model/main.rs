//! Several servers on one database, as a model: what is decided once, by which rule, and what follows from
//! that. All states are visited that three servers can reach in two rounds, while answers get lost, a
//! server forgets, a machine computes wrong, and the database goes back to what a replica had.
//!
//! | model | decisions |
//! |---|---|
//! | `members` | who is a member, when a round closes, its statement |
//! | `log` | who works, what the shared log holds, how many leaves count, the proof |
//!
//! A rule that is left out must break the invariant that it is there for: otherwise the model would say
//! nothing about it.
#![allow(clippy::unwrap_used)]

mod check;
mod log;
mod members;
