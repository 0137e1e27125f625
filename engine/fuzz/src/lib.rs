//! What the fuzz targets share: the [`oracle`] and the kernels of this CPU.
//!
//! Run one with `cargo +nightly fuzz run NAME` in the parent folder, or all for a short time with
//! `.ci/fuzz`.
#![forbid(unsafe_code)]

pub mod oracle;

use std::sync::LazyLock;

use poet_backends::{SelectOptions, select_with, survey};
use poet_engine::{Kernels, WorkFunction};

/// The kernels of this CPU, for both work functions. The last one of each is the portable one.
pub static KERNELS: LazyLock<Vec<(WorkFunction, &'static str, Kernels)>> = LazyLock::new(|| {
    let mut kernels = Vec::new();
    for function in [WorkFunction::Sha256, WorkFunction::Haraka256] {
        for report in survey(function) {
            if report.excluded.is_some() {
                continue;
            }
            let options = SelectOptions {
                forced: Some(report.name),
                trial: false,
            };
            let work = select_with(function, options).and_then(|selection| Ok(selection.work(1)));
            let kernels_of = *work.expect("it is usable").expect("1 is a depth").kernels();
            kernels.push((function, report.name, kernels_of));
        }
    }
    kernels
});
