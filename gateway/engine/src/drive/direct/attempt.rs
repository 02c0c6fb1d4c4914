//! One attempt on one backend: the request goes out, the response comes in, and either may come before the other has ended.

use super::body::{Body, Flow, Push};
use super::downstream::{Downstream, Onward};
use crate::drive::chunked::{ChunkError, Scanner};
use crate::drive::spare::Spare;
use crate::drive::timer::Timer;
use crate::exchange::Run;
use crate::http1::{Response, ResponseParser};
use crate::normalise::Refusal;
use crate::pool::{BackendOutcome, Connection};
use crate::rescue::Cause;
use bytes::{Buf, BytesMut};
use portcullis_plugin::{Reply, reason};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

/// Room for one read of a body.
const READ: usize = 16 << 10;
/// Room for one read of a body that is known to have as much.
const READ_LARGE: usize = 64 << 10;
/// Bytes of a request's body that are kept so that it can be sent again.
const REPLAY: usize = 64 << 10;

/// Why an attempt did not come to its end.
pub enum Broken {
    /// The client is gone, or its request breaks off.
    Client,
    ClientTimeout,
    /// The client's chunked coding is not what the RFC allows.
    ClientCoding,
    /// The body is refused, and this is the answer.
    Refused(Reply),
    /// The backend closed or broke the connection.
    Backend,
    BackendTimeout,
    BackendInvalid(Refusal),
}

impl Broken {
    /// What is to be told of it beside its cause. `end`: when all of it had to be over.
    pub fn trouble(&self, end: Option<Instant>) -> Option<String> {
        match self {
            Self::BackendInvalid(refusal) => Some(refusal.told()),
            Self::BackendTimeout if end.is_some_and(|end| Instant::now() >= end) => {
                Some("the time for all of it was over".to_owned())
            }
            Self::BackendTimeout => Some("nothing came from it, or it took nothing, for longer than that".to_owned()),
            _ => None,
        }
    }

    /// What it means to the client and to the backend's record.
    pub fn explain(&self) -> (Cause, BackendOutcome) {
        let ambiguous = Cause::Refused { status: 400, reason: reason::REQUEST_AMBIGUOUS };
        match self {
            Self::Client => (Cause::ClientGone, BackendOutcome::Cancelled),
            Self::ClientTimeout => (Cause::RequestTimeout, BackendOutcome::Cancelled),
            Self::ClientCoding => (ambiguous, BackendOutcome::Cancelled),
            Self::Refused(_) => (Cause::BodyTooLarge, BackendOutcome::Cancelled),
            Self::Backend => (Cause::UpstreamReset, BackendOutcome::Reset),
            Self::BackendTimeout => (Cause::UpstreamTimeout, BackendOutcome::Timeout),
            Self::BackendInvalid(_) => (Cause::UpstreamInvalid, BackendOutcome::Invalid),
        }
    }
}

/// How long each kind of waiting may last.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For a piece of the client's body.
    pub body: Duration,
    /// For the backend to take something.
    pub write: Duration,
    /// For the backend to say something.
    pub read: Duration,
    /// When all of it has to be over.
    pub end: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Going,
    Complete,
    /// The backend takes no more; it may have answered nevertheless.
    Stopped,
}

/// What was sent of a body, so that it can be sent again. `None`: it is too much, or nobody wants it again.
pub type Replay = Option<Vec<u8>>;

pub struct Attempt<'a, D> {
    pub client: &'a mut D,
    pub timer: &'a mut Timer,
    pub run: &'a mut Run,
    connection: Connection,
    /// From the backend.
    input: Spare<BytesMut>,
    parser: ResponseParser,
    request: Flow,
    counted: u64,
    replay: &'a mut Replay,
    pub patience: Patience,
    sending: Sending,
    /// The client has closed its sending side.
    client_ended: bool,
    /// The backend has said something.
    heard: bool,
    /// How often something was read, from either side.
    reads: u64,
}

