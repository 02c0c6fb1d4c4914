//! A client that speaks HTTP/1.

use super::body::{Body, Coding, Flow, Push};
use super::downstream::{Answer, Downstream, Onward};
use super::own_reply;
use crate::drive::chunked::{ChunkError, Scanner};
use crate::drive::gate::Gate;
use crate::drive::spare::Spare;
use crate::exchange::Run;
use crate::http1;
use crate::normalise::{BodyLength, Framing};
use bytes::BytesMut;
use portcullis_plugin::{Method, Reply, ResponseHead, Version};
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How long the rest of a refused request's body is read, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);
/// Room for what a client sends while it waits.
const READ_AHEAD: usize = 4 << 10;

impl Downstream for Gate {
    type Response = Flow;

    fn body(&self, framing: &Framing) -> Body {
        match framing.body {
            BodyLength::None => Body::Done,
            BodyLength::Exact(length) => Body::exact(length),
            BodyLength::Chunked => Body::Chunked(Scanner::default()),
        }
    }

    fn buffer_mut(&mut self) -> &mut BytesMut {
        Gate::buffer_mut(self)
    }

    fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        Gate::poll_fill(self, context, room)
    }

    fn watch(&mut self, context: &mut Context<'_>, ended: &mut bool) -> io::Result<()> {
        while !*ended && !self.is_full() {
            match Gate::poll_fill(self, context, READ_AHEAD) {
                Poll::Pending => break,
                // It has said all it wants to say, and may read the answer all the same.
                Poll::Ready(Ok(0)) => *ended = true,
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// The stream below sees to it.
    fn write_limit(&self) -> Option<Duration> {
        None
    }

    async fn interim(&mut self, head: &ResponseHead) -> io::Result<()> {
        let mut out = Spare::lent();
        http1::write_response(head, false, None, &mut out);
        self.write_all(&out).await?;
        self.flush().await
    }

    fn respond(&mut self, head: ResponseHead, answer: Answer) -> io::Result<Flow> {
        let Answer { body, bodiless, unframed, chunked, keep_alive, http10 } = answer;
        // HTTP/1.0 knows no chunks (RFC 9112, section 6.1): the body then ends with the connection.
        let chunked = !http10 && (unframed || chunked);
        let coding = match (bodiless, chunked) {
            (true, _) => Coding::Nothing,
            (false, true) => Coding::Chunked,
            (false, false) => Coding::Plain,
        };
        let mut out = Spare::lent();
        http1::write_response(&head, chunked, connection_option(keep_alive, http10), &mut out);
        Ok(Flow::new(body, coding, out))
    }

    async fn reply(&mut self, run: &mut Run, reply: Reply, keep_alive: bool) -> io::Result<u16> {
        let (head, body) = own_reply(run, reply);
        let status = head.status();
        let mut out = Spare::lent();
        let http10 = run.request().version() == Version::Http10;
        http1::write_response(&head, false, connection_option(keep_alive, http10), &mut out);
        if !matches!(status, 204 | 304) && *run.request().method() != Method::Head {
            out.extend_from_slice(&body);
            run.traffic_mut().bytes_out = body.len() as u64;
        }
        self.write_all(&out).await?;
        self.flush().await?;
        Ok(status)
    }

    async fn discard(&mut self, mut body: Body) -> bool {
        if body.is_done() {
            return true;
        }
        let drained = async {
            while !body.is_done() {
                if self.buffered().is_empty() && self.fill().await? == 0 {
                    return io::Result::Ok(false);
                }
                if body.take(Gate::buffer_mut(self), &mut |_| {}).is_err() {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let whole = matches!(tokio::time::timeout(DRAIN, drained).await, Ok(Ok(true)));
        if !whole {
            Gate::leave_unread(self);
        }
        whole
    }

    fn leave_unread(&mut self) {
        Gate::leave_unread(self);
    }
}

/// What is said of the connection: only what the version does not say by itself.
fn connection_option(keep_alive: bool, http10: bool) -> Option<&'static str> {
    match (keep_alive, http10) {
        (true, true) => Some("keep-alive"),
        (true, false) => None,
        (false, _) => Some("close"),
    }
}

impl Onward<Gate> for Flow {
    fn take(&mut self, input: &mut BytesMut) -> Result<(), ChunkError> {
        // The first of a body goes out with the head, in one write.
        if self.is_writing() { self.stage(input, &mut |_| {}) } else { self.refill(input, false, &mut |_| {}) }
    }

    fn poll_push(&mut self, context: &mut Context<'_>, input: &mut BytesMut, client: &mut Gate) -> Poll<io::Result<Push>> {
        Flow::poll_push(self, context, input, client, false)
    }

    fn end_of_stream(&mut self) -> bool {
        let ends = matches!(self.body, Body::UntilClosed);
        if ends {
            Flow::end_of_stream(self);
        }
        ends
    }

    fn left(&self) -> Option<u64> {
        self.body.left()
    }

    fn is_writing(&self) -> bool {
        Flow::is_writing(self)
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
