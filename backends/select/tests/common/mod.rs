//! The backends on which the engine's tests run.
#![allow(clippy::unwrap_used)]

use poet_backends::{Excluded, SelectOptions, select_with, survey};
use poet_conformance::suite;
use poet_engine::{Work, WorkFunction};

fn work(function: WorkFunction, depth: u32, forced: Option<&str>) -> Work {
    let options = SelectOptions {
        forced,
        trial: false,
    };
    let selection = select_with(function, options).unwrap();
    assert_eq!(selection.warnings(), [] as [String; 0]);
    selection.work(depth).unwrap()
}

/// Returns the work function on every backend of this CPU; reports those it lacks.
pub(crate) fn works(function: WorkFunction, depth: u32) -> Vec<(&'static str, Work)> {
    let mut works = Vec::new();
    for kernel in survey(function) {
        match kernel.excluded {
            None => works.push((kernel.name, work(function, depth, Some(kernel.name)))),
            Some(Excluded::Unsupported { missing }) => {
                let reason = format!("the CPU lacks {}", missing.join(", "));
                suite::not_tested(kernel.name, &reason);
            }
            Some(failed) => panic!("{}: {failed}", kernel.name),
        }
    }
    assert!(!works.is_empty());
    works
}

/// Returns the work function on the backend that comes first.
pub(crate) fn fast_work(function: WorkFunction, depth: u32) -> Work {
    work(function, depth, None)
}
