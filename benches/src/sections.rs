//! The tables of a report, shown by [`Section::to_text`] and [`crate::html`].

use poet_host::Machine;

use crate::known::{self, KnownCore};
use crate::report::{Report, Speed};
use crate::table::Section;
use crate::words::{clock, dash, duration, list, mega, micro, or_none, percent, spread, thousands};

/// Returns all tables of a report.
#[must_use]
pub fn sections(report: &Report) -> Vec<Section> {
    let mut sections = vec![machine(&report.machine), cores(report), backends(report)];
    sections.push(prover(report));
    if !report.loads.is_empty() {
        sections.push(loads(report));
    }
    sections.extend(endurance(report));
    sections.extend(standing(report));
    sections
}

fn machine(machine: &Machine) -> Section {
    let shown = |on: Option<bool>| match on {
        Some(true) => "on",
        Some(false) => "off",
        None => "not shown",
    };
    let online = machine.cores.iter().filter(|core| core.online).count();
    let packages = machine.cores.iter().filter_map(|core| core.package);
    let packages = packages
        .collect::<std::collections::BTreeSet<_>>()
        .len()
        .max(1);
    let of_kind = |kind: &str| {
        let cores = machine
            .cores
            .iter()
            .filter(|core| core.kind.as_deref() == Some(kind));
        list(&cores.map(|core| core.id).collect::<Vec<_>>())
    };
    let model = match &machine.microarchitecture {
        Some(name) => format!("{} ({name})", machine.model),
        None => machine.model.clone(),
    };
    let governors: Vec<&str> = machine.governors().into_iter().collect();
    let caches = machine
        .cores
        .first()
        .map(|core| core.caches.as_slice())
        .unwrap_or_default();
    let caches: Vec<String> = caches
        .iter()
        .map(|cache| {
            let kind = match cache.kind.as_str() {
                "Unified" => String::new(),
                kind => format!(" {}", kind.to_lowercase()),
            };
            let shared = match cache.shared_by {
                0 | 1 => String::new(),
                cores => format!(" for {cores} cores"),
            };
            format!("L{}{kind} {}{shared}", cache.level, cache.size)
        })
        .collect();
    let mut rows = vec![
        (
            "name",
            or_none(machine.hostname.as_deref().unwrap_or(""), "not shown"),
        ),
        ("CPU", model),
        (
            "features",
            or_none(&machine.features.join(" "), "none that a backend uses"),
        ),
        (
            "cores",
            if machine.cores.is_empty() {
                "not shown".into()
            } else {
                format!(
                    "{online} of {} online, in {}",
                    machine.cores.len(),
                    if packages == 1 {
                        "one package".into()
                    } else {
                        format!("{packages} packages")
                    }
                )
            },
        ),
    ];
    if machine.cores.iter().any(|core| core.kind.is_some()) {
        rows.push(("performance cores", of_kind("performance")));
        rows.push(("efficiency cores", of_kind("efficiency")));
    }
    let steal = match machine.steal {
        Some(share) => format!(", which took {:.2} % of the time since boot", 100.0 * share),
        None => String::new(),
    };
    rows.extend([
        ("caches", or_none(&caches.join(", "), "not shown")),
        ("governor", or_none(&governors.join(", "), "not shown")),
        ("turbo", shown(machine.turbo).into()),
        ("SMT", shown(machine.smt).into()),
        ("isolated cores", list(&machine.isolated)),
        (
            "hypervisor",
            match &machine.hypervisor {
                Some(name) => format!("{name}{steal}"),
                None => "none".into(),
            },
        ),
        ("kernel", machine.kernel.clone()),
    ]);
    if let Some(name) = &machine.container {
        rows.push(("container", name.clone()));
    }
    if let Some(cores) = machine.cpu_quota {
        rows.push(("CPU time allowed", format!("{cores} cores")));
    }
    Section {
        title: "Machine".into(),
        header: vec!["<", "<"],
        rows: rows
            .into_iter()
            .map(|(name, value)| vec![name.into(), value])
            .collect(),
        notes: Vec::new(),
    }
}

