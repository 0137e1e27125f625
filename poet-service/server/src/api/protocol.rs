//! The protocols of a listener.

/// The protocol of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, for REST.
    Http1,
    /// HTTP/2 without TLS, for gRPC.
    Http2,
    /// Whichever the client starts with.
    Either,
}
