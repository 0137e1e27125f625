//! `poet-service verify`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use poet_engine::{T, TICK_LEAVES, proven_indices, verify};
use poet_files::explain;
use poet_proto::{
    base64,
    identity::{PublicKey, decode_key_text},
};

use super::proof_file::{self, ProofFile, ProofFormat};
use super::prove::{Statement, parse_hex};
use super::{BackendArgs, WorkArgs, number};

/// Verify a proof
///
/// FILE is one of these, recognised by its content; - is standard input.
///
/// JSON: the output of `prove`, or a saved response to GET /v1/proofs/{id}, whose members determine
/// the statement.
///
/// SCALE: the message that nodes store and gossip (PoetProofMessage, `export --format message`),
/// which contains its statement, the id of its round and the key of its server; or the bare proof
/// at its beginning, whose hash ATXs refer to (`export --format bytes`), which needs --statement.
///
/// Exit code: 0 valid, 1 invalid, 2 not readable as a proof.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The proof
    file: PathBuf,

    /// The statement of the work, in hex: required for a bare proof, compared with that of a
    /// message
    #[arg(long, value_name = "HEX", value_parser = parse_hex)]
    statement: Option<Statement>,

    /// The required round of a message
    #[arg(long, value_name = "ID", value_parser = number(0..=u64::MAX))]
    round: Option<u64>,

    /// The required public key, in base64, of the server that made a message or a response
    #[arg(long, value_name = "KEY", value_parser = parse_service_key)]
    service_key: Option<[u8; 32]>,

    #[command(flatten)]
    work: WorkArgs,

    /// Leaves in a tick; the default is mainnet's
    #[arg(long, value_name = "LEAVES", default_value_t = TICK_LEAVES, value_parser = number(1..=u64::MAX))]
    tick_size: u64,

    #[command(flatten)]
    backend: BackendArgs,
}

/// A proof with a million members takes 44 MB.
const MAX_FILE_BYTES: u64 = 1 << 28;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let work = args.work.select(&args.backend)?;
    let file = match read(&args.file, args.statement.as_ref()) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("error: {}", explain(error.as_ref()));
            return Ok(ExitCode::from(2));
        }
    };
    eprintln!("read as {}", file.format);
    match check_origin(args, &file).and_then(|()| check(&work, &file)) {
        Ok(()) => {
            let ticks = file.leaves / args.tick_size;
            let members = match file.format {
                ProofFormat::Served { members, .. } => format!(", {members} members"),
                _ => String::new(),
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

fn parse_service_key(text: &str) -> Result<[u8; 32], &'static str> {
    decode_key_text(text)
        .and_then(|key| key.try_into().ok())
        .ok_or("expected the base64 form of a 32-byte ed25519 public key")
}

/// Checks that the file names the server and the round that were asked for.
fn check_origin(args: &Args, file: &ProofFile) -> Result<(), String> {
    let (service_key, round_id) = match &file.format {
        ProofFormat::Written | ProofFormat::Bare => (None, None),
        ProofFormat::Served { service_key, .. } => (service_key.as_deref(), None),
        ProofFormat::Message {
            service_key,
            round_id,
            ..
        } => (Some(&service_key[..]), Some(round_id)),
    };
    if let Some(Statement(expected)) = &args.statement
        && *expected != file.statement
    {
        let statement = hex::encode(&file.statement);
        return Err(format!(
            "it is for the statement {statement}, not for --statement"
        ));
    }
    if let Some(key) = service_key
        && key
            .try_into()
            .ok()
            .and_then(PublicKey::from_bytes)
            .is_none()
    {
        let key = base64::encode(key);
        return Err(format!("its server's key {key} is no ed25519 public key"));
    }
    if let Some(id) = round_id
        && id
            .parse()
            .ok()
            .is_none_or(|number: u64| number.to_string() != *id)
    {
        return Err(format!(
            "the id of its round is {id:?}: expected a decimal number"
        ));
    }
    match (&args.service_key, service_key) {
        (Some(_), None) => return Err("it does not say which server it is of".into()),
        (Some(expected), Some(key)) if expected != key => {
            let key = base64::encode(key);
            return Err(format!(
                "it is of the server with the key {key}, not of --service-key"
            ));
        }
        _ => {}
    }
    match (args.round, round_id) {
        (Some(_), None) => Err("it does not say of which round it is".into()),
        (Some(expected), Some(id)) if expected.to_string() != *id => {
            Err(format!("it is of round {id}, not of round {expected}"))
        }
        _ => Ok(()),
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
    if file.leaves == 0 {
        return Err("it is empty: its server does no work (--disable-worker)".into());
    }
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
