//! Several servers on one database, and a database that fails.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use poet_proto::schedule::Schedule;
use poet_rounds::{
    clock::ManualClock,
    storage::{Challenge, Member, PowChallenges, Registered, Setting, Storage},
};
use poet_storage::PostgresStorage;

use crate::{
    cases::{member, sample_proof, wait},
    open,
    server::{PASSWORD, PostgresServer},
    try_open,
};

/// Much longer than anything takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn servers_that_start_at_once_agree() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet");
    let together = Barrier::new(6);
    let claimed: Vec<_> = thread::scope(|scope| {
        let starts: Vec<_> = (0..6_u8)
            .map(|number| {
                let (url, together) = (&url, &together);
                scope.spawn(move || {
                    together.wait();
                    let storage = open(url);
                    let claimed = storage.claim_setting(Setting::PrivateKey, &[number; 64]);
                    let challenges = PowChallenges {
                        current: [number; 32],
                        previous: None,
                    };
                    let challenges = storage.claim_pow_challenges(&challenges).unwrap();
                    (claimed.unwrap(), challenges)
                })
            })
            .collect();
        starts
            .into_iter()
            .map(|start| start.join().unwrap())
            .collect()
    });
    assert!(claimed.iter().all(|one| *one == claimed[0]), "{claimed:?}");
}

/// Ends the load when it is dropped, so that a failed test does not wait for ever.
struct StopLoad<'a>(&'a AtomicBool);

impl Drop for StopLoad<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Registers nodes from number `first` on until it is stopped. Returns the acknowledged ones and
/// their rounds.
fn register_on(
    storage: &PostgresStorage,
    first: u32,
    round: impl Fn() -> u64,
    stop: &AtomicBool,
) -> Vec<(u64, Member)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut acknowledged = Vec::new();
    let mut number = first;
    runtime.block_on(async {
        while !stop.load(Relaxed) {
            let pending: Vec<_> = (0..20)
                .map(|_| {
                    number += 1;
                    let (round, member) = (round(), member(number, 5));
                    let registered = storage.register(round, member, u64::MAX);
                    (round, member, tokio::spawn(registered))
                })
                .collect();
            for (round, member, registered) in pending {
                match registered.await.unwrap() {
                    // The answer to the first attempt may be lost.
                    Ok(Registered::New | Registered::Already) => {
                        acknowledged.push((round, member));
                    }
                    Ok(Registered::Closed) | Err(_) => {}
                    outcome => panic!("{outcome:?}"),
                }
            }
        }
    });
    acknowledged
}

/// Every acknowledged registration must be in the round that was named.
fn assert_all_there(storage: &PostgresStorage, acknowledged: Vec<(u64, Member)>) {
    let mut by_round: BTreeMap<u64, Vec<Member>> = BTreeMap::new();
    for (round, member) in acknowledged {
        by_round.entry(round).or_default().push(member);
    }
    for (round, members) in by_round {
        let stored = storage.registrations(round).unwrap();
        for member in members {
            assert!(stored.contains(&member), "round {round}: {member:?}");
        }
        assert_eq!(storage.member_count(round).unwrap(), stored.len() as u64);
    }
}

#[test]
fn rounds_close_once_under_load() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet");
    let (one, two) = (open(&url), open(&url));
    wait(one.open_round(0)).unwrap();
    let stop = AtomicBool::new(false);
    // The round that each server considers open: the second server is behind.
    let open_round = [0, 0].map(std::sync::atomic::AtomicU64::new);
    let acknowledged = thread::scope(|scope| {
        let load: Vec<_> = [(&one, 0), (&two, 1)]
            .into_iter()
            .map(|(storage, place)| {
                let (open_round, stop) = (&open_round[place], &stop);
                let first = place as u32 * 10_000_000;
                let round = || open_round.load(Relaxed);
                scope.spawn(move || register_on(storage, first, round, stop))
            })
            .collect();
        let stop_load = StopLoad(&stop);
        let mut closed = Vec::new();
        for round in 1..8 {
            thread::sleep(Duration::from_millis(100));
            wait(one.open_round(round)).unwrap();
            // Nothing enters the closed round.
            closed.push((round - 1, one.member_count(round - 1).unwrap()));
            open_round[0].store(round, Relaxed);
            thread::sleep(Duration::from_millis(100));
            wait(two.open_round(round)).unwrap();
            open_round[1].store(round, Relaxed);
        }
        drop(stop_load);
        let acknowledged: Vec<_> = load
            .into_iter()
            .flat_map(|load| load.join().unwrap())
            .collect();
        for (round, members) in closed {
            assert_eq!(one.member_count(round).unwrap(), members, "round {round}");
        }
        acknowledged
    });
    assert!(acknowledged.len() > 50);
    assert_all_there(&one, acknowledged);
}

