//! Failures that repeat, of which a log needs one in a while.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use poet_rounds::clock::Clock;

/// How often to log the same failure.
const INTERVAL: Duration = Duration::from_secs(60);

/// The failures of the last minute: while a disk is full or a database is away, all operations fail.
pub(crate) struct Repeated {
    clock: Arc<dyn Clock>,
    /// When each was logged.
    logged: BTreeMap<String, Duration>,
}

impl Repeated {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let logged = BTreeMap::new();
        Self { clock, logged }
    }

    /// Returns whether to log a failure: the same at most once a minute.
    pub(crate) fn is_due(&mut self, failure: &str) -> bool {
        let now = self.clock.monotonic();
        self.logged
            .retain(|_, at| now.saturating_sub(*at) < INTERVAL);
        let is_due = !self.logged.contains_key(failure);
        if is_due {
            self.logged.insert(failure.to_owned(), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use poet_rounds::clock::ManualClock;

    use super::*;

    #[test]
    fn the_same_failure_is_logged_once_a_minute() {
        let clock = Arc::new(ManualClock::stopped(Timestamp::UNIX_EPOCH));
        let mut repeated = Repeated::new(clock.clone());
        assert!(repeated.is_due("full"));
        assert!(!repeated.is_due("full"));
        assert!(repeated.is_due("gone"));
        clock.pass(INTERVAL / 2);
        assert!(!repeated.is_due("full"));
        clock.pass(INTERVAL / 2);
        assert!(repeated.is_due("full"));
        assert!(!repeated.is_due("full"));
        assert_eq!(repeated.logged.len(), 1, "the other one is forgotten");
    }
}
