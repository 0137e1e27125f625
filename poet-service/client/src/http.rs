//! HTTP requests to servers that may be slow, broken or hostile: every response is limited in time
//! and size, compressed or not, and redirects are not followed.

use std::{
    fmt,
    io::{self, Read},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use anyhow::bail;
use flate2::read::MultiGzDecoder;
use poet_files::reason;
use poet_proto::duration::format_go;
use rustls::CertificateError;
use rustls_native_certs::ErrorKind;
use serde::{Deserialize, Serialize};
use ureq::{
    Agent,
    http::{Response, Uri},
    tls::{Certificate, RootCerts, TlsConfig},
};

use crate::output::printable;

/// The address of a server, without a trailing slash.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Url(String);

impl Url {
    fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
}

impl FromStr for Url {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected http://HOST[:PORT] or https://HOST[:PORT]";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let host = uri.authority().ok_or(EXPECTED)?;
        // The text before an @ is often a password, and this is printed and stored.
        let plain = uri.query().is_none() && !text.contains('#') && !host.as_str().contains('@');
        if !plain || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(EXPECTED);
        }
        // The text after the host and after the brackets of an address.
        let port = host.as_str().rsplit(']').next().unwrap_or_default();
        if let Some((_, port)) = port.split_once(':')
            && port.parse::<u16>().ok().is_none_or(|port| port == 0)
        {
            return Err("expected a port from 1 to 65535");
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl TryFrom<String> for Url {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Url> for String {
    fn from(url: Url) -> Self {
        url.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    #[error("no answer within {}", format_go(*.0))]
    Timeout(Duration),
    #[error("its answer is longer than {0} bytes")]
    TooLong(u64),
    #[error("its answer is cut off or not what its headers say")]
    Cut,
    #[error("its answer is not HTTP, or its head is too long")]
    NotHttp,
    #[error("cannot be reached: {0}")]
    Unreachable(String),
}

/// The response of a server.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The target of a redirect.
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// A client for any number of servers.
#[derive(Clone)]
pub(crate) struct Http {
    agent: Agent,
}

impl Http {
    /// Creates a client for `urls`.
    ///
    /// # Errors
    /// Fails if one of them needs TLS and the system has no trusted certificates.
    pub(crate) fn new<'a>(urls: impl IntoIterator<Item = &'a Url>) -> anyhow::Result<Self> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("poet-client/", env!("CARGO_PKG_VERSION")));
        if urls.into_iter().any(Url::is_https) {
            config = config.tls_config(tls_config()?);
        }
        Ok(Self {
            agent: config.build().into(),
        })
    }

    pub(crate) fn get(&self, url: &str, limits: Limits) -> Result<Answer, HttpError> {
        let request = self.agent.get(url).header("accept-encoding", "gzip");
        let request = request.config().timeout_global(Some(limits.time)).build();
        limits.read(request.call())
    }

    pub(crate) fn post(
        &self,
        url: &str,
        json: String,
        limits: Limits,
    ) -> Result<Answer, HttpError> {
        let request = self.agent.post(url).content_type("application/json");
        let request = request.config().timeout_global(Some(limits.time)).build();
        limits.read(request.send(json))
    }
}

/// The system's trusted certificates (as for Go's programs, `SSL_CERT_FILE` names others), and
/// ring, which builds wherever there is a C compiler.
fn tls_config() -> anyhow::Result<TlsConfig> {
    // An error means that a provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let hint = "https needs trusted certificates, and this system has none: expected the \
            package ca-certificates, or SSL_CERT_FILE";
        match found.errors.first().map(|error| &error.kind) {
            Some(ErrorKind::Io { inner, path }) => {
                bail!("{hint}; cannot read {}: {}", path.display(), reason(inner))
            }
            Some(_) => bail!("{hint}; those that it has are damaged"),
            None => bail!(hint),
        }
    }
    let certificates = found
        .certs
        .iter()
        .map(|certificate| Certificate::from_der(certificate).to_owned());
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::Specific(Arc::new(certificates.collect())))
        .build())
}

/// The limits of a response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// From the first byte of the request to the last of the response.
    pub(crate) time: Duration,
    /// Applies to the response as sent, and again to the decompressed one.
    pub(crate) bytes: u64,
}

