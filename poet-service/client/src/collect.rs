//! `poet-client collect`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use poet_engine::{TICK_LEAVES, Work};
use poet_files::Output;
use poet_proto::{
    json,
    member::{Challenge, NodeId},
    receipt::Receipt,
    schedule::reward_epoch,
};
use serde_json::json;

use crate::{
    http::Http,
    input::{read_if_exists, whole_number},
    output::table,
    poet::{Failure, Kind, RemotePoet},
    proof::{NoProof, ProofResponse, VerifiedProof, spacemesh_work},
    receipt::{ExpectedReceipt, sentence},
    state::{DEFAULT_FILE, StateFile, StoredRegistration},
    time::{
        after, now, once_to_twice, parse_until, parse_wait, receive, rough, rough_between,
        sleep_until, time_until, wait_again,
    },
};

/// Fetch the proofs from the servers of `register`, verify them, and keep the best
///
/// Waits for the end of each server's round and a random time more, as nodes do, then asks for the
/// proof until the server has it. Verifies everything: that the server's key is the one at the
/// registration, that the challenge is a member, that the members determine the statement, and all
/// 150 labels. The file of --out always holds the valid proof with the most leaves so far; only a
/// better proof replaces one of the same challenge from an earlier run.
///
/// Exit codes: 0 all servers gave a valid proof, 1 none did, 2 the command line is wrong, 3 some did.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// The file in which `register` stored the registrations
    #[arg(long, value_name = "FILE", default_value = DEFAULT_FILE)]
    state: PathBuf,

    /// Collect the proofs of this round, if there are registrations for several: proofs of
    /// different rounds are never compared
    #[arg(long, value_name = "NUMBER", value_parser = whole_number::<u64>(0..=u64::MAX))]
    round: Option<u64>,

    /// The file for the best proof, as JSON that `poet-service verify` reads; standard output (-), a
    /// pipe or a device gets it once, at the end
    #[arg(long, value_name = "FILE", default_value = "proof.json")]
    out: PathBuf,

    /// Print the results as JSON, one object at the end; --out must not be standard output
    #[arg(long)]
    json: bool,

    /// The file for the message with the best proof that a node stores (PoetProofMessage, in
    /// SCALE), written at the end
    #[arg(long, value_name = "FILE")]
    message: Option<PathBuf>,

    /// End at this time, or after this duration, with the proofs that are there [default: 20m after
    /// the last round's end, or 20m from now if that has passed]
    #[arg(long, value_name = "TIME", value_parser = parse_until)]
    until: Option<Timestamp>,

    /// Leaves in a tick; the default is mainnet's
    #[arg(long, value_name = "LEAVES", default_value_t = TICK_LEAVES, value_parser = whole_number::<u64>(1..=u64::MAX))]
    tick_size: u64,

    /// Retry a failed server after one to two times this duration, or half of the remaining time
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "10s")]
    retry_delay: Duration,

    /// How long to wait for a complete response; the proof of a round with a million members has 44 MB
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "10m")]
    timeout: Duration,
}

