//! Certificates: a certifier's permission for a node to register (protocol section 7).
//!
//! The signed bytes are the SCALE encoding of `{ pubkey: bytes of at most 32, expiration:
//! Option<compact u64 unix seconds> }`. A certificate is valid if a trusted key signed it, it names
//! the node and it has not expired.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, mpsc},
    thread,
    time::Duration,
};

use jiff::Timestamp;
use poet_files::reason;

use crate::{
    identity::{PublicKey, decode_key_text},
    member::NodeId,
};

/// The greatest length of a public key in a certificate.
const MAX_PUBKEY_BYTES: usize = 32;

/// The greatest length of a key file: 44 characters, with some white space.
const MAX_KEY_FILE_BYTES: u64 = 1024;
/// Limits on reading a folder of keys: the number of files and folders, and how deeply they nest.
const MAX_ENTRIES: usize = 10_000;
const MAX_FOLDER_DEPTH: usize = 16;
/// The time limit for reading the keys. A file system that does not answer must not block the start
/// of the server, a reload of its keys or its end.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The first bytes of a certifier's key, by which a request selects the keys to try.
pub type KeyHint = [u8; 4];

/// A certificate as transmitted: opaque signed bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignedCertificate {
    /// The SCALE-encoded certificate.
    pub data: Vec<u8>,
    /// The certifier's ed25519 signature over `data`.
    pub signature: Vec<u8>,
}

/// The contents of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The node that may register.
    pub pubkey: Vec<u8>,
    /// The expiry in Unix seconds; unlimited if absent.
    pub expiration_unix: Option<u64>,
}

/// Why bytes are not a certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("unexpected end of the certificate")]
    UnexpectedEnd,
    /// The public key is too long.
    #[error(
        "too many elements to decode in collection with scale limit set: ({0} > {MAX_PUBKEY_BYTES})"
    )]
    PubkeyTooLong(u64),
    /// A compact integer does not fit 64 bits.
    #[error("compact integer of {0} bytes, expected at most 8")]
    IntegerTooLong(usize),
    /// The tag of an option is neither 0 nor 1.
    #[error("invalid option tag {0}")]
    OptionTag(u8),
}

