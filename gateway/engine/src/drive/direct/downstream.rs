//! The client's side of a request, whichever version of HTTP it speaks: where the body comes from, and where the response goes.

use super::body::{Body, Push};
use crate::drive::chunked::ChunkError;
use crate::exchange::Run;
use crate::normalise::Framing;
use bytes::BytesMut;
use portcullis_plugin::{Reply, ResponseHead};
use std::future::Future;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

/// A client whose request is being served.
pub trait Downstream: Sized + Send {
    /// A response on its way to such a client.
    type Response: Onward<Self> + Send;

    /// How the body of a request with this framing is delimited on the way here.
    fn body(&self, framing: &Framing) -> Body;

    /// What has come of the body, to be taken from its front.
    fn buffer_mut(&mut self) -> &mut BytesMut;

    /// Reads more of the body; `room` is a hint. 0 is its end.
    fn poll_fill(&mut self, context: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>>;

    /// Sees whether the client is still there, now that its request is read. `ended` is remembered for it.
    ///
    /// # Errors
    /// If it is not.
    fn watch(&mut self, context: &mut Context<'_>, ended: &mut bool) -> io::Result<()>;

    /// Ready once the client has given the request up, if it can say so while nothing is read from it.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()>;

    /// How long it may take nothing of a response, if nobody else sees to that.
    fn write_limit(&self) -> Option<Duration>;

    /// Sends an interim response.
    fn interim(&mut self, head: &ResponseHead) -> impl Future<Output = io::Result<()>> + Send;

    /// Begins the answer of a backend.
    ///
    /// # Errors
    /// If the client is gone.
    fn respond(&mut self, head: ResponseHead, answer: Answer) -> io::Result<Self::Response>;

    /// Sends a reply of the gateway's own, and gives its status.
    fn reply(&mut self, run: &mut Run, reply: Reply, keep_alive: bool) -> impl Future<Output = io::Result<u16>> + Send;

    /// Reads the rest of a body that nobody wants. Whether the connection can carry another request.
    fn discard(&mut self, body: Body) -> impl Future<Output = bool> + Send;

    /// The rest of the body is not read.
    fn leave_unread(&mut self);
}

/// What is known of a backend's answer besides its head.
pub struct Answer {
    pub body: Body,
    /// There is none, whatever the head says: the answer to HEAD, 204 or 304.
    pub bodiless: bool,
    /// The length is not known beforehand.
    pub unframed: bool,
    /// The backend used the chunked coding.
    pub chunked: bool,
    pub keep_alive: bool,
    /// The client speaks HTTP/1.0.
    pub http10: bool,
}

/// A response on its way to the client.
pub trait Onward<D> {
    /// Takes over what `input` has of the body, as far as that is not sent on as it stands.
    ///
    /// # Errors
    /// If the chunked coding is broken.
    fn take(&mut self, input: &mut BytesMut) -> Result<(), ChunkError>;

    /// Sends what there is.
    ///
    /// # Errors
    /// If the client is gone.
    fn poll_push(&mut self, context: &mut Context<'_>, input: &mut BytesMut, client: &mut D) -> Poll<io::Result<Push>>;

    /// The backend has closed the connection. Whether that is how the body ends.
    fn end_of_stream(&mut self) -> bool;

    /// How many bytes are still to come, if that is known.
    fn left(&self) -> Option<u64>;

    /// Whether something waits for the client to take it.
    fn is_writing(&self) -> bool;

    /// Grows whenever the client has taken something.
    fn sent(&self) -> u64;

    /// Bytes of the body that were taken off the input.
    fn bytes(&self) -> u64;
}
