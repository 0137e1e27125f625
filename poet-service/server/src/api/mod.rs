//! The interfaces: REST here, gRPC in [`grpc`], both in front of the same [`Poet`].
//!
//! The body of every request is read first: clients send `{}` with their GETs, and an unread body
//! would cost them their connection.

pub(crate) mod budget;
pub mod client;
mod connection;
mod cors;
pub(crate) mod dropped;
pub mod error;
pub mod grpc;
pub(crate) mod listen;
pub(crate) mod members;
pub(crate) mod operator;
pub mod patience;
pub mod poet;
pub(crate) mod proof_frame;
pub mod protocol;
mod range;
pub(crate) mod request_id;
pub(crate) mod rounds;
pub(crate) mod server;
pub(crate) mod slots;

use std::{error::Error, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody as _},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use poet_proto::{duration::parse_go, json};
use tonic::codegen::Service as _;

use self::{budget::OverBudget, error::ApiError, poet::Poet, range::Wanted};

/// The largest body that is accepted. A registration with a certificate takes about 1 KiB.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The first bytes of a body that is compressed with gzip.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Caches in front of the server may keep these for a short time: the challenge of the proof of
/// work changes once per round, and the one before stays valid.
const BRIEFLY: &str = "public, max-age=5";
/// The proof of a round never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The prefix of paths for nodes with a longer cycle gap; the gap and a path follow.
const GAP_PATH: &str = "/gap/";

/// The routes for nodes with one cycle gap, and `others` next to them.
fn routes(poet: Arc<Poet>, others: Router) -> Router {
    Router::new()
        .route("/v1/pow_params", get(pow_params))
        .route("/v1/submit", post(submit))
        .route("/v1/info", get(info))
        .route("/v1/proofs/", get(proof_without_id))
        .route("/v1/proofs/{id}", get(proof))
        .with_state(poet)
        .merge(others)
        .method_not_allowed_fallback(async || ApiError::Method)
}

/// The routes of the interface: those for the schedule's cycle gap with `others`, and those for
/// each longer one under its own path.
pub(crate) fn router(
    poet: Arc<Poet>,
    others: Router,
    early: impl IntoIterator<Item = (Duration, Arc<Poet>, Router)>,
) -> Router {
    let unknown = |router: Router| router.fallback(async || ApiError::UnknownPath);
    let routes_of = |(gap, poet, others)| (gap, unknown(routes(poet, others)));
    let early: Arc<[_]> = early.into_iter().map(routes_of).collect();
    let routes = routes(poet, others);
    let decoded = unknown(routes.clone());
    routes
        .fallback(async move |mut request: Request| {
            if let Some(uri) = without_escapes(request.uri()) {
                *request.uri_mut() = uri;
            }
            let mut router = decoded.clone();
            if let Some((gap, uri)) = within_gap(request.uri())
                && let Some((_, routes)) = early.iter().find(|(early, _)| *early == gap)
            {
                *request.uri_mut() = uri;
                router = routes.clone();
            }
            router.call(request).await
        })
        .layer(middleware::from_fn(read_body))
        .layer(middleware::from_fn(cors::share))
}

/// Splits a path after a cycle gap: `/gap/24h/v1/info` into `24h` and `/v1/info`.
pub(crate) fn split_gap(path: &str) -> Option<(&str, &str)> {
    let after = path.strip_prefix(GAP_PATH)?;
    Some(after.split_at(after.find('/')?))
}

/// Returns the cycle gap in an address, in any spelling that Go accepts, and the address without
/// it.
fn within_gap(uri: &Uri) -> Option<(Duration, Uri)> {
    let (gap, path) = split_gap(uri.path())?;
    let query = uri
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    Some((parse_go(gap).ok()?, format!("{path}{query}").parse().ok()?))
}

/// Returns the same address with the escapes in its path decoded, if it has any: `/v1/%69nfo`
/// becomes `/v1/info`.
pub(crate) fn without_escapes(uri: &Uri) -> Option<Uri> {
    let path = percent_decode_str(uri.path()).decode_utf8().ok()?;
    // The result would be no path, or would need to be decoded again.
    if path == uri.path() || path.contains(['?', '#', '%']) {
        return None;
    }
    let query = uri
        .query()
        .map_or(String::new(), |query| format!("?{query}"));
    format!("{path}{query}").parse().ok()
}

