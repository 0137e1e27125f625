//! `SubmitRequest`.
//!
//! Accepts exactly what the Go server does, so that a request that one server of a network accepts
//! is accepted by all; like the Go server, ignores text after the object.

use std::fmt::{self, Write as _};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::text::{Malformed, push_base64};
use crate::{
    base64::decode_lenient,
    certificate::SignedCertificate,
    messages::{Admission, Submission, SubmitRequest},
    pow::PowParams,
    timestamp::ProtoTimestamp,
};

/// How much of a bad value an error message repeats.
const QUOTED_CHARS: usize = 64;

/// How deeply objects and lists may nest.
const MAX_DEPTH: usize = 10_000;
/// The digits of the greatest 64-bit integer.
const MAX_DIGITS: usize = 20;

/// The fields of a JSON object, not yet interpreted.
struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

impl<'a> Object<'a> {
    fn parse(text: &'a str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|error| malformed(&format!("syntax error: {error}")))
    }

    /// Returns the value of the field with this lowerCamelCase or snake_case name, unless unset.
    fn field(&self, camel: &'static str, snake: &str) -> Result<Option<Field<'a>>, Malformed> {
        let mut values = self
            .0
            .iter()
            .filter(|(name, _)| name == camel || name == snake)
            .map(|(_, raw)| *raw);
        let value = values.next().filter(|raw| raw.get() != "null");
        if values.next().is_some() {
            return Err(malformed(&format!("duplicate field {camel:?}")));
        }
        Ok(value.map(|raw| Field {
            name: camel,
            raw: raw.get(),
        }))
    }

    fn bytes(&self, camel: &'static str, snake: &str) -> Result<Vec<u8>, Malformed> {
        self.field(camel, snake)?
            .map_or(Ok(Vec::new()), |field| field.bytes())
    }
}

/// A field that is set: its name and its JSON text.
struct Field<'a> {
    name: &'static str,
    raw: &'a str,
}

impl Field<'_> {
    fn invalid(&self, kind: &str) -> Malformed {
        let quoted: String = self.raw.chars().take(QUOTED_CHARS).collect();
        let dots = if quoted.len() < self.raw.len() {
            "..."
        } else {
            ""
        };
        malformed(&format!(
            "invalid value for {kind} field {}: {quoted}{dots}",
            self.name
        ))
    }

    fn string(&self) -> Option<String> {
        serde_json::from_str(self.raw).ok()
    }

    fn object(&self) -> Result<Object<'_>, Malformed> {
        serde_json::from_str(self.raw).map_err(|_| self.invalid("message"))
    }

    fn bytes(&self) -> Result<Vec<u8>, Malformed> {
        self.string()
            .and_then(|text| decode_lenient(&text))
            .ok_or_else(|| self.invalid("bytes"))
    }

    fn unsigned(&self) -> Option<u64> {
        if !self.raw.starts_with('"') {
            return whole_number(self.raw);
        }
        // The string must contain exactly a JSON number.
        let text = self.string()?;
        let number: &RawValue = serde_json::from_str(&text).ok()?;
        (number.get() == text).then(|| whole_number(&text))?
    }

    fn uint64(&self) -> Result<u64, Malformed> {
        self.unsigned().ok_or_else(|| self.invalid("uint64"))
    }

    fn uint32(&self) -> Result<u32, Malformed> {
        self.unsigned()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| self.invalid("uint32"))
    }

    fn timestamp(&self) -> Result<ProtoTimestamp, Malformed> {
        self.string()
            .and_then(|text| ProtoTimestamp::parse(&text))
            .ok_or_else(|| self.invalid("google.protobuf.Timestamp"))
    }
}

/// Returns the value of a JSON number that is whole, not negative and fits 64 bits, in any
/// notation: `1000`, `1e3`, `1000.0`, `-0`. `None` for any other JSON value.
fn whole_number(json: &str) -> Option<u64> {
    let (negative, number) = match json.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, json),
    };
    if !number.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{}{fraction}", integer.trim_start_matches('0'));
    if digits.is_empty() {
        return Some(0);
    }
    let exponent: i32 = exponent.parse().ok()?;
    let shift = i64::from(exponent) - i64::try_from(fraction.len()).ok()?;
    let places = usize::try_from(shift.unsigned_abs()).ok()?;
    let whole = if shift < 0 {
        let (whole, cut) = digits.split_at(digits.len().checked_sub(places)?);
        cut.bytes()
            .all(|digit| digit == b'0')
            .then_some(whole)?
            .to_owned()
    } else if digits.len().saturating_add(places) <= MAX_DIGITS {
        format!("{digits}{:0<places$}", "")
    } else {
        return None;
    };
    if negative { None } else { whole.parse().ok() }
}

