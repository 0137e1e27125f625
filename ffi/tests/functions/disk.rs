//! A log on a disk that is full or has changed.

use std::ffi::CString;
use std::fs;
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::thread;

use crate::common::{
    STATEMENT, Sendable, advance, describe_worker, encode, last_error, leaves, ok, open, options,
    progress, root, status,
};
use poet::poet_status::{BacklogFull, Cancelled, Io, LogDamaged, LogForeign, Ok as OK};
use poet::*;
use poet_conformance::skip;

/// A worker's directory.
pub(crate) struct Directory(tempfile::TempDir, CString);

impl Directory {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = CString::new(directory.path().to_str().unwrap()).unwrap();
        Self(directory, path)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.path().join("tree.log")
    }

    pub(crate) fn options(&self, subtree_height: u32) -> poet_worker_options {
        poet_worker_options {
            log_directory: self.1.as_ptr(),
            subtree_height,
            ..options()
        }
    }

    /// A closed log of this many leaves.
    pub(crate) fn with_leaves(leaves: u64, subtree_height: u32) -> Self {
        let directory = Self::new();
        let worker = open(&directory.options(subtree_height));
        advance(worker, leaves, u64::MAX);
        ok(poet_worker_close(worker));
        directory
    }

    fn change(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(self.log()).unwrap();
        change(&mut bytes);
        fs::write(self.log(), bytes).unwrap();
    }
}

/// The root of the tree of this many leaves.
pub(crate) fn expected_root(leaves: u64) -> [u8; 32] {
    let worker = open(&options());
    advance(worker, leaves, u64::MAX);
    let root = root(worker);
    ok(poet_worker_close(worker));
    root
}

pub(crate) fn try_advance(
    worker: *mut poet_worker,
    leaves: u64,
) -> (poet_status, Option<poet_advanced>) {
    let mut ended = MaybeUninit::<u32>::zeroed();
    // SAFETY: there is room.
    let status =
        unsafe { poet_worker_advance(worker, leaves, u64::MAX, ended.as_mut_ptr().cast()) };
    // SAFETY: every pattern is a number.
    let ended = match unsafe { ended.assume_init() } {
        1 => Some(poet_advanced::Leaves),
        2 => Some(poet_advanced::Time),
        3 => Some(poet_advanced::Stopped),
        _ => None,
    };
    (status, ended)
}

fn prove(worker: *mut poet_worker) -> (poet_status, *mut poet_proof) {
    let mut proof = null_mut();
    // SAFETY: there is room.
    let status = unsafe { poet_worker_prove(worker, 150, 1, &raw mut proof) };
    (status, proof)
}

#[track_caller]
fn assert_proves(worker: *mut poet_worker) {
    let (status, proof) = prove(worker);
    ok(status);
    let bytes = encode(proof);
    // SAFETY: all pointers are valid.
    ok(unsafe {
        poet_verify(
            0,
            5,
            STATEMENT.as_ptr(),
            STATEMENT.len(),
            leaves(worker),
            150,
            bytes.as_ptr(),
            bytes.len(),
        )
    });
    ok(poet_proof_close(proof));
}

/// A small file system, mounted as long as this exists.
#[cfg(target_os = "linux")]
struct SmallDisk(Directory);

