//! SIGTERM in every state that a server can be in: it ends within the time that the manual promises, and a
//! start goes on with what was there.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/others.rs"]
mod others;
#[path = "common/program.rs"]
mod program;
#[path = "common/small_disk.rs"]
mod small_disk;
#[path = "common/stored.rs"]
mod stored;
#[path = "common/thread_limit.rs"]
mod thread_limit;

use std::{
    fs,
    io::{Write as _, pipe},
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use common::{TestNode, await_some, verify_fetched};
use jiff::Timestamp;
use others::Others;
use poet_conformance::skip;
use poet_proto::schedule::Schedule;
use program::{ServerProcess, command};
use rusqlite::Connection;
use small_disk::SmallDisk;
use stored::store_rounds;
use thread_limit::ThreadLimit;

/// What the manual promises.
const PROMISED: Duration = Duration::from_secs(5);
/// How much later a thread may run on a busy machine, by the server's own log.
const SLOW: Duration = Duration::from_secs(1);
/// The same for the start of the end, for all of it, and for the test to see it.
const ROOM: Duration = Duration::from_secs(15);
/// Servers that are taken through their states at the same time: most of them wait.
const LANES: usize = 5;

/// A server in its state.
struct Reached {
    server: ServerProcess,
    /// What its log says of it at the end.
    says: &'static [&'static str],
    /// Lets go of what brought it there, and looks at what is left, also by the log.
    then: Box<dyn FnOnce(&str)>,
}

impl Reached {
    fn new(
        server: ServerProcess,
        says: &'static [&'static str],
        then: impl FnOnce(&str) + 'static,
    ) -> Option<Self> {
        let then = Box::new(then);
        Some(Self { server, says, then })
    }
}

/// Each brings a server below a folder to a state; `None`, with a message, where this machine cannot.
type Reach = fn(&Path) -> Option<Reached>;

const STATES: [(&str, Reach); 13] = [
    ("idle", idle),
    ("hashing", hashing),
    ("an audit that catches up", catching_up),
    ("a proof in the making", proving),
    ("a full disk and a full queue", full_disk),
    ("syncs that fail", failing_syncs),
    ("syncs that hang", hanging_syncs),
    ("a pipe among the keys", pipe_among_keys),
    ("a log that nobody reads", full_pipe),
    ("a full disk for the database", full_database),
    ("a database that another program writes", written_database),
    ("a database that another program reads", read_database),
    ("no threads", no_threads),
];

#[test]
fn sigterm_is_obeyed_in_every_state() {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((name, reach)) = STATES.get(next.fetch_add(1, Relaxed)) {
                    end_in(name, *reach);
                }
            });
        }
    });
}