impl Limits {
    fn read(
        self,
        response: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<Answer, HttpError> {
        let mut response = response.map_err(|error| self.explain(&error))?;
        let header = |name| response.headers().get(name)?.to_str().ok();
        let gzip = header("content-encoding").is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let location = header("location").map(printable);
        let body = response.body_mut().with_config().limit(self.bytes);
        let mut body = body.read_to_vec().map_err(|error| self.explain(&error))?;
        if gzip {
            body = self.decompress(&body)?;
        }
        Ok(Answer {
            status: response.status().as_u16(),
            location,
            body,
        })
    }

    fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>, HttpError> {
        let mut decompressed = Vec::new();
        MultiGzDecoder::new(bytes)
            .take(self.bytes.saturating_add(1))
            .read_to_end(&mut decompressed)
            .map_err(|_| HttpError::Cut)?;
        if decompressed.len() as u64 > self.bytes {
            return Err(HttpError::TooLong(self.bytes));
        }
        Ok(decompressed)
    }

    fn explain(self, error: &ureq::Error) -> HttpError {
        let tls = match error {
            ureq::Error::Rustls(error) => Some(error),
            ureq::Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref()),
            _ => None,
        };
        if let Some(error) = tls {
            return HttpError::Unreachable(tls_reason(error));
        }
        match error {
            ureq::Error::Timeout(_) => HttpError::Timeout(self.time),
            ureq::Error::BodyExceedsLimit(_) => HttpError::TooLong(self.bytes),
            ureq::Error::Io(error) => match error.kind() {
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                    HttpError::Timeout(self.time)
                }
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => HttpError::Cut,
                io::ErrorKind::ConnectionRefused => {
                    HttpError::Unreachable("connection refused".to_owned())
                }
                _ => HttpError::Unreachable(printable(&reason(error))),
            },
            ureq::Error::HostNotFound => HttpError::Unreachable("no such host".to_owned()),
            ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => HttpError::NotHttp,
            ureq::Error::InvalidProxyUrl => HttpError::Unreachable(
                "the proxy that the environment names is not the address of one".to_owned(),
            ),
            ureq::Error::ConnectProxyFailed(_) => {
                HttpError::Unreachable("the proxy does not connect to it".to_owned())
            }
            other => HttpError::Unreachable(printable(&other.to_string())),
        }
    }
}

/// Says why there is no TLS connection.
fn tls_reason(error: &rustls::Error) -> String {
    use CertificateError as Certificate;

    let known = match error {
        rustls::Error::InvalidCertificate(invalid) => match invalid {
            Certificate::UnknownIssuer => {
                "this system does not trust the issuer of its certificate"
            }
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "its certificate has expired"
            }
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
                "its certificate is not valid yet"
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "its certificate is for another host"
            }
            _ => "its certificate is not valid",
        },
        rustls::Error::InvalidMessage(_) => {
            "it answers https with something else: expected a server with TLS, or http"
        }
        rustls::Error::AlertReceived(_) => "it refuses the TLS connection",
        other => return format!("TLS fails: {}", printable(&other.to_string())),
    };
    known.to_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    #[test]
    fn addresses_are_plain() {
        for (text, stored) in [
            ("http://localhost:8080", "http://localhost:8080"),
            ("https://poet.example/base/", "https://poet.example/base"),
            ("http://[::1]:80", "http://[::1]:80"),
            ("http://[::1]", "http://[::1]"),
            ("http://localhost:65535/", "http://localhost:65535"),
        ] {
            assert_eq!(text.parse::<Url>().unwrap().to_string(), stored);
        }
        for text in [
            "",
            "localhost:8080",
            "ftp://host",
            "http://",
            "http://user:secret@host",
            "http://host/?a=b",
            "http://host/#part",
            "http://a b",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text}");
        }
        for text in [
            "http://localhost:99999",
            "http://[::1]:65536",
            "http://host:0",
            "http://host:/",
        ] {
            let error = text.parse::<Url>().unwrap_err();
            assert_eq!(error, "expected a port from 1 to 65535", "{text}");
        }
    }

    #[test]
    fn what_is_compressed_is_bounded_too() {
        let limits = Limits {
            time: Duration::from_secs(1),
            bytes: 1000,
        };
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&[0; 1000]).unwrap();
        let fits = encoder.finish().unwrap();
        assert_eq!(limits.decompress(&fits).unwrap().len(), 1000);
        let twice = [&fits[..], &fits[..]].concat();
        assert!(matches!(
            limits.decompress(&twice),
            Err(HttpError::TooLong(1000))
        ));
        let cut = &fits[..fits.len() - 3];
        assert!(matches!(limits.decompress(cut), Err(HttpError::Cut)));
    }
}
