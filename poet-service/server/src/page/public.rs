//! The public page: what this PoET is, the state of its rounds, the next dates, and what a node
//! must configure.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use axum::{Router, extract::State, http::HeaderMap, response::Response, routing::get};
use jiff::Timestamp;
use poet_proto::{
    base64,
    calendar::{Owner, calendar},
    duration::{format_go, in_words},
    identity::PublicKey,
};
use poet_rounds::{
    clock::{Clock, time_until},
    config::WorkerMode,
    cycle_gaps::{CycleGap, CycleGaps},
    storage::{RoundRecord, Storage},
    worker::Executing,
};
use poet_storage::History;
use tokio::sync::watch;

use super::{
    Content, Rendered, assets,
    html::{countdown, escape, fill, grouped, late, progress, ticks, time},
    picture,
};
use crate::{
    status::{ServerStatus, StatusReader, expected_leaves},
    version,
};

/// The number of published rounds in the list.
const LISTED_ROUNDS: usize = 10;
/// The name of a server that has none.
const NO_NAME: &str = "PoET";

/// How a server presents itself.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) name: Option<String>,
    /// The address for nodes, if one is configured.
    pub(crate) url: Option<String>,
    pub(crate) public_key: PublicKey,
    /// Who works on rounds.
    pub(crate) works: WorkerMode,
}

impl Identity {
    pub(crate) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(NO_NAME)
    }
}

/// The state that the page shows.
#[derive(Clone)]
pub(crate) struct Public {
    pub(crate) identity: Identity,
    pub(crate) gaps: CycleGaps,
    pub(crate) status: StatusReader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) history: Option<Arc<History>>,
    pub(crate) unready: watch::Receiver<Option<&'static str>>,
}

struct Site {
    page: Arc<Public>,
    html: Rendered,
    calendar: Rendered,
}

/// The routes.
pub(crate) fn router(page: Public) -> Router {
    let site = Site {
        html: Rendered::new(&page.clock),
        calendar: Rendered::new(&page.clock),
        page: Arc::new(page),
    };
    Router::new()
        .route("/", get(page_for_everybody))
        .route("/calendar.ics", get(calendar_file))
        .with_state(Arc::new(site))
        .merge(assets())
}

async fn page_for_everybody(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let page = Arc::clone(&site.page);
    site.html
        .answer(&headers, move || Content::html(page.render()))
        .await
}

async fn calendar_file(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let page = Arc::clone(&site.page);
    let render = move || {
        let id = hex::encode(&page.identity.public_key.as_bytes()[..8]);
        let owner = Owner {
            name: page.identity.name(),
            id: &id,
        };
        let text = calendar(page.status.schedule(), page.clock.now(), owner);
        Content::new("text/calendar; charset=utf-8", text)
    };
    site.calendar.answer(&headers, render).await
}

impl Public {
    fn render(&self) -> String {
        let now = self.clock.now();
        let status = self.status.status();
        let records = self
            .storage
            .newest_rounds(LISTED_ROUNDS + 3)
            .inspect_err(|error| tracing::error!(%error, "cannot read the rounds for the page"))
            .ok();
        let name = escape(self.identity.name()).to_string();
        let (title, description) = match status.executing {
            Some(_) => (
                self.percent(&status, now) + " – " + &name,
                "working on a round",
            ),
            None => (name.clone(), "open for registration"),
        };
        let heading = match &self.identity.name {
            Some(_) => name.clone(),
            None => "PoET server".to_owned(),
        };
        let pieces = [
            ("now", now.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()),
            ("title", title),
            ("description", format!("{name}: {description}")),
            ("heading", heading),
            ("version", escape(version::WITH_COMMIT).to_string()),
            ("headline", self.headline(&status)),
            (
                "cards",
                self.open_card(&status, now) + &self.work_card(&status, records.as_deref(), now),
            ),
            ("dates", self.dates(&status, now)),
            ("picture", picture::epochs(self.status.schedule(), now)),
            ("counts", self.counts(&status)),
            ("nodes", self.nodes()),
            ("rounds", self.rounds(records.as_deref())),
        ];
        fill(include_str!("public.html"), &pieces)
    }

