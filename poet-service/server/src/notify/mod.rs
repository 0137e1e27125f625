//! Notifies the operator: runs a program, or calls a webhook, for each event.
//!
//! A receiver may hang, fail or be gone, and the server must not wait for it. So each receiver has
//! a bounded queue and a thread of its own; events that find no room are counted and dropped.
//! Before that, the number of events is limited: a repeated alarm is sent once an hour, and all
//! events share a budget that refills with time. The next event says how many were left out.

mod alarms;
mod budget;
mod command;
mod event;
mod notices;
mod queue;
mod webhook;

pub(crate) use self::{alarms::Alarms, event::Event};
pub use self::{
    notices::{END, Notices, NotifyConfig},
    webhook::WebhookUrl,
};
