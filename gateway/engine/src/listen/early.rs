//! A TCP connection while it is being set up: what was read of it and not yet used.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Bytes are read as they come and used one layer at a time; the rest goes on to the next layer.
pub(super) struct Early {
    tcp: TcpStream,
    ahead: BytesMut,
}

impl Early {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: BytesMut::new() }
    }

    /// What was read and not yet used.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.ahead
    }

    pub(super) fn tcp(&mut self) -> &mut TcpStream {
        &mut self.tcp
    }

    /// Waits for at least one more byte and at most `limit`; false at the end of the connection. A caller that is
    /// cancelled here has lost nothing.
    pub(super) async fn more(&mut self, limit: usize) -> io::Result<bool> {
        let chunk = limit.clamp(1, 4096);
        self.ahead.reserve(chunk);
        let mut limited = (&mut self.ahead).limit(chunk);
        Ok(self.tcp.read_buf(&mut limited).await? > 0)
    }

    /// These first bytes are used.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.ahead.advance(bytes);
    }

    pub(super) fn clear(&mut self) {
        self.ahead.clear();
    }

    pub(super) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.tcp, self.ahead.freeze())
    }
}
