//! Chooses the core of the hashing thread: the fastest that no other server uses.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use crate::{
    MAX_CORES, WorkCore,
    affinity::on_cores,
    claim::{Claim, NoClaim},
    interrupts::Interrupts,
    list,
    read::{parse_list, text},
};

/// The time to measure all cores together, and the least and the most for one of them.
const TRIAL: Duration = Duration::from_millis(400);
const CORE_TRIAL: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(40)];
/// Smaller differences are noise.
const MARGIN: f64 = 1.01;

/// Does some of the work, and returns the number of hashes.
pub(crate) type Hash<'a> = &'a (dyn Fn() -> u64 + Sync);
/// Claims a core for this process.
pub(crate) type TakeClaim<'a> = &'a dyn Fn(usize) -> Result<Claim, NoClaim>;

/// A core, and the reason for it.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) core: usize,
    pub(crate) why: String,
    /// `None` if another process has the core, or the system has no claims.
    pub(crate) claim: Option<Claim>,
}

/// Chooses among `allowed`, or takes the requested core.
pub(crate) fn choose(
    core: WorkCore,
    allowed: &[usize],
    hash: Hash<'_>,
    claim: TakeClaim<'_>,
) -> Option<Choice> {
    if let WorkCore::Number(core) = core {
        // It may be isolated from the scheduler, and so not be among the allowed ones.
        if core >= MAX_CORES || on_cores(&[core], || ()).is_none() {
            tracing::warn!(
                "--work-core={core}: the system does not let this process run there, the hashing \
                 thread shares cores {}",
                list(allowed)
            );
            return None;
        }
        return Some(claimed(core, "--work-core".to_owned(), claim));
    }
    let candidates = candidates(allowed, siblings);
    let count = u32::try_from(candidates.len()).unwrap_or(u32::MAX).max(1);
    let time = (TRIAL / count).clamp(CORE_TRIAL[0], CORE_TRIAL[1]);
    let rates = candidates
        .iter()
        .filter_map(|core| Some((*core, on_cores(&[*core], || hash_rate(hash, time))?)));
    let rates: Vec<(usize, f64)> = rates.collect();
    // Without the table, all cores count as having none.
    let interrupts = Interrupts::read(Path::new("/")).unwrap_or_default();
    let interrupts = rates
        .iter()
        .filter_map(|(core, _)| Some((*core, interrupts.of_devices(*core)?)));
    let order = order(&rates, &interrupts.collect());
    let Some((fastest, _)) = order.first().copied() else {
        tracing::warn!(
            "no core for the hashing thread: the system does not let threads choose one"
        );
        return None;
    };
    for (core, rate) in order {
        let rate = format!("{:.2} M hashes/s", rate / 1e6);
        match claim(core) {
            Ok(claim) => {
                let why = if core == fastest {
                    format!("fastest of {count}, {rate}")
                } else {
                    format!("fastest of {count} that no other server has, {rate}")
                };
                let claim = Some(claim);
                return Some(Choice { core, why, claim });
            }
            Err(NoClaim::Taken(_)) => {}
            Err(NoClaim::Unknown) => break,
        }
    }
    Some(claimed(fastest, format!("fastest of {count}"), claim))
}

/// Chooses this core, even if another server has it.
fn claimed(core: usize, why: String, claim: TakeClaim<'_>) -> Choice {
    let claim = match claim(core) {
        Ok(claim) => Some(claim),
        Err(taken) => {
            warn_if_taken(core, &taken);
            None
        }
    };
    Choice { core, why, claim }
}

/// Warns that two servers halve each other's speed.
pub(crate) fn warn_if_taken(core: usize, taken: &NoClaim) {
    if let NoClaim::Taken(process) = taken {
        let process = process.map_or("another process".to_owned(), |id| format!("process {id}"));
        tracing::warn!(
            "core {core} is also the work core of {process}: both servers will make about half of \
             their ticks; give each a core of its own with --work-core"
        );
    }
}

/// Measures the hash rate. The first third of the time lets the clock rise.
fn hash_rate(hash: Hash<'_>, time: Duration) -> f64 {
    let run_for = |time: Duration| {
        let (start, mut hashes) = (Instant::now(), 0);
        while start.elapsed() < time {
            hashes += hash();
        }
        hashes as f64 / start.elapsed().as_secs_f64()
    };
    run_for(time / 3);
    run_for(time * 2 / 3)
}

