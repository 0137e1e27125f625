//! Protobuf's timestamps, and their text form as Go reads it.

use std::ops::RangeInclusive;

use jiff::{Timestamp, civil::Date};

/// The years 1 to 9999.
const SECONDS: RangeInclusive<i64> = GO_ZERO_TIME..=253_402_300_799;

/// 0001-01-01T00:00:00Z: what Go's clients send for an unset time.
const GO_ZERO_TIME: i64 = -62_135_596_800;

const NANOS: RangeInclusive<i32> = 0..=999_999_999;

const EPOCH: Date = Date::constant(1970, 1, 1);

/// A valid `google.protobuf.Timestamp`: seconds of the years 1 to 9999, and nanoseconds that count
/// forward from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtoTimestamp {
    seconds: i64,
    nanos: i32,
}

impl ProtoTimestamp {
    /// Returns a timestamp from its fields; `None` if protobuf does not allow them.
    pub fn new(seconds: i64, nanos: i32) -> Option<Self> {
        (SECONDS.contains(&seconds) && NANOS.contains(&nanos)).then_some(Self { seconds, nanos })
    }

    /// Parses what the Go server accepts as RFC 3339: a capital `T` and `Z`, no second 60, an
    /// offset of at most 24:60. Like Go, accepts an hour of one digit and a comma in place of the
    /// point.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = Rest(text.as_bytes());
        let year = rest.number(4..=4)?;
        rest.one_of(b"-")?;
        let month = rest.number(2..=2)?;
        rest.one_of(b"-")?;
        let day = rest.number(2..=2)?;
        rest.one_of(b"T")?;
        let hour = rest.number(1..=2).filter(|hour| *hour < 24)?;
        rest.one_of(b":")?;
        let minute = rest.number(2..=2).filter(|minute| *minute < 60)?;
        rest.one_of(b":")?;
        let second = rest.number(2..=2).filter(|second| *second < 60)?;
        let nanos = rest.fraction()?;
        let offset = match rest.one_of(b"Z+-")? {
            b'Z' => 0,
            sign => {
                let hours = rest.number(2..=2).filter(|hours| *hours <= 24)?;
                rest.one_of(b":")?;
                let minutes = rest.number(2..=2).filter(|minutes| *minutes <= 60)?;
                let offset = i64::from(hours) * 3600 + i64::from(minutes) * 60;
                if sign == b'-' { -offset } else { offset }
            }
        };
        if !rest.0.is_empty() {
            return None;
        }
        let date = Date::new(
            i16::try_from(year).ok()?,
            i8::try_from(month).ok()?,
            i8::try_from(day).ok()?,
        )
        .ok()?;
        let days = date.duration_since(EPOCH).as_secs();
        let time = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
        Self::new(days + time - offset, nanos)
    }

    /// Returns the time; `None` if it is in the last hours of the year 9999, which the schedule does
    /// not reach.
    pub fn time(self) -> Option<Timestamp> {
        Timestamp::new(self.seconds, self.nanos).ok()
    }

    /// Returns this time as a deadline; `None` if it is Go's zero time. A time in the last hours of
    /// the year 9999, which the schedule does not reach, counts as the latest time of the schedule.
    pub fn deadline(self) -> Option<Timestamp> {
        if (self.seconds, self.nanos) == (GO_ZERO_TIME, 0) {
            return None;
        }
        Some(Timestamp::new(self.seconds, self.nanos).unwrap_or(Timestamp::MAX))
    }
}

