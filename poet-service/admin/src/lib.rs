//! What operators do with the directories of a server that does not run.
//!
//! | module | what it does |
//! |---|---|
//! | [`backup`] | copies the state of one, which may run, and puts it back |
//! | [`doctor`] | finds out what is wrong with them, and repairs it |
//! | `import` | takes over those of a Go server (feature `import`) |

pub mod backup;
pub mod doctor;
#[cfg(feature = "import")]
pub mod import;
