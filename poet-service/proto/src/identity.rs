//! ed25519 keys: the server's own, and those that sign what it is sent.

use std::time::Duration;

use ed25519_dalek::{
    KEYPAIR_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey,
    ed25519::signature::MultipartVerifier,
};

use crate::base64;

/// The environment variable that may give the server's key.
pub const PRIVATE_KEY_VARIABLE: &str = "POET_PRIVATE_KEY";

/// Under this context of BLAKE3 nothing else is derived.
const CYCLE_GAP_CONTEXT: &str = "spacemesh poet-service 2026 ed25519 seed for a further cycle gap";

/// An ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// A key from its bytes; `None` when they do not encode a point of the curve.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes).ok().map(Self)
    }

    /// The key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Whether anybody can sign for this key: it is a point of small order, such as the neutral one.
    pub fn is_weak(&self) -> bool {
        self.0.is_weak()
    }

    /// Whether `signature` is this key's over the parts of `message`, one after the other.
    ///
    /// Accepts exactly what Go's `crypto/ed25519` does, because what one server of a network
    /// accepts the others must, too. Both compare the encoding of `[S]B - [k]A` with the first
    /// half of the signature (no cofactor), refuse an `S` that is not reduced, and take keys and
    /// points in any encoding that decodes, those of small order included. dalek's
    /// `verify_strict` refuses the last of these, so it is not used.
    pub fn verifies(&self, message: &[&[u8]], signature: &[u8]) -> bool {
        Signature::from_slice(signature)
            .is_ok_and(|signature| self.0.multipart_verify(message, &signature).is_ok())
    }
}

/// The server's private key: the 32-byte seed, then the 32-byte public key.
#[derive(Clone)]
pub struct PrivateKey(SigningKey);

/// Why bytes are not a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrivateKeyError {
    /// Not 64 bytes in base64.
    #[error("expected base64 of the 64-byte ed25519 private key (seed, then public key)")]
    Form,
    /// The second half does not belong to the first.
    #[error("its second half is not the public key of its first half")]
    Mismatch,
}

impl PrivateKey {
    /// A new random key.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The key of the 64 bytes `seed || public key`.
    ///
    /// # Errors
    /// When there are not 64 of them, or the halves do not belong together.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PrivateKeyError> {
        let bytes: &[u8; KEYPAIR_LENGTH] = bytes.try_into().map_err(|_| PrivateKeyError::Form)?;
        SigningKey::from_keypair_bytes(bytes)
            .map(Self)
            .map_err(|_| PrivateKeyError::Mismatch)
    }

    /// The key of a base64 text.
    ///
    /// # Errors
    /// As [`PrivateKey::from_bytes`], and when the text is not base64.
    pub fn from_base64(text: &str) -> Result<Self, PrivateKeyError> {
        Self::from_bytes(&decode_key_text(text).ok_or(PrivateKeyError::Form)?)
    }

    /// The 64 bytes `seed || public key`.
    pub fn to_bytes(&self) -> [u8; KEYPAIR_LENGTH] {
        self.0.to_keypair_bytes()
    }

    /// The key under which the server with this key serves nodes whose cycle gap is `cycle_gap`, where
    /// that is not its own: the same one after every start and on every machine. Its seed is BLAKE3 in
    /// the mode of key derivation, with the context `spacemesh poet-service 2026 ed25519 seed for a
    /// further cycle gap`, of this key's seed followed by the gap in nanoseconds (8 bytes, big-endian).
    pub fn for_cycle_gap(&self, cycle_gap: Duration) -> Self {
        // A gap is at most what Go can hold: 63 bits.
        let nanos = u64::try_from(cycle_gap.as_nanos()).unwrap_or(u64::MAX);
        let mut derived = blake3::Hasher::new_derive_key(CYCLE_GAP_CONTEXT);
        derived.update(self.0.as_bytes());
        derived.update(&nanos.to_be_bytes());
        Self(SigningKey::from_bytes(derived.finalize().as_bytes()))
    }

    /// Its signature of `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

/// The bytes of a key as people keep it: in base64, which tools wrap, editors begin with a byte order
/// mark, and white space surrounds.
pub fn decode_key_text(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text: String = text.split_whitespace().collect();
    base64::decode(&text)
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PrivateKey")
            .field(self.public().as_bytes())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_encodings() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_base64(&base64::encode(key.to_bytes())).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(!format!("{key:?}").contains(&format!("{:?}", &key.to_bytes()[..32])));
    }

    #[test]
    fn keys_are_read_as_tools_write_them() {
        let key = PrivateKey::generate().unwrap();
        let text = base64::encode(key.to_bytes());
        let (line, rest) = text.split_at(76);
        for text in [
            format!("{line}\n{rest}\n"),
            format!("{line}\r\n{rest}\r\n"),
            format!("\u{feff}{text}"),
            format!(" \t{text}  \n\n"),
        ] {
            let read = PrivateKey::from_base64(&text);
            assert_eq!(read.unwrap().public(), key.public(), "{text:?}");
        }
    }

    /// The values are those of another implementation of BLAKE3. A change of them would change the keys
    /// that nodes have in their configuration.
    #[test]
    fn keys_for_further_cycle_gaps_never_change() {
        let seed: [u8; 32] = std::array::from_fn(|index| index as u8);
        let key = PrivateKey(SigningKey::from_bytes(&seed));
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let of = |gap| base64::encode(key.for_cycle_gap(gap).public().as_bytes());
        assert_eq!(
            of(hours(24)),
            "tR+dkjAU+/SC30EPxsz6HqlEQF6yNzNFtl8mPsB0Dgc="
        );
        assert_eq!(
            of(Duration::from_nanos(1)),
            "kYOFGzOPl7jj/dTKB7YOCRip74zS2uA5jIBgMbObGiw="
        );
        assert_eq!(
            key.for_cycle_gap(hours(24)).to_bytes()[..32],
            hex::decode("c7aeb111bdeff93987758f3992294973597a0dc629151552d80a5a421e5b6187")
                .unwrap()
        );
    }

    #[test]
    fn bad_keys_are_refused() {
        let twice = base64::encode([7; 64]).repeat(2);
        for text in ["", "***", "AAAA", "\u{feff}", &twice] {
            assert_eq!(
                PrivateKey::from_base64(text).unwrap_err(),
                PrivateKeyError::Form
            );
        }
        let mut bytes = PrivateKey::generate().unwrap().to_bytes();
        bytes[40] ^= 1;
        assert_eq!(
            PrivateKey::from_bytes(&bytes).unwrap_err(),
            PrivateKeyError::Mismatch
        );
    }

    #[test]
    fn signatures_cover_all_parts() {
        let key = PrivateKey::generate().unwrap();
        let signature = key.sign(b"prefixchallenge");
        let public = key.public();
        assert!(public.verifies(&[b"prefix", b"challenge"], &signature));
        assert!(!public.verifies(&[b"prefix", b"challenges"], &signature));
        assert!(!public.verifies(&[b"prefix", b"challenge"], &signature[1..]));
        assert!(!public.verifies(&[b"prefix", b"challenge"], &[]));
    }

    #[test]
    fn small_order_keys_verify_as_in_go() {
        // The neutral element as key and as R, with S = 0, signs everything. Go accepts it.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        let key = PublicKey::from_bytes(&neutral).unwrap();
        assert!(key.verifies(&[b"anything"], &signature));
        assert!(key.is_weak());
    }
}
