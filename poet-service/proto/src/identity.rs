//! ed25519 keys: the server's own, and those that sign what it is sent.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{
    KEYPAIR_LENGTH, Signature, Signer as _, SigningKey, VerifyingKey,
    ed25519::signature::MultipartVerifier,
};

/// The environment variable that may give the server's key.
pub const PRIVATE_KEY_VARIABLE: &str = "POET_PRIVATE_KEY";

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
    STANDARD.decode(text).ok()
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
        let again = PrivateKey::from_base64(&STANDARD.encode(key.to_bytes())).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(!format!("{key:?}").contains(&format!("{:?}", &key.to_bytes()[..32])));
    }

    #[test]
    fn keys_are_read_as_tools_write_them() {
        let key = PrivateKey::generate().unwrap();
        let text = STANDARD.encode(key.to_bytes());
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

    #[test]
    fn bad_keys_are_refused() {
        let twice = STANDARD.encode([7; 64]).repeat(2);
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
