//! Short forms of calls that succeed.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::ptr::{null, null_mut};

use poet::*;

pub(crate) const STATEMENT: &[u8] = b"statement";

/// A handle on its way to another thread.
pub(crate) struct Sendable(pub(crate) *mut poet_worker);
// SAFETY: a handle is not an address, and the library checks it on every thread.
unsafe impl Send for Sendable {}

/// A worker in memory with labels of small depth.
pub(crate) fn options() -> poet_worker_options {
    poet_worker_options {
        struct_size: size_of::<poet_worker_options>(),
        statement: STATEMENT.as_ptr(),
        statement_bytes: STATEMENT.len(),
        log_directory: null(),
        backend: null(),
        work_function: 0,
        depth: 5,
        subtree_height: 0,
        reserved: 0,
    }
}

pub(crate) fn last_error() -> String {
    let mut buffer = [0; 300];
    // SAFETY: the buffer has that length.
    let status = unsafe { poet_last_error(buffer.as_mut_ptr(), buffer.len()) };
    assert_eq!(status, poet_status::Ok);
    // SAFETY: the call has ended it with a NUL byte.
    let text = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    text.to_str().unwrap().to_owned()
}

#[track_caller]
pub(crate) fn ok(status: poet_status) {
    assert_eq!(status, poet_status::Ok, "{}", last_error());
}

/// Returns the status of opening a worker; no handle stays open.
pub(crate) fn status(options: &poet_worker_options) -> poet_status {
    let mut worker = null_mut();
    // SAFETY: all pointers are as the options say.
    let status = unsafe { poet_worker_open(options, &raw mut worker) };
    match status {
        poet_status::Ok => ok(poet_worker_close(worker)),
        _ => assert!(worker.is_null(), "an output of a call that failed"),
    }
    status
}

#[track_caller]
pub(crate) fn open(options: &poet_worker_options) -> *mut poet_worker {
    let mut worker = null_mut();
    // SAFETY: all pointers are as the options say.
    ok(unsafe { poet_worker_open(options, &raw mut worker) });
    worker
}

#[track_caller]
pub(crate) fn advance(worker: *mut poet_worker, leaves: u64, time_us: u64) -> poet_advanced {
    let mut ended = MaybeUninit::uninit();
    // SAFETY: there is room.
    ok(unsafe { poet_worker_advance(worker, leaves, time_us, ended.as_mut_ptr()) });
    // SAFETY: the call was successful.
    unsafe { ended.assume_init() }
}

pub(crate) fn leaves(worker: *mut poet_worker) -> u64 {
    let mut leaves = 0;
    // SAFETY: there is room.
    ok(unsafe { poet_worker_leaves(worker, &raw mut leaves) });
    leaves
}

pub(crate) fn progress(worker: *mut poet_worker) -> poet_worker_progress {
    let mut progress = MaybeUninit::uninit();
    let size = size_of::<poet_worker_progress>();
    // SAFETY: there is room.
    ok(unsafe { poet_worker_read_progress(worker, progress.as_mut_ptr(), size) });
    // SAFETY: the call was successful.
    unsafe { progress.assume_init() }
}

pub(crate) fn root(worker: *mut poet_worker) -> [u8; 32] {
    let mut root = [0; 32];
    // SAFETY: there is room.
    ok(unsafe { poet_worker_root(worker, root.as_mut_ptr()) });
    root
}

pub(crate) fn describe(work: *mut poet_work) -> poet_work_info {
    let mut info = MaybeUninit::uninit();
    let size = size_of::<poet_work_info>();
    // SAFETY: there is room.
    ok(unsafe { poet_work_describe(work, info.as_mut_ptr(), size) });
    // SAFETY: the call was successful.
    unsafe { info.assume_init() }
}

pub(crate) fn describe_worker(worker: *mut poet_worker) -> poet_work_info {
    let mut info = MaybeUninit::uninit();
    let size = size_of::<poet_work_info>();
    // SAFETY: there is room.
    ok(unsafe { poet_worker_describe(worker, info.as_mut_ptr(), size) });
    // SAFETY: the call was successful.
    unsafe { info.assume_init() }
}

#[track_caller]
pub(crate) fn encode(proof: *mut poet_proof) -> Vec<u8> {
    let mut length = 0;
    // SAFETY: without a buffer only the length is written.
    ok(unsafe { poet_proof_encode(proof, null_mut(), 0, &raw mut length) });
    let mut bytes = vec![0; length];
    // SAFETY: there is room.
    ok(unsafe { poet_proof_encode(proof, bytes.as_mut_ptr(), length, &raw mut length) });
    bytes
}
