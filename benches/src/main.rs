//! `poet-bench`: which CPU, which core, which settings make the most ticks?

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result, bail};
use clap::{CommandFactory as _, FromArgMatches as _};
use poet_bench::check;
use poet_bench::compare::Comparison;
use poet_bench::known::KnownCore;
use poet_bench::options::{BenchOptions, Command, Measurement, Outputs, RoundOptions};
use poet_bench::report::Report;
use poet_bench::sample::WrongAnswer;
use poet_bench::sections::sections;
use poet_bench::sentences::sentences;
use poet_bench::table::Section;
use poet_bench::words::{duration, thousands};
use poet_bench::{csv, html, session};
use poet_files::{Output, explain, reason};

/// The machine computed something wrong.
const WRONG: u8 = 1;
/// The request cannot be met.
const BAD_INPUT: u8 = 2;
/// The machine is slower than required.
const TOO_SLOW: u8 = 3;

/// Set by a signal: a long run then ends and is reported.
static STOP: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let matches = poet_pages::with_pages(BenchOptions::command()).get_matches();
    if let Some(written) = poet_pages::write_if_asked(&matches, BenchOptions::command()) {
        let Err(error) = written else {
            return ExitCode::SUCCESS;
        };
        eprintln!("poet-bench: cannot write the pages: {}", reason(&error));
        return ExitCode::from(BAD_INPUT);
    }
    let options = BenchOptions::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let result = match options.command {
        None => measure(&options.measurement),
        Some(Command::Compare { reports, outputs }) => compare(&reports, &outputs),
        Some(Command::Render { report, outputs }) => render(&report, &outputs),
        Some(Command::Predict { kind, ghz, round }) => predict(kind, ghz, round),
        Some(Command::Check { core }) => check(core),
    };
    result.unwrap_or_else(|error| {
        eprintln!("poet-bench: {}", explain(error.as_ref()));
        let wrong = error.downcast_ref::<WrongAnswer>().is_some();
        ExitCode::from(if wrong { WRONG } else { BAD_INPUT })
    })
}

/// The files that a command writes in addition to its text, each checked before anything is
/// measured.
struct Files {
    json: Option<Output>,
    html: Option<Output>,
    csv: Option<Output>,
    markdown: Option<Output>,
}

impl Files {
    /// Opens the requested outputs. `inputs` are read, and must not be written.
    fn open(json: Option<&Path>, outputs: &Outputs, inputs: &[PathBuf]) -> Result<Self> {
        let open = |option: &'static str, path: Option<&Path>| -> Result<Option<Output>> {
            let Some(path) = path else { return Ok(None) };
            let output = Output::open(option, path)?;
            if let Some(input) = inputs.iter().find(|input| output.overwrites(input)) {
                bail!(
                    "{output} would overwrite {}, which is read",
                    input.display()
                );
            }
            let holds_something = |path: &Path| path.metadata().is_ok_and(|file| file.len() > 0);
            if !outputs.force && output.file().is_some_and(holds_something) {
                bail!("{output} exists: expected another name, or --force to replace it");
            }
            Ok(Some(output))
        };
        let files = Self {
            json: open("--json", json)?,
            html: open("--html", outputs.html.as_deref())?,
            csv: open("--csv", outputs.csv.as_deref())?,
            markdown: open("--markdown", outputs.markdown.as_deref())?,
        };
        let all = files.all();
        for (index, one) in all.iter().enumerate() {
            if let Some(other) = all[index + 1..].iter().find(|other| one.is_same(other)) {
                bail!("{one} and {other} are the same");
            }
        }
        Ok(files)
    }

    fn all(&self) -> Vec<&Output> {
        let all = [&self.json, &self.html, &self.csv, &self.markdown];
        all.into_iter().flatten().collect()
    }

    /// Returns whether standard output is one of them, and so not free for the text.
    fn use_stdout(&self) -> bool {
        self.all().iter().any(|output| output.is_stdout())
    }

    /// Writes a report to the outputs that `which` selects.
    fn write(&self, report: &Report, which: impl Fn(&Output) -> bool) -> Result<()> {
        if let Some(json) = self.json.as_ref().filter(|output| which(output)) {
            json.write(report.to_json()?.as_bytes())?;
        }
        if let Some(page) = self.html.as_ref().filter(|output| which(output)) {
            page.write(html::report(report).as_bytes())?;
        }
        if let Some(table) = self.csv.as_ref().filter(|output| which(output)) {
            let name = report.settings.label.clone().unwrap_or_default();
            table.write(csv::table(&[(name, report.clone())]).as_bytes())?;
        }
        if let Some(text) = self.markdown.as_ref().filter(|output| which(output)) {
            text.write(markdown(&heading(report), &words(report), &sections(report)).as_bytes())?;
        }
        Ok(())
    }

    /// Writes a report of a long run so far to the outputs that can be replaced later. Reports a
    /// failure and goes on: the disk may have room again later.
    fn checkpoint(&self, report: &Report) {
        if let Err(error) = self.write(report, Output::is_replaced) {
            eprintln!("poet-bench: {}; the run goes on", explain(error.as_ref()));
        }
    }

    /// Prints the text, unless standard output is one of the files.
    fn show(&self, heading: &str, sentences: &[String], sections: &[Section]) -> Result<()> {
        let tables: String = sections.iter().map(Section::to_text).collect();
        let mut text = format!("{heading}\n{tables}\nVerdict\n");
        for sentence in sentences {
            text += &format!("  {sentence}\n");
        }
        let written = self.all().into_iter().filter(|output| output.is_replaced());
        let written: Vec<String> = written.map(ToString::to_string).collect();
        if !written.is_empty() {
            text += &format!("\nWritten: {}\n", written.join(", "));
        }
        if self.use_stdout() {
            return Ok(());
        }
        print(&text)
    }
}

