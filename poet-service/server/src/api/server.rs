//! The HTTP servers of the interfaces: listeners, and the limits of their connections.
//!
//! | what a client does | what happens |
//! |---|---|
//! | opens many connections | its address has a share of them; when all are taken, idle ones make room, then those that wait for a body; otherwise newcomers wait |
//! | sends nothing, or headers drop by drop | is cut off after 30 s |
//! | sends a body slowly, or a large one | 64 KiB and 10 s at most |
//! | has many requests under way that are not complete | its address has a `Budget`; what is over it is refused |
//! | reads its answer slowly, or not at all | is cut off when it falls 60 s behind 1 KiB/s |
//! | sends garbage | is answered 400, or cut off |
//! | opens and resets streams of HTTP/2 | is cut off after a few that nobody could answer |
//! | keeps streams of gRPC open on which nothing comes | as one that is idle; has at most 4 of them |

use std::{
    convert::Infallible,
    future::poll_fn,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{Version, header, uri::Authority},
    response::{IntoResponse as _, Response},
};
use hyper::{
    Request,
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
    service::TowerToHyperService,
};
use poet_rounds::clock::Clock;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    budget::{Budget, Charge, OverBudget},
    client::{Network, Peer},
    connection::{Activity, Watched, WatchedBody},
    dropped::Dropped,
    error::ApiError,
    grpc,
    patience::Patience,
    protocol::Protocol,
    slots::{Admitted, ConnectionLimits, Slot, Slots},
};

/// The maximum size of a request's headers, and of one line of them.
const MAX_HEADER_BYTES: usize = 8 * 1024;
/// The maximum number of concurrent requests on an HTTP/2 connection.
const MAX_REQUESTS: u32 = 32;
/// The maximum number of gRPC streams, which have no end, on a connection.
const MAX_STREAMS: usize = 4;
/// How much an HTTP/2 connection, or one request on it, may send before it is read.
const WINDOW_BYTES: u32 = 64 * 1024;
/// How much of one response is buffered over HTTP/2.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// How many streams a client may reset before they were processed, or cause to be reset by its
/// errors, before its connection is closed.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 256;
/// How long to wait if the system provides no more sockets.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long a newcomer beyond the share of its address may wait for one of its connections to end.
const SHARE_PATIENCE: Duration = Duration::from_secs(5);
/// How often to log what was closed and refused.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);
/// When use falls to half of a peak of at least this many connections, or bytes of requests, free
/// memory is returned to the system.
const TIDE_CONNECTIONS: usize = 100;
const TIDE_BYTES: usize = 2 << 20;
/// How long requests may continue when the server ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

impl Protocol {
    fn server(self, patience: &Patience) -> auto::Builder<TokioExecutor> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.headers)
            // A client that will send no more requests may still wait for a response.
            .half_close(true)
            .max_buf_size(MAX_HEADER_BYTES);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(patience.ping)
            .keep_alive_timeout(patience.pong)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_concurrent_streams(MAX_REQUESTS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        match self {
            Self::Http1 => http.http1_only(),
            Self::Http2 => http.http2_only(),
            Self::Either => http,
        }
    }

    /// How long a connection that had requests before may be idle.
    fn idle_timeout(self, patience: &Patience) -> Duration {
        match self {
            Self::Http1 => patience.headers,
            Self::Http2 | Self::Either => patience.idle,
        }
    }
}

/// An interface to serve: where, to whom, and with which counters.
pub(crate) struct Interface {
    pub(crate) listeners: Vec<TcpListener>,
    pub(crate) protocol: Protocol,
    pub(crate) router: Router,
    pub(crate) limits: ConnectionLimits,
    /// Counts connections that are closed or refused.
    pub(crate) dropped: Dropped,
    /// Decides who is idle, and who is too slow.
    pub(crate) clock: Arc<dyn Clock>,
}

