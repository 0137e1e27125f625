//! The messages of the interface as a client reads and writes them: protobuf's JSON mapping, from
//! untrusted servers. Lists and byte strings are limited in size; unknown fields are ignored.

use std::{fmt, marker::PhantomData, time::Duration};

use jiff::{SignedDuration, Timestamp};
use poet_engine::{MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Proof, membership};
use poet_proto::{
    base64,
    certificate::SignedCertificate,
    duration::{format_proto, parse_go},
    json::decode_base64,
    member::Challenge,
    messages::PublishedProof,
    pow::PowParams,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Unexpected, Visitor},
};
use serde_json::Value;

/// The maximum number of members to read: four times as many as are planned for.
pub(crate) const MAX_MEMBERS: usize = 1 << 22;

/// Bytes, in base64 in JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                decode_base64(text)
                    .map(Bytes)
                    .ok_or_else(|| E::invalid_value(Unexpected::Other("other text"), &self))
            }

            fn visit_unit<E: Error>(self) -> Result<Bytes, E> {
                Ok(Bytes::default())
            }
        }

        deserializer.deserialize_any(Text)
    }
}

/// 32 bytes, in base64 in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes32(pub(crate) [u8; 32]);

impl Serialize for Bytes32 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&base64::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bytes(bytes) = Bytes::deserialize(deserializer)?;
        let length = bytes.len();
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| D::Error::invalid_length(length, &"32 bytes"))
    }
}

/// A member's challenge, cut or padded to 32 bytes, as nodes do before they compute the statement.
struct MemberChallenge(Challenge);

impl<'de> Deserialize<'de> for MemberChallenge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Bytes(bytes) = Bytes::deserialize(deserializer)?;
        Ok(Self(Challenge::cut_or_padded(&bytes)))
    }
}

/// A 64-bit integer, a string in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Number(pub(crate) u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrNumber;

        impl Visitor<'_> for TextOrNumber {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number from 0 to 2^64 - 1")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Number, E> {
                text.parse()
                    .map(Number)
                    .map_err(|_| E::invalid_value(Unexpected::Other("other text"), &self))
            }
        }

        deserializer.deserialize_any(TextOrNumber)
    }
}

/// A duration in seconds, such as `34.856404222s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A parsed duration is at most Go's longest, which fits.
        let duration = SignedDuration::try_from(self.0).unwrap_or(SignedDuration::MAX);
        serializer.serialize_str(&format_proto(duration))
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_go(&text)
            .map(Self)
            .map_err(|_| D::Error::custom("expected a duration such as 34.8s"))
    }
}

/// The time that is left: a duration in seconds, negative if the time has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeLeft(pub(crate) Option<Duration>);

impl<'de> Deserialize<'de> for TimeLeft {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (past, duration) = match text.strip_prefix('-') {
            Some(duration) => (true, duration),
            None => (false, text.as_str()),
        };
        let duration = parse_go(duration)
            .map_err(|_| D::Error::custom("expected a duration such as 34.8s"))?;
        Ok(Self(Some(duration).filter(|left| !past && !left.is_zero())))
    }
}

/// A list of at most `MAX` entries.
struct List<T, const MAX: usize>(Vec<T>);

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

/// `InfoResponse`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Info {
    pub(crate) service_pubkey: Bytes32,
    pub(crate) phase_shift: Seconds,
    pub(crate) cycle_gap: Seconds,
    #[serde(default)]
    certifier: Option<CertifierInfo>,
}

/// A server's certifier.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct CertifierInfo {
    pub(crate) url: String,
    pub(crate) pubkey: Bytes,
}

impl Info {
    /// Returns this server's certifier, if it has one: otherwise the Go server leaves the key
    /// empty.
    pub(crate) fn certifier(&self) -> Option<&CertifierInfo> {
        self.certifier
            .as_ref()
            .filter(|certifier| !certifier.pubkey.0.is_empty())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PowParamsResponse {
    pow_params: PowParamsMessage,
}

#[derive(Deserialize)]
struct PowParamsMessage {
    difficulty: u32,
    challenge: Bytes,
}

impl From<PowParamsResponse> for PowParams {
    fn from(response: PowParamsResponse) -> Self {
        Self {
            difficulty: response.pow_params.difficulty,
            challenge: response.pow_params.challenge.0,
        }
    }
}

/// `SubmitRequest`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SubmitRequest<'a> {
    #[serde(flatten)]
    pub(crate) signed: &'a SignedChallenge,
    #[serde(flatten)]
    pub(crate) admission: Admission,
}

/// The part of a `SubmitRequest` that is the same for all servers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SignedChallenge {
    pub(crate) prefix: Bytes,
    pub(crate) challenge: Bytes,
    pub(crate) pubkey: Bytes,
    pub(crate) signature: Bytes,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<String>,
}

