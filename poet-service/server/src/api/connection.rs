//! One connection of a server: what happens on it, so that idle, waiting and stalled ones can be
//! told apart and closed.
//!
//! A client that does not read its answer, or reads it drop by drop, holds a connection and the
//! answer's memory. While something waits to be sent, a client must take so many bytes each second
//! (see [`Patience`]). It may be behind for a while, because a client's system makes room for more in
//! steps: a window that is full opens again when a good part of it was read. What waits in the system's
//! own buffer is bounded by [`UNSENT_BYTES`], so that bytes that were written are bytes that the
//! client's system took.
//!
//! With HTTP/2, a client can stop an answer without stopping the socket. There, what counts is the
//! parts of answers that could be taken, not what was written: pings are written, too.

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
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::{
    Response,
    body::{Frame, Incoming, SizeHint},
    rt::{Read, ReadBuf, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Sleep, sleep},
};

use super::{
    budget::{Charge, OverBudget},
    patience::Patience,
};

/// What the system buffers for a socket that it has not sent yet.
#[cfg(any(target_os = "linux", target_os = "macos"))]
const UNSENT_BYTES: u32 = 32 * 1024;
/// What is taken of an answer at once over HTTP/2.
const PART_BYTES: usize = 16 * 1024;
/// How long a client may go on sending after the last answer of a connection, and how much. A
/// connection that is closed while something comes in is reset, and the answer is lost with it.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;
/// How long a connection that is to be closed is watched for a request that nobody has read yet.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// What happens on a connection.
#[derive(Debug)]
pub(super) struct Activity {
    accepted: Instant,
    /// Requests whose answers are not complete, streams not counted.
    requests: AtomicUsize,
    /// Those of them whose bodies are not complete either.
    receiving: AtomicUsize,
    /// Since when there are such, in milliseconds after the connection was accepted.
    receiving_since_ms: AtomicU64,
    /// Streams that are open. A client can leave them so for ever and send nothing.
    streams: AtomicUsize,
    /// Answers that are not complete; of streams, those of which a part was taken that may not have
    /// been sent yet.
    sending: AtomicUsize,
    had_request: AtomicBool,
    over_http2: AtomicBool,
    /// Since when no request is answered and nothing is sent, in milliseconds after it was accepted.
    idle_since_ms: AtomicU64,
    /// Whether the socket takes no more.
    blocked: AtomicBool,
    /// Whether something may not have been handed to the socket.
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
    /// It is not to be closed: an answer is being made or sent.
    Busy,
    /// All its requests wait for the rest of their bodies.
    Receiving(Duration),
    /// It has nothing to do.
    Idle(Duration),
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            accepted: Instant::now(),
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
}

impl Activity {
    /// Must be called for each request, before it is looked at.
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

    /// Whether it may be closed to make room for another one. Streams count only when something
    /// comes over them.
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

    /// Asks the connection to close, unless it has something to do by then.
    pub(super) fn ask_to_close(&self) {
        self.asked_to_close.store(true, Relaxed);
        self.close.notify_one();
    }

    /// Whether it was asked to close and has not declined.
    pub(super) fn is_closing(&self) -> bool {
        self.asked_to_close.load(Relaxed)
    }

    /// Closes the connection, whatever it does.
    pub(super) fn close(&self) {
        self.closed_anyway.store(true, Relaxed);
        self.close.notify_one();
    }

    /// Runs a connection until its end, or until it has to close. Calls `declined` when it was asked
    /// to and has something to do.
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
            // A request may have come that nobody has read yet. The connection is asked here, where
            // nothing can happen on it between the question and its end.
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

    /// Whether something has begun since the connection was asked to close.
    fn is_fresh(&self) -> bool {
        match self.standing() {
            Standing::Busy => true,
            Standing::Receiving(since) | Standing::Idle(since) => since <= LAST_LOOK,
        }
    }

    fn since(&self, ms: &AtomicU64) -> Duration {
        let since = Duration::from_millis(ms.load(Relaxed));
        self.accepted.elapsed().saturating_sub(since)
    }

    fn set_now(&self, ms: &AtomicU64) {
        let now_ms = u64::try_from(self.accepted.elapsed().as_millis());
        ms.store(now_ms.unwrap_or(u64::MAX), Relaxed);
    }

    fn be_busy_until_now(&self) {
        self.set_now(&self.idle_since_ms);
    }

    fn is_sending(&self) -> bool {
        self.blocked.load(Relaxed) || self.sending.load(Relaxed) > 0
    }
}

