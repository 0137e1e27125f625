//! Compares several machines.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};

use crate::html::compared;
use crate::plot::Bar;
use crate::report::Report;
use crate::table::Section;
use crate::verdict::{Basis, Doubt, RoundRate};
use crate::words::{clock, dash, duration, list, thousands};

/// Smaller differences count as none.
const RESOLUTION: f64 = 0.002;

/// Reports to compare, each with a name, the fastest first.
#[derive(Clone, Debug)]
pub struct Comparison {
    reports: Vec<(String, Report)>,
    basis: Basis,
    /// The report that was given first, whose round and tick size count.
    first: usize,
}

/// A sentence of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub enum ComparisonSentence {
    /// What is compared.
    Compared {
        /// The rate.
        basis: Basis,
        /// Whether that is because not all reports have long runs.
        short: bool,
    },
    /// One is faster than all others.
    Fastest {
        /// Its name.
        name: String,
        /// The name of the next.
        next: String,
        /// How many times as many ticks it makes.
        factor: f64,
    },
    /// Several lead, and cannot be distinguished.
    Tied {
        /// Their names.
        names: Vec<String>,
    },
    /// The numbers of the fastest decide nothing.
    Undecided {
        /// The reports that cannot be trusted.
        names: Vec<String>,
    },
    /// The reports differ in something that matters.
    Unlike {
        /// The difference.
        what: &'static str,
    },
    /// A doubt of one of the reports.
    Doubt {
        /// Its name.
        name: String,
        /// The doubt.
        doubt: Doubt,
    },
}

impl Comparison {
    /// Compares reports read from these files.
    ///
    /// # Errors
    /// Fails if there are none, or they have different work functions: their leaves are not
    /// comparable.
    pub fn new(reports: Vec<(PathBuf, Report)>) -> Result<Self> {
        let [(first_path, first), others @ ..] = reports.as_slice() else {
            bail!("there is nothing to compare: expected two reports or more");
        };
        for (path, other) in others {
            ensure!(
                first.settings.work == other.settings.work,
                "{} is about {} and {} about {}: their leaves cannot be compared",
                first_path.display(),
                first.settings.work,
                path.display(),
                other.settings.work
            );
        }
        let long = reports.iter().all(|(_, report)| report.verdict.long);
        let basis = if long {
            Basis::WithInterruptions
        } else {
            Basis::Undisturbed
        };
        let names = names(&reports);
        let reports = reports.into_iter().map(|(_, report)| report);
        let mut named: Vec<(usize, (String, Report))> =
            names.into_iter().zip(reports).enumerate().collect();
        named.sort_by(|(_, (_, a)), (_, (_, b))| rate(b, basis).total_cmp(&rate(a, basis)));
        let first = named.iter().position(|(index, _)| *index == 0).unwrap_or(0);
        Ok(Self {
            reports: named.into_iter().map(|(_, report)| report).collect(),
            basis,
            first,
        })
    }

    /// Returns the reports with their names, fastest first.
    #[must_use]
    pub fn reports(&self) -> &[(String, Report)] {
        &self.reports
    }

