//! Making a proof from the tree log.
//!
//! The log gives every node at or above the subtree height. One pass over it yields those that the
//! proof needs, and the parked nodes from which the subtrees with proven leaves start. Those
//! subtrees (at most 150, including the incomplete last one) are then recomputed from their labels,
//! together in the lanes of the throughput kernel and in batches over the threads.

use alloc::{vec, vec::Vec};
use core::slice;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::challenge::{proven_indices, siblings};
use crate::log::{LogError, LogRead, SubtreeHeight};
use crate::parallel::{MAX_THREADS, try_for_each};
use crate::tree::{Tree, height};
use crate::upper::{Chunk, Visitor, absorb};
use crate::{Node, Proof, ZERO};

/// Subtrees that one of several threads recomputes together: few, so that no thread waits long for
/// the last one.
const LANES: usize = 16;

/// Why no proof was made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The tree has no leaves.
    #[error("a tree without leaves has no proof")]
    NoLeaves,
    /// The number of threads is out of range.
    #[error("{given} threads are out of range: expected 1 to {MAX_THREADS}")]
    Threads {
        /// The given number.
        given: usize,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An entry of the log is not the root of its subtree.
    #[error("entry {entry} of the log is wrong: its subtree has another root")]
    WrongEntry {
        /// The number of the entry.
        entry: u64,
    },
    /// Another thread set [`ProveProgress::stop`].
    #[error("the proof was stopped")]
    Stopped,
    /// The tree did not grow from this log.
    #[error("the log and the tree do not belong together")]
    WrongTree,
}

/// The progress of a proof. Another thread may read it, and stop the proof.
#[derive(Debug, Default)]
pub struct ProveProgress {
    done: AtomicU64,
    total: AtomicU64,
    stop: AtomicBool,
}

impl ProveProgress {
    /// Set by another thread to make [`prove()`] return [`ProveError::Stopped`] soon, or at once if
    /// it has not begun. Never reset.
    #[must_use]
    pub fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// Returns the hashes done and the total, approximately; 0 of 0 before the start.
    #[must_use]
    pub fn hashes(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.total.load(Relaxed))
    }
}

/// Makes the proof for `tree` with `t` proven leaves (PROTOCOL.md sections 4 and 5), from the log
/// of its subtree roots, on `threads` threads.
///
/// Compares the recomputed subtrees with the log. Uses about 2 MB of memory, however long the log,
/// and 0.3 MB for each further thread. Without feature `std` the calling thread does all the work.
///
/// # Errors
/// Fails if the tree is empty, the log cannot be read, or log and tree contradict each other.
pub fn prove(
    tree: &Tree,
    subtree_height: SubtreeHeight,
    log: &mut dyn LogRead,
    t: usize,
    threads: usize,
    progress: &ProveProgress,
) -> Result<Proof, ProveError> {
    if threads == 0 || threads > MAX_THREADS {
        return Err(ProveError::Threads { given: threads });
    }
    let k = subtree_height.get();
    let plan = Plan::new(tree, t)?;
    let mut pass = Pass::new(&plan, k, progress);

    let entries = plan.leaves >> k;
    let subtree_hashes = subtree_height.leaves() * u64::from(tree.work().depth());
    let hashes = entries * 2 + pass.wanted_starts.len() as u64 * subtree_hashes;
    progress.done.store(0, Relaxed);
    progress.total.store(hashes, Relaxed);

    let mut above = tree.without_leaves();
    absorb(&mut above, subtree_height, log, entries, threads, &mut pass)?;
    if !tree.parked().ends_with(above.parked()) {
        return Err(ProveError::WrongTree);
    }
    let (upper, starts) = pass.finish(above.parked());

    let mut lanes = starts
        .iter()
        .map(|start| Lane::new(start, &plan, k, &above))
        .collect::<Result<Vec<_>, _>>()?;
    recompute_all(&mut lanes, k, threads, progress)?;

    let find = |place: Place| {
        if !plan.is_complete(place) {
            return Ok(plan.incomplete(place));
        }
        let subtree = place.subtree(k);
        let node = if place.height >= k {
            upper.get(place)
        } else {
            let lane = lanes.binary_search_by_key(&subtree, |lane| lane.subtree);
            lane.ok().and_then(|lane| lanes[lane].wanted.get(place))
        };
        node.ok_or(ProveError::WrongTree)
    };
    Ok(Proof {
        root: plan.root,
        proven_leaves: plan.labels().map(find).collect::<Result<_, _>>()?,
        proof_nodes: plan
            .siblings
            .iter()
            .copied()
            .map(find)
            .collect::<Result<_, _>>()?,
    })
}

