//! Independent hashes do not take longer than hashes one after another.
//!
//! They take fifty times as long where the compiler has put a 256-bit instruction among those of the
//! SHA extensions.
#![cfg(target_arch = "x86_64")]

use std::time::{Duration, Instant};

use poet_backend_sha_ni::{ShaNi, ShaNiAvx, ShaNiAvx512};
use poet_conformance::suite;
use poet_engine::{Block, Node, NodeMessage, SHA256_IV, Sha256};

/// Far more than anything but that trap costs, on a busy machine too.
const MAX_RATIO: u32 = 8;

/// Fours, and then three.
const NODES: usize = 67;

/// The fastest of many tries: some are not interrupted.
fn fastest(mut hash: impl FnMut()) -> Duration {
    let tries = (0..200).map(|_| {
        let start = Instant::now();
        hash();
        start.elapsed()
    });
    tries.min().expect("there are tries")
}

fn check(sha256: &dyn Sha256) {
    let message = NodeMessage::new(sha256, SHA256_IV, 0, &[7; 32]);
    for count in [1, 2, 3, NODES] {
        let blocks = vec![[5; 64]; 2 * count];
        let mut state = SHA256_IV;
        let one_by_one = fastest(|| sha256.compress(&mut state, &blocks));

        let mut digests = vec![Node::default(); count];
        let children = vec![[[5; 32]; 2]; count];
        let nodes = fastest(|| sha256.hash_nodes(&message, &children, &mut digests));
        let messages: Vec<&[Block]> = blocks.chunks(2).collect();
        let many = fastest(|| sha256.hash_many(&SHA256_IV, &messages, &mut digests));
        for (what, taken) in [("nodes", nodes), ("messages", many)] {
            assert!(
                taken < MAX_RATIO * one_by_one,
                "{count} {what} take {taken:?}, one after another {one_by_one:?}"
            );
        }
    }
}

macro_rules! not_slow {
    ($($test:ident: $kernel:ident,)*) => {
        $(
            #[test]
            fn $test() {
                if let Some(backend) = suite::supported($kernel::NAME, $kernel::get()) {
                    check(backend);
                }
            }
        )*
    };
}

not_slow! {
    sha_ni: ShaNi,
    sha_ni_avx: ShaNiAvx,
    sha_ni_avx512: ShaNiAvx512,
}