impl Interface {
    /// Serves until `stop` becomes true, then waits for requests to end.
    pub(crate) async fn serve(self, mut stop: watch::Receiver<bool>) {
        let listeners = self.listeners;
        let idle_timeout = self.protocol.idle_timeout(&self.limits.patience);
        let http = self.protocol.server(&self.limits.patience);
        let slots = Arc::new(Slots::new(self.limits, self.dropped, self.clock));
        let server = Arc::new(Server {
            http,
            router: TowerToHyperService::new(self.router),
            budget: Arc::default(),
            slots: Arc::clone(&slots),
        });
        let sweeper = tokio::spawn(Arc::clone(&server).sweep(idle_timeout));
        let graceful = GracefulShutdown::new();
        let mut next = 0;
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listeners, &mut next) => accepted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            let (stream, peer) = match accepted {
                Ok((stream, address)) => (stream, address.ip().to_canonical()),
                // The client caused this error, and is gone.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    slots.dropped.not_accepted();
                    tokio::time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let admitted = tokio::select! {
                admitted = slots.admit(&stream, peer) => admitted,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            match admitted {
                Admitted::Gone => {}
                Admitted::Slot(slot) => {
                    let served = Arc::clone(&server).serve(stream, peer, slot, graceful.watcher());
                    tokio::spawn(served);
                }
                Admitted::OverShare => {
                    let server = Arc::clone(&server);
                    server.serve_later(stream, peer, graceful.watcher());
                }
            }
        }
        drop(listeners);
        sweeper.abort();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("some clients did not finish in time");
        }
    }
}

