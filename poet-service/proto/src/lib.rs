//! What the clients and the servers of a PoET exchange, and the rules for it that both sides must
//! agree on. Nothing here does I/O over a network or knows of a configuration.
//!
//! | module | what it holds |
//! |---|---|
//! | [`messages`] | the requests and answers |
//! | [`json`] | their JSON: the canonical mapping of protobuf |
//! | [`mod@base64`] | bytes as text |
//! | [`duration`] | durations as Go and as protobuf write them |
//! | [`timestamp`] | protobuf's timestamps, read as Go reads them |
//! | [`identity`] | ed25519 keys and signatures, by Go's rules |
//! | [`certificate`] | certificates and the keys that sign them |
//! | [`receipt`] | what a server signs when it acknowledges a registration |
//! | [`pow`] | the proof of work of a registration |

pub mod base64;
pub mod certificate;
pub mod duration;
pub mod identity;
pub mod json;
pub mod messages;
pub mod pow;
pub mod receipt;
pub mod timestamp;
