//! What a log needs of its file.

use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind};

/// What a log needs of its file. [`File`] implements it; so do failing files in tests.
pub trait BackingFile: fmt::Debug + Send + Sync {
    /// Reads some bytes starting at `offset`, and returns how many; 0 at the end of the file.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes some of the bytes at `offset`, and returns how many.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes durable what was written. After an error, everything written since the last success
    /// may be lost, even if a later call succeeds.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn sync(&self) -> io::Result<()>;

    /// Returns the length in bytes.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn size(&self) -> io::Result<u64>;

    /// Truncates the file to this length.
    ///
    /// # Errors
    /// Fails if the system call fails.
    fn cut(&self, bytes: u64) -> io::Result<()>;
}

impl BackingFile for File {
    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, bytes, offset)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, offset)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(self, bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        self.set_len(bytes)
    }
}

/// Reads until `bytes` are full or the file ends, and returns how many were read.
pub(super) fn read_at(file: &dyn BackingFile, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