#[test]
fn what_is_raced_is_decided_once() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet");
    let servers = [open(&url), open(&url)];
    wait(servers[0].open_round(0)).unwrap();
    // The same nodes at both at once, half of them with different challenges, and a limit.
    let outcomes: Vec<Vec<_>> = thread::scope(|scope| {
        let races: Vec<_> = (0..2_u8)
            .map(|place| {
                let storage = &servers[usize::from(place)];
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    runtime.block_on(async {
                        let pending: Vec<_> = (0..400_u32)
                            .map(|node| {
                                let challenge = if node % 2 == 0 { 1 } else { 2 + place };
                                let member = member(node, challenge);
                                tokio::spawn(storage.register(0, member, 250))
                            })
                            .collect();
                        let mut outcomes = Vec::new();
                        for pending in pending {
                            outcomes.push(pending.await.unwrap().unwrap());
                        }
                        outcomes
                    })
                })
            })
            .collect();
        races.into_iter().map(|race| race.join().unwrap()).collect()
    });
    let count = |outcome| {
        let of = |outcomes: &Vec<_>| outcomes.iter().filter(|one| **one == outcome).count();
        outcomes.iter().map(of).sum::<usize>()
    };
    assert_eq!(count(Registered::New), 250);
    assert_eq!(servers[1].member_count(0).unwrap(), 250);
    assert_eq!(servers[1].members(0).unwrap().len(), 250);
    for (node, (one, other)) in outcomes[0].iter().zip(&outcomes[1]).enumerate() {
        assert!(
            !(*one == Registered::New && *other == Registered::New),
            "node {node} is new at both"
        );
    }
    // Two proofs.
    let won: Vec<_> = thread::scope(|scope| {
        let races: Vec<_> = (0..2_u8)
            .map(|place| {
                let storage = &servers[usize::from(place)];
                scope.spawn(move || {
                    let proof = Arc::new(sample_proof(50 + place));
                    storage
                        .publish(0, Arc::clone(&proof))
                        .is_ok()
                        .then_some(proof)
                })
            })
            .collect();
        races.into_iter().map(|race| race.join().unwrap()).collect()
    });
    let won: Vec<_> = won.into_iter().flatten().collect();
    assert_eq!(won.len(), 1);
    for storage in &servers {
        assert_eq!(storage.proof(0).unwrap().as_ref(), Some(&*won[0]));
        let challenges = storage.pow_challenges().unwrap().unwrap();
        assert_eq!(challenges.current, won[0].proof.root);
    }
    // The same one again: its answer may have been lost.
    let again = servers[1].publish(0, Arc::clone(&won[0])).unwrap();
    assert_eq!(again.current, won[0].proof.root);
    // Two statements.
    let settle = |storage: &PostgresStorage, statement: u8| {
        let execution = poet_rounds::storage::Execution {
            statement: vec![statement; 32],
            subtree_height: poet_engine::SubtreeHeight::new(3).unwrap(),
        };
        storage.settle_round(0, &execution)
    };
    settle(&servers[0], 1).unwrap();
    settle(&servers[1], 1).unwrap();
    let error = settle(&servers[1], 2).unwrap_err().to_string();
    assert!(error.contains("ALARM"), "{error}");
}

