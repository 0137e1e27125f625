//! The golden vectors of registration.
#![allow(clippy::unwrap_used)]

use jiff::Timestamp;
use poet_conformance::vectors;
use poet_proto::{
    certificate::{
        Certificate, CertificateError, CertificateVerifier, Certifier, SignedCertificate,
    },
    identity::PublicKey,
    member::NodeId,
    pow::{self, PowParams},
};

#[test]
fn proofs_of_work() {
    for vector in vectors::pow() {
        let digest = pow::digest(
            &vector.pow_challenge,
            NodeId(vector.node_id),
            &vector.poet_challenge,
            vector.nonce,
        );
        assert_eq!(digest, vector.ripemd256);
        assert_eq!(pow::leading_zero_bits(&digest), vector.leading_zero_bits);
        let valid = |difficulty| {
            let params = PowParams {
                difficulty,
                challenge: vector.pow_challenge.to_vec(),
            };
            pow::is_valid(
                &params,
                NodeId(vector.node_id),
                &vector.poet_challenge,
                vector.nonce,
            )
        };
        assert!(valid(0) && valid(vector.leading_zero_bits));
        assert!(!valid(vector.leading_zero_bits + 1));
    }
}

#[test]
fn certificates() {
    let vectors = vectors::certificates();
    for (index, vector) in vectors.iter().enumerate() {
        let decoded = Certificate::decode(&vector.data).unwrap();
        assert_eq!(decoded.pubkey, vector.node_id);
        assert_eq!(decoded.expiration_unix, vector.expiration_unix);
        // Every truncation fails.
        for length in 0..vector.data.len() {
            assert!(Certificate::decode(&vector.data[..length]).is_err());
        }

        let key = |bytes| PublicKey::from_bytes(bytes).unwrap();
        let other = &vectors[(index + 1) % vectors.len()];
        let verifier = CertificateVerifier::new(Certifier {
            url: String::new(),
            pubkey: Some(key(&vector.certifier_pubkey)),
            trusted: vec![key(&other.certifier_pubkey)].into(),
        });
        let certificate = SignedCertificate {
            data: vector.data.clone(),
            signature: vector.signature.to_vec(),
        };
        let last_second = match vector.expiration_unix {
            None => Timestamp::MAX,
            Some(expiration) => Timestamp::from_second(expiration.try_into().unwrap()).unwrap(),
        };
        let verify = |certificate: &SignedCertificate, hint, node_id: &[u8; 32], now| {
            verifier.verify(certificate, hint, NodeId(*node_id), now)
        };
        let (node_id, hint) = (&vector.node_id, Some(vector.pubkey_hint));
        assert_eq!(verify(&certificate, None, node_id, last_second), Ok(()));
        assert_eq!(verify(&certificate, hint, node_id, last_second), Ok(()));

        if let Some(expiration) = vector.expiration_unix {
            let late = last_second + jiff::SignedDuration::from_nanos(1);
            assert_eq!(
                verify(&certificate, None, node_id, late),
                Err(CertificateError::Expired(expiration))
            );
            assert_eq!(
                verify(&certificate, hint, node_id, late),
                Err(CertificateError::NoKeyAccepts)
            );
        }
        assert_eq!(
            verify(&certificate, None, &other.node_id, last_second),
            Err(CertificateError::OtherNode)
        );
        assert_eq!(
            verify(&certificate, Some(*b"none"), node_id, last_second),
            Err(CertificateError::NoMatchingKey)
        );
        assert_eq!(
            verify(&certificate, Some(other.pubkey_hint), node_id, last_second),
            Err(CertificateError::NoKeyAccepts)
        );
        // A trusted key that is not the certifier's counts only with its hint.
        let by_other = SignedCertificate {
            data: other.data.clone(),
            signature: other.signature.to_vec(),
        };
        assert_eq!(
            verify(&by_other, None, &other.node_id, Timestamp::UNIX_EPOCH),
            Err(CertificateError::Signature)
        );
        assert_eq!(
            verify(
                &by_other,
                Some(other.pubkey_hint),
                &other.node_id,
                Timestamp::UNIX_EPOCH
            ),
            Ok(())
        );
        for byte in 0..vector.data.len() {
            let mut changed = certificate.clone();
            changed.data[byte] ^= 1;
            assert_eq!(
                verify(&changed, None, node_id, last_second),
                Err(CertificateError::Signature)
            );
        }
    }
}