/// Checks what the parser skips in values that are not used.
fn check_skipped(json: &str) -> Result<(), Malformed> {
    let bytes = json.as_bytes();
    // The UTF-16 unit of the escape at `at`, if it is a `\u` escape.
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut at, mut depth, mut in_string) = (0, 0_usize, false);
    while let Some(byte) = bytes.get(at) {
        at += match byte {
            // The parser has checked that escapes are complete and occur only in strings.
            b'\\' => match unit(at) {
                None => 2,
                Some(0xd800..=0xdbff) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
                Some(0xd800..=0xdfff) => {
                    return Err(malformed(
                        "syntax error: half of a surrogate pair in a string",
                    ));
                }
                Some(_) => 6,
            },
            b'"' => {
                in_string = !in_string;
                1
            }
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    let reason = format!("syntax error: nested more than {MAX_DEPTH} deep");
                    return Err(malformed(&reason));
                }
                1
            }
            b'}' | b']' if !in_string => {
                depth -= 1;
                1
            }
            _ => 1,
        };
    }
    Ok(())
}

fn malformed(message: &str) -> Malformed {
    // The parser quotes unexpected values, however long they are.
    Malformed(message.chars().take(MAX_MESSAGE).collect())
}

/// The longest message about a body, in characters.
const MAX_MESSAGE: usize = 200;

/// Reads a `SubmitRequest`. An empty body is a request with no field set, and text after the object
/// is ignored: both as in the Go server.
///
/// # Errors
/// Returns [`Malformed`], which names the field if there is one.
pub fn submit_request(body: &[u8]) -> Result<SubmitRequest, Malformed> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<&RawValue>();
    let Some(value) = values.next() else {
        return Ok(SubmitRequest::default());
    };
    let text = value
        .map_err(|error| malformed(&format!("syntax error: {error}")))?
        .get();
    check_skipped(text)?;
    let object = Object::parse(text)?;
    let pow_params = match object.field("powParams", "pow_params")? {
        None => PowParams::default(),
        Some(field) => {
            let params = field.object()?;
            PowParams {
                difficulty: params
                    .field("difficulty", "difficulty")?
                    .map_or(Ok(0), |field| field.uint32())?,
                challenge: params.bytes("challenge", "challenge")?,
            }
        }
    };
    let certificate = match object.field("certificate", "certificate")? {
        None => None,
        Some(field) => {
            let certificate = field.object()?;
            Some(SignedCertificate {
                data: certificate.bytes("data", "data")?,
                signature: certificate.bytes("signature", "signature")?,
            })
        }
    };
    Ok(SubmitRequest {
        nonce: object
            .field("nonce", "nonce")?
            .map_or(Ok(0), |field| field.uint64())?,
        pow_params,
        prefix: object.bytes("prefix", "prefix")?,
        challenge: object.bytes("challenge", "challenge")?,
        pubkey: object.bytes("pubkey", "pubkey")?,
        signature: object.bytes("signature", "signature")?,
        deadline: object
            .field("deadline", "deadline")?
            .map(|field| field.timestamp())
            .transpose()?
            .and_then(ProtoTimestamp::deadline),
        certificate,
        certificate_pubkey_hint: object
            .bytes("certificatePubkeyHint", "certificate_pubkey_hint")?,
    })
}

