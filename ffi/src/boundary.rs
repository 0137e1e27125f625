//! The entry to every function: catches panics, and turns errors into a status and a text.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::thread;

use crate::poet_status;
use crate::status::Error;

thread_local! {
    /// Why the last failed call on this thread failed.
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
    /// Whether this thread is in a call.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Where and why this thread panicked in the call.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of a function of the ABI.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Error>) -> poet_status {
    install_hook();
    let _ = INSIDE.try_with(|inside| inside.set(true));
    // What a panic leaves half-done is in a handle, which is then poisoned.
    let result = catch_unwind(AssertUnwindSafe(body));
    let _ = INSIDE.try_with(|inside| inside.set(false));
    let error = match result {
        Ok(Ok(())) => return poet_status::Ok,
        Ok(Err(error)) => error,
        Err(payload) => {
            let text = PANIC.try_with(RefCell::take).ok().flatten();
            // The hook has stored a text, unless the panic comes from a thread of the engine.
            let text = text.unwrap_or_else(|| "a defect of the library, in a thread".into());
            // Its destructor could panic again.
            std::mem::forget(payload);
            Error::new(poet_status::Panic, text)
        }
    };
    // A thread that is ending may have dropped it already.
    let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = error.text);
    error.status
}

/// Returns why the last failed call on this thread failed; empty if none has.
pub(crate) fn last_error() -> String {
    let text = LAST_ERROR.try_with(|text| text.borrow().clone());
    text.unwrap_or_default()
}

/// Keeps panics off the terminal: those in a call become its error text. Others go to the previous
/// hook, which matters only to a Rust program that has this crate as a dependency.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if INSIDE.try_with(Cell::get).unwrap_or(false) {
                let text = format!("a defect of the library: {panic}");
                let _ = PANIC.try_with(|last| *last.borrow_mut() = Some(text));
            } else if thread::current().name().is_some() {
                before(panic);
            }
            // Only the engine's helper threads remain, which have no name: their panics are
            // propagated to the call that started them.
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        let status = call(|| panic!("on purpose"));
        assert_eq!(status, poet_status::Panic);
        let text = last_error();
        assert!(text.starts_with("a defect of the library: "), "{text}");
        assert!(text.contains("on purpose"), "{text}");
        assert!(text.contains("boundary.rs"), "{text}");
    }

    #[test]
    fn success_leaves_the_last_error() {
        let status = call(|| Err(Error::argument("no")));
        assert_eq!(status, poet_status::InvalidArgument);
        assert_eq!(call(|| Ok(())), poet_status::Ok);
        assert_eq!(last_error(), "no");
    }
}
