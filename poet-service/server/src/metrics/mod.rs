//! Metrics for monitoring: counters that are updated as events happen, and the state of rounds,
//! work and storage at the time of the request.
//!
//! Metrics of the original server have the same names here, so that dashboards continue to work.
//! Registrations per second are the `rate()` of the two registration counters.

pub(crate) mod scrape;
mod state;

use std::{
    collections::BTreeMap,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::Response,
};
use poet_rounds::counters::{Counters, Published};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::api::{
    dropped::{Dropped, DroppedCounters},
    error::Code,
    grpc, split_gap, without_escapes,
};

pub(crate) use self::state::{ServerState, folder_bytes, free_bytes};

/// The maximum number of publications kept until they are read.
const MAX_PUBLISHED: usize = 100;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct MethodLabels {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HandledLabels {
    grpc_service: &'static str,
    grpc_method: &'static str,
    grpc_type: &'static str,
    grpc_code: String,
}

/// The counters, shared by everything that counts.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    with_certificate: Family<ResultLabel, Counter>,
    with_pow: Family<ResultLabel, Counter>,
    batch_write: Histogram,
    lateness: Gauge<f64, std::sync::atomic::AtomicU64>,
    removed: Counter,
    handled: Family<HandledLabels, Counter>,
    handling: Family<MethodLabels, Histogram, fn() -> Histogram>,
    dropped: DroppedCounters,
    seen: Arc<Mutex<Seen>>,
}

/// What the operator's page needs besides.
#[derive(Debug, Default)]
struct Seen {
    /// Responses since the start.
    answers: BTreeMap<Answer, u64>,
    /// Rounds published since this was last read, and how late.
    published: Vec<(u64, Duration)>,
}

/// The result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Answer {
    /// Over HTTP, with this status.
    Http(u16),
    /// Over gRPC, with this code.
    Grpc(i32),
}

impl Answer {
    fn of(response: &Response) -> Self {
        let headers = response.headers();
        let kind = headers.get(header::CONTENT_TYPE);
        match kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            false => Self::Http(response.status().as_u16()),
            // The code of a successful response comes after its body.
            true => Self::Grpc(
                headers
                    .get(tonic::Status::GRPC_STATUS)
                    .map_or(0, |code| tonic::Code::from_bytes(code.as_bytes()) as i32),
            ),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Http(status) => {
                let meaning = StatusCode::from_u16(status).ok();
                let meaning = meaning.and_then(|status| status.canonical_reason());
                write!(f, "{status} {}", meaning.unwrap_or_default())
            }
            Self::Grpc(code) => write!(f, "gRPC {:?}", tonic::Code::from(code)),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            with_certificate: Family::default(),
            with_pow: Family::default(),
            batch_write: commit_latencies(),
            lateness: Gauge::default(),
            removed: Counter::default(),
            handled: Family::default(),
            handling: Family::new_with_constructor(request_latencies),
            dropped: DroppedCounters::default(),
            seen: Arc::default(),
        }
    }
}

/// Buckets from half a millisecond to 16 seconds.
fn commit_latencies() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

/// The buckets of the original server, because rules refer to some of them by name (`le="0.1"`),
/// and finer ones below.
fn request_latencies() -> Histogram {
    Histogram::new([
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ])
}

