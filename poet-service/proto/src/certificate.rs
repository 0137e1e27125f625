//! Certificates: a certifier's word that a node may register (protocol section 7).
//!
//! The signed bytes are the SCALE encoding of
//! `{ pubkey: bytes of at most 32, expiration: Option<compact u64 unix seconds> }`.
//! A certificate is valid when a trusted key signed it, it names the node and it has not expired.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use jiff::Timestamp;

use crate::identity::PublicKey;

/// The longest public key that a certificate may name.
const MAX_PUBKEY_BYTES: usize = 32;

/// The first bytes of a certifier's key, by which a request picks which keys to try.
pub type KeyHint = [u8; 4];

/// A certificate as it travels: opaque signed bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedCertificate {
    /// The SCALE-encoded certificate.
    pub data: Vec<u8>,
    /// The certifier's ed25519 signature over `data`.
    pub signature: Vec<u8>,
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The node that may register.
    pub pubkey: Vec<u8>,
    /// Until when, in Unix seconds; unlimited if absent.
    pub expiration_unix: Option<u64>,
}

/// Why bytes are not a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("unexpected end of the certificate")]
    UnexpectedEnd,
    /// The public key is longer than any.
    #[error(
        "too many elements to decode in collection with scale limit set: ({0} > {MAX_PUBKEY_BYTES})"
    )]
    PubkeyTooLong(u64),
    /// A compact integer that does not fit 64 bits.
    #[error("compact integer of {0} bytes, expected at most 8")]
    IntegerTooLong(usize),
    /// An option that is neither absent nor present.
    #[error("invalid option tag {0}")]
    OptionTag(u8),
}

impl Certificate {
    /// Decodes a certificate. What follows it is ignored, as by the clients' own decoder: it is
    /// signed like the rest.
    ///
    /// # Errors
    /// When `bytes` is not the encoding of a certificate.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = bytes;
        let length = compact(&mut input)?;
        let pubkey_bytes = usize::try_from(length)
            .ok()
            .filter(|bytes| *bytes <= MAX_PUBKEY_BYTES)
            .ok_or(DecodeError::PubkeyTooLong(length))?;
        let pubkey = take(&mut input, pubkey_bytes)?.to_vec();
        let expiration_unix = match take(&mut input, 1)? {
            [0] => None,
            [1] => Some(compact(&mut input)?),
            tag => return Err(DecodeError::OptionTag(tag[0])),
        };
        Ok(Self {
            pubkey,
            expiration_unix,
        })
    }
}

fn take<'a>(input: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], DecodeError> {
    let (taken, rest) = input
        .split_at_checked(bytes)
        .ok_or(DecodeError::UnexpectedEnd)?;
    *input = rest;
    Ok(taken)
}

/// A SCALE compact integer: the two low bits of the first byte say how it continues.
fn compact(input: &mut &[u8]) -> Result<u64, DecodeError> {
    let first = *input.first().ok_or(DecodeError::UnexpectedEnd)?;
    let (skip, bytes) = match first & 3 {
        0 => (0, 1),
        1 => (0, 2),
        2 => (0, 4),
        _ => (1, usize::from(first >> 2) + 4),
    };
    if bytes > 8 {
        return Err(DecodeError::IntegerTooLong(bytes));
    }
    take(input, skip)?;
    let mut little_endian = [0; 8];
    little_endian[..bytes].copy_from_slice(take(input, bytes)?);
    let value = u64::from_le_bytes(little_endian);
    // In the first three modes the mode itself sits in the two low bits.
    Ok(if skip == 0 { value >> 2 } else { value })
}

/// Why a certificate does not let a node register.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not signed by the certifier.
    #[error("signature mismatch")]
    Signature,
    /// Signed, but not a certificate.
    #[error("decoding: {0}")]
    Decode(#[from] DecodeError),
    /// It names another node.
    #[error("pubkey mismatch")]
    OtherNode,
    /// Its time is over.
    #[error("certificate expired at {}", go_time(*.0))]
    Expired(u64),
    /// The hint fits none of the trusted keys.
    #[error("no matching cert public keys")]
    NoMatchingKey,
    /// None of the keys that the hint fits accepts it.
    #[error("invalid certificate")]
    NoKeyAccepts,
}