/// The place of a node in the tree.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    height: u32,
    index: u64,
}

impl Place {
    /// The subtree of height `k` that contains the node, or begins with it.
    fn subtree(self, k: u32) -> u64 {
        if self.height < k {
            self.index >> (k - self.height)
        } else {
            self.index << (self.height - k)
        }
    }
}

/// The parts of a proof.
struct Plan {
    leaves: u64,
    root: Node,
    indices: Vec<u64>,
    /// The places of the proof nodes, in order.
    siblings: Vec<Place>,
    /// For each height, the node whose subtree is incomplete, if any.
    edge: [Node; 65],
}

impl Plan {
    fn new(tree: &Tree, t: usize) -> Result<Self, ProveError> {
        let leaves = tree.leaves();
        let mut edge = [ZERO; 65];
        let root = tree
            .walk(|height, node| edge[height as usize] = *node)
            .ok_or(ProveError::NoLeaves)?;
        let wide = tree.work().kernels().wide_sha256;
        let indices = proven_indices(wide, &root, leaves, t);
        let siblings = siblings(&indices, height(leaves));
        let siblings = siblings
            .map(|(height, index)| Place { height, index })
            .collect();
        Ok(Self {
            leaves,
            root,
            indices,
            siblings,
            edge,
        })
    }

    fn labels(&self) -> impl Iterator<Item = Place> {
        self.indices.iter().map(|&index| Place { height: 0, index })
    }

    /// The nodes to find; those of the ragged edge are known from the tree.
    fn needed(&self) -> impl Iterator<Item = Place> {
        let places = self.siblings.iter().copied().chain(self.labels());
        places.filter(|place| self.is_complete(*place))
    }

    /// Whether all leaves under the node exist.
    fn is_complete(&self, place: Place) -> bool {
        (u128::from(place.index) + 1) << place.height <= u128::from(self.leaves)
    }

    /// Returns an incomplete node.
    fn incomplete(&self, place: Place) -> Node {
        let empty = u128::from(place.index) << place.height >= u128::from(self.leaves);
        if empty {
            ZERO
        } else {
            self.edge[place.height as usize]
        }
    }
}

/// The nodes that a proof needs, picked from a stream in index order.
struct Wanted {
    /// Sorted by height, then index.
    places: Vec<Place>,
    nodes: Vec<Node>,
    /// For each height: the first place not yet seen.
    next: [usize; 65],
}

impl Wanted {
    fn new(places: impl Iterator<Item = Place>) -> Self {
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        let mut next = [0; 65];
        for (height, next) in (0..).zip(&mut next) {
            *next = places.partition_point(|place| place.height < height);
        }
        Self {
            nodes: vec![ZERO; places.len()],
            places,
            next,
        }
    }

    /// Processes `nodes`, the nodes at `height` from index `first` on.
    fn pass(&mut self, height: u32, first: u64, nodes: &[Node]) {
        let next = &mut self.next[height as usize];
        while let Some(place) = self.places.get(*next)
            && place.height == height
            && let Some(offset) = place.index.checked_sub(first)
            && let Some(node) = nodes.get(offset as usize)
        {
            self.nodes[*next] = *node;
            *next += 1;
        }
    }

    fn get(&self, place: Place) -> Option<Node> {
        let at = self.places.binary_search(&place).ok()?;
        (at < self.next[place.height as usize]).then(|| self.nodes[at])
    }
}

/// The start of a subtree to recompute.
struct Start {
    subtree: u64,
    /// The parked nodes before it, lowest first.
    parked: Vec<Node>,
    /// Its root according to the log; `None` for the incomplete subtree after the log.
    root: Option<Node>,
}

/// The pass over the log.
struct Pass<'a> {
    k: u32,
    upper: Wanted,
    /// Subtrees to recompute, in increasing order.
    wanted_starts: Vec<u64>,
    starts: Vec<Start>,
    progress: &'a ProveProgress,
}

impl<'a> Pass<'a> {
    fn new(plan: &Plan, k: u32, progress: &'a ProveProgress) -> Self {
        let below = plan.needed().filter(|place| place.height < k);
        let mut wanted_starts: Vec<_> = below.map(|place| place.subtree(k)).collect();
        wanted_starts.sort_unstable();
        wanted_starts.dedup();
        Self {
            k,
            upper: Wanted::new(plan.needed().filter(|place| place.height >= k)),
            starts: Vec::with_capacity(wanted_starts.len()),
            wanted_starts,
            progress,
        }
    }

