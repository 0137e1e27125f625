//! Which server works on a round, what the round's shared log holds, how many leaves count, and its
//! proof.
//!
//! An entry is right or wrong. One machine errs once, and what it makes after that follows from the
//! wrong entry, until it goes back.

use crate::check::{ENDS, Model, assert_caught, explore};

const SERVERS: usize = 3;
const ROUNDS: usize = 2;
/// The server whose machine may err.
const ERRS: usize = 1;

const APPEND_ONLY: &str =
    "a right entry of the shared log stays as it is until the round has its proof";
const OWN_PLACE: &str = "entries of sound machines are right, each in its place";
const VALID: &str = "a proof is valid";
const HIGHEST: &str = "a proof has as many leaves as the highest count that was handed in";
const COUNTED: &str = "what is counted is in the shared log";
const ONCE: &str =
    "a round has one proof, with which the challenge of the proof of work changes once";
const FOLLOWS: &str = "a server that has seen the shared log ahead of its own does not work";
const SAME_PROOF: &str = "a proof that a server has seen is that of the round, or that is an alarm";

/// The rules of the decisions. Each can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Entries are stored by number, so that repeating an append changes nothing.
    Places,
    /// If entries differ, the first one is recomputed, and the wrong log goes back.
    Recomputing,
    /// A proof is verified before it is stored.
    Verifying,
    /// A server follows if the shared log is ahead.
    Following,
    /// A follower takes over when the log stops growing.
    TakingOver,
    /// The entries are handed in before the count.
    EntriesBeforeCount,
    /// The highest count wins.
    HighestCount,
    /// A proof is stored unless there is one.
    InsertOnce,
    /// The challenge changes in the transaction that stores the proof.
    RotatingWithProof,
    /// If the server with the highest count is silent, others make the proof.
    ProofByOthers,
    /// A server whose database went back stores the proof again.
    StoringAgain,
}

struct Work {
    without: Without,
    /// Entries that the fastest machine makes in each round.
    entries: [u8; ROUNDS],
    /// How many faults may happen in one run: a lost answer or machine, an error, a fail-over.
    faults: u8,
}

/// A log: its number of entries, and the first wrong one, counted from one; zero if all are right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Log {
    entries: u8,
    wrong: u8,
}

impl Log {
    fn push(&mut self, right: bool) {
        self.entries += 1;
        if !right && self.wrong == 0 {
            self.wrong = self.entries;
        }
    }

    fn cut(self, entries: u8) -> Self {
        let entries = self.entries.min(entries);
        let wrong = if self.wrong <= entries { self.wrong } else { 0 };
        Self { entries, wrong }
    }

    /// Returns the first entry in which it differs from another log.
    fn differs(self, other: Self) -> Option<u8> {
        let shorter = self.entries.min(other.entries);
        let (one, other) = (self.cut(shorter), other.cut(shorter));
        let first = |log: Self| if log.wrong == 0 { u8::MAX } else { log.wrong };
        (one.wrong != other.wrong).then(|| first(one).min(first(other)))
    }

