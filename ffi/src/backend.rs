//! Work functions and the backends that compute them.

use std::ffi::{c_char, c_double};
use std::sync::OnceLock;

use poet_backends::{BackendReport, SelectOptions, Selection, select_with};
use poet_engine::{LABEL_DEPTH, Work, WorkFunction};

use crate::boundary::call;
use crate::poet_status;
use crate::poet_status::BufferTooSmall;
use crate::pointer::{self, Out};
use crate::status::Error;

/// Which 32-byte function the sequential work iterates.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum poet_work_function {
    /// SHA-256, the function of the Spacemesh network.
    Sha256 = 0,
    /// Haraka-256 v2.
    Haraka256 = 1,
}

/// The size of a backend's name in bytes, including the NUL byte.
pub const POET_BACKEND_NAME_BYTES: usize = 32;

/// The size of the reason why a backend cannot be used, including the NUL byte.
pub const POET_BACKEND_REASON_BYTES: usize = 160;

/// One implementation of a work function on this machine. All of them compute the same.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct poet_backend {
    /// The name that selects it.
    pub name: [c_char; POET_BACKEND_NAME_BYTES],
    /// Why it cannot be used; empty if it can.
    pub excluded: [c_char; POET_BACKEND_REASON_BYTES],
    /// 1 if it can do the sequential work; 0 if it is only for many chains at once, that is for
    /// proofs and verification.
    pub sequential: u32,
    /// 0.
    pub reserved: u32,
    /// Hashes a second in the sequential work; 0 if not measured.
    pub one_hashes_per_s: c_double,
    /// Hashes a second with many chains at once; 0 if not measured.
    pub many_hashes_per_s: c_double,
}

/// Returns the work function of a number.
pub(crate) fn function(number: u32) -> Result<WorkFunction, Error> {
    const SHA256: u32 = poet_work_function::Sha256 as u32;
    const HARAKA256: u32 = poet_work_function::Haraka256 as u32;
    match number {
        SHA256 => Ok(WorkFunction::Sha256),
        HARAKA256 => Ok(WorkFunction::Haraka256),
        _ => Err(Error::argument(format!("{number} is not a work function"))),
    }
}

/// The name that requests the timing trial.
const FASTEST: &str = "fastest";

/// The name of the backend that every machine has.
const PORTABLE: &str = "generic";

/// Selects the kernels of `backend`: a name, the fastest, or the first in the order of preference.
pub(crate) fn select(function: WorkFunction, backend: Option<&str>) -> Result<Selection, Error> {
    let options = |forced, trial| SelectOptions { forced, trial };
    match backend {
        Some(FASTEST) => Ok(select_with(function, options(None, true))?),
        Some(name) => Ok(select_with(function, options(Some(name), false))?),
        None => {
            // Detection and self-tests run only once.
            static SHA256: OnceLock<Selection> = OnceLock::new();
            static HARAKA256: OnceLock<Selection> = OnceLock::new();
            let known = match function {
                WorkFunction::Sha256 => &SHA256,
                WorkFunction::Haraka256 => &HARAKA256,
            };
            if let Some(selection) = known.get() {
                return Ok(selection.clone());
            }
            let selection = select_with(function, options(None, false))?;
            Ok(known.get_or_init(|| selection).clone())
        }
    }
}

/// A work function on the kernels of its selection. Depth 0 is that of the Spacemesh network.
pub(crate) fn work(selection: &Selection, depth: u32) -> Result<Work, Error> {
    let depth = if depth == 0 { LABEL_DEPTH } else { depth };
    Ok(selection.work(depth)?)
}

/// Copies text into a C array, truncated to its size.
pub(crate) fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (to, from) in array[..N - 1].iter_mut().zip(text.bytes()) {
        *to = from as c_char;
    }
    array
}

fn describe(report: &BackendReport) -> poet_backend {
    let excluded = report.excluded.as_ref().map(ToString::to_string);
    poet_backend {
        name: array(report.name),
        excluded: array(&excluded.unwrap_or_default()),
        sequential: u32::from(report.latency),
        reserved: 0,
        one_hashes_per_s: report.one_hashes_per_s.unwrap_or(0.0),
        many_hashes_per_s: report.many_hashes_per_s.unwrap_or(0.0),
    }
}

/// Lists the backends for a work function, including those that cannot be used. The order is that
/// of preference if nothing is measured. Each one must pass a self-test with known answers.
///
/// work_function: a poet_work_function.
/// measure: 0 or 1; 1 measures the rates, which takes some 50 ms and runs on its own thread.
/// backends: room for capacity entries, or NULL with capacity 0 to get only their number.
/// backend_size: sizeof(poet_backend) of the caller, the distance from one entry to the next.
/// count: receives the number of backends.
///
/// Returns OK, NULL_POINTER, INVALID_ARGUMENT, STRUCT_SIZE, BUFFER_TOO_SMALL, BACKEND, PANIC. Any
/// thread.
///
/// # Safety
/// As the header says of pointers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn poet_backend_list(
    work_function: u32,
    measure: u32,
    backends: *mut poet_backend,
    backend_size: usize,
    capacity: usize,
    count: *mut usize,
) -> poet_status {
    call(|| {
        // SAFETY: the header requires it of the caller.
        let count = unsafe { Out::new(count, "count") }?;
        let function = function(work_function)?;
        if measure > 1 {
            return Err(Error::argument(format!("measure is {measure}, not 0 or 1")));
        }
        pointer::struct_size::<poet_backend>(backend_size, "poet_backend")?;
        let wanted = !backends.is_null() || capacity > 0;
        if wanted {
            // SAFETY: as above.
            unsafe { Out::new(backends, "backends") }?;
        }
        // The portable backend always exists; naming it keeps the environment out of the list.
        let options = SelectOptions {
            forced: Some(PORTABLE),
            trial: measure == 1,
        };
        let selection = select_with(function, options)?;
        let reports = selection.reports();
        if wanted {
            if capacity < reports.len() {
                let text = format!("there are {} backends, room for {capacity}", reports.len());
                return Err(Error::new(BufferTooSmall, text));
            }
            for (i, report) in reports.iter().enumerate() {
                // SAFETY: the caller guarantees `capacity` entries of `backend_size` bytes, which
                // is no less than is written and keeps the alignment.
                unsafe {
                    let place = backends.byte_add(i * backend_size);
                    Out::new(place, "backends")?.write(describe(report));
                }
            }
        }
        count.write(reports.len());
        Ok(())
    })
}
