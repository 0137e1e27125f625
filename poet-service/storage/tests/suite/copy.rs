//! Copies a database to one of the other kind, and back.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use poet_engine::{Proof, SubtreeHeight, membership};
use poet_proto::{messages::PublishedProof, schedule::Schedule};
use poet_rounds::{
    clock::SystemClock,
    storage::{Challenge, Execution, Member, PowChallenges, Registered, Removed, Setting, Storage},
};
use poet_storage::{Copied, Location, SqliteStorage, copy_database};
use rusqlite::Connection;

use crate::{
    Postgres, Sqlite,
    cases::{Database as _, member, wait},
    open,
    server::PostgresServer,
    try_open,
};

const HOUR: Duration = Duration::from_secs(3600);

fn file(path: &Path) -> Location {
    Location::File(path.to_owned())
}

fn url(text: &str) -> Location {
    Location::Url(Box::new(text.parse().unwrap()))
}

fn copy(from: &Location, to: &Location) -> Result<Copied, String> {
    copy_database(from, to, &mut |_, _| {}).map_err(|error| error.to_string())
}

fn execution(members: &[Challenge], height: u32) -> Execution {
    Execution {
        statement: membership::root(members).to_vec(),
        subtree_height: SubtreeHeight::new(height).unwrap(),
    }
}

fn proof(members: Vec<Challenge>, leaves: u64, root: u8) -> PublishedProof {
    PublishedProof {
        statement: membership::root(&members).to_vec(),
        members,
        odd_members: Vec::new(),
        leaves,
        proof: Proof {
            root: [root; 32],
            proven_leaves: vec![[root ^ 1; 32]; 150],
            proof_nodes: vec![[root ^ 2; 32]; 7],
        },
    }
}

/// Fills a storage as servers do, with everything possible: rounds whose registrations were
/// removed, with odd members, with proofs for longer cycle gaps, without members, one that is
/// worked on and one that is open.
fn fill(storage: &dyn Storage, key: u8) {
    storage
        .store_setting(Setting::PrivateKey, &[key; 64])
        .unwrap();
    let genesis: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let schedule = Schedule::new(genesis, HOUR, HOUR, HOUR / 4).unwrap();
    let text = schedule.to_string();
    storage
        .store_setting(Setting::Schedule, text.as_bytes())
        .unwrap();
    storage
        .store_setting(Setting::TickLeaves, &7_u64.to_be_bytes())
        .unwrap();
    let challenges = PowChallenges {
        current: [8; 32],
        previous: None,
    };
    storage.store_pow_challenges(&challenges).unwrap();
    for (round, members) in [(0, 3), (1, 2), (2, 0), (3, 21_000), (4, 2)] {
        wait(async {
            storage.open_round(round).await.unwrap();
            // Not in the order of the ids.
            let pending: Vec<_> = (0..members)
                .rev()
                .map(|node| tokio::spawn(storage.register(round, member(node, 9), u64::MAX)))
                .collect();
            for pending in pending {
                assert_eq!(pending.await.unwrap().unwrap(), Registered::New);
            }
        });
    }
    for (round, root) in [(0, 10), (1, 20), (2, 30)] {
        let members = storage.members(round).unwrap();
        storage
            .settle_round(round, &execution(&members, 5))
            .unwrap();
        if round < 2 {
            let early = proof(members.clone(), 1 << 33, root + 1);
            storage
                .store_early_proof(round, HOUR, Arc::new(early))
                .unwrap();
        }
        let mut published = match members.is_empty() {
            true => PublishedProof::empty(Vec::new(), Vec::new()),
            false => proof(members, 1 << 40, root),
        };
        if round == 1 {
            published.odd_members = vec![(1, vec![2; 40])];
        }
        storage.publish(round, Arc::new(published)).unwrap();
    }
    let removed = storage.remove_registrations(1, 2).unwrap();
    assert_eq!(removed, Removed::Registrations { round: 0, count: 2 });
    let members = storage.members(3).unwrap();
    storage.settle_round(3, &execution(&members, 12)).unwrap();
    for (gap, root) in [(HOUR, 50), (2 * HOUR, 60)] {
        let early = Arc::new(proof(members.clone(), 1 << 20, root));
        storage.store_early_proof(3, gap, early).unwrap();
    }
}

/// All tables; columns of only one kind of database follow from the rest.
const TABLES: [(&str, &str); 6] = [
    ("settings WHERE name <> 'probe'", "name, VALUE"),
    ("rounds", "round, STATEMENT, subtree_height"),
    ("registrations", "round, NODE_ID, CHALLENGE"),
    (
        "proofs",
        "round, STATEMENT, leaves, ROOT, PROVEN_LEAVES, PROOF_NODES, MEMBERS, checksum",
    ),
    ("odd_members", "round, position, CHALLENGE"),
    (
        "early_proofs",
        "round, cycle_gap, leaves, ROOT, PROVEN_LEAVES, PROOF_NODES, checksum",
    ),
];

