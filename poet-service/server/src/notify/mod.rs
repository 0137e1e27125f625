//! Notifies the operator: runs a program, or calls a webhook, for each event.
//!
//! A receiver may hang, fail or be gone, and the server must not wait for it. So each receiver has
//! a bounded queue and a thread of its own; events that find no room are counted and dropped.
//! Before that, the number of events is limited: a repeated alarm is sent once an hour, and all
//! events share a budget that refills with time. The next event says how many were left out.

mod alarms;
mod command;
mod webhook;

use std::{
    collections::VecDeque,
    fs, io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use poet_proto::{base64, identity::PublicKey};
use poet_rounds::{
    clock::{Clock, SystemClock},
    counters::Published,
};
use serde::Serialize;

pub(crate) use self::alarms::Alarms;
pub use self::webhook::WebhookUrl;
use self::{command::Program, webhook::Webhook};

/// Events that may wait for one receiver.
const QUEUED: usize = 64;
/// Events that may follow each other at once, and how long it takes until one more may.
const BURST: u32 = 30;
const REFILL: Duration = Duration::from_secs(6);
/// How long the same alarm is not sent again.
const REPEATED_ALARM: Duration = Duration::from_secs(3600);
/// The number of alarms remembered for that.
const REMEMBERED_ALARMS: usize = 64;
/// The longest text. With the rest of an event it fits any pipe.
const TEXT_BYTES: usize = 1000;
/// How long the shutdown waits for pending notifications.
pub const END: Duration = Duration::from_millis(1500);

/// Who is notified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyConfig {
    /// A program that gets each event on its standard input.
    pub command: Option<PathBuf>,
    /// The URL to which each event is posted.
    pub url: Option<WebhookUrl>,
}

impl NotifyConfig {
    fn receivers(&self, clock: &Arc<dyn Clock>) -> Vec<Box<dyn Receiver>> {
        let command = self.command.clone().map(|program| {
            let receiver: Box<dyn Receiver> = Box::new(Program::new(program, Arc::clone(clock)));
            receiver
        });
        let url = self.url.clone().map(|url| {
            let receiver: Box<dyn Receiver> = Box::new(Webhook::new(url));
            receiver
        });
        command.into_iter().chain(url).collect()
    }

    /// Sends each receiver a test event. Returns the results, by the receiver's name. May block for
    /// as long as the receivers take.
    pub fn test(&self) -> Vec<(String, Result<(), String>)> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let text = Notice::new(&Event::Test, &Source::new(), clock.now(), 0).json();
        let queue = Queue::default();
        let deliver = |mut receiver: Box<dyn Receiver>| {
            let result = receiver.deliver(&text, &queue);
            (receiver.name(), result)
        };
        self.receivers(&clock).into_iter().map(deliver).collect()
    }
}

/// An event of which the operator is notified.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    RoundClosed {
        round: u64,
        members: u64,
    },
    ProofPublished {
        proof: Published,
        ticks: u64,
    },
    /// A line of the log that begins with `ALARM`.
    Alarm {
        message: String,
        /// The fields after the message.
        details: String,
    },
    WorkSlow {
        round: u64,
        leaves_per_second: u64,
        at_first: u64,
    },
    WorkFast {
        round: u64,
        leaves_per_second: u64,
    },
    NotReady(&'static str),
    Ready,
    Test,
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::RoundClosed { .. } => "round-closed",
            Self::ProofPublished { .. } => "proof-published",
            Self::Alarm { .. } => "alarm",
            Self::WorkSlow { .. } => "work-slow",
            Self::WorkFast { .. } => "work-fast",
            Self::NotReady(_) => "not-ready",
            Self::Ready => "ready",
            Self::Test => "test",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::RoundClosed { round, members } => {
                format!("round {round} is closed with {members} members")
            }
            Self::ProofPublished { proof, ticks } => format!(
                "the proof of round {} is published {:.1} s after its end: {ticks} ticks, {} leaves, \
                 {} members",
                proof.round,
                proof.late.as_secs_f64(),
                proof.leaves,
                proof.members
            ),
            Self::Alarm { message, details } if details.is_empty() => message.clone(),
            Self::Alarm { message, details } => format!("{message} ({details})"),
            Self::WorkSlow {
                round,
                leaves_per_second,
                at_first,
            } => format!(
                "the work on round {round} has become slow: {leaves_per_second} leaves/s, {at_first} \
                 at first"
            ),
            Self::WorkFast {
                round,
                leaves_per_second,
            } => {
                format!("the work on round {round} is fast again: {leaves_per_second} leaves/s")
            }
            Self::NotReady(reason) => format!("not ready: {reason}"),
            Self::Ready => "ready again".to_owned(),
            Self::Test => "a test: notifications of this PoET arrive".to_owned(),
        }
    }
}

