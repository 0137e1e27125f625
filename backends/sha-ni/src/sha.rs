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
//! The message schedule gives four words at a time: with A = MSG1(W[t-16..], W[t-12..]), which is
//! W[t-16] + sigma0(W[t-15]) in each word, W = MSG2(A + W[t-7..], W[t-4..]).
//!
//! # One chain: 31 x 4 + 7 = 131 cycles a hash
//!
//! The latency of RNDS2 is 4 cycles into the state operands of the next RNDS2 and 6 into everything
//! else, xmm0 among it (Golden Cove). Rounds cannot overlap, so 31 steps of 4 are the least; what
//! remains is the way from the last RNDS2 of a hash to the first of the next, whose W[0] and W[1]
//! are the A and B of the former. No way is shorter than a single operation of one cycle:
//!
//! ```text
//!   RNDS2 -4-> RNDS2 -4-> ... -4-> RNDS2 -6-> PSHUFD -1-> RNDS2 (of the next hash)
//!     ^          ^                   ^
//!   W0 W1      W2 W3               W62 W63    off the path: W2.. of the next hash come from
//!                                             the same and the previous RNDS2 with cycles to spare
//! ```
//!
//! The rest of the code is there to keep everything else off this path:
//!
//! 1. *No addition in the hand-over.* The digest is the raw state plus the IV. For W[0] and W[1]
//!    that sum and their round constants are moved into the initial state, which is constant
//!    ([`INJECTED`](crate::constants::INJECTED)), so that the raw state only has to be shuffled.
//!    Rounds 2 to 7 add IV + K to a shuffle of the raw state in one step.
//! 2. *Constant words.* W[8] to W[15] are padding. Their rounds take constants, W[16..20] needs
//!    nothing but MSG1 and MSG2, and in W[24..28] all of MSG1 is a constant.
//! 3. *Late addition.* In the fourth word of a step W[t-7] is W[t-4+1], from the step just before.
//!    It is added after MSG2 instead of before, which is the same since MSG2 puts its result into no
//!    other word. That takes the shift of W[t-4..] out of the chain from one step to the next: MSG2
//!    and one addition are 7 cycles and gain on the 8 of four rounds. With a chain of 8, the two
//!    lock step with the port always taken in the worst moment; 140 cycles a hash came of it.
//! 4. *Lazy order.* RNDS2, MSG1 and MSG2 share a port, and of those that are ready the oldest goes
//!    first. So each step of the schedule stands just before the rounds that use it: RNDS2 is then
//!    always older than the schedule that runs ahead of it. Computing the schedule earlier in
//!    program order costs up to 20 cycles.
//!
//! # Several chains
//!
//! With `N` chains the same steps alternate between them, which fills the port: 32 RNDS2 of 3 cycles
//! each are the bound, 96 cycles a hash.
//!
//! # A trap
//!
//! The SHA instructions have no AVX encoding. If the upper half of any vector register is in use
//! when one runs, as 256-bit instructions leave it, each costs hundreds of cycles (Golden Cove). So
//! the loops are functions of their own that are never inlined: the compiler cleans up (VZEROUPPER)
//! before a call, and what surrounds them cannot bring 256-bit instructions in.

