//! The engine's verifier agrees with the slow one on proofs that are right or nearly right.
//!
//! Some come from real trees of up to 200 leaves with short chains. Others are for trees of any
//! height: their chains end in a constant, so that every node is known.
#![no_main]

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_conformance::{Rng, reference};
use poet_engine::{Chain, Kernels, Node, Proof, Work, WorkFunction, ZERO, verify};
use poet_fuzz::{KERNELS, oracle};

#[derive(Arbitrary, Debug)]
struct Input {
    tree: Tree,
    statement: u8,
    t: u8,
    kernel: u8,
    mutations: Vec<Mutation>,
}

#[derive(Arbitrary, Debug)]
enum Tree {
    Real { leaves: u8, depth: u8 },
    Constant { leaves: u64 },
}

/// Numbers are taken modulo the number of choices.
#[derive(Arbitrary, Debug)]
enum Mutation {
    FlipBit { node: u16, bit: u8 },
    Zero { node: u16 },
    Set { node: u16, to: Node },
    Copy { from: u16, to: u16 },
    Swap { one: u16, other: u16 },
    RemoveLeaf { at: u8 },
    InsertLeaf { at: u8, node: Node },
    RemoveNode { at: u16 },
    InsertNode { at: u16, node: Node },
    Leaves { to: u64 },
    FlipLeaves { bit: u8 },
    T { to: u8 },
    Statement { to: u8 },
}

/// Statements whose last block has every interesting length.
fn statement(number: u8) -> Vec<u8> {
    const LENGTHS: [usize; 8] = [0, 1, 32, 55, 63, 64, 100, 130];
    let mut rng = Rng::new(9);
    let bytes: [u8; 130] = rng.bytes();
    bytes[..LENGTHS[usize::from(number) % LENGTHS.len()]].to_vec()
}

/// The value in which every chain of a constant tree ends.
const LABEL: Node = [0x5a; 32];

struct Constant;

impl Chain for Constant {
    fn one(&self, digest: &mut Node, _: u32) {
        *digest = LABEL;
    }

    fn many(&self, digests: &mut [Node], _: u32) {
        digests.fill(LABEL);
    }
}

const MAX_REAL_LEAVES: u64 = 200;

type Key = (u8, WorkFunction, u32);

/// The first labels of a real tree, made once.
fn labels(key: Key) -> Vec<Node> {
    static CACHE: LazyLock<Mutex<HashMap<Key, Vec<Node>>>> = LazyLock::new(Mutex::default);
    let mut cache = CACHE.lock().expect("one thread");
    let (number, function, depth) = key;
    let make = || {
        // Computed by the engine, since the oracle takes seconds; the slow verifier checks them.
        let kernels = KERNELS.iter().rev().find(|kernel| kernel.0 == function);
        let (_, _, kernels) = kernels.expect("the portable ones");
        let work = Work::new(function, depth, *kernels).expect("a small depth");
        let mut tree = poet_engine::Tree::new(&work, &statement(number));
        let labels = (0..MAX_REAL_LEAVES).map(|_| {
            let label = tree.next_label();
            tree.push(label, |_, _, _| {});
            label
        });
        labels.collect()
    };
    cache.entry(key).or_insert_with(make).clone()
}

/// The nodes of the tree over `labels`, by height: section 3.
fn tree(statement: &[u8], labels: &[Node]) -> Vec<Vec<Node>> {
    let mut levels = vec![labels.to_vec()];
    while let [.., level] = levels.as_slice()
        && level.len() > 1
    {
        let parent = |pair: &[Node]| {
            let right = pair.get(1).unwrap_or(&ZERO);
            reference::node(statement, &pair[0], right)
        };
        levels.push(level.chunks(2).map(parent).collect());
    }
    levels
}

/// The node at a position of root, leaves and nodes.
fn at(proof: &mut Proof, position: u16) -> &mut Node {
    let count = 1 + proof.proven_leaves.len() + proof.proof_nodes.len();
    let nodes = proof.proven_leaves.iter_mut().chain(&mut proof.proof_nodes);
    std::iter::once(&mut proof.root)
        .chain(nodes)
        .nth(usize::from(position) % count)
        .expect("modulo their number")
}

