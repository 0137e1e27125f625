//! `poet-client watch`.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::bail;
use jiff::Timestamp;
use poet_engine::TICK_LEAVES;
use poet_proto::{
    base64,
    json::{Bytes32, InfoResponse, Round, RoundPhase, Seconds},
};
use serde::Serialize;

use crate::{
    http::{Http, Url},
    input::whole_number,
    output::printable,
    poet::{Failure, RemotePoet},
    time::{monotonic, now, parse_wait, rough, rough_between},
};

/// Show what PoET servers are doing
///
/// For each server: the open round and its members, the round in progress with its rate and
/// expected ticks, the newest proof and how late it was, and whether the server's key has changed.
/// Servers list their rounds (GET /v1/rounds), except the Go server. On a terminal the view is
/// updated in place; otherwise a new one is printed every interval.
///
/// Exit codes with --once: 0 all servers responded, 1 none did, 2 the command line is wrong, 3 some
/// did. Without --once, it runs until it is interrupted.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// The servers
    #[arg(value_name = "URL", required = true)]
    poets: Vec<Url>,

    /// How often to ask the servers
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "5s")]
    interval: Duration,

    /// Ask once, print, and end
    #[arg(long)]
    once: bool,

    /// Print JSON, one object per line each time
    #[arg(long)]
    json: bool,

    /// Leaves in a tick; the default is mainnet's
    #[arg(long, value_name = "LEAVES", default_value_t = TICK_LEAVES, value_parser = whole_number::<u64>(1..=u64::MAX))]
    tick_size: u64,

    /// How long to wait for a complete response
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "10s")]
    timeout: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let http = Http::new(&args.poets)?;
    let (sender, observations) = mpsc::channel();
    for (index, url) in args.poets.iter().enumerate() {
        let poet = RemotePoet::new(url.clone(), http.clone());
        let (sender, timeout) = (sender.clone(), args.timeout);
        let interval = (!args.once).then_some(args.interval);
        thread::spawn(move || {
            loop {
                let begin = monotonic();
                let seen = observe(&poet, timeout);
                if sender.send((index, seen)).is_err() {
                    return;
                }
                let Some(interval) = interval else { return };
                thread::sleep(interval.saturating_sub(monotonic().duration_since(begin)));
            }
        });
    }
    drop(sender);

    let mut watched: Vec<Watched> = args.poets.iter().map(Watched::new).collect();
    let patience = if args.once {
        2 * args.timeout
    } else {
        args.interval
    };
    let mut views = Views::new(watched.len(), patience, monotonic());
    loop {
        let due = match observations.recv_timeout(views.left(monotonic())) {
            Ok((index, seen)) => {
                watched[index].update(seen, now());
                views.heard(index)
            }
            Err(RecvTimeoutError::Timeout) => true,
            // With --once, the channel closes after the last server.
            Err(RecvTimeoutError::Disconnected) if args.once => true,
            Err(RecvTimeoutError::Disconnected) => bail!("no server is asked any more"),
        };
        if !due {
            continue;
        }
        if show(args, &watched).is_err() {
            // The reader is gone.
            return Ok(ExitCode::SUCCESS);
        }
        if args.once {
            let answered = watched.iter().filter(|poet| poet.answers()).count();
            return Ok(match (answered, watched.len() - answered) {
                (_, 0) => ExitCode::SUCCESS,
                (0, _) => ExitCode::FAILURE,
                _ => ExitCode::from(3),
            });
        }
        views.shown(args.interval, monotonic());
    }
}

/// When to show a view.
struct Views {
    /// The servers that have neither responded nor failed. The first view appears when all have. A
    /// slow server does not delay it for long, unless it is the only one.
    waiting: BTreeSet<usize>,
    next: Instant,
}

impl Views {
    fn new(servers: usize, patience: Duration, now: Instant) -> Self {
        Self {
            waiting: (0..servers).collect(),
            next: now + patience,
        }
    }