/// A time as Go prints it, which is how clients know this message.
fn go_time(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || format!("{unix_seconds} s after 1970"),
            |time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        )
}

/// The certifier that this server sends nodes to, and the keys it trusts.
#[derive(Clone, Debug)]
pub struct Certifier {
    /// Where nodes get their certificates; may be empty.
    pub url: String,
    /// The certifier's key, tried when a request gives no hint.
    pub pubkey: PublicKey,
    /// Further keys, tried when a request's hint fits them.
    pub trusted: Arc<TrustedKeys>,
}

impl Certifier {
    /// Checks that `certificate` lets `node_id` register at `now`.
    ///
    /// # Errors
    /// When it does not.
    pub fn verify(
        &self,
        certificate: &SignedCertificate,
        hint: Option<KeyHint>,
        node_id: &[u8; 32],
        now: Timestamp,
    ) -> Result<(), CertificateError> {
        let Some(hint) = hint else {
            return verify_with(&self.pubkey, certificate, node_id, now);
        };
        let trusted = self.trusted.keys();
        let mut matching = std::iter::once(&self.pubkey)
            .chain(&*trusted)
            .filter(|key| key.as_bytes().starts_with(&hint))
            .peekable();
        if matching.peek().is_none() {
            return Err(CertificateError::NoMatchingKey);
        }
        if matching.any(|key| verify_with(key, certificate, node_id, now).is_ok()) {
            Ok(())
        } else {
            Err(CertificateError::NoKeyAccepts)
        }
    }
}

fn verify_with(
    key: &PublicKey,
    certificate: &SignedCertificate,
    node_id: &[u8; 32],
    now: Timestamp,
) -> Result<(), CertificateError> {
    // The signature first: nothing that the certifier did not sign reaches the decoder.
    if !key.verifies(&[&certificate.data], &certificate.signature) {
        return Err(CertificateError::Signature);
    }
    let decoded = Certificate::decode(&certificate.data)?;
    if decoded.pubkey != node_id {
        return Err(CertificateError::OtherNode);
    }
    match decoded.expiration_unix {
        Some(expiration) if i128::from(expiration) * 1_000_000_000 < now.as_nanosecond() => {
            Err(CertificateError::Expired(expiration))
        }
        _ => Ok(()),
    }
}

/// The keys in the `*.key` files of a folder, which can be read again while they are in use.
#[derive(Debug, Default)]
pub struct TrustedKeys {
    folder: Option<PathBuf>,
    keys: RwLock<Arc<[PublicKey]>>,
}

impl TrustedKeys {
    /// Reads the keys below `folder`.
    ///
    /// # Errors
    /// As [`read_trusted_keys`].
    pub fn read(folder: PathBuf) -> Result<Self, TrustedKeysError> {
        let keys = RwLock::new(read_trusted_keys(&folder)?.into());
        Ok(Self {
            folder: Some(folder),
            keys,
        })
    }

    /// Reads the folder again and returns how many keys there are now. May block.
    ///
    /// # Errors
    /// When there is no folder, and as [`read_trusted_keys`]; the keys are then the same as before.
    pub fn reload(&self) -> Result<usize, TrustedKeysError> {
        let folder = self.folder.as_ref().ok_or(TrustedKeysError::NoFolder)?;
        let keys: Arc<[PublicKey]> = read_trusted_keys(folder)?.into();
        let count = keys.len();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(count)
    }

    fn keys(&self) -> Arc<[PublicKey]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<Vec<PublicKey>> for TrustedKeys {
    /// Keys that are not in a folder.
    fn from(keys: Vec<PublicKey>) -> Self {
        Self {
            folder: None,
            keys: RwLock::new(keys.into()),
        }
    }
}

/// Why a folder of trusted keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustedKeysError {
    /// There is none.
    #[error("no directory is configured: expected --trusted-pub-keys-dir-path")]
    NoFolder,
    /// A folder or file cannot be read.
    #[error("cannot read {path}: {cause}: expected a directory of *.key files")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// A file holds something else.
    #[error("{path}: {reason}")]
    Key {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: KeyTextError,
    },
}

