//! The known-answer self-test that every backend must pass at start-up before it is used.
//!
//! First a chain of 1,000 links is computed in single steps. Its end is known from another
//! implementation and is a constant here; a chain that leaves its path cannot reach the right end.
//! So all links are right, and they are the answers to every other test, for any number of chains
//! and steps.

use poet_engine::{Block, Chain, Node, NodeMessage, SHA256_IV, Sha256, State, WorkFunction};

use crate::table::BackendKernels;

/// Steps from the start to the end of a known chain.
const LINKS: usize = 1000;

/// A chain of [`LINKS`] steps.
struct KnownChain {
    start: Node,
    end: Node,
}

/// SHA-256 from 32 zero bytes, as computed by Python's `hashlib`.
const SHA256_CHAIN: KnownChain = KnownChain {
    start: [0; 32],
    end: node("36c1cb4f826ae42ceba848227e0c5f786178ca9dceca6772e5d728d09c30a2f6"),
};

/// The chain of 1,000 steps in the test vectors made with the Haraka authors' reference.
const HARAKA256_CHAIN: KnownChain = KnownChain {
    start: node("287c7f008c36c8a3f3de144521feb3ed9a88054b4184b06a6716f19466ec4cf5"),
    end: node("bed8fa5d154830bed126b1c14e5f88a6009783acf491bea927ac6e2001244265"),
};

/// The root over the nodes of the first [`NODES`] pairs of adjacent links of that chain, salted
/// with link 7, ...
const STATEMENT_ROOT: Node =
    node("97dae2c83e5df48b45c6833421833e6bc0a985502692952eb554bf63ea75a41e");

/// ... and without a salt; as computed by Python's `hashlib`.
const EMPTY_STATEMENT_ROOT: Node =
    node("f6ef91eed06641a3f07a5050004bfc89d350b73824f7e2109170cc4bb6024344");

/// A power of two greater than [`CHAINS`].
const NODES: usize = 64;

/// Numbers of steps in a single call for one chain: none, few, and those of a label.
const STEPS: [u32; 5] = [0, 1, 2, 3, 399];

/// Up to this many chains are tested together: more than twice the lanes of any kernel, so that
/// every remainder occurs.
const CHAINS: usize = 40;

/// The number of chains of the one test with the steps of a label: a full vector and one more.
const LABELS: usize = 17;

/// Tests `backend`, which claims to compute `function`.
///
/// # Errors
/// Returns what it computed wrong, as the end of a sentence that starts with its name.
pub(crate) fn run(function: WorkFunction, backend: BackendKernels) -> Result<(), String> {
    if let Some(sha256) = backend.sha256 {
        messages(sha256)?;
    }
    let known = match function {
        WorkFunction::Sha256 => &SHA256_CHAIN,
        WorkFunction::Haraka256 => &HARAKA256_CHAIN,
    };
    let links = walk(backend.chain, known)?;
    one(backend.chain, &links)?;
    many(backend.chain, &links)?;
    match backend.sha256 {
        Some(sha256) if function == WorkFunction::Sha256 => {
            hash_many(sha256, &links)?;
            hash_nodes(sha256, &links)
        }
        _ => Ok(()),
    }
}

