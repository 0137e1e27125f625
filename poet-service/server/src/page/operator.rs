//! The operator's page: the work, the auditors, the disk, current problems, plots of the history,
//! the newest log lines and the effective configuration.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, response::Response, routing::get};
use jiff::Timestamp;
use poet_host::{
    limits::{Throttling, throttling},
    process::Process,
};
use poet_proto::duration::in_words;
use poet_rounds::{
    clock::{Clock, time_until},
    config::WorkerMode,
    storage::Storage,
    worker::{AuditMode, Executing},
};
use poet_storage::{History, Minute, directory};
use tokio::sync::watch;

use super::{
    Content, Rendered, assets,
    html::{bytes, countdown, escape, fill, grouped, late, progress, ticks, time},
    plot::{self, Window},
    public::{Identity, part},
};
use crate::{
    config::Effective,
    log_queue::RecentLines,
    metrics::{Metrics, folder_bytes, free_bytes},
    record::kept_minutes,
    status::{ServerStatus, StatusReader, expected_leaves},
    version,
};

/// The thresholds of problems, as in the rules for alerts.
const OLD_ENTRY: Duration = Duration::from_secs(60);
const FAR_BEHIND: Duration = Duration::from_secs(900);
const LATE_PROOF: Duration = Duration::from_secs(8);
const FAR_CLOCK: Duration = Duration::from_millis(500);
const LONG_QUEUE: usize = 10_000;
const LONG_DATABASE_LOG: u64 = 256_000_000;
const LITTLE_FOR_DATABASE: u64 = 10_000_000_000;
const LITTLE_FOR_WORK: u64 = 5_000_000_000;

const HOUR: i64 = 60;
const DAY: i64 = 24 * 60;
/// The maximum number of points in a plot.
const DAY_PARTS: i64 = 288;
const ROUND_PARTS: i64 = 324;

/// The state that the page shows.
#[derive(Clone)]
pub(crate) struct Operator {
    pub(crate) identity: Identity,
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) history: Option<Arc<History>>,
    pub(crate) metrics: Metrics,
    pub(crate) unready: watch::Receiver<Option<&'static str>>,
    pub(crate) started: Timestamp,
    /// Where the hashing thread runs, and its priority.
    pub(crate) place: String,
    pub(crate) backend: String,
    /// The directory of the database, unless it is shared with other machines.
    pub(crate) dbdir: Option<PathBuf>,
    pub(crate) datadir: PathBuf,
    pub(crate) recent: RecentLines,
    pub(crate) options: Vec<Effective>,
    /// The throttling by the CPU limit before the start.
    pub(crate) throttled: Throttling,
}

struct Site {
    page: Arc<Operator>,
    html: Rendered,
    plots: Arc<Plots>,
}

/// The plots of a minute.
#[derive(Default)]
struct Plots(Mutex<Option<(i64, String)>>);

/// The routes.
pub(crate) fn router(page: Operator) -> Router {
    let site = Site {
        html: Rendered::new(&page.clock),
        page: Arc::new(page),
        plots: Arc::default(),
    };
    Router::new()
        .route("/", get(page_for_the_operator))
        .with_state(Arc::new(site))
        .merge(assets())
}

async fn page_for_the_operator(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let (page, plots) = (Arc::clone(&site.page), Arc::clone(&site.plots));
    site.html
        .answer(&headers, move || Content::html(page.render(&plots)))
        .await
}

/// A problem, and the section of the manual that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Problem {
    says: String,
    section: &'static str,
}

/// The facts from which problems follow.
#[derive(Clone, Debug, Default)]
struct Facts {
    unready: Option<&'static str>,
    /// The round that should be worked on and is not.
    idle: Option<u64>,
    slow: bool,
    log_age: Duration,
    audit_lag: Duration,
    mismatches: u64,
    bad_proofs: u64,
    waiting_rounds: usize,
    lateness: Option<(u64, Duration)>,
    queued: usize,
    database_log: u64,
    dbdir_free: Option<u64>,
    datadir_free: Option<u64>,
    throttled: Throttling,
    /// The difference between this machine's clock and that of a shared database.
    clock_offset: Duration,
    history: bool,
}

