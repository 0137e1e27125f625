//! The state of a round that servers share, for display.

use std::time::Duration;

use crate::storage::shared_log::{ClusterServer, SharedRound};

/// How recently a server must have been seen to be shown.
const SHOWN: Duration = Duration::from_secs(10);

/// The state of a round that servers share, as this server has last seen it.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// The round.
    pub round: u64,
    /// The height of the subtrees whose roots are the log's entries.
    pub subtree_height: u32,
    /// The name of this server; `None` if it does no work.
    pub own: Option<String>,
    /// The state of the log and of the servers.
    pub seen: SharedRound,
}

impl Standing {
    /// The number of leaves that the shared log represents.
    pub fn leaves(&self) -> u64 {
        self.seen.entries << self.subtree_height
    }

    /// The servers that were seen recently, ordered by name.
    pub fn servers(&self) -> impl Iterator<Item = &ClusterServer> {
        (self.seen.servers.iter()).filter(|server| server.seen < SHOWN)
    }

    /// This server, if it takes part.
    pub fn own(&self) -> Option<&ClusterServer> {
        let own = self.own.as_ref()?;
        self.servers().find(|server| server.name == *own)
    }

    /// The server that works. If several do, the one that appended the newest entry.
    pub fn worker(&self) -> Option<&ClusterServer> {
        let newest = |server: &&ClusterServer| self.seen.worker.as_ref() == Some(&server.name);
        let mut working = self.servers().filter(|server| server.works);
        let first = self.servers().filter(|server| server.works).find(newest);
        first.or_else(|| working.next())
    }

    /// How many leaves of the shared log a server lacks.
    pub fn behind_leaves(&self, server: &ClusterServer) -> u64 {
        self.seen.entries.saturating_sub(server.entries) << self.subtree_height
    }

    /// How long the server that works takes for those leaves.
    pub fn behind(&self, server: &ClusterServer) -> Duration {
        let rate = self.worker().map_or(0.0, |worker| worker.leaves_per_second);
        let seconds = self.behind_leaves(server) as f64 / rate.max(1.0);
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_first_with_the_newest_entry_works() {
        let server = |name: &str, works, entries, seen| ClusterServer {
            name: name.to_owned(),
            seen: Duration::from_secs(seen),
            works,
            standby: false,
            entries,
            leaves_per_second: if works { 1000.0 } else { 0.0 },
            leaves: None,
        };
        let mut standing = Standing {
            round: 1,
            subtree_height: 3,
            own: Some("b".to_owned()),
            seen: SharedRound {
                published: false,
                entries: 1000,
                quiet: Duration::ZERO,
                worker: Some("c".to_owned()),
                servers: vec![
                    server("a", true, 900, 0),
                    server("b", false, 500, 0),
                    server("c", true, 1000, 0),
                    server("d", false, 10, 11),
                ],
            },
        };
        assert_eq!(standing.leaves(), 8000);
        assert_eq!(standing.servers().count(), 3);
        assert_eq!(standing.worker().unwrap().name, "c");
        let own = standing.own().unwrap();
        assert_eq!(standing.behind_leaves(own), 4000);
        assert_eq!(standing.behind(own), Duration::from_secs(4));
        standing.seen.worker = Some("d".to_owned());
        assert_eq!(standing.worker().unwrap().name, "a");
    }
}
