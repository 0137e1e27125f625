//! Figures of several servers that are one PoET, for the README and the manual. They are measured on a
//! release build, one after the other, with nothing else on the machine:
//!
//! ```sh
//! cargo build --release -p poet-client
//! cargo test --release -p poet-service --test cluster_figures -- --ignored --nocapture --test-threads=1
//! ```
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "../../storage/tests/suite/server.rs"]
mod database;
#[path = "common/program.rs"]
mod program;

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{TestNode, await_some};
use database::PostgresServer;
use poet_engine::TICK_LEAVES;
use program::ServerProcess;
use serde_json::Value;
use tempfile::TempDir;

/// The rounds of the main network, whose work begins after some seconds.
const MAINNET: [&str; 3] = [
    "--epoch-duration=336h",
    "--phase-shift=5s",
    "--cycle-gap=12h",
];

/// The entries of such a round.
const MAINNET_ENTRIES: u64 = 24_000_000;

/// The value below which a part of all values is.
fn quantile(values: &mut [f64], part: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * part).round() as usize]
}

fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// Registrations a second, and the 99th percentile of their latency in milliseconds.
#[derive(Clone, Copy)]
struct Load {
    per_second: f64,
    p99_ms: f64,
}

/// Registers members with all servers at once: as fast as they answer, or so many a second.
fn load(servers: &[&ServerProcess], members: u32, rate: Option<f64>) -> Load {
    let program = Path::new(env!("CARGO_BIN_EXE_poet-service")).with_file_name("poet-client");
    let share = |total: f64| total / servers.len() as f64;
    let clients: Vec<_> = servers
        .iter()
        .map(|server| {
            let mut client = Command::new(&program);
            client
                .args(["load", "register", "--json", "--url", server.told("REST")])
                .arg(format!("--members={}", share(f64::from(members)) as u32))
                .arg(format!("--connections={}", share(200.0) as u32))
                .args(rate.map(|rate| format!("--rate={}", share(rate))))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            client.spawn().unwrap()
        })
        .collect();
    let (mut slowest, mut p99_ms) = (0.0_f64, 0.0_f64);
    for client in clients {
        let done = client.wait_with_output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let said = String::from_utf8(done.stdout).unwrap();
        let report: Value = serde_json::from_str(said.trim()).unwrap();
        let number = |value: &Value| value.as_f64().unwrap();
        slowest = slowest.max(number(&report["seconds"]));
        p99_ms = p99_ms.max(number(&report["latencySeconds"]["p99"]) * 1e3);
    }
    Load {
        per_second: f64::from(members) / slowest,
        p99_ms,
    }
}

