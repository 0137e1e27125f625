//! Tests of the database and of what may happen to its files.

use std::{fs, future::Future};

use jiff::Timestamp;
use poet_engine::{Proof, SubtreeHeight};
use poet_rounds::clock::{ManualClock, SystemClock};

use super::{
    rows::{checksum, restored},
    schema::KEPT_LOG_BYTES,
    writer::Undo,
    *,
};

fn member(node: u8, challenge: u8) -> Member {
    Member {
        node_id: NodeId([node; 32]),
        challenge: Challenge([challenge; 32]),
    }
}

fn challenges(of: &[u8]) -> Vec<Challenge> {
    of.iter().map(|byte| Challenge([*byte; 32])).collect()
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn open(folder: &tempfile::TempDir) -> SqliteStorage {
    SqliteStorage::open(
        &folder.path().join("poet.sqlite"),
        100,
        Arc::new(SystemClock),
        Arc::new(()),
    )
    .unwrap()
}

fn sample_proof() -> PublishedProof {
    PublishedProof {
        statement: vec![9; 32],
        members: challenges(&[1, 2]),
        odd_members: vec![(1, vec![2; 40])],
        leaves: 1 << 40,
        proof: Proof {
            root: [3; 32],
            proven_leaves: vec![[4; 32]; 150],
            proof_nodes: vec![[5; 32]; 7],
        },
    }
}

#[test]
fn one_bit_that_has_changed_is_known() {
    let stored = member(3, 9);
    let sum = checksum(5, 7, &stored);
    for bit in 0..512 {
        let mut changed = stored;
        let Member { node_id, challenge } = &mut changed;
        [&mut node_id.0, &mut challenge.0][bit / 256][bit / 8 % 32] ^= 1 << (bit % 8);
        assert_ne!(checksum(5, 7, &changed), sum);
        assert_eq!(restored(5, 7, &changed, sum), Some(stored));
    }
    for bit in 0..32 {
        assert_eq!(restored(5, 7, &stored, sum ^ 1 << bit), Some(stored));
    }
    assert_eq!(restored(5, 7, &member(4, 11), sum), None);
}

#[test]
fn a_rounds_life_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder);
    assert_eq!(storage.first_unsettled_round(7).unwrap(), 7);
    wait(storage.open_round(7)).unwrap();
    assert_eq!(
        storage.unfinished_rounds().unwrap(),
        [UnfinishedRound {
            round: 7,
            execution: None
        }]
    );
    let execution = Execution {
        statement: Vec::new(),
        subtree_height: SubtreeHeight::new(12).unwrap(),
    };
    storage.settle_round(7, &execution).unwrap();
    for (from, first) in [(0, 0), (6, 6), (7, 8), (8, 8)] {
        assert_eq!(storage.first_unsettled_round(from).unwrap(), first);
    }
    assert_eq!(
        storage.unfinished_rounds().unwrap(),
        [UnfinishedRound {
            round: 7,
            execution: Some(execution)
        }]
    );

    let first = PowChallenges {
        current: [8; 32],
        previous: None,
    };
    storage.store_pow_challenges(&first).unwrap();
    let rotated = storage.publish(7, Arc::new(sample_proof())).unwrap();
    assert_eq!(
        rotated,
        PowChallenges {
            current: [3; 32],
            previous: Some([8; 32])
        }
    );

    drop(storage);
    let storage = open(&folder);
    assert_eq!(storage.pow_challenges().unwrap(), Some(rotated));
    assert_eq!(storage.proof(7).unwrap(), Some(sample_proof()));
    assert_eq!(storage.proof(8).unwrap(), None);
    assert_eq!(storage.proof(u64::MAX).unwrap(), None);
    // Every change is noticed.
    let zeros = "x'0000000000000000000000000000000000000000000000000000000000000000'";
    for change in [
        "UPDATE proofs SET leaves = leaves - 1".to_owned(),
        "UPDATE proofs SET checksum = checksum + 1".to_owned(),
        "UPDATE odd_members SET position = 0".to_owned(),
        "UPDATE odd_members SET challenge = x'02'".to_owned(),
        "DELETE FROM odd_members".to_owned(),
        "UPDATE proofs SET proof_nodes = x'',
             proven_leaves = CAST(proven_leaves || proof_nodes AS BLOB)"
            .to_owned(),
        format!("UPDATE proofs SET statement = {zeros}"),
        format!("UPDATE proofs SET root = {zeros}"),
        format!("UPDATE proofs SET proven_leaves = {zeros}"),
        format!("UPDATE proofs SET proof_nodes = {zeros}"),
        format!("UPDATE proofs SET members = {zeros}"),
    ] {
        let other = Connection::open(folder.path().join("poet.sqlite")).unwrap();
        let copies = "CREATE TEMP TABLE one AS SELECT * FROM proofs;
                      CREATE TEMP TABLE two AS SELECT * FROM odd_members;";
        other.execute_batch(copies).unwrap();
        assert_eq!(other.execute(&change, []).unwrap(), 1, "{change}");
        let error = storage.proof(7).unwrap_err();
        assert!(
            matches!(error, StorageError::ProofChanged(7)),
            "{change}: {error}"
        );
        let back = "DELETE FROM proofs; INSERT INTO proofs SELECT * FROM one;
                    DELETE FROM odd_members; INSERT INTO odd_members SELECT * FROM two;";
        other.execute_batch(back).unwrap();
        assert_eq!(storage.proof(7).unwrap(), Some(sample_proof()));
    }
    assert_eq!(storage.unfinished_rounds().unwrap(), []);
    for (from, first) in [(0, 0), (6, 6), (7, 8), (8, 8)] {
        assert_eq!(storage.first_unsettled_round(from).unwrap(), first);
    }
}

