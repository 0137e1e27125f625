//! Counts what an interface closes and refuses, for monitoring, and logs it periodically.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

/// The labels of closed connections.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct DroppedLabels {
    interface: &'static str,
    reason: &'static str,
}

/// The labels of refused requests.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct RefusedLabels {
    interface: &'static str,
}

/// The counters of all interfaces.
#[derive(Clone, Debug, Default)]
pub(crate) struct DroppedCounters {
    pub(crate) connections: Family<DroppedLabels, Counter>,
    pub(crate) requests: Family<RefusedLabels, Counter>,
}

impl DroppedCounters {
    /// Returns the counters of one interface.
    pub(crate) fn of(&self, interface: &'static str) -> Dropped {
        let connections = |reason| Count {
            total: self
                .connections
                .get_or_create(&DroppedLabels { interface, reason })
                .clone(),
            unreported: AtomicU64::new(0),
        };
        Dropped(Arc::new(Counts {
            interface,
            for_room: connections("room"),
            over_share: connections("share"),
            too_slow: connections("slow"),
            not_accepted: connections("accept"),
            over_budget: Count {
                total: self
                    .requests
                    .get_or_create(&RefusedLabels { interface })
                    .clone(),
                unreported: AtomicU64::new(0),
            },
        }))
    }
}

/// The counters of one interface.
#[derive(Clone, Debug)]
pub(crate) struct Dropped(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    interface: &'static str,
    for_room: Count,
    over_share: Count,
    too_slow: Count,
    not_accepted: Count,
    over_budget: Count,
}

#[derive(Debug)]
struct Count {
    total: Counter,
    /// The number that was not logged yet.
    unreported: AtomicU64,
}

impl Count {
    fn add(&self, number: u64) {
        self.total.inc_by(number);
        self.unreported.fetch_add(number, Relaxed);
    }
}

impl Dropped {
    /// A connection was closed to make room for another one.
    pub(super) fn for_room(&self) {
        self.0.for_room.add(1);
    }

    /// A connection was refused because its address has its share.
    pub(super) fn over_share(&self) {
        self.0.over_share.add(1);
    }

    /// Clients read their responses too slowly.
    pub(super) fn too_slow(&self, connections: u64) {
        self.0.too_slow.add(connections);
    }

    /// The system did not provide a socket.
    pub(super) fn not_accepted(&self) {
        self.0.not_accepted.add(1);
    }

    /// A request was refused because others use too much memory.
    pub(super) fn over_budget(&self) {
        self.0.over_budget.add(1);
    }

    /// Returns what has happened since the last report, if anything has.
    pub(super) fn report(&self) -> Option<String> {
        let counts = &*self.0;
        let parts: Vec<_> = [
            (
                &counts.for_room,
                "connections closed to make room for others",
            ),
            (
                &counts.over_share,
                "connections refused, their addresses having their share",
            ),
            (
                &counts.too_slow,
                "connections closed because their answers were not read",
            ),
            (
                &counts.not_accepted,
                "connections not accepted for want of files or memory",
            ),
            (
                &counts.over_budget,
                "requests refused because incomplete ones take too much memory",
            ),
        ]
        .into_iter()
        .filter_map(|(count, what)| {
            let number = count.unreported.swap(0, Relaxed);
            (number > 0).then(|| format!("{number} {what}"))
        })
        .collect();
        (!parts.is_empty()).then(|| format!("{}: {}", counts.interface, parts.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_counted_and_reported_once() {
        let counters = DroppedCounters::default();
        let dropped = counters.of("REST");
        assert_eq!(dropped.report(), None);
        dropped.for_room();
        dropped.for_room();
        dropped.over_budget();
        let report = "REST: 2 connections closed to make room for others, \
                      1 requests refused because incomplete ones take too much memory";
        assert_eq!(dropped.report().as_deref(), Some(report));
        assert_eq!(dropped.report(), None);
        dropped.too_slow(3);
        assert!(
            dropped
                .report()
                .unwrap()
                .starts_with("REST: 3 connections closed because")
        );
        let labels = DroppedLabels {
            interface: "REST",
            reason: "room",
        };
        assert_eq!(counters.connections.get_or_create(&labels).get(), 2);
    }
}
