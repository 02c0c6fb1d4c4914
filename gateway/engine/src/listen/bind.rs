//! A listening socket for an address.

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
pub const BACKLOG: i32 = 4096;

/// Listens on `address`, without blocking. Port 0 takes a free port; `local_addr` of the result says which.
///
/// An IPv6 address serves IPv6 only, whatever the machine's default: `[::]:443` and `0.0.0.0:443` are two listeners
/// that can stand side by side, and neither takes the other's clients by accident.
///
/// # Errors
/// If the address is in use, not one of this machine, or not permitted.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a previous process that linger in TIME_WAIT must not keep the address from us. (On Windows the
    // same option would let two processes share the port.)
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_0_becomes_a_real_port_and_a_taken_one_is_an_error() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn ipv6_and_ipv4_of_one_port_stand_side_by_side() {
        let Ok(v6) = bind("[::]:0".parse().unwrap()) else {
            eprintln!("skipped: this machine has no IPv6");
            return;
        };
        let port = v6.local_addr().unwrap().port();
        // Another process may hold the IPv4 port by chance; what must not be is that our own IPv6 socket holds it.
        if let Err(error) = bind(SocketAddr::from(([0, 0, 0, 0], port))) {
            drop(v6);
            assert!(bind(SocketAddr::from(([0, 0, 0, 0], port))).is_err(), "the IPv6 socket held the IPv4 port: {error}");
        }
    }
}
