//! The hashing thread has a dedicated core, on which no other thread runs.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{collections::BTreeMap, fs, path::Path};

use common::await_some;
use program::ServerProcess;

/// The cores on which this process may run, as the kernel writes them.
fn allowed_here() -> Vec<usize> {
    parse(&allowed("/proc/self/status".as_ref()).unwrap())
}

/// Returns where a thread may run; `None` if it has ended.
fn allowed(status: &Path) -> Option<String> {
    let status = fs::read_to_string(status).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    Some(line.trim().to_owned())
}

fn parse(list: &str) -> Vec<usize> {
    let ranges = list.split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().unwrap()..=last.parse().unwrap()
    });
    ranges.flatten().collect()
}

/// Returns the id of a server's hashing thread, while there is one.
fn hashing_thread(folder: &Path) -> Option<String> {
    let id = fs::read_to_string(folder.join("data/round.tid"));
    id.ok().filter(|id| !id.is_empty())
}

/// Returns where each thread of a server may run.
fn places(folder: &Path) -> BTreeMap<String, Vec<usize>> {
    let process = fs::read_to_string(folder.join("db/poet-service.lock")).unwrap();
    let tasks = Path::new("/proc").join(process).join("task");
    let ids = fs::read_dir(&tasks).unwrap().flatten();
    let ids = ids.map(|entry| entry.file_name().into_string().unwrap());
    ids.filter_map(|id| {
        let list = allowed(&tasks.join(&id).join("status"))?;
        Some((id, parse(&list)))
    })
    .collect()
}

/// Returns where each thread of a server may run while a round is worked on, and which one hashes.
fn threads(folder: &Path) -> (BTreeMap<String, Vec<usize>>, String) {
    let hashing = await_some("the hashing thread", || hashing_thread(folder));
    // The hashing thread writes its id once all threads are placed.
    (places(folder), hashing)
}

const ROUND: [&str; 2] = ["--epoch-duration=1h", "--phase-shift=300ms"];

#[test]
fn the_hashing_thread_has_a_core_and_all_others_keep_off_it() {
    let here = allowed_here();
    let last = here.last().unwrap().to_string();
    for (option, expected) in [("auto", None), (&*last, here.last())] {
        let folder = tempfile::tempdir().unwrap();
        let core = format!("--work-core={option}");
        let server = ServerProcess::start(folder.path(), &[&ROUND[..], &[&core]].concat());
        if here.len() < 2 {
            assert!(server.log().contains("shares the only core"));
            continue;
        }
        // So that threads for requests have been started, too.
        assert_eq!(server.client.get("/v1/info").status, 200);
        let (threads, hashing) = threads(folder.path());
        let [own] = threads[&hashing][..] else {
            panic!("{threads:?}: {hashing}: {}", server.log());
        };
        assert!(here.contains(&own) && expected.is_none_or(|core| *core == own));
        assert!(threads.len() > 3, "{threads:?}");
        for (id, places) in &threads {
            assert!(
                *id == hashing || (!places.is_empty() && !places.contains(&own)),
                "{id} is on core {own}: {threads:?}"
            );
        }
        let log = server.log();
        let said = format!("the hashing thread has a core of its own core={own} ");
        assert_eq!(log.matches(&said).count(), 1, "{log}");
    }
}

#[test]
fn between_rounds_all_threads_may_use_all_cores() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["--epoch-duration=4s", "--phase-shift=1s", "--cycle-gap=2s"];
    let server = ServerProcess::start(
        folder.path(),
        &[&schedule[..], &["--work-core=auto"]].concat(),
    );
    let here = allowed_here();
    for round in 0..2 {
        let (threads, hashing) = await_some("the work", || {
            let hashing = hashing_thread(folder.path())?;
            let places = places(folder.path());
            // Else it has ended meanwhile.
            (hashing_thread(folder.path())? == hashing).then_some((places, hashing))
        });
        let apart = threads
            .iter()
            .all(|(id, places)| *id == hashing || !places.contains(&threads[&hashing][0]));
        assert!(apart || here.len() < 2, "{threads:?}: {hashing}");
        server.client.await_proof(round);
        await_some("the cycle gap", || {
            let free = places(folder.path()).values().all(|places| *places == here);
            (free && hashing_thread(folder.path()).is_none()).then_some(())
        });
    }
}

/// Returns the names by which servers on this machine claim cores.
fn claims() -> usize {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let names = sockets.lines().filter_map(|line| line.rsplit_once('@'));
    names
        .filter(|(_, name)| name.starts_with("poet-service/work-core/"))
        .count()
}

