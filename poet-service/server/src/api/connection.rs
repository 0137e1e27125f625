//! One connection of a server: its activity, so that idle, waiting and stalled connections can be
//! distinguished and closed.
//!
//! A client that does not read its response, or reads it drop by drop, occupies a connection and
//! the response's memory. While something waits to be sent, a client must read a number of bytes
//! each second (see [`Patience`]). It may be behind for a while, because a client's system makes
//! room in steps: a full window opens again only when a good part of it was read. [`UNSENT_BYTES`]
//! limits what waits in this system's own buffer, so that written bytes are bytes that the client's
//! system has accepted.
//!
//! An HTTP/2 client can stall a response without stalling the socket. There, what counts is the
//! parts of responses that could be sent, not the bytes written, which include pings.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Relaxed},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::{
    Response,
    body::{Frame, Incoming, SizeHint},
    rt::{Read, ReadBuf, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use poet_rounds::clock::Clock;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Sleep, sleep},
};

use super::{
    budget::{Charge, OverBudget},
    patience::Patience,
};

/// What the system buffers for a socket without having sent it.
#[cfg(any(target_os = "linux", target_os = "macos"))]
const UNSENT_BYTES: u32 = 32 * 1024;
/// How much of a response to take at once over HTTP/2.
const PART_BYTES: usize = 16 * 1024;
/// How long a client may continue to send after the last response of a connection, and how much. If
/// a connection is closed while data arrives, it is reset, and the response is lost.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;
/// How long to watch a connection that is about to be closed for a request that was not read yet.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// The activity of a connection.
pub(super) struct Activity {
    clock: Arc<dyn Clock>,
    /// When the connection was accepted, by the monotonic clock.
    accepted: Duration,
    /// Requests whose responses are incomplete, not counting streams.
    requests: AtomicUsize,
    /// Of these, requests whose bodies are incomplete, too.
    receiving: AtomicUsize,
    /// Since when there are such requests, in milliseconds after the connection was accepted.
    receiving_since_ms: AtomicU64,
    /// Open streams. A client can leave them open for ever and send nothing.
    streams: AtomicUsize,
    /// Incomplete responses; for streams, those of which a part was taken that may not have been
    /// sent yet.
    sending: AtomicUsize,
    had_request: AtomicBool,
    over_http2: AtomicBool,
    /// Since when no response is being made or sent, in milliseconds after the connection was
    /// accepted.
    idle_since_ms: AtomicU64,
    /// Whether the socket accepts no more data.
    blocked: AtomicBool,
    /// Whether some data may not have reached the socket.
    unflushed: AtomicBool,
    written_bytes: AtomicU64,
    taken_bytes: AtomicU64,
    close: Notify,
    closed_anyway: AtomicBool,
    asked_to_close: AtomicBool,
}

/// Whether a connection may be closed to make room, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It must not be closed: a response is being made or sent.
    Busy,
    /// All its requests wait for the rest of their bodies.
    Receiving(Duration),
    /// It is idle.
    Idle(Duration),
}

