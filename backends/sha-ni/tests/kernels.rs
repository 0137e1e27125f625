//! Every kernel against the `sha2` crate.
#![cfg(target_arch = "x86_64")]

use poet_backend_sha_ni::{Avx2, Avx512, ShaNi, ShaNiAvx, ShaNiAvx512};
use poet_engine::{Block, Chain, Node, SHA256_IV, Sha256, State};
use sha2::Digest;

/// A deterministic source of test data (xorshift64*).
struct Random(u64);

impl Random {
    fn byte(&mut self) -> u8 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn digests(&mut self, count: usize) -> Vec<Node> {
        (0..count).map(|_| self.bytes()).collect()
    }
}

fn chain(mut digest: Node, n: u32) -> Node {
    for _ in 0..n {
        digest = sha2::Sha256::digest(digest).into();
    }
    digest
}

/// SHA-256 of `message` by the compression function of a kernel, with the padding of FIPS 180-4,
/// section 5.1.1.
fn hash(kernel: &dyn Sha256, message: &[u8]) -> Node {
    let mut padded = message.to_vec();
    padded.push(0x80);
    while padded.len() % 64 != 56 {
        padded.push(0);
    }
    padded.extend_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    let (blocks, rest) = padded.as_chunks::<64>();
    assert!(rest.is_empty());
    let mut state = SHA256_IV;
    kernel.compress(&mut state, blocks);
    let mut digest = Node::default();
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

fn hex(digest: Node) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(kernel: &(impl Sha256 + Chain)) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);

    // FIPS 180-4 examples (NIST, "SHA256.pdf") and the empty message.
    for (message, expected) in [
        (
            &b""[..],
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            b"abc",
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        ),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ] {
        assert_eq!(hex(hash(kernel, message)), expected);
    }
    assert_eq!(
        hex(hash(kernel, &vec![b'a'; 1_000_000])),
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    );

    for length in 0..=300 {
        let message: Vec<u8> = (0..length).map(|_| random.byte()).collect();
        let expected: Node = sha2::Sha256::digest(&message).into();
        assert_eq!(hash(kernel, &message), expected, "{length} bytes");
    }

    // From any state, not only the initial one.
    for count in 0..=5 {
        let blocks: Vec<Block> = (0..count).map(|_| random.bytes()).collect();
        let start: State = std::array::from_fn(|_| u32::from_le_bytes(random.bytes()));
        let (mut state, mut expected) = (start, start);
        kernel.compress(&mut state, &blocks);
        sha2::block_api::compress256(&mut expected, &blocks);
        assert_eq!(state, expected, "{count} blocks");
    }

    for count in 0..=40 {
        let blocks: Vec<Block> = (0..count).map(|_| random.bytes()).collect();
        let mut states: Vec<State> = (0..count)
            .map(|_| std::array::from_fn(|_| u32::from_le_bytes(random.bytes())))
            .collect();
        let mut expected = states.clone();
        kernel.compress_many(&mut states, &blocks);
        for (state, block) in expected.iter_mut().zip(&blocks) {
            sha2::block_api::compress256(state, std::slice::from_ref(block));
        }
        assert_eq!(states, expected, "{count} states");
    }
    // The surplus of either slice is left alone.
    for (states, blocks) in [(40, 21), (21, 40), (3, 0), (0, 3), (5, 4), (4, 5)] {
        let start: Vec<State> = (0..states).map(|i| [i; 8]).collect();
        let blocks: Vec<Block> = (0..blocks).map(|_| random.bytes()).collect();
        let (mut many, mut expected) = (start.clone(), start);
        kernel.compress_many(&mut many, &blocks);
        for (state, block) in expected.iter_mut().zip(&blocks) {
            sha2::block_api::compress256(state, std::slice::from_ref(block));
        }
        assert_eq!(many, expected);
    }

    for n in [0, 1, 2, 3, 399] {
        for mut digest in random.digests(20).into_iter().chain([[0; 32], [0xff; 32]]) {
            let expected = chain(digest, n);
            kernel.one(&mut digest, n);
            assert_eq!(digest, expected, "n = {n}");
        }
        for count in 0..=40 {
            let mut digests = random.digests(count);
            let expected: Vec<Node> = digests.iter().map(|digest| chain(*digest, n)).collect();
            kernel.many(&mut digests, n);
            assert_eq!(digests, expected, "{count} digests, n = {n}");
        }
    }
}

macro_rules! kernels {
    ($($test:ident: $kernel:ident,)+) => {$(
        #[test]
        fn $test() {
            match $kernel::get() {
                Some(kernel) => check(kernel),
                None => {
                    let missing: Vec<_> = $kernel::missing().collect();
                    println!("{}: NOT TESTED, the CPU lacks {}", $kernel::NAME, missing.join(", "));
                }
            }
            assert_eq!($kernel::get().is_none(), $kernel::missing().next().is_some());
        }
    )+};
}

kernels! {
    sha_ni: ShaNi,
    sha_ni_avx: ShaNiAvx,
    sha_ni_avx512: ShaNiAvx512,
    avx512: Avx512,
    avx2: Avx2,
}