    /// Returns the tables.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        vec![self.machines(), self.differences()]
    }

    /// Returns the comparison as a page.
    #[must_use]
    pub fn page(&self) -> String {
        let bar = |(name, report): &(String, Report)| {
            let (verdict, prover) = (&report.verdict, &report.prover);
            let with = thousands(verdict.with_interruptions.leaves_per_s as u64);
            Bar {
                label: format!("{name}: {}", report.machine.model),
                value: prover.leaves_per_s,
                part: Some(verdict.with_interruptions.leaves_per_s),
                text: format!(
                    "{} ({with})",
                    thousands(verdict.undisturbed.leaves_per_s as u64)
                ),
            }
        };
        let all: Vec<Bar> = self.reports.iter().map(bar).collect();
        let title = format!("{} machines side by side", self.reports.len());
        compared(&title, &self.words(), &all, &self.sections())
    }

    /// Returns the sentences as text.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        self.sentences().iter().map(ToString::to_string).collect()
    }

    /// Returns the sentences.
    #[must_use]
    pub fn sentences(&self) -> Vec<ComparisonSentence> {
        let any_long = self
            .reports
            .iter()
            .any(|(_, report)| report.endurance.is_some());
        let mut sentences = vec![ComparisonSentence::Compared {
            basis: self.basis,
            short: any_long && self.basis == Basis::Undisturbed,
        }];
        sentences.extend(self.winner());
        let facts: Vec<_> = self
            .reports
            .iter()
            .map(|(_, report)| facts(report))
            .collect();
        for what in ["version", "backend", "--tick-size", "--round"] {
            let value = |facts: &[(&str, String)]| {
                let fact = facts.iter().find(|(name, _)| *name == what);
                fact.map(|(_, value)| value.clone())
            };
            if facts.iter().any(|other| value(other) != value(&facts[0])) {
                sentences.push(ComparisonSentence::Unlike { what });
            }
        }
        for (name, report) in &self.reports {
            let doubts = report.verdict.doubts.iter().cloned();
            sentences.extend(doubts.map(|doubt| ComparisonSentence::Doubt {
                name: name.clone(),
                doubt,
            }));
        }
        sentences
    }

    /// Returns the fastest, as far as these reports can decide.
    fn winner(&self) -> Option<ComparisonSentence> {
        let (fastest, next) = (self.reports.first()?, self.reports.get(1)?);
        let tied = self.reports.iter().skip(1);
        let tied = tied.filter(|(_, report)| alike(&fastest.1, report, self.basis));
        let mut names: Vec<String> = tied.map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            names.insert(0, fastest.0.clone());
        }
        // A report that cannot be trusted may be the fastest or not.
        let wild =
            |(_, report): &&(String, Report)| report.verdict.doubts.iter().any(Doubt::is_fatal);
        let undecided: Vec<String> = self
            .reports
            .iter()
            .filter(wild)
            .map(|(name, _)| name.clone())
            .collect();
        Some(if !undecided.is_empty() {
            ComparisonSentence::Undecided { names: undecided }
        } else if !names.is_empty() {
            ComparisonSentence::Tied { names }
        } else {
            ComparisonSentence::Fastest {
                name: fastest.0.clone(),
                next: next.0.clone(),
                factor: rate(&fastest.1, self.basis) / rate(&next.1, self.basis),
            }
        })
    }

    fn machines(&self) -> Section {
        let first = &self.reports[self.first].1;
        let settings = &first.settings;
        let rows = self.reports.iter().map(|(name, report)| {
            let (verdict, prover) = (&report.verdict, &report.prover);
            let leaves_per_s = rate(report, self.basis);
            let ticks = RoundRate::of(leaves_per_s, settings.round_s, settings.tick_size).ticks;
            let price = verdict.price_per_tick;
            vec![
                name.clone(),
                thousands(verdict.undisturbed.leaves_per_s as u64),
                thousands(verdict.with_interruptions.leaves_per_s as u64),
                duration(verdict.seconds),
                format!("{:.3}", leaves_per_s / rate(first, self.basis)),
                thousands(ticks),
                price.map_or_else(dash, |price| format!("{price:.6}")),
                prover.clock_hz.map_or_else(dash, |hz| clock(hz.median)),
                prover.backend.clone(),
                verdict.doubts.len().to_string(),
                report.machine.model.clone(),
            ]
        });
        Section {
            title: format!(
                "Machines (a round of {}, tick size {})",
                duration(settings.round_s),
                thousands(settings.tick_size)
            ),
            header: vec![
                "<report",
                "undisturbed",
                "with interruptions",
                "over",
                "ratio",
                "ticks",
                "price of a tick",
                "clock",
                "<backend",
                "doubts",
                "<CPU",
            ],
            rows: rows.collect(),
            notes: vec![format!(
                "leaves/s undisturbed and with interruptions; ratio to {} and ticks by the rate {}; the \
                 doubts are below the verdict",
                self.reports[self.first].0, self.basis
            )],
        }
    }

    /// Lists the settings in which the reports differ.
    fn differences(&self) -> Section {
        let all: Vec<Vec<(&str, String)>> = self
            .reports
            .iter()
            .map(|(_, report)| facts(report))
            .collect();
        let mut rows = Vec::new();
        for (index, (name, first)) in all[0].iter().enumerate() {
            if all.iter().any(|facts| facts[index].1 != *first) {
                for ((report, _), facts) in self.reports.iter().zip(&all) {
                    rows.push(vec![
                        (*name).to_owned(),
                        report.clone(),
                        facts[index].1.clone(),
                    ]);
                }
            }
        }
        let none = rows
            .is_empty()
            .then(|| "none that the reports show".to_owned());
        Section {
            title: "Differences in settings".into(),
            header: vec!["<setting", "<report", "<value"],
            rows,
            notes: none.into_iter().collect(),
        }
    }
}