    /// Changes only a few times per round, because screen readers read each change out.
    fn headline(&self, status: &ServerStatus) -> String {
        let open = status.open.round;
        let mut text = format!(
            "Round {open} is open for registration until {}.",
            time(status.start)
        );
        if let Some(executing) = &status.executing {
            let _ = write!(text, " Round {} is in progress.", executing.round);
        }
        if let Some(reason) = *self.unready.borrow() {
            let _ = write!(
                text,
                " <strong class=\"bad\">At the moment the server is not ready: {}.</strong>",
                escape(reason)
            );
        }
        text
    }

    fn open_card(&self, status: &ServerStatus, now: Timestamp) -> String {
        let (schedule, open) = (self.status.schedule(), status.open);
        let opened = schedule.opens(open.round).unwrap_or(schedule.genesis());
        format!(
            "<section class=\"card\"><h2>Round {round}: open for registration</h2>{bar}<dl>\
             <dt>closes</dt><dd>{closes} <strong>{left}</strong></dd>\
             <dt>members so far</dt><dd>{members}</dd>\
             <dt>a registration now</dt><dd>is published in epoch {publish} and rewarded in epoch \
             {reward}</dd></dl></section>",
            round = open.round,
            bar = progress(
                part(opened, now, status.start),
                &format!(
                    "Round {}, time for registration that has passed",
                    open.round
                )
            ),
            closes = time(status.start),
            left = countdown(now, status.start),
            members = grouped(open.members),
            publish = schedule.publish_epoch(open.round),
            reward = schedule.reward_epoch(open.round),
        )
    }

    fn work_card(
        &self,
        status: &ServerStatus,
        records: Option<&[RoundRecord]>,
        now: Timestamp,
    ) -> String {
        match &status.executing {
            Some(executing) => self.executing_card(executing, now),
            None => {
                let (title, says) = self.why_idle(status, records, now);
                format!("<section class=\"card\"><h2>{title}</h2><p>{says}</p></section>")
            }
        }
    }

    fn executing_card(&self, executing: &Executing, now: Timestamp) -> String {
        let round = executing.round;
        let leaves = executing.leaves.load(Relaxed);
        let start = self.status.schedule().start(round);
        let left = match time_until(now, executing.end).is_zero() {
            false => countdown(now, executing.end),
            true => "making the proof".to_owned(),
        };
        format!(
            "<section class=\"card\"><h2>Round {round}: working</h2>{bar}<dl>\
             <dt>proof expected</dt><dd>{end} <strong>{left}</strong></dd>\
             <dt>members</dt><dd>{members}</dd>\
             <dt>leaves</dt><dd>{leaves} ({rate} a second)</dd>\
             <dt>ticks expected</dt><dd>{ticks}</dd>{machines}</dl></section>",
            machines = self.machines(),
            bar = progress(
                part(start, now, executing.end),
                &format!("Round {round}, time of work that has passed")
            ),
            end = time(executing.end),
            members = grouped(executing.members),
            leaves = grouped(leaves),
            rate = grouped(executing.leaves_per_second(&*self.clock) as u64),
            ticks = ticks(expected_leaves(executing, &*self.clock)),
        )
    }

    /// Describes how many machines share the work, if several do.
    fn machines(&self) -> String {
        self.status.standing().map_or(String::new(), |standing| {
            let works = standing.servers().filter(|server| server.works).count();
            let follow = standing.servers().count() - works;
            let behind = standing.servers().map(|server| standing.behind(server)).max();
            format!(
                "<dt>machines</dt><dd>{works} at work, {follow} following, at most {:.1} s behind</dd>",
                behind.unwrap_or_default().as_secs_f64()
            )
        })
    }

