//! Decides what becomes of each round of a Go server.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use poet_engine::{Node, Proof, SubtreeHeight, T, Work, membership, verify};
use poet_proto::{identity::PublicKey, messages::PublishedProof};
use poet_rounds::{
    life::{EXPECTED_LEAVES_PER_SECOND, subtree_height},
    schedule::Schedule,
    storage::{Challenge, Execution, Member, NodeId},
};
use poet_storage::ImportedRound;

use super::{
    error::ImportError,
    report::{RoundReport, Taken},
    source::{GoRound, GoState, Source},
};

/// How much clocks may differ that determine when the work on a round began.
pub(super) const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_mins(1);

/// The plan of an import.
pub(super) struct Plan {
    pub(super) rounds: Vec<PlannedRound>,
    pub(super) warnings: Vec<String>,
}

pub(super) struct PlannedRound {
    pub(super) imported: ImportedRound,
    /// The number of leaves that the Go server recorded, if its work is imported.
    pub(super) recorded: Option<u64>,
}

impl PlannedRound {
    pub(super) fn report(&self, leaves: u64) -> RoundReport {
        let registered = self.imported.members.len();
        let (members, taken) = match (&self.imported.proof, self.recorded) {
            (Some(proof), _) => {
                let leaves = proof.leaves;
                (proof.members.len(), Taken::Proof { leaves })
            }
            (None, Some(recorded)) => (registered, Taken::Work { leaves, recorded }),
            (None, None) => (registered, Taken::Members),
        };
        RoundReport {
            round: self.imported.round,
            members: members as u64,
            taken,
        }
    }
}

impl Plan {
    pub(super) fn new(
        source: &Source,
        state: &GoState,
        schedule: &Schedule,
        now: Timestamp,
        work: &Work,
    ) -> Result<Self, ImportError> {
        let mut planner = Planner {
            source,
            schedule,
            now,
            work,
            public_key: state.private_key.public(),
            subtree_height: subtree_height(schedule, EXPECTED_LEAVES_PER_SECOND),
            warnings: state.warnings.clone(),
        };
        let mut rounds = Vec::new();
        for (number, round) in &state.rounds {
            rounds.extend(planner.round(*number, round)?);
        }
        Ok(Self {
            rounds,
            warnings: planner.warnings,
        })
    }
}

/// Decides what becomes of each round.
struct Planner<'a> {
    source: &'a Source,
    schedule: &'a Schedule,
    now: Timestamp,
    work: &'a Work,
    public_key: PublicKey,
    subtree_height: SubtreeHeight,
    warnings: Vec<String>,
}

