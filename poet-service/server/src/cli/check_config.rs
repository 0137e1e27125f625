//! `poet-service check-config`: what counts, and where it comes from.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use poet_backends::{Options, select_with};
use poet_engine::WorkFunction;
use poet_host::{WorkCore, affinity::allowed, list};
use poet_proto::{
    dates::Zone,
    schedule::Schedule,
    timetable::{Form, Timetable},
};
use poet_rounds::clock::{Clock as _, SystemClock};
use poet_service::{args::ServerArgs, config::Config};

/// Print the effective configuration and where each value comes from
///
/// Takes the options of the server. Fails if the server would refuse the configuration, or could not
/// use all of it on this machine; touches neither its directories nor its ports.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (config, effective) = Config::explain(args.server)?;
    let schedule = Schedule::new(
        config.rounds.genesis.unwrap_or(Timestamp::UNIX_EPOCH),
        config.rounds.epoch_duration,
        config.rounds.phase_shift,
        config.rounds.cycle_gap,
    )?;
    let options = Options {
        forced: config.work.backend.as_deref(),
        trial: false,
    };
    select_with(WorkFunction::Sha256, options)?.for_one_chain()?;
    check_ports(&config)?;
    check_core(config.work.core)?;
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
    // Without a genesis, nobody knows when rounds start.
    if config.rounds.genesis.is_some() {
        let table = Timetable::new(schedule, SystemClock.now(), 1);
        text += &format!("\n{}", table.print(Form::Text, "", &Zone::local_or_utc()));
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

/// Checks that the core that the work is to have is there.
fn check_core(core: WorkCore) -> anyhow::Result<()> {
    let cores = allowed();
    if let WorkCore::Number(core) = core
        // Where the system does not tell, nothing is known.
        && !cores.is_empty()
        && !cores.contains(&core)
    {
        let cores = list(&cores);
        bail!(
            "--work-core {core} is not a core that this process may use: expected one of {cores}"
        );
    }
    Ok(())
}

/// Checks that no two listeners want the same port of the same address.
fn check_ports(config: &Config) -> anyhow::Result<()> {
    let config = &config.listeners;
    let metrics = config.metrics.as_ref();
    let listeners = [
        ("--restlisten", Some(&config.rest)),
        ("--rpclisten", Some(&config.grpc)),
        ("--config-rpclisten", Some(&config.private)),
        (
            metrics.map_or("", |metrics| metrics.option),
            metrics.map(|metrics| &metrics.address),
        ),
    ];
    let listeners: Vec<_> = listeners
        .iter()
        .filter_map(|(flag, address)| Some((flag, address.as_deref()?.rsplit_once(':')?)))
        // Of port 0, each gets another one.
        .filter(|(_, (_, port))| port.parse() != Ok(0_u16))
        .collect();
    for (index, (flag, (host, port))) in listeners.iter().enumerate() {
        for (other, (other_host, other_port)) in &listeners[..index] {
            if port.parse::<u16>() == other_port.parse() && meet(host, other_host) {
                bail!(
                    "{other} and {flag} are given the same port {port}: expected a port for each"
                );
            }
        }
    }
    Ok(())
}

/// Whether both hosts have an address in common, as far as that can be told without asking the
/// network.
fn meet(one: &str, other: &str) -> bool {
    let (addresses, others) = (addresses(one), addresses(other));
    one == other
        || addresses.iter().any(|one| {
            others.iter().any(|other| {
                let family = one.is_ipv4() == other.is_ipv4();
                one == other || family && (one.is_unspecified() || other.is_unspecified())
            })
        })
}

fn addresses(host: &str) -> Vec<IpAddr> {
    let both = |v4, v6| vec![IpAddr::V4(v4), IpAddr::V6(v6)];
    match host.trim_start_matches('[').trim_end_matches(']') {
        "" => both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED),
        "localhost" => both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST),
        host => match host.parse() {
            // It takes connections over IPv4, too.
            Ok(IpAddr::V6(Ipv6Addr::UNSPECIFIED)) => {
                both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED)
            }
            Ok(address) => vec![address],
            Err(_) => Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_meet_where_they_share_an_address() {
        for (one, other, expected) in [
            ("localhost", "localhost", true),
            ("localhost", "127.0.0.1", true),
            ("localhost", "[::1]", true),
            ("", "localhost", true),
            ("", "poet.example", false),
            ("poet.example", "poet.example", true),
            ("0.0.0.0", "192.0.2.1", true),
            ("0.0.0.0", "[::1]", false),
            ("[::]", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("[::1]", "127.0.0.1", false),
        ] {
            assert_eq!(meet(one, other), expected, "{one} {other}");
            assert_eq!(meet(other, one), expected, "{other} {one}");
        }
    }
}
