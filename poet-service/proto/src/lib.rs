//! What the clients and servers of a PoET exchange, and the rules on which both sides must agree.
//! Nothing here does network I/O or reads a configuration.
//!
//! | module | contents |
//! |---|---|
//! | [`member`] | nodes and their challenges |
//! | [`messages`] | the requests and answers |
//! | [`json`] | their JSON: the canonical mapping of protobuf |
//! | [`mod@base64`] | bytes as text |
//! | [`duration`] | durations as Go and protobuf write them |
//! | [`timestamp`] | protobuf's timestamps, read as Go reads them |
//! | [`identity`] | ed25519 keys and signatures, by Go's rules |
//! | [`certificate`] | certificates and the keys that sign them |
//! | [`receipt`] | what a server signs when it acknowledges a registration |
//! | [`pow`] | the proof of work of a registration |
//! | [`schedule`] | when rounds open, start and end, and for which epochs they count |
//! | [`network`] | networks whose schedule is known |
//! | [`timetable`], [`calendar`] | the next rounds as text, as JSON and as a calendar |
//! | [`dates`] | dates for people, in their time zone |

pub mod base64;
pub mod calendar;
pub mod certificate;
pub mod dates;
pub mod duration;
pub mod identity;
pub mod json;
pub mod member;
pub mod messages;
pub mod network;
pub mod pow;
pub mod receipt;
pub mod schedule;
pub mod timestamp;
pub mod timetable;