    /// Returns how long to wait for a server before the next view.
    fn left(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Returns whether to show a view, since a server has responded or failed.
    fn heard(&mut self, server: usize) -> bool {
        self.waiting.remove(&server) && self.waiting.is_empty()
    }

    fn shown(&mut self, interval: Duration, now: Instant) {
        self.waiting.clear();
        self.next = now + interval;
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
            // Overwrites the previous output from the top, so that nothing flickers, and clears the
            // rest of longer lines.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))?;
        } else {
            writeln!(out, "{text}")?;
        }
    }
    out.flush()
}

/// What a server reports.
#[derive(Debug)]
struct Seen {
    info: InfoResponse,
    /// Whether it is ready, or why not; `None` if the server does not report that.
    health: Option<Result<(), String>>,
    /// `None` if the server does not list them.
    rounds: Option<Vec<Round>>,
}

fn observe(poet: &RemotePoet, timeout: Duration) -> Result<Seen, Failure> {
    Ok(Seen {
        info: poet.info(timeout)?,
        health: poet.health(timeout),
        rounds: poet.rounds(timeout)?,
    })
}

/// A server and what is known about it.
#[derive(Debug)]
struct Watched {
    poet: Url,
    /// Its last report, and when that was.
    known: Option<(Seen, Timestamp)>,
    /// Why it has not responded since.
    error: Option<String>,
    /// The first key, and when another one was first seen.
    first_key: Option<Bytes32>,
    key_changed: Option<Timestamp>,
    /// Rounds that were seen without their proof.
    without_proof: BTreeSet<u64>,
    /// When the proofs of such rounds were first seen.
    proof_seen: BTreeMap<u64, Timestamp>,
}

impl Watched {
    fn new(poet: &Url) -> Self {
        Self {
            poet: poet.clone(),
            known: None,
            error: Some("no answer yet".to_owned()),
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
            // Removes what the server no longer lists.
            let listed: BTreeSet<u64> = rounds.iter().map(|round| round.id.0).collect();
            self.without_proof.retain(|round| listed.contains(round));
            self.proof_seen.retain(|round, _| listed.contains(round));
        }
        match seen {
            Ok(seen) => {
                self.known = Some((seen, now));
                self.error = None;
            }
            Err(failure) => self.error = Some(failure.reason),
        }
    }

    /// Returns its last report, however old that is.
    fn seen(&self) -> Option<&Seen> {
        self.known.as_ref().map(|(seen, _)| seen)
    }

    fn answers(&self) -> bool {
        self.error.is_none()
    }

    fn find(&self, wanted: impl Fn(&&Round) -> bool) -> Option<&Round> {
        let rounds = self.seen()?.rounds.as_ref()?;
        rounds.iter().filter(wanted).max_by_key(|round| round.id.0)
    }

    fn open(&self) -> Option<&Round> {
        self.find(|round| round.state == RoundPhase::Open)
    }

    fn executing(&self) -> Option<&Round> {
        self.find(|round| round.state == RoundPhase::Executing)
    }

    fn published(&self) -> Option<&Round> {
        self.find(|round| round.proof_ready)
    }

    /// Returns the oldest round whose proof is overdue.
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
            error: self.error.as_deref(),
            last_answer: self.known.as_ref().map(|(_, time)| *time),
            ready: seen.and_then(|seen| seen.health.as_ref().map(Result::is_ok)),
            reason: seen.and_then(|seen| seen.health.as_ref()?.as_ref().err().map(String::as_str)),
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
                percent: percent(round, now),
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

    /// Returns how long after its round's end a proof was first seen, if it was missing before.
    fn lateness(&self, round: &Round) -> Option<f64> {
        let seen = self.proof_seen.get(&round.id.0)?;
        Some(seen.duration_since(round.end).as_secs_f64())
    }
}

/// Returns how much of a round's time has passed, in percent.
fn percent(round: &Round, now: Timestamp) -> f64 {
    let seconds = |to: Timestamp| to.duration_since(round.start).as_secs_f64();
    let all = seconds(round.end).max(f64::MIN_POSITIVE);
    (100.0 * seconds(now) / all).clamp(0.0, 100.0)
}

