//! Sends events to the receivers.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use poet_host::niceness;
use poet_proto::{base64, identity::PublicKey};
use poet_rounds::clock::{Clock, SystemClock};

use super::{
    budget::Budget,
    command::{self, Program},
    event::{Event, Notice, Source},
    queue::{Queue, Receiver},
    webhook::{Webhook, WebhookUrl},
};

/// How long the shutdown waits for pending notifications.
pub const END: Duration = Duration::from_millis(1500);

/// Who is notified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NotifyConfig {
    /// A program that gets each event on its standard input.
    pub command: Option<PathBuf>,
    /// The URL to which each event is posted.
    pub url: Option<WebhookUrl>,
}

impl NotifyConfig {
    fn receivers(&self, clock: &Arc<dyn Clock>) -> Vec<Box<dyn Receiver>> {
        let command = self.command.clone().map(|program| {
            let receiver: Box<dyn Receiver> = Box::new(Program::new(program, Arc::clone(clock)));
            receiver
        });
        let url = self.url.clone().map(|url| {
            let receiver: Box<dyn Receiver> = Box::new(Webhook::new(url));
            receiver
        });
        command.into_iter().chain(url).collect()
    }

    /// Sends each receiver a test event. Returns the results, by the receiver's name. May block for
    /// as long as the receivers take.
    pub fn test(&self) -> Vec<(String, Result<(), String>)> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let text = Notice::new(&Event::Test, &Source::new(), clock.now(), 0).json();
        let queue = Queue::default();
        let deliver = |mut receiver: Box<dyn Receiver>| {
            let result = receiver.deliver(&text, &queue);
            (receiver.name(), result)
        };
        self.receivers(&clock).into_iter().map(deliver).collect()
    }
}

/// Notifies the operator. Clones share the receivers.
#[derive(Clone)]
pub struct Notices(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    source: Source,
    budget: Mutex<Budget>,
    queues: Vec<Arc<Queue>>,
}

impl Notices {
    /// Starts a thread for each receiver in `config`.
    ///
    /// # Errors
    /// Fails if the system does not provide threads.
    pub fn start(config: &NotifyConfig, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let start = |receiver: Box<dyn Receiver>| {
            let queue = Arc::<Queue>::default();
            let served = Arc::clone(&queue);
            thread::Builder::new()
                .name("notify".to_owned())
                .spawn(move || {
                    // The programs that it starts inherit this. It is not important enough to fail.
                    drop(niceness::set(niceness::LOWEST_PRIORITY));
                    served.serve(receiver);
                })?;
            Ok(queue)
        };
        let queues = config.receivers(&clock).into_iter().map(start);
        Ok(Self(Arc::new(Inner {
            budget: Mutex::new(Budget::new(clock.monotonic())),
            clock,
            source: Source::new(),
            queues: queues.collect::<io::Result<_>>()?,
        })))
    }

    /// Sets the key of the server that sends events.
    pub(crate) fn set_server(&self, key: &PublicKey) {
        // Once, since a process has one server.
        let _ = self.0.source.key.set(base64::encode(key.as_bytes()));
    }

    /// Queues an event for all receivers, or counts it as left out. Does not wait.
    pub(crate) fn send(&self, event: &Event) {
        if self.0.queues.is_empty() {
            return;
        }
        let left_out = {
            let mut budget = self.0.budget.lock().unwrap_or_else(PoisonError::into_inner);
            match budget.take(event, self.0.clock.monotonic()) {
                Some(left_out) => left_out,
                None => return,
            }
        };
        let notice = Notice::new(event, &self.0.source, self.0.clock.now(), left_out).json();
        for queue in &self.0.queues {
            queue.push(Arc::clone(&notice));
        }
    }

    /// Waits for all deliveries, at most for `timeout`, and then gives up those in progress.
    pub fn end(&self, timeout: Duration) {
        let clock = &self.0.clock;
        let deadline = clock.monotonic() + timeout;
        for queue in &self.0.queues {
            queue.finish();
        }
        for queue in &self.0.queues {
            queue.wait(deadline.saturating_sub(clock.monotonic()));
        }
        for queue in &self.0.queues {
            queue.give_up();
        }
        // A program that is still running is killed.
        for queue in &self.0.queues {
            queue.wait(command::KILL_TIME);
        }
    }
}
