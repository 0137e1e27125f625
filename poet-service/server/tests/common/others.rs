//! Whoever else wants the machine's cores.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::{
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

static HOGS: Mutex<Weak<Others>> = Mutex::new(Weak::new());

/// Threads that do the same again and again, until this is dropped.
pub(crate) struct Others {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Others {
    pub(crate) fn start(count: usize, work: impl Fn(usize) + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let (stop, work) = (Arc::clone(&stop), work.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    work(number);
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// Two for each core that do nothing but take it. Tests that run at the same time share them: more
    /// would only make the tests slow.
    pub(crate) fn hogs() -> Arc<Self> {
        let mut running = HOGS.lock().unwrap();
        running.upgrade().unwrap_or_else(|| {
            let cores = thread::available_parallelism().unwrap().get();
            let hogs = Arc::new(Self::start(2 * cores, |_| {
                for _ in 0..100_000 {
                    std::hint::spin_loop();
                }
            }));
            *running = Arc::downgrade(&hogs);
            hogs
        })
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // If it has panicked, the test fails for that reason.
            drop(thread.join());
        }
    }
}
