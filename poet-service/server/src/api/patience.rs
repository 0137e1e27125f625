//! How long to wait for clients.

use std::time::Duration;

/// How long to wait for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For a request's headers, and for an idle HTTP/1.1 connection.
    pub headers: Duration,
    /// For an idle HTTP/2 connection.
    pub idle: Duration,
    /// How often to ping an HTTP/2 connection.
    pub ping: Duration,
    /// How long the answer to a ping may take.
    pub pong: Duration,
    /// How far a client may be behind in reading its responses.
    pub stall: Duration,
    /// How much a client must read in the long run.
    pub bytes_per_second: u64,
    /// How often to look for connections to close.
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
