//! Several machines side by side.

use anyhow::{Result, bail, ensure};

use crate::html::{Bar, bars, figure, page};
use crate::report::{Report, Stat, ticks};
use crate::sections::{Section, duration, list, thousands};

/// Reports to compare, each with the name of its file.
#[derive(Clone, Debug)]
pub struct Comparison {
    reports: Vec<(String, Report)>,
}

impl Comparison {
    /// Compares reports with the first of them.
    ///
    /// # Errors
    /// When there are none, or not all are of the same work function: their leaves have nothing in
    /// common.
    pub fn new(reports: Vec<(String, Report)>) -> Result<Self> {
        let [(first_name, first), others @ ..] = reports.as_slice() else {
            bail!("there is nothing to compare");
        };
        for (name, other) in others {
            ensure!(
                first.settings.work == other.settings.work,
                "{first_name} is about {} and {name} about {}: their leaves cannot be compared",
                first.settings.work,
                other.settings.work
            );
        }
        Ok(Self { reports })
    }

    /// Whether all were long runs. If not, the medians of the short runs are what all have.
    fn long(&self) -> bool {
        self.reports
            .iter()
            .all(|(_, report)| report.endurance.is_some())
    }

    /// The leaves per second that are compared.
    fn rate(&self, report: &Report) -> Stat {
        let short = report.prover.leaves_per_s;
        match &report.endurance {
            Some(run) if self.long() => Stat::of(&[run.leaves_per_s]).unwrap_or(short),
            _ => short,
        }
    }

    /// The tables.
    #[must_use]
    pub fn sections(&self) -> Vec<Section> {
        vec![self.machines(), self.differences()]
    }

    /// The comparison as a page.
    #[must_use]
    pub fn page(&self) -> String {
        let bars_of = self
            .reports
            .iter()
            .enumerate()
            .map(|(index, (name, report))| {
                let rate = self.rate(report);
                Bar {
                    label: format!("{name}: {}", report.machine.model),
                    value: rate,
                    text: thousands(rate.median as u64),
                    marked: index == 0,
                }
            });
        let plot = figure(
            "Leaves/s of the whole prover",
            &bars(&bars_of.collect::<Vec<_>>()),
        );
        let title = format!("{} machines side by side", self.reports.len());
        page(
            &title,
            "poet-bench compare",
            &self.sentences(),
            &[plot],
            &self.sections(),
        )
    }

    /// What it comes to.
    #[must_use]
    pub fn sentences(&self) -> Vec<String> {
        let rate = |report: &Report| self.rate(report).median;
        let mut order: Vec<&(String, Report)> = self.reports.iter().collect();
        order.sort_by(|(_, a), (_, b)| rate(b).total_cmp(&rate(a)));
        let mut sentences = Vec::new();
        if let [(best, first), (next, second), ..] = order.as_slice() {
            sentences.push(if self.rate(first).overlaps(&self.rate(second)) {
                format!("{best} and {next} lead, too close to each other to be told apart.")
            } else {
                format!(
                    "{best} makes the most ticks, {:.3} times as many as {next}.",
                    rate(first) / rate(second)
                )
            });
        }
        let quick = self
            .reports
            .iter()
            .filter(|(_, report)| report.settings.quick);
        sentences.extend(quick.map(|(name, _)| {
            format!("{name} comes from a trial run of seconds (--quick): it decides nothing.")
        }));
        let any_long = self
            .reports
            .iter()
            .any(|(_, report)| report.endurance.is_some());
        if any_long && !self.long() {
            sentences.push(
                "Not all reports are of long runs (--duration): compared are the medians of the \
                 short ones, without interruptions."
                    .into(),
            );
        }
        sentences
    }

    fn machines(&self) -> Section {
        let rate = |report: &Report| self.rate(report).median;
        let first = &self.reports[0].1;
        let settings = &first.settings;
        let rows = self.reports.iter().map(|(name, report)| {
            let (_, ticks) = ticks(rate(report), settings.round_s, settings.tick_size);
            let yardstick = report.yardstick.ratio;
            vec![
                name.clone(),
                thousands(rate(report) as u64),
                format!("{:.3}", rate(report) / rate(first)),
                thousands(ticks),
                report.prover.core.to_string(),
                report.prover.backend.clone(),
                yardstick.map_or("-".into(), |ratio| format!("{ratio:.3}")),
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
                "<report", "leaves/s", "ratio", "ticks", "core", "<backend", "to sha2", "<CPU",
            ],
            rows: rows.collect(),
            notes: Vec::new(),
        }
    }

    /// The settings in which not all are alike.
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

/// What may explain a difference.
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
    use crate::sections::thousands;

    fn slower() -> Report {
        let mut report = sample();
        if let Some(run) = &mut report.endurance {
            run.leaves_per_s = 44_000.0;
        }
        report.prover.leaves_per_s = Stat {
            median: 44e3,
            q1: 43e3,
            q3: 45e3,
            samples: 9,
        };
        report.machine.turbo = Some(false);
        report.settings.tick_size = 1;
        report
    }

    #[test]
    fn side_by_side() {
        let comparison =
            Comparison::new(vec![("a".into(), sample()), ("b".into(), slower())]).unwrap();
        let [machines, differences] = comparison.sections().try_into().unwrap();
        assert_eq!(machines.rows[0][2], "1.000");
        assert_eq!(machines.rows[1][2], "0.800");
        // With the tick size of the first.
        let (_, expected) = ticks(44_000.0, 1_166_400.0, 9_331_200);
        assert_eq!(machines.rows[1][3], thousands(expected));
        let names: Vec<&str> = differences.rows.iter().map(|row| row[0].as_str()).collect();
        assert_eq!(names, ["--tick-size", "--tick-size", "turbo", "turbo"]);
        assert!(comparison.sentences()[0].starts_with("a makes the most ticks, 1.250 times"));
        assert_eq!(comparison.page().matches("<svg").count(), 1);
    }

    #[test]
    fn equals_are_not_ranked() {
        let mut one = sample();
        one.endurance = None;
        let comparison =
            Comparison::new(vec![("a".into(), one.clone()), ("b".into(), one)]).unwrap();
        assert!(comparison.sentences()[0].contains("too close"));
        assert!(comparison.sections()[1].rows.is_empty());
    }

    #[test]
    fn long_and_short_runs() {
        let mut short = slower();
        short.endurance = None;
        let comparison =
            Comparison::new(vec![("a".into(), sample()), ("b".into(), short)]).unwrap();
        let sentences = comparison.sentences();
        assert!(
            sentences[0].starts_with("a makes the most ticks, 1.259 times"),
            "{sentences:?}"
        );
        assert!(sentences[1].starts_with("Not all reports are of long runs"));
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