impl Activity {
    /// The activity of a connection that is accepted now.
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            accepted: clock.monotonic(),
            clock,
            requests: AtomicUsize::new(0),
            receiving: AtomicUsize::new(0),
            receiving_since_ms: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            sending: AtomicUsize::new(0),
            had_request: AtomicBool::new(false),
            over_http2: AtomicBool::new(false),
            idle_since_ms: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            unflushed: AtomicBool::new(false),
            written_bytes: AtomicU64::new(0),
            taken_bytes: AtomicU64::new(0),
            close: Notify::new(),
            closed_anyway: AtomicBool::new(false),
            asked_to_close: AtomicBool::new(false),
        }
    }

    /// Returns how long ago the connection was accepted.
    pub(super) fn age(&self) -> Duration {
        self.clock.monotonic().saturating_sub(self.accepted)
    }

    /// Must be called for each request, before anything else is done with it.
    pub(super) fn begin_request(
        self: &Arc<Self>,
        is_stream: bool,
        over_http2: bool,
        charge: Option<Charge>,
    ) -> RequestGuard {
        let guard = RequestGuard {
            activity: Arc::clone(self),
            is_stream,
            charge,
        };
        guard.count().fetch_add(1, AcqRel);
        self.had_request.store(true, Relaxed);
        self.over_http2.store(over_http2, Relaxed);
        self.be_busy_until_now();
        guard
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Relaxed)
    }

    pub(super) fn had_request(&self) -> bool {
        self.had_request.load(Relaxed)
    }

    /// Returns whether the connection may be closed to make room for another one. Streams count
    /// only when data arrives on them.
    pub(super) fn standing(&self) -> Standing {
        if self.is_sending() || self.unflushed.load(Relaxed) {
            return Standing::Busy;
        }
        let (requests, receiving) = (self.requests.load(Relaxed), self.receiving.load(Relaxed));
        if requests > receiving {
            Standing::Busy
        } else if requests > 0 {
            Standing::Receiving(self.since(&self.receiving_since_ms))
        } else {
            Standing::Idle(self.since(&self.idle_since_ms))
        }
    }

    /// Asks the connection to close, unless it becomes active first.
    pub(super) fn ask_to_close(&self) {
        self.asked_to_close.store(true, Relaxed);
        self.close.notify_one();
    }

    /// Returns whether it was asked to close and has not declined.
    pub(super) fn is_closing(&self) -> bool {
        self.asked_to_close.load(Relaxed)
    }

    /// Closes the connection, whatever it is doing.
    pub(super) fn close(&self) {
        self.closed_anyway.store(true, Relaxed);
        self.close.notify_one();
    }

    /// Runs a connection until it ends or must close. Calls `declined` if it was asked to close and
    /// is active.
    pub(super) async fn drive<E: std::fmt::Display>(
        &self,
        connection: impl Future<Output = Result<(), E>>,
        declined: impl Fn(),
    ) {
        let ended = |result: Result<(), E>| {
            if let Err(error) = result {
                tracing::debug!(%error, "connection ended");
            }
        };
        let mut connection = std::pin::pin!(connection);
        loop {
            tokio::select! {
                biased;
                result = &mut connection => return ended(result),
                () = self.close.notified() => {}
            }
            if self.closed_anyway.load(Relaxed) {
                return;
            }
            // A request may have arrived that was not read yet. The connection is asked here, where
            // nothing else can happen on it between the question and its end.
            tokio::select! {
                biased;
                result = &mut connection => return ended(result),
                () = sleep(LAST_LOOK) => {}
            }
            if !self.is_fresh() {
                return;
            }
            self.asked_to_close.store(false, Relaxed);
            declined();
        }
    }

    /// Returns whether a request has begun since the connection was asked to close.
    fn is_fresh(&self) -> bool {
        match self.standing() {
            Standing::Busy => true,
            Standing::Receiving(since) | Standing::Idle(since) => since <= LAST_LOOK,
        }
    }

    fn since(&self, ms: &AtomicU64) -> Duration {
        let since = Duration::from_millis(ms.load(Relaxed));
        self.age().saturating_sub(since)
    }

    fn set_now(&self, ms: &AtomicU64) {
        let now_ms = u64::try_from(self.age().as_millis());
        ms.store(now_ms.unwrap_or(u64::MAX), Relaxed);
    }

    fn be_busy_until_now(&self) {
        self.set_now(&self.idle_since_ms);
    }

    fn is_sending(&self) -> bool {
        self.blocked.load(Relaxed) || self.sending.load(Relaxed) > 0
    }
}

/// How far a client is behind in reading.
#[derive(Debug)]
pub(super) struct Progress {
    /// When the client was last looked at, in the age of the connection.
    seen: Duration,
    written_bytes: u64,
    taken_bytes: u64,
    /// For how long the client may read nothing from now on.
    left: Duration,
}

impl Progress {
    /// The progress on a connection that is accepted now.
    pub(super) fn new(patience: &Patience) -> Self {
        Self {
            seen: Duration::ZERO,
            written_bytes: 0,
            taken_bytes: 0,
            left: patience.stall,
        }
    }

    /// Returns whether the client reads fast enough, if there is something to read. Must be called
    /// periodically.
    pub(super) fn is_enough(&mut self, activity: &Activity, patience: &Patience) -> bool {
        let now = activity.age();
        let written_bytes = activity.written_bytes.load(Relaxed);
        let taken_bytes = activity.taken_bytes.load(Relaxed);
        let (written, taken) = (
            written_bytes.saturating_sub(self.written_bytes),
            taken_bytes.saturating_sub(self.taken_bytes),
        );
        let passed = now.saturating_sub(self.seen);
        (self.seen, self.written_bytes, self.taken_bytes) = (now, written_bytes, taken_bytes);
        if !activity.is_sending() {
            self.left = patience.stall;
            return true;
        }
        let answering = activity.sending.load(Relaxed) > 0;
        let read = match activity.over_http2.load(Relaxed) && answering {
            true => taken,
            false => written,
        };
        let bought = Duration::from_millis(read.saturating_mul(1000) / patience.bytes_per_second);
        let left = (self.left + bought).saturating_sub(passed);
        self.left = left.min(patience.stall);
        !self.left.is_zero()
    }
}

