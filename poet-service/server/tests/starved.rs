//! A server that gets little CPU time, no threads, or a clock that leaps. The tests check the order
//! of events, since they do not know how fast the machine is.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/fake_time.rs"]
mod fake_time;
#[path = "common/others.rs"]
mod others;
#[path = "common/program.rs"]
mod program;
#[path = "common/stored.rs"]
mod stored;
#[path = "common/thread_limit.rs"]
mod thread_limit;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{TestNode, await_some, members_of, side_by_side, verify_fetched};
use fake_time::fake_time;
use jiff::{SignedDuration, Timestamp};
use others::Others;
use poet_conformance::skip;
use poet_proto::schedule::Schedule;
use program::{ServerProcess, command, install};
use serde_json::Value;
use stored::{store_rounds, store_schedule};
use thread_limit::ThreadLimit;

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
/// The proof of a round must come, and no audit before it.
#[track_caller]
fn assert_proof_first(server: &ServerProcess, round: u64) {
    let proof = verify_fetched(&server.client.await_proof(round));
    assert!(proof.leaves >= 150);
    server.client.await_ready();
    // Logged when clients have it already.
    let (log, published) = await_some(PUBLISHED, || {
        let log = server.log();
        log.find(PUBLISHED).map(|at| (log, at))
    });
    let line = log.lines().find(|line| line.contains(PUBLISHED));
    println!("{}", line.unwrap());
    for audited in AUDITED {
        let at = log.find(audited);
        assert!(at.is_none_or(|at| at > published), "{log}");
    }
    assert!(!log.contains("ALARM"), "{log}");
}

