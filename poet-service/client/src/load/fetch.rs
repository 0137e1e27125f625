//! `poet-client load fetch`.

use std::{
    cell::RefCell,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use http_body_util::BodyExt as _;
use hyper::{
    Response, StatusCode,
    body::{Bytes, Incoming},
    header,
};
use poet_proto::json::Round;
use serde::Serialize;
use tokio::task::LocalSet;

use super::{
    http::{Connection, LoadTarget},
    proof,
    report::{Errors, Latencies, Summary},
};
use crate::{input::whole_number, time::now};

/// How often to request a proof that is not there yet.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long after the end of a round to wait for its proof.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a server may serve a proof before it has compressed it.
const COMPRESSION_PATIENCE: Duration = Duration::from_secs(60);
/// How long the next part of a proof may take.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Fetch the proof of a round with many clients at once
///
/// The first client verifies it. All clients then connect and request it at once, and each compares
/// what it gets, byte for byte, with what the first one got.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The server
    #[arg(long, default_value = "http://localhost:8080")]
    url: String,

    /// The round
    #[arg(long, value_name = "ID", value_parser = whole_number::<u64>(0..=u64::MAX))]
    round: u64,

    /// How many clients
    #[arg(long, value_name = "NUMBER", default_value = "1000",
        value_parser = whole_number::<usize>(1..=u64::MAX))]
    clients: usize,

    /// Wait for the end of the round and its proof, and begin as soon as it is there
    #[arg(long)]
    wait: bool,

    /// Print JSON, one object
    #[arg(long)]
    json: bool,
}

/// A proof that was fetched.
pub(super) struct Ready {
    pub(super) compressed: Bytes,
    /// How long after the end of the round the server began to send it.
    late: Option<Duration>,
}

impl Ready {
    pub(super) fn when(&self) -> When {
        When {
            seconds_late: self.late.map(|late| late.as_secs_f64()),
        }
    }
}

/// When a proof was available.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct When {
    /// After the end of its round; `None` if it was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_late: Option<f64>,
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seconds_late {
            Some(late) => write!(f, "there {late:.2} s after the round's end"),
            None => f.write_str("there"),
        }
    }
}

/// The results.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FetchReport {
    proof: FetchedProof,
    clients: usize,
    served: usize,
    seconds: f64,
    bytes_per_second: f64,
    /// When the last client had received it, after the end of the round.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seconds_late: Option<f64>,
    latency_seconds: Summary,
    errors: Errors,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FetchedProof {
    #[serde(flatten)]
    ready: When,
    leaves: u64,
    members: usize,
    bytes: usize,
    compressed_bytes: usize,
}

impl fmt::Display for FetchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FetchedProof {
            ready,
            leaves,
            members,
            bytes,
            compressed_bytes,
        } = &self.proof;
        writeln!(
            f,
            "proof       {ready}; valid: {leaves} leaves, {members} members, {bytes} bytes, \
             {compressed_bytes} compressed"
        )?;
        writeln!(
            f,
            "served      {} of {} clients in {:.2} s, {:.0} MB/s",
            self.served,
            self.clients,
            self.seconds,
            self.bytes_per_second / 1e6
        )?;
        if let Some(last) = self.last_seconds_late {
            writeln!(f, "last        had it {last:.2} s after the round's end")?;
        }
        writeln!(f, "latency     {}", self.latency_seconds)?;
        self.errors.fmt(f)
    }
}

pub(super) async fn run(args: Args) -> anyhow::Result<bool> {
    let target = LoadTarget::resolve(&args.url).await?;
    let id = args.round.to_string();
    let end = if args.wait {
        round_end(&target, &id).await?
    } else {
        None
    };
    let ready = if args.wait {
        await_proof(&target, &id, end).await?
    } else {
        let (compressed, _) = fetch(&target, &id)
            .await?
            .with_context(|| format!("round {id} has no proof: expected --wait or another one"))?;
        let late = None;
        Ready { compressed, late }
    };

    let clients = args.clients;
    let load = Rc::new(FetchLoad {
        target,
        path: path(&id),
        expected: ready.compressed.clone(),
        start: Instant::now(),
        latencies: RefCell::new(Latencies::with_capacity(clients)),
        errors: RefCell::default(),
    });
    let local = LocalSet::new();
    for _ in 0..clients {
        local.spawn_local(Rc::clone(&load).client());
    }
    local.await;
    let took = load.start.elapsed();
    let last = end.map(|end| end.elapsed());

    // Verified only now, so that the clients did not have to wait for it.
    let verified = proof::check(&ready.compressed)?;
    let served = load.latencies.borrow().len();
    let bytes = served as f64 * ready.compressed.len() as f64;
    let report = FetchReport {
        proof: FetchedProof {
            ready: ready.when(),
            leaves: verified.leaves,
            members: verified.members.len(),
            bytes: verified.bytes,
            compressed_bytes: ready.compressed.len(),
        },
        clients,
        served,
        seconds: took.as_secs_f64(),
        bytes_per_second: bytes / took.as_secs_f64(),
        last_seconds_late: last.map(|last| last.as_secs_f64()),
        latency_seconds: load.latencies.take().summary(),
        errors: load.errors.take(),
    };
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(report.errors.is_empty())
}

