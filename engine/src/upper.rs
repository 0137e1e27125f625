//! The tree above the log: one streaming pass over the entries.
//!
//! Entries come in chunks of a complete subtree (the last one shorter). Within a chunk the tree is
//! built level by level, so that the independent nodes of a level are hashed in parallel lanes; the
//! chunk's root then goes into the [`Tree`] as one node. Memory: one chunk with its levels for each
//! thread.

use alloc::{vec, vec::Vec};

use crate::log::{LogError, LogRead, SubtreeHeight};
use crate::parallel::in_order;
use crate::tree::Tree;
use crate::wide::NodeHasher;
use crate::{Node, ZERO};

/// A chunk is a subtree of 2^12 entries: 128 KiB.
const CHUNK_HEIGHT: u32 = 12;
const CHUNK: u64 = 1 << CHUNK_HEIGHT;

/// A chunk of entries, and all complete nodes above them within it.
pub(crate) struct Chunk {
    /// The number of the first entry; a multiple of the chunk size.
    pub(crate) start: u64,
    /// The number of entries in it.
    pub(crate) entries: u64,
    /// The nodes h levels above the entries.
    levels: Vec<Vec<Node>>,
}

impl Chunk {
    /// Returns the nodes of each height above the entries (0: the entries themselves), with the
    /// index of the first of them at that height of the log's tree.
    pub(crate) fn levels(&self) -> impl Iterator<Item = (u32, u64, &[Node])> {
        (0..).zip(&self.levels).map(|(h, nodes)| {
            let count = (self.entries >> h) as usize;
            (h, self.start >> h, &nodes[..count])
        })
    }

    /// Returns the nodes within this chunk that are parked after its first `entries` entries,
    /// lowest first: (height above the entries, node).
    pub(crate) fn parked(&self, entries: u64) -> impl DoubleEndedIterator<Item = (u32, Node)> {
        (0..=CHUNK_HEIGHT)
            .filter(move |h| entries >> h & 1 == 1)
            .map(move |h| (h, self.levels[h as usize][(entries >> h) as usize - 1]))
    }

    /// Returns the entry with this number, if it is in the chunk.
    pub(crate) fn entry(&self, number: u64) -> Option<Node> {
        let offset = number.checked_sub(self.start)?;
        (offset < self.entries).then(|| self.levels[0][offset as usize])
    }

    fn build(&mut self, hasher: &NodeHasher) {
        for h in 1..=CHUNK_HEIGHT as usize {
            let count = (self.entries >> h) as usize;
            let (below, level) = self.levels.split_at_mut(h);
            let pairs = below[h - 1].as_chunks().0;
            hasher.parents(&pairs[..count], &mut level[0][..count]);
        }
    }
}

/// Sees the nodes of the pass.
pub(crate) trait Visitor {
    /// Called for a chunk before it goes into the tree, with the tree's parked nodes (lowest
    /// first).
    fn chunk(&mut self, chunk: &Chunk, parked: &[Node]);

    /// Called for a node above the chunks.
    fn node(&mut self, height: u32, index: u64, node: &Node);
}

/// Ignores all nodes.
impl Visitor for () {
    fn chunk(&mut self, _: &Chunk, _: &[Node]) {}
    fn node(&mut self, _: u32, _: u64, _: &Node) {}
}

/// Adds the first `entries` entries of `log` to `tree`, which must have no leaves, on up to
/// `threads` threads.
pub(crate) fn absorb(
    tree: &mut Tree,
    subtree_height: SubtreeHeight,
    log: &mut dyn LogRead,
    entries: u64,
    threads: usize,
    visitor: &mut dyn Visitor,
) -> Result<(), LogError> {
    let hasher = tree.node_hasher();
    let size = entries.min(CHUNK);
    let chunk = |_| Chunk {
        start: 0,
        entries: 0,
        levels: (0..=CHUNK_HEIGHT)
            .map(|h| vec![ZERO; (size >> h) as usize])
            .collect(),
    };
    let at_once = entries.div_ceil(CHUNK).min(threads as u64);
    let mut next = 0;
    in_order(
        (0..at_once).map(chunk).collect(),
        |chunk| {
            chunk.start = next;
            chunk.entries = (entries - next).min(CHUNK);
            next += chunk.entries;
            let nodes = &mut chunk.levels[0][..chunk.entries as usize];
            if !nodes.is_empty() {
                log.read(chunk.start, nodes)?;
            }
            Ok(chunk.entries > 0)
        },
        |chunk| chunk.build(&hasher),
        |chunk| {
            visitor.chunk(chunk, tree.parked());
            for (h, node) in chunk.parked(chunk.entries).rev() {
                tree.push_at(subtree_height.get() + h, node, |h, index, node| {
                    visitor.node(h, index, node);
                });
            }
        },
    )
}
