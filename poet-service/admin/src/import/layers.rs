//! Converts the Go server's layer files to a tree log.
//!
//! A layer file holds the nodes of one height, 32 bytes each, in order. The log needs those at the
//! round's subtree height k: the highest layer at or below k is read from front to back, and hashed
//! upwards if it is below. A mainnet server has layers 0 to 10 on disk: layer 10 takes 3 GB, layer
//! 0 three terabytes. The conversion holds one chunk of nodes in memory.
//!
//! A file's last nodes are written late, and in higher layers they represent more leaves. So if a
//! server was killed, lower layers may reach further than higher ones: the log is continued from
//! those, which requires reading only their ends.
//!
//! Layers are ahead of what the Go server recorded as done: it records every 2^24 leaves and when
//! it stops. What is ahead is as good as the rest if it passes the check, so it is used.
//!
//! *The check*: subtrees are recomputed from their labels and compared with the log. A label
//! depends on all nodes to its left, so the last subtree has the right root only if every entry of
//! the log is the one that the Go server worked with: the check of that subtree finds damage
//! anywhere in the file. The first subtree, and some at random, show that the Go server's own work
//! was right.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use poet_engine::{
    LogError, LogRead, MAX_LEAVES, NODE_SIZE, Node, RoundWork, SubtreeHeight, Work, ZERO,
    file::FileLog,
};
use poet_files::{Access, create_directory, reason, rename_into_place};
use poet_rounds::round_files::LOG_FILE;

use super::report::ImportProgress;

/// The log while it is being made.
const PART_FILE: &str = "tree.log.part";
/// Nodes to read between two progress reports: 512 KiB.
const CHUNK_NODES: u64 = 1 << 14;
/// Chunks to write between two syncs: 64 MiB.
const SYNC_CHUNKS: u64 = 128;
/// Subtrees to recompute besides the first and the last one.
const RANDOM_CHECKS: usize = 8;
const READ_BUFFER_BYTES: usize = 1 << 20;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum LayerError {
    #[error("cannot {action} {path}: {}", reason(cause))]
    Io {
        action: &'static str,
        path: PathBuf,
        cause: io::Error,
    },
    #[error(
        "{folder} has no layer file at or below height {height}, but {leaves} leaves are recorded"
    )]
    NoLayer {
        folder: PathBuf,
        height: u32,
        leaves: u64,
    },
    #[error(
        "{path} is cut: it has {found} nodes, {expected} are recorded as done; if it is moved \
         away, the next lower layer is read instead"
    )]
    Cut {
        path: PathBuf,
        found: u64,
        expected: u64,
    },
    #[error(
        "{path} is damaged: node {node} is not what the work gives; if it is moved away, the next \
         lower layer is read instead"
    )]
    Wrong { path: PathBuf, node: u64 },
    #[error("the system gives no random numbers: {0}")]
    Random(getrandom::Error),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("interrupted")]
    Interrupted,
}

/// The work of a round to take over.
pub(super) struct Layers<'a> {
    pub(super) work: &'a Work,
    pub(super) round: u64,
    pub(super) statement: &'a [u8],
    pub(super) subtree_height: SubtreeHeight,
    /// Leaves that the Go server recorded as done.
    pub(super) recorded: u64,
    /// The folder of the layer files.
    pub(super) source: PathBuf,
    /// The folder of the log.
    pub(super) target: PathBuf,
    pub(super) stop: &'a AtomicBool,
}

/// A layer file to read.
struct Layer {
    path: PathBuf,
    height: u32,
    /// The number of entries that the log has after it was read.
    entries: u64,
}