impl Certificate {
    /// Decodes a certificate. Ignores bytes after it, as the clients' decoder does: they are signed
    /// like the rest.
    ///
    /// # Errors
    /// Fails if `bytes` does not start with the encoding of a certificate.
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

/// Decodes a SCALE compact integer: the two low bits of the first byte give its length.
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
    /// The certifier did not sign it.
    #[error("signature mismatch")]
    Signature,
    /// The signed bytes are not a certificate.
    #[error("decoding: {0}")]
    Decode(#[from] DecodeError),
    /// It names another node.
    #[error("pubkey mismatch")]
    OtherNode,
    /// It has expired.
    #[error("certificate expired at {}", go_time(*.0))]
    Expired(u64),
    /// The hint matches none of the trusted keys.
    #[error("no matching cert public keys")]
    NoMatchingKey,
    /// None of the keys that match the hint accepts it.
    #[error("invalid certificate")]
    NoKeyAccepts,
}

/// Formats a time as Go does, which is the form that clients know from this message.
fn go_time(unix_seconds: u64) -> String {
    i64::try_from(unix_seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map_or_else(
            || format!("{unix_seconds} s after 1970"),
            |time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string(),
        )
}

/// The certifier to which this server sends nodes, and the keys it trusts.
#[derive(Clone, Debug)]
pub struct Certifier {
    /// Where nodes get their certificates; may be empty.
    pub url: String,
    /// The certifier's key, tried if a request gives no hint. Without it, nodes are sent to no
    /// certifier: they could not use its certificates, because they give no hint.
    pub pubkey: Option<PublicKey>,
    /// Further keys, tried if a request's hint matches them.
    pub trusted: TrustedKeys,
}

/// Checks certificates. Its trusted keys can be reloaded while in use.
#[derive(Debug)]
pub struct CertificateVerifier {
    pubkey: Option<PublicKey>,
    folder: Option<PathBuf>,
    trusted: RwLock<Arc<[PublicKey]>>,
    /// Held while the folder is being read.
    reading: Arc<Mutex<()>>,
}

impl CertificateVerifier {
    /// Accepts the certificates of `certifier` and of the keys that it trusts.
    pub fn new(certifier: Certifier) -> Self {
        let TrustedKeys { folder, keys } = certifier.trusted;
        Self {
            pubkey: certifier.pubkey,
            folder,
            trusted: RwLock::new(keys.into()),
            reading: Arc::default(),
        }
    }

    /// Checks that `certificate` lets `node_id` register at `now`.
    ///
    /// # Errors
    /// Fails if it does not.
    pub fn verify(
        &self,
        certificate: &SignedCertificate,
        hint: Option<KeyHint>,
        node_id: NodeId,
        now: Timestamp,
    ) -> Result<(), CertificateError> {
        let Some(hint) = hint else {
            let key = self.pubkey.as_ref();
            let key = key.ok_or(CertificateError::NoMatchingKey)?;
            return verify_with(key, certificate, node_id, now);
        };
        let trusted = self.trusted();
        let mut matching = self
            .pubkey
            .iter()
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

    /// Reads the folder again and returns the number of keys. May block for some seconds.
    ///
    /// # Errors
    /// Fails if no folder is configured, if it is being read already, and as [`read_trusted_keys`] does;
    /// the keys are then unchanged.
    pub fn reload(&self) -> Result<usize, TrustedKeysError> {
        let folder = self.folder.clone().ok_or(TrustedKeysError::NoFolder)?;
        let reading = Arc::clone(&self.reading);
        let keys: Arc<[PublicKey]> = within(READ_TIMEOUT, folder, move |folder| {
            // Held until the read ends, even after the caller has timed out: one hanging thread is
            // enough.
            let _reading = reading.try_lock().map_err(|_| TrustedKeysError::Busy)?;
            walk(folder)
        })?
        .into();
        let count = keys.len();
        *self.trusted.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(count)
    }

    fn trusted(&self) -> Arc<[PublicKey]> {
        Arc::clone(&self.trusted.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn verify_with(
    key: &PublicKey,
    certificate: &SignedCertificate,
    node_id: NodeId,
    now: Timestamp,
) -> Result<(), CertificateError> {
    // The signature first: only bytes that the certifier signed reach the decoder.
    if !key.verifies(&[&certificate.data], &certificate.signature) {
        return Err(CertificateError::Signature);
    }
    let decoded = Certificate::decode(&certificate.data)?;
    if decoded.pubkey != node_id.0 {
        return Err(CertificateError::OtherNode);
    }
    match decoded.expiration_unix {
        Some(expiration) if is_expired(expiration, now) => {
            Err(CertificateError::Expired(expiration))
        }
        _ => Ok(()),
    }
}

/// Whether a certificate has expired. The Go server counts seconds from the year 1 in signed 64
/// bits, and they wrap: a certificate that expires 292 billion years from now has expired.
fn is_expired(expiration_unix: u64, now: Timestamp) -> bool {
    const FROM_YEAR_1_TO_1970: i64 = 62_135_596_800;
    let since_year_1 = expiration_unix
        .cast_signed()
        .wrapping_add(FROM_YEAR_1_TO_1970);
    let now_nanos = now.as_nanosecond() + i128::from(FROM_YEAR_1_TO_1970) * 1_000_000_000;
    i128::from(since_year_1) * 1_000_000_000 < now_nanos
}

/// The keys in the `*.key` files of a folder.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys {
    folder: Option<PathBuf>,
    keys: Vec<PublicKey>,
}

impl TrustedKeys {
    /// Reads the keys below `folder`.
    ///
    /// # Errors
    /// Fails as [`read_trusted_keys`] does.
    pub fn read(folder: PathBuf) -> Result<Self, TrustedKeysError> {
        let keys = read_trusted_keys(&folder)?;
        Ok(Self {
            folder: Some(folder),
            keys,
        })
    }
}

impl From<Vec<PublicKey>> for TrustedKeys {
    /// Keys without a folder.
    fn from(keys: Vec<PublicKey>) -> Self {
        Self { folder: None, keys }
    }
}

/// Why a folder of trusted keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustedKeysError {
    /// No folder is configured.
    #[error("no directory is configured: expected --trusted-pub-keys-dir-path")]
    NoFolder,
    /// A folder or file cannot be read.
    #[error(
        "cannot read {path}: {}: expected a directory of *.key files",
        reason(cause)
    )]
    Read {
        /// Its path.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// An entry with the name of a key file is not a file.
    #[error("{path} is not a regular file: expected a *.key file with one key")]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// A key file does not contain a key.
    #[error("{path}: {reason}")]
    Key {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        reason: KeyTextError,
    },
    /// The folder holds too many entries, or nests too deeply.
    #[error(
        "{path} holds more than {MAX_ENTRIES} files, or folders more than {MAX_FOLDER_DEPTH} deep: \
         expected a directory of *.key files"
    )]
    TooLarge {
        /// The folder.
        path: PathBuf,
    },
    /// The file system does not answer.
    #[error(
        "cannot read {path} within {} s: expected a file system that answers", READ_TIMEOUT.as_secs()
    )]
    Timeout {
        /// The folder.
        path: PathBuf,
    },
    /// Another thread is reading the folder.
    #[error("the keys are being read already: try again when that is done")]
    Busy,
}

