//! Requests over persistent connections.

use std::{error::Error, net::SocketAddr, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, Uri,
    body::{Bytes, Incoming},
    client::conn::http1::{Builder, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use poet_files::reason;
use poet_proto::json;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

/// How much a connection reads at a time: with thousands of connections, more would fill the
/// memory.
const READ_BYTES: usize = 32 * 1024;
/// The longest response other than a proof.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long a request may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server.
#[derive(Clone, Debug)]
pub(super) struct LoadTarget {
    address: SocketAddr,
    host: String,
}

impl LoadTarget {
    /// Resolves the server at `http://host:port`.
    pub(super) async fn resolve(url: &str) -> anyhow::Result<Self> {
        let uri = url.parse().unwrap_or(Uri::default());
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            bail!("--url {url}: expected http://host:port");
        };
        let place = (
            authority.host().trim_matches(['[', ']']),
            authority.port_u16().unwrap_or(80),
        );
        let address = tokio::net::lookup_host(place)
            .await
            .map_err(|error| {
                let text = reason(&error);
                let text = text.rsplit(": ").next().unwrap_or_default();
                anyhow!("--url {url}: cannot resolve the name: {text}")
            })?
            // Like the server, which prefers 127.0.0.1 for `localhost`.
            .min_by_key(SocketAddr::is_ipv6)
            .with_context(|| format!("--url {url}: the name has no address"))?;
        Ok(Self {
            address,
            host: authority.to_string(),
        })
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address)
            .await
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
            .map_err(|error| anyhow!("cannot connect to {}: {}", self.host, reason(&error)))?;
        let (sender, connection) = Builder::new()
            .read_buf_exact_size(Some(READ_BYTES))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        // Any failure also fails the request in progress, which reports it.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Connection {
            sender,
            host: self.host.clone(),
        })
    }

    /// Returns the JSON response to a GET over its own connection. Returns `None` if there is
    /// nothing (yet).
    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> anyhow::Result<Option<T>> {
        let mut connection = self.connect().await?;
        let response = connection.get(path, "identity").await?;
        let status = response.status();
        let body = whole_body(response.into_body()).await?;
        match status.as_u16() {
            200 => json::read(&body)
                .map(Some)
                .with_context(|| format!("{path}: unexpected answer")),
            404 => Ok(None),
            code => bail!("{path}: status {code}: {}", String::from_utf8_lossy(&body)),
        }
    }
}

/// A connection to a server.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    pub(super) async fn get(
        &mut self,
        path: &str,
        encoding: &'static str,
    ) -> anyhow::Result<Response<Incoming>> {
        let request = Request::get(path)
            .header(header::HOST, &self.host)
            .header(header::ACCEPT_ENCODING, encoding)
            // As nodes do.
            .body(Full::new(Bytes::from_static(b"{}")))?;
        self.send(request).await
    }

    /// Returns the status and the body of the response to a POST.
    pub(super) async fn post(
        &mut self,
        path: &'static str,
        body: String,
    ) -> anyhow::Result<(u16, Bytes)> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))?;
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        Ok((status, whole_body(response.into_body()).await?))
    }

    async fn send(&mut self, request: Request<Full<Bytes>>) -> anyhow::Result<Response<Incoming>> {
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        tokio::time::timeout(TIMEOUT, answer)
            .await
            .map_err(|_| anyhow!("no answer in time"))?
            .map_err(|error| failed(&error))
    }
}

/// Says why a request on a connection failed.
fn failed(error: &hyper::Error) -> anyhow::Error {
    let source = error.source().and_then(<dyn Error>::downcast_ref);
    anyhow!(match source {
        Some(error) => format!("the connection failed: {}", reason(error)),
        None if error.is_parse() => "the answer is not HTTP".to_owned(),
        None => "the connection was closed before the answer".to_owned(),
    })
}

async fn whole_body(body: Incoming) -> anyhow::Result<Bytes> {
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect();
    let body = tokio::time::timeout(TIMEOUT, body)
        .await
        .map_err(|_| anyhow!("the answer stopped"))?
        .map_err(|error| match error.downcast_ref() {
            Some(LengthLimitError { .. }) => {
                anyhow!("the answer is longer than {MAX_ANSWER_BYTES} bytes")
            }
            None => anyhow!("the answer was cut off"),
        })?;
    Ok(body.to_bytes())
}
