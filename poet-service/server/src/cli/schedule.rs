//! `poet-service schedule`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use poet_proto::{
    dates::Zone,
    network::Network,
    timetable::{Form, MAX_ROUNDS, Timetable},
};
use poet_rounds::clock::{Clock as _, SystemClock};
use poet_service::{args::ServerArgs, config::Config};

use super::number;

/// Print when the next rounds open, close and end, and for which epochs they count
///
/// Takes the options of the server, and uses --network or the schedule. Times are in the time zone
/// of this machine (TZ) and in UTC.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many rounds, starting with the open one
    #[arg(long, value_name = "NUMBER", default_value_t = 5,
        value_parser = number(1..=MAX_ROUNDS))]
    rounds: u64,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Print a calendar of the next year (iCalendar), to import or subscribe to
    #[arg(long, conflicts_with = "json")]
    ics: bool,

    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?.rounds;
    let Some(genesis) = config.genesis else {
        bail!("--genesis-time is not set: expected --network, or the schedule of a network");
    };
    let schedule = config.schedule(genesis)?;
    let form = match (args.json, args.ics) {
        (true, _) => Form::Json,
        (_, true) => Form::Calendar,
        _ => Form::Text,
    };
    let name = Network::of(&schedule).map_or("PoET".to_owned(), |network| {
        format!("PoET on {}", network.name)
    });
    let table = Timetable::new(schedule, SystemClock.now(), args.rounds);
    let text = table.print(form, &name, &Zone::local_or_utc());
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())
        .context("cannot write the schedule")?;
    Ok(ExitCode::SUCCESS)
}