/// Keeps one of the cores that share execution units.
fn candidates(allowed: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Vec<usize> {
    let last = |core: &usize| {
        let siblings = siblings(*core);
        !siblings
            .iter()
            .any(|sibling| sibling > core && allowed.contains(sibling))
    };
    allowed.iter().copied().filter(last).collect()
}

/// Orders the cores from best to worst. Among those equally fast, the one with the fewest device
/// interrupts comes first, and among those the last.
fn order(rates: &[(usize, f64)], interrupts: &BTreeMap<usize, u64>) -> Vec<(usize, f64)> {
    let mut rest = rates.to_vec();
    let mut order = Vec::new();
    while let Some(best) = rest.iter().map(|(_, rate)| *rate).max_by(f64::total_cmp) {
        let fast = rest.iter().filter(|(_, rate)| rate * MARGIN >= best);
        let Some(next) = fast
            .max_by_key(|(core, _)| (Reverse(interrupts.get(core)), *core))
            .copied()
        else {
            break;
        };
        rest.retain(|(core, _)| *core != next.0);
        order.push(next);
    }
    order
}

/// Returns the cores that share the execution units of `core`, including itself.
pub(crate) fn siblings(core: usize) -> Vec<usize> {
    let path = format!("sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list");
    // If the system does not report them, there are none.
    parse_list(&text(Path::new("/"), &path).unwrap_or_default())
}

/// Returns the cores on which all other threads run.
pub(crate) fn others(allowed: &[usize], core: usize, siblings: &[usize]) -> Vec<usize> {
    let without = |taken: &[usize]| -> Vec<usize> {
        let rest = allowed.iter().copied();
        rest.filter(|other| *other != core && !taken.contains(other))
            .collect()
    };
    let apart = without(siblings);
    if apart.is_empty() {
        without(&[])
    } else {
        apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{affinity, claim};

    /// Four physical cores: 0 to 3, with siblings 4 to 7.
    fn smt(core: usize) -> Vec<usize> {
        vec![core % 4, core % 4 + 4]
    }

    #[test]
    fn one_sibling_stands_for_all() {
        assert_eq!(candidates(&[0, 1, 2, 3, 4, 5, 6, 7], smt), [4, 5, 6, 7]);
        assert_eq!(candidates(&[0, 1, 4], smt), [1, 4]);
        assert_eq!(candidates(&[3, 5], |_| Vec::new()), [3, 5]);
    }

    #[test]
    fn the_fastest_core_is_first_and_noise_does_not_choose() {
        let cores = |rates: &[(usize, f64)], interrupts: &BTreeMap<usize, u64>| -> Vec<usize> {
            let order = order(rates, interrupts);
            order.into_iter().map(|(core, _)| core).collect()
        };
        let none = BTreeMap::new();
        assert_eq!(cores(&[(0, 10.0), (1, 12.0), (2, 11.0)], &none), [1, 2, 0]);
        let rates = [(0, 10.05), (1, 10.0), (2, 9.0)];
        assert_eq!(cores(&rates, &none), [1, 0, 2]);
        let busy = BTreeMap::from([(0, 7), (1, 5000), (2, 0)]);
        assert_eq!(cores(&rates, &busy), [0, 1, 2]);
        assert!(cores(&[], &none).is_empty());
        assert_eq!(cores(&[(0, f64::NAN)], &none).len(), 0);
    }

    #[test]
    fn the_others_keep_away_from_the_core_and_its_siblings() {
        let all = [0, 1, 2, 3, 4, 5, 6, 7];
        assert_eq!(others(&all, 5, &smt(5)), [0, 2, 3, 4, 6, 7]);
        // Cores that are not allowed are excluded; the hashing thread may use one.
        assert_eq!(others(&[0, 1], 7, &smt(7)), [0, 1]);
        // Only the sibling is left.
        assert_eq!(others(&[0, 4], 4, &smt(4)), [0]);
        assert_eq!(others(&[0, 1], 1, &[1]), [0]);
    }

    fn hash() -> u64 {
        std::hint::spin_loop();
        1
    }

    #[test]
    fn the_fastest_is_one_of_those_allowed() {
        let here = affinity::allowed();
        let free = |_: usize| Err(NoClaim::Unknown);
        let choice = choose(WorkCore::Auto, &here, &hash, &free).unwrap();
        assert!(here.contains(&choice.core) && choice.why.starts_with("fastest of "));
        let named = choose(WorkCore::Number(here[0]), &here, &hash, &free).unwrap();
        assert_eq!((named.core, &*named.why), (here[0], "--work-core"));
        for missing in [MAX_CORES - 1, MAX_CORES] {
            assert!(choose(WorkCore::Number(missing), &here, &hash, &free).is_none());
        }
    }

    #[test]
    fn a_core_of_another_server_is_passed_over() {
        let here = affinity::allowed();
        // Each test uses its own name in place of the core's.
        let own = |core: usize| {
            claim::claim_name(&format!("poet-host/choice/{}/{core}", std::process::id()))
        };
        let first = choose(WorkCore::Auto, &here, &hash, &own).unwrap();
        assert!(first.claim.is_some());
        let mut taken = vec![first];
        for _ in 1..candidates(&here, siblings).len() {
            let next = choose(WorkCore::Auto, &here, &hash, &own).unwrap();
            assert!(next.claim.is_some());
            assert!(taken.iter().all(|other| other.core != next.core));
            taken.push(next);
        }
        // All are taken: the fastest is shared, with a warning.
        let shared = choose(WorkCore::Auto, &here, &hash, &own).unwrap();
        assert!(shared.claim.is_none() && here.contains(&shared.core));
        let named = choose(WorkCore::Number(taken[0].core), &here, &hash, &own).unwrap();
        assert!(named.claim.is_none() && named.core == taken[0].core);
    }
}
