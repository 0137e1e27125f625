//! Bytes decoded as a proof, or as a message with one, encode to the same bytes, and vice versa.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_engine::{MAX_PROOF_NODES, MAX_PROVEN_LEAVES, Node, Proof, ProofMessage};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Bytes(&'a [u8]),
    Proof {
        root: Node,
        leaf: Node,
        proven_leaves: u16,
        node: Node,
        proof_nodes: u16,
        leaves: u64,
        /// How the bytes are damaged: truncated, or a bit flipped.
        keep: u32,
        flip: Option<u32>,
    },
}

fuzz_target!(|input: Input| {
    match input {
        Input::Bytes(bytes) => read(bytes),
        Input::Proof {
            root,
            leaf,
            proven_leaves,
            node,
            proof_nodes,
            leaves,
            keep,
            flip,
        } => {
            let proof = Proof {
                root,
                proven_leaves: vec![leaf; usize::from(proven_leaves) % (MAX_PROVEN_LEAVES + 2)],
                proof_nodes: vec![node; usize::from(proof_nodes) % (MAX_PROOF_NODES + 2)],
            };
            let mut bytes = proof.to_scale(leaves);
            let fits = proof.proven_leaves.len() <= MAX_PROVEN_LEAVES
                && proof.proof_nodes.len() <= MAX_PROOF_NODES;
            match Proof::from_scale(&bytes) {
                Ok(read) => assert!(fits && read == (proof, leaves)),
                Err(error) => assert!(!fits, "{error}"),
            }
            let length = bytes.len();
            assert!(Proof::from_scale(&bytes[..keep as usize % length]).is_err());
            if let Some(at) = flip {
                bytes[at as usize / 8 % length] ^= 1 << (at % 8);
                read(&bytes);
            }
        }
    }
});

fn read(bytes: &[u8]) {
    if let Ok((proof, leaves)) = Proof::from_scale(bytes) {
        assert_eq!(proof.to_scale(leaves), bytes);
    }
    if let Ok(message) = ProofMessage::from_scale(bytes) {
        assert_eq!(message.to_scale(), bytes);
    }
}
