//! A whole measurement, from options to a report.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use anyhow::{Result, bail, ensure};
use poet_backends::{Options as BackendOptions, Selection, select_with};
use poet_engine::WorkFunction;

use crate::check::Measured;
use crate::endurance::endurance;
use crate::known;
use crate::measure::{self, Plan};
use crate::options::Measurement;
use crate::pinning;
use crate::report::{
    Cores, Endurance, FORMAT, Prover, Report, SCHEMA, Settings, Verdict, Yardstick, ticks,
};
use crate::sections::{list, percent, thousands};
use poet_host::Machine;
use poet_host::affinity;
use poet_host::sensors::CpuTimes;

/// How long a check runs the prover.
const CHECK: std::time::Duration = std::time::Duration::from_secs(5);

impl Plan {
    fn new(options: &Measurement, cores: usize) -> Self {
        let plan = if options.quick {
            Self {
                cores_s: 0.3,
                visits: 3,
                load_s: None,
                backends_s: 0.3,
                prover_s: 0.3,
            }
        } else {
            Self {
                cores_s: 15.0,
                visits: 9,
                load_s: None,
                backends_s: 12.0,
                prover_s: 25.0,
            }
        };
        match (options.survey, options.quick) {
            (false, _) => plan,
            (true, true) => Self {
                load_s: Some(0.3),
                ..plan
            },
            (true, false) => Self {
                // Three seconds for each core, in many visits.
                cores_s: 3.0 * cores as f64,
                visits: 15,
                load_s: Some(6.0),
                ..plan
            },
        }
    }
}

/// Measures this machine.
///
/// # Errors
/// When the options cannot be met here, or something is computed wrong.
pub fn measure(options: &Measurement, stop: &AtomicBool) -> Result<Report> {
    let started = jiff::Timestamp::now();
    let machine = Machine::read(Path::new("/"));
    let allowed = affinity::allowed();
    allowed_core(&machine, &allowed, options.core)?;
    if let Some(nice) = options.priority {
        pinning::set_priority(nice)?;
    }
    let selection = selection(options.work, options.backend.as_deref())?;

    let (cores, skipped) = measure::candidates(&machine, &allowed, options.core);
    let plan = Plan::new(options, cores.len());
    let cores = measure::cores(&selection, options.work, &machine, &cores, skipped, &plan)?;
    let core = cores.best;
    let loads = match plan.load_s {
        Some(seconds) => {
            let turns = plan.visits;
            measure::loads(
                &selection,
                options.work,
                &machine,
                &allowed,
                core,
                seconds,
                turns,
            )?
        }
        None => Vec::new(),
    };
    let hashes_per_leaf = measure::hashes_per_leaf(&selection)?;
    let (backends, yardstick) = measure::backends(
        &selection,
        options.work,
        core,
        hashes_per_leaf,
        plan.backends_s,
    )?;
    let prover = measure::prover(&selection, core, hashes_per_leaf, plan.prover_s)?;
    let endurance = match options.duration {
        Some(length) => Some(endurance(&selection, core, length, stop)?),
        None => None,
    };
    let bound = match options.work {
        WorkFunction::Sha256 => known::sha256_bound(&machine, core),
        WorkFunction::Haraka256 => None,
    };
    let mut verdict = verdict(
        options,
        &cores,
        &prover,
        endurance.as_ref(),
        &yardstick,
        bound,
    );
    verdict.doubts.extend(selection.warnings().iter().cloned());
    Ok(Report {
        format: FORMAT.to_owned(),
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        // Whole seconds.
        started: started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        settings: Settings {
            work: options.work.name().to_owned(),
            backend: options.backend.clone(),
            core: options.core,
            priority: options.priority,
            quick: options.quick,
            hwloc: cfg!(feature = "hwloc"),
            tick_size: options.tick_size,
            round_s: options.round.as_secs_f64(),
        },
        machine,
        backends,
        yardstick,
        cores,
        loads,
        prover,
        endurance,
        verdict,
    })
}