/// The state that the clients share. All of them run on one thread.
struct FetchLoad {
    target: LoadTarget,
    path: String,
    expected: Bytes,
    start: Instant,
    latencies: RefCell<Latencies>,
    errors: RefCell<Errors>,
}

impl FetchLoad {
    async fn client(self: Rc<Self>) {
        match self.fetch_and_compare().await {
            Ok(()) => self.latencies.borrow_mut().push(self.start.elapsed()),
            Err(error) => self.errors.borrow_mut().add(&error),
        }
    }

    async fn fetch_and_compare(&self) -> anyhow::Result<()> {
        let mut connection = self.target.connect().await?;
        let response = ask(&mut connection, &self.path)
            .await?
            .context("status 404: the proof has gone")?;
        ensure!(is_compressed(&response), UNCOMPRESSED);
        let mut body = response.into_body();
        let mut rest = &self.expected[..];
        while let Some(part) = next_part(&mut body).await? {
            rest = rest
                .strip_prefix(&*part)
                .context("another proof than the first client got")?;
        }
        ensure!(rest.is_empty(), "the proof was cut off");
        Ok(())
    }
}

fn path(id: &str) -> String {
    format!("/v1/proofs/{id}")
}

/// Returns the end of a round, if the server reports it.
async fn round_end(target: &LoadTarget, id: &str) -> anyhow::Result<Option<Instant>> {
    let round: Option<Round> = target.get_json(&format!("/v1/rounds/{id}")).await?;
    let Some(Round { end, .. }) = round else {
        return Ok(None);
    };
    let left = now().duration_until(end);
    let instant = Instant::now();
    Ok(Some(match Duration::try_from(left) {
        Ok(left) => instant + left,
        // The round has ended.
        Err(_) => instant.checked_sub(left.unsigned_abs()).unwrap_or(instant),
    }))
}

/// Waits for the proof of a round, whether or not its end is known.
pub(super) async fn await_proof(
    target: &LoadTarget,
    id: &str,
    end: Option<Instant>,
) -> anyhow::Result<Ready> {
    if let Some(end) = end {
        tokio::time::sleep_until(end.into()).await;
    }
    let give_up = Instant::now() + PATIENCE;
    while Instant::now() < give_up {
        if let Some((compressed, answered)) = fetch(target, id).await? {
            let late = end.map(|end| answered.saturating_duration_since(end));
            return Ok(Ready { compressed, late });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    bail!(
        "round {id} still had no proof {} s after its end",
        PATIENCE.as_secs()
    )
}

/// Returns the compressed proof, if it is there, and when the server began to send it. A server sends
/// the proof as it is until it has compressed it, so that nobody waits for that; this does.
async fn fetch(target: &LoadTarget, id: &str) -> anyhow::Result<Option<(Bytes, Instant)>> {
    let mut served = None;
    let (_connection, response, answered) = loop {
        let mut connection = target.connect().await?;
        let Some(response) = ask(&mut connection, &path(id)).await? else {
            return Ok(None);
        };
        let answered = *served.get_or_insert_with(Instant::now);
        if is_compressed(&response) {
            break (connection, response, answered);
        }
        ensure!(answered.elapsed() < COMPRESSION_PATIENCE, UNCOMPRESSED);
        tokio::time::sleep(POLL_INTERVAL).await;
    };
    let mut compressed = Vec::new();
    let mut body = response.into_body();
    while let Some(part) = next_part(&mut body).await? {
        compressed.extend_from_slice(&part);
    }
    Ok(Some((compressed.into(), answered)))
}

/// Returns the response with a proof; `None` if there is none.
async fn ask(
    connection: &mut Connection,
    path: &str,
) -> anyhow::Result<Option<Response<Incoming>>> {
    let response = connection.get(path, "gzip").await?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        status => bail!("status {status}"),
    }
    Ok(Some(response))
}

const UNCOMPRESSED: &str = "the proof is not compressed";

fn is_compressed(response: &Response<Incoming>) -> bool {
    let encoding = response.headers().get(header::CONTENT_ENCODING);
    encoding.is_some_and(|encoding| encoding == "gzip")
}

async fn next_part(body: &mut Incoming) -> anyhow::Result<Option<Bytes>> {
    loop {
        let frame = tokio::time::timeout(STALL_TIMEOUT, body.frame())
            .await
            .map_err(|_| anyhow!("the proof stopped"))?;
        match frame {
            None => return Ok(None),
            Some(frame) => {
                let frame = frame.map_err(|_| anyhow!("the proof was cut off"))?;
                if let Ok(part) = frame.into_data() {
                    return Ok(Some(part));
                }
            }
        }
    }
}
