//! The members of a round, and the proof that a node is one of them.
//!
//! The membership tree of a million members takes about a second of CPU time, and a request for it
//! only a hundred bytes. So a single thread of the lowest priority builds trees, one after the
//! other, and builds one for a membership proof only if the key is a member's. Few requests may
//! wait for the thread, and not for long. The trees requested last are cached, up to a total size.

use std::{
    convert::Infallible,
    io, iter,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Path, RawQuery, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use poet_engine::{Node, membership};
use poet_files::reason;
use poet_host::niceness;
use poet_proto::{base64, json, member::NodeId};
use poet_rounds::{
    registration::RegistrationError,
    storage::{Storage, StorageError},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{FOR_EVER, cached, error::ApiError, knows, ok, poet::parse_round};

/// Requests that may wait for the thread.
const MAX_WAITING: usize = 64;
/// How long a request waits for the thread.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// After how long a rejected request may try again.
const RETRY_AFTER_SECONDS: u64 = 10;
/// What the cached trees may use, unless there is only one.
const KEPT_BYTES: usize = 256 << 20;
/// What a member uses: node id, challenge, and its share of the tree.
const MEMBER_BYTES: usize = 3 * 32;
/// What the members of all rounds may use before no more are read: clients that request many rounds
/// and read slowly must not fill the memory. A million members use 96 MB.
const ALIVE_BYTES: usize = 512 << 20;
/// Members in a piece of the list: some 60 KB.
const PIECE_MEMBERS: usize = 512;

/// Answers questions about the members of rounds.
pub(crate) struct Membership {
    queue: mpsc::Sender<Question>,
    kept: Arc<Kept>,
}

/// A question for the members of this round.
struct Question {
    round: u64,
    /// The key for whose sake it is asked: no tree is built for a key that is no member's.
    node_id: Option<NodeId>,
    reply: oneshot::Sender<Result<Arc<Members>, ApiError>>,
}

/// The members of a round.
struct Members {
    /// In increasing order.
    node_ids: Vec<NodeId>,
    tree: membership::MembershipTree,
    /// What all members in memory use, including these.
    alive: Arc<AtomicUsize>,
}

impl Drop for Members {
    fn drop(&mut self) {
        self.alive.fetch_sub(self.bytes(), Relaxed);
    }
}

impl Members {
    fn bytes(&self) -> usize {
        self.node_ids.len() * MEMBER_BYTES
    }

    /// Returns the proof for a node, as JSON.
    fn prove(&self, node_id: NodeId) -> Result<String, ApiError> {
        let index = self
            .node_ids
            .binary_search(&node_id)
            .map_err(|_| ApiError::NotAMember)?;
        let (root, challenge, proof): (&Node, &Node, Vec<Node>) = self
            .tree
            .root()
            .zip(self.tree.challenge(index))
            .zip(self.tree.proof(index))
            .map(|((root, challenge), proof)| (root, challenge, proof))
            .ok_or(ApiError::NotAMember)?;
        Ok(json::write(&MembershipProof {
            index,
            root: json::Base64(root),
            proof: proof.iter().map(|node| json::Base64(node)).collect(),
            challenge: json::Base64(challenge),
        }))
    }
}

/// The fields of `MembershipProof`, and what they prove.
#[derive(Serialize)]
struct MembershipProof<'a> {
    index: usize,
    root: json::Base64<'a>,
    proof: Vec<json::Base64<'a>>,
    challenge: json::Base64<'a>,
}

/// The cached members of some rounds, the last requested at the end.
#[derive(Default)]
struct Kept {
    newest: Mutex<Vec<(u64, Arc<Members>)>>,
    /// What all members in memory use: cached, or still being sent.
    alive: Arc<AtomicUsize>,
    /// The first round whose registrations are complete.
    first_kept: Arc<AtomicU64>,
}

impl Kept {
    fn get(&self, round: u64) -> Option<Arc<Members>> {
        let mut kept = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        // Removed registrations must not be served from memory either.
        let first = self.first_kept.load(Relaxed);
        kept.retain(|(of, _)| *of >= first);
        let place = kept.iter().position(|(of, _)| *of == round)?;
        let found = kept.remove(place);
        let members = Arc::clone(&found.1);
        kept.push(found);
        Some(members)
    }

    /// Caches the members of a round, and removes others if there is no room.
    fn insert(&self, round: u64, members: Arc<Members>) {
        let mut kept = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((round, members));
        let mut bytes: usize = kept.iter().map(|(_, members)| members.bytes()).sum();
        while bytes > KEPT_BYTES && kept.len() > 1 {
            bytes -= kept.remove(0).1.bytes();
        }
    }
}

impl Membership {
    /// Starts the thread, which ends when this is dropped. Registrations of rounds before
    /// `first_kept` are being removed.
    ///
    /// # Errors
    /// Fails if the system does not provide a thread.
    pub(crate) fn start(
        storage: &Arc<dyn Storage>,
        first_kept: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let (queue, mut questions) = mpsc::channel::<Question>(MAX_WAITING);
        let kept = Arc::new(Kept {
            first_kept,
            ..Kept::default()
        });
        let found = Arc::clone(&kept);
        // The end of the server must close the database without waiting for this thread.
        let storage = Arc::downgrade(storage);
        thread::Builder::new()
            .name("members".to_owned())
            .spawn(move || {
                if let Err(error) = niceness::set(niceness::LOWEST_PRIORITY) {
                    let error = reason(&error);
                    tracing::warn!(
                        error,
                        "cannot lower the priority of the thread that reads members"
                    );
                }
                while let Some(question) = questions.blocking_recv() {
                    // The client may have left while it waited.
                    if let Some(storage) = storage.upgrade()
                        && !question.reply.is_closed()
                    {
                        let answer = || answer(&found, &*storage, &question);
                        // The thread survives a panic.
                        let answer = panic::catch_unwind(AssertUnwindSafe(answer));
                        let answer = answer.unwrap_or(Err(ApiError::Internal));
                        drop(question.reply.send(answer));
                    }
                }
            })?;
        Ok(Self { queue, kept })
    }

    async fn members(&self, round: u64, node_id: Option<NodeId>) -> Result<Arc<Members>, ApiError> {
        if let Some(members) = self.kept.get(round) {
            return Ok(members);
        }
        let busy = ApiError::Busy {
            retry_after_seconds: RETRY_AFTER_SECONDS,
        };
        let (reply, answer) = oneshot::channel();
        let question = Question {
            round,
            node_id,
            reply,
        };
        match self.queue.try_send(question) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Err(busy),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(ApiError::Unavailable),
        }
        match tokio::time::timeout(MAX_WAIT, answer).await {
            Ok(Ok(members)) => members,
            Ok(Err(_)) => Err(ApiError::Internal),
            Err(_) => Err(busy),
        }
    }
}

