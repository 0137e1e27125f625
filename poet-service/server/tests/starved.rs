//! A server that gets little CPU time, no threads, or a clock that leaps. The tests check the order
//! of events, since they do not know how fast the machine is.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{TestNode, await_some, members_of, verify_fetched};
use ed25519_dalek::SigningKey;
use jiff::{SignedDuration, Timestamp};
use poet_engine::{Proof, SubtreeHeight, membership};
use poet_proto::{messages::PublishedProof, schedule::Schedule};
use poet_rounds::storage::{Challenge, Execution, Member, NodeId};
use poet_storage::{Imported, ImportedRound, SqliteStorage};
use program::{ServerProcess, command};
use serde_json::Value;

/// Eight seconds of work, and then none for a long time.
const ROUND: [&str; 3] = [
    "--phase-shift=3s",
    "--epoch-duration=1h",
    "--cycle-gap=59m52s",
];
const PUBLISHED: &str = "the proof is verified and published";
/// Logged when the audit after the proof is over.
const AUDITED: [&str; 2] = [
    "the round is audited",
    "the last leaves of the round are not audited",
];
/// The promise is to end within five seconds; this allows for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Threads that repeat something until this is dropped.
struct Others {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Others {
    fn start(count: usize, work: impl Fn(usize) + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|number| {
            let (stop, work) = (Arc::clone(&stop), work.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    work(number);
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// Two busy threads per core.
    fn hogs() -> Self {
        let cores = thread::available_parallelism().unwrap().get();
        Self::start(2 * cores, |_| {
            for _ in 0..100_000 {
                std::hint::spin_loop();
            }
        })
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // If it has panicked, the test fails for that reason.
            drop(thread.join());
        }
    }
}

/// The proof of a round must come first, and no audit before it.
#[track_caller]
fn assert_proof_first(server: &ServerProcess, round: u64) {
    let proof = verify_fetched(&server.client.await_proof(round));
    assert!(proof.leaves >= 150);
    assert_eq!(server.client.get("/readyz").status, 200);
    let log = server.log();
    let published = log.find(PUBLISHED).unwrap();
    for audited in AUDITED {
        let at = log.find(audited);
        assert!(at.is_none_or(|at| at > published), "{log}");
    }
    assert!(!log.contains("ALARM"), "{log}");
}

#[test]
fn busy_programs_keep_no_proof_waiting() {
    for audit in ["full", "sampled", "off"] {
        let folder = tempfile::tempdir().unwrap();
        let audit = format!("--audit={audit}");
        let server = ServerProcess::start(folder.path(), &[&ROUND[..], &[&audit]].concat());
        let node = TestNode::new(1);
        assert_eq!(server.client.register(&node), 0);
        let _hogs = Others::hogs();
        assert_proof_first(&server, 0);
        let proof = verify_fetched(&server.client.get("/v1/proofs/0"));
        assert_eq!(proof.members, members_of(&[node]));
    }
}

/// A core of this process.
fn a_core() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let cores = lines.find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let cores = cores.unwrap().trim();
    cores.split([',', '-']).next().unwrap().to_owned()
}

/// Auditors, hashing and busy programs share it.
#[test]
fn one_core_keeps_no_proof_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let server = command(folder.path());
    let mut command = Command::new("taskset");
    command
        .args(["--cpu-list", &a_core()])
        .arg(server.get_program())
        .args(server.get_args())
        .args(ROUND)
        .args(["--restlisten=127.0.0.1:0", "--audit=full"])
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null());
    let server = ServerProcess::start_command(folder.path(), command);
    let _hogs = Others::hogs();
    assert_proof_first(&server, 0);
}

/// Returns the leaves of the round that is worked on.
fn leaves(server: &ServerProcess) -> u64 {
    let round = server.client.get("/v1/rounds/0").json();
    round["leaves"]
        .as_str()
        .map_or(0, |leaves| leaves.parse().unwrap())
}

/// What was audited is lost, or never was: nothing makes up for it before the proof.
#[test]
fn what_was_not_audited_keeps_no_proof_waiting() {
    for (before, lost) in [("off", false), ("full", true)] {
        let folder = tempfile::tempdir().unwrap();
        let start = |audit: &str| {
            let audit = format!("--audit={audit}");
            ServerProcess::start(folder.path(), &[&ROUND[..], &[&audit]].concat())
        };
        let server = start(before);
        await_some("leaves", || (leaves(&server) > 20_000).then_some(()));
        server.kill();
        let record = folder.path().join("data/rounds/0/audit.log");
        if lost {
            fs::remove_file(&record).unwrap();
        }
        assert!(!record.exists());
        let server = start("full");
        let _hogs = Others::hogs();
        assert_proof_first(&server, 0);
    }
}

