//! Threads that are created at the start: when a round needs one, the system may have none left.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Acquire, Ordering::Release},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

/// A thread that runs calls one after the other.
#[derive(Debug)]
pub(crate) struct Standby(Sender<Box<dyn FnOnce() + Send>>);

impl Standby {
    /// Starts the thread, which first calls `prepare`.
    ///
    /// # Errors
    /// Fails if the system does not provide a thread.
    pub(crate) fn start(name: &str, prepare: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (calls, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                prepare();
                for call in queue {
                    call();
                }
            })?;
        Ok(Self(calls))
    }

    /// Queues a call for the thread.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Task<T> {
        let (sender, result) = mpsc::channel();
        let finished = Arc::new(AtomicBool::new(false));
        let task = Task {
            result,
            finished: Arc::clone(&finished),
        };
        // The thread survives a panic of the call. Nobody may be waiting for the result; and if the
        // thread were gone, `Task::join` would report it.
        drop(self.0.send(Box::new(move || {
            let result = panic::catch_unwind(AssertUnwindSafe(call));
            drop(sender.send(result));
            finished.store(true, Release);
        })));
        task
    }
}

/// A call that a [`Standby`] runs.
#[derive(Debug)]
pub(crate) struct Task<T> {
    result: Receiver<thread::Result<T>>,
    finished: Arc<AtomicBool>,
}

impl<T> Task<T> {
    /// Returns whether the call has finished.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished.load(Acquire)
    }

    /// Waits for the call to finish. Returns `None` if it panicked.
    pub(crate) fn join(self) -> Option<T> {
        self.result.recv().ok()?.ok()
    }

    /// Waits for at most `patience`. Returns `None` if the call panicked or has not finished.
    pub(crate) fn join_within(self, patience: Duration) -> Option<T> {
        self.result.recv_timeout(patience).ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_outlives_what_panics_on_it() {
        let thread = Standby::start("standby", || {}).unwrap();
        let (go, wait) = mpsc::channel::<()>();
        let waiting = thread.run(move || wait.recv().is_ok());
        let second = thread.run(|| panic!("on purpose"));
        let third = thread.run(|| thread::current().name().map(str::to_owned));
        assert!(!waiting.is_finished());
        go.send(()).unwrap();
        assert_eq!(waiting.join(), Some(true));
        assert!(second.join().is_none());
        assert_eq!(third.join(), Some(Some("standby".to_owned())));
    }
}