#[test]
fn no_round_closes_before_its_time_by_the_databases_clock() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let storage = open(&server.database("poet"));
    let minute = Duration::from_secs(60);
    // Round 0 starts in 100 s and round 1 a minute later.
    let genesis = Timestamp::now() + Duration::from_secs(40);
    let schedule = Schedule::new(genesis, minute, minute, minute / 4).unwrap();
    let text = schedule.to_string();
    storage
        .claim_setting(Setting::Schedule, text.as_bytes())
        .unwrap();
    // A round that was never opened closes no earlier.
    let error = wait(storage.open_round(1)).unwrap_err().to_string();
    assert!(error.contains("round 0 does not close yet"), "{error}");
    wait(storage.open_round(0)).unwrap();
    let error = wait(storage.open_round(1)).unwrap_err().to_string();
    assert!(error.contains("round 0 does not close yet"), "{error}");
    let registered = wait(storage.register(0, member(1, 1), 9)).unwrap();
    assert_eq!(registered, Registered::New);
    wait(storage.probe()).unwrap();
    let offset = storage.clock_offset().unwrap().unsigned_abs();
    assert!(offset < minute, "{offset:?}");
    // When the time has come it does.
    let genesis = genesis - Duration::from_secs(99);
    let schedule = Schedule::new(genesis, minute, minute, minute / 4).unwrap();
    let text = schedule.to_string();
    storage
        .store_setting(Setting::Schedule, text.as_bytes())
        .unwrap();
    server.sql(
        "poet",
        "UPDATE poet.rounds SET starts = starts - '99 seconds'::interval",
    );
    assert_eq!(wait(storage.open_round(1)).unwrap(), 0);
    let registered = wait(storage.register(0, member(2, 1), 9)).unwrap();
    assert_eq!(registered, Registered::Closed);
}

#[test]
fn a_probe_writes_only_when_nothing_was_written_lately() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet").parse().unwrap();
    let clock = Arc::new(ManualClock::stopped(Timestamp::now()));
    let storage = PostgresStorage::open(&url, 100, clock.clone(), Arc::new(())).unwrap();
    let probe = || {
        wait(storage.probe()).unwrap();
        server.sql(
            "poet",
            "SELECT encode(value, 'hex') FROM poet.settings WHERE name = 'probe'",
        )
    };
    let first = probe();
    assert_eq!(probe(), first);
    clock.pass(Duration::from_secs(59));
    assert_eq!(probe(), first);
    clock.pass(Duration::from_secs(1));
    assert_ne!(probe(), first);
}

#[test]
fn what_was_acknowledged_survives_the_databases_end() {
    let Some(mut server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet");
    let storage = open(&url);
    wait(storage.open_round(0)).unwrap();
    let stop = AtomicBool::new(false);
    let acknowledged = thread::scope(|scope| {
        let load = scope.spawn(|| register_on(&storage, 0, || 0, &stop));
        let stop_load = StopLoad(&stop);
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(300));
            server.kill();
            // Its orphaned processes answer until they notice. Then operations fail at once.
            let start = Instant::now();
            while wait(storage.probe()).is_ok() {
                assert!(start.elapsed() < Duration::from_secs(30));
                thread::sleep(Duration::from_millis(20));
            }
            server.run();
            let start = Instant::now();
            while wait(storage.probe()).is_err() || storage.member_count(0).is_err() {
                assert!(start.elapsed() < PATIENCE);
                thread::sleep(Duration::from_millis(50));
            }
        }
        // Connections that break during a statement: it is repeated.
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(100));
            server.sql(
                "postgres",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'poet'",
            );
            wait(storage.probe()).unwrap();
        }
        drop(stop_load);
        load.join().unwrap()
    });
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    assert_all_there(&storage, acknowledged);
}

/// The answer to a registration comes after its way to the disk.
#[test]
fn what_is_acknowledged_is_durable() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    // Nothing else writes soon.
    server.sql("postgres", "ALTER SYSTEM SET wal_writer_delay = '10s'");
    server.sql("postgres", "SELECT pg_reload_conf()");
    let url = server.database("poet");
    let (one, other) = (open(&url), open(&url));
    wait(one.open_round(0)).unwrap();
    thread::sleep(Duration::from_secs(1));
    let durable = || {
        let all = "SELECT pg_current_wal_flush_lsn() = pg_current_wal_insert_lsn()";
        server.sql("poet", all) == "t"
    };
    let (mut new, mut known) = (0, 0);
    for number in 0..20 {
        let registered = wait(one.register(0, member(number, 1), 99)).unwrap();
        assert_eq!(registered, Registered::New);
        new += u32::from(durable());
        // That it is there is a promise, too.
        let registered = wait(other.register(0, member(number, 1), 99)).unwrap();
        assert_eq!(registered, Registered::Already);
        known += u32::from(durable());
    }
    // The database writes something of its own now and then.
    assert!(new > 10 && known > 10, "{new}, {known}");
}

