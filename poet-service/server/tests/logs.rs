//! Log output that nothing reads, and a log file that is moved away.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead as _, BufReader, PipeReader, Read as _, Write as _, pipe},
    os::{fd::OwnedFd, unix::ffi::OsStringExt as _},
    path::Path,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{Client, TestNode, await_some, verify_fetched};
use jiff::Timestamp;
use program::command;
use rustix::{
    process::{Pid, Signal, kill_process},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};

/// The capacity of a pipe.
const PIPE_BYTES: usize = 1 << 16;

/// A server with rounds of seconds.
struct Server(Child);

impl Server {
    fn start(folder: &Path, options: &[&str], stdout: Stdio, stderr: Stdio) -> Self {
        let child = command(folder)
            .arg(format!("--genesis-time={:.0}", Timestamp::now()))
            .args(["--epoch-duration=4s", "--phase-shift=3s", "--cycle-gap=2s"])
            .arg("--restlisten=127.0.0.1:0")
            .args(options)
            .stdout(stdout)
            .stderr(stderr)
            .spawn();
        Self(child.unwrap())
    }

    /// Shuts it down.
    #[track_caller]
    fn end(&mut self) {
        let (pid, begun) = (Pid::from_child(&self.0), Instant::now());
        kill_process(pid, Signal::TERM).unwrap();
        let status = await_some("the end", || self.0.try_wait().unwrap());
        assert!(status.success(), "{status}");
        // The promise is five seconds; this machine may be busy.
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{:?}",
            begun.elapsed()
        );
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended, unless the test failed.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Returns a client for the address that the server prints when it starts.
fn client(greeting: impl std::io::Read) -> Client {
    let mut lines = BufReader::new(greeting).lines().map_while(Result::ok);
    let rest = lines.find_map(|line| Some(line.strip_prefix("REST")?.trim().to_owned()));
    Client::new(&rest.unwrap())
}

/// A full pipe.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(&vec![b'x'; PIPE_BYTES]).unwrap();
    (reader, writer.into())
}

/// Takes the server through a round, whatever happens to its log.
fn a_round(client: &Client) {
    let round = client.register(&TestNode::new(1));
    for _ in 0..600 {
        assert_eq!(client.get("/v1/info").status, 200);
    }
    verify_fetched(&client.await_proof(round));
    client.await_ready();
}

#[test]
fn a_pipe_that_nobody_reads_stops_nothing() {
    for options in [&[][..], &["--debuglog"]] {
        let folder = tempfile::tempdir().unwrap();
        let (reader, stderr) = full_pipe();
        let mut server = Server::start(folder.path(), options, Stdio::piped(), stderr);
        a_round(&client(server.0.stdout.take().unwrap()));
        server.end();
        // The file contains everything.
        let log = fs::read_to_string(folder.path().join("logs/poet.log")).unwrap();
        assert!(log.contains("the proof is verified and published"), "{log}");
        assert!(log.trim_end().ends_with("ended"), "{log}");
        drop(reader);
    }
}

#[test]
fn a_terminal_that_was_stopped_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_bytes();
    let name = std::ffi::OsString::from_vec(name);
    let slave = || -> OwnedFd {
        let mut options = OpenOptions::new();
        options.read(true).write(true).open(&name).unwrap().into()
    };
    let mut server = Server::start(
        folder.path(),
        &["--debuglog"],
        slave().into(),
        slave().into(),
    );
    let mut master = File::from(master);
    let client = client(&master);
    // Ctrl-S
    master.write_all(b"\x13").unwrap();
    a_round(&client);
    server.end();
    let log = fs::read_to_string(folder.path().join("logs/poet.log")).unwrap();
    assert!(log.trim_end().ends_with("ended"), "{log}");
}

/// A start that fails while nothing reads its error message must not hang, either.
#[test]
fn an_error_that_nobody_reads_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("db")).unwrap();
    fs::write(
        folder.path().join("db/poet.sqlite"),
        "no database, but a text of some length",
    )
    .unwrap();
    let (_reader, stderr) = full_pipe();
    let mut server = Server::start(folder.path(), &[], Stdio::null(), stderr);
    let status = await_some("the end", || server.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}

#[test]
fn lines_that_found_no_room_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (mut reader, stderr) = full_pipe();
    let mut server = Server::start(folder.path(), &["--debuglog"], Stdio::piped(), stderr);
    let client = client(server.0.stdout.take().unwrap());
    // Two megabytes of long lines, of which the queue holds one.
    for number in 0..400 {
        let path = format!("/{number}-{}", "x".repeat(5000));
        assert_eq!(client.get(&path).status, 404);
    }
    let drained = thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    let log = folder.path().join("logs/poet.log");
    let dropped = "lines of the log were dropped: they came faster than they were read or written";
    await_some("the count", || {
        fs::read_to_string(&log)
            .unwrap()
            .contains(dropped)
            .then_some(())
    });
    server.end();
    let text = drained.join().unwrap();
    let line = text.lines().find(|line| line.contains(dropped)).unwrap();
    let count = line
        .split_once("lines=")
        .unwrap()
        .1
        .split_once(' ')
        .unwrap()
        .0;
    let count: usize = count.parse().unwrap();
    let answered = |text: &str| text.lines().filter(|line| line.contains("-xxxx")).count();
    let (there, all) = (
        answered(&text),
        answered(&fs::read_to_string(&log).unwrap()),
    );
    assert_eq!(all, 400);
    assert!(there > 100 && there + count >= 400, "{there} + {count}");
    assert!(
        text.trim_end().ends_with("ended"),
        "{}",
        &text[text.len() - 999..]
    );
}

#[test]
fn a_log_file_that_was_moved_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let stderr = File::create(folder.path().join("stderr")).unwrap();
    let mut server = Server::start(
        folder.path(),
        &["--debuglog"],
        Stdio::piped(),
        stderr.into(),
    );
    let client = client(server.0.stdout.take().unwrap());
    let log = folder.path().join("logs/poet.log");
    // As a tool that rotates logs does.
    let moved = folder.path().join("logs/moved");
    fs::rename(&log, &moved).unwrap();
    kill_process(Pid::from_child(&server.0), Signal::HUP).unwrap();
    await_some("another file", || log.exists().then_some(()));
    let before = fs::metadata(&moved).unwrap().len();
    // And without notifying the server.
    fs::remove_file(&log).unwrap();
    await_some("another file", || {
        client.get("/v1/info");
        thread::sleep(Duration::from_millis(100));
        log.exists().then_some(())
    });
    server.end();
    assert_eq!(fs::metadata(&moved).unwrap().len(), before);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.trim_end().ends_with("ended"), "{text}");
}