impl fmt::Display for ComparisonSentence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compared {
                basis,
                short: false,
            } => {
                write!(f, "This compares the rates {basis}.")
            }
            Self::Compared { basis, short: true } => write!(
                f,
                "This compares the rates {basis}: not all reports are of long runs (--duration)."
            ),
            Self::Fastest { name, next, factor } => {
                write!(
                    f,
                    "{name} makes the most ticks, {factor:.3} times as many as {next}."
                )
            }
            Self::Tied { names } => write!(
                f,
                "{} lead, too close to each other to be told apart.",
                names.join(" and ")
            ),
            Self::Undecided { names } => write!(
                f,
                "Which machine makes the most ticks cannot be said: the numbers of {} decide nothing \
                 (see below).",
                names.join(" and ")
            ),
            Self::Unlike { what } => {
                write!(
                    f,
                    "The reports are not alike in {what} (see the differences)."
                )
            }
            Self::Doubt { name, doubt } => write!(f, "{name}: {doubt}"),
        }
    }
}

/// The leaves per second to compare.
fn rate(report: &Report, basis: Basis) -> f64 {
    match basis {
        Basis::Undisturbed => report.verdict.undisturbed.leaves_per_s,
        Basis::WithInterruptions => report.verdict.with_interruptions.leaves_per_s,
    }
}

/// Whether the middle halves of the measurements overlap, or nearly so.
fn alike(one: &Report, other: &Report, basis: Basis) -> bool {
    let range = |report: &Report| match basis {
        Basis::Undisturbed => [report.prover.leaves_per_s.q1, report.prover.leaves_per_s.q3],
        Basis::WithInterruptions => report.verdict.windows,
    };
    let ([low, high], [other_low, other_high]) = (range(one), range(other));
    let margin = RESOLUTION * rate(one, basis);
    low <= other_high + margin && other_low <= high + margin
}

/// A way to name a report.
type Name<'a> = &'a dyn Fn(&Path, &Report) -> String;

/// Names each report: its label or the name of its file, with the host where those are alike, or
/// the whole path where that does not help.
fn names(reports: &[(PathBuf, Report)]) -> Vec<String> {
    let short = |path: &Path, report: &Report| {
        let stem = path.file_stem().unwrap_or(path.as_os_str());
        let label = report.settings.label.clone();
        label.unwrap_or_else(|| stem.to_string_lossy().into_owned())
    };
    let with_host = |path: &Path, report: &Report| {
        let name = short(path, report);
        match &report.machine.hostname {
            Some(host) => format!("{name} ({host})"),
            None => name,
        }
    };
    let whole =
        |path: &Path, report: &Report| format!("{} ({})", short(path, report), path.display());
    let forms: [Name<'_>; 3] = [&short, &with_host, &whole];
    let all = |form: Name<'_>| -> Vec<String> {
        let names = reports.iter().map(|(path, report)| form(path, report));
        names.collect()
    };
    let different = |names: &Vec<String>| {
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        sorted.len() == names.len()
    };
    let names = forms.iter().map(|form| all(*form)).find(different);
    names.unwrap_or_else(|| {
        // The same file twice.
        let whole = all(&whole).into_iter().enumerate();
        whole
            .map(|(index, name)| format!("{}. {name}", index + 1))
            .collect()
    })
}

