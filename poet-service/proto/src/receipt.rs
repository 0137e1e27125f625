//! Receipts: what a server signs when it acknowledges a registration, so that a member left out of
//! a round can prove that it registered. `engine/PROTOCOL.md`, section 10, specifies the encoding.
//!
//! A signature costs as much as a fourth of all that a registration takes. So a server signs the
//! acknowledgements of a moment together: the root of a tree over them.

use jiff::Timestamp;
use poet_engine::{Node, membership};
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
/// The prefix of every leaf. Nodes of the tree have another one.
const LEAF: &[u8; 1] = &[0];
const LEAF_BYTES: usize = LEAF.len() + 8 + 32 + 32 + 8 + 8;
/// Acknowledgements that one signature covers at most.
const MAX_TOGETHER: usize = 1 << MAX_PATH_NODES;
/// Nodes on the path of a receipt at most.
const MAX_PATH_NODES: usize = 10;
/// The fields of a receipt in JSON, for messages.
const FIELDS: &str =
    "roundId, nodeId, challenge, time, roundEnd, index, path, servicePubkey and signature";

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Fields", try_from = "Value")]
pub struct Receipt {
    acknowledged: Acknowledged,
    index: u64,
    path: Vec<Node>,
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
    /// Signs acknowledgements, up to 1,024 with one signature. Truncates their times to the
    /// milliseconds that are signed. Returns the receipts in the same order.
    pub fn sign(acknowledged: &[Acknowledged], key: &PrivateKey) -> Vec<Self> {
        let server = key.public();
        let mut receipts = Vec::with_capacity(acknowledged.len());
        for together in acknowledged.chunks(MAX_TOGETHER) {
            let together: Vec<_> = together
                .iter()
                .map(|acknowledged| Acknowledged {
                    time: whole_milliseconds(acknowledged.time),
                    round_end: whole_milliseconds(acknowledged.round_end),
                    ..*acknowledged
                })
                .collect();
            let tree =
                membership::MembershipTree::new(together.iter().map(Acknowledged::leaf).collect());
            let Some(root) = tree.root() else {
                continue;
            };
            let signature = key.sign(&[&DOMAIN[..], root].concat());
            receipts.extend((0..).zip(&together).map(|(index, acknowledged)| Self {
                acknowledged: *acknowledged,
                index: index as u64,
                path: tree.proof(index).unwrap_or_default(),
                server,
                signature,
            }));
        }
        receipts
    }

