//! SHA-256 with one chain or message in each lane of a vector: the code that the kernels with lanes
//! share.
//!
//! The algorithm is FIPS 180-4, section 6.2.2, with each word replaced by a vector of that word of
//! all messages. The file of a kernel defines the vector `V` of `LANES` words and the operations on
//! it.
//!
//! 1. The sixteen words of the schedule, the state and most constants stay in registers if there
//!    are 32 of them (AVX-512).
//! 2. In a chain, words 8 to 15 are constants, and so is the initial state: the compiler folds
//!    them.
//! 3. Ch, Maj and the three-way exclusive or are one instruction each with AVX-512. The bound there
//!    is the number of operations: about 1,600 for 16 hashes, two in a cycle.

macro_rules! lanes_kernel {
    ($kernel:ident, $features:literal) => {
        impl Sha256 for $kernel {
            fn compress(&self, state: &mut State, blocks: &[Block]) {
                if let Some(sha) = ShaNi::get() {
                    return sha.compress(state, blocks);
                }
                for block in blocks {
                    self.compress_many(from_mut(state), from_ref(block));
                }
            }

            fn compress_many(&self, states: &mut [State], blocks: &[Block]) {
                let pairs = states.len().min(blocks.len());
                let (states, last_states) = states[..pairs].as_chunks_mut();
                let (blocks, last_blocks) = blocks[..pairs].as_chunks();
                for (states, blocks) in states.iter_mut().zip(blocks) {
                    // SAFETY: `self` exists only if `get` has found the features of this kernel.
                    unsafe { compress(states, blocks) };
                }
                match ShaNi::get() {
                    _ if last_states.is_empty() => {}
                    Some(sha) if last_states.len() < PADDED_FROM => {
                        sha.compress_many(last_states, last_blocks);
                    }
                    _ => {
                        let mut states = [State::default(); LANES];
                        let mut blocks = [[0; 64]; LANES];
                        states[..last_states.len()].copy_from_slice(last_states);
                        blocks[..last_blocks.len()].copy_from_slice(last_blocks);
                        // SAFETY: as above.
                        unsafe { compress(&mut states, &blocks) };
                        last_states.copy_from_slice(&states[..last_states.len()]);
                    }
                }
            }
        }

        impl Chain for $kernel {
            fn one(&self, digest: &mut Node, n: u32) {
                self.many(from_mut(digest), n);
            }

            fn many(&self, digests: &mut [Node], n: u32) {
                for digests in digests.chunks_mut(LANES) {
                    match ShaNi::get() {
                        Some(sha) if digests.len() < PADDED_FROM => sha.many(digests, n),
                        _ => {
                            let mut states = [State::default(); LANES];
                            for (state, digest) in states.iter_mut().zip(digests.iter()) {
                                *state = words(digest);
                            }
                            // SAFETY: `self` exists only if `get` has found the features.
                            unsafe { chains(&mut states, n) };
                            for (digest_out, state) in digests.iter_mut().zip(states) {
                                *digest_out = digest(state);
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

        /// Word j of row i becomes word i of row j.
        ///
        /// The position of a word is the number of its row and its number in the row. A step rotates
        /// the bits of the two, taken as one number, by one; after as many steps as a row has bits
        /// the two have changed places.
        #[inline]
        #[target_feature(enable = $features)]
        fn transpose(mut rows: [V; LANES]) -> [V; LANES] {
            for _ in 0..LANES.ilog2() {
                let (low, high) = rows.split_at(LANES / 2);
                let mut next = rows;
                for i in 0..LANES / 2 {
                    [next[2 * i], next[2 * i + 1]] = interleave(low[i], high[i]);
                }
                rows = next;
            }
            rows
        }

        /// Word i of all states in vector i.
        #[inline]
        #[target_feature(enable = $features)]
        fn to_lanes(states: &[State; LANES]) -> [V; 8] {
            let mut rows = [splat(0); LANES];
            for (row, state) in rows.iter_mut().zip(states) {
                *row = load_state(state);
            }
            let mut lanes = [splat(0); 8];
            lanes.copy_from_slice(&transpose(rows)[..8]);
            lanes
        }

        /// Undoes `to_lanes`.
        #[inline]
        #[target_feature(enable = $features)]
        fn from_lanes(lanes: [V; 8], states: &mut [State; LANES]) {
            let mut rows = [splat(0); LANES];
            rows[..8].copy_from_slice(&lanes);
            for (state, row) in states.iter_mut().zip(transpose(rows)) {
                store_state(state, row);
            }
        }

        /// Word i of all blocks in vector i.
        #[inline]
        #[target_feature(enable = $features)]
        fn message(blocks: &[Block; LANES]) -> [V; 16] {
            let mut words = [splat(0); 16];
            for part in 0..16 / LANES {
                let mut rows = [splat(0); LANES];
                for (row, block) in rows.iter_mut().zip(blocks) {
                    let bytes = load(&block.as_chunks().0[part]);
                    // Words are big-endian in a message.
                    *row = ch(splat(0xff00_ff00), ror::<8, 24>(bytes), ror::<24, 8>(bytes));
                }
                words[part * LANES..][..LANES].copy_from_slice(&transpose(rows));
            }
            words
        }

        /// `n` hashes of each of the digests with these words.
        #[target_feature(enable = $features)]
        fn chains(digests: &mut [State; LANES], n: u32) {
            let mut digest = to_lanes(digests);
            for _ in 0..n {
                let [a, b, c, d, e, f, g, h] = digest;
                let [i, j, k, l, m, n, o, p] = PADDING.map(|word| splat(word));
                let block = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
                digest = rounds!(IV.map(|word| splat(word)), block);
            }
            from_lanes(digest, digests);
        }

        /// Compresses each block into the state with its number.
        #[target_feature(enable = $features)]
        fn compress(states: &mut [State; LANES], blocks: &[Block; LANES]) {
            let state = rounds!(to_lanes(states), message(blocks));
            from_lanes(state, states);
        }
    };
}
