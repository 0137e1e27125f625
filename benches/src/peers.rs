//! Other implementations of SHA-256 as a [`Chain`]: what a user might use instead.

use std::slice;

use poet_engine::{Chain, Node, SHA256_IV};
use sha2::Digest;

/// The crate `sha2`, through its usual interface.
#[derive(Debug)]
pub struct Sha2Digest;

/// The crate `sha2`, through its compression function alone.
#[derive(Debug)]
pub struct Sha2Compress;

/// The crate `ring`.
#[derive(Debug)]
pub struct Ring;

/// OpenSSL (3 or later) through its usual interface, EVP, in the best case: the algorithm is looked
/// up only once for the whole chain, and the context reused.
#[cfg(feature = "openssl")]
#[derive(Debug)]
pub struct OpensslEvp;

/// OpenSSL through its old interface without EVP.
#[cfg(feature = "openssl")]
#[derive(Debug)]
pub struct OpensslSha256;

/// Returns all peers with their names.
#[must_use]
pub fn all() -> Vec<(&'static str, &'static dyn Chain)> {
    vec![
        ("sha2 compress256", &Sha2Compress),
        ("sha2 digest", &Sha2Digest),
        ("ring", &Ring),
        #[cfg(feature = "openssl")]
        ("openssl EVP", &OpensslEvp),
        #[cfg(feature = "openssl")]
        ("openssl SHA256", &OpensslSha256),
    ]
}

impl Chain for Sha2Digest {
    fn one(&self, digest: &mut Node, n: u32) {
        for _ in 0..n {
            *digest = sha2::Sha256::digest(*digest).into();
        }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        each(self, digests, n);
    }
}

impl Chain for Sha2Compress {
    fn one(&self, digest: &mut Node, n: u32) {
        let mut block = [0; 64];
        block[..32].copy_from_slice(digest);
        // Padding of a 32-byte message: a one bit, zeros, the length of 256 bits.
        block[32] = 0x80;
        block[62] = 1;
        for _ in 0..n {
            let mut state = SHA256_IV;
            sha2::block_api::compress256(&mut state, slice::from_ref(&block));
            for (bytes, word) in block.as_chunks_mut().0.iter_mut().zip(state) {
                *bytes = word.to_be_bytes();
            }
        }
        digest.copy_from_slice(&block[..32]);
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        each(self, digests, n);
    }
}

impl Chain for Ring {
    fn one(&self, digest: &mut Node, n: u32) {
        for _ in 0..n {
            let next = ring::digest::digest(&ring::digest::SHA256, digest);
            digest.copy_from_slice(next.as_ref());
        }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        each(self, digests, n);
    }
}

#[cfg(feature = "openssl")]
impl Chain for OpensslEvp {
    fn one(&self, digest: &mut Node, n: u32) {
        use openssl::{md::Md, md_ctx::MdCtx};
        let sha256 = Md::fetch(None, "SHA256", None).expect("OpenSSL has SHA-256");
        let mut context = MdCtx::new().expect("OpenSSL allocates a context");
        for _ in 0..n {
            context
                .digest_init(&sha256)
                .and_then(|()| context.digest_update(digest))
                .and_then(|()| context.digest_final(digest))
                .expect("OpenSSL computes SHA-256");
        }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        each(self, digests, n);
    }
}

#[cfg(feature = "openssl")]
impl Chain for OpensslSha256 {
    fn one(&self, digest: &mut Node, n: u32) {
        for _ in 0..n {
            let mut hasher = openssl::sha::Sha256::new();
            hasher.update(digest);
            *digest = hasher.finish();
        }
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        each(self, digests, n);
    }
}

/// Computes many chains on a peer without lanes.
fn each(chain: &dyn Chain, digests: &mut [Node], n: u32) {
    for digest in digests {
        chain.one(digest, n);
    }
}
