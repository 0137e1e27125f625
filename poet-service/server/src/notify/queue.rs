//! The events that wait for a receiver.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Events that may wait for one receiver.
const QUEUED: usize = 64;

/// A receiver of notifications. It has its own thread, which it may block for a while.
pub(super) trait Receiver: Send {
    /// Returns its name for operators.
    fn name(&self) -> String;

    /// Delivers an event. Returns early if `queue` ends.
    ///
    /// # Errors
    /// Fails if it was not delivered; the text says why.
    fn deliver(&mut self, notice: &str, queue: &Queue) -> Result<(), String>;
}

/// The events that wait for a receiver.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Arc<str>>,
    /// Events dropped for lack of room.
    dropped: u64,
    /// Whether there will be no more events.
    last: bool,
    /// Whether to give up the delivery in progress.
    given_up: bool,
    done: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, notice: Arc<str>) {
        let mut state = self.state();
        if state.notices.len() == QUEUED {
            state.dropped += 1;
        } else {
            state.notices.push_back(notice);
            self.changed.notify_all();
        }
    }

    /// Waits for the next event; `None` at the end. Also returns how many were dropped before it.
    fn next(&self) -> Option<(Arc<str>, u64)> {
        let mut state = self.state();
        loop {
            if state.given_up {
                return None;
            }
            if let Some(notice) = state.notices.pop_front() {
                return Some((notice, std::mem::take(&mut state.dropped)));
            }
            if state.last {
                return None;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn given_up(&self) -> bool {
        self.state().given_up
    }

    /// Waits, unless the delivery must be given up.
    pub(super) fn pause(&self, duration: Duration) {
        let state = self.state();
        let waited = self
            .changed
            .wait_timeout_while(state, duration, |state| !state.given_up);
        drop(waited);
    }

    /// Ends the thread of the receiver after the events that wait.
    pub(super) fn finish(&self) {
        self.state().last = true;
        self.changed.notify_all();
    }

    /// Ends the thread of the receiver, without the events that wait and the one in progress.
    pub(super) fn give_up(&self) {
        self.state().given_up = true;
        self.changed.notify_all();
    }

    /// Waits until the thread of the receiver has ended, at most for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let state = self.state();
        let waited = self
            .changed
            .wait_timeout_while(state, timeout, |state| !state.done);
        drop(waited);
    }

    /// Delivers events until [`Queue::finish`] or [`Queue::give_up`].
    pub(super) fn serve(&self, mut receiver: Box<dyn Receiver>) {
        let mut failing = false;
        while let Some((notice, dropped)) = self.next() {
            if dropped > 0 {
                tracing::warn!(
                    events = dropped,
                    receiver = receiver.name(),
                    "events were not delivered: the receiver is too slow"
                );
            }
            match receiver.deliver(&notice, self) {
                Ok(()) => failing = false,
                // Logged once: it may fail for a year.
                Err(_) if failing => {}
                Err(error) => {
                    failing = true;
                    tracing::warn!(
                        %error,
                        receiver = receiver.name(),
                        "an event was not delivered; further failures are not logged until one is"
                    );
                }
            }
        }
        self.state().done = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_nobody_empties_stays_short() {
        let queue = Queue::default();
        for number in 0..1000 {
            queue.push(number.to_string().into());
        }
        assert_eq!(queue.state().notices.len(), QUEUED);
        assert_eq!(queue.next(), Some(("0".into(), 1000 - QUEUED as u64)));
        queue.finish();
        assert_eq!(queue.next(), Some(("1".into(), 0)));
        queue.give_up();
        assert_eq!(queue.next(), None);
    }
}
