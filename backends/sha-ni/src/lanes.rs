//! SHA-256 with one chain or message in each lane of a vector: the code that the kernels with lanes
//! share.
//!
//! The file of a kernel defines its vector `V` of [`LANES`] words and the operations on it. Nothing
//! here depends on the order of the lanes, and there are no branches: the algorithm is FIPS 180-4,
//! section 6.2.2, with each word replaced by a vector of words.
//!
//! 1. The sixteen words of the schedule, the state and most constants stay in registers if there
//!    are 32 of them (AVX-512).
//! 2. In a chain, words 8 to 15 are constants, and so is the initial state: the compiler folds
//!    them.
//! 3. Ch, Maj and the three-way exclusive or are one instruction each with AVX-512. The bound there
//!    is the number of operations: about 1,600 for 16 hashes, two in a cycle.

macro_rules! lanes_kernel {
    ($kernel:ident, $features:literal) => {
        impl poet_engine::Sha256 for $kernel {
            fn compress(&self, state: &mut State, blocks: &[Block]) {
                if let Some(sha) = $crate::ShaNi::get() {
                    return sha.compress(state, blocks);
                }
                for block in blocks {
                    self.compress_many(
                        core::slice::from_mut(state),
                        core::slice::from_ref(block),
                    );
                }
            }

            fn compress_many(&self, states: &mut [State], blocks: &[Block]) {
                let pairs = states.chunks_mut(LANES).zip(blocks.chunks(LANES));
                for (states, blocks) in pairs {
                    let few = states.len().min(blocks.len()) < PADDED_FROM;
                    match $crate::ShaNi::get() {
                        Some(sha) if few => sha.compress_many(states, blocks),
                        _ => {
                            let mut lanes = [[0; LANES]; 8];
                            let mut message = [[0; LANES]; 16];
                            for (i, (state, block)) in states.iter().zip(blocks).enumerate() {
                                for (lane, word) in lanes.iter_mut().zip(state) {
                                    lane[i] = *word;
                                }
                                for (lane, bytes) in message.iter_mut().zip(block.as_chunks().0) {
                                    lane[i] = u32::from_be_bytes(*bytes);
                                }
                            }
                            // SAFETY: `self` exists only if `get` has found the features.
                            unsafe { compress(&mut lanes, &message) };
                            for (i, (state, _)) in states.iter_mut().zip(blocks).enumerate() {
                                *state = lanes.map(|lane| lane[i]);
                            }
                        }
                    }
                }
            }
        }

        impl poet_engine::Chain for $kernel {
            fn one(&self, digest: &mut Node, n: u32) {
                self.many(core::slice::from_mut(digest), n);
            }

            fn many(&self, digests: &mut [Node], n: u32) {
                for digests in digests.chunks_mut(LANES) {
                    match $crate::ShaNi::get() {
                        Some(sha) if digests.len() < PADDED_FROM => sha.many(digests, n),
                        _ => {
                            let mut lanes = [[0; LANES]; 8];
                            for (i, digest) in digests.iter().enumerate() {
                                for (lane, word) in lanes.iter_mut().zip(words(digest)) {
                                    lane[i] = word;
                                }
                            }
                            // SAFETY: `self` exists only if `get` has found the features.
                            unsafe { chains(&mut lanes, n) };
                            for (i, digest_out) in digests.iter_mut().enumerate() {
                                *digest_out = digest(lanes.map(|lane| lane[i]));
                            }
                        }
                    }
                }
            }
        }

        /// The compression function. A macro and not a function, so that the compiler sees which
        /// words are constants.
        macro_rules! rounds {
            ($start:expr, $block:expr) => {{
            let start: [V; 8] = $start;
            // The last 16 words of the schedule.
            let mut w: [V; 16] = $block;
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = start;
            macro_rules! round {
                ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident $t:expr) => {
                    if $t >= 16 {
                        let w15 = w[($t + 1) % 16];
                        let w2 = w[($t + 14) % 16];
                        let sigma0 = xor(ror::<7, 25>(w15), ror::<18, 14>(w15), shr::<3>(w15));
                        let sigma1 = xor(ror::<17, 15>(w2), ror::<19, 13>(w2), shr::<10>(w2));
                        let w7 = w[($t + 9) % 16];
                        w[$t % 16] = add(add(w[$t % 16], sigma0), add(w7, sigma1));
                    }
                    let sum1 = xor(ror::<6, 26>($e), ror::<11, 21>($e), ror::<25, 7>($e));
                    let wk = add(w[$t % 16], splat(K[$t]));
                    let t1 = add(add(add($h, wk), ch($e, $f, $g)), sum1);
                    let sum0 = xor(ror::<2, 30>($a), ror::<13, 19>($a), ror::<22, 10>($a));
                    $d = add($d, t1);
                    $h = add(add(t1, maj($a, $b, $c)), sum0);
                };
            }
            // The names move on instead of the values; after eight rounds they are back.
            macro_rules! eight_rounds {
                ($t:expr) => {
                    round!(a b c d e f g h $t);
                    round!(h a b c d e f g $t + 1);
                    round!(g h a b c d e f $t + 2);
                    round!(f g h a b c d e $t + 3);
                    round!(e f g h a b c d $t + 4);
                    round!(d e f g h a b c $t + 5);
                    round!(c d e f g h a b $t + 6);
                    round!(b c d e f g h a $t + 7);
                };
            }
            eight_rounds!(0);
            eight_rounds!(8);
            eight_rounds!(16);
            eight_rounds!(24);
            eight_rounds!(32);
            eight_rounds!(40);
            eight_rounds!(48);
            eight_rounds!(56);
            let mut state = [a, b, c, d, e, f, g, h];
            for (word, start) in state.iter_mut().zip(start) {
                *word = add(*word, start);
            }
            state
        }};
        }

        /// `n` hashes of the digests whose words are `lanes`.
        #[target_feature(enable = $features)]
        fn chains(lanes: &mut [[u32; LANES]; 8], n: u32) {
            let mut state = lanes.map(|lane| load(&lane));
            for _ in 0..n {
                let [a, b, c, d, e, f, g, h] = state;
                let [i, j, k, l, m, n, o, p] = PADDING.map(|word| splat(word));
                let block = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
                state = rounds!(IV.map(|word| splat(word)), block);
            }
            for (lane, word) in lanes.iter_mut().zip(state) {
                *lane = store(word);
            }
        }

        /// Compresses the blocks whose words are `message` into the states.
        #[target_feature(enable = $features)]
        fn compress(lanes: &mut [[u32; LANES]; 8], message: &[[u32; LANES]; 16]) {
            let state = lanes.map(|lane| load(&lane));
            let mut block = [splat(0); 16];
            for (word, lane) in block.iter_mut().zip(message) {
                *word = load(lane);
            }
            for (lane, word) in lanes.iter_mut().zip(rounds!(state, block)) {
                *lane = store(word);
            }
        }
    };
}
