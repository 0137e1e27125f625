//! The tests that every backend must pass, with the [oracles](crate::reference) as judges.
//!
//! Every input comes from a numbered seed, which the panic message names.

use crate::reference::{self, Reference};
use crate::{Rng, report_skipped, vectors};
use poet_engine::{
    Block, Chain, LABEL_DEPTH, Node, NodeMessage, SHA256_IV, Sha256, State, WorkFunction,
};

/// Lengths of chains: none, one, a few, and those of short and long labels.
const CHAIN_LENGTHS: [u32; 7] = [0, 1, 2, 3, 7, 63, LABEL_DEPTH - 1];

/// Independent chains: more than twice the lanes of the widest kernel.
const MAX_CHAINS: usize = 40;

/// The environment variable that names the backends, separated by spaces, that this CPU must have.
pub const REQUIRED: &str = "POET_REQUIRE_BACKENDS";

/// Returns the result of a backend's `get`, and reports if the CPU lacks it.
///
/// # Panics
/// Panics as [`not_tested`] does.
pub fn supported<T: ?Sized>(name: &str, backend: Option<&'static T>) -> Option<&'static T> {
    if backend.is_none() {
        not_tested(name, "this CPU does not support it");
    }
    backend
}

/// Reports that a backend is not tested, and why. Even CI has one CPU only.
///
/// # Panics
/// Panics if [`REQUIRED`] names the backend: skipping a required backend is a failure.
pub fn not_tested(name: &str, reason: &str) {
    let required = std::env::var(REQUIRED).unwrap_or_default();
    assert!(!names(&required, name), "{REQUIRED} names {name}: {reason}");
    report_skipped(format!("{name}: {reason}"));
}

/// Returns whether `name` is one of the names in `list`, separated by spaces.
fn names(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|listed| listed == name)
}

/// Tests a compression function.
///
/// # Panics
/// Panics if it is wrong; the message names the case.
pub fn sha256(backend: &dyn Sha256) {
    sha256_examples(backend);
    sha256_properties(backend);
    sha256_alignment(backend);
    sha256_hash_many(backend);
    sha256_hash_many_alignment(backend);
    sha256_hash_nodes(backend);
    sha256_hash_nodes_behind_much(backend);
}

/// Tests a chain that iterates `function`.
///
/// # Panics
/// Panics if it is wrong; the message names the case.
pub fn chain(backend: &dyn Chain, function: WorkFunction) {
    match function {
        WorkFunction::Sha256 => chain_sha256_vectors(backend),
        WorkFunction::Haraka256 => chain_haraka_vectors(backend),
    }
    chain_lengths(backend, function);
    chain_special_inputs(backend, function);
    chain_composition(backend);
    chain_many_is_one_each(backend);
    chain_alignment(backend, function);
}

