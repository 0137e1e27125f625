//! Resuming from a log that the disk may have changed.

use super::file_log::FileLog;
use crate::{LogError, LogRead, NODE_SIZE, Node, RoundWork, Tree};

/// The most entries that are repaired one by one; if more are wrong, the log is cut.
const MAX_REPAIRED: u64 = 8;
/// Entries per read.
const PIECE: u64 = 4096;

/// Where the work goes on, and what was done to the log.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The tree of all leaves that the log represents.
    pub tree: Tree,
    /// The number of entries that had changed since they were made, and were repaired.
    pub repaired: u64,
    /// The number of entries cut off the end because the work does not produce them.
    pub cut: u64,
}

impl FileLog {
    /// As [`RoundWork::resume`], after repairing what the disk has changed while no process had the
    /// log open. Cuts off zeros at the end, as a power failure leaves them. Then recomputes the
    /// last entry, which shows whether any entry has changed since it was made. A few changed
    /// entries are repaired; if there are more, the log is cut where they begin.
    ///
    /// Takes as long as the work on one subtree, or on some dozens if entries have changed. Does
    /// not find errors of the work itself; [`crate::audit`] does.
    ///
    /// # Errors
    /// Fails if the log cannot be read or written, or is longer than a tree may be.
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

    /// The number of zero entries at the end, which the work never produces.
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