/// In a cycle gap, when nothing is hashed; clients, servers and database on the same cores.
#[test]
#[ignore = "measures"]
fn registrations() {
    const MEMBERS: u32 = 100_000;
    const OPEN: [&str; 2] = ["--epoch-duration=336h", "--phase-shift=24h"];
    let one_on_sqlite = |rate| {
        let folder = tempfile::tempdir().unwrap();
        let server = ServerProcess::start(folder.path(), &OPEN);
        load(&[&server], MEMBERS, rate)
    };
    let two_on_postgres = |rate| {
        let database = PostgresServer::start_durable().unwrap();
        let url = format!("--database={}", database.database("poet"));
        let folders: [_; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
        // The second one has the genesis of the first.
        let servers = folders
            .each_ref()
            .map(|folder| ServerProcess::start(folder.path(), &[&OPEN[..], &[&url]].concat()));
        load(&servers.each_ref(), MEMBERS, rate)
    };
    let mut per_second = [const { Vec::new() }; 2];
    for _ in 0..5 {
        per_second[0].push(one_on_sqlite(None).per_second);
        per_second[1].push(two_on_postgres(None).per_second);
    }
    let [one, two] = per_second.each_mut().map(|values| median(values));
    println!(
        "registrations a second (medians of 5): one server on SQLite {one:.0}, two on PostgreSQL {two:.0}: {:.2}",
        two / one
    );
    let mut p99 = [const { Vec::new() }; 2];
    for _ in 0..3 {
        p99[0].push(one_on_sqlite(Some(one / 2.0)).p99_ms);
        p99[1].push(two_on_postgres(Some(two / 2.0)).p99_ms);
    }
    let [one, two] = p99.each_mut().map(|values| median(values));
    println!("p99 at half of that (medians of 3): {one:.1} ms, {two:.1} ms");
}

/// Leaves of round 0.
fn leaves(server: &ServerProcess) -> Option<u64> {
    let round = server.client.get("/v1/rounds/0").json();
    round["leaves"].as_str()?.parse().ok()
}

fn await_work(server: &ServerProcess) {
    await_some("the work", || leaves(server).filter(|leaves| *leaves > 0));
}

/// Both hash on the same core, in turns: one stands still while the other works. The turns are short, so
/// that both see the same machine, and long enough for entries to be handed in.
#[test]
#[ignore = "measures"]
fn hashing_with_a_log_that_is_handed_in() {
    const TURNS: usize = 500;
    let database = PostgresServer::start_durable().unwrap();
    let url = format!("--database={}", database.database("poet"));
    let folders: [_; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let core = "--work-core=1";
    let servers = [
        ServerProcess::start(folders[0].path(), &[&MAINNET[..], &[core]].concat()),
        ServerProcess::start(folders[1].path(), &[&MAINNET[..], &[core, &url]].concat()),
    ];
    // It is on another machine, as a rule.
    database.pin(0);
    for server in &servers {
        assert_eq!(server.client.register(&TestNode::new(1)), 0);
        await_work(server);
        server.send_signal("STOP");
    }
    let turn = |server: &ServerProcess| {
        server.send_signal("CONT");
        thread::sleep(Duration::from_millis(100));
        let now = || (Instant::now(), leaves(server).unwrap());
        let (start, before) = now();
        thread::sleep(Duration::from_millis(500));
        let (end, after) = now();
        server.send_signal("STOP");
        (after - before) as f64 / (end - start).as_secs_f64()
    };
    let mut rates = [const { Vec::new() }; 2];
    let mut ratios = Vec::new();
    for number in 0..TURNS {
        // The one that begins changes.
        let mut rate = [0.0; 2];
        for which in [number % 2, (number + 1) % 2] {
            rate[which] = turn(&servers[which]);
            rates[which].push(rate[which]);
        }
        ratios.push(rate[1] / rate[0]);
    }
    let [without, with] = rates.each_mut().map(|values| median(values));
    println!(
        "leaves a second (medians of {TURNS} turns of 0.5 s): {without:.0}, with a log that is handed in {with:.0}"
    );
    println!(
        "their ratio: {:.4} (quartiles {:.4}, {:.4})",
        median(&mut ratios),
        quantile(&mut ratios, 0.25),
        quantile(&mut ratios, 0.75)
    );
}

/// Servers on one database, which work on round 0.
struct Servers {
    database: PostgresServer,
    options: Vec<String>,
    servers: Vec<(ServerProcess, TempDir)>,
}

impl Servers {
    fn start(options: &[&str]) -> Self {
        let database = PostgresServer::start_durable().unwrap();
        let url = format!("--database={}", database.database("poet"));
        let options = [options, &[&url]].concat();
        let mut servers = Self {
            database,
            options: options.into_iter().map(str::to_owned).collect(),
            servers: Vec::new(),
        };
        servers.add();
        assert_eq!(servers.servers[0].0.client.register(&TestNode::new(1)), 0);
        await_work(&servers.servers[0].0);
        servers.add();
        servers
    }

    fn add(&mut self) {
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let server = ServerProcess::start(folder.path(), &options);
        self.servers.push((server, folder));
    }

    fn sql(&self, statement: &str) -> String {
        self.database.sql("poet", statement)
    }

    /// The entries of the shared log, and which of the servers has handed in the newest one.
    fn log(&self) -> (u64, Option<usize>) {
        let row = self.sql("SELECT entries, worker FROM poet.logs WHERE round = 0");
        let (entries, worker) = row.split_once('|').unwrap();
        let works = |(server, _): &(ServerProcess, TempDir)| {
            let (_, port) = server.told("REST").rsplit_once(':').unwrap();
            worker.ends_with(&format!(":{port}"))
        };
        (
            entries.parse().unwrap(),
            self.servers.iter().position(works),
        )
    }

    /// Waits until one works and the others have what is in the shared log. Returns which one that is.
    fn await_worker(&self) -> usize {
        let followed = "SELECT count(*) FROM poet.servers s, poet.logs l
                        WHERE seen > clock_timestamp() - interval '1 s'
                            AND s.entries + 2 * (SELECT max(leaves_a_second) FROM poet.servers) / (
                                SELECT 1 << subtree_height FROM poet.rounds WHERE round = 0) > l.entries";
        await_some("a worker and followers", || {
            let (_, worker) = self.log();
            let all = self.sql(followed) == self.servers.len().to_string();
            worker.filter(|_| all)
        })
    }
}

/// From SIGKILL of the server that works to the first entries of the other.
#[test]
#[ignore = "measures"]
fn takeovers() {
    const KILLS: u32 = 100;
    let options = [
        "--epoch-duration=4h",
        "--phase-shift=5s",
        "--cycle-gap=1h",
        "--takeover-after=2s",
    ];
    let mut servers = Servers::start(&options);
    let height = "SELECT subtree_height FROM poet.rounds WHERE round = 0";
    let height: u32 = servers.sql(height).parse().unwrap();
    let (mut seconds, mut ticks) = (Vec::new(), Vec::new());
    for number in 0..KILLS {
        let worker = servers.await_worker();
        // At another moment between two looks at the database each time.
        thread::sleep(Duration::from_millis(500 + u64::from(number * 37 % 200)));
        let rate = "SELECT max(leaves_a_second) FROM poet.servers WHERE works";
        let rate: f64 = servers.sql(rate).parse().unwrap();
        let (killed, _folder) = servers.servers.swap_remove(worker);
        let had = leaves(&killed).unwrap();
        let start = Instant::now();
        killed.kill();
        let (entries, took) = await_some("the takeover", || {
            let (entries, worker) = servers.log();
            worker.map(|_| (entries, start.elapsed().as_secs_f64()))
        });
        seconds.push(took);
        ticks.push((had as f64 + rate * took - (entries << height) as f64) / TICK_LEAVES as f64);
        servers.add();
    }
    println!(
        "from SIGKILL to the first entries of the other ({KILLS} kills): median {:.2} s, worst {:.2} s; \
         lost by then: median {:.4} ticks, worst {:.4}",
        median(&mut seconds),
        quantile(&mut seconds, 1.0),
        median(&mut ticks),
        quantile(&mut ticks, 1.0)
    );
}

/// From the moment at which one server serves a proof to the one at which the other does.
#[test]
#[ignore = "measures"]
fn publication() {
    const ROUNDS: u64 = 20;
    let database = PostgresServer::start_durable().unwrap();
    let url = format!("--database={}", database.database("poet"));
    let options = [
        "--epoch-duration=10s",
        "--phase-shift=5s",
        "--cycle-gap=5s",
        &url,
    ];
    let folders: [_; 2] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let servers = folders
        .each_ref()
        .map(|folder| ServerProcess::start(folder.path(), &options));
    assert_eq!(servers[0].client.register(&TestNode::new(1)), 0);
    let mut apart = Vec::new();
    for round in 0..ROUNDS {
        let served = thread::scope(|scope| {
            let served = servers.each_ref().map(|server| {
                scope.spawn(move || {
                    server.client.await_proof(round);
                    Instant::now()
                })
            });
            served.map(|served| served.join().unwrap())
        });
        let between = served[0].max(served[1]) - served[0].min(served[1]);
        apart.push(between.as_secs_f64());
    }
    println!(
        "until the other serves a proof, too ({ROUNDS} rounds): median {:.2} s, worst {:.2} s",
        median(&mut apart),
        quantile(&mut apart, 1.0)
    );
}

/// Ticks of `/proc` in a second.
const USER_HZ: f64 = 100.0;

/// What a process has used of a core, in seconds.
fn cpu_seconds(server: &ServerProcess) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    // In user and in system mode: the 14th and 15th fields of all.
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks as f64 / USER_HZ
}

fn memory_mb(server: &ServerProcess) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let mut lines = status.lines();
    let peak = lines.find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kilobytes = peak.trim().trim_end_matches(" kB").parse::<u64>();
    kilobytes.unwrap() >> 10
}