fn problems(facts: &Facts) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut found = |section, says: String| problems.push(Problem { says, section });
    if let Some(reason) = facts.unready {
        found(
            "PoetNotReady",
            format!("The server is not ready: {reason}."),
        );
    }
    if let Some(round) = facts.idle {
        let says = format!(
            "Round {round} is under way in the network, and this server does not work on it."
        );
        found("PoetIdle", says);
    }
    if facts.slow {
        let says = "The work is slower than in its first minutes.";
        found("PoetWorkSlow", says.to_owned());
    }
    if facts.throttled.periods > 0 {
        let says = format!(
            "The CPU limit of the control group has stopped the server {} times since its start, for \
             {:.1} s in all.",
            grouped(facts.throttled.periods),
            facts.throttled.seconds
        );
        found("PoetThrottled", says);
    }
    if facts.log_age > OLD_ENTRY {
        let says = format!(
            "The work has not reached the disk for {}.",
            in_words(facts.log_age)
        );
        found("PoetLogNotDurable", says);
    }
    if facts.mismatches > 0 {
        let says = format!(
            "The audit has found {} wrong entries since the start; they were repaired.",
            grouped(facts.mismatches)
        );
        found("PoetWrongResult", says);
    }
    if facts.bad_proofs > 0 {
        let says = "A proof was not valid, and was not published.";
        found("PoetBadProof", says.to_owned());
    }
    if facts.audit_lag > FAR_BEHIND {
        let says = format!(
            "The audit is {} behind the work.",
            in_words(facts.audit_lag)
        );
        found("PoetAuditBehind", says);
    }
    if facts.waiting_rounds > 0 {
        let says = format!("{} rounds wait to be worked on.", facts.waiting_rounds);
        found("PoetRoundsWaiting", says);
    }
    if let Some((round, lateness)) = facts.lateness
        && lateness > LATE_PROOF
    {
        let says = format!(
            "The proof of round {round} came {} after the round's end.",
            late(lateness)
        );
        found("PoetProofLate", says);
    }
    if facts.queued > LONG_QUEUE {
        let says = format!(
            "{} registrations wait for the database.",
            grouped(facts.queued as u64)
        );
        found("PoetRegistrationsWaiting", says);
    }
    if facts.database_log > LONG_DATABASE_LOG {
        let says = format!(
            "The database's own log has {}: another program keeps it from being emptied.",
            bytes(facts.database_log)
        );
        found("PoetDatabaseLogLong", says);
    }
    for (what, free, least) in [
        ("the database", facts.dbdir_free, LITTLE_FOR_DATABASE),
        ("the work", facts.datadir_free, LITTLE_FOR_WORK),
    ] {
        if let Some(free) = free.filter(|free| *free < least) {
            let says = format!("Only {} are free for {what}.", bytes(free));
            found("PoetDiskFilling", says);
        }
    }
    if facts.clock_offset > FAR_CLOCK {
        let says = format!(
            "The clock of this machine is {:.1} s away from the database's.",
            facts.clock_offset.as_secs_f64()
        );
        found("PoetClockDiffers", says);
    }
    if !facts.history {
        let says = "The history cannot be kept: see the log.";
        found("Damage", says.to_owned());
    }
    problems
}

