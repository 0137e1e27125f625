//! Arguments from C: checked before they are read, written only at the end.
//!
//! What cannot be checked is left to the caller and required by the header: a pointer that is
//! neither NULL nor misaligned must point to as much memory as the call reads or writes, and
//! nothing else may write to it during the call.

use std::ffi::{CStr, c_char};
use std::{ptr, slice};

use poet_engine::{NODE_SIZE, Node};

use crate::poet_status::{BufferTooSmall, InvalidLength, NullPointer, StructSize};
use crate::status::Error;

/// No struct of this ABI will ever be larger.
const MAX_STRUCT_BYTES: usize = 4096;

fn null(name: &str) -> Error {
    Error::new(NullPointer, format!("{name} is NULL"))
}

fn check<T>(pointer: *const T, name: &str) -> Result<(), Error> {
    if pointer.is_null() {
        return Err(null(name));
    }
    if !pointer.is_aligned() {
        return Err(Error::argument(format!("{name} is not aligned")));
    }
    Ok(())
}

/// Returns `count` values, at most `limit`. If `count` is 0, the pointer may be NULL.
///
/// # Safety
/// If `pointer` is neither NULL nor misaligned and `count` is not over `limit`, there must be
/// `count` values that are not written to as long as `'a` lasts.
pub(crate) unsafe fn slice<'a, T>(
    pointer: *const T,
    count: usize,
    limit: usize,
    name: &str,
) -> Result<&'a [T], Error> {
    if count == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    if count > limit || count > isize::MAX as usize / size_of::<T>().max(1) {
        let text = format!("{name} has length {count}, the limit is {limit}");
        return Err(Error::new(InvalidLength, text));
    }
    // SAFETY: not NULL, aligned, within the size of memory; the caller guarantees the rest.
    Ok(unsafe { slice::from_raw_parts(pointer, count) })
}

/// Reads the 32 bytes of a node.
///
/// # Safety
/// If `pointer` is not NULL, there must be 32 bytes.
pub(crate) unsafe fn node(pointer: *const u8, name: &str) -> Result<Node, Error> {
    check(pointer, name)?;
    // SAFETY: not NULL, bytes are always aligned, and the caller guarantees 32 of them.
    Ok(unsafe { pointer.cast::<Node>().read() })
}

/// Returns a text that ends with a NUL byte; `None` for NULL.
///
/// # Safety
/// If `pointer` is not NULL, there must be a NUL byte, and nothing up to it may be written to as
/// long as `'a` lasts.
pub(crate) unsafe fn text<'a>(
    pointer: *const c_char,
    name: &str,
) -> Result<Option<&'a str>, Error> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL; the caller guarantees the NUL byte.
    let text = unsafe { CStr::from_ptr(pointer) }.to_str();
    let text = text.map_err(|_| Error::argument(format!("{name} is not UTF-8")))?;
    Ok(Some(text))
}

/// Reads the part of a versioned struct that this version knows, given the caller's size of it. The
/// part after that must be zero.
///
/// # Safety
/// If `pointer` is neither NULL nor misaligned and `size` is from `size_of::<T>()` to 4096, there
/// must be `size` bytes, of which the first are a `T`.
pub(crate) unsafe fn versioned<T: Copy>(
    pointer: *const T,
    size: usize,
    name: &str,
) -> Result<T, Error> {
    check(pointer, name)?;
    struct_size::<T>(size, name)?;
    // SAFETY: not NULL; the caller guarantees `size` bytes.
    let bytes = unsafe {
        slice::from_raw_parts(
            pointer.cast::<u8>().add(size_of::<T>()),
            size - size_of::<T>(),
        )
    };
    if bytes.iter().any(|byte| *byte != 0) {
        let text = format!("{name} sets a field that this version does not know");
        return Err(Error::new(StructSize, text));
    }
    // SAFETY: not NULL, aligned; the caller guarantees a `T`.
    Ok(unsafe { pointer.read() })
}

/// Reads the size at the start of a versioned struct.
///
/// # Safety
/// If `pointer` is neither NULL nor misaligned, it must point to a `size_t`.
pub(crate) unsafe fn leading_size<T>(pointer: *const T, name: &str) -> Result<usize, Error> {
    check(pointer, name)?;
    // SAFETY: not NULL, aligned for a struct that begins with a `size_t`; the caller guarantees the
    // rest.
    Ok(unsafe { pointer.cast::<usize>().read() })
}