/// A request until its response is complete or abandoned.
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    is_stream: bool,
    /// `None` if the request is refused.
    charge: Option<Charge>,
}

impl RequestGuard {
    /// The counter of requests of this kind.
    fn count(&self) -> &AtomicUsize {
        match self.is_stream {
            true => &self.activity.streams,
            false => &self.activity.requests,
        }
    }

    /// Wraps the body of the request, whose bytes are charged as they arrive.
    pub(super) fn receive(&self, body: Incoming) -> ReceivedBody {
        let receiving = !self.is_stream && !body.is_end_stream();
        ReceivedBody {
            body,
            charge: self.charge.clone(),
            is_stream: self.is_stream,
            receiving: receiving.then(|| Receiving::begin(&self.activity)),
        }
    }

    /// Wraps the response to the request.
    pub(super) fn watch(self, response: Response<Body>) -> Response<WatchedBody> {
        let activity = &self.activity;
        activity.unflushed.store(true, Relaxed);
        activity.be_busy_until_now();
        // Headers and body of the request are dropped by now.
        if let Some(charge) = &self.charge {
            charge.settle();
        }
        let part_bytes = match activity.over_http2.load(Relaxed) {
            true => PART_BYTES,
            false => usize::MAX,
        };
        response.map(|body| {
            let mut watched = WatchedBody {
                body,
                rest: Bytes::new(),
                part_bytes,
                sending: false,
                request: self,
            };
            // A stream may have nothing to send for a long time.
            watched.set_sending(!watched.request.is_stream);
            watched
        })
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.be_busy_until_now();
        self.count().fetch_sub(1, AcqRel);
    }
}

/// A request with an incomplete body.
struct Receiving(Arc<Activity>);

impl Receiving {
    fn begin(activity: &Arc<Activity>) -> Self {
        if activity.receiving.fetch_add(1, AcqRel) == 0 {
            activity.set_now(&activity.receiving_since_ms);
        }
        Self(Arc::clone(activity))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.receiving.fetch_sub(1, AcqRel);
    }
}

/// The body of a request.
pub(super) struct ReceivedBody {
    body: Incoming,
    charge: Option<Charge>,
    is_stream: bool,
    receiving: Option<Receiving>,
}

impl HttpBody for ReceivedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        // The data of a stream is processed and dropped: each message has its own limit.
        if let (false, Some(charge), Some(Ok(frame))) = (self.is_stream, &self.charge, &frame) {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            if let Err(OverBudget) = charge.grow(bytes) {
                return Poll::Ready(Some(Err(axum::Error::new(OverBudget))));
            }
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.receiving = None;
        }
        Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response.
pub(super) struct WatchedBody {
    body: Body,
    /// The part of the body that was taken but not passed on yet.
    rest: Bytes,
    part_bytes: usize,
    /// Whether it counts as being sent.
    sending: bool,
    request: RequestGuard,
}

impl WatchedBody {
    fn set_sending(&mut self, sending: bool) {
        if sending != self.sending {
            self.sending = sending;
            let count = &self.request.activity.sending;
            if sending {
                count.fetch_add(1, AcqRel);
            } else {
                count.fetch_sub(1, AcqRel);
            }
        }
    }

    fn next_part(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.len().min(self.part_bytes);
        let part = self.rest.split_to(bytes);
        let activity = &self.request.activity;
        activity.taken_bytes.fetch_add(bytes as u64, Relaxed);
        activity.unflushed.store(true, Relaxed);
        activity.be_busy_until_now();
        self.set_sending(true);
        Frame::data(part)
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.request.is_stream {
            self.set_sending(false);
        }
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.next_part())));
        }
        match ready!(Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) => Poll::Ready(Some(Ok(match frame.into_data() {
                Ok(data) => {
                    self.rest = data;
                    self.next_part()
                }
                Err(trailers) => trailers,
            }))),
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let hint = self.body.size_hint();
        match hint.exact() {
            Some(bytes) => SizeHint::with_exact(bytes.saturating_add(rest)),
            None => hint,
        }
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.set_sending(false);
    }
}

/// The socket of a connection.
pub(super) struct Watched {
    stream: TokioIo<TcpStream>,
    activity: Arc<Activity>,
    lingering: Option<Lingering>,
}

