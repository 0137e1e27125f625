//! SHA-256 with one chain or message in each lane of a vector: the code that the kernels with lanes
//! share.
//!
//! The algorithm is FIPS 180-4, section 6.2.2, with each word replaced by a vector of that word of
//! all messages. A kernel's file defines the vector `V` of `LANES` words and the operations on it.
//!
//! 1. The sixteen words of the schedule, the state and most constants stay in registers if there
//!    are 32 of them (AVX-512).
//! 2. In a chain, words 8 to 15 are constants, and so is the initial state: the compiler folds
//!    them.
//! 3. Ch, Maj and the three-way exclusive or are one instruction each with AVX-512. The bound there
//!    is the number of operations: about 1,540 for 16 hashes, two in a cycle.
//! 4. Words of the schedule are made eight rounds ahead. So there is always work that no round waits
//!    for: 2 % faster than making each word just before its round, and 1 % faster than as early as
//!    possible, fifteen rounds ahead. Of several orders of a round's additions, this one was the
//!    fastest by 1 %.

use crate::ShaNi;

/// Returns the kernel for chains and messages that would leave lanes empty, if the CPU has the SHA
/// extensions.
pub(crate) fn sha() -> Option<&'static ShaNi> {
    #[cfg(test)]
    if WITHOUT_SHA.get() {
        return None;
    }
    ShaNi::get()
}

#[cfg(test)]
std::thread_local! {
    /// Set by a test to run the kernels as on a CPU without SHA extensions.
    pub(crate) static WITHOUT_SHA: core::cell::Cell<bool> = const { core::cell::Cell::new(false) };
}

