//! One connection's loop: whatever comes in is read here first.
//!
//! HTTP/1 heads are read under one deadline, parsed strictly, normalised and judged, and only then served: by the direct
//! driver, or by Pingora, for which they are rewritten from what was understood. HTTP/2 connections are framed by the h2 library, and each stream's head passes the same
//! normaliser in the driver.

use super::body_watch::BodyWatch;
use super::gate::Gate;
use super::judge::{Judged, judge};
use super::pingora::{Driver, Inbound};
use super::timer::Timer;
use super::which::{Asked, Which, which};
use super::{convert, direct};
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::connection::Client;
use crate::exchange::Next;
use crate::http1::{self, Parsed};
use crate::normalise::{self, BodyLength, Framing, Refusal};
use crate::refusals::{self, Sketch};
use crate::rescue;
use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{self as http2, H2Accept, HttpSession as Http2Session};
use pingora::protocols::raw_connect::ProxyDigest;
use pingora::protocols::{Digest, GetSocketDigest, GetTimingDigest, Stream};
use pingora_http::ResponseHeader;
use pingora_proxy::HttpProxy;
use portcullis_plugin::{Finding, RequestHead, ResponseHead, Scheme, Version, reason};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// What every connection is served with.
pub struct Serving {
    pub proxy: Arc<HttpProxy<Driver>>,
    pub shutdown: watch::Receiver<bool>,
    pub tracker: TaskTracker,
}

/// A request whose head was read and normalised, with the configuration it will be served by.
struct Received {
    snapshot: Arc<Snapshot>,
    plan: Arc<ListenerPlan>,
    request: RequestHead,
    framing: Framing,
}

/// What the driver needs to know of an HTTP/2 stream.
pub struct Stream2 {
    pub client: Arc<Client>,
    pub watch: Arc<BodyWatch>,
}

/// Streams that were malformed, on one connection, before it is closed.
const MAX_MALFORMED_STREAMS: u32 = 32;

impl Serving {
    /// Serves a connection to its end.
    pub async fn serve(&self, stream: Stream, client: Arc<Client>, http2: bool) {
        let Ok(response) = ResponseHeader::build(200, None) else { return };
        let digest = Arc::new(ProxyDigest::new(Box::new(response), None));
        let gate = Box::new(Gate::new(stream, digest, http2));
        if gate.is_http2() {
            self.serve_http2(gate, client).await;
        } else {
            self.serve_http1(gate, client).await;
        }
    }

    async fn serve_http1(&self, mut gate: Box<Gate>, client: Arc<Client>) {
        let scheme = if client.connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let mut timer = Timer::default();
        let mut served = false;
        loop {
            let Some(received) = self.read_head(&mut gate, &client, scheme, served).await else { return };
            served = true;
            let Received { snapshot, plan, request, framing } = received;
            let judged = judge(&client, snapshot, Arc::clone(&plan), request, framing).await;
            let asked = Asked {
                driver: plan.driver,
                upgrade: framing.upgrade,
                looks_at_bodies: judged.run.looks_at_bodies(),
                backend_http1: match &judged.next {
                    Next::Forward(pool) => Some(pool.speaks_http1()),
                    Next::Reply(_) => None,
                },
            };
            let again = match which(asked) {
                Which::Direct => {
                    plan.metrics.direct.inc();
                    direct::serve(&mut gate, &mut timer, judged, &self.shutdown).await
                }
                Which::Pingora => {
                    plan.metrics.pingora.inc();
                    let Some((back, again)) = self.through_pingora(gate, judged).await else { return };
                    gate = back;
                    again
                }
            };
            if !again || !client.is_listed() {
                pingora::protocols::Shutdown::shutdown(&mut *gate).await;
                return;
            }
        }
    }

