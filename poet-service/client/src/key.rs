//! A node's identity: its ed25519 private key, in the formats in which it occurs.

use std::{io::ErrorKind, path::Path};

use anyhow::{Context as _, anyhow, bail};
use ed25519_dalek::{KEYPAIR_LENGTH, Signer as _, SigningKey};
use poet_files::{Access, create_new, reason};
use poet_proto::{
    identity::{PrivateKey, PrivateKeyError, decode_key_text},
    member::{Challenge, NodeId},
};

use crate::input::read;

/// Longer than a key in any format, even with some white space.
const MAX_FILE_BYTES: u64 = 1024;

/// A node's identity.
pub(crate) struct NodeKey(SigningKey);

impl NodeKey {
    /// Reads the key in `path`: 64 bytes (seed, then public key) in hex, as nodes store them in
    /// `identities/local.key`, in base64, or raw.
    ///
    /// # Errors
    /// Fails if the file cannot be read or holds something else. The message never contains the
    /// key.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let bytes = read(format_args!("--key {name}"), path, MAX_FILE_BYTES + 1)?;
        match decode(&bytes) {
            Ok(key) => Ok(key),
            Err(PrivateKeyError::Form) => bail!(
                "--key {name} is not a node's key: expected a 64-byte ed25519 private key (seed, \
                 then public key) in hex, in base64 or as it is"
            ),
            Err(error) => Err(error).with_context(|| format!("--key {name} is not a node's key")),
        }
    }

    /// Like [`NodeKey::read`], but first writes a new key to `path` if there is no file.
    ///
    /// # Errors
    /// Fails if [`NodeKey::read`] does, or the file cannot be written.
    pub(crate) fn read_or_generate(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            let key =
                PrivateKey::generate().map_err(|_| anyhow!("the system gives no randomness"))?;
            // Without a line break: that is how nodes write it, and the only form that they read.
            let text = hex::encode(key.to_bytes());
            match create_new(path, text.as_bytes(), Access::Private) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => bail!("cannot write --key {}: {}", path.display(), reason(&error)),
                Ok(()) => {}
            }
        }
        Self::read(path)
    }

    /// Returns the public key.
    pub(crate) fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

fn decode(file: &[u8]) -> Result<NodeKey, PrivateKeyError> {
    // 64 bytes can also be 32 bytes in hex; but a raw key is never all ASCII.
    let bytes = if file.len() == KEYPAIR_LENGTH && !file.is_ascii() {
        file.to_vec()
    } else {
        let text = std::str::from_utf8(file).map_err(|_| PrivateKeyError::Form)?;
        let digits = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
        // 128 digits of hex, or 88 of base64: no text can be both.
        hex::decode(digits)
            .ok()
            .or_else(|| decode_key_text(text))
            .ok_or(PrivateKeyError::Form)?
    };
    let key = PrivateKey::from_bytes(&bytes)?;
    SigningKey::from_keypair_bytes(&key.to_bytes())
        .map(NodeKey)
        .map_err(|_| PrivateKeyError::Mismatch)
}

/// Parses a challenge in hex.
///
/// # Errors
/// Fails if the text is anything else.
pub(crate) fn parse_challenge(text: &str) -> Result<Challenge, String> {
    parse_hex(text).map(Challenge)
}

/// Parses a value of `N` bytes in hex.
///
/// # Errors
/// Fails if the text is anything else.
pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let bytes = hex::decode(text).ok();
    bytes
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| format!("expected {N} bytes in hex ({} digits)", 2 * N))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_in_all_forms_and_nothing_else_is() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let pair = signing.to_keypair_bytes();
        let id = signing.verifying_key().to_bytes();
        let hex = hex::encode(pair);
        let base64 = poet_proto::base64::encode(pair);
        for form in [
            pair.to_vec(),
            hex.clone().into_bytes(),
            hex.to_uppercase().into_bytes(),
            format!("{hex}\n").into_bytes(),
            format!(" {}\r\n", poet_proto::base64::encode(pair)).into_bytes(),
            format!("\u{feff}{hex}\r\n").into_bytes(),
            // As the program `base64` writes it.
            format!("{}\n{}\n", &base64[..76], &base64[76..]).into_bytes(),
        ] {
            assert_eq!(decode(&form).unwrap().node_id(), NodeId(id));
        }
        let wrong = |bytes: &[u8]| decode(bytes).err().unwrap();
        for form in [
            Vec::new(),
            b"-----BEGIN OPENSSH PRIVATE KEY-----".to_vec(),
            br#"{"Key":"CAESQAAA"}"#.to_vec(),
            // A seed or a public key, which cannot be distinguished.
            id.to_vec(),
            hex::encode(id).into_bytes(),
            poet_proto::base64::encode(id).into_bytes(),
            hex[1..].to_owned().into_bytes(),
        ] {
            assert_eq!(wrong(&form), PrivateKeyError::Form);
        }
        let mut halves = pair;
        halves[40] ^= 1;
        assert_eq!(wrong(&halves), PrivateKeyError::Mismatch);
    }
}
