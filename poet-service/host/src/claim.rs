//! Which cores the hashing threads of other servers use.
//!
//! Two servers started together would both choose the fastest core, and each would get half of it.
//! So a server claims its core by the name of an abstract Unix socket: only one process at a time
//! can bind it, all users of the machine share the names, and the kernel releases them when a
//! process ends, however it ends. No data is sent. Containers with their own network namespaces do
//! not see each other's claims.

use std::{
    fs, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

/// A core, claimed until this is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    _core: UnixDatagram,
    /// A second name, which contains the id of the process.
    _process: Option<UnixDatagram>,
}

/// Why there is no claim.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoClaim {
    /// Another process has it; its id, if known.
    Taken(Option<u32>),
    /// This system has no abstract names, or does not permit them.
    Unknown,
}

/// Claims a core together with those that share its execution units.
pub(crate) fn claim(core: usize, siblings: &[usize]) -> Result<Claim, NoClaim> {
    let first = siblings.iter().copied().chain([core]).min();
    claim_name(&format!("poet-service/work-core/{}", first.unwrap_or(core)))
}

pub(crate) fn claim_name(name: &str) -> Result<Claim, NoClaim> {
    let core = match bind(name) {
        Ok(core) => core,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
            return Err(NoClaim::Taken(holder(&sockets, name)));
        }
        Err(_) => return Err(NoClaim::Unknown),
    };
    // Used only in the other process's message.
    let process = bind(&format!("{name}/{}", std::process::id())).ok();
    Ok(Claim {
        _core: core,
        _process: process,
    })
}

fn bind(name: &str) -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Finds the process that holds a name in the kernel's list of sockets.
fn holder(sockets: &str, name: &str) -> Option<u32> {
    let names = sockets.lines().filter_map(|line| line.rsplit_once('@'));
    names
        .filter_map(|(_, socket)| socket.strip_prefix(name)?.strip_prefix('/')?.parse().ok())
        .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_for_one_and_ends_with_it() {
        let own = std::process::id();
        let name = format!("poet-host/test/{own}");
        let held = claim_name(&name).unwrap();
        assert_eq!(claim_name(&name).unwrap_err(), NoClaim::Taken(Some(own)));
        drop(held);
        claim_name(&name).unwrap();
        let too_long = "x".repeat(200);
        assert_eq!(claim_name(&too_long).unwrap_err(), NoClaim::Unknown);
    }

    #[test]
    fn the_holder_is_read_from_the_list() {
        let sockets = "Num       RefCount Protocol Flags    Type St Inode Path
00000000: 00000002 00000000 00000000 0002 01 11 /run/user/@b
00000000: 00000002 00000000 00000000 0002 01 12 @a/3
00000000: 00000002 00000000 00000000 0002 01 13 @a/3/77
00000000: 00000002 00000000 00000000 0002 01 14 @a/31/78";
        assert_eq!(holder(sockets, "a/3"), Some(77));
        assert_eq!(holder(sockets, "a/31"), Some(78));
        assert_eq!(holder(sockets, "b"), None);
        assert_eq!(holder("", "a"), None);
    }
}
