//! Bytes as text, in the standard alphabet with padding.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poet_engine::Node;

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
pub fn decode_node(text: &str) -> Option<Node> {
    let mut node = Node::default();
    (STANDARD.decode_slice(text, &mut node) == Ok(node.len())).then_some(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_32_bytes() {
        assert_eq!(decode_node(&encode([7; 32])), Some([7; 32]));
        for bytes in [0, 31, 33, 64] {
            assert_eq!(decode_node(&encode(vec![7; bytes])), None);
        }
        assert_eq!(decode_node("*"), None);
    }
}
