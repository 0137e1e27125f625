//! `poet-service rehearse`: tests the proof before the end of the round.

use std::{io::Write as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use axum::{
    body::{Body, Bytes},
    http::{Request, StatusCode, header},
};
use http_body_util::{BodyExt as _, Limited};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use poet_service::{args::ServerArgs, config::Config};
use serde::Deserialize;
use tokio::net::TcpStream;

/// Make and verify a proof of the running round's leaves so far, without publishing it
///
/// Takes the options of the server, and asks it over the operator's listener. Other cores make the
/// proof while the work continues. If the proof is not valid, the server raises an alarm and
/// repairs the fault. Exit code: 0 the proof is valid, 1 there is no proof, or it is not valid.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// Much longer than a proof takes, even on a single core that other programs use.
const PATIENCE: Duration = Duration::from_secs(3600);
const MAX_ANSWER_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rehearsed {
    round: String,
    leaves: String,
    members: String,
    threads: u64,
    proving_seconds: f64,
    verifying_seconds: f64,
    encoding_seconds: f64,
    end: Timestamp,
    served: Timestamp,
}

#[derive(Deserialize)]
struct Refused {
    message: String,
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = Config::load(args.server)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the threads of the program")?;
    let address = config.listeners.private;
    eprintln!("asking the server at {address}; a proof takes seconds to minutes");
    let asked = async { tokio::time::timeout(PATIENCE, ask(&address)).await };
    let (status, body) = runtime.block_on(asked).unwrap_or_else(|_| {
        bail!("no answer from {address} within an hour: see the log of the server")
    })?;
    if status != StatusCode::OK {
        match serde_json::from_slice(&body) {
            Ok(Refused { message }) => bail!("{message}"),
            Err(_) => bail!("{}", not_a_poet(&address)),
        }
    }
    let rehearsed = serde_json::from_slice(&body);
    let text = describe(&rehearsed.with_context(|| not_a_poet(&address))?);
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("cannot write the result")?;
    Ok(ExitCode::SUCCESS)
}

fn not_a_poet(address: &str) -> String {
    format!(
        "what answers at {address} is not the operator's listener of a PoET server: expected the \
         server's own --config-rpclisten"
    )
}

/// Requests a rehearsal and returns the response.
async fn ask(address: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let unreachable = || {
        format!(
            "cannot reach the server at {address}: expected one that runs, and its own \
             --config-rpclisten"
        )
    };
    let (host, port) = address.rsplit_once(':').with_context(unreachable)?;
    let host = if host.is_empty() { "localhost" } else { host };
    let stream = TcpStream::connect(format!("{host}:{port}"));
    let stream = stream.await.ok().with_context(unreachable)?;
    let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = connection.await.ok().with_context(unreachable)?;
    tokio::spawn(connection);
    let request = Request::post("/v1/rehearse")
        .header(header::HOST, format!("{host}:{port}"))
        .body(Body::empty())?;
    let interrupted = || format!("the server at {address} ended before it answered: see its log");
    let response = sender.send_request(request).await;
    let response = response.ok().with_context(interrupted)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect();
    let body = body.await.ok().with_context(interrupted)?;
    Ok((status, body.to_bytes()))
}

fn describe(rehearsed: &Rehearsed) -> String {
    let Rehearsed {
        round,
        leaves,
        members,
        threads,
        proving_seconds,
        verifying_seconds,
        encoding_seconds,
        end,
        served,
    } = rehearsed;
    let threads = match threads {
        1 => "1 thread".to_owned(),
        threads => format!("{threads} threads"),
    };
    format!(
        "round {round}: the proof of {leaves} leaves is valid\n\
         proving    {proving_seconds:.2} s on {threads}, while the work went on\n\
         verifying  {verifying_seconds:.3} s\n\
         encoding   {encoding_seconds:.3} s, for {members} members\n\
         The round ends at {end:.0}, and by this its proof is served from {served:.1} on.\n"
    )
}
