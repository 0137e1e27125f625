//! A model of several servers on one database: the decisions that are made once, the rules for
//! them, and their consequences. Visits all states that three servers can reach in two rounds while
//! answers get lost, a server restarts, a machine errs, and the database goes back to the state of
//! a replica.
//!
//! | model | decisions |
//! |---|---|
//! | `members` | who is a member, when a round closes, its statement |
//! | `log` | who works, what the shared log holds, how many leaves count, the proof |
//!
//! Leaving out a rule must violate the invariant that the rule is for: otherwise the model would
//! say nothing about it.
#![allow(clippy::unwrap_used)]

mod check;
mod log;
mod members;
