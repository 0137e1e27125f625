//! Receipts: what a server signs when it acknowledges a registration, so that a member left out of
//! a round can prove that it registered. `engine/PROTOCOL.md`, section 10, specifies the encoding.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    base64,
    identity::{PrivateKey, PublicKey},
    member::{Challenge, NodeId},
};

/// The prefix of every signed message, so that no other signature of the key can pass for a
/// receipt's.
const DOMAIN: &[u8; 16] = b"poet-receipt-v1\n";
const MESSAGE_BYTES: usize = DOMAIN.len() + 8 + 32 + 32 + 8 + 8;
/// The fields of a receipt in JSON, for messages.
const FIELDS: &str = "roundId, nodeId, challenge, time, roundEnd, servicePubkey and signature";

/// What a server acknowledges: at `time`, the node was a member of the round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The round.
    pub round: u64,
    /// The node.
    pub node_id: NodeId,
    /// The registered challenge.
    pub challenge: Challenge,
    /// The time of the acknowledgement.
    pub time: Timestamp,
    /// The time at which the work on the round ends.
    pub round_end: Timestamp,
}

/// A receipt: what was acknowledged, by which server, and the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Fields", try_from = "Value")]
pub struct Receipt {
    acknowledged: Acknowledged,
    server: PublicKey,
    signature: [u8; 64],
}

/// Why something is not a receipt, or not the expected one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not JSON with the expected fields.
    #[error("it is not a receipt: expected a JSON object with {FIELDS}")]
    Form,
    /// A field is missing or malformed.
    #[error("it is not a receipt: expected {1} in {0}")]
    Field(&'static str, &'static str),
    /// The receipt was changed, or never signed by this server.
    #[error(
        "its signature is not that of the server with key {0}: the receipt was forged or has been \
         changed since"
    )]
    Signature(String),
}

impl Receipt {
    /// Signs an acknowledgement. Truncates its times to the milliseconds that are signed.
    pub fn sign(acknowledged: Acknowledged, key: &PrivateKey) -> Self {
        let acknowledged = Acknowledged {
            time: whole_milliseconds(acknowledged.time),
            round_end: whole_milliseconds(acknowledged.round_end),
            ..acknowledged
        };
        Self {
            acknowledged,
            server: key.public(),
            signature: key.sign(&acknowledged.message()),
        }
    }

    /// Reads a receipt in JSON and checks its signature.
    ///
    /// # Errors
    /// Fails if it is not a receipt, or the signature is not that of the server it names.
    pub fn from_json(value: &Value) -> Result<Self, ReceiptError> {
        let fields = value.as_object().ok_or(ReceiptError::Form)?;
        let text = |name: &'static str, form: &'static str| {
            let text = fields.get(name).and_then(Value::as_str);
            text.ok_or(ReceiptError::Field(name, form))
        };
        let time = |name| {
            let form = "a time in RFC 3339 with at most milliseconds";
            let time = text(name, form)?.parse().ok();
            time.filter(|time| whole_milliseconds(*time) == *time)
                .ok_or(ReceiptError::Field(name, form))
        };
        let node = |name| {
            bytes::<32>(
                name,
                "32 bytes in base64",
                text(name, "32 bytes in base64")?,
            )
        };
        let round = text("roundId", "the number of a round as text")?;
        let receipt = Self {
            acknowledged: Acknowledged {
                round: round
                    .parse()
                    .ok()
                    .filter(|it: &u64| it.to_string() == round)
                    .ok_or(ReceiptError::Field(
                        "roundId",
                        "the number of a round as text",
                    ))?,
                node_id: NodeId(node("nodeId")?),
                challenge: Challenge(node("challenge")?),
                time: time("time")?,
                round_end: time("roundEnd")?,
            },
            server: PublicKey::from_bytes(&node("servicePubkey")?)
                // Anybody can sign for such a key.
                .filter(|key| !key.is_weak())
                .ok_or(ReceiptError::Field(
                    "servicePubkey",
                    "an ed25519 public key",
                ))?,
            signature: bytes(
                "signature",
                "64 bytes in base64",
                text("signature", "64 bytes in base64")?,
            )?,
        };
        let message = receipt.acknowledged.message();
        if receipt.server.verifies(&[&message], &receipt.signature) {
            Ok(receipt)
        } else {
            let key = base64::encode(receipt.server.as_bytes());
            Err(ReceiptError::Signature(key))
        }
    }

    /// Returns what was acknowledged.
    pub fn acknowledged(&self) -> &Acknowledged {
        &self.acknowledged
    }

    /// Returns the server's key.
    pub fn server(&self) -> &PublicKey {
        &self.server
    }

    /// Returns the signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }
}

impl Acknowledged {
    /// The signed message.
    fn message(&self) -> [u8; MESSAGE_BYTES] {
        let mut message = [0; MESSAGE_BYTES];
        let parts: [&[u8]; 6] = [
            DOMAIN,
            &self.round.to_be_bytes(),
            &self.node_id.0,
            &self.challenge.0,
            &self.time.as_millisecond().to_be_bytes(),
            &self.round_end.as_millisecond().to_be_bytes(),
        ];
        let mut rest = &mut message[..];
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        message
    }
}

fn whole_milliseconds(time: Timestamp) -> Timestamp {
    // Cannot fail: a truncated time is still in range.
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

fn bytes<const N: usize>(
    name: &'static str,
    form: &'static str,
    text: &str,
) -> Result<[u8; N], ReceiptError> {
    let bytes = base64::decode(text);
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(ReceiptError::Field(name, form))
}

/// A receipt in JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    round_id: String,
    node_id: String,
    challenge: String,
    time: String,
    round_end: String,
    service_pubkey: String,
    signature: String,
}