/// Returns the members of the round, if the node is one.
fn answer(
    kept: &Kept,
    storage: &dyn Storage,
    question: &Question,
) -> Result<Arc<Members>, ApiError> {
    // An earlier request may have been for the same round.
    if let Some(members) = kept.get(question.round) {
        return Ok(members);
    }
    if kept.alive.load(Relaxed) > ALIVE_BYTES {
        tracing::error!("the members of too many rounds are being sent");
        return Err(ApiError::Unavailable);
    }
    let members = Arc::new(read(storage, question, &kept.alive).map_err(|error| {
        tracing::error!(%error, "cannot read the members of a round");
        ApiError::Unavailable
    })??);
    kept.insert(question.round, Arc::clone(&members));
    Ok(members)
}

fn read(
    storage: &dyn Storage,
    question: &Question,
    alive: &Arc<AtomicUsize>,
) -> Result<Result<Members, ApiError>, StorageError> {
    let Some(record) = storage.round(question.round)? else {
        return Ok(Err(ApiError::RoundNotFound));
    };
    if !record.settled {
        return Ok(Err(ApiError::RoundOpen));
    }
    // The registrations are removed, or about to be.
    if let Some(published) = record.published
        && published.members != storage.member_count(question.round)?
    {
        return Ok(Err(ApiError::RegistrationsGone));
    }
    // Reads as much, but stores and sorts nothing.
    if let Some(node_id) = question.node_id
        && !storage.is_member(question.round, node_id)?
    {
        return Ok(Err(ApiError::NotAMember));
    }
    let members = storage.registrations(question.round)?;
    let node_ids: Vec<_> = members.iter().map(|member| member.node_id).collect();
    let challenges = members.iter().map(|member| member.challenge.0).collect();
    drop(members);
    alive.fetch_add(node_ids.len() * MEMBER_BYTES, Relaxed);
    Ok(Ok(Members {
        node_ids,
        tree: membership::MembershipTree::new(challenges),
        alive: Arc::clone(alive),
    }))
}

/// The routes.
pub(crate) fn router(membership: Membership) -> Router {
    Router::new()
        .route("/v1/rounds/{id}/members", get(members))
        .route("/v1/rounds/{id}/members/{pubkey}", get(member))
        .with_state(Arc::new(membership))
}

/// Returns the members in the order of the proof, or a page of them.
async fn members(
    State(membership): State<Arc<Membership>>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::RoundNotFound)?;
    let round = parse_round(&id).ok_or(ApiError::RoundNotFound)?;
    let query = query.unwrap_or_default();
    let from = parameter(&query, "from")?.unwrap_or(0);
    let limit = parameter(&query, "limit")?.unwrap_or(usize::MAX);
    let members = membership.members(round, None).await?;
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

/// Returns a number in the query.
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

/// Encodes the list in JSON, piece by piece, each once the one before was sent.
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
            base64::push(&members.node_ids[next].0, &mut piece);
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

async fn member(
    State(membership): State<Arc<Membership>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((id, key)) = path.map_err(|_| ApiError::RoundNotFound)?;
    let round = parse_round(&id).ok_or(ApiError::RoundNotFound)?;
    let node_id = parse_key(&key).ok_or(RegistrationError::PublicKey)?;
    let members = membership.members(round, Some(node_id)).await?;
    let text = members.prove(node_id)?;
    Ok(cached(ok(text), FOR_EVER))
}

/// Parses a public key in hex or in base64.
fn parse_key(text: &str) -> Option<NodeId> {
    let bytes = match hex::decode(text) {
        Ok(bytes) => bytes,
        Err(_) => base64::decode_lenient(text)?,
    };
    bytes.as_slice().try_into().ok()
}
