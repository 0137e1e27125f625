//! Notifies the service manager (`sd_notify`), and formats log lines for the journal. Without
//! systemd, all of this does nothing.

use std::{env, ffi::OsString, time::Duration};

/// Sends the server's state to the socket in `NOTIFY_SOCKET`.
#[derive(Debug)]
pub struct ServiceManager {
    #[cfg(unix)]
    socket: Option<Socket>,
    watchdog: Option<Duration>,
}

#[cfg(unix)]
#[derive(Debug)]
struct Socket {
    socket: std::os::unix::net::UnixDatagram,
    address: std::os::unix::net::SocketAddr,
}

impl ServiceManager {
    /// Connects to the service manager named in the environment, if there is one.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| env::var_os(name))
    }

    fn from_variables(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let number = |name| variable(name)?.to_str()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|micros| ours && *micros > 0);
        Self {
            #[cfg(unix)]
            socket: variable("NOTIFY_SOCKET").and_then(|name| Socket::open(&name)),
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Returns how long it waits for a sign of life before it kills the server.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Reports that the server has started.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reports that the server has begun to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Reports what the server does, in a line, and that it is alive.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}\nWATCHDOG=1", status.replace('\n', " ")));
    }

    #[cfg(unix)]
    fn tell(&self, state: &str) {
        if let Some(Socket { socket, address }) = &self.socket {
            // If this fails, nothing is lost; and nobody waits for it.
            drop(socket.send_to_addr(state.as_bytes(), address));
        }
    }

    #[cfg(not(unix))]
    fn tell(&self, _state: &str) {}
}

#[cfg(unix)]
impl Socket {
    fn open(name: &OsString) -> Option<Self> {
        use std::os::unix::net::{SocketAddr, UnixDatagram};
        let address = match abstract_name(name) {
            Some(name) => abstract_address(name)?,
            None => SocketAddr::from_pathname(name).ok()?,
        };
        let socket = UnixDatagram::unbound().ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Self { socket, address })
    }
}

/// Returns the name of an abstract socket, which begins with `@`.
#[cfg(unix)]
fn abstract_name(name: &OsString) -> Option<&[u8]> {
    std::os::unix::ffi::OsStrExt::as_bytes(&**name).strip_prefix(b"@")
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> Option<std::os::unix::net::SocketAddr> {
    use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
    SocketAddr::from_abstract_name(name).ok()
}

#[cfg(all(unix, not(target_os = "linux")))]
fn abstract_address(_name: &[u8]) -> Option<std::os::unix::net::SocketAddr> {
    None
}

/// Returns whether standard error is the journal, which reads the priority of a line from its
/// prefix (`<3>` for an error).
pub(crate) fn stderr_is_journal() -> bool {
    env::var("JOURNAL_STREAM").is_ok_and(|stream| is_stderr(&stream))
}

/// Returns whether standard error is this device and file (`device:inode`).
#[cfg(unix)]
fn is_stderr(stream: &str) -> bool {
    let Ok(status) = rustix::fs::fstat(std::io::stderr()) else {
        return false;
    };
    stream == format!("{}:{}", status.st_dev, status.st_ino)
}

#[cfg(not(unix))]
fn is_stderr(_stream: &str) -> bool {
    false
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    };

    use super::*;

    fn manager(variables: &[(&str, String)]) -> ServiceManager {
        ServiceManager::from_variables(|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.clone().into())
        })
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn messages_reach_both_kinds_of_sockets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("poet-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, variable) in [
            (
                UnixDatagram::bind(&path).unwrap(),
                path.display().to_string(),
            ),
            (
                UnixDatagram::bind_addr(&address).unwrap(),
                format!("@{name}"),
            ),
        ] {
            let manager = manager(&[("NOTIFY_SOCKET", variable)]);
            manager.ready();
            manager.status("two\nlines");
            manager.stopping();
            assert_eq!(received(&socket), "READY=1");
            assert_eq!(received(&socket), "STATUS=two lines\nWATCHDOG=1");
            assert_eq!(received(&socket), "STOPPING=1");
        }
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(&[("NOTIFY_SOCKET", path.display().to_string())]);
        for _ in 0..10_000 {
            manager.status("as it is");
        }
    }

    #[test]
    fn no_manager_and_one_that_is_gone_are_no_harm() {
        for name in ["", "@", "/no/such/socket", &"x".repeat(500)] {
            let manager = manager(&[("NOTIFY_SOCKET", name.to_owned())]);
            manager.ready();
            assert_eq!(manager.watchdog(), None);
        }
    }

    #[test]
    fn the_watchdog_is_that_of_this_process() {
        let own = std::process::id().to_string();
        let watchdog = |usec: &str, pid: Option<&str>| {
            let mut variables = vec![("WATCHDOG_USEC", usec.to_owned())];
            variables.extend(pid.map(|pid| ("WATCHDOG_PID", pid.to_owned())));
            manager(&variables).watchdog()
        };
        let minute = Some(Duration::from_secs(60));
        assert_eq!(watchdog("60000000", None), minute);
        assert_eq!(watchdog("60000000", Some(&own)), minute);
        assert_eq!(watchdog("60000000", Some("1")), None);
        assert_eq!(watchdog("0", None), None);
        assert_eq!(watchdog("soon", None), None);
    }
}