/// The state of all servers at one time, in JSON.
#[derive(Serialize)]
struct WatchReport<'a> {
    time: Timestamp,
    poets: Vec<PoetReport<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PoetReport<'a> {
    poet: &'a Url,
    /// Why it does not respond; the other fields are then from its last report.
    error: Option<&'a str>,
    last_answer: Option<Timestamp>,
    /// Whether it is ready, and why not, if it reports that.
    ready: Option<bool>,
    reason: Option<&'a str>,
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
    /// How much of its time has passed.
    percent: f64,
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
    /// An upper bound: when it was first seen. `None` if it was there before.
    late_seconds: Option<f64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OverdueReport {
    round: u64,
    late_seconds: f64,
}

/// The width of the output for people.
const WIDTH: usize = 80;

/// Formats the state of all servers for people: a few lines for each.
fn text(watched: &[Watched], now: Timestamp, tick_size: u64) -> String {
    let mut text = String::new();
    for poet in watched {
        text += &heading(poet, now);
        for line in lines(poet, now, tick_size) {
            text += &format!("  {line}\n");
        }
    }
    text
}

/// Formats the server's address and its state.
fn heading(poet: &Watched, now: Timestamp) -> String {
    let state = match (&poet.error, &poet.known) {
        (Some(_), Some((_, time))) => format!("NO ANSWER for {}", rough_between(*time, now)),
        (Some(_), None) => "NO ANSWER".to_owned(),
        (None, _) => match poet.seen().and_then(|seen| seen.health.as_ref()) {
            Some(Ok(())) => "ready".to_owned(),
            Some(Err(_)) => "NOT READY".to_owned(),
            None => "answers".to_owned(),
        },
    };
    let url = poet.poet.to_string();
    let room = WIDTH.saturating_sub(url.chars().count() + 1);
    format!("{url} {state:>room$}\n")
}

fn lines(poet: &Watched, now: Timestamp, tick_size: u64) -> Vec<String> {
    let report = poet.report(now, tick_size);
    let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let mut lines = Vec::new();
    lines.extend(report.error.map(str::to_owned));
    lines.extend(report.reason.map(str::to_owned));
    if report.error.is_some() && poet.known.is_some() {
        lines.push("its last report:".to_owned());
    }
    if let Some(open) = report.open {
        lines.push(format!(
            "open     round {:<5} {:>9} members  closes in {}",
            open.round,
            open.members,
            rough_between(now, open.start),
        ));
    }
    if let Some(executing) = report.executing {
        lines.push(format!(
            "working  round {:<5} {:>9} members  {:.1} %, {} ticks, {} left",
            executing.round,
            executing.members,
            executing.percent,
            known(executing.expected_ticks),
            rough_between(now, executing.end),
        ));
        lines.push(format!(
            "         {} leaves/s",
            known(executing.leaves_per_second)
        ));
    }
    if let Some(published) = report.published {
        let late = published.late_seconds.map_or_else(String::new, |seconds| {
            let late = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            format!(", {} late", rough(late))
        });
        lines.push(format!(
            "proof    round {:<5} {:>9} members  {} ticks{late}",
            published.round,
            published.members,
            known(published.ticks),
        ));
    }
    lines.extend(poet_notes(poet, now));
    let cut = |line: String| line.chars().take(WIDTH - 2).collect();
    lines.into_iter().map(cut).collect()
}

