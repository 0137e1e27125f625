//! `poet-service export`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use poet_files::Output;
use poet_proto::{identity::PrivateKey, json};
use poet_rounds::storage::Setting;
use poet_service::{args::ServerArgs, config::Config};
use poet_storage::{SqliteReader, directory::DATABASE_FILE};

/// Write a published proof to a file
///
/// Takes the options of the server, which say where its database is, and works while the server
/// runs. `verify` reads both formats. Exit code: 0 written, 1 there is no such proof or it cannot be
/// read or written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The round
    #[arg(long, value_name = "ID")]
    proof: u64,

    /// Write to this file; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,

    /// json: the answer of GET /v1/proofs/ID. bytes: what nodes store and name the proof by, without
    /// the members; the statement that it is valid for is printed on standard error
    #[arg(long, value_enum, default_value = "json")]
    format: Format,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
    Bytes,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    let path = config.directories.dbdir.join(DATABASE_FILE);
    if !path.exists() {
        bail!(
            "--dbdir {} has no {DATABASE_FILE}: expected the directory of a server",
            config.directories.dbdir.display()
        );
    }
    let out = Output::open("--out", &args.out)?;
    let database = SqliteReader::open(&path)?;
    let Some(published) = database.proof(args.proof)? else {
        bail!("round {} has no proof in {}", args.proof, path.display());
    };
    let content = match args.format {
        Format::Json => {
            let key = database
                .setting(Setting::PrivateKey)?
                .and_then(|key| PrivateKey::from_bytes(&key).ok())
                .with_context(|| format!("{} holds no private key", path.display()))?;
            json::proof_response(&published, key.public().as_bytes()).into_bytes()
        }
        Format::Bytes => {
            eprintln!("statement {}", hex::encode(&published.statement));
            let reference = published.proof.reference(published.leaves);
            eprintln!("reference {}", hex::encode(reference));
            published.proof.to_scale(published.leaves)
        }
    };
    out.write(&content)?;
    Ok(ExitCode::SUCCESS)
}