macro_rules! sha_kernel {
    ($kernel:ident, $features:literal, $msg1:path) => {
        impl poet_engine::Sha256 for $kernel {
            fn compress(&self, state: &mut State, blocks: &[Block]) {
                // SAFETY: `self` exists only if `get` has found the features of this kernel.
                unsafe { compress(core::array::from_mut(state), blocks.as_chunks().0) };
            }

            fn compress_many(&self, states: &mut [State], blocks: &[Block]) {
                let pairs = states.len().min(blocks.len());
                let (states, last_states) = states[..pairs].as_chunks_mut::<INTERLEAVED>();
                let (blocks, last_blocks) = blocks[..pairs].as_chunks();
                for (states, blocks) in states.iter_mut().zip(blocks) {
                    // SAFETY: as in `compress`.
                    unsafe { compress(states, core::slice::from_ref(blocks)) };
                }
                for (state, block) in last_states.iter_mut().zip(last_blocks) {
                    self.compress(state, core::slice::from_ref(block));
                }
            }
        }

        impl poet_engine::Chain for $kernel {
            fn one(&self, digest: &mut Node, n: u32) {
                // SAFETY: `self` exists only if `get` has found the features of this kernel.
                unsafe { chains(core::array::from_mut(digest), n) };
            }

            fn many(&self, digests: &mut [Node], n: u32) {
                let (chunks, rest) = digests.as_chunks_mut::<INTERLEAVED>();
                for chunk in chunks {
                    // SAFETY: as in `one`.
                    unsafe { chains(chunk, n) };
                }
                let (pairs, rest) = rest.as_chunks_mut::<2>();
                for pair in pairs {
                    // SAFETY: as in `one`.
                    unsafe { chains(pair, n) };
                }
                for digest in rest {
                    self.one(digest, n);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn vector(words: [u32; 4]) -> __m128i {
            let [a, b, c, d] = words.map(u32::cast_signed);
            _mm_setr_epi32(a, b, c, d)
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn load(bytes: &[u8; 16]) -> __m128i {
            // SAFETY: the reference is valid for 16 bytes, and nothing is asked of their alignment.
            unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn store(vector: __m128i) -> [u32; 4] {
            let mut words = [0; 4];
            // SAFETY: `words` is valid for 16 bytes, and nothing is asked of its alignment.
            unsafe { _mm_storeu_si128(words.as_mut_ptr().cast(), vector) };
            words
        }

        /// The state as RNDS2 has it: (C, D, G, H) and (A, B, E, F), the first word on top.
        #[inline]
        #[target_feature(enable = $features)]
        fn enter([a, b, c, d, e, f, g, h]: State) -> [__m128i; 2] {
            let (abcd, efgh) = (vector([a, b, c, d]), vector([e, f, g, h]));
            [
                _mm_shuffle_epi32::<0x1b>(_mm_unpackhi_epi64(abcd, efgh)),
                _mm_shuffle_epi32::<0x1b>(_mm_unpacklo_epi64(abcd, efgh)),
            ]
        }

        /// Undoes `enter`.
        #[inline]
        #[target_feature(enable = $features)]
        fn leave([cdgh, abef]: [__m128i; 2]) -> State {
            let cdgh = _mm_shuffle_epi32::<0x1b>(cdgh);
            let abef = _mm_shuffle_epi32::<0x1b>(abef);
            let [a, b, c, d] = store(_mm_unpacklo_epi64(abef, cdgh));
            let [e, f, g, h] = store(_mm_unpackhi_epi64(abef, cdgh));
            [a, b, c, d, e, f, g, h]
        }

        /// W[t..t + 4] from `a` = MSG1(W[t - 16..], W[t - 12..]), `w8` = W[t - 8..] and
        /// `w4` = W[t - 4..], with the late addition.
        #[inline]
        #[target_feature(enable = $features)]
        fn schedule(a: __m128i, w8: __m128i, w4: __m128i) -> __m128i {
            let early = _mm_add_epi32(a, _mm_srli_si128::<4>(w8));
            let late = _mm_slli_si128::<12>(w4);
            _mm_add_epi32(_mm_sha256msg2_epu32(early, w4), late)
        }

        /// Four rounds, from `$t` on, with the new words of chain `$i` from an expression or by the
        /// schedule. `$w` keeps the last 16 words of each chain.
        macro_rules! rounds {
            ($t:literal, $w:ident, $e:ident, $o:ident, |$i:ident| $words:expr) => {
                let mut wk = $w[0];
                for $i in 0..N {
                    $w[$t / 4 % 4][$i] = $words;
                    wk[$i] = _mm_add_epi32($w[$t / 4 % 4][$i], vector(k($t)));
                    $e[$i] = _mm_sha256rnds2_epu32($e[$i], $o[$i], wk[$i]);
                }
                for i in 0..N {
                    $o[i] = _mm_sha256rnds2_epu32($o[i], $e[i], _mm_shuffle_epi32::<0x0e>(wk[i]));
                }
            };
            ($t:literal, $w:ident, $e:ident, $o:ident) => {
                rounds!($t, $w, $e, $o, |i| schedule(
                    $msg1($w[$t / 4 % 4][i], $w[($t / 4 + 1) % 4][i]),
                    $w[($t / 4 + 2) % 4][i],
                    $w[($t / 4 + 3) % 4][i]
                ));
            };
        }

        /// Two rounds of each chain: `$to` = RNDS2(`$to`, `$from`, words of chain `$i`).
        macro_rules! two_rounds {
            ($to:ident, $from:ident, |$i:ident| $wk:expr) => {
                for $i in 0..N {
                    $to[$i] = _mm_sha256rnds2_epu32($to[$i], $from[$i], $wk);
                }
            };
        }

        /// `n` hashes of each of `N` chains.
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
            raw_chains(&mut raw, n);
            for (digest_out, mut raw) in digests.iter_mut().zip(raw) {
                for (word, iv) in raw.iter_mut().zip(IV) {
                    *word = word.wrapping_add(iv);
                }
                *digest_out = digest(raw);
            }
        }

        #[inline(never)]
        #[target_feature(enable = $features)]
        fn raw_chains<const N: usize>(raw: &mut [State; N], n: u32) {
            let (mut e, mut o) = ([_mm_setzero_si128(); N], [_mm_setzero_si128(); N]);
            for i in 0..N {
                [e[i], o[i]] = enter(raw[i]);
            }
            let [start_e, start_o] = enter(INJECTED);
            for _ in 0..n {
                let (raw_e, raw_o) = (e, o);
                // A, B, E, F and C, D, G, H, from the lowest word on.
                let abef = raw_o.map(|o| _mm_shuffle_epi32::<0x1b>(o));
                let cdgh = raw_e.map(|e| _mm_shuffle_epi32::<0x1b>(e));
                (e, o) = ([start_e; N], [start_o; N]);
                two_rounds!(e, o, |i| abef[i]);
                two_rounds!(o, e, |i| _mm_add_epi32(cdgh[i], vector(iv_k(2))));
                two_rounds!(e, o, |i| {
                    let ef = _mm_shuffle_epi32::<0x01>(raw_o[i]);
                    _mm_add_epi32(ef, vector(iv_k(4)))
                });
                two_rounds!(o, e, |i| {
                    let gh = _mm_shuffle_epi32::<0x01>(raw_e[i]);
                    _mm_add_epi32(gh, vector(iv_k(6)))
                });
                two_rounds!(e, o, |_i| vector(padding_k(8)));
                two_rounds!(o, e, |_i| vector(padding_k(10)));
                two_rounds!(e, o, |_i| vector(padding_k(12)));
                two_rounds!(o, e, |_i| vector(padding_k(14)));

                let (low, high) = (vector(padding(8)), vector(padding(12)));
                let mut w = [[low; N], [low; N], [low; N], [high; N]];
                for i in 0..N {
                    w[0][i] = _mm_add_epi32(_mm_unpacklo_epi64(abef[i], cdgh[i]), vector(iv(0)));
                    w[1][i] = _mm_add_epi32(_mm_unpackhi_epi64(abef[i], cdgh[i]), vector(iv(4)));
                }
                // W[9..13] are 0: nothing to add before MSG2 nor after.
                rounds!(16, w, e, o, |i| _mm_sha256msg2_epu32($msg1(w[0][i], w[1][i]), high));
                rounds!(20, w, e, o);
                // MSG1 of W[8..12] and W[12..16] is W[8..12], as sigma0 of 0 is 0.
                rounds!(24, w, e, o, |i| schedule(low, w[0][i], w[1][i]));
                rounds!(28, w, e, o);
                rounds!(32, w, e, o);
                rounds!(36, w, e, o);
                rounds!(40, w, e, o);
                rounds!(44, w, e, o);
                rounds!(48, w, e, o);
                rounds!(52, w, e, o);
                rounds!(56, w, e, o);
                rounds!(60, w, e, o);
            }
            for (raw, (e, o)) in raw.iter_mut().zip(e.into_iter().zip(o)) {
                *raw = leave([e, o]);
            }
        }

        /// Compresses block i of each element of `message`, in order, into `states[i]`.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn compress<const N: usize>(states: &mut [State; N], message: &[[Block; N]]) {
            // Words are big-endian in a message.
            let swap = vector([0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f]);
            let (mut e, mut o) = ([_mm_setzero_si128(); N], [_mm_setzero_si128(); N]);
            for i in 0..N {
                [e[i], o[i]] = enter(states[i]);
            }
            for blocks in message {
                let (before_e, before_o) = (e, o);
                let mut w = [[_mm_setzero_si128(); N]; 4];
                macro_rules! from_message {
                    ($quarter:literal, $i:ident) => {
                        _mm_shuffle_epi8(load(&blocks[$i].as_chunks().0[$quarter]), swap)
                    };
                }
                rounds!(0, w, e, o, |i| from_message!(0, i));
                rounds!(4, w, e, o, |i| from_message!(1, i));
                rounds!(8, w, e, o, |i| from_message!(2, i));
                rounds!(12, w, e, o, |i| from_message!(3, i));
                rounds!(16, w, e, o);
                rounds!(20, w, e, o);
                rounds!(24, w, e, o);
                rounds!(28, w, e, o);
                rounds!(32, w, e, o);
                rounds!(36, w, e, o);
                rounds!(40, w, e, o);
                rounds!(44, w, e, o);
                rounds!(48, w, e, o);
                rounds!(52, w, e, o);
                rounds!(56, w, e, o);
                rounds!(60, w, e, o);
                for i in 0..N {
                    e[i] = _mm_add_epi32(e[i], before_e[i]);
                    o[i] = _mm_add_epi32(o[i], before_o[i]);
                }
            }
            for (state, (e, o)) in states.iter_mut().zip(e.into_iter().zip(o)) {
                *state = leave([e, o]);
            }
        }
    };
}