#[test]
fn registrations_of_a_failed_transaction_did_not_happen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poet.sqlite");
    drop(open(&folder));
    let mut writer = Writer::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
    // Keeps the receivers of the answers, so that each answer can be sent.
    let mut replies = Vec::new();
    let mut reply = || {
        let (sender, receiver) = oneshot::channel();
        replies.push(receiver);
        sender
    };
    let mut opened = Vec::new();
    let mut open = |round| {
        let (reply, receiver) = oneshot::channel();
        opened.push(receiver);
        Command::OpenRound { round, reply }
    };
    let mut register = |round, node| Command::Register {
        round,
        member: member(node, node),
        max_members: 10,
        reply: reply(),
    };
    let failing = || Command::Write {
        write: Box::new(|_| Err(StorageError::Stopped)),
        reply: oneshot::channel().0,
    };
    let mut commit = |commands: Vec<Command>| {
        let (mut answers, mut undo) = (Vec::new(), Undo::default());
        let done = writer.commit(commands.into_iter(), &mut answers, &mut undo);
        if done.is_err() {
            undo.apply(&mut writer.open);
        }
        let open = writer.open.as_ref();
        let mut members: Vec<_> = open.unwrap().members.keys().map(|id| id.0[0]).collect();
        members.sort_unstable();
        (done.is_ok(), open.unwrap().round, members)
    };
    let batch = vec![open(4), register(4, 1), register(4, 2)];
    assert_eq!(commit(batch), (true, 4, vec![1, 2]));
    let batch = vec![register(4, 1), register(4, 3), failing()];
    assert_eq!(commit(batch), (false, 4, vec![1, 2]));
    let batch = vec![
        register(4, 3),
        open(5),
        register(5, 1),
        open(6),
        register(6, 4),
        failing(),
    ];
    assert_eq!(commit(batch), (false, 4, vec![1, 2]));
    let batch = vec![register(4, 3), open(5), register(5, 9)];
    assert_eq!(commit(batch), (true, 5, vec![9]));
    drop(writer);
    let storage = SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
    assert_eq!(storage.members(4).unwrap(), challenges(&[1, 2, 3]));
    assert_eq!(storage.members(5).unwrap(), challenges(&[9]));
}

