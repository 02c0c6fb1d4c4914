//! A client that speaks HTTP/2.

use super::body::{Body, Push};
use super::downstream::{Answer, Downstream, Onward};
use super::own_reply;
use crate::drive::chunked::ChunkError;
use crate::drive::convert;
use crate::drive::http2::Stream;
use crate::exchange::Run;
use crate::normalise::{BodyLength, Framing};
use bytes::{Buf, Bytes, BytesMut};
use portcullis_plugin::{Method, Reply, ResponseHead};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::timeout;

/// Smaller pieces are copied, so that the buffer they were read into can be used again at once; and the last of a response is
/// not held back when it is smaller.
const SMALL: usize = 4 << 10;

/// Bytes of a chunked body that are put together to one piece.
const STAGED: usize = 16 << 10;

impl Downstream for Stream {
    type Response = Outgoing;

    fn body(&self, framing: &Framing) -> Body {
        match framing.body {
            BodyLength::None => Body::Done,
            BodyLength::Exact(length) => Body::exact(length),
            // The stream says where it ends.
            BodyLength::Chunked => Body::UntilClosed,
        }
    }

    fn buffer_mut(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, _: usize) -> Poll<io::Result<usize>> {
        match ready!(self.poll_data(context)) {
            None => Poll::Ready(Ok(0)),
            Some(data) => {
                let data = data?;
                self.input.extend_from_slice(&data);
                Poll::Ready(Ok(data.len()))
            }
        }
    }

    fn watch(&mut self, context: &mut Context<'_>, _: &mut bool) -> io::Result<()> {
        match self.poll_reset(context) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_reset(context)
    }

    fn write_limit(&self) -> Option<Duration> {
        Some(self.write_timeout)
    }

    async fn interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        self.send_interim(convert::http2_response(head.clone())?)
    }

    fn respond(&mut self, head: ResponseHead, answer: Answer) -> io::Result<Outgoing> {
        let body = if answer.bodiless { Body::Done } else { answer.body };
        let ended = body.is_done();
        self.send_head(convert::http2_response(head)?, ended)?;
        Ok(Outgoing { body, staged: BytesMut::new(), ended, blocked: false, bytes: 0, sent: 0 })
    }

    async fn reply(&mut self, run: &mut Run, reply: Reply, _: bool) -> io::Result<u16> {
        let (head, body) = own_reply(run, reply);
        let status = head.status();
        let bodiless = body.is_empty() || matches!(status, 204 | 304) || *run.request().method() == Method::Head;
        self.send_head(convert::http2_response(head)?, bodiless)?;
        if !bodiless {
            run.traffic_mut().bytes_out = body.len() as u64;
            self.send_all(body).await?;
        }
        Ok(status)
    }

    /// The library tells the client to stop, and the connection goes on in any case.
    async fn discard(&mut self, _: Body) -> bool {
        true
    }

    fn leave_unread(&mut self) {}
}

impl Stream {
    /// Sends a whole body. A client that takes nothing of it for too long does without the rest.
    ///
    /// # Errors
    /// If the client is gone, or does not read.
    pub async fn send_all(&mut self, mut body: Bytes) -> io::Result<()> {
        while body.len() > SMALL {
            let wanted = body.len();
            let capacity = timeout(self.write_timeout, poll_fn(|context| self.poll_capacity(context, wanted))).await??;
            let piece = body.split_to(capacity.min(wanted));
            self.send_data(piece, body.is_empty())?;
        }
        if body.is_empty() { Ok(()) } else { self.send_data(body, true) }
    }
}

/// A response whose head is sent.
pub struct Outgoing {
    body: Body,
    /// Taken out of its coding.
    staged: BytesMut,
    /// The end of the body is sent.
    ended: bool,
    /// The client takes no more for now.
    blocked: bool,
    bytes: u64,
    sent: u64,
}

impl Onward<Stream> for Outgoing {
    fn take(&mut self, input: &mut BytesMut) -> Result<(), ChunkError> {
        let Self { body, staged, bytes, .. } = self;
        while matches!(body, Body::Chunked(_)) && !input.is_empty() && staged.len() < STAGED {
            *bytes += body.take(input, &mut |data| staged.extend_from_slice(data))? as u64;
        }
        Ok(())
    }

    fn poll_push(&mut self, context: &mut Context<'_>, input: &mut BytesMut, client: &mut Stream) -> Poll<io::Result<Push>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(Push::Complete));
            }
            let (staged, plain) = (self.staged.len(), self.body.plain(input.len()));
            let available = if staged > 0 { staged } else { plain };
            if available == 0 {
                if !self.body.is_done() {
                    return Poll::Ready(Ok(Push::Hungry));
                }
                client.send_data(Bytes::new(), true)?;
                self.ended = true;
                continue;
            }
            let ends = match &self.body {
                Body::Done => true,
                Body::Exact(left) => *left == plain as u64,
                Body::Chunked(_) | Body::UntilClosed => false,
            };
            // The last few bytes wait with the library for a client that does not take them, and not here.
            let len = if ends && available <= SMALL {
                available
            } else {
                self.blocked = true;
                available.min(ready!(client.poll_capacity(context, available))?)
            };
            self.blocked = false;
            let data = if staged > 0 {
                self.staged.split_to(len).freeze()
            } else {
                self.body.took(len);
                self.bytes += len as u64;
                piece(input, len)
            };
            self.sent += len as u64;
            self.ended = self.body.is_done() && self.staged.is_empty();
            client.send_data(data, self.ended)?;
        }
    }

    fn end_of_stream(&mut self) -> bool {
        let ends = matches!(self.body, Body::UntilClosed);
        if ends {
            self.body = Body::Done;
        }
        ends
    }

    fn left(&self) -> Option<u64> {
        self.body.left()
    }

    fn is_writing(&self) -> bool {
        self.blocked
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Takes the first bytes of what was read.
fn piece(input: &mut BytesMut, len: usize) -> Bytes {
    if len <= SMALL {
        let piece = Bytes::copy_from_slice(input.get(..len).unwrap_or_default());
        input.advance(len);
        piece
    } else {
        input.split_to(len).freeze()
    }
}
