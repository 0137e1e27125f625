//! Threads that verify what strangers send. A signature takes some 50 µs, and an invalid one costs
//! its sender nothing: so the threads are few, and have a lower priority than the work on a round.

use std::{
    io, iter,
    num::NonZero,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use poet_files::reason;
use poet_host::niceness;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::oneshot,
};

use crate::standby::Standby;

/// The maximum number of threads: they verify more than 100,000 signatures a second.
const MAX_THREADS: usize = 8;
/// Their niceness. On a shared core, making a proof, or auditors that are behind, get three
/// quarters of the time.
const NICENESS: i32 = 5;

pub(crate) struct Checks {
    /// Empty in a simulation, where nothing runs concurrently.
    threads: Vec<Standby>,
    next: AtomicUsize,
}

impl Checks {
    /// Starts the threads.
    ///
    /// # Errors
    /// Fails if the system does not provide them.
    pub(crate) fn start() -> io::Result<Self> {
        let count = match Handle::current().runtime_flavor() {
            RuntimeFlavor::CurrentThread => 0,
            _ => {
                let cores = thread::available_parallelism().map_or(1, NonZero::get);
                (cores / 2).clamp(1, MAX_THREADS)
            }
        };
        let lower = || {
            if let Err(error) = niceness::set(NICENESS) {
                tracing::warn!(
                    error = reason(&error),
                    "cannot lower the priority of what checks registrations"
                );
            }
        };
        let start = || Standby::start("check", lower);
        Ok(Self {
            threads: iter::repeat_with(start)
                .take(count)
                .collect::<io::Result<_>>()?,
            next: AtomicUsize::new(0),
        })
    }

    /// Runs a check after all earlier ones. Returns `None` if it panicked.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        check: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let next = self.next.fetch_add(1, Relaxed) % self.threads.len().max(1);
        let Some(thread) = self.threads.get(next) else {
            return Some(check());
        };
        let (reply, answer) = oneshot::channel();
        // The answer comes through the channel.
        drop(thread.run(move || {
            // Skips the check if the client is gone.
            if !reply.is_closed() {
                drop(reply.send(check()));
            }
        }));
        answer.await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn they_are_few_and_not_for_those_who_have_gone() {
        let checks = Arc::new(Checks::start().unwrap());
        let count = checks.threads.len();
        let cores = thread::available_parallelism().unwrap().get();
        assert!((1..=MAX_THREADS.min(cores)).contains(&count), "{count}");
        let panicked: Option<()> = checks.run(|| panic!("on purpose")).await;
        assert_eq!(panicked, None);
        // All threads are busy.
        let (go, wait) = mpsc::channel::<()>();
        let wait = Arc::new(Mutex::new(wait));
        let held = Arc::new(AtomicUsize::new(0));
        let busy: Vec<_> = (0..count)
            .map(|number| {
                let (checks, wait) = (Arc::clone(&checks), Arc::clone(&wait));
                let held = Arc::clone(&held);
                let hold = move || {
                    held.fetch_add(1, Relaxed);
                    let _ended = wait.lock().unwrap().recv();
                };
                tokio::spawn(async move { checks.run(hold).await.map(|()| number) })
            })
            .collect();
        while held.load(Relaxed) < count {
            tokio::task::yield_now().await;
        }
        // These wait in the queue.
        let made = Arc::new(AtomicUsize::new(0));
        let waiting: Vec<_> = (0..10 * count)
            .map(|_| {
                let (checks, made) = (Arc::clone(&checks), Arc::clone(&made));
                tokio::spawn(async move { checks.run(move || made.fetch_add(1, Relaxed)).await })
            })
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        assert_eq!(made.load(Relaxed), 0);
        for gone in &waiting[count..] {
            gone.abort();
        }
        for one in waiting.iter().skip(count) {
            while !one.is_finished() {
                tokio::task::yield_now().await;
            }
        }
        drop(go);
        for (number, busy) in busy.into_iter().enumerate() {
            assert_eq!(busy.await.unwrap(), Some(number));
        }
        for one in waiting.into_iter().take(count) {
            assert!(one.await.unwrap().is_some());
        }
        // Those whose receiver was dropped are skipped.
        checks.run(|| {}).await;
        assert_eq!(made.load(Relaxed), count);
    }
}
