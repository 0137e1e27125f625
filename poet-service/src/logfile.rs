//! The files of the log: `poet.log` is written until it is full and then becomes `poet.log.1`, the
//! one before `poet.log.2`, and so on; the oldest one goes.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use poet_files::{Access, create_directory};

const FILE_NAME: &str = "poet.log";

/// The log's files, shared by all who write.
#[derive(Clone, Debug)]
pub struct LogFile(Arc<Mutex<Files>>);

#[derive(Debug)]
struct Files {
    folder: PathBuf,
    /// Full ones that are kept; 0 for a log that is never full.
    max_files: usize,
    max_bytes: u64,
    current: File,
    bytes: u64,
}

impl LogFile {
    /// Goes on with the log in `folder`.
    ///
    /// # Errors
    /// When the folder or the file cannot be made or written.
    pub fn open(folder: &Path, max_files: usize, max_bytes: u64) -> io::Result<Self> {
        // Often the first to make the directory in which all others are, so durably.
        create_directory(folder, Access::Private)?;
        let current = append(&folder.join(FILE_NAME))?;
        let bytes = current.metadata()?.len();
        Ok(Self(Arc::new(Mutex::new(Files {
            folder: folder.to_owned(),
            max_files,
            max_bytes,
            current,
            bytes,
        }))))
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let full = self.bytes > 0 && self.bytes + bytes.len() as u64 > self.max_bytes;
        // Logs that cannot be moved are still better in a file that is too long than nowhere.
        if full && self.max_files > 0 && self.rotate().is_err() {
            self.bytes = 0;
        }
        let written = self.current.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.max_files).rev() {
            match fs::rename(self.path(number), self.path(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(self.path(0), self.path(1))?;
        self.current = append(&self.path(0))?;
        self.bytes = 0;
        Ok(())
    }

    /// The file that was written `number` files ago.
    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(match number {
            0 => FILE_NAME.to_owned(),
            _ => format!("{FILE_NAME}.{number}"),
        })
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

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
            // Whether it is the same process or the next one.
            let mut log = LogFile::open(&folder, 2, 10).unwrap();
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(names(&folder), ["poet.log", "poet.log.1", "poet.log.2"]);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(read("poet.log"), "four\nfive\n");
        assert_eq!(read("poet.log.1"), "three\n");
        assert_eq!(read("poet.log.2"), "one\ntwo\n");

        let mut log = LogFile::open(&folder, 2, 10).unwrap();
        log.write_all(b"six\n").unwrap();
        log.write_all(b"longer than a file\n").unwrap();
        assert_eq!(names(&folder).len(), 3);
        assert_eq!(read("poet.log"), "longer than a file\n");
        assert_eq!(read("poet.log.2"), "four\nfive\n");
    }

    #[test]
    fn without_rotation_there_is_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(folder.path(), 0, 1).unwrap();
        for _ in 0..9 {
            log.write_all(b"line\n").unwrap();
        }
        assert_eq!(names(folder.path()), ["poet.log"]);
    }
}