/// Why a text is not a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the base64 form of a 32-byte ed25519 public key")]
pub struct KeyTextError;

/// Parses a base64 public key; surrounding white space is ignored.
///
/// # Errors
/// When `text` is something else.
pub fn parse_public_key(text: &str) -> Result<PublicKey, KeyTextError> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyTextError)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyTextError)?;
    PublicKey::from_bytes(&bytes).ok_or(KeyTextError)
}

/// Reads every `*.key` file below `folder`, in the order of their paths.
///
/// # Errors
/// When something cannot be read, or a key file holds no key.
pub fn read_trusted_keys(folder: &Path) -> Result<Vec<PublicKey>, TrustedKeysError> {
    let read_error = |path: &Path| {
        let path = path.to_owned();
        move |cause| TrustedKeysError::Read { path, cause }
    };
    let mut entries = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(read_error(folder))?;
    entries.sort_by_key(fs::DirEntry::path);
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry.path();
        // Links to folders are not followed, so that a loop of them cannot hang the start.
        if entry.file_type().map_err(read_error(&path))?.is_dir() {
            keys.extend(read_trusted_keys(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "key") {
            let mut text = String::new();
            fs::File::open(&path)
                .and_then(|file| file.take(1024).read_to_string(&mut text))
                .map_err(read_error(&path))?;
            let key =
                parse_public_key(&text).map_err(|reason| TrustedKeysError::Key { path, reason })?;
            keys.push(key);
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_are_refused() {
        let cases: [(&[u8], DecodeError); 8] = [
            (b"", DecodeError::UnexpectedEnd),
            (b"junk", DecodeError::PubkeyTooLong(450_600_282)),
            (&[33 << 2], DecodeError::PubkeyTooLong(33)),
            (&[32 << 2, 1, 2], DecodeError::UnexpectedEnd),
            (&[0], DecodeError::UnexpectedEnd),
            (&[0, 2], DecodeError::OptionTag(2)),
            (&[0, 1, 0xff], DecodeError::IntegerTooLong(67)),
            (&[0, 1, 0x13, 1, 2, 3], DecodeError::UnexpectedEnd),
        ];
        for (bytes, error) in cases {
            assert_eq!(Certificate::decode(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn the_largest_expiration_decodes() {
        let mut bytes = vec![0, 1, 0x13];
        bytes.extend([0xff; 8]);
        let certificate = Certificate::decode(&bytes).unwrap();
        assert_eq!(certificate.expiration_unix, Some(u64::MAX));
    }

    #[test]
    fn key_folders_are_walked() {
        let folder = tempfile::tempdir().unwrap();
        let nested = folder.path().join("nested");
        fs::create_dir(&nested).unwrap();
        let key = "V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
        fs::write(nested.join("a.key"), format!("{key}\n")).unwrap();
        fs::write(folder.path().join("notes.txt"), "not a key").unwrap();
        let keys = read_trusted_keys(folder.path()).unwrap();
        assert_eq!(keys.len(), 1);
        assert!(keys[0].as_bytes().starts_with(&[0x57, 0x68, 0xf6, 0x10]));

        fs::write(folder.path().join("b.key"), "abc").unwrap();
        let error = read_trusted_keys(folder.path()).unwrap_err().to_string();
        assert!(error.contains("b.key: expected the base64 form"), "{error}");

        // Keys that are in use stay while a file is bad.
        fs::remove_file(folder.path().join("b.key")).unwrap();
        let keys = TrustedKeys::read(folder.path().to_owned()).unwrap();
        fs::write(folder.path().join("b.key"), "abc").unwrap();
        assert!(keys.reload().is_err());
        assert_eq!(keys.keys().len(), 1);
        fs::write(folder.path().join("b.key"), key).unwrap();
        assert_eq!(keys.reload().unwrap(), 2);
        assert_eq!(keys.keys().len(), 2);
        let error = TrustedKeys::default().reload().unwrap_err().to_string();
        assert!(error.contains("--trusted-pub-keys-dir-path"), "{error}");

        let missing = folder.path().join("missing");
        let error = read_trusted_keys(&missing).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