/// The time in a line of the log.
fn time(line: &str) -> Timestamp {
    let time = line.split_whitespace().next().unwrap();
    time.parse()
        .unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn end_in(name: &str, reach: Reach) {
    let folder = tempfile::tempdir().unwrap();
    let Some(Reached { server, says, then }) = reach(folder.path()) else {
        return;
    };
    let begun = Instant::now();
    let status = server.signal("TERM");
    let took = begun.elapsed();
    let log = fs::read_to_string(folder.path().join("logs/poet.log")).unwrap();
    assert!(took < PROMISED + ROOM, "{name}: {took:?}: {log}");
    assert_eq!(status.code(), Some(0), "{name}: {log}");
    let asked = log.lines().find(|line| line.contains("ending"));
    let asked = asked.unwrap_or_else(|| panic!("{name}: {log}"));
    let last = log.trim_end().lines().last().unwrap();
    let inside = time(last).duration_since(time(asked));
    assert!(
        inside <= (PROMISED + SLOW).try_into().unwrap(),
        "{name}: {inside:#}: {log}"
    );
    let in_order = last.ends_with(" ended");
    // Others may have had a last word.
    let forced = log.contains("ended without waiting any longer");
    assert!(in_order || forced, "{name}: {log}");
    for said in says {
        assert!(log.contains(said), "{name}: {said}: {log}");
    }
    let how = if in_order { "in order" } else { "by force" };
    println!("{name}: ended {how} after {took:.2?}");
    then(&log);
}

/// A round that takes registrations for long.
const OPEN: [&str; 2] = ["--epoch-duration=1h", "--phase-shift=30m"];
/// A round at work for an hour.
const WORK: [&str; 2] = ["--epoch-duration=1h", "--phase-shift=500ms"];
/// Rounds of six minutes: their log keeps every label.
const EVERY_LABEL: [&str; 4] = [
    "--epoch-duration=6m",
    "--phase-shift=500ms",
    "--cycle-gap=1m",
    "--audit=off",
];

/// Leaves of round 0 by now.
fn leaves(server: &ServerProcess) -> u64 {
    let round = server.client.get("/v1/rounds/0").json();
    round["leaves"]
        .as_str()
        .map_or(0, |leaves| leaves.parse().unwrap())
}

fn await_leaves(server: &ServerProcess, more_than: u64) {
    await_some("leaves", || (leaves(server) > more_than).then_some(()));
}

fn tree_log_bytes(data: &Path) -> u64 {
    fs::metadata(data.join("rounds/0/tree.log")).map_or(0, |metadata| metadata.len())
}

/// Members of round 0, after another start.
fn members_after(folder: &Path, options: &[&str]) -> String {
    let server = ServerProcess::start(folder, options);
    let round = server.client.get("/v1/rounds/0").json();
    round["members"].as_str().unwrap().to_owned()
}

fn idle(folder: &Path) -> Option<Reached> {
    let server = ServerProcess::start(folder, &OPEN);
    server.client.register(&TestNode::new(1));
    let folder = folder.to_owned();
    Reached::new(server, &[], move |log| {
        assert!(log.trim_end().ends_with(" ended"), "{log}");
        assert_eq!(members_after(&folder, &OPEN), "1");
    })
}

fn hashing(folder: &Path) -> Option<Reached> {
    let server = ServerProcess::start(folder, &WORK);
    await_leaves(&server, 20_000);
    Reached::new(server, &["work interrupted"], |_| ())
}

/// It would take very long: there are busy programs.
fn catching_up(folder: &Path) -> Option<Reached> {
    // Eight seconds of work, and then none for a long time.
    let start = |folder: &Path, audit| {
        let round = [
            "--phase-shift=3s",
            "--epoch-duration=1h",
            "--cycle-gap=59m52s",
        ];
        ServerProcess::start(folder, &[&round[..], &[audit]].concat())
    };
    let server = start(folder, "--audit=off");
    await_leaves(&server, 20_000);
    server.kill();
    let hogs = Others::hogs();
    let server = start(folder, "--audit=full");
    let published = "the proof is verified and published";
    await_some("the proof", || {
        server.log().contains(published).then_some(())
    });
    let folder = folder.to_owned();
    Reached::new(server, &[], move |_| {
        drop(hogs);
        // The proof is served, and the log not needed.
        let server = start(&folder, "--audit=full");
        verify_fetched(&server.client.await_proof(0));
        await_some("the end of the log", || {
            (!folder.join("data/rounds/0").exists()).then_some(())
        });
    })
}

/// Of a round whose log keeps so little that nearly all of it is recomputed.
fn proving(folder: &Path) -> Option<Reached> {
    let (epoch, work) = (Duration::from_secs(12 * 3600), Duration::from_secs(15));
    let genesis = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let schedule = Schedule::new(genesis, epoch, Duration::ZERO, epoch - work).unwrap();
    store_rounds(folder, &schedule, 1, 3, false, 13);
    let options = [
        format!("--genesis-time={genesis}"),
        "--epoch-duration=12h".to_owned(),
        "--phase-shift=0s".to_owned(),
        format!("--cycle-gap={}s", (epoch - work).as_secs()),
        "--audit=off".to_owned(),
    ];
    let start = move |folder: &Path| {
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        ServerProcess::start(folder, &options)
    };
    let server = start(folder);
    await_some("the end of the work", || {
        server.log().contains("work done, proving").then_some(())
    });
    let folder = folder.to_owned();
    Reached::new(server, &[], move |log| {
        // A fast machine publishes it in the time that it has.
        let ending = log.find("ending signal").unwrap();
        let published = log.find("the proof is verified");
        assert!(published.is_none_or(|at| at > ending), "too late: {log}");
        let proof = verify_fetched(&start(&folder).client.await_proof(0));
        assert_eq!(proof.members.len(), 3);
    })
}

/// The hashing thread waits for room.
fn full_disk(folder: &Path) -> Option<Reached> {
    let disk = SmallDisk::mount(3)?;
    let data = disk.path().join("data");
    let option = format!("--datadir={}", data.display());
    let start = move |folder: &Path| {
        ServerProcess::start(folder, &[&EVERY_LABEL[..], &[option.as_str()]].concat())
    };
    let server = start(folder);
    // Until the queue is full.
    let mut before = None;
    while before.is_none_or(|before| before != leaves(&server)) {
        before = Some(leaves(&server)).filter(|leaves| *leaves > 0);
        thread::sleep(Duration::from_secs(1));
    }
    let folder = folder.to_owned();
    Reached::new(server, &["work interrupted"], move |log| {
        let mut lines = log.lines();
        let said = lines.find(|line| line.contains("work interrupted"));
        assert!(
            said.unwrap().contains("recomputed after a restart"),
            "{log}"
        );
        // All that found room is there.
        let entries = (tree_log_bytes(&data) - 96) / 32;
        assert!(entries > 10_000, "{entries}");
        let grown = Command::new("mount")
            .args(["-o", "remount,size=200m"])
            .arg(disk.path())
            .status();
        assert!(grown.unwrap().success());
        let server = start(&folder);
        await_leaves(&server, entries);
        assert_eq!(server.signal("TERM").code(), Some(0));
        let log = fs::read_to_string(folder.join("log.txt")).unwrap();
        let mut lines = log.lines();
        let said = lines.find(|line| line.contains("work interrupted"));
        assert!(said.unwrap().contains("leaves="), "{log}");
    })
}

/// Syncs of tree logs that fail or hang, once the file SYNC_TROUBLE is there.
const SYNC_TROUBLE: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int sync_file(long call, int file) {
    char link[64], path[4096] = "";
    const char *trouble = getenv("SYNC_TROUBLE");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    if (trouble && access(trouble, F_OK) == 0 && readlink(link, path, sizeof path - 1) > 0 &&
        strstr(path, "tree.log")) {
        if (strstr(trouble, "fail")) {
            errno = EIO;
            return -1;
        }
        sleep(600);
    }
    return (int)syscall(call, file);
}
int fsync(int file) { return sync_file(SYS_fsync, file); }
int fdatasync(int file) { return sync_file(SYS_fdatasync, file); }
"#;

fn failing_syncs(folder: &Path) -> Option<Reached> {
    let server = with_sync_trouble(folder, "fail")?;
    let says = &["work interrupted", "cannot sync the log"];
    Reached::new(server, says, |_| ())
}

fn hanging_syncs(folder: &Path) -> Option<Reached> {
    let server = with_sync_trouble(folder, "hang")?;
    let says = &["work interrupted", "the disk does not answer"];
    Reached::new(server, says, |_| ())
}

fn with_sync_trouble(folder: &Path, trouble: &str) -> Option<ServerProcess> {
    let (source, library) = (folder.join("sync.c"), folder.join("sync.so"));
    fs::write(&source, SYNC_TROUBLE).unwrap();
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .output();
    if !compiled.is_ok_and(|done| done.status.success()) {
        skip("there is no C compiler here");
        return None;
    }
    let marker = folder.join(trouble);
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("SYNC_TROUBLE", marker.to_str().unwrap()),
    ];
    let server = ServerProcess::start_with(folder, &EVERY_LABEL, &environment);
    let data = folder.join("data");
    await_some("the work", || (tree_log_bytes(&data) > 4096).then_some(()));
    fs::write(&marker, "").unwrap();
    // What is made by now is in the trouble.
    await_leaves(&server, leaves(&server) + 50_000);
    Some(server)
}

