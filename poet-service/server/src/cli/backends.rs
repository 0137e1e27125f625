//! `poet-service backends`.

use std::process::ExitCode;

use poet_backends::{Choice, Excluded};

use super::{BackendArgs, WorkArgs};

/// List the backends: support by this CPU, self-test, speed, and which are chosen
///
/// Two backends are chosen: one for a single chain, the sequential work (latency), and one for many
/// chains at once, as in verification and proofs (throughput). The exit code is 1 if a self-test
/// fails.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    work: WorkArgs,

    #[command(flatten)]
    backend: BackendArgs,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let selection = args.backend.select(args.work.work)?;
    let rate = |rate: Option<f64>| match rate {
        Some(rate) => format!("{:.2}", rate / 1e6),
        None => "-".into(),
    };
    println!("backends for {}; M hashes/s", args.work.work);
    println!(
        "{:<16} {:<10} {:>9} {:>11}  chosen",
        "name", "self-test", "one chain", "many chains"
    );
    for kernel in selection.reports() {
        let state = match &kernel.excluded {
            None => "passed",
            Some(Excluded::Failed { .. }) => "FAILED",
            Some(Excluded::Unsupported { missing }) => {
                println!(
                    "{:<16} not supported: the CPU lacks {}",
                    kernel.name,
                    missing.join(", ")
                );
                continue;
            }
        };
        let chosen = match (kernel.chosen_latency, kernel.chosen_throughput) {
            (true, true) => "for one chain and for many",
            (true, false) => "for one chain",
            (false, true) => "for many chains",
            (false, false) => "",
        };
        println!(
            "{:<16} {state:<10} {:>9} {:>11}  {chosen}",
            kernel.name,
            rate(kernel.one_hashes_per_s),
            rate(kernel.many_hashes_per_s),
        );
    }
    let choice = |choice: Choice| format!("{} ({})", choice.name, choice.reason);
    println!("one chain: {}", choice(selection.latency()));
    println!("many chains: {}", choice(selection.throughput()));
    for warning in selection.warnings() {
        println!("WARNING: {warning}");
    }
    Ok(if selection.warnings().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