/// Why text is not a certifier's public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Not 32 bytes in base64, or not a point of the curve.
    #[error("expected the base64 form of a 32-byte ed25519 public key")]
    Form,
    /// A point of small order.
    #[error("anybody can sign for this key (it is of small order): expected a certifier's own key")]
    Weak,
}

/// Parses a certifier's public key: base64, in one line or several, surrounded by white space or
/// not.
///
/// # Errors
/// Fails if `text` is not a key, or is a key for which anybody can sign.
pub fn parse_public_key(text: &str) -> Result<PublicKey, KeyTextError> {
    let bytes = decode_key_text(text).ok_or(KeyTextError::Form)?;
    let bytes: [u8; 32] = bytes.try_into().map_err(|_| KeyTextError::Form)?;
    let key = PublicKey::from_bytes(&bytes).ok_or(KeyTextError::Form)?;
    if key.is_weak() {
        return Err(KeyTextError::Weak);
    }
    Ok(key)
}

/// Reads every `*.key` file below `folder`, in the order of their paths.
///
/// # Errors
/// Fails if a file cannot be read or is not a regular file, a key file does not contain a key, the
/// folder has too many entries, or the file system does not answer in time.
pub fn read_trusted_keys(folder: &Path) -> Result<Vec<PublicKey>, TrustedKeysError> {
    within(READ_TIMEOUT, folder.to_owned(), walk)
}

/// Runs `read` on its own thread, which is abandoned if it takes longer than `timeout`.
fn within(
    timeout: Duration,
    folder: PathBuf,
    read: impl FnOnce(&Path) -> Result<Vec<PublicKey>, TrustedKeysError> + Send + 'static,
) -> Result<Vec<PublicKey>, TrustedKeysError> {
    let (sender, receiver) = mpsc::channel();
    let path = folder.clone();
    thread::Builder::new()
        .name("key-reader".to_owned())
        // The receiver may have timed out.
        .spawn(move || drop(sender.send(read(&folder))))
        .map_err(|cause| TrustedKeysError::Read {
            path: path.clone(),
            cause,
        })?;
    receiver
        .recv_timeout(timeout)
        .unwrap_or(Err(TrustedKeysError::Timeout { path }))
}

fn walk(folder: &Path) -> Result<Vec<PublicKey>, TrustedKeysError> {
    let mut walk = Walk {
        root: folder,
        entries: 0,
        keys: Vec::new(),
    };
    walk.enter(folder, 1)?;
    Ok(walk.keys)
}

/// A walk through a folder of keys.
struct Walk<'a> {
    root: &'a Path,
    /// The number of entries seen.
    entries: usize,
    keys: Vec<PublicKey>,
}

impl Walk<'_> {
    fn enter(&mut self, folder: &Path, depth: usize) -> Result<(), TrustedKeysError> {
        let read_error = |path: &Path| {
            let path = path.to_owned();
            move |cause| TrustedKeysError::Read { path, cause }
        };
        let mut entries = Vec::new();
        for entry in fs::read_dir(folder).map_err(read_error(folder))? {
            self.entries += 1;
            if self.entries > MAX_ENTRIES || depth > MAX_FOLDER_DEPTH {
                let path = self.root.to_owned();
                return Err(TrustedKeysError::TooLarge { path });
            }
            entries.push(entry.map_err(read_error(folder))?);
        }
        entries.sort_by_key(fs::DirEntry::path);
        for entry in entries {
            let path = entry.path();
            // Links to folders are not followed, so that a loop cannot hang the start.
            if entry.file_type().map_err(read_error(&path))?.is_dir() {
                self.enter(&path, depth + 1)?;
            } else if path.extension().is_some_and(|extension| extension == "key") {
                self.keys.push(read_key(path)?);
            }
        }
        Ok(())
    }
}