#[test]
fn invalid_signatures_keep_no_proof_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let server = ServerProcess::start(folder.path(), &[&ROUND[..], &["--audit=full"]].concat());
    let mut request = TestNode::new(1).request(&server.client.pow_params());
    request["challenge"] =
        TestNode::new(2).request(&server.client.pow_params())["challenge"].take();
    let refused = Arc::new(AtomicU64::new(0));
    let _strangers = {
        let (refused, client) = (Arc::clone(&refused), server.client.clone());
        Others::start(4, move |_| {
            let answer = client.submit(&request);
            assert_eq!(answer.status, 400, "{}", answer.body);
            refused.fetch_add(1, Relaxed);
        })
    };
    assert_proof_first(&server, 0);
    // They were checked all the time.
    assert!(refused.load(Relaxed) > 100);
}

/// Stores the rounds 0 to `rounds` with many members, as another server left them: settled, and
/// finished or not.
fn store_rounds(folder: &Path, schedule: &Schedule, rounds: u64, members: u32, finished: bool) {
    let db = folder.join("db");
    fs::create_dir_all(&db).unwrap();
    let members: Vec<_> = (0..members)
        .map(|number| {
            let mut bytes = [7; 32];
            bytes[..4].copy_from_slice(&number.to_be_bytes());
            Member {
                node_id: NodeId(bytes),
                challenge: Challenge(bytes),
            }
        })
        .collect();
    let challenges: Vec<_> = members.iter().map(|member| member.challenge).collect();
    let statement: Vec<_> = challenges.iter().map(|challenge| challenge.0).collect();
    let statement = membership::root(&statement);
    // Nothing verifies it.
    let proof = finished.then(|| PublishedProof {
        statement: statement.clone(),
        members: challenges,
        odd_members: Vec::new(),
        leaves: 1000,
        proof: Proof {
            root: [2; 32],
            proven_leaves: vec![[3; 32]; 150],
            proof_nodes: vec![[4; 32]; 100],
        },
    });
    let rounds = (0..rounds).map(|round| ImportedRound {
        round,
        execution: Some(Execution {
            statement: statement.clone(),
            subtree_height: SubtreeHeight::new(0).unwrap(),
        }),
        members: members.clone(),
        proof: proof.clone(),
    });
    let imported = Imported {
        private_key: SigningKey::from_bytes(&[5; 32]).to_keypair_bytes().to_vec(),
        schedule: schedule.to_string(),
        pow: None,
        rounds: rounds.collect(),
    };
    SqliteStorage::import(&db.join("poet.sqlite"), &imported).unwrap();
}

/// The end of a round with this many members, after `work`, in which everything must be ready.
/// Returns how long after it a client has the whole proof.
fn serve_members(members: u32, work: Duration) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let epoch = Duration::from_secs(12 * 3600);
    let genesis = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    let schedule = Schedule::new(genesis, epoch, Duration::ZERO, epoch - work).unwrap();
    store_rounds(folder.path(), &schedule, 1, members, false);
    let server = ServerProcess::start(
        folder.path(),
        &[
            &format!("--genesis-time={genesis}"),
            "--epoch-duration=12h",
            "--phase-shift=0s",
            &format!("--cycle-gap={}s", (epoch - work).as_secs()),
        ],
    );
    let end = schedule.end(0);
    assert!(Timestamp::now() < end, "it took too long to begin");
    let answer = server.client.await_proof(0);
    let late = Timestamp::now().duration_since(end).as_secs_f64();
    let proof = verify_fetched(&answer);
    assert_eq!(proof.members.len(), members as usize);
    late
}

#[test]
fn a_round_with_many_members_is_served() {
    let late = serve_members(20_000, Duration::from_secs(20));
    assert!(late >= 0.0, "before its end: {late}");
}

/// Of a release build, or what is measured is something else.
#[test]
#[ignore = "takes ten minutes and 4 GB of memory, and measures: --release -- --ignored --nocapture"]
fn a_round_with_five_million_members_is_served() {
    let late = serve_members(5_000_000, Duration::from_secs(300));
    println!("five million members: a client has the proof {late:.1} s after the end of the round");
}

