//! Independent work on several threads.

use alloc::vec::Vec;

/// The most threads that a caller may request.
pub const MAX_THREADS: usize = 1024;

/// Calls `each` with every item, on up to `threads` threads, including the calling one. After an
/// error a thread takes no further items; one of the errors is returned. Without feature `std` the
/// calling thread does all the work.
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
            // If the system refuses a thread, the others do its share.
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

/// Fills items in order until `fill` reports the end, calls `each` with each item, and then `done`.
/// `fill` and `done` run on the calling thread, in the order of the items. `each` runs for as many
/// items at once as `items` holds, each on its own thread, one of them the calling one; the items
/// are reused. Without feature `std` the calling thread does all the work.
pub(crate) fn in_order<T: Send, E>(
    mut items: Vec<T>,
    mut fill: impl FnMut(&mut T) -> Result<bool, E>,
    each: impl Fn(&mut T) + Sync,
    mut done: impl FnMut(&T),
) -> Result<(), E> {
    let Some(mut own) = items.pop() else {
        return Ok(());
    };
    #[cfg(feature = "std")]
    if !items.is_empty() {
        return in_order_on_threads(own, items, fill, each, done);
    }
    while fill(&mut own)? {
        each(&mut own);
        done(&own);
    }
    Ok(())
}

#[cfg(feature = "std")]
fn in_order_on_threads<T: Send, E>(
    mut own: T,
    mut items: Vec<T>,
    mut fill: impl FnMut(&mut T) -> Result<bool, E>,
    each: impl Fn(&mut T) + Sync,
    mut done: impl FnMut(&T),
) -> Result<(), E> {
    use std::sync::mpsc::channel;

    std::thread::scope(|scope| {
        let others: Vec<_> = (0..items.len())
            // If the system refuses a thread, fewer items are processed at once.
            .map_while(|_| {
                let (give, given) = channel::<T>();
                let (finished, take) = channel();
                let each = &each;
                let work = move || {
                    for mut item in given {
                        each(&mut item);
                        if finished.send(item).is_err() {
                            return;
                        }
                    }
                };
                let thread = std::thread::Builder::new().spawn_scoped(scope, work);
                thread.is_ok().then_some((give, take))
            })
            .collect();
        loop {
            let mut busy = 0;
            let mut last = false;
            for (give, _) in &others {
                let Some(mut item) = items.pop() else { break };
                last = !fill(&mut item)?;
                if last {
                    break;
                }
                // The thread has ended only if `each` panicked, and then the scope panics too.
                give.send(item).ok();
                busy += 1;
            }
            last = last || !fill(&mut own)?;
            if !last {
                each(&mut own);
            }
            for (_, take) in &others[..busy] {
                let Ok(item) = take.recv() else {
                    return Ok(());
                };
                done(&item);
                items.push(item);
            }
            if last {
                return Ok(());
            }
            done(&own);
        }
    })
}

#[cfg(test)]
#[cfg(feature = "std")]
mod tests {
    use alloc::vec;

    use super::*;

    /// Squares of the numbers below `count`, with an error instead of number `fails`.
    fn squares(threads: usize, count: u64, fails: Option<u64>) -> (Vec<u64>, Result<(), u64>) {
        let (mut next, mut squares) = (0, Vec::new());
        let result = in_order(
            vec![0; threads],
            |item| {
                *item = next;
                next += 1;
                match fails {
                    Some(fails) if fails == *item => Err(fails),
                    _ => Ok(*item < count),
                }
            },
            |item| *item *= *item,
            |item| squares.push(*item),
        );
        (squares, result)
    }

    #[test]
    fn items_are_done_in_their_order() {
        for threads in 1..=5 {
            for count in 0..=23 {
                let expected: Vec<u64> = (0..count).map(|n| n * n).collect();
                assert_eq!(squares(threads, count, None), (expected, Ok(())));
            }
        }
    }

    #[test]
    fn an_error_ends_it() {
        for threads in 1..=5 {
            let (squares, result) = squares(threads, 20, Some(7));
            assert_eq!(result, Err(7));
            assert!(squares.len() <= 7);
            assert!(squares.iter().zip(0..).all(|(square, n)| *square == n * n));
        }
    }

    #[test]
    #[should_panic(expected = "a scoped thread panicked")]
    fn a_panic_is_not_lost() {
        let mut count = 0;
        let fill = |item: &mut u32| {
            *item = count;
            count += 1;
            Ok::<_, ()>(count < 100)
        };
        let each = |item: &mut u32| assert!(!item.is_multiple_of(3), "a multiple of three");
        in_order(vec![0; 3], fill, each, |_| {}).ok();
    }
}