fn sizes(folder: &tempfile::TempDir) -> (u64, u64) {
    let path = folder.path().join("poet.sqlite");
    (fs::metadata(&path).unwrap().len(), log_bytes(&path))
}

#[test]
fn a_probe_writes_only_when_nothing_was_written_lately() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
    let path = folder.path().join("poet.sqlite");
    let storage = SqliteStorage::open(&path, 100, clock.clone(), Arc::new(())).unwrap();
    let (_, empty) = sizes(&folder);
    wait(storage.probe()).unwrap();
    let before = sizes(&folder);
    assert!(before.1 > empty, "the first one writes");
    for _ in 0..9 {
        wait(storage.probe()).unwrap();
    }
    assert_eq!(sizes(&folder), before);
    clock.pass(Duration::from_secs(60));
    wait(storage.probe()).unwrap();
    assert!(
        sizes(&folder).1 > before.1,
        "a minute later, one writes again"
    );
    // The probe reads in any case.
    let other = Connection::open(folder.path().join("poet.sqlite")).unwrap();
    other
        .execute_batch("ALTER TABLE settings RENAME TO gone")
        .unwrap();
    assert!(wait(storage.probe()).is_err());
    other
        .execute_batch("ALTER TABLE gone RENAME TO settings")
        .unwrap();
    let before = sizes(&folder);
    wait(storage.probe()).unwrap();
    assert!(sizes(&folder).1 > before.1, "after a failure it writes");
}

#[test]
fn when_it_is_closed_everything_is_in_the_database() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder);
    wait(storage.open_round(3)).unwrap();
    wait(storage.register(3, member(1, 1), 9)).unwrap();
    assert!(sizes(&folder).1 > 0);
    wait(storage.close()).unwrap();
    assert_eq!(sizes(&folder).1, 0);
    let path = folder.path().join("poet.sqlite");
    let only = Connection::open(format!("file:{}?immutable=1", path.display())).unwrap();
    assert_eq!(count_members(&only, 3).unwrap(), 1);
    let error = wait(storage.register(3, member(2, 2), 9)).unwrap_err();
    assert_eq!(error.to_string(), StorageError::Stopped.to_string());
    assert_eq!(storage.members(3).unwrap().len(), 1, "it can still be read");
}

#[test]
fn a_log_that_is_held_is_limited_and_shrinks_when_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poet.sqlite");
    let mut writer = Writer::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap();
    writer.max_log_bytes = 20 << 20;
    let mut run = |command| {
        let (mut answers, mut undo) = (Vec::new(), Undo::default());
        let done = writer.commit([command].into_iter(), &mut answers, &mut undo);
        for answer in answers {
            answer.send(done.is_ok());
        }
        writer.tend_log();
        done
    };
    let (reply, _opened) = oneshot::channel();
    run(Command::OpenRound { round: 1, reply }).unwrap();
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("BEGIN; SELECT count(*) FROM rounds")
        .unwrap();
    other
        .query_row("SELECT count(*) FROM rounds", [], |_| Ok(()))
        .unwrap();
    let fill = |bytes: u32| Command::Write {
        write: Box::new(move |transaction| {
            write_setting(transaction, "filler", &vec![7; bytes as usize])
        }),
        reply: oneshot::channel().0,
    };
    run(fill(9 << 20)).unwrap();
    run(fill(11 << 20)).unwrap();
    assert!(log_bytes(&path) > 20 << 20);
    let register = || {
        let (reply, answer) = oneshot::channel();
        let (round, member, max_members) = (1, member(1, 1), 9);
        let command = Command::Register {
            round,
            member,
            max_members,
            reply,
        };
        (command, answer)
    };
    let (command, answer) = register();
    run(command).unwrap();
    let refused = answer.blocking_recv().unwrap();
    assert!(matches!(refused, Err(StorageError::LogFull)), "{refused:?}");
    other.execute_batch("COMMIT").unwrap();
    // SQLite moves all of it with the next transaction, and truncates it with the one after that.
    run(fill(1)).unwrap();
    run(fill(2)).unwrap();
    assert!(log_bytes(&path) <= KEPT_LOG_BYTES, "{}", log_bytes(&path));
    let (command, answer) = register();
    run(command).unwrap();
    assert_eq!(answer.blocking_recv().unwrap().unwrap(), Registered::New);
}

