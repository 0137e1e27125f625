//! What the original interface lacks, as clients read it: the server writes more fields.

use jiff::Timestamp;
use serde::Deserialize;

use super::fields::{List, Number, time};

/// The most rounds that a server may list.
const MAX_ROUNDS: usize = 1000;

/// The response to `GET /v1/rounds`.
#[derive(Deserialize)]
pub struct RoundsResponse {
    rounds: List<Round, MAX_ROUNDS>,
}

impl RoundsResponse {
    /// Returns the rounds, in the order of the response.
    pub fn into_rounds(self) -> Vec<Round> {
        self.rounds.0
    }
}

/// A round of a server: the response to `GET /v1/rounds/{id}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    /// Its number.
    pub id: Number,
    /// What happens to it now.
    pub state: RoundPhase,
    /// When it stops to accept members, and the work begins.
    #[serde(deserialize_with = "time")]
    pub start: Timestamp,
    /// When the work ends.
    #[serde(deserialize_with = "time")]
    pub end: Timestamp,
    /// How many members it has.
    pub members: Number,
    /// How many leaves its tree has so far, or had at the end.
    pub leaves: Option<Number>,
    /// How many leaves are added a second; only during the work.
    pub leaves_per_second: Option<Number>,
    /// How many leaves it will have at the end; only during the work.
    pub expected_leaves: Option<Number>,
    /// Whether its proof is published.
    pub proof_ready: bool,
}

/// What happens to a round.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub enum RoundPhase {
    /// Nodes can register.
    Open,
    /// The server works on it.
    Executing,
    /// Its proof is published.
    Published,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// The body of every error.
#[derive(Debug, Deserialize)]
pub struct ErrorResponse {
    /// What is wrong.
    pub message: String,
}

/// The response to `GET /readyz`.
#[derive(Debug, Deserialize)]
pub struct HealthResponse {
    /// Why the server is not ready.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::read;

    #[test]
    fn rounds_are_read_with_fields_that_are_unknown_or_missing() {
        let text = r#"{"rounds":[
            {"id":"8","state":"open","start":"2026-11-23T08:00:00Z","end":"2026-12-06T20:00:00Z",
             "members":"7","proofReady":false,"slow":true},
            {"id":7,"state":"asleep","start":"2026-11-23T08:00:00Z","end":"2026-12-06T20:00:00Z",
             "members":7,"leaves":"9","leavesPerSecond":70123,"expectedLeaves":null,"proofReady":true}
        ]}"#;
        let response: RoundsResponse = read(text.as_bytes()).unwrap();
        let rounds = response.into_rounds();
        assert_eq!(rounds[0].state, RoundPhase::Open);
        assert_eq!(rounds[0].leaves, None);
        assert_eq!(rounds[1].state, RoundPhase::Other);
        assert_eq!(rounds[1].leaves_per_second, Some(Number(70_123)));
        let text = text.replace("2026-12-06", "yesterday");
        let response: Result<RoundsResponse, _> = read(text.as_bytes());
        let error = response.err().unwrap().to_string();
        assert!(error.contains("expected a time in RFC 3339"), "{error}");
    }
}
