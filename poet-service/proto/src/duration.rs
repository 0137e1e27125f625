//! Durations in the two formats that clients and configurations of a PoET use: Go's (`336h`,
//! `1m30s`, `1.5h`) and that of the protobuf JSON mapping (`34.856404222s`).

use std::time::Duration;

use jiff::SignedDuration;

/// The longest duration that Go can hold: 2^63 - 1 nanoseconds, about 292 years.
const MAX_NANOS: u128 = i64::MAX as u128;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// How many digits of a fraction are used.
const MAX_FRACTION_DIGITS: usize = 24;

/// Why text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not in Go's syntax.
    #[error("expected a duration such as 336h, 1m30s or 100ms")]
    Syntax,
    /// A number without a unit.
    #[error("the unit is missing: expected a duration such as 336h, 1m30s or 100ms")]
    MissingUnit,
    /// Negative where a length of time is required.
    #[error("expected a duration that is not negative")]
    Negative,
    /// Longer than 292 years.
    #[error("expected a duration of at most 2562047h")]
    TooLong,
}

/// Parses Go's syntax: a sequence of decimal numbers, each with an optional fraction and a unit
/// (`ns`, `us`, `µs`, `ms`, `s`, `m`, `h`), or a bare `0`.
///
/// # Errors
/// Fails if `text` does not follow this syntax, is negative, or exceeds Go's range.
pub fn parse_go(text: &str) -> Result<Duration, DurationError> {
    let unsigned = match text.as_bytes().first() {
        Some(b'-') => return Err(DurationError::Negative),
        Some(b'+') => &text[1..],
        _ => text,
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(DurationError::Syntax);
    }
    let mut rest = unsigned;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(DurationError::Syntax);
        }
        let unit_end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_nanos: u128 = match unit {
            "" => return Err(DurationError::MissingUnit),
            "ns" => 1,
            // The micro sign and the Greek letter: both are in use.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => NANOS_PER_SECOND,
            "m" => 60 * NANOS_PER_SECOND,
            "h" => 3_600 * NANOS_PER_SECOND,
            _ => return Err(DurationError::Syntax),
        };
        let whole = whole.trim_start_matches('0');
        if whole.len() > 19 {
            return Err(DurationError::TooLong);
        }
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| DurationError::Syntax)?
        };
        nanos += whole * unit_nanos;
        if !fraction.is_empty() {
            // This many digits of an hour fit 128 bits; later digits do not change the result.
            let fraction = &fraction[..fraction.len().min(MAX_FRACTION_DIGITS)];
            let parts: u128 = fraction.parse().map_err(|_| DurationError::Syntax)?;
            nanos += parts * unit_nanos / 10_u128.pow(fraction.len() as u32);
        }
        if nanos > MAX_NANOS {
            return Err(DurationError::TooLong);
        }
        rest = after;
    }
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| DurationError::TooLong)?;
    let subsecond = u32::try_from(nanos % NANOS_PER_SECOND).map_err(|_| DurationError::TooLong)?;
    Ok(Duration::new(seconds, subsecond))
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len()),
    )
}

/// Formats for people, with the two greatest units: `13 days 12 h`, `4 h 5 min`, `2 min 7 s`, `9
/// s`. Fractions of a second are dropped.
pub fn in_words(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let two = |great: String, small: u64, unit: &str| match small {
        0 => great,
        _ => format!("{great} {small} {unit}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => two(format!("{minutes} min"), seconds % 60, "s"),
        (0, _, _) => two(format!("{hours} h"), minutes % 60, "min"),
        (1, _, _) => two("1 day".to_owned(), hours % 24, "h"),
        _ => two(format!("{days} days"), hours % 24, "h"),
    }
}

/// Formats as Go does: `336h0m0s`, `1m30s`, `1.5s`, `100ms`, `0s`.
pub fn format_go(duration: Duration) -> String {
    let nanos = duration.subsec_nanos();
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => {
                format!(
                    "{}\u{b5}s",
                    with_fraction(u64::from(nanos / 1_000), nanos % 1_000, 3)
                )
            }
            _ => format!(
                "{}ms",
                with_fraction(u64::from(nanos / 1_000_000), nanos % 1_000_000, 6)
            ),
        };
    }
    let last = with_fraction(seconds % 60, nanos, 9);
    let minutes = seconds / 60 % 60;
    match seconds / 3600 {
        0 if minutes == 0 => format!("{last}s"),
        0 => format!("{minutes}m{last}s"),
        hours => format!("{hours}h{minutes}m{last}s"),
    }
}

