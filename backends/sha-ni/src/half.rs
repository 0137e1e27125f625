//! The part of a node's message that is known before its children are.

use poet_engine::{Block, NODE_SIZE, NodeMessage, State};

use crate::constants::K;

/// The message of a node whose children begin in the middle of a block, as they do after a
/// statement of 32 bytes: they are words 8 to 15 of the first block and words 0 to 7 of the second.
///
/// Eight of the 128 rounds, and a part of the schedule, are done before the children are known.
pub(crate) struct HalfMessage {
    /// The state before the first block.
    pub(crate) start: State,
    /// Words 0 to 7 of the first block.
    pub(crate) statement: [u32; 8],
    /// The state after rounds 0 to 7.
    pub(crate) begun: State,
    /// For each of words 16 to 23 of the schedule, the part of its sum that comes from words 0 to
    /// 7.
    pub(crate) sums: [u32; 8],
    /// Words 8 to 15 of the second block. The first six are those of
    /// [`PADDING`](crate::constants::PADDING), the others the length of the message.
    pub(crate) padding: [u32; 8],
}

impl HalfMessage {
    /// Returns the half message of `message`, if its children are in that place.
    pub(crate) fn of(message: &NodeMessage) -> Option<Self> {
        let [first, second] = message.blocks() else {
            return None;
        };
        if message.children_at() != NODE_SIZE {
            return None;
        }
        let statement = words(first, 0);
        let start = *message.start();
        let mut sums = statement;
        for t in 0..7 {
            let w = statement[t + 1];
            let sigma0 = w.rotate_right(7) ^ w.rotate_right(18) ^ (w >> 3);
            sums[t] = sums[t].wrapping_add(sigma0);
        }
        Some(Self {
            start,
            statement,
            begun: first_rounds(start, statement),
            sums,
            padding: words(second, 8),
        })
    }
}

/// The state after rounds 0 to 7.
fn first_rounds(start: State, w: [u32; 8]) -> State {
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = start;
    for t in 0..8 {
        let sum1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let ch = (e & f) ^ (!e & g);
        let t1 = h
            .wrapping_add(sum1)
            .wrapping_add(ch)
            .wrapping_add(K[t])
            .wrapping_add(w[t]);
        let sum0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let maj = (a & b) ^ (a & c) ^ (b & c);
        (h, g, f, e) = (g, f, e, d.wrapping_add(t1));
        (d, c, b, a) = (c, b, a, t1.wrapping_add(sum0).wrapping_add(maj));
    }
    [a, b, c, d, e, f, g, h]
}

/// Eight words of a block, from word `t` on.
fn words(block: &Block, t: usize) -> [u32; 8] {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(&block.as_chunks().0[t..]) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}
