//! What all messages share.

use serde::{Deserialize, Serialize, Serializer};

/// Why a body is not the expected message. The text is for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// Bytes written as base64.
pub struct Base64<'a>(pub &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&crate::base64::encode(self.0))
    }
}

/// Serializes an answer.
pub fn write(message: &impl Serialize) -> String {
    // Cannot fail: the messages consist of strings, numbers and lists of them.
    serde_json::to_string(message).unwrap_or_default()
}

/// Reads a response, or a file with a part of one.
///
/// # Errors
/// Returns [`Malformed`] with the [`reason`].
pub fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(json).map_err(|error| Malformed(reason(&error)))
}

/// Says in a few words why something is not the expected JSON.
pub fn reason(error: &serde_json::Error) -> String {
    use serde_json::error::Category;

    let place = format!(" at line {} column {}", error.line(), error.column());
    match error.classify() {
        Category::Eof => format!("it ends too early,{place}"),
        Category::Syntax | Category::Io => format!("unexpected text{place}"),
        // Says what was expected. The place says little where there are no lines.
        Category::Data => {
            let text = error.to_string();
            text.strip_suffix(&place).unwrap_or(&text).to_owned()
        }
    }
}

pub(super) fn push_base64(json: &mut String, bytes: &[u8]) {
    json.push('"');
    crate::base64::push(bytes, json);
    json.push('"');
}
