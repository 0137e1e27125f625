//! The limits of clients, as far as the operating system permits them.

use crate::api::{
    client::{RequestRate, TrustedProxies},
    patience::Patience,
    slots::ConnectionLimits,
};

/// The default for REST. All nodes of a network connect within minutes.
const DEFAULT_CONNECTIONS: usize = 16_384;
/// Files that are not public connections: the database, logs, the tree log, the listeners, and the
/// connections of the operator and of monitoring.
const OTHER_FILES: usize = 512;
/// Connections of the operator, and of monitoring.
const PRIVATE_CONNECTIONS: usize = 64;

/// The configured limits for clients of the public interfaces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClientLimits {
    /// Connections for REST at a time.
    pub max_connections: Option<usize>,
    /// Connections for gRPC at a time.
    pub max_grpc_connections: Option<usize>,
    /// Connections of one address to each interface.
    pub max_connections_per_address: Option<usize>,
    /// Requests of one address.
    pub rate: Option<RequestRate>,
    /// Proxies, which are no clients themselves.
    pub proxies: TrustedProxies,
    /// How long to wait for each client.
    pub patience: Patience,
}

/// The number of connections that each interface may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connections {
    pub(crate) rest: ConnectionLimits,
    pub(crate) grpc: ConnectionLimits,
    /// For each interface that is not public.
    pub(crate) private: ConnectionLimits,
}

impl ClientLimits {
    /// Returns the connections that are possible with this limit on open files.
    pub(crate) fn connections(&self, open_files: Option<u64>) -> Connections {
        let wanted_rest = self.max_connections.unwrap_or(DEFAULT_CONNECTIONS);
        let wanted_grpc = self.max_grpc_connections.unwrap_or(wanted_rest.div_ceil(4));
        let available = open_files
            .and_then(|files| usize::try_from(files).ok())
            .map_or(usize::MAX, |files| files.saturating_sub(OTHER_FILES).max(2));
        let (mut rest, mut grpc) = (wanted_rest, wanted_grpc);
        if wanted_rest.saturating_add(wanted_grpc) > available {
            // The files are divided in proportion.
            let part = wanted_rest as f64 / (wanted_rest as f64 + wanted_grpc as f64);
            rest = ((available as f64 * part) as usize).clamp(1, available - 1);
            grpc = available - rest;
        }
        for (option, given, wanted, served) in [
            ("--max-connections", self.max_connections, wanted_rest, rest),
            (
                "--max-grpc-connections",
                self.max_grpc_connections,
                wanted_grpc,
                grpc,
            ),
        ] {
            if given.is_some() && served < wanted {
                tracing::warn!(
                    "{option} {wanted} is too much for the limit on open files: serving {served}"
                );
            }
        }
        let public = |all| {
            let limits = ConnectionLimits::new(all);
            ConnectionLimits {
                per_address: self
                    .max_connections_per_address
                    .unwrap_or(limits.per_address),
                proxies: self.proxies.clone(),
                patience: self.patience.clone(),
                ..limits
            }
        };
        Connections {
            rest: public(rest),
            grpc: public(grpc),
            private: ConnectionLimits::new(PRIVATE_CONNECTIONS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_the_rest() {
        let limits = ClientLimits::default();
        let of = |files| {
            let connections = limits.connections(files);
            (connections.rest.all, connections.grpc.all)
        };
        assert_eq!(of(None), (16_384, 4096));
        assert_eq!(of(Some(1 << 20)), (16_384, 4096));
        assert_eq!(of(Some(u64::MAX)), (16_384, 4096));
        for files in [1024, 4096, 20_000] {
            let (rest, grpc) = of(Some(files));
            assert!(rest > 0 && grpc > 0 && rest + grpc + OTHER_FILES <= files as usize);
        }
        assert_eq!(of(Some(0)), (1, 1));
        let limits_of = |rest, grpc| {
            let limits = ClientLimits {
                max_connections: rest,
                max_grpc_connections: grpc,
                ..ClientLimits::default()
            };
            let connections = limits.connections(Some(1512));
            (connections.rest.all, connections.grpc.all)
        };
        assert_eq!(limits_of(Some(100), None), (100, 25));
        assert_eq!(limits_of(Some(100), Some(900)), (100, 900));
        assert_eq!(limits_of(Some(10), Some(1)), (10, 1));
        assert_eq!(limits_of(Some(3000), Some(1000)), (750, 250));
        let rest = limits.connections(None).rest;
        assert_eq!(rest.per_address, rest.all / 2);
    }
}
