//! Networks whose schedule is known.

use std::time::Duration;

use jiff::Timestamp;

use crate::schedule::Schedule;

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The network's name.
    pub name: &'static str,
    /// The genesis id, which nodes' signatures include.
    pub genesis_id: [u8; 20],
    /// The time of genesis.
    pub genesis: Timestamp,
    /// The time from one round's start to the next one's.
    pub epoch_duration: Duration,
    /// The time from genesis to the start of round 0.
    pub phase_shift: Duration,
    /// The time from a round's end to the next one's start.
    pub cycle_gap: Duration,
}

const HOUR: u64 = 3600;

/// All known networks.
pub const NETWORKS: [Network; 1] = [Network {
    name: "mainnet",
    genesis_id: [
        0x9e, 0xeb, 0xff, 0x02, 0x3a, 0xbb, 0x17, 0xcc, 0xb7, 0x75, 0xc6, 0x02, 0xda, 0xad, 0xe8,
        0xed, 0x70, 0x8f, 0x0a, 0x50,
    ],
    // 2023-07-14T08:00:00Z
    genesis: Timestamp::constant(1_689_321_600, 0),
    epoch_duration: Duration::from_secs(336 * HOUR),
    phase_shift: Duration::from_secs(240 * HOUR),
    cycle_gap: Duration::from_secs(12 * HOUR),
}];

impl Network {
    /// Returns the network of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        NETWORKS.iter().find(|network| network.name == name)
    }

    /// Returns the network with this genesis id.
    pub fn with_id(genesis_id: &[u8; 20]) -> Option<&'static Self> {
        NETWORKS
            .iter()
            .find(|network| network.genesis_id == *genesis_id)
    }

    /// Returns the network that follows this schedule.
    pub fn of(schedule: &Schedule) -> Option<&'static Self> {
        NETWORKS
            .iter()
            .find(|network| network.schedule().as_ref() == Some(schedule))
    }

    /// Returns the network's schedule; `None` if its parameters are invalid.
    pub fn schedule(&self) -> Option<Schedule> {
        Schedule::new(
            self.genesis,
            self.epoch_duration,
            self.phase_shift,
            self.cycle_gap,
        )
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_network_is_possible_and_found() {
        for network in &NETWORKS {
            let schedule = network.schedule().unwrap();
            assert_eq!(Network::named(network.name), Some(network));
            assert_eq!(Network::with_id(&network.genesis_id), Some(network));
            assert_eq!(Network::of(&schedule), Some(network));
        }
        assert_eq!(Network::named("testnet"), None);
        let mainnet = Network::named("mainnet").unwrap();
        assert_eq!(mainnet.genesis.to_string(), "2023-07-14T08:00:00Z");
    }
}
