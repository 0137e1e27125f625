//! Files that exist as a whole or not at all, and survive a power failure.
//!
//! [`replace`], [`replace_through`], [`create_new`], [`rename_into_place`] and [`create_directory`]
//! return when their effect is durable.
//! [`Output`] is a file named on a command line.

mod durable;
mod output;
mod reason;

pub use durable::{
    Access, create_directory, create_new, rename_into_place, replace, replace_through,
    sync_directory, sync_parent,
};
pub use output::{Output, OutputError};
pub use reason::{explain, reason};
