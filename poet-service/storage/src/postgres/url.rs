//! The location of a PostgreSQL database: a URL as libpq reads it, and the password, which is never
//! in the URL.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use percent_encoding::percent_decode_str;
use tokio_postgres::config::{Config, Host, SslMode, TargetSessionAttrs};

use super::error::words;

/// Limits that the URL may override.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const USER_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
/// The database ends a statement that takes longer, and a transaction whose client is silent for
/// longer.
const STATEMENT_TIMEOUT: &str =
    "-c statement_timeout=10s -c idle_in_transaction_session_timeout=5s";

/// The prefix of the names of servers' connections.
pub(super) const SERVER: &str = "poet-service";
/// The name of connections that examine or copy a database.
const OPERATOR: &str = "poet-operator";

/// The URL of a PostgreSQL database. Its text contains no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    text: String,
    config: Config,
    trust: Trust,
    passfile: Option<PathBuf>,
}

/// Which certificates of the database to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Any certificate.
    Any,
    /// Those issued by one of these authorities, for any name.
    Issued(Roots),
    /// Those issued by one of these authorities, for the host's name.
    Named(Roots),
}

/// Who may issue certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Roots {
    File(PathBuf),
    System,
}

/// One of the hosts of a database.
pub(super) struct Server {
    pub(super) config: Config,
    /// The host and port, or the folder of the socket.
    pub(super) shown: String,
}

