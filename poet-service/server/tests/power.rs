//! What a power failure would leave, derived from the server's system calls: strace records its
//! writes, syncs and responses in order. A write is durable if a sync of its file began after it
//! and succeeded, and the name of a file if the same is true of its directory.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{Client, TestNode, await_some};
use poet_conformance::skip;
use program::command;
use rustix::process::{Pid, Signal, kill_process};

/// The calls that change files, make changes durable, or send to clients.
const CALLS: &str = "trace=openat,mkdir,rename,renameat,renameat2,unlink,unlinkat,pwrite64,write,\
                     writev,ftruncate,fsync,fdatasync,recvfrom,read,sendto,sendmsg";
const NODES: u32 = 5;
/// Syncs of the tree log to wait for.
const LOG_SYNCS: usize = 3;

/// A call, when it begins or ends.
#[derive(Debug)]
struct Call<'a> {
    thread: &'a str,
    name: &'a str,
    /// The text in the parentheses, as far as it is known by then.
    arguments: &'a str,
    /// Absent when it begins; an error if it failed.
    result: Option<Result<(), ()>>,
}

impl<'a> Call<'a> {
    /// A line is a whole call, or its beginning, or its end.
    fn parse(line: &'a str) -> Option<Self> {
        let (thread, rest) = line.split_once(char::is_whitespace)?;
        let rest = rest.trim_start();
        let (name, rest) = match rest.strip_prefix("<... ") {
            Some(resumed) => resumed.split_once(" resumed>")?,
            None => rest.split_once('(')?,
        };
        let (arguments, result) = match rest.strip_suffix("<unfinished ...>") {
            Some(arguments) => (arguments, None),
            None => {
                let (arguments, result) = rest.rsplit_once(" = ")?;
                let failed = result.starts_with('-') || result.starts_with('?');
                (arguments, Some(if failed { Err(()) } else { Ok(()) }))
            }
        };
        Some(Self {
            thread,
            name,
            arguments,
            result,
        })
    }

    /// Returns what the descriptor in the first argument refers to.
    fn file(&self) -> Option<&'a str> {
        let (number, rest) = self.arguments.split_once('<')?;
        number.parse::<u32>().ok()?;
        Some(rest.split_once('>')?.0)
    }

    /// Returns the path in quotes.
    fn path(&self) -> Option<&'a str> {
        Some(self.arguments.split_once('"')?.1.split_once('"')?.0)
    }
}

/// The durability of something, as counts of calls.
#[derive(Clone, Copy, Default)]
struct Durable {
    changes: usize,
    /// Changes that are durable.
    synced: usize,
    syncs: usize,
}

impl Durable {
    fn lacks(self) -> bool {
        self.synced < self.changes
    }
}

/// What is durable, according to the calls.
#[derive(Default)]
struct Disk {
    /// Files with what was written to them, and directories with the names in them.
    things: BTreeMap<PathBuf, Durable>,
    /// Names, and the changes of their directories that created them.
    names: BTreeMap<PathBuf, usize>,
    /// Syncs that have begun, by thread: of what, and how many changes they cover.
    syncing: HashMap<String, (PathBuf, usize)>,
    /// Calls of which only the beginning is known, by thread: the purpose of a path.
    opening: HashMap<String, (PathBuf, bool)>,
    /// The same for renames: the old and the new path.
    renaming: HashMap<String, (PathBuf, PathBuf)>,
    /// Files that were renamed, by thread, until their new name is durable.
    renamed: HashMap<String, PathBuf>,
    /// Files whose new name is durable.
    placed: Vec<PathBuf>,
}

impl Disk {
    fn of(&self, path: &Path) -> Durable {
        self.things.get(path).copied().unwrap_or_default()
    }

    fn change(&mut self, path: &Path) {
        self.things.entry(path.to_owned()).or_default().changes += 1;
    }

    /// A name appears or disappears.
    fn name(&mut self, path: &Path, there: bool) {
        if there == self.names.contains_key(path) {
            return;
        }
        let parent = path.parent().unwrap();
        self.change(parent);
        if there {
            self.names.insert(path.to_owned(), self.of(parent).changes);
        } else {
            self.names.remove(path);
        }
    }

    /// A file replaces another.
    fn rename(&mut self, from: &Path, to: &Path) {
        let moved = self.things.remove(from).unwrap_or_default();
        assert!(
            !moved.lacks(),
            "{from:?} replaces {to:?} before it is durable"
        );
        self.things.insert(to.to_owned(), moved);
        self.name(from, false);
        self.names.remove(to);
        self.name(to, true);
    }