/// The server that sends events.
#[derive(Debug)]
struct Source {
    host: String,
    /// The server's key, once it is known.
    key: OnceLock<String>,
}

impl Source {
    fn new() -> Self {
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = plain(host.trim());
        Self {
            host: if host.is_empty() {
                "poet".to_owned()
            } else {
                host
            },
            key: OnceLock::new(),
        }
    }
}

/// An event as receivers get it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Notice<'a> {
    text: String,
    event: &'static str,
    time: String,
    host: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<&'a String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    round: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ticks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seconds_late: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaves_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// Number of earlier events that were left out.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl<'a> Notice<'a> {
    fn new(event: &Event, source: &'a Source, time: Timestamp, left_out: u64) -> Self {
        let mut text = plain(&event.text());
        if left_out > 0 {
            text += &format!(" ({left_out} earlier events were left out)");
        }
        let mut notice = Self {
            text: format!("PoET on {}: {text}", source.host),
            event: event.name(),
            time: format!("{time:.0}"),
            host: &source.host,
            server: source.key.get(),
            round: None,
            members: None,
            leaves: None,
            ticks: None,
            seconds_late: None,
            leaves_per_second: None,
            reason: None,
            left_out,
        };
        match event {
            Event::RoundClosed { round, members } => {
                notice.round = Some(*round);
                notice.members = Some(*members);
            }
            Event::ProofPublished { proof, ticks } => {
                notice.round = Some(proof.round);
                notice.members = Some(proof.members);
                notice.leaves = Some(proof.leaves);
                notice.ticks = Some(*ticks);
                notice.seconds_late = Some(proof.late.as_secs_f64());
            }
            Event::WorkSlow {
                round,
                leaves_per_second,
                ..
            }
            | Event::WorkFast {
                round,
                leaves_per_second,
            } => {
                notice.round = Some(*round);
                notice.leaves_per_second = Some(*leaves_per_second);
            }
            Event::NotReady(reason) => notice.reason = Some(reason),
            Event::Alarm { .. } | Event::Ready | Event::Test => {}
        }
        notice
    }

    fn json(&self) -> Arc<str> {
        // Serializing numbers and strings cannot fail.
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

/// Returns a text of limited length that is safe to display: chat services interpret markup between
/// `<` and `>`.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        if plain.len() >= TEXT_BYTES {
            plain.push_str("...");
            break;
        }
        plain.push(match c {
            '<' => '\u{2039}',
            '>' => '\u{203a}',
            c if c.is_control() => ' ',
            c => c,
        });
    }
    plain
}

/// A receiver of notifications. It has its own thread, which it may block for a while.
trait Receiver: Send {
    /// Returns its name for operators.
    fn name(&self) -> String;

    /// Delivers an event. Returns early if `queue` ends.
    ///
    /// # Errors
    /// Fails if it was not delivered; the text says why.
    fn deliver(&mut self, notice: &str, queue: &Queue) -> Result<(), String>;
}

