//! `poet-service check-config`: the effective configuration, and where it comes from.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use poet_backends::{SelectOptions, select_with};
use poet_engine::WorkFunction;
use poet_host::{WorkCore, affinity::allowed, list};
use poet_proto::{
    base64,
    dates::Zone,
    duration::format_go,
    identity::{PRIVATE_KEY_VARIABLE, PrivateKey},
    timetable::{Form, Timetable},
};
use poet_rounds::{
    clock::{Clock as _, SystemClock},
    cycle_gaps::CycleGaps,
    life::EXPECTED_LEAVES_PER_SECOND,
    storage::Setting,
};
use poet_service::{args::ServerArgs, config::Config};
use poet_storage::SqliteReader;

/// Print the effective configuration and where each value comes from
///
/// Takes the options of the server. Fails if the server would refuse the configuration, or could
/// not use all of it on this machine. Changes nothing in its directories and does not use its
/// ports. With --early-cycle-gap it also prints what nodes need in their configuration, for each
/// cycle gap.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    let effective = &config.effective;
    let genesis = config.rounds.genesis.unwrap_or(Timestamp::UNIX_EPOCH);
    let schedule = config.rounds.schedule(genesis)?;
    let early_gaps = &config.rounds.early_cycle_gaps;
    schedule.check_early_gaps(early_gaps, EXPECTED_LEAVES_PER_SECOND)?;
    let options = SelectOptions {
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
    for option in effective {
        let value = match option.value.as_str() {
            "" => "(unset)",
            value => value,
        };
        text += &format!(
            "{:names$}  {value:values$}  {}\n",
            option.name, option.source
        );
    }
    // Without a genesis, the times of rounds are unknown.
    if config.rounds.genesis.is_some() {
        let table = Timetable::new(schedule, SystemClock.now(), 1);
        text += &format!("\n{}", table.print(Form::Text, "", &Zone::local_or_utc()));
    }
    if !early_gaps.is_empty() {
        text += &for_nodes(&config);
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

/// Describes what nodes need in their configuration to use this server, for each cycle gap.
fn for_nodes(config: &Config) -> String {
    let rounds = &config.rounds;
    let Some(key) = rounds.private_key.clone().or_else(|| stored_key(config)) else {
        return format!(
            "\nThe keys that nodes need for each cycle gap are known after the first start of the server, or \
             with {PRIVATE_KEY_VARIABLE}.\n"
        );
    };
    let (host, port) = config
        .listeners
        .rest
        .rsplit_once(':')
        .unwrap_or(("", &config.listeners.rest));
    let host = if host.is_empty() { "localhost" } else { host };
    let gaps = CycleGaps::new(rounds.cycle_gap, key, &rounds.early_cycle_gaps);
    let mut text = format!(
        "\nFor nodes (poet-servers in their configuration), one of these, by their cycle gap. Put the \
         address at which they reach this server in the place of {host}:{port}.\n"
    );
    for gap in gaps.all() {
        let server = serde_json::json!({
            "address": format!("http://{host}:{port}{}", gap.path()),
            "pubkey": base64::encode(gap.public_key().as_bytes()),
        });
        text += &format!("cycle gap {}\n  {server}\n", format_go(gap.duration()));
    }
    text
}

/// Returns the key of a server that was started before, if its database can be read.
fn stored_key(config: &Config) -> Option<PrivateKey> {
    let database = config.directories.database();
    if !database.exists() {
        return None;
    }
    let stored = SqliteReader::open(&database)
        .ok()?
        .setting(Setting::PrivateKey);
    PrivateKey::from_bytes(&stored.ok()??).ok()
}

/// Checks that the core chosen for the work exists.
fn check_core(core: WorkCore) -> anyhow::Result<()> {
    let cores = allowed();
    if let WorkCore::Number(core) = core
        // If the system does not report the cores, nothing can be checked.
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

/// Checks that no two listeners use the same port of the same address.
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
        // Each port 0 becomes another port.
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

/// Returns whether both hosts have an address in common, as far as that is known without asking the
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
            // It accepts IPv4 connections, too.
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
