//! Every kernel of this CPU computes the same as the portable one, whatever the counts.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_engine::{Block, Kernels, Node, NodeMessage, State, WorkFunction};
use poet_fuzz::KERNELS;

#[derive(Arbitrary, Debug)]
enum Input {
    Compress {
        state: State,
        blocks: Vec<Block>,
    },
    HashMany {
        start: State,
        blocks: Vec<Block>,
        /// Where messages begin and end in the blocks.
        messages: Cycle<[u8; 2]>,
    },
    HashNodes {
        start: State,
        hashed: u64,
        rest: Vec<u8>,
        children: Cycle<[Node; 2]>,
    },
    One {
        digest: Node,
        n: u16,
    },
    Many {
        digests: Cycle<Node>,
        n: u8,
    },
}

/// Repeats the items when there are not enough bytes.
#[derive(Arbitrary, Debug)]
struct Cycle<T> {
    some: Vec<T>,
    count: u8,
}

impl<T: Copy> Cycle<T> {
    fn all(&self) -> Vec<T> {
        self.some
            .iter()
            .copied()
            .cycle()
            .take(self.count.into())
            .collect()
    }
}

fn run(kernels: &Kernels, input: &Input) -> (Vec<State>, Vec<Node>) {
    match input {
        Input::Compress { state, blocks } => {
            let (mut one, mut other) = (*state, *state);
            kernels.wide_sha256.compress(&mut one, blocks);
            kernels.sha256.compress(&mut other, blocks);
            (vec![one, other], Vec::new())
        }
        Input::HashMany {
            start,
            blocks,
            messages,
        } => {
            let message = |[begin, end]: [u8; 2]| blocks.get(begin.into()..end.into());
            let messages = messages.all().into_iter();
            let messages: Vec<&[Block]> =
                messages.map(|ends| message(ends).unwrap_or(&[])).collect();
            let mut digests = vec![Node::default(); messages.len()];
            kernels
                .wide_sha256
                .hash_many(start, &messages, &mut digests);
            (Vec::new(), digests)
        }
        Input::HashNodes {
            start,
            hashed,
            rest,
            children,
        } => {
            let message = NodeMessage::new(kernels.wide_sha256, *start, hashed & !63, rest);
            let children = children.all();
            let mut parents = vec![Node::default(); children.len()];
            kernels
                .wide_sha256
                .hash_nodes(&message, &children, &mut parents);
            (Vec::new(), parents)
        }
        Input::One { digest, n } => {
            let mut digests = vec![*digest; 2];
            kernels.chain.one(&mut digests[0], u32::from(n % 512));
            kernels.wide_chain.one(&mut digests[1], u32::from(n % 512));
            (Vec::new(), digests)
        }
        Input::Many { digests, n } => {
            let mut digests = digests.all();
            kernels.wide_chain.many(&mut digests, u32::from(n % 32));
            (Vec::new(), digests)
        }
    }
}

fuzz_target!(|input: Input| {
    for function in [WorkFunction::Sha256, WorkFunction::Haraka256] {
        let mut expected = None;
        for (_, name, kernels) in KERNELS.iter().rev().filter(|kernel| kernel.0 == function) {
            let found = run(kernels, &input);
            // The portable kernel comes first in this order.
            let expected = expected.get_or_insert_with(|| {
                assert_eq!(*name, "generic");
                found.clone()
            });
            assert_eq!(found, *expected, "{function} on {name}");
        }
    }
});
