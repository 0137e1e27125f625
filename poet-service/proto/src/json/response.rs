//! The responses: `SubmitResponse`, `PowParamsResponse`, `InfoResponse` and `ProofResponse`.

use poet_engine::{MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Proof, membership};
use serde::{Deserialize, Serialize};

use super::{
    fields::{Bytes, Bytes32, List, MemberChallenge, Number, Seconds, TimeLeft},
    text::{push_base64, write},
};
use crate::{
    member::Challenge,
    messages::{Info, PublishedProof, Submitted},
    pow::PowParams,
};

/// `SubmitResponse`. `R` is what becomes of the receipt: a [`Receipt`](crate::receipt::Receipt) to
/// write, a JSON value to check later, or nothing.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubmitResponse<R> {
    /// The round of the registration.
    pub round_id: Number,
    /// The time from now until the end of the round's work.
    pub round_end: TimeLeft,
    /// The signed acknowledgement; the Go server gives none.
    pub receipt: Option<R>,
}

/// Writes a `SubmitResponse`.
pub fn submit_response(submitted: Submitted) -> String {
    write(&SubmitResponse {
        round_id: Number(submitted.round),
        round_end: TimeLeft(submitted.time_to_end),
        receipt: Some(submitted.receipt),
    })
}

/// `PowParamsResponse`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PowParamsResponse {
    pow_params: PowParamsMessage,
}

#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct PowParamsMessage {
    difficulty: u32,
    challenge: Bytes,
}

impl From<&PowParams> for PowParamsResponse {
    fn from(params: &PowParams) -> Self {
        Self {
            pow_params: PowParamsMessage {
                difficulty: params.difficulty,
                challenge: Bytes(params.challenge.clone()),
            },
        }
    }
}

impl From<PowParamsResponse> for PowParams {
    fn from(response: PowParamsResponse) -> Self {
        Self {
            difficulty: response.pow_params.difficulty,
            challenge: response.pow_params.challenge.0,
        }
    }
}

/// Writes a `PowParamsResponse`.
pub fn pow_params_response(params: &PowParams) -> String {
    write(&PowParamsResponse::from(params))
}

/// `InfoResponse`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InfoResponse {
    /// The server's key.
    pub service_pubkey: Bytes32,
    /// The time from genesis to the start of round 0.
    pub phase_shift: Seconds,
    /// The time from the end of a round to the start of the next one.
    pub cycle_gap: Seconds,
    certifier: Option<CertifierMessage>,
}

/// Where nodes get certificates.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct CertifierMessage {
    /// The certifier's address.
    pub url: String,
    /// The certifier's key, of any length.
    pub pubkey: Bytes,
}

impl InfoResponse {
    /// Returns this server's certifier, if it has one: otherwise the Go server leaves the key
    /// empty.
    pub fn certifier(&self) -> Option<&CertifierMessage> {
        self.certifier
            .as_ref()
            .filter(|certifier| !certifier.pubkey.0.is_empty())
    }
}

impl From<&Info<'_>> for InfoResponse {
    fn from(info: &Info<'_>) -> Self {
        Self {
            service_pubkey: Bytes32(*info.public_key.as_bytes()),
            phase_shift: Seconds(info.phase_shift.unsigned_abs()),
            cycle_gap: Seconds(info.cycle_gap.unsigned_abs()),
            // null, not an empty object: a node that receives a certifier sends requests to it.
            certifier: info.certifier.and_then(|certifier| {
                Some(CertifierMessage {
                    url: certifier.url.clone(),
                    pubkey: Bytes(certifier.pubkey.as_ref()?.as_bytes().to_vec()),
                })
            }),
        }
    }
}

/// Writes an `InfoResponse`.
pub fn info_response(info: &Info<'_>) -> String {
    write(&InfoResponse::from(info))
}

/// A `ProofResponse` with at most `MEMBERS` members, as read from a server that is not trusted.
/// [`proof_response`] writes it.
#[derive(Deserialize)]
pub struct ProofResponse<const MEMBERS: usize> {
    proof: PoetProof<MEMBERS>,
    /// The server's key.
    pub pubkey: Bytes32,
}

