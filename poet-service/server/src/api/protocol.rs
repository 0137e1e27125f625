//! What is spoken on a listener.

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, for REST.
    Http1,
    /// HTTP/2 without TLS, for gRPC.
    Http2,
    /// Whichever of them the client begins with.
    Either,
}