impl Metrics {
    fn handled(&self, service: &'static str, method: &'static str, code: &str, took: Duration) {
        let labels = MethodLabels {
            grpc_service: service,
            grpc_method: method,
            grpc_type: "unary",
        };
        self.handling
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let labels = HandledLabels {
            grpc_service: service,
            grpc_method: method,
            grpc_type: "unary",
            grpc_code: code.to_owned(),
        };
        self.handled.get_or_create(&labels).inc();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how often each response was given since the start.
    pub(crate) fn answers(&self) -> BTreeMap<Answer, u64> {
        self.seen().answers.clone()
    }

    /// Returns the rounds published since the last call, and how late each was.
    pub(crate) fn take_published(&self) -> Vec<(u64, Duration)> {
        mem::take(&mut self.seen().published)
    }

    /// Returns the number of valid registrations since the start.
    pub(crate) fn registrations(&self) -> u64 {
        let valid = ResultLabel { result: "valid" };
        // Reads the counters without creating a series.
        [&self.with_certificate, &self.with_pow]
            .iter()
            .filter_map(|family| Some(family.get(&valid)?.get()))
            .sum()
    }

    /// Returns the counters of what an interface closes and refuses.
    pub(crate) fn dropped(&self, interface: &'static str) -> Dropped {
        self.dropped.of(interface)
    }

    /// Counts registrations that were removed.
    pub(crate) fn registrations_removed(&self, count: u64) {
        self.removed.inc_by(count);
    }

    fn registry(&self, state: ServerState) -> Registry {
        let mut registry = Registry::default();
        registry.register(
            "poet_registration_with_cert",
            "Registrations with a certificate",
            self.with_certificate.clone(),
        );
        registry.register(
            "poet_registration_with_pow",
            "Registrations with a proof of work",
            self.with_pow.clone(),
        );
        registry.register(
            "poet_round_batch_write_latency_seconds",
            "Time that commits of registrations took",
            self.batch_write.clone(),
        );
        registry.register(
            "poet_proof_lateness_seconds",
            "Time from the end of the newest published round to its publication",
            self.lateness.clone(),
        );
        registry.register(
            "poet_registrations_removed",
            "Registrations that were removed because their rounds were over long ago",
            self.removed.clone(),
        );
        registry.register(
            "grpc_server_handled",
            "Requests by their outcome, over gRPC and REST",
            self.handled.clone(),
        );
        registry.register(
            "grpc_server_handling_seconds",
            "Time that requests took, over gRPC and REST",
            self.handling.clone(),
        );
        registry.register(
            "poet_connections_dropped",
            "Connections that were closed or refused, by the reason",
            self.dropped.connections.clone(),
        );
        registry.register(
            "poet_requests_refused",
            "Requests that were refused because incomplete ones take too much memory",
            self.dropped.requests.clone(),
        );
        registry.register_collector(Box::new(state));
        registry
    }
}

impl Counters for Metrics {
    fn registration_with_certificate(&self, valid: bool) {
        count(&self.with_certificate, valid);
    }

    fn registration_with_pow(&self, valid: bool) {
        count(&self.with_pow, valid);
    }

    fn batch_written(&self, took: Duration) {
        self.batch_write.observe(took.as_secs_f64());
    }

    fn closed(&self, _round: u64, _members: u64) {}

    fn published(&self, proof: &Published) {
        self.lateness.set(proof.late.as_secs_f64());
        let mut seen = self.seen();
        if seen.published.len() < MAX_PUBLISHED {
            seen.published.push((proof.round, proof.late));
        }
    }
}

fn count(family: &Family<ResultLabel, Counter>, valid: bool) {
    let result = if valid { "valid" } else { "invalid" };
    family.get_or_create(&ResultLabel { result }).inc();
}

/// Counts a request, whichever interface it used.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let decoded = without_escapes(request.uri());
    let named = method(decoded.as_ref().unwrap_or(request.uri()).path());
    let start = Instant::now();
    let response = next.run(request).await;
    *metrics
        .seen()
        .answers
        .entry(Answer::of(&response))
        .or_default() += 1;
    let Some((service, method)) = named else {
        return response;
    };
    let code = response
        .extensions()
        .get::<Code>()
        .map(|code| format!("{code:?}"))
        .or_else(|| grpc_code(response.headers()))
        .unwrap_or_else(|| "OK".to_owned());
    metrics.handled(service, method, &code, start.elapsed());
    response
}

/// Returns the code of a gRPC response that is an error, and so has no body.
fn grpc_code(headers: &HeaderMap) -> Option<String> {
    let code = headers.get(tonic::Status::GRPC_STATUS)?.as_bytes();
    Some(format!("{:?}", tonic::Code::from_bytes(code)))
}

/// Returns the method of a path. Unknown paths have none: their number is unlimited.
fn method(path: &str) -> Option<(&'static str, &'static str)> {
    // Ignores the cycle gap.
    let path = split_gap(path).map_or(path, |(_, path)| path);
    let (service, method) = match path {
        "/v1/pow_params" | "/rpc.api.v1.PoetService/PowParams" => (grpc::POET_SERVICE, "PowParams"),
        "/v1/submit" | "/rpc.api.v1.PoetService/Submit" => (grpc::POET_SERVICE, "Submit"),
        "/v1/info" | "/rpc.api.v1.PoetService/Info" => (grpc::POET_SERVICE, "Info"),
        "/rpc.api.v1.PoetService/Proof" => (grpc::POET_SERVICE, "Proof"),
        "/v1/reload_trusted_keys" | "/rpc.api.v1.ConfigurationService/ReloadTrustedKeys" => {
            (grpc::CONFIGURATION_SERVICE, "ReloadTrustedKeys")
        }
        _ if path.starts_with("/v1/proofs/") => (grpc::POET_SERVICE, "Proof"),
        _ => return None,
    };
    Some((service, method))
}
