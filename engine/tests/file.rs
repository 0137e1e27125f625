//! The log as a file: whatever happens to it, it is either used correctly or refused with a reason.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use poet_backend_generic::Generic;
use poet_engine::file::{FileLog, LogWriter};
use poet_engine::{
    HeaderError, Kernels, LogError, LogHeader, LogRead, Node, ProveProgress, RoundWork,
    SubtreeHeight, T, Tree, Work, WorkFunction, prove, run, verify,
};

const STATEMENT: &[u8] = b"statement";

fn work(function: WorkFunction, depth: u32) -> Work {
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain: g,
    };
    Work::new(function, depth, kernels).unwrap()
}

/// Opens the log of a work of depth 3.
fn open(path: &Path, k: u32) -> Result<FileLog, LogError> {
    let work = work(WorkFunction::Sha256, 3);
    FileLog::open(path, &RoundWork::new(&work, STATEMENT, height(k)))
}

fn height(k: u32) -> SubtreeHeight {
    SubtreeHeight::new(k).unwrap()
}

fn entries(log: &mut FileLog) -> Vec<Node> {
    let mut entries = vec![[0; 32]; log.entries() as usize];
    log.read(0, &mut entries).unwrap();
    entries
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }
}

fn node(i: usize) -> Node {
    let mut node = [0xa5; 32];
    node[..8].copy_from_slice(&i.to_be_bytes());
    node
}

#[test]
fn a_log_cut_anywhere_keeps_its_whole_entries() {
    let directory = Directory::new();
    let path = directory.log();
    let mut log = open(&path, 2).unwrap();
    let nodes: Vec<Node> = (0..5).map(node).collect();
    log.append(&nodes).unwrap();
    log.sync().unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    assert_eq!(whole.len(), LogHeader::BYTES + 5 * 32);
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let mut log = open(&path, 2).unwrap();
        let kept = cut.saturating_sub(LogHeader::BYTES) / 32;
        assert_eq!(entries(&mut log), nodes[..kept], "cut at {cut}");
        // The log can be continued from the cut.
        log.append(&nodes[kept..]).unwrap();
        drop(log);
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn a_header_with_any_byte_changed_is_refused_and_left_alone() {
    let directory = Directory::new();
    let path = directory.log();
    open(&path, 2).unwrap().append(&[node(0)]).unwrap();
    let whole = fs::read(&path).unwrap();
    for at in 0..LogHeader::BYTES {
        for flip in [1, 0x80] {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            fs::write(&path, &damaged).unwrap();
            let error = open(&path, 2).unwrap_err();
            let expected = if at < 8 {
                HeaderError::Magic
            } else {
                HeaderError::Checksum
            };
            assert!(
                matches!(&error, LogError::Foreign { why, .. } if *why == expected),
                "byte {at}: {error}"
            );
            assert_eq!(fs::read(&path).unwrap(), damaged);
        }
    }
}

#[test]
fn a_header_that_was_never_written_is_written() {
    let directory = Directory::new();
    let path = directory.log();
    open(&path, 2).unwrap().append(&[node(7)]).unwrap();
    let whole = fs::read(&path).unwrap();
    // The file may be shorter than the header, or have entries after it.
    for length in [1, 50, LogHeader::BYTES, whole.len()] {
        let mut left = whole[..length].to_vec();
        left[..length.min(LogHeader::BYTES)].fill(0);
        fs::write(&path, &left).unwrap();
        let mut log = open(&path, 2).unwrap();
        let kept = usize::from(length == whole.len());
        assert_eq!(entries(&mut log), [node(7)][..kept], "{length} bytes");
        drop(log);
        assert_eq!(
            fs::read(&path).unwrap(),
            whole[..LogHeader::BYTES + 32 * kept]
        );
    }
}

#[test]
fn the_log_of_something_else_is_refused_with_what_differs() {
    let directory = Directory::new();
    let path = directory.log();
    drop(open(&path, 2).unwrap());
    let (sha256, deeper) = (work(WorkFunction::Sha256, 3), work(WorkFunction::Sha256, 4));
    let haraka = work(WorkFunction::Haraka256, 3);
    for (work, statement, k, reason) in [
        (&sha256, STATEMENT, 3, "it has subtree height 2, not 3"),
        (&sha256, b"statemenT", 2, "it belongs to another statement"),
        (
            &deeper,
            STATEMENT,
            2,
            "it was made with sha256 x 3, not with sha256 x 4",
        ),
        (
            &haraka,
            STATEMENT,
            2,
            "it was made with sha256 x 3, not with haraka256 x 3",
        ),
    ] {
        let other = RoundWork::new(work, statement, height(k));
        let error = FileLog::open(&path, &other).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!("log cannot be used: {reason}")),
            "{error}"
        );
    }
}

