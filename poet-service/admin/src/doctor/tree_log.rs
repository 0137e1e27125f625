//! Examines the tree log of a round, and repairs it.
//!
//! The state from which an entry was made follows from all earlier entries. So recomputing the last
//! entry shows whether any entry has changed since it was written; and since everything after a
//! changed entry looks wrong and nothing before it does, bisection finds the first one. Errors of
//! the hashing itself are different, and so are changes from which the work continued after a
//! restart: everything later follows from them, and only recomputing that very entry shows them. A
//! sample of entries may miss them, a full audit does not.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
    thread,
};

use poet_engine::{
    HeaderError, LogError, LogHeader, LogRead, Node, RoundWork, Work,
    audit::{AuditError, AuditWith, Culprit},
    file::{FileLog, ReadOnlyLog},
};
use poet_files::{Access, create_directory, rename_into_place, replace_through};
use poet_rounds::{
    clock::{Clock as _, SystemClock},
    round_files::AUDIT_FILE,
    storage::Execution,
};

use super::DoctorError;
use crate::log_copy::{self, cause};

/// How many entries of a log to recompute without `--full`, besides the first and the last one.
const SAMPLES: usize = 16;
/// The maximum number of entries to replace. If more are wrong, the work itself went wrong.
const MAX_REPLACED: usize = 8;

/// How thoroughly to examine a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Thoroughness {
    /// Whether to recompute all entries.
    pub(super) full: bool,
    /// The number of threads.
    pub(super) threads: usize,
}

/// The state of a log.
#[derive(Debug, PartialEq)]
pub(super) enum State {
    /// There is no log.
    Missing,
    /// Its creation was interrupted; the server creates it again.
    New,
    /// It is sound.
    Sound {
        /// Entries in it.
        entries: u64,
        /// How many of them were recomputed.
        recomputed: u64,
        /// Bytes after the last whole entry.
        rest: u64,
    },
    /// It belongs to other work, or is no log.
    Foreign(HeaderError),
    /// Its header is damaged, but its entries are not.
    Header(HeaderError),
    /// Some entries are wrong.
    Wrong(Wrong),
}

/// Wrong entries, and what to do about them.
#[derive(Debug, PartialEq)]
pub(super) struct Wrong {
    /// Entries in the log.
    pub(super) entries: u64,
    /// The right entries, by their numbers.
    pub(super) right: BTreeMap<u64, Node>,
    /// How many entries can be kept, including the corrected ones.
    pub(super) kept: u64,
}

/// The state of a file with the roots of a log's audited chunks.
#[derive(Debug, PartialEq)]
pub(super) enum Roots {
    /// There is none, or its creation was interrupted; the server creates it again.
    Missing,
    /// It belongs to other work: the server replaces it.
    Foreign,
    /// Its header is damaged.
    Header,
    /// All roots match the log, as far as the log goes.
    Right {
        /// The number of leaves of the log that were audited.
        leaves: u64,
    },
    /// Some roots do not match the log.
    Wrong {
        /// The number of the first wrong one.
        first: u64,
        /// The number of roots.
        roots: u64,
        /// Whether all roots from the first wrong one on are zeros.
        zeros: bool,
    },
}

/// The entries of a log file, some of them replaced.
struct Entries {
    log: ReadOnlyLog,
    /// The number of entries at the start, since a server may append more.
    entries: u64,
    replaced: BTreeMap<u64, Node>,
}

impl Entries {
    fn open(path: &Path, entries: u64, replaced: &BTreeMap<u64, Node>) -> Result<Self, LogError> {
        Ok(Self {
            log: FileLog::open_read_only(path)?,
            entries,
            replaced: replaced.clone(),
        })
    }
}

impl LogRead for Entries {
    fn entries(&self) -> u64 {
        self.entries
    }

    fn read(&mut self, start: u64, out: &mut [Node]) -> Result<(), LogError> {
        self.log.read(start, out)?;
        for (number, node) in self.replaced.range(start..start + out.len() as u64) {
            out[(number - start) as usize] = *node;
        }
        Ok(())
    }
}

/// Opens a log; `None` if there is none.
fn open(path: &Path) -> Result<Option<ReadOnlyLog>, LogError> {
    match FileLog::open_read_only(path) {
        Err(LogError::Io { cause, .. }) if cause.kind() == ErrorKind::NotFound => Ok(None),
        log => log.map(Some),
    }
}

/// The log of a round, and what the round's work is bound to.
pub(super) struct TreeLog<'a> {
    pub(super) work: &'a Work,
    pub(super) execution: &'a Execution,
    pub(super) path: PathBuf,
}

