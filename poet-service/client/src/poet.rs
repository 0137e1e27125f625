//! A server as its clients see it: the calls of its interface, and what a failure means. The rules
//! are those of a node: 400 is final, 401 requires another certificate, and a 404 to a GET, 429 and
//! 5xx (except 501) are temporary, as are failed connections.

use std::{fmt, sync::Arc, time::Duration};

use poet_proto::{
    json::{
        self, ErrorResponse, HealthResponse, InfoResponse, PowParamsResponse, Round,
        RoundsResponse, SubmitResponse,
    },
    messages::Submission,
    pow::PowParams,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    http::{Answer, Http, HttpError, Limits, Url},
    output::printable,
    proof::ProofResponse,
};

/// The longest response other than a proof: 1000 rounds take a quarter of it.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// The longest proof to read. That of a round with a million members takes 44 MB.
const MAX_PROOF_BYTES: u64 = 1 << 28;

/// Whether trying again can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It can help.
    Passing,
    /// It can help with another certificate, or a proof of work.
    Unauthorized,
    /// It cannot help.
    Final,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// Does not include the server's name.
    pub(crate) reason: String,
}

impl Failure {
    pub(crate) fn passing(reason: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Passing,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn last(reason: impl fmt::Display) -> Self {
        Self {
            kind: Kind::Final,
            reason: reason.to_string(),
        }
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        match error {
            // It would be as long again.
            HttpError::TooLong(_) => Self::last(error),
            _ => Self::passing(error),
        }
    }
}

/// A server.
#[derive(Clone)]
pub(crate) struct RemotePoet {
    url: Arc<Url>,
    http: Http,
}

impl RemotePoet {
    pub(crate) fn new(url: Url, http: Http) -> Self {
        Self {
            url: Arc::new(url),
            http,
        }
    }

    pub(crate) fn info(&self, time: Duration) -> Result<InfoResponse, Failure> {
        self.get("/v1/info", time, MAX_ANSWER_BYTES)
    }

    pub(crate) fn pow_params(&self, time: Duration) -> Result<PowParams, Failure> {
        self.get("/v1/pow_params", time, MAX_ANSWER_BYTES)
            .map(|response: PowParamsResponse| response.into())
    }

    pub(crate) fn submit(
        &self,
        submission: &Submission<'_>,
        time: Duration,
    ) -> Result<SubmitResponse<Value>, Failure> {
        let json = json::write_submit_request(submission);
        let limits = Limits {
            time,
            bytes: MAX_ANSWER_BYTES,
        };
        let answer = self.http.post(&self.path("/v1/submit"), json, limits)?;
        match answer.status {
            200 => parse(&answer.body),
            // Something else may temporarily be in the server's place.
            404 => Err(refusal(Kind::Final, &answer)),
            _ => Err(failure(&answer)),
        }
    }

    /// Returns the proof of `round` as the server sends it: not verified.
    pub(crate) fn proof(&self, round: u64, time: Duration) -> Result<ProofResponse, Failure> {
        self.get(&format!("/v1/proofs/{round}"), time, MAX_PROOF_BYTES)
    }

    /// Returns the newest rounds; `None` if the server does not list them, like the Go server.
    pub(crate) fn rounds(&self, time: Duration) -> Result<Option<Vec<Round>>, Failure> {
        let limits = Limits {
            time,
            bytes: MAX_ANSWER_BYTES,
        };
        let answer = self.http.get(&self.path("/v1/rounds"), limits)?;
        match answer.status {
            200 => parse(&answer.body).map(|list: RoundsResponse| Some(list.into_rounds())),
            404 | 501 => Ok(None),
            _ => Err(failure(&answer)),
        }
    }

    /// Returns whether it is ready, or why not; `None` if the server does not report that, like the
    /// Go server.
    pub(crate) fn health(&self, time: Duration) -> Option<Result<(), String>> {
        let limits = Limits {
            time,
            bytes: MAX_ANSWER_BYTES,
        };
        let answer = self.http.get(&self.path("/readyz"), limits).ok()?;
        let health: HealthResponse = serde_json::from_slice(&answer.body).ok()?;
        match answer.status {
            200 => Some(Ok(())),
            503 => Some(Err(printable(&health.reason.unwrap_or_default()))),
            _ => None,
        }
    }

    fn path(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        time: Duration,
        bytes: u64,
    ) -> Result<T, Failure> {
        let answer = self.http.get(&self.path(path), Limits { time, bytes })?;
        match answer.status {
            200 => parse(&answer.body),
            404 => Err(refusal(Kind::Passing, &answer)),
            _ => Err(failure(&answer)),
        }
    }
}

/// Parses a response. What is in front of a server (a proxy, a maintenance page) may go away.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    json::read(body).map_err(|error| {
        let error = printable(&error.to_string());
        Failure::passing(format!("its answer is not one of a PoET: {error}"))
    })
}

fn failure(answer: &Answer) -> Failure {
    let kind = match answer.status {
        401 => Kind::Unauthorized,
        501 => Kind::Final,
        408 | 429 | 500.. => Kind::Passing,
        _ => Kind::Final,
    };
    refusal(kind, answer)
}

fn refusal(kind: Kind, answer: &Answer) -> Failure {
    let status = answer.status;
    let said = match (
        serde_json::from_slice::<ErrorResponse>(&answer.body),
        &answer.location,
    ) {
        (Ok(error), _) => format!("it answers {status}: {}", printable(&error.message)),
        (_, Some(place)) => {
            format!("it answers {status} and points to {place}: expected the address itself")
        }
        _ => format!("it answers {status}"),
    };
    Failure { kind, reason: said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_as_nodes_do() {
        let kind = |status| {
            let answer = Answer {
                status,
                location: None,
                body: br#"{"code":3,"message":"no\u001b[2J"}"#.to_vec(),
            };
            let failure = failure(&answer);
            assert_eq!(failure.reason, format!("it answers {status}: no?[2J"));
            failure.kind
        };
        for status in [408, 429, 500, 502, 503, 504, 599] {
            assert_eq!(kind(status), Kind::Passing);
        }
        for status in [201, 204, 301, 400, 403, 405, 409, 410, 501] {
            assert_eq!(kind(status), Kind::Final);
        }
        assert_eq!(kind(401), Kind::Unauthorized);
    }
}
