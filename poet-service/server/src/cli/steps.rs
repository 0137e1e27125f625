//! What commands share that take over from other servers: they go in steps, and can be interrupted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use anyhow::Context as _;

use super::progress::Progress;

/// How far something is that is done in steps, each of which has a line of its own.
#[derive(Default)]
pub(super) struct Steps(Option<(String, Progress)>);

impl Steps {
    /// Now `done` of `total` of `step` are done.
    pub(super) fn update(&mut self, step: String, done: u64, total: u64) {
        let shown = match self.0.take() {
            Some(shown) if shown.0 == step => shown,
            // Its line goes before the next one comes.
            earlier => {
                drop(earlier);
                let progress = Progress::new(&step, 0);
                (step, progress)
            }
        };
        self.0.insert(shown).1.update(done, total);
    }
}

/// What becomes true when the user interrupts the command.
///
/// # Errors
/// Fails if the system permits no handler for it.
pub(super) fn interruption() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let handler = Arc::clone(&interrupted);
    ctrlc::set_handler(move || handler.store(true, Relaxed)).context("cannot handle signals")?;
    Ok(interrupted)
}