    /// Has Pingora's driver serve the request. Gives the stream back, and whether it can carry another.
    async fn through_pingora(&self, mut gate: Box<Gate>, judged: Judged) -> Option<(Box<Gate>, bool)> {
        let framing = *judged.run.framing();
        let request = judged.run.request();
        let version = request.version();
        match framing.body {
            _ if framing.upgrade => gate.allow_after_upgrade(),
            BodyLength::None => gate.allow_none(),
            BodyLength::Exact(len) => gate.allow_exact(len),
            BodyLength::Chunked => gate.allow_chunked(),
        }
        let mut head = Vec::with_capacity(1024);
        // See the gate: an upgrade's body has no end before the answer.
        let body = if framing.upgrade { BodyLength::Chunked } else { framing.body };
        let announced = Framing { body, ..framing };
        if framing.upgrade {
            http1::write_head(request, &announced, &mut head);
        } else {
            // Pingora frames the message; every other field is put into the upstream's request by the driver.
            http1::write_head(&request.without_headers(), &announced, &mut head);
        }
        let mut session = ServerSession::new_http1(gate);
        if let ServerSession::H1(session) = &mut session {
            session.set_pipelined_prefix(BytesMut::from(&head[..]));
            // A client that has sent its request may close its sending side and still read the response.
            session.set_abort_on_close(false);
            // HTTP/1.0 knows no interim responses (RFC 9110, section 15.2).
            session.set_ignore_info_resp(version == Version::Http10);
            // The end of a refused upgrade's body is ours to give, right behind the answer.
            session.set_close_on_response_before_downstream_finish(!framing.upgrade);
        }
        session.set_keepalive(framing.keep_alive.then_some(60));
        session.set_connection_user_context(Some(Box::new(Inbound { judged, watch: None })));
        let reused = self.proxy.process_new_http(session, &self.shutdown).await?;
        let (stream, _) = reused.consume();
        let gate = stream.into_any().downcast::<Gate>().ok()?;
        // A body that was not read to its end would be taken for a head.
        let again = framing.keep_alive && gate.is_spent();
        Some((gate, again))
    }

    /// Reads, parses and normalises one head. `None`: the connection is over, and the client has its answer.
    async fn read_head(&self, gate: &mut Gate, client: &Arc<Client>, scheme: Scheme, served: bool) -> Option<Received> {
        let mut shutdown = self.shutdown.clone();
        if gate.buffered().is_empty() {
            let (_, plan) = client.current();
            // The first request has the time of a head; between requests a connection may be idle for longer.
            let limits = &plan.settings.limits;
            let patience = if served { limits.idle_timeout } else { limits.header_timeout.max(limits.idle_timeout) };
            let first = tokio::select! {
                biased;
                read = timeout_at(Instant::now() + patience.get(), gate.fill()) => read,
                _ = shutdown.wait_for(|stopping| *stopping) => return None,
            };
            match first {
                Ok(Ok(1..)) => {}
                _ => {
                    pingora::protocols::Shutdown::shutdown(gate).await;
                    return None;
                }
            }
        }
        let (snapshot, plan) = client.current();
        let deadline = Instant::now() + plan.settings.limits.header_timeout.get();
        let mut parser = http1::Parser::default();
        let refusal = loop {
            match parser.parse(gate.buffered(), &plan.head_limits) {
                Ok(Parsed::Complete { head, len }) => match normalise::http1(head, scheme, &plan.policy) {
                    Ok((request, framing)) => {
                        gate.consume(len);
                        return Some(Received { snapshot, plan, request, framing });
                    }
                    Err(refusal) => break refusal,
                },
                Ok(Parsed::Partial) => {}
                Err(refusal) => break refusal,
            }
            match timeout_at(deadline, gate.fill()).await {
                Ok(Ok(1..)) => {}
                // The client left in the middle of its head.
                Ok(_) => break Refusal::ambiguous("a whole request head", "the connection ended within it"),
                Err(_) => {
                    let limit = plan.settings.limits.header_timeout;
                    break Refusal {
                        status: 408,
                        reason: reason::REQUEST_TIMEOUT,
                        finding: Finding::new(format!("a request head within {limit}"), "an unfinished one")
                            .hint("raise `limits.header_timeout`, if such clients are meant; else it is slow, or an attack"),
                    };
                }
            }
        };
        let sketch = refusals::Sketch::http1(gate.buffered());
        let response = rescue::raw_reply(&refusals::refuse(&snapshot, &plan, &client.connection, &refusal, sketch));
        let write = async {
            gate.write_all(&response).await?;
            gate.flush().await
        };
        let sent = timeout_at(Instant::now() + plan.settings.limits.write_timeout.get(), write).await;
        if matches!(sent, Ok(Ok(()))) {
            gate.leave_unread();
            pingora::protocols::Shutdown::shutdown(gate).await;
        }
        None
    }