    /// A thread makes a new name durable before it does anything else.
    fn place(&mut self, call: &Call<'_>) {
        let Some(path) = self.renamed.get(call.thread) else {
            return;
        };
        let directory = path.parent().unwrap();
        match call.name {
            "openat" if call.path().is_none_or(|file| Path::new(file) == directory) => {}
            "fsync" if call.file().is_none_or(|file| Path::new(file) == directory) => {
                if call.result == Some(Ok(())) {
                    self.placed.extend(self.renamed.remove(call.thread));
                }
            }
            _ => panic!("{path:?} was renamed, and its directory not synced: {call:?}"),
        }
    }

    fn add(&mut self, call: &Call<'_>) {
        self.place(call);
        match call.name {
            "pwrite64" | "write" | "writev" | "ftruncate" => {
                // If the end is on another line, only the first one names the file.
                if let Some(path) = call.file() {
                    self.change(Path::new(path));
                }
            }
            "fsync" | "fdatasync" => {
                if let Some(path) = call.file() {
                    let changes = self.of(Path::new(path)).changes;
                    let sync = (PathBuf::from(path), changes);
                    self.syncing.insert(call.thread.to_owned(), sync);
                }
                if let Some(result) = call.result
                    && let Some((path, changes)) = self.syncing.remove(call.thread)
                    && result.is_ok()
                {
                    let thing = self.things.entry(path).or_default();
                    thing.synced = thing.synced.max(changes);
                    thing.syncs += 1;
                }
            }
            "openat" | "mkdir" | "unlink" | "unlinkat" => {
                if let Some(path) = call.path()
                    && (call.name != "openat" || call.arguments.contains("O_CREAT"))
                {
                    let there = !call.name.starts_with("unlink");
                    let opening = (PathBuf::from(path), there);
                    self.opening.insert(call.thread.to_owned(), opening);
                }
                if let Some(result) = call.result
                    && let Some((path, there)) = self.opening.remove(call.thread)
                    && result.is_ok()
                {
                    self.name(&path, there);
                }
            }
            name if name.starts_with("rename") => {
                let mut quoted = call.arguments.split('"').skip(1).step_by(2);
                if let (Some(from), Some(to)) = (quoted.next(), quoted.next()) {
                    let renaming = (PathBuf::from(from), PathBuf::from(to));
                    self.renaming.insert(call.thread.to_owned(), renaming);
                }
                if let Some(result) = call.result
                    && let Some((from, to)) = self.renaming.remove(call.thread)
                    && result.is_ok()
                {
                    self.rename(&from, &to);
                    self.renamed.insert(call.thread.to_owned(), to);
                }
            }
            _ => {}
        }
    }

    /// Checks the name of a file, and of each directory above it up to `top`.
    fn assert_named(&self, path: &Path, top: &Path) {
        for path in path.ancestors().take_while(|path| *path != top) {
            let synced = self.of(path.parent().unwrap()).synced;
            let made = self.names.get(path);
            assert!(
                made.is_some_and(|change| *change <= synced),
                "{path:?} has no durable name"
            );
        }
    }
}

/// Ends the server of a failed test. The tracer ends with it.
struct Server(Pid);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

/// Returns why processes cannot be traced here, if they cannot.
fn cannot_trace() -> Option<String> {
    match Command::new("strace").args(["-qq", "true"]).output() {
        Ok(traced) if traced.status.success() => None,
        Ok(traced) => Some(String::from_utf8_lossy(&traced.stderr).trim().to_owned()),
        Err(error) => Some(error.to_string()),
    }
}

/// Runs a server to its end, with clients and a round, and returns its calls. `None`, with a
/// message, if processes cannot be traced.
fn trace(folder: &Path) -> Option<String> {
    if let Some(reason) = cannot_trace() {
        skip(format_args!("strace cannot be used here: {reason}"));
        return None;
    }
    let poetdir = folder.join("poet");
    let (calls, log) = (folder.join("calls"), folder.join("log"));
    let server = command(&poetdir);
    let mut tracer = Command::new("strace")
        .args([
            "-f",
            "-qq",
            "-y",
            "-s",
            "600",
            "-e",
            CALLS,
            "-e",
            "signal=none",
        ])
        .arg("-o")
        .arg(&calls)
        .arg(server.get_program())
        .args(server.get_args())
        .args(["--restlisten=127.0.0.1:0", "--no-trial"])
        // The subtrees of a mainnet round.
        .args([
            "--phase-shift=5s",
            "--epoch-duration=336h",
            "--cycle-gap=12h",
        ])
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(log).unwrap())
        .spawn()
        .unwrap();
    let greeting = BufReader::new(tracer.stdout.take().unwrap());
    let mut greeting = greeting.lines().map_while(Result::ok);
    let url = greeting.find_map(|line| Some(line.strip_prefix("REST")?.trim().to_owned()));
    let pid = fs::read_to_string(poetdir.join("db/poet-service.lock")).unwrap();
    let server = Server(Pid::from_raw(pid.parse().unwrap()).unwrap());
    let client = Client::new(&url.unwrap());
    for number in 0..NODES {
        assert_eq!(client.register(&TestNode::new(number)), 0);
    }
    let tree_log = poetdir.join("data/rounds/0/tree.log").display().to_string();
    await_some("entries in the log", || {
        let calls = fs::read_to_string(&calls).ok()?;
        let syncs = calls
            .lines()
            .filter(|line| line.contains("fdatasync(") && line.contains(&tree_log));
        (syncs.count() > LOG_SYNCS).then_some(())
    });
    kill_process(server.0, Signal::TERM).unwrap();
    assert!(tracer.wait().unwrap().success());
    Some(fs::read_to_string(calls).unwrap())
}

