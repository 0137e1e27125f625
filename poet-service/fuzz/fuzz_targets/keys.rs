//! Texts of keys: those of certifiers, in options and in files, and the server's own. They are
//! accepted exactly if they are base64 of a key of the right length.
#![no_main]

use std::{fs, path::PathBuf, sync::LazyLock};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::{SigningKey, VerifyingKey};
use libfuzzer_sys::fuzz_target;
use poet_proto::{
    certificate::{TrustedKeysError, parse_public_key, read_trusted_keys},
    identity::PrivateKey,
};

/// A folder of trusted keys, and the file in it.
static FILE: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.key");
    (folder, file)
});

fuzz_target!(|bytes: &[u8]| {
    // Raw, and as the bytes of a key.
    texts(bytes);
    texts(STANDARD.encode(bytes).as_bytes());
});

fn texts(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut plain = text.replace(char::is_whitespace, "");
    if text.starts_with('\u{feff}') {
        plain.remove(0);
    }
    let decoded = STANDARD.decode(plain).unwrap_or_default();

    let public = parse_public_key(&text);
    let expected = <[u8; 32]>::try_from(&*decoded)
        .ok()
        .filter(|bytes| VerifyingKey::from_bytes(bytes).is_ok_and(|key| !key.is_weak()));
    assert_eq!(public.as_ref().ok().map(|key| *key.as_bytes()), expected);
    if let Ok(key) = public {
        let again = parse_public_key(&STANDARD.encode(key.as_bytes()));
        assert_eq!(again, Ok(key));
    }

    let private = PrivateKey::from_base64(&text);
    let expected = <[u8; 64]>::try_from(&*decoded).ok().filter(|bytes| {
        let seed = bytes.first_chunk().expect("64 bytes");
        SigningKey::from_bytes(seed).verifying_key().as_bytes() == &bytes[32..]
    });
    assert_eq!(private.ok().map(|key| key.to_bytes()), expected);

    let (folder, file) = &*FILE;
    fs::write(file, bytes).expect("a file");
    let expected = std::str::from_utf8(bytes)
        .ok()
        .filter(|_| bytes.len() <= 1024);
    match (
        read_trusted_keys(folder.path()),
        expected.map(parse_public_key),
    ) {
        (Ok(keys), Some(Ok(key))) => assert_eq!(keys, [key]),
        (Err(TrustedKeysError::Key { path, .. }), Some(Err(_)) | None) => assert_eq!(path, *file),
        (read, expected) => panic!("{read:?}, expected {expected:?}"),
    }
}