/// Tests messages of one and two blocks from the examples of FIPS 180-4, and an empty one.
fn messages(sha256: &dyn Sha256) -> Result<(), String> {
    let one_block = padded(b"abc");
    let two_blocks = padded(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
    for (blocks, expected) in [
        (
            &[][..],
            node("6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"),
        ),
        (
            &one_block[1..],
            node("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ),
        (
            &two_blocks[..],
            node("248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"),
        ),
    ] {
        let mut state = SHA256_IV;
        sha256.compress(&mut state, blocks);
        if digest(state) != expected {
            return Err(format!(
                "a message of {} blocks is hashed wrong",
                blocks.len()
            ));
        }
    }
    Ok(())
}

/// Returns all links of the chain, including the start.
fn walk(chain: &dyn Chain, known: &KnownChain) -> Result<Vec<Node>, String> {
    let mut link = known.start;
    let mut links = vec![link];
    for _ in 0..LINKS {
        chain.one(&mut link, 1);
        links.push(link);
    }
    if link == known.end {
        Ok(links)
    } else {
        Err(format!("a chain of {LINKS} single steps ends wrong"))
    }
}

fn one(chain: &dyn Chain, links: &[Node]) -> Result<(), String> {
    for n in STEPS {
        let mut link = links[7];
        chain.one(&mut link, n);
        if link != links[7 + n as usize] {
            return Err(format!("one chain of {n} steps ends wrong"));
        }
    }
    Ok(())
}

fn many(chain: &dyn Chain, links: &[Node]) -> Result<(), String> {
    let few_steps = (0..=CHAINS).map(|count| (count, (count % 4) as u32));
    for (count, n) in few_steps.chain([(LABELS, 399)]) {
        let mut digests = links[..count].to_vec();
        chain.many(&mut digests, n);
        if digests != links[n as usize..n as usize + count] {
            return Err(format!("{count} chains of {n} steps end wrong"));
        }
    }
    Ok(())
}

fn hash_many(sha256: &dyn Sha256, links: &[Node]) -> Result<(), String> {
    let blocks: Vec<Block> = links.iter().map(|link| padded(link)[1]).collect();
    let messages: Vec<&[Block]> = blocks.chunks(1).collect();
    for count in 0..=CHAINS {
        let mut digests = vec![Node::default(); count];
        sha256.hash_many(&SHA256_IV, &messages[..count], &mut digests);
        if digests != links[1..=count] {
            return Err(format!("{count} messages at once are hashed wrong"));
        }
    }
    Ok(())
}

/// Tests nodes over adjacent links, after a statement that ends in the middle of a block, as those
/// of the network do, and after an empty one. Each node is first made alone; all together lead to a
/// known root.
fn hash_nodes(sha256: &dyn Sha256, links: &[Node]) -> Result<(), String> {
    for (statement, root) in [
        (&links[7][..], STATEMENT_ROOT),
        (&[][..], EMPTY_STATEMENT_ROOT),
    ] {
        let message = NodeMessage::new(sha256, SHA256_IV, 0, statement);
        let alone = |children: [Node; 2]| {
            let mut parent = [Node::default()];
            sha256.hash_nodes(&message, &[children], &mut parent);
            parent[0]
        };
        let children: Vec<_> = links
            .windows(2)
            .take(NODES)
            .map(|pair| [pair[0], pair[1]])
            .collect();
        let nodes: Vec<_> = children.iter().map(|pair| alone(*pair)).collect();
        let mut level = nodes.clone();
        while level.len() > 1 {
            level = level
                .as_chunks()
                .0
                .iter()
                .map(|pair| alone(*pair))
                .collect();
        }
        if level != [root] {
            return Err("a node is hashed wrong".to_owned());
        }
        for count in 0..=CHAINS {
            let mut parents = vec![Node::default(); count];
            sha256.hash_nodes(&message, &children[..count], &mut parents);
            if parents != nodes[..count] {
                return Err(format!("{count} nodes at once are hashed wrong"));
            }
        }
    }
    Ok(())
}

/// Returns the blocks of a short message: two, or only the second if that is enough.
fn padded(message: &[u8]) -> [Block; 2] {
    let blocks = if message.len() < 56 { 1 } else { 2 };
    let mut bytes = [0; 128];
    let start = 128 - 64 * blocks;
    bytes[start..start + message.len()].copy_from_slice(message);
    bytes[start + message.len()] = 0x80;
    bytes[120..].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
    let mut padded = [[0; 64]; 2];
    padded[0].copy_from_slice(&bytes[..64]);
    padded[1].copy_from_slice(&bytes[64..]);
    padded
}

fn digest(state: State) -> Node {
    let mut digest = Node::default();
    for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    digest
}

/// Decodes a hexadecimal constant; a malformed one does not compile.
const fn node(hex: &str) -> Node {
    const fn digit(character: u8) -> u8 {
        match character {
            b'0'..=b'9' => character - b'0',
            b'a'..=b'f' => character - b'a' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    let hex = hex.as_bytes();
    assert!(hex.len() == 64, "not 32 bytes");
    let mut node = [0; 32];
    let mut i = 0;
    while i < 32 {
        node[i] = digit(hex[2 * i]) << 4 | digit(hex[2 * i + 1]);
        i += 1;
    }
    node
}