    fn right(self) -> u8 {
        if self.wrong == 0 {
            self.entries
        } else {
            self.wrong - 1
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Proof {
    leaves: u8,
    valid: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Database {
    timeline: u8,
    logs: [Log; ROUNDS],
    counts: [[Option<u8>; SERVERS]; ROUNDS],
    proofs: [Option<Proof>; ROUNDS],
    rotations: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Server {
    timeline: u8,
    /// The current round; [`ROUNDS`] after the last one.
    round: usize,
    works: bool,
    log: Log,
    seen: [Option<Proof>; ROUNDS],
    /// Whether it has found a proof other than the one that it has seen.
    alarm: bool,
    dead: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    database: Database,
    /// The contents of a replica, while there is one, and whether it is still the initial one.
    replica: Option<Database>,
    replicated: bool,
    servers: [Server; SERVERS],
    /// The number of rounds whose time is over.
    over: usize,
    /// How many more faults may happen.
    faults: u8,
    erred: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Time,
    Hash {
        server: usize,
        right: bool,
    },
    /// Compares the shared log with the server's own: hands in or copies what is missing.
    Compare {
        server: usize,
        answered: bool,
    },
    /// Goes on with the work that it has copied, whatever others do: since the log does not grow, or to
    /// overtake. When it may is a matter of time, on which nothing here depends.
    TakeOver {
        server: usize,
    },
    Count {
        server: usize,
    },
    Prove {
        server: usize,
        answered: bool,
    },
    See {
        server: usize,
    },
    Replicate,
    FailOver,
    Notice {
        server: usize,
    },
    /// A machine is lost with its disk, and replaced by another one, or not.
    Replace {
        server: usize,
    },
    Die {
        server: usize,
    },
}

impl Work {
    fn compare(&self, next: &mut State, number: usize, answered: bool) {
        let server = &mut next.servers[number];
        let shared = &mut next.database.logs[server.round];
        if let Some(place) = server.log.differs(*shared)
            && self.without != Without::Recomputing
        {
            // Recomputing the entry shows which one is wrong.

            match server.log.wrong == place {
                true => server.log = server.log.cut(place - 1),
                false => {
                    *shared = shared.cut(place - 1);
                    next.database.counts[server.round] = [None; SERVERS];
                }
            }
        }
        if server.log.entries > shared.entries {
            match self.without {
                // The unanswered rest is sent again after whatever is there.
                Without::Places if !answered => {
                    *shared = server.log;
                    shared.push(false);
                }
                _ => *shared = server.log,
            }
            return;
        }
        if shared.entries > server.log.entries && self.without != Without::Following {
            server.log = *shared;
            server.works = false;
        }
    }

    /// Returns the number of leaves of the proof that a server makes.
    fn leaves(&self, database: &Database, server: &Server, number: usize) -> Option<u8> {
        let counts = &database.counts[server.round];
        let own = counts[number];
        let highest = counts.iter().flatten().copied().max()?;
        match self.without {
            Without::HighestCount => own,
            Without::ProofByOthers if own != Some(highest) => None,
            _ => Some(highest),
        }
    }

    fn prove(&self, next: &mut State, number: usize, leaves: u8, answered: bool) {
        let server = &mut next.servers[number];
        let database = &mut next.database;
        let round = server.round;
        let proven = server.log.cut(leaves);
        let proof = Proof {
            leaves,
            valid: proven.wrong == 0,
        };
        if !proof.valid && self.without != Without::Verifying {
            server.log = server.log.cut(proven.wrong - 1);
            // Its entries are wrong there, too, if it handed them in or copied them from there.
            let shared = &mut database.logs[round];
            *shared = shared.cut(shared.right());
            database.counts[round] = [None; SERVERS];
            return;
        }
        if database.proofs[round].is_some() && self.without != Without::InsertOnce {
            return;
        }
        database.proofs[round] = Some(proof);
        database.logs[round] = Log::default();
        database.counts[round] = [None; SERVERS];
        if self.without != Without::RotatingWithProof || answered {
            database.rotations += 1;
        }
    }
}

impl Model for Work {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let database = Database {
            timeline: 0,
            logs: [Log::default(); ROUNDS],
            counts: [[None; SERVERS]; ROUNDS],
            proofs: [None; ROUNDS],
            rotations: 0,
        };
        let server = Server {
            timeline: 0,
            round: 0,
            works: true,
            log: Log::default(),
            seen: [None; ROUNDS],
            alarm: false,
            dead: false,
        };
        State {
            replica: Some(database.clone()),
            replicated: false,
            database,
            servers: [server.clone(), server.clone(), server],
            over: 0,
            faults: self.faults,
            erred: false,
        }
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut steps = Vec::new();
        let mut step = |step: Step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            // Two of the servers are alike.
            if next.servers[0] > next.servers[2] {
                next.servers.swap(0, 2);
                let databases = [Some(&mut next.database), next.replica.as_mut()];
                for database in databases.into_iter().flatten() {
                    database
                        .counts
                        .iter_mut()
                        .for_each(|counts| counts.swap(0, 2));
                }
            }
            steps.push((step, next));
        };
        let database = &state.database;
        // There is enough time for every server that is running.
        if state.over < ROUNDS
            && (database.logs[state.over].entries >= self.entries[state.over]
                || database.proofs[state.over].is_some())
        {
            step(Step::Time, &|next| next.over += 1);
        }
        // A lost answer changes nothing, because a server looks again before it does anything else.
        // So it is a fault only without the rules that ensure that.
        let may_be_lost = [Without::Places, Without::RotatingWithProof].contains(&self.without);
        let answers: &[bool] = if state.faults > 0 && may_be_lost {
            &[true, false]
        } else {
            &[true]
        };
        for number in 0..SERVERS {
            let server = &state.servers[number];
            if server.dead {
                continue;
            }
            let (round, server_log) = (server.round, server.log);
            // A round on which no server could work in time is worked on late.
            if round < ROUNDS && server.works && server_log.entries < self.entries[round] {
                for right in [true, false] {
                    if !right && (number != ERRS || state.faults == 0 || state.erred) {
                        continue;
                    }
                    let server = number;
                    step(Step::Hash { server, right }, &|next| {
                        next.servers[number].log.push(right);
                        if !right {
                            next.faults -= 1;
                            next.erred = true;
                        }
                    });
                }
            }
            if state.faults > 0 {
                let server = number;
                step(Step::Replace { server }, &|next| {
                    next.faults -= 1;
                    let server = &mut next.servers[number];
                    server.log = Log::default();
                    server.works = true;
                    server.timeline = next.database.timeline;
                    server.seen = [None; ROUNDS];
                    let proven = next
                        .database
                        .proofs
                        .iter()
                        .take_while(|proof| proof.is_some());
                    server.round = proven.count();
                });
                step(Step::Die { server }, &|next| {
                    next.faults -= 1;
                    next.servers[number].dead = true;
                });
            }
            if server.timeline < database.timeline {
                let server = number;
                step(Step::Notice { server }, &|next| {
                    let server = &mut next.servers[number];
                    server.timeline = next.database.timeline;
                    for round in 0..ROUNDS {
                        let Some(seen) = server.seen[round] else {
                            continue;
                        };
                        if next.database.proofs[round].is_none()
                            && self.without != Without::StoringAgain
                        {
                            next.database.proofs[round] = Some(seen);
                            next.database.logs[round] = Log::default();
                            next.database.counts[round] = [None; SERVERS];
                            next.database.rotations += 1;
                        }
                        if next.database.proofs[round].is_some_and(|stored| stored != seen) {
                            server.alarm = true;
                        }
                    }
                });
                continue;
            }
            if round >= ROUNDS {
                continue;
            }
            if database.proofs[round].is_some() {
                let server = number;
                step(Step::See { server }, &|next| {
                    let server = &mut next.servers[number];
                    server.seen[round] = next.database.proofs[round];
                    server.round += 1;
                    server.log = Log::default();
                    server.works = true;
                });
                if self.without != Without::InsertOnce {
                    continue;
                }
            }
            for &answered in answers {
                let server = number;
                step(Step::Compare { server, answered }, &|next| {
                    next.faults -= u8::from(!answered);
                    self.compare(next, number, answered);
                });
            }
            if !server.works
                && server_log == database.logs[round]
                && self.without != Without::TakingOver
            {
                let server = number;
                step(Step::TakeOver { server }, &|next| {
                    next.servers[number].works = true;
                });
            }
            if round >= state.over {
                continue;
            }
            let handed_in = server_log.differs(database.logs[round]).is_none()
                && database.logs[round].entries >= server_log.entries;
            let counts = handed_in || self.without == Without::EntriesBeforeCount;
            if counts && database.counts[round][number].is_none() && server_log.entries > 0 {
                let server = number;
                step(Step::Count { server }, &|next| {
                    next.database.counts[round][number] = Some(server_log.entries);
                });
            }
            // After a short wait, every other server that is there has counted, or is not waited
            // for.
            let Some(leaves) = self.leaves(database, server, number) else {
                continue;
            };
            if server_log.entries >= leaves {
                for &answered in answers {
                    let server = number;
                    step(Step::Prove { server, answered }, &|next| {
                        next.faults -= u8::from(!answered);
                        self.prove(next, number, leaves, answered);
                    });
                }
            }
        }
        // A replica stays at one moment until another server promotes it.
        if let Some(replica) = &state.replica
            && state.faults > 0
        {
            if !state.replicated {
                step(Step::Replicate, &|next| {
                    next.replica = Some(next.database.clone());
                    next.replicated = true;
                });
            }
            step(Step::FailOver, &|next| {
                next.faults -= 1;
                next.database = Database {
                    timeline: next.database.timeline + 1,
                    ..replica.clone()
                };
                next.replica = None;
            });
        }
        steps
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let database = &state.database;

        if database.proofs.iter().flatten().any(|proof| !proof.valid) {
            return Some(VALID);
        }
        if usize::from(database.rotations) != database.proofs.iter().flatten().count() {
            return Some(ONCE);
        }
        for (counts, log) in database.counts.iter().zip(&database.logs) {
            if counts.iter().flatten().any(|count| *count > log.entries) {
                return Some(COUNTED);
            }
        }
        for server in &state.servers {
            let differs = |round: usize| {
                server.seen[round].is_some_and(|seen| database.proofs[round] != Some(seen))
            };
            if server.timeline == database.timeline && !server.alarm && (0..ROUNDS).any(differs) {
                return Some(SAME_PROOF);
            }
        }
        None
    }

    fn broken_step(&self, before: &State, step: Step, after: &State) -> Option<&'static str> {
        if !after.erred && after.database.logs.iter().any(|log| log.wrong != 0) {
            return Some(OWN_PLACE);
        }
        if before.database.timeline != after.database.timeline {
            return None;
        }
        for round in 0..ROUNDS {
            let (old, new) = (before.database.logs[round], after.database.logs[round]);
            let proven = after.database.proofs[round];
            if proven.is_none() && new.right() < old.right() {
                return Some(APPEND_ONLY);
            }
            let highest = before.database.counts[round].iter().flatten().max();
            let stored = before.database.proofs[round].is_none() && proven.is_some();
            let by_count = matches!(step, Step::Prove { .. });
            if stored && by_count && proven.map(|proof| proof.leaves) != highest.copied() {
                return Some(HIGHEST);
            }
        }
        if let Step::Compare { server, .. } = step {
            let compared = &before.servers[server];
            let shared = before.database.logs[compared.round];
            let ahead =
                shared.entries > compared.log.entries && shared.differs(compared.log).is_none();
            if ahead && after == before {
                return Some(FOLLOWS);
            }
        }
        None
    }

    fn done(&self, state: &State) -> bool {
        state.database.proofs.iter().all(Option::is_some)
    }
}

fn assert_holds(entries: [u8; ROUNDS], faults: u8) {
    let work = Work {
        without: Without::Nothing,
        entries,
        faults,
    };
    let states = explore(&work).unwrap();
    println!("{states} states");
    assert!(states > 10_000, "{states}");
}

#[test]
fn the_log_is_the_election() {
    assert_holds([2, 1], 1);
    assert_holds([1, 1], 2);
}

/// All rules and faults together, with six million states.
#[test]
#[ignore = "takes a minute and 2.4 GB of memory: --test model -- --ignored"]
fn the_log_is_the_election_with_more_faults() {
    assert_holds([2, 1], 2);
}

#[test]
fn no_rule_about_work_can_be_left_out() {
    for (without, invariant) in [
        (Without::Places, OWN_PLACE),
        (Without::Recomputing, APPEND_ONLY),
        (Without::Verifying, VALID),
        (Without::Following, FOLLOWS),
        (Without::TakingOver, ENDS),
        (Without::EntriesBeforeCount, COUNTED),
        (Without::HighestCount, HIGHEST),
        (Without::InsertOnce, ONCE),
        (Without::RotatingWithProof, ONCE),
        (Without::ProofByOthers, ENDS),
        (Without::StoringAgain, SAME_PROOF),
    ] {
        let work = Work {
            without,
            entries: [2, 1],
            faults: 1,
        };
        assert_caught(&format!("{without:?}"), &work, invariant);
    }
}
