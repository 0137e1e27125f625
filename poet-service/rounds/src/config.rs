//! The configuration of rounds.

use std::time::Duration;

use jiff::Timestamp;
use poet_proto::{
    identity::PrivateKey,
    schedule::{Schedule, ScheduleError},
};

use crate::registration::Rules;

/// The configuration of rounds.
#[derive(Clone, Debug)]
pub struct RoundsConfig {
    /// The network's genesis. If `None`, the server's first start.
    pub genesis: Option<Timestamp>,
    /// The length of an epoch.
    pub epoch_duration: Duration,
    /// The time from genesis to the start of round 0.
    pub phase_shift: Duration,
    /// The time from a round's end to the start of the next one.
    pub cycle_gap: Duration,
    /// Longer gaps. For each, a proof is made before the end of a round.
    pub early_cycle_gaps: Vec<Duration>,
    /// The rules of registration.
    pub rules: Rules,
    /// The server's key, if one is configured.
    pub private_key: Option<PrivateKey>,
    /// How long a leap of the clock must last before it is believed.
    pub clock_leap_patience: Duration,
    /// Who works on rounds.
    pub worker: WorkerMode,
    /// What matters if servers share the storage.
    pub cluster: ClusterConfig,
}

/// What matters if servers share the storage.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The name under which other servers know this one.
    pub name: String,
    /// How long the shared log of a round must stand still before another server takes over.
    pub takeover_after: Duration,
}

impl RoundsConfig {
    /// Returns the schedule of the rounds, with this genesis.
    ///
    /// # Errors
    /// Fails if the parts of the schedule contradict each other.
    pub fn schedule(&self, genesis: Timestamp) -> Result<Schedule, ScheduleError> {
        Schedule::new(
            genesis,
            self.epoch_duration,
            self.phase_shift,
            self.cycle_gap,
        )
    }
}

/// Who works on rounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerMode {
    /// This server, or a faster one of the same storage.
    On,
    /// This server, while no other one of the same storage works.
    Standby,
    /// Another server of the same storage.
    Off,
    /// Nobody: rounds that close get empty proofs.
    Nobody,
}

impl WorkerMode {
    /// Returns whether this server may work.
    pub fn may_work(self) -> bool {
        matches!(self, Self::On | Self::Standby)
    }
}
