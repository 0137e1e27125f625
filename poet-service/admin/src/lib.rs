//! What operators do with the directories of a server.
//!
//! | module | what it does |
//! |---|---|
//! | [`backup`] | backs up the state, also of a running server, and restores it |
//! | [`doctor`] | finds and repairs damage |
//! | `import` | imports the state of a Go server (feature `import`) |

pub mod backup;
pub mod doctor;
#[cfg(feature = "import")]
pub mod import;
mod log_copy;
