//! What is not in the original interface: health, the state of rounds, and the proof that a node is
//! a member of one.
//!
//! Answers that cost a look into the storage are prepared by one request at a time, and the list of
//! rounds and the newest membership tree that was asked for are kept, so that a crowd costs little
//! more than one.

use std::{
    convert::Infallible,
    iter,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use poet_engine::{Node, TICK_LEAVES, membership};
use poet_proto::{base64, json};
use poet_rounds::{
    clock::Clock,
    registration::RegistrationError,
    storage::{RoundRecord, Storage, StorageError},
    worker::AuditReport,
};
use serde::Serialize;
use tokio::sync::{Mutex, watch};

use super::{BRIEFLY, FOR_EVER, cached, error::ApiError, knows, ok, poet::parse_round};
use crate::status::{StatusReader, expected_leaves};

/// Rounds in the list: the newest ones.
const LISTED_ROUNDS: usize = 50;
/// How old the list may be.
const LIST_AGE: Duration = Duration::from_secs(1);
/// What a member takes: node id, challenge, and its share of the tree.
const MEMBER_BYTES: usize = 3 * 32;
/// What the members of rounds may take of the memory before no others are read: clients that ask for
/// those of many rounds and read slowly must not fill it. Those of a round with a million take 96 MB.
const ALIVE_BYTES: usize = 512 << 20;
/// Members in a piece of the list: some 60 KB.
const PIECE_MEMBERS: usize = 512;

/// What these routes are answered from.
pub(crate) struct Rounds {
    status: StatusReader,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    /// Why the server is not ready, if it is not.
    unready: watch::Receiver<Option<&'static str>>,
    /// Held by the request that reads.
    list: Mutex<Option<(Instant, Bytes)>>,
    members: Mutex<Option<(u64, Arc<Members>)>>,
    /// What the members take that are kept, or still being sent.
    alive: Arc<AtomicUsize>,
    /// The first round of which no registration is removed.
    first_kept: Arc<AtomicU64>,
}

/// The members of a round.
struct Members {
    /// In increasing order.
    node_ids: Vec<[u8; 32]>,
    tree: membership::Tree,
    /// What all of them take that are in memory, this one included.
    alive: Arc<AtomicUsize>,
}

impl Members {
    fn bytes(&self) -> usize {
        self.node_ids.len() * MEMBER_BYTES
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes(), Relaxed);
    }
}

/// The routes.
pub(crate) fn router(
    status: StatusReader,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    unready: watch::Receiver<Option<&'static str>>,
    first_kept: Arc<AtomicU64>,
) -> Router {
    let rounds = Rounds {
        status,
        clock,
        storage,
        unready,
        list: Mutex::default(),
        members: Mutex::default(),
        alive: Arc::default(),
        first_kept,
    };
    Router::new()
        .route("/healthz", get(async || health(StatusCode::OK, None)))
        .route("/readyz", get(ready))
        .route("/v1/rounds", get(list))
        .route("/v1/rounds/{id}", get(round))
        .route("/v1/rounds/{id}/members", get(members))
        .route("/v1/rounds/{id}/members/{pubkey}", get(member))
        .with_state(Arc::new(rounds))
}

#[derive(Serialize)]
struct Health {
    ok: bool,
    reason: Option<&'static str>,
}

fn health(status: StatusCode, reason: Option<&'static str>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let ok = reason.is_none();
    (status, headers, json::write(&Health { ok, reason })).into_response()
}

