//! Bytes as text: written, and unless a function says otherwise read, in the standard alphabet with
//! padding.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};

/// Encodes `bytes`.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Appends the encoding of `bytes` to `text`.
pub fn push(bytes: &[u8], text: &mut String) {
    STANDARD.encode_string(bytes, text);
}

/// Decodes `text`; `None` if it is not base64.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// Decodes 32 bytes; `None` if `text` is not base64 of that length.
pub fn decode_bytes32(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    (STANDARD.decode_slice(text, &mut bytes) == Ok(bytes.len())).then_some(bytes)
}

/// Decodes base64 as Go's JSON mapping does: in either alphabet, with or without all of its
/// padding, with line breaks anywhere. Text whose length, including line breaks, is a multiple of
/// four must be padded; other text must not.
pub fn decode_lenient(text: &str) -> Option<Vec<u8>> {
    // Nearly all text is in the usual form, which is decoded the fastest.
    decode(text).or_else(|| decode_unusual(text))
}

fn decode_unusual(text: &str) -> Option<Vec<u8>> {
    let alphabet = if text.contains(['-', '_']) {
        &alphabet::URL_SAFE
    } else {
        &alphabet::STANDARD
    };
    let padding = if text.len().is_multiple_of(4) {
        DecodePaddingMode::RequireCanonical
    } else {
        DecodePaddingMode::RequireNone
    };
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(padding)
        .with_decode_allow_trailing_bits(true);
    let text = text.replace(['\r', '\n'], "");
    GeneralPurpose::new(alphabet, config).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_32_bytes() {
        assert_eq!(decode_bytes32(&encode([7; 32])), Some([7; 32]));
        for bytes in [0, 31, 33, 64] {
            assert_eq!(decode_bytes32(&encode(vec![7; bytes])), None);
        }
        assert_eq!(decode_bytes32("*"), None);
    }

    /// For each length, with and without line breaks, what Go's decoder accepts and what it
    /// refuses.
    #[test]
    fn lenient_decoding_accepts_what_go_does() {
        for (text, expected) in [
            ("", Some(&b""[..])),
            ("AQID", Some(&[1, 2, 3])),
            ("AQ==", Some(&[1])),
            ("AQ", Some(&[1])),
            ("AQI=", Some(&[1, 2])),
            ("AQI", Some(&[1, 2])),
            // The last bits belong to no byte.
            ("AR==", Some(&[1])),
            ("AQ\nID", Some(&[1, 2, 3])),
            ("AQIDAQID\r\n", Some(&[1, 2, 3, 1, 2, 3])),
            ("AQIDA\nQ", Some(&[1, 2, 3, 1])),
            ("AQ\r\nIDAQ==", None),
            ("AQIDA\r\nQ==\r\n", Some(&[1, 2, 3, 1])),
            ("AQ==\n", None),
            ("AQI\n", None),
            ("AQ=", None),
            ("AQ===", None),
            ("AQID====", None),
            ("A", None),
            ("A===", None),
            ("AQ==AQ==", None),
            ("AQ I", None),
            ("AQID ", None),
            ("+_+_", None),
        ] {
            assert_eq!(decode_lenient(text).as_deref(), expected, "{text:?}");
        }
    }
}