#[cfg(target_os = "linux")]
impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = Directory::new();
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "none"])
            .arg(directory.0.path())
            .output();
        let reason = match mount {
            Ok(mount) if mount.status.success() => return Some(Self(directory)),
            Ok(mount) => String::from_utf8_lossy(&mount.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip(format!("no file system can be mounted: {reason}"));
        None
    }

    fn fill(&self) {
        let filler = self.0.0.path().join("filler");
        for bytes in [1 << 18, 1 << 12] {
            let _ = fs::write(filler.with_extension(bytes.to_string()), vec![1; bytes]);
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(self.0.0.path()).unwrap().flatten() {
            if entry.file_name() != "tree.log" {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let path = self.0.0.path();
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(path)
            .status();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_full_disk_the_work_goes_on_until_memory_for_the_log_is_full() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let worker = open(&disk.0.options(0));
    advance(worker, 100, u64::MAX);
    ok(poet_worker_sync(worker));
    disk.fill();
    // The rest of the last page.
    let mut written = 100;
    while try_advance(worker, 128).0 == OK {
        written = leaves(worker);
    }
    // Returned after the work, together with the reason for its end.
    let (status, ended) = try_advance(worker, 1_000);
    assert_eq!((status, ended), (Io, Some(poet_advanced::Leaves)));
    assert!(last_error().contains("No space left"), "{}", last_error());
    assert_eq!(leaves(worker), written + 128 + 1_000);
    // A request to stop is not lost.
    ok(poet_worker_stop(worker));
    assert_eq!(try_advance(worker, 1), (Io, Some(poet_advanced::Stopped)));
    assert!(progress(worker).durable_leaves <= written);
    // A proof is possible nevertheless.
    assert_proves(worker);

    // 2^18 entries wait, and no more.
    let (status, ended) = try_advance(worker, u64::MAX);
    assert_eq!((status, ended), (BacklogFull, None), "{}", last_error());
    let full = leaves(worker);
    assert!(full > 1 << 18, "{full}");
    assert_eq!(try_advance(worker, u64::MAX).0, BacklogFull);
    assert_eq!(leaves(worker), full);
    ok(poet_worker_stop(worker));
    assert_eq!(try_advance(worker, 1), (Io, Some(poet_advanced::Stopped)));

    // Nothing is lost when there is room again; but there is no room for this much as long as the
    // disk is small.
    disk.empty();
    assert_eq!(try_advance(worker, 0).0, Io);
    let remount = std::process::Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(disk.0.0.path())
        .status();
    assert!(remount.unwrap().success());
    advance(worker, 10, u64::MAX);
    ok(poet_worker_sync(worker));
    assert_eq!(progress(worker).durable_leaves, full + 10);
    assert_eq!(
        fs::read(disk.0.log()).unwrap().len() as u64,
        96 + 32 * (full + 10)
    );
    ok(poet_worker_close(worker));
    let worker = open(&disk.0.options(0));
    assert_eq!(leaves(worker), full + 10);
    assert_proves(worker);
    ok(poet_worker_close(worker));
}

#[test]
fn a_worker_that_nobody_syncs_does_so_itself() {
    let directory = Directory::new();
    let worker = open(&directory.options(0));
    while leaves(worker) < 300_000 {
        advance(worker, 50_000, u64::MAX);
    }
    assert!(progress(worker).durable_leaves > 100_000);
    ok(poet_worker_close(worker));
}

#[test]
fn zeros_at_the_end_are_cut_off_and_a_changed_entry_is_put_right() {
    let right = expected_root(1_000);
    for (zeros, flip) in [(1, false), (50, false), (5_000, true), (0, true)] {
        let directory = Directory::with_leaves(900, 2);
        directory.change(|bytes| {
            if flip {
                bytes[96 + 32 * 100 + 7] ^= 4;
            }
            bytes.extend(vec![0; zeros * 32 + 5]);
        });
        let worker = open(&directory.options(2));
        assert_eq!(leaves(worker), 900);
        let found = progress(worker);
        assert_eq!(found.repaired_entries, u64::from(flip));
        assert_eq!(found.lost_leaves, 4 * zeros as u64);
        assert_eq!(found.durable_leaves, 900);
        advance(worker, 100, u64::MAX);
        assert_eq!(root(worker), right);
        assert_proves(worker);
        ok(poet_worker_close(worker));
    }
}

/// GUIDE.md says so.
#[test]
fn a_damaged_header_can_be_taken_from_a_new_log() {
    let directory = Directory::with_leaves(900, 2);
    directory.change(|bytes| bytes[40] ^= 1);
    assert_eq!(status(&directory.options(2)), LogForeign);
    let new = fs::read(Directory::with_leaves(0, 2).log()).unwrap();
    directory.change(|bytes| bytes[..96].copy_from_slice(&new[..96]));
    let worker = open(&directory.options(2));
    assert_eq!(root(worker), expected_root(900));
    ok(poet_worker_close(worker));
}

#[test]
fn garbage_at_the_end_is_made_again() {
    let right = expected_root(1_000);
    for garbage in [1, 8, 9, 40] {
        let directory = Directory::with_leaves(900, 1);
        directory.change(|bytes| {
            let from = bytes.len() - 32 * garbage;
            bytes[from..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        });
        let worker = open(&directory.options(1));
        let found = progress(worker);
        let repaired = garbage.min(8) as u64;
        assert_eq!(found.repaired_entries, repaired);
        assert_eq!(found.lost_leaves, 2 * (garbage as u64 - repaired));
        assert_eq!(leaves(worker), 900 - found.lost_leaves);
        advance(worker, 1_000 - leaves(worker), u64::MAX);
        assert_eq!(root(worker), right);
        assert_proves(worker);
        ok(poet_worker_close(worker));
    }
}

#[test]
fn an_entry_that_changes_under_a_worker_is_found_by_the_proof_and_put_right_by_an_audit() {
    let directory = Directory::new();
    let worker = open(&directory.options(2));
    advance(worker, 3_000, u64::MAX);
    ok(poet_worker_sync(worker));
    // The proof shows parts of some of them.
    directory.change(|bytes| (0..75).for_each(|entry| bytes[96 + 320 * entry + 3] ^= 1));
    let (status, _) = prove(worker);
    assert_eq!(status, LogDamaged, "{}", last_error());
    ok(poet_worker_audit(worker, 2));
    let found = progress(worker);
    assert_eq!(found.audited_leaves, 3_000);
    assert_eq!(found.repaired_entries, 75);
    assert_eq!((found.lost_leaves, found.mistakes), (0, 0));
    assert_eq!(leaves(worker), 3_000);
    assert_proves(worker);
    assert_eq!(root(worker), expected_root(3_000));
    ok(poet_worker_close(worker));
}

#[test]
fn what_is_wrong_to_the_end_is_taken_back() {
    let right = expected_root(1_000);
    let directory = Directory::with_leaves(900, 2);
    let worker = open(&directory.options(2));
    directory.change(|bytes| {
        bytes[96 + 32 * 150..]
            .iter_mut()
            .for_each(|byte| *byte ^= 0x5a);
    });
    ok(poet_worker_audit(worker, 1));
    let found = progress(worker);
    assert_eq!((found.leaves, found.mistakes), (900 - found.lost_leaves, 1));
    assert!((600..900).contains(&found.leaves), "{}", found.leaves);
    assert_eq!(found.audited_leaves, found.leaves);
    advance(worker, 1_000 - leaves(worker), u64::MAX);
    assert_eq!(root(worker), right);
    assert_proves(worker);
    ok(poet_worker_sync(worker));
    assert_eq!(progress(worker).durable_leaves, 1_000);
    ok(poet_worker_close(worker));
}

#[test]
fn an_audit_and_a_proof_can_be_cancelled() {
    let worker = open(&poet_worker_options {
        depth: 400,
        subtree_height: 8,
        ..options()
    });
    advance(worker, 20_000, u64::MAX);
    for audit in [true, false] {
        // Before it begins.
        let call = move |worker| match audit {
            true => poet_worker_audit(worker, 1),
            false => prove(worker).0,
        };
        ok(poet_worker_cancel(worker));
        assert_eq!(call(worker), Cancelled);
        // While it runs, if it runs long enough.
        let shared = Sendable(worker);
        let called = thread::spawn(move || {
            let Sendable(worker) = { shared };
            call(worker)
        });
        while {
            let now = progress(worker);
            now.audited_leaves == 0 && audit || now.prove_hashes_done == 0 && !audit
        } {
            thread::yield_now();
        }
        ok(poet_worker_cancel(worker));
        assert_eq!(called.join().unwrap(), Cancelled);
    }
    // It counts once.
    assert_eq!(prove(worker).0, OK);
    ok(poet_worker_close(worker));
}

#[test]
fn a_worker_says_what_it_computes_with() {
    let mut chosen = options();
    chosen.backend = c"generic".as_ptr();
    let worker = open(&chosen);
    let info = describe_worker(worker);
    assert_eq!((info.work_function, info.depth), (0, 5));
    for name in [info.one_backend, info.many_backend] {
        let name: Vec<_> = name
            .iter()
            .map(|c| *c as u8)
            .take_while(|c| *c != 0)
            .collect();
        assert_eq!(name, b"generic");
    }
    ok(poet_worker_close(worker));
    chosen.backend = null();
    chosen.depth = 0;
    let worker = open(&chosen);
    assert_eq!(describe_worker(worker).depth, 400);
    ok(poet_worker_close(worker));
}

/// A program of version 1.0 of the ABI.
#[test]
fn a_caller_gets_as_much_of_a_struct_as_it_knows() {
    let worker = open(&options());
    advance(worker, 7, u64::MAX);
    let mut old = [u64::MAX; 9];
    let place = old.as_mut_ptr().cast();
    // SAFETY: there is room.
    ok(unsafe { poet_worker_read_progress(worker, place, 32) });
    assert_eq!(old[0], 7);
    assert_eq!(old[4..], [u64::MAX; 5]);
    // And one of a later version.
    // SAFETY: there is room.
    ok(unsafe { poet_worker_read_progress(worker, place, 72) });
    assert_eq!(old[4..8], [0; 4]);
    assert_eq!(old[8], u64::MAX);
    ok(poet_worker_close(worker));
}