/// The examples that NIST publishes for FIPS 180 (csrc.nist.gov, "Examples with Intermediate
/// Values" and the additional ones).
fn sha256_examples(backend: &dyn Sha256) {
    let examples: [(&str, usize, &str); 7] = [
        (
            "",
            1,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            "abc",
            1,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            1,
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (
            "abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmn\
             hijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu",
            1,
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1",
        ),
        (
            "\u{bd}",
            1,
            "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b",
        ),
        (
            "\0",
            55,
            "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7",
        ),
        (
            "a",
            1_000_000,
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        ),
    ];
    for (text, times, expected) in examples {
        // One character is one byte: the example 0xbd is not ASCII.
        let unit: Vec<u8> = text
            .chars()
            .map(|c| u8::try_from(c).expect("one byte"))
            .collect();
        let message = unit.repeat(times);
        let bits = message.len() as u64 * 8;
        let mut padded = message;
        padded.push(0x80);
        while padded.len() % 64 != 56 {
            padded.push(0);
        }
        padded.extend(bits.to_be_bytes());
        let mut state = SHA256_IV;
        backend.compress(&mut state, padded.as_chunks().0);
        let digest: String = state.iter().map(|word| format!("{word:08x}")).collect();
        assert_eq!(digest, expected, "sha256 of {times} times {text:?}");
    }
}

/// 0 to 6 blocks and some longer runs, from the initial and from random states; and that a run
/// may be cut anywhere.
fn sha256_properties(backend: &dyn Sha256) {
    for seed in 0..64 {
        let mut rng = Rng::new(seed);
        for count in (0..=6).chain([7, 8, 9, 15, 16, 17, 33]) {
            let start = if seed == 0 { SHA256_IV } else { rng.words() };
            let blocks: Vec<Block> = (0..count).map(|_| rng.bytes()).collect();
            let mut expected = start;
            Reference::new(WorkFunction::Sha256).compress(&mut expected, &blocks);

            let mut state = start;
            backend.compress(&mut state, &blocks);
            assert_eq!(state, expected, "sha256: seed {seed}, {count} blocks");

            let cut = rng.below(count + 1);
            let (before, after) = blocks.split_at(cut as usize);
            let mut state = start;
            backend.compress(&mut state, before);
            backend.compress(&mut state, after);
            assert_eq!(
                state, expected,
                "sha256: seed {seed}, {count} blocks, cut after {cut}"
            );
        }
    }
}

/// Blocks at every offset from an aligned address, the state at every word; nothing next to the
/// state may change.
fn sha256_alignment(backend: &dyn Sha256) {
    #[repr(align(64))]
    struct Words([u32; 8 + 16]);
    #[repr(align(64))]
    struct Bytes([u8; 3 * 64 + 64]);

    for offset in 0..64_usize {
        let mut rng = Rng::new(offset as u64);
        let bytes = Bytes(rng.bytes());
        let blocks: &[Block] = &bytes.0[offset..].as_chunks().0[..3];
        let word = offset % 16;
        let mut words = Words(core::array::from_fn(|_| u32::from_le_bytes(rng.bytes())));
        let mut expected = words.0;

        let state: &mut State = expected[word..]
            .first_chunk_mut()
            .expect("8 words are left");
        Reference::new(WorkFunction::Sha256).compress(state, blocks);
        let state: &mut State = words.0[word..].first_chunk_mut().expect("8 words are left");
        backend.compress(state, blocks);
        assert_eq!(
            words.0, expected,
            "sha256: blocks at byte {offset}, state at word {word}"
        );
    }
}

/// Every number of independent messages, of one length and of several; where the slices differ in
/// length, the rest is ignored.
fn sha256_hash_many(backend: &dyn Sha256) {
    for seed in 0..6 {
        let mut rng = Rng::new(seed);
        let start = if seed == 0 { SHA256_IV } else { rng.words() };
        let blocks: Vec<Block> = (0..MAX_CHAINS + 4).map(|_| rng.bytes()).collect();
        let messages: Vec<&[Block]> = (0..MAX_CHAINS)
            .map(|i| match seed {
                // Equal, sorted as the engine sorts them, in any order, and one block each.
                0 => &blocks[i..i + 2],
                1 => &blocks[i..i + 4 - i / 10],
                2 => &blocks[i..i + rng.below(5) as usize],
                _ => &blocks[i..=i],
            })
            .collect();
        let right: Vec<Node> = messages
            .iter()
            .map(|message| {
                let mut state = start;
                Reference::new(WorkFunction::Sha256).compress(&mut state, message);
                digest(state)
            })
            .collect();
        for count in 0..=MAX_CHAINS {
            let longer = MAX_CHAINS.min(count + seed as usize);
            for (given, offered) in [(count, longer), (longer, count)] {
                let mut digests = vec![[0x5a; 32]; given];
                backend.hash_many(&start, &messages[..offered], &mut digests);
                for (i, digest) in digests.iter().enumerate() {
                    let expected = if i < offered { right[i] } else { [0x5a; 32] };
                    assert_eq!(
                        *digest, expected,
                        "hash_many: seed {seed}, digest {i} of {given}, {offered} messages"
                    );
                }
            }
        }
    }
}

/// Blocks at every offset from an aligned address.
fn sha256_hash_many_alignment(backend: &dyn Sha256) {
    #[repr(align(64))]
    struct Bytes([u8; 20 * 64 + 64]);

    for offset in 0..64 {
        let bytes = Bytes(Rng::new(offset as u64).bytes());
        let blocks: &[Block] = &bytes.0[offset..].as_chunks().0[..20];
        let messages: Vec<&[Block]> = blocks.chunks(1).collect();
        let mut space = [0; 20 * 32 + 64];
        let digests = space[offset..].as_chunks_mut().0;
        backend.hash_many(&SHA256_IV, &messages, &mut digests[..20]);
        for (i, block) in blocks.iter().enumerate() {
            let mut state = SHA256_IV;
            reference::sha256_compress(&mut state, block);
            assert_eq!(
                digests[i],
                digest(state),
                "hash_many: message {i} at byte {offset}"
            );
        }
    }
}

/// Inner nodes after statements of all lengths up to two blocks, and every number of nodes after
/// those lengths that end in the middle of a block, as those of the network do.
fn sha256_hash_nodes(backend: &dyn Sha256) {
    let reference = Reference::new(WorkFunction::Sha256);
    for length in 0..=130 {
        let mut rng = Rng::new(length as u64);
        let statement: Vec<u8> = (0..length).map(|_| rng.bytes::<1>()[0]).collect();
        let message = NodeMessage::new(&reference, SHA256_IV, 0, &statement);
        let children: Vec<[Node; 2]> = (0..MAX_CHAINS)
            .map(|_| [rng.bytes(), rng.bytes()])
            .collect();
        let right: Vec<Node> = children
            .iter()
            .map(|[left, right]| reference::node(&statement, left, right))
            .collect();
        let every = if length % 64 == 32 { 1 } else { 13 };
        for count in (0..=MAX_CHAINS).step_by(every) {
            let longer = MAX_CHAINS.min(count + 3);
            for (given, offered) in [(count, longer), (longer, count)] {
                let mut parents = vec![[0x5a; 32]; given];
                backend.hash_nodes(&message, &children[..offered], &mut parents);
                for (i, parent) in parents.iter().enumerate() {
                    let expected = if i < offered { right[i] } else { [0x5a; 32] };
                    assert_eq!(
                        *parent, expected,
                        "hash_nodes: statement of {length} bytes, node {i} of {given}, {offered} pairs"
                    );
                }
            }
        }
    }
}

/// After a statement so long that the number of its bits takes more than a word, from any state.
fn sha256_hash_nodes_behind_much(backend: &dyn Sha256) {
    for length in [1 << 29, (1 << 60) + (1 << 28)] {
        let mut rng = Rng::new(length);
        let (start, rest): (State, [u8; 32]) = (rng.words(), rng.bytes());
        let message = NodeMessage::new(backend, start, length, &rest);
        let children: Vec<[Node; 2]> = (0..MAX_CHAINS)
            .map(|_| [rng.bytes(), rng.bytes()])
            .collect();
        let mut parents = vec![Node::default(); MAX_CHAINS];
        backend.hash_nodes(&message, &children, &mut parents);
        for (i, (parent, [left, right])) in parents.iter().zip(&children).enumerate() {
            let mut blocks = [[0; 64]; 2];
            blocks[0][..32].copy_from_slice(&rest);
            blocks[0][32..].copy_from_slice(left);
            blocks[1][..32].copy_from_slice(right);
            blocks[1][32] = 0x80;
            blocks[1][56..].copy_from_slice(&((length + 96) * 8).to_be_bytes());
            let mut state = start;
            Reference::new(WorkFunction::Sha256).compress(&mut state, &blocks);
            assert_eq!(
                *parent,
                digest(state),
                "hash_nodes: statement of {length} bytes and 32 more, node {i}"
            );
        }
    }
}

/// The digest that a state encodes.
fn digest(state: State) -> Node {
    let mut digest = Node::default();
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// A message of 32 bytes from NIST's test vectors (CAVP, SHA256ShortMsg), and the first label of
/// every statement of `labels.json`.
fn chain_sha256_vectors(backend: &dyn Chain) {
    let mut digest = 0x09fc_1acc_c230_a205_e4a2_08e6_4a8f_2042_u128
        .to_be_bytes()
        .to_vec();
    digest.extend(0x91f5_81a1_2756_392d_a4b8_c0cf_5ef0_2b95_u128.to_be_bytes());
    let mut digest: Node = digest.try_into().expect("two halves of 16 bytes");
    backend.one(&mut digest, 1);
    assert_eq!(
        hex::encode(digest),
        "4f44c1c7fbebb6f9601829f3897bfd650c56fa07844be76489076356ac1886a4",
        "one: NIST's message of 32 bytes"
    );

    for (i, v) in vectors::labels().iter().enumerate() {
        let mut digest = reference::sha256(&[&v.statement, &0_u64.to_be_bytes()]);
        backend.one(&mut digest, LABEL_DEPTH - 1);
        assert_eq!(
            digest, v.labels[0],
            "one: label 0 of statement {i} of labels.json"
        );
    }
}

/// The pairs and chains of `haraka.json`.
fn chain_haraka_vectors(backend: &dyn Chain) {
    let vectors = vectors::haraka();
    for (i, v) in vectors.haraka256.iter().enumerate() {
        let mut digest = v.input;
        backend.one(&mut digest, 1);
        assert_eq!(digest, v.output, "one: haraka256[{i}] of haraka.json");
    }
    let mut digests: Vec<Node> = vectors.haraka256.iter().map(|v| v.input).collect();
    let outputs: Vec<Node> = vectors.haraka256.iter().map(|v| v.output).collect();
    backend.many(&mut digests, 1);
    assert_eq!(digests, outputs, "many: haraka256 of haraka.json");

    for (i, v) in vectors.haraka256_chain.iter().enumerate() {
        let mut digest = v.input;
        backend.one(&mut digest, v.iterations);
        assert_eq!(digest, v.output, "one: haraka256_chain[{i}] of haraka.json");
        let mut digests = [v.input; 3];
        backend.many(&mut digests, v.iterations);
        assert_eq!(
            digests, [v.output; 3],
            "many: haraka256_chain[{i}] of haraka.json"
        );
    }
}

/// Every length of chain with `one`, and with `many` over every number of chains.
fn chain_lengths(backend: &dyn Chain, function: WorkFunction) {
    for seed in 0..2 {
        let mut rng = Rng::new(seed);
        let inputs: Vec<Node> = (0..MAX_CHAINS).map(|_| rng.bytes()).collect();
        let mut expected = inputs.clone();
        let mut done = 0;
        for n in CHAIN_LENGTHS {
            // The oracle continues from the previous length.
            Reference::new(function).many(&mut expected, n - done);
            done = n;
            for (i, (input, expected)) in inputs.iter().zip(&expected).enumerate() {
                let mut digest = *input;
                backend.one(&mut digest, n);
                assert_eq!(digest, *expected, "one: seed {seed}, input {i}, n = {n}");
            }
            for count in 0..=MAX_CHAINS {
                let mut digests = inputs[..count].to_vec();
                backend.many(&mut digests, n);
                for (i, (digest, expected)) in digests.iter().zip(&expected).enumerate() {
                    assert_eq!(
                        digest, expected,
                        "many: seed {seed}, digest {i} of {count}, n = {n}"
                    );
                }
            }
        }
    }
}

/// Inputs that reveal a wrong carry or sign, or a byte that is never set.
fn chain_special_inputs(backend: &dyn Chain, function: WorkFunction) {
    let single_bits = (0..256).map(|bit| {
        let mut input = [0; 32];
        input[bit / 8] = 1 << (bit % 8);
        input
    });
    let uniform = [0x00, 0xff, 0x80, 0x7f, 0x01, 0x55, 0xaa].map(|byte| [byte; 32]);
    for input in uniform.into_iter().chain(single_bits) {
        let mut digest = input;
        backend.one(&mut digest, 2);
        let expected = reference::hash(function, &reference::hash(function, &input));
        assert_eq!(digest, expected, "one: input {}, n = 2", hex::encode(input));
    }
}

/// A chain may be cut anywhere.
fn chain_composition(backend: &dyn Chain) {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let input: Node = rng.bytes();
        let (a, b) = (rng.below(90), rng.below(90));
        let mut whole = input;
        backend.one(&mut whole, a + b);
        let mut parts = input;
        backend.one(&mut parts, a);
        backend.one(&mut parts, b);
        assert_eq!(parts, whole, "one: seed {seed}, n = {a} and then {b}");
    }
}

/// `many` is `one` for each digest, also where the digests are equal or many.
fn chain_many_is_one_each(backend: &dyn Chain) {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let count = if seed % 10 == 0 {
            150
        } else {
            1 + rng.below(70)
        };
        let n = rng.below(40);
        let mut digests: Vec<Node> = (0..count).map(|_| rng.bytes()).collect();
        if seed % 4 == 0 {
            let last = digests.len() - 1;
            digests[last] = digests[0];
        }
        let mut expected = digests.clone();
        for digest in &mut expected {
            backend.one(digest, n);
        }
        backend.many(&mut digests, n);
        for (i, (digest, expected)) in digests.iter().zip(&expected).enumerate() {
            assert_eq!(
                digest, expected,
                "many differs from one: seed {seed}, digest {i} of {count}, n = {n}"
            );
        }
    }
}

