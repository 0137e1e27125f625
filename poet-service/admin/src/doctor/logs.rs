//! Examines the logs of rounds, and the files next to them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
};

use poet_engine::file::FileLog;
use poet_rounds::{
    round_files::{self, AUDIT_FILE, FINDINGS_FILE, ROUNDS_FOLDER, SAMPLED_FILE},
    storage::Execution,
    worker::{AuditReport, MAX_UNSYNCED_LEAVES},
};

use super::{
    Doctor, DoctorError, Unfinished,
    tree_log::{Roots, State, Thoroughness, TreeLog, Wrong, put_back, set_aside},
    unwritable,
};

impl Doctor<'_> {
    /// Examines the tree logs of rounds that are worked on, and all others.
    pub(super) fn logs(
        &mut self,
        unfinished: &mut BTreeMap<u64, Unfinished>,
    ) -> Result<(), DoctorError> {
        let folder = self.examination.directories.datadir.join(ROUNDS_FOLDER);
        self.line(&format!("work {}", folder.display()))?;
        let mut found: Vec<u64> = match fs::read_dir(&folder) {
            Ok(entries) => entries
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(cause) => return Err(self.io("read", &folder, cause)),
        };
        found.sort_unstable();
        let mut aside = Vec::new();
        for round in found {
            match unfinished.get(&round).map(|round| round.execution.clone()) {
                Some(execution) => {
                    let log = self.log(round, &execution, unfinished, &mut aside)?;
                    if let Some(round) = unfinished.get_mut(&round) {
                        round.log = log;
                    }
                }
                None => self.log_without_round(round, unfinished, &mut aside)?,
            }
        }
        // A log in the wrong place may belong to another round.
        for kept in aside {
            let Some(round) = self.belongs_to(&kept, unfinished) else {
                continue;
            };
            let Some(found) = unfinished.get_mut(&round).filter(|found| !found.log) else {
                continue;
            };
            found.log = true;
            let execution = found.execution.clone();
            let path = round_files::tree_log(&self.examination.directories.datadir, round);
            put_back(&kept, &path).map_err(|cause| self.io("move a log to", &path, cause))?;
            self.line(&format!(
                "  repaired  {} is that of round {round}",
                kept.display()
            ))?;
            self.log(round, &execution, unfinished, &mut Vec::new())?;
        }
        for (round, Unfinished { log, .. }) in unfinished {
            if !*log {
                self.note(&format!(
                    "round {round} has no log: the work on it begins with the first leaf"
                ))?;
            }
        }
        Ok(())
    }

    /// Examines the log in the folder of a round that is worked on. Returns whether it then exists.
    pub(super) fn log(
        &mut self,
        round: u64,
        execution: &Execution,
        unfinished: &BTreeMap<u64, Unfinished>,
        aside: &mut Vec<PathBuf>,
    ) -> Result<bool, DoctorError> {
        let path = round_files::tree_log(&self.examination.directories.datadir, round);
        let log = TreeLog {
            work: self.work,
            execution,
            path: path.clone(),
        };
        let thoroughness = Thoroughness {
            full: self.examination.full,
            threads: self.examination.threads,
        };
        let unwritable = |cause| DoctorError::Io {
            action: "repair",
            path: path.clone(),
            cause,
        };
        match log.examine(thoroughness)? {
            State::Missing => return Ok(false),
            State::New => {
                self.note(&format!(
                    "round {round}: the log was being created, which the server does again"
                ))?;
            }
            State::Sound {
                entries,
                recomputed,
                rest,
            } => {
                let leaves = entries * execution.subtree_height.leaves();
                let mut text = format!(
                    "round {round}: the log is right: {leaves} leaves in {entries} entries, \
                     {recomputed} of them recomputed"
                );
                if rest > 0 {
                    let _ = write!(text, "; {rest} bytes behind them are cut off by the server");
                }
                self.fine(&text)?;
                self.next_to(&log, round, leaves)?;
            }
            State::Header(why) => {
                self.repairable(
                    &format!("round {round}: the log: {why}, but its entries are the round's"),
                    "writes the header again",
                    || {
                        let kept = log.repair_header().map_err(unwritable)?;
                        Ok(format!("the header; original: {}", kept.display()))
                    },
                )?;
                return self.again(&log, round);
            }
            State::Wrong(wrong) => {
                let (what, remedy) = describe(&wrong, execution);
                self.repairable(&format!("round {round}: the log: {what}"), &remedy, || {
                    let kept = log.repair(&wrong).map_err(unwritable)?;
                    Ok(format!("the log; original: {}", kept.display()))
                })?;
                return self.again(&log, round);
            }
            State::Foreign(why) => {
                let whose = match self.belongs_to(&path, unfinished) {
                    Some(other) => format!(" (it is that of round {other})"),
                    None => String::new(),
                };
                self.repairable(
                    &format!("round {round}: the log cannot be used: {why}{whose}"),
                    "sets it aside, so that the work starts again, unless another log is the round's",
                    || {
                        let kept = set_aside(&path).map_err(unwritable)?;
                        let done = format!("set aside as {}", kept.display());
                        aside.push(kept);
                        Ok(done)
                    },
                )?;
                return Ok(!self.examination.repair);
            }
        }
        Ok(true)
    }

    /// Examines a repaired log again.
    pub(super) fn again(&mut self, log: &TreeLog<'_>, round: u64) -> Result<bool, DoctorError> {
        if self.examination.repair {
            let thoroughness = Thoroughness {
                full: self.examination.full,
                threads: self.examination.threads,
            };
            match log.examine(thoroughness)? {
                State::Sound { entries, .. } => {
                    self.fine(&format!(
                        "round {round}: the log is right now, with {entries} entries"
                    ))?;
                    let leaves = entries * log.execution.subtree_height.leaves();
                    self.next_to(log, round, leaves)?;
                }
                other => self.damaged(
                    &format!("round {round}: the log is still wrong: {other:?}"),
                    "Check this machine's memory and disk, and repair with --full.",
                )?,
            }
        }
        Ok(true)
    }

    /// Examines the auditors' files next to a sound log with this many leaves.
    pub(super) fn next_to(
        &mut self,
        log: &TreeLog<'_>,
        round: u64,
        leaves: u64,
    ) -> Result<(), DoctorError> {
        for name in [AUDIT_FILE, SAMPLED_FILE] {
            let path = log.path.with_file_name(name);
            match log.roots(name)? {
                Roots::Missing => {}
                Roots::Foreign => self.note(&format!(
                    "round {round}: {name} is of other work: the server begins the audit again"
                ))?,
                Roots::Right { leaves: audited } => {
                    if name == AUDIT_FILE && audited > leaves.saturating_add(MAX_UNSYNCED_LEAVES) {
                        self.damaged(
                            &format!(
                                "round {round}: the log was longer: {audited} leaves had been audited"
                            ),
                            "If there is a copy of the log, put it back; otherwise the server makes \
                             them again.",
                        )?;
                    } else {
                        self.fine(&format!("round {round}: {name} fits the log"))?;
                    }
                }
                Roots::Header => self.set_aside(
                    &format!("round {round}: the header of {name} is damaged"),
                    "sets it aside; the log is audited again",
                    &path,
                )?,
                Roots::Wrong {
                    first,
                    roots,
                    zeros,
                } => {
                    let what = if zeros {
                        "zeros from there on, as a power failure or fsck leaves them"
                    } else {
                        "not that of the log"
                    };
                    self.repairable(
                        &format!("round {round}: {name}: root {first} of {roots} is wrong: {what}"),
                        "cuts it there; what is behind is audited again",
                        || {
                            let kept = log.cut_roots(name, first);
                            let kept = kept.map_err(|cause| unwritable(&path, cause))?;
                            Ok(format!("{name}; original: {}", kept.display()))
                        },
                    )?;
                }
            }
        }
        let path = log.path.with_file_name(FINDINGS_FILE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(self.io("read", &path, cause)),
            Ok(json) if serde_json::from_slice::<AuditReport>(&json).is_ok() => {
                self.fine(&format!("round {round}: {FINDINGS_FILE} can be read"))
            }
            Ok(_) => self.set_aside(
                &format!("round {round}: {FINDINGS_FILE}, what audits have found, is damaged"),
                "sets it aside",
                &path,
            ),
        }
    }

    /// Sets aside a damaged file that is not needed.
    pub(super) fn set_aside(
        &mut self,
        text: &str,
        remedy: &str,
        path: &Path,
    ) -> Result<(), DoctorError> {
        self.repairable(text, remedy, || {
            let kept = set_aside(path).map_err(|cause| unwritable(path, cause))?;
            Ok(format!("set aside as {}", kept.display()))
        })
    }

    /// Examines a folder of a round for which no work is known.
    pub(super) fn log_without_round(
        &mut self,
        round: u64,
        unfinished: &BTreeMap<u64, Unfinished>,
        aside: &mut Vec<PathBuf>,
    ) -> Result<(), DoctorError> {
        let path = round_files::tree_log(&self.examination.directories.datadir, round);
        if !path.exists() {
            return Ok(());
        }
        let published = self.published.contains(&round);
        if published && self.belongs_to(&path, unfinished).is_none() {
            return self.note(&format!(
                "round {round} is published, the server removes the log that is left"
            ));
        }
        self.repairable(
            &format!(
                "{} is the log of a round that is not worked on",
                path.display()
            ),
            "sets it aside, or puts it where it belongs",
            || {
                let kept = set_aside(&path).map_err(|cause| DoctorError::Io {
                    action: "rename",
                    path: path.clone(),
                    cause,
                })?;
                let done = format!("set aside as {}", kept.display());
                aside.push(kept);
                Ok(done)
            },
        )
    }

    /// Returns the round that a log belongs to, by its header.
    pub(super) fn belongs_to(
        &self,
        path: &Path,
        unfinished: &BTreeMap<u64, Unfinished>,
    ) -> Option<u64> {
        let found = FileLog::open_read_only(path).ok()?.header().ok()?;
        let matches = |execution: &Execution| {
            let log = TreeLog {
                work: self.work,
                execution,
                path: PathBuf::new(),
            };
            log.header()[..] == found
        };
        let mut rounds = unfinished.iter();
        rounds
            .find(|(_, round)| matches(&round.execution))
            .map(|(round, _)| *round)
    }
}

/// Describes what is wrong with entries, and what a repair does about it.
fn describe(wrong: &Wrong, execution: &Execution) -> (String, String) {
    let Wrong {
        entries,
        right,
        kept,
    } = wrong;
    let first = right.keys().next().unwrap_or(kept);
    let what = format!("entry {first} of {entries} is wrong");
    if kept == entries {
        let count = right.len();
        let remedy = format!(
            "replaces {count} of them with the right ones, which are known; no work is lost"
        );
        return (what, remedy);
    }
    let lost = (entries - kept) * execution.subtree_height.leaves();
    let remedy = format!("cuts the log to {kept} entries; {lost} leaves are made again");
    (what, remedy)
}