impl<'a, D: Downstream> Attempt<'a, D> {
    #[allow(clippy::too_many_arguments)] // Each is borrowed from another place.
    pub fn new(
        client: &'a mut D,
        timer: &'a mut Timer,
        run: &'a mut Run,
        connection: Connection,
        request: Flow,
        replay: &'a mut Replay,
        patience: Patience,
    ) -> Self {
        let parser = ResponseParser::default();
        let sending = Sending::Going;
        Self {
            client,
            timer,
            run,
            connection,
            input: Spare::default(),
            parser,
            request,
            counted: 0,
            replay,
            patience,
            sending,
            client_ended: false,
            heard: false,
            reads: 0,
        }
    }

    /// Sends the request until the backend answers. Interim responses are answers too: ask again after one.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn answer(&mut self) -> Result<Response, Broken> {
        self.stage()?;
        poll_fn(|context| {
            let before = self.moved();
            if let Poll::Ready(answer) = self.poll_head(context) {
                self.timer.restart();
                return Poll::Ready(answer);
            }
            if let Err(broken) = self.poll_client(context) {
                return Poll::Ready(Err(broken));
            }
            if self.moved() != before {
                self.timer.restart();
            }
            let (limit, broken) = match self.sending {
                Sending::Going if self.request.is_writing() => (self.patience.write, Broken::BackendTimeout),
                Sending::Going => (self.patience.body, Broken::ClientTimeout),
                _ => (self.patience.read, Broken::BackendTimeout),
            };
            ready!(self.timer.poll(context, limit, self.patience.end));
            Poll::Ready(Err(if self.is_over() { Broken::BackendTimeout } else { broken }))
        })
        .await
    }

    /// Sends the response, of which `response` has the head, to the client; and goes on with the request meanwhile.
    ///
    /// # Errors
    /// If it breaks off on the way.
    pub async fn relay(&mut self, response: &mut D::Response) -> Result<(), Broken> {
        response.take(&mut self.input).map_err(invalid_coding)?;
        let relayed = poll_fn(|context| {
            let before = self.moved() + response.sent();
            if let Poll::Ready(ended) = self.poll_body(context, response) {
                return Poll::Ready(ended);
            }
            if let Err(broken) = self.poll_client(context) {
                return Poll::Ready(Err(broken));
            }
            if self.moved() + response.sent() != before {
                self.timer.restart();
            }
            let (limit, broken) = match (response.is_writing(), self.client.write_limit()) {
                (false, _) => (self.patience.read, Broken::BackendTimeout),
                (true, Some(limit)) => (limit, Broken::Client),
                (true, None) if self.patience.end.is_none() => return Poll::Pending,
                (true, None) => (FAR, Broken::Client),
            };
            ready!(self.timer.poll(context, limit, self.patience.end));
            Poll::Ready(Err(if self.is_over() { Broken::BackendTimeout } else { broken }))
        })
        .await;
        self.timer.restart();
        relayed
    }

    /// Whether the whole request was sent.
    pub fn is_sent(&self) -> bool {
        self.sending == Sending::Complete
    }

    /// Whether what is there of a body is in the chunked coding.
    pub fn is_well_coded(&self) -> bool {
        Scanner::default().scan(&self.input).is_ok()
    }

    /// Whether the backend has said anything on this connection.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// What is left of the request's body.
    pub fn into_body(self) -> Body {
        self.request.body
    }

    /// The connection, if nothing is outstanding on it: a byte too many would be taken for the next answer.
    pub fn into_connection(self) -> Option<Connection> {
        (self.is_sent() && self.input.is_empty()).then_some(self.connection)
    }

    fn is_over(&self) -> bool {
        self.patience.end.is_some_and(|end| Instant::now() >= end)
    }

    /// Changes whenever something was read or written.
    fn moved(&self) -> u64 {
        self.reads + self.request.sent
    }

    fn poll_head(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Broken>> {
        loop {
            if !self.input.is_empty() {
                match self.parser.parse(&self.input) {
                    Ok(Some(response)) => {
                        self.input.advance(response.len);
                        return Poll::Ready(Ok(response));
                    }
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(Err(Broken::BackendInvalid(refusal))),
                }
            }
            if ready!(self.poll_backend(context, READ))? == 0 {
                return Poll::Ready(Err(Broken::Backend));
            }
        }
    }

    fn poll_body(&mut self, context: &mut Context<'_>, response: &mut D::Response) -> Poll<Result<(), Broken>> {
        loop {
            match ready!(response.poll_push(context, &mut self.input, &mut *self.client)) {
                Err(_) => return Poll::Ready(Err(Broken::Client)),
                Ok(Push::Complete) => return Poll::Ready(Ok(())),
                Ok(Push::Hungry) => {}
            }
            if self.input.is_empty() {
                let left = response.left().and_then(|left| usize::try_from(left).ok());
                let room = left.unwrap_or(READ).clamp(READ, READ_LARGE);
                if ready!(self.poll_backend(context, room))? == 0 && !response.end_of_stream() {
                    return Poll::Ready(Err(Broken::Backend));
                }
            }
            response.take(&mut self.input).map_err(invalid_coding)?;
        }
    }

    fn poll_backend(&mut self, context: &mut Context<'_>, room: usize) -> Poll<Result<usize, Broken>> {
        self.input.lend();
        self.input.reserve(room);
        let Poll::Ready(read) = poll_read_buf(Pin::new(&mut self.connection), context, &mut *self.input) else {
            if self.input.is_empty() {
                self.input.give_back();
            }
            return Poll::Pending;
        };
        if matches!(read, Ok(1..)) {
            self.heard = true;
            self.reads += 1;
        }
        Poll::Ready(read.map_err(|_| Broken::Backend))
    }

    /// Sends the request on; once it is sent, sees whether the client is still there.
    fn poll_client(&mut self, context: &mut Context<'_>) -> Result<(), Broken> {
        if self.sending == Sending::Going {
            match self.poll_request(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(())) => self.sending = Sending::Complete,
                Poll::Ready(Err(Broken::Backend)) => self.sending = Sending::Stopped,
                Poll::Ready(Err(broken)) => return Err(broken),
            }
        }
        self.client.watch(context, &mut self.client_ended).map_err(|_| Broken::Client)
    }

    fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let copied = self.replay.is_some();
            match ready!(self.request.poll_push(context, self.client.buffer_mut(), &mut self.connection, copied)) {
                Err(_) => return Poll::Ready(Err(Broken::Backend)),
                Ok(Push::Complete) => return Poll::Ready(self.count()),
                Ok(Push::Hungry) => {}
            }
            if self.client.buffer_mut().is_empty() {
                match ready!(self.client.poll_fill(context, READ)) {
                    Ok(1..) => self.reads += 1,
                    // Only where the body says by its end that it is over.
                    Ok(0) if matches!(self.request.body, Body::UntilClosed) => {
                        self.request.end_of_stream();
                        continue;
                    }
                    _ => return Poll::Ready(Err(Broken::Client)),
                }
            }
            let replay = &mut *self.replay;
            let staged = self.request.refill(self.client.buffer_mut(), copied, &mut |data| keep(replay, data));
            staged.map_err(|_: ChunkError| Broken::ClientCoding)?;
            self.count()?;
        }
    }

    /// Puts what is there of the request's body behind its head.
    fn stage(&mut self) -> Result<(), Broken> {
        if self.sending == Sending::Going {
            let replay = &mut *self.replay;
            let staged = self.request.stage(self.client.buffer_mut(), &mut |data| keep(replay, data));
            staged.map_err(|_: ChunkError| Broken::ClientCoding)?;
            self.count()?;
        }
        Ok(())
    }

    /// Counts the body before it is sent on; one that goes on uncopied has said its length, and was measured by it.
    fn count(&mut self) -> Result<(), Broken> {
        let fresh = self.request.bytes - std::mem::replace(&mut self.counted, self.request.bytes);
        if fresh == 0 { Ok(()) } else { self.run.count_request_body(fresh).map_err(Broken::Refused) }
    }
}

/// Longer than any wait.
const FAR: Duration = Duration::from_secs(24 * 3600);

fn invalid_coding(error: ChunkError) -> Broken {
    Broken::BackendInvalid(Refusal::upstream("the chunked coding of RFC 9112", error.to_string()))
}

fn keep(replay: &mut Replay, data: &[u8]) {
    if let Some(kept) = replay {
        if kept.len() + data.len() > REPLAY {
            *replay = None;
        } else {
            kept.extend_from_slice(data);
        }
    }
}