impl Operator {
    fn render(&self, plots: &Plots) -> String {
        let now = self.clock.now();
        let status = self.status.status();
        let minutes = self.minutes(now);
        let facts = self.facts(&status, now, minutes.is_some());
        let problems = problems(&facts);
        let name = escape(self.identity.name()).to_string();
        let state = match problems.len() {
            0 => "in order".to_owned(),
            1 => "1 problem".to_owned(),
            count => format!("{count} problems"),
        };
        let minutes = minutes.unwrap_or_default();
        let pieces = [
            ("now", now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
            ("title", format!("{state} – {name}")),
            ("heading", name),
            ("version", escape(version::WITH_COMMIT).to_string()),
            ("problems", list(&problems)),
            (
                "cards",
                [
                    self.work(&status, now),
                    self.audit(&status),
                    self.registrations(&status, &minutes, now),
                    self.answers(),
                    self.machine(&facts, &minutes),
                    self.machines(),
                    self.clock(now),
                ]
                .concat(),
            ),
            ("plots", self.plots(plots, &status, &minutes, now)),
            ("log", self.log()),
            ("options", self.options()),
        ];
        fill(include_str!("operator.html"), &pieces)
    }

    /// Returns the stored history; `None` if it cannot be read.
    fn minutes(&self, now: Timestamp) -> Option<Vec<Minute>> {
        let epoch = self.status.schedule().epoch_duration();
        let from = minute_of(now) - kept_minutes(epoch);
        let read = self.history.as_ref()?.minutes(from);
        read.inspect_err(|error| tracing::warn!(%error, "the history cannot be read"))
            .ok()
    }

    fn facts(&self, status: &ServerStatus, now: Timestamp, history: bool) -> Facts {
        let audits = self.status.audits().total();
        let executing = status.executing.as_ref();
        let schedule = self.status.schedule();
        // By then, the work on a round must have begun.
        let idle = status.open.round.checked_sub(1).filter(|round| {
            let begun = time_until(schedule.start(*round), now) > OLD_ENTRY;
            let works = self.identity.works.may_work() && executing.is_none();
            works && begun && now < schedule.end(*round)
        });
        let free = |path: &Path| free_bytes(path).map(|free| free as u64);
        let lateness = self.history.as_ref().map(|history| history.lateness());
        Facts {
            unready: *self.unready.borrow(),
            idle,
            slow: executing.is_some_and(|executing| executing.rate().slow),
            log_age: executing.map_or(Duration::ZERO, |executing| executing.log_age(&*self.clock)),
            audit_lag: self.status.audit_lag(&*self.clock).unwrap_or_default(),
            mismatches: audits.work + audits.copies + audits.auditor,
            bad_proofs: audits.bad_proofs,
            waiting_rounds: status.queued,
            lateness: lateness.and_then(|lateness| lateness.into_iter().next_back()),
            queued: self.storage.queued(),
            database_log: self.dbdir.as_ref().map_or(0, |dbdir| {
                poet_storage::log_bytes(&dbdir.join(directory::DATABASE_FILE))
            }),
            dbdir_free: self.dbdir.as_deref().and_then(free),
            datadir_free: free(&self.datadir),
            throttled: throttling(Path::new("/"))
                .unwrap_or_default()
                .since(self.throttled),
            clock_offset: self
                .storage
                .clock_offset()
                .unwrap_or_default()
                .unsigned_abs(),
            history,
        }
    }

    fn work(&self, status: &ServerStatus, now: Timestamp) -> String {
        let place = [
            ("core", escape(&self.place).to_string()),
            ("backend", escape(&self.backend).to_string()),
        ];
        let Some(executing) = &status.executing else {
            let says = format!(
                "Round {} starts {} ({}).",
                status.open.round,
                time(status.start),
                countdown(now, status.start)
            );
            return card(
                "Work: none at the moment",
                &format!("<p>{says}</p>"),
                &place,
            );
        };
        let (round, rate) = (executing.round, executing.rate());
        let start = self.status.schedule().start(round);
        let bar = progress(
            part(start, now, executing.end),
            &format!("Round {round}, time of work that has passed"),
        );
        let rate = format!(
            "{} a second since the start of the work{}{}",
            grouped(executing.leaves_per_second(&*self.clock) as u64),
            rate.newest.map_or(String::new(), |newest| {
                format!(", {} in the last minute", grouped(newest as u64))
            }),
            rate.first.map_or(String::new(), |first| {
                format!(", {} in the first minutes", grouped(first as u64))
            }),
        );
        let [core, backend] = place;
        let rows = [
            (
                "ends",
                format!(
                    "{} <strong>{}</strong>",
                    time(executing.end),
                    countdown(now, executing.end)
                ),
            ),
            ("leaves", grouped(executing.leaves.load(Relaxed))),
            ("rate", rate),
            (
                "ticks expected",
                ticks(expected_leaves(executing, &*self.clock)),
            ),
            ("members", grouped(executing.members)),
            ("newest durable entry", self.newest_entry(executing)),
            core,
            backend,
        ];
        card(&format!("Work: round {round}"), &bar, &rows)
    }

    fn newest_entry(&self, executing: &Executing) -> String {
        format!("{:.1} s old", executing.log_age(&*self.clock).as_secs_f64())
    }

    fn audit(&self, status: &ServerStatus) -> String {
        let audits = self.status.audits();
        let total = audits.total();
        let mode = audits.mode();
        let behind = self.status.audit_lag(&*self.clock);
        let report = status
            .executing
            .as_ref()
            .and_then(|executing| audits.round(executing.round));
        let last = report
            .and_then(|report| report.last_event)
            .unwrap_or("nothing".to_owned());
        let rows = [
            ("mode", mode.to_string()),
            (
                "behind the work",
                match (mode, behind) {
                    (AuditMode::Off, _) | (_, None) => "nothing to audit".to_owned(),
                    (_, Some(behind)) => format!("{:.1} s", behind.as_secs_f64()),
                },
            ),
            ("subtrees audited", grouped(total.subtrees)),
            (
                "found",
                format!(
                    "{} mistakes of the work, {} damaged copies, {} of auditors",
                    total.work, total.copies, total.auditor
                ),
            ),
            (
                "rolled back",
                format!(
                    "{} times, {} leaves",
                    total.rollbacks,
                    grouped(total.lost_leaves)
                ),
            ),
            ("found last in this round", escape(&last).to_string()),
        ];
        card("Audit", "", &rows)
    }

    fn registrations(&self, status: &ServerStatus, minutes: &[Minute], now: Timestamp) -> String {
        let newest = minutes
            .last()
            .filter(|last| minute_of(now) - last.minute <= 2)
            .map_or("not known yet".to_owned(), |last| {
                format!("{:.2}", last.registrations as f64 / 60.0)
            });
        let rows = [
            ("open round", status.open.round.to_string()),
            ("members", grouped(status.open.members)),
            (
                "closes",
                format!(
                    "{} <strong>{}</strong>",
                    time(status.start),
                    countdown(now, status.start)
                ),
            ),
            ("a second, in the last minute", newest),
            (
                "valid since the start",
                grouped(self.metrics.registrations()),
            ),
            (
                "waiting for the database",
                grouped(self.storage.queued() as u64),
            ),
        ];
        card("Registrations", "", &rows)
    }

    fn answers(&self) -> String {
        let answers = self.metrics.answers();
        let rows: Vec<_> = answers
            .iter()
            .map(|(answer, count)| (answer.to_string(), grouped(*count)))
            .collect();
        let rows: Vec<_> = rows
            .iter()
            .map(|(answer, count)| (answer.as_str(), count.clone()))
            .collect();
        match rows.is_empty() {
            true => card("Answers since the start", "<p>None yet.</p>", &[]),
            false => card("Answers since the start", "", &rows),
        }
    }

    fn machine(&self, facts: &Facts, minutes: &[Minute]) -> String {
        let process = Process::read();
        let free = |free: Option<u64>| free.map_or("not known".to_owned(), bytes);
        let full = match time_to_full(minutes) {
            Some(time) => format!(" (full in {} at the rate of the last day)", in_words(time)),
            None => String::new(),
        };
        let rows = [
            ("this machine's part", self.role().to_owned()),
            ("memory", bytes(process.resident_bytes)),
            (
                "threads, open files",
                format!("{}, {}", process.threads, process.open_files),
            ),
            (
                "CPU time",
                in_words(Duration::from_secs_f64(process.cpu_seconds.max(0.0))),
            ),
            ("database", self.database(facts)),
            ("free for the work", free(facts.datadir_free) + &full),
            (
                "stopped by a CPU limit",
                format!("{} times since the start", grouped(facts.throttled.periods)),
            ),
        ];
        card("Machine", "", &rows)
    }

    fn database(&self, facts: &Facts) -> String {
        let Some(dbdir) = &self.dbdir else {
            return "shared with other machines".to_owned();
        };
        format!(
            "{}, of that its log (-wal) {}; {} free",
            bytes(folder_bytes(dbdir)),
            bytes(facts.database_log),
            facts.dbdir_free.map_or("not known".to_owned(), bytes)
        )
    }

    /// Describes what this machine does if there are several.
    fn role(&self) -> &'static str {
        match (self.storage.shared(), self.identity.works) {
            (false, _) => "everything: there is no other machine",
            (true, WorkerMode::On) => "works on rounds, or follows another machine that does",
            (true, WorkerMode::Standby) => "follows, and works while no other machine does",
            (true, _) => "registers nodes and serves proofs; another machine works",
        }
    }

