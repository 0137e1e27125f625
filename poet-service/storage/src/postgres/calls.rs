//! Threads that have a connection each.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, mpsc as blocking_mpsc},
    thread,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_postgres::Client;

use super::{
    error::{Fault, PostgresError},
    link::{Link, Place},
};
use crate::DatabaseError;

/// Runs calls on a connection, one after the other.
pub(super) struct Calls(mpsc::UnboundedSender<Call>);

/// A call that uses a connection.
type Call = Box<dyn for<'a> FnOnce(&'a mut Link) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

impl Calls {
    /// Starts a thread with a connection.
    pub(super) fn start(name: &str, place: Arc<Place>) -> Result<Self, DatabaseError> {
        let (calls, mut queue) = mpsc::unbounded_channel::<Call>();
        with_link(name, place, false, async move |mut link| {
            while let Some(call) = queue.recv().await {
                call(&mut link).await;
            }
        })?;
        Ok(Self(calls))
    }

    /// Runs a call on the connection, and waits for it.
    pub(super) fn call<T: Send + 'static>(
        &self,
        patience: Duration,
        operation: impl AsyncFn(&mut Client) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let result = Arc::new(Mutex::new(None));
        let done = Arc::clone(&result);
        self.wait_for(Box::new(move |link| {
            Box::pin(async move {
                let result = link.run(patience, operation).await;
                *done.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
            })
        }))?;
        let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
        result.take().ok_or(PostgresError::Stopped)?
    }

    /// Resolves when the thread has ended.
    pub(super) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        let calls = self.0.clone();
        async move { calls.closed().await }
    }

    /// Runs a call and waits for its end. This is apart from [`Self::call`], which is compiled for each
    /// operation.
    fn wait_for(&self, call: Call) -> Result<(), PostgresError> {
        // A channel of the standard library, which can be waited for on any thread.
        let (reply, answered) = blocking_mpsc::sync_channel(1);
        let call: Call = Box::new(move |link| {
            Box::pin(async move {
                call(link).await;
                reply.send(()).ok();
            })
        });
        self.0.send(call).map_err(|_| PostgresError::Stopped)?;
        answered.recv().map_err(|_| PostgresError::Stopped)
    }
}

/// Starts a thread with its own connection. Returns once it is connected.
pub(super) fn with_link<F: Future<Output = ()>>(
    name: &str,
    place: Arc<Place>,
    create: bool,
    work: impl FnOnce(Link) -> F + Send + 'static,
) -> Result<(), DatabaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (tell, told) = blocking_mpsc::sync_channel(1);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                match Link::open(place, create).await {
                    Ok(link) => {
                        drop(tell.send(Ok(())));
                        work(link).await;
                    }
                    Err(error) => drop(tell.send(Err(error))),
                }
            });
        })?;
    told.recv().map_err(|_| PostgresError::Stopped)?
}
