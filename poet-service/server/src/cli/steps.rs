//! Shared by commands that take over from other servers: they show steps, and can be interrupted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use anyhow::Context as _;

use super::progress::Progress;

/// The progress of a command with several steps, each shown on its own line.
#[derive(Default)]
pub(super) struct Steps(Option<(String, Progress)>);

impl Steps {
    /// Reports that `done` of `total` of `step` are done.
    pub(super) fn update(&mut self, step: String, done: u64, total: u64) {
        let shown = match self.0.take() {
            Some(shown) if shown.0 == step => shown,
            // Clears its line before the next one.
            earlier => {
                drop(earlier);
                let progress = Progress::new(&step, 0);
                (step, progress)
            }
        };
        self.0.insert(shown).1.update(done, total);
    }
}

/// Returns a flag that becomes true when the user interrupts the command.
///
/// # Errors
/// Fails if the system permits no signal handler.
pub(super) fn interruption() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&interrupted);
    ctrlc::set_handler(move || handler.store(true, Relaxed)).context("cannot handle signals")?;
    Ok(interrupted)
}
