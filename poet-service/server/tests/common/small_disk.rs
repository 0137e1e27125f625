//! File systems that are full.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::{fs, path::Path, process::Command};

use poet_conformance::skip;

/// A small file system, while this is there.
pub(crate) struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message, where no file system can be mounted.
    pub(crate) fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(folder.path())
            .output();
        let reason = match mount {
            Ok(mount) if mount.status.success() => return Some(Self(folder)),
            Ok(mount) => String::from_utf8_lossy(&mount.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        skip(format_args!("no file system can be mounted here: {reason}"));
        None
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    pub(crate) fn fill(&self) {
        let mut bytes = 1 << 20;
        for part in 0.. {
            let filler = self.path().join(format!("filler{part}"));
            match fs::write(&filler, vec![1; bytes]) {
                Ok(()) => {}
                Err(_) if bytes > 512 => bytes /= 2,
                Err(_) => break,
            }
        }
    }

    pub(crate) fn empty(&self) {
        for entry in fs::read_dir(self.path()).unwrap().flatten() {
            if entry.file_name().to_str().unwrap().starts_with("filler") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Nobody can do anything about a failure here.
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}
