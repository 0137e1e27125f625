//! What the clients and the servers of a PoET exchange, and the rules for it that both sides must
//! agree on. Nothing here does I/O over a network or knows of a configuration.
//!
//! | module | what it holds |
//! |---|---|
//! | [`member`] | nodes and their challenges |
//! | [`messages`] | the requests and answers |
//! | [`json`] | their JSON: the canonical mapping of protobuf |
//! | [`mod@base64`] | bytes as text |
//! | [`duration`] | durations as Go and as protobuf write them |
//! | [`timestamp`] | protobuf's timestamps, read as Go reads them |
//! | [`identity`] | ed25519 keys and signatures, by Go's rules |
//! | [`certificate`] | certificates and the keys that sign them |
//! | [`receipt`] | what a server signs when it acknowledges a registration |
//! | [`pow`] | the proof of work of a registration |
//! | [`schedule`] | when rounds open, start and end, and for which epochs they count |
//! | [`network`] | networks whose schedule is known |
//! | [`timetable`], [`calendar`] | the next rounds as programs print them, and as a calendar |
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