async fn read_body(request: Request, next: Next) -> Result<Response, ApiError> {
    let encoded = |headers: &HeaderMap| {
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    };
    if encoded(request.headers()) {
        return Err(ApiError::ContentEncoding);
    }
    let (parts, body) = read_whole_body(request).await?;
    if body.starts_with(&GZIP_MAGIC) {
        return Err(ApiError::ContentEncoding);
    }
    Ok(next.run(Request::from_parts(parts, body.into())).await)
}

/// Reads the body of a request, within the limits of size and time.
async fn read_whole_body(request: Request) -> Result<(Parts, Vec<u8>), ApiError> {
    let (parts, body) = request.into_parts();
    let body = tokio::time::timeout(BODY_TIMEOUT, read_to_end(body))
        .await
        .map_err(|_| ApiError::BodyTimeout)??;
    Ok((parts, body))
}

async fn read_to_end(body: Body) -> Result<Vec<u8>, ApiError> {
    // Refuses an announced length before the body is sent.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(ApiError::BodyTooLarge(MAX_BODY_BYTES));
    }
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    // Grows with what arrives, not with what is announced.
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                ApiError::BodyTooLarge(MAX_BODY_BYTES)
            } else if is_caused_by::<OverBudget>(&*error) {
                ApiError::OverBudget
            } else {
                ApiError::BodyIncomplete
            }
        })?;
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole)
}

fn is_caused_by<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    error.is::<E>() || error.source().is_some_and(is_caused_by::<E>)
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
        // Logged as a string, which is escaped: a reason may quote the client, and have several
        // lines.
        .inspect_err(|reason| {
            tracing::debug!(reason = reason.to_string(), "registration refused");
        })?;
    tracing::debug!(round = submitted.round, "registered");
    Ok(ok(json::submit_response(submitted)))
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
    // Ranges are ranges of the uncompressed content.
    let may_compress = accepts_gzip(&headers) && !headers.contains_key(header::RANGE);
    let json_gzip = proof.json_gzip.filter(|_| may_compress);
    let compressed = json_gzip.is_some();
    let (content, etag) = match json_gzip {
        Some(json_gzip) => (json_gzip, &proof.etag_gzip),
        None => (proof.json, &proof.etag),
    };
    // A client that has either form has the proof.
    let response = if knows(&headers, &proof.etag) || knows(&headers, &proof.etag_gzip) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let bytes = content.len();
        let mut response = match range::wanted(&headers, etag, bytes) {
            Wanted::Whole => ok(content),
            Wanted::Nothing => return Err(ApiError::Range { bytes }),
            Wanted::Part(part) => {
                let range = format!("bytes {}-{}/{bytes}", part.start, part.end - 1);
                let mut response = ok(content.slice(part));
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                if let Ok(range) = HeaderValue::from_str(&range) {
                    response.headers_mut().insert(header::CONTENT_RANGE, range);
                }
                response
            }
        };
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
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    Ok(response)
}

/// Returns whether the client accepts gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
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

/// Returns whether the client has the content with this entity tag.
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
    // The original server sends the second header, since its REST interface is a gateway to gRPC.
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

    #[tokio::test]
    async fn bodies_are_read_to_their_limit() {
        // A body that does not announce its length.
        let unannounced = |bytes: usize| {
            let parts = vec![b' '; bytes];
            let parts: Vec<_> = parts.chunks(1000).map(<[u8]>::to_vec).collect();
            let parts = parts.into_iter().map(Ok::<_, std::io::Error>);
            Body::from_stream(tonic::codegen::tokio_stream::iter(parts))
        };
        let announced = |bytes: usize| Body::from(vec![b' '; bytes]);
        for bytes in [0, 1, 60_000, MAX_BODY_BYTES] {
            for body in [unannounced(bytes), announced(bytes)] {
                assert_eq!(read_to_end(body).await.map(|body| body.len()), Ok(bytes));
            }
        }
        let too_large = Err(ApiError::BodyTooLarge(MAX_BODY_BYTES));
        for body in [
            unannounced(MAX_BODY_BYTES + 1),
            announced(MAX_BODY_BYTES + 1),
        ] {
            assert_eq!(read_to_end(body).await, too_large);
        }
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
