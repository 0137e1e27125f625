//! Systems that do not let a program place its threads.

use crate::{WorkCore, WorkPriority};

/// Where and how the hashing thread runs: like every other thread.
#[derive(Clone, Debug, Default)]
pub struct WorkPlace;

impl WorkPlace {
    /// Warns if a placement is requested.
    pub fn prepare(
        core: WorkCore,
        _priority: WorkPriority,
        _hash: &(dyn Fn() -> u64 + Sync),
    ) -> Self {
        if core != WorkCore::Off {
            tracing::info!("the hashing thread shares its core: --work-core is for Linux");
        }
        Self
    }

    /// Returns where the thread runs, and why.
    pub fn describe(&self) -> &str {
        "shares its core: --work-core is for Linux"
    }

    /// Returns whether the hashing thread has a core that no other thread of the program uses.
    pub fn is_apart(&self) -> bool {
        false
    }

    /// Does nothing.
    pub fn enter(&self) -> Occupied {
        Occupied
    }
}

/// Holds nothing.
#[must_use]
#[derive(Debug)]
pub struct Occupied;