/// Describes the server, and what is wrong.
fn poet_notes(poet: &Watched, now: Timestamp) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(seen) = poet.seen() {
        notes.push(format!(
            "key {}",
            base64::encode(seen.info.service_pubkey.0)
        ));
        notes.push(format!(
            "phase shift {}, cycle gap {}",
            rough(seen.info.phase_shift.0),
            rough(seen.info.cycle_gap.0),
        ));
        if let Some(certifier) = seen.info.certifier() {
            notes.push(format!("certifier {}", printable(&certifier.url)));
        }
        if seen.rounds.is_none() {
            notes.push("it does not list its rounds".to_owned());
        }
    }
    if let (Some(since), Some(first)) = (poet.key_changed, poet.first_key) {
        notes.push(format!("ITS KEY CHANGED at {since:.0}: until then it was"));
        notes.push(format!("    {}", base64::encode(first.0)));
    }
    if let Some(round) = poet.overdue(now) {
        let late = rough_between(round.end, now);
        notes.push(format!("the proof of round {} is {late} late", round.id.0));
    }
    notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(ready: Result<(), String>) -> Seen {
        let round = |id: &str, state: &str, members: &str| {
            json!({
                "id": id, "state": state, "members": members, "leaves": "80123456789",
                "start": "2026-11-23T08:00:00Z", "end": "2026-12-06T20:00:00Z",
                "leavesPerSecond": "70123", "expectedLeaves": "80123456789",
                "proofReady": state == "published",
            })
        };
        let rounds = [
            round("100088", "open", "1000000"),
            round("100087", "executing", "1000000"),
            round("100086", "published", "1000000"),
        ];
        let info = json!({
            "servicePubkey": "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=",
            "phaseShift": "864000s", "cycleGap": "43200s",
            "certifier": {"url": format!("https://{}.example", "x".repeat(300)), "pubkey": "ZmY="},
        });
        Seen {
            info: serde_json::from_value(info).unwrap(),
            health: Some(ready),
            rounds: Some(
                rounds
                    .map(|round| serde_json::from_value(round).unwrap())
                    .to_vec(),
            ),
        }
    }

    #[test]
    fn the_first_view_waits_for_all_servers_and_the_next_for_the_interval() {
        let second = Duration::from_secs(1);
        let start = monotonic();
        let mut views = Views::new(3, 5 * second, start);
        assert_eq!(views.left(start + second), 4 * second);
        assert!(!views.heard(2));
        // Again, while two have not responded.
        assert!(!views.heard(2));
        assert!(!views.heard(0));
        assert!(views.heard(1));
        views.shown(10 * second, start + 2 * second);
        assert_eq!(views.left(start + 3 * second), 9 * second);
        assert_eq!(views.left(start + 20 * second), Duration::ZERO);
        assert!(!views.heard(0) && !views.heard(1));

        // One is slow: the view appears without it, and is not shown again when it responds.
        let mut views = Views::new(2, 5 * second, start);
        assert!(!views.heard(0));
        assert_eq!(views.left(start + 5 * second), Duration::ZERO);
        views.shown(10 * second, start + 5 * second);
        assert!(!views.heard(1));
    }

    #[test]
    fn a_look_fits_80_columns_and_a_dead_server_keeps_what_it_told() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let url = "https://poet-110.spacemesh.network".parse().unwrap();
        let mut poet = Watched::new(&url);
        let now = at("2026-11-26T20:00:00Z");
        poet.update(Ok(seen(Ok(()))), now);
        let shown = text(std::slice::from_ref(&poet), now, 9_331_200);
        assert!(
            shown.lines().all(|line| line.chars().count() <= WIDTH),
            "{shown}"
        );
        assert!(
            shown.lines().next().unwrap().ends_with("  ready"),
            "{shown}"
        );
        for part in ["round 100088", "25.9 %", "8586 ticks, ", "10d0h left"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        poet.update(Ok(seen(Err("the work on a round fails".to_owned()))), now);
        let shown = text(std::slice::from_ref(&poet), now, 1);
        assert!(
            shown.contains("NOT READY\n  the work on a round fails\n"),
            "{shown}"
        );
        poet.update(
            Err(Failure::passing("connection refused")),
            at("2026-11-26T20:01:00Z"),
        );
        let shown = text(&[poet], at("2026-11-26T20:01:30Z"), 1);
        assert!(
            shown.contains("NO ANSWER for 1m30s\n  connection refused\n"),
            "{shown}"
        );
        assert!(shown.contains("round 100087"), "{shown}");
    }
}
