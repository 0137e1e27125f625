//! SHA-256 on the SHA extensions: the code that their kernels share.
//!
//! It is a macro, because the same source is compiled once for each instruction set and functions
//! with `#[target_feature]` are not inlined into those with other features.
//!
//! # The algorithm
//!
//! `SHA256RNDS2` makes two rounds. Its operands are two halves of the state and, in xmm0, two words
//! W + K. The half (A, B, E, F) after two rounds is its result, and (C, D, G, H) after two rounds is
//! the old (A, B, E, F). So two registers take turns, 32 times a block:
//!
//! ```text
//! e = CDGH; o = ABEF
//! for t in 0, 4, 8, ..., 60:
//!     e = RNDS2(e, o, W[t]   + K[t],   W[t+1] + K[t+1])
//!     o = RNDS2(o, e, W[t+2] + K[t+2], W[t+3] + K[t+3])
//! ```
//!
//! The message schedule gives four words at a time: with A = `MSG1(W[t-16..], W[t-12..])`, which is
//! `W[t-16] + sigma0(W[t-15])` in each word, they are `MSG2(A + W[t-7..], W[t-4..])`.
//!
//! # One chain: 31 x 4 + 7 = 131 cycles a hash
//!
//! The latency of RNDS2 is 4 cycles into the state operands of the next RNDS2 and 6 into everything
//! else, xmm0 among it (Golden Cove). Rounds cannot overlap, so 31 steps of 4 are the least; what
//! remains is the way from the last RNDS2 of a hash to the first of the next, whose words 0 and 1
//! are the A and B of the former. No way is shorter than a single operation of one cycle:
//!
//! ```text
//!   RNDS2 -4-> RNDS2 -4-> ... -4-> RNDS2 -4-> RNDS2 -6-> PSHUFD -1-> RNDS2 of the next hash
//!     ^          ^                   ^          ^
//!   W0 W1      W2 W3              W60 W61    W62 W63
//!              \____ off the path: ready with cycles to spare
//! ```
//!
//! The rest of the code is there to keep everything else off this path:
//!
//! 1. *No addition in the hand-over.* The digest is the raw state plus the IV. For words 0 and 1
//!    that sum and the round constants are moved into the initial state, which is constant
//!    ([`INJECTED`](crate::constants::INJECTED)), so that the raw state only has to be shuffled.
//!    Rounds 2 to 7 add IV + K to a shuffle of the raw state in one step. Without: 132 cycles.
//! 2. *Constant words.* Words 8 to 15 are padding. Their rounds take constants, words 16 to 19 need
//!    nothing but MSG1 and MSG2, and for words 24 to 27 all of MSG1 is a constant.
//! 3. *Late addition.* For the fourth of the new words, `W[t-7..]` reaches into the four words just
//!    before. This one is added after MSG2 instead of before it, which is the same, since MSG2 makes
//!    no other word of the fourth. It takes the shift out of the chain from four words to the next:
//!    MSG2 and one addition are 7 cycles and gain on the 8 of four rounds. With 8 against 8, the two
//!    fall into step with the port always taken at the worst moment: 140 cycles.
//! 4. *Lazy order.* RNDS2, MSG1 and MSG2 share a port, and of those that are ready the oldest goes
//!    first. So each step of the schedule stands just before the rounds that use it, and the
//!    processor runs it ahead by itself; RNDS2 is then older than all of the schedule that is not
//!    needed yet. The compiler leaves this order as it is written.
//!
//! # Several chains: 98 cycles a hash
//!
//! Chains take turns, four rounds at a time, and use the port while the others wait. 32 RNDS2 of 3
//! cycles each are the bound, 96 cycles a hash. Two or three chains in lock step come to 104 and
//! 102. Four, each a quarter of a hash ahead of the one before, come to 98, since then the first
//! sixteen rounds of one, which need no schedule, make room for the schedule of the others; in lock
//! step they would take 101.
//!
//! # A trap
//!
//! The SHA instructions have no AVX encoding. While the upper half of any vector register is in
//! use, as 256-bit instructions leave it, each of them costs hundreds of cycles, 18,000 to 40,000 a
//! hash (Golden Cove). Where the compiler may use AVX, it likes to shuffle two neighbours of four
//! words in one register of eight, and then copies that about in the middle of the rounds. So
//!
//! - the loops are functions that are never inlined, as the compiler cleans up (VZEROUPPER) before
//!   a call;
//! - they load and store by `asm!`, which shows the compiler no neighbours.
//!
//! That holds for all kernels, because a program may be built for a CPU with AVX as a whole.

