//! The cycle gaps for which a server makes proofs.
//!
//! Rounds start at the same time for every gap, so that all nodes of a round share its members, its
//! statement and its chain. For each gap longer than the schedule's, a proof is made before the end
//! of the round. Nodes with that gap see another PoET: under its own path, with its own key.

use std::{sync::Arc, time::Duration};

use poet_proto::{
    duration::format_go,
    identity::{PrivateKey, PublicKey},
};

use crate::receipts::ReceiptSigner;

/// The server as nodes with one cycle gap see it.
#[derive(Clone, Debug)]
pub struct CycleGap {
    duration: Duration,
    early: bool,
    signer: Arc<ReceiptSigner>,
    public_key: PublicKey,
}

impl CycleGap {
    fn new(duration: Duration, early: bool, key: PrivateKey) -> Self {
        Self {
            duration,
            early,
            public_key: key.public(),
            signer: Arc::new(ReceiptSigner::new(key)),
        }
    }

    /// The time from the end of the work to the start of the next round.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// The gap, if it is longer than the schedule's.
    pub fn early(&self) -> Option<Duration> {
        self.early.then_some(self.duration)
    }

    /// Signs receipts for these nodes.
    pub(crate) fn signer(&self) -> &ReceiptSigner {
        &self.signer
    }

    /// The public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// What nodes append to the server's address: nothing, or for example `/gap/24h`.
    pub fn path(&self) -> String {
        match self.early {
            true => early_path(self.duration),
            false => String::new(),
        }
    }
}

/// Returns the path for nodes with a gap longer than the schedule's.
fn early_path(gap: Duration) -> String {
    let text = format_go(gap);
    // Go would write 24h0m0s.
    let mut short = text.as_str();
    for (zero, unit) in [("0s", 'm'), ("0m", 'h')] {
        match short.strip_suffix(zero) {
            Some(rest) if rest.ends_with(unit) => short = rest,
            _ => {}
        }
    }
    format!("/gap/{short}")
}

/// The cycle gaps of a server.
#[derive(Clone, Debug)]
pub struct CycleGaps {
    own: CycleGap,
    early: Vec<CycleGap>,
}

impl CycleGaps {
    /// Creates the schedule's gap with the server's key, and longer ones with keys derived from it.
    pub fn new(own: Duration, key: PrivateKey, early: &[Duration]) -> Self {
        let mut early: Vec<_> = early
            .iter()
            .map(|gap| CycleGap::new(*gap, true, key.for_cycle_gap(*gap)))
            .collect();
        early.sort_by_key(|gap| std::cmp::Reverse(gap.duration));
        Self {
            own: CycleGap::new(own, false, key),
            early,
        }
    }

    /// The schedule's gap.
    pub fn own(&self) -> &CycleGap {
        &self.own
    }

    /// The longer gaps, in the order in which their proofs are made.
    pub fn early(&self) -> &[CycleGap] {
        &self.early
    }

    /// All gaps, the schedule's first.
    pub fn all(&self) -> impl Iterator<Item = &CycleGap> {
        [&self.own].into_iter().chain(&self.early)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_short() {
        for (gap, path) in [
            ("24h", "/gap/24h"),
            ("36h30m", "/gap/36h30m"),
            ("90m", "/gap/1h30m"),
            ("10m", "/gap/10m"),
            ("24h0m1s", "/gap/24h0m1s"),
            ("40s", "/gap/40s"),
            ("1m40s", "/gap/1m40s"),
            ("1h10m", "/gap/1h10m"),
            ("1.5s", "/gap/1.5s"),
        ] {
            let duration = poet_proto::duration::parse_go(gap).unwrap();
            assert_eq!(early_path(duration), path);
            let text = path.strip_prefix("/gap/").unwrap();
            assert_eq!(poet_proto::duration::parse_go(text), Ok(duration));
        }
    }

    #[test]
    fn each_gap_has_a_key_of_its_own() {
        let hours = |hours: u64| Duration::from_secs(hours * 3600);
        let key = PrivateKey::generate().unwrap();
        let gaps = CycleGaps::new(hours(12), key.clone(), &[hours(24), hours(36)]);
        let durations: Vec<_> = gaps.all().map(CycleGap::duration).collect();
        assert_eq!(durations, [hours(12), hours(36), hours(24)]);
        assert_eq!(*gaps.own().public_key(), key.public());
        assert_eq!(gaps.own().path(), "");
        let keys: Vec<_> = gaps.all().map(|gap| *gap.public_key()).collect();
        assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    }
}
