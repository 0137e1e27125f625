//! `poet-client schedule`, and the schedule of a server.

use std::{process::ExitCode, thread, time::Duration};

use anyhow::{bail, ensure};
use poet_proto::{
    dates::Zone,
    json::{InfoResponse, Round},
    network::Network,
    schedule::Schedule,
    timetable::{Form, MAX_ROUNDS, Timetable},
};
use serde_json::{Value, json};

use crate::{
    http::{Http, Url},
    input::whole_number,
    poet::{Failure, RemotePoet},
    time::{now, parse_wait},
};

/// Print when the next rounds of PoET servers open, close and end, and for which epochs they count
///
/// Servers report their schedule (GET /v1/rounds). The Go server does not: for it, the schedule is
/// mainnet's if its phase shift and cycle gap are. Times are in the time zone of this machine (TZ)
/// and in UTC. Servers with the same schedule share a table.
///
/// Exit codes: 0 all servers reported it, 1 none did, 2 the command line is wrong, 3 some did.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// The servers
    #[arg(value_name = "URL", required = true)]
    poets: Vec<Url>,

    /// How many rounds, starting with the open one
    #[arg(long, value_name = "NUMBER", default_value_t = 5,
        value_parser = whole_number::<u64>(1..=MAX_ROUNDS))]
    rounds: u64,

    /// Print JSON, one object
    #[arg(long)]
    json: bool,

    /// Print a calendar of the next year (iCalendar), to import or subscribe to
    #[arg(long, conflicts_with = "json")]
    ics: bool,

    /// How long to wait for a complete response
    #[arg(long, value_name = "DURATION", value_parser = parse_wait, default_value = "10s")]
    timeout: Duration,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let http = Http::new(&args.poets)?;
    let ask = |url: &Url| {
        let (poet, timeout) = (RemotePoet::new(url.clone(), http.clone()), args.timeout);
        thread::spawn(move || told(&poet, timeout))
    };
    let asked: Vec<_> = args.poets.iter().map(ask).collect();
    // In the order in which the first server of each was given.
    let mut tables: Vec<(Schedule, Vec<&Url>)> = Vec::new();
    let mut failed = Vec::new();
    for (url, asked) in args.poets.iter().zip(asked) {
        let told = asked.join();
        match told.unwrap_or_else(|_| Err(Failure::last("it could not be asked"))) {
            Err(failure) => failed.push((url, failure.reason)),
            Ok(schedule) => match tables.iter_mut().find(|(known, _)| *known == schedule) {
                Some((_, urls)) => urls.push(url),
                None => tables.push((schedule, vec![url])),
            },
        }
    }
    for (url, reason) in &failed {
        eprintln!("{url}: {reason}");
    }
    ensure!(
        !args.ics || tables.len() <= 1,
        "the servers have different schedules: expected servers of one network with --ics"
    );
    if tables.is_empty() {
        bail!("no server reported its schedule");
    }
    let zone = Zone::local_or_utc();
    let mut list = Vec::new();
    for (schedule, urls) in &tables {
        let table = Timetable::new(schedule.clone(), now(), args.rounds);
        let name = Network::of(schedule).map_or("PoET".to_owned(), |network| {
            format!("PoET on {}", network.name)
        });
        if args.json {
            let text = table.print(Form::Json, &name, &zone);
            let mut table: Value = serde_json::from_str(&text)?;
            table["poets"] = json!(urls);
            list.push(table);
        } else if args.ics {
            print!("{}", table.print(Form::Calendar, &name, &zone));
        } else {
            for url in urls {
                println!("server      {url}");
            }
            println!("{}", table.print(Form::Text, &name, &zone));
        }
    }
    if args.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(url, reason)| json!({"poet": url, "error": reason}))
            .collect();
        println!("{}", json!({"schedules": list, "failed": failed}));
    }
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(3)
    })
}

fn told(poet: &RemotePoet, timeout: Duration) -> Result<Schedule, Failure> {
    let info = poet.info(timeout)?;
    let rounds = poet.rounds(timeout)?;
    let network = Network::named("mainnet");
    schedule_of(&info, rounds.as_deref(), network).ok_or_else(|| {
        Failure::last(
            "it does not tell its schedule, and its phase shift and cycle gap are not mainnet's",
        )
    })
}

/// Returns the schedule of a server: it follows from any of its rounds, or is that of `network` if
/// nothing contradicts it.
pub(crate) fn schedule_of(
    info: &InfoResponse,
    rounds: Option<&[Round]>,
    network: Option<&Network>,
) -> Option<Schedule> {
    let (shift, gap) = (info.phase_shift.0, info.cycle_gap.0);
    if let Some(round) = rounds.and_then(<[Round]>::first) {
        let work: Duration = round.end.duration_since(round.start).try_into().ok()?;
        let epoch = work.checked_add(gap)?;
        let before = epoch.checked_mul(u32::try_from(round.id.0).ok()?)?;
        let genesis = round.start.checked_sub(before).ok()?;
        let genesis = genesis.checked_sub(shift).ok()?;
        return Schedule::new(genesis, epoch, shift, gap).ok();
    }
    network
        .filter(|network| (network.phase_shift, network.cycle_gap) == (shift, gap))
        .and_then(Network::schedule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_follows_from_any_round() {
        let info = |shift: &str| -> InfoResponse {
            let key = "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY=";
            serde_json::from_value(json!({
                "servicePubkey": key, "phaseShift": shift, "cycleGap": "43200s",
            }))
            .unwrap()
        };
        let round = |id: &str, start: &str, end: &str| -> Vec<Round> {
            let round = json!({
                "id": id, "state": "open", "start": start, "end": end, "members": "1",
                "proofReady": false,
            });
            vec![serde_json::from_value(round).unwrap()]
        };
        let mainnet = Network::named("mainnet");
        let known = mainnet.unwrap().schedule();
        let (shift, other) = ("864000s", "863999s");
        for (id, start, end) in [
            ("0", "2023-07-24T08:00:00Z", "2023-08-06T20:00:00Z"),
            ("88", "2026-12-07T08:00:00Z", "2026-12-20T20:00:00Z"),
        ] {
            let rounds = round(id, start, end);
            assert_eq!(schedule_of(&info(shift), Some(&rounds), None), known);
            assert_ne!(schedule_of(&info(other), Some(&rounds), mainnet), known);
        }
        // A Go server.
        assert_eq!(schedule_of(&info(shift), None, mainnet), known);
        assert_eq!(schedule_of(&info(shift), Some(&[]), mainnet), known);
        assert_eq!(schedule_of(&info(other), None, mainnet), None);
        assert_eq!(schedule_of(&info(shift), None, None), None);
        // Invalid values.
        for (id, start, end) in [
            (
                "18446744073709551615",
                "2023-07-24T08:00:00Z",
                "2023-08-06T20:00:00Z",
            ),
            ("4294967295", "2023-07-24T08:00:00Z", "9999-08-06T20:00:00Z"),
            ("1", "2023-07-24T08:00:00Z", "2023-07-23T20:00:00Z"),
        ] {
            let rounds = round(id, start, end);
            assert_eq!(
                schedule_of(&info(shift), Some(&rounds), mainnet),
                None,
                "{id}"
            );
        }
    }
}
