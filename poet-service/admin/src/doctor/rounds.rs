//! Examines what the database holds of each round.

use std::collections::BTreeMap;

use poet_engine::{T, membership, verify};
use poet_proto::duration::format_go;
use poet_rounds::storage::{Challenge, EarlyProofRecord, Execution, RoundRecord, StorageError};
use poet_storage::{Database, is_changed_proof};

use super::{Doctor, DoctorError, Unfinished};

impl Doctor<'_> {
    /// Examines all rounds. Returns those that are worked on, unless they cannot be read.
    pub(super) fn rounds(
        &mut self,
        storage: &dyn Database,
    ) -> Result<Option<BTreeMap<u64, Unfinished>>, DoctorError> {
        let read = || {
            let mut records = storage.newest_rounds(usize::MAX)?;
            records.reverse();
            let unfinished = storage.unfinished_rounds()?;
            let settled = unfinished
                .into_iter()
                .filter_map(|round| Some((round.round, round.execution?)));
            Ok::<_, StorageError>((records, settled.collect::<BTreeMap<_, _>>()))
        };
        let (records, mut settled) = match read() {
            Ok(read) => read,
            Err(error) => {
                self.unreadable_database(&error)?;
                return Ok(None);
            }
        };
        let mut unfinished = BTreeMap::new();
        for record in records {
            let execution = settled.remove(&record.round);
            let state = match (&record.published, &execution) {
                (Some(_), _) => "published",
                (None, Some(_)) => "being worked on",
                (None, None) => "open, or closed and not yet begun",
            };
            self.line(&format!("round {}, {state}", record.round))?;
            if record.published.is_some() {
                self.published.insert(record.round);
            }
            self.members(storage, &record, execution.as_ref())?;
            if let Some(execution) = execution {
                unfinished.insert(
                    record.round,
                    Unfinished {
                        execution,
                        log: false,
                    },
                );
            }
        }
        Ok(Some(unfinished))
    }

    /// Examines the members of a round, and what follows from them.
    pub(super) fn members(
        &mut self,
        storage: &dyn Database,
        record: &RoundRecord,
        execution: Option<&Execution>,
    ) -> Result<(), DoctorError> {
        let read = || {
            Ok::<_, StorageError>((
                storage.members(record.round)?,
                storage.changed_registrations(record.round)?,
            ))
        };
        let (members, changed) = match read() {
            Ok(read) => read,
            Err(error) => return self.unreadable_database(&error),
        };
        if changed.count > 0 {
            self.damaged(
                &format!(
                    "of its registrations, {} have changed since they were stored",
                    changed.count
                ),
                &format!(
                    "What they were is known of {}, and the server goes on with that. Check the disk \
                     and the memory, and restore the database from a backup.",
                    changed.known
                ),
            )?;
        }
        self.early_proofs(storage, record.round)?;
        if record.published.is_some() {
            let removed = match storage.removed_through() {
                Ok(round) => round.is_some_and(|round| record.round <= round),
                Err(error) => return self.unreadable_database(&error),
            };
            return match storage.proof(record.round) {
                Ok(Some(published)) => {
                    if published.leaves == 0 && members == published.members {
                        let count = members.len();
                        return self.fine(&format!(
                            "{count} members and an empty proof: it closed under --disable-worker"
                        ));
                    }
                    // With challenges of other lengths, only the original server knows how it
                    // computed the statement.
                    let odd = !published.odd_members.is_empty();
                    let statement = if odd {
                        published.statement
                    } else {
                        membership::root(&published.members).to_vec()
                    };
                    let verified =
                        verify(self.work, &statement, published.leaves, T, &published.proof);
                    match verified {
                        Ok(()) if odd || members == published.members => self.fine(&format!(
                            "the proof is valid: {} members, {} leaves",
                            members.len(),
                            published.leaves
                        )),
                        Ok(()) if removed && is_part(&members, &published.members) => {
                            self.fine(&format!(
                                "the proof is valid: {} members, {} leaves; the registrations of {} \
                                 were removed, as keep-registrations says",
                                published.members.len(),
                                published.leaves,
                                published.members.len() - members.len()
                            ))
                        }
                        Ok(()) => self.damaged(
                            "the registrations are not the members of the proof, which is valid",
                            self.restore,
                        ),
                        Err(error) => self.damaged(
                            &format!("the proof is not valid: {error}"),
                            "Restore the database from a backup; nodes may still have the proof.",
                        ),
                    }
                }
                Ok(None) => Ok(()),
                Err(error) if is_changed_proof(&error) => self.damaged(
                    "the proof has changed since it was stored",
                    "Restore the database from a backup; nodes may still have the proof.",
                ),
                Err(error) => self.unreadable_database(&error),
            };
        }
        let count = members.len();
        match execution {
            Some(execution) if membership::root(&members) != execution.statement => self.damaged(
                &format!("its {count} registrations do not give the statement that is worked on"),
                "Restore the database from a backup: without the members there is no proof.",
            ),
            Some(_) => self.fine(&format!("the statement is that of its {count} members")),
            None => self.fine(&format!("{count} members")),
        }
    }

    /// Examines the proofs of a round for nodes with longer cycle gaps.
    pub(super) fn early_proofs(
        &mut self,
        storage: &dyn Database,
        round: u64,
    ) -> Result<(), DoctorError> {
        let records = match storage.early_proofs(round..=round) {
            Ok(records) => records,
            Err(error) => return self.unreadable_database(&error),
        };
        for EarlyProofRecord { gap, leaves, .. } in records {
            let cycle_gap = format_go(gap);
            let verified = match storage.early_proof(round, gap) {
                Ok(None) => continue,
                Ok(Some(published)) => {
                    let statement = &published.statement;
                    verify(self.work, statement, leaves, T, &published.proof)
                        .map_err(|error| format!("is not valid: {error}"))
                }
                Err(error) if is_changed_proof(&error) => {
                    Err("has changed since it was stored".to_owned())
                }
                Err(error) => return self.unreadable_database(&error),
            };
            match verified {
                Ok(()) => self.fine(&format!(
                    "the proof for the cycle gap {cycle_gap} is valid: {leaves} leaves"
                ))?,
                Err(what) => self.damaged(
                    &format!("the proof for the cycle gap {cycle_gap} {what}"),
                    "Restore the database from a backup; nodes may still have the proof.",
                )?,
            }
        }
        Ok(())
    }
}

/// Returns whether `part` is what remains of `all` after removing some.
fn is_part(part: &[Challenge], all: &[Challenge]) -> bool {
    let mut all = all.iter();
    part.iter().all(|member| all.any(|other| other == member))
}
