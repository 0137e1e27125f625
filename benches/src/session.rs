//! A whole measurement, from options to a report.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use poet_backends::{SelectOptions, Selection, select_with};
use poet_engine::WorkFunction;
use poet_host::interrupts::Interrupts;
use poet_host::programs::Watch;
use poet_host::sensors::CpuTimes;
use poet_host::{Machine, affinity, limits};

use crate::check::Measured;
use crate::endurance::{Run, endurance};
use crate::judge::clock_set;
use crate::measure::{self, Plan};
use crate::options::Measurement;
use crate::report::{Endurance, FORMAT, Report, SCHEMA, Settings};
use crate::verdict::{Doubt, Verdict};
use crate::words::{duration, list};
use crate::{load, pinning, prover};

/// How long a check runs the prover.
const CHECK: Duration = Duration::from_secs(5);

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

/// Called with the report of a long run so far.
pub type Checkpoint<'a> = &'a mut dyn FnMut(&Report);

/// Measures this machine. During a long run, calls `checkpoint` with the report so far.
///
/// # Errors
/// Fails if the options cannot be met here, or something is computed wrong.
pub fn measure(
    options: &Measurement,
    stop: &AtomicBool,
    checkpoint: Checkpoint<'_>,
) -> Result<Report> {
    let (started, start) = (jiff::Timestamp::now(), Instant::now());
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
            load::loads(
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
    let hashes_per_leaf = prover::hashes_per_leaf(&selection)?;
    let (backends, yardstick) = measure::backends(
        &selection,
        options.work,
        core,
        hashes_per_leaf,
        plan.backends_s,
    )?;
    let prover = prover::prover(&selection, core, hashes_per_leaf, plan.prover_s)?;
    let warnings = selection.warnings().iter().cloned();
    let warnings: Vec<Doubt> = warnings.map(|warning| Doubt::Backend { warning }).collect();
    let mut report = Report {
        format: FORMAT.to_owned(),
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started: started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        settings: Settings {
            work: options.work.name().to_owned(),
            backend: options.backend.clone(),
            core: options.core,
            priority: options.priority,
            quick: options.quick,
            hwloc: cfg!(feature = "hwloc"),
            tick_size: options.round.tick_size,
            round_s: options.round.length.as_secs_f64(),
            label: options.label.clone(),
            price: options.price,
        },
        machine,
        backends,
        yardstick,
        cores,
        loads,
        prover,
        endurance: None,
        verdict: Verdict::default(),
    }
    .judged(&warnings);
    if let Some(length) = options.duration {
        report = go_on(&report, &selection, length, stop, checkpoint)?;
    }
    Ok(with_clock(report, started, start))
}

/// Continues the long run of a report, up to `length` in all, or to its requested length.
///
/// # Errors
/// Fails if this is another machine, the run is complete, or something is computed wrong.
pub fn resume(
    report: &Report,
    length: Option<Duration>,
    priority: Option<i32>,
    stop: &AtomicBool,
    checkpoint: Checkpoint<'_>,
) -> Result<Report> {
    let (started, start) = (jiff::Timestamp::now(), Instant::now());
    let asked = report.endurance.as_ref().map(|run| run.asked_s);
    let length = match (length, asked) {
        (Some(length), _) => length,
        (None, Some(asked)) => Duration::try_from_secs_f64(asked)
            .ok()
            .with_context(|| format!("it is damaged: no run is {asked} s long"))?,
        (None, None) => {
            bail!("this report has no long run yet: expected --duration, the length of the run")
        }
    };
    let done = report.endurance.as_ref().map_or(0.0, |run| run.seconds);
    ensure!(
        done < length.as_secs_f64(),
        "its long run is {} long, and there is nothing left to do: expected a greater --duration",
        duration(done)
    );
    let machine = Machine::read(Path::new("/"));
    let same = |machine: &Machine| {
        (
            machine.model.clone(),
            machine.hostname.clone(),
            machine.cores.len(),
        )
    };
    ensure!(
        same(&machine) == same(&report.machine),
        "this is another machine than that of the report, {} ({})",
        report
            .machine
            .hostname
            .as_deref()
            .unwrap_or("without a name"),
        report.machine.model
    );
    ensure!(
        report.version == env!("CARGO_PKG_VERSION"),
        "the report is of version {} of poet-bench, and this is {}: their rates are not the same \
         measurement",
        report.version,
        env!("CARGO_PKG_VERSION")
    );
    let core = report.prover.core;
    allowed_core(&machine, &affinity::allowed(), Some(core))?;
    if let Some(nice) = priority.or(report.settings.priority) {
        pinning::set_priority(nice)?;
    }
    let functions = [WorkFunction::Sha256, WorkFunction::Haraka256];
    let function = functions
        .into_iter()
        .find(|it| it.name() == report.settings.work);
    let function = function.context("the report is of a work function that this program lacks")?;
    let selection = selection(function, Some(&report.prover.backend))?;
    let report = go_on(report, &selection, length, stop, checkpoint)?;
    Ok(with_clock(report, started, start))
}

/// Adds a long run to the report.
fn go_on(
    report: &Report,
    selection: &Selection,
    length: Duration,
    stop: &AtomicBool,
    checkpoint: Checkpoint<'_>,
) -> Result<Report> {
    // A kill in the first seconds then keeps the short run.
    checkpoint(report);
    let with = |run: Endurance| {
        let mut report = report.clone();
        report.endurance = Some(run);
        report.judged_again()
    };
    let run = endurance(
        selection,
        Run {
            core: report.prover.core,
            length,
            stop,
            before: report.endurance.as_ref(),
            checkpoint: &mut |so_far| checkpoint(&with(so_far)),
            watch: None,
        },
    )?;
    Ok(with(run))
}

/// Adds a doubt to the report if the system's clock was set since `started`.
fn with_clock(report: Report, started: jiff::Timestamp, start: Instant) -> Report {
    let passed = jiff::Timestamp::now().duration_since(started).as_secs_f64();
    match clock_set(passed - start.elapsed().as_secs_f64()) {
        Some(doubt) => {
            let mut report = report;
            report.verdict.doubts.push(doubt);
            report
        }
        None => report,
    }
}

/// Measures what a check needs.
///
/// # Errors
/// Fails as [`measure()`] does.
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
    let root = Path::new("/");
    let (before, interrupts) = (times(), Interrupts::read(root));
    let throttled = limits::throttling(root);
    let mut watch = Watch::new(root, core);
    watch.look();
    let run = endurance(
        &selection,
        Run {
            core,
            length: CHECK,
            stop: &AtomicBool::new(false),
            before: None,
            checkpoint: &mut |_| (),
            watch: Some(&mut watch),
        },
    )?;
    let passed = times()
        .zip(before)
        .map(|(after, before)| after.since(before));
    let interrupts = Interrupts::read(root)
        .zip(interrupts)
        .map(|(after, before)| after.since(&before, core));
    let throttled = limits::throttling(root)
        .zip(throttled)
        .map(|(after, before)| after.since(before));
    let siblings = machine
        .core(core)
        .map(|core| core.siblings.as_slice())
        .unwrap_or_default();
    let sibling = if allowed.iter().any(|id| siblings.contains(id)) {
        let loads = load::loads(&selection, function, &machine, &allowed, core, 1.0, 5)?;
        loads
            .into_iter()
            .find(|load| load.name == load::SIBLING_BUSY)
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
            programs: watch.seen(),
            watched: watch.watched(),
            interrupts,
            throttled,
        },
    ))
}

fn selection(function: WorkFunction, forced: Option<&str>) -> Result<Selection> {
    let options = SelectOptions {
        forced,
        trial: true,
    };
    Ok(select_with(function, options)?.for_one_chain()?)
}

fn allowed_core(machine: &Machine, allowed: &[usize], core: Option<usize>) -> Result<()> {
    ensure!(
        !allowed.is_empty(),
        "this system does not report which cores may be used"
    );
    let Some(id) = core.filter(|id| !allowed.contains(id)) else {
        return Ok(());
    };
    let may = format!("this process may use {}", list(allowed));
    match machine.core(id) {
        None if machine.cores.is_empty() => bail!("core {id} may not be used; {may}"),
        None => bail!("core {id} does not exist; {may}"),
        Some(core) if !core.online => bail!("core {id} is switched off; {may}"),
        Some(_) => bail!("core {id} may not be used (affinity or control group); {may}"),
    }
}
