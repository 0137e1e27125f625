//! The library as a whole: versions, status texts, the last error.

use std::ffi::c_char;
use std::ptr;

use crate::boundary::last_error;
use crate::poet_status;

/// The major version of the ABI that this header describes. A program runs with a library of the same
/// major version and the same or a later minor version.
pub const POET_ABI_MAJOR: u32 = 1;

/// The minor version of the ABI that this header describes.
pub const POET_ABI_MINOR: u32 = 1;

/// Returns the version of the ABI that the library implements: major in the upper, minor in the
/// lower 16 bits. Compare it with POET_ABI_MAJOR and POET_ABI_MINOR if the library is loaded at run
/// time.
///
/// Any thread, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn poet_abi_version() -> u32 {
    POET_ABI_MAJOR << 16 | POET_ABI_MINOR
}

/// Returns the version of the engine, such as "0.1.0".
///
/// The text belongs to the library and stays valid. Any thread, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn poet_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// Returns the general meaning of a status, in English; "unknown status" for any other number.
/// poet_last_error gives the specific reason.
///
/// The text belongs to the library and stays valid. Any thread, at any time.
#[unsafe(no_mangle)]
pub extern "C" fn poet_status_message(status: u32) -> *const c_char {
    poet_status::message(status).as_ptr()
}

/// Copies the error text of the last failed call on the calling thread: one English sentence in
/// UTF-8, ended by a NUL byte, truncated to the buffer. It is empty if no call has failed.
/// Successful calls and failures of this function leave the text unchanged.
///
/// buffer: receives the text; capacity: its size in bytes, at least 1.
///
/// Returns OK, NULL_POINTER, BUFFER_TOO_SMALL (capacity is 0). Any thread. A runtime that moves its
/// tasks between threads must keep the task on its thread between the failed call and this one.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_last_error(buffer: *mut c_char, capacity: usize) -> poet_status {
    // A failure here must not replace the requested text, so this does not use `call`.
    if buffer.is_null() {
        return poet_status::NullPointer;
    }
    if capacity == 0 {
        return poet_status::BufferTooSmall;
    }
    let text = last_error();
    let mut length = text.len().min(capacity - 1);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    // SAFETY: not NULL, and the caller guarantees `capacity` bytes, into which the text and the NUL
    // byte fit. The text does not overlap them.
    unsafe {
        ptr::copy_nonoverlapping(text.as_ptr(), buffer.cast(), length);
        buffer.add(length).write(0);
    }
    poet_status::Ok
}