/// A registration must not take longer in a round with many members.
#[test]
fn registering_reads_no_table_from_its_start_to_its_end() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    // Nothing else reads all of a table.
    server.sql("postgres", "ALTER SYSTEM SET autovacuum = off");
    server.sql("postgres", "SELECT pg_reload_conf()");
    let url = server.database("poet");
    let storage = open(&url);
    wait(async {
        storage.open_round(0).await.unwrap();
        // The database takes the table for one that is best read as a whole.
        let first = storage.register(0, member(0, 0), u64::MAX).await;
        assert_eq!(first.unwrap(), Registered::New);
        server.sql("poet", "VACUUM ANALYZE poet.registrations");
        // Many more statements than it takes to keep their plans. In each, some nodes are known.
        for number in 0..200 {
            let pending: Vec<_> = (0..20)
                .map(|i| {
                    let member = member(number * 10 + i, i as u8 % 2);
                    tokio::spawn(storage.register(0, member, u64::MAX))
                })
                .collect();
            for pending in pending {
                pending.await.unwrap().unwrap();
            }
        }
        storage.close().await.unwrap();
    });
    // It reports what it has read when it disconnects.
    drop(storage);
    let table = "FROM pg_stat_user_tables WHERE relname = 'registrations'";
    let start = Instant::now();
    while server.sql("poet", &format!("SELECT idx_scan > 0 {table}")) != "t" {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    let read = server.sql("poet", &format!("SELECT seq_tup_read {table}"));
    assert_eq!(read, "0");
}

#[test]
fn a_database_that_hangs_is_noticed_in_seconds() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let storage = open(&server.database("poet"));
    wait(storage.open_round(0)).unwrap();
    server.signal("STOP");
    let start = Instant::now();
    let error = wait(storage.register(0, member(1, 1), 9)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(30), "{error}");
    server.signal("CONT");
    let start = Instant::now();
    while wait(storage.register(0, member(1, 1), 9)).is_err() {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(storage.members(0).unwrap(), [Challenge([1; 32])]);
}

#[test]
fn what_cannot_be_used_is_named_and_nothing_is_written() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let refused = |url: &str, expected: &str| {
        let error = try_open(url).map(drop).unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
        assert!(!error.contains(PASSWORD), "{error}");
    };
    refused(
        "postgres://poet@127.0.0.1:1/poet",
        "cannot reach the database at 127.0.0.1:1",
    );
    refused(&server.url("poet"), "there is no database poet");
    let empty = server.database("poet");
    let port = server.port();
    let there = format!("postgres://poet@127.0.0.1:{port}/poet");
    // A password from a file, and none.
    let passfile = server.folder().join("pgpass");
    let write = |text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&passfile, text).unwrap();
        std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let with_file = format!("{there}?passfile={}", passfile.display());
    write("127.0.0.1:*:poet:poet:wrong\n");
    refused(
        &with_file,
        "refuses user poet: password authentication failed",
    );
    write("other:*:*:*:wrong\n");
    refused(&with_file, "refuses user poet: password missing");
    refused(
        &format!("{with_file}&sslmode=require"),
        "is not secure: server does not support TLS",
    );
    refused(
        &format!("{with_file}&sslmode=verify-full&sslrootcert=/nothing.pem"),
        "the file of certificates /nothing.pem (sslrootcert) cannot be used",
    );
    server.sql(
        "poet",
        "ALTER DATABASE poet SET default_transaction_read_only = on",
    );
    refused(&empty, "is read-only");
    server.sql(
        "postgres",
        "ALTER DATABASE poet RESET default_transaction_read_only",
    );
    server.sql("poet", "CREATE ROLE other LOGIN");
    let other = empty.replace("poet@", "other@");
    refused(&other, "user other may not make one");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'poet'";
    assert_eq!(server.sql("poet", schemas), "0");

    // With the right password, it is created; a role that may not create it can then use it.
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    write(&format!("127.0.0.1:{port}:poet:poet:{escaped}\n"));
    drop(open(&with_file));
    server.sql(
        "poet",
        "GRANT USAGE ON SCHEMA poet TO other;
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA poet TO other",
    );
    let storage = open(&other);
    wait(storage.open_round(0)).unwrap();
    let registered = wait(storage.register(0, member(1, 1), 9)).unwrap();
    assert_eq!(registered, Registered::New);
    storage.publish(0, Arc::new(sample_proof(1))).unwrap();

    let known = server.sql("poet", "SELECT version FROM poet.schema_version");
    server.sql("poet", "UPDATE poet.schema_version SET version = 99");
    refused(
        &empty,
        &format!("has schema 99, this version knows schema {known}:"),
    );
    // If another database has taken its place, the next connection notices.
    server.sql(
        "poet",
        &format!("UPDATE poet.schema_version SET version = {known}, database_id = 'x'"),
    );
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'poet'",
    );
    let error = wait(storage.probe()).unwrap_err().to_string();
    assert!(error.contains("another PoET's"), "{error}");
}