#[test]
fn busy_programs_keep_no_proof_waiting() {
    side_by_side(["full", "sampled", "off"], |audit| {
        let folder = tempfile::tempdir().unwrap();
        let audit = format!("--audit={audit}");
        let server = ServerProcess::start(folder.path(), &[&ROUND[..], &[&audit]].concat());
        let node = TestNode::new(1);
        assert_eq!(server.client.register(&node), 0);
        let _hogs = Others::hogs();
        assert_proof_first(&server, 0);
        let proof = verify_fetched(&server.client.get("/v1/proofs/0"));
        assert_eq!(proof.members, members_of(&[node]));
    });
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

/// The niceness of the server's threads and the ticks of CPU time that they have used, by name.
fn threads(server: &ServerProcess) -> BTreeMap<String, (i32, u64)> {
    let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap();
    let stats = threads.flatten().filter_map(|thread| {
        // One that has ended has none.
        let stat = fs::read_to_string(thread.path().join("stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(") ")?;
        let fields: Vec<_> = rest.split(' ').collect();
        // The first is the third field of all, time in user mode the 14th, and niceness the 19th.
        let (ticks, nice) = (fields[11].parse().ok()?, fields[16].parse().ok()?);
        Some((name.to_owned(), (nice, ticks)))
    });
    stats.collect()
}

const BEHIND: &str = "the audit is behind";
const ONLY_IDLE_TIME: &str = "the audit uses only idle time";

/// An hour of work, on a core that the hashing thread has to itself or not.
fn start_with_busy_programs(folder: &Path, core: &str, cores: Option<&str>) -> ServerProcess {
    let server = command(folder);
    let mut command = match cores {
        Some(cores) => {
            let mut command = Command::new("taskset");
            command
                .args(["--cpu-list", cores])
                .arg(server.get_program());
            command
        }
        None => Command::new(server.get_program()),
    };
    let options = server
        .get_args()
        .filter(|option| *option != "--work-core=off");
    command
        .args(options)
        .args(["--phase-shift=1s", "--epoch-duration=1h"])
        .args(["--restlisten=127.0.0.1:0", "--audit=full", core])
        .env_remove("POET_PRIVATE_KEY")
        .stdin(Stdio::null());
    ServerProcess::start_command(folder, command)
}

/// Auditors that fall behind get priority over ordinary programs where that takes nothing from the hashing:
/// where it has a core of its own.
#[test]
fn auditors_that_are_behind_get_priority_off_the_core_of_the_hashing() {
    if thread::available_parallelism().unwrap().get() < 2 {
        return skip("this machine has one core");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = start_with_busy_programs(folder.path(), "--work-core=auto", None);
    let before = threads(&server);
    assert_eq!(before["audit"].0, 19);
    assert_eq!(before["audit-behind"].0, before["hash"].0);
    let hogs = Others::hogs();
    await_some("the auditors that are behind", || {
        server.log().contains(BEHIND).then_some(())
    });
    // They do not wait for idle time any more: another thread does the work.
    let ticks = threads(&server)["audit-behind"].1;
    await_some("its work", || {
        let now = threads(&server);
        assert!(now["audit-behind"].0 <= now["hash"].0, "{now:?}");
        (now["audit-behind"].1 > ticks + 50).then_some(())
    });
    drop(hogs);
    await_some("the end of the delay", || {
        let log = server.log();
        log.contains("the audit is not behind any more")
            .then_some(())
    });
    assert!(!server.log().contains(ONLY_IDLE_TIME));
}

/// Where the hashing shares its core, every share that the auditors took would be the hashing's: they have
/// what it and others leave, however far they are behind.
#[test]
fn auditors_that_are_behind_take_nothing_from_a_hashing_that_shares_its_core() {
    let cases = [
        ("--work-core=auto", Some(a_core())),
        ("--work-core=off", None),
    ];
    side_by_side(cases, |(core, cores)| {
        let folder = tempfile::tempdir().unwrap();
        let server = start_with_busy_programs(folder.path(), core, cores.as_deref());
        let _hogs = Others::hogs();
        let lag = || {
            let round = server.client.get("/v1/rounds/0").json();
            round["audit"]["lagSeconds"].as_f64().unwrap_or(0.0)
        };
        // Where the others of this process would have priority for long.
        await_some("a delay", || (lag() > 8.0).then_some(()));
        let log = server.log();
        assert!(!log.contains(BEHIND), "{log}");
        assert!(log.contains(ONLY_IDLE_TIME), "{log}");
        let threads = threads(&server);
        assert_eq!(threads["audit"].0, 19, "{threads:?}");
        assert_eq!(threads["audit-behind"].1, 0, "{threads:?}");
    });
}

/// Leaves of the round that is worked on.
fn leaves(server: &ServerProcess) -> u64 {
    let round = server.client.get("/v1/rounds/0").json();
    round["leaves"]
        .as_str()
        .map_or(0, |leaves| leaves.parse().unwrap())
}

/// What was audited is lost, or never was: nothing makes up for it before the proof.
#[test]
fn what_was_not_audited_keeps_no_proof_waiting() {
    side_by_side([("off", false), ("full", true)], |(before, lost)| {
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
    });
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

/// The end of a round with so many members, after `work`, in which everything must be ready. Returns how
/// long after it a client has the whole proof.
fn serve_members(members: u32, work: Duration) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let epoch = Duration::from_secs(12 * 3600);
    let schedule = |genesis| Schedule::new(genesis, epoch, Duration::ZERO, epoch - work).unwrap();
    let now = || Timestamp::from_second(Timestamp::now().as_second()).unwrap();
    store_rounds(folder.path(), &schedule(now()), 1, members, false, 0);
    let genesis = now();
    let schedule = schedule(genesis);
    store_schedule(folder.path(), &schedule);
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
    let left = end.duration_since(Timestamp::now());
    // It fails if that is negative.
    let left = Duration::try_from(left).expect("it took too long to begin");
    thread::sleep(left);
    let answer = server.client.await_proof(0);
    let late = Timestamp::now().duration_since(end).as_secs_f64();
    let published = await_some(PUBLISHED, || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains(PUBLISHED));
        line.map(str::to_owned)
    });
    println!("{published}");
    let proof = verify_fetched(&answer);
    assert_eq!(proof.members.len(), members as usize);
    late
}

#[test]
fn a_round_with_many_members_is_served() {
    let late = serve_members(20_000, Duration::from_secs(10));
    assert!(late >= 0.0, "before its end: {late}");
}

/// Of a release build, or what is measured is something else.
#[test]
#[ignore = "takes five minutes and 4 GB of memory, and measures: --release -- --ignored --nocapture"]
fn a_round_with_five_million_members_is_served() {
    let late = serve_members(5_000_000, Duration::from_secs(180));
    println!("five million members: a client has the proof {late:.1} s after the end of the round");
}

#[test]
fn requests_for_members_of_old_rounds_keep_no_proof_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    // Round 2 begins when the server is running.
    let genesis = || {
        let genesis = Timestamp::now() + SignedDuration::from_secs(5 - 2 * 3600);
        Timestamp::from_second(genesis.as_second()).unwrap()
    };
    let gap = hour - Duration::from_secs(8);
    let schedule = |genesis| Schedule::new(genesis, hour, Duration::ZERO, gap).unwrap();
    store_rounds(folder.path(), &schedule(genesis()), 2, 100_000, true, 0);
    let genesis = genesis();
    store_schedule(folder.path(), &schedule(genesis));
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

/// A user to whom the limit on processes applies, if this one is root.
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
        install(server.get_program().as_ref(), &program);
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

/// Lets a server have no further thread, or as many as it wants.
type Limit = Box<dyn Fn(bool)>;

/// No thread can be made over the end of a round, over the start of one, and while clients come. What
/// cannot do without ends the process with a last line; otherwise the round goes on.
fn do_without_threads(limit: impl Fn(&ServerProcess) -> Option<Limit> + Sync) {
    let schedule = ["--phase-shift=8s", "--epoch-duration=14s", "--cycle-gap=6s"];
    let cases = [
        ("an end", "working round=0"),
        ("a start", "open for registration round=0"),
    ];
    side_by_side(cases, |(what, before)| {
        let folder = tempfile::tempdir().unwrap();
        let command = unprivileged(folder.path(), &schedule, None);
        let mut server = ServerProcess::start_command(folder.path(), command);
        let Some(limit) = limit(&server) else { return };
        let node = TestNode::new(1);
        assert_eq!(server.client.register(&node), 0);
        await_some(what, || server.log().contains(before).then_some(()));
        limit(true);
        // Until the proof is there, with clients all the while.
        await_some("the proof, or the end", || {
            drop(server.client.try_get("/readyz"));
            let published = server.log().contains(PUBLISHED);
            (published || server.ended().is_some()).then_some(())
        });
        limit(false);
        // The next round ends well, too, unless something has failed before.
        let next = await_some("the next proof, or the end", || {
            if server.ended().is_some() {
                return Some(None);
            }
            let answer = server.client.try_get("/v1/proofs/1").ok()?;
            (answer.status == 200).then_some(Some(answer))
        });
        let log = server.log();
        let Some(next) = next else {
            let last = log.trim_end().lines().last().unwrap();
            let said = last.starts_with("error: a part of the server has ended unexpectedly: ");
            assert!(said, "{what}: {log}");
            return;
        };
        verify_fetched(&next);
        let proof = verify_fetched(&server.client.await_proof(0));
        assert_eq!(proof.members, members_of(&[node]));
        server.client.await_ready();
        assert!(!log.contains("panicked"), "{what}: {log}");
    });
}

#[test]
fn without_threads_for_their_user_rounds_go_on_or_the_process_ends() {
    do_without_threads(|server| {
        let process = format!("--pid={}", server.pid());
        Some(Box::new(move |none| {
            let most = if none { "1" } else { "1000" };
            let mut run = as_nobody();
            run.extend([
                "prlimit".into(),
                (&process).into(),
                format!("--nproc={most}:").into(),
            ]);
            let set = Command::new(&run[0]).args(&run[1..]).status();
            // A server that has ended needs no threads.
            assert!(set.unwrap().success() || !none);
        }))
    });
}

#[test]
fn without_threads_for_their_control_group_rounds_go_on_or_the_process_ends() {
    do_without_threads(|server| {
        let group = ThreadLimit::of(server.pid())?;
        Some(Box::new(move |none| {
            group.allow(if none { "1" } else { "max" });
        }))
    });
}

#[test]
fn a_clock_that_leaps_for_seconds_ends_nothing() {
    let Some(library) = fake_time() else { return };
    let folder = tempfile::tempdir().unwrap();
    let clock = folder.path().join("clock");
    let set = |by: &str| fs::write(&clock, by).unwrap();
    set("+0");
    let environment = [
        ("LD_PRELOAD", library.as_str()),
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
    let late: f64 = await_some(PUBLISHED, || {
        let log = server.log();
        let (_, late) = log.split_once("seconds_late=")?;
        let late = late.split_whitespace().next()?.trim_matches('"');
        Some(late.parse().unwrap())
    });
    assert!((0.0..60.0).contains(&late), "{late}");
    server.client.await_ready();
}
