//! The HTTP servers under the interfaces: listeners, and what their connections may cost.
//!
//! | what a client does | what happens |
//! |---|---|
//! | opens many connections | its address has a share of them; when all are taken, idle ones make room |
//! | sends nothing, or headers drop by drop | is cut off after 30 s |
//! | sends a body slowly, or a large one | 64 KiB and 10 s at most; of larger ones, only some are read at a time |
//! | reads its answer slowly, or not at all | is cut off when it does not read 30 KiB in 30 s |
//! | sends garbage | is answered 400, or cut off |
//! | opens and resets streams of HTTP/2 | is cut off after a few that nobody could answer |
//! | keeps streams of gRPC open on which nothing comes | as one that is idle, but stays while there is room |

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::Router;
use hyper::{
    Request,
    body::Incoming,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::AbortHandle,
};

use super::{
    client::{Network, Peer, TrustedProxies},
    connection::{Activity, Progress, Watched},
    grpc,
    protocol::Protocol,
};

/// How long a client may take to send a request's headers, and a connection of HTTP/1.1 may lie
/// idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection of HTTP/2 may lie idle.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The most that the headers of a request, or one line of them, may take.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Requests that a connection of HTTP/2 may have under way.
const MAX_STREAMS: u32 = 64;
/// What a connection of HTTP/2, or one request of it, may send before it is read.
const WINDOW_BYTES: u32 = 64 * 1024;
/// Streams that a client may reset before they were looked at, and that may be reset because of a
/// client's errors, until its connection is closed.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 256;
/// How often a connection of HTTP/2 is asked whether somebody is still there, and how long the
/// answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Connections that wait to be accepted; all nodes come at once.
const BACKLOG: u32 = 4096;
/// How long to wait when the system has no more sockets to give.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How often connections are looked through for those that are to be cut off.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait for a connection to end before more idle ones are closed.
const ROOM_INTERVAL: Duration = Duration::from_millis(100);
/// The part of the connections that is closed to make room.
const ROOM_PART: usize = 64;
/// How long requests under way may take when the server ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

impl Protocol {
    fn server(self) -> auto::Builder<TokioExecutor> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEADER_BYTES);
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
            .max_local_error_reset_streams(MAX_ERROR_RESETS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        match self {
            Self::Http1 => http.http1_only(),
            Self::Http2 => http.http2_only(),
            Self::Either => http,
        }
    }

    /// How long a connection may lie idle that had requests before.
    fn idle_timeout(self) -> Duration {
        match self {
            Self::Http1 => HEADER_TIMEOUT,
            Self::Http2 | Self::Either => IDLE_TIMEOUT,
        }
    }
}

/// How many connections are served at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Of a listener; further ones wait to be accepted.
    pub all: usize,
    /// Of one address; further ones are closed.
    pub per_address: usize,
    /// Whose connections are others': they may have all of them.
    pub proxies: TrustedProxies,
}

impl ConnectionLimits {
    /// At most `all` connections, half of them for one address.
    pub fn new(all: usize) -> Self {
        Self {
            all,
            per_address: all.div_ceil(2),
            proxies: TrustedProxies::default(),
        }
    }
}

/// Listens on `address`: `host:port`, or `:port` for every interface.
///
/// # Errors
/// When the address means nothing or is taken.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let mut addresses: Vec<SocketAddr> = match address.strip_prefix(':') {
        Some(port) => {
            let port = port
                .parse()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "expected host:port"))?;
            // The first one takes IPv4 connections, too, where the system has IPv6.
            vec![
                SocketAddr::new(IpAddr::from([0_u16; 8]), port),
                SocketAddr::new(IpAddr::from([0_u8; 4]), port),
            ]
        }
        None => {
            let mut addresses: Vec<_> = tokio::net::lookup_host(address).await?.collect();
            // `localhost` is both; clients of the original server expect 127.0.0.1.
            addresses.sort_by_key(SocketAddr::is_ipv6);
            addresses
        }
    };
    addresses.dedup();
    let mut error = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in addresses {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Elsewhere, it would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves `router` until `stop` becomes true, then lets requests under way end.
pub async fn serve(
    listener: TcpListener,
    protocol: Protocol,
    router: Router,
    limits: ConnectionLimits,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Slots {
        free: Arc::new(Semaphore::new(limits.all)),
        limits,
        taken: Arc::default(),
    };
    let sweeper = tokio::spawn(sweep(Arc::clone(&slots.taken), protocol.idle_timeout()));
    let graceful = GracefulShutdown::new();
    let http = protocol.server();
    let router = TowerToHyperService::new(router);
    loop {
        let accepted = tokio::select! {
            accepted = slots.accept(&listener) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some((stream, peer, slot)) = accepted else {
            continue;
        };
        let activity = Arc::clone(&slot.activity);
        let (router, requests) = (router.clone(), Arc::clone(&activity));
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            let request_guard = requests.begin_request(grpc::is_stream(request.uri().path()));
            let response = router.call(request);
            async move { Ok::<_, Infallible>(request_guard.watch(response.await?)) }
        });
        let connection = http.serve_connection(Watched::new(stream, activity), service);
        let connection = graceful.watch(connection.into_owned());
        let (id, taken) = (slot.id, Arc::clone(&slots.taken));
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
        lock(&taken).set_task(id, task.abort_handle());
    }
    drop(listener);
    sweeper.abort();
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some clients did not finish in time");
    }
}

