//! The end of a log after a power failure.
//!
//! What was being written when the power failed can be there in part: zeros, or what the disk held
//! before. `fsck` leaves zeros, too. All that was synced before is right. So before anything is built
//! on a log, its last entry is recomputed from those before it: if it is right, so are all, because it
//! follows from all. If it is not, the first wrong one among the newest is found by bisection, and the
//! log ends before it. But if the last one is right as soon as a few others are put right, only those
//! were damaged: then nothing is cut, and the audit repairs them.

use alloc::vec;

use crate::Node;
use crate::log::{LogError, LogRead};
use crate::round::RoundWork;
use crate::tree::Tree;

/// Leaves of the entries among which the first wrong one is looked for: what some seconds make, where
/// entries are durable after a fraction of one.
const TAIL_LEAVES: u64 = 1 << 18;
/// The fewest such entries: a sector of a disk.
const MIN_TAIL: u64 = 16;
/// Leaves that are recomputed to see whether a few entries put right are enough, and the most entries:
/// two sectors of a disk.
const REPAIR_LEAVES: u64 = 1 << 16;
const MAX_REPAIRS: u64 = 32;

impl RoundWork<'_> {
    /// The tree of all leaves that a log stands for up to its first damaged entry: where the work goes
    /// on. The entries behind it, if there are any, are to be cut off.
    ///
    /// A few damaged entries before right ones are not the end: the tree is that of the right values,
    /// and the audit repairs the log. Only damage to the end of the log is looked for. If older entries
    /// are wrong, too, the tree is that of all entries, and the audit has to find out.
    ///
    /// # Errors
    /// When the log cannot be read, or is longer than a tree may be.
    pub fn resume_sound(&self, log: &mut dyn LogRead) -> Result<Tree, LogError> {
        let k = self.subtree_height().get();
        self.check_length(log.entries())?;
        let end = without_zeros(log)?;
        let first = end - end.min((TAIL_LEAVES >> k).max(MIN_TAIL));
        let base = self.resume_at(log, first)?;
        let mut tail = vec![Node::default(); (end - first) as usize];
        log.read(first, &mut tail)?;
        let with = |entries: &[Node]| {
            let mut tree = base.clone();
            for entry in entries {
                tree.push_at(k, *entry, |_, _, _| {});
            }
            tree
        };
        let is_right =
            |tail: &[Node], entry: usize| self.next_entry(&mut with(&tail[..entry])) == tail[entry];
        let Some(last) = tail.len().checked_sub(1) else {
            return Ok(base);
        };
        let mut repaired = tail.clone();
        let mut sound = None;
        let mut low = 0;
        for _ in 0..=(REPAIR_LEAVES >> k).clamp(1, MAX_REPAIRS) {
            if is_right(&repaired, last) {
                return Ok(with(&repaired));
            }
            // Entries before the first wrong one are right; behind it none is.
            let mut high = if is_right(&repaired, low) { last } else { low };
            while low < high {
                let middle = low + (high - low) / 2;
                if is_right(&repaired, middle) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            if low == 0 && first > 0 {
                // So older ones may be wrong, too.
                return Ok(with(&tail));
            }
            let sound = *sound.get_or_insert(low);
            if low == last {
                return Ok(with(&tail[..sound]));
            }
            repaired[low] = self.next_entry(&mut with(&repaired[..low]));
            low += 1;
        }
        Ok(with(&tail[..sound.unwrap_or(tail.len())]))
    }
}

/// The entries of a log without the zeros at its end: no subtree has such a root.
fn without_zeros(log: &mut dyn LogRead) -> Result<u64, LogError> {
    let mut end = log.entries();
    let mut block = vec![Node::default(); MIN_TAIL as usize];
    while end > 0 {
        let count = end.min(MIN_TAIL) as usize;
        let block = &mut block[..count];
        log.read(end - count as u64, block)?;
        let zeros = block
            .iter()
            .rev()
            .take_while(|entry| **entry == Node::default());
        let zeros = zeros.count();
        end -= zeros as u64;
        if zeros < count {
            break;
        }
    }
    Ok(end)
}
