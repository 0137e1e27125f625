//! SHA-256 as FIPS 180-4 defines it.

use poet_engine::{Block, SHA256_IV, State};
use std::sync::LazyLock;

static K: LazyLock<[u32; 64]> = LazyLock::new(sha256_constants);

/// The round constants: the first 32 bits of the fractional parts of the cube roots of the first
/// 64 primes (FIPS 180-4, section 4.2.2).
#[must_use]
pub fn sha256_constants() -> [u32; 64] {
    let is_prime = |n: &u128| (2..*n).all(|divisor| !n.is_multiple_of(divisor));
    let mut primes = (2..).filter(is_prime);
    core::array::from_fn(|_| {
        // The cube root of p * 2^96 is the cube root of p with 32 bits of fraction.
        let radicand = primes.next().expect("there is always a next prime") << 96;
        let mut root = 0_u128;
        for bit in (0..40).rev() {
            let candidate = root | 1 << bit;
            if candidate.pow(3) <= radicand {
                root = candidate;
            }
        }
        u32::try_from(root & 0xffff_ffff).expect("masked to 32 bits")
    })
}

/// Compresses one block into `state` (FIPS 180-4, section 6.2.2).
pub fn sha256_compress(state: &mut State, block: &Block) {
    let mut w = [0_u32; 64];
    for t in 0..64 {
        w[t] = if t < 16 {
            u32::from_be_bytes([
                block[4 * t],
                block[4 * t + 1],
                block[4 * t + 2],
                block[4 * t + 3],
            ])
        } else {
            let (x, y) = (w[t - 2], w[t - 15]);
            let sigma1 = x.rotate_right(17) ^ x.rotate_right(19) ^ (x >> 10);
            let sigma0 = y.rotate_right(7) ^ y.rotate_right(18) ^ (y >> 3);
            sigma1
                .wrapping_add(w[t - 7])
                .wrapping_add(sigma0)
                .wrapping_add(w[t - 16])
        };
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for t in 0..64 {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let ch = (e & f) ^ (!e & g);
        let t1 = h
            .wrapping_add(sum1)
            .wrapping_add(ch)
            .wrapping_add(K[t])
            .wrapping_add(w[t]);
        let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let maj = (a & b) ^ (a & c) ^ (b & c);
        let t2 = sum0.wrapping_add(maj);
        (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
    }
    for (word, new) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(new);
    }
}

/// The digest of a message given in parts.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut message = parts.concat();
    // Padding (FIPS 180-4, section 5.1.1): a one bit, zeros, the length in bits.
    let bits = message.len() as u64 * 8;
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend(bits.to_be_bytes());

    let mut state = SHA256_IV;
    for block in message.as_chunks().0 {
        sha256_compress(&mut state, block);
    }
    let mut digest = [0; 32];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some of the constants that FIPS 180-4 lists.
    #[test]
    fn constants() {
        let k = sha256_constants();
        assert_eq!(k[..4], [0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5]);
        assert_eq!(
            k[60..],
            [0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2]
        );
    }

    /// Parts are one message.
    #[test]
    fn parts() {
        assert_eq!(sha256(&[b"a", b"", b"bc"]), sha256(&[b"abc"]));
    }
}
