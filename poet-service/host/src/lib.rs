//! The properties of a machine, and the placement of threads on it.
//!
//! [`Machine`] is what the kernel reports about a machine; [`limits`], [`interrupts`], [`sensors`]
//! and [`programs`] are what it reports about a moment. All read `/proc` and `/sys` below a root,
//! so that trees of other machines can be tested. What a machine does not report is absent, never
//! guessed.
//!
//! [`affinity`] pins threads, [`niceness`] sets their priority. [`WorkPlace`] gives a server's
//! hashing thread a core of its own. [`open_files`] raises the limit on open files; [`process`]
//! reports the resources that this process uses.

pub mod affinity;
pub mod interrupts;
pub mod limits;
pub mod machine;
pub mod niceness;
pub mod open_files;
pub mod process;
pub mod programs;
pub mod sensors;

#[cfg(target_os = "linux")]
mod choice;
#[cfg(target_os = "linux")]
mod claim;
mod cores;
#[cfg(target_os = "linux")]
mod place;
#[cfg(not(target_os = "linux"))]
#[path = "no_place.rs"]
mod place;
#[cfg(target_os = "linux")]
mod priority;
mod read;
mod work_core;

pub use cores::{MAX_CORES, list};
pub use machine::{Core, Machine};
pub use place::{Occupied, WorkPlace};
pub use work_core::{WorkCore, WorkPriority};
