//! A histogram of times, of constant size: 32 buckets for each doubling, so that a bucket is at
//! most 3.2 % wide, from a quarter of a microsecond to a minute and more.

use serde::{Deserialize, Serialize};

/// Buckets per doubling: 2^5.
const BITS: u32 = 5;

/// Times below 2^8 ns count as that.
const SHORTEST: u64 = 1 << 8;

/// Times of 2^37 ns (137 s) or more count in the last bucket.
const LONGEST: u64 = (1 << 37) - 1;

const BUCKETS: usize = ((37 - 8) << BITS) as usize;

/// A histogram of times.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
}

/// Times from `from_ns` up to, not including, `to_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// The shortest time.
    pub from_ns: u64,
    /// The first time that is too long.
    pub to_ns: u64,
    /// The number of times.
    pub count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into_boxed_slice(),
        }
    }
}

impl Histogram {
    /// Counts a time.
    pub fn add(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
    }

    /// Returns the histogram with these buckets.
    #[must_use]
    pub fn of(buckets: &[Bucket]) -> Self {
        let mut histogram = Self::default();
        for it in buckets {
            let count = &mut histogram.counts[bucket(it.from_ns)];
            *count = count.saturating_add(it.count);
        }
        histogram
    }

    /// Returns the non-empty buckets, shortest times first.
    #[must_use]
    pub fn buckets(&self) -> Vec<Bucket> {
        let counts = self.counts.iter().enumerate();
        counts
            .filter(|(_, count)| **count > 0)
            .map(|(index, &count)| Bucket {
                from_ns: bound(index),
                to_ns: bound(index + 1),
                count,
            })
            .collect()
    }

    /// Returns the middle of the bucket that contains the median; `None` without times.
    #[must_use]
    pub fn median_ns(&self) -> Option<u64> {
        let half = self.counts.iter().sum::<u64>().div_ceil(2);
        let mut seen = 0;
        let index = self.counts.iter().position(|count| {
            seen += count;
            seen >= half && seen > 0
        })?;
        Some(bound(index).midpoint(bound(index + 1)))
    }
}

/// The doubling that contains `ns`, and the five bits after its first.
fn bucket(ns: u64) -> usize {
    let ns = ns.clamp(SHORTEST, LONGEST);
    let octave = ns.ilog2();
    let before = ((octave - SHORTEST.ilog2()) << BITS) as usize;
    let within = (ns >> (octave - BITS)) & ((1 << BITS) - 1);
    before + within as usize
}

/// The shortest time in a bucket.
fn bound(index: usize) -> u64 {
    let octave = SHORTEST.ilog2() + (index >> BITS) as u32;
    let within = (index & ((1 << BITS) - 1)) as u64;
    (1 << octave) + (within << (octave - BITS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_its_bucket() {
        for shift in 8..37 {
            for offset in [0, 1, (1 << shift) / 3, (1 << shift) - 1] {
                let ns = (1_u64 << shift) + offset;
                let index = bucket(ns);
                assert!(bound(index) <= ns && ns < bound(index + 1), "{ns}");
            }
        }
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn median_and_buckets() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.median_ns(), None);
        assert!(histogram.buckets().is_empty());
        for ns in [14_000, 14_000, 14_001, 900_000] {
            histogram.add(ns);
        }
        let median = histogram.median_ns().unwrap();
        assert!((13_800..14_400).contains(&median), "{median}");
        let buckets = histogram.buckets();
        assert_eq!(buckets.len(), 2);
        assert_eq!((buckets[0].count, buckets[1].count), (3, 1));
        assert_eq!(Histogram::of(&buckets).buckets(), buckets);
        assert!(buckets[1].from_ns <= 900_000 && 900_000 < buckets[1].to_ns);
    }
}