#[test]
fn requests_for_members_of_old_rounds_keep_no_proof_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    // Round 2 begins when the earlier ones are stored and the server is running.
    let genesis = Timestamp::now() + SignedDuration::from_secs(20 - 2 * 3600);
    let genesis = Timestamp::from_second(genesis.as_second()).unwrap();
    let gap = hour - Duration::from_secs(8);
    let schedule = Schedule::new(genesis, hour, Duration::ZERO, gap).unwrap();
    store_rounds(folder.path(), &schedule, 2, 100_000, true);
    let genesis = format!("--genesis-time={genesis}");
    let options = [
        &genesis,
        "--epoch-duration=1h",
        "--phase-shift=0s",
        "--cycle-gap=59m52s",
        "--audit=full",
    ];
    let server = ServerProcess::start(folder.path(), &options);
    let answered = Arc::new(AtomicU64::new(0));
    let _stranger = {
        let (answered, client) = (Arc::clone(&answered), server.client.clone());
        Others::start(2, move |number| {
            // Of one round after the other: a member in one thread, and somebody else in the other.
            for round in 0..2 {
                let node = ["07070707", "ffffffff"][number];
                let path = format!(
                    "/v1/rounds/{round}/members/000000{}{}",
                    ["00", "01"][number],
                    node.repeat(7)
                );
                let status = client.get(&path).status;
                assert!([200, 404, 503].contains(&status), "{status}");
                answered.fetch_add(1, Relaxed);
            }
        })
    };
    assert_proof_first(&server, 2);
    assert!(answered.load(Relaxed) > 0);
}

/// SIGTERM while an audit catches up, which would take very long.
#[test]
fn sigterm_ends_a_server_whose_audit_catches_up() {
    let folder = tempfile::tempdir().unwrap();
    let start = |audit: &str| {
        let audit = format!("--audit={audit}");
        ServerProcess::start(folder.path(), &[&ROUND[..], &[&audit]].concat())
    };
    let server = start("off");
    await_some("leaves", || (leaves(&server) > 20_000).then_some(()));
    server.kill();
    let _hogs = Others::hogs();
    let server = start("full");
    await_some("the proof", || {
        server.log().contains(PUBLISHED).then_some(())
    });
    let begun = Instant::now();
    assert_eq!(server.signal("TERM").code(), Some(0));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    // The proof is served, and the log no longer needed.
    let server = start("full");
    verify_fetched(&server.client.await_proof(0));
    await_some("the end of the log", || {
        (!folder.path().join("data/rounds/0").exists()).then_some(())
    });
}

/// A user to whom the limit on processes applies, if this user is root.
const NOBODY: &str = "65534";

/// Returns how to run a command as such a user.
fn as_nobody() -> Vec<OsString> {
    let user = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY];
    match rustix::process::getuid().is_root() {
        true => user
            .into_iter()
            .chain(["--clear-groups"])
            .map(OsString::from)
            .collect(),
        false => Vec::new(),
    }
}

/// Returns the command of a server, run by a user to whom limits apply.
fn unprivileged(folder: &Path, options: &[&str], limit: Option<u32>) -> Command {
    let server = command(folder);
    let program = folder.join("poet-service");
    if !program.exists() {
        // A place where every user can run it.
        fs::copy(server.get_program(), &program).unwrap();
    }
    let mut run = as_nobody();
    if !run.is_empty() {
        let owned = Command::new("chown")
            .args(["-R", NOBODY])
            .arg(folder)
            .status();
        assert!(owned.unwrap().success());
    }
    if let Some(limit) = limit {
        run.extend(["prlimit".into(), format!("--nproc={limit}").into()]);
    }
    run.push(program.into());
    let mut command = Command::new(&run[0]);
    command.args(&run[1..]);
    command
        .args(server.get_args())
        .arg("--restlisten=127.0.0.1:0")
        .args(options)
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null());
    command
}

#[test]
fn a_start_without_threads_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.txt");
    for limit in [1, 3, 10] {
        let mut command = unprivileged(folder.path(), &[], Some(limit));
        let status = command
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .status()
            .unwrap();
        let said = fs::read_to_string(&log).unwrap();
        assert_eq!(status.code(), Some(1), "{limit}: {said}");
        let (error, rest) = said
            .trim_end()
            .rsplit_once('\n')
            .map_or((said.trim_end(), ""), |(a, b)| (b, a));
        assert!(error.starts_with("error: "), "{limit}: {said}");
        assert!(
            error.contains("thread") && error.contains("TasksMax"),
            "{limit}: {said}"
        );
        assert!(!said.contains("panicked"), "{rest}");
    }
}