fn cores(report: &Report) -> Section {
    let cores = &report.cores;
    let rows = cores.measured.iter().enumerate().map(|(index, core)| {
        let mut marks = Vec::new();
        if core.id == cores.best {
            marks.push("used below");
        }
        if cores.tied.len() > 1 && cores.tied.contains(&core.id) {
            marks.push("as fast as the fastest");
        }
        if core.favoured {
            marks.push("preferred by the firmware");
        }
        if report.machine.isolated.contains(&core.id) {
            marks.push("isolated");
        }
        let machine = report.machine.core(core.id);
        if let Some(kind) = machine.and_then(|core| core.kind.as_deref()) {
            marks.push(kind);
        }
        let clock = core.clock_hz.map(|hz| format!("{:.2}", hz.median / 1e9));
        vec![
            (index + 1).to_string(),
            core.id.to_string(),
            mega(core.hashes_per_s),
            spread(core.hashes_per_s),
            clock.unwrap_or_else(dash),
            marks.join(", "),
        ]
    });
    let skipped = cores.skipped.iter();
    let mut notes: Vec<String> = skipped
        .map(|core| format!("core {} not measured: {}", core.id, core.reason))
        .collect();
    let visits = cores.measured.iter().filter_map(|core| core.hashes_per_s);
    if let Some(visits) = visits.map(|stat| stat.samples).max() {
        notes.push(format!(
            "each core was measured {visits} times, taking turns with the others: the median, and how far \
             the quartiles are apart"
        ));
    }
    Section {
        title: format!(
            "Cores: hashing one after another with {}",
            report.prover.backend
        ),
        header: vec!["rank", "core", "M hashes/s", "spread", "GHz", "<"],
        rows: rows.collect(),
        notes,
    }
}

fn backends(report: &Report) -> Section {
    let cells = |speed: Option<Speed>| match speed {
        Some(speed) => [
            mega(Some(speed.hashes_per_s)),
            format!("{:.1}", speed.cycles_per_hash.median),
            spread(Some(speed.cycles_per_hash)),
        ],
        None => [dash(), dash(), dash()],
    };
    let mut rows: Vec<Vec<String>> = report
        .backends
        .iter()
        .map(|backend| {
            let leaves = backend.leaves_per_s.map(|rate| thousands(rate as u64));
            let many = backend.many.map(|speed| speed.hashes_per_s);
            let state = match (&backend.excluded, backend.chosen) {
                (Some(reason), _) => reason.clone(),
                (None, true) => "passed, used below".into(),
                (None, false) => "passed".into(),
            };
            let mut row = vec![backend.name.clone()];
            row.extend(cells(backend.one));
            row.extend([leaves.unwrap_or_else(dash), mega(many), state]);
            row
        })
        .collect();
    let mut row = vec![report.yardstick.name.clone()];
    row.extend(cells(report.yardstick.speed));
    row.extend([dash(), dash(), "independent loop, SHA-256".into()]);
    rows.push(row);
    Section {
        title: format!(
            "Backends for {} on core {}",
            report.settings.work, report.prover.core
        ),
        header: vec![
            "<backend",
            "M hashes/s",
            "cycles/hash",
            "spread",
            "leaves/s",
            "side by side: M hashes/s",
            "<self-test",
        ],
        rows,
        notes: vec![
            "first columns: one hash after another, which makes ticks; side by side: many independent \
             hashes, for proofs and verification"
                .into(),
        ],
    }
}

