//! Lets web pages of other sites read what everybody may read, so that a status page can show any
//! server.
//!
//! Requests that change something are excluded: no web page may register a node.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

/// The response headers that pages may read.
const EXPOSED: &str = "accept-ranges, content-range, etag, retry-after, x-request-id";

pub(super) async fn share(request: Request, next: Next) -> Response {
    if asks_to_read(request.method(), request.headers()) {
        let headers = [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD"),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
            (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        ];
        return (StatusCode::NO_CONTENT, headers).into_response();
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = next.run(request).await;
    if reads {
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
            (header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
    }
    response
}

/// Returns whether a browser asks if a page may read something.
fn asks_to_read(method: &Method, headers: &HeaderMap) -> bool {
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
    *method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && asked.is_some_and(|method| [&b"GET"[..], b"HEAD"].contains(&method.as_bytes()))
}