/// Checks the caller's size of a struct.
pub(crate) fn struct_size<T>(size: usize, name: &str) -> Result<(), Error> {
    size_in(size, size_of::<T>(), align_of::<T>(), name)
}

fn size_in(size: usize, least: usize, align: usize, name: &str) -> Result<(), Error> {
    if (least..=MAX_STRUCT_BYTES).contains(&size) && size.is_multiple_of(align) {
        return Ok(());
    }
    let text = format!("{name} has size {size}, expected {least} (or more, from a later version)");
    Err(Error::new(StructSize, text))
}

/// The destination of a struct that the library fills in, as large as the caller's version of it.
pub(crate) struct OutVersioned<T> {
    place: *mut T,
    size: usize,
}

impl<T: Copy> OutVersioned<T> {
    /// Checks the pointer and the caller's size of the struct, which must be at least `least`, the
    /// size in the first version.
    ///
    /// # Safety
    /// If `pointer` is neither NULL nor misaligned and `size` is from `least` to 4096, there must
    /// be room for `size` bytes that nothing else uses as long as this lives.
    pub(crate) unsafe fn new(
        pointer: *mut T,
        size: usize,
        least: usize,
        name: &str,
    ) -> Result<Self, Error> {
        check(pointer, name)?;
        size_in(size, least, align_of::<T>(), name)?;
        Ok(Self {
            place: pointer,
            size: size.min(size_of::<T>()),
        })
    }

    /// Writes the part of `value` that the caller knows.
    pub(crate) fn write(self, value: &T) {
        // SAFETY: checked in `new`, whose caller guarantees the room; no more is copied than
        // `value` has, which is the library's.
        unsafe {
            self.place
                .cast::<u8>()
                .copy_from_nonoverlapping(ptr::from_ref(value).cast::<u8>(), self.size);
        }
    }
}

/// The destination of an output.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    /// Checks the pointer.
    ///
    /// # Safety
    /// If `pointer` is neither NULL nor misaligned, there must be room for a `T` that nothing else
    /// uses as long as the `Out` lives.
    pub(crate) unsafe fn new(pointer: *mut T, name: &str) -> Result<Self, Error> {
        check(pointer, name)?;
        Ok(Self(pointer))
    }

    pub(crate) fn write(self, value: T) {
        // SAFETY: checked in `new`, whose caller guarantees the room.
        unsafe { self.0.write(value) }
    }
}

/// The destination of a node's 32 bytes.
///
/// # Safety
/// If `pointer` is not NULL, there must be room for 32 bytes, as for [`Out::new`].
pub(crate) unsafe fn out_node(pointer: *mut u8, name: &str) -> Result<Out<Node>, Error> {
    // SAFETY: the caller guarantees the same; the alignment of a node is that of a byte.
    unsafe { Out::new(pointer.cast::<[u8; NODE_SIZE]>(), name) }
}

/// Writes `values` to a buffer of the caller with room for `capacity` of them, and their number to
/// `count`. Without a buffer (NULL and no capacity) only the number is written.
///
/// # Safety
/// If `buffer` is neither NULL nor misaligned, there must be room for `capacity` values that
/// nothing else uses; `count` must be as for [`Out::new`].
pub(crate) unsafe fn write_all<T: Copy>(
    values: &[T],
    buffer: *mut T,
    capacity: usize,
    count: *mut usize,
    name: &str,
) -> Result<(), Error> {
    // SAFETY: the caller guarantees it.
    let count = unsafe { Out::new(count, "the output for the count") }?;
    if !buffer.is_null() || capacity > 0 {
        check(buffer, name)?;
        if capacity < values.len() {
            let text = format!(
                "{name} has room for {capacity}, {} are needed",
                values.len()
            );
            return Err(Error::new(BufferTooSmall, text));
        }
        // SAFETY: not NULL, aligned, and the caller guarantees the room, which does not overlap
        // `values`: those are the library's.
        unsafe { buffer.copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    }
    count.write(values.len());
    Ok(())
}