impl Layers<'_> {
    /// Makes the log, checks it and gives it its name. Returns the number of leaves that it
    /// represents.
    ///
    /// Continues an interrupted run. After any other failure, nothing remains.
    pub(super) fn take_over(
        &self,
        report: &mut dyn FnMut(ImportProgress),
    ) -> Result<u64, LayerError> {
        let layers = self.layers()?;
        if layers.is_empty() {
            return Ok(0);
        }
        let made = self.make(&layers, report);
        if !matches!(made, Ok(_) | Err(LayerError::Interrupted)) {
            self.remove();
        }
        made
    }

    /// Removes what was made, and the folders that were created for it.
    pub(super) fn remove(&self) {
        for name in [PART_FILE, LOG_FILE] {
            drop(fs::remove_file(self.target.join(name)));
        }
        // Fails for folders that are not empty.
        for folder in self.target.ancestors().take(2) {
            drop(fs::remove_dir(folder));
        }
    }

    /// Returns the layers to read, from the highest one down, each for what the higher ones lack.
    /// Empty if the work done is not worth it.
    fn layers(&self) -> Result<Vec<Layer>, LayerError> {
        let k = self.subtree_height.get();
        let mut layers: Vec<Layer> = Vec::new();
        let mut missing = true;
        for height in (0..=k).rev() {
            let path = self.source.join(format!("layercache_{height}.bin"));
            let bytes = match fs::metadata(&path) {
                Ok(metadata) => metadata.len(),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                Err(cause) => return Err(failed("read", &path, cause)),
            };
            let (found, expected) = (bytes / NODE_SIZE as u64, self.recorded >> height);
            // A lower layer that is cut is not needed.
            if missing && found < expected {
                return Err(LayerError::Cut {
                    path,
                    found,
                    expected,
                });
            }
            missing = false;
            let entries = (found >> (k - height)).min(MAX_LEAVES >> k);
            if entries > layers.last().map_or(0, |above| above.entries) {
                layers.push(Layer {
                    path,
                    height,
                    entries,
                });
            }
        }
        if missing && self.recorded > 0 {
            return Err(LayerError::NoLayer {
                folder: self.source.clone(),
                height: k,
                leaves: self.recorded,
            });
        }
        Ok(layers)
    }

    fn make(
        &self,
        layers: &[Layer],
        report: &mut dyn FnMut(ImportProgress),
    ) -> Result<u64, LayerError> {
        create_directory(&self.target, Access::Private)
            .map_err(|e| failed("create", &self.target, e))?;
        let (part, log_file) = (self.target.join(PART_FILE), self.target.join(LOG_FILE));
        if log_file.exists() {
            // An earlier run ended here.
            rename_into_place(&log_file, &part).map_err(|e| failed("rename", &log_file, e))?;
        }
        let (mut log, resumed) = self.convert(layers, &part, report)?;
        let mut good = self.good_entries(layers, &mut log, report);
        if resumed && matches!(good, Err(LayerError::Wrong { .. })) {
            // The earlier run may have ended with a power failure that damaged the log.
            drop(log);
            fs::remove_file(&part).map_err(|e| failed("remove", &part, e))?;
            (log, _) = self.convert(layers, &part, report)?;
            good = self.good_entries(layers, &mut log, report);
        }
        let entries = good?;
        log.sync()?;
        log.cut(entries)?;
        drop(log);
        rename_into_place(&part, &log_file).map_err(|cause| failed("store", &log_file, cause))?;
        Ok(entries << self.subtree_height.get())
    }

    /// Continues or begins the conversion. Returns whether it continued an earlier one.
    fn convert(
        &self,
        layers: &[Layer],
        part: &Path,
        report: &mut dyn FnMut(ImportProgress),
    ) -> Result<(FileLog, bool), LayerError> {
        let round = self.round_work();
        let mut log = match FileLog::open(part, &round) {
            // Made with other options.
            Err(LogError::Foreign { .. }) => {
                fs::remove_file(part).map_err(|e| failed("remove", part, e))?;
                FileLog::open(part, &round)
            }
            opened => opened,
        }?;
        let resumed = log.entries() > 0;
        for layer in layers {
            self.read_layer(layer, &mut log, report)?;
        }
        Ok((log, resumed))
    }

    /// Appends what `layer` has and the log lacks.
    fn read_layer(
        &self,
        layer: &Layer,
        log: &mut FileLog,
        report: &mut dyn FnMut(ImportProgress),
    ) -> Result<(), LayerError> {
        let levels = self.subtree_height.get() - layer.height;
        let mut nodes = Nodes::open(&layer.path, log.entries() << levels)?;
        let mut chunk = Vec::new();
        let mut chunks = 0_u64;
        while log.entries() < layer.entries {
            let count = (CHUNK_NODES >> levels)
                .max(1)
                .min(layer.entries - log.entries());
            chunk.clear();
            for _ in 0..count {
                chunk.push(self.subtree_root(&mut nodes, levels)?);
                // An entry may represent many nodes.
                if self.stop.load(Relaxed) {
                    log.append(&chunk)?;
                    log.sync()?;
                    return Err(LayerError::Interrupted);
                }
            }
            log.append(&chunk)?;
            chunks += 1;
            if chunks.is_multiple_of(SYNC_CHUNKS) {
                log.sync()?;
            }
            report(ImportProgress::Converting {
                round: self.round,
                height: layer.height,
                done: log.entries() << levels,
                total: layer.entries << levels,
            });
        }
        log.sync()?;
        Ok(())
    }

    fn round_work(&self) -> RoundWork<'_> {
        RoundWork::new(self.work, self.statement, self.subtree_height)
    }

    /// Returns the root over the next 2^`levels` nodes.
    fn subtree_root(&self, nodes: &mut Nodes, levels: u32) -> Result<Node, LayerError> {
        if levels == 0 {
            let mut node = [ZERO];
            nodes.next(&mut node)?;
            return Ok(node[0]);
        }
        // Whatever their height, they are hashed as the leaves of a tree.
        nodes.window = 1 << levels;
        let bottom = SubtreeHeight::new(0).unwrap_or(SubtreeHeight::MAX);
        let tree = self
            .round_work()
            .with_subtree_height(bottom)
            .resume(nodes)?;
        Ok(tree.parked().first().copied().unwrap_or(ZERO))
    }

    /// Returns how many entries can be trusted: all, or at least the recorded ones.
    fn good_entries(
        &self,
        layers: &[Layer],
        log: &mut FileLog,
        report: &mut dyn FnMut(ImportProgress),
    ) -> Result<u64, LayerError> {
        let k = self.subtree_height.get();
        let mut good = log.entries();
        if !self.is_right(log, good - 1)? {
            // All entries before the first wrong one are right, and none after it.
            let mut bad = good - 1;
            good = 0;
            while good < bad {
                let middle = good + (bad - good) / 2;
                report(ImportProgress::Searching { round: self.round });
                if self.is_right(log, middle)? {
                    good = middle + 1;
                } else {
                    bad = middle;
                }
            }
            if good < self.recorded >> k {
                return Err(self.wrong(layers, good));
            }
            tracing::debug!(good, "what is ahead of the record is not intact");
        }
        let checks = sample(good)?;
        let total = checks.len() as u64;
        for (done, entry) in (0..).zip(checks) {
            report(ImportProgress::Checking {
                round: self.round,
                done,
                total,
            });
            if !self.is_right(log, entry)? {
                return Err(self.wrong(layers, entry));
            }
        }
        Ok(good)
    }

    /// Returns the error for a wrong `entry`, which came from the first layer that reaches so far.
    fn wrong(&self, layers: &[Layer], entry: u64) -> LayerError {
        let first = layers.partition_point(|layer| layer.entries <= entry);
        let layer = &layers[first.min(layers.len() - 1)];
        LayerError::Wrong {
            path: layer.path.clone(),
            node: entry << (self.subtree_height.get() - layer.height),
        }
    }

    /// Returns whether an entry is the root of its subtree, recomputed from the state before it.
    fn is_right(&self, log: &mut FileLog, entry: u64) -> Result<bool, LayerError> {
        if self.stop.load(Relaxed) {
            return Err(LayerError::Interrupted);
        }
        let mut stored = [ZERO];
        log.read(entry, &mut stored)?;
        Ok(self.round_work().recompute_entry(log, entry)? == stored[0])
    }
}

