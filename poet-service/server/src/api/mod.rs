//! The interfaces: REST here, gRPC in [`grpc`], both in front of the same
//! [`Poet`].
//!
//! Every request's body is read before the request is looked at: clients send `{}` with their
//! GETs, and a body that nobody reads would cost them their connection.

pub mod client;
mod connection;
pub mod error;
pub mod grpc;
pub mod poet;
pub(crate) mod proof_frame;
pub mod protocol;
pub(crate) mod request_id;
pub(crate) mod rounds;
pub mod server;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use poet_proto::json;
use tokio::sync::Semaphore;

use self::{error::ApiError, poet::Poet};

/// The largest body that is read. A registration with a certificate takes about 1 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read of a body at once; for the rest of larger ones, requests wait for their turn.
const SMALL_BODY_BYTES: u64 = 4 * 1024;
/// Larger bodies that are read at a time: 16 MiB.
static LARGE_BODIES: Semaphore = Semaphore::const_new(256);

/// Caches in front of the server may keep these for a little while: the challenge of the proof of
/// work changes once in a round, and the one before stays valid.
const BRIEFLY: &str = "public, max-age=5";
/// The proof of a round never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The routes of the interface, and `others` that are served beside them.
pub fn router(poet: Arc<Poet>, others: Router) -> Router {
    Router::new()
        .route("/v1/pow_params", get(pow_params))
        .route("/v1/submit", post(submit))
        .route("/v1/info", get(info))
        .route("/v1/proofs/", get(proof_without_id))
        .route("/v1/proofs/{id}", get(proof))
        .with_state(poet)
        .merge(others)
        .fallback(async || ApiError::UnknownPath)
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(middleware::from_fn(read_body))
}

async fn read_body(request: Request, next: Next) -> Result<Response, ApiError> {
    Ok(next.run(read_whole_body(request).await?).await)
}

/// Reads the body of a request, within its limits of size and time.
async fn read_whole_body(request: Request) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIMEOUT, read_to_end(body))
        .await
        .map_err(|_| ApiError::BodyTimeout)??;
    Ok(Request::from_parts(parts, Body::from(body)))
}

async fn read_to_end(body: Body) -> Result<Vec<u8>, ApiError> {
    let announced = body.size_hint().lower();
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let mut whole = Vec::new();
    // Thousands of clients that send as much as they may must not fill the memory. Nor may they keep
    // those waiting who send little, whether they say how little it is or not: over gRPC nobody does.
    let mut turn = None;
    loop {
        if turn.is_none() && announced.max(whole.len() as u64) > SMALL_BODY_BYTES {
            turn = LARGE_BODIES.acquire().await.ok();
            // Once, so that it takes no more than that.
            whole.reserve_exact(MAX_BODY_BYTES.saturating_sub(whole.len()));
        }
        let Some(frame) = body.frame().await else {
            return Ok(whole);
        };
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ApiError::BodyTooLarge(MAX_BODY_BYTES)
            } else {
                ApiError::BodyIncomplete
            }
        })?;
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
}

type Service = State<Arc<Poet>>;

async fn pow_params(State(poet): Service) -> Response {
    cached(ok(json::pow_params_response(&poet.pow_params())), BRIEFLY)
}

async fn info(State(poet): Service) -> Response {
    cached(ok(json::info_response(&poet.info())), BRIEFLY)
}

async fn submit(State(poet): Service, body: Bytes) -> Result<Response, ApiError> {
    let submitted = async {
        let request = json::submit_request(&body)?;
        Ok::<_, ApiError>(poet.submit(request).await?)
    };
    let submitted = submitted
        .await
        // As text, which is escaped: a reason may quote the client, and have more than one line.
        .inspect_err(|reason| {
            tracing::debug!(reason = reason.to_string(), "registration refused");
        })?;
    tracing::debug!(round = submitted.round, "registered");
    Ok(ok(json::submit_response(&submitted)))
}

async fn proof_without_id() -> ApiError {
    ApiError::ProofNotFound
}

async fn proof(
    State(poet): Service,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(|_| ApiError::ProofNotFound)?;
    let proof = poet.proof(&id).await?;
    let compressed = accepts_gzip(&headers);
    let (content, etag) = if compressed {
        (proof.json_gzip, &proof.etag_gzip)
    } else {
        (proof.json, &proof.etag)
    };
    // Whoever has one of the forms has the proof.
    let response = if knows(&headers, &proof.etag) || knows(&headers, &proof.etag_gzip) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let mut response = ok(content);
        if compressed {
            let gzip = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
        }
        response
    };
    let mut response = cached(response, FOR_EVER);
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// Whether the client says that it takes gzip.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let codings = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let mut any = false;
    for coding in codings {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").unwrap_or("1");
        // Zero, however it is written, means never.
        let accepted = weight
            .trim()
            .parse::<f32>()
            .is_ok_and(|weight| weight > 0.0);
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => return accepted,
            "*" => any = accepted,
            _ => {}
        }
    }
    any
}

/// Whether the client says that it has the content with this entity tag.
fn knows(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

fn ok(body: impl Into<Body>) -> Response {
    // The second header is the original server's, whose REST interface is a gateway to its gRPC.
    let headers = [
        ("content-type", "application/json"),
        ("grpc-metadata-content-type", "application/grpc"),
    ];
    (headers, body.into()).into_response()
}

fn cached(mut response: Response, how_long: &'static str) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static(how_long));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that does not say how long its body is.
    fn unannounced(bytes: usize) -> Request {
        let parts = vec![b' '; bytes];
        let parts: Vec<_> = parts.chunks(1000).map(<[u8]>::to_vec).collect();
        let parts = parts.into_iter().map(Ok::<_, std::io::Error>);
        Request::new(Body::from_stream(tonic::codegen::tokio_stream::iter(parts)))
    }

    #[tokio::test]
    async fn large_bodies_wait_for_their_turn_and_small_ones_do_not() {
        // Others are being read, as many as may be.
        let turns = LARGE_BODIES.available_permits() as u32;
        let taken = LARGE_BODIES.acquire_many(turns).await.unwrap();
        let small = read_whole_body(unannounced(4000)).await;
        assert_eq!(small.unwrap().into_body().size_hint().exact(), Some(4000));
        let announced = Request::new(Body::from(vec![b' '; 4000]));
        assert!(read_whole_body(announced).await.is_ok());

        let large = tokio::spawn(read_whole_body(unannounced(60_000)));
        let announced = Request::new(Body::from(vec![b' '; 60_000]));
        let announced = tokio::spawn(read_whole_body(announced));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!large.is_finished() && !announced.is_finished());
        drop(taken);
        for read in [large, announced] {
            let request = read.await.unwrap().unwrap();
            assert_eq!(request.into_body().size_hint().exact(), Some(60_000));
        }
        assert_eq!(LARGE_BODIES.available_permits() as u32, turns);
        let too_large = read_whole_body(unannounced(MAX_BODY_BYTES + 1)).await;
        assert_eq!(
            too_large.unwrap_err(),
            ApiError::BodyTooLarge(MAX_BODY_BYTES)
        );
    }

    #[test]
    fn gzip_is_negotiated() {
        for (value, accepted) in [
            ("gzip", true),
            ("GZIP", true),
            ("br, gzip;q=0.5", true),
            ("gzip; q=1.0", true),
            ("*", true),
            ("x-gzip", true),
            ("", false),
            ("identity", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000, *", false),
            ("*;q=0", false),
            ("gzip;q=much", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), accepted, "{value:?}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
