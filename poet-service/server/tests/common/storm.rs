//! Shared by the storms: random numbers, and nodes that register until a server acknowledges it.

use std::{
    collections::{BTreeMap, HashMap},
    env,
    time::Duration,
};

use poet_conformance::Rng;
use poet_proto::pow::PowParams;
use serde_json::Value;

use crate::common::{self, TestNode};

const DEFAULT_SEED: u64 = 1;

/// Reads a number from the environment.
pub(crate) fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Err(_) => default,
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}: expected a number, found {text:?}")),
    }
}

pub(crate) fn seed() -> u64 {
    let seed = setting("POET_STORM_SEED", DEFAULT_SEED);
    println!("POET_STORM_SEED={seed}");
    seed
}

/// Returns a number from `from` up to, but excluding, `to`.
pub(crate) fn between(rng: &mut Rng, from: i64, to: i64) -> i64 {
    from + i64::from(rng.below(u32::try_from(to - from).unwrap()))
}

pub(crate) fn millis(rng: &mut Rng, from: i64, to: i64) -> Duration {
    Duration::from_millis(between(rng, from, to).try_into().unwrap())
}

/// Registrations that a server has acknowledged or may have stored.
#[derive(Default)]
pub(crate) struct Registrations {
    /// By the round that the server named.
    pub(crate) acknowledged: BTreeMap<u64, Vec<TestNode>>,
    /// The node id of every challenge that was ever sent.
    pub(crate) sent: HashMap<[u8; 32], [u8; 32]>,
}

impl Registrations {
    /// Returns the node ids of a proof's members, which must be challenges that were sent, each
    /// once, in the order of their nodes.
    #[track_caller]
    pub(crate) fn ids(&self, round: u64, members: &[[u8; 32]]) -> Vec<[u8; 32]> {
        let ids: Vec<_> = members
            .iter()
            .map(|challenge| self.sent[challenge])
            .collect();
        assert!(ids.is_sorted_by(|one, other| one < other), "round {round}");
        ids
    }
}

pub(crate) fn agent(timeout: Duration) -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(timeout))
        .build()
        .into()
}

/// Returns a response, unless the server ended in the middle of it.
pub(crate) fn answer(
    result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> Option<(u16, Value)> {
    let mut response = result.ok()?;
    let text = response.body_mut().read_to_string().ok()?;
    Some((
        response.status().as_u16(),
        serde_json::from_str(&text).ok()?,
    ))
}

/// Tries to register a node. Returns the round if that is acknowledged.
pub(crate) fn submit(agent: &ureq::Agent, url: &str, node: &TestNode) -> Option<u64> {
    let (_, params) = answer(agent.get(format!("{url}/v1/pow_params")).call())?;
    let params = &params["powParams"];
    let params = PowParams {
        difficulty: params["difficulty"].as_u64()?.try_into().ok()?,
        challenge: common::bytes(&params["challenge"]),
    };
    let request = node.request(&params).to_string();
    let (status, json) = answer(agent.post(format!("{url}/v1/submit")).send(request))?;
    match status {
        200 => json["roundId"].as_str()?.parse().ok(),
        // The parameters may have changed in between; the database may be slow.
        400 | 503 => None,
        _ => panic!("{status}: {json}"),
    }
}
