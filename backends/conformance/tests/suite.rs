//! The suite accepts the oracles and rejects implementations that are wrong in a single respect.

use poet_conformance::{reference::Reference, suite};
use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV, Sha256, State, WorkFunction};
use std::panic::{AssertUnwindSafe, catch_unwind};

const FUNCTIONS: [WorkFunction; 2] = [WorkFunction::Sha256, WorkFunction::Haraka256];

#[test]
fn accepts_the_oracles() {
    suite::sha256(&Reference::new(WorkFunction::Sha256));
    for function in FUNCTIONS {
        suite::chain(&Reference::new(function), function);
    }
}

/// Runs `test`, which must fail with a message that begins with one of `cases`.
fn assert_rejected(defect: &str, cases: &[&str], test: impl FnOnce()) {
    let panic = catch_unwind(AssertUnwindSafe(test)).expect_err(defect);
    let message = panic.downcast_ref::<String>().expect("a formatted message");
    let named = message.split("` failed: ").last().expect("a last part");
    assert!(
        cases.iter().any(|case| named.starts_with(case)),
        "{defect}: {message}"
    );
}

/// A chain that is right except for what its two closures do.
struct Wrong<One, Many> {
    function: WorkFunction,
    one: One,
    many: Many,
}

impl<One, Many> Chain for Wrong<One, Many>
where
    One: Fn(&Reference, &mut Node, u32) + Send + Sync,
    Many: Fn(&Reference, &mut [Node], u32) + Send + Sync,
{
    fn one(&self, digest: &mut Node, n: u32) {
        (self.one)(&Reference::new(self.function), digest, n);
    }

    fn many(&self, digests: &mut [Node], n: u32) {
        (self.many)(&Reference::new(self.function), digests, n);
    }
}

fn assert_one_rejected(defect: &str, one: impl Fn(&Reference, &mut Node, u32) + Send + Sync) {
    for function in FUNCTIONS {
        let wrong = Wrong {
            function,
            one: &one,
            many: Reference::many,
        };
        assert_rejected(defect, &["one: "], || suite::chain(&wrong, function));
    }
}

fn assert_many_rejected(defect: &str, many: impl Fn(&Reference, &mut [Node], u32) + Send + Sync) {
    for function in FUNCTIONS {
        let wrong = Wrong {
            function,
            one: Reference::one,
            many: &many,
        };
        let cases = ["many: ", "many differs from one: "];
        assert_rejected(defect, &cases, || suite::chain(&wrong, function));
    }
}

#[test]
fn rejects_a_wrong_one() {
    assert_one_rejected("wrong for n = 1", |right, digest, n| {
        right.one(digest, n);
        if n == 1 {
            digest[31] ^= 1;
        }
    });
    assert_one_rejected("one hash too many", |right, digest, n| {
        right.one(digest, n + 1);
    });
    assert_one_rejected("one hash too few", |right, digest, n| {
        right.one(digest, n.saturating_sub(1));
    });
    assert_one_rejected("n = 0 hashes", |right, digest, n| {
        right.one(digest, n.max(1));
    });
    assert_one_rejected("unrolled twice, the odd hash lost", |right, digest, n| {
        right.one(digest, n & !1);
    });
    assert_one_rejected("wrong for the zero digest", |right, digest, n| {
        let zero = *digest == [0; 32];
        right.one(digest, n);
        digest[0] ^= u8::from(zero);
    });
    assert_one_rejected("wrong where the address is odd", |right, digest, n| {
        let odd = !digest.as_ptr().addr().is_multiple_of(2);
        right.one(digest, n);
        digest[0] ^= u8::from(odd);
    });
}

#[test]
fn rejects_a_wrong_many() {
    assert_many_rejected("the last digest of some", |right, digests, n| {
        right.many(digests, n);
        if let [_, .., last] = digests {
            last[0] ^= 0x80;
        }
    });
    for lanes in [2, 3, 4, 8, 16] {
        assert_many_rejected("the remainder left alone", |right, digests, n| {
            let whole = digests.len() / lanes * lanes;
            right.many(&mut digests[..whole], n);
        });
        assert_many_rejected("the last lane only", |right, digests, n| {
            right.many(digests, n);
            for group in digests.chunks_exact_mut(lanes) {
                group[lanes - 1][17] ^= 4;
            }
        });
        assert_many_rejected("two lanes exchanged", |right, digests, n| {
            right.many(digests, n);
            for group in digests.chunks_exact_mut(lanes) {
                group.swap(0, lanes - 1);
            }
        });
    }
    assert_many_rejected("one hash too many", |right, digests, n| {
        right.many(digests, n + 1);
    });
    assert_many_rejected("one hash too few", |right, digests, n| {
        right.many(digests, n.saturating_sub(1));
    });
    assert_many_rejected("two chains at most", |right, digests, n| {
        let count = digests.len().min(2);
        right.many(&mut digests[..count], n);
    });
    assert_many_rejected("wrong for n = 1", |right, digests, n| {
        right.many(digests, n);
        if let ([first, ..], 1) = (digests, n) {
            first[0] ^= 1;
        }
    });
}

#[test]
fn rejects_the_other_function() {
    let cases = ["one: "];
    assert_rejected("Haraka for SHA-256", &cases, || {
        suite::chain(
            &Reference::new(WorkFunction::Haraka256),
            WorkFunction::Sha256,
        );
    });
    assert_rejected("SHA-256 for Haraka", &cases, || {
        suite::chain(
            &Reference::new(WorkFunction::Sha256),
            WorkFunction::Haraka256,
        );
    });
}