impl From<Receipt> for Fields {
    fn from(receipt: Receipt) -> Self {
        let acknowledged = receipt.acknowledged;
        Self {
            round_id: acknowledged.round.to_string(),
            node_id: base64::encode(acknowledged.node_id),
            challenge: base64::encode(acknowledged.challenge),
            time: acknowledged.time.to_string(),
            round_end: acknowledged.round_end.to_string(),
            service_pubkey: base64::encode(receipt.server.as_bytes()),
            signature: base64::encode(receipt.signature),
        }
    }
}

impl TryFrom<Value> for Receipt {
    type Error = ReceiptError;

    fn try_from(value: Value) -> Result<Self, ReceiptError> {
        Self::from_json(&value)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;
    use serde_json::json;

    use super::*;

    fn key(seed: u8) -> PrivateKey {
        let key = SigningKey::from_bytes(&[seed; 32]).to_keypair_bytes();
        PrivateKey::from_bytes(&key).unwrap()
    }

    fn acknowledged() -> Acknowledged {
        Acknowledged {
            round: 77,
            node_id: NodeId([0x11; 32]),
            challenge: Challenge([0x22; 32]),
            time: "2026-11-26T19:00:00.123456789Z".parse().unwrap(),
            round_end: "2026-12-10T08:00:00Z".parse().unwrap(),
        }
    }

    /// The vector of PROTOCOL.md. The signature was made by OpenSSL.
    #[test]
    fn the_golden_receipt() {
        let receipt = Receipt::sign(acknowledged(), &key(7));
        let message = receipt.acknowledged.message();
        let nodes = ["11".repeat(32), "22".repeat(32)].concat();
        let expected = format!(
            "706f65742d726563656970742d76310a000000000000004d{nodes}000001a2193a97fb000001a25ef76000"
        );
        assert_eq!(hex::encode(message), expected);
        assert_eq!(hex::encode(receipt.signature), GOLDEN_SIGNATURE);
        assert_eq!(
            serde_json::to_value(receipt).unwrap(),
            json!({
                "roundId": "77",
                "nodeId": base64::encode([0x11; 32]),
                "challenge": base64::encode([0x22; 32]),
                "time": "2026-11-26T19:00:00.123Z",
                "roundEnd": "2026-12-10T08:00:00Z",
                "servicePubkey": base64::encode(key(7).public().as_bytes()),
                "signature": base64::encode(receipt.signature),
            })
        );
    }

    const GOLDEN_SIGNATURE: &str = "76c5ce979d9c2c1ea604622ebf5562dbd7daced18ec8c39f5e50f23cffb2b22f\
        733f045e7c64afece3d0377acb3b0b0593e42232f779f106dc84dd47d4895208";

    #[test]
    fn whatever_is_changed_is_noticed() {
        let receipt = Receipt::sign(acknowledged(), &key(7));
        let json = serde_json::to_value(receipt).unwrap();
        assert_eq!(Receipt::from_json(&json), Ok(receipt));
        assert!(
            !key(7)
                .public()
                .verifies(&[&receipt.acknowledged.message()[16..]], &receipt.signature)
        );
        let other = base64::encode(key(8).public().as_bytes());
        let forged = Receipt::sign(acknowledged(), &key(8)).signature;
        for (field, value) in [
            ("roundId", "78".to_owned()),
            ("nodeId", base64::encode([0x12; 32])),
            ("challenge", base64::encode([0x23; 32])),
            ("time", "2026-11-26T19:00:00.124Z".to_owned()),
            ("roundEnd", "2026-12-10T08:00:00.001Z".to_owned()),
            ("servicePubkey", other),
            ("signature", base64::encode(forged)),
        ] {
            let mut changed = json.clone();
            changed[field] = value.into();
            let error = Receipt::from_json(&changed).unwrap_err();
            assert!(
                matches!(error, ReceiptError::Signature(_)),
                "{field}: {error}"
            );
        }
    }

    #[test]
    fn what_is_no_receipt_is_refused_in_one_sentence() {
        let json = serde_json::to_value(Receipt::sign(acknowledged(), &key(7))).unwrap();
        for value in [json!(null), json!([]), json!("receipt")] {
            assert_eq!(Receipt::from_json(&value), Err(ReceiptError::Form));
        }
        let mut neutral = [0; 32];
        neutral[0] = 1;
        for (field, values) in [
            ("roundId", vec![json!(77), json!("077"), json!("-1")]),
            ("nodeId", vec![json!("AAAA"), json!("*"), json!(null)]),
            ("challenge", vec![json!(""), json!(7)]),
            (
                "time",
                vec![
                    json!("now"),
                    json!("2026-11-26T19:00:00.1230001Z"),
                    json!(1),
                ],
            ),
            ("roundEnd", vec![json!("")]),
            (
                "servicePubkey",
                vec![
                    json!(base64::encode([2; 32])),
                    json!(base64::encode(neutral)),
                ],
            ),
            ("signature", vec![json!(base64::encode([0; 63]))]),
        ] {
            let mut without = json.clone();
            without.as_object_mut().unwrap().remove(field);
            let changed = values.into_iter().map(|value| {
                let mut changed = json.clone();
                changed[field] = value;
                changed
            });
            for value in changed.chain([without]) {
                let error = Receipt::from_json(&value).unwrap_err();
                assert!(
                    matches!(error, ReceiptError::Field(named, _) if named == field),
                    "{value}: {error}"
                );
            }
        }
    }
}
