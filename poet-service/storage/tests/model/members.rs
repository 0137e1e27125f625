//! Who is a member of a round, when it closes, and its statement.

use crate::check::{Model, assert_caught, explore};

const SERVERS: usize = 3;
const ROUNDS: usize = 2;
/// How far the clock of each server is ahead of the database's.
const AHEAD: [i8; SERVERS] = [-1, 0, 1];
/// When each round closes, by the database's clock, and when the model's time ends.
const STARTS: [i8; ROUNDS] = [1, 2];
const LAST: i8 = 2;
/// How many faults may happen in one run: a lost answer, a server that ends, a fail-over.
const FAULTS: u8 = 2;
/// The maximum number of members of each round.
const ROOM: [u32; ROUNDS] = [2, 1];

/// Registrations, as bits of a set: the node, and the servers that it tries. Two registrations are
/// of the same node with different challenges.
const NODE: [u8; 3] = [0, 0, 1];
const AT: [&[usize]; 3] = [&[0, 1], &[1], &[2]];

type Set = u8;

const ACKNOWLEDGED: &str =
    "an acknowledged registration is in the round that was named, or its loss is an alarm";
const STATEMENT: &str = "the statement of a round is that of all of its members";
const ON_TIME: &str = "no round closes before its start by the database's clock";
const ONE_CHALLENGE: &str = "a node has one challenge in a round";
const ROOM_KEPT: &str = "a round has no more members than there is room for";
const SAME_IS_OK: &str = "the same registration again is no conflict";
const ONE_OPEN: &str = "one round is open";

/// The rules of the decisions. Each can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The transaction that registers locks and reads the round's row.
    LockOfTheRow,
    /// The database's clock decides whether a round may close.
    DatabasesClock,
    /// A node is a member only once: by the primary key.
    PrimaryKey,
    /// The transaction counts the members.
    CountInTheTransaction,
    /// A repeated registration is distinguished from a conflict.
    Repetition,
    /// A round closes in the transaction that opens the next one.
    ClosingWithOpening,
    /// The answer is sent after the commit.
    AnswerAfterCommit,
    /// The statement is computed from what is stored.
    StoredMembers,
    /// A database that went back is noticed, and what was acknowledged is handed in again.
    HandingInAgain,
}

