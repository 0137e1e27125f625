//! The fields of responses, written as protobuf's JSON mapping demands and read leniently, since
//! another server may have written them: `null` for no bytes, base64 in either alphabet, numbers as
//! strings or not. Lists are limited in length.

use std::{fmt, marker::PhantomData, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Unexpected, Visitor},
};

use crate::{
    base64::{decode_bytes32, decode_lenient, encode},
    duration::{format_proto, parse_go},
    member::Challenge,
};

const BYTES: &str = "base64";
const NUMBER: &str = "a whole number from 0 to 2^64 - 1";
const DURATION: &str = "a duration such as 34.8s";
const TIME: &str = "a time in RFC 3339, such as 2026-01-31T12:00:00Z";

/// Reads a value from text, without copying the text.
struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Option<T>,
    number: Option<fn(u64) -> T>,
    null: Option<fn() -> T>,
}

impl<T> Text<T> {
    fn new(expected: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self {
            expected,
            parse,
            number: None,
            null: None,
        }
    }
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).ok_or_else(|| E::invalid_value(Unexpected::Other("other text"), &self))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        match self.number {
            Some(read) => Ok(read(number)),
            None => Err(E::invalid_type(Unexpected::Unsigned(number), &self)),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        match self.null {
            Some(read) => Ok(read()),
            None => Err(E::invalid_type(Unexpected::Unit, &self)),
        }
    }
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text {
            null: Some(Bytes::default),
            ..Text::new(BYTES, |text| decode_lenient(text).map(Bytes))
        };
        deserializer.deserialize_any(text)
    }
}

/// Bytes that are usually 32 in number, which are then not allocated.
enum AboutBytes32 {
    Exactly([u8; 32]),
    Other(Vec<u8>),
}

impl<'de> Deserialize<'de> for AboutBytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text {
            null: Some(|| Self::Other(Vec::new())),
            ..Text::new(BYTES, |text| match decode_bytes32(text) {
                Some(bytes) => Some(Self::Exactly(bytes)),
                None => decode_lenient(text).map(Self::Other),
            })
        };
        deserializer.deserialize_any(text)
    }
}

/// 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bytes32(pub [u8; 32]);

impl Serialize for Bytes32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match AboutBytes32::deserialize(deserializer)? {
            AboutBytes32::Exactly(bytes) => Ok(Self(bytes)),
            AboutBytes32::Other(bytes) => match bytes.as_slice().try_into() {
                Ok(bytes) => Ok(Self(bytes)),
                Err(_) => Err(D::Error::invalid_length(bytes.len(), &"32 bytes")),
            },
        }
    }
}

/// A member's challenge, cut or padded to 32 bytes, as nodes do before they compute the statement.
pub(super) struct MemberChallenge(pub(super) Challenge);

impl<'de> Deserialize<'de> for MemberChallenge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        AboutBytes32::deserialize(deserializer).map(|bytes| match bytes {
            AboutBytes32::Exactly(bytes) => Self(Challenge(bytes)),
            AboutBytes32::Other(bytes) => Self(Challenge::cut_or_padded(&bytes)),
        })
    }
}

/// A 64-bit integer, which is written as a string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Number(pub u64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text {
            number: Some(Number),
            ..Text::new(NUMBER, |text| text.parse().ok().map(Number))
        };
        deserializer.deserialize_any(text)
    }
}

/// A duration in seconds, such as `34.856404222s`; read in any form of Go's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A duration of this interface is at most Go's longest, which fits.
        let duration = SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX);
        serializer.serialize_str(&format_proto(duration))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::new(DURATION, |text| parse_go(text).ok().map(Seconds));
        deserializer.deserialize_str(text)
    }
}

/// The time that is left: like [`Seconds`], but negative if the time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLeft(pub SignedDuration);

impl TimeLeft {
    fn parse(text: &str) -> Option<Self> {
        let (past, length) = match text.strip_prefix('-') {
            Some(length) => (true, length),
            None => (false, text),
        };
        let length = SignedDuration::try_from(parse_go(length).ok()?).ok()?;
        Some(Self(if past { -length } else { length }))
    }
}

impl Serialize for TimeLeft {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_proto(self.0))
    }
}

impl<'de> Deserialize<'de> for TimeLeft {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text::new(DURATION, Self::parse))
    }
}

/// Reads a time, for serde's `deserialize_with`: the error of jiff's own implementation tells how its
/// parser works.
///
/// # Errors
/// Fails if it is not text, or not a time in RFC 3339.
pub fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    deserializer.deserialize_str(Text::new(TIME, |text| text.parse().ok()))
}

/// A list of at most `MAX` entries.
pub(super) struct List<T, const MAX: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Entries<T, MAX> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX} entries")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::invalid_length(MAX + 1, &self));
                    }
                    list.push(entry);
                }
                Ok(list)
            }
        }

        deserializer
            .deserialize_seq(Entries::<T, MAX>(PhantomData))
            .map(Self)
    }
}