/// Implements the traits by the functions of `sha_functions`.
macro_rules! sha_traits {
    ($kernel:ident) => {
        impl Sha256 for $kernel {
            fn compress(&self, state: &mut State, blocks: &[Block]) {
                // SAFETY: `self` exists only if `get` has found the features of this kernel.
                unsafe { compress(from_mut(state), [blocks]) };
            }

            fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
                let count = messages.len().min(digests.len());
                side_by_side!(messages[..count], digests[..count], |messages, digests| {
                    self.hash(start, messages, digests);
                });
            }

            fn hash_nodes(
                &self,
                message: &NodeMessage,
                children: &[[Node; 2]],
                parents: &mut [Node],
            ) {
                match HalfMessage::of(message) {
                    Some(half) => self.hash_halves(&half, children, parents),
                    None => message.hash_many(self, children, parents),
                }
            }
        }

        impl $kernel {
            /// Hashes messages together up to the end of the shortest, and then the rest of each.
            fn hash<const N: usize>(
                &self,
                start: &State,
                messages: &[&[Block]; N],
                digests: &mut [Node; N],
            ) {
                let shortest = messages.iter().map(|message| message.len()).min();
                let split = messages.map(|message| message.split_at(shortest.unwrap_or_default()));
                let mut states = [*start; N];
                // SAFETY: as in `compress`.
                unsafe { compress(&mut states, split.map(|(together, _)| together)) };
                for i in 0..N {
                    let (_, alone) = split[i];
                    if !alone.is_empty() {
                        self.compress(&mut states[i], alone);
                    }
                    digests[i] = digest(states[i]);
                }
            }

            /// [`Sha256::hash_nodes`], if the children begin in the middle of a block.
            pub(crate) fn hash_halves(
                &self,
                half: &HalfMessage,
                children: &[[Node; 2]],
                parents: &mut [Node],
            ) {
                let count = children.len().min(parents.len());
                side_by_side!(children[..count], parents[..count], |children, parents| {
                    let mut states = children.map(|_| half.start);
                    // SAFETY: as in `compress`.
                    unsafe { nodes(half, children, &mut states) };
                    *parents = states.map(digest);
                });
            }
        }

        impl Chain for $kernel {
            fn one(&self, digest: &mut Node, n: u32) {
                // SAFETY: `self` exists only if `get` has found the features of this kernel.
                unsafe { chains(from_mut(digest), n) };
            }

            fn many(&self, digests: &mut [Node], n: u32) {
                let (fours, rest) = digests.as_chunks_mut::<4>();
                for four in fours {
                    // SAFETY: as in `one`.
                    unsafe { chains(four, n) };
                }
                let (threes, rest) = rest.as_chunks_mut::<3>();
                for three in threes {
                    // SAFETY: as in `one`.
                    unsafe { chains(three, n) };
                }
                let (twos, rest) = rest.as_chunks_mut::<2>();
                for two in twos {
                    // SAFETY: as in `one`.
                    unsafe { chains(two, n) };
                }
                for digest in rest {
                    self.one(digest, n);
                }
            }
        }
    };
}