#[test]
fn a_long_log_is_emptied_once_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poet.sqlite");
    let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
    let mut writer = Writer::open(&path, 100, clock.clone(), Arc::new(())).unwrap();
    writer.long_log_bytes = 1 << 20;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN").unwrap();
    other
        .query_row("SELECT count(*) FROM rounds", [], |_| Ok(()))
        .unwrap();
    let fill = Command::Write {
        write: Box::new(|transaction| write_setting(transaction, "filler", &vec![7; 2 << 20])),
        reply: oneshot::channel().0,
    };
    let (mut answers, mut undo) = (Vec::new(), Undo::default());
    writer
        .commit([fill].into_iter(), &mut answers, &mut undo)
        .unwrap();
    // While it is read, nothing can empty it.
    clock.pass(Duration::from_secs(60));
    writer.tend_log();
    assert!(log_bytes(&path) > 2 << 20);
    other.execute_batch("COMMIT").unwrap();
    clock.pass(Duration::from_secs(30));
    writer.tend_log();
    assert!(log_bytes(&path) > 2 << 20);
    clock.pass(Duration::from_secs(30));
    writer.tend_log();
    assert_eq!(log_bytes(&path), 0);
}

#[test]
fn a_database_that_is_removed_is_written_again() {
    let names = ["poet.sqlite", "poet.sqlite-wal", "poet.sqlite-shm"];
    for removed in [&names[..], &names[..1], &names[1..2], &names[1..]] {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        wait(storage.open_round(3)).unwrap();
        wait(storage.register(3, member(1, 1), 9)).unwrap();
        for name in removed {
            fs::remove_file(folder.path().join(name)).unwrap();
        }
        assert_eq!(
            wait(storage.register(3, member(2, 2), 9)).unwrap(),
            Registered::New
        );
        assert_eq!(storage.members(3).unwrap(), challenges(&[1, 2]));
        assert_eq!(
            wait(storage.register(3, member(1, 1), 9)).unwrap(),
            Registered::Already
        );
        // As after a crash.
        let crashed = tempfile::tempdir().unwrap();
        for name in names {
            fs::copy(folder.path().join(name), crashed.path().join(name)).unwrap();
        }
        assert_eq!(open(&crashed).members(3).unwrap(), challenges(&[1, 2]));
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            3,
            "{removed:?}"
        );
    }
}

