//! Health and the state of rounds, which the original interface lacks.
//!
//! Only one request at a time reads the storage, and the list of rounds is cached, so that many
//! requests cost little more than one.

use std::{
    ops::RangeInclusive,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use poet_engine::TICK_LEAVES;
use poet_proto::{duration::format_go, json};
use poet_rounds::{
    clock::Clock,
    cycle_gaps::CycleGap,
    storage::{EarlyProofRecord, RoundRecord, Storage, StorageError},
    worker::{AuditReport, Standing},
};
use serde::Serialize;
use tokio::sync::{Mutex, watch};

use super::{BRIEFLY, cached, error::ApiError, ok, poet::parse_round};
use crate::status::{StatusReader, expected_leaves_at};

/// The list has this many rounds, the newest ones.
const LISTED_ROUNDS: usize = 50;
/// The maximum age of the list.
const LIST_AGE: Duration = Duration::from_secs(1);

/// The state from which these routes are answered.
pub(crate) struct RoundRoutes {
    /// The cycle gap of the nodes that ask.
    gap: CycleGap,
    status: StatusReader,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    /// Why the server is not ready, if it is not.
    unready: watch::Receiver<Option<&'static str>>,
    /// The list, and when it was read. Locked by the request that reads.
    list: Mutex<Option<(Duration, Bytes)>>,
}

impl RoundRoutes {
    /// The rounds as nodes with the schedule's cycle gap see them.
    pub(crate) fn new(
        status: StatusReader,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        unready: watch::Receiver<Option<&'static str>>,
    ) -> Self {
        Self {
            gap: status.gaps().own().clone(),
            status,
            clock,
            storage,
            unready,
            list: Mutex::default(),
        }
    }

    /// The same rounds as nodes with another cycle gap see them.
    pub(crate) fn for_gap(&self, gap: CycleGap) -> Self {
        Self {
            gap,
            status: self.status.clone(),
            clock: Arc::clone(&self.clock),
            storage: Arc::clone(&self.storage),
            unready: self.unready.clone(),
            list: Mutex::default(),
        }
    }
}

/// The routes.
pub(crate) fn router(rounds: RoundRoutes) -> Router {
    Router::new()
        .route("/healthz", get(async || health(StatusCode::OK, None)))
        .route("/readyz", get(ready))
        .route("/v1/rounds", get(list))
        .route("/v1/rounds/{id}", get(round))
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

async fn ready(State(rounds): State<Arc<RoundRoutes>>) -> Response {
    match *rounds.unready.borrow() {
        None => health(StatusCode::OK, None),
        reason => health(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

/// A round, with 64-bit numbers as strings, as in the rest of the interface.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Round {
    id: String,
    state: &'static str,
    start: String,
    end: String,
    /// The epochs in which nodes publish what they prove with it, and in which they are rewarded.
    publish_epoch: String,
    reward_epoch: String,
    members: String,
    /// Absent before any work.
    leaves: Option<String>,
    /// The fields from here on are known only during the work.
    leaves_per_second: Option<u64>,
    /// In the newest whole minute.
    newest_leaves_per_second: Option<u64>,
    /// Whether the work has become slower than in its first minutes for a sustained time.
    slow: Option<bool>,
    expected_leaves: Option<String>,
    expected_ticks: Option<String>,
    proof_ready: bool,
    /// The ends for nodes with longer cycle gaps, the earliest first.
    early: Vec<EarlyEnd>,
    /// The findings of the auditors; `None` if they know nothing about the round.
    audit: Option<Audit>,
    /// The servers that share the work, while it lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    servers: Option<Vec<RoundServer>>,
}

/// A server that works on a round, or follows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RoundServer {
    name: String,
    works: bool,
    standby: bool,
    leaves: String,
    /// How much of the shared log it lacks, and how long the working server takes for that much.
    behind_leaves: String,
    behind_seconds: u64,
}

impl RoundServer {
    fn of(standing: &Standing) -> Vec<Self> {
        let servers = standing.servers().map(|server| Self {
            name: server.name.clone(),
            works: server.works,
            standby: server.standby,
            leaves: (server.entries << standing.subtree_height).to_string(),
            behind_leaves: standing.behind_leaves(server).to_string(),
            behind_seconds: standing.behind(server).as_secs(),
        });
        servers.collect()
    }
}

/// The end of a round for nodes with a longer cycle gap.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EarlyEnd {
    cycle_gap: String,
    path: String,
    end: String,
    /// Absent while there is no proof.
    leaves: Option<String>,
    proof_ready: bool,
}

/// What auditors have found in a round.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Audit {
    audited_leaves: String,
    /// Of those, leaves of another process that were taken on trust.
    trusted_leaves: String,
    /// How long the work takes for as much as is not audited; absent without work.
    lag_seconds: Option<u64>,
    /// Errors in the work, damaged copies of right entries, errors of the auditors themselves.
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

impl RoundRoutes {
    /// Describes a round with these early proofs. Returns `None` if nodes with this cycle gap have
    /// no proof of it, because it was published before the gap was configured.
    fn describe(
        &self,
        record: &RoundRecord,
        early: &[EarlyProofRecord],
    ) -> Result<Option<Round>, StorageError> {
        let status = self.status.status();
        let round = record.round;
        let schedule = self.status.schedule();
        let proof_of = |gap: Duration| {
            let mut proofs = early.iter();
            proofs.find(|proof| proof.round == round && proof.gap == gap)
        };
        let published = match self.gap.early() {
            None => record.published.map(|published| published.leaves),
            Some(gap) => proof_of(gap).map(|proof| proof.leaves),
        };
        if published.is_none() && record.published.is_some() {
            return Ok(None);
        }
        let end = schedule.end_before(round, self.gap.duration());
        let ends = match self.gap.early() {
            None => self.status.gaps().early(),
            Some(_) => &[],
        };
        let early_end = |gap: &CycleGap| {
            let proof = proof_of(gap.duration());
            EarlyEnd {
                cycle_gap: format_go(gap.duration()),
                path: gap.path(),
                end: schedule.end_before(round, gap.duration()).to_string(),
                leaves: proof.map(|proof| proof.leaves.to_string()),
                proof_ready: proof.is_some(),
            }
        };
        let mut described = Round {
            id: round.to_string(),
            state: "waiting",
            start: schedule.start(round).to_string(),
            end: end.to_string(),
            publish_epoch: schedule.publish_epoch(round).to_string(),
            reward_epoch: schedule.reward_epoch(round).to_string(),
            members: String::new(),
            leaves: None,
            leaves_per_second: None,
            newest_leaves_per_second: None,
            slow: None,
            expected_leaves: None,
            expected_ticks: None,
            proof_ready: false,
            early: ends.iter().map(early_end).collect(),
            audit: self.status.audits().round(round).map(Audit::from),
            servers: None,
        };
        let standing = self.status.standing();
        let standing = standing.filter(|standing| standing.round == round && published.is_none());
        described.servers = standing.as_ref().map(RoundServer::of);
        let executing = status
            .executing
            .filter(|executing| executing.round == round);
        let members = match (published, executing) {
            (Some(leaves), _) => {
                described.state = "published";
                described.leaves = Some(leaves.to_string());
                described.proof_ready = true;
                match record.published {
                    Some(published) => published.members,
                    None => self.storage.member_count(round)?,
                }
            }
            (None, Some(executing)) => {
                let leaves = executing.leaves.load(Relaxed);
                let rate = executing.leaves_per_second(&*self.clock);
                let expected = expected_leaves_at(end, &executing, &*self.clock);
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
            (None, None) if standing.is_some() && status.open.round != round => {
                // Other servers work on it.
                described.state = "executing";
                let leaves = standing.map(|standing| standing.leaves());
                described.leaves = leaves.map(|leaves| leaves.to_string());
                self.storage.member_count(round)?
            }
            (None, None) if status.open.round == round => {
                described.state = "open";
                status.open.members
            }
            (None, None) => self.storage.member_count(round)?,
        };
        described.members = members.to_string();
        Ok(Some(described))
    }

    /// Returns the early proofs of these rounds.
    fn early_proofs(
        &self,
        rounds: RangeInclusive<u64>,
    ) -> Result<Vec<EarlyProofRecord>, StorageError> {
        match self.status.gaps().early() {
            [] => Ok(Vec::new()),
            _ => self.storage.early_proofs(rounds),
        }
    }

    fn list(&self) -> Result<String, StorageError> {
        let records = self.storage.newest_rounds(LISTED_ROUNDS)?;
        let early = match &records[..] {
            [] => Vec::new(),
            [newest, .., oldest] => self.early_proofs(oldest.round..=newest.round)?,
            [only] => self.early_proofs(only.round..=only.round)?,
        };
        let rounds = records.iter().map(|record| self.describe(record, &early));
        let rounds: Vec<_> = rounds.collect::<Result<_, _>>()?;
        Ok(json::write(&List {
            rounds: rounds.into_iter().flatten().collect(),
        }))
    }

    fn round(&self, round: u64) -> Result<Option<String>, StorageError> {
        let Some(record) = self.storage.round(round)? else {
            return Ok(None);
        };
        let early = self.early_proofs(round..=round)?;
        let described = self.describe(&record, &early)?;
        Ok(described.map(|described| json::write(&described)))
    }
}

fn failed(error: &StorageError) -> ApiError {
    tracing::error!(%error, "cannot read the rounds");
    ApiError::Unavailable
}

/// Runs a blocking call on a thread for such calls.
async fn on_blocking_thread<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    // Its log lines belong to the same request.
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(call))
        .await
        .map_err(|_| ApiError::Internal)?
}

async fn list(State(rounds): State<Arc<RoundRoutes>>) -> Result<Response, ApiError> {
    let mut kept = rounds.list.lock().await;
    if let Some((since, list)) = &*kept
        && rounds.clock.monotonic().saturating_sub(*since) < LIST_AGE
    {
        return Ok(cached(ok(list.clone()), BRIEFLY));
    }
    let reading = Arc::clone(&rounds);
    let list = Bytes::from(
        on_blocking_thread(move || reading.list().map_err(|error| failed(&error))).await?,
    );
    *kept = Some((rounds.clock.monotonic(), list.clone()));
    Ok(cached(ok(list), BRIEFLY))
}

async fn round(
    State(rounds): State<Arc<RoundRoutes>>,
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