/// Whoever opens it waits for a writer.
fn pipe_among_keys(folder: &Path) -> Option<Reached> {
    let keys = folder.join("keys");
    fs::create_dir(&keys).unwrap();
    let option = format!("--trusted-pub-keys-dir-path={}", keys.display());
    let key = "--certifier-pubkey=V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
    let server = ServerProcess::start(folder, &[&WORK[..], &[key, &option]].concat());
    await_leaves(&server, 0);
    let made = Command::new("mkfifo").arg(keys.join("x.key")).status();
    assert!(made.unwrap().success());
    server.send_signal("HUP");
    await_some("the reload", || {
        let log = server.log();
        log.contains("x.key is not a regular file").then_some(())
    });
    // And while it is at it once more.
    server.send_signal("HUP");
    Reached::new(server, &["work interrupted"], |_| ())
}

/// Standard error is a pipe without room.
fn full_pipe(folder: &Path) -> Option<Reached> {
    let (reader, mut writer) = pipe().unwrap();
    // As much as one holds.
    writer.write_all(&vec![b'x'; 1 << 16]).unwrap();
    let mut command = command(folder);
    command
        .arg("--restlisten=127.0.0.1:0")
        .args(WORK)
        .arg("--debuglog");
    let log = folder.join("logs/poet.log");
    let server = ServerProcess::start_with_stderr(log, command, writer.into());
    await_leaves(&server, 0);
    for _ in 0..600 {
        assert_eq!(server.client.get("/v1/info").status, 200);
    }
    Reached::new(server, &["work interrupted"], move |_| drop(reader))
}

