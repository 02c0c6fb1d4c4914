//! A stream as Pingora's driver sees it, for what the direct driver leaves to it: backends that speak HTTP/2, and filters that
//! look at bodies.

use super::stream::Stream;
use crate::drive::judge::Judged;
use crate::drive::pingora::Inbound;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::Stream as Messages;
use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use pingora::protocols::Digest;
use pingora::protocols::http::HttpTask;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// Bytes of a request's body that are kept so that it can be sent again.
const REPLAY: usize = 64 << 10;

pub struct Session {
    stream: Stream,
    request: RequestHeader,
    response: Option<Box<ResponseHeader>>,
    /// The response is complete.
    ended: bool,
    bytes_in: usize,
    bytes_out: usize,
    /// `None`: nobody wants it again, or it is too much.
    replay: Option<BytesMut>,
    truncated: bool,
    read_timeout: Option<Duration>,
    /// Since when the client owes a piece of its body.
    owes: Option<Instant>,
    write_timeout: Option<Duration>,
    drain_timeout: Option<Duration>,
}

impl Session {
    /// The driver finds the judged request among the extensions of the head: see [`take_judged`].
    pub fn new(stream: Stream, mut parts: Parts, judged: Judged) -> Self {
        parts.extensions.insert(Arc::new(Mutex::new(Some(Inbound { judged }))));
        Self {
            stream,
            request: parts.into(),
            response: None,
            ended: false,
            bytes_in: 0,
            bytes_out: 0,
            replay: None,
            truncated: false,
            read_timeout: None,
            owes: None,
            write_timeout: None,
            drain_timeout: None,
        }
    }

    fn send_head(&mut self, head: Box<ResponseHeader>, last: bool) -> Result<()> {
        if self.ended || self.response.is_some() {
            return Ok(());
        }
        let mut parts = head.as_owned_parts();
        // RFC 9113, section 8.2.2.
        for name in ["transfer-encoding", "connection", "upgrade", "keep-alive", "proxy-connection"] {
            parts.headers.remove(name);
        }
        let response = http::Response::from_parts(parts, ());
        if head.status.is_informational() {
            return self.stream.send_interim(response).or_err(ErrorType::WriteError, "an interim response");
        }
        self.stream.send_head(response, last).or_err(ErrorType::WriteError, "the head of the response")?;
        self.response = Some(head);
        self.ended = last;
        Ok(())
    }

