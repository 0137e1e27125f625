//! `poet-client watch`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use poet_engine::TICK_LEAVES;
use poet_proto::base64;
use serde::Serialize;

use crate::{
    http::{Http, Url},
    messages::{Bytes32, Info, Round, RoundState, Seconds},
    output::{printable, table},
    poet::{Failure, Poet},
    time::{now, parse_wait, rough, rough_between},
};

/// Show what PoET servers are doing
///
/// For each server: the open round and its members, the round that is worked on with its rate and
/// the ticks to expect, the newest proof and how late it came, whether the server's key changed.
/// Rounds are known of servers that tell (GET /v1/rounds); the Go server does not. On a terminal
/// the table is kept up to date, otherwise a new one is printed each time.
///
/// With --once, exit codes: 0 all servers answered, 1 none did, 3 some did. Without, it runs until
/// it is interrupted. 2: the command line is wrong.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// The servers
    #[arg(value_name = "URL", required = true)]
    poets: Vec<Url>,

    /// How often the servers are asked
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "5s")]
    interval: Duration,

    /// Ask once, print, and end
    #[arg(long)]
    once: bool,

    /// Print JSON, one object in a line each time
    #[arg(long)]
    json: bool,

    /// Leaves in a tick; the default is mainnet's
    #[arg(long, value_name = "LEAVES", default_value_t = TICK_LEAVES, value_parser = clap::value_parser!(u64).range(1..))]
    tick_size: u64,

    /// The longest time for an answer
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "10s")]
    timeout: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let http = Http::new(&args.poets)?;
    let (sender, observations) = mpsc::channel();
    for (index, url) in args.poets.iter().enumerate() {
        let poet = Poet::new(url.clone(), http.clone());
        let (sender, timeout) = (sender.clone(), args.timeout);
        let interval = (!args.once).then_some(args.interval);
        thread::spawn(move || {
            loop {
                let begin = Instant::now();
                let seen = observe(&poet, timeout);
                if sender.send((index, seen)).is_err() {
                    return;
                }
                let Some(interval) = interval else { return };
                thread::sleep(interval.saturating_sub(begin.elapsed()));
            }
        });
    }
    drop(sender);

    let mut watched: Vec<Watched> = args.poets.iter().map(Watched::new).collect();
    // The first table comes when every server has answered or failed to, and is not held up for
    // long by one that is slow, unless it is the only one.
    let mut waiting: BTreeSet<usize> = (0..watched.len()).collect();
    let patience = if args.once {
        2 * args.timeout
    } else {
        args.interval
    };
    let mut next = Instant::now() + patience;
    loop {
        match observations.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok((index, seen)) => {
                watched[index].update(seen, now());
                if !waiting.remove(&index) || !waiting.is_empty() {
                    continue;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => waiting.clear(),
            // With --once, the last server that had something to say has said it.
            Err(mpsc::RecvTimeoutError::Disconnected) if args.once => {}
            Err(error) => return Err(error.into()),
        }
        if show(args, &watched).is_err() {
            // Nobody reads any more.
            return Ok(ExitCode::SUCCESS);
        }
        if args.once {
            let answered = watched.iter().filter(|poet| poet.seen().is_some()).count();
            return Ok(match (answered, watched.len() - answered) {
                (_, 0) => ExitCode::SUCCESS,
                (0, _) => ExitCode::FAILURE,
                _ => ExitCode::from(3),
            });
        }
        next = Instant::now() + args.interval;
    }
}

fn show(args: &Args, watched: &[Watched]) -> std::io::Result<()> {
    let now = now();
    let mut out = std::io::stdout().lock();
    if args.json {
        let poets = watched
            .iter()
            .map(|poet| poet.report(now, args.tick_size))
            .collect();
        let json = serde_json::to_string(&WatchReport { time: now, poets })?;
        writeln!(out, "{json}")?;
    } else {
        let text = text(watched, now, args.tick_size);
        let text = format!("{now:.0}\n{text}");
        if args.once {
            write!(out, "{text}")?;
        } else if out.is_terminal() {
            // From the top, over what was there before, so that nothing flickers; what was longer
            // is cleared to its end.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
        } else {
            writeln!(out, "{text}")?;
        }
    }
    out.flush()
}

/// What a server tells.
#[derive(Debug)]
struct Seen {
    info: Info,
    /// Unknown of a server that does not tell.
    rounds: Option<Vec<Round>>,
}