fn prover(report: &Report) -> Section {
    let prover = &report.prover;
    let cycles = prover.cycles_per_leaf.map(|stat| stat.median);
    let mut rows = vec![
        vec![
            "leaves/s, undisturbed".into(),
            thousands(prover.leaves_per_s.median as u64),
        ],
        vec!["spread".into(), spread(Some(prover.leaves_per_s))],
        vec![
            "leaves/s, with interruptions".into(),
            thousands(prover.with_interruptions.leaves_per_s as u64),
        ],
        vec![
            "samples".into(),
            thousands(prover.leaves_per_s.samples as u64),
        ],
        vec![
            "hashes in a leaf".into(),
            format!("{:.1}", prover.hashes_per_leaf),
        ],
    ];
    if let Some(cycles) = cycles {
        rows.push(vec!["cycles a leaf".into(), thousands(cycles as u64)]);
        let one = report
            .backends
            .iter()
            .find(|backend| backend.chosen)
            .and_then(|best| best.one);
        // The chain of Haraka is not all of a leaf: its tree is SHA-256.
        if let Some(one) = one.filter(|_| report.settings.work == "sha256") {
            let cycles = cycles / prover.hashes_per_leaf;
            rows.push(vec!["cycles a hash".into(), format!("{cycles:.1}")]);
            let reached = 100.0 * one.cycles_per_hash.median / cycles;
            rows.push(vec![
                "of what the backend alone makes".into(),
                format!("{reached:.1} %"),
            ]);
        }
    }
    if let Some(hz) = prover.clock_hz {
        rows.push(vec!["clock".into(), clock(hz.median)]);
    }
    if let Some(watts) = prover.watts {
        rows.push(vec!["all CPU packages".into(), format!("{watts:.1} W")]);
    }
    if let Some(steal) = prover.steal {
        rows.push(vec!["taken by the hypervisor".into(), percent(steal)]);
    }
    Section {
        title: format!(
            "The whole prover on core {} with {}, tree of a mainnet round",
            prover.core, prover.backend
        ),
        header: vec!["<", ""],
        rows,
        notes: Vec::new(),
    }
}

fn loads(report: &Report) -> Section {
    let rows = report.loads.iter().map(|load| {
        let remark = match (&load.skipped, load.ratio) {
            (Some(reason), _) => reason.clone(),
            (None, Some(_)) if load.cores.is_empty() => "what the others are compared with".into(),
            (None, Some(_)) if load.within_noise => "within the noise".into(),
            (None, Some(_)) => "beyond the noise".into(),
            (None, None) => "the clock was never steady".into(),
        };
        vec![
            load.name.clone(),
            mega(load.hashes_per_s),
            spread(load.hashes_per_s),
            load.ratio.map_or_else(dash, |ratio| format!("{ratio:.3}")),
            remark,
        ]
    });
    Section {
        title: format!("The effect of load on core {}", report.prover.core),
        header: vec!["<others", "M hashes/s", "spread", "ratio", "<"],
        rows: rows.collect(),
        notes: Vec::new(),
    }
}

fn endurance(report: &Report) -> Option<Section> {
    let run = report.endurance.as_ref()?;
    let interruptions = &run.interruptions;
    let rates = || run.windows.iter().map(|window| window.rate());
    let (slowest, fastest) = (rates().reduce(f64::min)?, rates().reduce(f64::max)?);
    let celsius = run.windows.iter().filter_map(|window| window.celsius);
    let hz = run.windows.iter().filter_map(|window| window.hz);
    let direction = if run.slowdown < 0.0 {
        "faster"
    } else {
        "slower"
    };
    let rows = [
        ("leaves/s", thousands(run.leaves_per_s as u64)),
        (
            "slowest and fastest window",
            format!(
                "{} to {}",
                thousands(slowest as u64),
                thousands(fastest as u64)
            ),
        ),
        (
            "after the beginning",
            format!(
                "{} {direction} than in the first {:.1} s",
                percent(run.slowdown.abs()),
                run.first.seconds
            ),
        ),
        ("median leaf", micro(interruptions.median_ns)),
        (
            "interrupted leaves",
            format!(
                "{} of {} (longer than {})",
                thousands(interruptions.count),
                thousands(run.leaves),
                micro(interruptions.threshold_ns)
            ),
        ),
        (
            "lost by that",
            format!(
                "{:.3} s, {}",
                interruptions.lost_s,
                percent(interruptions.lost_s / run.seconds)
            ),
        ),
        ("longest leaf", micro(interruptions.worst_ns)),
        (
            "highest temperature",
            celsius
                .reduce(f64::max)
                .map_or("not shown".into(), |celsius| format!("{celsius:.0} °C")),
        ),
        (
            "lowest clock",
            hz.reduce(f64::min)
                .map_or("not shown".into(), |hz| format!("{:.2} GHz", hz / 1e9)),
        ),
    ];
    let early = run.stopped_early.then(|| {
        let asked = duration(run.asked_s);
        format!("The requested length was {asked}: the run was stopped early, or is not complete.")
    });
    let resumed = run.resumed_s.iter().map(|seconds| {
        let seconds = duration(*seconds);
        format!("It was resumed by another process after {seconds}.")
    });
    Some(Section {
        title: format!(
            "The whole prover for {} on core {}",
            duration(run.seconds),
            run.core
        ),
        header: vec!["<", "<"],
        rows: rows
            .into_iter()
            .map(|(name, value)| vec![name.into(), value])
            .collect(),
        notes: early.into_iter().chain(resumed).collect(),
    })
}