#[derive(Deserialize)]
struct PoetProof<const MEMBERS: usize> {
    proof: MerkleProof,
    members: List<MemberChallenge, MEMBERS>,
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

impl<const MEMBERS: usize> ProofResponse<MEMBERS> {
    /// Returns the claimed proof, with the statement that the members determine. Not verified.
    ///
    /// # Errors
    /// Fails if the proof is empty or malformed.
    pub fn into_proof(self) -> Result<PublishedProof, &'static str> {
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
/// Writes a `ProofResponse`, without serde: with a million members it is 44 MB long.
pub fn proof_response(published: &PublishedProof, public_key: &[u8; 32]) -> String {
    // 44 characters of base64, two quotes and a comma.
    const ENTRY_CHARS: usize = 47;
    let proof = &published.proof;
    let entries = proof.proven_leaves.len() + proof.proof_nodes.len() + published.members.len() + 2;
    let mut json = String::with_capacity(256 + entries * ENTRY_CHARS);
    json.push_str("{\"proof\":{\"proof\":{\"root\":");
    push_base64(&mut json, published.root().map_or(&[], |root| &root[..]));
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
    use serde::de::IgnoredAny;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        identity::PrivateKey,
        json::read,
        member::NodeId,
        receipt::{Acknowledged, Receipt},
    };

    fn from(json: &Value) -> Vec<u8> {
        json.to_string().into_bytes()
    }

