//! One round of AES as FIPS 197 defines it.

use std::sync::LazyLock;

static S_BOX: LazyLock<[u8; 256]> = LazyLock::new(|| {
    core::array::from_fn(|i| substitute(u8::try_from(i).expect("an index below 256")))
});

/// SubBytes, ShiftRows, MixColumns and AddRoundKey (FIPS 197, section 5.1), as AESENC computes
/// them. The state is 16 bytes, column by column.
#[must_use]
pub fn aes_round(state: &[u8; 16], round_key: &[u8; 16]) -> [u8; 16] {
    let mut shifted = [0; 16];
    for column in 0..4 {
        for row in 0..4 {
            shifted[4 * column + row] = S_BOX[usize::from(state[4 * ((column + row) % 4) + row])];
        }
    }
    let mut out = *round_key;
    for column in 0..4 {
        for row in 0..4 {
            let byte = |i: usize| shifted[4 * column + (row + i) % 4];
            out[4 * column + row] ^=
                multiply(2, byte(0)) ^ multiply(3, byte(1)) ^ byte(2) ^ byte(3);
        }
    }
    out
}

/// The product in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1 (FIPS 197, section 4.2).
fn multiply(a: u8, b: u8) -> u8 {
    let (mut power, mut product) = (a, 0);
    for bit in 0..8 {
        if b >> bit & 1 == 1 {
            product ^= power;
        }
        power = (power << 1) ^ if power >> 7 == 1 { 0x1b } else { 0 };
    }
    product
}

/// SubBytes of one byte: the inverse in GF(2^8), then an affine map (FIPS 197, section 5.1.1).
fn substitute(byte: u8) -> u8 {
    let inverse = (0..=255).find(|&x| multiply(byte, x) == 1).unwrap_or(0);
    let rotations = (0..5).fold(0, |sum, i| sum ^ inverse.rotate_left(i));
    rotations ^ 0x63
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first round of the cipher example of FIPS 197, appendix B.
    #[test]
    fn example() {
        let start = 0x193d_e3be_a0f4_e22b_9ac6_8d2a_e9f8_4808_u128.to_be_bytes();
        let key = 0xa0fa_fe17_8854_2cb1_23a3_3939_2a6c_7605_u128.to_be_bytes();
        let next = 0xa49c_7ff2_689f_352b_6b5b_ea43_026a_5049_u128.to_be_bytes();
        assert_eq!(aes_round(&start, &key), next);
    }
}
