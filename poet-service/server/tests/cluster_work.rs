//! Several servers share the work on a round: one works, and the others follow and take over if it
//! fails. Each is a process, on a real PostgreSQL.
#![allow(clippy::unwrap_used)]
#![cfg(unix)]

mod common;
#[path = "../../storage/tests/suite/server.rs"]
mod database;
#[path = "common/fake_time.rs"]
mod fake_time;
#[path = "common/program.rs"]
mod program;
#[path = "../../storage/tests/suite/wire.rs"]
mod wire;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    thread,
    time::{Duration, Instant},
};

use common::{TestNode, await_some, members_of, verify_fetched};
use database::{PASSWORD, PostgresServer};
use fake_time::WallClock;
use jiff::Timestamp;
use program::ServerProcess;
use tempfile::TempDir;
use wire::Wire;

/// The header of a tree log.
const HEADER_BYTES: u64 = 96;

/// How long nodes register. It is real time: the database's clock tells it.
const OPEN: u64 = 12;
/// How long the work on a round takes, unless the test ends it before: longer than any test.
const WORK: u64 = 900;

/// Whose servers may take the cores. Auditors only get what the hashing of all others leaves.
static CORES: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "it is held, not read")]
enum Cores {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

impl Cores {
    fn shared() -> Self {
        Self::Shared(CORES.read().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg_attr(not(feature = "fault-injection"), expect(dead_code))]
    fn alone() -> Self {
        Self::Alone(CORES.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A PoET of several machines, whose round 0 starts some time after its genesis, and ends when the test
/// says so.
struct Poet {
    database: PostgresServer,
    schedule: Vec<String>,
    nodes: Vec<TestNode>,
    /// The clock of all its servers.
    clock: WallClock,
    /// When round 0 ends, by that.
    end: Timestamp,
    /// Held until all else is gone.
    _cores: Cores,
}

impl Poet {
    /// `None` if there is no PostgreSQL, or no library to fake the time.
    fn new() -> Option<Self> {
        Self::open_for(OPEN, Cores::shared())
    }

    /// The same, where round 0 starts after `open` seconds.
    fn open_for(open: u64, cores: Cores) -> Option<Self> {
        let database = PostgresServer::start()?;
        let clock = WallClock::new()?;
        let url = database.database("poet");
        let genesis = Timestamp::from_second(Timestamp::now().as_second()).unwrap();
        let schedule = vec![
            format!("--genesis-time={genesis}"),
            // The next round is far away.
            format!("--epoch-duration={}s", WORK + 600),
            format!("--phase-shift={open}s"),
            "--cycle-gap=600s".to_owned(),
            "--clock-leap-patience=0s".to_owned(),
            "--audit=full".to_owned(),
            format!("--database={url}"),
        ];
        Some(Self {
            database,
            schedule,
            nodes: (1..=3).map(TestNode::new).collect(),
            clock,
            end: genesis + Duration::from_secs(open + WORK),
            _cores: cores,
        })
    }

    /// Ends the work on round 0.
    fn end_work(&self) {
        self.clock.set(self.end);
    }

    fn start(&self, folder: &TempDir, more: &[&str]) -> ServerProcess {
        self.start_with(folder, more, &[])
    }

    fn start_with(
        &self,
        folder: &TempDir,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> ServerProcess {
        let mut options: Vec<&str> = self.schedule.iter().map(String::as_str).collect();
        options.extend(more);
        let clock = self.clock.environment();
        let clock = clock.iter().map(|(name, value)| (*name, value.as_str()));
        let environment: Vec<_> = clock.chain(environment.iter().copied()).collect();
        ServerProcess::start_with(folder.path(), &options, &environment)
    }

    /// Starts a server that works on round 0, as its first.
    fn start_worker(&self, folder: &TempDir, more: &[&str]) -> ServerProcess {
        self.at_work(self.start(folder, more))
    }

    fn register(&self, server: &ServerProcess) {
        for node in &self.nodes {
            assert_eq!(server.client.register(node), 0);
        }
    }

    /// Registers the nodes with a server, and waits until it works.
    fn at_work(&self, server: ServerProcess) -> ServerProcess {
        self.register(&server);
        await_log(&server, WORKS);
        self.await_growth();
        server
    }

    /// Starts a server that joins in the middle of the round with nothing, and copies what there is.
    fn start_follower(&self, folder: &TempDir, more: &[&str]) -> ServerProcess {
        let server = self.start(folder, more);
        await_log(&server, FOLLOWS);
        self.await_growth();
        server
    }

    /// Starts a server that reaches the database by a wire.
    fn start_behind(
        &self,
        wire: &Wire,
        folder: &TempDir,
        more: &[&str],
        environment: &[(&str, &str)],
    ) -> ServerProcess {
        let there = format!("--database=postgres://poet@127.0.0.1:{}/poet", wire.port());
        let options = [&[&*there], more].concat();
        let environment = [&[("PGPASSWORD", PASSWORD)], environment].concat();
        self.start_with(folder, &options, &environment)
    }

    /// Waits until one server works.
    fn await_one_worker(&self) {
        let working = "SELECT count(*) FROM poet.servers
                       WHERE works AND seen > clock_timestamp() - interval '2 s'";
        await_some("one worker", || {
            (self.database.sql("poet", working) == "1").then_some(())
        });
    }

    /// Entries of the shared log of round 0.
    fn entries(&self) -> u64 {
        let entries = "SELECT coalesce(max(entries), 0) FROM poet.logs WHERE round = 0";
        self.database.sql("poet", entries).parse().unwrap()
    }

    /// Waits until the shared log has grown by some entries. Returns its length.
    fn await_growth(&self) -> u64 {
        let before = self.entries();
        await_some("growth of the shared log", || {
            let entries = self.entries();
            (entries > before + 1000).then_some(entries)
        })
    }

    /// Ends round 0, and awaits its proof, which all these servers must serve. Returns its leaves.
    fn end_and_prove(&self, servers: &[&ServerProcess]) -> u64 {
        self.end_work();
        self.proven(servers)
    }

    /// Awaits the proof of round 0, which is over, and which all these servers must serve. Returns its
    /// leaves.
    fn proven(&self, servers: &[&ServerProcess]) -> u64 {
        let proof = servers[0].client.await_proof(0);
        for server in servers {
            let theirs = await_some("the proof of the other", || {
                let answer = server.client.get("/v1/proofs/0");
                (answer.status == 200).then_some(answer)
            });
            assert_eq!(theirs.body, proof.body);
        }
        let fetched = verify_fetched(&proof);
        assert_eq!(fetched.members, members_of(&self.nodes));
        // The log is dropped with its publication.
        let logs =
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'poet' AND tablename = 'log_0'";
        assert_eq!(self.database.sql("poet", logs), "0");
        let leaves = "SELECT leaves FROM poet.proofs WHERE round = 0";
        self.database.sql("poet", leaves).parse().unwrap()
    }
}

fn machines<const N: usize>() -> [TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().unwrap())
}

fn await_log(server: &ServerProcess, what: &str) {
    await_some(what, || server.log().contains(what).then_some(()));
}

/// Returns how often a server has logged this.
fn times(server: &ServerProcess, what: &str) -> usize {
    server.log().matches(what).count()
}

/// A server must not have raised an alarm, except of its clock, which the test sets ahead.
#[track_caller]
fn assert_no_alarm(server: &ServerProcess) {
    let log = server.log();
    let mut alarms = log.lines().filter(|line| line.contains("ALARM"));
    assert!(
        alarms.all(|line| line.contains("ALARM: the clock has leapt")),
        "{log}"
    );
}

fn tree_log(folder: &Path) -> PathBuf {
    let files = fs::read_dir(folder).unwrap().flatten();
    for entry in files {
        let path = entry.path();
        if path.is_dir() {
            let found = tree_log(&path);
            if found.exists() {
                return found;
            }
        } else if path.ends_with("rounds/0/tree.log") {
            return path;
        }
    }
    folder.join("none")
}

/// Has a process stand still for more than half of the time, until this is dropped.
struct Slowed(Child);

impl Slowed {
    fn new(server: &ServerProcess) -> Self {
        let pid = server.pid();
        let turns = format!(
            "while kill -STOP {pid}; do sleep 0.3; kill -CONT {pid} || exit; sleep 0.2; done"
        );
        let child = Command::new("sh")
            .args(["-c", &turns])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        // Once the server has ended, the shell has, too.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const WORKS: &str = "this server works";
const FOLLOWS: &str = "this server follows";

#[test]
fn when_the_worker_is_killed_the_follower_goes_on_from_its_end() {
    let Some(poet) = Poet::new() else { return };
    let [first, second, third] = machines();
    let worker = poet.start_worker(&first, &[]);
    let follower = poet.start_follower(&second, &["--worker=standby"]);
    assert_eq!(times(&follower, WORKS), 0);
    // Both report which server does what, and so does one that does no work.
    let idle = poet.start(&third, &["--worker=off"]);
    for server in [&worker, &follower, &idle] {
        await_some("who works", || {
            let round = server.client.get("/v1/rounds/0").json();
            let servers = round["servers"].as_array()?;
            let works: Vec<_> = servers
                .iter()
                .map(|server| server["works"].as_bool())
                .collect();
            let both = works.contains(&Some(true)) && works.contains(&Some(false));
            let leaves: u64 = round["leaves"].as_str()?.parse().unwrap();
            (round["state"] == "executing" && both && leaves > 0).then_some(())
        });
    }
    let page = worker.client.get("/").body;
    assert!(page.contains("1 at work, 1 following"), "{page}");
    worker.kill();
    let killed = Instant::now();
    let before = poet.entries();
    await_log(&follower, WORKS);
    poet.await_growth();
    println!("taken over after {:?}", killed.elapsed());
    let leaves = poet.end_and_prove(&[&follower, &idle]);
    assert!(
        leaves > before,
        "{leaves} leaves, {before} of which the first had made"
    );
    assert_no_alarm(&follower);
}

#[test]
fn a_worker_that_was_paused_follows_and_one_whose_disk_is_lost_copies() {
    let Some(poet) = Poet::new() else { return };
    let [first, second, third] = machines();
    let one = poet.start_worker(&first, &[]);
    let other = poet.start_follower(&second, &[]);
    one.send_signal("STOP");
    await_log(&other, WORKS);
    poet.await_growth();
    thread::sleep(Duration::from_secs(30));
    one.send_signal("CONT");
    await_log(&one, FOLLOWS);
    poet.await_growth();
    // Its disk is lost: it starts with nothing, and follows.
    one.kill();
    let one = poet.start(&third, &[]);
    await_log(&one, FOLLOWS);
    let before = poet.await_growth();
    assert_eq!(times(&one, WORKS), 0, "{}", one.log());
    let leaves = poet.end_and_prove(&[&other, &one]);
    assert!(leaves > before);
    assert_eq!(times(&other, WORKS), 1, "{}", other.log());
    for server in [&one, &other] {
        assert_no_alarm(server);
    }
}

#[test]
fn a_standby_works_only_while_no_other_does() {
    let Some(poet) = Poet::new() else { return };
    let [first, second] = machines();
    // No other server is there.
    let standby = poet.start_worker(&first, &["--worker=standby", "--takeover-after=500ms"]);
    let on = poet.start(&second, &[]);
    await_log(&on, WORKS);
    await_log(&standby, FOLLOWS);
    let before = poet.await_growth();
    let worker = "SELECT count(*) FROM poet.servers WHERE works";
    await_some("one worker", || {
        (poet.database.sql("poet", worker) == "1").then_some(())
    });
    let leaves = poet.end_and_prove(&[&on, &standby]);
    assert!(leaves > before);
    assert_eq!(times(&standby, WORKS), 1, "{}", standby.log());
}

/// As a fast machine gets its round back that was restarted.
#[test]
fn a_server_that_is_clearly_faster_overtakes() {
    let Some(poet) = Poet::new() else { return };
    let [first, second] = machines();
    let slow = poet.start_worker(&first, &["--audit=off"]);
    let slowed = Slowed::new(&slow);
    let fast = poet.start(&second, &["--audit=off"]);
    await_log(&fast, FOLLOWS);
    await_log(&fast, "this server tries to overtake");
    await_log(&fast, "this server has overtaken the other");
    await_log(&slow, FOLLOWS);
    poet.await_growth();
    drop(slowed);
    slow.send_signal("CONT");
    assert_eq!(times(&fast, WORKS), 0, "{}", fast.log());
    for server in [&slow, &fast] {
        assert_no_alarm(server);
    }
    let worker = "SELECT name FROM poet.servers WHERE works";
    let worker = poet.database.sql("poet", worker);
    let name = await_some("who works", || {
        let round = fast.client.get("/v1/rounds/0").json();
        let servers = round["servers"].as_array()?.clone();
        let works = servers.iter().find(|server| server["works"] == true)?;
        Some(works["name"].as_str()?.to_owned())
    });
    assert_eq!(worker, name);
}

#[test]
fn the_work_goes_on_while_the_database_is_away() {
    let Some(mut poet) = Poet::new() else {
        return;
    };
    let [first, second] = machines();
    let one = poet.start_worker(&first, &[]);
    let other = poet.start_follower(&second, &["--takeover-after=5s"]);
    let before = poet.entries();
    poet.database.kill();
    // Longer than a takeover takes.
    thread::sleep(Duration::from_secs(7));
    poet.database.run();
    await_some("what was made meanwhile", || {
        (poet.entries() > before + 1000).then_some(())
    });
    let leaves = poet.end_and_prove(&[&one, &other]);
    assert!(leaves > before);
    assert_eq!(times(&other, WORKS), 0, "{}", other.log());
    assert_eq!(times(&one, WORKS), 1, "{}", one.log());
}

#[test]
fn a_follower_with_a_flipped_bit_repairs_it() {
    let Some(poet) = Poet::new() else { return };
    let [first, second] = machines();
    let one = poet.start_worker(&first, &[]);
    let other = poet.start_follower(&second, &[]);
    let log = tree_log(second.path());
    await_some("entries on the disk of the follower", || {
        let length = fs::metadata(&log).map_or(0, |log| log.len());
        (length > HEADER_BYTES + 32 * 100).then_some(())
    });
    assert_eq!(other.signal("TERM").code(), Some(0));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&log)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, HEADER_BYTES + 32 * 50)
        .unwrap();
    file.write_all_at(&[byte[0] ^ 4], HEADER_BYTES + 32 * 50)
        .unwrap();
    drop(file);
    let other = poet.start(&second, &[]);
    await_log(&other, "entries of the log were damaged");
    await_log(&other, FOLLOWS);
    one.kill();
    await_log(&other, WORKS);
    let before = poet.await_growth();
    assert!(poet.end_and_prove(&[&other]) > before);
}

#[test]
fn a_worker_that_was_cut_off_hands_in_what_it_has_made() {
    let Some(poet) = Poet::new() else { return };
    let [first, second] = machines();
    let wire = Wire::to(poet.database.port());
    let one = poet.at_work(poet.start_behind(&wire, &first, &[], &[]));
    let other = poet.start_follower(&second, &[]);
    wire.cut();
    await_log(&other, WORKS);
    poet.await_growth();
    // It has noticed that, and works on.
    one.client.await_unready("the database cannot be written");
    // A minute in all.
    thread::sleep(Duration::from_secs(50));
    wire.mend();
    one.client.await_ready();
    assert_eq!(times(&one, FOLLOWS), 0, "{}", one.log());
    // Whichever has more by now.
    poet.await_one_worker();
    let before = poet.await_growth();
    let leaves = poet.end_and_prove(&[&one, &other]);
    assert!(leaves > before);
    for server in [&one, &other] {
        assert!(!server.log().contains("unreliable"), "{}", server.log());
    }
}

#[test]
fn the_database_may_be_killed_in_each_phase() {
    let Some(mut poet) = Poet::open_for(25, Cores::shared()) else {
        return;
    };
    let [first, second] = machines();
    let one = poet.start(&first, &[]);
    let other = poet.start(&second, &[]);
    assert_eq!(one.client.register(&poet.nodes[0]), 0);
    // While nodes register.
    poet.database.kill();
    poet.database.run();
    for (node, server) in poet.nodes[1..].iter().zip([&one, &other]) {
        let params = await_some("an answer", || {
            let answer = server.client.try_get("/readyz").ok()?;
            (answer.status == 200).then(|| server.client.pow_params())
        });
        await_some("a registration", || {
            let answer = server.client.submit(&node.request(&params));
            (answer.status == 200).then(|| assert_eq!(answer.json()["roundId"], "0"))
        });
    }
    // While one works.
    await_some("the work", || {
        (times(&one, WORKS) + times(&other, WORKS) > 0).then_some(())
    });
    poet.await_growth();
    poet.database.kill();
    poet.database.run();
    let before = poet.await_growth();
    // While the round ends and the proof is made.
    poet.clock.set(poet.end - Duration::from_secs(1));
    poet.database.kill();
    thread::sleep(Duration::from_secs(5));
    poet.database.run();
    assert!(poet.proven(&[&one, &other]) > before);
}

/// The one with the most leaves dies when it has said how many it has: its proofs are spoilt until then.
#[cfg(feature = "fault-injection")]
#[test]
fn another_server_proves_what_the_one_with_the_most_leaves_has_made() {
    let Some(poet) = Poet::new() else { return };
    let [first, second] = machines();
    let fault = [("POET_FAULT", "long-audit@9")];
    let one = poet.at_work(poet.start_with(&first, &["--audit=off"], &fault));
    let other = poet.start_follower(&second, &["--worker=standby"]);
    poet.end_work();
    let counted = await_some("the number of leaves", || {
        let counted = "SELECT leaves FROM poet.servers WHERE leaves IS NOT NULL";
        poet.database.sql("poet", counted).parse::<u64>().ok()
    });
    one.kill();
    assert_eq!(poet.proven(&[&other]), counted);
    assert_eq!(times(&other, WORKS), 0, "{}", other.log());
}

/// Nobody audits: two machines that worked at the same time find that their logs differ.
#[cfg(feature = "fault-injection")]
#[test]
fn logs_that_differ_are_found_by_comparing_them() {
    let Some(poet) = Poet::new() else { return };
    let [first, second] = machines();
    let wire = Wire::to(poet.database.port());
    // In some seconds: the wire is cut before.
    let fault = [("POET_FAULT", "label@500000")];
    let wrong = poet.start_behind(&wire, &first, &["--audit=off"], &fault);
    let sound = poet.start(&second, &["--audit=off", "--worker=standby"]);
    poet.register(&wrong);
    await_log(&wrong, WORKS);
    await_log(&sound, FOLLOWS);
    await_some("the first entries", || (poet.entries() > 0).then_some(()));
    wire.cut();
    let log = tree_log(first.path());
    await_log(&sound, WORKS);
    // Until both have passed it.
    let height = "SELECT subtree_height FROM poet.rounds WHERE round = 0";
    let height: u64 = poet.database.sql("poet", height).parse().unwrap();
    let past = (500_000 >> height) + 100;
    await_some("the wrong entry", || {
        let length = fs::metadata(&log).map_or(0, |log| log.len());
        (length > HEADER_BYTES + 32 * past && poet.entries() > past).then_some(())
    });
    wire.mend();
    await_log(&wrong, "this server's work went wrong");
    let before = poet.await_growth();
    assert!(poet.end_and_prove(&[&sound, &wrong]) > before);
    assert_eq!(times(&sound, "this server's work went wrong"), 0);
}

/// A worker whose auditors miss its error: the follower's auditors find it.
#[cfg(feature = "fault-injection")]
#[test]
fn a_machine_that_computes_wrong_is_the_one_that_goes_back() {
    let Some(poet) = Poet::open_for(OPEN, Cores::alone()) else {
        return;
    };
    let [first, second] = machines();
    let fault = [("POET_FAULT", "label@20000")];
    let wrong = poet.start_with(&first, &["--audit=off"], &fault);
    poet.register(&wrong);
    let sound = poet.start(&second, &["--worker=standby"]);
    await_log(&wrong, WORKS);
    await_log(&sound, FOLLOWS);
    await_log(&sound, "the work that this server follows went wrong");
    await_log(&sound, "the shared log is wrong from this entry on");
    await_log(&wrong, "this server's work went wrong");
    let before = poet.await_growth();
    assert!(poet.end_and_prove(&[&sound, &wrong]) > before);
    assert_eq!(times(&sound, "this server's work went wrong"), 0);
}
