//! A wall clock of a process's own.

// Each test binary uses its part of this.
#![allow(dead_code)]

use std::{fs, path::PathBuf, time::Duration};

use jiff::Timestamp;
use poet_conformance::skip;
use tempfile::TempDir;

/// The library that fakes the time of a process; `None`, and says so, where there is none.
pub(crate) fn fake_time() -> Option<String> {
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let library = places
        .into_iter()
        .chain([multiarch.into()])
        .map(|place| place.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    let Some(library) = library else {
        skip("libfaketime is not installed (apt install faketime)");
        return None;
    };
    Some(library.to_str().unwrap().to_owned())
}

/// A wall clock that runs as the machine's does until the test sets it ahead. It is that of all processes
/// with its environment. Their monotonic clocks are the machine's.
pub(crate) struct WallClock {
    library: String,
    folder: TempDir,
}

impl WallClock {
    /// `None`, and says so, where the time of a process cannot be faked.
    pub(crate) fn new() -> Option<Self> {
        let library = fake_time()?;
        let folder = tempfile::tempdir().unwrap();
        let clock = Self { library, folder };
        clock.run_ahead(Duration::ZERO);
        Some(clock)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ahead")
    }

    fn run_ahead(&self, ahead: Duration) {
        let next = self.folder.path().join("next");
        fs::write(&next, format!("+{:.3}", ahead.as_secs_f64())).unwrap();
        // A process may be reading it.
        fs::rename(next, self.file()).unwrap();
    }

    /// Sets it to this time, which is yet to come, and lets it run on.
    pub(crate) fn set(&self, time: Timestamp) {
        let ahead = time.duration_since(Timestamp::now());
        self.run_ahead(ahead.try_into().unwrap());
    }

    pub(crate) fn environment(&self) -> [(&'static str, String); 6] {
        let file = self.file().display().to_string();
        [
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", file),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
    }
}