async fn ready(State(rounds): State<Arc<Rounds>>) -> Response {
    match *rounds.unready.borrow() {
        None => health(StatusCode::OK, None),
        reason => health(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// A round, with numbers of 64 bits as text, as in the rest of the interface.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    id: String,
    state: &'static str,
    start: String,
    end: String,
    /// In which nodes publish what they prove with it, and in which they are rewarded.
    publish_epoch: String,
    reward_epoch: String,
    members: String,
    /// Absent while no work has been done.
    leaves: Option<String>,
    /// The rest is known while the work goes on.
    leaves_per_second: Option<u64>,
    /// In the newest whole minute.
    newest_leaves_per_second: Option<u64>,
    /// Whether the work has become slower than in its first minutes, and stayed so.
    slow: Option<bool>,
    expected_leaves: Option<String>,
    expected_ticks: Option<String>,
    proof_ready: bool,
    /// What auditors have found; `None` for a round of which they know nothing.
    audit: Option<Audit>,
}

/// What auditors have found in a round.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Audit {
    audited_leaves: String,
    /// Of those, leaves of another process that were taken on trust.
    trusted_leaves: String,
    /// How long the work takes for what is not audited; absent when there is no work.
    lag_seconds: Option<u64>,
    /// Mistakes of the work, damaged copies of right entries, mistakes of the auditors themselves.
    work_errors: u64,
    log_errors: u64,
    auditor_errors: u64,
    rollbacks: u64,
    lost_leaves: String,
    bad_proofs: u64,
    last_event: Option<String>,
}

impl From<AuditReport> for Audit {
    fn from(report: AuditReport) -> Self {
        Self {
            audited_leaves: report.audited_leaves.to_string(),
            trusted_leaves: report.trusted_leaves.to_string(),
            lag_seconds: None,
            work_errors: report.work,
            log_errors: report.copies,
            auditor_errors: report.auditor,
            rollbacks: report.rollbacks,
            lost_leaves: report.lost_leaves.to_string(),
            bad_proofs: report.bad_proofs,
            last_event: report.last_event,
        }
    }
}

#[derive(Serialize)]
struct List {
    rounds: Vec<Round>,
}

impl Rounds {
    fn describe(&self, record: &RoundRecord) -> Result<Round, StorageError> {
        let status = self.status.status();
        let round = record.round;
        let mut described = Round {
            id: round.to_string(),
            state: "waiting",
            start: self.status.schedule().start(round).to_string(),
            end: self.status.schedule().end(round).to_string(),
            publish_epoch: self.status.schedule().publish_epoch(round).to_string(),
            reward_epoch: self.status.schedule().reward_epoch(round).to_string(),
            members: String::new(),
            leaves: None,
            leaves_per_second: None,
            newest_leaves_per_second: None,
            slow: None,
            expected_leaves: None,
            expected_ticks: None,
            proof_ready: false,
            audit: self.status.audits().round(round).map(Audit::from),
        };
        let executing = status
            .executing
            .filter(|executing| executing.round == round);
        let members = match (&record.published, executing) {
            (Some(published), _) => {
                described.state = "published";
                described.leaves = Some(published.leaves.to_string());
                described.proof_ready = true;
                published.members
            }
            (None, Some(executing)) => {
                let leaves = executing.leaves.load(Relaxed);
                let rate = executing.leaves_per_second(&*self.clock);
                let expected = expected_leaves(&executing, &*self.clock);
                described.state = "executing";
                described.leaves = Some(leaves.to_string());
                described.leaves_per_second = Some(rate as u64);
                let watched = executing.rate();
                described.newest_leaves_per_second = watched.newest.map(|rate| rate as u64);
                described.slow = Some(watched.slow);
                if let Some(audit) = &mut described.audit {
                    let lag = self.status.audit_lag(&*self.clock);
                    audit.lag_seconds = lag.map(|lag| lag.as_secs());
                }
                described.expected_leaves = Some(expected.to_string());
                described.expected_ticks = Some((expected / TICK_LEAVES).to_string());
                executing.members
            }
            (None, None) if status.open.round == round => {
                described.state = "open";
                status.open.members
            }
            (None, None) => self.storage.member_count(round)?,
        };
        described.members = members.to_string();
        Ok(described)
    }

    fn list(&self) -> Result<String, StorageError> {
        let records = self.storage.newest_rounds(LISTED_ROUNDS)?;
        let rounds = records.iter().map(|record| self.describe(record));
        Ok(json::write(&List {
            rounds: rounds.collect::<Result<_, _>>()?,
        }))
    }

    fn round(&self, round: u64) -> Result<Option<String>, StorageError> {
        let Some(record) = self.storage.round(round)? else {
            return Ok(None);
        };
        Ok(Some(json::write(&self.describe(&record)?)))
    }

    /// The members of a round, which must be closed.
    fn read_members(&self, round: u64) -> Result<Members, ApiError> {
        let record = self.storage.round(round).map_err(|error| failed(&error))?;
        let record = record.ok_or(ApiError::RoundNotFound)?;
        if !record.settled {
            return Err(ApiError::RoundOpen);
        }
        let members = self
            .storage
            .registrations(round)
            .map_err(|error| failed(&error))?;
        // Removed, or on the way to it.
        if record
            .published
            .is_some_and(|it| it.members != members.len() as u64)
        {
            return Err(ApiError::RegistrationsGone);
        }
        let challenges = members.iter().map(|member| member.challenge).collect();
        let members = Members {
            node_ids: members.iter().map(|member| member.node_id).collect(),
            tree: membership::Tree::new(challenges),
            alive: Arc::clone(&self.alive),
        };
        self.alive.fetch_add(members.bytes(), Relaxed);
        Ok(members)
    }

    async fn members(self: Arc<Self>, round: u64) -> Result<Arc<Members>, ApiError> {
        let this = Arc::clone(&self);
        let mut kept = this.members.lock().await;
        // What is removed is not told from memory, either.
        if let Some((kept, members)) = &*kept
            && *kept == round
            && round >= this.first_kept.load(Relaxed)
        {
            return Ok(Arc::clone(members));
        }
        if self.alive.load(Relaxed) > ALIVE_BYTES {
            tracing::error!("the members of too many rounds are being sent");
            return Err(ApiError::Unavailable);
        }
        let members = Arc::new(on_blocking_thread(move || self.read_members(round)).await?);
        *kept = Some((round, Arc::clone(&members)));
        Ok(members)
    }
}

fn failed(error: &StorageError) -> ApiError {
    tracing::error!(%error, "cannot read the rounds");
    ApiError::Unavailable
}

/// Runs a call that blocks on a thread for such calls.
async fn on_blocking_thread<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    // What it logs is about the same request.
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(call))
        .await
        .map_err(|_| ApiError::Internal)?
}

