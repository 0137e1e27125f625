//! How long to wait for clients.

use std::time::Duration;

/// How long to wait for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a request's headers, and how long a connection of HTTP/1.1 may lie idle.
    pub headers: Duration,
    /// How long a connection of HTTP/2 may lie idle.
    pub idle: Duration,
    /// How often a connection of HTTP/2 is asked whether somebody is still there.
    pub ping: Duration,
    /// How long the answer to that may take.
    pub pong: Duration,
    /// How long a client may be behind with reading its answers.
    pub stall: Duration,
    /// What a client must read of them in the long run.
    pub bytes_per_second: u64,
    /// How often connections are looked through for those that are to be cut off.
    pub sweep: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            headers: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            ping: Duration::from_secs(60),
            pong: Duration::from_secs(20),
            stall: Duration::from_secs(60),
            bytes_per_second: 1024,
            sweep: Duration::from_secs(5),
        }
    }
}