/// How long after the last round's end to keep trying: as long as a node does.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(20 * 60);
/// Nodes wait 0.02 to 0.04 % of the cycle gap before they ask: on mainnet, 8.64 to 17.28 s.
const LEAST_WAIT_PER_GAP: f64 = 0.0002;
/// The longest file that can be a proof.
const MAX_FILE_BYTES: u64 = 1 << 28;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = args.state.display();
    let Some(mut state) = StateFile::read(&args.state)? else {
        bail!("there is no --state {name}: expected the file that `poet-client register` wrote");
    };
    choose_round(&mut state, args)?;
    let Some(last_end) = state.registrations.iter().map(|it| it.round_end).max() else {
        bail!("--state {name} holds no registration");
    };
    let work = Arc::new(spacemesh_work()?);
    // Checked before the wait, so that no proof is lost.
    let out = Output::open("--out", &args.out)?;
    ensure!(
        !(args.json && out.is_stdout()),
        "--json and --out - are both standard output: expected a file for the proof"
    );
    let message = match &args.message {
        Some(path) => Some(Output::open("--message", path)?),
        None => None,
    };
    let mut best = match out.file() {
        Some(path) => read_earlier(path, &state, &work)?,
        None => None,
    };
    let limit = args
        .until
        .unwrap_or_else(|| after(last_end.max(now()), DEFAULT_PATIENCE));

    let http = Http::new(state.registrations.iter().map(|it| &it.poet))?;
    let (sender, events) = mpsc::channel();
    for (index, registration) in state.registrations.iter().enumerate() {
        let job = Collecting {
            index,
            poet: RemotePoet::new(registration.poet.clone(), http.clone()),
            registration: registration.clone(),
            node_id: state.node_id,
            challenge: state.challenge,
            work: Arc::clone(&work),
            limit,
            retry_delay: args.retry_delay,
            timeout: args.timeout,
        };
        let sender = sender.clone();
        // Not joined: a server that hangs must not delay the others.
        thread::spawn(move || job.run(&sender));
    }
    drop(sender);
    let not_yet = |registration: &StoredRegistration| {
        let end = registration.round_end;
        Outcome::Failed(if end < limit {
            "not asked in time".to_owned()
        } else {
            format!("its round ends at {end:.0} only")
        })
    };
    let mut outcomes: Vec<Outcome> = state.registrations.iter().map(not_yet).collect();
    let left = time_until(last_end);
    if !left.is_zero() {
        eprintln!("waiting for the end of the rounds, in {}", rough(left));
    }
    while let Some((index, event)) = receive(&events, limit) {
        let poet = &state.registrations[index].poet;
        match event {
            CollectEvent::Failed { reason, again } => {
                let outcome = Outcome::Failed(reason);
                if let (Some(wait), true) = (again, outcomes[index] != outcome) {
                    eprintln!("{poet}: {outcome}; asked again in {}", rough(wait));
                }
                outcomes[index] = outcome;
            }
            CollectEvent::LeftOut(receipt) => outcomes[index] = Outcome::LeftOut(receipt),
            CollectEvent::Fetched(proof) => {
                eprintln!("{poet}: a valid proof of {} leaves", proof.leaves());
                outcomes[index] = Outcome::Valid {
                    leaves: proof.leaves(),
                    members: proof.members(),
                    fetched: now(),
                };
                if best
                    .as_ref()
                    .is_none_or(|best| best.leaves() < proof.leaves())
                {
                    if out.is_replaced() {
                        out.write(proof.to_json().as_bytes())?;
                    }
                    best = Some(proof);
                }
            }
        }
    }
    drop(events);

    let mut text = summary(&state, &outcomes, args.tick_size);
    let failed = outcomes
        .iter()
        .filter(|outcome| !matches!(outcome, Outcome::Valid { .. }))
        .count();
    for (registration, outcome) in state.registrations.iter().zip(&outcomes) {
        if let Outcome::LeftOut(receipt) = outcome {
            let poet = &registration.poet;
            text += &format!(
                "{poet}: the receipt in {name} is evidence: {}; its proof of that round is valid and \
                 does not have the challenge\n",
                sentence(receipt)
            );
        }
    }
    match &best {
        Some(best) => {
            text += &format!(
                "{}: {} leaves, {} ticks; our challenge is member {} of {}; reference {}\n",
                args.out.display(),
                best.leaves(),
                best.leaves() / args.tick_size,
                best.index,
                best.members(),
                hex::encode(best.reference()),
            );
        }
        None => text += "no server gave a valid proof: nothing was written\n",
    }
    if args.json {
        println!("{}", report(&state, &outcomes, best.as_ref(), args));
    } else if out.is_stdout() {
        eprint!("{text}");
    } else {
        print!("{text}");
    }
    let Some(best) = best else {
        return Ok(ExitCode::FAILURE);
    };
    if !out.is_replaced() {
        out.write(best.to_json().as_bytes())?;
    }
    if let Some(message) = message {
        let made = state
            .registrations
            .iter()
            .find(|it| best.is_of(&it.pubkey.0));
        let made = made.context("the best proof is of a server that is not registered with")?;
        message.write(&best.to_message(made.round)?)?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    })
}

/// Returns the results in JSON.
fn report(
    state: &StateFile,
    outcomes: &[Outcome],
    best: Option<&VerifiedProof>,
    args: &Args,
) -> serde_json::Value {
    let server = |(registration, outcome): (&StoredRegistration, &Outcome)| {
        let mut server = json!({
            "poet": registration.poet,
            "round": registration.round,
            "rewardEpoch": reward_epoch(registration.round),
            "valid": matches!(outcome, Outcome::Valid { .. }),
        });
        match outcome {
            Outcome::Valid {
                leaves, members, ..
            } => {
                server["leaves"] = json!(leaves);
                server["ticks"] = json!(leaves / args.tick_size);
                server["members"] = json!(members);
            }
            other => server["error"] = json!(other.to_string()),
        }
        server
    };
    let servers = state.registrations.iter().zip(outcomes).map(server);
    json!({
        "servers": servers.collect::<Vec<_>>(),
        "best": best.map(|best| json!({
            "file": args.out,
            "leaves": best.leaves(),
            "ticks": best.leaves() / args.tick_size,
            "member": best.index,
            "members": best.members(),
            "reference": hex::encode(best.reference()),
        })),
    })
}

/// Selects the registrations of one round.
fn choose_round(state: &mut StateFile, args: &Args) -> anyhow::Result<()> {
    let name = args.state.display();
    let rounds: BTreeSet<u64> = state.registrations.iter().map(|it| it.round).collect();
    let listed = || {
        let rounds: Vec<_> = rounds.iter().map(u64::to_string).collect();
        rounds.join(", ")
    };
    match args.round {
        Some(round) => {
            state.registrations.retain(|it| it.round == round);
            ensure!(
                !state.registrations.is_empty() || rounds.is_empty(),
                "--state {name} holds no registration in round {round}: expected --round with one of {}",
                listed()
            );
        }
        None => ensure!(
            rounds.len() <= 1,
            "--state {name} holds registrations in several rounds, whose proofs are never compared: \
             expected --round with one of {}",
            listed()
        ),
    }
    Ok(())
}

