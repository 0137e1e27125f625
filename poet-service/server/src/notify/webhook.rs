//! A webhook: each event is posted to a URL, over HTTP/1.1, with TLS for https. The time and size
//! of a response are limited, and redirects are not followed.

use std::{fmt, io, str::FromStr, sync::Arc, time::Duration};

use axum::body::Bytes;
use http_body_util::Full;
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST, USER_AGENT},
    rt::{Read, Write},
};
use hyper_util::rt::TokioIo;
use poet_files::reason;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{net::TcpStream, runtime::Runtime, time};
use tokio_rustls::TlsConnector;

use super::queue::{Queue, Receiver};

/// How long one attempt may take.
const TIME: Duration = Duration::from_secs(10);
/// How long to wait before another attempt.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(10)];
/// How often to check whether the server ends.
const LOOK: Duration = Duration::from_millis(50);
/// The maximum size of a response's head.
const HEAD_BYTES: usize = 16 << 10;

/// The URL for events. Anyone who knows it can post there, so only its host is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Uri);

impl WebhookUrl {
    fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    fn host(&self) -> &str {
        let host = self.0.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    fn port(&self) -> u16 {
        let port = if self.is_https() { 443 } else { 80 };
        self.0.port_u16().unwrap_or(port)
    }
}

impl FromStr for WebhookUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected a URL such as https://HOST/PATH, with http or https and without a user";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let authority = uri.authority().ok_or(EXPECTED)?;
        let named = !authority.host().is_empty() && !authority.as_str().contains('@');
        let port = authority.as_str().rsplit(']').next().unwrap_or_default();
        let port = port.split_once(':').is_none_or(|(_, port)| {
            let port = port.parse::<u16>();
            port.is_ok_and(|port| port > 0)
        });
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        (known && named && port)
            .then_some(Self(uri))
            .ok_or(EXPECTED)
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}/...")
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(super) struct Webhook {
    url: WebhookUrl,
    /// Created with the first event, by the thread that uses it.
    client: Option<Client>,
}

struct Client {
    runtime: Runtime,
    tls: Option<TlsConnector>,
}

/// Why an event was not posted, and whether to try again.
struct Failure {
    reason: String,
    again: bool,
}

impl Failure {
    fn again(reason: impl fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
            again: true,
        }
    }
}

impl Webhook {
    pub(super) fn new(url: WebhookUrl) -> Self {
        Self { url, client: None }
    }

    fn client(&mut self) -> Result<&Client, String> {
        if self.client.is_none() {
            let tls = self.url.is_https().then(connector).transpose()?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                // For host names: a lookup that hangs occupies a thread.
                .max_blocking_threads(2)
                .build()
                .map_err(|error| format!("the system gives no files for it: {}", reason(&error)))?;
            self.client = Some(Client { runtime, tls });
        }
        self.client
            .as_ref()
            .ok_or_else(|| "it is not there".to_owned())
    }

    fn post(&mut self, notice: &str, queue: &Queue) -> Result<(), Failure> {
        let url = self.url.clone();
        let body = Bytes::copy_from_slice(notice.as_bytes());
        let client = self.client().map_err(|reason| Failure {
            reason,
            again: false,
        })?;
        let given_up = async {
            while !queue.given_up() {
                time::sleep(LOOK).await;
            }
        };
        client.runtime.block_on(async {
            tokio::select! {
                posted = time::timeout(TIME, client.post(&url, body)) => posted.unwrap_or_else(|_| {
                    Err(Failure::again(format_args!("no answer within {} s", TIME.as_secs())))
                }),
                () = given_up => Err(Failure::again("the server ends")),
            }
        })
    }
}

impl Receiver for Webhook {
    fn name(&self) -> String {
        format!("--notify-url {}", self.url)
    }

    fn deliver(&mut self, notice: &str, queue: &Queue) -> Result<(), String> {
        let mut pauses = PAUSES.into_iter();
        loop {
            let Err(failure) = self.post(notice, queue) else {
                return Ok(());
            };
            match pauses.next() {
                Some(pause) if failure.again && !queue.given_up() => queue.pause(pause),
                _ => return Err(failure.reason),
            }
        }
    }
}

impl Client {
    async fn post(&self, url: &WebhookUrl, body: Bytes) -> Result<(), Failure> {
        let stream = TcpStream::connect((url.host(), url.port()))
            .await
            .map_err(|error| Failure::again(unreachable(&error)))?;
        match &self.tls {
            None => send(url, body, TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(url.host().to_owned()).map_err(|_| Failure {
                    reason: "its host is no name that a certificate can have".to_owned(),
                    again: false,
                })?;
                let stream = tls.connect(name, stream).await.map_err(Failure::again)?;
                send(url, body, TokioIo::new(stream)).await
            }
        }
    }
}

async fn send<S: Read + Write + Unpin + Send + 'static>(
    url: &WebhookUrl,
    body: Bytes,
    stream: S,
) -> Result<(), Failure> {
    let path = url.0.path_and_query().map_or("/", |path| path.as_str());
    let host = url.0.authority().map_or("", |authority| authority.as_str());
    let request = Request::post(path)
        .header(HOST, host)
        .header(CONTENT_TYPE, "application/json")
        .header(
            USER_AGENT,
            concat!("poet-service/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::new(body))
        .map_err(Failure::again)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .handshake(stream)
        .await
        .map_err(|_| Failure::again("the connection was closed"))?;
    let connection = tokio::spawn(connection);
    let answer = sender.send_request(request).await;
    // The body of the response is not needed.
    connection.abort();
    let answer = answer.map_err(|_| Failure::again("its answer is cut off, or not HTTP"))?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let again = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    Err(Failure {
        reason: format!("it answered {}", status.as_u16()),
        again,
    })
}

fn unreachable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        _ => format!("it cannot be reached: {}", reason(error)),
    }
}

/// Trusts the system's certificates (`SSL_CERT_FILE` names others).
fn connector() -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // An unusable certificate is not trusted.
        drop(roots.add(certificate));
    }
    if roots.is_empty() {
        return Err(
            "https needs trusted certificates, and this system has none: expected the package \
             ca-certificates, or SSL_CERT_FILE"
                .to_owned(),
        );
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_host_is_shown() {
        for (text, shown) in [
            (
                "https://hooks.example/services/T0/B0/secret",
                "https://hooks.example/...",
            ),
            (
                "http://localhost:8065/hooks/x?y=z",
                "http://localhost:8065/...",
            ),
            ("http://[::1]:80", "http://[::1]:80/..."),
        ] {
            let url: WebhookUrl = text.parse().unwrap();
            assert_eq!(
                (url.to_string(), format!("{url:?}")),
                (shown.into(), shown.into())
            );
        }
        let url: WebhookUrl = "https://[::1]/x".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("::1", 443));
        for text in [
            "",
            "hooks.example/x",
            "ftp://hooks.example/x",
            "https://",
            "https:///x",
            "https://user:secret@hooks.example/x",
            "https://hooks.example:99999/x",
            "https://hooks.example:0/x",
            "https://a b/",
        ] {
            assert!(text.parse::<WebhookUrl>().is_err(), "{text}");
        }
    }
}