    async fn serve_http2(&self, gate: Box<Gate>, client: Arc<Client>) {
        let (_, plan) = client.current();
        let limits = &plan.settings.limits;
        let (timing, socket) = (gate.get_timing_digest(), gate.get_socket_digest());
        // Pingora passes no context into an HTTP/2 session but the connection's digest: each stream gets one of its own.
        let digest = |watch: &Arc<BodyWatch>| -> pingora::Result<Arc<Digest>> {
            let stream = Stream2 { client: Arc::clone(&client), watch: Arc::clone(watch) };
            let response = ResponseHeader::build(200, None)?;
            let proxy_digest = Some(Arc::new(ProxyDigest::new(Box::new(response), Some(Box::new(stream)))));
            Ok(Arc::new(Digest { ssl_digest: None, timing_digest: timing.clone(), proxy_digest, socket_digest: socket.clone() }))
        };
        let mut options = http2::default_h2_options();
        options.max_concurrent_streams(limits.h2_streams);
        // Somewhat more than is allowed: the library answers what is over its limit by itself, uncounted and without an id.
        // Its own count adds 32 bytes for each field.
        let fields = u64::try_from(limits.header_fields).unwrap_or(u64::MAX).saturating_mul(64);
        let header_list = limits.header_bytes.0.saturating_mul(2).saturating_add(fields);
        options.max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX));
        // One preface and one settings frame are all a client has to send before its first request.
        let handshake = http2::handshake(gate, Some(options));
        let Ok(Ok(mut connection)) = timeout_at(Instant::now() + limits.header_timeout.get(), handshake).await else { return };
        let mut shutdown = self.shutdown.clone();
        let mut stopping = false;
        let mut malformed = 0;
        let streams = TaskTracker::new();
        let mut watch = Arc::new(BodyWatch::default());
        loop {
            let Ok(digest) = digest(&watch) else { return };
            let accepted = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop), if !stopping => {
                    connection.graceful_shutdown();
                    stopping = true;
                    continue;
                }
                accepted = Http2Session::from_h2_conn(&mut connection, digest) => accepted,
                () = tokio::time::sleep(limits.idle_timeout.get()) => {
                    if streams.is_empty() {
                        return;
                    }
                    continue;
                }
            };
            if !stopping && !client.is_listed() {
                // A reload has removed the listener: what was begun is served, and nothing after it.
                connection.graceful_shutdown();
                stopping = true;
            }
            match accepted {
                Ok(Some(H2Accept::Session(stream))) if stream.req_header().method == http::Method::CONNECT => {
                    // Pingora would refuse it by itself, uncounted and without an id.
                    let client = Arc::clone(&client);
                    let tokens = (streams.token(), self.tracker.token());
                    tokio::spawn(async move {
                        refuse_stream(stream, &client, &Refusal::method("CONNECT")).await;
                        drop(tokens);
                    });
                }
                Ok(Some(H2Accept::Session(stream))) => {
                    let (proxy, shutdown) = (Arc::clone(&self.proxy), self.shutdown.clone());
                    let (of_connection, of_gateway) = (streams.token(), self.tracker.token());
                    let watch = std::mem::take(&mut watch);
                    let limit = limits.body_timeout.get();
                    tokio::spawn(async move {
                        tokio::select! {
                            _ = proxy.process_new_http(ServerSession::new_http2(stream), &shutdown) => {}
                            // Letting go of the stream resets it.
                            () = watch.expires(limit) => {}
                        }
                        drop((of_connection, of_gateway));
                    });
                }
                Ok(Some(H2Accept::Rejected)) => {
                    malformed += 1;
                    // It has its answer, or its reset, from Pingora: what is left is to count and log it.
                    let (snapshot, plan) = client.current();
                    let refusal = Refusal::ambiguous("a well-formed HTTP/2 request", "a malformed one");
                    refusals::refuse(&snapshot, &plan, &client.connection, &refusal, Sketch::default());
                    if malformed > MAX_MALFORMED_STREAMS {
                        return;
                    }
                }
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// Answers one stream that is not handed on.
async fn refuse_stream(mut stream: Http2Session, client: &Client, refusal: &Refusal) {
    let (snapshot, plan) = client.current();
    let head = stream.req_header();
    let authority = head.uri.authority().map_or("", |authority| authority.as_str());
    let sketch = Sketch::new(head.method.as_str().as_bytes(), authority.as_bytes(), b"", "HTTP/2");
    let reply = refusals::refuse(&snapshot, &plan, &client.connection, refusal, sketch);
    let Ok(response) = convert::own_response(&ResponseHead::new(reply.status, reply.headers), &reply.body) else { return };
    stream.set_write_timeout(Some(plan.settings.limits.write_timeout.get()));
    if stream.write_response_header(Box::new(response), false).is_ok() {
        // Who does not read the answer does without it.
        let _ = stream.write_body(reply.body, true).await;
    }
}
