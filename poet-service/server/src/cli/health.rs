//! `poet-service health`.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use poet_files::reason;
use poet_service::{args::ServerArgs, config::Config};
use serde_json::Value;

/// Ask the server on this machine whether it is ready
///
/// Takes the options of the server, and uses --restlisten. For containers (HEALTHCHECK) and
/// scripts. Exit code: 0 it is ready, 1 it is not, or does not respond, with the reason on standard
/// error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    server: ServerArgs,
}

/// How long each step may take.
const TIME: Duration = Duration::from_secs(5);
/// Much larger than any response.
const MAX_ANSWER_BYTES: u64 = 16 << 10;

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let listen = Config::load(args.server)?.listeners.rest;
    let answer = ask(&listen).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!("it does not answer within {} s", TIME.as_secs())
            }
            io::ErrorKind::ConnectionRefused => "nothing listens there".to_owned(),
            _ => reason(&error),
        };
        anyhow::anyhow!("no server at --restlisten {listen}: {reason}")
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).unwrap_or_default();
    let health: Option<Value> = serde_json::from_str(body).ok();
    let health = health.as_ref().and_then(Value::as_object);
    let health =
        health.with_context(|| format!("what answers at --restlisten {listen} is no PoET"))?;
    if status == "200" {
        println!("ready");
        return Ok(ExitCode::SUCCESS);
    }
    let reason = health.get("reason").and_then(Value::as_str);
    bail!("not ready: {}", reason.unwrap_or("no reason is given"));
}

fn ask(listen: &str) -> io::Result<String> {
    let mut stream = connect(listen)?;
    stream.set_read_timeout(Some(TIME))?;
    stream.set_write_timeout(Some(TIME))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Connects to the server from this machine.
fn connect(listen: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match listen.strip_prefix(':') {
        Some(port) => format!("localhost:{port}").to_socket_addrs()?.collect(),
        None => listen.to_socket_addrs()?.collect(),
    };
    let mut failure = io::ErrorKind::AddrNotAvailable.into();
    for mut address in addresses {
        // The server listens on every interface, so also on the loopback one.
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        match TcpStream::connect_timeout(&address, TIME) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}
