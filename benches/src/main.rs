//! `poet-bench`: which CPU, which core, which settings make the most ticks?

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use clap::Parser;
use poet_bench::check::findings;
use poet_bench::compare::Comparison;
use poet_bench::measure::WrongAnswer;
use poet_bench::options::{Command, Measurement, Options};
use poet_bench::report::Report;
use poet_bench::sections::{Section, sections, sentences};
use poet_bench::{html, session};
use poet_files::Output;

/// The machine computed something wrong.
const WRONG: u8 = 1;
/// What was asked for cannot be done.
const BAD_INPUT: u8 = 2;
/// The machine is slower than `--min-leaves-per-second`.
const TOO_SLOW: u8 = 3;

/// Set by a signal: a long run ends and is reported.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.command {
        None => measure(&options.measurement),
        Some(Command::Compare { reports, html }) => compare(reports, html.as_deref()),
        Some(Command::Check { core }) => check(core),
    };
    result.unwrap_or_else(|error| {
        eprintln!("poet-bench: {error:#}");
        let wrong = error.downcast_ref::<WrongAnswer>().is_some();
        ExitCode::from(if wrong { WRONG } else { BAD_INPUT })
    })
}

fn measure(options: &Measurement) -> Result<ExitCode> {
    let json = output("--json", options.json.as_deref())?;
    let page = output("--html", options.html.as_deref())?;
    if options.duration.is_some() {
        stop_at_signals()?;
    }
    let report = session::measure(options, &STOP)?;
    if let Some(json) = json {
        json.write(report.to_json()?.as_bytes())?;
    }
    if let Some(page) = page {
        page.write(html::report(&report).as_bytes())?;
    }
    let heading = format!("poet-bench {}, {}", report.version, report.started);
    show(&heading, &sections(&report), &sentences(&report))?;
    let rate = report.verdict.leaves_per_s;
    match options.min_leaves_per_second {
        Some(least) if rate < least => {
            eprintln!("poet-bench: {rate:.0} leaves/s are less than {least}");
            Ok(ExitCode::from(TOO_SLOW))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn output(option: &'static str, path: Option<&Path>) -> Result<Option<Output>> {
    Ok(path.map(|path| Output::open(option, path)).transpose()?)
}

/// The first signal ends a long run, which is then reported; the second ends the program.
fn stop_at_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Relaxed) {
            std::process::exit(130);
        }
        if std::io::stderr().is_terminal() {
            eprintln!("the run ends; once more to leave at once");
        }
    })
    .context("cannot listen to signals")
}

fn compare(paths: Vec<PathBuf>, page: Option<&Path>) -> Result<ExitCode> {
    let page = output("--html", page)?;
    let load = |path: PathBuf| {
        let report = Report::load(&path)?;
        let name = path.file_stem().unwrap_or(path.as_os_str());
        Ok((name.to_string_lossy().into_owned(), report))
    };
    let reports: Result<Vec<_>> = paths.into_iter().map(load).collect();
    let comparison = Comparison::new(reports?)?;
    if let Some(page) = page {
        page.write(comparison.page().as_bytes())?;
    }
    show(
        "poet-bench compare",
        &comparison.sections(),
        &comparison.sentences(),
    )?;
    Ok(ExitCode::SUCCESS)
}

fn check(core: Option<usize>) -> Result<ExitCode> {
    let (machine, measured) = session::check(core)?;
    let (found, hidden) = findings(&machine, &measured);
    let mut text = format!("What costs ticks on core {}\n", measured.core);
    for (index, finding) in found.iter().enumerate() {
        text += &format!(
            "\n{}. {}\n   gain    {}\n   change  {}\n",
            index + 1,
            finding.what,
            finding.gain,
            finding.change
        );
    }
    if found.is_empty() {
        text += "\nNothing that can be seen.\n";
    }
    if !hidden.is_empty() {
        text += &format!("\nNot shown by this machine: {}.\n", hidden.join(", "));
    }
    text += "\nNothing has been changed. After a change, measure again and compare.\n";
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn show(heading: &str, sections: &[Section], sentences: &[String]) -> Result<()> {
    let tables: String = sections.iter().map(Section::to_text).collect();
    print(&format!(
        "{heading}\n{tables}\nVerdict\n  {}\n",
        sentences.join("\n  ")
    ))
}

/// A reader that has gone away is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