/// How far a client is behind with reading.
#[derive(Debug)]
pub(super) struct Progress {
    seen: Instant,
    written_bytes: u64,
    taken_bytes: u64,
    /// How long nothing may be read from now on.
    left: Duration,
}

impl Progress {
    pub(super) fn new(patience: &Patience) -> Self {
        Self {
            seen: Instant::now(),
            written_bytes: 0,
            taken_bytes: 0,
            left: patience.stall,
        }
    }

    /// Whether the client reads fast enough, as far as it has something to read. Must be called every
    /// now and then.
    pub(super) fn is_enough(&mut self, activity: &Activity, patience: &Patience) -> bool {
        let now = Instant::now();
        let written_bytes = activity.written_bytes.load(Relaxed);
        let taken_bytes = activity.taken_bytes.load(Relaxed);
        let (written, taken) = (
            written_bytes.saturating_sub(self.written_bytes),
            taken_bytes.saturating_sub(self.taken_bytes),
        );
        let passed = now - self.seen;
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

/// A request until its answer is complete, or given up.
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    is_stream: bool,
    /// Nothing if it is refused.
    charge: Option<Charge>,
}

impl RequestGuard {
    /// Those of its kind.
    fn count(&self) -> &AtomicUsize {
        match self.is_stream {
            true => &self.activity.streams,
            false => &self.activity.requests,
        }
    }

    /// The body of the request, whose bytes are charged as they arrive.
    pub(super) fn receive(&self, body: Incoming) -> ReceivedBody {
        let receiving = !self.is_stream && !body.is_end_stream();
        ReceivedBody {
            body,
            charge: self.charge.clone(),
            is_stream: self.is_stream,
            receiving: receiving.then(|| Receiving::begin(&self.activity)),
        }
    }

    /// The answer to the request.
    pub(super) fn watch(self, response: Response<Body>) -> Response<WatchedBody> {
        let activity = &self.activity;
        activity.unflushed.store(true, Relaxed);
        activity.be_busy_until_now();
        // Its headers and its body are gone.
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
            // A stream may have nothing to say for a long time.
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

/// A request whose body is not complete.
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
        // What a stream brings is looked at and gone: its messages are bounded one by one.
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

/// The body of an answer.
pub(super) struct WatchedBody {
    body: Body,
    /// What was taken of the body and not handed on yet.
    rest: Bytes,
    part_bytes: usize,
    /// Whether it is counted among those that are being sent.
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
        // Answers are short and written at once.
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
            // What is written while no answer waits is the pings of HTTP/2: nothing that a client has
            // asked for.
            if was_blocked {
                activity.be_busy_until_now();
            }
        }
    }

    /// Reads what the client still sends, until it ends, or for long enough.
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

    /// Called when all that was to be written is written.
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
    /// That of a connection which was accepted an hour ago.
    pub(super) fn of(standing: Standing) -> Self {
        const AGE: Duration = Duration::from_secs(3600);
        let age_ms = AGE.as_millis() as u64;
        let activity = Self {
            accepted: Instant::now() - AGE,
            ..Self::default()
        };
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

    pub(super) fn accepted(&self) -> Instant {
        self.accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_flushed_is_not_idle() {
        let activity = Activity::default();
        assert!(matches!(activity.standing(), Standing::Idle(_)));
        activity.unflushed.store(true, Relaxed);
        assert_eq!(activity.standing(), Standing::Busy);
    }

    #[test]
    fn a_client_may_be_behind_for_a_while() {
        let activity = Activity::default();
        let mut progress = Progress::new(&Patience::default());
        // Time passes, and so much is read.
        let mut pass = |seconds, read| {
            progress.seen -= Duration::from_secs(seconds);
            activity.written_bytes.fetch_add(read, Relaxed);
            progress.is_enough(&activity, &Patience::default())
        };
        // Nothing is to be read.
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
        // Much at once is no credit for later.
        assert!(pass(1, 10_000_000));
        assert!(pass(58, 0));
        // Just too slow.
        assert!(!pass(1000, 900 * 1024));
    }

    #[test]
    fn what_is_written_is_no_progress_of_an_answer_over_http2() {
        let activity = Activity::default();
        activity.over_http2.store(true, Relaxed);
        activity.sending.store(1, Relaxed);
        let mut progress = Progress::new(&Patience::default());
        let mut pass = |written, taken| {
            progress.seen -= Duration::from_secs(50);
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
