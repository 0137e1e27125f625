//! The end of a log after a power failure.
//!
//! A write that was in progress when the power failed may be on the disk in part: the rest is
//! zeros, or what the disk held before. `fsck` leaves zeros as well. Everything synced before is
//! right. So before a log is used, its last entry is recomputed from those before it: if it is
//! right, so are all, because it follows from all. If not, bisection finds the first wrong one
//! among the newest, and the log ends before it. But if correcting a few entries makes the last one
//! right, only those were damaged: then nothing is cut, and the audit repairs them.

use alloc::vec;

use crate::Node;
use crate::log::{LogError, LogRead};
use crate::round::RoundWork;
use crate::tree::Tree;

/// The leaves of the entries among which the first wrong one is searched: the work of some seconds,
/// while entries become durable within a fraction of one.
const TAIL_LEAVES: u64 = 1 << 18;
/// The fewest entries to search: a sector of a disk.
const MIN_TAIL: u64 = 16;
/// The most leaves that are recomputed to see whether correcting a few entries is enough, and the
/// most entries: two sectors of a disk.
const REPAIR_LEAVES: u64 = 1 << 16;
const MAX_REPAIRS: u64 = 32;

impl RoundWork<'_> {
    /// Returns the tree of all leaves up to the log's first damaged entry, from which the work goes
    /// on. Entries after it must be cut off.
    ///
    /// A few damaged entries before right ones do not end the log: the tree contains the right
    /// values, and the audit repairs the log. Looks only for damage to the end of the log. If older
    /// entries are wrong, too, the tree is that of all entries, and the audit must find the damage.
    ///
    /// # Errors
    /// Fails if the log cannot be read, or is longer than a tree may be.
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
            // Entries before the first wrong one are right; after it, none is.
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
                // Older ones may be wrong, too.
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

/// The number of entries without the zeros at the log's end: no subtree has a root of zeros.
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
