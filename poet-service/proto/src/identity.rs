//! ed25519 keys: the server's own, and those that sign what it receives.

use std::time::Duration;

use ed25519_dalek::{
    KEYPAIR_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey,
    ed25519::signature::MultipartVerifier,
};

use crate::base64;

/// The environment variable that may contain the server's key.
pub const PRIVATE_KEY_VARIABLE: &str = "POET_PRIVATE_KEY";

/// The BLAKE3 context, used for nothing else.
const CYCLE_GAP_CONTEXT: &str = "spacemesh poet-service 2026 ed25519 seed for a further cycle gap";

/// An ed25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Returns the key with these bytes; `None` if they do not encode a point of the curve.
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        VerifyingKey::from_bytes(bytes).ok().map(Self)
    }

    /// Returns the key's bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// Returns whether anybody can sign for this key: it is a point of small order, such as the
    /// neutral one.
    pub fn is_weak(&self) -> bool {
        self.0.is_weak()
    }

    /// Returns whether `signature` is this key's signature of the concatenated parts of `message`.
    ///
    /// Accepts exactly what Go's `crypto/ed25519` does, because a registration that one server of a
    /// network accepts must be accepted by all. Both compare the encoding of `[S]B - [k]A` with the
    /// first half of the signature (no cofactor), refuse an `S` that is not reduced, and take keys
    /// and points in any encoding that decodes, including those of small order. dalek's
    /// `verify_strict` refuses small order, so it is not used.
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
    /// The second half is not the public key of the first.
    #[error("its second half is not the public key of its first half")]
    Mismatch,
}

impl PrivateKey {
    /// Generates a random key.
    ///
    /// # Errors
    /// Fails if the operating system provides no randomness.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Returns the key of the 64 bytes `seed || public key`.
    ///
    /// # Errors
    /// Fails if `bytes` has another length, or its halves do not belong together.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PrivateKeyError> {
        let bytes: &[u8; KEYPAIR_LENGTH] = bytes.try_into().map_err(|_| PrivateKeyError::Form)?;
        SigningKey::from_keypair_bytes(bytes)
            .map(Self)
            .map_err(|_| PrivateKeyError::Mismatch)
    }

    /// Decodes a key from base64.
    ///
    /// # Errors
    /// Fails as [`PrivateKey::from_bytes`] does, and if the text is not base64.
    pub fn from_base64(text: &str) -> Result<Self, PrivateKeyError> {
        Self::from_bytes(&decode_key_text(text).ok_or(PrivateKeyError::Form)?)
    }

    /// Returns the 64 bytes `seed || public key`.
    pub fn to_bytes(&self) -> [u8; KEYPAIR_LENGTH] {
        self.0.to_keypair_bytes()
    }

    /// Returns the key under which the server with this key serves nodes whose cycle gap is
    /// `cycle_gap`, if that differs from its own gap: the same key after every start and on every
    /// machine. Its seed is BLAKE3 in key derivation mode, with the context `spacemesh poet-service
    /// 2026 ed25519 seed for a further cycle gap`, of this key's seed followed by the gap in
    /// nanoseconds (8 bytes, big-endian).
    pub fn for_cycle_gap(&self, cycle_gap: Duration) -> Self {
        // A gap is at most Go's longest duration: 63 bits.
        let nanos = u64::try_from(cycle_gap.as_nanos()).unwrap_or(u64::MAX);
        let mut derived = blake3::Hasher::new_derive_key(CYCLE_GAP_CONTEXT);
        derived.update(self.0.as_bytes());
        derived.update(&nanos.to_be_bytes());
        Self(SigningKey::from_bytes(derived.finalize().as_bytes()))
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }

    /// Returns the public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

/// Decodes a key as people store it: in base64, which tools wrap, editors start with a byte order
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

    /// The values come from another implementation of BLAKE3. Changing them would change the keys
    /// in nodes' configurations.
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
