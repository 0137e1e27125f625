//! Reads a round from a server of this kind over the network. The server is not trusted: every
//! response is limited in size and checked.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use poet_proto::{base64, identity::PublicKey};
use poet_rounds::storage::{Challenge, Member, NodeId};
use serde_json::Value;
use ureq::{
    Agent,
    tls::{Certificate, RootCerts, TlsConfig},
};

/// The longest time for a response, and its largest size.
const TIMEOUT: Duration = Duration::from_secs(60);
const MAX_BYTES: u64 = 4 << 20;
/// Members to request at a time: 1.2 MB.
const PAGE: usize = 10_000;
/// The maximum number of members to read: four times as many as are planned for.
const MAX_MEMBERS: usize = 1 << 22;

/// Why the round could not be read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error("it cannot be reached: expected a server that answers at this address")]
    Unreachable,
    #[error("it gives no complete answer within {} s, or one that is too long", TIMEOUT.as_secs())]
    Answer,
    #[error(
        "https needs trusted certificates, and this system has none: expected the package \
         ca-certificates, or SSL_CERT_FILE"
    )]
    NoCertificates,
    #[error("its certificate is not one that this system trusts")]
    Certificate,
    #[error("it answers {status} to {path}: expected a server of this kind, which lists members")]
    Status { path: String, status: u16 },
    #[error("its answer to {0} is not that of a server of this kind")]
    Form(String),
    #[error("the members that it lists are not complete, or not in order")]
    Members,
}

/// A round as a server describes it.
pub(super) struct FoundRound {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
    state: String,
}

impl FoundRound {
    pub(super) fn is_published(&self) -> bool {
        self.state == "published"
    }
}

/// A server.
pub(super) struct RemoteServer {
    url: String,
    agent: Agent,
}

impl RemoteServer {
    pub(super) fn new(url: &str) -> Result<Self, FetchError> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(TIMEOUT))
            .user_agent(concat!("poet-service/", env!("CARGO_PKG_VERSION")));
        if url.starts_with("https:") {
            config = config.tls_config(tls_config()?);
        }
        Ok(Self {
            url: url.to_owned(),
            agent: config.build().into(),
        })
    }

    /// Returns the server's key.
    pub(super) fn info(&self) -> Result<PublicKey, FetchError> {
        let path = "/v1/info";
        let info = self.get_known(path)?;
        node(&info["servicePubkey"])
            .and_then(|key| PublicKey::from_bytes(&key))
            .ok_or_else(|| FetchError::Form(path.to_owned()))
    }

    /// Returns the server's description of a round, if it knows it.
    pub(super) fn round(&self, round: u64) -> Result<Option<FoundRound>, FetchError> {
        let path = format!("/v1/rounds/{round}");
        let found = match self.get(&path)? {
            (404, _) => return Ok(None),
            (200, found) => found,
            (status, _) => return Err(FetchError::Status { path, status }),
        };
        let time = |name: &str| found[name].as_str()?.parse().ok();
        let read = || {
            Some(FoundRound {
                start: time("start")?,
                end: time("end")?,
                state: found["state"].as_str()?.to_owned(),
            })
        };
        read().map(Some).ok_or(FetchError::Form(path))
    }

    /// Reads the members of a round, page by page, if it is settled.
    pub(super) fn members(&self, round: u64) -> Result<Option<Vec<Member>>, FetchError> {
        let mut members: Vec<Member> = Vec::new();
        loop {
            let from = members.len();
            let path = format!("/v1/rounds/{round}/members?from={from}&limit={PAGE}");
            let page = match self.get(&path)? {
                (200, page) => page,
                // The round still takes registrations.
                (400, _) => return Ok(None),
                (status, _) => return Err(FetchError::Status { path, status }),
            };
            let read = || {
                let total: usize = page["total"].as_str()?.parse().ok()?;
                let member = |entry: &Value| {
                    Some(Member {
                        node_id: NodeId(node(&entry["nodeId"])?),
                        challenge: Challenge(node(&entry["challenge"])?),
                    })
                };
                let listed = page["members"].as_array()?.iter().map(member);
                Some((total, listed.collect::<Option<Vec<_>>>()?))
            };
            let (total, listed) = read().ok_or(FetchError::Form(path))?;
            members.extend(&listed);
            let complete = members.len() >= total;
            let ordered = members.is_sorted_by(|one, next| one.node_id < next.node_id);
            if !ordered || members.len() > total.min(MAX_MEMBERS) || listed.is_empty() && !complete
            {
                return Err(FetchError::Members);
            }
            if complete {
                return Ok(Some(members));
            }
        }
    }

    fn get_known(&self, path: &str) -> Result<Value, FetchError> {
        match self.get(path)? {
            (200, value) => Ok(value),
            (status, _) => Err(FetchError::Status {
                path: path.to_owned(),
                status,
            }),
        }
    }

    /// Returns the status of a response, and its JSON if that is 200.
    fn get(&self, path: &str) -> Result<(u16, Value), FetchError> {
        let response = self.agent.get(format!("{}{path}", self.url)).call();
        let mut response = response.map_err(|error| explain(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Ok((status, Value::Null));
        }
        let body = response.body_mut().with_config().limit(MAX_BYTES);
        let body = body.read_to_vec().map_err(|error| explain(&error))?;
        let json = serde_json::from_slice(&body);
        Ok((status, json.map_err(|_| FetchError::Form(path.to_owned()))?))
    }
}

fn node(value: &Value) -> Option<[u8; 32]> {
    base64::decode_bytes32(value.as_str()?)
}

fn explain(error: &ureq::Error) -> FetchError {
    match error {
        ureq::Error::Timeout(_) | ureq::Error::BodyExceedsLimit(_) => FetchError::Answer,
        ureq::Error::Io(error)
            if error
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            FetchError::Certificate
        }
        _ => FetchError::Unreachable,
    }
}

/// The system's trusted certificates (`SSL_CERT_FILE` names others).
fn tls_config() -> Result<TlsConfig, FetchError> {
    // An error means that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() {
        return Err(FetchError::NoCertificates);
    }
    let certificates = found
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates.collect())))
        .build())
}
