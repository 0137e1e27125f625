//! What people read of a report: sentences and tables, which [`Section::to_text`] and
//! [`crate::html`] show.

use std::fmt::Write;

use crate::report::{Report, Speed, Stat};
use poet_host::Machine;

/// A table with a title.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// What it is about.
    pub title: String,
    /// The names of the columns. Those that begin with `<` are aligned to the left, the others to
    /// the right.
    pub header: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// Sentences below the table.
    pub notes: Vec<String>,
}

impl Section {
    /// The table for a terminal.
    #[must_use]
    pub fn to_text(&self) -> String {
        let names: Vec<String> = self
            .header
            .iter()
            .map(|name| column(name).0.into())
            .collect();
        let titled = names.iter().any(|name| !name.is_empty());
        let lines: Vec<&Vec<String>> = titled
            .then_some(&names)
            .into_iter()
            .chain(&self.rows)
            .collect();
        let width = |index: usize| {
            let cells = lines.iter().filter_map(|line| line.get(index));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = format!("\n{}\n", self.title);
        for line in &lines {
            let mut row = String::new();
            for (index, cell) in line.iter().enumerate() {
                let width = width(index);
                let left = self.header.get(index).is_none_or(|name| column(name).1);
                let _ = if left {
                    write!(row, "  {cell:<width$}")
                } else {
                    write!(row, "  {cell:>width$}")
                };
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "  {note}");
        }
        text
    }
}

/// The name of a column, and whether it is aligned to the left.
#[must_use]
pub fn column(header: &'static str) -> (&'static str, bool) {
    match header.strip_prefix('<') {
        Some(name) => (name, true),
        None => (header, false),
    }
}

/// What a report comes to, in whole sentences.
#[must_use]
pub fn sentences(report: &Report) -> Vec<String> {
    let (verdict, settings) = (&report.verdict, &report.settings);
    let mut sentences = vec![format!(
        "This machine makes {} leaves/s on core {} with {}: {} ticks in a round of {} (tick size \
         {}, {:.2} billion leaves).",
        thousands(verdict.leaves_per_s as u64),
        report.prover.core,
        report.prover.backend,
        thousands(verdict.ticks),
        duration(settings.round_s),
        thousands(settings.tick_size),
        verdict.leaves_per_round as f64 / 1e9,
    )];
    let cpu = report.machine.microarchitecture.as_deref();
    sentences.push(match (verdict.bound_cycles_per_hash, verdict.bound_reached, cpu) {
        (Some(bound), Some(reached), Some(cpu)) => format!(
            "That is {:.1} % of the hardware bound of {cpu} at this clock: {bound:.0} cycles a hash, \
             of which the prover takes {:.1}.",
            100.0 * reached,
            bound / reached,
        ),
        (Some(bound), _, Some(cpu)) => format!(
            "The hardware bound of {cpu} is {bound:.0} cycles a hash; the clock was never steady \
             enough to tell how far it is."
        ),
        _ => format!(
            "The hardware bound of this CPU for {} is not known.",
            settings.work
        ),
    });
    if let Some(ratio) = report.yardstick.ratio {
        sentences.push(format!(
            "On one chain {} makes {ratio:.3} times the hashes of an independent loop over SHA-256 \
             ({}) in the same run.",
            report.prover.backend, report.yardstick.name,
        ));
    }
    sentences.extend(verdict.doubts.iter().cloned());
    sentences
}

/// All tables of a report.
#[must_use]
pub fn sections(report: &Report) -> Vec<Section> {
    let mut sections = vec![machine(&report.machine), cores(report), backends(report)];
    sections.push(prover(report));
    if !report.loads.is_empty() {
        sections.push(loads(report));
    }
    sections.extend(endurance(report));
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
        ("CPU", model),
        (
            "features",
            or_none(&machine.features.join(" "), "none that a backend uses"),
        ),
        (
            "cores",
            format!(
                "{online} of {} online, in {}",
                machine.cores.len(),
                if packages == 1 {
                    "one package".into()
                } else {
                    format!("{packages} packages")
                }
            ),
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
            marks.push("taken");
        }
        if cores.tied.len() > 1 && cores.tied.contains(&core.id) {
            marks.push("not told apart");
        }
        if core.favoured {
            marks.push("favoured by the firmware");
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
            "medians of {visits} visits in turns; spread between quartiles"
        ));
    }
    Section {
        title: format!("Cores, one chain on {}", report.prover.backend),
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
                (None, true) => "passed, taken".into(),
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
            "many: M hashes/s",
            "<self-test",
        ],
        rows,
        notes: vec![
            "one chain is the sequential work; many chains are proofs and verification".into(),
        ],
    }
}