/// Facts that may explain a difference.
fn facts(report: &Report) -> Vec<(&'static str, String)> {
    let (machine, settings) = (&report.machine, &report.settings);
    let shown = |on: Option<bool>| match on {
        Some(true) => "on".to_owned(),
        Some(false) => "off".to_owned(),
        None => "not shown".to_owned(),
    };
    let forced = |name: Option<String>| name.unwrap_or_else(|| "chosen".into());
    let governors: Vec<&str> = machine.governors().into_iter().collect();
    let length = match &report.endurance {
        Some(run) => duration(run.seconds),
        None => "short".into(),
    };
    let idle: Vec<&str> = machine
        .core(report.prover.core)
        .map(|core| core.idle_states.iter().filter(|state| state.enabled))
        .map(|states| states.map(|state| state.name.as_str()).collect())
        .unwrap_or_default();
    vec![
        ("version", report.version.clone()),
        ("backend", report.prover.backend.clone()),
        ("run", length),
        ("--backend", forced(settings.backend.clone())),
        ("--core", forced(settings.core.map(|core| core.to_string()))),
        (
            "--priority",
            settings
                .priority
                .map_or("default".into(), |nice| nice.to_string()),
        ),
        ("--round", duration(settings.round_s)),
        ("--tick-size", thousands(settings.tick_size)),
        ("CPU features", machine.features.join(" ")),
        (
            "cores",
            machine
                .cores
                .iter()
                .filter(|core| core.online)
                .count()
                .to_string(),
        ),
        (
            "governor",
            if governors.is_empty() {
                "not shown".into()
            } else {
                governors.join(", ")
            },
        ),
        ("turbo", shown(machine.turbo)),
        ("SMT", shown(machine.smt)),
        ("isolated cores", list(&machine.isolated)),
        ("nohz_full cores", list(&machine.nohz_full)),
        ("NMI watchdog", shown(machine.nmi_watchdog)),
        (
            "idle states",
            if idle.is_empty() {
                "not shown".into()
            } else {
                idle.join(", ")
            },
        ),
        (
            "hypervisor",
            machine.hypervisor.clone().unwrap_or_else(|| "none".into()),
        ),
        ("kernel", machine.kernel.clone()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;
    use crate::stat::Stat;

    fn slower() -> Report {
        let mut report = sample();
        let run = report.endurance.as_mut().unwrap();
        for window in &mut run.windows {
            window.leaves = window.leaves * 4 / 5;
        }
        report.prover.leaves_per_s = Stat {
            median: 44e3,
            q1: 43.8e3,
            q3: 44.2e3,
            samples: 9,
        };
        report.prover.with_interruptions.leaves_per_s = 43.9e3;
        report.machine.turbo = Some(false);
        report.settings.tick_size = 1;
        report.judged(&[])
    }

    fn compare(reports: Vec<(&str, Report)>) -> Comparison {
        let reports = reports
            .into_iter()
            .map(|(path, report)| (path.into(), report));
        Comparison::new(reports.collect()).unwrap()
    }

    #[test]
    fn side_by_side_the_fastest_first() {
        let comparison = compare(vec![("x/b.json", slower()), ("x/a.json", sample())]);
        let [machines, differences] = comparison.sections().try_into().unwrap();
        let column = |index: usize| -> Vec<&str> {
            machines
                .rows
                .iter()
                .map(|row| row[index].as_str())
                .collect()
        };
        assert_eq!(column(0), ["a", "b"]);
        assert_eq!(column(1), ["55,400", "44,000"]);
        assert_eq!(column(2), ["55,000", "44,000"]);
        // Relative to the report that was given first, with its tick size.
        assert_eq!(column(4), ["1.250", "1.000"]);
        let names: Vec<&str> = differences.rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["--tick-size", "--tick-size", "turbo", "turbo"]);
        let expected = [
            ComparisonSentence::Compared {
                basis: Basis::WithInterruptions,
                short: false,
            },
            ComparisonSentence::Fastest {
                name: "a".into(),
                next: "b".into(),
                factor: 55_000.0 / 44_000.0,
            },
            ComparisonSentence::Unlike {
                what: "--tick-size",
            },
        ];
        assert_eq!(comparison.sentences(), expected);
        assert_eq!(comparison.page().matches("<svg").count(), 1);
    }

    #[test]
    fn equals_are_not_ranked() {
        let comparison = compare(vec![("a", sample()), ("b", sample()), ("c", slower())]);
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            comparison.sentences()[1],
            ComparisonSentence::Tied { names }
        );
        // Overlapping windows are alike, whatever the means.
        let mut near = sample();
        for window in &mut near.endurance.as_mut().unwrap().windows {
            window.leaves -= 900;
        }
        let comparison = compare(vec![("a", sample()), ("b", near.judged(&[]))]);
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            comparison.sentences()[1],
            ComparisonSentence::Tied { names }
        );
    }

    #[test]
    fn who_cannot_be_trusted_does_not_win_and_doubts_are_carried() {
        let mut quick = sample();
        quick.settings.quick = true;
        let comparison = compare(vec![("a", quick.judged(&[])), ("b", slower())]);
        let sentences = comparison.sentences();
        let names = vec!["a".to_owned()];
        assert_eq!(sentences[1], ComparisonSentence::Undecided { names });
        let name = "a".to_owned();
        let doubt = Doubt::Quick;
        assert_eq!(
            sentences.last(),
            Some(&ComparisonSentence::Doubt { name, doubt })
        );
    }

    #[test]
    fn long_and_short_runs() {
        let mut short = slower();
        short.endurance = None;
        let comparison = compare(vec![("a", sample()), ("b", short.judged(&[]))]);
        let sentences = comparison.sentences();
        let expected = ComparisonSentence::Compared {
            basis: Basis::Undisturbed,
            short: true,
        };
        assert_eq!(sentences[0], expected);
        // The same basis for both: 55,400 to 44,000.
        let factor = 55_400.0 / 44_000.0;
        assert!(
            matches!(&sentences[1], ComparisonSentence::Fastest { factor: it, .. } if *it == factor)
        );
    }

    #[test]
    fn names_tell_reports_apart() {
        let named = |reports: Vec<(&str, Report)>| -> Vec<String> {
            let reports = reports
                .into_iter()
                .map(|(path, report)| (path.into(), report));
            names(&reports.collect::<Vec<_>>())
        };
        let host = |name: &str| {
            let mut report = sample();
            report.machine.hostname = Some(name.into());
            report
        };
        assert_eq!(
            named(vec![("x/a.json", host("h")), ("b.json", host("h"))]),
            ["a", "b"]
        );
        let alike = named(vec![
            ("x/report.json", host("h")),
            ("y/report.json", host("i")),
        ]);
        assert_eq!(alike, ["report (h)", "report (i)"]);
        let alike = named(vec![
            ("x/report.json", host("h")),
            ("y/report.json", host("h")),
        ]);
        assert_eq!(alike, ["report (x/report.json)", "report (y/report.json)"]);
        let twice = named(vec![("a.json", host("h")), ("a.json", host("h"))]);
        assert_eq!(twice, ["1. a (a.json)", "2. a (a.json)"]);
        let mut labelled = host("h");
        labelled.settings.label = Some("The big one".into());
        assert_eq!(
            named(vec![("a", labelled), ("b", host("h"))]),
            ["The big one", "b"]
        );
    }

    #[test]
    fn other_work() {
        let mut other = sample();
        other.settings.work = "haraka256".into();
        let error = Comparison::new(vec![("a".into(), sample()), ("b".into(), other)]).unwrap_err();
        assert!(error.to_string().contains("b about haraka256"));
        assert!(Comparison::new(Vec::new()).is_err());
    }
}
