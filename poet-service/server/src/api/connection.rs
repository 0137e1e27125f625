//! One connection of a server: what it does, so that those that only cost can be told.
//!
//! A client that does not read its answer, or reads it drop by drop, holds a connection and the
//! answer's memory. While something waits to be sent, [`MIN_BYTES`] must be taken off in each
//! [`STALL_TIMEOUT`]. Something waits when the socket takes no more, or, with HTTP/2, when a part of an
//! answer was taken from it and the next one has not been asked for: there, a client can stop an
//! answer without stopping the socket.

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
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::{
    Response,
    body::{Frame, SizeHint},
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long a client may take for [`MIN_BYTES`] of its answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// What a client must read in that time: 1 KiB a second.
const MIN_BYTES: u64 = 30 * 1024;

/// What happens on a connection.
#[derive(Debug)]
pub(super) struct Activity {
    accepted: Instant,
    /// Requests whose answers are not complete, streams not counted.
    requests: AtomicUsize,
    /// Streams that are open. A client can leave them so for ever and send nothing.
    streams: AtomicUsize,
    /// Answers of which a part was taken that may not have been sent yet.
    unsent: AtomicUsize,
    had_request: AtomicBool,
    /// Since when no request is answered and nothing is sent, in milliseconds after it was accepted.
    idle_since_ms: AtomicU64,
    /// Whether the socket takes no more.
    blocked: AtomicBool,
    written_bytes: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            accepted: Instant::now(),
            requests: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            unsent: AtomicUsize::new(0),
            had_request: AtomicBool::new(false),
            idle_since_ms: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            written_bytes: AtomicU64::new(0),
        }
    }
}

impl Activity {
    /// To be called for each request, before it is looked at.
    pub(super) fn begin_request(self: &Arc<Self>, is_stream: bool) -> RequestGuard {
        let guard = RequestGuard {
            activity: Arc::clone(self),
            is_stream,
        };
        guard.count().fetch_add(1, AcqRel);
        self.had_request.store(true, Relaxed);
        self.be_busy_until_now();
        guard
    }

    pub(super) fn has_streams(&self) -> bool {
        self.streams.load(Relaxed) > 0
    }

    pub(super) fn had_request(&self) -> bool {
        self.had_request.load(Relaxed)
    }

    /// For how long there has been nothing to do; `None` when there is something. Streams count only
    /// when something comes over them.
    pub(super) fn idle(&self) -> Option<Duration> {
        if self.requests.load(Relaxed) > 0 || self.blocked.load(Relaxed) {
            return None;
        }
        let since = Duration::from_millis(self.idle_since_ms.load(Relaxed));
        Some(self.accepted.elapsed().saturating_sub(since))
    }

    fn be_busy_until_now(&self) {
        let now_ms = u64::try_from(self.accepted.elapsed().as_millis());
        self.idle_since_ms
            .store(now_ms.unwrap_or(u64::MAX), Relaxed);
    }

    fn is_sending(&self) -> bool {
        self.blocked.load(Relaxed) || self.unsent.load(Relaxed) > 0
    }
}

/// How much a client read, and since when.
#[derive(Debug, Default)]
pub(super) struct Progress(Option<(Instant, u64)>);

impl Progress {
    /// Whether the client reads fast enough, as far as it has something to read. To be called every
    /// now and then.
    pub(super) fn is_enough(&mut self, activity: &Activity) -> bool {
        let written = activity.written_bytes.load(Relaxed);
        match self.0 {
            _ if !activity.is_sending() => self.0 = None,
            Some((since, before)) if since.elapsed() >= STALL_TIMEOUT => {
                if written - before < MIN_BYTES {
                    return false;
                }
                self.0 = Some((Instant::now(), written));
            }
            Some(_) => {}
            None => self.0 = Some((Instant::now(), written)),
        }
        true
    }
}

/// A request until its answer is complete, or given up.
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    is_stream: bool,
}

impl RequestGuard {
    /// Those of its kind.
    fn count(&self) -> &AtomicUsize {
        match self.is_stream {
            true => &self.activity.streams,
            false => &self.activity.requests,
        }
    }

    /// The answer to the request.
    pub(super) fn watch(self, response: Response<Body>) -> Response<WatchedBody> {
        response.map(|body| WatchedBody {
            body,
            unsent: false,
            request: self,
        })
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.activity.be_busy_until_now();
        self.count().fetch_sub(1, AcqRel);
    }
}

/// The body of an answer.
pub(super) struct WatchedBody {
    body: Body,
    /// Whether a part of it was taken and the next one not asked for.
    unsent: bool,
    request: RequestGuard,
}

impl WatchedBody {
    fn set_unsent(&mut self, unsent: bool) {
        if unsent != self.unsent {
            self.unsent = unsent;
            let count = &self.request.activity.unsent;
            if unsent {
                count.fetch_add(1, AcqRel);
            } else {
                count.fetch_sub(1, AcqRel);
            }
        }
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.set_unsent(false);
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(Some(Ok(_))) = &polled {
            self.set_unsent(true);
            self.request.activity.be_busy_until_now();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for WatchedBody {
    fn drop(&mut self) {
        self.set_unsent(false);
    }
}

/// The socket of a connection.
pub(super) struct Watched {
    stream: TokioIo<TcpStream>,
    activity: Arc<Activity>,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, activity: Arc<Activity>) -> Self {
        Self {
            stream: TokioIo::new(stream),
            activity,
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

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