/// Reads the proof that an earlier run wrote, if there is one.
fn read_earlier(
    path: &Path,
    state: &StateFile,
    work: &Work,
) -> anyhow::Result<Option<VerifiedProof>> {
    let name = path.display();
    let Some(text) = read_if_exists(format_args!("--out {name}"), path, MAX_FILE_BYTES)? else {
        return Ok(None);
    };
    let verified = json::read(&text).ok().and_then(|response| {
        let response: ProofResponse = response;
        let pubkey = response.pubkey;
        let known = state.registrations.iter().any(|it| it.pubkey == pubkey);
        known.then(|| VerifiedProof::check(work, response, state.challenge, &pubkey.0))
    });
    match verified {
        Some(Ok(proof)) => Ok(Some(proof)),
        _ => bail!(
            "--out {name} exists and is not a proof of this challenge by one of these servers: \
             expected another name"
        ),
    }
}

/// The result for a server.
#[derive(Debug, PartialEq)]
enum Outcome {
    Valid {
        leaves: u64,
        members: usize,
        fetched: Timestamp,
    },
    /// The proof is valid without our challenge, although the server had acknowledged it.
    LeftOut(Box<Receipt>),
    Failed(String),
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Valid { .. } => f.write_str("yes"),
            Self::LeftOut(_) => write!(
                f,
                "no: {}, although the server acknowledged it",
                NoProof::WithoutUs
            ),
            Self::Failed(reason) => write!(f, "no: {reason}"),
        }
    }
}

fn summary(state: &StateFile, outcomes: &[Outcome], tick_size: u64) -> String {
    let head = [
        "server", "round", "leaves", "ticks", "members", "delay", "verified",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for (registration, outcome) in state.registrations.iter().zip(outcomes) {
        let mut row = vec![
            registration.poet.to_string(),
            registration.round.to_string(),
        ];
        match outcome {
            Outcome::Valid {
                leaves,
                members,
                fetched,
            } => row.extend([
                leaves.to_string(),
                (leaves / tick_size).to_string(),
                members.to_string(),
                rough_between(registration.round_end, *fetched),
            ]),
            Outcome::LeftOut(_) | Outcome::Failed(_) => row.extend(["-"; 4].map(str::to_owned)),
        }
        row.push(outcome.to_string());
        rows.push(row);
    }
    table(&rows)
}

/// The result of an attempt.
enum CollectEvent {
    Fetched(VerifiedProof),
    /// The proof is valid without our challenge, although the server had acknowledged it.
    LeftOut(Box<Receipt>),
    Failed {
        reason: String,
        /// The wait until the next attempt.
        again: Option<Duration>,
    },
}

/// What to do with a server.
struct Collecting {
    index: usize,
    poet: RemotePoet,
    registration: StoredRegistration,
    node_id: NodeId,
    challenge: Challenge,
    work: Arc<Work>,
    limit: Timestamp,
    retry_delay: Duration,
    timeout: Duration,
}

impl Collecting {
    /// Waits for the end of the round and tries until there is a proof, no hope, or no time left.
    fn run(&self, events: &Sender<(usize, CollectEvent)>) {
        let StoredRegistration {
            round_end,
            cycle_gap,
            ..
        } = self.registration;
        let jitter = once_to_twice(cycle_gap.0.mul_f64(LEAST_WAIT_PER_GAP));
        sleep_until(after(round_end, jitter));
        // If nothing receives this, the program is ending.
        let tell = |event| drop(events.send((self.index, event)));
        while !time_until(self.limit).is_zero() {
            let failure = match self.fetch() {
                Ok(event) => return tell(event),
                Err(failure) => failure,
            };
            let again = match failure.kind {
                Kind::Passing => wait_again(self.retry_delay, self.limit),
                Kind::Unauthorized | Kind::Final => None,
            };
            tell(CollectEvent::Failed {
                reason: failure.reason,
                again,
            });
            let Some(wait) = again else { return };
            thread::sleep(wait);
        }
    }

    fn fetch(&self) -> Result<CollectEvent, Failure> {
        let time = self.timeout.min(time_until(self.limit));
        let response = self.poet.proof(self.registration.round, time)?;
        let pubkey = &self.registration.pubkey.0;
        let checked = VerifiedProof::check(&self.work, response, self.challenge, pubkey);
        match (checked, self.receipt()) {
            (Ok(proof), _) => Ok(CollectEvent::Fetched(proof)),
            (Err(NoProof::WithoutUs), Some(receipt)) => Ok(CollectEvent::LeftOut(receipt)),
            // A node does not ask again after an invalid proof, either.
            (Err(error), _) => Err(Failure::last(error)),
        }
    }

    /// Returns the server's receipt for this registration, if it gave one.
    fn receipt(&self) -> Option<Box<Receipt>> {
        let registered = ExpectedReceipt {
            server: Some(self.registration.pubkey.0),
            node_id: Some(self.node_id),
            challenge: Some(self.challenge),
            round: Some(self.registration.round),
        };
        let receipt = self.registration.receipt.clone()?;
        registered.check(&receipt).ok()?;
        Some(receipt)
    }
}
