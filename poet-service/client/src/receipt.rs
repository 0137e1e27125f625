//! `poet-client verify-receipt`, and checks of receipts for other commands.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{bail, ensure};
use poet_proto::{
    base64::{self, decode_lenient},
    identity::PublicKey,
    member::{Challenge, NodeId},
    receipt::{Acknowledged, Receipt},
};
use serde_json::{Value, json};

use crate::{input::read, key::parse_hex, output::printable};

/// Check receipts: whether a server has acknowledged a registration
///
/// FILE is the state file of `register` (all receipts in it are checked), a server's response to a
/// registration, or a single receipt. A receipt shows that the server whose key it names has
/// acknowledged a node as a member of a round, and when. --pubkey checks the key; a server's key is
/// the servicePubkey of its /v1/info.
///
/// Exit codes: 0 all receipts are valid, 1 none is, 2 the command line is wrong, 3 some are.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Print JSON, one object with a list of receipts
    #[arg(long)]
    json: bool,

    /// The required public key of the server, 32 bytes in base64 or hex [default: any server; in a
    /// state file that of the registration]
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    pubkey: Option<PublicKey>,
}

/// The longest file that can hold receipts: a state file of maximum size.
const MAX_FILE_BYTES: u64 = 1 << 20;

fn parse_key(text: &str) -> Result<PublicKey, &'static str> {
    let bytes = hex::decode(text).ok().or_else(|| decode_lenient(text));
    let key = bytes.and_then(|bytes| PublicKey::from_bytes(&bytes.try_into().ok()?));
    key.ok_or("expected an ed25519 public key: 32 bytes in base64 or hex")
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let name = args.file.display();
    let json = read(&name, &args.file, MAX_FILE_BYTES + 1)?;
    ensure!(
        json.len() as u64 <= MAX_FILE_BYTES,
        "{name} is too long: expected a state file of poet-client, or a receipt"
    );
    let Ok(state) = serde_json::from_slice::<Value>(&json) else {
        bail!("{name} is not JSON: expected a state file of poet-client, or a receipt");
    };
    let Some(registrations) = state.get("registrations").and_then(Value::as_array) else {
        let receipt = state.get("receipt").unwrap_or(&state);
        return match check(receipt, args.pubkey.as_ref()) {
            Ok(receipt) if args.json => {
                println!("{}", json!({"receipts": [report(None, &Ok(receipt))]}));
                Ok(ExitCode::SUCCESS)
            }
            Ok(receipt) => {
                println!("valid: {}", sentence(&receipt));
                Ok(ExitCode::SUCCESS)
            }
            Err(reason) => bail!("{name}: {reason}"),
        };
    };
    ensure!(!registrations.is_empty(), "{name} holds no registration");
    let mut valid = 0;
    let mut reports = Vec::new();
    for registration in registrations {
        let poet = registration["poet"].as_str().unwrap_or_default();
        let checked = check_kept(&state, registration, args.pubkey.as_ref());
        valid += usize::from(checked.is_ok());
        if args.json {
            reports.push(report(Some(poet), &checked));
            continue;
        }
        match checked {
            Ok(receipt) => {
                println!("{}: valid: {}", printable(poet), sentence(&receipt));
            }
            Err(reason) => println!("{}: not valid: {reason}", printable(poet)),
        }
    }
    if args.json {
        println!("{}", json!({"receipts": reports}));
    }
    Ok(match valid {
        0 => ExitCode::FAILURE,
        all if all == registrations.len() => ExitCode::SUCCESS,
        _ => ExitCode::from(3),
    })
}

/// Returns the result of checking a receipt, in JSON.
fn report(poet: Option<&str>, checked: &Result<Receipt, String>) -> Value {
    json!({
        "poet": poet,
        "valid": checked.is_ok(),
        "says": checked.as_ref().ok().map(sentence),
        "error": checked.as_ref().err(),
    })
}

/// Returns the receipt in this JSON, if it is one and this server signed it.
fn check(receipt: &Value, server: Option<&PublicKey>) -> Result<Receipt, String> {
    let receipt = Receipt::from_json(receipt).map_err(|error| error.to_string())?;
    match server {
        Some(expected) if receipt.server() != expected => Err(format!(
            "it is signed by the server with key {}, expected {}",
            base64::encode(receipt.server().as_bytes()),
            base64::encode(expected.as_bytes())
        )),
        _ => Ok(receipt),
    }
}

/// Returns the receipt of a registration in a state file, if it is for that registration.
fn check_kept(
    state: &Value,
    registration: &Value,
    server: Option<&PublicKey>,
) -> Result<Receipt, String> {
    let receipt = registration
        .get("receipt")
        .ok_or("there is no receipt: the server gave none")?;
    let receipt = check(receipt, server)?;
    let key = registration["pubkey"].as_str().and_then(decode_lenient);
    let bytes32 = |name: &str| parse_hex(state[name].as_str()?).ok();
    let expected = ExpectedReceipt {
        server: key.and_then(|key| key.try_into().ok()),
        node_id: bytes32("nodeId").map(NodeId),
        challenge: bytes32("challenge").map(Challenge),
        round: registration["round"].as_u64(),
    };
    expected.check(&receipt)?;
    Ok(receipt)
}

/// What a receipt must be for. A field is `None` if it is damaged.
pub(crate) struct ExpectedReceipt {
    pub(crate) server: Option<[u8; 32]>,
    pub(crate) node_id: Option<NodeId>,
    pub(crate) challenge: Option<Challenge>,
    pub(crate) round: Option<u64>,
}

impl ExpectedReceipt {
    /// Checks that a receipt is for this registration.
    ///
    /// # Errors
    /// Fails with what differs.
    pub(crate) fn check(&self, receipt: &Receipt) -> Result<(), String> {
        let acknowledged = receipt.acknowledged();
        let differs = if Some(*receipt.server().as_bytes()) != self.server {
            "server"
        } else if Some(acknowledged.node_id) != self.node_id {
            "node"
        } else if Some(acknowledged.challenge) != self.challenge {
            "challenge"
        } else if Some(acknowledged.round) != self.round {
            "round"
        } else {
            return Ok(());
        };
        Err(format!(
            "it is a receipt for another {differs} than that of the registration"
        ))
    }
}

/// Describes what a receipt says.
pub(crate) fn sentence(receipt: &Receipt) -> String {
    let Acknowledged {
        round,
        node_id,
        challenge,
        time,
        round_end,
    } = receipt.acknowledged();
    format!(
        "the server with key {} acknowledged at {time} that node {} is a member of round {round}, \
         which ends at {round_end}, with challenge {}",
        base64::encode(receipt.server().as_bytes()),
        hex::encode(node_id),
        hex::encode(challenge)
    )
}
