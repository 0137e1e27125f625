//! What is known of kinds of cores, whatever machine they are in.

use poet_host::Machine;

/// 31 steps of two rounds at 4 cycles each, and 7 for the last with the way to the next hash.
const GOLDEN_COVE_CYCLES: f64 = 131.0;

/// The bound of the instruction set for a chain of SHA-256 on the core, in cycles a hash; it is known
/// for few CPUs.
#[must_use]
pub fn sha256_bound(machine: &Machine, core: usize) -> Option<f64> {
    let efficiency = machine.core(core)?.kind.as_deref() == Some("efficiency");
    let known = machine.microarchitecture.as_deref() == Some("Golden Cove");
    (known && !efficiency).then_some(GOLDEN_COVE_CYCLES)
}
