//! The names on which a server listens: in a mount namespace with the test's own `/etc/hosts`.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/program.rs"]
mod program;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use poet_conformance::skip;

/// Returns whether namespaces can be created here; if not, says so.
fn may_unshare(namespaces: &str) -> bool {
    let made = Command::new("unshare")
        .args([namespaces, "mount", "--bind", "/etc/hosts", "/etc/hosts"])
        .output();
    let reason = match made {
        Ok(made) if made.status.success() => return true,
        Ok(made) => String::from_utf8_lossy(&made.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    skip(format_args!("no namespace can be made here: {reason}"));
    false
}

/// Starts a server with `hosts` as `/etc/hosts`.
struct Named(Child);

impl Named {
    fn start(folder: &Path, namespaces: &str, setup: &str, hosts: &str, listen: &str) -> Self {
        fs::write(folder.join("hosts"), hosts).unwrap();
        let server = program::command(folder);
        let script = format!("{setup} mount --bind \"$0\" /etc/hosts && exec \"$@\"");
        let child = Command::new("unshare")
            .args([namespaces, "sh", "-c", &script])
            .arg(folder.join("hosts"))
            .arg(server.get_program())
            .args(server.get_args())
            .arg(format!("--restlisten={listen}"))
            .env_remove("POET_PRIVATE_KEY")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Waits until it serves.
    fn greeting(&mut self) -> String {
        let stdout = BufReader::new(self.0.stdout.take().unwrap());
        let lines = stdout.lines().map_while(Result::ok);
        let lines: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
        lines.join("\n")
    }

    /// Waits until it has failed.
    fn error(&mut self) -> String {
        let mut error = String::new();
        let mut stderr = self.0.stderr.take().unwrap();
        stderr.read_to_string(&mut error).unwrap();
        assert!(!self.0.wait().unwrap().success(), "{error}");
        error
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

const BOTH: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Returns a port that is free in both families.
fn free_port() -> u16 {
    loop {
        let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = one.local_addr().unwrap().port();
        if TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn a_name_is_served_at_all_its_addresses_or_not_at_all() {
    if !may_unshare("-m") {
        return;
    }
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        return skip("this machine has no IPv6");
    }
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let listen = format!("localhost:{port}");
    let mut first = Named::start(folder.path(), "-m", "", BOTH, &listen);
    let greeting = first.greeting();
    assert!(
        greeting.contains(&format!("http://127.0.0.1:{port}")),
        "{greeting}"
    );
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    drop(first);

    // Another program has one of the addresses.
    let port = free_port();
    let listen = format!("localhost:{port}");
    let busy = |taken: String| {
        let other = TcpListener::bind(&taken).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut second = Named::start(folder.path(), "-m", "", BOTH, &listen);
        let error = second.error();
        let expected = format!(
            "cannot listen on --restlisten {listen}: {taken}: another program listens there"
        );
        assert!(error.contains(&expected), "{error}");
        drop(other);
    };
    busy(format!("127.0.0.1:{port}"));
    busy(format!("[::1]:{port}"));

    // One of them is not this machine's.
    let hosts = "127.0.0.1 poet\n192.0.2.1 poet\n";
    let folder = tempfile::tempdir().unwrap();
    let mut server = Named::start(folder.path(), "-m", "", hosts, &format!("poet:{port}"));
    let error = server.error();
    let expected = format!("192.0.2.1:{port}: not an address of this machine");
    assert!(error.contains(&expected), "{error}");
}

#[test]
fn a_family_that_the_machine_does_not_have_is_left_out() {
    if !may_unshare("-mn") {
        return;
    }
    let without_ipv6 = "ip link set lo up && \
                        echo 1 > /proc/sys/net/ipv6/conf/lo/disable_ipv6 2>/dev/null;";
    let folder = tempfile::tempdir().unwrap();
    let mut server = Named::start(folder.path(), "-mn", without_ipv6, BOTH, "localhost:8080");
    let greeting = server.greeting();
    if greeting.is_empty() {
        panic!("{}", server.error());
    }
    assert!(greeting.contains("http://127.0.0.1:8080"), "{greeting}");
}
