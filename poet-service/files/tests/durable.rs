//! What makes a file durable, in which order, as the system calls show: its content before it gets its
//! name, its directory after that. strace follows this program, which runs itself for each operation.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use poet_conformance::skip;
use poet_files::{
    Access, Output, create_directory, create_new, rename_into_place, replace, replace_through,
};

/// The operation to perform in the current directory, if this process is one that strace follows.
const OPERATION: &str = "POET_FILES_TEST_OPERATION";
/// The calls that change files or make changes durable.
const CALLS: &str = "trace=mkdir,rename,renameat,renameat2,link,linkat,unlink,unlinkat,write,\
                     pwrite64,writev,fsync,fdatasync";

fn perform(operation: &str) {
    let file = Path::new("file");
    match operation {
        "replace" => replace(file, b"x", Access::Default).unwrap(),
        "replace_through" => {
            let write = |part: &mut File| part.write_all(b"x");
            replace_through(Path::new("part"), file, write).unwrap();
        }
        "create_new" => create_new(Path::new("new"), b"x", Access::Default).unwrap(),
        "rename_into_place" => rename_into_place(file, Path::new("renamed")).unwrap(),
        "rename_into_place, another directory" => {
            rename_into_place(file, Path::new("folder/file")).unwrap();
        }
        "create_directory" => create_directory(Path::new("one/two"), Access::Default).unwrap(),
        "output" => Output::open("--out", file).unwrap().write(b"x").unwrap(),
        other => panic!("{other}"),
    }
}

/// Returns the calls of an operation, each as its name and the files that it concerns.
fn calls(operation: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().canonicalize().unwrap();
    let inside = top.join("inside");
    fs::create_dir_all(inside.join("folder")).unwrap();
    fs::write(inside.join("file"), "old").unwrap();
    let trace = top.join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-qq", "-y", "-e", CALLS, "-e", "signal=none", "-o"])
        .arg(&trace)
        .arg(env::current_exe().unwrap())
        .args(["--exact", "files_are_durable_in_the_right_order"])
        .env(OPERATION, operation)
        .current_dir(&inside)
        .stdout(Stdio::null());
    assert!(strace.status().unwrap().success(), "{operation}");
    let trace = fs::read_to_string(trace).unwrap();
    trace
        .lines()
        .filter_map(|line| call(line, &inside))
        .collect()
}

/// Parses a line of the trace: `None` if it does not concern the files in `folder`.
fn call(line: &str, folder: &Path) -> Option<String> {
    let (_, line) = line.split_once(char::is_whitespace)?;
    let (name, arguments) = line.trim_start().split_once('(')?;
    // A descriptor, with its path in brackets, or paths in quotes.
    let paths: Vec<&str> = match arguments.split_once('<') {
        Some((number, rest)) if number.parse::<u32>().is_ok() => {
            vec![rest.split_once('>')?.0]
        }
        _ => arguments.split('"').skip(1).step_by(2).collect(),
    };
    let mut call = name
        .trim_end_matches("at2")
        .trim_end_matches("at")
        .to_owned();
    for path in paths {
        // Relative paths are of the operation.
        let path = Path::new(path);
        if path.is_absolute() && !path.starts_with(folder) {
            return None;
        }
        let path = path.strip_prefix(folder).unwrap_or(path);
        let path = path.strip_prefix(".").unwrap_or(path).to_str().unwrap();
        call.push(' ');
        call += match path {
            "" => ".",
            temporary if temporary.starts_with(".poet-") => "TEMPORARY",
            path => path,
        };
    }
    Some(call)
}

#[test]
fn files_are_durable_in_the_right_order() {
    if let Ok(operation) = env::var(OPERATION) {
        return perform(&operation);
    }
    match Command::new("strace").args(["-qq", "true"]).output() {
        Ok(traced) if traced.status.success() => {}
        Ok(traced) => return skip(String::from_utf8_lossy(&traced.stderr)),
        Err(error) => return skip(format_args!("strace: {error}")),
    }
    let replaced: &[&str] = &[
        "write TEMPORARY",
        "fsync TEMPORARY",
        "rename TEMPORARY file",
        "fsync .",
    ];
    for (operation, expected) in [
        ("replace", replaced),
        ("output", replaced),
        (
            "replace_through",
            &["write part", "fsync part", "rename part file", "fsync ."],
        ),
        (
            "create_new",
            &[
                "write TEMPORARY",
                "fsync TEMPORARY",
                "rename TEMPORARY new",
                "fsync .",
            ],
        ),
        ("rename_into_place", &["rename file renamed", "fsync ."]),
        (
            "rename_into_place, another directory",
            &["rename file folder/file", "fsync folder", "fsync ."],
        ),
        (
            "create_directory",
            &["mkdir one", "fsync .", "mkdir one/two", "fsync one"],
        ),
    ] {
        assert_eq!(calls(operation), expected, "{operation}");
    }
}
