//! What the server tells a monitoring system: counters that are kept as things happen, and the
//! state of rounds, work and storage as it is when somebody asks.
//!
//! The names that the original server has are the same here, so that dashboards go on. Registrations
//! per second are the `rate()` of the two registration counters.

use std::{
    collections::BTreeMap,
    fmt, fs, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use poet_engine::TICK_LEAVES;
use poet_host::{limits::throttling, process::Process};
use poet_rounds::{
    clock::Clock,
    counters::{Counters, Published},
    storage::Storage,
    worker::AuditMode,
};
use poet_storage::directory;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tokio::sync::watch;

use crate::{
    api::{
        dropped::{Dropped, DroppedCounters},
        error::Code,
        grpc, split_gap,
    },
    status::{ServerStatus, StatusReader, expected_leaves},
    version,
};

/// Publications that nobody has asked for yet are kept to this number.
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

/// The counters, shared by all who count.
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

/// What the operator's page is told besides.
#[derive(Debug, Default)]
struct Seen {
    /// Answers since the start.
    answers: BTreeMap<Answer, u64>,
    /// Rounds that were published since this was taken last, and how late.
    published: Vec<(u64, Duration)>,
}

/// How a request was answered.
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
            // That of a good answer comes after it.
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

/// From half a millisecond to 16 seconds.
fn commit_latencies() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

/// The bounds that the original server has, because rules ask for some of them by name
/// (`le="0.1"`), and finer ones below.
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

    /// How often each answer was given since the start.
    pub(crate) fn answers(&self) -> BTreeMap<Answer, u64> {
        self.seen().answers.clone()
    }

    /// The rounds that were published since the last call, and how late.
    pub(crate) fn take_published(&self) -> Vec<(u64, Duration)> {
        mem::take(&mut self.seen().published)
    }

    /// Valid registrations since the start.
    pub(crate) fn registrations(&self) -> u64 {
        let valid = ResultLabel { result: "valid" };
        // Asked for without making a series that has counted nothing.
        [&self.with_certificate, &self.with_pow]
            .iter()
            .filter_map(|family| Some(family.get(&valid)?.get()))
            .sum()
    }

    /// Counts what an interface closes and refuses.
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

/// Counts a request, whichever interface it came by.
pub(crate) async fn observe(
    State(metrics): State<Metrics>,
    request: Request,
    next: Next,
) -> Response {
    let named = method(request.uri().path());
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

/// The code of a gRPC answer that is an error: one without a body.
fn grpc_code(headers: &HeaderMap) -> Option<String> {
    let code = headers.get(tonic::Status::GRPC_STATUS)?.as_bytes();
    Some(format!("{:?}", tonic::Code::from_bytes(code)))
}

/// The method that a path leads to. All others share no name: there is no end of them.
fn method(path: &str) -> Option<(&'static str, &'static str)> {
    // Whatever the cycle gap.
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

/// The state of the server, read when somebody asks.
pub(crate) struct ServerState {
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    /// Why the server is not ready, if it is not.
    pub(crate) unready: watch::Receiver<Option<&'static str>>,
    /// Of the embedded database, if that is what there is.
    pub(crate) dbdir: Option<PathBuf>,
    pub(crate) datadir: PathBuf,
    /// When the server was started.
    pub(crate) started: Timestamp,
}

impl fmt::Debug for ServerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerState")
    }
}

impl Collector for ServerState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.status.status();
        let mut members = vec![(status.open.round, status.open.members)];
        if let Some(executing) = &status.executing {
            let id = [("id", executing.round.to_string())];
            let leaves = executing.leaves.load(Relaxed);
            let (rate, watched) = (executing.leaves_per_second(&*self.clock), executing.rate());
            let expected = expected_leaves(executing, &*self.clock);
            members.push((executing.round, executing.members));

            let name = "poet_round_leaves";
            let mut metric =
                encoder.encode_descriptor(name, "Leaves so far", None, MetricType::Counter)?;
            ConstCounter::new(leaves).encode(metric.encode_family(&id)?)?;
            for (name, help, value) in [
                (
                    "poet_round_leaves_per_second",
                    "Since the start of the work",
                    rate,
                ),
                (
                    "poet_round_newest_leaves_per_second",
                    "In the newest whole minute; before there is one, since the start of the work",
                    watched.newest.unwrap_or(rate),
                ),
                (
                    "poet_round_slow",
                    "1 while the work stays slower than in its first minutes",
                    f64::from(u8::from(watched.slow)),
                ),
                (
                    "poet_round_expected_leaves",
                    "At the end of the round",
                    expected as f64,
                ),
                (
                    "poet_round_expected_ticks",
                    "At the end of the round",
                    (expected / TICK_LEAVES) as f64,
                ),
                (
                    "poet_round_log_age_seconds",
                    "Since the newest entry of the log became durable",
                    executing.log_age(&*self.clock).as_secs_f64(),
                ),
            ] {
                let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
                ConstGauge::new(value).encode(metric.encode_family(&id)?)?;
            }
        }
        self.encode_audits(&mut encoder, &status)?;
        self.encode_dates(&mut encoder, &status)?;
        self.encode_process(&mut encoder)?;
        let name = "poet_round_members";
        let mut metric = encoder.encode_descriptor(name, "Members", None, MetricType::Counter)?;
        for (round, members) in members {
            let id = [("id", round.to_string())];
            ConstCounter::new(members).encode(metric.encode_family(&id)?)?;
        }
        let ready = self.unready.borrow().is_none();
        let waits = self.waits_for_first_round(status.open.round);
        let mut gauges = vec![
            (
                "poet_ready",
                "Whether the server can do its work",
                f64::from(u8::from(ready)),
            ),
            (
                "poet_waits_for_first_round",
                "Whether no round has closed yet that was opened here",
                f64::from(u8::from(waits)),
            ),
            (
                "poet_storage_queue",
                "Registrations and other writes that wait for the database",
                self.storage.queued() as f64,
            ),
            (
                "poet_worker_queue",
                "Rounds that wait to be worked on",
                status.queued as f64,
            ),
        ];
        if let Some(dbdir) = &self.dbdir {
            gauges.push((
                "poet_storage_bytes",
                "Size of the database",
                folder_bytes(dbdir) as f64,
            ));
            gauges.push((
                "poet_database_wal_bytes",
                "Size of the database's own log (-wal), part of the database",
                poet_storage::log_bytes(&dbdir.join(directory::DATABASE_FILE)) as f64,
            ));
            if let Some(bytes) = free_bytes(dbdir) {
                gauges.push((
                    "poet_dbdir_free_bytes",
                    "Free space for the database",
                    bytes,
                ));
            }
        }
        if let Some(bytes) = free_bytes(&self.datadir) {
            gauges.push(("poet_datadir_free_bytes", "Free space for the work", bytes));
        }
        // The embedded database has this machine's clock.
        let offset = self.storage.clock_offset().unwrap_or_default();
        gauges.push((
            "poet_cluster_clock_offset_seconds",
            "How far the clock of this machine is ahead of the database's",
            offset.as_secs_f64(),
        ));
        for (name, help, value) in gauges {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

impl ServerState {
    /// Whether no round has closed yet that was opened here.
    fn waits_for_first_round(&self, open: u64) -> bool {
        let rounds = self.storage.newest_rounds(2);
        rounds.is_ok_and(|rounds| rounds.iter().all(|record| record.round >= open))
    }

    /// When rounds start and end.
    fn encode_dates(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        status: &ServerStatus,
    ) -> fmt::Result {
        let schedule = self.status.schedule();
        let mut rounds = vec![status.open.round];
        rounds.extend(status.executing.as_ref().map(|executing| executing.round));
        let seconds = |time: Timestamp| time.as_nanosecond() as f64 / 1e9;
        let name = "poet_round_start_timestamp_seconds";
        let help = "When registration closes and the work begins";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for round in &rounds {
            let id = [("id", round.to_string())];
            let start = seconds(schedule.start(*round));
            ConstGauge::new(start).encode(metric.encode_family(&id)?)?;
        }
        let name = "poet_round_end_timestamp_seconds";
        let help = "When the work ends and the proof is made";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for round in &rounds {
            let id = [("id", round.to_string())];
            let end = seconds(schedule.end(*round));
            ConstGauge::new(end).encode(metric.encode_family(&id)?)?;
        }
        Ok(())
    }

    /// What this program is, and what it takes of the machine.
    fn encode_process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let labels = [("version", version::VERSION), ("commit", version::COMMIT)];
        let (name, help) = ("poet_build_info", "Always 1; the labels say what was built");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(1.0).encode(metric.encode_family(&labels)?)?;

        let throttled = throttling(Path::new("/")).unwrap_or_default();
        let process = Process::read();
        for (name, help, value) in [
            (
                "poet_cpu_throttled_periods",
                "Periods in which the control group of the server was stopped by its CPU limit",
                throttled.periods as f64,
            ),
            (
                "poet_cpu_throttled_seconds",
                "For how long, all threads together",
                throttled.seconds,
            ),
            (
                "process_cpu_seconds",
                "CPU time of all threads",
                process.cpu_seconds,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of the server",
                process.resident_bytes as f64,
            ),
            (
                "process_virtual_memory_bytes",
                "Addresses of the server",
                process.virtual_bytes as f64,
            ),
            ("process_threads", "Threads", process.threads as f64),
            (
                "process_open_fds",
                "Files and sockets that are open",
                process.open_files as f64,
            ),
            (
                "process_max_fds",
                "How many may be; 0 without a limit",
                process.max_open_files as f64,
            ),
            (
                "process_start_time_seconds",
                "When the server was started, since 1970",
                self.started.as_nanosecond() as f64 / 1e9,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }

    /// What auditors do and have found.
    fn encode_audits(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        status: &ServerStatus,
    ) -> fmt::Result {
        let audits = self.status.audits();
        let total = audits.total();
        let name = "poet_audit_mismatches";
        let help = "Entries that auditors recomputed to another value, by what was wrong";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (culprit, count) in [
            ("work", total.work),
            ("log", total.copies),
            ("auditor", total.auditor),
        ] {
            ConstCounter::new(count).encode(metric.encode_family(&[("culprit", culprit)])?)?;
        }
        for (name, help, count) in [
            ("poet_audit_subtrees", "Subtrees audited", total.subtrees),
            (
                "poet_audit_rollbacks",
                "How often the work went back to its last right leaf",
                total.rollbacks,
            ),
            (
                "poet_audit_lost_leaves",
                "Leaves that were made in vain",
                total.lost_leaves,
            ),
            (
                "poet_audit_bad_proofs",
                "Proofs that were not valid, and not published",
                total.bad_proofs,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(count).encode(metric)?;
        }
        if let Some(executing) = &status.executing
            && audits.mode() != AuditMode::Off
            && let Some(report) = audits.round(executing.round)
        {
            let leaves = executing.leaves.load(Relaxed);
            let behind = leaves.saturating_sub(report.audited_leaves);
            let (name, help) = ("poet_audit_lag_leaves", "Leaves that are not audited yet");
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            let id = [("id", executing.round.to_string())];
            ConstGauge::new(behind as f64).encode(metric.encode_family(&id)?)?;
            let lag = executing.audit_lag(&*self.clock, &report).as_secs_f64();
            let (name, help) = (
                "poet_audit_lag_seconds",
                "How long the work takes for the leaves that are not audited yet",
            );
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(lag).encode(metric.encode_family(&id)?)?;
        }
        Ok(())
    }
}

/// The size of the files in a folder.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .filter_map(|entry| entry.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|metadata| metadata.len())
        .sum()
}

/// What an ordinary user may still write to the file system of `path`.
#[cfg(unix)]
pub(crate) fn free_bytes(path: &Path) -> Option<f64> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(space.f_bavail as f64 * space.f_frsize as f64)
}

#[cfg(not(unix))]
pub(crate) fn free_bytes(_path: &Path) -> Option<f64> {
    None
}

/// Serves the metrics at `/metrics`.
pub(crate) fn router(metrics: &Metrics, state: ServerState) -> Router {
    let registry = Arc::new(metrics.registry(state));
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(registry)
}

async fn scrape(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let open_metrics = accepts_open_metrics(&headers);
    // The sizes of files are asked for.
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok::<_, fmt::Error>(match open_metrics {
            true => text,
            false => plain(&text),
        })
    });
    match encoded.await {
        Ok(Ok(text)) => {
            let kind = match open_metrics {
                true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
                false => "text/plain; version=0.0.4; charset=utf-8",
            };
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Whether the client says that it reads OpenMetrics, as Prometheus does.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"))
}

/// OpenMetrics in the older text format, which everything else reads, and which is all that the
/// original server writes. There, a counter bears the name of its sample; bounds that are whole are
/// written so; and the end is not marked.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            // What it is about follows.
            help = line;
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|described| described.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let (start, meaning) = help.split_at(help.len().min("# HELP ".len() + name.len()));
            text += &format!("{start}{suffix}{meaning}\n# TYPE {name}{suffix} {kind}\n");
        } else if let Some((name, rest)) = line.split_once("_bucket{le=\"") {
            let (bound, rest) = rest.split_once('"').unwrap_or((rest, ""));
            let bound = bound.strip_suffix(".0").unwrap_or(bound);
            text += &format!("{name}_bucket{{le=\"{bound}\"{rest}\n");
        } else if line != "# EOF" {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_format() {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        registry.register("poet_count", "Things", metrics.with_pow.clone());
        registry.register("poet_seconds", "Times", metrics.handling.clone());
        registry.register("poet_late", "How late", metrics.lateness.clone());
        metrics.registration_with_pow(true);
        metrics.handled("s", "m", "OK", Duration::from_millis(700));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        let labels = "grpc_service=\"s\",grpc_method=\"m\",grpc_type=\"unary\"";
        let expected = [
            "# HELP poet_count_total Things.",
            "# TYPE poet_count_total counter",
            "poet_count_total{result=\"valid\"} 1",
            "# HELP poet_seconds Times.",
            "# TYPE poet_seconds histogram",
            &format!("poet_seconds_sum{{{labels}}} 0.7"),
            &format!("poet_seconds_count{{{labels}}} 1"),
        ]
        .join("\n");
        let plain = plain(&text);
        assert!(plain.starts_with(&(expected + "\n")), "{plain}");
        for (bound, count) in [("0.0005", 0), ("0.5", 0), ("1", 1), ("10", 1), ("+Inf", 1)] {
            let sample = format!("\npoet_seconds_bucket{{le=\"{bound}\",{labels}}} {count}\n");
            assert!(plain.contains(&sample), "{sample}: {plain}");
        }
        let end = "# HELP poet_late How late.\n# TYPE poet_late gauge\npoet_late 0.0\n";
        assert!(plain.ends_with(end), "{plain}");
    }

    #[test]
    fn formats_are_negotiated() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            accepts_open_metrics(&headers)
        };
        // What Prometheus sends.
        assert!(accepts(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
        ));
        for other in ["*/*", "text/plain", "text/plain;version=0.0.4", ""] {
            assert!(!accepts(other), "{other}");
        }
        assert!(!accepts_open_metrics(&HeaderMap::new()));
    }
}
