//! `poet-service verify`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use poet_engine::{T, TICK_LEAVES, proven_indices, verify};

use super::proof_file::{self, ProofFile};
use super::prove::{Statement, parse_hex};
use super::{BackendArgs, WorkArgs};

/// Verify a proof
///
/// FILE is what `prove` wrote, or a saved answer of GET /v1/proofs/{id}, whose statement is rebuilt
/// from the members, or the bytes that nodes store, with --statement; - is standard input. Exit code:
/// 0 valid, 1 invalid, 2 not readable as a proof.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The proof
    file: PathBuf,

    /// What the work was done for, in hex, where FILE does not say it: in the bytes that nodes store
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    statement: Option<Statement>,

    #[command(flatten)]
    work: WorkArgs,

    /// Leaves in a tick; the default is mainnet's
    #[arg(long, value_name = "LEAVES", default_value_t = TICK_LEAVES, value_parser = clap::value_parser!(u64).range(1..))]
    tick_size: u64,

    #[command(flatten)]
    backend: BackendArgs,
}

/// A proof with a million members has 44 MB.
const MAX_FILE_BYTES: u64 = 1 << 28;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let work = args.work.select(&args.backend)?;
    let file = match read(&args.file, args.statement.as_ref()) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("error: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    match check(&work, &file) {
        Ok(()) => {
            let ticks = file.leaves / args.tick_size;
            let members = match file.members {
                Some(members) => format!(", {members} members"),
                None => String::new(),
            };
            println!(
                "valid: {} leaves, {ticks} ticks of {} leaves{members}",
                file.leaves, args.tick_size
            );
            Ok(ExitCode::SUCCESS)
        }
        Err(reason) => {
            println!("invalid: {reason}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn read(path: &Path, statement: Option<&Statement>) -> anyhow::Result<ProofFile> {
    let cannot = || format!("cannot read {}", path.display());
    let mut source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).with_context(cannot)?)
    };
    let mut json = Vec::new();
    let limited = &mut (&mut source).take(MAX_FILE_BYTES + 1);
    limited.read_to_end(&mut json).with_context(cannot)?;
    anyhow::ensure!(
        json.len() as u64 <= MAX_FILE_BYTES,
        "{} is larger than {MAX_FILE_BYTES} bytes: not a proof",
        path.display()
    );
    proof_file::parse(&json, statement.map(|Statement(bytes)| &bytes[..]))
        .map_err(anyhow::Error::msg)
        .with_context(|| format!("{} is not a proof", path.display()))
}

fn check(work: &poet_engine::Work, file: &ProofFile) -> Result<(), String> {
    let expected = (work.function().name(), u64::from(work.depth()));
    if let Some((name, depth)) = &file.work
        && (name.as_str(), *depth) != expected
    {
        return Err(format!(
            "made with {name} x {depth}, not with {} x {} (--work and --depth say which is expected)",
            expected.0, expected.1
        ));
    }
    if let Some(indices) = &file.indices {
        let selected = proven_indices(
            work.kernels().sha256,
            &file.proof.root,
            file.leaves.max(1),
            T,
        );
        if file.leaves >= T as u64 && *indices != selected {
            return Err("the proven leaf indices are not those that the root selects".into());
        }
    }
    verify(work, &file.statement, file.leaves, T, &file.proof).map_err(|error| error.to_string())
}
