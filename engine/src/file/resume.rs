//! Going on from a log that the disk may have changed.

use super::FileLog;
use crate::{LogError, LogRead, NODE_SIZE, Node, RoundWork, Tree};

/// Entries that are put right one by one; after more of them the log is cut.
const MAX_REPAIRED: u64 = 8;
/// Entries that are read at once.
const PIECE: u64 = 4096;

/// Where the work goes on, and what had to be done for it.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The tree of all leaves that the log stands for.
    pub tree: Tree,
    /// Entries that had changed since they were made, and were put right.
    pub repaired: u64,
    /// Entries that were cut off at the end, because they were not what the work makes.
    pub cut: u64,
}

impl FileLog {
    /// As [`RoundWork::resume`], after a look at what the disk has made of the log while nobody had it
    /// open. Zeros at the end, as a power cut leaves them, are cut off. Then the last entry is made once
    /// more, which shows whether any entry has changed since it was made: some are put right, and after
    /// more than that the log is cut where they begin.
    ///
    /// It takes as long as the work on one subtree; if something has changed, as that on some dozens.
    /// What the work got wrong itself is not found: for that there is [`crate::audit`].
    ///
    /// # Errors
    /// When the log cannot be read or written, or is longer than a tree may be.
    pub fn resume(&mut self, round: &RoundWork<'_>) -> Result<Resumed, LogError> {
        let before = self.entries();
        let zeros = self.zeros_at_end()?;
        if zeros > 0 {
            self.cut(before - zeros)?;
        }
        let mut repaired = 0;
        loop {
            if let Some(tree) = round.resume_checked(self)? {
                let cut = before - self.entries();
                return Ok(Resumed {
                    tree,
                    repaired,
                    cut,
                });
            }
            let wrong = round.first_wrong(self)?;
            if repaired == MAX_REPAIRED {
                self.cut(wrong)?;
                continue;
            }
            let right = round.recompute_entry(self, wrong)?;
            self.0.repair(wrong, &[right])?;
            repaired += 1;
        }
    }

    /// How many entries at the end are zero, which no work ever makes.
    fn zeros_at_end(&mut self) -> Result<u64, LogError> {
        let entries = self.entries();
        let mut start = entries;
        while start > 0 {
            let count = start.min(PIECE);
            let mut piece = vec![[0; NODE_SIZE]; count as usize];
            self.read(start - count, &mut piece)?;
            let zeros = piece.iter().rev().take_while(|e| **e == Node::default());
            let zeros = zeros.count() as u64;
            start -= zeros;
            if zeros < count {
                break;
            }
        }
        Ok(entries - start)
    }
}
