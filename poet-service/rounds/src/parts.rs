//! The parts of a server that run as long as it does, such as the one that opens rounds. None may
//! end early: a server without one of them looks healthy and is not.

use std::{future::Future, io, thread};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// Starts parts and observes which have ended.
#[derive(Debug)]
pub struct Supervisor {
    parts: UnboundedSender<&'static str>,
    ended: UnboundedReceiver<&'static str>,
}

/// Reports that a part has ended, normally or by a panic.
struct Guard {
    name: &'static str,
    parts: UnboundedSender<&'static str>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Nobody receives this after the server has ended.
        let _ = self.parts.send(self.name);
    }
}

impl Supervisor {
    /// Creates a supervisor without parts.
    pub fn new() -> Self {
        let (parts, ended) = unbounded_channel();
        Self { parts, ended }
    }

    /// Starts a part on the runtime's threads.
    pub fn spawn(&self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        let guard = self.guard(name);
        tokio::spawn(async move {
            let _guard = guard;
            part.await;
        });
    }

    /// Starts a part on its own thread, which it may block (see [`blocking`](crate::blocking()))
    /// without the runtime starting another one. A single-threaded runtime, as in a simulation,
    /// runs it on its one thread.
    ///
    /// # Errors
    /// Fails if the system does not provide a thread.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = Handle::current();
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            self.spawn(name, part);
            return Ok(());
        }
        let guard = self.guard(name);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _guard = guard;
                runtime.block_on(part);
            })?;
        Ok(())
    }

    fn guard(&self, name: &'static str) -> Guard {
        Guard {
            name,
            parts: self.parts.clone(),
        }
    }

    /// Waits for the next part to end; returns its name.
    pub async fn ended(&mut self) -> &'static str {
        match self.ended.recv().await {
            Some(name) => name,
            // There is always a sender: this one.
            None => std::future::pending().await,
        }
    }

    /// Waits until all parts have ended.
    pub async fn all_ended(self) {
        let Self { parts, mut ended } = self;
        drop(parts);
        while ended.recv().await.is_some() {}
    }
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn an_end_is_noticed_whatever_its_cause() {
        let mut supervisor = Supervisor::new();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        supervisor.spawn("waits", async move { drop(stopped.await) });
        supervisor.spawn_thread("ends", async {}).unwrap();
        assert_eq!(supervisor.ended().await, "ends");
        supervisor.spawn("panics", async { panic!("on purpose") });
        assert_eq!(supervisor.ended().await, "panics");
        let panics = async { crate::blocking(|| panic!("on purpose")) };
        supervisor.spawn_thread("panics there", panics).unwrap();
        assert_eq!(supervisor.ended().await, "panics there");
        stop.send(()).unwrap();
        supervisor.all_ended().await;
    }
}
