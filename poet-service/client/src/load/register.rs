//! `poet-client load register`.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use poet_proto::{
    json::{self, PowParamsResponse, SubmitResponse},
    pow::PowParams,
};
use serde::{Serialize, de::IgnoredAny};
use tokio::task::LocalSet;

use super::{
    fetch::{When, await_proof},
    http::{Connection, LoadTarget},
    members::{self, LoadNode},
    proof,
    report::{Errors, Latencies, Summary},
};
use crate::input::whole_number;

/// How far the responses may differ about the end of a round.
const END_TOLERANCE: Duration = Duration::from_secs(2);
/// How long to wait before reconnecting after a failure.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(100);

/// Register many members at once
///
/// Keys, proofs of work and signatures are computed before the clock starts. Checks every response:
/// its status, its round, and that all of them have the same end of the round.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server
    #[arg(long, default_value = "http://localhost:8080")]
    url: String,

    /// How many members to register
    #[arg(long, value_name = "NUMBER", value_parser = whole_number::<usize>(1..=u64::from(u32::MAX)))]
    members: usize,

    /// The number of connections
    #[arg(long, value_name = "NUMBER", default_value = "200",
        value_parser = whole_number::<usize>(1..=u64::MAX))]
    connections: usize,

    /// Requests per second; latencies then count from the time at which a request was due [default:
    /// as fast as the server responds]
    #[arg(long, value_name = "NUMBER", value_parser = parse_rate)]
    rate: Option<f64>,

    /// Derive the members from this number, the same each time [default: new members]
    #[arg(long, value_name = "NUMBER", value_parser = whole_number::<u64>(0..=u64::MAX))]
    keys_seed: Option<u64>,

    /// Wait for the proof of the round, verify it and look for each member in it
    #[arg(long)]
    await_proof: bool,

    /// Print JSON, one object, at the end
    #[arg(long)]
    json: bool,
}

fn parse_rate(text: &str) -> Result<f64, &'static str> {
    text.parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate >= 0.001)
        .ok_or("expected a number of requests per second, at least 0.001")
}

/// The state that the connections share. All of them run on one thread.
struct RegisterLoad {
    target: LoadTarget,
    members: Vec<LoadNode>,
    params: PowParams,
    start: Instant,
    /// The time between requests, if a rate is given.
    interval: Option<Duration>,
    next: Cell<usize>,
    latencies: RefCell<Latencies>,
    errors: RefCell<Errors>,
    /// For each round: the members in it, and its end.
    rounds: RefCell<BTreeMap<u64, RoundMembers>>,
}

struct RoundMembers {
    end: Instant,
    members: Vec<u32>,
}

pub(super) async fn run(args: Args) -> anyhow::Result<bool> {
    let target = LoadTarget::resolve(&args.url).await?;
    let params = pow_params(&target).await?;
    let count = args.members;
    eprintln!("signing {count} registrations");
    let began = Instant::now();
    let seed = match args.keys_seed {
        Some(seed) => seed,
        None => {
            let mut seed = [0; 8];
            getrandom::fill(&mut seed)
                .map_err(|_| anyhow!("the system gives no randomness: expected --keys-seed"))?;
            u64::from_le_bytes(seed)
        }
    };
    let members = members::prepare(seed, count, &params)
        .context("the proof of work that the server asks for has no solution")?;
    eprintln!("signed in {:.1} s, sending", began.elapsed().as_secs_f64());

    let mut connections = Vec::new();
    for _ in 0..args.connections {
        connections.push(target.connect().await?);
    }
    let load = Rc::new(RegisterLoad {
        target,
        members,
        params,
        start: Instant::now(),
        interval: args.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
        next: Cell::new(0),
        latencies: RefCell::new(Latencies::with_capacity(count)),
        errors: RefCell::default(),
        rounds: RefCell::default(),
    });
    let local = LocalSet::new();
    for connection in connections {
        local.spawn_local(Rc::clone(&load).keep_sending(connection));
    }
    local.await;
    let seconds = load.start.elapsed().as_secs_f64();
    let load = Rc::into_inner(load).context("a connection is still there")?;

    let registered = load.latencies.borrow().len();
    let mut report = RegisterReport {
        members: count,
        registered,
        seconds,
        per_second: registered as f64 / seconds,
        connections: args.connections,
        latency_seconds: load.latencies.take().summary(),
        errors: load.errors.take(),
        rounds: Vec::new(),
    };
    if !args.json {
        println!("{report}");
    }
    for (id, round) in load.rounds.take() {
        if !args.json {
            println!("round       {id}: {} members", round.members.len());
        }
        report.rounds.push(RegisteredRound {
            members: round.members.len(),
            proof: None,
            round: id.to_string(),
        });
        if args.await_proof
            && let Some(told) = report.rounds.last_mut()
        {
            let proof = check_proof(&load.target, &load.members, &told.round, &round).await?;
            if !args.json {
                println!("{proof}");
            }
            told.proof = Some(proof);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    }
    Ok(report.is_right())
}

/// The results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RegisterReport {
    members: usize,
    registered: usize,
    seconds: f64,
    per_second: f64,
    connections: usize,
    latency_seconds: Summary,
    errors: Errors,
    rounds: Vec<RegisteredRound>,
}