fn prover(report: &Report) -> Section {
    let prover = &report.prover;
    let cycles = prover.cycles_per_leaf.map(|stat| stat.median);
    let mut rows = vec![
        vec![
            "leaves/s, median".into(),
            thousands(prover.leaves_per_s.median as u64),
        ],
        vec!["spread".into(), spread(Some(prover.leaves_per_s))],
        vec![
            "leaves/s, mean with interruptions".into(),
            thousands(prover.mean_leaves_per_s as u64),
        ],
        vec![
            "samples".into(),
            thousands(prover.leaves_per_s.samples as u64),
        ],
        vec![
            "hashes a leaf".into(),
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
        // The chain of Haraka is not all that a leaf consists of: its tree is SHA-256.
        if let Some(one) = one.filter(|_| report.settings.work == "sha256") {
            let cycles = cycles / prover.hashes_per_leaf;
            rows.push(vec!["cycles a hash".into(), format!("{cycles:.1}")]);
            let reached = 100.0 * one.cycles_per_hash.median / cycles;
            rows.push(vec![
                "of what its kernel allows".into(),
                format!("{reached:.1} %"),
            ]);
        }
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
    let early = run
        .stopped_early
        .then(|| "It was ended before its time.".to_owned());
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
        notes: early.into_iter().collect(),
    })
}

/// `12,345`
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `324 h`, or in the unit that is shorter to read.
#[must_use]
pub fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3600.0),
    }
}

/// Core numbers.
#[must_use]
pub fn list(numbers: &[usize]) -> String {
    let texts: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    or_none(&texts.join(", "), "none")
}

/// `1.2 %`
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

/// `15.2 µs`
#[must_use]
pub fn micro(ns: u64) -> String {
    match ns {
        ns if ns < 1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        ns => format!("{:.2} ms", ns as f64 / 1e6),
    }
}

/// Millions, of the median.
#[must_use]
pub fn mega(stat: Option<Stat>) -> String {
    stat.map_or_else(dash, |stat| format!("{:.2}", stat.median / 1e6))
}

/// How far the quartiles are apart.
#[must_use]
pub fn spread(stat: Option<Stat>) -> String {
    stat.map_or_else(dash, |stat| percent(stat.spread()))
}

fn dash() -> String {
    "-".into()
}

fn or_none(text: &str, none: &str) -> String {
    if text.is_empty() { none } else { text }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn numbers() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(9_331_200), "9,331,200");
        assert_eq!(duration(1_166_400.0), "324 h");
        assert_eq!(duration(600.0), "10 min");
        assert_eq!(micro(15_230), "15.2 µs");
        assert_eq!(list(&[]), "none");
        assert_eq!(list(&[1, 2]), "1, 2");
        assert_eq!(spread(None), "-");
    }

    #[test]
    fn tables_are_aligned() {
        let section = Section {
            title: "Title".into(),
            header: vec!["<name", "number", "<"],
            rows: vec![
                vec!["a".into(), "1".into(), "x".into()],
                vec!["µµ".into(), "1234567".into(), String::new()],
            ],
            notes: vec!["A note.".into()],
        };
        let expected = "\nTitle\n  name   number\n  a           1  x\n  µµ    1234567\n  A note.\n";
        assert_eq!(section.to_text(), expected);
    }

    #[test]
    fn verdict_in_words() {
        let mut report = sample();
        let text = sentences(&report).join("\n");
        assert!(
            text.contains("makes 55,000 leaves/s on core 1 with sha-ni: 6,875 ticks"),
            "{text}"
        );
        assert!(
            text.contains("99.8 % of the hardware bound of Golden Cove"),
            "{text}"
        );
        assert!(text.contains("1.251 times"), "{text}");
        assert!(text.ends_with("It was noisy."), "{text}");
        report.verdict.bound_cycles_per_hash = None;
        let text = sentences(&report).join("\n");
        assert!(text.contains("is not known"), "{text}");
    }

    #[test]
    fn everything_is_shown() {
        let sections: Vec<String> = sections(&sample()).iter().map(Section::to_text).collect();
        assert_eq!(sections.len(), 6);
        let text = sections.concat();
        for part in [
            "core 2 not measured: it is switched off",
            "62 °C",
            "the CPU lacks avx512f",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
    }
}
