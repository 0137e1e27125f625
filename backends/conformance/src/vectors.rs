//! The golden vectors of `vectors/`, with bytes decoded from hex.
//!
//! `vectors/README.md` gives the source of each file. A loader panics if its file does not have the
//! expected form, including an unknown key: data that is not read is an error.

use hex::FromHex;
use poet_engine::Node;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, de::DeserializeOwned};

macro_rules! loaders {
    ($($(#[$doc:meta])* $loader:ident -> $vectors:ty = $file:literal;)*) => {
        /// The vector files that have a loader, by name.
        pub const FILES: &[&str] = &[$($file),*];

        $(
            $(#[$doc])*
            ///
            /// # Panics
            /// Panics if the file does not have the expected form.
            #[must_use]
            pub fn $loader() -> $vectors {
                load($file, include_str!(concat!("../vectors/", $file)))
            }
        )*
    };
}

loaders! {
    /// `certificates.json`: registration certificates (PROTOCOL.md section 7).
    certificates -> Vec<CertificateVector> = "certificates.json";
    /// `fiat_shamir.json`: which leaves are proven (PROTOCOL.md section 4).
    fiat_shamir -> Vec<FiatShamirVector> = "fiat_shamir.json";
    /// `haraka.json`: the AES work function (PROTOCOL.md section 9).
    haraka -> HarakaVectors = "haraka.json";
    /// `labels.json`: labels and roots (PROTOCOL.md sections 2 and 3).
    labels -> Vec<LabelVector> = "labels.json";
    /// `membership.json`: membership roots (PROTOCOL.md section 6).
    membership -> Vec<MembershipVector> = "membership.json";
    /// `pow.json`: registration by proof of work (PROTOCOL.md section 7).
    pow -> Vec<PowVector> = "pow.json";
    /// `proofs.json`: whole proofs (PROTOCOL.md section 5).
    proofs -> Vec<ProofVector> = "proofs.json";
    /// `scale_proofs.json`: the bytes by whose hash ATXs refer to proofs (PROTOCOL.md section 5).
    scale_proofs -> Vec<ScaleProofVector> = "scale_proofs.json";
}

/// The labels of a round and its root after each of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelVector {
    /// The salt of every hash of the round; any length.
    #[serde(with = "hex")]
    pub statement: Vec<u8>,
    /// Labels 0, 1, 2, ... at depth 400.
    #[serde(deserialize_with = "list")]
    pub labels: Vec<Node>,
    /// Entry i is the root of the tree of leaves 0 to i.
    #[serde(deserialize_with = "list")]
    pub root_after_each_leaf: Vec<Node>,
}

/// A proof with everything it is verified against.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProofVector {
    /// The statement of the round, 32 bytes.
    #[serde(with = "hex")]
    pub statement: Vec<u8>,
    /// The number of leaves of the tree.
    pub leaves: u64,
    /// The root of the tree.
    #[serde(with = "hex")]
    pub root: Node,
    /// The indices of the proven leaves, increasing.
    pub proven_leaf_indices: Vec<u64>,
    /// The labels at these indices.
    #[serde(deserialize_with = "list")]
    pub proven_leaves: Vec<Node>,
    /// The siblings from which the root is rebuilt, in the order of PROTOCOL.md section 5.
    #[serde(deserialize_with = "list")]
    pub proof_nodes: Vec<Node>,
    /// The result of the Go verifier with T = 150: false below 150 leaves.
    pub valid: bool,
}

/// The stored form of a proof of `proofs.json`: the one with the same leaves and root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleProofVector {
    /// The number of leaves of the tree.
    pub leaves: u64,
    /// The root of the tree.
    #[serde(with = "hex")]
    pub root: Node,
    /// The proof in SCALE encoding.
    #[serde(with = "hex")]
    pub scale_bytes: Vec<u8>,
    /// BLAKE3 of `scale_bytes`.
    #[serde(with = "hex")]
    pub reference: [u8; 32],
}

/// The indices that a root selects.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiatShamirVector {
    /// The root of the tree.
    #[serde(with = "hex")]
    pub root: Node,
    /// The number of leaves of the tree; up to the greatest 64-bit number.
    pub leaves: u64,
    /// The number of leaves to prove.
    pub t: u32,
    /// The selected indices, increasing; fewer than `t` if there are fewer leaves.
    pub indices_sorted: Vec<u64>,
}

/// A membership tree.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipVector {
    /// The challenges, in the order of the leaves. 32 bytes each, except in the last vector.
    #[serde(deserialize_with = "list")]
    pub members_in_tree_order: Vec<Vec<u8>>,
    /// The root: empty without members, the challenge itself with one, else 32 bytes.
    #[serde(with = "hex")]
    pub root: Vec<u8>,
}

/// A registration's proof of work.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowVector {
    /// The server's challenge.
    #[serde(with = "hex")]
    pub pow_challenge: [u8; 32],
    /// The ed25519 public key of the node.
    #[serde(with = "hex")]
    pub node_id: [u8; 32],
    /// The challenge that the node registers.
    #[serde(with = "hex")]
    pub poet_challenge: [u8; 32],
    /// The solution.
    pub nonce: u64,
    /// The RIPEMD-256 digest of all of them.
    #[serde(with = "hex")]
    pub ripemd256: [u8; 32],
    /// The number of zero bits at the start of the digest.
    pub leading_zero_bits: u32,
}

