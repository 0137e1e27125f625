//! The metrics page, in the formats that clients ask for.

use std::{fmt, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};

use super::{Metrics, ServerState};

/// Serves the metrics at `/metrics`.
pub(crate) fn router(metrics: &Metrics, state: ServerState) -> Router {
    let registry = Arc::new(metrics.registry(state));
    Router::new()
        .route("/metrics", get(scrape))
        .with_state(registry)
}

async fn scrape(State(registry): State<Arc<Registry>>, headers: HeaderMap) -> Response {
    let open_metrics = accepts_open_metrics(&headers);
    // Reads the sizes of files, so it blocks.
    let encoded = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok::<_, fmt::Error>(match open_metrics {
            true => text,
            false => plain(&text),
        })
    });
    match encoded.await {
        Ok(Ok(text)) => {
            let kind = match open_metrics {
                true => "application/openmetrics-text; version=1.0.0; charset=utf-8",
                false => "text/plain; version=0.0.4; charset=utf-8",
            };
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Returns whether the client accepts OpenMetrics, as Prometheus does.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("application/openmetrics-text"))
}

/// Converts OpenMetrics to the older text format, which all other tools read, and which is the only
/// one of the original server. There, a counter has the name of its sample, whole bounds are
/// written without a fraction, and there is no end marker.
fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if line.starts_with("# HELP ") {
            // Printed when the type is known.
            help = line;
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|described| described.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let (start, meaning) = help.split_at(help.len().min("# HELP ".len() + name.len()));
            text += &format!("{start}{suffix}{meaning}\n# TYPE {name}{suffix} {kind}\n");
        } else if let Some((name, rest)) = line.split_once("_bucket{le=\"") {
            let (bound, rest) = rest.split_once('"').unwrap_or((rest, ""));
            let bound = bound.strip_suffix(".0").unwrap_or(bound);
            text += &format!("{name}_bucket{{le=\"{bound}\"{rest}\n");
        } else if line != "# EOF" {
            text += line;
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use poet_rounds::counters::Counters as _;

    use super::*;

    #[test]
    fn the_older_format() {
        let mut registry = Registry::default();
        let metrics = Metrics::default();
        registry.register("poet_count", "Things", metrics.with_pow.clone());
        registry.register("poet_seconds", "Times", metrics.handling.clone());
        registry.register("poet_late", "How late", metrics.lateness.clone());
        metrics.registration_with_pow(true);
        metrics.handled("s", "m", "OK", Duration::from_millis(700));
        let mut text = String::new();
        text::encode(&mut text, &registry).unwrap();
        let labels = "grpc_service=\"s\",grpc_method=\"m\",grpc_type=\"unary\"";
        let expected = [
            "# HELP poet_count_total Things.",
            "# TYPE poet_count_total counter",
            "poet_count_total{result=\"valid\"} 1",
            "# HELP poet_seconds Times.",
            "# TYPE poet_seconds histogram",
            &format!("poet_seconds_sum{{{labels}}} 0.7"),
            &format!("poet_seconds_count{{{labels}}} 1"),
        ]
        .join("\n");
        let plain = plain(&text);
        assert!(plain.starts_with(&(expected + "\n")), "{plain}");
        for (bound, count) in [("0.0005", 0), ("0.5", 0), ("1", 1), ("10", 1), ("+Inf", 1)] {
            let sample = format!("\npoet_seconds_bucket{{le=\"{bound}\",{labels}}} {count}\n");
            assert!(plain.contains(&sample), "{sample}: {plain}");
        }
        let end = "# HELP poet_late How late.\n# TYPE poet_late gauge\npoet_late 0.0\n";
        assert!(plain.ends_with(end), "{plain}");
    }

    #[test]
    fn formats_are_negotiated() {
        let accepts = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            accepts_open_metrics(&headers)
        };
        // The header that Prometheus sends.
        assert!(accepts(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4"
        ));
        for other in ["*/*", "text/plain", "text/plain;version=0.0.4", ""] {
            assert!(!accepts(other), "{other}");
        }
        assert!(!accepts_open_metrics(&HeaderMap::new()));
    }
}
