//! Protects the operator's listener from web pages.
//!
//! Everything that can reach its address can connect, including a browser on the same machine: a
//! web page could send requests to it, or point its own name at it. So a request must name one of
//! the listener's hosts, and must not come from a foreign page.

use std::net::IpAddr;

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header, uri::Authority},
    middleware::{self, Next},
    response::Response,
    routing::post,
};
use poet_proto::json;
use poet_rounds::worker::{Rehearsal, WorkerHandle};
use serde::Serialize;

use super::{client::Peer, error::ApiError, grpc, ok};

/// The requests to the worker that an operator may make.
pub(crate) fn router(worker: WorkerHandle) -> Router {
    Router::new()
        .route("/v1/rehearse", post(rehearse))
        .with_state(worker)
}

/// A [`Rehearsal`], with 64-bit numbers as strings, as in the rest of the interface.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rehearsed {
    round: String,
    leaves: String,
    members: String,
    threads: usize,
    proving_seconds: f64,
    verifying_seconds: f64,
    encoding_seconds: f64,
    end: String,
    served: String,
}

impl From<Rehearsal> for Rehearsed {
    fn from(rehearsal: Rehearsal) -> Self {
        Self {
            round: rehearsal.round.to_string(),
            leaves: rehearsal.leaves.to_string(),
            members: rehearsal.members.to_string(),
            threads: rehearsal.threads,
            proving_seconds: rehearsal.proving.as_secs_f64(),
            verifying_seconds: rehearsal.verifying.as_secs_f64(),
            encoding_seconds: rehearsal.encoding.as_secs_f64(),
            end: rehearsal.end.to_string(),
            served: rehearsal.served.to_string(),
        }
    }
}

async fn rehearse(State(worker): State<WorkerHandle>) -> Result<Response, ApiError> {
    let rehearsed = Rehearsed::from(worker.rehearse().await?);
    let mut response = ok(json::write(&rehearsed));
    let no_store = HeaderValue::from_static("no-store");
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, no_store);
    Ok(response)
}

/// Accepts only requests that name a host of the operator's listener. `listen_address` is the
/// configured address: `host:port`, or `:port`.
pub(crate) fn guard(router: Router, listen_address: &str) -> Router {
    let name = listen_address.rsplit_once(':').map_or("", |(host, _)| host);
    let name = name.to_ascii_lowercase();
    router.layer(middleware::from_fn_with_state(name, check))
}

async fn check(State(name): State<String>, request: Request, next: Next) -> Response {
    let local = request.extensions().get::<Peer>().map(|peer| peer.local);
    // Over HTTP/2, the authority precedes everything else.
    let authority = request.uri().authority().cloned().or_else(|| {
        let host = request.headers().get(header::HOST)?;
        Authority::try_from(host.as_bytes()).ok()
    });
    let allowed = match authority {
        Some(authority) if is_own(authority.host(), &name, local) => {
            let origin = own_origin(request.headers(), &authority);
            origin.then_some(()).ok_or(ApiError::ForeignOrigin)
        }
        _ => Err(ApiError::ForeignHost),
    };
    match allowed {
        Ok(()) => next.run(request).await,
        Err(error) => grpc::refuse(request.headers(), error),
    }
}

/// Returns whether a host is one of this listener's: `localhost`, the address that the connection
/// came to, a loopback address, or the configured name. Clients of a forwarded port use one of
/// these.
fn is_own(host: &str, name: &str, local: Option<IpAddr>) -> bool {
    let host = host.to_ascii_lowercase();
    let literal = host.trim_start_matches('[').trim_end_matches(']');
    match literal.parse::<IpAddr>() {
        Ok(address) => {
            let address = address.to_canonical();
            address.is_loopback() || local == Some(address)
        }
        Err(_) => host == "localhost" || (!name.is_empty() && host == name),
    }
}

/// Returns whether a request comes from no page, or from a page of this very host.
fn own_origin(headers: &HeaderMap, authority: &Authority) -> bool {
    headers.get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.to_str().unwrap_or_default();
        let page = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        page.is_some_and(|page| page.eq_ignore_ascii_case(authority.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let local: Option<IpAddr> = Some([192, 0, 2, 1].into());
        for host in [
            "localhost",
            "LocalHost",
            "127.0.0.1",
            "[::1]",
            "192.0.2.1",
            "operator.example",
        ] {
            assert!(is_own(host, "operator.example", local), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "192.0.2.2",
            "operator.example.evil",
            "2130706433",
        ] {
            assert!(!is_own(host, "operator.example", local), "{host}");
            assert!(!is_own(host, "", local), "{host}");
        }
    }

    #[test]
    fn origins() {
        let authority = Authority::from_static("localhost:50001");
        let own = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            own_origin(&headers, &authority)
        };
        assert!(own("http://localhost:50001") && own_origin(&HeaderMap::new(), &authority));
        for origin in [
            "null",
            "",
            "http://localhost:3000",
            "http://localhost",
            "http://evil.example",
        ] {
            assert!(!own(origin), "{origin}");
        }
    }
}