/// Formats rows of a table as text; the names of binary columns are in capitals.
fn rows(columns: &str, hex: &str) -> String {
    let column = |name: &str| match name.chars().next().is_some_and(char::is_uppercase) {
        true => hex.replace('$', &name.to_lowercase()),
        false => format!("coalesce(CAST({name} AS text), '')"),
    };
    let columns: Vec<_> = columns.split(", ").map(column).collect();
    // With an end marker, so that no reader trims the spaces.
    columns.join(" || ' ' || ") + " || '.'"
}

fn dump_file(path: &Path) -> BTreeMap<&'static str, Vec<String>> {
    let connection = Connection::open(path).unwrap();
    let read = |(table, columns)| {
        let row = rows(columns, "coalesce(hex($), '')");
        let mut query = connection
            .prepare(&format!("SELECT {row} FROM {table}"))
            .unwrap();
        let rows = query.query_map([], |row| row.get(0)).unwrap();
        let mut rows: Vec<String> = rows.map(Result::unwrap).collect();
        rows.sort();
        (table, rows)
    };
    TABLES.into_iter().map(read).collect()
}

fn dump_url(server: &PostgresServer, name: &str) -> BTreeMap<&'static str, Vec<String>> {
    let read = |(table, columns)| {
        let row = rows(columns, "coalesce(upper(encode($, 'hex')), '')");
        let text = server.sql(name, &format!("SELECT {row} FROM poet.{table}"));
        let mut rows: Vec<_> = text.lines().map(str::to_owned).collect();
        rows.sort();
        (table, rows)
    };
    TABLES.into_iter().map(read).collect()
}

/// The columns that only PostgreSQL has for rounds.
fn more_of_rounds(server: &PostgresServer, name: &str) -> String {
    server.sql(
        name,
        "SELECT round, starts, closed, members FROM poet.rounds ORDER BY round",
    )
}

/// Returns a filled embedded database.
fn filled(path: PathBuf, key: u8) -> PathBuf {
    let storage = Sqlite(path.clone()).open();
    fill(&*storage, key);
    wait(storage.close()).unwrap();
    path
}

#[test]
fn all_is_copied_there_and_back() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = filled(folder.path().join("first"), 5);
    let before = dump_file(&first);
    for (table, rows) in &before {
        assert!(!rows.is_empty(), "{table}");
    }
    let second = server.database("second");
    let third = folder.path().join("third");
    let fourth = server.database("fourth");
    let expected = Copied {
        rounds: 5,
        already: 0,
        registrations: 21_000 + 1 + 2 + 2,
        proofs: 3 + 4,
    };
    for (from, to) in [
        (file(&first), url(&second)),
        (url(&second), file(&third)),
        (file(&third), url(&fourth)),
    ] {
        assert_eq!(copy(&from, &to), Ok(expected));
        // A second copy has nothing to do.
        let again = Copied {
            already: 5,
            ..expected
        };
        assert_eq!(copy(&from, &to), Ok(again));
    }
    for found in [
        dump_url(&server, "second"),
        dump_file(&third),
        dump_url(&server, "fourth"),
    ] {
        for (table, rows) in &before {
            assert!(found[table] == *rows, "{table}");
        }
    }
    // As servers fill one.
    let native = server.database("native");
    fill(&*Postgres(native).open(), 5);
    assert_eq!(
        more_of_rounds(&server, "second"),
        more_of_rounds(&server, "native")
    );
    assert_eq!(
        more_of_rounds(&server, "fourth"),
        more_of_rounds(&server, "native")
    );
    // Both can be used: the open round has its members.
    for storage in [Sqlite(third).open(), Postgres(fourth).open()] {
        assert_eq!(wait(storage.open_round(4)).unwrap(), 2);
        let register = |member: Member| wait(storage.register(4, member, 9)).unwrap();
        assert_eq!(register(member(0, 9)), Registered::Already);
        assert_eq!(register(member(0, 8)), Registered::Conflict);
        assert_eq!(register(member(7, 8)), Registered::New);
    }
}

#[test]
fn an_interrupted_copy_goes_on_and_nothing_else_starts_on_it() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = filled(folder.path().join("first"), 5);
    let other = filled(folder.path().join("other"), 6);
    let target = server.database("target");
    drop(open(&target));
    // The copy fails at the last of its rounds.
    server.sql(
        "target",
        "ALTER TABLE poet.rounds ADD CONSTRAINT no CHECK (round < 4)",
    );
    copy(&file(&first), &url(&target)).unwrap_err();
    assert_eq!(
        server.sql("target", "SELECT count(*) FROM poet.rounds"),
        "4"
    );
    server.sql("target", "ALTER TABLE poet.rounds DROP CONSTRAINT no");
    let error = try_open(&target).map(drop).unwrap_err();
    assert!(error.contains("unfinished copy"), "{error}");
    await_leaving(&server);
    let error = copy(&file(&other), &url(&target)).unwrap_err();
    assert!(
        error.contains("an unfinished copy of another server"),
        "{error}"
    );
    let onward = folder.path().join("onward");
    let error = copy(&url(&target), &file(&onward)).unwrap_err();
    assert!(error.contains("is an unfinished copy"), "{error}");
    // What is there is compared, not trusted.
    server.sql(
        "target",
        "DELETE FROM poet.registrations WHERE round = 1; DELETE FROM poet.early_proofs WHERE round = 3;
         UPDATE poet.proofs SET leaves = leaves + 1 WHERE round = 0;
         INSERT INTO poet.rounds (round) VALUES (77)",
    );
    let copied = copy(&file(&first), &url(&target)).unwrap();
    assert_eq!((copied.rounds, copied.already), (5, 1));
    assert!(dump_url(&server, "target") == dump_file(&first));
    drop(open(&target));
    await_leaving(&server);

    // In the other direction, it has another name until it is complete.
    server.sql(
        "target",
        "UPDATE poet.early_proofs SET leaves = leaves + 1 WHERE round = 3",
    );
    let back = folder.path().join("back");
    let error = copy(&url(&target), &file(&back)).unwrap_err();
    assert!(error.contains("round 3 has changed"), "{error}");
    assert!(!back.exists());
    server.sql(
        "target",
        "UPDATE poet.early_proofs SET leaves = leaves - 1 WHERE round = 3",
    );
    let copied = copy(&url(&target), &file(&back)).unwrap();
    assert_eq!((copied.rounds, copied.already), (5, 3));
    assert!(dump_file(&back) == dump_file(&first));
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("unfinished"))
        .collect();
    assert_eq!(left, [""; 0]);
}