/// Accepts the next connection to one of `listeners`, each in turn.
async fn accept(
    listeners: &[TcpListener],
    next: &mut usize,
) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        for _ in 0..listeners.len() {
            *next = (*next + 1) % listeners.len();
            if let Poll::Ready(accepted) = listeners[*next].poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

/// Serves connections.
struct Server {
    http: auto::Builder<TokioExecutor>,
    router: TowerToHyperService<Router>,
    budget: Arc<Budget>,
    slots: Arc<Slots>,
}

impl Server {
    /// Serves a connection that has a slot.
    async fn serve(self: Arc<Self>, stream: TcpStream, peer: IpAddr, slot: Slot, watcher: Watcher) {
        let activity = Arc::clone(&slot.activity);
        let local = stream.local_addr().map(|address| address.ip());
        let client = Peer {
            address: peer,
            local: local.map_or(peer, |local| local.to_canonical()),
        };
        let (server, requests) = (Arc::clone(&self), Arc::clone(&activity));
        let service = service_fn(move |request| server.answer(client, &requests, request));
        let watched = Watched::new(stream, Arc::clone(&activity));
        let connection = watcher.watch(self.http.serve_connection(watched, service).into_owned());
        activity
            .drive(connection, || self.slots.freed.notify_one())
            .await;
        drop(slot);
    }

    /// Serves a connection beyond the share of its address, if it gets a slot soon.
    fn serve_later(self: Arc<Self>, stream: TcpStream, peer: IpAddr, watcher: Watcher) {
        let Ok(turn) = Arc::clone(&self.slots.waiting).try_acquire_owned() else {
            self.slots.dropped.over_share();
            return;
        };
        tokio::spawn(async move {
            let slot = tokio::time::timeout(SHARE_PATIENCE, self.slots.await_share(peer)).await;
            drop(turn);
            match slot {
                Ok(slot) => self.serve(stream, peer, slot, watcher).await,
                Err(_) => self.slots.dropped.over_share(),
            }
        });
    }

    /// Closes idle and slow connections, logs what was closed and refused, and returns memory.
    async fn sweep(self: Arc<Self>, idle_timeout: Duration) {
        let (slots, mut tide) = (&self.slots, Tide::default());
        let mut reported: Option<Duration> = None;
        loop {
            tokio::time::sleep(slots.limits.patience.sweep).await;
            let (slow, connections) = {
                let mut taken = slots.lock();
                let slow = taken.sweep(idle_timeout, &slots.limits.patience);
                (slow, taken.connections.len())
            };
            slots.dropped.too_slow(slow);
            let now = slots.clock.monotonic();
            if reported.is_none_or(|at| now.saturating_sub(at) >= REPORT_INTERVAL)
                && let Some(report) = slots.dropped.report()
            {
                tracing::warn!("{report}");
                reported = Some(now);
            }
            if tide.has_ebbed(connections, self.budget.take_highest()) {
                // Takes some milliseconds, once after a flood.
                poet_malloc::trim();
            }
        }
    }

    /// Answers a request. Refusals are answered immediately, so that the headers are dropped: over
    /// HTTP/2, the responses to all requests that a connection has delivered wait in a queue.
    fn answer(
        &self,
        client: Peer,
        activity: &Arc<Activity>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<WatchedBody>, Infallible>> + use<> {
        let over_http2 = request.version() == Version::HTTP_2;
        let is_stream = grpc::is_stream(request.uri().path());
        let charged = self.charge(client, &request, is_stream);
        let charge = charged.as_ref().ok().cloned();
        let guard = activity.begin_request(is_stream, over_http2, charge);
        let refused = if charged.is_err() {
            self.slots.dropped.over_budget();
            Some(ApiError::OverBudget)
        } else if is_stream && activity.streams() > MAX_STREAMS {
            Some(ApiError::TooManyStreams(MAX_STREAMS))
        } else if !has_host(&request) {
            Some(ApiError::Host)
        } else {
            None
        };
        let response = match refused {
            Some(error) => Err(error),
            None => {
                let mut request = request.map(|body| Body::new(guard.receive(body)));
                request.extensions_mut().insert(client);
                Ok(Box::pin(self.router.call(request)))
            }
        };
        async move {
            Ok(guard.watch(match response {
                Ok(response) => response.await?,
                Err(error) => refuse(error, over_http2),
            }))
        }
    }

    fn charge(
        &self,
        client: Peer,
        request: &Request<Incoming>,
        is_stream: bool,
    ) -> Result<Charge, OverBudget> {
        let proxies = &self.slots.limits.proxies;
        let network = match proxies.client(client.address, request.headers()) {
            address if proxies.contains(address) => None,
            address => Some(Network::of(address)),
        };
        self.budget.charge(network, request.headers(), is_stream)
    }
}

/// When memory was last returned, and the peak use since.
#[derive(Default)]
struct Tide {
    connections: usize,
    request_bytes: usize,
}

impl Tide {
    /// Returns whether much less is in use than some time ago.
    fn has_ebbed(&mut self, connections: usize, request_bytes: usize) -> bool {
        let ebbed = |high: usize, now: usize, least: usize| high >= least && now <= high / 2;
        let has_ebbed = ebbed(self.connections, connections, TIDE_CONNECTIONS)
            || ebbed(self.request_bytes, request_bytes, TIDE_BYTES);
        match has_ebbed {
            true => (self.connections, self.request_bytes) = (connections, request_bytes),
            false => {
                self.connections = self.connections.max(connections);
                self.request_bytes = self.request_bytes.max(request_bytes);
            }
        }
        has_ebbed
    }
}

/// Returns a response to a request that was not examined.
fn refuse(error: ApiError, over_http2: bool) -> Response {
    match over_http2 {
        true => tonic::Status::from(error).into_http::<Body>(),
        false => error.into_response(),
    }
}

/// Returns whether a request names one host, as HTTP/1.1 requires.
fn has_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    match (request.version(), hosts.next(), hosts.next()) {
        (Version::HTTP_11, Some(host), None) => {
            host.is_empty() || Authority::try_from(host.as_bytes()).is_ok()
        }
        (Version::HTTP_11, _, _) => false,
        (_, _, second) => second.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_much_less_is_in_use() {
        let mut tide = Tide::default();
        assert!(!tide.has_ebbed(99, 0));
        assert!(!tide.has_ebbed(0, 0));
        assert!(!tide.has_ebbed(1000, 0));
        assert!(!tide.has_ebbed(501, 0));
        assert!(tide.has_ebbed(500, 0));
        assert!(!tide.has_ebbed(251, 0));
        assert!(tide.has_ebbed(250, 0));
        assert!(!tide.has_ebbed(250, 4 << 20));
        assert!(tide.has_ebbed(250, 1 << 20));
        assert!(!tide.has_ebbed(250, 0));
    }
}