/// A compression function that is right except for what its closure does.
struct WrongSha256<F>(F);

impl<F: Fn(&Reference, &mut State, &[Block]) + Send + Sync> Sha256 for WrongSha256<F> {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        (self.0)(&Reference::new(WorkFunction::Sha256), state, blocks);
    }
}

fn assert_sha256_rejected(
    defect: &str,
    compress: impl Fn(&Reference, &mut State, &[Block]) + Send + Sync,
) {
    assert_rejected(defect, &["sha256", "hash_many"], || {
        suite::sha256(&WrongSha256(&compress));
    });
}

#[test]
fn rejects_a_wrong_sha256() {
    assert_sha256_rejected("the last block left out", |right, state, blocks| {
        right.compress(state, &blocks[..blocks.len().saturating_sub(1)]);
    });
    assert_sha256_rejected("always the initial state", |right, state, blocks| {
        *state = SHA256_IV;
        right.compress(state, blocks);
    });
    assert_sha256_rejected("only the first block", |right, state, blocks| {
        right.compress(state, &blocks[..blocks.len().min(1)]);
    });
    assert_sha256_rejected("no block is a block of zeros", |right, state, blocks| {
        right.compress(
            state,
            if blocks.is_empty() {
                &[[0; 64]]
            } else {
                blocks
            },
        );
    });
    assert_sha256_rejected("wrong in word 7 after 6 blocks", |right, state, blocks| {
        right.compress(state, blocks);
        state[7] ^= u32::from(blocks.len() == 6);
    });
    assert_sha256_rejected(
        "wrong where the state is not aligned",
        |right, state, blocks| {
            let aligned = state.as_ptr().addr().is_multiple_of(16);
            right.compress(state, blocks);
            state[0] ^= u32::from(!aligned);
        },
    );
    assert_sha256_rejected(
        "wrong where a block's address is odd",
        |right, state, blocks| {
            let odd = !blocks.as_ptr().addr().is_multiple_of(2);
            right.compress(state, blocks);
            state[0] ^= u32::from(odd);
        },
    );
}

/// A compression function whose lanes alone are wrong: a remainder is right.
struct WrongLanes {
    lanes: usize,
}

impl Sha256 for WrongLanes {
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        Reference::new(WorkFunction::Sha256).compress(state, blocks);
    }

    fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
        let whole = messages.len().min(digests.len()) / self.lanes * self.lanes;
        let right = Reference::new(WorkFunction::Sha256);
        right.hash_many(start, &messages[..whole], digests);
    }
}

#[test]
fn rejects_wrong_lanes() {
    for lanes in [2, 3, 4, 8, 16] {
        let wrong = WrongLanes { lanes };
        assert_rejected("the remainder left alone", &["hash_many: "], || {
            suite::sha256(&wrong);
        });
    }
}

/// Nodes that are right except for what the closure does to their children and to them.
struct WrongNodes<F>(F);

impl<F> Sha256 for WrongNodes<F>
where
    F: Fn(&NodeMessage, &mut [[Node; 2]], &mut [Node], bool) + Send + Sync,
{
    fn compress(&self, state: &mut State, blocks: &[Block]) {
        Reference::new(WorkFunction::Sha256).compress(state, blocks);
    }

    fn hash_nodes(&self, message: &NodeMessage, children: &[[Node; 2]], parents: &mut [Node]) {
        let mut children = children.to_vec();
        (self.0)(message, &mut children, parents, false);
        Reference::new(WorkFunction::Sha256).hash_nodes(message, &children, parents);
        (self.0)(message, &mut children, parents, true);
    }
}

fn assert_nodes_rejected(
    defect: &str,
    disturb: impl Fn(&NodeMessage, &mut [[Node; 2]], &mut [Node], bool) + Send + Sync,
) {
    assert_rejected(defect, &["hash_nodes: "], || {
        suite::sha256(&WrongNodes(&disturb));
    });
}

#[test]
fn rejects_wrong_nodes() {
    assert_nodes_rejected("the last node of some", |_, _, parents, after| {
        if let (true, [_, .., last]) = (after, parents) {
            last[31] ^= 1;
        }
    });
    assert_nodes_rejected("left and right exchanged", |_, children, _, _| {
        for [left, right] in children {
            core::mem::swap(left, right);
        }
    });
    assert_nodes_rejected("a node too many", |_, children, parents, after| {
        if after && parents.len() > children.len() {
            parents[children.len()][0] ^= 1;
        }
    });
    for lanes in [8, 16] {
        assert_nodes_rejected(
            "a remainder behind 32 bytes",
            |message, _, parents, after| {
                let whole = parents.len() / lanes * lanes;
                if after && message.children_at() == 32 && whole > 0 {
                    for node in &mut parents[whole..] {
                        node[7] ^= 1;
                    }
                }
            },
        );
    }
    assert_nodes_rejected("without a statement", |message, _, parents, after| {
        if after && message.children_at() == 0 && *message.start() == SHA256_IV {
            parents.fill([0; 32]);
        }
    });
    assert_nodes_rejected("behind 64 + 32 bytes", |message, _, parents, after| {
        if after && message.children_at() == 32 && *message.start() != SHA256_IV {
            parents.fill([0; 32]);
        }
    });
    assert_nodes_rejected(
        "a length of more than 32 bits",
        |message, _, parents, after| {
            let bytes = message.blocks().as_flattened();
            if after && bytes[bytes.len() - 8..][..4] != [0; 4] {
                parents.fill([0; 32]);
            }
        },
    );
}