/// Waits until dropped servers have disconnected.
fn await_leaving(server: &PostgresServer) {
    let others = "SELECT count(*) FROM pg_stat_activity
                  WHERE starts_with(application_name, 'poet-service')";
    let start = Instant::now();
    while server.sql("postgres", others) != "0" {
        assert!(start.elapsed() < Duration::from_secs(120));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_cannot_be_copied_is_named_and_nothing_is_written() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let first = filled(path("first"), 5);
    let other = filled(path("other"), 6);
    let target = server.database("target");
    let refused = |from: &Location, to: &Location, expected: &str| {
        let error = copy(from, to).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    // Sources.
    drop(Sqlite(path("keyless")).open());
    refused(
        &file(&path("keyless")),
        &url(&target),
        "holds no server's key",
    );
    refused(
        &file(&path("none")),
        &url(&target),
        "cannot open the database",
    );
    refused(
        &url(&server.url("none")),
        &file(&path("to")),
        "there is no database none",
    );
    let empty = server.database("empty");
    refused(&url(&empty), &file(&path("to")), "has schema 0");
    let old = filled(path("old"), 5);
    let connection = Connection::open(&old).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    refused(&file(&old), &url(&target), "has schema 99");
    let damaged = filled(path("damaged"), 5);
    let connection = Connection::open(&damaged).unwrap();
    connection
        .execute("UPDATE proofs SET leaves = leaves + 1 WHERE round = 0", [])
        .unwrap();
    drop(connection);
    let elsewhere = server.database("elsewhere");
    refused(&file(&damaged), &url(&elsewhere), "round 0 has changed");
    let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname = 'poet'";
    assert_eq!(server.sql("empty", schemas), "0");
    assert_eq!(server.sql("target", schemas), "0");

    // Targets.
    copy(&file(&first), &url(&target)).unwrap();
    let before = dump_url(&server, "target");
    refused(&file(&other), &url(&target), "is not empty");
    refused(&url(&target), &file(&other), "is not empty");
    refused(&url(&target), &file(&old), "has schema 99");
    let stranger = server.database("stranger");
    let storage = open(&stranger);
    wait(storage.open_round(3)).unwrap();
    drop(storage);
    await_leaving(&server);
    refused(
        &file(&first),
        &url(&stranger),
        "it has settings or rounds, but no key",
    );
    std::fs::write(path("file"), "").unwrap();
    refused(&url(&target), &file(&path("file")), "a file without tables");
    server.sql("stranger", "UPDATE poet.schema_version SET version = 99");
    refused(&file(&first), &url(&stranger), "has schema 99");
    assert!(before == dump_url(&server, "target"));

    // A server uses one of them, whatever name it gives its connections.
    let running = open(&format!("{target}&application_name=east"));
    refused(
        &url(&target),
        &file(&path("to")),
        "is in use by a poet-service",
    );
    let fresh = server.database("fresh");
    let empty = open(&fresh);
    refused(&file(&first), &url(&fresh), "is in use by a poet-service");
    drop((running, empty));
    assert!(!path("to").exists());
    let written = "SELECT count(*) FROM poet.settings";
    assert_eq!(server.sql("fresh", written), "0");
    // Once the servers have ended, it is copied.
    copy(&file(&first), &url(&fresh)).unwrap();
    // A damaged log.
    let storage =
        SqliteStorage::open(&path("crashed"), 100, Arc::new(SystemClock), Arc::new(())).unwrap();
    fill(&storage, 7);
    for name in ["crashed", "crashed-wal"] {
        std::fs::copy(path(name), path(&name.replace("crashed", "broken"))).unwrap();
    }
    drop(storage);
    let log = path("broken-wal");
    let mut bytes = std::fs::read(&log).unwrap();
    let place = bytes.len() / 2;
    bytes[place] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    refused(&file(&path("broken")), &file(&path("to")), "is damaged");
}