fn with_fraction(whole: u64, fraction: u32, digits: usize) -> String {
    if fraction == 0 {
        return whole.to_string();
    }
    let text = format!("{whole}.{fraction:0digits$}");
    text.trim_end_matches('0').to_owned()
}

/// Formats as protobuf's JSON mapping does: seconds with 0, 3, 6 or 9 fractional digits.
pub fn format_proto(duration: SignedDuration) -> String {
    let sign = if duration.is_negative() { "-" } else { "" };
    let magnitude = duration.unsigned_abs();
    let (seconds, nanos) = (magnitude.as_secs(), magnitude.subsec_nanos());
    if nanos == 0 {
        format!("{sign}{seconds}s")
    } else if nanos.is_multiple_of(1_000_000) {
        format!("{sign}{seconds}.{:03}s", nanos / 1_000_000)
    } else if nanos.is_multiple_of(1_000) {
        format!("{sign}{seconds}.{:06}s", nanos / 1_000)
    } else {
        format!("{sign}{seconds}.{nanos:09}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (seconds, words) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (127, "2 min 7 s"),
            (3_600, "1 h"),
            (14_700, "4 h 5 min"),
            (86_400, "1 day"),
            (90_001, "1 day 1 h"),
            (1_166_400, "13 days 12 h"),
            (u64::MAX, "213503982334601 days 7 h"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
    }

    #[test]
    fn parses_what_go_parses() {
        let cases: [(&str, u128); 23] = [
            ("0", 0),
            ("+0", 0),
            ("5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("336h", 336 * 3_600_000_000_000),
            ("1m30s", 90_000_000_000),
            ("100ms", 100_000_000),
            ("5.0s", 5_000_000_000),
            ("5.6s", 5_600_000_000),
            ("5.s", 5_000_000_000),
            (".5s", 500_000_000),
            ("1.5h", 5_400_000_000_000),
            ("10ns", 10),
            ("11us", 11_000),
            ("12\u{b5}s", 12_000),
            ("12\u{3bc}s", 12_000),
            ("3h30m", 12_600_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("0.100000000000000000000h", 360_000_000_000),
            ("9223372036854775807ns", i64::MAX as u128),
            ("00000000000000000000001h", 3_600_000_000_000),
            ("14.00000738132086h", 50_400_026_572_755),
            ("1.99999999999999999999999999999999999999m", 119_999_999_999),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_go(text).map(|d| d.as_nanos()), Ok(nanos), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        use DurationError::{MissingUnit, Negative, Syntax, TooLong};
        let cases = [
            ("", Syntax),
            ("3", MissingUnit),
            ("-3s", Negative),
            ("s", Syntax),
            (".", Syntax),
            (".s", Syntax),
            ("+.s", Syntax),
            ("1d", Syntax),
            ("1 s", Syntax),
            ("1m s", Syntax),
            ("1h30", MissingUnit),
            ("abc", Syntax),
            ("9223372036854775808ns", TooLong),
            ("3000000h", TooLong),
            ("99999999999999999999999999999999999999999h", TooLong),
        ];
        for (text, error) in cases {
            assert_eq!(parse_go(text), Err(error), "{text}");
        }
    }

    #[test]
    fn formats_as_go_and_reads_its_own_output() {
        let cases = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1\u{b5}s"),
            (2_200_000, "2.2ms"),
            (100_000_000, "100ms"),
            (3_300_000_000, "3.3s"),
            (90_000_000_000, "1m30s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (1_209_600_000_000_000, "336h0m0s"),
        ];
        for (nanos, text) in cases {
            let duration = Duration::from_nanos(nanos);
            assert_eq!(format_go(duration), text);
            assert_eq!(parse_go(text), Ok(duration), "{text}");
        }
    }

    #[test]
    fn formats_as_protobuf_json() {
        let cases = [
            (0, "0s"),
            (16_000_000_000, "16s"),
            (34_856_404_222, "34.856404222s"),
            (34_500_000_000, "34.500s"),
            (34_500_010_000, "34.500010s"),
            (-1_500_000_000, "-1.500s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(format_proto(SignedDuration::from_nanos(nanos)), text);
        }
    }
}
