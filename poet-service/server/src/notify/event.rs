//! An event, and how receivers get it.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use jiff::Timestamp;
use poet_host::machine::hostname;
use poet_rounds::counters::Published;
use serde::Serialize;

/// The longest text. With the rest of an event it fits any pipe.
const TEXT_BYTES: usize = 1000;

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
pub(super) struct Source {
    pub(super) host: String,
    /// The server's key, once it is known.
    pub(super) key: OnceLock<String>,
}

impl Source {
    pub(super) fn new() -> Self {
        let host = hostname(Path::new("/"));
        Self {
            host: plain(host.as_deref().unwrap_or("poet")),
            key: OnceLock::new(),
        }
    }
}

/// An event as receivers get it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Notice<'a> {
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
    pub(super) fn new(event: &Event, source: &'a Source, time: Timestamp, left_out: u64) -> Self {
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

    pub(super) fn json(&self) -> Arc<str> {
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An alarm with this message.
    pub(in super::super) fn alarm(message: &str) -> Event {
        Event::Alarm {
            message: message.to_owned(),
            details: "round=3".to_owned(),
        }
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
}