macro_rules! lanes_kernel {
    ($kernel:ident, $features:literal) => {
        impl Sha256 for $kernel {
            fn compress(&self, state: &mut State, blocks: &[Block]) {
                match sha() {
                    Some(sha) => sha.compress(state, blocks),
                    // SAFETY: `self` exists only if `get` has found the features of this kernel.
                    None => unsafe { compress(state, blocks) },
                }
            }

            fn hash_many(&self, start: &State, messages: &[&[Block]], digests: &mut [Node]) {
                for (messages, digests) in messages.chunks(LANES).zip(digests.chunks_mut(LANES)) {
                    match sha() {
                        Some(sha) if messages.len() < PADDED_FROM => {
                            sha.hash_many(start, messages, digests);
                        }
                        _ => {
                            // A lane without a message hashes the first one.
                            let count = messages.len().min(digests.len());
                            let mut lanes = [messages[0]; LANES];
                            let mut all = [Node::default(); LANES];
                            lanes[..count].copy_from_slice(&messages[..count]);
                            // SAFETY: as in `compress`.
                            unsafe { hash(start, &lanes, &mut all) };
                            digests[..count].copy_from_slice(&all[..count]);
                        }
                    }
                }
            }

            fn hash_nodes(
                &self,
                message: &NodeMessage,
                children: &[[Node; 2]],
                parents: &mut [Node],
            ) {
                let Some(half) = HalfMessage::of(message) else {
                    return message.hash_many(self, children, parents);
                };
                let count = children.len().min(parents.len());
                let (groups, rest) = children[..count].as_chunks();
                let (parent_groups, parents) = parents[..count].as_chunks_mut();
                // SAFETY: as in `compress`.
                unsafe { nodes(&half, groups, parent_groups) };
                match sha() {
                    _ if rest.is_empty() => {}
                    Some(sha) if rest.len() < PADDED_FROM => {
                        sha.hash_halves(&half, rest, parents);
                    }
                    _ => {
                        let mut children = [[Node::default(); 2]; LANES];
                        let mut padded = [Node::default(); LANES];
                        children[..rest.len()].copy_from_slice(rest);
                        // SAFETY: as in `compress`.
                        unsafe { nodes(&half, from_ref(&children), from_mut(&mut padded)) };
                        parents.copy_from_slice(&padded[..rest.len()]);
                    }
                }
            }
        }

        impl Chain for $kernel {
            fn one(&self, digest: &mut Node, n: u32) {
                self.many(from_mut(digest), n);
            }

            fn many(&self, digests: &mut [Node], mut n: u32) {
                let sha = sha();
                let (whole, rest) = (digests.len() / LANES, digests.len() % LANES);
                // Chains that would leave lanes empty take turns with those of the last full
                // vector.
                let take_turns = rest > 0 && whole > 0 && (sha.is_none() || PADDED_FROM < LANES);
                let alone = if take_turns { whole - 1 } else { whole };
                let (groups, rest) = digests.split_at_mut(alone * LANES);
                for group in groups.as_chunks_mut().0 {
                    // SAFETY: `self` exists only if `get` has found the features of this kernel.
                    unsafe { chains(group, n) };
                }
                if take_turns {
                    // In each of `turns` turns the first chains are hashed, and then go to the end;
                    // after the last turn each is in its place again, and has had `shares` of them.
                    let divisor = 1 << rest.len().trailing_zeros();
                    let (turns, shares) = (rest.len() / divisor, (LANES / divisor) as u32);
                    let steps = n / shares;
                    if steps >= MIN_STEPS {
                        for _ in 0..turns {
                            if let Some(group) = rest.first_chunk_mut() {
                                // SAFETY: as above.
                                unsafe { chains(group, steps) };
                            }
                            rest.rotate_left(LANES);
                        }
                        n -= steps * shares;
                    }
                }
                for rest in rest.chunks_mut(LANES) {
                    match sha {
                        Some(sha) if rest.len() < PADDED_FROM => sha.many(rest, n),
                        _ => {
                            let mut digests = [Node::default(); LANES];
                            digests[..rest.len()].copy_from_slice(rest);
                            // SAFETY: as above.
                            unsafe { chains(&mut digests, n) };
                            rest.copy_from_slice(&digests[..rest.len()]);
                        }
                    }
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sigma0(w: V) -> V {
            xor(ror::<7, 25>(w), ror::<18, 14>(w), shr::<3>(w))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sigma1(w: V) -> V {
            xor(ror::<17, 15>(w), ror::<19, 13>(w), shr::<10>(w))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sum0(a: V) -> V {
            xor(ror::<2, 30>(a), ror::<13, 19>(a), ror::<22, 10>(a))
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn sum1(e: V) -> V {
            xor(ror::<6, 26>(e), ror::<11, 21>(e), ror::<25, 7>(e))
        }

        /// The sums of the words.
        #[inline]
        #[target_feature(enable = $features)]
        fn add_words(mut a: [V; 8], b: [V; 8]) -> [V; 8] {
            for (a, b) in a.iter_mut().zip(b) {
                *a = add(*a, b);
            }
            a
        }

        /// The state after the rounds from `$first` on, which is 0 or 8, without the feed-forward.
        /// `$w` are the words below `$made` that are not used up, each in the place of its number
        /// modulo 16. A macro and not a function, so that the compiler sees which words are
        /// constants.
        macro_rules! rounds {
            ($first:literal, $made:literal, $start:expr, $w:expr) => {{
                let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h]: [V; 8] = $start;
                let mut w: [V; 16] = $w;
                macro_rules! round {
                    ($a:ident $b:ident $c:ident $d:ident $e:ident $f:ident $g:ident $h:ident $t:expr) => {
                        // Word t + 8 replaces word t - 8.
                        if $t + 8 >= $made && $t + 8 < 64 {
                            let early = add(w[($t + 8) % 16], sigma0(w[($t + 9) % 16]));
                            let late = add(w[($t + 1) % 16], sigma1(w[($t + 6) % 16]));
                            w[($t + 8) % 16] = add(early, late);
                        }
                        let wk = add(w[$t % 16], splat(K[$t]));
                        let t1 = add(add(add($h, wk), sum1($e)), ch($e, $f, $g));
                        $d = add($d, t1);
                        $h = add(add(t1, sum0($a)), maj($a, $b, $c));
                    };
                }
                // The names rotate instead of the values; after eight rounds they are back in
                // place.
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
                if $first == 0 {
                    eight_rounds!(0);
                }
                eight_rounds!(8);
                eight_rounds!(16);
                eight_rounds!(24);
                eight_rounds!(32);
                eight_rounds!(40);
                eight_rounds!(48);
                eight_rounds!(56);
                [a, b, c, d, e, f, g, h]
            }};
        }

        /// The state after a block.
        macro_rules! block {
            ($start:expr, $w:expr) => {{
                let start: [V; 8] = $start;
                add_words(rounds!(0, 16, start, $w), start)
            }};
        }

        /// Renumbers the words of some vectors: the bits of a word's number, which is
        /// `LANES * its vector + its lane`, are rotated left by `steps`.
        ///
        /// A step takes the words of the first half and those of the second half in turn, which makes
        /// the highest bit the lowest.
        #[inline]
        #[target_feature(enable = $features)]
        fn rotate_numbers<const N: usize>(mut rows: [V; N], steps: u32) -> [V; N] {
            for _ in 0..steps {
                let (low, high) = rows.split_at(N / 2);
                let mut next = rows;
                for i in 0..N / 2 {
                    [next[2 * i], next[2 * i + 1]] = interleave(low[i], high[i]);
                }
                rows = next;
            }
            rows
        }

        /// Word i of all blocks in vector i: word i of block j, with number 16 * j + i, gets number
        /// LANES * i + j.
        #[inline]
        #[target_feature(enable = $features)]
        fn message(blocks: [&Block; LANES]) -> [V; 16] {
            let mut rows = [splat(0); 16];
            for (rows, block) in rows.chunks_mut(16 / LANES).zip(blocks) {
                for (row, words) in rows.iter_mut().zip(block.as_chunks().0) {
                    *row = swap(load(words));
                }
            }
            rotate_numbers(rows, LANES.ilog2())
        }

        /// Word i of all digests in vector i.
        #[inline]
        #[target_feature(enable = $features)]
        fn to_lanes(digests: &[Node; LANES]) -> [V; 8] {
            let mut rows = [splat(0); 8];
            for (row, words) in rows.iter_mut().zip(digests.as_flattened().as_chunks().0) {
                *row = swap(load(words));
            }
            rotate_numbers(rows, LANES.ilog2())
        }

        /// Undoes `to_lanes`.
        #[inline]
        #[target_feature(enable = $features)]
        fn from_lanes(words: [V; 8], digests: &mut [Node; LANES]) {
            let rows = rotate_numbers(words.map(|word| swap(word)), 3);
            let digests = digests.as_flattened_mut().as_chunks_mut().0;
            for (words, row) in digests.iter_mut().zip(rows) {
                store(words, row);
            }
        }

        /// `n` hashes of each of the digests.
        #[target_feature(enable = $features)]
        fn chains(digests: &mut [Node; LANES], n: u32) {
            let mut digest = to_lanes(digests);
            for _ in 0..n {
                let [a, b, c, d, e, f, g, h] = digest;
                let [i, j, k, l, m, n, o, p] = PADDING.map(|word| splat(word));
                let block = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
                digest = block!(IV.map(|word| splat(word)), block);
            }
            from_lanes(digest, digests);
        }

        /// `blocks`, in order, in all lanes.
        #[target_feature(enable = $features)]
        fn compress(state: &mut State, blocks: &[Block]) {
            let mut lanes = state.map(|word| splat(word));
            for block in blocks {
                lanes = block!(lanes, message([block; LANES]));
            }
            let mut digests = [Node::default(); LANES];
            from_lanes(lanes, &mut digests);
            *state = words(&digests[0]);
        }

        /// Hashes messages of any lengths.
        #[target_feature(enable = $features)]
        fn hash(start: &State, messages: &[&[Block]; LANES], digests: &mut [Node; LANES]) {
            let mut longest = messages[0];
            for message in messages {
                if message.len() > longest.len() {
                    longest = message;
                }
            }
            let mut state = start.map(|word| splat(word));
            let mut lanes = *messages;
            let mut done = 0;
            loop {
                let shortest = lanes.iter().fold(longest, |a, b| if b.len() < a.len() { b } else { a });
                for i in done..shortest.len() {
                    state = block!(state, message(lanes.each_ref().map(|message| &message[i])));
                }
                done = shortest.len();
                let mut all = [Node::default(); LANES];
                from_lanes(state, &mut all);
                for lane in 0..LANES {
                    if messages[lane].len() == done {
                        digests[lane] = all[lane];
                        // The lane is free, so it may hash anything.
                        lanes[lane] = longest;
                    }
                }
                if done == longest.len() {
                    break;
                }
            }
        }

        /// The parents of some vectors of children, whose messages `half` begins and ends.
        #[target_feature(enable = $features)]
        fn nodes(half: &HalfMessage, children: &[[[Node; 2]; LANES]], parents: &mut [[Node; LANES]]) {
            let words = |words: [u32; 8]| words.map(|word| splat(word));
            for (children, parents) in children.iter().zip(parents) {
                let mut blocks = [&[0; 64]; LANES];
                for (block, pair) in blocks.iter_mut().zip(children) {
                    if let [pair] = pair.as_flattened().as_chunks().0 {
                        *block = pair;
                    }
                }
                let children = message(blocks);
                let (mut w, mut w2) = (children, children);
                let (left, right) = children.split_at(8);
                w[8..].copy_from_slice(left);
                // Words 16 to 22, and word 7, from which the rounds make word 23.
                for i in 0..7 {
                    let w2 = if i < 2 { w[i + 14] } else { w[i - 2] };
                    w[i] = add(add(splat(half.sums[i]), w[i + 9]), sigma1(w2));
                }
                w[7] = splat(half.sums[7]);
                let state = rounds!(8, 23, words(half.begun), w);
                let state = add_words(state, words(half.start));

                w2[..8].copy_from_slice(right);
                w2[8..].copy_from_slice(&PADDING.map(|word| splat(word)));
                w2[14] = splat(half.padding[6]);
                w2[15] = splat(half.padding[7]);
                from_lanes(block!(state, w2), parents);
            }
        }

        /// As on a CPU without SHA extensions.
        #[test]
        fn without_sha_extensions() {
            use poet_conformance::suite;
            use poet_engine::WorkFunction;

            crate::lanes::WITHOUT_SHA.set(true);
            if let Some(kernel) = suite::supported($kernel::NAME, $kernel::get()) {
                suite::sha256(kernel);
                suite::chain(kernel, WorkFunction::Sha256);
            }
        }
    };
}
