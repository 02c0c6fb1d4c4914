//! One request of an HTTP/2 connection, as the h2 library gives it.

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response};
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// A stream whose head was read. Dropped before its response is complete, it is reset.
pub struct Stream {
    receive: RecvStream,
    respond: SendResponse<Bytes>,
    /// Once the head of the response is sent.
    send: Option<SendStream<Bytes>>,
    /// What has come of the body, for whoever takes it from a buffer.
    pub input: BytesMut,
    /// How long the client may take nothing of the response.
    pub write_timeout: Duration,
}

impl Stream {
    pub fn new(receive: RecvStream, respond: SendResponse<Bytes>, write_timeout: Duration) -> Self {
        Self { receive, respond, send: None, input: BytesMut::new(), write_timeout }
    }

    /// Whether all of the body was read.
    pub fn is_ended(&self) -> bool {
        self.receive.is_end_stream()
    }

    /// The next piece of the body; `None` at its end. The client may send as much again.
    pub fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            let data = match ready!(self.receive.poll_data(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(broken(error)))),
                Some(Ok(data)) => data,
            };
            if let Err(error) = self.receive.flow_control().release_capacity(data.len()) {
                return Poll::Ready(Some(Err(broken(error))));
            }
            // An empty frame would look like the end.
            if !data.is_empty() {
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    /// Ready once the client has given the stream up.
    pub fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.send {
            Some(send) => send.poll_reset(context).map(|_| ()),
            None => self.respond.poll_reset(context).map(|_| ()),
        }
    }

    /// # Errors
    /// If the client is gone.
    pub fn send_interim(&mut self, response: Response<()>) -> io::Result<()> {
        self.respond.send_informational(response).map_err(broken)
    }

    /// Sends the head; with `last`, there is no body.
    ///
    /// # Errors
    /// If the client is gone, or a head was sent before.
    pub fn send_head(&mut self, response: Response<()>, last: bool) -> io::Result<()> {
        self.send = Some(self.respond.send_response(response, last).map_err(broken)?);
        Ok(())
    }

    /// How many bytes of the response's body the client takes now: some of `wanted`, or more.
    pub fn poll_capacity(&mut self, context: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let Some(send) = &mut self.send else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        send.reserve_capacity(wanted);
        loop {
            match send.capacity() {
                0 => match ready!(send.poll_capacity(context)) {
                    None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                    Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                    Some(Ok(_)) => {}
                },
                capacity => return Poll::Ready(Ok(capacity)),
            }
        }
    }

    /// Sends a piece of the body, which may be larger than what the client takes now: it is kept then.
    ///
    /// # Errors
    /// If the client is gone.
    pub fn send_data(&mut self, data: Bytes, last: bool) -> io::Result<()> {
        match &mut self.send {
            Some(send) => send.send_data(data, last).map_err(broken),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// # Errors
    /// If the client is gone.
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> io::Result<()> {
        match &mut self.send {
            Some(send) => send.send_trailers(trailers).map_err(broken),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub fn reset(&mut self, reason: h2::Reason) {
        match &mut self.send {
            Some(send) => send.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }
}

fn broken(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}