#[test]
fn servers_started_together_take_different_cores_or_say_who_has_it() {
    let here = allowed_here();
    let before = claims();
    let folders: [_; 3] = std::array::from_fn(|_| tempfile::tempdir().unwrap());
    let options = [&ROUND[..], &["--work-core=auto"]].concat();
    let servers = std::thread::scope(|scope| {
        let start = |folder: &tempfile::TempDir| {
            let (path, options) = (folder.path().to_owned(), &options);
            scope.spawn(move || ServerProcess::start(&path, options))
        };
        let starting: Vec<_> = folders.iter().map(start).collect();
        let started = starting.into_iter().map(|server| server.join().unwrap());
        started.collect::<Vec<_>>()
    });
    let process = |folder: &tempfile::TempDir| {
        fs::read_to_string(folder.path().join("db/poet-service.lock")).unwrap()
    };
    let shared: Vec<bool> = servers
        .iter()
        .map(|server| server.log().contains("is also the work core of process "))
        .collect();
    // Servers that log no conflict have a core for themselves.
    let cores: Vec<usize> = folders
        .iter()
        .zip(&shared)
        .filter(|(_, shared)| !**shared && here.len() > 1)
        .map(|(folder, _)| {
            let (threads, hashing) = threads(folder.path());
            threads[&hashing][0]
        })
        .collect();
    let different: std::collections::BTreeSet<_> = cores.iter().collect();
    assert_eq!(different.len(), cores.len(), "{cores:?}");
    // Other servers on this machine may have claimed some of its cores.
    let alone = before == 0 && claims() <= 2 * here.len();
    if alone {
        let claimed = shared.iter().filter(|shared| !**shared).count();
        assert!(claimed >= 1, "nobody claimed a core");
    }
    if here.len() < 3 {
        // Some of them must share a core, and the message names a running server.
        let index = shared.iter().position(|shared| *shared).unwrap();
        let log = servers[index].log();
        let (_, rest) = log.split_once("is also the work core of process ").unwrap();
        let named = rest.split(':').next().unwrap();
        let others: Vec<String> = folders.iter().map(process).collect();
        assert!(!alone || others.iter().any(|id| id == named), "{named}");
        assert_ne!(named, others[index]);
    }
}

#[test]
fn a_core_that_is_not_there_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let options = [&ROUND[..], &["--work-core=1023", "--work-priority=off"]].concat();
    let server = ServerProcess::start(folder.path(), &options);
    let (threads, _) = threads(folder.path());
    let here = allowed_here();
    assert!(threads.values().all(|places| *places == here));
    let log = server.log();
    let warning = "--work-core=1023: the system does not let this process run there";
    assert!(log.contains(warning) || here.len() < 2, "{log}");
}

#[test]
fn no_core_is_taken_where_none_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let options = [&ROUND[..], &["--work-core=off"]].concat();
    let server = ServerProcess::start(folder.path(), &options);
    let (threads, _) = threads(folder.path());
    let here = allowed_here();
    assert!(threads.values().all(|places| *places == here));
    assert!(server.log().contains("--work-core=off"), "{}", server.log());
}

#[test]
fn a_raised_priority_is_the_hashing_threads_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = [&ROUND[..], &["--work-core=auto", "--work-priority=nice"]].concat();
    let server = ServerProcess::start(folder.path(), &options);
    let (threads, hashing) = threads(folder.path());
    let process = fs::read_to_string(folder.path().join("db/poet-service.lock")).unwrap();
    // If that is not permitted, or there is only one core, the server says so.
    let raised = server.log().contains("priority=nice");
    assert!(
        raised
            || server
                .log()
                .contains("--work-priority=nice is not permitted")
            || allowed_here().len() < 2,
        "{}",
        server.log()
    );
    for id in threads.keys() {
        // The 19th field. The second one, in parentheses, may contain spaces.
        let Ok(stat) = fs::read_to_string(format!("/proc/{process}/task/{id}/stat")) else {
            continue;
        };
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let nice: i32 = fields.split_whitespace().nth(16).unwrap().parse().unwrap();
        if *id == hashing && raised {
            assert_eq!(nice, -20);
        } else {
            assert!(nice > -20, "{id}: {nice}");
        }
    }
}

#[test]
fn what_can_wait_has_a_lower_priority() {
    let folder = tempfile::tempdir().unwrap();
    let options = [&ROUND[..], &["--audit=full"]].concat();
    let _server = ServerProcess::start(folder.path(), &options);
    threads(folder.path());
    let process = fs::read_to_string(folder.path().join("db/poet-service.lock")).unwrap();
    let tasks = Path::new("/proc").join(process.trim()).join("task");
    let niceness = |name: &str| {
        let task = fs::read_dir(&tasks).unwrap().flatten().find(|task| {
            let comm = fs::read_to_string(task.path().join("comm"));
            comm.is_ok_and(|comm| comm.trim() == name)
        });
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        // After the name, which is in brackets, this is the 17th.
        let (_, rest) = stat.rsplit_once(") ").unwrap();
        rest.split(' ').nth(16).unwrap().parse::<i32>().unwrap()
    };
    let here = niceness("hash");
    assert_eq!(niceness("audit"), 19);
    // It takes over if other programs leave the low-priority thread no CPU time.
    assert_eq!(niceness("audit-behind"), here);
    // Verifying strangers' signatures also leaves auditors and proofs their share.
    assert!(niceness("check") > here);
}
