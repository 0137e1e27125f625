//! Certificates: decoded like an independent SCALE decoder does, and accepted exactly if a trusted
//! key signed them, they name the node and have not expired.
#![no_main]

use std::sync::LazyLock;

use ed25519_dalek::{Signer as _, SigningKey};
use jiff::Timestamp;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use parity_scale_codec::{Compact, Decode as _, Encode as _};
use poet_proto::{
    certificate::{Certificate, CertificateVerifier, Certifier, SignedCertificate},
    identity::PublicKey,
    member::NodeId,
};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Bytes(&'a [u8]),
    Signed {
        certificate: Content<'a>,
        /// The bytes after the certificate; they are signed, too.
        trailing: &'a [u8],
        signer: u8,
        flip: Option<(u8, u8)>,
        hint: Option<Hint>,
        node: Option<[u8; 32]>,
        now: u32,
    },
}

#[derive(Arbitrary, Debug)]
struct Content<'a> {
    pubkey: Option<&'a [u8]>,
    expiration: Option<u64>,
}

#[derive(Arbitrary, Debug)]
enum Hint {
    Of(u8),
    Other([u8; 4]),
}

/// The main certifier, two trusted ones and a stranger.
static KEYS: LazyLock<[SigningKey; 4]> =
    LazyLock::new(|| std::array::from_fn(|i| SigningKey::from_bytes(&[i as u8 + 1; 32])));

fn public(key: &SigningKey) -> PublicKey {
    PublicKey::from_bytes(key.verifying_key().as_bytes()).expect("a key")
}

static VERIFIER: LazyLock<CertificateVerifier> = LazyLock::new(|| {
    CertificateVerifier::new(Certifier {
        url: String::new(),
        pubkey: Some(public(&KEYS[0])),
        trusted: vec![public(&KEYS[1]), public(&KEYS[2])].into(),
    })
});

/// Go's seconds since the year 1 have 63 bits.
const LATEST: u64 = (1 << 63) - 1 - 62_135_596_800;

type Reference = (Vec<u8>, Option<Compact<u64>>);

fn reference(mut bytes: &[u8]) -> Option<Certificate> {
    let (pubkey, expiration) = Reference::decode(&mut bytes).ok()?;
    (pubkey.len() <= 32).then_some(Certificate {
        pubkey,
        expiration_unix: expiration.map(|Compact(seconds)| seconds),
    })
}

fn encode(certificate: &Certificate) -> Vec<u8> {
    (
        certificate.pubkey.clone(),
        certificate.expiration_unix.map(Compact),
    )
        .encode()
}

fn bytes(bytes: &[u8]) {
    let decoded = Certificate::decode(bytes);
    if let Some(reference) = reference(bytes) {
        assert_eq!(decoded.as_ref(), Ok(&reference));
    }
    // The other decoder accepts only the shortest encoding of a number; this one, like the
    // clients', any.
    if let Ok(decoded) = decoded {
        assert_eq!(reference(&encode(&decoded)).as_ref(), Some(&decoded));
        assert_eq!(Certificate::decode(&encode(&decoded)), Ok(decoded));
    }
}

fuzz_target!(|input: Input| {
    let (content, trailing, signer, flip, hint, node, now) = match input {
        Input::Bytes(input) => return bytes(input),
        Input::Signed {
            certificate,
            trailing,
            signer,
            flip,
            hint,
            node,
            now,
        } => (certificate, trailing, signer, flip, hint, node, now),
    };
    let node = node.unwrap_or([7; 32]);
    let certificate = Certificate {
        pubkey: content.pubkey.unwrap_or(&node).to_vec(),
        expiration_unix: content.expiration,
    };
    let mut data = encode(&certificate);
    data.extend(trailing);
    bytes(&data);
    let signer = usize::from(signer) % KEYS.len();
    let mut signature = KEYS[signer].sign(&data).to_bytes();
    if let Some((byte, bit)) = flip {
        signature[usize::from(byte) % 64] ^= 1 << (bit % 8);
    }
    let hint = hint.map(|hint| match hint {
        Hint::Other(hint) => hint,
        Hint::Of(key) => {
            let key = KEYS[usize::from(key) % KEYS.len()].verifying_key();
            *key.as_bytes().first_chunk().expect("32 bytes")
        }
    });
    // Without a hint only the main key is tried, with a hint the keys that match it.
    let tried = match hint {
        None => signer == 0,
        Some(hint) => {
            let key = KEYS[signer].verifying_key();
            signer < 3 && key.as_bytes().starts_with(&hint)
        }
    };
    let valid = tried
        && flip.is_none()
        && certificate.pubkey == node
        && certificate
            .expiration_unix
            .is_none_or(|end| (u64::from(now)..=LATEST).contains(&end));
    let now = Timestamp::from_second(i64::from(now)).expect("a time");
    let signed = SignedCertificate {
        data,
        signature: signature.to_vec(),
    };
    let verified = VERIFIER.verify(&signed, hint, NodeId(node), now);
    assert_eq!(verified.is_ok(), valid, "{verified:?}");
});