struct Case {
    statement: Vec<u8>,
    leaves: u64,
    t: usize,
    proof: Proof,
}

impl Case {
    fn mutate(&mut self, mutation: &Mutation) {
        let proof = &mut self.proof;
        let position = |at: u16, list: &[Node]| usize::from(at) % (list.len() + 1);
        match *mutation {
            Mutation::FlipBit { node, bit } => {
                at(proof, node)[usize::from(bit / 8)] ^= 1 << (bit % 8)
            }
            Mutation::Zero { node } => *at(proof, node) = ZERO,
            Mutation::Set { node, to } => *at(proof, node) = to,
            Mutation::Copy { from, to } => *at(proof, to) = *at(proof, from),
            Mutation::Swap { one, other } => {
                let (a, b) = (*at(proof, one), *at(proof, other));
                *at(proof, one) = b;
                *at(proof, other) = a;
            }
            Mutation::RemoveLeaf { at } => {
                let at = position(at.into(), &proof.proven_leaves);
                if at < proof.proven_leaves.len() {
                    proof.proven_leaves.remove(at);
                }
            }
            Mutation::InsertLeaf { at, node } => {
                let at = position(at.into(), &proof.proven_leaves);
                proof.proven_leaves.insert(at, node);
            }
            Mutation::RemoveNode { at } => {
                let at = position(at, &proof.proof_nodes);
                if at < proof.proof_nodes.len() {
                    proof.proof_nodes.remove(at);
                }
            }
            Mutation::InsertNode { at, node } => {
                let at = position(at, &proof.proof_nodes);
                proof.proof_nodes.insert(at, node);
            }
            Mutation::Leaves { to } => self.leaves = to,
            Mutation::FlipLeaves { bit } => self.leaves ^= 1 << (bit % 64),
            Mutation::T { to } => self.t = to.into(),
            Mutation::Statement { to } => self.statement = statement(to),
        }
    }
}

fuzz_target!(|input: Input| {
    let (function, name, kernels) = KERNELS[usize::from(input.kernel) % KERNELS.len()];
    let number = input.statement % 8;
    let statement = statement(number);
    // Usually at most a few proven leaves: the slow verifier is slow.
    let t = match input.t {
        few @ 0..=200 => usize::from(few % 6) + 1,
        many => usize::from(many) - 105,
    };
    let (work, leaves, proof) = match input.tree {
        Tree::Real { leaves, depth } => {
            let depth = u32::from(depth % 3) + 1;
            let work = Work::new(function, depth, kernels);
            let leaves = (u64::from(leaves) % MAX_REAL_LEAVES + 1).max(t as u64);
            let labels = &labels((number, function, depth))[..leaves as usize];
            let levels = tree(&statement, labels);
            let node = |height, index| {
                let level: &Vec<Node> = &levels[height as usize];
                *level.get(index as usize).unwrap_or(&ZERO)
            };
            (work, leaves, oracle::prove(node, leaves, t))
        }
        Tree::Constant { leaves } => {
            let kernels = Kernels {
                chain: &Constant,
                wide_chain: &Constant,
                ..kernels
            };
            let leaves = leaves.max(t as u64);
            let nodes = oracle::constant_nodes(&statement, LABEL);
            let tree =
                |height, index| oracle::constant_tree(&statement, &nodes, leaves, height, index);
            (
                Work::new(function, 2, kernels),
                leaves,
                oracle::prove(tree, leaves, t),
            )
        }
    };
    let work = work.expect("a small depth");
    let mut case = Case {
        statement,
        leaves,
        t,
        proof,
    };
    for mutation in input.mutations.iter().take(4) {
        case.mutate(mutation);
    }

    let label = |first: Node| match input.tree {
        Tree::Real { .. } => {
            (1..work.depth()).fold(first, |digest, _| reference::hash(function, &digest))
        }
        Tree::Constant { .. } => LABEL,
    };
    let expected = oracle::verify(&label, &case.statement, case.leaves, case.t, &case.proof);
    let found = verify(&work, &case.statement, case.leaves, case.t, &case.proof);
    assert_eq!(found.is_ok(), expected, "on {name}: {found:?}");
    assert!(
        expected || !input.mutations.is_empty(),
        "a right proof was refused"
    );
});
