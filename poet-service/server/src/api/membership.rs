//! The proof that a node is a member of a round.
//!
//! A round's membership tree takes about a second of a core for a million members, and a hundred
//! bytes of a stranger ask for it. So one thread of the lowest priority makes trees, one after the
//! other, and only for keys that are members; few requests wait for it, and not for long; and the
//! trees that were asked for last are kept, up to a size.

use std::{
    io,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use axum::{
    Router,
    extract::{Path, State, rejection::PathRejection},
    response::Response,
    routing::get,
};
use poet_engine::{Node, membership};
use poet_host::niceness;
use poet_proto::json;
use poet_rounds::{
    registration::RegistrationError,
    storage::{Storage, StorageError},
};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{FOR_EVER, cached, error::ApiError, ok, poet::parse_round};

/// Requests that may wait for the thread.
const MAX_WAITING: usize = 64;
/// How long a request waits for it.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// When a request that could not wait may try again.
const RETRY_AFTER_SECONDS: u64 = 10;
/// What the kept trees may take, unless there is one only.
const KEPT_BYTES: usize = 256 << 20;
/// Of one member: its node id, its challenge, and a node of the tree.
const MEMBER_BYTES: usize = 96;

/// Makes proofs of membership.
pub(crate) struct Memberships {
    queue: mpsc::Sender<Question>,
    kept: Arc<Kept>,
}

/// Is this node a member of this round?
struct Question {
    round: u64,
    node_id: [u8; 32],
    reply: oneshot::Sender<Result<Arc<Members>, ApiError>>,
}

/// The members of a round.
struct Members {
    /// In increasing order.
    node_ids: Vec<[u8; 32]>,
    tree: membership::Tree,
}

impl Members {
    fn bytes(&self) -> usize {
        self.node_ids.len() * MEMBER_BYTES
    }

    /// The proof for a node, as JSON.
    fn prove(&self, node_id: &[u8; 32]) -> Result<String, ApiError> {
        let index = self
            .node_ids
            .binary_search(node_id)
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

/// The members of some rounds; those that were asked for last come last.
#[derive(Default)]
struct Kept(Mutex<Vec<(u64, Arc<Members>)>>);

impl Kept {
    fn get(&self, round: u64) -> Option<Arc<Members>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(of, _)| *of == round)?;
        let found = kept.remove(place);
        let members = Arc::clone(&found.1);
        kept.push(found);
        Some(members)
    }

    /// Keeps one more, and as many others as there is room for.
    fn insert(&self, round: u64, members: Arc<Members>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push((round, members));
        let mut bytes: usize = kept.iter().map(|(_, members)| members.bytes()).sum();
        while bytes > KEPT_BYTES && kept.len() > 1 {
            bytes -= kept.remove(0).1.bytes();
        }
    }
}

impl Memberships {
    /// Starts the thread, which ends when this is dropped.
    ///
    /// # Errors
    /// Fails if the system has no thread to give.
    pub(crate) fn start(storage: Arc<dyn Storage>) -> io::Result<Self> {
        let (queue, mut questions) = mpsc::channel::<Question>(MAX_WAITING);
        let kept = Arc::<Kept>::default();
        let found = Arc::clone(&kept);
        thread::Builder::new()
            .name("membership".to_owned())
            .spawn(move || {
                if let Err(error) = niceness::set(niceness::LOWEST_PRIORITY) {
                    tracing::warn!(%error, "cannot lower the priority of proofs of membership");
                }
                while let Some(question) = questions.blocking_recv() {
                    // Its client may have left while it waited.
                    if !question.reply.is_closed() {
                        let answer = || answer(&found, &*storage, &question);
                        // The thread outlives a panic.
                        let answer = panic::catch_unwind(AssertUnwindSafe(answer));
                        let answer = answer.unwrap_or(Err(ApiError::Internal));
                        drop(question.reply.send(answer));
                    }
                }
            })?;
        Ok(Self { queue, kept })
    }

    async fn prove(&self, round: u64, node_id: [u8; 32]) -> Result<String, ApiError> {
        if let Some(members) = self.kept.get(round) {
            return members.prove(&node_id);
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
            Ok(Ok(members)) => members?.prove(&node_id),
            Ok(Err(_)) => Err(ApiError::Internal),
            Err(_) => Err(busy),
        }
    }
}

/// The members of the round, if the node is one.
fn answer(
    kept: &Kept,
    storage: &dyn Storage,
    question: &Question,
) -> Result<Arc<Members>, ApiError> {
    // The request before this one may have asked for the same.
    if let Some(members) = kept.get(question.round) {
        return Ok(members);
    }
    let members = Arc::new(read(storage, question).map_err(|error| {
        tracing::error!(%error, "cannot read the members of a round");
        ApiError::Unavailable
    })??);
    kept.insert(question.round, Arc::clone(&members));
    Ok(members)
}

fn read(
    storage: &dyn Storage,
    question: &Question,
) -> Result<Result<Members, ApiError>, StorageError> {
    let Some(record) = storage.round(question.round)? else {
        return Ok(Err(ApiError::RoundNotFound));
    };
    if !record.settled {
        return Ok(Err(ApiError::RoundOpen));
    }
    // This reads as much, but keeps nothing and sorts nothing.
    if !storage.is_member(question.round, &question.node_id)? {
        return Ok(Err(ApiError::NotAMember));
    }
    let members = storage.registrations(question.round)?;
    let node_ids = members.iter().map(|member| member.node_id).collect();
    let challenges = members.iter().map(|member| member.challenge).collect();
    drop(members);
    Ok(Ok(Members {
        node_ids,
        tree: membership::Tree::new(challenges),
    }))
}

/// The route.
pub(crate) fn router(memberships: Memberships) -> Router {
    Router::new()
        .route("/v1/rounds/{id}/members/{pubkey}", get(member))
        .with_state(Arc::new(memberships))
}

async fn member(
    State(memberships): State<Arc<Memberships>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    let Path((id, key)) = path.map_err(|_| ApiError::RoundNotFound)?;
    let round = parse_round(&id).ok_or(ApiError::RoundNotFound)?;
    let node_id = parse_key(&key).ok_or(RegistrationError::PublicKey)?;
    let text = memberships.prove(round, node_id).await?;
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
