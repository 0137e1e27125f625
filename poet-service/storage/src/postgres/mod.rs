//! The shared storage: a PostgreSQL database, which several servers may use at once.
//!
//! Each decision that must be made only once is one statement or transaction: who is a member and
//! when a round closes, under the lock of the round's row; everything else, by who is first.
//! Nothing depends on the state of a connection, and every operation can be repeated, since the
//! answer to a commit may be lost with its connection.
//!
//! One thread has the connection for registrations and openings, which are executed in order;
//! another one that for the shared logs, and a third one that for everything else. A caller that
//! waits for an answer blocks only its own runtime.

mod acknowledged;
mod calls;
mod error;
pub(crate) mod fill;
mod link;
mod opening;
mod schema;
mod settings;
mod shared_log;
mod storage;
mod tls;
mod url;
mod values;
mod whole;
mod writer;

use std::{fmt, sync::Arc, time::Duration};

use poet_rounds::{
    clock::{Clock, SystemClock},
    counters::Counters,
};
use tokio::sync::mpsc;
use tokio_postgres::Client;

use self::{
    acknowledged::Acknowledged,
    calls::{Calls, with_link},
    error::Fault,
    link::Place,
    settings::read_setting,
    shared_log::PostgresLog,
    writer::{ClockOffset, Command, PATIENCE, Writer},
};
pub use self::{error::PostgresError, url::DatabaseUrl};
use crate::{DatabaseError, database::COPYING, repeated::Repeated};

/// Commands that may wait for the writer; more callers wait for room.
const QUEUED_COMMANDS: usize = 16_384;

/// Storage in a PostgreSQL database.
pub struct PostgresStorage {
    commands: mpsc::Sender<Command>,
    calls: Calls,
    log: Arc<PostgresLog>,
    clock_offset: Arc<ClockOffset>,
}

impl fmt::Debug for PostgresStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStorage").finish_non_exhaustive()
    }
}

impl PostgresStorage {
    /// Connects to a database, and creates its tables if there are none. A statement holds at most
    /// `max_batch` registrations. May block.
    ///
    /// # Errors
    /// Fails if the database cannot be used.
    pub fn open(
        url: &DatabaseUrl,
        max_batch: usize,
        clock: Arc<dyn Clock>,
        counters: Arc<dyn Counters>,
    ) -> Result<Self, DatabaseError> {
        let storage = Self::connect(url, max_batch, clock, counters, true)?;
        let unfinished = storage.call(PATIENCE, async |client: &mut Client| {
            read_setting(client, COPYING).await
        })?;
        match unfinished {
            None => Ok(storage),
            Some(_) => Err(PostgresError::Unfinished(url.database().to_owned()).into()),
        }
    }

    /// Connects to a database with tables, as an operator, even if others use it. May block.
    ///
    /// # Errors
    /// Fails if [`Self::open`] does.
    pub fn open_to_read(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        Self::connect(
            &url.for_operator(),
            1,
            Arc::new(SystemClock),
            Arc::new(()),
            false,
        )
    }

    /// Connects to the target of a copy, and creates its tables if there are none.
    fn open_to_fill(url: &DatabaseUrl) -> Result<Self, DatabaseError> {
        Self::connect(url, 1, Arc::new(SystemClock), Arc::new(()), true)
    }

    fn connect(
        url: &DatabaseUrl,
        max_batch: usize,
        clock: Arc<dyn Clock>,
        counters: Arc<dyn Counters>,
        create: bool,
    ) -> Result<Self, DatabaseError> {
        let place = Arc::new(Place::new(url.clone(), Arc::clone(&clock)));
        let clock_offset = Arc::new(ClockOffset::unknown());
        let (commands, queue) = mpsc::channel(QUEUED_COMMANDS);
        let offset = Arc::clone(&clock_offset);
        let failures = Repeated::new(Arc::clone(&clock));
        with_link("storage", Arc::clone(&place), create, async move |link| {
            let writer = Writer {
                link,
                max_batch,
                clock,
                clock_offset: offset,
                counters,
                acknowledged: Acknowledged::default(),
                written: None,
                failures,
            };
            writer.run(queue).await;
        })?;
        Ok(Self {
            commands,
            calls: Calls::start("storage-reads", Arc::clone(&place))?,
            log: Arc::new(PostgresLog(Calls::start("storage-log", place)?)),
            clock_offset,
        })
    }

    /// Runs a call on the connection for everything else, and waits for it.
    fn call<T: Send + 'static>(
        &self,
        patience: Duration,
        operation: impl AsyncFn(&mut Client) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, DatabaseError> {
        self.calls.call(patience, operation)
    }
}
