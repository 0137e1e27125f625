//! The program as its users see it, in runs of seconds. Nothing here depends on how fast it is.

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

/// How many files there are.
fn files(folder: &Path) -> usize {
    fs::read_dir(folder).expect("a folder").count()
}

/// Runs that must succeed; returns what was printed.
fn ok(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let error = text(output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    assert_eq!(error, "", "{arguments:?}");
    text(output.stdout)
}

/// Runs that must fail with exit code 2, one sentence, and nothing written.
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
    ];
    let text = ok(folder, &all);
    for part in [
        "Machine",
        "Backends",
        "The effect of load",
        "The whole prover for ",
        "Verdict",
        "--quick",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let report = Report::load(&folder.join("a.json")).unwrap();
    assert_eq!((report.format.as_str(), report.schema), (FORMAT, SCHEMA));
    assert_eq!(report.prover.core.to_string(), core);
    assert_eq!(report.verdict.ticks, report.verdict.leaves_per_round / 1000);
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
    let run = report.endurance.unwrap();
    let counted: u64 = run.histogram.iter().map(|bucket| bucket.count).sum();
    assert_eq!(counted, run.leaves);
    assert_eq!(
        run.windows.iter().map(|window| window.leaves).sum::<u64>(),
        run.leaves
    );
    assert_eq!(run.first.leaves + run.rest.leaves, run.leaves);
    let page = fs::read_to_string(folder.join("a.html")).unwrap();
    assert_eq!(page.matches("<svg").count(), 4);

    // What has been written is replaced, and can be compared.
    ok(
        folder,
        &["--quick", "--backend", "generic", "--json", "a.json"],
    );
    let report = Report::load(&folder.join("a.json")).unwrap();
    assert_eq!(report.prover.backend, "generic");
    assert_eq!(report.endurance, None);
    fs::copy(folder.join("a.json"), folder.join("b.json")).unwrap();
    let text = ok(folder, &["compare", "a.json", "b.json", "--html", "c.html"]);
    assert!(text.contains("1.000"), "{text}");
    assert!(
        fs::read_to_string(folder.join("c.html"))
            .unwrap()
            .contains("<svg")
    );
    assert_eq!(files(folder), 4);
}

/// The first signal ends a long run, and what there is is reported.
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
    // By then it listens; whether the long run has begun makes no difference.
    std::thread::sleep(std::time::Duration::from_secs(2));
    let kill = Command::new("kill")
        .args(["-INT", &program.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    assert!(program.wait().unwrap().success());
    let report = Report::load(&folder.path().join("a.json")).unwrap();
    let run = report.endurance.unwrap();
    assert!(run.stopped_early && run.leaves > 0);
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
    assert!(error.contains("are less than 1000000000000"), "{error}");
    // The report tells how slow.
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
    bad(folder, &["--work", "md5"], "there are sha256 and haraka256");
    bad(folder, &["--duration", "soon"], "expected a time such as");
    bad(folder, &["--tick-size", "0"], "--tick-size");
    bad(folder, &["--json", "none/x"], "cannot write none/x");
    bad(folder, &["--html", "."], "cannot write .");
    bad(
        folder,
        &["check", "--core", "987"],
        "core 987 does not exist",
    );
    bad(folder, &["compare", "x", "y"], "cannot use x: No such file");
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
    let later = good.replacen("\"schema\": 1", "\"schema\": 2", 1);
    fs::write(folder.join("later.json"), later).unwrap();
    fs::write(folder.join("cut.json"), &good[..good.len() / 2]).unwrap();
    for (name, expected) in [
        ("text.json", "cannot use text.json: not JSON"),
        (
            "foreign.json",
            "cannot use foreign.json: not a report of poet-bench",
        ),
        (
            "later.json",
            "cannot use later.json: schema version 2; this program reads version 1",
        ),
        ("cut.json", "cannot use cut.json: not JSON"),
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