async fn list(State(rounds): State<Arc<Rounds>>) -> Result<Response, ApiError> {
    let mut kept = rounds.list.lock().await;
    if let Some((since, list)) = &*kept
        && since.elapsed() < LIST_AGE
    {
        return Ok(cached(ok(list.clone()), BRIEFLY));
    }
    let reading = Arc::clone(&rounds);
    let list = Bytes::from(
        on_blocking_thread(move || reading.list().map_err(|error| failed(&error))).await?,
    );
    *kept = Some((Instant::now(), list.clone()));
    Ok(cached(ok(list), BRIEFLY))
}

async fn round(
    State(rounds): State<Arc<Rounds>>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::RoundNotFound)?;
    let round = parse_round(&id).ok_or(ApiError::RoundNotFound)?;
    let _reading = rounds.list.lock().await;
    let reading = Arc::clone(&rounds);
    let described =
        on_blocking_thread(move || reading.round(round).map_err(|error| failed(&error))).await?;
    Ok(cached(
        ok(described.ok_or(ApiError::RoundNotFound)?),
        BRIEFLY,
    ))
}

/// The list of the members, in the order of the proof, or a page of it.
async fn members(
    State(rounds): State<Arc<Rounds>>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::RoundNotFound)?;
    let round = parse_round(&id).ok_or(ApiError::RoundNotFound)?;
    let query = query.unwrap_or_default();
    let from = parameter(&query, "from")?.unwrap_or(0);
    let limit = parameter(&query, "limit")?.unwrap_or(usize::MAX);
    let members = Arc::clone(&rounds).members(round).await?;
    let count = members.node_ids.len();
    let from = from.min(count);
    let page = from..from.saturating_add(limit).min(count);
    let root = members.tree.root().map_or(String::new(), hex::encode);
    let etag = format!("\"{root}-{}-{}\"", page.start, page.end);
    let response = if knows(&headers, &etag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ok(Body::from_stream(tonic::codegen::tokio_stream::iter(
            pieces(round, members, page),
        )))
    };
    let mut response = cached(response, FOR_EVER);
    if let Ok(etag) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// A number in the query.
