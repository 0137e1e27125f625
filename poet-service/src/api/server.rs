//! The HTTP servers under the interfaces: connections, and what they may cost.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};

/// Connections of a listener served at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// How long a client may take to send a request's headers, and a connection may lie idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that the headers of a request, or one line of them, may take.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Requests that a connection of HTTP/2 may have under way.
const MAX_STREAMS: u32 = 128;
/// How often a connection of HTTP/2 is asked whether somebody is still there, and how long the
/// answer may take.
const PING_INTERVAL: Duration = Duration::from_secs(60);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to wait when the system has no more sockets to give.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// How long requests under way may take when the server ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, for REST.
    Http1,
    /// HTTP/2 without TLS, for gRPC.
    Http2,
    /// Whichever of them the client begins with.
    Either,
}

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
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        match self {
            Self::Http1 => http.http1_only(),
            Self::Http2 => http.http2_only(),
            Self::Either => http,
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
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(failed) => error = failed,
        }
    }
    Err(error)
}

/// Serves `router` until `stop` becomes true, then lets requests under way end.
pub async fn serve(
    listener: TcpListener,
    protocol: Protocol,
    router: Router,
    mut stop: watch::Receiver<bool>,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router);
    let http = protocol.server();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &connections) => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let Some((stream, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let connection = http.serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection.into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("some clients did not finish in time");
    }
}

async fn accept(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are short and written at once.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot set TCP_NODELAY");
            }
            Some((stream, permit))
        }
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            None
        }
    }
}