/// The rest of the text to parse.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    /// Takes the next byte, which must be one of `expected`.
    fn one_of(&mut self, expected: &[u8]) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        if !expected.contains(first) {
            return None;
        }
        self.0 = rest;
        Some(*first)
    }

    /// Takes a number with this many digits, as many as there are.
    fn number(&mut self, digits: RangeInclusive<usize>) -> Option<u32> {
        let count = self.digits().min(*digits.end());
        if count < *digits.start() {
            return None;
        }
        let (number, rest) = self.0.split_at(count);
        self.0 = rest;
        Some(
            number
                .iter()
                .fold(0, |number, digit| number * 10 + u32::from(digit - b'0')),
        )
    }

    /// Takes a fraction, if any, and returns its nanoseconds. Only after a comma may it have more
    /// than nine digits; the first nine count.
    fn fraction(&mut self) -> Option<i32> {
        let Some(separator @ (b'.' | b',')) = self.0.first().copied() else {
            return Some(0);
        };
        self.0 = &self.0[1..];
        let count = self.digits();
        if count == 0 || (separator == b'.' && count > 9) {
            return None;
        }
        let (digits, rest) = self.0.split_at(count);
        self.0 = rest;
        let padded = digits.iter().chain(std::iter::repeat(&b'0')).take(9);
        Some(padded.fold(0, |nanos, digit| nanos * 10 + i32::from(digit - b'0')))
    }

    /// The number of digits that come next.
    fn digits(&self) -> usize {
        self.0
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        for (text, seconds, nanos) in [
            ("1970-01-01T00:00:00Z", 0, 0),
            ("2099-06-01T00:00:00Z", 4_083_955_200, 0),
            ("2099-01-01T00:00:00.5+01:00", 4_070_905_200, 500_000_000),
            (
                "2024-02-29T23:59:59.123456789-00:30",
                1_709_252_999,
                123_456_789,
            ),
            ("0001-01-01T00:00:00Z", GO_ZERO_TIME, 0),
            (
                "9999-12-31T23:59:59.999999999Z",
                253_402_300_799,
                999_999_999,
            ),
            ("2099-06-01T1:00:00Z", 4_083_958_800, 0),
            ("2099-06-01T00:00:00,5Z", 4_083_955_200, 500_000_000),
            (
                "2099-06-01T00:00:00,1234567891Z",
                4_083_955_200,
                123_456_789,
            ),
            ("2099-06-02T00:00:00+24:00", 4_083_955_200, 0),
            ("2099-06-01T01:00:00+00:60", 4_083_955_200, 0),
        ] {
            let expected = ProtoTimestamp::new(seconds, nanos);
            assert_eq!(ProtoTimestamp::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in [
            "",
            "tomorrow",
            "2099-06-01",
            "2099-06-01 00:00:00Z",
            "2099-06-01t00:00:00Z",
            "2099-06-01T00:00:00z",
            "2099-06-01T00:00:00",
            "2099-06-01T00:00Z",
            "2099-06-01T00:00:00+25:00",
            "2099-06-01T00:00:00+00:61",
            "2099-06-01T00:00:00+0100",
            "2099-06-01T00:00:00+01",
            "2099-06-01T00:00:00Z ",
            " 2099-06-01T00:00:00Z",
            "2099-06-01T00:00:00Z[UTC]",
            "2099-06-01T24:00:00Z",
            "2099-06-01T00:60:00Z",
            "2016-12-31T23:59:60Z",
            "2099-02-29T00:00:00Z",
            "2099-13-01T00:00:00Z",
            "2099-00-01T00:00:00Z",
            "2099-06-00T00:00:00Z",
            "2099-6-01T00:00:00Z",
            "2099-06-1T00:00:00Z",
            "2099-06-01T00:0:00Z",
            "2099-06-01T00:00:00.Z",
            "2099-06-01T00:00:00.1234567890Z",
            "+002099-06-01T00:00:00Z",
            "-2099-06-01T00:00:00Z",
            "99999-06-01T00:00:00Z",
            "0000-12-31T23:59:59Z",
            "0001-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "2099\u{2010}06-01T00:00:00Z",
        ] {
            assert_eq!(ProtoTimestamp::parse(text), None, "{text}");
        }
    }

    #[test]
    fn fields_that_protobuf_does_not_allow_are_refused() {
        for (seconds, nanos) in [
            (GO_ZERO_TIME - 1, 0),
            (253_402_300_800, 0),
            (i64::MIN, 0),
            (i64::MAX, 0),
            (0, -1),
            (0, 1_000_000_000),
        ] {
            assert_eq!(
                ProtoTimestamp::new(seconds, nanos),
                None,
                "{seconds} {nanos}"
            );
        }
    }

    #[test]
    fn deadlines() {
        let deadline = |text: &str| ProtoTimestamp::parse(text).unwrap().deadline();
        assert_eq!(deadline("0001-01-01T00:00:00Z"), None);
        assert_eq!(deadline("0001-01-01T01:00:00+01:00"), None);
        for text in ["0001-01-01T00:00:00.000000001Z", "1969-12-31T23:59:59.5Z"] {
            assert_eq!(deadline(text), Some(text.parse().unwrap()), "{text}");
        }
        for text in ["9999-12-31T00:00:00Z", "9999-12-31T23:59:59.999999999Z"] {
            assert_eq!(deadline(text), Some(Timestamp::MAX), "{text}");
        }
    }
}