/// Measures what a check needs.
///
/// # Errors
/// As [`measure()`].
pub fn check(core: Option<usize>) -> Result<(Machine, Measured)> {
    let function = WorkFunction::Sha256;
    let machine = Machine::read(Path::new("/"));
    let allowed = affinity::allowed();
    allowed_core(&machine, &allowed, core)?;
    let selection = selection(function, None)?;
    let (cores, skipped) = measure::candidates(&machine, &allowed, core);
    let plan = Plan {
        cores_s: 3.0,
        visits: 5,
        load_s: None,
        backends_s: 0.0,
        prover_s: 0.0,
    };
    let cores = measure::cores(&selection, function, &machine, &cores, skipped, &plan)?;
    let core = cores.best;
    let best = cores.measured.iter().find(|measured| measured.id == core);
    let clock_hz = best.and_then(|best| best.clock_hz).map(|hz| hz.median);
    let times = || CpuTimes::read(Path::new("/"), Some(core));
    let before = times();
    let run = endurance(&selection, core, CHECK, &AtomicBool::new(false))?;
    let passed = times()
        .zip(before)
        .map(|(after, before)| after.since(before));
    let siblings = machine
        .core(core)
        .map(|core| core.siblings.as_slice())
        .unwrap_or_default();
    let sibling = if allowed.iter().any(|id| siblings.contains(id)) {
        let loads = measure::loads(&selection, function, &machine, &allowed, core, 1.0, 5)?;
        loads
            .into_iter()
            .find(|load| load.name == measure::SIBLING_BUSY)
    } else {
        None
    };
    let steal = passed.and_then(CpuTimes::steal_share);
    Ok((
        machine,
        Measured {
            core,
            clock_hz,
            run,
            steal,
            sibling,
        },
    ))
}

fn selection(function: WorkFunction, forced: Option<&str>) -> Result<Selection> {
    let options = BackendOptions {
        forced,
        trial: true,
    };
    Ok(select_with(function, options)?)
}

fn allowed_core(machine: &Machine, allowed: &[usize], core: Option<usize>) -> Result<()> {
    ensure!(
        !allowed.is_empty(),
        "this system does not tell which cores may be used"
    );
    let Some(id) = core.filter(|id| !allowed.contains(id)) else {
        return Ok(());
    };
    let may = format!("this process may use {}", list(allowed));
    match machine.core(id) {
        None => bail!("core {id} does not exist; {may}"),
        Some(core) if !core.online => bail!("core {id} is switched off; {may}"),
        Some(_) => bail!("core {id} may not be used (affinity or control group); {may}"),
    }
}

fn verdict(
    options: &Measurement,
    cores: &Cores,
    prover: &Prover,
    endurance: Option<&Endurance>,
    yardstick: &Yardstick,
    bound: Option<f64>,
) -> Verdict {
    let median = prover.leaves_per_s.median;
    let leaves_per_s = endurance.map_or(median, |run| run.leaves_per_s);
    let (leaves_per_round, ticks) =
        ticks(leaves_per_s, options.round.as_secs_f64(), options.tick_size);
    let bound_reached = bound
        .zip(prover.cycles_per_leaf)
        .map(|(bound, cycles)| bound * prover.hashes_per_leaf / cycles.median);
    let mut doubts = Vec::new();
    if options.quick {
        doubts
            .push("This was a trial run of seconds (--quick): its numbers decide nothing.".into());
    }
    if cores.tied.len() > 1 {
        doubts.push(format!(
            "Cores {} cannot be told apart: they differ by less than the visits to one of them do, \
             or by less than 0.2 %.",
            list(&cores.tied)
        ));
    }
    let spread = prover.leaves_per_s.spread();
    if spread > 0.02 {
        doubts.push(format!(
            "This machine is noisy: the middle half of the samples is {} wide. Repeat the run \
             without other load.",
            percent(spread)
        ));
    }
    let interrupted = 1.0 - prover.mean_leaves_per_s / median;
    if endurance.is_none() && interrupted > 0.01 {
        doubts.push(format!(
            "That is without interruptions, which took {} of the time: with them it made {} \
             leaves/s (see poet-bench check).",
            percent(interrupted),
            thousands(prover.mean_leaves_per_s as u64)
        ));
    }
    let lost = endurance.map(|run| run.interruptions.lost_s / run.seconds);
    if let Some(lost) = lost.filter(|lost| *lost > 0.01) {
        doubts.push(format!(
            "Interruptions took {} of the long run: the core had other work, too (see poet-bench \
             check).",
            percent(lost)
        ));
    }
    if let Some(steal) = prover.steal.filter(|steal| *steal > 0.002) {
        doubts.push(format!(
            "The hypervisor took {} of the core's time.",
            percent(steal)
        ));
    }
    let dropped = |speed: crate::report::Speed| speed.dropped > speed.hashes_per_s.samples;
    if yardstick.speed.is_none_or(dropped) {
        doubts.push("The clock was unsteady around most samples; the others count.".into());
    }
    if bound_reached.is_some_and(|reached| reached > 1.01) {
        doubts.push(
            "More than the bound cannot be: this CPU multiplies in other than 3 cycles, or is not \
             what it calls itself."
                .into(),
        );
    }
    Verdict {
        leaves_per_s,
        leaves_per_round,
        ticks,
        bound_cycles_per_hash: bound,
        bound_reached,
        doubts,
    }
}