#[derive(Serialize)]
struct RegisteredRound {
    round: String,
    members: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    proof: Option<MembersInProof>,
}

/// A proof in which the members were looked for.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MembersInProof {
    #[serde(flatten)]
    ready: When,
    leaves: u64,
    members: usize,
    missing: usize,
}

impl RegisterReport {
    /// Returns whether every response was right.
    fn is_right(&self) -> bool {
        let proofs = self.rounds.iter().filter_map(|round| round.proof.as_ref());
        self.errors.is_empty() && proofs.map(|proof| proof.missing).sum::<usize>() == 0
    }
}

impl fmt::Display for RegisterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "registered  {} of {} in {:.2} s, {:.0}/s, over {} connections",
            self.registered, self.members, self.seconds, self.per_second, self.connections
        )?;
        writeln!(f, "latency     {}", self.latency_seconds)?;
        self.errors.fmt(f)
    }
}

impl fmt::Display for MembersInProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "proof       {}; valid: {} leaves, {} members, {} of ours missing",
            self.ready, self.leaves, self.members, self.missing
        )
    }
}

async fn pow_params(target: &LoadTarget) -> anyhow::Result<PowParams> {
    let response: PowParamsResponse = target
        .get_json("/v1/pow_params")
        .await?
        .context("the server has no /v1/pow_params: expected the REST address of a PoET server")?;
    Ok(response.into())
}

impl RegisterLoad {
    /// Sends one request after the other until all members are registered.
    async fn keep_sending(self: Rc<Self>, connection: Connection) {
        let mut connection = Some(connection);
        loop {
            let number = self.next.get();
            if number >= self.members.len() {
                return;
            }
            self.next.set(number + 1);
            let due = match self.interval {
                Some(interval) => {
                    let due = self.start + interval.mul_f64(number as f64);
                    tokio::time::sleep_until(due.into()).await;
                    due
                }
                None => Instant::now(),
            };
            match self.register(number, &mut connection).await {
                Ok(()) => self.latencies.borrow_mut().push(due.elapsed()),
                Err(error) => self.errors.borrow_mut().add(&error),
            }
        }
    }

    async fn register(&self, number: usize, kept: &mut Option<Connection>) -> anyhow::Result<()> {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match self.target.connect().await {
                Ok(connection) => connection,
                Err(error) => {
                    tokio::time::sleep(RECONNECT_INTERVAL).await;
                    return Err(error);
                }
            },
        };
        let body = self.members[number].request(&self.params);
        // A connection that failed is not reused.
        let (status, answer) = connection.post("/v1/submit", body).await?;
        *kept = Some(connection);
        if status != 200 {
            bail!("status {status}: {}", String::from_utf8_lossy(&answer));
        }
        self.check(number, &answer)
    }

    fn check(&self, number: usize, answer: &[u8]) -> anyhow::Result<()> {
        // Parsing the receipt would take longer than all the rest.
        let submitted: SubmitResponse<IgnoredAny> =
            json::read(answer).context("unexpected answer")?;
        let left = Duration::try_from(submitted.round_end.0)
            .map_err(|_| anyhow!("roundEnd: expected seconds that are left"))?;
        let end = Instant::now() + left;
        let mut rounds = self.rounds.borrow_mut();
        let id = submitted.round_id.0;
        if let Some(round) = rounds.get_mut(&id) {
            let apart = end.max(round.end) - end.min(round.end);
            ensure!(
                apart <= END_TOLERANCE,
                "answers disagree about the end of the round"
            );
            round.members.push(u32::try_from(number)?);
            return Ok(());
        }
        let members = vec![u32::try_from(number)?];
        rounds.insert(id, RoundMembers { end, members });
        Ok(())
    }
}

/// Checks that the proof of a round contains all members registered for it.
async fn check_proof(
    target: &LoadTarget,
    members: &[LoadNode],
    id: &str,
    round: &RoundMembers,
) -> anyhow::Result<MembersInProof> {
    let left = round.end.saturating_duration_since(Instant::now());
    eprintln!(
        "waiting for the proof of round {id}, due in {} s",
        left.as_secs()
    );
    let ready = await_proof(target, id, Some(round.end)).await?;
    let mut verified = proof::check(&ready.compressed)?;
    verified.members.sort_unstable();
    let missing = round
        .members
        .iter()
        .filter(|number| {
            let challenge = &members[**number as usize].challenge;
            verified.members.binary_search(challenge).is_err()
        })
        .count();
    Ok(MembersInProof {
        ready: ready.when(),
        leaves: verified.leaves,
        members: verified.members.len(),
        missing,
    })
}