#[test]
fn tables_of_older_versions_are_migrated() {
    const MIGRATIONS: [&str; 3] = [
        include_str!("../../src/postgres/schema.sql"),
        include_str!("../../src/postgres/early_proofs.sql"),
        include_str!("../../src/postgres/shared_log.sql"),
    ];
    let Some(server) = PostgresServer::start() else {
        return;
    };
    for version in 1..=MIGRATIONS.len() {
        let name = format!("version_{version}");
        let url = server.database(&name);
        for migration in &MIGRATIONS[..version] {
            server.sql(&name, migration);
        }
        server.sql(
            &name,
            &format!(
                "INSERT INTO poet.schema_version VALUES (true, {version}, 'any');
                 INSERT INTO poet.rounds (round, members) VALUES (0, 1);
                 INSERT INTO poet.registrations
                 VALUES (0, decode('00000001' || repeat('07', 28), 'hex'), decode(repeat('02', 32), 'hex'))"
            ),
        );
        let storage = open(&url);
        let register = |member| wait(storage.register(0, member, 99)).unwrap();
        assert_eq!(register(member(1, 2)), Registered::Already);
        assert_eq!(register(member(1, 3)), Registered::Conflict);
        assert_eq!(register(member(2, 3)), Registered::New);
        storage.publish(0, Arc::new(sample_proof(1))).unwrap();
    }
}

/// Waits until dropped storages have disconnected.
fn await_no_connection(server: &PostgresServer) {
    let others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'poet-service'";
    let start = Instant::now();
    while server.sql("postgres", others) != "0" {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_certificate_is_verified_as_asked_for() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    drop(open(&server.database("poet")));
    let (authority, other) = server.use_tls();
    let passfile = server.folder().join("pgpass");
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    std::fs::write(&passfile, format!("*:*:*:*:{escaped}\n")).unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let url = |host: &str, query: &str| {
        let (port, file) = (server.port(), passfile.display());
        format!("postgres://poet@{host}:{port}/poet?passfile={file}&{query}")
    };
    let with = |mode: &str, roots: &std::path::Path| {
        format!("sslmode={mode}&sslrootcert={}", roots.display())
    };
    // Once the database has read its certificate.
    let start = Instant::now();
    while let Err(error) = try_open(&url("127.0.0.1", "sslmode=require")) {
        assert!(start.elapsed() < PATIENCE, "{error}");
        thread::sleep(Duration::from_millis(100));
    }
    let secure = |url: &str| {
        let storage = open(url);
        let connections = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
                           WHERE datname = 'poet' AND application_name = 'poet-service' AND ssl";
        assert_eq!(server.sql("postgres", connections), "3", "{url}");
        drop(storage);
        await_no_connection(&server);
    };
    await_no_connection(&server);
    secure(&url("127.0.0.1", "sslmode=prefer"));
    secure(&url("127.0.0.1", &with("verify-ca", &authority)));
    secure(&url("localhost", &with("verify-full", &authority)));
    for (url, expected) in [
        (
            url("127.0.0.1", &with("verify-full", &authority)),
            "is for another name",
        ),
        (
            url("localhost", &with("verify-full", &other)),
            "issued by none of the authorities",
        ),
        (
            url("localhost", &with("verify-ca", &other)),
            "issued by none of the authorities",
        ),
        (
            url("localhost", &with("require", &other)),
            "issued by none of the authorities",
        ),
    ] {
        let error = try_open(&url).map(drop).unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
    }
}