impl TreeLog<'_> {
    /// Returns the header that the log should have.
    pub(super) fn header(&self) -> [u8; LogHeader::BYTES] {
        self.round_work().header_bytes()
    }

    fn round_work(&self) -> RoundWork<'_> {
        self.execution.round_work(self.work)
    }

    /// Compares the audited roots in the file `name` next to the log with the log's entries.
    pub(super) fn roots(&self, name: &str) -> Result<Roots, LogError> {
        let round = self.round_work();
        let auditor = round.auditor();
        let Some(mut file) = open(&self.path.with_file_name(name))? else {
            return Ok(Roots::Missing);
        };
        let expected = round
            .with_subtree_height(auditor.root_height())
            .header_bytes();
        let found = file.header()?;
        if found != expected {
            let known = LogHeader::read(self.work.kernels().sha256, &found).is_ok();
            return Ok(match found.len() < expected.len() {
                false if known => Roots::Foreign,
                true if expected.starts_with(&found) => Roots::Missing,
                _ => Roots::Header,
            });
        }
        let mut log = FileLog::open_read_only(&self.path)?;
        let (roots, entries) = (file.entries(), log.entries());
        let mut first = None;
        let mut zeros = true;
        for chunk in 0..roots {
            let mut root = [Node::default()];
            file.read(chunk, &mut root)?;
            let [root] = root;
            // A root beyond the end of the log cannot be compared; but no root is zero.
            let reached = (chunk + 1) * auditor.chunk_entries() <= entries;
            if root == Node::default() || reached && root != auditor.chunk_root(&mut log, chunk)? {
                first.get_or_insert(chunk);
            }
            zeros &= first.is_none() || root == Node::default();
        }
        Ok(match first {
            Some(first) => Roots::Wrong {
                first,
                roots,
                zeros,
            },
            None => Roots::Right {
                leaves: roots.saturating_mul(auditor.root_height().leaves()),
            },
        })
    }

    /// Cuts a file of roots to the first `roots`. Keeps the original like [`TreeLog::repair`].
    pub(super) fn cut_roots(&self, name: &str, roots: u64) -> io::Result<PathBuf> {
        let path = self.path.with_file_name(name);
        let mut log = FileLog::open_read_only(&path).map_err(cause)?;
        let header = log.header().map_err(cause)?;
        replace_log(&path, &header, &mut log, roots)
    }

    /// Examines the log.
    pub(super) fn examine(&self, thoroughness: Thoroughness) -> Result<State, DoctorError> {
        let Some(log) = open(&self.path)? else {
            return Ok(State::Missing);
        };
        let (found, expected) = (log.header()?, self.header());
        if found.len() < expected.len() {
            return Ok(if expected.starts_with(&found) {
                State::New
            } else {
                State::Foreign(HeaderError::Magic)
            });
        }
        let (entries, rest) = (log.entries(), log.rest());
        if found != expected {
            return Ok(self.other_header(&found, entries)?);
        }
        let (recomputed, wrong) = if thoroughness.full {
            (entries, self.audit(entries, thoroughness.threads)?)
        } else {
            self.sample(entries, thoroughness.threads)?
        };
        Ok(wrong.map_or(
            State::Sound {
                entries,
                recomputed,
                rest,
            },
            State::Wrong,
        ))
    }

    /// Returns the state of a log with an unexpected header.
    fn other_header(&self, header: &[u8], entries: u64) -> Result<State, LogError> {
        let sha256 = self.work.kernels().sha256;
        let damaged = match LogHeader::read(sha256, header) {
            Ok(header) => {
                let why = header.check(&self.round_work().header()).err();
                return Ok(State::Foreign(why.unwrap_or(HeaderError::Unknown)));
            }
            Err(why) => why,
        };
        let last = entries.checked_sub(1);
        let fits = |entry| self.is_right(entry, entries, &BTreeMap::new());
        if let Some(last) = last
            && fits(0)?
            && fits(last)?
        {
            return Ok(State::Header(damaged));
        }
        Ok(State::Foreign(damaged))
    }

    /// Recomputes an entry from the earlier ones.
    fn recompute(
        &self,
        entry: u64,
        entries: u64,
        replaced: &BTreeMap<u64, Node>,
    ) -> Result<(Node, Node), LogError> {
        let mut log = Entries::open(&self.path, entries, replaced)?;
        let mut stored = [Node::default()];
        log.read(entry, &mut stored)?;
        Ok((
            stored[0],
            self.round_work().recompute_entry(&mut log, entry)?,
        ))
    }

    fn is_right(
        &self,
        entry: u64,
        entries: u64,
        replaced: &BTreeMap<u64, Node>,
    ) -> Result<bool, LogError> {
        let (stored, root) = self.recompute(entry, entries, replaced)?;
        Ok(stored == root)
    }

    /// Recomputes some entries. Returns how many, and what is wrong.
    fn sample(&self, entries: u64, threads: usize) -> Result<(u64, Option<Wrong>), DoctorError> {
        let Some(last) = entries.checked_sub(1) else {
            return Ok((0, None));
        };
        let mut random = [0; SAMPLES * 8];
        // If this fails, it is always the same sample.
        let _ = getrandom::fill(&mut random);
        let random = random.as_chunks().0.iter();
        let mut sample: Vec<_> = random
            .map(|bytes| u64::from_le_bytes(*bytes) % entries)
            .chain([0, last])
            .collect();
        sample.sort_unstable();
        sample.dedup();
        let unchanged = BTreeMap::new();
        let checked = thread::scope(|scope| {
            let checks: Vec<_> = (0..threads.clamp(1, sample.len()))
                .map(|first| {
                    let mine = sample.iter().skip(first).step_by(threads.max(1));
                    let check = |entry: &u64| {
                        Ok((*entry, self.is_right(*entry, entries, &BTreeMap::new())?))
                    };
                    scope.spawn(move || mine.map(check).collect::<Result<Vec<_>, LogError>>())
                })
                .collect();
            // Joins all threads before it uses a result: the scope panics if a thread that was not
            // joined has panicked.
            let results: Vec<_> = checks.into_iter().map(|check| check.join()).collect();
            let mut checked = BTreeMap::new();
            for result in results {
                checked.extend(result.map_err(|_| DoctorError::Check)??);
            }
            Ok::<_, DoctorError>(checked)
        })?;
        let recomputed = checked.len() as u64;
        let Some((&wrong, _)) = checked.iter().find(|(_, right)| !**right) else {
            return Ok((recomputed, None));
        };
        let before = checked.range(..wrong).next_back().map(|(entry, _)| *entry);
        let mut right = unchanged;
        let (mut low, mut high) = (before, wrong);
        loop {
            let first = self.first_wrong(low, high, entries, &right)?;
            let (_, value) = self.recompute(first, entries, &right)?;
            right.insert(first, value);
            let still_wrong = [wrong, last]
                .into_iter()
                .map(|entry| Ok((entry, self.is_right(entry, entries, &right)?)))
                .collect::<Result<Vec<_>, LogError>>()?;
            let Some((next, _)) = still_wrong.into_iter().find(|(_, right)| !right) else {
                let kept = entries;
                return Ok((
                    recomputed,
                    Some(Wrong {
                        entries,
                        right,
                        kept,
                    }),
                ));
            };
            if right.len() == MAX_REPLACED {
                let kept = right.keys().next().copied().unwrap_or_default();
                right.clear();
                return Ok((
                    recomputed,
                    Some(Wrong {
                        entries,
                        right,
                        kept,
                    }),
                ));
            }
            (low, high) = (Some(first), next);
        }
    }

    /// Returns the first wrong entry after `low`, which is right, and up to `high`, which is wrong.
    fn first_wrong(
        &self,
        low: Option<u64>,
        mut high: u64,
        entries: u64,
        replaced: &BTreeMap<u64, Node>,
    ) -> Result<u64, LogError> {
        // The first entry that is not known to be right.
        let mut first = low.map_or(0, |low| low + 1);
        while first < high {
            let middle = first + (high - first) / 2;
            if self.is_right(middle, entries, replaced)? {
                first = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(high)
    }

    /// Recomputes all entries.
    fn audit(&self, entries: u64, threads: usize) -> Result<Option<Wrong>, LogError> {
        let mut log = Entries::open(&self.path, entries, &BTreeMap::new())?;
        let mut auditor = self.round_work().auditor();
        let stop = AtomicBool::new(false);
        let with = AuditWith {
            threads,
            stop: &stop,
        };
        let mut right = BTreeMap::new();
        let mut kept = entries;
        loop {
            let before = auditor.entries();
            let mut findings = match auditor.step(&mut log, with) {
                Ok(findings) => findings,
                Err(AuditError::Log(error)) => return Err(error),
                // Nothing stops this audit.
                Err(AuditError::Stopped) => break,
            };
            let finished = findings.is_empty() && auditor.entries() == before;
            if finished {
                // Later entries do not follow from these, so these are replaced, whatever the
                // cause.
                findings.extend(auditor.decide(Culprit::Work));
            }
            for finding in findings {
                let numbered = (finding.entry..).zip(finding.right);
                match finding.culprit {
                    Culprit::Auditor => {}
                    Culprit::Copy => right.extend(numbered),
                    Culprit::Work => {
                        right.extend(numbered);
                        kept = right.keys().next_back().map_or(entries, |last| last + 1);
                    }
                }
            }
            if finished || kept < entries {
                break;
            }
        }
        Ok((!right.is_empty()).then_some(Wrong {
            entries,
            right,
            kept,
        }))
    }

    /// Corrects wrong entries, or cuts the log. Keeps the original under another name, and returns
    /// that name.
    pub(super) fn repair(&self, wrong: &Wrong) -> io::Result<PathBuf> {
        // If the log is cut, its audited roots go beyond its end.
        let audit_log = self.path.with_file_name(AUDIT_FILE);
        if wrong.kept < wrong.entries && audit_log.exists() {
            set_aside(&audit_log)?;
        }
        self.rewrite(wrong.kept, &wrong.right)
    }

    /// Writes the header that the log should have. Keeps the original like [`TreeLog::repair`].
    pub(super) fn repair_header(&self) -> io::Result<PathBuf> {
        let log = FileLog::open_read_only(&self.path).map_err(cause)?;
        self.rewrite(log.entries(), &BTreeMap::new())
    }

    /// Replaces the log, so that a log exists at every moment.
    fn rewrite(&self, entries: u64, right: &BTreeMap<u64, Node>) -> io::Result<PathBuf> {
        let mut log = Entries::open(&self.path, entries, right).map_err(cause)?;
        replace_log(&self.path, &self.header(), &mut log, entries)
    }
}

/// Replaces the log at `path` by one with this header and the first entries of `log`, so that a log
/// exists at every moment. Returns the name of the original.
fn replace_log(
    path: &Path,
    header: &[u8],
    log: &mut dyn LogRead,
    entries: u64,
) -> io::Result<PathBuf> {
    let kept = kept_name(path);
    replace_through(&path.with_extension("repaired"), path, |target| {
        log_copy::write(target, header, log, entries)?;
        fs::hard_link(path, &kept).or_else(|_| fs::copy(path, &kept).map(drop))
    })?;
    Ok(kept)
}

/// Renames a file so that it does no harm. Returns the new name.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let kept = kept_name(path);
    rename_into_place(path, &kept)?;
    Ok(kept)
}