    /// Explains why no round is worked on.
    fn why_idle(
        &self,
        status: &ServerStatus,
        records: Option<&[RoundRecord]>,
        now: Timestamp,
    ) -> (String, String) {
        let (schedule, open) = (self.status.schedule(), status.open.round);
        let next = format!(
            "The work on round {open} begins {} ({}).",
            time(status.start),
            countdown(now, status.start)
        );
        if self.identity.works == WorkerMode::Nobody {
            let says = "It registers nodes and publishes the members of each round, without a proof of \
                        elapsed time.";
            return ("This server does no work".to_owned(), says.to_owned());
        }
        let Some(last) = open.checked_sub(1) else {
            return ("No round has started yet".to_owned(), next);
        };
        let record = records.and_then(|records| records.iter().find(|record| record.round == last));
        match record {
            Some(RoundRecord {
                published: Some(_), ..
            }) => (
                format!("Round {last}: published"),
                format!("Its <a href=\"v1/proofs/{last}\">proof</a> is available. {next}"),
            ),
            Some(_) if self.identity.works == WorkerMode::Off && now < schedule.end(last) => (
                format!("Round {last}: worked on by another machine"),
                format!(
                    "Its proof is expected {} ({}).",
                    time(schedule.end(last)),
                    countdown(now, schedule.end(last))
                ),
            ),
            Some(_) => (
                format!("Round {last}: the work is about to begin"),
                format!("Its members are settled. {next}"),
            ),
            None if records.is_some() && now < schedule.end(last) => (
                format!("Round {last} runs without this server"),
                format!("It was not running when the round started. {next}"),
            ),
            None => ("No round is in progress".to_owned(), next),
        }
    }

    fn dates(&self, status: &ServerStatus, now: Timestamp) -> String {
        let (schedule, open) = (self.status.schedule(), status.open.round);
        let mut dates = Vec::new();
        for round in open.saturating_sub(1)..=open.saturating_add(1) {
            let (start, end) = (schedule.start(round), schedule.end(round));
            let next = round.saturating_add(1);
            dates.push((
                start,
                format!(
                    "Registration for round {round} closes, its work begins; round {next} opens"
                ),
            ));
            for gap in self.gaps.early() {
                let end = schedule.end_before(round, gap.duration());
                let gap = in_words(gap.duration());
                dates.push((
                    end,
                    format!("Proof of round {round} for a cycle gap of {gap} expected"),
                ));
            }
            dates.push((end, format!("Proof of round {round} expected")));
        }
        dates.retain(|(date, _)| *date > now);
        let mut text = String::new();
        for (date, what) in dates.iter().take(5 + self.gaps.early().len()) {
            let _ = write!(
                text,
                "<li><span class=\"what\">{what}</span> <span class=\"when\">{}</span> \
                 <strong>{}</strong></li>",
                time(*date),
                countdown(now, *date)
            );
        }
        text
    }

    fn counts(&self, status: &ServerStatus) -> String {
        let (schedule, open) = (self.status.schedule(), status.open.round);
        let (publish, reward) = (schedule.publish_epoch(open), schedule.reward_epoch(open));
        format!(
            "<p>A node that registers in round {open}, before it starts in epoch {open}, has its proof in epoch \
             {publish}, publishes with it in that epoch (from {}), and is rewarded in epoch {reward} \
             (from {}). An epoch lasts {}, the work on a round {}.</p>",
            time(schedule.epoch_start(publish)),
            time(schedule.epoch_start(reward)),
            in_words(schedule.epoch_duration()),
            in_words(schedule.work_duration()),
        )
    }