#[test]
fn nothing_is_promised_in_a_database_that_nobody_will_find() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder);
    wait(storage.open_round(3)).unwrap();
    wait(storage.register(3, member(1, 1), 9)).unwrap();
    let path = folder.path().join("poet.sqlite");
    let refused = |what: &str| {
        assert!(
            wait(storage.register(3, member(2, 2), 9)).is_err(),
            "{what}"
        );
        assert!(wait(storage.probe()).is_err(), "{what}");
    };
    // Another database in its place: the contents of the open one are kept.
    let (aside, other) = (folder.path().join("aside"), tempfile::tempdir().unwrap());
    drop(open(&other));
    fs::rename(&path, &aside).unwrap();
    fs::copy(other.path().join("poet.sqlite"), &path).unwrap();
    refused("replaced");
    let kept = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut kept = kept.filter(|path| path.to_str().unwrap().contains(".kept-"));
    let kept = Connection::open(kept.next().unwrap()).unwrap();
    assert_eq!(count_members(&kept, 3).unwrap(), 1);
    fs::rename(&aside, &path).unwrap();
    wait(storage.probe()).unwrap();
    // Its directory was moved.
    let moved = folder.path().with_extension("moved");
    fs::rename(folder.path(), &moved).unwrap();
    refused("moved with its directory");
    fs::rename(&moved, folder.path()).unwrap();
    assert_eq!(
        wait(storage.register(3, member(2, 2), 9)).unwrap(),
        Registered::New
    );
    // It was truncated.
    let other = Connection::open(&path).unwrap();
    let checkpoint = || {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        other.query_row(checkpoint, [], |_| Ok(())).unwrap();
    };
    checkpoint();
    wait(storage.probe()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 / 2).unwrap();
    refused("cut");
    fs::write(&path, &bytes).unwrap();
    wait(storage.probe()).unwrap();
    // Another program has rightly made it smaller.
    let fill = |sql| other.execute_batch(sql).unwrap();
    fill("CREATE TABLE filler AS SELECT randomblob(99999)");
    checkpoint();
    wait(storage.probe()).unwrap();
    fill("DROP TABLE filler; VACUUM");
    checkpoint();
    assert!(fs::metadata(&path).unwrap().len() < 99_999);
    wait(storage.probe()).unwrap();
}

/// Opens the copy that is kept so that somebody can restore it.
fn kept(folder: &tempfile::TempDir) -> Option<Connection> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut kept = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().unwrap().contains(".kept-"));
    Some(Connection::open(kept.next()?).unwrap())
}

/// What the file lacks is in its log, which a start would remove with it.
#[test]
fn a_database_that_is_cut_while_its_log_has_everything_is_kept() {
    for part in [0, 2] {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(&folder);
        wait(storage.open_round(3)).unwrap();
        wait(storage.register(3, member(1, 1), 9)).unwrap();
        let path = folder.path().join("poet.sqlite");
        let bytes = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(bytes.checked_div(part).unwrap_or(0)).unwrap();
        let refused = wait(storage.register(3, member(2, 2), 9));
        assert!(refused.is_err());
        assert!(wait(storage.probe()).is_err());
        assert_eq!(count_members(&kept(&folder).unwrap(), 3).unwrap(), 1);
    }
}

#[test]
fn a_copy_that_is_kept_is_of_now() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder);
    wait(storage.open_round(3)).unwrap();
    let (path, aside) = (
        folder.path().join("poet.sqlite"),
        folder.path().join("aside"),
    );
    for members in 1..3 {
        wait(storage.register(3, member(members, 1), 9)).unwrap();
        fs::rename(&path, &aside).unwrap();
        fs::write(&path, "another file").unwrap();
        assert!(wait(storage.probe()).is_err());
        let copy = kept(&folder).unwrap();
        assert_eq!(count_members(&copy, 3).unwrap(), u64::from(members));
        let name = copy.path().unwrap().to_owned();
        drop(copy);
        fs::remove_file(name).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poet.sqlite");
    std::fs::write(&path, "this is not a database, and longer than a header").unwrap();
    let error = SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("poet.sqlite"), "{error}");

    let path = folder.path().join("newer.sqlite");
    drop(SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(())).unwrap());
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = SqliteStorage::open(&path, 100, Arc::new(SystemClock), Arc::new(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("schema 99"), "{error}");
}

#[cfg(unix)]
#[test]
fn the_database_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let _storage = open(&folder);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}", entry.path());
    }
}

/// Whatever ends the writer's thread, all callers are notified, and none waits for ever.
#[test]
fn a_writer_that_ends_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let storage = open(&folder);
    wait(storage.open_round(0)).unwrap();
    let mut ended = storage.ended();
    let mut looked = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(ended.as_mut().poll(&mut looked).is_pending());
    let written = storage.write(|_| panic!("on purpose"));
    assert!(matches!(written, Err(StorageError::Stopped)));
    wait(ended);
    let registered = wait(storage.register(0, member(1, 1), u64::MAX));
    assert!(registered.is_err());
    assert!(wait(storage.probe()).is_err());
}