/// Digests at every offset from an aligned address; nothing next to them may change.
fn chain_alignment(backend: &dyn Chain, function: WorkFunction) {
    const COUNT: usize = 19;
    #[repr(align(64))]
    struct Bytes([u8; 64 + COUNT * 32 + 64]);

    let n = 2;
    for offset in 0..64_usize {
        for count in [1, 2, 5, COUNT] {
            let start = Bytes(Rng::new(offset as u64).bytes());
            let range = offset..offset + 32 * count;
            let mut expected = start.0;
            Reference::new(function).many(expected[range.clone()].as_chunks_mut().0, n);

            let mut bytes = Bytes(start.0);
            backend.many(bytes.0[range.clone()].as_chunks_mut().0, n);
            assert!(
                bytes.0 == expected,
                "many: {count} digests at byte {offset}, n = {n}"
            );

            let mut bytes = Bytes(start.0);
            for digest in bytes.0[range].as_chunks_mut().0 {
                backend.one(digest, n);
            }
            assert!(
                bytes.0 == expected,
                "one: {count} digests at byte {offset}, n = {n}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_backends() {
        assert!(names("armv8-sha2 armv8-aes", "armv8-aes"));
        assert!(!names("armv8-sha2 armv8-aes", "armv8"));
        assert!(!names("", "armv8-aes"));
        assert!(supported("a backend", Some(&0)).is_some());
        assert!(supported::<u8>("a backend that nothing requires", None).is_none());
    }
}
