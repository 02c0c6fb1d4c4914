//! A local port that stays ours while nothing listens on it, so that a server can go away and come back.

use crate::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1; clones are the same port. Connections are refused until somebody [`listen`](Self::listen)s on it, and again afterwards;
/// no other program is given the port meanwhile.
///
/// Another program may listen on it too, if it sets `SO_REUSEADDR`, as servers do.
#[derive(Clone)]
pub struct Port {
    address: SocketAddr,
    /// Bound and never listening: this is what keeps the port.
    _placeholder: Arc<TcpSocket>,
}

impl Port {
    /// A free one.
    ///
    /// # Errors
    /// If there is none.
    pub fn reserve() -> Result<Self, Error> {
        Self::of(0)
    }

    /// The one of that number.
    ///
    /// # Errors
    /// If somebody listens on it.
    pub fn of(number: u16) -> Result<Self, Error> {
        let placeholder = socket(SocketAddr::from((Ipv4Addr::LOCALHOST, number)))?;
        let address = placeholder.local_addr().map_err(Error::io("local address"))?;
        Ok(Self { address, _placeholder: Arc::new(placeholder) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// # Errors
    /// If somebody already listens on the port.
    pub fn listen(&self) -> Result<TcpListener, Error> {
        socket(self.address)?.listen(1024).map_err(Error::io(format!("listen on {}", self.address)))
    }
}

fn socket(address: SocketAddr) -> Result<TcpSocket, Error> {
    let socket = TcpSocket::new_v4().map_err(Error::io("socket"))?;
    socket.set_reuseaddr(true).map_err(Error::io("SO_REUSEADDR"))?;
    socket.bind(address).map_err(Error::io(format!("bind {address}")))?;
    Ok(socket)
}