fn parameter(query: &str, name: &str) -> Result<Option<usize>, ApiError> {
    let mut values = query.split('&').filter_map(|it| it.split_once('='));
    let Some((_, value)) = values.find(|(found, _)| *found == name) else {
        return Ok(None);
    };
    let number = value.parse().map_err(|_| {
        ApiError::Malformed(format!(
            "invalid value for {name}: expected a whole number, not negative"
        ))
    });
    number.map(Some)
}

/// The list in JSON, piece by piece, each made when the one before has been sent.
fn pieces(
    round: u64,
    members: Arc<Members>,
    page: Range<usize>,
) -> impl Iterator<Item = Result<String, Infallible>> {
    let head = format!(
        "{{\"roundId\":\"{round}\",\"total\":\"{}\",\"from\":\"{}\",\"members\":[",
        members.node_ids.len(),
        page.start
    );
    let mut next = page.start;
    let list = iter::from_fn(move || {
        if next == page.end {
            return None;
        }
        let mut piece = String::new();
        let end = page.end.min(next + PIECE_MEMBERS);
        while next < end {
            if next > page.start {
                piece.push(',');
            }
            piece.push_str("{\"nodeId\":\"");
            base64::push(&members.node_ids[next], &mut piece);
            piece.push_str("\",\"challenge\":\"");
            base64::push(members.tree.challenge(next).unwrap_or(&[0; 32]), &mut piece);
            piece.push_str("\"}");
            next += 1;
        }
        Some(piece)
    });
    let pieces = iter::once(head)
        .chain(list)
        .chain(iter::once("]}".to_owned()));
    pieces.map(Ok)
}

/// The fields of `MembershipProof`, and what they prove.
#[derive(Serialize)]
struct MembershipProof<'a> {
    index: usize,
    root: json::Base64<'a>,
    proof: Vec<json::Base64<'a>>,
    challenge: json::Base64<'a>,
}

async fn member(
    State(rounds): State<Arc<Rounds>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((id, key)) = path.map_err(|_| ApiError::RoundNotFound)?;
    let round = parse_round(&id).ok_or(ApiError::RoundNotFound)?;
    let node_id = parse_key(&key).ok_or(RegistrationError::PublicKey)?;
    let members = rounds.members(round).await?;
    let index = members
        .node_ids
        .binary_search(&node_id)
        .map_err(|_| ApiError::NotAMember)?;
    let (root, challenge, proof): (&Node, &Node, Vec<Node>) = members
        .tree
        .root()
        .zip(members.tree.challenge(index))
        .zip(members.tree.proof(index))
        .map(|((root, challenge), proof)| (root, challenge, proof))
        .ok_or(ApiError::NotAMember)?;
    let text = json::write(&MembershipProof {
        index,
        root: json::Base64(root),
        proof: proof.iter().map(|node| json::Base64(node)).collect(),
        challenge: json::Base64(challenge),
    });
    Ok(cached(ok(text), FOR_EVER))
}

/// A public key in hex or in base64.
fn parse_key(text: &str) -> Option<[u8; 32]> {
    let bytes = match hex::decode(text) {
        Ok(bytes) => bytes,
        Err(_) => json::decode_base64(text)?,
    };
    bytes.try_into().ok()
}