impl Planner<'_> {
    fn round(&mut self, number: u64, round: &GoRound) -> Result<Option<PlannedRound>, ImportError> {
        if let Some(stored) = &round.proof {
            let Some(proof) = stored.proof.clone() else {
                self.warn(
                    number,
                    "its proof is empty, as a server without worker makes it: left out",
                );
                return Ok(None);
            };
            if stored.public_key != self.public_key.as_bytes() {
                self.warn(
                    number,
                    "its proof was served under another key than today's",
                );
            }
            let proof = published(stored.members.clone(), stored.leaves, proof);
            return Ok(Some(self.finished(number, round, proof)));
        }
        let Some(state) = round.state.as_ref().filter(|state| state.started.is_some()) else {
            return Ok(self.waiting(number, round));
        };
        self.check_schedule(number, state.started)?;
        let Some(members) = &round.members else {
            return Err(ImportError::NoMembers {
                round: number,
                path: self.source.members(number),
            });
        };
        let challenges: Vec<_> = members.values().cloned().collect();
        if statement(&challenges) != state.statement {
            return Err(ImportError::Members {
                round: number,
                path: self.source.members(number),
                state: self.source.work(number),
            });
        }
        if let Some(proof) = state.proof.clone() {
            // Made, but not stored in the database of proofs yet.
            let proof = published(challenges, state.leaves, proof);
            return Ok(Some(self.finished(number, round, proof)));
        }
        let usable = usable(members);
        if usable.len() < members.len() {
            self.warn(
                number,
                "no node would accept a proof of the work done so far, which is bound to a \
                 challenge of another length: it starts again",
            );
            return Ok(self.waiting(number, round));
        }
        Ok(Some(PlannedRound {
            imported: ImportedRound {
                round: number,
                execution: Some(self.execution(state.statement.clone())),
                members: usable,
                proof: None,
            },
            recorded: Some(state.leaves),
        }))
    }

    fn warn(&mut self, round: u64, what: &str) {
        self.warnings.push(format!("round {round}: {what}"));
    }

    fn execution(&self, statement: Vec<u8>) -> Execution {
        Execution {
            statement,
            subtree_height: self.subtree_height,
        }
    }

    /// Checks that the work on a round began when the round starts.
    fn check_schedule(&self, round: u64, started: Option<Timestamp>) -> Result<(), ImportError> {
        let (start, end) = (self.schedule.start(round), self.schedule.end(round));
        match started {
            Some(started)
                if start.duration_since(started) > CLOCK_TOLERANCE
                    || started.duration_since(end) > CLOCK_TOLERANCE =>
            {
                Err(ImportError::OtherSchedule {
                    round,
                    started,
                    start,
                    end,
                })
            }
            _ => Ok(()),
        }
    }

    fn finished(&mut self, number: u64, round: &GoRound, proof: PublishedProof) -> PlannedRound {
        // As nodes see it.
        let statement = membership::root(&proof.members);
        if let Err(error) = verify(self.work, &statement, proof.leaves, T, &proof.proof) {
            let odd = match proof.odd_members.len() {
                0 => String::new(),
                count => format!(" ({count} of its members have a challenge of another length)"),
            };
            let what = format!("no node accepts its proof{odd}: {error}; it is served as it is");
            self.warn(number, &what);
        }
        let members = round.members.as_ref().map(usable).unwrap_or_default();
        let complete = members.iter().map(|member| &member.challenge);
        let members = if complete.eq(&proof.members) && proof.odd_members.is_empty() {
            members
        } else {
            Vec::new()
        };
        PlannedRound {
            imported: ImportedRound {
                round: number,
                execution: Some(self.execution(proof.statement.clone())),
                members,
                proof: Some(proof),
            },
            recorded: None,
        }
    }

    /// Plans a round whose work has not begun. Returns `None` if there is nothing to import.
    fn waiting(&mut self, number: u64, round: &GoRound) -> Option<PlannedRound> {
        let registered = round
            .members
            .as_ref()
            .filter(|members| !members.is_empty())?;
        if self.schedule.end(number) <= self.now {
            self.warn(
                number,
                "it has members, but was not begun before it was over: left out",
            );
            return None;
        }
        for (node_id, challenge) in registered {
            if challenge.len() != 32 {
                let what = format!(
                    "member {} has a challenge of {} bytes, expected 32: left out",
                    hex::encode(node_id),
                    challenge.len()
                );
                self.warn(number, &what);
            }
        }
        Some(PlannedRound {
            imported: ImportedRound {
                round: number,
                execution: None,
                members: usable(registered),
                proof: None,
            },
            recorded: None,
        })
    }
}

/// Returns the members with challenges that nodes can use.
pub(super) fn usable(members: &BTreeMap<Node, Vec<u8>>) -> Vec<Member> {
    let members = members.iter();
    members
        .filter_map(|(node_id, challenge)| {
            Some(Member {
                node_id: NodeId(*node_id),
                challenge: challenge.as_slice().try_into().ok()?,
            })
        })
        .collect()
}

/// Returns the statement that the Go server binds its work to. It treats an empty challenge in the
/// place of a left sibling as missing, so that the next one takes its place.
pub(super) fn statement(challenges: &[Vec<u8>]) -> Vec<u8> {
    let mut leaves: Vec<&[u8]> = Vec::with_capacity(challenges.len());
    for challenge in challenges {
        if !challenge.is_empty() || leaves.len() % 2 == 1 {
            leaves.push(challenge);
        }
    }
    membership::root(&leaves)
}

/// Returns a proof with the members as nodes read them.
fn published(challenges: Vec<Vec<u8>>, leaves: u64, proof: Proof) -> PublishedProof {
    let statement = statement(&challenges);
    let members = challenges.iter();
    let members = members.map(|challenge| Challenge::cut_or_padded(challenge));
    let members = members.collect();
    let odd_members = (0..)
        .zip(challenges)
        .filter(|(_, challenge)| challenge.len() != 32)
        .collect();
    PublishedProof {
        statement,
        members,
        odd_members,
        leaves,
        proof,
    }
}