fn read_key(path: PathBuf) -> Result<PublicKey, TrustedKeysError> {
    let read = || {
        // Opening a pipe would block until somebody writes to it; opening a device may have any
        // effect.
        if !fs::metadata(&path)?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        let file = fs::File::open(&path)?;
        file.take(MAX_KEY_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    let bytes = match read() {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(TrustedKeysError::NotAFile { path }),
        Err(cause) => return Err(TrustedKeysError::Read { path, cause }),
    };
    let short = bytes.len() as u64 <= MAX_KEY_FILE_BYTES;
    let text = std::str::from_utf8(&bytes).ok().filter(|_| short);
    text.ok_or(KeyTextError::Form)
        .and_then(parse_public_key)
        .map_err(|reason| TrustedKeysError::Key { path, reason })
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

    /// At the limits of Go's arithmetic.
    #[test]
    fn expirations_wrap_as_in_go() {
        let now: Timestamp = "2026-11-26T12:00:00.5Z".parse().unwrap();
        let seconds = u64::try_from(now.as_second()).unwrap();
        let latest = u64::try_from(i64::MAX - 62_135_596_800).unwrap();
        for (expiration, expired) in [
            (0, true),
            (seconds, true),
            (seconds + 1, false),
            (253_402_300_800, false),
            (latest, false),
            (latest + 1, true),
            (1 << 63, true),
            (u64::MAX, true),
        ] {
            assert_eq!(is_expired(expiration, now), expired, "{expiration}");
        }
        assert!(!is_expired(
            seconds,
            Timestamp::new(now.as_second(), 0).unwrap()
        ));
    }

    #[test]
    fn keys_for_which_anybody_can_sign_are_refused() {
        // Every point of small order: of order 1, 2, twice 4, four times 8, and other encodings.
        for hex in [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "0100000000000000000000000000000000000000000000000000000000000080",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ] {
            let text = crate::base64::encode(hex::decode(hex).unwrap());
            assert_eq!(parse_public_key(&text), Err(KeyTextError::Weak), "{hex}");
        }
    }

    fn trusting(trusted: TrustedKeys) -> CertificateVerifier {
        CertificateVerifier::new(Certifier {
            url: String::new(),
            pubkey: None,
            trusted,
        })
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_waited_for_in_vain_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let (release, hang) = mpsc::channel::<()>();
        let timeout = Duration::from_millis(20);
        let read = within(timeout, folder.path().to_owned(), move |_| {
            assert!(hang.recv().is_err());
            Ok(Vec::new())
        });
        let error = read.unwrap_err().to_string();
        assert!(
            error.contains("expected a file system that answers"),
            "{error}"
        );
        drop(release);
        // Only one thread may read at a time.
        let verifier = trusting(TrustedKeys::read(folder.path().to_owned()).unwrap());
        let reading = verifier.reading.lock().unwrap();
        assert!(matches!(verifier.reload(), Err(TrustedKeysError::Busy)));
        drop(reading);
        assert_eq!(verifier.reload().unwrap(), 0);
    }

    #[test]
    fn what_is_read_of_a_key_folder_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let message = || read_trusted_keys(folder.path()).unwrap_err().to_string();
        let key = folder.path().join("a.key");
        let text = "V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
        for length in [44, 1024] {
            fs::write(&key, format!("{text:length$}")).unwrap();
            assert_eq!(read_trusted_keys(folder.path()).unwrap().len(), 1);
        }
        for bytes in [format!("{text:1025}").as_bytes(), b"\xff"] {
            fs::write(&key, bytes).unwrap();
            assert!(message().contains("a.key: expected the base64 form"));
        }
        fs::remove_file(&key).unwrap();
        let mut deep = folder.path().to_owned();
        for _ in 0..MAX_FOLDER_DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        assert_eq!(read_trusted_keys(folder.path()).unwrap().len(), 0);
        fs::write(deep.join("b.key"), text).unwrap();
        assert!(message().contains("folders more than 16 deep"));
    }

    #[cfg(unix)]
    #[test]
    fn only_regular_files_are_keys() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("x.key");
        let message = || read_trusted_keys(folder.path()).unwrap_err().to_string();
        rustix::fs::mkfifoat(rustix::fs::CWD, &key, rustix::fs::Mode::RUSR).unwrap();
        assert!(message().contains("x.key is not a regular file"));
        for target in ["/dev/zero", "."] {
            fs::remove_file(&key).unwrap();
            std::os::unix::fs::symlink(target, &key).unwrap();
            assert!(
                message().contains("x.key is not a regular file"),
                "{target}"
            );
        }
        // As Kubernetes mounts secrets.
        fs::remove_file(&key).unwrap();
        let text = "V2j2EMp26MjC55ZVa9p/PpRBIgoM94JlHVSDR1LN+Ys=";
        fs::write(folder.path().join("data"), text).unwrap();
        std::os::unix::fs::symlink("data", &key).unwrap();
        assert_eq!(read_trusted_keys(folder.path()).unwrap().len(), 1);
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

        // The keys in use are kept while a file is bad.
        fs::remove_file(folder.path().join("b.key")).unwrap();
        let verifier = trusting(TrustedKeys::read(folder.path().to_owned()).unwrap());
        fs::write(folder.path().join("b.key"), "abc").unwrap();
        assert!(verifier.reload().is_err());
        assert_eq!(verifier.trusted().len(), 1);
        fs::write(folder.path().join("b.key"), key).unwrap();
        assert_eq!(verifier.reload().unwrap(), 2);
        assert_eq!(verifier.trusted().len(), 2);
        let error = trusting(TrustedKeys::default()).reload().unwrap_err();
        let error = error.to_string();
        assert!(error.contains("--trusted-pub-keys-dir-path"), "{error}");

        let missing = folder.path().join("missing");
        let error = read_trusted_keys(&missing).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}
