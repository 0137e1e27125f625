//! `poet-service export`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use poet_engine::ProofMessage;
use poet_files::Output;
use poet_proto::{identity::PrivateKey, json, messages::PublishedProof};
use poet_rounds::storage::{Setting, Storage as _};
use poet_service::{args::ServerArgs, config::Config};
use poet_storage::{PostgresStorage, SqliteReader, directory::DATABASE_FILE};

use super::number;

/// Write a published proof to a file
///
/// Takes the options of the server, to find its database, and works while the server runs. `verify`
/// reads all formats. Exit code: 0 written, 1 there is no such proof or it cannot be read or
/// written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The round
    #[arg(long, value_name = "ID", value_parser = number(0..=u64::MAX))]
    proof: u64,

    /// Write to this file; - is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    out: PathBuf,

    /// json: the response to GET /v1/proofs/ID. message: what nodes store and gossip
    /// (PoetProofMessage, in SCALE), without the members. bytes: the proof at the beginning of that
    /// message, whose hash ATXs refer to; the hash and the statement of the proof are printed on
    /// standard error
    #[arg(long, value_enum, default_value = "json")]
    format: Format,

    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
    Message,
    Bytes,
}

/// Where to read proofs from.
struct Source {
    /// Its name in messages.
    place: String,
    database: Either,
}

enum Either {
    Embedded(SqliteReader),
    Shared(PostgresStorage),
}

impl Source {
    fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(url) = &config.database {
            return Ok(Self {
                place: url.to_string(),
                database: Either::Shared(PostgresStorage::open_to_read(url)?),
            });
        }
        let path = config.directories.dbdir.join(DATABASE_FILE);
        if !path.exists() {
            bail!(
                "--dbdir {} has no {DATABASE_FILE}: expected the directory of a server",
                config.directories.dbdir.display()
            );
        }
        Ok(Self {
            place: path.display().to_string(),
            database: Either::Embedded(SqliteReader::open(&path)?),
        })
    }

    fn proof(&self, round: u64) -> anyhow::Result<Option<PublishedProof>> {
        Ok(match &self.database {
            Either::Embedded(database) => database.proof(round)?,
            Either::Shared(database) => database.proof(round)?,
        })
    }

    fn private_key(&self) -> anyhow::Result<Option<Vec<u8>>> {
        Ok(match &self.database {
            Either::Embedded(database) => database.setting(Setting::PrivateKey)?,
            Either::Shared(database) => database.setting(Setting::PrivateKey)?,
        })
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    let out = Output::open("--out", &args.out)?;
    let database = Source::open(&config)?;
    let Some(published) = database.proof(args.proof)? else {
        bail!("round {} has no proof in {}", args.proof, database.place);
    };
    let service_key = || -> anyhow::Result<[u8; 32]> {
        let key = database
            .private_key()?
            .and_then(|key| PrivateKey::from_bytes(&key).ok())
            .with_context(|| format!("{} holds no private key", database.place))?;
        Ok(*key.public().as_bytes())
    };
    if published.leaves == 0 && !matches!(args.format, Format::Json) {
        let round = args.proof;
        bail!("the proof of round {round} is empty (--disable-worker): expected --format json");
    }
    let content = match args.format {
        Format::Json => json::proof_response(&published, &service_key()?).into_bytes(),
        Format::Message => {
            let statement = published.statement[..].try_into().ok();
            let statement = statement.with_context(|| {
                let round = args.proof;
                format!("round {round} has no members, so no node has a message with its proof")
            })?;
            ProofMessage {
                proof: published.proof,
                leaves: published.leaves,
                service_key: service_key()?,
                round_id: args.proof.to_string(),
                statement,
                signature: [0; 64],
            }
            .to_scale()
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