    /// Returns what a node must configure, for each cycle gap.
    fn nodes(&self) -> String {
        let several = !self.gaps.early().is_empty();
        let mut text = String::new();
        if several {
            text += "<p>From the same work this server makes a proof for each of these cycle gaps. To nodes, each is \
                     a separate PoET: use one.</p>";
        }
        for gap in self.gaps.all() {
            let key = base64::encode(gap.public_key().as_bytes());
            let (id, words) = (gap.path().replace('/', "-"), in_words(gap.duration()));
            let label = match several {
                true => format!("Configuration of a node with a cycle gap of {words}"),
                false => "Configuration of a node".to_owned(),
            };
            if several {
                let _ = write!(text, "<h3>Cycle gap {words}</h3>");
            }
            let _ = write!(
                text,
                "<div class=\"copy\"><pre id=\"node{id}\" tabindex=\"0\" aria-label=\"{label}\">{}</pre></div>\
                 <p>Public key: <code class=\"key-text\">{key}</code></p>",
                self.node(gap, &key, several),
            );
        }
        text
    }

    /// Returns the configuration of a node with a gap. The page's script inserts the address that the
    /// reader used, unless one is configured. Where a server has several gaps, the node must know its own.
    fn node(&self, gap: &CycleGap, key: &str, several: bool) -> String {
        let path = gap.path();
        let address = match &self.identity.url {
            Some(url) => escape(&json(&format!("{}{path}", url.trim_end_matches('/')))).to_string(),
            None => format!(
                "\"<span data-address=\"{}\">https://ADDRESS OF THIS PAGE{path}</span>\"",
                path.trim_start_matches('/')
            ),
        };
        let own_gap = match several {
            true => format!(
                ",\n  \"poet\": {{\n    \"cycle-gap\": \"{}\"\n  }}",
                format_go(gap.duration())
            ),
            false => String::new(),
        };
        format!(
            "{{\n  \"main\": {{\n    \"poet-servers\": [\n      {{\n        \"address\": {address},\n        \
             \"pubkey\": {}\n      }}\n    ]\n  }}{own_gap}\n}}",
            escape(&json(key))
        )
    }

    fn rounds(&self, records: Option<&[RoundRecord]>) -> String {
        let Some(records) = records else {
            return "<p>The rounds cannot be read at the moment.</p>".to_owned();
        };
        let lateness = self.history.as_ref().map(|history| history.lateness());
        let mut rows = String::new();
        let published = records
            .iter()
            .filter_map(|record| Some((record.round, record.published?)));
        for (round, published) in published.take(LISTED_ROUNDS) {
            let lateness = lateness.as_ref().and_then(|late| late.get(&round));
            let _ = write!(
                rows,
                "<tr><th scope=\"row\"><a href=\"v1/rounds/{round}\">{round}</a></th>\
                 <td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                time(self.status.schedule().end(round)),
                grouped(published.members),
                grouped(published.leaves),
                ticks(published.leaves),
                lateness.map_or("not known".to_owned(), |lateness| late(*lateness)),
            );
        }
        if rows.is_empty() {
            return "<p>No proof has been published yet.</p>".to_owned();
        }
        format!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"rounds-title\">\
             <table><thead><tr><th scope=\"col\">Round</th><th scope=\"col\">Work ended</th>\
             <th scope=\"col\">Members</th><th scope=\"col\">Leaves</th><th scope=\"col\">Ticks</th>\
             <th scope=\"col\">Proof after</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )
    }

    fn percent(&self, status: &ServerStatus, now: Timestamp) -> String {
        let Some(executing) = &status.executing else {
            return String::new();
        };
        let start = self.status.schedule().start(executing.round);
        format!("{:.0} %", 100.0 * part(start, now, executing.end))
    }
}

/// Returns how much of the time between `from` and `to` has passed.
pub(super) fn part(from: Timestamp, now: Timestamp, to: Timestamp) -> f64 {
    let whole = time_until(from, to).as_secs_f64();
    match whole > 0.0 {
        true => (time_until(from, now).as_secs_f64() / whole).min(1.0),
        false => 1.0,
    }
}

/// Encodes a text in JSON.
fn json(text: &str) -> String {
    poet_proto::json::write(&text)
}
