//! The kernels of this CPU.

use poet_backends::{Excluded, KernelReport, Options, Selection, select_with, survey};
use poet_conformance::{Rng, reference};
use poet_engine::{Chain, LABEL_DEPTH, Node, Sha256, Work, WorkFunction};

/// A kernel that this CPU can run.
#[derive(Clone, Copy)]
pub struct Kernel {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub chain: &'static dyn Chain,
    /// Its compression function; that of another kernel, if it has none.
    pub sha256: &'static dyn Sha256,
    /// Whether it is for one chain too, and not for many only.
    pub latency: bool,
}

/// All kernels for `function` that this CPU can run; the others are named on standard error.
///
/// # Panics
/// When a kernel fails its self-test.
#[must_use]
pub fn all(function: WorkFunction) -> Vec<Kernel> {
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

/// The kernel of a report in which nothing excludes it.
///
/// # Panics
/// When it is excluded after all.
#[must_use]
pub fn usable(function: WorkFunction, report: &KernelReport) -> Kernel {
    // A forced kernel is used for many chains, whatever it is for.
    let kernels = *forced(function, report.name).kernels();
    Kernel {
        name: report.name,
        chain: kernels.wide_chain,
        sha256: kernels.wide_sha256,
        latency: report.latency,
    }
}

fn forced(function: WorkFunction, name: &str) -> Work {
    let options = Options {
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

/// The kernels that a program would run SHA-256 on.
///
/// # Panics
/// When the environment forces a kernel that cannot be used.
#[must_use]
pub fn chosen() -> Selection {
    select_with(WorkFunction::Sha256, Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// `count` chains of `n` hashes each: what they start from, and, from the oracle, what they end in.
#[must_use]
pub fn chains(function: WorkFunction, count: usize, n: u32) -> (Vec<Node>, Vec<Node>) {
    let mut rng = Rng::new(n.into());
    let start: Vec<Node> = (0..count).map(|_| rng.bytes()).collect();
    let mut end = start.clone();
    reference::Reference::new(function).many(&mut end, n);
    (start, end)
}
