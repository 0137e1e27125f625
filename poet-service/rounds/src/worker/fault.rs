//! Deliberate faults, to test that they are found. Only with the feature `fault-injection`.
//!
//! The environment variable `POET_FAULT` names a fault. It happens once:
//!
//! | value | what is flipped |
//! |---|---|
//! | `label@N` | a bit of label N |
//! | `statement@N` | a bit of the statement, as the hashing thread has it, at leaf N |
//! | `parked:H@N` | a bit of its parked node at height H, at leaf N or the first one after with such a node |
//! | `prefix:H@N` | a bit of what it keeps of that node for the parent |
//! | `queue@N` | a bit of the entry that ends at leaf N or after, on its way to the writer |
//! | `proof@N` | a bit of each of the first N proofs |
//! | `long-audit@N` | the same; and an audit of a whole log takes as long as it may, as of a log of days |

use std::{
    env,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use poet_engine::{
    Node, Proof, SubtreeHeight, Tree,
    fault::{Fault, run_with_fault},
};

const VARIABLE: &str = "POET_FAULT";
const LONG_AUDIT: &str = "long-audit";

/// The fault that is still to happen: its name, and the number after the `@`.
static PENDING: LazyLock<Mutex<Option<(String, u64)>>> = LazyLock::new(|| {
    let pending = env::var(VARIABLE).ok().map(|text| {
        let parsed = text.split_once('@');
        let parsed =
            parsed.and_then(|(what, number)| Some((what.to_owned(), number.parse().ok()?)));
        parsed.unwrap_or_else(|| panic!("{VARIABLE}={text} names no fault"))
    });
    Mutex::new(pending)
});

/// Like [`poet_engine::run()`].
pub(super) fn run(
    tree: &mut Tree,
    subtree_height: SubtreeHeight,
    target: &AtomicU64,
    progress: &AtomicU64,
    mut log: impl FnMut(Node),
) {
    let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    let fault = pending.take_if(|(what, at)| !of_proof(what) && *at >= tree.leaves());
    drop(pending);
    let Some((what, at)) = fault else {
        return poet_engine::run(tree, subtree_height, target, progress, log);
    };
    let height = |prefix| what.strip_prefix(prefix).and_then(|h: &str| h.parse().ok());
    let fault = match what.as_str() {
        "label" => Fault::Label,
        "statement" => Fault::Statement,
        "queue" => {
            let mut pending = true;
            let flipping = |mut root: Node| {
                if pending && progress.load(Relaxed) >= at {
                    root[11] ^= 2;
                    pending = false;
                }
                log(root);
            };
            return poet_engine::run(tree, subtree_height, target, progress, flipping);
        }
        _ => match (height("parked:"), height("prefix:")) {
            (Some(height), _) => Fault::Parked(height),
            (_, Some(height)) => Fault::Prefix(height),
            _ => panic!("{VARIABLE} names no fault: {what}"),
        },
    };
    run_with_fault(tree, subtree_height, target, progress, log, at, fault);
}

/// Returns the proof, spoilt if the fault says so.
pub(super) fn proof(mut proof: Proof) -> Proof {
    let mut pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((what, left)) = &mut *pending
        && of_proof(what)
        && *left > 0
    {
        *left -= 1;
        proof.proven_leaves[3][5] ^= 1;
    }
    proof
}

/// Returns whether this is a fault of proofs.
fn of_proof(what: &str) -> bool {
    what == "proof" || what == LONG_AUDIT
}

/// Called when the audit of a whole log begins. Waits, if the fault says so.
pub(super) fn audit(stop: &AtomicBool) {
    let is_long = {
        let pending = PENDING.lock().unwrap_or_else(PoisonError::into_inner);
        pending.as_ref().is_some_and(|(what, _)| what == LONG_AUDIT)
    };
    while is_long && !stop.load(Relaxed) {
        thread::sleep(Duration::from_millis(10));
    }
}