/// The rule that is left out, and the number of faults.
struct Members(Without, u8);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    now: i8,
    database: Database,
    /// The contents of a replica, while there is one, and whether it is still the initial one.
    replica: Option<Database>,
    replicated: bool,
    servers: [Server; SERVERS],
    /// Registrations that some server has acknowledged, and those of them that no server can
    /// remember: the database went back, and the server has ended since.
    acknowledged: [Set; ROUNDS],
    forgotten: [Set; ROUNDS],
    refused_the_same: bool,
    /// How many more faults may happen.
    faults: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Database {
    /// The number of fail-overs.
    timeline: u8,
    /// The number of opened rounds: the last one is open.
    opened: u8,
    closed: Set,
    members: [Set; ROUNDS],
    statement: [Option<Set>; ROUNDS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Server {
    timeline: u8,
    /// The round that it considers open; may be beyond the rounds of the model.
    open: usize,
    /// What it has acknowledged and remembers.
    known: [Set; ROUNDS],
    /// What it had acknowledged before the database went back, until it notices that.
    doubtful: [Set; ROUNDS],
    alarm: bool,
}

#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "shown when an invariant breaks")]
enum Step {
    Time,
    Register {
        server: usize,
        registration: usize,
        answered: bool,
    },
    Open {
        server: usize,
        answered: bool,
    },
    Settle {
        server: usize,
        round: usize,
    },
    Replicate,
    FailOver,
    Notice {
        server: usize,
    },
    End {
        server: usize,
    },
}

fn bit(number: usize) -> Set {
    1 << number
}

/// Returns whether two registrations are of one node with different challenges.
fn conflicts(members: Set, registration: usize) -> bool {
    let other = |other: usize| other != registration && NODE[other] == NODE[registration];
    (0..NODE.len()).any(|number| members & bit(number) != 0 && other(number))
}

#[derive(PartialEq, Eq)]
enum Answer {
    Ok,
    Conflict,
    Other,
}

impl Members {
    fn register(
        &self,
        database: &mut Database,
        server: &Server,
        round: usize,
        one: usize,
    ) -> Answer {
        let open = usize::from(database.opened) > round && database.closed & bit(round) == 0;
        let there = usize::from(database.opened) > round;
        let takes = if self.0 == Without::LockOfTheRow {
            there
        } else {
            open
        };
        if !takes {
            return Answer::Other;
        }
        let members = database.members[round];
        if members & bit(one) != 0 {
            return match self.0 {
                Without::Repetition => Answer::Conflict,
                _ => Answer::Ok,
            };
        }
        if self.0 != Without::PrimaryKey && conflicts(members, one) {
            return Answer::Conflict;
        }
        let counted = match self.0 {
            Without::CountInTheTransaction => server.known[round],
            _ => members,
        };
        if counted.count_ones() >= ROOM[round] {
            return Answer::Other;
        }
        database.members[round] |= bit(one);
        Answer::Ok
    }

    /// Opens a round and closes those before it. Returns whether it succeeded.
    fn open(&self, database: &mut Database, now: i8, round: usize) -> bool {
        // Whether or not the one before was ever opened.
        let early = round > 0 && now < STARTS[round - 1];
        if early && self.0 != Without::DatabasesClock {
            return false;
        }
        if self.0 != Without::ClosingWithOpening {
            // A round that was never opened has no members.
            for earlier in 0..round {
                database.closed |= bit(earlier);
            }
        }
        database.opened = database.opened.max(round as u8 + 1);
        true
    }

    /// A server notices that the database is on another timeline: what it has opened and
    /// acknowledged may be lost, and is handed in again.
    fn notice(&self, state: &mut State, number: usize) {
        let State {
            database,
            servers,
            now,
            ..
        } = state;
        let server = &mut servers[number];
        server.timeline = database.timeline;
        let doubtful = std::mem::take(&mut server.doubtful);
        if self.0 == Without::HandingInAgain {
            return;
        }
        // The round that was open at the acknowledgement may be open again, until this server opens
        // the one that it considers open.
        self.hand_in(database, server, doubtful);
        self.open(database, *now, server.open);
        self.hand_in(database, server, doubtful);
        let lost = |round: usize| doubtful[round] & !database.members[round] != 0;
        server.alarm |= (0..ROUNDS).any(lost);
    }

    fn hand_in(&self, database: &mut Database, server: &Server, what: [Set; ROUNDS]) {
        for (round, set) in what.into_iter().enumerate() {
            for one in (0..NODE.len()).filter(|one| set & bit(*one) != 0) {
                self.register(database, server, round, one);
            }
        }
    }
}

impl Model for Members {
    type State = State;
    type Step = Step;

    fn start(&self) -> State {
        let database = Database {
            timeline: 0,
            opened: 1,
            closed: 0,
            members: [0; ROUNDS],
            statement: [None; ROUNDS],
        };
        let server = Server {
            timeline: 0,
            open: 0,
            known: [0; ROUNDS],
            doubtful: [0; ROUNDS],
            alarm: false,
        };
        State {
            now: 0,
            replica: Some(database.clone()),
            replicated: false,
            database,
            servers: [server.clone(), server.clone(), server],
            acknowledged: [0; ROUNDS],
            forgotten: [0; ROUNDS],
            refused_the_same: false,
            faults: self.1,
        }
    }

    fn steps(&self, state: &State) -> Vec<(Step, State)> {
        let mut steps = Vec::new();
        let mut step = |step: Step, change: &dyn Fn(&mut State)| {
            let mut next = state.clone();
            change(&mut next);
            steps.push((step, next));
        };
        if state.now < LAST {
            step(Step::Time, &|next| next.now += 1);
        }
        let answers: &[bool] = if state.faults > 0 {
            &[true, false]
        } else {
            &[true]
        };
        for (number, ahead) in AHEAD.into_iter().enumerate() {
            let server = &state.servers[number];
            if server.timeline < state.database.timeline {
                // It must notice, since the connection is another one.
                let server = number;
                step(Step::Notice { server }, &|next| self.notice(next, number));
            } else {
                for (registration, at) in AT.iter().enumerate() {
                    let round = server.open;
                    if round >= ROUNDS || !at.contains(&number) {
                        continue;
                    }
                    for &answered in answers {
                        let server = number;
                        let what = Step::Register {
                            server,
                            registration,
                            answered,
                        };
                        step(what, &|next| {
                            next.faults -= u8::from(!answered);
                            let known = next.servers[number].clone();
                            let had = next.database.members[round] & bit(registration) != 0;
                            let mut answer =
                                self.register(&mut next.database, &known, round, registration);
                            next.refused_the_same |= had && answer == Answer::Conflict;
                            if self.0 == Without::AnswerAfterCommit && !answered {
                                // The commit is lost, after the answer.
                                next.database = state.database.clone();
                                answer = Answer::Ok;
                            } else if !answered {
                                return;
                            }
                            if answer == Answer::Ok {
                                next.acknowledged[round] |= bit(registration);
                                next.servers[number].known[round] |= bit(registration);
                            }
                        });
                    }
                }
                // By its own clock it is time to close.
                if server.open < ROUNDS && state.now + ahead >= STARTS[server.open] {
                    for &answered in answers {
                        let round = server.open + 1;
                        let server = number;
                        step(Step::Open { server, answered }, &|next| {
                            next.faults -= u8::from(!answered);
                            if self.open(&mut next.database, next.now, round) && answered {
                                next.servers[number].open = round;
                            }
                        });
                    }
                }
                for round in 0..server.open.min(ROUNDS) {
                    let closed = state.database.closed & bit(round) != 0;
                    let server = number;
                    if closed || self.0 == Without::ClosingWithOpening {
                        step(Step::Settle { server, round }, &|next| {
                            let members = match self.0 {
                                Without::StoredMembers => next.servers[number].known[round],
                                _ => next.database.members[round],
                            };
                            let stored = next.database.statement[round].get_or_insert(members);
                            if *stored != members {
                                next.servers[number].alarm = true;
                            }
                        });
                    }
                }
            }
            if state.faults > 0 {
                let server = number;
                step(Step::End { server }, &|next| {
                    next.faults -= 1;
                    // The open round follows from its clock and from what is settled.
                    let now = next.now + ahead;
                    let by_clock = STARTS.iter().filter(|start| now >= **start).count();
                    let settled = next.database.statement.iter().flatten().count();
                    let open = by_clock.max(settled);
                    let opened = self.open(&mut next.database, next.now, open);
                    let server = &mut next.servers[number];
                    for round in 0..ROUNDS {
                        next.forgotten[round] |= server.doubtful[round];
                    }
                    server.known = [0; ROUNDS];
                    server.doubtful = [0; ROUNDS];
                    server.timeline = next.database.timeline;
                    // If it is too early, it tries again.
                    server.open = match opened {
                        true => open,
                        false => usize::from(next.database.opened) - 1,
                    };
                });
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
                for server in &mut next.servers {
                    server.doubtful = server.known;
                }
                for round in 0..ROUNDS {
                    let known = next
                        .servers
                        .iter()
                        .fold(0, |all, one| all | one.known[round]);
                    next.forgotten[round] |= next.acknowledged[round] & !known;
                }
            });
        }
        steps
    }

    fn broken(&self, state: &State) -> Option<&'static str> {
        let database = &state.database;
        if state.refused_the_same {
            return Some(SAME_IS_OK);
        }
        let open =
            (0..usize::from(database.opened)).filter(|round| database.closed & bit(*round) == 0);
        if open.count() > 1 {
            return Some(ONE_OPEN);
        }
        for (round, room) in ROOM.into_iter().enumerate() {
            let members = database.members[round];
            if (0..NODE.len()).any(|one| members & bit(one) != 0 && conflicts(members, one)) {
                return Some(ONE_CHALLENGE);
            }
            if members.count_ones() > room {
                return Some(ROOM_KEPT);
            }
            if database.statement[round].is_some_and(|statement| statement != members) {
                return Some(STATEMENT);
            }
            // Only the server that acknowledged it can know, if it still remembers.
            let doubtful = state
                .servers
                .iter()
                .fold(0, |all, server| all | server.doubtful[round]);
            let excused = doubtful | state.forgotten[round];
            let alarm = state.servers.iter().any(|server| server.alarm);
            if state.acknowledged[round] & !members & !excused != 0 && !alarm {
                return Some(ACKNOWLEDGED);
            }
        }
        None
    }

    fn broken_step(&self, before: &State, _: Step, after: &State) -> Option<&'static str> {
        // Another database may have closed it earlier.
        let same = before.database.timeline == after.database.timeline;
        let closed = after.database.closed & !before.database.closed;
        let early = (0..ROUNDS).any(|round| closed & bit(round) != 0 && after.now < STARTS[round]);
        (same && early).then_some(ON_TIME)
    }

    fn done(&self, state: &State) -> bool {
        state.database.statement.iter().all(Option::is_some)
    }
}

#[test]
fn members_are_decided_once() {
    let states = explore(&Members(Without::Nothing, FAULTS)).unwrap();
    println!("{states} states");
    assert!(states > 10_000, "{states}");
}

#[test]
fn no_rule_about_members_can_be_left_out() {
    for (without, invariant) in [
        (Without::LockOfTheRow, STATEMENT),
        (Without::DatabasesClock, ON_TIME),
        (Without::PrimaryKey, ONE_CHALLENGE),
        (Without::CountInTheTransaction, ROOM_KEPT),
        (Without::Repetition, SAME_IS_OK),
        (Without::ClosingWithOpening, ONE_OPEN),
        (Without::AnswerAfterCommit, ACKNOWLEDGED),
        (Without::StoredMembers, STATEMENT),
        (Without::HandingInAgain, ACKNOWLEDGED),
    ] {
        assert_caught(&format!("{without:?}"), &Members(without, 1), invariant);
    }
}
