//! The log of a round that servers share.

use std::{sync::Arc, thread, time::Duration};

use poet_engine::Node;
use poet_rounds::storage::{
    Storage as _,
    shared_log::{Appended, ClusterServer, SharedLog},
};

use crate::{
    cases::{sample_proof, wait},
    open,
    server::{PASSWORD, PostgresServer},
};

/// Returns the entries `first..end` of the only right log.
fn entries(first: u64, end: u64) -> Vec<Node> {
    let entry = |number: u64| {
        let mut entry = [3; 32];
        entry[..8].copy_from_slice(&number.to_be_bytes());
        entry
    };
    (first..end).map(entry).collect()
}

fn standing(name: &str, works: bool, entries: u64) -> ClusterServer {
    ClusterServer {
        name: name.to_owned(),
        seen: Duration::ZERO,
        works,
        standby: false,
        entries,
        leaves_per_second: 1.5,
        leaves: None,
    }
}

#[test]
fn a_log_only_grows_by_what_fits() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet");
    let storages = [open(&url), open(&url)];
    wait(storages[0].open_round(7)).unwrap();
    let [one, other] = storages
        .each_ref()
        .map(|storage| storage.shared_log().unwrap());

    let empty = one.look(7, None).unwrap();
    assert_eq!(
        (empty.entries, empty.worker, empty.servers),
        (0, None, vec![])
    );
    let append = |log: &Arc<dyn SharedLog>, name, first, end| {
        log.append(7, name, first, &entries(first, end)).unwrap()
    };
    assert_eq!(append(&one, "one", 0, 5), Appended::Done(5));
    // The answer was lost; and another server has some of them, and more.
    assert_eq!(append(&one, "one", 0, 5), Appended::Done(5));
    assert_eq!(append(&other, "other", 3, 9), Appended::Done(9));
    assert_eq!(append(&one, "one", 4, 6), Appended::Done(9));
    assert_eq!(append(&one, "one", 11, 12), Appended::Gap(9));
    let mut wrong = entries(2, 12);
    wrong[4][31] ^= 1;
    assert_eq!(
        one.append(7, "one", 2, &wrong).unwrap(),
        Appended::Differs(6)
    );
    for (first, count) in [(0, 9), (0, 100), (4, 3), (5, 1), (8, 1), (9, 4), (20, 4)] {
        let expected = entries(first.min(9), (first + count).min(9));
        assert_eq!(other.read(7, first, count).unwrap(), expected, "{first}");
    }

    // Both report their state.
    one.look(7, Some(&standing("one", false, 6))).unwrap();
    let seen = other.look(7, Some(&standing("other", true, 9))).unwrap();
    assert_eq!((seen.entries, seen.worker.as_deref()), (9, Some("other")));
    assert!(!seen.published);
    let shown: Vec<_> = seen
        .servers
        .iter()
        .map(|server| (&*server.name, server.works, server.entries))
        .collect();
    assert_eq!(shown, [("one", false, 6), ("other", true, 9)]);
    let quiet = one.look(7, None).unwrap().quiet;
    thread::sleep(Duration::from_millis(50));
    assert!(one.look(7, None).unwrap().quiet >= quiet + Duration::from_millis(50));
    let mut at_end = standing("other", true, 9);
    at_end.leaves = Some(77);
    other.look(7, Some(&at_end)).unwrap();
    assert_eq!(one.look(7, None).unwrap().servers[1].leaves, Some(77));

    // A wrong end is replaced once, by the server that has seen it.
    let entry = |number: u64| entries(number, number + 1)[0];
    one.replace(7, "one", 4, &[8; 32], &[[9; 32]]).unwrap();
    assert_eq!(one.read(7, 0, 99).unwrap(), entries(0, 9));
    one.replace(7, "one", 4, &entry(4), &[[9; 32], [8; 32]])
        .unwrap();
    one.replace(7, "one", 4, &entry(4), &[[7; 32]]).unwrap();
    let replaced = [entries(0, 4), vec![[9; 32], [8; 32]]].concat();
    assert_eq!(one.read(7, 0, 99).unwrap(), replaced);
    assert_eq!(append(&other, "other", 8, 9), Appended::Gap(6));
    assert_eq!(append(&other, "other", 5, 9), Appended::Differs(5));
    one.replace(7, "one", 4, &[9; 32], &entries(4, 5)).unwrap();
    assert_eq!(append(&other, "other", 4, 9), Appended::Done(9));
    assert_eq!(one.read(7, 0, 99).unwrap(), entries(0, 9));

    // It is dropped when the proof is stored, and does not come back.
    let tables =
        "SELECT count(*) FROM pg_tables WHERE schemaname = 'poet' AND tablename LIKE 'log\\_%'";
    assert_eq!(server.sql("poet", tables), "1");
    storages[0].publish(7, Arc::new(sample_proof(1))).unwrap();
    assert_eq!(server.sql("poet", tables), "0");
    assert_eq!(append(&other, "other", 9, 12), Appended::Published);
    assert_eq!(append(&other, "other", 0, 12), Appended::Published);
    assert!(
        other
            .look(7, Some(&standing("other", true, 9)))
            .unwrap()
            .published
    );
    assert_eq!(server.sql("poet", tables), "0");
    other.read(7, 0, 1).unwrap_err();
}

#[test]
fn servers_that_hand_in_at_once_make_one_log() {
    let Some(server) = PostgresServer::start() else {
        return;
    };
    let url = server.database("poet");
    drop(open(&url));
    // As a role that may not create tables.
    server.sql(
        "poet",
        &format!(
            "CREATE ROLE runs LOGIN PASSWORD '{PASSWORD}'; GRANT USAGE ON SCHEMA poet TO runs;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA poet TO runs"
        ),
    );
    let url = url.replace("poet@", "runs@");
    let storages = [open(&url), open(&url), open(&url)];
    wait(storages[0].open_round(0)).unwrap();
    thread::scope(|scope| {
        for (place, storage) in storages.iter().enumerate() {
            scope.spawn(move || {
                let log = storage.shared_log().unwrap();
                let name = format!("server {place}");
                // Pieces of different lengths, each starting with the last entry of the one before.
                let mut first = 0;
                for step in (1..40).map(|step| step * (place as u64 + 2)) {
                    let end = first + step;
                    let appended = log.append(0, &name, first, &entries(first, end));
                    assert!(matches!(appended.unwrap(), Appended::Done(there) if there >= end));
                    log.look(0, Some(&standing(&name, true, end))).unwrap();
                    first = end - 1;
                }
            });
        }
    });
    let log = storages[0].shared_log().unwrap();
    let there = log.look(0, None).unwrap();
    assert_eq!(log.read(0, 0, 100_000).unwrap(), entries(0, there.entries));
    assert_eq!(there.servers.len(), 3);
    let proof = Arc::new(sample_proof(1));
    storages[1].publish(0, proof).unwrap();
    assert!(log.look(0, None).unwrap().published);
}