fn measure(options: &Measurement) -> Result<ExitCode> {
    let report = match &options.resume {
        Some(path) => resume(options, path)?,
        None => {
            let files = Files::open(options.json.as_deref(), &options.outputs, &[])?;
            if options.duration.is_some() {
                stop_at_signals()?;
            }
            let report = session::measure(options, &STOP, &mut |report| files.checkpoint(report))?;
            files.write(&report, |_| true)?;
            files.show(&heading(&report), &words(&report), &sections(&report))?;
            report
        }
    };
    let slow = report.verdict.too_slow(
        options.min_leaves_per_second,
        options.min_undisturbed_leaves_per_second,
    );
    for rate in &slow {
        eprintln!("poet-bench: {rate}");
    }
    Ok(if slow.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(TOO_SLOW)
    })
}

fn resume(options: &Measurement, path: &Path) -> Result<Report> {
    let report = Report::load(path)?;
    let mut files = Files::open(None, &options.outputs, &[path.to_owned()])?;
    files.json = Some(Output::open_file("--resume", path)?);
    stop_at_signals()?;
    let report = session::resume(
        &report,
        options.duration,
        options.priority,
        &STOP,
        &mut |report| files.checkpoint(report),
    )
    .with_context(|| format!("cannot go on with {}", path.display()))?;
    files.write(&report, |_| true)?;
    files.show(&heading(&report), &words(&report), &sections(&report))?;
    Ok(report)
}

fn render(path: &Path, outputs: &Outputs) -> Result<ExitCode> {
    let files = Files::open(None, outputs, &[path.to_owned()])?;
    let report = Report::load(path)?;
    files.write(&report, |_| true)?;
    files.show(&heading(&report), &words(&report), &sections(&report))?;
    Ok(ExitCode::SUCCESS)
}

fn heading(report: &Report) -> String {
    let name = report
        .settings
        .label
        .as_ref()
        .or(report.machine.hostname.as_ref());
    let name = name.map_or_else(String::new, |name| format!("{name}, "));
    format!("{name}poet-bench {}, {}", report.version, report.started)
}

fn words(report: &Report) -> Vec<String> {
    sentences(report).iter().map(ToString::to_string).collect()
}

/// The first signal ends a long run, which is then reported; the second ends the program.
fn stop_at_signals() -> Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Relaxed) {
            std::process::exit(130);
        }
        if std::io::stderr().is_terminal() {
            eprintln!("ending the run; a second signal quits at once");
        }
    })
    .context("cannot handle signals")
}

fn compare(paths: &[PathBuf], outputs: &Outputs) -> Result<ExitCode> {
    let files = Files::open(None, outputs, paths)?;
    let reports: Result<Vec<_>> = paths
        .iter()
        .map(|path| Ok((path.clone(), Report::load(path)?)))
        .collect();
    let comparison = Comparison::new(reports?)?;
    let heading = "poet-bench compare";
    let (sentences, sections) = (comparison.words(), comparison.sections());
    if let Some(page) = &files.html {
        page.write(comparison.page().as_bytes())?;
    }
    if let Some(table) = &files.csv {
        table.write(csv::table(comparison.reports()).as_bytes())?;
    }
    if let Some(text) = &files.markdown {
        text.write(markdown(heading, &sentences, &sections).as_bytes())?;
    }
    files.show(heading, &sentences, &sections)?;
    Ok(ExitCode::SUCCESS)
}

fn markdown(heading: &str, sentences: &[String], sections: &[Section]) -> String {
    let tables: String = sections.iter().map(Section::to_markdown).collect();
    let list: String = sentences.iter().map(|it| format!("- {it}\n")).collect();
    format!("# {heading}\n\n{list}{tables}")
}

fn predict(kind: &KnownCore, ghz: f64, round: RoundOptions) -> Result<ExitCode> {
    let (tick_size, round) = (round.tick_size, round.length);
    let rate = kind.rate(ghz * 1e9, round.as_secs_f64(), tick_size);
    let per_100_mhz = kind.rate(1e8, round.as_secs_f64(), tick_size);
    print(&format!(
        "Computed, not measured: a core of {name} ({found_in}) at {ghz} GHz makes {leaves} leaves/s \
         undisturbed, {ticks} ticks in a round of {round} (tick size {tick_size}).\n\
         100 MHz more or less are {per_100_mhz} ticks.\n\
         Cycles of a hash: {cycles}, {source}.\n\
         Only a run of poet-bench on the machine says what clock it keeps, and what interrupts it.\n",
        name = kind.name,
        found_in = kind.found_in,
        leaves = thousands(rate.leaves_per_s as u64),
        ticks = thousands(rate.ticks),
        round = duration(round.as_secs_f64()),
        tick_size = thousands(tick_size),
        per_100_mhz = thousands(per_100_mhz.ticks),
        cycles = kind.cycles_per_hash,
        source = kind.source,
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn check(core: Option<usize>) -> Result<ExitCode> {
    let (machine, measured) = session::check(core)?;
    print(&check::text(&machine, &measured))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints to standard output. It is not an error if the reader has closed it.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            bail!("cannot print the report: {}", reason(&error))
        }
        _ => Ok(()),
    }
}
