//! Binds the sockets of a server: one for every address of a name.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait to be accepted; all nodes connect at once.
const BACKLOG: i32 = 4096;
/// How often to ask the system for a port that is free at all addresses.
const PORT_TRIES: usize = 20;

/// Listens on `address`: `host:port`, or `:port` for every interface. If a name has several
/// addresses, listens on all of them: a client of one must not reach another server. Skips
/// addresses of a family that this machine lacks.
///
/// # Errors
/// Fails if the address is invalid, taken or not this machine's.
pub(crate) async fn bind(address: &str) -> io::Result<Vec<TcpListener>> {
    let addresses = match address.strip_prefix(':') {
        Some(port) => {
            let port = port.parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidInput, "the port is not a number")
            })?;
            // This socket accepts IPv4 connections, too.
            let any: IpAddr = match has_family(Ipv6Addr::LOCALHOST.into()) {
                true => Ipv6Addr::UNSPECIFIED.into(),
                false => Ipv4Addr::UNSPECIFIED.into(),
            };
            vec![SocketAddr::new(any, port)]
        }
        None => resolve(address).await?,
    };
    let port_is_free = addresses.iter().any(|address| address.port() != 0);
    let mut tries = if port_is_free { 1 } else { PORT_TRIES };
    loop {
        tries -= 1;
        match bind_all(&addresses) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {}
            other => return other,
        }
    }
}

async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))?;
    let mut addresses: Vec<_> = found.collect();
    // The first address is displayed: clients of the original server expect 127.0.0.1.
    addresses.sort_by_key(|address| (address.is_ipv6(), address.ip()));
    addresses.dedup();
    Ok(addresses)
}

fn bind_all(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for address in addresses {
        let mut address = *address;
        if let Some(first) = listeners.first() {
            // Use the same port everywhere if the system chose it.
            address.set_port(first.local_addr()?.port());
        }
        match listen(address) {
            Ok(listener) => listeners.push(listener),
            Err(_) if !has_family(address.ip()) => {
                tracing::debug!(%address, "left out: this machine has no addresses of its family");
            }
            Err(error) => {
                let reason = format!("{address}: {}", reason(&error));
                return Err(io::Error::new(error.kind(), reason));
            }
        }
    }
    if listeners.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            "the name has no address of a family that this machine has",
        ));
    }
    Ok(listeners)
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there".to_owned(),
        io::ErrorKind::AddrNotAvailable => "not an address of this machine".to_owned(),
        io::ErrorKind::PermissionDenied => "not permitted".to_owned(),
        _ => error.to_string(),
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // On other systems, it would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        // Whatever the system's default is.
        socket.set_only_v6(false)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
}

/// Returns whether this machine has addresses of the same family.
fn has_family(address: IpAddr) -> bool {
    let loopback: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    std::net::UdpSocket::bind((loopback, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_port_that_is_taken_is_named() {
        let first = bind("127.0.0.1:0").await.unwrap();
        let address = first[0].local_addr().unwrap();
        let error = bind(&address.to_string()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{address}: another program listens there")
        );
        // An address reserved for documentation.
        let error = bind("192.0.2.1:0").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "192.0.2.1:0: not an address of this machine"
        );
        let error = bind("no-such-name.invalid:0").await.unwrap_err();
        assert_eq!(error.to_string(), "the name has no address");
    }

    #[tokio::test]
    async fn every_interface_is_both_families() {
        let listeners = bind(":0").await.unwrap();
        assert_eq!(listeners.len(), 1);
        let port = listeners[0].local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if has_family(Ipv6Addr::LOCALHOST.into()) {
            std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
        // Another program has one family of the port.
        let error = bind(&format!("127.0.0.1:{port}")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
