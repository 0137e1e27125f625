//! What people look at: a page for everybody at `/` of the REST listener, with a calendar, and one for
//! the operator at `/` of the operator's.
//!
//! A page is HTML that the server renders; without scripts it shows what was true then. Its script asks
//! for the same page every few seconds and takes the parts that have changed from it, so that there is
//! one place that says what is shown. A page is rendered at most once a second, however many look.

pub(crate) mod html;
pub(crate) mod operator;
mod picture;
mod plot;
pub(crate) mod public;

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use tokio::sync::Mutex;

use crate::api::accepts_gzip;

/// How old a page may be.
const PAGE_AGE: Duration = Duration::from_secs(1);
const BRIEFLY: &str = "public, max-age=1";
/// How long a browser may keep what does not change while a server runs.
const ASSETS: &str = "public, max-age=60";

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// Some text as it goes over the wire.
#[derive(Clone)]
pub(crate) struct Content {
    kind: &'static str,
    plain: Bytes,
    gzip: Bytes,
}

impl Content {
    pub(crate) fn new(kind: &'static str, text: String) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        // Nothing that is written to memory fails; were it so, an empty answer would tell.
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

/// Something that is rendered at most once a second, by the first who asks for it.
#[derive(Default)]
pub(crate) struct Rendered(Mutex<Option<(Instant, Content)>>);

impl Rendered {
    /// What is kept, or what `render` gives, on a thread where it may block.
    pub(crate) async fn answer(
        &self,
        headers: &HeaderMap,
        render: impl FnOnce() -> Content + Send + 'static,
    ) -> Response {
        let mut kept = self.0.lock().await;
        if let Some((since, content)) = &*kept
            && since.elapsed() < PAGE_AGE
        {
            return content.answer(headers, BRIEFLY);
        }
        match tokio::task::spawn_blocking(render).await {
            Ok(content) => {
                let response = content.answer(headers, BRIEFLY);
                *kept = Some((Instant::now(), content));
                response
            }
            Err(_) => crate::api::error::ApiError::Internal.into_response(),
        }
    }
}

/// What every page needs beside itself.
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
