//! What audits have found, and where it is stored.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::{self, Write as _},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use poet_files::{reason, replace_through};
use serde::{Deserialize, Serialize};

use super::AuditMode;
use crate::round_files::{FINDINGS_FILE, NEW_FINDINGS_FILE};

/// Audited leaves that a power failure may remove from the log because they were not durable yet:
/// what two minutes make. If more are missing, something else has cut the log.
pub const MAX_UNSYNCED_LEAVES: u64 = 1 << 23;
/// The number of rounds whose findings are kept in memory.
const REMEMBERED_ROUNDS: usize = 50;

/// What audits have found: in one round, or in all since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// Subtrees recomputed.
    pub subtrees: u64,
    /// Errors in the work.
    pub work: u64,
    /// Damaged copies of right entries, all repaired.
    pub copies: u64,
    /// Errors of the auditors.
    pub auditor: u64,
    /// How often the work went back.
    pub rollbacks: u64,
    /// Leaves that were discarded.
    pub lost_leaves: u64,
    /// Proofs that were not valid, and so not published.
    pub bad_proofs: u64,
    /// Audited leaves of the round. In sampled mode, includes those taken on trust.
    pub audited_leaves: u64,
    /// Of these, leaves that another process left unaudited and that were taken on trust.
    #[serde(default)]
    pub trusted_leaves: u64,
    /// The newest finding.
    pub last_event: Option<String>,
}

/// Audits rounds, and remembers the findings.
#[derive(Clone, Debug)]
pub struct Audits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mode: AuditMode,
    threads: usize,
    reports: Mutex<Reports>,
}

#[derive(Debug, Default)]
struct Reports {
    total: AuditReport,
    rounds: BTreeMap<u64, AuditReport>,
}

impl Audits {
    /// Audits on `threads` threads.
    pub fn new(mode: AuditMode, threads: usize) -> Self {
        Self(Arc::new(Inner {
            mode,
            threads,
            reports: Mutex::default(),
        }))
    }

    /// The mode.
    pub fn mode(&self) -> AuditMode {
        self.0.mode
    }

    pub(super) fn threads(&self) -> usize {
        self.0.threads
    }

    /// Everything found since the start.
    pub fn total(&self) -> AuditReport {
        self.reports().total.clone()
    }

    /// What was found in a round, if it was audited.
    pub fn round(&self, round: u64) -> Option<AuditReport> {
        self.reports().rounds.get(&round).cloned()
    }

    /// Reads what an earlier process has found in a round and stored in its folder.
    pub(in crate::worker) fn remember(&self, round: u64, folder: &Path) {
        let path = folder.join(FINDINGS_FILE);
        let read = fs::read(&path).and_then(|json| Ok(serde_json::from_slice(&json)?));
        match read {
            Ok(report) => drop(self.reports().rounds.entry(round).or_insert(report)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(
                    round,
                    path = %path.display(),
                    "cannot read what audits found before: {}",
                    match error.kind() {
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof =>
                            "the file is damaged; it is written again when something is found".to_owned(),
                        _ => reason(&error),
                    }
                );
            }
        }
    }

    /// Records that a proof is not valid.
    pub(in crate::worker) fn bad_proof(
        &self,
        round: u64,
        folder: &Path,
        reason: &dyn fmt::Display,
    ) {
        tracing::error!(round, %reason, "ALARM: the proof is not valid and is not published");
        let event = format!("a proof was not valid: {reason}");
        self.found(round, Some(folder), &event, |report| report.bad_proofs += 1);
    }

    /// Records that the log has lost this many audited leaves.
    pub(super) fn log_is_shorter(&self, round: u64, folder: Option<&Path>, leaves: u64) {
        if leaves <= MAX_UNSYNCED_LEAVES {
            return;
        }
        tracing::error!(
            round,
            leaves,
            "ALARM: the log is shorter than it was: audited work is missing from it, and is recomputed"
        );
        let event = format!(
            "the log is shorter than it was: {leaves} audited leaves are not in it any more"
        );
        self.found(round, folder, &event, |_| {});
    }

    /// Records a finding, and stores the report in the round's folder.
    pub(super) fn found(
        &self,
        round: u64,
        folder: Option<&Path>,
        event: &str,
        count: impl Fn(&mut AuditReport),
    ) {
        self.note(round, |report| {
            count(report);
            report.last_event = Some(event.to_owned());
        });
        if let (Some(folder), Some(report)) = (folder, self.round(round))
            && let Err(error) = keep(&report, folder)
        {
            tracing::warn!(
                error = reason(&error),
                round,
                "cannot store what audits have found"
            );
        }
    }

    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.0
            .reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, round: u64, note: impl Fn(&mut AuditReport)) {
        let mut reports = self.reports();
        note(&mut reports.total);
        note(reports.rounds.entry(round).or_default());
        while reports.rounds.len() > REMEMBERED_ROUNDS {
            reports.rounds.pop_first();
        }
    }
}

/// Stores a report in the round's folder, replacing the earlier one.
fn keep(report: &AuditReport, folder: &Path) -> io::Result<()> {
    let json = serde_json::to_vec_pretty(report)?;
    let (new, path) = (folder.join(NEW_FINDINGS_FILE), folder.join(FINDINGS_FILE));
    replace_through(&new, &path, |file| file.write_all(&json))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_replaced_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let stored = || {
            let audits = Audits::new(AuditMode::Full, 1);
            audits.remember(7, folder);
            audits.round(7)
        };
        let audits = Audits::new(AuditMode::Full, 1);
        audits.bad_proof(7, folder, &"first");
        assert_eq!(stored(), audits.round(7));
        assert!(!folder.join(NEW_FINDINGS_FILE).exists());
        // Without a place for the new findings, the old ones remain.
        fs::create_dir(folder.join(NEW_FINDINGS_FILE)).unwrap();
        let before = stored();
        audits.bad_proof(7, folder, &"second");
        assert_eq!(stored(), before);
        assert_ne!(stored(), audits.round(7));
        fs::remove_dir(folder.join(NEW_FINDINGS_FILE)).unwrap();
        audits.bad_proof(7, folder, &"third");
        assert_eq!(stored(), audits.round(7));
    }
}
