//! Bytes as text, in the standard alphabet with padding.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use poet_engine::Node;

/// The text for `bytes`.
pub fn encode(bytes: impl AsRef<[u8]>) -> String {
    STANDARD.encode(bytes)
}

/// Appends the text for `bytes` to `text`.
pub fn push(bytes: &[u8], text: &mut String) {
    STANDARD.encode_string(bytes, text);
}

/// The bytes of a text, unless it is not one for bytes.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// The 32 bytes of a text, unless it is not one for so many.
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
