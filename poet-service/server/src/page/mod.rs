//! The web pages: a public one at `/` of the REST listener, with a calendar, and one for the
//! operator at `/` of the operator's listener.
//!
//! A page is HTML that the server renders; without scripts it shows the state at that time. Its
//! script fetches the same page every few seconds and takes the changed parts from it, so that only
//! one place decides what is shown. However many readers there are, a page is rendered at most once
//! a second.

pub(crate) mod html;
pub(crate) mod operator;
mod picture;
mod plot;
pub(crate) mod public;

use std::{io::Write as _, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use poet_rounds::clock::Clock;
use tokio::sync::Mutex;

use crate::api::accepts_gzip;

/// The maximum age of a page.
const PAGE_AGE: Duration = Duration::from_secs(1);
const BRIEFLY: &str = "public, max-age=1";
/// How long a browser may cache what does not change while a server runs.
const ASSETS: &str = "public, max-age=60";

/// Allows nothing from elsewhere, nothing inline, and no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// A text in the forms in which it is sent.
#[derive(Clone)]
pub(crate) struct Content {
    kind: &'static str,
    plain: Bytes,
    gzip: Bytes,
}

impl Content {
    pub(crate) fn new(kind: &'static str, text: String) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Writing to memory cannot fail; if it did, the response would be empty.
        drop(encoder.write_all(text.as_bytes()));
        Self {
            kind,
            gzip: encoder.finish().unwrap_or_default().into(),
            plain: text.into(),
        }
    }

    pub(crate) fn html(text: String) -> Self {
        Self::new("text/html; charset=utf-8", text)
    }

    fn answer(&self, headers: &HeaderMap, keep: &'static str) -> Response {
        let compressed = accepts_gzip(headers);
        let body = match compressed {
            true => self.gzip.clone(),
            false => self.plain.clone(),
        };
        let fixed = [
            (header::CONTENT_TYPE, self.kind),
            (header::CACHE_CONTROL, keep),
            (header::VARY, "accept-encoding"),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        let mut response = (fixed, body).into_response();
        if compressed {
            let gzip = HeaderValue::from_static("gzip");
            response
                .headers_mut()
                .insert(header::CONTENT_ENCODING, gzip);
        }
        response
    }
}

/// A page that is rendered at most once a second, by the first request for it.
pub(crate) struct Rendered {
    clock: Arc<dyn Clock>,
    /// The page, and when it was rendered.
    kept: Mutex<Option<(Duration, Content)>>,
}

impl Rendered {
    pub(crate) fn new(clock: &Arc<dyn Clock>) -> Self {
        Self {
            clock: Arc::clone(clock),
            kept: Mutex::default(),
        }
    }

    /// Returns the cached page, or the result of `render`, which may block.
    pub(crate) async fn answer(
        &self,
        headers: &HeaderMap,
        render: impl FnOnce() -> Content + Send + 'static,
    ) -> Response {
        let mut kept = self.kept.lock().await;
        if let Some((since, content)) = &*kept
            && self.clock.monotonic().saturating_sub(*since) < PAGE_AGE
        {
            return content.answer(headers, BRIEFLY);
        }
        match tokio::task::spawn_blocking(render).await {
            Ok(content) => {
                let response = content.answer(headers, BRIEFLY);
                *kept = Some((self.clock.monotonic(), content));
                response
            }
            Err(_) => crate::api::error::ApiError::Internal.into_response(),
        }
    }
}

/// The files that every page uses.
fn assets() -> Router {
    let asset = |kind, text: &str| {
        let content = Content::new(kind, text.to_owned());
        get(async move |headers: HeaderMap| content.answer(&headers, ASSETS))
    };
    Router::new()
        .route(
            "/page.css",
            asset("text/css; charset=utf-8", include_str!("page.css")),
        )
        .route(
            "/page.js",
            asset("text/javascript; charset=utf-8", include_str!("page.js")),
        )
        .route(
            "/page.svg",
            asset("image/svg+xml", include_str!("page.svg")),
        )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use poet_rounds::clock::ManualClock;

    use super::*;

    #[tokio::test]
    async fn a_page_is_rendered_once_a_second() {
        let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
        let page = Rendered::new(&(clock.clone() as Arc<dyn Clock>));
        let ask = async |text: &'static str| {
            let render = move || Content::html(text.to_owned());
            let answer = page.answer(&HeaderMap::new(), render).await;
            axum::body::to_bytes(answer.into_body(), 100).await.unwrap()
        };
        assert_eq!(ask("first").await, "first");
        assert_eq!(ask("second").await, "first");
        clock.pass(PAGE_AGE);
        assert_eq!(ask("third").await, "third");
    }
}