fn observe(poet: &Poet, timeout: Duration) -> Result<Seen, Failure> {
    Ok(Seen {
        info: poet.info(timeout)?,
        rounds: poet.rounds(timeout)?,
    })
}

/// A server and what is known of it over time.
#[derive(Debug)]
struct Watched {
    poet: Url,
    latest: Result<Seen, String>,
    /// The first key, and when another one was seen first.
    first_key: Option<Bytes32>,
    key_changed: Option<Timestamp>,
    /// Rounds that were seen without their proof.
    without_proof: BTreeSet<u64>,
    /// Of those, when the proof was seen first.
    proof_seen: BTreeMap<u64, Timestamp>,
}

impl Watched {
    fn new(poet: &Url) -> Self {
        Self {
            poet: poet.clone(),
            latest: Err("no answer yet".to_owned()),
            first_key: None,
            key_changed: None,
            without_proof: BTreeSet::new(),
            proof_seen: BTreeMap::new(),
        }
    }

    fn update(&mut self, seen: Result<Seen, Failure>, now: Timestamp) {
        if let Ok(seen) = &seen {
            let key = seen.info.service_pubkey;
            if *self.first_key.get_or_insert(key) != key {
                self.key_changed.get_or_insert(now);
            }
            let rounds = seen.rounds.as_deref().unwrap_or_default();
            for round in rounds {
                let Round { id, .. } = round;
                if !round.proof_ready {
                    self.without_proof.insert(id.0);
                } else if self.without_proof.remove(&id.0) {
                    self.proof_seen.insert(id.0, now);
                }
            }
            // What the server has forgotten is forgotten.
            let listed: BTreeSet<u64> = rounds.iter().map(|round| round.id.0).collect();
            self.without_proof.retain(|round| listed.contains(round));
            self.proof_seen.retain(|round, _| listed.contains(round));
        }
        self.latest = seen.map_err(|failure| failure.reason);
    }

    fn seen(&self) -> Option<&Seen> {
        self.latest.as_ref().ok()
    }

    fn find(&self, wanted: impl Fn(&&Round) -> bool) -> Option<&Round> {
        let rounds = self.seen()?.rounds.as_ref()?;
        rounds.iter().filter(wanted).max_by_key(|round| round.id.0)
    }

    fn open(&self) -> Option<&Round> {
        self.find(|round| round.state == RoundState::Open)
    }

    fn executing(&self) -> Option<&Round> {
        self.find(|round| round.state == RoundState::Executing)
    }

    fn published(&self) -> Option<&Round> {
        self.find(|round| round.proof_ready)
    }

    /// The oldest round whose proof should be there.
    fn overdue(&self, now: Timestamp) -> Option<&Round> {
        let rounds = self.seen()?.rounds.as_ref()?;
        rounds
            .iter()
            .filter(|round| !round.proof_ready && round.end < now)
            .min_by_key(|round| round.id.0)
    }

    fn report(&self, now: Timestamp, tick_size: u64) -> PoetReport<'_> {
        let seen = self.seen();
        let certifier = seen.and_then(|seen| seen.info.certifier());
        PoetReport {
            poet: &self.poet,
            error: self.latest.as_ref().err().map(String::as_str),
            pubkey: seen.map(|seen| seen.info.service_pubkey),
            first_pubkey: self.first_key,
            pubkey_changed: self.key_changed,
            phase_shift: seen.map(|seen| seen.info.phase_shift),
            cycle_gap: seen.map(|seen| seen.info.cycle_gap),
            certifier: certifier.map(|certifier| certifier.url.as_str()),
            open: self.open().map(|round| OpenReport {
                round: round.id.0,
                members: round.members.0,
                start: round.start,
            }),
            executing: self.executing().map(|round| ExecutingReport {
                round: round.id.0,
                members: round.members.0,
                end: round.end,
                leaves: round.leaves.map(|leaves| leaves.0),
                leaves_per_second: round.leaves_per_second.map(|rate| rate.0),
                expected_ticks: round.expected_leaves.map(|leaves| leaves.0 / tick_size),
            }),
            published: self.published().map(|round| PublishedReport {
                round: round.id.0,
                members: round.members.0,
                leaves: round.leaves.map(|leaves| leaves.0),
                ticks: round.leaves.map(|leaves| leaves.0 / tick_size),
                late_seconds: self.lateness(round),
            }),
            overdue: self.overdue(now).map(|round| OverdueReport {
                round: round.id.0,
                late_seconds: now.duration_since(round.end).as_secs_f64(),
            }),
        }
    }

    /// How long after its round's end a proof was seen first, if it was seen to come.
    fn lateness(&self, round: &Round) -> Option<f64> {
        let seen = self.proof_seen.get(&round.id.0)?;
        Some(seen.duration_since(round.end).as_secs_f64())
    }
}

