//! `poet_worker_audit`: recomputes and repairs the log.

use std::sync::atomic::Ordering::Relaxed;

use poet_engine::audit::{AuditWith, Culprit, Finding};
use poet_engine::{MAX_THREADS, RoundWork};

use crate::boundary::call;
use crate::poet_status;
use crate::status::Error;
use crate::worker::{State, WORKERS, Worker, poet_worker};

impl Worker {
    fn audit(&self, threads: u32) -> Result<(), Error> {
        let threads = threads as usize;
        if !(1..=MAX_THREADS).contains(&threads) {
            let text = format!("threads is {threads}, expected 1 to {MAX_THREADS}");
            return Err(Error::argument(text));
        }
        let state = &mut *self.lock()?;
        let State {
            work, statement, ..
        } = &*state;
        let mut auditor = RoundWork::new(work, statement, self.subtree_height).auditor();
        let with = AuditWith {
            threads,
            stop: self.prove.stop(),
        };
        self.audit.audited_leaves.store(0, Relaxed);
        loop {
            let before = auditor.entries();
            let step = state.log.with_reader(|log| auditor.step(log, with));
            let mut findings = self.or_cancelled(step)?;
            let finished = findings.is_empty() && auditor.entries() == before;
            if finished {
                // The tree has the state from which the work went on.
                let same = state.tree.parked().ends_with(auditor.tree().parked());
                let culprit = if same { Culprit::Copy } else { Culprit::Work };
                let open = auditor.decide(culprit);
                findings.extend(open.or_else(|| {
                    (!same).then(|| Finding {
                        culprit,
                        entry: auditor.entries(),
                        right: Vec::new(),
                    })
                }));
            }
            for Finding {
                culprit,
                entry,
                right,
            } in findings
            {
                match culprit {
                    Culprit::Auditor => {
                        self.audit.mistakes.fetch_add(1, Relaxed);
                    }
                    Culprit::Copy => {
                        state.log.repair(entry, &right)?;
                        let repaired = right.len() as u64;
                        self.audit.repaired_entries.fetch_add(repaired, Relaxed);
                    }
                    Culprit::Work => {
                        let cut = state.log.cut(entry);
                        if state.log.with_reader(|log| log.entries()) > entry {
                            return Ok(cut?);
                        }
                        // From here on the tree must match the log, whether that is durable or not.
                        for entry in right {
                            state.log.push(entry);
                        }
                        let lost = state.tree.leaves() - auditor.tree().leaves();
                        self.audit.mistakes.fetch_add(1, Relaxed);
                        self.audit.lost_leaves.fetch_add(lost, Relaxed);
                        self.audit
                            .audited_leaves
                            .store(auditor.tree().leaves(), Relaxed);
                        state.tree = auditor.tree().clone();
                        self.leaves.store(state.tree.leaves(), Relaxed);
                        return Ok(cut.and_then(|()| state.log.append())?);
                    }
                }
            }
            self.audit
                .audited_leaves
                .store(auditor.tree().leaves(), Relaxed);
            if finished {
                return Ok(());
            }
        }
    }
}

/// Recomputes the whole log and repairs it. Replaces entries that have changed in memory or on the
/// disk. If the work itself went wrong, which a faulty CPU or memory can cause, takes the work back
/// to its last right entry: the worker then has fewer leaves, and goes on from there. The fields of
/// poet_worker_progress after prove_hashes_total report what was found. After a proof that fails
/// with LOG_DAMAGED, call this and then poet_worker_prove again.
///
/// It takes about half as long as the work itself took, divided by the number of threads.
/// audited_leaves reports its progress, and poet_worker_cancel stops it; what was repaired by then
/// stays repaired. Since version 1.1 of the ABI.
///
/// threads: how many threads share the work, 1 to POET_MAX_THREADS, including the calling one; the
/// others end before the call returns.
///
/// Returns OK (whatever was found), NULL_POINTER, INVALID_ARGUMENT, NOT_OPEN, BUSY, POISONED, IO, CANCELLED,
/// PANIC. One thread at a time.
#[unsafe(no_mangle)]
pub extern "C" fn poet_worker_audit(worker: *mut poet_worker, threads: u32) -> poet_status {
    call(|| WORKERS.with(worker, |worker| worker.audit(threads)))
}