    /// `parked`: the parked nodes after the log.
    fn finish(mut self, parked: &[Node]) -> (Wanted, Vec<Start>) {
        let behind = self.wanted_starts[self.starts.len()..].iter();
        self.starts.extend(behind.map(|&subtree| Start {
            subtree,
            parked: parked.to_vec(),
            root: None,
        }));
        (self.upper, self.starts)
    }
}

impl Visitor for Pass<'_> {
    fn chunk(&mut self, chunk: &Chunk, parked: &[Node]) {
        for (h, first, nodes) in chunk.levels() {
            self.upper.pass(self.k + h, first, nodes);
        }
        while let Some(&subtree) = self.wanted_starts.get(self.starts.len())
            && let Some(root) = chunk.entry(subtree)
        {
            let within = chunk.parked(subtree - chunk.start).map(|(_, node)| node);
            self.starts.push(Start {
                subtree,
                parked: within.chain(parked.iter().copied()).collect(),
                root: Some(root),
            });
        }
        self.progress.done.fetch_add(chunk.entries * 2, Relaxed);
    }

    fn node(&mut self, height: u32, index: u64, node: &Node) {
        self.upper.pass(height, index, slice::from_ref(node));
    }
}

/// A subtree being recomputed.
struct Lane {
    subtree: u64,
    tree: Tree,
    /// The leaf count at its end.
    end: u64,
    wanted: Wanted,
    root: Option<Node>,
}

impl Lane {
    fn new(start: &Start, plan: &Plan, k: u32, salted: &Tree) -> Result<Self, ProveError> {
        let Start { subtree, root, .. } = *start;
        let below = plan.needed().filter(|place| place.height < k);
        Ok(Self {
            subtree,
            tree: salted
                .with_parked(subtree << k, &start.parked)
                .map_err(|_| ProveError::WrongTree)?,
            end: ((subtree + 1) << k).min(plan.leaves),
            wanted: Wanted::new(below.filter(|place| place.subtree(k) == subtree)),
            root,
        })
    }

    fn is_running(&self) -> bool {
        self.tree.leaves() < self.end
    }

    /// Adds a label. Returns whether it completed the subtree with a root other than the log's.
    fn push(&mut self, label: Node, k: u32) -> bool {
        let mut wrong = false;
        self.tree.push(label, |height, index, node| {
            if height < k {
                self.wanted.pass(height, index, slice::from_ref(node));
            } else if height == k {
                wrong = self.root.is_some_and(|root| root != *node);
            }
        });
        wrong
    }
}

/// Recomputes subtrees in parallel lanes.
fn recompute(lanes: &mut [Lane], k: u32, progress: &ProveProgress) -> Result<(), ProveError> {
    let Some(first) = lanes.first() else {
        return Ok(());
    };
    let work = *first.tree.work();
    loop {
        if progress.stop.load(Relaxed) {
            return Err(ProveError::Stopped);
        }
        let running = || |lane: &&mut Lane| lane.is_running();
        let trees = lanes.iter_mut().filter(running());
        let mut digests = Tree::first_digests(trees.map(|lane| &mut lane.tree));
        if digests.is_empty() {
            return Ok(());
        }
        work.finish_labels(&mut digests);
        for (lane, label) in lanes.iter_mut().filter(running()).zip(&digests) {
            if lane.push(*label, k) {
                let entry = lane.subtree;
                return Err(ProveError::WrongEntry { entry });
            }
        }
        let hashes = digests.len() as u64 * u64::from(work.depth());
        progress.done.fetch_add(hashes, Relaxed);
    }
}

/// Recomputes all subtrees: on one thread all together, on several in batches that keep all threads
/// equally busy.
fn recompute_all(
    lanes: &mut [Lane],
    k: u32,
    threads: usize,
    progress: &ProveProgress,
) -> Result<(), ProveError> {
    let batch = if threads == 1 {
        lanes.len()
    } else {
        let rounds = lanes.len().div_ceil(threads * LANES).max(1);
        lanes.len().div_ceil(threads * rounds)
    };
    try_for_each(lanes.chunks_mut(batch.max(1)), threads, |lanes| {
        recompute(lanes, k, progress)
    })
}
