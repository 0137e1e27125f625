//! Independent work on several threads.

/// The most threads that a function of this crate may be asked to use.
pub const MAX_THREADS: usize = 1024;

/// Calls `each` with every item, on up to `threads` threads, the calling one among them. After an
/// error a thread takes no further items; one of the errors is returned. Without feature `std` the
/// calling thread does it all.
pub(crate) fn try_for_each<T: Send, E: Send>(
    mut items: impl Iterator<Item = T> + Send,
    threads: usize,
    each: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    #[cfg(feature = "std")]
    if threads > 1 {
        return on_threads(items, threads, each);
    }
    let _ = threads;
    items.try_for_each(each)
}

#[cfg(feature = "std")]
fn on_threads<T: Send, E: Send>(
    items: impl Iterator<Item = T> + Send,
    threads: usize,
    each: impl Fn(T) -> Result<(), E> + Sync,
) -> Result<(), E> {
    use std::sync::{Mutex, PoisonError};

    let items = Mutex::new(items);
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some(item) = next() {
            each(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            // A thread that the system refuses is not needed: the others do its share.
            .map_while(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
            .collect();
        let mine = work();
        others.into_iter().fold(mine, |result, other| {
            let other = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            result.and(other)
        })
    })
}
