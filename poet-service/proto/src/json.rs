//! The canonical JSON mapping of protobuf, for the messages of this API.
//!
//! In: lowerCamelCase or snake_case names; bytes in standard or URL-safe base64, padded or not;
//! 64-bit integers as strings or numbers; `null` means unset; unknown fields are ignored; a field
//! given twice is an error. Out: lowerCamelCase, standard base64, 64-bit integers as strings,
//! unset fields written out.

use std::fmt;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    certificate::SignedCertificate,
    duration::format_proto,
    messages::{Info, PublishedProof, SubmitRequest, Submitted},
    pow::PowParams,
};

/// How much of a bad value an error message repeats.
const QUOTED_CHARS: usize = 64;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD_LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE_LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// Why a body is not the message that was expected. The text is meant for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

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

    /// The value of the field with this lowerCamelCase or snake_case name, unless unset.
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
            .and_then(|text| decode_base64(&text))
            .ok_or_else(|| self.invalid("bytes"))
    }

    fn unsigned(&self) -> Option<u64> {
        let text = if self.raw.starts_with('"') {
            self.string()?
        } else {
            self.raw.to_owned()
        };
        if !text.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        // The mapping allows 1.0 and 1e3, too; doubles are exact up to 2^53.
        text.parse().ok().or_else(|| {
            let number: f64 = text.parse().ok()?;
            let whole = number.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(&number);
            whole.then_some(number as u64)
        })
    }

    fn uint64(&self) -> Result<u64, Malformed> {
        self.unsigned().ok_or_else(|| self.invalid("uint64"))
    }

    fn uint32(&self) -> Result<u32, Malformed> {
        self.unsigned()
            .and_then(|number| u32::try_from(number).ok())
            .ok_or_else(|| self.invalid("uint32"))
    }

    fn timestamp(&self) -> Result<Timestamp, Malformed> {
        self.string()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| self.invalid("google.protobuf.Timestamp"))
    }
}

/// Reads base64 in either alphabet, padded or not.
pub fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let engine = if text.contains(['-', '_']) {
        &URL_SAFE_LENIENT
    } else {
        &STANDARD_LENIENT
    };
    engine.decode(text).ok()
}

fn malformed(message: &str) -> Malformed {
    // The parser quotes what it did not expect, however long that is.
    Malformed(message.chars().take(MAX_MESSAGE).collect())
}

/// The longest message about a body, in characters.
const MAX_MESSAGE: usize = 200;

/// Reads a `SubmitRequest`. A body without anything in it is a request without anything set.
///
/// # Errors
/// [`Malformed`], naming the field where there is one.
pub fn submit_request(body: &[u8]) -> Result<SubmitRequest, Malformed> {
    let text = std::str::from_utf8(body)
        .map_err(|error| malformed(&format!("syntax error: the body is not UTF-8: {error}")))?
        .trim_ascii();
    if text.is_empty() {
        return Ok(SubmitRequest::default());
    }
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
            .transpose()?,
        certificate,
        certificate_pubkey_hint: object
            .bytes("certificatePubkeyHint", "certificate_pubkey_hint")?,
    })
}

/// Bytes that are written as base64.
pub struct Base64<'a>(pub &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(self.0))
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SubmitResponse {
    round_id: String,
    round_end: String,
}

/// Writes a `SubmitResponse`.
pub fn submit_response(submitted: &Submitted) -> String {
    write(&SubmitResponse {
        round_id: submitted.round.to_string(),
        round_end: format_proto(submitted.time_to_end),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PowParamsResponse<'a> {
    pow_params: PowParamsMessage<'a>,
}

#[derive(Serialize)]
struct PowParamsMessage<'a> {
    difficulty: u32,
    challenge: Base64<'a>,
}

/// Writes a `PowParamsResponse`.
pub fn pow_params_response(params: &PowParams) -> String {
    write(&PowParamsResponse {
        pow_params: PowParamsMessage {
            difficulty: params.difficulty,
            challenge: Base64(&params.challenge),
        },
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InfoResponse<'a> {
    service_pubkey: Base64<'a>,
    phase_shift: String,
    cycle_gap: String,
    certifier: Option<CertifierMessage<'a>>,
}

#[derive(Serialize)]
struct CertifierMessage<'a> {
    url: &'a str,
    pubkey: Base64<'a>,
}

/// Writes an `InfoResponse`.
pub fn info_response(info: &Info<'_>) -> String {
    write(&InfoResponse {
        service_pubkey: Base64(info.public_key.as_bytes()),
        phase_shift: format_proto(info.phase_shift),
        cycle_gap: format_proto(info.cycle_gap),
        // null, not an empty object: a node that is told of a certifier goes and asks it.
        certifier: info.certifier.map(|certifier| CertifierMessage {
            url: &certifier.url,
            pubkey: Base64(certifier.pubkey.as_bytes()),
        }),
    })
}

/// Writes an answer.
pub fn write(message: &impl Serialize) -> String {
    // Strings, numbers and lists of them: there is nothing that JSON could not hold.
    serde_json::to_string(message).unwrap_or_default()
}

/// Writes a `ProofResponse`. Done by hand: with a million members it is 44 MB long.
pub fn proof_response(published: &PublishedProof, public_key: &[u8; 32]) -> String {
    // 44 characters of base64, two quotes and a comma for each.
    const ENTRY_CHARS: usize = 47;
    let proof = &published.proof;
    let entries = proof.proven_leaves.len() + proof.proof_nodes.len() + published.members.len() + 2;
    let mut json = String::with_capacity(256 + entries * ENTRY_CHARS);
    json.push_str("{\"proof\":{\"proof\":{\"root\":");
    push_base64(&mut json, &proof.root);
    json.push_str(",\"provenLeaves\":");
    push_list(&mut json, &proof.proven_leaves);
    json.push_str(",\"proofNodes\":");
    push_list(&mut json, &proof.proof_nodes);
    json.push_str("},\"members\":");
    push_list(&mut json, published.registered_members());
    json.push_str(",\"leaves\":\"");
    json.push_str(&published.leaves.to_string());
    json.push_str("\"},\"pubkey\":");
    push_base64(&mut json, public_key);
    json.push('}');
    json
}

fn push_base64(json: &mut String, bytes: &[u8]) {
    json.push('"');
    STANDARD.encode_string(bytes, json);
    json.push('"');
}

fn push_list(json: &mut String, entries: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    json.push('[');
    for (index, entry) in entries.into_iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        push_base64(json, entry.as_ref());
    }
    json.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            assert_eq!(
                parse(&format!(r#"{{"nonce":{text}}}"#)).unwrap().nonce,
                value,
                "{text}"
            );
        }
        for text in [
            "-1",
            "\"+1\"",
            "1.5",
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
        let error = parse(r#"{"deadline":"tomorrow"}"#).unwrap_err();
        assert_eq!(
            error,
            r#"invalid value for google.protobuf.Timestamp field deadline: "tomorrow""#
        );
    }

    #[test]
    fn malformed_bodies_name_what_is_wrong() {
        for (body, expected) in [
            ("[]", "a JSON object"),
            ("null", "a JSON object"),
            ("{\"a\":", "EOF"),
            ("{}{}", "trailing"),
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
}