fn full_database(folder: &Path) -> Option<Reached> {
    let disk = SmallDisk::mount(2)?;
    let option = format!("--dbdir={}", disk.path().join("db").display());
    let start = move |folder: &Path| {
        ServerProcess::start(folder, &[&WORK[..], &[option.as_str()]].concat())
    };
    let server = start(folder);
    // A round does not begin while the database is full.
    await_leaves(&server, 0);
    let params = server.client.pow_params();
    disk.fill();
    let mut acknowledged = 0;
    await_some("the full disk", || {
        let node = TestNode::new(acknowledged);
        let answer = server.client.submit(&node.request(&params));
        acknowledged += u32::from(answer.status == 200);
        (answer.status == 503).then_some(())
    });
    let folder = folder.to_owned();
    Reached::new(server, &["work interrupted"], move |_| {
        disk.empty();
        let server = start(&folder);
        let round = server.client.get("/v1/rounds/1").json();
        assert_eq!(round["members"], acknowledged.to_string());
    })
}

/// A registration waits for the other program.
fn written_database(folder: &Path) -> Option<Reached> {
    let server = ServerProcess::start(folder, &OPEN);
    server.client.register(&TestNode::new(1));
    let other = Connection::open(folder.join("db/poet.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let params = server.client.pow_params();
    let waiting = thread::spawn({
        let client = server.client.clone();
        // It gets no answer, or one that says no.
        move || client.try_submit(&TestNode::new(2).request(&params))
    });
    thread::sleep(Duration::from_millis(500));
    let folder = folder.to_owned();
    Reached::new(server, &[], move |_| {
        let refused = waiting.join().unwrap();
        assert!(refused.is_none_or(|answer| answer.status == 503));
        drop(other);
        assert_eq!(members_after(&folder, &OPEN), "1");
    })
}

fn read_database(folder: &Path) -> Option<Reached> {
    let server = ServerProcess::start(folder, &OPEN);
    let other = Connection::open(folder.join("db/poet.sqlite")).unwrap();
    other.execute_batch("BEGIN").unwrap();
    let read = "SELECT count(*) FROM registrations";
    other.query_row(read, [], |_| Ok(())).unwrap();
    for number in 1..=2 {
        server.client.register(&TestNode::new(number));
    }
    let says = &["another program reads the database"];
    let folder = folder.to_owned();
    Reached::new(server, says, move |_| {
        drop(other);
        assert_eq!(members_after(&folder, &OPEN), "2");
    })
}

/// What a server needs for its end is there from the start.
fn no_threads(folder: &Path) -> Option<Reached> {
    let server = ServerProcess::start(folder, &WORK);
    await_leaves(&server, 0);
    let group = ThreadLimit::of(server.pid())?;
    group.allow("1");
    Reached::new(server, &["work interrupted"], move |_| drop(group))
}