/// Compares the result with measured machines, and with what known kinds of cores make at their
/// clock.
fn standing(report: &Report) -> Option<Section> {
    let settings = &report.settings;
    if settings.work != "sha256" {
        return None;
    }
    let mut rows: Vec<(f64, Vec<String>)> = Vec::new();
    let mut measured = |name: String, report: &Report, source: &str| {
        let leaves_per_s = report.verdict.undisturbed.leaves_per_s;
        let rate =
            crate::verdict::RoundRate::of(leaves_per_s, settings.round_s, settings.tick_size);
        let cycles = report.cycles_per_hash();
        let hz = report.prover.clock_hz.map(|hz| clock(hz.median));
        rows.push((
            leaves_per_s,
            vec![
                name,
                report
                    .machine
                    .microarchitecture
                    .clone()
                    .unwrap_or_else(dash),
                hz.unwrap_or_else(dash),
                cycles.map_or_else(dash, |cycles| format!("{cycles:.1}")),
                thousands(leaves_per_s as u64),
                thousands(rate.ticks),
                source.to_owned(),
            ],
        ));
    };
    measured("this machine".into(), report, "measured now");
    for reference in known::references() {
        let label = reference.settings.label.clone();
        let name = label.unwrap_or_else(|| reference.machine.model.clone());
        measured(name, &reference, "measured: a report in the repository");
    }
    let mut computed = |core: &KnownCore, hz: f64| {
        let rate = core.rate(hz, settings.round_s, settings.tick_size);
        rows.push((
            rate.leaves_per_s,
            vec![
                "computed".into(),
                core.name.into(),
                clock(hz),
                format!("{:.1}", core.cycles_per_hash),
                thousands(rate.leaves_per_s as u64),
                thousands(rate.ticks),
                format!("cycles: {}", core.source),
            ],
        ));
    };
    let own = KnownCore::of(&report.machine, report.prover.core);
    if let Some(core) = own {
        for hz in [4e9, 5e9] {
            computed(core, hz);
        }
    }
    let others = known::CORES.iter().filter(|core| Some(*core) != own);
    for core in others {
        computed(core, 4e9);
    }
    rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let unknown = own.is_none().then(|| {
        "Nothing is known of this kind of core: what it would make at another clock cannot be \
         computed from elsewhere."
            .to_owned()
    });
    let mut notes: Vec<String> = unknown.into_iter().collect();
    notes.push(
        "Computed: the clock over the cycles of a hash and the hashes in a leaf, undisturbed. \
         poet-bench predict computes others."
            .into(),
    );
    Some(Section {
        title: "Is it good? Undisturbed rates of other machines".into(),
        header: vec![
            "<machine",
            "<core",
            "clock",
            "cycles/hash",
            "leaves/s",
            "ticks",
            "<source",
        ],
        rows: rows.into_iter().map(|(_, row)| row).collect(),
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn everything_is_shown() {
        let sections: Vec<String> = sections(&sample()).iter().map(Section::to_text).collect();
        assert_eq!(sections.len(), 7);
        let text = sections.concat();
        for part in [
            "core 2 not measured: it is switched off",
            "62 °C",
            "the CPU lacks avx512f",
            "this machine",
            "cycles: measured on an EPYC",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }

    #[test]
    fn what_is_not_shown_is_not_counted() {
        let mut report = sample();
        report.machine.cores.clear();
        report.machine.microarchitecture = None;
        let sections = sections(&report);
        let text: String = sections.iter().map(Section::to_text).collect();
        let cores = text.lines().find(|line| line.starts_with("  cores "));
        assert!(
            cores.is_some_and(|line| line.ends_with("  not shown")),
            "{text}"
        );
        assert!(!text.contains("0 of 0"), "{text}");
        assert!(
            text.contains("Nothing is known of this kind of core"),
            "{text}"
        );
    }
}