#[test]
fn another_kind_of_file_is_refused_and_left_alone() {
    let directory = Directory::new();
    let path = directory.log();
    let mut almost_blank = [0; 96];
    almost_blank[95] = 1;
    for content in [&b"hello"[..], &almost_blank, &[b'P'; 4096]] {
        fs::write(&path, content).unwrap();
        let error = open(&path, 0).unwrap_err().to_string();
        assert!(error.contains("it is not a tree log"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), content);
    }
}

#[test]
fn one_process_at_a_time() {
    let directory = Directory::new();
    let log = open(&directory.log(), 0).unwrap();
    let error = open(&directory.log(), 0).unwrap_err();
    assert!(matches!(error, LogError::Locked { .. }), "{error}");
    drop(log);
    open(&directory.log(), 0).unwrap();
}

#[test]
fn paths_that_cannot_be_used_are_named() {
    let directory = Directory::new();
    fs::write(directory.log(), b"a file").unwrap();
    for path in [directory.0.path().to_owned(), directory.log().join("below")] {
        let error = open(&path, 0).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn reading_behind_the_end_is_an_error() {
    let directory = Directory::new();
    let mut log = open(&directory.log(), 0).unwrap();
    log.append(&[node(1), node(2)]).unwrap();
    let mut out = [[0; 32]; 2];
    log.read(0, &mut out).unwrap();
    assert_eq!(out, [node(1), node(2)]);
    for start in [1, 2, u64::MAX] {
        let error = log.read(start, &mut out).unwrap_err();
        assert!(
            matches!(error, LogError::Missing { entries: 2, .. }),
            "{error}"
        );
    }
}

#[test]
fn the_writer_writes_everything_in_order() {
    let directory = Directory::new();
    let mut writer = LogWriter::spawn(open(&directory.log(), 0).unwrap()).unwrap();
    let monitor = writer.monitor();
    // More than the queue holds, so that it wraps and fills.
    let nodes: Vec<Node> = (0..300_000).map(node).collect();
    for node in &nodes {
        writer.push(*node);
    }
    let mut log = writer.finish().unwrap();
    assert_eq!(monitor.durable_entries(), nodes.len() as u64);
    assert_eq!(monitor.error(), None);
    assert!(entries(&mut log) == nodes);
}

#[test]
fn a_writer_that_is_dropped_writes_what_it_has_and_lets_go() {
    let directory = Directory::new();
    let mut writer = LogWriter::spawn(open(&directory.log(), 0).unwrap()).unwrap();
    writer.push(node(1));
    drop(writer);
    let mut log = loop {
        match open(&directory.log(), 0) {
            Err(LogError::Locked { .. }) => std::thread::yield_now(),
            log => break log.unwrap(),
        }
    };
    assert_eq!(entries(&mut log), [node(1)]);
}

/// A file that cannot grow stands for a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_reported_and_does_not_stop_the_work() {
    let full = memfd::MemfdOptions::default()
        .allow_sealing(true)
        .create("full")
        .unwrap();
    let work = work(WorkFunction::Sha256, 3);
    let round = RoundWork::new(&work, STATEMENT, height(0));
    drop(FileLog::in_file(full.as_file().try_clone().unwrap(), &round).unwrap());
    full.add_seal(memfd::FileSeal::SealGrow).unwrap();

    let log = FileLog::in_file(full.into_file(), &round);
    let mut writer = LogWriter::spawn(log.unwrap()).unwrap();
    let monitor = writer.monitor();
    for i in 0..1000 {
        writer.push(node(i));
    }
    while monitor.error().is_none() {
        std::thread::yield_now();
    }
    let error = monitor.error().unwrap();
    assert!(error.starts_with("cannot write the log"), "{error}");
    assert_eq!(monitor.durable_entries(), 0);
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.starts_with("cannot write the log"), "{error}");
}

#[test]
fn a_round_survives_losing_everything_but_its_log() {
    let directory = Directory::new();
    let work = work(WorkFunction::Sha256, 3);
    let k = SubtreeHeight::new(2).unwrap();
    let round = RoundWork::new(&work, STATEMENT, k);
    let mut leaves = 0;
    for target in [10, 11, 50, 203, 480] {
        let mut log = FileLog::open(&directory.log(), &round).unwrap();
        let mut tree = round.resume(&mut log).unwrap();
        assert_eq!(tree.leaves(), leaves >> 2 << 2);
        let mut writer = LogWriter::spawn(log).unwrap();
        let progress = AtomicU64::new(0);
        run(&mut tree, k, &AtomicU64::new(target), &progress, |root| {
            writer.push(root);
        });
        leaves = tree.leaves();
        let mut log = writer.finish().unwrap();
        if leaves >= T as u64 {
            let proof = prove(&tree, k, &mut log, T, 2, &ProveProgress::default()).unwrap();
            verify(&work, STATEMENT, leaves, T, &proof).unwrap();
            let mut whole = Tree::new(&work, STATEMENT);
            run(&mut whole, k, &AtomicU64::new(target), &progress, |_| {});
            assert_eq!(Some(proof.root), whole.root());
        }
    }
    assert_eq!(leaves, 480);
}