/// No thread can be created at the end of a round, at the start of one, and when clients connect.
/// If that makes the server useless, it ends with a last line; otherwise the round continues.
#[test]
fn without_threads_rounds_go_on_or_the_process_ends() {
    let schedule = ["--phase-shift=6s", "--epoch-duration=12s", "--cycle-gap=5s"];
    for (what, before) in [
        ("an end", "working round=0"),
        ("a start", "open for registration round=0"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let command = unprivileged(folder.path(), &schedule, None);
        let mut server = ServerProcess::start_command(folder.path(), command);
        let node = TestNode::new(1);
        assert_eq!(server.client.register(&node), 0);
        await_some(what, || server.log().contains(before).then_some(()));
        let process = format!("--pid={}", server.pid());
        let limit = |most: &str| {
            let mut run = as_nobody();
            let process = &process;
            run.extend([
                "prlimit".into(),
                process.into(),
                format!("--nproc={most}:").into(),
            ]);
            let set = Command::new(&run[0]).args(&run[1..]).status();
            assert!(set.unwrap().success());
        };
        limit("1");
        // Until the proof is there, with clients all the time.
        let published = await_some("the proof", || {
            drop(server.client.try_get("/readyz"));
            if server.ended().is_some() {
                return Some(false);
            }
            let log = server.log();
            log.contains(PUBLISHED).then_some(true)
        });
        let log = server.log();
        if published {
            limit("1000");
            let proof = verify_fetched(&server.client.await_proof(0));
            assert_eq!(proof.members, members_of(&[node]));
            assert_eq!(server.client.get("/readyz").status, 200);
            // The next round is open, and ends well.
            verify_fetched(&server.client.await_proof(1));
        } else {
            let last = log.trim_end().lines().last().unwrap();
            assert!(
                last.contains("a part of the server has ended unexpectedly"),
                "{log}"
            );
        }
        assert!(!log.contains("panicked") || !published, "{what}: {log}");
    }
}

/// Returns the library that fakes the time of a process, if it exists.
fn fake_time() -> Option<PathBuf> {
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    places
        .into_iter()
        .chain([multiarch.into()])
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
}

#[test]
fn a_clock_that_leaps_for_seconds_ends_nothing() {
    let Some(library) = fake_time() else {
        let ci = std::env::var_os("CI").is_some_and(|ci| !ci.is_empty());
        assert!(!ci, "CI must have libfaketime");
        return eprintln!("skipped: libfaketime is not installed (apt install faketime)");
    };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    let set = |by: &str| fs::write(&clock, by).unwrap();
    set("+0");
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let options = [
        "--phase-shift=3s",
        "--epoch-duration=30m",
        "--cycle-gap=29m40s",
    ];
    let server = ServerProcess::start_with(folder.path(), &options, &environment);
    let node = TestNode::new(1);
    assert_eq!(server.client.register(&node), 0);
    await_some("the work", || (leaves(&server) > 1000).then_some(()));
    let rounds = || -> Vec<Value> {
        let rounds = server.client.get("/v1/rounds").json();
        let rounds = rounds["rounds"].as_array().unwrap();
        rounds.iter().map(|round| round["state"].clone()).collect()
    };
    let before = rounds();
    // At the end of this round, and at the end of the next one.
    set("+1h");
    await_some("the alarm", || {
        server
            .log()
            .contains("ALARM: the clock has leapt by")
            .then_some(())
    });
    let (begun, made) = (Instant::now(), leaves(&server));
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(server.client.get("/v1/proofs/0").status, 404);
        thread::sleep(Duration::from_millis(100));
    }
    assert!(leaves(&server) > made, "the hashing has stopped");
    assert_eq!(rounds(), before);
    set("+0");
    await_some("the end of the leap", || {
        server
            .log()
            .contains("the clock has leapt back")
            .then_some(())
    });
    // It ends on time.
    let proof = verify_fetched(&server.client.await_proof(0));
    assert_eq!(proof.members, members_of(&[node]));
    let late = server.log();
    let (_, late) = late.split_once("seconds_late=").unwrap();
    let late = late.split_whitespace().next().unwrap().trim_matches('"');
    let late: f64 = late.parse().unwrap();
    assert!((0.0..60.0).contains(&late), "{late}");
    assert_eq!(server.client.get("/readyz").status, 200);
}