/// Writes a `SubmitRequest`, without serde and without copies: a load generator writes thousands a
/// second.
pub fn write_submit_request(submission: &Submission<'_>) -> String {
    // The fields of fixed length, with their names, and room for the others.
    const USUAL_CHARS: usize = 640;
    let mut json = String::with_capacity(USUAL_CHARS);
    json.push_str("{\"prefix\":");
    push_base64(&mut json, submission.prefix);
    json.push_str(",\"challenge\":");
    push_base64(&mut json, &submission.challenge.0);
    json.push_str(",\"pubkey\":");
    push_base64(&mut json, &submission.node_id.0);
    json.push_str(",\"signature\":");
    push_base64(&mut json, submission.signature);
    // Writing to a string cannot fail.
    if let Some(deadline) = submission.deadline {
        let _ = write!(json, ",\"deadline\":\"{deadline}\"");
    }
    match submission.admission {
        Admission::Work { params, nonce } => {
            let difficulty = params.difficulty;
            let _ = write!(json, ",\"nonce\":\"{nonce}\"");
            let _ = write!(json, ",\"powParams\":{{\"difficulty\":{difficulty}");
            json.push_str(",\"challenge\":");
            push_base64(&mut json, &params.challenge);
        }
        Admission::Certificate(certificate) => {
            json.push_str(",\"certificate\":{\"data\":");
            push_base64(&mut json, &certificate.data);
            json.push_str(",\"signature\":");
            push_base64(&mut json, &certificate.signature);
        }
    }
    json.push_str("}}");
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::{Challenge, NodeId};

    fn parse(body: &str) -> Result<SubmitRequest, String> {
        submit_request(body.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn both_spellings_of_a_name_and_all_of_base64() {
        for challenge in ["+/+/AQ==", "-_-_AQ==", "+/+/AQ", "-_-_AQ"] {
            for (params, hint) in [
                ("powParams", "certificatePubkeyHint"),
                ("pow_params", "certificate_pubkey_hint"),
            ] {
                let body = format!(
                    r#"{{"{params}": {{"difficulty": "7", "challenge": "{challenge}"}},
                        "{hint}": "AQIDBA", "nonce": 5}}"#
                );
                let request = parse(&body).unwrap();
                assert_eq!(request.pow_params.difficulty, 7);
                assert_eq!(request.pow_params.challenge, [0xfb, 0xff, 0xbf, 1]);
                assert_eq!(request.certificate_pubkey_hint, [1, 2, 3, 4]);
                assert_eq!(request.nonce, 5);
            }
        }
    }

    #[test]
    fn unset_fields() {
        for body in [
            "",
            " \n",
            "{}",
            r#"{"nonce":null,"pubkey":null,"certificate":null}"#,
        ] {
            assert_eq!(parse(body).unwrap(), SubmitRequest::default(), "{body:?}");
        }
        let request = parse(r#"{"certificate":{}}"#).unwrap();
        assert_eq!(request.certificate, Some(SignedCertificate::default()));
    }

    #[test]
    fn numbers() {
        for (text, value) in [
            ("0", 0),
            ("\"18446744073709551615\"", u64::MAX),
            ("18446744073709551615", u64::MAX),
            ("1e3", 1000),
            ("\"2.0\"", 2),
            ("-0", 0),
            ("\"-0\"", 0),
            ("-0.0e5", 0),
            ("0e99999999999", 0),
            ("1e19", 10_000_000_000_000_000_000),
            ("1844674407370955161.5e1", u64::MAX),
            ("0.5E+1", 5),
            ("0.05e2", 5),
            ("100e-2", 1),
            ("9007199254740993.0", 9_007_199_254_740_993),
            ("\"\\u0031\"", 1),
        ] {
            assert_eq!(
                parse(&format!(r#"{{"nonce":{text}}}"#)).unwrap().nonce,
                value,
                "{text}"
            );
        }
        for text in [
            "-1",
            "-1e2",
            "\"+1\"",
            "\"01\"",
            "\"1.\"",
            "\".5\"",
            "\"1e\"",
            "\"0x1\"",
            "\"1_000\"",
            "\"1 \"",
            "\"\\n1\"",
            "\"1\\u00a0\"",
            "\"null\"",
            "\"\\\"1\\\"\"",
            "1.5",
            "15e-1",
            "10e-3",
            "1e20",
            "0.00001e21",
            "1e99999999999",
            "1e-99999999999",
            "\"\"",
            "\" 1\"",
            "18446744073709551616",
            "1e400",
            "true",
        ] {
            let error = parse(&format!(r#"{{"nonce":{text}}}"#)).unwrap_err();
            assert!(
                error.contains("nonce") || error.contains("number"),
                "{text}: {error}"
            );
        }
        let error = parse(r#"{"powParams":{"difficulty":4294967296}}"#).unwrap_err();
        assert_eq!(
            error,
            "invalid value for uint32 field difficulty: 4294967296"
        );
    }

    #[test]
    fn times() {
        let request = parse(r#"{"deadline":"2099-01-01T00:00:00.5+01:00"}"#).unwrap();
        assert_eq!(
            request.deadline,
            Some("2098-12-31T23:00:00.5Z".parse().unwrap())
        );
        // Go's zero time, which its clients send for an unset one.
        let request = parse(r#"{"deadline":"0001-01-01T00:00:00Z"}"#).unwrap();
        assert_eq!(request, SubmitRequest::default());
        let error = parse(r#"{"deadline":"tomorrow"}"#).unwrap_err();
        assert_eq!(
            error,
            r#"invalid value for google.protobuf.Timestamp field deadline: "tomorrow""#
        );
    }

    #[test]
    fn what_is_skipped_is_checked() {
        for text in [
            r#"{"unknown":"\ud83d\ude00","nonce":5}"#,
            r#"{"\ud83d\ude00":[{"\\ud83d":"\\u"}],"nonce":5}"#,
            r#"{"unknown":"[{\"[","nonce":5}"#,
            // The Go server reads no further.
            r#"{"nonce":5}{"nonce":6}"#,
            r#"{"nonce":5} and more"#,
            "\n{\"nonce\":5}\x0c\\ud800",
        ] {
            assert_eq!(parse(text).unwrap().nonce, 5, "{text}");
        }
        let trailing = [&b"{\"nonce\":5}"[..], &[0xff]].concat();
        assert_eq!(submit_request(&trailing).unwrap().nonce, 5);
        for text in [
            r#"{"unknown":"\ud83d"}"#,
            r#"{"unknown":"\ude00"}"#,
            r#"{"unknown":["\ud83d\u0041"]}"#,
            r#"{"unknown":{"a":"\ude00\ud83d"}}"#,
            r#"{"\ud83d":1}"#,
            r#"{"prefix":"\ud83d"}"#,
            "\x0c{}",
            "\u{feff}{}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(submit_request(b"{\"unknown\":\"\xff\"}").is_err());
        let nested = |depth: usize| {
            let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
            parse(&format!(r#"{{"unknown":{open}{close}}}"#))
        };
        assert_eq!(nested(MAX_DEPTH), Ok(SubmitRequest::default()));
        let error = nested(MAX_DEPTH + 1).unwrap_err();
        assert_eq!(error, "syntax error: nested more than 10000 deep");
    }

    #[test]
    fn malformed_bodies_name_what_is_wrong() {
        for (body, expected) in [
            ("[]", "a JSON object"),
            ("null", "a JSON object"),
            ("{\"a\":", "EOF"),
            (r#"{"pubkey":"***"}"#, "bytes field pubkey: \"***\""),
            (r#"{"pubkey":7}"#, "bytes field pubkey: 7"),
            (r#"{"nonce":1,"nonce":1}"#, "duplicate field \"nonce\""),
            (
                r#"{"powParams":{},"pow_params":{}}"#,
                "duplicate field \"powParams\"",
            ),
            (r#"{"powParams":[]}"#, "message field powParams: []"),
            (r#"{"certificate":"x"}"#, "message field certificate: \"x\""),
        ] {
            let error = parse(body).unwrap_err();
            assert!(error.contains(expected), "{body}: {error}");
        }
        assert!(submit_request(b"{\"pubkey\":\"\xff\"}").is_err());
        let long = format!(r#"{{"pubkey":"{}"}}"#, "*".repeat(10_000));
        assert!(parse(&long).unwrap_err().len() < 200);
        let deep = format!(r#"{{"unknown":{}"#, "[".repeat(60_000));
        assert!(parse(&deep).is_err());
    }

    fn submission(admission: Admission<'_>) -> Submission<'_> {
        Submission {
            prefix: &[0xfb; 21],
            challenge: &Challenge([0xff; 32]),
            node_id: &NodeId([3; 32]),
            signature: &[4; 64],
            deadline: None,
            admission,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let params = PowParams {
            difficulty: 7,
            challenge: vec![0xbf; 32],
        };
        let certificate = SignedCertificate {
            data: vec![1; 45],
            signature: vec![2; 64],
        };
        let common = SubmitRequest {
            prefix: vec![0xfb; 21],
            challenge: vec![0xff; 32],
            pubkey: vec![3; 32],
            signature: vec![4; 64],
            ..SubmitRequest::default()
        };
        let work = Admission::Work {
            params: &params,
            nonce: u64::MAX,
        };
        let deadline = Some("2098-12-31T23:00:00.5Z".parse().unwrap());
        for (submission, expected) in [
            (
                submission(work),
                SubmitRequest {
                    nonce: u64::MAX,
                    pow_params: params.clone(),
                    ..common.clone()
                },
            ),
            (
                Submission {
                    deadline,
                    ..submission(Admission::Certificate(&certificate))
                },
                SubmitRequest {
                    deadline,
                    certificate: Some(certificate.clone()),
                    ..common
                },
            ),
        ] {
            assert_eq!(parse(&write_submit_request(&submission)), Ok(expected));
        }
    }
}
