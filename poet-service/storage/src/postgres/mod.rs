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
mod error;
mod fill;
mod link;
mod opening;
mod schema;
mod settings;
mod shared_log;
mod storage;
mod tls;
mod url;
mod whole;
mod writer;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
        mpsc as blocking_mpsc,
    },
    thread,
    time::Duration,
};

use jiff::SignedDuration;
use poet_rounds::{
    clock::{Clock, SystemClock},
    counters::Counters,
};
use tokio::sync::mpsc;
use tokio_postgres::Client;

pub(crate) use self::fill::PostgresFill;
use self::{
    acknowledged::Acknowledged,
    error::Fault,
    link::{Link, Place},
    settings::read_setting,
    shared_log::PostgresLog,
    writer::{Command, PATIENCE, Writer},
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

/// Runs calls on a connection, one after the other.
struct Calls(mpsc::UnboundedSender<Call>);

/// A call that uses a connection.
type Call = Box<dyn for<'a> FnOnce(&'a mut Link) -> Pin<Box<dyn Future<Output = ()> + 'a>> + Send>;

/// How far this machine's clock is ahead of the database's.
#[derive(Debug)]
struct ClockOffset(AtomicI64);

impl ClockOffset {
    const UNKNOWN: i64 = i64::MIN;

    fn set(&self, offset: SignedDuration) {
        let micros = i64::try_from(offset.as_micros()).unwrap_or(i64::MAX);
        self.0.store(micros, Relaxed);
    }

    fn get(&self) -> Option<SignedDuration> {
        match self.0.load(Relaxed) {
            Self::UNKNOWN => None,
            micros => Some(SignedDuration::from_micros(micros)),
        }
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
        let clock_offset = Arc::new(ClockOffset(AtomicI64::new(ClockOffset::UNKNOWN)));
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

impl Calls {
    /// Starts a thread with a connection.
    fn start(name: &str, place: Arc<Place>) -> Result<Self, DatabaseError> {
        let (calls, mut queue) = mpsc::unbounded_channel::<Call>();
        with_link(name, place, false, async move |mut link| {
            while let Some(call) = queue.recv().await {
                call(&mut link).await;
            }
        })?;
        Ok(Self(calls))
    }

    /// Runs a call on the connection, and waits for it.
    fn call<T: Send + 'static>(
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
fn with_link<F: Future<Output = ()>>(
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
