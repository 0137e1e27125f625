//! The kernels of this CPU.

use poet_backends::{BackendReport, Excluded, SelectOptions, Selection, select_with, survey};
use poet_conformance::{Rng, reference};
use poet_engine::{Chain, LABEL_DEPTH, Node, Sha256, Work, WorkFunction};

/// The kernels of a backend that this CPU can run.
#[derive(Clone, Copy)]
pub struct RunnableBackend {
    /// The backend's name.
    pub name: &'static str,
    /// The chain.
    pub chain: &'static dyn Chain,
    /// The compression function; that of another backend, if it has none.
    pub sha256: &'static dyn Sha256,
    /// Whether it is for one chain too, not only for many.
    pub latency: bool,
}

/// Returns the kernels of all backends for `function` that this CPU can run; names the others on
/// standard error.
///
/// # Panics
/// Panics if a kernel fails its self-test.
#[must_use]
pub fn all(function: WorkFunction) -> Vec<RunnableBackend> {
    let mut kernels = Vec::new();
    for report in survey(function) {
        match report.excluded {
            None => kernels.push(usable(function, &report)),
            Some(missing @ Excluded::Unsupported { .. }) => {
                eprintln!("{function}: no {}: {missing}", report.name);
            }
            Some(failed @ Excluded::Failed { .. }) => panic!("{}: {failed}", report.name),
        }
    }
    kernels
}

/// Returns the kernels of a report that does not exclude them.
///
/// # Panics
/// Panics if they are excluded after all.
#[must_use]
pub fn usable(function: WorkFunction, report: &BackendReport) -> RunnableBackend {
    // A forced backend is used for many chains, whatever it is for.
    let kernels = *forced(function, report.name).kernels();
    RunnableBackend {
        name: report.name,
        chain: kernels.wide_chain,
        sha256: kernels.wide_sha256,
        latency: report.latency,
    }
}

fn forced(function: WorkFunction, name: &str) -> Work {
    let options = SelectOptions {
        forced: Some(name),
        trial: false,
    };
    let selection = select_with(function, options).expect("a kernel of this CPU");
    selection
        .work(LABEL_DEPTH)
        .expect("the depth of the network")
}

/// `function` x 400 on the portable kernels: slow, and independent of what is measured.
#[must_use]
pub fn portable(function: WorkFunction) -> Work {
    forced(function, "generic")
}

/// Returns the kernels on which a program would run SHA-256.
///
/// # Panics
/// Panics if the environment forces a backend that cannot be used.
#[must_use]
pub fn chosen() -> Selection {
    select_with(WorkFunction::Sha256, SelectOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Returns `count` chains of `n` hashes each: their starts, and their ends according to the oracle.
#[must_use]
pub fn chains(function: WorkFunction, count: usize, n: u32) -> (Vec<Node>, Vec<Node>) {
    let mut rng = Rng::new(n.into());
    let start: Vec<Node> = (0..count).map(|_| rng.bytes()).collect();
    let mut end = start.clone();
    reference::Reference::new(function).many(&mut end, n);
    (start, end)
}