impl FromStr for DatabaseUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            |what: &str| format!("{what}: expected postgres://USER@HOST/NAME as libpq reads it");
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .ok_or_else(|| expected("it is no URL of PostgreSQL"))?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let in_query = query.split('&').any(|pair| pair.starts_with("password="));
        let user = address.rsplit_once('@').map_or("", |(user, _)| user);
        if in_query || user.contains(':') {
            // The message omits the text, which contains the password.
            return Err(
                "it has a password, which others could read: expected it in PGPASSWORD, or in the \
                 file that PGPASSFILE or passfile= names (default: ~/.pgpass)"
                    .to_owned(),
            );
        }
        let (mut mode, mut roots, mut passfile, mut target) =
            ("prefer".to_owned(), None, None, None);
        let mut others = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair
                .split_once('=')
                .ok_or_else(|| expected(&format!("`{pair}` in it is no NAME=VALUE")))?;
            let decoded = percent_decode_str(value)
                .decode_utf8()
                .map_err(|_| expected(&format!("{name} in it is no text")))?
                .into_owned();
            match name {
                "sslmode" => mode = decoded,
                "sslrootcert" => roots = Some(decoded),
                "passfile" => passfile = Some(PathBuf::from(decoded)),
                "target_session_attrs" => target = Some(decoded),
                // Only TLS is supported.
                "gssencmode" if decoded != "require" => {}
                _ => others.push(pair),
            }
        }
        if target.is_some_and(|target| !["any", "read-write", "primary"].contains(&&*target)) {
            return Err(
                "its target_session_attrs is not one that a server can work with: expected \
                        read-write, which is the default"
                    .to_owned(),
            );
        }
        let known = if others.is_empty() {
            format!("postgres://{address}")
        } else {
            format!("postgres://{address}?{}", others.join("&"))
        };
        let mut config: Config = known.parse().map_err(|error| expected(&words(&error)))?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host("localhost");
        }
        if config.get_user().is_none() {
            let user = ["PGUSER", "USER", "LOGNAME"]
                .iter()
                .find_map(|name| env::var(name).ok())
                .ok_or_else(|| expected("it names no user"))?;
            config.user(user);
        }
        if config.get_dbname().is_none() {
            let user = config.get_user().unwrap_or_default().to_owned();
            config.dbname(user);
        }
        let home = env::home_dir();
        let certificate = || match roots.as_deref() {
            Some("system") => Ok(Roots::System),
            Some(file) => Ok(Roots::File(PathBuf::from(file))),
            None => match &home {
                Some(home) => Ok(Roots::File(home.join(".postgresql/root.crt"))),
                None => Err(expected("its sslmode needs sslrootcert")),
            },
        };
        let (tls, trust) = match &*mode {
            "disable" => (SslMode::Disable, Trust::Any),
            "allow" | "prefer" => (SslMode::Prefer, Trust::Any),
            // As with libpq: if a root certificate is given, it is checked.
            "require" if roots.is_some() => (SslMode::Require, Trust::Issued(certificate()?)),
            "require" => (SslMode::Require, Trust::Any),
            "verify-ca" => (SslMode::Require, Trust::Issued(certificate()?)),
            "verify-full" => (SslMode::Require, Trust::Named(certificate()?)),
            other => {
                return Err(format!(
                    "its sslmode is `{other}`: expected disable, allow, prefer, require, verify-ca or \
                     verify-full"
                ));
            }
        };
        config.ssl_mode(tls);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(USER_TIMEOUT);
        }
        config
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES);
        // Copying a database finds the servers on it by this name.
        let name = match config.get_application_name() {
            None => SERVER.to_owned(),
            Some(given) => format!("{SERVER} {given}"),
        };
        config.application_name(name);
        let options = match config.get_options() {
            // PostgreSQL uses the later value.
            Some(given) => format!("{STATEMENT_TIMEOUT} {given}"),
            None => STATEMENT_TIMEOUT.to_owned(),
        };
        config.options(options);
        Ok(Self {
            text: text.to_owned(),
            config,
            trust,
            passfile,
        })
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl DatabaseUrl {
    /// The same URL for an operator's command.
    pub(super) fn for_operator(&self) -> Self {
        let mut url = self.clone();
        url.config.application_name(OPERATOR);
        url
    }

    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    pub(super) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    /// Returns whether it names several servers, of which one takes writes.
    pub(super) fn has_replicas(&self) -> bool {
        (self.config.get_hosts().len()).max(self.config.get_hostaddrs().len()) > 1
    }

    /// Returns the hosts in order, each with its password.
    pub(super) fn servers(&self) -> io::Result<Vec<Server>> {
        let hosts = self.config.get_hosts();
        let addresses = self.config.get_hostaddrs();
        let ports = self.config.get_ports();
        let count = hosts.len().max(addresses.len());
        let mut servers = Vec::with_capacity(count);
        for place in 0..count {
            let port = ports.get(place).or(ports.first()).copied().unwrap_or(5432);
            let mut config = Config::new();
            config
                .user(self.user())
                .dbname(self.database())
                .port(port)
                .ssl_mode(self.config.get_ssl_mode())
                .ssl_negotiation(self.config.get_ssl_negotiation())
                .channel_binding(self.config.get_channel_binding())
                .target_session_attrs(TargetSessionAttrs::ReadWrite)
                .keepalives(self.config.get_keepalives())
                .keepalives_idle(self.config.get_keepalives_idle());
            if let Some(interval) = self.config.get_keepalives_interval() {
                config.keepalives_interval(interval);
            }
            if let Some(retries) = self.config.get_keepalives_retries() {
                config.keepalives_retries(retries);
            }
            if let Some(timeout) = self.config.get_connect_timeout() {
                config.connect_timeout(*timeout);
            }
            if let Some(timeout) = self.config.get_tcp_user_timeout() {
                config.tcp_user_timeout(*timeout);
            }
            if let Some(name) = self.config.get_application_name() {
                config.application_name(name);
            }
            if let Some(options) = self.config.get_options() {
                config.options(options);
            }
            let mut name = String::new();
            match hosts.get(place) {
                Some(Host::Tcp(host)) => {
                    config.host(host);
                    name.clone_from(host);
                }
                #[cfg(unix)]
                Some(Host::Unix(folder)) => {
                    config.host_path(folder);
                    name = folder.display().to_string();
                }
                None => {}
            }
            if let Some(address) = addresses.get(place) {
                config.hostaddr(*address);
                if name.is_empty() {
                    name = address.to_string();
                }
            }
            if let Some(password) = self.password(&name, port)? {
                config.password(password);
            }
            let shown = if name.contains(':') {
                format!("[{name}]:{port}")
            } else {
                format!("{name}:{port}")
            };
            servers.push(Server { config, shown });
        }
        Ok(servers)
    }

    /// Returns the password for a host: from the environment, or from a file as libpq reads it.
    fn password(&self, host: &str, port: u16) -> io::Result<Option<String>> {
        if let Ok(password) = env::var("PGPASSWORD")
            && !password.is_empty()
        {
            return Ok(Some(password));
        }
        let named = self
            .passfile
            .clone()
            .or_else(|| env::var_os("PGPASSFILE").map(PathBuf::from));
        let file = match &named {
            Some(file) => file.clone(),
            None => match env::home_dir() {
                Some(home) => home.join(".pgpass"),
                None => return Ok(None),
            },
        };
        let text = match fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if is_public(&file)? {
            tracing::warn!(
                file = %file.display(),
                "the file of passwords is not read, since others could read it, too: expected mode 0600"
            );
            return Ok(None);
        }
        let port = port.to_string();
        // libpq looks up every socket under this name.
        let host = if host.starts_with('/') {
            "localhost"
        } else {
            host
        };
        Ok(find_password(
            &text,
            [host, &port, self.database(), self.user()],
        ))
    }
}