/// The last moments of a connection.
struct Lingering {
    until: Pin<Box<Sleep>>,
    left_bytes: usize,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        // Responses are short and written at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        #[cfg(any(target_os = "linux", target_os = "macos"))]
        if let Err(error) = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
            tracing::debug!(%error, "cannot set TCP_NOTSENT_LOWAT");
        }
        Self {
            stream: TokioIo::new(stream),
            activity,
            lingering: None,
        }
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        let activity = &self.activity;
        let was_blocked = activity.blocked.swap(written.is_pending(), Relaxed);
        if let Poll::Ready(Ok(bytes)) = written {
            activity.written_bytes.fetch_add(*bytes as u64, Relaxed);
            // What is written while no response waits is HTTP/2 pings, which no client asked for.
            if was_blocked {
                activity.be_busy_until_now();
            }
        }
    }

    /// Reads what the client still sends, until it stops, or for a limited time.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let lingering = self.lingering.get_or_insert_with(|| Lingering {
            until: Box::pin(sleep(LINGER_TIMEOUT)),
            left_bytes: LINGER_BYTES,
        });
        let mut buffer = [0; 4096];
        loop {
            if lingering.until.as_mut().poll(context).is_ready() || lingering.left_bytes == 0 {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut self.stream).poll_read(context, buffer.unfilled());
            let bytes = buffer.filled().len();
            if ready!(read).is_err() || bytes == 0 {
                return Poll::Ready(());
            }
            lingering.left_bytes = lingering.left_bytes.saturating_sub(bytes);
        }
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when everything to write is written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.activity.blocked.store(false, Relaxed);
            self.activity.unflushed.store(false, Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        self.poll_linger(context).map(Ok)
    }
}

#[cfg(test)]
impl Activity {
    /// The activity of a connection that was accepted an hour ago.
    pub(super) fn of(standing: Standing) -> Self {
        let (activity, clock) = Self::simulated();
        let age = Duration::from_secs(3600);
        clock.pass(age);
        let age_ms = age.as_millis() as u64;
        match standing {
            Standing::Busy => activity.requests.store(1, Relaxed),
            Standing::Receiving(since) => {
                activity.requests.store(1, Relaxed);
                activity.receiving.store(1, Relaxed);
                let since_ms = age_ms - since.as_millis() as u64;
                activity.receiving_since_ms.store(since_ms, Relaxed);
            }
            Standing::Idle(since) => {
                let since_ms = age_ms - since.as_millis() as u64;
                activity.idle_since_ms.store(since_ms, Relaxed);
            }
        }
        activity
    }

    /// The activity of a connection that is accepted now, and the clock for it.
    fn simulated() -> (Self, Arc<poet_rounds::clock::ManualClock>) {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let clock = Arc::new(poet_rounds::clock::ManualClock::stopped(now));
        (Self::new(clock.clone()), clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_flushed_is_not_idle() {
        let (activity, _) = Activity::simulated();
        assert!(matches!(activity.standing(), Standing::Idle(_)));
        activity.unflushed.store(true, Relaxed);
        assert_eq!(activity.standing(), Standing::Busy);
    }

    #[test]
    fn a_client_may_be_behind_for_a_while() {
        let (activity, clock) = Activity::simulated();
        let mut progress = Progress::new(&Patience::default());
        // Time passes, and the client reads this many bytes.
        let mut pass = |seconds, read| {
            clock.pass(Duration::from_secs(seconds));
            activity.written_bytes.fetch_add(read, Relaxed);
            progress.is_enough(&activity, &Patience::default())
        };
        // There is nothing to read.
        assert!(pass(1000, 0));
        activity.sending.store(1, Relaxed);
        assert!(pass(59, 0));
        assert!(!pass(2, 0));
        activity.sending.store(0, Relaxed);
        assert!(pass(1, 0));
        activity.sending.store(1, Relaxed);
        // 2 kB/s in large steps, for hours.
        for _ in 0..200 {
            assert!(pass(50, 0) && pass(0, 100_000));
        }
        // Reading much at once gives no credit for later.
        assert!(pass(1, 10_000_000));
        assert!(pass(58, 0));
        // Slightly too slow.
        assert!(!pass(1000, 900 * 1024));
    }

    #[test]
    fn what_is_written_is_no_progress_of_an_answer_over_http2() {
        let (activity, clock) = Activity::simulated();
        activity.over_http2.store(true, Relaxed);
        activity.sending.store(1, Relaxed);
        let mut progress = Progress::new(&Patience::default());
        let mut pass = |written, taken| {
            clock.pass(Duration::from_secs(50));
            activity.written_bytes.fetch_add(written, Relaxed);
            activity.taken_bytes.fetch_add(taken, Relaxed);
            progress.is_enough(&activity, &Patience::default())
        };
        assert!(pass(1_000_000, 0));
        assert!(pass(0, 1_000_000));
        assert!(pass(1_000_000, 0));
        assert!(!pass(1_000_000, 0));
    }
}
