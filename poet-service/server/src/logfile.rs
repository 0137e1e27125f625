//! The log files. `poet.log` is written until it is full and then becomes `poet.log.1`, the one
//! before becomes `poet.log.2`, and so on; the oldest one is removed.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use poet_files::{Access, create_directory};
use poet_rounds::clock::Clock;

use crate::log_queue::{self, Portion, Sink};

const FILE_NAME: &str = "poet.log";
/// How often to check whether `poet.log` is still the open file.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The log's files.
pub struct LogFile {
    folder: PathBuf,
    /// The number of full files to keep; 0 if the log is never full.
    max_files: usize,
    max_bytes: u64,
    current: File,
    bytes: u64,
    clock: Arc<dyn Clock>,
    /// When it was last checked that `poet.log` is the open file, by the monotonic clock.
    looked: Duration,
}

impl LogFile {
    /// Continues the log in `folder`.
    ///
    /// # Errors
    /// Fails if the folder or the file cannot be created or written.
    pub fn open(
        folder: &Path,
        max_files: usize,
        max_bytes: u64,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        // Durable, since this is often the first to create the common parent of all directories.
        create_directory(folder, Access::Private)?;
        let current = append(&folder.join(FILE_NAME))?;
        let bytes = current.metadata()?.len();
        Ok(Self {
            folder: folder.to_owned(),
            max_files,
            max_bytes,
            current,
            bytes,
            looked: clock.monotonic(),
            clock,
        })
    }

    fn line(&mut self, line: &[u8]) -> io::Result<()> {
        let full = self.bytes > 0 && self.bytes + line.len() as u64 > self.max_bytes;
        // If the files cannot be renamed, a file that is too long is better than no log.
        if full && self.max_files > 0 && self.rotate().is_err() {
            self.bytes = 0;
        }
        log_queue::write_all(&mut self.current, line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    /// Reopens `poet.log` if it was moved or removed, and updates its length if another program has
    /// truncated it.
    fn look(&mut self) -> io::Result<()> {
        self.looked = self.clock.monotonic();
        match fs::metadata(self.path(0)) {
            Ok(found) if same_file(&found, &self.current.metadata()?) => {
                self.bytes = found.len();
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_directory(&self.folder, Access::Private)?;
            }
            Err(error) => return Err(error),
        }
        self.current = append(&self.path(0))?;
        self.bytes = self.current.metadata()?.len();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.max_files).rev() {
            rename(&self.path(number), &self.path(number + 1))?;
        }
        rename(&self.path(0), &self.path(1))?;
        self.current = append(&self.path(0))?;
        self.bytes = 0;
        Ok(())
    }

    /// Returns the path of the file written `number` files ago.
    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(match number {
            0 => FILE_NAME.to_owned(),
            _ => format!("{FILE_NAME}.{number}"),
        })
    }
}

impl Sink for LogFile {
    fn name(&self) -> String {
        self.path(0).display().to_string()
    }

    fn write(&mut self, portion: &Portion) -> io::Result<()> {
        let since = self.clock.monotonic().saturating_sub(self.looked);
        if portion.reopen || since >= LOOK_INTERVAL {
            self.look()?;
        }
        let mut lines = portion.lines.split_inclusive(|byte| *byte == b'\n');
        lines.try_for_each(|line| self.line(line))
    }
}

/// Renames a file, if it exists.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn same_file(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// On other systems, an open file cannot be moved or removed.
#[cfg(not(unix))]
fn same_file(_one: &fs::Metadata, _other: &fs::Metadata) -> bool {
    true
}

fn append(path: &Path) -> io::Result<File> {
    // Private, whatever the umask and the directory: the log says who registered from where.
    let mut options = Access::Private.open_options();
    options.create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use poet_rounds::clock::ManualClock;

    use super::*;

    fn open(folder: &Path, max_files: usize, max_bytes: u64) -> io::Result<LogFile> {
        let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
        LogFile::open(folder, max_files, max_bytes, clock)
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn full_files_are_moved_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("logs");
        for line in ["one\n", "two\n", "three\n", "four\n", "five\n"] {
            // It makes no difference whether the process is a new one.
            let mut log = open(&folder, 2, 10).unwrap();
            log.line(line.as_bytes()).unwrap();
        }
        assert_eq!(names(&folder), ["poet.log", "poet.log.1", "poet.log.2"]);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("poet.log"), "four\nfive\n");
        assert_eq!(read("poet.log.1"), "three\n");
        assert_eq!(read("poet.log.2"), "one\ntwo\n");

        let mut log = open(&folder, 2, 10).unwrap();
        log.line(b"six\n").unwrap();
        log.line(b"longer than a file\n").unwrap();
        assert_eq!(names(&folder).len(), 3);
        assert_eq!(read("poet.log"), "longer than a file\n");
        assert_eq!(read("poet.log.2"), "four\nfive\n");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_was_moved_or_removed_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("logs");
        let mut log = open(&folder, 2, 10).unwrap();
        let mut write = |line: &str| {
            let lines = line.as_bytes().to_vec();
            let reopen = true;
            let portion = Portion {
                lines,
                reopen,
                ..Portion::default()
            };
            log.write(&portion).unwrap();
        };
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        write("one\n");
        fs::rename(folder.join("poet.log"), folder.join("poet.log.moved")).unwrap();
        write("two\n");
        assert_eq!(read("poet.log.moved"), "one\n");
        assert_eq!(read("poet.log"), "two\n");
        fs::remove_dir_all(&folder).unwrap();
        write("three\n");
        write("four\nfive\n");
        assert_eq!(read("poet.log.1"), "three\n");
        assert_eq!(read("poet.log"), "four\nfive\n");
        // Truncated by another program, so there is room again.
        fs::write(folder.join("poet.log"), "").unwrap();
        write("six\n");
        assert_eq!(read("poet.log"), "six\n");
        assert_eq!(names(&folder), ["poet.log", "poet.log.1"]);
    }

    #[test]
    fn without_rotation_there_is_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = open(folder.path(), 0, 1).unwrap();
        for _ in 0..9 {
            log.line(b"line\n").unwrap();
        }
        assert_eq!(names(folder.path()), ["poet.log"]);
    }

    #[test]
    fn a_file_that_was_moved_is_noticed_after_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
        let mut log = LogFile::open(folder.path(), 2, 1000, clock.clone()).unwrap();
        let mut write = |lines: &str| {
            let lines = lines.into();
            let portion = Portion {
                lines,
                ..Portion::default()
            };
            log.write(&portion).unwrap();
        };
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        write("one\n");
        let moved = folder.path().join("moved");
        fs::rename(folder.path().join(FILE_NAME), moved).unwrap();
        write("two\n");
        assert_eq!(read("moved"), "one\ntwo\n");
        clock.pass(LOOK_INTERVAL);
        write("three\n");
        assert_eq!(read("moved"), "one\ntwo\n");
        assert_eq!(read(FILE_NAME), "three\n");
    }
}