/// One look at all servers, in JSON.
#[derive(Serialize)]
struct WatchReport<'a> {
    time: Timestamp,
    poets: Vec<PoetReport<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoetReport<'a> {
    poet: &'a Url,
    error: Option<&'a str>,
    pubkey: Option<Bytes32>,
    first_pubkey: Option<Bytes32>,
    pubkey_changed: Option<Timestamp>,
    phase_shift: Option<Seconds>,
    cycle_gap: Option<Seconds>,
    certifier: Option<&'a str>,
    open: Option<OpenReport>,
    executing: Option<ExecutingReport>,
    published: Option<PublishedReport>,
    overdue: Option<OverdueReport>,
}

#[derive(Serialize)]
struct OpenReport {
    round: u64,
    members: u64,
    start: Timestamp,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExecutingReport {
    round: u64,
    members: u64,
    end: Timestamp,
    leaves: Option<u64>,
    leaves_per_second: Option<u64>,
    expected_ticks: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PublishedReport {
    round: u64,
    members: u64,
    leaves: Option<u64>,
    ticks: Option<u64>,
    /// At most: when it was seen first. Unknown when it was there before.
    late_seconds: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OverdueReport {
    round: u64,
    late_seconds: f64,
}

/// One look at all servers, for people.
fn text(watched: &[Watched], now: Timestamp, tick_size: u64) -> String {
    let head = [
        "server",
        "open",
        "members",
        "starts in",
        "working",
        "members",
        "leaves/s",
        "ticks",
        "ends in",
        "proof",
        "members",
        "ticks",
        "late",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let mut notes = String::new();
    for poet in watched {
        let mut row = vec![poet.poet.to_string()];
        row.extend(cells(poet, now, tick_size));
        rows.push(row);
        for note in poet_notes(poet, now) {
            notes.push_str(&format!("{}: {note}\n", poet.poet));
        }
    }
    table(&rows) + &notes
}

fn cells(poet: &Watched, now: Timestamp, tick_size: u64) -> Vec<String> {
    let report = poet.report(now, tick_size);
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let mut cells = Vec::new();
    cells.extend(match report.open {
        Some(open) => [
            open.round.to_string(),
            open.members.to_string(),
            rough_between(now, open.start),
        ],
        None => ["-"; 3].map(str::to_owned),
    });
    cells.extend(match report.executing {
        Some(executing) => [
            executing.round.to_string(),
            executing.members.to_string(),
            known(executing.leaves_per_second),
            known(executing.expected_ticks),
            rough_between(now, executing.end),
        ],
        None => ["-"; 5].map(str::to_owned),
    });
    cells.extend(match report.published {
        Some(published) => [
            published.round.to_string(),
            published.members.to_string(),
            known(published.ticks),
            published.late_seconds.map_or_else(
                || "-".to_owned(),
                |seconds| rough(Duration::try_from_secs_f64(seconds).unwrap_or_default()),
            ),
        ],
        None => ["-"; 4].map(str::to_owned),
    });
    cells
}

/// What does not fit a table.
fn poet_notes(poet: &Watched, now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    match &poet.latest {
        Err(reason) => notes.push(reason.clone()),
        Ok(seen) => {
            let mut known = format!(
                "key {}, phase shift {}, cycle gap {}",
                base64::encode(seen.info.service_pubkey.0),
                rough(seen.info.phase_shift.0),
                rough(seen.info.cycle_gap.0),
            );
            if let Some(certifier) = seen.info.certifier() {
                known.push_str(&format!(", certifier {}", printable(&certifier.url)));
            }
            if seen.rounds.is_none() {
                known.push_str("; it does not tell of its rounds");
            }
            notes.push(known);
        }
    }
    if let (Some(since), Some(first)) = (poet.key_changed, poet.first_key) {
        notes.push(format!(
            "ITS KEY CHANGED: it was {} until {since:.0}",
            base64::encode(first.0)
        ));
    }
    if let Some(round) = poet.overdue(now) {
        let late = rough_between(round.end, now);
        notes.push(format!("the proof of round {} is {late} late", round.id.0));
    }
    notes
}
