//! Range requests, so that an interrupted download can resume.

use std::ops::Range;

use axum::http::{HeaderMap, header};

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The whole content: no range or several are requested, or the content has changed.
    Whole,
    /// These bytes.
    Part(Range<usize>),
    /// Bytes beyond the end.
    Nothing,
}

/// Returns what a request asks for, of content with this entity tag and length.
pub(super) fn wanted(headers: &HeaderMap, etag: &str, bytes: usize) -> Wanted {
    let Some(range) = headers.get(header::RANGE).and_then(|it| it.to_str().ok()) else {
        return Wanted::Whole;
    };
    // A client with the beginning of other content needs all of this.
    let same = |condition: &[u8]| condition == etag.as_bytes();
    if !headers
        .get(header::IF_RANGE)
        .is_none_or(|it| same(it.as_bytes()))
    {
        return Wanted::Whole;
    }
    match parse(range, bytes) {
        // An unknown range is ignored.
        None => Wanted::Whole,
        Some(range) if range.is_empty() => Wanted::Nothing,
        Some(range) => Wanted::Part(range),
    }
}

/// Returns the bytes that `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT` names; an empty
/// range if they are beyond the end. Returns `None` for everything else, including lists of ranges.
fn parse(range: &str, bytes: usize) -> Option<Range<usize>> {
    let (unit, range) = range.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = range.trim().split_once('-')?;
    match (first, last) {
        ("", count) => Some(bytes - number(count)?.min(bytes)..bytes),
        (first, "") => Some(number(first)?.min(bytes)..bytes),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then(|| first.min(bytes)..last.saturating_add(1).min(bytes))
        }
    }
}

/// Parses a number of any length: one that is too large is beyond every end.
fn number(digits: &str) -> Option<usize> {
    let all = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    all.then(|| digits.parse().unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, wanted) in [
            ("bytes=0-0", Some(0..1)),
            ("bytes=10-19", Some(10..20)),
            ("BYTES = 10-19", Some(10..20)),
            ("bytes=10-", Some(10..100)),
            ("bytes=90-1000", Some(90..100)),
            ("bytes=99-99999999999999999999999", Some(99..100)),
            ("bytes=-1", Some(99..100)),
            ("bytes=-1000", Some(0..100)),
            ("bytes=-0", Some(100..100)),
            ("bytes=100-", Some(100..100)),
            ("bytes=100-200", Some(100..100)),
            ("bytes=99999999999999999999999-", Some(100..100)),
            ("bytes=5-4", None),
            ("bytes=0-1,5-6", None),
            ("bytes=", None),
            ("bytes=-", None),
            ("bytes=+1-2", None),
            ("bytes=a-b", None),
            ("lines=1-2", None),
            ("bytes 1-2", None),
        ] {
            assert_eq!(parse(text, 100), wanted, "{text}");
        }
        assert_eq!(parse("bytes=0-", 0), Some(0..0));
    }
}