/// Why a server should accept a node.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(crate) enum Admission {
    /// A proof of work.
    Work {
        pow_params: WorkParams,
        nonce: String,
    },
    /// A certificate of the certifier.
    Certificate { certificate: CertificateMessage },
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct WorkParams {
    pub(crate) difficulty: u32,
    pub(crate) challenge: Bytes,
}

/// A certificate in a `SubmitRequest`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CertificateMessage {
    data: Bytes,
    signature: Bytes,
}

impl From<&SignedCertificate> for CertificateMessage {
    fn from(certificate: &SignedCertificate) -> Self {
        Self {
            data: Bytes(certificate.data.clone()),
            signature: Bytes(certificate.signature.clone()),
        }
    }
}

/// A certificate as a certifier issues it, and as it is stored in a file.
#[derive(Deserialize)]
pub(crate) struct CertificateFile {
    certificate: Bytes,
    signature: Bytes,
}

impl From<CertificateFile> for SignedCertificate {
    fn from(file: CertificateFile) -> Self {
        Self {
            data: file.certificate.0,
            signature: file.signature.0,
        }
    }
}

/// `SubmitResponse`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SubmitResponse {
    pub(crate) round_id: Number,
    /// The time until the round ends.
    pub(crate) round_end: TimeLeft,
    /// Not checked here.
    #[serde(default)]
    pub(crate) receipt: Option<Value>,
}

/// `ProofResponse`.
#[derive(Deserialize)]
pub(crate) struct ProofResponse {
    proof: PoetProof,
    pub(crate) pubkey: Bytes32,
}

#[derive(Deserialize)]
struct PoetProof {
    proof: MerkleProof,
    members: List<MemberChallenge, MAX_MEMBERS>,
    leaves: Number,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MerkleProof {
    /// Empty in the proof of a server that does no work.
    root: Bytes,
    proven_leaves: List<Bytes32, MAX_PROVEN_LEAVES>,
    proof_nodes: List<Bytes32, MAX_PROOF_NODES>,
}

impl ProofResponse {
    /// Returns the claimed proof, with the statement that the members determine. Not verified.
    ///
    /// # Errors Fails if the proof is empty or malformed.
    pub(crate) fn into_proof(self) -> Result<PublishedProof, &'static str> {
        let nodes = |list: Vec<Bytes32>| list.into_iter().map(|Bytes32(node)| node).collect();
        let PoetProof {
            proof,
            members,
            leaves,
        } = self.proof;
        if leaves.0 == 0 {
            return Err("its proof is empty: the server does no work (--disable-worker)");
        }
        let Ok(root) = proof.root.0.try_into() else {
            return Err("the proof is not valid: its root does not have 32 bytes");
        };
        let members: Vec<Challenge> = members
            .0
            .into_iter()
            .map(|MemberChallenge(challenge)| challenge)
            .collect();
        Ok(PublishedProof {
            statement: membership::root(&members),
            odd_members: Vec::new(),
            members,
            leaves: leaves.0,
            proof: Proof {
                root,
                proven_leaves: nodes(proof.proven_leaves.0),
                proof_nodes: nodes(proof.proof_nodes.0),
            },
        })
    }
}

/// The response to `GET /v1/rounds`.
#[derive(Deserialize)]
pub(crate) struct RoundsResponse {
    rounds: List<Round, 1000>,
}

impl RoundsResponse {
    pub(crate) fn into_rounds(self) -> Vec<Round> {
        self.rounds.0
    }
}

/// A round of a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Round {
    pub(crate) id: Number,
    pub(crate) state: RoundState,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) members: Number,
    pub(crate) leaves: Option<Number>,
    pub(crate) leaves_per_second: Option<Number>,
    pub(crate) expected_leaves: Option<Number>,
    pub(crate) proof_ready: bool,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub(crate) enum RoundState {
    Open,
    Executing,
    Published,
    #[serde(other)]
    Other,
}

/// The body of every error of the interface.
#[derive(Deserialize)]
pub(crate) struct ErrorResponse {
    pub(crate) message: String,
}

/// The response to `GET /readyz`.
#[derive(Deserialize)]
pub(crate) struct HealthResponse {
    pub(crate) reason: Option<String>,
}
