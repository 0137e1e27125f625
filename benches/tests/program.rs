//! The program as its users see it, in runs of seconds. No test depends on its speed.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use poet_bench::report::{FORMAT, Report, SCHEMA};
use poet_host::Machine;
use poet_host::affinity;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_poet-bench"))
        .args(arguments)
        .current_dir(folder)
        .env_remove("POET_BACKEND")
        .output()
        .expect("the program starts")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("text")
}

/// Returns the number of files.
fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

/// Runs that must succeed; returns the output.
fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let error = text(output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    assert_eq!(error, "", "{arguments:?}");
    text(output.stdout)
}

/// Runs that must fail with exit code 2 and one sentence, and write nothing.
fn bad(folder: &Path, arguments: &[&str], expected: &str) {
    let before = files(folder);
    let output = run(folder, arguments);
    let error = text(output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(error.contains(expected), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert_eq!(files(folder), before, "{arguments:?}");
}

#[test]
fn everything_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let core = affinity::allowed()[0].to_string();
    let all = [
        "--quick",
        "--survey",
        "--duration",
        "1s",
        "--json",
        "a.json",
        "--html",
        "a.html",
        "--core",
        &core,
        "--priority",
        "5",
        "--tick-size",
        "1000",
        "--round",
        "1h",
        "--min-leaves-per-second",
        "1",
        "--min-undisturbed-leaves-per-second",
        "1",
        "--csv",
        "a.csv",
        "--markdown",
        "a.md",
        "--label",
        "The first",
        "--price",
        "90",
    ];
    let text = ok(folder, &all);
    for part in [
        "Machine",
        "Backends",
        "The effect of load",
        "The whole prover for ",
        "Is it good?",
        "Verdict",
        "--quick",
        "Undisturbed, core ",
        "With interruptions, it made ",
        "a month of 30 days a tick costs ",
        "Written: --json a.json, --html a.html, --csv a.csv, --markdown a.md",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let report = Report::load(&folder.join("a.json")).unwrap();
    assert_eq!((report.format.as_str(), report.schema), (FORMAT, SCHEMA));
    assert_eq!(report.prover.core.to_string(), core);
    let verdict = &report.verdict;
    for rate in [verdict.undisturbed, verdict.with_interruptions] {
        assert_eq!(rate.ticks, rate.leaves_per_round / 1000);
    }
    assert_eq!(
        verdict.undisturbed.leaves_per_s,
        report.prover.leaves_per_s.median
    );
    assert_eq!(report.settings.round_s, 3600.0);
    assert_eq!(
        report
            .backends
            .iter()
            .filter(|backend| backend.chosen)
            .count(),
        1
    );
    assert_eq!(report.loads.len(), 4);
    let cores = report.cores.measured.len() + report.cores.skipped.len();
    assert_eq!(cores, Machine::read(Path::new("/")).cores.len());
    let long = report.verdict.long;
    let run = report.endurance.unwrap();
    // On a busy machine, the short run may have been the longer one.
    assert_eq!(long, run.seconds >= report.prover.seconds);
    let counted: u64 = run.histogram.iter().map(|bucket| bucket.count).sum();
    assert_eq!(counted, run.leaves);
    assert_eq!(
        run.windows.iter().map(|window| window.leaves).sum::<u64>(),
        run.leaves
    );
    assert_eq!(run.first.leaves + run.rest.leaves, run.leaves);
    let page = fs::read_to_string(folder.join("a.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 4);

    let csv = fs::read_to_string(folder.join("a.csv")).unwrap();
    assert_eq!(csv.lines().count(), 2);
    assert!(csv.contains("\nThe first,"), "{csv}");
    let markdown = fs::read_to_string(folder.join("a.md")).unwrap();
    assert!(markdown.contains("\n## Machine\n\n|"), "{markdown}");

    // A page can be rendered from the JSON later, and is the same.
    ok(folder, &["render", "a.json", "--html", "later.html"]);
    assert_eq!(fs::read_to_string(folder.join("later.html")).unwrap(), page);
    let shown = ok(folder, &["render", "a.json"]);
    let (tables, _) = text.split_once("\nWritten: ").unwrap();
    assert_eq!(shown.trim_end(), tables.trim_end());

    // The report of another run is replaced only with --force.
    let again = ["--quick", "--backend", "generic", "--json", "a.json"];
    bad(
        folder,
        &again,
        "--json a.json exists: expected another name, or --force",
    );
    ok(folder, &[&again[..], &["--force"]].concat());
    let report = Report::load(&folder.join("a.json")).unwrap();
    assert_eq!(report.prover.backend, "generic");
    assert_eq!(report.endurance, None);
    fs::copy(folder.join("a.json"), folder.join("b.json")).unwrap();
    let compare = ["compare", "a.json", "b.json"];
    let outputs = ["--html", "c.html", "--csv", "c.csv", "--markdown", "c.md"];
    let text = ok(folder, &[&compare[..], &outputs].concat());
    assert!(text.contains("cannot be said"), "{text}");
    let page = fs::read_to_string(folder.join("c.html")).unwrap();
    assert!(page.contains("<svg"));
    let csv = fs::read_to_string(folder.join("c.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3);
    // Inputs are not outputs.
    let html = [&compare[..], &["--force", "--html", "./a.json"]].concat();
    bad(folder, &html, "would overwrite a.json, which is read");
    assert_eq!(files(folder), 9);
}

#[cfg(unix)]
#[test]
fn outputs_are_written_to_as_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let quick = ["--quick", "--backend", "generic"];
    // Only the JSON on standard output.
    let json = ok(folder, &[&quick[..], &["--json", "-"]].concat());
    let report = Report::from_json(&json).unwrap();
    assert_eq!(report.prover.backend, "generic");
    fs::write(folder.join("a.json"), &json).unwrap();
    let render = |option: &str, path: &str| run(folder, &["render", "a.json", option, path]);
    let expected = |option: &str| text(render(option, "-").stdout);
    for option in ["--html", "--csv", "--markdown"] {
        let content = expected(option);
        assert!(content.len() > 100, "{option}");
        assert_eq!(text(render(option, "/dev/stdout").stdout), content);
        let pipe = folder.join("pipe");
        assert!(
            Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        assert!(render(option, "pipe").status.success());
        assert_eq!(reader.join().unwrap(), content);
        fs::remove_file(pipe).unwrap();

        std::os::unix::fs::symlink("target", folder.join("link")).unwrap();
        assert!(render(option, "link").status.success());
        assert!(folder.join("link").is_symlink());
        assert_eq!(fs::read_to_string(folder.join("target")).unwrap(), content);
        for name in ["link", "target"] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        let render = ["render", "a.json", option];
        let missing = "the directory none does not exist";
        bad(folder, &[&render[..], &["none/x"]].concat(), missing);
        bad(
            folder,
            &[&render[..], &["."]].concat(),
            "the name of a directory",
        );
    }
    bad(
        folder,
        &[&quick[..], &["--json", "x", "--html", "./x"]].concat(),
        "--json x and --html ./x are the same",
    );
    bad(
        folder,
        &[&quick[..], &["--json", "-", "--csv", "/dev/stdout"]].concat(),
        "--json - and --csv /dev/stdout are the same",
    );

    // A device of its own, since a fault would break the system's for every program.
    let full = folder.join("full");
    let node = Command::new("mknod")
        .arg(&full)
        .args(["c", "1", "7"])
        .output();
    if !node.is_ok_and(|made| made.status.success()) {
        return poet_conformance::skip("no device can be made");
    }
    for option in ["--html", "--csv", "--markdown"] {
        let output = render(option, "full");
        assert_eq!(output.status.code(), Some(2));
        let error = text(output.stderr);
        let expected = format!("cannot write {option} full: no space left on the device");
        assert!(error.contains(&expected), "{error}");
    }
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(
        &fs::symlink_metadata(full).unwrap().file_type()
    ));
}

/// Returns the report written by a running program, once it satisfies `condition`.
#[cfg(unix)]
fn await_report(path: &Path, condition: impl Fn(&Report) -> bool) -> Report {
    let start = std::time::Instant::now();
    loop {
        if let Ok(report) = Report::load(path)
            && condition(&report)
        {
            return report;
        }
        assert!(start.elapsed().as_secs() < 120, "there is no report");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[cfg(unix)]
#[test]
fn a_long_run_that_was_killed_is_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let path = folder.join("a.json");
    let arguments = ["--quick", "--backend", "generic", "--json", "a.json"];
    let mut program = Command::new(env!("CARGO_BIN_EXE_poet-bench"))
        .args(arguments)
        .args(["--duration", "14d", "--html", "a.html"])
        .current_dir(folder)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // The short run is written at once, the long one soon.
    await_report(&path, |_| true);
    let killed = await_report(&path, |report| report.endurance.is_some());
    program.kill().unwrap();
    program.wait().unwrap();
    let left = Report::load(&path).unwrap();
    let run = left.endurance.clone().unwrap();
    assert!(run.stopped_early && run.leaves > 0 && run.asked_s == 1_209_600.0);
    assert!(run.leaves >= killed.endurance.unwrap().leaves);
    assert!(folder.join("a.html").exists());
    ok(folder, &["render", "a.json", "--html", "later.html"]);

    let length = format!("{}s", run.seconds.ceil() as u64 + 1);
    let text = ok(folder, &["--resume", "a.json", "--duration", &length]);
    assert!(
        text.contains("It was resumed by another process after "),
        "{text}"
    );
    let resumed = Report::load(&path).unwrap();
    // The short run is unchanged; the long one continues.
    assert_eq!(resumed.prover, left.prover);
    assert_eq!(resumed.started, left.started);
    let longer = resumed.endurance.unwrap();
    assert_eq!(longer.resumed_s, [run.seconds]);
    assert!(longer.leaves > run.leaves && !longer.stopped_early);
    let counted: u64 = longer.histogram.iter().map(|bucket| bucket.count).sum();
    assert_eq!(counted, longer.leaves);

    let again = ["--resume", "a.json", "--duration", &length];
    bad(folder, &again, "there is nothing left to do");
    bad(folder, &["--resume", "none.json"], "cannot read none.json");
    ok(
        folder,
        &["--quick", "--backend", "generic", "--json", "short.json"],
    );
    bad(folder, &["--resume", "short.json"], "has no long run yet");
    for asked_s in [-5.0, 1e300] {
        let mut damaged = Report::load(&path).unwrap();
        damaged.endurance.as_mut().unwrap().asked_s = asked_s;
        fs::write(folder.join("damaged.json"), damaged.to_json().unwrap()).unwrap();
        bad(
            folder,
            &["--resume", "damaged.json"],
            "it is damaged: no run is",
        );
    }
    let mut other = Report::load(&path).unwrap();
    other.machine.hostname = Some("elsewhere".into());
    fs::write(folder.join("other.json"), other.to_json().unwrap()).unwrap();
    let other = ["--resume", "other.json", "--duration", "1h"];
    bad(
        folder,
        &other,
        "this is another machine than that of the report, elsewhere",
    );
}

#[test]
fn a_prediction_says_that_it_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let text = ok(folder.path(), &["predict", "zen-3", "4.9"]);
    for part in [
        "Computed, not measured",
        "Zen 3",
        "90,774 leaves/s",
        "instruction tables",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    bad(
        folder.path(),
        &["predict", "zen-9", "4"],
        "nothing can be predicted",
    );
    bad(
        folder.path(),
        &["predict", "zen-4", "4000"],
        "a clock in GHz",
    );
}

/// The first signal ends a long run, and the results so far are reported.
#[cfg(unix)]
#[test]
fn a_signal_ends_a_long_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_poet-bench"))
        .args([
            "--quick",
            "--backend",
            "generic",
            "--duration",
            "14d",
            "--json",
            "a.json",
        ])
        .current_dir(folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    // It handles signals by then; whether the long run has begun makes no difference.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let kill = Command::new("kill")
        .args(["-INT", &program.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert!(program.wait().unwrap().success());
    let report = Report::load(&folder.path().join("a.json")).unwrap();
    let run = report.endurance.unwrap();
    assert!(run.stopped_early && run.leaves > 0);
    // A verdict needs a minimum of work.
    assert_eq!(report.verdict.long, run.seconds >= report.prover.seconds);
}

#[test]
fn haraka_is_not_compared_with_sha256() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let text = ok(
        folder,
        &["--quick", "--work", "haraka256", "--json", "haraka.json"],
    );
    assert!(
        text.contains("The hardware bound of this CPU for haraka256 is not known."),
        "{text}"
    );
    ok(
        folder,
        &["--quick", "--backend", "generic", "--json", "sha256.json"],
    );
    bad(
        folder,
        &["compare", "sha256.json", "haraka.json", "--html", "x.html"],
        "cannot be compared",
    );
}

#[test]
fn too_slow() {
    let folder = tempfile::tempdir().unwrap();
    let slow = [
        "--quick",
        "--backend",
        "generic",
        "--min-leaves-per-second",
        "1e12",
        "--json",
        "a",
    ];
    let output = run(folder.path(), &slow);
    assert_eq!(output.status.code(), Some(3));
    let error = text(output.stderr);
    let expected = "leaves/s with interruptions are less than 1000000000000";
    assert!(error.contains(expected), "{error}");
    // The report shows how slow it is.
    assert!(Report::load(&folder.path().join("a")).is_ok());
}

#[test]
fn bad_input() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    bad(
        folder,
        &["--core", "987", "--json", "x"],
        "core 987 does not exist",
    );
    bad(
        folder,
        &["--backend", "none", "--json", "x"],
        "unknown backend \"none\"",
    );
    // A backend that would leave the ticks to another is refused.
    let report = poet_backends::survey(poet_engine::WorkFunction::Sha256);
    let wide = report
        .iter()
        .find(|it| !it.latency && it.excluded.is_none());
    if let Some(wide) = wide {
        let arguments = ["--quick", "--backend", wide.name, "--json", "x"];
        bad(folder, &arguments, "hashes only many chains at once");
    }
    bad(folder, &["--work", "md5"], "expected sha256 or haraka256");
    bad(folder, &["--duration", "soon"], "expected a time such as");
    bad(folder, &["--tick-size", "0"], "--tick-size");
    let missing = "cannot write --json none/x: the directory none does not exist";
    bad(folder, &["--json", "none/x"], missing);
    bad(folder, &["--html", "."], "cannot write --html .: ");
    bad(
        folder,
        &["check", "--core", "987"],
        "core 987 does not exist",
    );
    bad(
        folder,
        &["compare", "x", "y"],
        "cannot read x: there is no such file",
    );
    bad(folder, &["compare", "x"], "2 values required");
}

#[test]
fn reports_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    ok(
        folder,
        &["--quick", "--backend", "generic", "--json", "good.json"],
    );
    let good = fs::read_to_string(folder.join("good.json")).unwrap();
    fs::write(folder.join("text.json"), "leaves").unwrap();
    fs::write(folder.join("foreign.json"), "{\"schema\": 1}").unwrap();
    let later = good.replacen("\"schema\": 2", "\"schema\": 3", 1);
    fs::write(folder.join("later.json"), later).unwrap();
    let mut edited = Report::from_json(&good).unwrap();
    edited.prover.leaves_per_s.median *= 2.0;
    fs::write(folder.join("edited.json"), edited.to_json().unwrap()).unwrap();
    fs::write(folder.join("cut.json"), &good[..good.len() / 2]).unwrap();
    for (name, expected) in [
        ("text.json", "cannot use text.json: it is not JSON"),
        (
            "foreign.json",
            "cannot use foreign.json: it is not a report of poet-bench",
        ),
        (
            "later.json",
            "cannot use later.json: it has schema version 3, and this program reads version 2",
        ),
        ("cut.json", "cannot use cut.json: it is not JSON"),
        ("edited.json", "cannot use edited.json: it was edited"),
    ] {
        bad(
            folder,
            &["compare", "good.json", name, "--html", "x.html"],
            expected,
        );
    }
}

#[test]
fn check_changes_nothing_and_tells_so() {
    let folder = tempfile::tempdir().unwrap();
    let text = ok(folder.path(), &["check"]);
    assert!(text.starts_with("What costs ticks on core "), "{text}");
    assert!(text.contains("Nothing has been changed."), "{text}");
    assert!(text.contains("\n   programs    "), "{text}");
    assert!(text.contains("\n   interrupts  "), "{text}");
}

/// Root may; it is the only one of whom that is known.
#[cfg(unix)]
#[test]
fn no_permission_for_a_priority() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--quick", "--backend", "generic", "--priority", "-20"];
    let output = run(folder.path(), &arguments);
    if !output.status.success() {
        bad(
            folder.path(),
            &arguments,
            "cannot set priority -20; below 0 it takes root",
        );
    }
}
