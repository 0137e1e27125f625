//! Registers members with a PoET server, as nodes do: asks for the parameters of the proof of
//! work, solves it for each of some new keys, signs, and submits.
//!
//! ```text
//! cargo run --release -p poet-service --example register -- --url http://localhost:8080 --members 3
//! ```

use std::process::ExitCode;

use anyhow::{Context, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use clap::Parser;
use ed25519_dalek::{Signer, SigningKey};
use poet_service::pow::{self, PowParams};
use serde_json::{Value, json};

#[derive(Parser)]
struct Args {
    /// The server
    #[arg(long, default_value = "http://localhost:8080")]
    url: String,

    /// How many members to register
    #[arg(long, default_value_t = 1)]
    members: usize,
}

fn main() -> ExitCode {
    let Args { url, members } = Args::parse();
    match register(url.trim_end_matches('/'), members) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn register(url: &str, members: usize) -> anyhow::Result<()> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();

    let params = agent.get(format!("{url}/v1/pow_params")).call();
    let params = answer(params.with_context(|| format!("cannot reach {url}"))?)?;
    let params = &params["powParams"];
    let solved_for = PowParams {
        difficulty: u32::try_from(params["difficulty"].as_u64().context("no difficulty")?)?,
        challenge: STANDARD.decode(params["challenge"].as_str().context("no challenge")?)?,
    };

    for number in 1..=members {
        let (mut seed, mut challenge) = ([0; 32], [0; 32]);
        getrandom::fill(&mut seed)?;
        getrandom::fill(&mut challenge)?;
        let key = SigningKey::from_bytes(&seed);
        let node_id = key.verifying_key();
        let nonce = pow::solve(&solved_for, node_id.as_bytes(), &challenge)
            .context("the proof of work has no solution")?;
        let request = json!({
            "nonce": nonce.to_string(),
            "powParams": params,
            "challenge": STANDARD.encode(challenge),
            "pubkey": STANDARD.encode(node_id.as_bytes()),
            "signature": STANDARD.encode(key.sign(&challenge).to_bytes()),
        });
        let submitted = agent
            .post(format!("{url}/v1/submit"))
            .send(request.to_string())?;
        let submitted = answer(submitted)?;
        println!(
            "member {number}: node {} is in round {}, which ends in {}",
            STANDARD.encode(node_id.as_bytes()),
            text(&submitted["roundId"]),
            text(&submitted["roundEnd"]),
        );
    }
    Ok(())
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> anyhow::Result<Value> {
    let body: Value = serde_json::from_str(&response.body_mut().read_to_string()?)
        .context("the answer is not JSON")?;
    if !response.status().is_success() {
        bail!(
            "the server says: {} ({})",
            text(&body["message"]),
            response.status()
        );
    }
    Ok(body)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}
