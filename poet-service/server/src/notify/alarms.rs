//! Notifies the operator of every log line that begins with `ALARM`.

use std::fmt::{self, Write as _};

use tracing::{
    Event as LogEvent, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use super::{event::Event, notices::Notices};

/// The prefix of alarm messages.
const ALARM: &str = "ALARM";

/// Forwards alarms from the log. Must be used with a filter for errors.
pub(crate) struct Alarms(pub(crate) Notices);

impl<S: Subscriber> Layer<S> for Alarms {
    fn on_event(&self, event: &LogEvent<'_>, _context: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        if line.message.starts_with(ALARM) {
            self.0.send(&Event::Alarm {
                message: line.message,
                details: line.details,
            });
        }
    }
}

/// A line of the log.
#[derive(Default)]
struct Line {
    message: String,
    details: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string does not fail.
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            let comma = if self.details.is_empty() { "" } else { ", " };
            let _ = write!(self.details, "{comma}{}={value:?}", field.name());
        }
    }
}
