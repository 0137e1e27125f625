//! What rounds follow.

use std::time::Duration;

use jiff::Timestamp;
use poet_proto::{
    identity::PrivateKey,
    schedule::{Schedule, ScheduleError},
};

use crate::registration::Rules;

/// What rounds follow.
#[derive(Clone, Debug)]
pub struct RoundsConfig {
    /// The network's genesis; without one, the server's first start.
    pub genesis: Option<Timestamp>,
    /// The length of an epoch.
    pub epoch_duration: Duration,
    /// From genesis to the start of round 0.
    pub phase_shift: Duration,
    /// From a round's end to the next one's start.
    pub cycle_gap: Duration,
    /// Longer gaps, for each of which a proof is made before the end of a round.
    pub early_cycle_gaps: Vec<Duration>,
    /// The rules of registration.
    pub rules: Rules,
    /// The server's key, if it was given.
    pub private_key: Option<PrivateKey>,
    /// How long a leap of the clock must last before it is believed.
    pub clock_leap_patience: Duration,
    /// Who works on rounds.
    pub worker: WorkerMode,
    /// What counts where servers share the storage.
    pub cluster: ClusterConfig,
}

/// What counts where servers share the storage.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// What others call this server.
    pub name: String,
    /// How long the shared log of a round must not have grown before another server works.
    pub takeover_after: Duration,
}

impl RoundsConfig {
    /// The schedule of the rounds, with this genesis.
    ///
    /// # Errors
    /// Fails if its parts do not go together.
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
    /// This server, or another one of the same storage that is faster.
    On,
    /// This server, while no other one of the same storage does.
    Standby,
    /// Another server of the same storage.
    Off,
    /// Nobody: rounds that close get empty proofs.
    Nobody,
}

impl WorkerMode {
    /// Whether this server may work.
    pub fn may_work(self) -> bool {
        matches!(self, Self::On | Self::Standby)
    }
}