/// Hashes with four, three, two or one at a time. The slices have the same length.
macro_rules! side_by_side {
    ($inputs:expr, $outputs:expr, |$input:ident, $output:ident| $hash:block) => {{
        let (inputs, outputs) = (&$inputs, &mut $outputs);
        side_by_side!(4 inputs rest, outputs rest_out, |$input, $output| $hash);
        side_by_side!(3 rest last, rest_out last_out, |$input, $output| $hash);
        side_by_side!(2 last one, last_out one_out, |$input, $output| $hash);
        for ($input, $output) in one.iter().zip(one_out) {
            let ($input, $output) = (from_ref($input), from_mut($output));
            $hash
        }
    }};
    (
        $n:literal $inputs:ident $rest:ident, $outputs:ident $rest_out:ident,
        |$input:ident, $output:ident| $hash:block
    ) => {
        let (groups, $rest) = $inputs.as_chunks::<$n>();
        let (out, $rest_out) = $outputs.as_chunks_mut::<$n>();
        for ($input, $output) in groups.iter().zip(out) {
            $hash
        }
    };
}

/// The functions `chains` and `compress`, compiled for `$features`, with `$msg1` as MSG1.
macro_rules! sha_functions {
    ($features:literal, $msg1:path) => {
        #[inline]
        #[target_feature(enable = $features)]
        fn vector(words: [u32; 4]) -> __m128i {
            let [a, b, c, d] = words.map(u32::cast_signed);
            _mm_setr_epi32(a, b, c, d)
        }

        /// Loads 16 bytes in a way that the compiler cannot merge with adjacent loads (see the trap
        /// in the module doc).
        #[inline]
        #[target_feature(enable = $features)]
        fn load<T>(words: &[T; 4]) -> __m128i {
            const { assert!(size_of::<T>() == 4) };
            let vector;
            // SAFETY: the instruction reads the 16 bytes that the reference is valid for, requires
            // no alignment, and changes only the register.
            unsafe {
                asm!(
                    "movdqu {vector}, xmmword ptr [{words}]",
                    vector = lateout(xmm_reg) vector,
                    words = in(reg) words,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            vector
        }

        /// Stores 16 bytes in a way that the compiler cannot merge with adjacent stores.
        #[inline]
        #[target_feature(enable = $features)]
        fn store(vector: __m128i, words: &mut [u32; 4]) {
            // SAFETY: the instruction writes the 16 bytes that the reference is valid for, requires
            // no alignment, and changes nothing else.
            unsafe {
                asm!(
                    "movdqu xmmword ptr [{words}], {vector}",
                    vector = in(xmm_reg) vector,
                    words = in(reg) words,
                    options(nostack, preserves_flags),
                );
            }
        }

        /// One of the messages hashed at once.
        #[derive(Clone, Copy)]
        struct Lane {
            /// The halves of the state that take turns, CDGH and ABEF at the start.
            e: __m128i,
            o: __m128i,
            /// The last 16 words of the schedule, those from word t on in place t / 4 % 4.
            w: [__m128i; 4],
            /// The state before the block; in a chain, the raw state left by the previous hash.
            before: [__m128i; 2],
        }

        impl Lane {
            #[inline]
            #[target_feature(enable = $features)]
            fn new(state: &State) -> Self {
                let halves = state.as_chunks().0;
                let (abcd, efgh) = (load(&halves[0]), load(&halves[1]));
                let e = _mm_shuffle_epi32::<0x1b>(_mm_unpackhi_epi64(abcd, efgh));
                let o = _mm_shuffle_epi32::<0x1b>(_mm_unpacklo_epi64(abcd, efgh));
                Self {
                    e,
                    o,
                    w: [_mm_setzero_si128(); 4],
                    before: [e, o],
                }
            }

            /// Rounds `T` to `T + 3`, with these words.
            #[inline]
            #[target_feature(enable = $features)]
            fn rounds<const T: usize>(&mut self, words: __m128i) {
                self.w[T / 4 % 4] = words;
                let wk = _mm_add_epi32(words, vector(k(T)));
                self.two_rounds_e(wk);
                self.two_rounds_o(_mm_shuffle_epi32::<0x0e>(wk));
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn two_rounds_e(&mut self, wk: __m128i) {
                self.e = _mm_sha256rnds2_epu32(self.e, self.o, wk);
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn two_rounds_o(&mut self, wk: __m128i) {
                self.o = _mm_sha256rnds2_epu32(self.o, self.e, wk);
            }

            /// Words `T` to `T + 3` by the schedule.
            #[inline]
            #[target_feature(enable = $features)]
            fn schedule<const T: usize>(&self) -> __m128i {
                self.add_sigma1::<T>($msg1(self.w[T / 4 % 4], self.w[(T / 4 + 1) % 4]))
            }

            /// The second half of the schedule, from the result of MSG1, with the late addition.
            #[inline]
            #[target_feature(enable = $features)]
            fn add_sigma1<const T: usize>(&self, a: __m128i) -> __m128i {
                let (w8, w4) = (self.w[(T / 4 + 2) % 4], self.w[(T / 4 + 3) % 4]);
                let early = _mm_add_epi32(a, _mm_srli_si128::<4>(w8));
                let late = _mm_slli_si128::<12>(w4);
                _mm_add_epi32(_mm_sha256msg2_epu32(early, w4), late)
            }

            /// Rounds `T` to `T + 3` of a hash in a chain; those from 0 on take the state left by
            /// the previous hash, and start the next.
            #[inline]
            #[target_feature(enable = $features)]
            fn chain<const T: usize>(&mut self) {
                match T {
                    0 => {
                        self.before = [self.e, self.o];
                        // A, B, E, F and C, D, G, H, from the lowest word on.
                        let abef = _mm_shuffle_epi32::<0x1b>(self.o);
                        let cdgh = _mm_shuffle_epi32::<0x1b>(self.e);
                        let [a, b, c, d, e, f, g, h] = INJECTED;
                        self.e = vector([h, g, d, c]);
                        self.o = vector([f, e, b, a]);
                        self.two_rounds_e(abef);
                        self.two_rounds_o(_mm_add_epi32(cdgh, vector(iv_k(2))));
                        self.w = [
                            _mm_add_epi32(_mm_unpacklo_epi64(abef, cdgh), vector(iv(0))),
                            _mm_add_epi32(_mm_unpackhi_epi64(abef, cdgh), vector(iv(4))),
                            vector(padding(8)),
                            vector(padding(12)),
                        ];
                    }
                    4 => {
                        let [cdgh, abef] = self.before;
                        let (ef, gh) = (
                            _mm_shuffle_epi32::<0x01>(abef),
                            _mm_shuffle_epi32::<0x01>(cdgh),
                        );
                        self.two_rounds_e(_mm_add_epi32(ef, vector(iv_k(4))));
                        self.two_rounds_o(_mm_add_epi32(gh, vector(iv_k(6))));
                    }
                    8 => {
                        self.two_rounds_e(vector(padding_k(8)));
                        self.two_rounds_o(vector(padding_k(10)));
                    }
                    12 => {
                        self.two_rounds_e(vector(padding_k(12)));
                        self.two_rounds_o(vector(padding_k(14)));
                    }
                    // Words 9 to 12 are 0: nothing to add before MSG2 nor after.
                    16 => {
                        let a = $msg1(self.w[0], self.w[1]);
                        self.rounds::<T>(_mm_sha256msg2_epu32(a, self.w[3]));
                    }
                    // MSG1 of words 8 to 15 is words 8 to 11, as sigma0 of 0 is 0.
                    24 => self.rounds::<T>(self.add_sigma1::<T>(self.w[2])),
                    _ => self.rounds::<T>(self.schedule::<T>()),
                }
            }
        }

        /// The reverse of `Lane::new`.
        #[inline]
        #[target_feature(enable = $features)]
        fn leave([e, o]: [__m128i; 2], state: &mut State) {
            let cdgh = _mm_shuffle_epi32::<0x1b>(e);
            let abef = _mm_shuffle_epi32::<0x1b>(o);
            let halves = state.as_chunks_mut().0;
            store(_mm_unpacklo_epi64(abef, cdgh), &mut halves[0]);
            store(_mm_unpackhi_epi64(abef, cdgh), &mut halves[1]);
        }

        /// `n` hashes of each of `N` digests.
        #[target_feature(enable = $features)]
        fn chains<const N: usize>(digests: &mut [Node; N], n: u32) {
            // The raw state before the addition of the IV is what goes from hash to hash.
            let mut raw = digests.map(|digest| {
                let mut raw = words(&digest);
                for (word, iv) in raw.iter_mut().zip(IV) {
                    *word = word.wrapping_sub(iv);
                }
                raw
            });
            // Known when this is compiled, as the number of chains is.
            match raw.as_mut_slice().as_chunks_mut() {
                ([four], []) => raw_four(four, n),
                _ => raw_chains(&mut raw, n),
            }
            for (digest_out, mut raw) in digests.iter_mut().zip(raw) {
                for (word, iv) in raw.iter_mut().zip(IV) {
                    *word = word.wrapping_add(iv);
                }
                *digest_out = digest(raw);
            }
        }

        /// `n` hashes of few chains in lock step, from raw state to raw state.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn raw_chains<const N: usize>(raw: &mut [State; N], n: u32) {
            let mut lanes = raw.each_ref().map(|raw| Lane::new(raw));
            for _ in 0..n {
                macro_rules! rounds {
                    ($t:literal) => {
                        for lane in &mut lanes {
                            lane.chain::<$t>();
                        }
                    };
                }
                rounds!(0);
                rounds!(4);
                rounds!(8);
                rounds!(12);
                rounds!(16);
                rounds!(20);
                rounds!(24);
                rounds!(28);
                rounds!(32);
                rounds!(36);
                rounds!(40);
                rounds!(44);
                rounds!(48);
                rounds!(52);
                rounds!(56);
                rounds!(60);
            }
            for (raw, lane) in raw.iter_mut().zip(lanes) {
                leave([lane.e, lane.o], raw);
            }
        }

        /// `n` hashes of four chains, each a quarter of a hash ahead of the previous one, from raw
        /// state to raw state.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn raw_four(raw: &mut [State; 4], n: u32) {
            let [mut a, mut b, mut c, mut d] = raw.each_ref().map(|raw| Lane::new(raw));
            for lane in [&mut b, &mut c, &mut d] {
                lane.chain::<0>();
                lane.chain::<4>();
                lane.chain::<8>();
                lane.chain::<12>();
            }
            for lane in [&mut c, &mut d] {
                lane.chain::<16>();
                lane.chain::<20>();
                lane.chain::<24>();
                lane.chain::<28>();
            }
            d.chain::<32>();
            d.chain::<36>();
            d.chain::<40>();
            d.chain::<44>();
            macro_rules! rounds {
                ($a:literal $b:literal $c:literal $d:literal) => {
                    a.chain::<$a>();
                    b.chain::<$b>();
                    c.chain::<$c>();
                    d.chain::<$d>();
                };
            }
            for _ in 0..n {
                rounds!(0 16 32 48);
                rounds!(4 20 36 52);
                rounds!(8 24 40 56);
                rounds!(12 28 44 60);
                rounds!(16 32 48 0);
                rounds!(20 36 52 4);
                rounds!(24 40 56 8);
                rounds!(28 44 60 12);
                rounds!(32 48 0 16);
                rounds!(36 52 4 20);
                rounds!(40 56 8 24);
                rounds!(44 60 12 28);
                rounds!(48 0 16 32);
                rounds!(52 4 20 36);
                rounds!(56 8 24 40);
                rounds!(60 12 28 44);
            }
            // The last three are already in the hash after the last.
            leave([a.e, a.o], &mut raw[0]);
            leave(b.before, &mut raw[1]);
            leave(c.before, &mut raw[2]);
            leave(d.before, &mut raw[3]);
        }

        /// Compresses the blocks of each message, in order, into the state with its number. The
        /// messages have the same length.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn compress<const N: usize>(states: &mut [State; N], messages: [&[Block]; N]) {
            let mut lanes = states.each_ref().map(|state| Lane::new(state));
            let blocks = messages.iter().map(|message| message.len()).min();
            for i in 0..blocks.unwrap_or_default() {
                for lane in &mut lanes {
                    lane.before = [lane.e, lane.o];
                }
                macro_rules! rounds {
                    ($t:literal) => {
                        for (lane, message) in lanes.iter_mut().zip(messages) {
                            lane.rounds::<$t>(from_message(&message[i], $t / 4));
                        }
                    };
                }
                rounds!(0);
                rounds!(4);
                rounds!(8);
                rounds!(12);
                rounds_from_16!(lanes);
            }
            for (state, lane) in states.iter_mut().zip(lanes) {
                leave([lane.e, lane.o], state);
            }
        }

        /// The parents of these children, whose messages `half` begins and ends. Nothing but the
        /// loop is in here (see the trap in the module doc): the caller makes room for `states`.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn nodes<const N: usize>(
            half: &HalfMessage,
            children: &[[Node; 2]; N],
            states: &mut [State; N],
        ) {
            let (statement, padding) = (half.statement.as_chunks().0, half.padding.as_chunks().0);
            let mut lane = Lane::new(&half.begun);
            lane.before = Lane::new(&half.start).before;
            lane.w[0] = load(&statement[0]);
            lane.w[1] = load(&statement[1]);
            let mut lanes = [lane; N];
            macro_rules! rounds {
                ($t:literal child $child:literal) => {
                    for (lane, children) in lanes.iter_mut().zip(children) {
                        lane.rounds::<$t>(from_message(&children[$child], $t / 4 % 2));
                    }
                };
                ($t:literal padding) => {
                    for lane in &mut lanes {
                        lane.rounds::<$t>(load(&padding[$t / 4 % 2]));
                    }
                };
            }
            rounds!(8 child 0);
            rounds!(12 child 0);
            rounds_from_16!(lanes);
            for lane in &mut lanes {
                lane.before = [lane.e, lane.o];
            }
            rounds!(0 child 1);
            rounds!(4 child 1);
            rounds!(8 padding);
            rounds!(12 padding);
            rounds_from_16!(lanes);

            for (state, lane) in states.iter_mut().zip(lanes) {
                leave([lane.e, lane.o], state);
            }
        }

        /// Four words of a message, in which they are big-endian.
        #[inline]
        #[target_feature(enable = $features)]
        fn from_message(bytes: &[u8], four: usize) -> __m128i {
            let words: &[[u8; 4]] = bytes.as_chunks().0;
            let swap = vector([0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f]);
            _mm_shuffle_epi8(load(&words.as_chunks().0[four]), swap)
        }
    };
}

/// Rounds 16 to 63 and the feed-forward of all lanes.
macro_rules! rounds_from_16 {
    ($lanes:ident) => {
        rounds_from_16!($lanes 16 20 24 28 32 36 40 44 48 52 56 60);
        for lane in &mut $lanes {
            let [e, o] = lane.before;
            lane.e = _mm_add_epi32(lane.e, e);
            lane.o = _mm_add_epi32(lane.o, o);
        }
    };
    ($lanes:ident $($t:literal)*) => {
        $(
            for lane in &mut $lanes {
                lane.rounds::<$t>(lane.schedule::<$t>());
            }
        )*
    };
}
