//! Every kernel of this CPU computes what the portable one does, whatever the counts.
#![no_main]

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use poet_engine::{Block, Kernels, Node, State, WorkFunction};
use poet_fuzz::KERNELS;

#[derive(Arbitrary, Debug)]
enum Input {
    Compress {
        state: State,
        blocks: Vec<Block>,
    },
    CompressMany {
        states: Cycle<State>,
        blocks: Cycle<Block>,
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

/// More of them than there are bytes for.
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
        Input::CompressMany { states, blocks } => {
            let mut states = states.all();
            kernels
                .wide_sha256
                .compress_many(&mut states, &blocks.all());
            (states, Vec::new())
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
            // The first in this order is the portable one.
            let expected = expected.get_or_insert_with(|| {
                assert_eq!(*name, "generic");
                found.clone()
            });
            assert_eq!(found, *expected, "{function} on {name}");
        }
    }
});
