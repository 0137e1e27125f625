//! The tree log as a file.
//!
//! A [`FileLog`] is read, appended to and synced by its owner; a [`LogView`] of it gives other
//! threads what they may do. [`DurableLog`] keeps in memory what the file may still lose, and
//! [`LogWriter`] is a thread that does so for the hashing thread.
//!
//! All of them share one record of the file's contents because of what a failed sync means: the
//! system may have dropped everything written since the last successful sync, and reports that only
//! once. So whichever thread's sync fails, everything since the last success counts as unwritten,
//! and a later sync makes durable only what has been written again.

mod backing;
mod durable;
mod file_log;
mod read_only;
mod resume;
mod view;
mod writer;

pub use self::backing::BackingFile;
pub use self::durable::DurableLog;
pub use self::file_log::FileLog;
pub use self::read_only::ReadOnlyLog;
pub use self::resume::Resumed;
pub use self::view::LogView;
pub use self::writer::{LogMonitor, LogWriter};