    /// Whether the signature covers what is acknowledged.
    fn is_valid(&self) -> bool {
        let root = membership::root_above(&self.acknowledged.leaf(), self.index, &self.path);
        root.is_some_and(|root| self.server.verifies(&[DOMAIN, &root], &self.signature))
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
        let bytes32 = |name| {
            bytes::<32>(
                name,
                "32 bytes in base64",
                text(name, "32 bytes in base64")?,
            )
        };
        let round = text("roundId", "the number of a round as text")?;
        let receipt = Self {
            acknowledged: Acknowledged {
                round: number(round).ok_or(ReceiptError::Field(
                    "roundId",
                    "the number of a round as text",
                ))?,
                node_id: NodeId(bytes32("nodeId")?),
                challenge: Challenge(bytes32("challenge")?),
                time: time("time")?,
                round_end: time("roundEnd")?,
            },
            index: number(text("index", INDEX)?).ok_or(ReceiptError::Field("index", INDEX))?,
            path: path(fields.get("path")).ok_or(ReceiptError::Field("path", PATH))?,
            server: PublicKey::from_bytes(&bytes32("servicePubkey")?)
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
        if receipt.is_valid() {
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

    /// Returns the place of the acknowledgement among those that were signed together.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Returns the siblings of the nodes from the acknowledgement up to the signed root.
    pub fn path(&self) -> &[Node] {
        &self.path
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
    /// The leaf of the signed tree.
    fn leaf(&self) -> Node {
        *blake3::hash(&self.message()).as_bytes()
    }

    /// What the leaf is the hash of.
    fn message(&self) -> [u8; LEAF_BYTES] {
        let mut message = [0; LEAF_BYTES];
        let parts: [&[u8]; 6] = [
            LEAF,
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

const INDEX: &str = "a number as text";
const PATH: &str = "a list of at most 10 values of 32 bytes in base64";

fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|it: &u64| it.to_string() == text)
}

fn path(value: Option<&Value>) -> Option<Vec<Node>> {
    let nodes = value?.as_array()?;
    if nodes.len() > MAX_PATH_NODES {
        return None;
    }
    let node = |node: &Value| base64::decode(node.as_str()?)?.try_into().ok();
    nodes.iter().map(node).collect()
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
    index: String,
    path: Vec<String>,
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
            index: receipt.index.to_string(),
            path: receipt.path.iter().map(base64::encode).collect(),
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
        let receipt = sign(acknowledged(), 7);
        let message = receipt.acknowledged.message();
        let nodes = ["11".repeat(32), "22".repeat(32)].concat();
        let expected = format!("00000000000000004d{nodes}000001a2193a97fb000001a25ef76000");
        assert_eq!(hex::encode(message), expected);
        // Alone, it is the root.
        assert_eq!(hex::encode(receipt.acknowledged.leaf()), GOLDEN_ROOT);
        assert_eq!(hex::encode(receipt.signature), GOLDEN_SIGNATURE);
        assert_eq!(
            serde_json::to_value(&receipt).unwrap(),
            json!({
                "roundId": "77",
                "nodeId": base64::encode([0x11; 32]),
                "challenge": base64::encode([0x22; 32]),
                "time": "2026-11-26T19:00:00.123Z",
                "roundEnd": "2026-12-10T08:00:00Z",
                "index": "0",
                "path": [],
                "servicePubkey": base64::encode(key(7).public().as_bytes()),
                "signature": base64::encode(receipt.signature),
            })
        );
    }

    const GOLDEN_SIGNATURE: &str = "90a99ed04fb750edf2d5c50385c2bda59d788c28861230f40d61344add5fefe3\
        b0d8dc1e5ee7624cd1529b2e140a5138e97268a0f61def523cee94bb5ed25f04";

    const GOLDEN_ROOT: &str = "b7f3ffbba5228ccdf9107861c16b48377092afebeb609c7a3f12b9ec91fc5b37";

    fn sign(acknowledged: Acknowledged, seed: u8) -> Receipt {
        Receipt::sign(&[acknowledged], &key(seed)).remove(0)
    }

    #[test]
    fn receipts_that_are_signed_together_are_valid_each() {
        for count in [2, 3, 100, MAX_TOGETHER + 1] {
            let all: Vec<_> = (0..count)
                .map(|number| Acknowledged {
                    round: number as u64,
                    ..acknowledged()
                })
                .collect();
            let receipts = Receipt::sign(&all, &key(7));
            assert_eq!(receipts.len(), count);
            for (receipt, number) in receipts.iter().zip(0..) {
                assert_eq!(receipt.acknowledged.round, number);
                let json = serde_json::to_value(receipt).unwrap();
                assert_eq!(Receipt::from_json(&json).as_ref(), Ok(receipt));
            }
            let signatures = receipts.chunk_by(|one, next| one.signature == next.signature);
            assert_eq!(signatures.count(), count.div_ceil(MAX_TOGETHER));
        }
        assert_eq!(Receipt::sign(&[], &key(7)), []);
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let others = [1, 2, 3, 4].map(|round| Acknowledged {
            round,
            ..acknowledged()
        });
        let together = [&others[..2], &[acknowledged()], &others[2..]].concat();
        let receipt = Receipt::sign(&together, &key(7)).remove(2);
        let json = serde_json::to_value(&receipt).unwrap();
        assert_eq!(Receipt::from_json(&json).as_ref(), Ok(&receipt));
        // Without the domain, nothing is a receipt.
        let root = membership::root_above(&receipt.acknowledged.leaf(), 2, &receipt.path).unwrap();
        assert!(
            key(7)
                .public()
                .verifies(&[DOMAIN, &root], &receipt.signature)
        );
        assert!(!key(7).public().verifies(&[&root], &receipt.signature));
        for path in [
            &receipt.path[..2],
            &[],
            &[&receipt.path[..], &[[0; 32]]].concat(),
        ] {
            let mut changed = json.clone();
            changed["path"] = path.iter().map(base64::encode).collect();
            let error = Receipt::from_json(&changed).unwrap_err();
            assert!(matches!(error, ReceiptError::Signature(_)), "{error}");
        }
        let other = base64::encode(key(8).public().as_bytes());
        let forged = sign(acknowledged(), 8).signature;
        for (field, value) in [
            ("roundId", "78".to_owned()),
            ("nodeId", base64::encode([0x12; 32])),
            ("challenge", base64::encode([0x23; 32])),
            ("time", "2026-11-26T19:00:00.124Z".to_owned()),
            ("roundEnd", "2026-12-10T08:00:00.001Z".to_owned()),
            ("index", "3".to_owned()),
            ("index", "10".to_owned()),
            ("index", u64::MAX.to_string()),
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
        let json = serde_json::to_value(sign(acknowledged(), 7)).unwrap();
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
            ("index", vec![json!(0), json!("00"), json!("")]),
            (
                "path",
                vec![
                    json!(""),
                    json!(["AAAA"]),
                    json!([7]),
                    json!(vec![base64::encode([0; 32]); 11]),
                ],
            ),
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