    /// Lists the machines that share the work on a round, while it lasts.
    fn machines(&self) -> String {
        let Some(standing) = self.status.standing() else {
            return String::new();
        };
        let rows: Vec<_> = standing
            .servers()
            .map(|server| {
                let own = standing.own.as_ref() == Some(&server.name);
                let name = match own {
                    true => format!("{} (this one)", server.name),
                    false => server.name.clone(),
                };
                let does = match server.works {
                    true => format!(
                        "works, {} leaves a second",
                        grouped(server.leaves_per_second as u64)
                    ),
                    false => format!(
                        "follows, {:.1} s behind",
                        standing.behind(server).as_secs_f64()
                    ),
                };
                let standby = if server.standby { ", standby" } else { "" };
                (name, does + standby)
            })
            .collect();
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, does)| (name.as_str(), does.clone()))
            .collect();
        card(&format!("Machines: round {}", standing.round), "", &rows)
    }

    fn clock(&self, now: Timestamp) -> String {
        let up = in_words(time_until(self.started, now));
        let mut rows = vec![
            ("of the server", time(now)),
            (
                "differs from this browser's",
                "<span data-clock>shown with scripts</span>".to_owned(),
            ),
        ];
        if let Some(offset) = self.storage.clock_offset() {
            // Converts to an integer first, so that zero is never shown as -0.
            let ahead = format!("{:+.3} s", offset.as_millis() as f64 / 1e3);
            rows.push(("ahead of the database's", ahead));
        }
        rows.push(("started", format!("{} ({up} ago)", time(self.started))));
        card("Clock", "", &rows)
    }

    fn plots(
        &self,
        plots: &Plots,
        status: &ServerStatus,
        minutes: &[Minute],
        now: Timestamp,
    ) -> String {
        // The current minute has no row yet.
        let to = minute_of(now);
        let mut kept = plots.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = minutes.last().map_or(0, |last| last.minute);
        if let Some((at, plots)) = &*kept
            && *at == newest
            && *at == to - 1
        {
            return plots.clone();
        }
        let last = status.open.round.saturating_sub(1);
        let start = minute_of(self.status.schedule().start(last));
        let hour = Window::last(to, HOUR, HOUR);
        let day = Window::last(to, DAY, DAY_PARTS);
        let round = Window::last(to, (to - start).max(1), ROUND_PARTS);
        let leaves = |title: &str, since: &str, window| {
            plot::draw(title, since, &plot::leaves(minutes, window), window)
        };
        let text = [
            leaves("Leaves per second, last hour", "an hour ago", hour),
            leaves("Leaves per second, last day", "a day ago", day),
            leaves(
                &format!("Leaves per second, round {last}"),
                "its start",
                round,
            ),
            plot::draw(
                "Registrations per second, last day",
                "a day ago",
                &plot::registrations(minutes, day),
                day,
            ),
        ]
        .concat();
        *kept = Some((newest, text.clone()));
        text
    }

    fn log(&self) -> String {
        let lines = self.recent.newest_first();
        match lines.is_empty() {
            true => "Nothing yet.".to_owned(),
            false => escape(&lines.join("\n")).to_string(),
        }
    }

    fn options(&self) -> String {
        let mut rows = String::new();
        for option in &self.options {
            let value = match option.value.as_str() {
                "" => "(unset)".to_owned(),
                value => without_secrets(value),
            };
            let _ = write!(
                rows,
                "<tr><th scope=\"row\">{}</th><td class=\"value\">{}</td><td class=\"value\">{}</td></tr>",
                escape(&option.name),
                escape(&value),
                escape(&option.source.to_string())
            );
        }
        rows
    }
}

