//! Request ids: each names a request in its response and in every log line about it.
//!
//! An id from a client or a proxy in `x-request-id` is kept, so that both logs can be compared;
//! other requests get a new one. Ids that could break a log line, or fill one, are ignored.

use std::{
    process,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};
use tracing::Instrument as _;

/// The header, in requests and responses.
const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id that is accepted.
const MAX_CHARS: usize = 128;

/// Names a request. Everything logged while it is answered has a span with its id.
pub(crate) async fn name(request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(make);
    // The id is printable: it was generated here, or checked.
    let text = id.to_str().unwrap_or_default();
    // Enabled at every level, because errors need it, too.
    let span = tracing::error_span!("request", id = text);
    let answered = async {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let start = Instant::now();
        let response = next.run(request).await;
        tracing::debug!(
            %method,
            path,
            status = response.status().as_u16(),
            took_ms = start.elapsed().as_secs_f64() * 1000.0,
            "answered"
        );
        response
    };
    let mut response = answered.instrument(span).await;
    response.headers_mut().insert(HEADER, id);
    response
}

/// Returns the id in the request, if it is usable.
fn given(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(HEADER)?;
    let usable = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:+/=@".contains(byte);
    let bytes = id.as_bytes();
    ((1..=MAX_CHARS).contains(&bytes.len()) && bytes.iter().all(usable)).then(|| id.clone())
}

/// Generates a unique id: a number for this process, and a number for the request.
fn make() -> HeaderValue {
    static PROCESS: LazyLock<u64> = LazyLock::new(|| {
        let mut random = [0; 8];
        match getrandom::fill(&mut random) {
            Ok(()) => u64::from_le_bytes(random),
            // The number need not be hard to guess.
            Err(_) => process::id().into(),
        }
    });
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = format!("{:016x}-{:x}", *PROCESS, NEXT.fetch_add(1, Relaxed));
    HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_kept_if_they_can_stand_in_a_log() {
        let long = "x".repeat(MAX_CHARS);
        let too_long = "x".repeat(MAX_CHARS + 1);
        for (id, kept) in [
            ("7", true),
            ("2c1d7e52-9a1b-4a53-8f0c-5d8d8c2f8d11", true),
            ("Root=1-67891233-abcdef012345678912345678", true),
            ("+/aB0_.:@==", true),
            (&long, true),
            ("", false),
            (&too_long, false),
            ("two words", false),
            ("\"quoted\"", false),
            ("tab\tbed", false),
            ("{id}", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, HeaderValue::from_str(id).unwrap());
            assert_eq!(given(&headers).is_some(), kept, "{id:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(b"caf\xe9").unwrap());
        assert_eq!(given(&headers), None);
        assert_eq!(given(&HeaderMap::new()), None);
    }

    #[test]
    fn made_ids_differ_and_would_be_kept() {
        let (one, other) = (make(), make());
        assert_ne!(one, other);
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, one.clone());
        assert_eq!(given(&headers), Some(one));
    }
}
