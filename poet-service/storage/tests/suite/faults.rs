//! A database behind a hanging network, one that fails over to its replica, and a full one.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task, thread,
    time::{Duration, Instant},
};

use poet_conformance::skip;
use poet_rounds::{
    clock::SystemClock,
    counters::{Counters, Published},
    storage::{Member, Registered, Setting, Storage},
};
use poet_storage::PostgresStorage;

use crate::{
    cases::{member, wait},
    open,
    server::{PASSWORD, PostgresServer, programs},
    wire::Wire,
};

/// Much longer than anything takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long an operation may take before it fails, whatever the database does: some timeouts of 5
/// s, on a busy machine.
const BOUND: Duration = Duration::from_secs(40);

fn passfile(folder: &Path) -> String {
    let file = folder.join("pgpass");
    let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
    fs::write(&file, format!("*:*:*:*:{escaped}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file.display().to_string()
}

fn try_register(storage: &PostgresStorage, number: u32) -> Option<Member> {
    let start = Instant::now();
    let member = member(number, 5);
    let registered = wait(storage.register(0, member, u64::MAX));
    assert!(start.elapsed() < BOUND, "{registered:?}");
    match registered {
        // The answer to an earlier attempt may have been lost.
        Ok(Registered::New | Registered::Already) => Some(member),
        Ok(other) => panic!("{other:?}"),
        Err(_) => None,
    }
}

/// Registers until it succeeds again.
fn await_register(storage: &PostgresStorage, number: u32) -> Member {
    let start = Instant::now();
    loop {
        if let Some(member) = try_register(storage, number) {
            return member;
        }
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_connection_that_hangs_is_noticed_in_seconds() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    server.database("poet");
    let wire = Wire::to(server.port());
    let (port, file) = (wire.port(), passfile(server.folder()));
    let storage = open(&format!(
        "postgres://poet@127.0.0.1:{port}/poet?passfile={file}"
    ));
    wait(storage.open_round(0)).unwrap();
    let mut acknowledged = vec![try_register(&storage, 0).unwrap()];
    wire.cut();
    assert_eq!(try_register(&storage, 1), None);
    let start = Instant::now();
    storage.setting(Setting::Schedule).unwrap_err();
    wait(storage.probe()).unwrap_err();
    assert!(start.elapsed() < 2 * BOUND);
    // Each attempt ends, even if reconnecting hangs.
    assert_eq!(try_register(&storage, 2), None);
    wire.mend();
    acknowledged.push(await_register(&storage, 3));
    let stored = storage.registrations(0).unwrap();
    assert!(acknowledged.iter().all(|member| stored.contains(member)));
}

/// Counters that panic once the flag is set.
struct Panics(AtomicBool);

impl Counters for Panics {
    fn registration_with_certificate(&self, _valid: bool) {}

    fn registration_with_pow(&self, _valid: bool) {}

    fn batch_written(&self, _took: Duration) {
        assert!(!self.0.load(Relaxed), "on purpose");
    }

    fn closed(&self, _round: u64, _members: u64) {}

    fn published(&self, _proof: &Published) {}
}

/// Whatever ends its thread, all callers are notified, and none waits for ever.
#[test]
fn a_writer_that_ends_is_noticed() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet").parse().unwrap();
    let counters = Arc::new(Panics(AtomicBool::new(false)));
    let told = Arc::clone(&counters);
    let storage = PostgresStorage::open(&url, 100, Arc::new(SystemClock), told).unwrap();
    wait(storage.open_round(0)).unwrap();
    let acknowledged = try_register(&storage, 1).unwrap();
    let mut ended = storage.ended();
    let mut looked = task::Context::from_waker(task::Waker::noop());
    assert!(ended.as_mut().poll(&mut looked).is_pending());
    counters.0.store(true, Relaxed);
    // It is stored, but the caller gets no answer.
    assert_eq!(try_register(&storage, 2), None);
    wait(ended);
    assert_eq!(try_register(&storage, 3), None);
    wait(storage.probe()).unwrap_err();
    wait(storage.open_round(1)).unwrap_err();
    drop(storage);
    let storage = open(&server.url("poet"));
    assert!(storage.registrations(0).unwrap().contains(&acknowledged));
}

#[test]
fn a_failover_to_a_synchronous_replica_loses_nothing() {
    let Some(mut primary) = PostgresServer::start() else {
        return;
    };
    primary.database("poet");
    let replica = primary.replica();
    primary.sql(
        "postgres",
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
    );
    primary.sql("postgres", "SELECT pg_reload_conf()");
    let synchronous = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
    let start = Instant::now();
    while primary.sql("postgres", synchronous) != "1" {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
    let file = passfile(primary.folder());
    // The replica comes first: it accepts no writes, and is skipped.
    let storage = open(&format!(
        "postgres://poet@127.0.0.1:{},127.0.0.1:{}/poet?passfile={file}",
        replica.port(),
        primary.port()
    ));
    wait(storage.open_round(0)).unwrap();
    let mut acknowledged: Vec<_> = (0..200)
        .filter_map(|number| try_register(&storage, number))
        .collect();
    assert_eq!(acknowledged.len(), 200);
    primary.kill();
    assert_eq!(try_register(&storage, 300), None);
    assert_eq!(replica.sql("postgres", "SELECT pg_promote()"), "t");
    acknowledged.push(await_register(&storage, 301));
    wait(storage.probe()).unwrap();
    let start = Instant::now();
    let stored = loop {
        match storage.registrations(0) {
            Ok(stored) => break stored,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    };
    assert!(acknowledged.iter().all(|member| stored.contains(member)));
    assert_eq!(storage.member_count(0).unwrap(), stored.len() as u64);
}

#[test]
fn what_a_lagging_replica_has_lost_is_handed_in_again() {
    let Some(mut primary) = PostgresServer::start() else {
        return;
    };
    drop(open(&primary.database("poet")));
    let mut replica = primary.replica();
    let file = passfile(primary.folder());
    let url = format!(
        "postgres://poet@127.0.0.1:{},127.0.0.1:{}/poet?passfile={file}",
        primary.port(),
        replica.port()
    );
    let (storage, other) = (open(&url), open(&url));
    let register = |storage: &PostgresStorage, numbers: std::ops::Range<u32>| -> Vec<Member> {
        let registered = numbers.map(|number| try_register(storage, number).unwrap());
        registered.collect()
    };
    wait(storage.open_round(0)).unwrap();
    wait(other.open_round(0)).unwrap();
    let mut acknowledged = register(&storage, 0..20);
    let start = Instant::now();
    while replica.sql("poet", "SELECT count(*) FROM poet.registrations") != "20" {
        assert!(start.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
    // It receives no more.
    replica.kill();
    acknowledged.extend(register(&storage, 20..150));
    acknowledged.extend(register(&other, 150..200));
    primary.kill();
    replica.run();
    assert_eq!(replica.sql("postgres", "SELECT pg_promote()"), "t");
    // Whatever comes first triggers it: here a registration, and there the close of the round.
    acknowledged.push(await_register(&storage, 300));
    let start = Instant::now();
    while let Err(error) = wait(other.open_round(1)) {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
    let stored = other.registrations(0).unwrap();
    assert_eq!(stored.len(), acknowledged.len());
    assert!(acknowledged.iter().all(|member| stored.contains(member)));
    assert_eq!(other.member_count(0).unwrap(), stored.len() as u64);
}

#[test]
fn a_round_that_a_lagging_replica_does_not_know_is_opened_again() {
    let Some(mut primary) = PostgresServer::start() else {
        return;
    };
    drop(open(&primary.database("poet")));
    let mut replica = primary.replica();
    let file = passfile(primary.folder());
    let storage = open(&format!(
        "postgres://poet@127.0.0.1:{},127.0.0.1:{}/poet?passfile={file}",
        primary.port(),
        replica.port()
    ));
    replica.kill();
    wait(storage.open_round(0)).unwrap();
    let member = try_register(&storage, 1).unwrap();
    primary.kill();
    replica.run();
    assert_eq!(replica.sql("postgres", "SELECT pg_promote()"), "t");
    let start = Instant::now();
    while let Err(error) = wait(storage.probe()) {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
    assert_eq!(storage.registrations(0).unwrap(), [member]);
    assert_eq!(
        await_register(&storage, 2).node_id,
        crate::cases::member(2, 5).node_id
    );
}

/// A small file system, which is unmounted when this is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    /// `None`, with a message, if no file system can be mounted.
    fn mount(folder: &Path, megabytes: u32) -> Option<Self> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "none"])
            .arg(folder)
            .output();
        let reason = match mount {
            Ok(mount) if mount.status.success() => return Some(Self(folder.to_owned())),
            Ok(mount) => String::from_utf8_lossy(&mount.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip(format_args!("no file system can be mounted here: {reason}"));
        None
    }

    /// Uses up all the space that is left.
    fn fill(&self) {
        let filler = fs::File::create(self.0.join("filler"));
        let mut filler = filler.unwrap();
        while filler.write_all(&[1; 1 << 13]).is_ok() {}
        while filler.write_all(&[1; 512]).is_ok() {}
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A failure here cannot be handled.
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn while_the_databases_disk_is_full_nothing_is_promised_and_nothing_lost() {
    if PostgresServer::start().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 160) else {
        return;
    };
    let mut server = PostgresServer::start_in(programs().unwrap(), folder);
    let storage = open(&server.database("poet"));
    wait(storage.open_round(0)).unwrap();
    let mut acknowledged: Vec<_> = (0..50)
        .filter_map(|number| try_register(&storage, number))
        .collect();
    assert_eq!(acknowledged.len(), 50);
    disk.fill();
    // The existing files still have some room. Many registrations at once use it up.
    let mut number = 100;
    let start = Instant::now();
    let mut failed = false;
    while !failed {
        assert!(start.elapsed() < PATIENCE);
        let outcomes = wait(async {
            let pending: Vec<_> = (0..2000)
                .map(|_| {
                    number += 1;
                    let member = member(number, 5);
                    (member, tokio::spawn(storage.register(0, member, u64::MAX)))
                })
                .collect();
            let mut outcomes = Vec::new();
            for (member, pending) in pending {
                outcomes.push((member, pending.await.unwrap()));
            }
            outcomes
        });
        for (member, outcome) in outcomes {
            match outcome {
                Ok(Registered::New | Registered::Already) => acknowledged.push(member),
                Ok(other) => panic!("{other:?}"),
                Err(_) => failed = true,
            }
        }
    }
    disk.free();
    // It may have ended by itself, and is then restarted, as by a service manager.
    server.kill();
    server.run();
    acknowledged.push(await_register(&storage, 50));
    let stored: std::collections::BTreeSet<_> = storage
        .registrations(0)
        .unwrap()
        .into_iter()
        .map(|member| member.node_id)
        .collect();
    assert!(
        acknowledged
            .iter()
            .all(|member| stored.contains(&member.node_id))
    );
    drop(storage);
    drop(server);
    drop(disk);
}