/// The connections that a listener may have.
struct Slots {
    limits: ConnectionLimits,
    free: Arc<Semaphore>,
    taken: Arc<Mutex<Taken>>,
}

/// The connections that a listener has.
#[derive(Default)]
struct Taken {
    next_id: u64,
    connections: HashMap<u64, Connection>,
    per_network: HashMap<Network, usize>,
}

struct Connection {
    activity: Arc<Activity>,
    /// Ends it; absent for the moment in which its task starts.
    task: Option<AbortHandle>,
    progress: Progress,
}

/// A place among the connections, which is free again when this is dropped.
struct Slot {
    id: u64,
    network: Network,
    activity: Arc<Activity>,
    taken: Arc<Mutex<Taken>>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// The next connection, if it may stay.
    async fn accept(&self, listener: &TcpListener) -> Option<(TcpStream, IpAddr, Slot)> {
        let permit = self.permit().await?;
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
                return None;
            }
        };
        // Answers are short and written at once.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let peer = address.ip().to_canonical();
        let Some(slot) = self.take(peer, permit) else {
            tracing::debug!(%peer, "too many connections from one address");
            return None;
        };
        Some((stream, peer, slot))
    }

    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() {
                return Some(permit);
            }
            let wanted = self.limits.all.div_ceil(ROOM_PART);
            let closed = lock(&self.taken).close_idle(wanted);
            tracing::debug!(closed, "all connections are taken, closed idle ones");
            let freed = Arc::clone(&self.free).acquire_owned();
            if let Ok(permit) = tokio::time::timeout(ROOM_INTERVAL, freed).await {
                return permit.ok();
            }
        }
    }

    fn take(&self, peer: IpAddr, permit: OwnedSemaphorePermit) -> Option<Slot> {
        let network = Network::of(peer);
        let mut taken = lock(&self.taken);
        let count = taken.per_network.entry(network).or_default();
        if *count >= self.limits.per_address && !self.limits.proxies.contains(peer) {
            return None;
        }
        *count += 1;
        let id = taken.next_id;
        taken.next_id += 1;
        let activity = Arc::new(Activity::default());
        let connection = Connection {
            activity: Arc::clone(&activity),
            task: None,
            progress: Progress::default(),
        };
        taken.connections.insert(id, connection);
        Some(Slot {
            id,
            network,
            activity,
            taken: Arc::clone(&self.taken),
            _permit: permit,
        })
    }
}

impl Taken {
    fn set_task(&mut self, id: u64, task: AbortHandle) {
        // It may have ended by now.
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.task = Some(task);
        }
    }

    /// Closes the `wanted` connections that have been idle for the longest time, as far as there
    /// are so many. Returns how many were closed.
    fn close_idle(&self, wanted: usize) -> usize {
        let mut idle: Vec<_> = self
            .connections
            .values()
            .filter_map(|connection| Some((connection.activity.idle()?, connection)))
            .collect();
        let closed = wanted.min(idle.len());
        if closed < idle.len() {
            idle.select_nth_unstable_by_key(closed, |(idle, _)| Reverse(*idle));
        }
        for (_, connection) in &idle[..closed] {
            connection.close();
        }
        closed
    }

    /// Closes connections that are idle for too long, or too slow.
    fn sweep(&mut self, idle_timeout: Duration) {
        for connection in self.connections.values_mut() {
            let activity = &connection.activity;
            let timeout = if activity.had_request() {
                idle_timeout
            } else {
                HEADER_TIMEOUT
            };
            // Somebody who waits for news may wait, as long as there is room.
            let idle =
                !activity.has_streams() && activity.idle().is_some_and(|idle| idle > timeout);
            if idle || !connection.progress.is_enough(activity) {
                tracing::debug!(idle, "closing a connection that is idle or too slow");
                connection.close();
            }
        }
    }
}

impl Connection {
    fn close(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.connections.remove(&self.id);
        if let Entry::Occupied(mut count) = taken.per_network.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn sweep(taken: Arc<Mutex<Taken>>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        lock(&taken).sweep(idle_timeout);
    }
}