fn minute_of(time: Timestamp) -> i64 {
    time.as_second().div_euclid(60)
}

fn list(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "<p class=\"fine\">Everything is as it should be.</p>".to_owned();
    }
    let mut text = String::new();
    for Problem { says, section } in problems {
        let _ = write!(
            text,
            "<p class=\"problem\">{} <span class=\"muted\">Manual: {section}</span></p>",
            escape(says)
        );
    }
    text
}

/// A card with values that are HTML.
fn card(title: &str, first: &str, rows: &[(&str, String)]) -> String {
    let mut text = format!(
        "<section class=\"card\"><h2>{}</h2>{first}<dl>",
        escape(title)
    );
    for (name, value) in rows {
        let _ = write!(text, "<dt>{}</dt><dd>{value}</dd>", escape(name));
    }
    text + "</dl></section>"
}

/// Returns how long it takes until the disk is full at the rate of the last day, of which some
/// hours must be known.
fn time_to_full(minutes: &[Minute]) -> Option<Duration> {
    let last = minutes.last()?;
    let first = minutes
        .iter()
        .find(|minute| minute.minute >= last.minute - DAY)?;
    let passed = last.minute - first.minute;
    let taken = first
        .free
        .checked_sub(last.free)
        .filter(|taken| *taken > 0)?;
    if passed < 2 * HOUR {
        return None;
    }
    let left = last.free as f64 / taken as f64 * passed as f64 * 60.0;
    Duration::try_from_secs_f64(left).ok()
}