#[test]
fn what_was_promised_has_been_synced() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().canonicalize().unwrap();
    let Some(calls) = trace(&top) else { return };
    let database_log = top.join("poet/db/poet.sqlite-wal");
    let tree_log = top.join("poet/data/rounds/0/tree.log");
    let mut disk = Disk::default();
    // Changes and syncs of the database's log at the time of the unanswered request.
    let mut asked = None;
    let (mut answers, mut entries) = (0, 0);
    let mut emptied = false;
    for line in calls.lines() {
        let Some(call) = Call::parse(line) else {
            continue;
        };
        if line.contains("POST /v1/submit") {
            asked = Some(disk.of(&database_log));
        }
        let answer = line.contains("HTTP/1.1 200") && line.contains("roundId");
        if answer && let Some(before) = asked.take() {
            answers += 1;
            let now = disk.of(&database_log);
            assert!(
                now.synced > before.changes,
                "answer {answers} was sent before anything was made durable for it: {line}"
            );
            disk.assert_named(&database_log, &top);
            disk.assert_named(&top.join("poet/db/poet.sqlite"), &top);
        }
        let file = call.file().map(Path::new);
        if call.name == "ftruncate" && file == Some(&database_log) {
            // Its contents must be durable in the database by then.
            let database = disk.of(&top.join("poet/db/poet.sqlite"));
            assert!(!database.lacks() && database.syncs > 0, "{line}");
            emptied = true;
        }
        if call.name == "pwrite64" && file == Some(&tree_log) {
            entries += 1;
        }
        // The first sync makes the log durable, with its header.
        if call.name == "fdatasync" && file == Some(&tree_log) && disk.of(&tree_log).syncs > 0 {
            disk.assert_named(&tree_log, &top);
        }
        disk.add(&call);
    }
    assert_eq!(answers, NODES);
    let log = disk.of(&tree_log);
    assert!(entries > LOG_SYNCS && log.syncs > LOG_SYNCS);
    assert!(!log.lacks(), "entries are not durable at the end");
    assert!(emptied, "the database's log is not emptied at the end");
    assert!(disk.renamed.is_empty(), "{:?}", disk.renamed);
    let owner = top.join("poet/data/poet-service.owner");
    assert!(disk.placed.contains(&owner), "{:?}", disk.placed);
}

/// As on network file systems without locks or shared memory: the system refuses these calls.
#[test]
fn a_file_system_without_locks_is_called_that() {
    if let Some(reason) = cannot_trace() {
        return skip(format_args!("strace cannot be used here: {reason}"));
    }
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().canonicalize().unwrap();
    for (number, (file, fault)) in [
        ("poet-service.lock", "flock:error=ENOLCK"),
        ("poet.sqlite-shm", "mmap:error=ENODEV"),
        ("poet.sqlite-shm", "fcntl:error=ENOSYS"),
        ("poet.sqlite", "fcntl:error=ENOSYS"),
    ]
    .into_iter()
    .enumerate()
    {
        let poetdir = top.join(number.to_string());
        let path = poetdir.join("db").join(file);
        let server = command(&poetdir);
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(top.join("trace"))
            .arg("-P")
            .arg(path)
            .args(["-e", &format!("inject={fault}")])
            .arg(server.get_program())
            .args(server.get_args())
            .args(["--restlisten=127.0.0.1:0", "--no-trial"])
            .env_remove("POET_PRIVATE_KEY")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{fault}: {text}");
        let error = text
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap();
        assert!(
            error.contains("NFS") && error.contains("locks"),
            "{fault}: {error}"
        );
        assert!(error.contains("--dbdir"), "{fault}: {error}");
    }
}
