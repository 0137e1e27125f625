//! `poet-service check-config`: what counts, and where it comes from.

use std::process::ExitCode;

use anyhow::Context as _;
use jiff::Timestamp;
use poet_backends::{Options, select_with};
use poet_engine::WorkFunction;
use poet_rounds::schedule::Schedule;
use poet_service::{args::ServerArgs, config::Config};

/// Print the effective configuration and where each value comes from
///
/// Takes the options of the server. Fails if the server would refuse the configuration; touches
/// neither its directories nor its ports.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (config, effective) = Config::explain(args.server)?;
    Schedule::new(
        config.rounds.genesis.unwrap_or(Timestamp::UNIX_EPOCH),
        config.rounds.epoch_duration,
        config.rounds.phase_shift,
        config.rounds.cycle_gap,
    )?;
    let options = Options {
        forced: config.work.backend.as_deref(),
        trial: false,
    };
    select_with(WorkFunction::Sha256, options)?;
    let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let names = width(&mut effective.iter().map(|option| option.name.len()));
    let values = width(&mut effective.iter().map(|option| option.value.len()));
    let mut text = String::new();
    for option in &effective {
        let value = match option.value.as_str() {
            "" => "(unset)",
            value => value,
        };
        text += &format!(
            "{:names$}  {value:values$}  {}\n",
            option.name, option.source
        );
    }
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())
        .context("cannot write the configuration")?;
    if !config.ignored.is_empty() {
        eprintln!(
            "WARNING: without effect here: {}",
            config.ignored.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}