/// Removes what may be secret from a value: the user, path and query of a URL.
fn without_secrets(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else {
        return match value.contains("password=") {
            true => "(not shown)".to_owned(),
            false => value.to_owned(),
        };
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or("");
    match host.len() == rest.trim_end_matches('/').len() {
        true => value.to_owned(),
        false => format!("{scheme}://{host}/… (the rest is not shown)"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_not_as_it_should_be_is_said_with_a_section_of_the_manual() {
        let fine = Facts {
            history: true,
            dbdir_free: Some(LITTLE_FOR_DATABASE),
            datadir_free: None,
            lateness: Some((3, LATE_PROOF)),
            ..Facts::default()
        };
        assert_eq!(problems(&fine), []);
        let second = Duration::from_secs(1);
        let bad = Facts {
            unready: Some("the database cannot be written"),
            idle: Some(7),
            slow: true,
            log_age: OLD_ENTRY + second,
            audit_lag: FAR_BEHIND + second,
            mismatches: 2,
            bad_proofs: 1,
            waiting_rounds: 1,
            lateness: Some((3, LATE_PROOF + second)),
            queued: LONG_QUEUE + 1,
            database_log: LONG_DATABASE_LOG + 1,
            dbdir_free: Some(LITTLE_FOR_DATABASE - 1),
            datadir_free: Some(LITTLE_FOR_WORK - 1),
            throttled: Throttling {
                periods: 3,
                seconds: 0.5,
            },
            clock_offset: FAR_CLOCK + second,
            history: false,
        };
        let found = problems(&bad);
        assert_eq!(found.len(), 16);
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let manual = ["MONITORING.md", "RUNNING.md"]
            .map(|page| fs::read_to_string(docs.join(page)).unwrap())
            .concat();
        for Problem { says, section } in &found {
            let heading = |level: &str| manual.contains(&format!("\n{level} {section}\n"));
            assert!(heading("##") || heading("###"), "{section}: {says}");
            assert!(says.ends_with('.'), "{says}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        for (value, shown) in [
            ("localhost:8080", "localhost:8080"),
            ("https://certifier.example", "https://certifier.example"),
            (
                "https://hooks.example/services/T0/B0/secret",
                "https://hooks.example/… (the rest is not shown)",
            ),
            (
                "postgres://poet:secret@db.example:5432/poet",
                "postgres://db.example:5432/… (the rest is not shown)",
            ),
            (
                "https://me:secret@a.example",
                "https://a.example/… (the rest is not shown)",
            ),
            (
                "https://a.example?key=secret",
                "https://a.example/… (the rest is not shown)",
            ),
            ("host=db user=poet password=secret", "(not shown)"),
        ] {
            assert_eq!(without_secrets(value), shown);
            assert!(!without_secrets(value).contains("secret"));
        }
    }

    #[test]
    fn a_disk_that_fills_is_foretold() {
        let minute = |minute, free| Minute {
            minute,
            round: None,
            leaves: 0,
            registrations: 0,
            ready: true,
            memory: 0,
            free,
        };
        let day = [minute(0, 9), minute(10, 3_000), minute(1450, 2_000)];
        assert_eq!(
            time_to_full(&day),
            Some(Duration::from_secs(2 * 24 * 3_600))
        );
        assert_eq!(time_to_full(&[]), None);
        assert_eq!(time_to_full(&[minute(0, 9), minute(60, 8)]), None);
        assert_eq!(time_to_full(&[minute(0, 8), minute(500, 9)]), None);
    }
}