#[cfg(unix)]
fn is_public(file: &Path) -> io::Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(fs::metadata(file)?.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_public(_file: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Returns the password of the first line `host:port:database:user:password` that matches.
fn find_password(text: &str, wanted: [&str; 4]) -> Option<String> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let mut fields = vec![String::new()];
            let mut characters = line.chars();
            while let Some(character) = characters.next() {
                match character {
                    '\\' => fields.last_mut()?.extend(characters.next()),
                    // The password may contain colons.
                    ':' if fields.len() < 5 => fields.push(String::new()),
                    _ => fields.last_mut()?.push(character),
                }
            }
            let fits = |(field, wanted): (&String, &&str)| field == "*" || field == *wanted;
            (fields.len() == 5 && fields.iter().zip(&wanted).all(fits)).then(|| fields.pop())?
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_found_as_libpq_finds_them() {
        let text = "# a comment\nhost:5432:poet:one:first\n*:*:*:two:a\\:b:c\\\\d\nshort:line\n";
        let find = |host, port, user| find_password(text, [host, port, "poet", user]);
        assert_eq!(find("host", "5432", "one").as_deref(), Some("first"));
        assert_eq!(find("host", "5433", "one"), None);
        assert_eq!(find("other", "1", "two").as_deref(), Some("a:b:c\\d"));
        assert_eq!(find("other", "1", "three"), None);
    }

    #[test]
    fn urls_are_read_as_libpq_reads_them() {
        let url: DatabaseUrl =
            "postgresql://me@one:1,two/poet?sslmode=verify-full&sslrootcert=/ca.pem"
                .parse()
                .unwrap();
        assert_eq!((url.user(), url.database()), ("me", "poet"));
        assert_eq!(*url.trust(), Trust::Named(Roots::File("/ca.pem".into())));
        assert_eq!(url.config.get_ssl_mode(), SslMode::Require);
        let shown: Vec<_> = url
            .servers()
            .unwrap()
            .into_iter()
            .map(|one| one.shown)
            .collect();
        assert_eq!(shown, ["one:1", "two:5432"]);
        let url: DatabaseUrl = "postgres://me@/poet?host=/run/pg&port=7".parse().unwrap();
        assert_eq!(url.servers().unwrap()[0].shown, "/run/pg:7");
        let trust = |query: &str| {
            let url = format!("postgres://me@one/poet?{query}");
            url.parse::<DatabaseUrl>().unwrap().trust
        };
        assert_eq!(trust("sslmode=require"), Trust::Any);
        let system = "sslmode=require&sslrootcert=system";
        assert_eq!(trust(system), Trust::Issued(Roots::System));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (url, expected) in [
            ("mysql://me@one/poet", "no URL of PostgreSQL"),
            ("postgres://me:secret@one/poet", "PGPASSWORD"),
            ("postgres://me@one/poet?password=secret", "PGPASSWORD"),
            ("postgres://me@one/poet?sslmode=on", "verify-full"),
            ("postgres://me@one/poet?sslmode", "NAME=VALUE"),
            ("postgres://me@one/poet?colour=red", "colour"),
            ("postgres://me@one:port/poet", "port"),
            (
                "postgres://me@one/poet?target_session_attrs=standby",
                "read-write",
            ),
        ] {
            let error = url.parse::<DatabaseUrl>().unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
