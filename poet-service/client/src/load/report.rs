//! The results: how long requests took, and what went wrong.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::{Serialize, Serializer};

/// The maximum number of kinds of errors; all others are counted together.
const KINDS: usize = 20;
/// How much of an error is shown.
const KIND_CHARS: usize = 160;

/// Durations, for percentiles: 4 bytes each.
#[derive(Default)]
pub(super) struct Latencies(Vec<u32>);

impl Latencies {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    pub(super) fn push(&mut self, latency: Duration) {
        self.0
            .push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn summary(mut self) -> Summary {
        self.0.sort_unstable();
        let at = |per_mille: usize| {
            let rank = (self.0.len() * per_mille).div_ceil(1000).max(1);
            let micros = self.0.get(rank - 1).copied().unwrap_or_default();
            Duration::from_micros(micros.into())
        };
        Summary {
            p50: at(500),
            p90: at(900),
            p99: at(990),
            max: at(1000),
        }
    }
}

/// The percentiles of durations; in JSON, in seconds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    #[serde(serialize_with = "seconds")]
    p50: Duration,
    #[serde(serialize_with = "seconds")]
    p90: Duration,
    #[serde(serialize_with = "seconds")]
    p99: Duration,
    #[serde(serialize_with = "seconds")]
    max: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            f,
            "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.max)
        )
    }
}

/// What went wrong, and how often.
#[derive(Default, Serialize)]
pub(super) struct Errors(BTreeMap<String, usize>);

impl Errors {
    pub(super) fn add(&mut self, error: &impl fmt::Display) {
        // Includes the causes of the error.
        let kind: String = format!("{error:#}").chars().take(KIND_CHARS).collect();
        let known = self.0.len() < KINDS || self.0.contains_key(&kind);
        let kind = if known { kind } else { "others".to_owned() };
        *self.0.entry(kind).or_default() += 1;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("errors      none");
        }
        let mut lead = "errors    ";
        for (kind, count) in &self.0 {
            write!(f, "{lead}{count:>8}  {kind}")?;
            lead = "\n          ";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut latencies = Latencies::default();
        for ms in (1..=1000).rev() {
            latencies.push(Duration::from_millis(ms));
        }
        assert_eq!(
            latencies.summary(),
            Summary {
                p50: Duration::from_millis(500),
                p90: Duration::from_millis(900),
                p99: Duration::from_millis(990),
                max: Duration::from_millis(1000),
            }
        );
        let mut one = Latencies::default();
        one.push(Duration::from_millis(7));
        assert_eq!(one.summary().p50, Duration::from_millis(7));
        assert_eq!(Latencies::default().summary().max, Duration::ZERO);
    }

    #[test]
    fn kinds_of_errors_are_bounded() {
        let mut errors = Errors::default();
        assert_eq!(errors.to_string(), "errors      none");
        for number in 0..100 {
            errors.add(&number);
            errors.add(&0);
        }
        assert_eq!(errors.0.len(), KINDS + 1);
        assert_eq!(errors.0["0"], 101);
        assert_eq!(errors.0["others"], 80);
    }
}
