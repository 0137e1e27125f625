//! Reports as rows, for spreadsheets.

use crate::report::Report;

/// The names of the columns.
const HEADER: [&str; 23] = [
    "name",
    "hostname",
    "started",
    "version",
    "cpu",
    "microarchitecture",
    "core",
    "backend",
    "clock_ghz",
    "cycles_per_hash",
    "bound_reached",
    "undisturbed_leaves_per_s",
    "undisturbed_ticks",
    "leaves_per_s_with_interruptions",
    "ticks_with_interruptions",
    "windows_q1",
    "windows_q3",
    "measured_s",
    "ratio_to_sha2",
    "watts",
    "joules_per_tick",
    "price_per_tick",
    "doubts",
];

/// Returns a table with a row for each report.
#[must_use]
pub fn table(reports: &[(String, Report)]) -> String {
    let mut text = HEADER.join(",") + "\n";
    for (name, report) in reports {
        let cells: Vec<String> = row(name, report).iter().map(|cell| quoted(cell)).collect();
        text += &(cells.join(",") + "\n");
    }
    text
}

fn row(name: &str, report: &Report) -> [String; 23] {
    let (machine, prover, verdict) = (&report.machine, &report.prover, &report.verdict);
    let number = |number: Option<f64>| number.map_or_else(String::new, |it| it.to_string());
    let doubts: Vec<String> = verdict.doubts.iter().map(ToString::to_string).collect();
    [
        name.to_owned(),
        machine.hostname.clone().unwrap_or_default(),
        report.started.clone(),
        report.version.clone(),
        machine.model.clone(),
        machine.microarchitecture.clone().unwrap_or_default(),
        prover.core.to_string(),
        prover.backend.clone(),
        number(prover.clock_hz.map(|hz| hz.median / 1e9)),
        number(report.cycles_per_hash()),
        number(verdict.bound_reached),
        verdict.undisturbed.leaves_per_s.to_string(),
        verdict.undisturbed.ticks.to_string(),
        verdict.with_interruptions.leaves_per_s.to_string(),
        verdict.with_interruptions.ticks.to_string(),
        verdict.windows[0].to_string(),
        verdict.windows[1].to_string(),
        verdict.seconds.to_string(),
        number(report.yardstick.ratio.map(|ratio| ratio.median)),
        number(report.watts()),
        number(verdict.joules_per_tick),
        number(verdict.price_per_tick),
        doubts.join(" "),
    ]
}

/// Quotes a cell. Spreadsheets would compute text that starts like a formula.
fn quoted(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '@', '-']) && text.parse::<f64>().is_err();
    let text = if formula {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::sample;

    #[test]
    fn a_row_for_each_report() {
        let text = table(&[("one, two".into(), sample()), ("=1+1".into(), sample())]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].split(',').count(), HEADER.len());
        assert!(lines[1].starts_with("\"one, two\","), "{text}");
        assert!(lines[2].starts_with("'=1+1,"), "{text}");
        assert!(
            lines[2].contains(",55400,6925,55000,6875,55000,56000,3,1.251,"),
            "{text}"
        );
    }

    #[test]
    fn cells_are_quoted() {
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(quoted("-1.5"), "-1.5");
        assert_eq!(quoted("-x"), "'-x");
        assert_eq!(quoted("say \"x\""), "\"say \"\"x\"\"\"");
    }
}