/// Selects which of the first `entries` entries to check.
fn sample(entries: u64) -> Result<BTreeSet<u64>, LayerError> {
    if entries == 0 {
        return Ok(BTreeSet::new());
    }
    let mut checks = BTreeSet::from([0, entries - 1]);
    for _ in 0..RANDOM_CHECKS {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(LayerError::Random)?;
        checks.insert(u64::from_le_bytes(random) % entries);
    }
    Ok(checks)
}

fn failed(action: &'static str, path: &Path, cause: io::Error) -> LayerError {
    LayerError::Io {
        action,
        path: path.to_owned(),
        cause,
    }
}

/// A layer file, read from front to back. As a log, it is a window on the next nodes.
struct Nodes {
    reader: BufReader<File>,
    path: PathBuf,
    window: u64,
}

impl Nodes {
    fn open(path: &Path, first: u64) -> Result<Self, LayerError> {
        let open = || {
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(first * NODE_SIZE as u64))?;
            Ok(BufReader::with_capacity(READ_BUFFER_BYTES, file))
        };
        Ok(Self {
            reader: open().map_err(|cause| failed("read", path, cause))?,
            path: path.to_owned(),
            window: 0,
        })
    }

    fn next(&mut self, out: &mut [Node]) -> Result<(), LogError> {
        self.reader
            .read_exact(out.as_flattened_mut())
            .map_err(|cause| LogError::Io {
                action: "read",
                path: self.path.display().to_string(),
                cause,
            })
    }
}

impl LogRead for Nodes {
    fn entries(&self) -> u64 {
        self.window
    }

    fn read(&mut self, _: u64, out: &mut [Node]) -> Result<(), LogError> {
        // Logs are read in order.
        self.next(out)
    }
}