    async fn send_piece(&mut self, mut data: Bytes, last: bool) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.bytes_out += data.len();
        while !data.is_empty() {
            let wanted = data.len();
            let room = poll_fn(|context| self.stream.poll_capacity(context, wanted));
            let room = match self.write_timeout {
                None => room.await,
                Some(limit) => match timeout(limit, room).await {
                    Ok(room) => room,
                    Err(_) => return Error::e_explain(ErrorType::WriteTimedout, "the client takes nothing of the response"),
                },
            };
            let room = room.or_err(ErrorType::WriteError, "the body of the response")?;
            let piece = data.split_to(room.min(wanted));
            self.ended = last && data.is_empty();
            self.stream.send_data(piece, self.ended).or_err(ErrorType::WriteError, "the body of the response")?;
        }
        if last { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<()> {
        // Without a head there is nothing to end: the stream is reset when it is dropped.
        if self.ended || self.response.is_none() {
            return Ok(());
        }
        self.ended = true;
        self.stream.send_data(Bytes::new(), true).or_err(ErrorType::WriteError, "the end of the response")
    }

    async fn read(&mut self) -> Result<Option<Bytes>> {
        let data = poll_fn(|context| self.stream.poll_data(context));
        let data = match self.read_timeout {
            None => data.await,
            Some(limit) => {
                // This may be called again before anything came: the wait goes on.
                let owes = *self.owes.get_or_insert_with(Instant::now);
                match timeout_at(owes + limit, data).await {
                    Ok(data) => data,
                    Err(_) => return Error::e_explain(ErrorType::ReadTimedout, "no piece of the request's body in time"),
                }
            }
        };
        self.owes = None;
        let data: Option<Bytes> = data
            .transpose()
            .map_err(|error: io::Error| Error::because(ErrorType::ReadError, "the body of the request", error))?;
        if let Some(data) = &data {
            self.bytes_in += data.len();
            if let Some(kept) = &mut self.replay {
                if kept.len() + data.len() > REPLAY {
                    self.replay = None;
                    self.truncated = true;
                } else {
                    kept.extend_from_slice(data);
                }
            }
        }
        Ok(data)
    }
}

/// Takes the judged request that came with an HTTP/2 stream.
pub fn take_judged(request: &RequestHeader) -> Option<Inbound> {
    request.extensions.get::<Arc<Mutex<Option<Inbound>>>>()?.lock().take()
}

#[async_trait]
impl CustomSession for Session {
    fn req_header(&self) -> &RequestHeader {
        &self.request
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        self.read().await
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        let limit = self.drain_timeout.unwrap_or(Duration::ZERO);
        let drain = async {
            while !self.is_body_done() && self.read().await?.is_some() {}
            Ok(())
        };
        timeout(limit, drain)
            .await
            .unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "the rest of the request's body"))
    }

    async fn write_response_header(&mut self, head: Box<ResponseHeader>, last: bool) -> Result<()> {
        self.send_head(head, last)
    }

    async fn write_response_header_ref(&mut self, head: &ResponseHeader, last: bool) -> Result<()> {
        self.send_head(Box::new(head.clone()), last)
    }

    async fn write_body(&mut self, data: Bytes, last: bool) -> Result<()> {
        self.send_piece(data, last).await
    }

    async fn write_trailers(&mut self, trailers: HeaderMap) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.stream.send_trailers(trailers).or_err(ErrorType::WriteError, "the trailers of the response")
    }

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut last = false;
        for task in tasks {
            last |= match task {
                HttpTask::Header(head, last) => {
                    self.send_head(head, last).map_err(|error| error.into_down())?;
                    last
                }
                HttpTask::Body(data, last) => {
                    if let Some(data) = data.filter(|data| !data.is_empty()) {
                        self.send_piece(data, last).await.map_err(|error| error.into_down())?;
                    }
                    last
                }
                HttpTask::Trailer(trailers) => {
                    if let Some(trailers) = trailers {
                        self.write_trailers(*trailers).await.map_err(|error| error.into_down())?;
                    }
                    true
                }
                HttpTask::Done => true,
                HttpTask::Failed(error) => return Err(error),
                HttpTask::UpgradedBody(..) => return Error::e_explain(ErrorType::InternalError, "a tunnel on HTTP/2"),
            };
        }
        if last {
            self.end().map_err(|error| error.into_down())?;
        }
        Ok(last)
    }

    fn set_read_timeout(&mut self, timeout: Option<Duration>) {
        self.read_timeout = timeout;
    }

    fn get_read_timeout(&self) -> Option<Duration> {
        self.read_timeout
    }

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.write_timeout = timeout;
    }

    fn get_write_timeout(&self) -> Option<Duration> {
        self.write_timeout
    }

    fn set_total_drain_timeout(&mut self, timeout: Option<Duration>) {
        self.drain_timeout = timeout;
    }

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        self.drain_timeout
    }

    fn request_summary(&self) -> String {
        // Method, host and path are in the access log, redacted.
        String::new()
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.response.as_deref()
    }

    async fn shutdown(&mut self, _: u32, _: &str) {
        if !self.ended {
            self.ended = true;
            self.stream.reset(h2::Reason::INTERNAL_ERROR);
        }
    }

    fn is_body_done(&mut self) -> bool {
        self.stream.is_ended()
    }

    async fn finish(&mut self) -> Result<()> {
        self.end()
    }

    fn is_body_empty(&mut self) -> bool {
        self.bytes_in == 0 && self.stream.is_ended()
    }

    async fn read_body_or_idle(&mut self, no_body_expected: bool) -> Result<Option<Bytes>> {
        if no_body_expected || self.stream.is_ended() {
            poll_fn(|context| self.stream.poll_reset(context)).await;
            return Error::e_explain(ErrorType::H2Error, "the client has given the stream up");
        }
        self.read().await
    }

    fn body_bytes_sent(&self) -> usize {
        self.bytes_out
    }

    fn body_bytes_read(&self) -> usize {
        self.bytes_in
    }

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        // For subrequests, which there are none of.
        Bytes::new()
    }

    fn enable_retry_buffering(&mut self) {
        if self.replay.is_none() && !self.truncated {
            self.replay = Some(BytesMut::new());
        }
    }

    fn retry_buffer_truncated(&self) -> bool {
        self.truncated
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        self.replay.as_ref().filter(|kept| !kept.is_empty()).map(|kept| Bytes::copy_from_slice(kept))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(&mut self) -> Option<Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn Messages<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