/// Moves a file to where it belongs.
pub(super) fn put_back(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        create_directory(folder, Access::Private)?;
    }
    rename_into_place(from, to)
}

/// Returns a name for the damaged original of a file.
fn kept_name(path: &Path) -> PathBuf {
    let time = SystemClock.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let name = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".damaged-{time}{suffix}"));
        PathBuf::from(name)
    };
    let again = (2..).map(|number| name(&format!("-{number}")));
    // Several in one second are rare, and some number is free.
    std::iter::once(name(""))
        .chain(again)
        .find(|kept| !kept.exists())
        .unwrap_or_else(|| name(""))
}

#[cfg(test)]
mod tests {
    use poet_engine::{Chain, SubtreeHeight, WorkFunction};

    use super::*;

    /// A faulty kernel.
    #[derive(Debug)]
    struct Failing;

    impl Chain for Failing {
        fn one(&self, _: &mut Node, _: u32) {
            panic!("a fault of the kernel");
        }

        fn many(&self, _: &mut [Node], _: u32) {
            panic!("a fault of the kernel");
        }
    }

    #[test]
    fn a_check_that_panics_is_called_that() {
        let backends = poet_backends::select(WorkFunction::Sha256, None).unwrap();
        let mut kernels = *backends.work(2).unwrap().kernels();
        kernels.chain = &Failing;
        let work = Work::new(WorkFunction::Sha256, 2, kernels).unwrap();
        let execution = Execution {
            statement: vec![1; 32],
            subtree_height: SubtreeHeight::new(0).unwrap(),
        };
        let folder = tempfile::tempdir().unwrap();
        let log = TreeLog {
            work: &work,
            execution: &execution,
            path: folder.path().join("tree.log"),
        };
        let entries = [[7; 32]; 100];
        fs::write(
            &log.path,
            [&log.header()[..], entries.as_flattened()].concat(),
        )
        .unwrap();
        let thoroughness = Thoroughness {
            full: false,
            threads: 2,
        };
        let error = log.examine(thoroughness).unwrap_err();
        assert!(matches!(error, DoctorError::Check), "{error}");
    }
}
