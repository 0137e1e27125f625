//! The membership tree: which challenges a round proves (PROTOCOL.md section 6).

use alloc::vec::Vec;

use crate::{Node, ZERO};

/// The root over `challenges`, which must be in increasing byte order of their node ids. It is the
/// round's statement: empty without members, the challenge itself with one.
///
/// A challenge of a real node has 32 bytes; other lengths are hashed as they are, as the Go server
/// does, so that its proofs can be checked.
pub fn root<C: AsRef<[u8]>>(challenges: &[C]) -> Vec<u8> {
    match challenges {
        [] => Vec::new(),
        [only] => only.as_ref().to_vec(),
        many => {
            let mut level: Vec<Node> = many
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(left.as_ref(), right.as_ref()),
                    odd => node(odd[0].as_ref(), &ZERO),
                })
                .collect();
            while level.len() > 1 {
                for i in 0..level.len().div_ceil(2) {
                    let right = level.get(2 * i + 1).unwrap_or(&ZERO);
                    level[i] = node(&level[2 * i], right);
                }
                level.truncate(level.len().div_ceil(2));
            }
            level[0].to_vec()
        }
    }
}

/// `BLAKE3(0x01 || left || right)`.
fn node(left: &[u8], right: &[u8]) -> Node {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[1]).update(left).update(right);
    *hasher.finalize().as_bytes()
}