/// A signed certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateVector {
    /// The ed25519 public key of the certifier.
    #[serde(with = "hex")]
    pub certifier_pubkey: [u8; 32],
    /// The ed25519 public key of the node that may register.
    #[serde(with = "hex")]
    pub node_id: [u8; 32],
    /// When the certificate expires, in seconds since 1970; `None` if never.
    pub expiration_unix: Option<u64>,
    /// The SCALE encoding that is signed.
    #[serde(with = "hex")]
    pub data: Vec<u8>,
    /// The certifier's ed25519 signature over `data`.
    #[serde(with = "hex")]
    pub signature: [u8; 64],
    /// The first four bytes of the certifier's public key.
    #[serde(with = "hex")]
    pub pubkey_hint: [u8; 4],
}

/// Everything about Haraka v2.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HarakaVectors {
    /// The 40 round constants, each a 128-bit number with its most significant byte first;
    /// Haraka-256 uses the first 20 of them.
    #[serde(deserialize_with = "list")]
    pub round_constants: Vec<[u8; 16]>,
    /// Haraka-256: 32 bytes to 32 bytes.
    pub haraka256: Vec<HashVector<32>>,
    /// Haraka-512: 64 bytes to 32 bytes.
    pub haraka512: Vec<HashVector<64>>,
    /// Haraka-256 applied repeatedly.
    pub haraka256_chain: Vec<ChainVector>,
}

/// One hash of an input of `N` bytes.
#[derive(Clone, Debug, Deserialize)]
#[serde(
    deny_unknown_fields,
    bound = "[u8; N]: FromHex<Error = hex::FromHexError>"
)]
pub struct HashVector<const N: usize> {
    /// The message.
    #[serde(with = "hex")]
    pub input: [u8; N],
    /// Its digest.
    #[serde(with = "hex")]
    pub output: [u8; 32],
}

/// A chain of hashes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChainVector {
    /// The input of the first hash.
    #[serde(with = "hex")]
    pub input: Node,
    /// The number of hashes.
    pub iterations: u32,
    /// The output of the last hash.
    #[serde(with = "hex")]
    pub output: Node,
}

fn load<T: DeserializeOwned>(file: &str, json: &str) -> T {
    match serde_json::from_str(json) {
        Ok(vectors) => vectors,
        Err(error) => panic!("vectors/{file}: {error}"),
    }
}

/// A list of byte strings.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromHex<Error = hex::FromHexError>,
{
    Vec::<String>::deserialize(deserializer)?
        .iter()
        .enumerate()
        .map(|(i, text)| T::from_hex(text).map_err(|e| D::Error::custom(format!("entry {i}: {e}"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// A vector file without a loader is a failure.
    #[test]
    fn every_file_has_a_loader() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect(folder)
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "README.md")
            .collect();
        let loaded: BTreeSet<String> = FILES.iter().map(|&file| file.into()).collect();
        assert_eq!(there, loaded);
    }

    /// Every loader reads its file, and the files contain what the project's tests rely on.
    #[test]
    fn every_loader_reads_its_file() {
        let labels = labels();
        assert_eq!(labels.len(), 7);
        assert!(labels.iter().all(|v| v.labels.len() == 130));
        assert!(labels.iter().all(|v| v.root_after_each_leaf.len() == 130));

        let proofs = proofs();
        assert_eq!(proofs.iter().map(|v| v.leaves).max(), Some(65_549));
        for proof in &proofs {
            assert_eq!(proof.proven_leaves.len(), proof.proven_leaf_indices.len());
            assert_eq!(proof.valid, proof.leaves >= 150, "{} leaves", proof.leaves);
        }
        let scale_proofs = scale_proofs();
        assert_eq!(scale_proofs.len(), 13);
        for scale in &scale_proofs {
            let same = |v: &&ProofVector| (v.leaves, v.root) == (scale.leaves, scale.root);
            assert_eq!(
                proofs.iter().filter(same).count(),
                1,
                "{} leaves",
                scale.leaves
            );
        }

        let fiat_shamir = fiat_shamir();
        assert_eq!(fiat_shamir.last().map(|v| v.leaves), Some(u64::MAX));
        assert!(fiat_shamir.iter().all(|v| v.indices_sorted.is_sorted()));

        assert_eq!(membership().len(), 12);
        assert!(membership()[0].root.is_empty());

        let zeros = |v: &PowVector| u128::from_be_bytes(v.ripemd256[..16].try_into().unwrap());
        assert!(
            pow()
                .iter()
                .all(|v| zeros(v).leading_zeros() == v.leading_zero_bits)
        );

        let certificates = certificates();
        assert_eq!(certificates.len(), 10);
        assert!(
            certificates
                .iter()
                .all(|v| v.certifier_pubkey.starts_with(&v.pubkey_hint))
        );

        let haraka = haraka();
        assert_eq!(haraka.round_constants.len(), 40);
        assert_eq!(haraka.haraka256.len(), 17);
        assert_eq!(haraka.haraka512.len(), 17);
        assert_eq!(haraka.haraka256_chain.len(), 8);
    }
}