/// The events that wait for a receiver.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Arc<str>>,
    /// Events dropped for lack of room.
    dropped: u64,
    /// Whether there will be no more events.
    last: bool,
    /// Whether to give up the delivery in progress.
    given_up: bool,
    done: bool,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, Waiting> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, notice: Arc<str>) {
        let mut state = self.state();
        if state.notices.len() == QUEUED {
            state.dropped += 1;
        } else {
            state.notices.push_back(notice);
            self.changed.notify_all();
        }
    }

    /// Waits for the next event; `None` at the end. Also returns how many were dropped before it.
    fn next(&self) -> Option<(Arc<str>, u64)> {
        let mut state = self.state();
        loop {
            if state.given_up {
                return None;
            }
            if let Some(notice) = state.notices.pop_front() {
                return Some((notice, std::mem::take(&mut state.dropped)));
            }
            if state.last {
                return None;
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn given_up(&self) -> bool {
        self.state().given_up
    }

    /// Waits, unless the delivery must be given up.
    fn pause(&self, duration: Duration) {
        let state = self.state();
        let waited = self
            .changed
            .wait_timeout_while(state, duration, |state| !state.given_up);
        drop(waited);
    }

    fn serve(&self, mut receiver: Box<dyn Receiver>) {
        let mut failing = false;
        while let Some((notice, dropped)) = self.next() {
            if dropped > 0 {
                tracing::warn!(
                    events = dropped,
                    receiver = receiver.name(),
                    "events were not delivered: the receiver is too slow"
                );
            }
            match receiver.deliver(&notice, self) {
                Ok(()) => failing = false,
                // Logged once: it may fail for a year.
                Err(_) if failing => {}
                Err(error) => {
                    failing = true;
                    tracing::warn!(
                        %error,
                        receiver = receiver.name(),
                        "an event was not delivered; further failures are not logged until one is"
                    );
                }
            }
        }
        self.state().done = true;
        self.changed.notify_all();
    }
}

/// Notifies the operator. Clones share the receivers.
#[derive(Clone)]
pub struct Notices(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    source: Source,
    budget: Mutex<Budget>,
    queues: Vec<Arc<Queue>>,
}

impl Notices {
    /// Starts a thread for each receiver in `config`.
    ///
    /// # Errors
    /// Fails if the system does not provide threads.
    pub fn start(config: &NotifyConfig, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let start = |receiver: Box<dyn Receiver>| {
            let queue = Arc::<Queue>::default();
            let served = Arc::clone(&queue);
            thread::Builder::new()
                .name("notify".to_owned())
                .spawn(move || {
                    yield_to_others();
                    served.serve(receiver);
                })?;
            Ok(queue)
        };
        let queues = config.receivers(&clock).into_iter().map(start);
        Ok(Self(Arc::new(Inner {
            budget: Mutex::new(Budget::new(clock.monotonic())),
            clock,
            source: Source::new(),
            queues: queues.collect::<io::Result<_>>()?,
        })))
    }

    /// Sets the key of the server that sends events.
    pub(crate) fn set_server(&self, key: &PublicKey) {
        // Once, since a process has one server.
        let _ = self.0.source.key.set(base64::encode(key.as_bytes()));
    }

    /// Queues an event for all receivers, or counts it as left out. Does not wait.
    pub(crate) fn send(&self, event: &Event) {
        if self.0.queues.is_empty() {
            return;
        }
        let left_out = {
            let mut budget = self.0.budget.lock().unwrap_or_else(PoisonError::into_inner);
            match budget.take(event, self.0.clock.monotonic()) {
                Some(left_out) => left_out,
                None => return,
            }
        };
        let notice = Notice::new(event, &self.0.source, self.0.clock.now(), left_out).json();
        for queue in &self.0.queues {
            queue.push(Arc::clone(&notice));
        }
    }

    /// Waits for all deliveries, at most for `timeout`, and then gives up those in progress.
    pub fn end(&self, timeout: Duration) {
        let clock = &self.0.clock;
        let deadline = clock.monotonic() + timeout;
        for queue in &self.0.queues {
            queue.state().last = true;
            queue.changed.notify_all();
        }
        let done = |queue: &Queue, timeout| {
            let state = queue.state();
            let waited = queue
                .changed
                .wait_timeout_while(state, timeout, |state| !state.done);
            drop(waited);
        };
        for queue in &self.0.queues {
            done(queue, deadline.saturating_sub(clock.monotonic()));
        }
        for queue in &self.0.queues {
            queue.state().given_up = true;
            queue.changed.notify_all();
        }
        // A program that is still running is killed.
        for queue in &self.0.queues {
            done(queue, command::KILL_TIME);
        }
    }
}

/// Gives the calling thread, and the programs that it starts, the lowest priority.
#[cfg(target_os = "linux")]
fn yield_to_others() {
    // On Linux, this affects one thread. It is not important enough to fail.
    let _ = rustix::process::setpriority_process(None, 19);
}

#[cfg(not(target_os = "linux"))]
fn yield_to_others() {}

/// Limits the number of events.
#[derive(Debug)]
struct Budget {
    room: u32,
    /// When room was last added.
    refilled: Duration,
    /// The newest alarms, and when they were sent.
    alarms: VecDeque<(String, Duration)>,
    left_out: u64,
}

impl Budget {
    fn new(now: Duration) -> Self {
        Self {
            room: BURST,
            refilled: now,
            alarms: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Returns how many events were left out before this one, or `None` if this one must be left
    /// out.
    fn take(&mut self, event: &Event, now: Duration) -> Option<u64> {
        let passed = now.saturating_sub(self.refilled);
        let refills = (passed.as_secs() / REFILL.as_secs()).min(u64::from(BURST));
        if refills > 0 {
            self.room = (self.room + refills as u32).min(BURST);
            self.refilled = now;
        }
        self.alarms
            .retain(|(_, told)| now.saturating_sub(*told) < REPEATED_ALARM);
        let alarm = match event {
            Event::Alarm { message, .. } => Some(message),
            _ => None,
        };
        let repeated = alarm.is_some_and(|alarm| self.alarms.iter().any(|(told, _)| told == alarm));
        if repeated || self.room == 0 {
            self.left_out += 1;
            return None;
        }
        self.room -= 1;
        if let Some(alarm) = alarm {
            if self.alarms.len() == REMEMBERED_ALARMS {
                self.alarms.pop_front();
            }
            self.alarms.push_back((alarm.clone(), now));
        }
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alarm(message: &str) -> Event {
        Event::Alarm {
            message: message.to_owned(),
            details: "round=3".to_owned(),
        }
    }

    #[test]
    fn an_alarm_that_repeats_is_told_once_an_hour() {
        let seconds = Duration::from_secs;
        let mut budget = Budget::new(seconds(5));
        assert_eq!(budget.take(&alarm("a"), seconds(5)), Some(0));
        // A round that fails every five seconds.
        for second in (10..3600).step_by(5) {
            assert_eq!(budget.take(&alarm("a"), seconds(second)), None);
        }
        assert_eq!(budget.take(&alarm("b"), seconds(3604)), Some(718));
        assert_eq!(budget.take(&alarm("a"), seconds(3604)), None);
        assert_eq!(budget.take(&alarm("a"), seconds(3605)), Some(1));
        // The number of different alarms does not matter.
        for number in 0..1000 {
            budget.take(&alarm(&number.to_string()), seconds(10_000 + number * 6));
        }
        assert!(budget.alarms.len() <= REMEMBERED_ALARMS);
    }

    #[test]
    fn events_are_bounded_in_number() {
        let mut budget = Budget::new(Duration::ZERO);
        let mut told = |from: u64, to: u64| {
            let at = (from * 10..to * 10).map(|tenth| Duration::from_millis(tenth * 100));
            at.filter(|at| budget.take(&Event::Ready, *at).is_some())
                .count()
        };
        // Ten a second for a minute: the burst, and one every six seconds.
        assert_eq!(told(0, 60), 30 + 9);
        assert_eq!(told(60, 120), 10);
        // An hour of silence allows no more than the burst.
        assert_eq!(told(3600, 3604), 30);
        // The next event says how many were left out.
        let next = budget.take(&Event::Ready, Duration::from_secs(9999));
        assert_eq!(next, Some(40 - 30));
    }

    #[test]
    fn a_text_can_do_nothing_where_it_is_shown() {
        let source = Source::new();
        let event = alarm("ALARM: <!channel>\u{1b}[2J\n<http://evil|click>");
        let json: serde_json::Value =
            serde_json::from_str(&Notice::new(&event, &source, Timestamp::UNIX_EPOCH, 2).json())
                .unwrap();
        let text = json["text"].as_str().unwrap();
        assert!(!text.contains(['<', '>', '\u{1b}', '\n']), "{text}");
        assert!(
            text.ends_with("(round=3) (2 earlier events were left out)"),
            "{text}"
        );
        assert_eq!(
            (&json["event"], &json["leftOut"]),
            (&"alarm".into(), &2.into())
        );
        // Even if JSON escapes everything, it fits the smallest pipe.
        let long = Notice::new(
            &alarm(&"\"\u{10ffff}".repeat(5000)),
            &source,
            Timestamp::UNIX_EPOCH,
            0,
        )
        .json();
        assert!(long.len() < 4096, "{}", long.len());
    }

    #[test]
    fn a_queue_that_nobody_empties_stays_short() {
        let queue = Queue::default();
        for number in 0..1000 {
            queue.push(number.to_string().into());
        }
        assert_eq!(queue.state().notices.len(), QUEUED);
        assert_eq!(queue.next(), Some(("0".into(), 1000 - QUEUED as u64)));
        queue.state().last = true;
        assert_eq!(queue.next(), Some(("1".into(), 0)));
        queue.state().given_up = true;
        assert_eq!(queue.next(), None);
    }
}