    #[test]
    fn responses_are_read_as_they_are_written() {
        let key = PrivateKey::generate().unwrap();
        let public_key = key.public();
        let params = PowParams {
            difficulty: 7,
            challenge: vec![0xfb; 32],
        };
        let text = pow_params_response(&params);
        let response: PowParamsResponse = read(text.as_bytes()).unwrap();
        assert_eq!(PowParams::from(response), params);

        let info = Info {
            public_key: &public_key,
            phase_shift: jiff::SignedDuration::from_secs(864_000),
            cycle_gap: jiff::SignedDuration::from_millis(1500),
            certifier: None,
        };
        let text = info_response(&info);
        assert!(text.contains(r#""phaseShift":"864000s","cycleGap":"1.500s","certifier":null"#));
        let response: InfoResponse = read(text.as_bytes()).unwrap();
        assert_eq!(response, InfoResponse::from(&info));
        assert_eq!(response.certifier(), None);

        let acknowledged = Acknowledged {
            round: 5,
            node_id: NodeId([1; 32]),
            challenge: Challenge([2; 32]),
            time: "2026-11-26T19:00:00Z".parse().unwrap(),
            round_end: "2026-12-10T08:00:00Z".parse().unwrap(),
        };
        let receipt = Receipt::sign(&[acknowledged], &key).remove(0);
        let time_to_end = jiff::SignedDuration::from_millis(-1500);
        let text = submit_response(Submitted {
            round: 5,
            time_to_end,
            receipt: receipt.clone(),
        });
        let response: SubmitResponse<Value> = read(text.as_bytes()).unwrap();
        assert_eq!(response.round_id, Number(5));
        assert_eq!(response.round_end, TimeLeft(time_to_end));
        let read_again = Receipt::from_json(&response.receipt.unwrap());
        assert_eq!(read_again, Ok(receipt));

        let members = vec![Challenge([3; 32]), Challenge([4; 32])];
        let published = PublishedProof {
            statement: membership::root(&members),
            members,
            odd_members: Vec::new(),
            leaves: 9,
            proof: Proof {
                root: [5; 32],
                proven_leaves: vec![[6; 32]],
                proof_nodes: vec![[7; 32], [8; 32]],
            },
        };
        let text = proof_response(&published, public_key.as_bytes());
        let response: ProofResponse<2> = read(text.as_bytes()).unwrap();
        assert_eq!(response.pubkey.0, *public_key.as_bytes());
        assert_eq!(response.into_proof(), Ok(published));
        let response: Result<ProofResponse<1>, _> = read(text.as_bytes());
        let error = response.err().unwrap().to_string();
        assert_eq!(
            error,
            "invalid length 2, expected a list of at most 1 entries"
        );
    }

    #[test]
    fn responses_of_other_servers_are_read_leniently() {
        // As the Go server answers without a certifier, and with more fields.
        let key = "-_-_ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY";
        let info: InfoResponse = read(&from(&json!({
            "openRoundId": "5", "servicePubkey": key, "phaseShift": "240h", "cycleGap": "1m30s",
            "certifier": {"url": "", "pubkey": null},
        })))
        .unwrap();
        assert_eq!(info.service_pubkey.0[..4], [0xfb, 0xff, 0xbf, 0x66]);
        assert_eq!(info.phase_shift.0.as_secs(), 864_000);
        assert_eq!(info.cycle_gap.0.as_secs(), 90);
        assert_eq!(info.certifier(), None);
        // A number, not text; no receipt.
        let submitted: SubmitResponse<IgnoredAny> =
            read(br#"{"roundId":7,"roundEnd":"-5.5s"}"#).unwrap();
        assert_eq!(submitted.round_id, Number(7));
        assert!(submitted.round_end.0.is_negative() && submitted.receipt.is_none());
        // Challenges that are not 32 bytes long, as nodes read them.
        let proof = json!({
            "proof": {
                "proof": {"root": crate::base64::encode([1; 32]), "provenLeaves": [], "proofNodes": []},
                "members": ["", null, "AQI", crate::base64::encode([9; 33])],
                "leaves": "1",
            },
            "pubkey": key,
        });
        let response: ProofResponse<4> = read(&from(&proof)).unwrap();
        let mut short = [0; 32];
        short[..2].copy_from_slice(&[1, 2]);
        let expected = [[0; 32], [0; 32], short, [9; 32]].map(Challenge);
        assert_eq!(response.into_proof().unwrap().members, expected);
        for (field, value, expected) in [
            ("leaves", json!("0"), "its proof is empty"),
            (
                "proof",
                json!({"root": "", "provenLeaves": [], "proofNodes": []}),
                "32 bytes",
            ),
        ] {
            let mut changed = proof.clone();
            changed["proof"][field] = value;
            let response: ProofResponse<4> = read(&from(&changed)).unwrap();
            let error = response.into_proof().unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn what_is_not_a_response_is_refused_in_words() {
        let error = |text: &str| {
            read::<InfoResponse>(text.as_bytes())
                .unwrap_err()
                .to_string()
        };
        let info = |field: &str, value: Value| {
            let mut info = json!({
                "servicePubkey": crate::base64::encode([1; 32]), "phaseShift": "1s",
                "cycleGap": "1s",
            });
            info[field] = value;
            error(&info.to_string())
        };
        assert_eq!(error(""), "it ends too early, at line 1 column 0");
        assert_eq!(error("<html>"), "unexpected text at line 1 column 1");
        assert_eq!(error("{}"), "missing field `servicePubkey`");
        for (field, value, expected) in [
            (
                "servicePubkey",
                json!("AQ=="),
                "invalid length 1, expected 32 bytes",
            ),
            (
                "servicePubkey",
                json!("*"),
                "invalid value: other text, expected base64",
            ),
            (
                "servicePubkey",
                json!(null),
                "invalid length 0, expected 32 bytes",
            ),
            (
                "servicePubkey",
                json!(7),
                "invalid type: integer `7`, expected base64",
            ),
            (
                "phaseShift",
                json!("-1s"),
                "expected a duration such as 34.8s",
            ),
            ("cycleGap", json!("1"), "expected a duration such as 34.8s"),
            (
                "cycleGap",
                json!(null),
                "invalid type: null, expected a duration such as 34.8s",
            ),
        ] {
            let error = info(field, value);
            assert!(error.ends_with(expected), "{error}");
        }
        for (text, expected) in [
            (
                r#"{"roundId":"../x","roundEnd":"5s"}"#,
                "expected a whole number from 0 to 2^64 - 1",
            ),
            (
                r#"{"roundId":-1,"roundEnd":"5s"}"#,
                "expected a whole number from 0 to 2^64 - 1",
            ),
            (
                r#"{"roundId":"1","roundEnd":"--5s"}"#,
                "expected a duration such as 34.8s",
            ),
        ] {
            let response: Result<SubmitResponse<IgnoredAny>, _> = read(text.as_bytes());
            let error = response.err().unwrap().to_string();
            assert!(error.ends_with(expected), "{error}");
        }
    }
}
