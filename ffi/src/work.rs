//! `poet_work`: the hash functions on their own.

use std::ffi::c_char;

use poet_backends::Selection;
use poet_engine::{MAX_DEPTH, Node, Work};

use crate::backend::{POET_BACKEND_NAME_BYTES, array, function, select, work};
use crate::boundary::call;
use crate::handle::Table;
use crate::poet_status;
use crate::poet_status::InvalidLength;
use crate::pointer::{self, Out};
use crate::status::Error;

/// The number of hash invocations for a label on the Spacemesh network.
pub const POET_LABEL_DEPTH: u32 = 400;

/// The greatest depth, and the most steps of a chain in one call.
pub const POET_MAX_DEPTH: u32 = 1 << 20;

/// The longest statement.
pub const POET_MAX_STATEMENT_BYTES: usize = 1 << 24;

const _: () = assert!(POET_MAX_DEPTH == MAX_DEPTH && POET_LABEL_DEPTH == poet_engine::LABEL_DEPTH);

/// A work function of some depth on a backend: the hash functions, for a prover that keeps the tree
/// itself. It is immutable: any number of threads may use one handle at once.
pub struct poet_work {
    _private: [u8; 0],
}

/// Describes a poet_work.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_work_info {
    /// A poet_work_function.
    pub work_function: u32,
    /// The number of hash invocations for a label.
    pub depth: u32,
    /// The backend for the sequential work.
    pub one_backend: [c_char; POET_BACKEND_NAME_BYTES],
    /// The backend for many chains at once.
    pub many_backend: [c_char; POET_BACKEND_NAME_BYTES],
}

struct Opened {
    work: Work,
    info: poet_work_info,
}

static WORKS: Table<Opened> = Table::new("poet_work", 0);

/// A statement.
///
/// # Safety
/// As [`pointer::slice`].
pub(crate) unsafe fn statement<'a>(bytes: *const u8, length: usize) -> Result<&'a [u8], Error> {
    // SAFETY: the caller guarantees it.
    unsafe { pointer::slice(bytes, length, POET_MAX_STATEMENT_BYTES, "statement") }
}

/// Describes a work function on the kernels of a selection.
pub(crate) fn info(selection: &Selection, work: &Work) -> poet_work_info {
    poet_work_info {
        work_function: work.function() as u32,
        depth: work.depth(),
        one_backend: array(selection.latency().name),
        many_backend: array(selection.throughput().name),
    }
}

/// Opens the hash functions.
///
/// work_function: a poet_work_function.
/// depth: hash invocations for a label, up to POET_MAX_DEPTH; 0 means POET_LABEL_DEPTH.
/// backend: the name of one (see poet_backend_list); or "fastest" for the winner of a trial of some
/// 50 ms, which runs on its own thread; or NULL for the first in the order of preference, which is
/// within a few percent of the fastest. In the last two cases the environment variable POET_BACKEND
/// takes precedence. A backend for many chains only leaves the sequential work to another.
/// work: receives the handle; the caller must close it with poet_work_close.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT, BACKEND, OUT_OF_RESOURCES, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_work_open(
    work_function: u32,
    depth: u32,
    backend: *const c_char,
    work: *mut *mut poet_work,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (backend, out) =
            unsafe { (pointer::text(backend, "backend")?, Out::new(work, "work")?) };
        let selection = select(function(work_function)?, backend)?;
        let work = self::work(&selection, depth)?;
        let info = self::info(&selection, &work);
        out.write(WORKS.open(Opened { work, info })?);
        Ok(())
    })
}

/// Closes a handle. Calls that use it on other threads run to their end.
///
/// Returns OK, NULL_POINTER, NOT_OPEN, PANIC. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn poet_work_close(work: *mut poet_work) -> poet_status {
    call(|| WORKS.close(work))
}

/// Describes a poet_work, above all which backends it uses.
///
/// info_size: sizeof(poet_work_info) of the caller. info: receives the answer.
///
/// Returns OK, NULL_POINTER, STRUCT_SIZE, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_work_describe(
    work: *const poet_work,
    info: *mut poet_work_info,
    info_size: usize,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let info = unsafe { Out::new(info, "info") }?;
        pointer::struct_size::<poet_work_info>(info_size, "poet_work_info")?;
        WORKS.with(work, |opened| {
            info.write(opened.info);
            Ok(())
        })
    })
}

/// Makes a label: SHA-256 of statement, index (8 bytes, big-endian) and left siblings, and then the
/// chain, depth - 1 times. This is the sequential work; at depth 400 a call takes some 15 us.
///
/// statement: statement_bytes bytes, at most POET_MAX_STATEMENT_BYTES; may be NULL if there are none.
/// index: the number of the leaf, below 2^56.
/// left_siblings: left_sibling_count * 32 bytes: the left siblings on the path from the leaf to the
/// root, lowest first; one for each bit that is set in index. May be NULL if there are none.
/// label: receives 32 bytes; may overlap with the inputs.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT (the number of siblings does not fit the index),
/// INVALID_LENGTH, TOO_MANY_LEAVES, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_work_label(
    work: *const poet_work,
    statement: *const u8,
    statement_bytes: usize,
    index: u64,
    left_siblings: *const u8,
    left_sibling_count: usize,
    label: *mut u8,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (statement, left_siblings, label) = unsafe {
            (
                self::statement(statement, statement_bytes)?,
                pointer::slice(
                    left_siblings.cast::<Node>(),
                    left_sibling_count,
                    64,
                    "left_siblings",
                )?,
                pointer::out_node(label, "label")?,
            )
        };
        WORKS.with(work, |opened| {
            label.write(opened.work.label(statement, index, left_siblings)?);
            Ok(())
        })
    })
}

/// Makes an inner node of the tree: SHA-256 of statement, left and right child.
///
/// statement: as for poet_work_label. left, right: 32 bytes each.
/// node: receives 32 bytes; may overlap with the inputs.
///
/// Returns OK, NULL_POINTER, INVALID_LENGTH, NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_work_node(
    work: *const poet_work,
    statement: *const u8,
    statement_bytes: usize,
    left: *const u8,
    right: *const u8,
    node: *mut u8,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (statement, left, right, node) = unsafe {
            (
                self::statement(statement, statement_bytes)?,
                pointer::node(left, "left")?,
                pointer::node(right, "right")?,
                pointer::out_node(node, "node")?,
            )
        };
        WORKS.with(work, |opened| {
            node.write(opened.work.node(statement, &left, &right));
            Ok(())
        })
    })
}

/// Applies the work function repeatedly to 32 bytes: the nested chain on its own. The depth of the
/// poet_work is ignored. A label is the result of depth - 1 steps from its first digest.
///
/// steps: at most POET_MAX_DEPTH; 0 copies the input.
/// input: 32 bytes. output: receives 32 bytes; may be the input.
///
/// Returns OK, NULL_POINTER, INVALID_LENGTH (too many steps), NOT_OPEN, POISONED, PANIC. Any thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_work_chain(
    work: *const poet_work,
    steps: u32,
    input: *const u8,
    output: *mut u8,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let (mut digest, output) = unsafe {
            (
                pointer::node(input, "input")?,
                pointer::out_node(output, "output")?,
            )
        };
        if steps > POET_MAX_DEPTH {
            let text = format!("{steps} steps are too many: the limit is {POET_MAX_DEPTH}");
            return Err(Error::new(InvalidLength, text));
        }
        WORKS.with(work, |opened| {
            opened.work.kernels().chain.one(&mut digest, steps);
            output.write(digest);
            Ok(())
        })
    })
}
