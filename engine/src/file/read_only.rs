//! A log opened read-only.

use std::fs::File;
use std::path::Path;

use super::backing::read_at;
use super::view::{Extent, HEADER_BYTES, LogView, io_error};
use crate::{LogError, LogHeader, LogRead, NODE_SIZE, Node};

/// A log as it was when it was opened
/// ([`FileLog::open_read_only`](super::FileLog::open_read_only)): without a lock, whatever work it
/// belongs to, and never changed.
#[derive(Clone, Debug)]
pub struct ReadOnlyLog {
    view: LogView,
    bytes: u64,
}

impl ReadOnlyLog {
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|cause| io_error("open", &name, cause))?;
        let view = LogView::new(Box::new(file), name);
        let bytes = view.0.file.size().map_err(|e| view.error("read", e))?;
        *view.extent() = Extent {
            entries: bytes.saturating_sub(HEADER_BYTES) / NODE_SIZE as u64,
            ..Extent::default()
        };
        Ok(Self { view, bytes })
    }

    /// Returns the header: [`LogHeader::BYTES`] bytes, or fewer if the file is shorter.
    /// [`LogHeader::read`] decodes it.
    ///
    /// # Errors
    /// Fails if the file cannot be read.
    pub fn header(&self) -> Result<Vec<u8>, LogError> {
        let mut header = vec![0; LogHeader::BYTES];
        let file = &*self.view.0.file;
        let read = read_at(file, &mut header, 0).map_err(|e| self.view.error("read", e))?;
        header.truncate(read);
        Ok(header)
    }

    /// Returns the number of bytes after the last whole entry: the rest of an interrupted write.
    #[must_use]
    pub fn rest(&self) -> u64 {
        self.bytes.saturating_sub(HEADER_BYTES) % NODE_SIZE as u64
    }
}

impl LogRead for ReadOnlyLog {
    fn entries(&self) -> u64 {
        self.view.entries()
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        self.view.read(start, out)
    }
}