/// A follower that audits everything, and what the entries take in the database.
#[test]
#[ignore = "measures"]
fn a_follower_and_the_shared_log() {
    // After a minute a follower that does not know better tries whether it is faster.
    const SECONDS: u64 = 40;
    let servers = Servers::start(&[&MAINNET[..], &["--work-core=auto", "--audit=full"]].concat());
    let worker = servers.await_worker();
    let (follower, _folder) = &servers.servers[1 - worker];
    let audited = || {
        let round = follower.client.get("/v1/rounds/0").json();
        round["audit"]["auditedLeaves"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let (start, before, leaves_before) = (Instant::now(), cpu_seconds(follower), audited());
    thread::sleep(Duration::from_secs(SECONDS));
    let used = (cpu_seconds(follower) - before) / start.elapsed().as_secs_f64();
    println!(
        "a follower uses {:.0} % of a core for {:.0} audited leaves a second, and {} MB of memory at most",
        used * 100.0,
        (audited() - leaves_before) as f64 / start.elapsed().as_secs_f64(),
        memory_mb(follower)
    );
    let (entries, now) = servers.log();
    assert_eq!(now, Some(worker), "another one has taken over");
    // A whole round, in rows like these.
    let rows: u64 = servers
        .sql("SELECT count(*) FROM poet.log_0")
        .parse()
        .unwrap();
    let each = entries.div_ceil(rows);
    let whole = format!(
        "CREATE TABLE whole (LIKE poet.log_0 INCLUDING ALL);
         INSERT INTO whole SELECT first, decode(repeat('5a', {each} * 32), 'hex')
             FROM generate_series(0, {MAINNET_ENTRIES} - 1, {each}) AS first;"
    );
    servers.sql(&whole);
    let bytes = servers.sql("SELECT pg_total_relation_size('whole')");
    let bytes: f64 = bytes.parse().unwrap();
    println!(
        "the shared log of a round of {MAINNET_ENTRIES} entries, {each} in a row: {:.2} GB",
        bytes / 1e9
    );
}
