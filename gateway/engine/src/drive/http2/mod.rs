//! HTTP/2 clients. The h2 library frames the connection; what a stream asks is normalised, judged and served as any request.
//!
//! - [`batch`]: what is written is put together before it is sent
//! - [`stream`]: one request and its response
//! - [`session`]: a stream as Pingora's driver sees it
//! - this file: the connection's loop, and the way of each stream to its driver

mod batch;
mod session;
mod stream;

use super::connection::Serving;
use super::gate::Gate;
use super::judge::{Judged, judge};
use super::lent::{Desk, Lent, hand_over, take};
use super::pingora::Driver;
use super::stop::Stop;
use super::timer::Timer;
use super::which::{Asked, Which, which};
use super::{convert, direct};
use crate::config::raw::Limits;
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::connection::Client;
use crate::exchange::Next;
use crate::normalise::{self, BodyLength, Framing, Refusal};
use crate::refusals::{Sketch, refuse};
use crate::rescue;
use batch::Batch;
use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use http::request::Parts;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora_proxy::HttpProxy;
use portcullis_plugin::{RequestHead, ResponseHead, Scheme};
use session::Session;
pub use session::take_judged;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
pub use stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// How long the end of a connection may take, to a client that does not read.
const GOODBYE: Duration = Duration::from_secs(2);

/// Bytes of one response that wait for the client; a backend that is faster waits too.
const SEND_BUFFER: usize = 128 << 10;

/// Bytes of requests that clients send ahead on all streams of a connection together. A stream alone has the 64 KiB that are the
/// default: with no more than that for all, one whose backend takes nothing would hold up the others.
const RECEIVE_BUFFER: u32 = 1 << 20;

/// What the streams of one connection share. It has one owner more than there are streams.
struct Shared {
    proxy: Arc<HttpProxy<Driver>>,
    shutdown: watch::Receiver<bool>,
    client: Arc<Client>,
    /// The gateway waits for the streams when it stops.
    _token: TaskTrackerToken,
}

/// What happens on a connection.
#[allow(clippy::large_enum_variant)] // Made and taken apart at once.
enum Event {
    Accepted(Request<RecvStream>, SendResponse<Bytes>),
    Stop,
    /// Nothing else has for long enough.
    Waited,
    /// The connection is over.
    Over,
}

/// Serves a connection to its end.
pub async fn serve(serving: &Serving, gate: Box<Gate>, client: Arc<Client>) {
    let (_, plan) = client.current();
    let limits = &plan.settings.limits;
    let mut builder = Builder::new();
    builder.max_concurrent_streams(limits.h2_streams).max_send_buffer_size(SEND_BUFFER);
    builder.initial_connection_window_size(RECEIVE_BUFFER);
    // Somewhat more than is allowed: the library answers what is over its limit by itself, uncounted and without an id.
    // Its own count adds 32 bytes for each field.
    let fields = u64::try_from(limits.header_fields).unwrap_or(u64::MAX).saturating_mul(64);
    let header_list = limits.header_bytes.0.saturating_mul(2).saturating_add(fields);
    builder.max_header_list_size(u32::try_from(header_list).unwrap_or(u32::MAX));
    let batch = Batch::new(gate);
    // One preface and one settings frame are all a client has to send before its first request.
    let mut handshake = pin!(builder.handshake(batch.clone()));
    let established = poll_fn(|context| {
        let shaken = handshake.as_mut().poll(context);
        match batch.poll_send(context) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => shaken.map(Result::ok),
        }
    });
    let Ok(Some(mut connection)) = timeout(limits.header_timeout.get(), established).await else { return };
    let shared = Arc::new(Shared {
        proxy: Arc::clone(&serving.proxy),
        shutdown: serving.shutdown.clone(),
        client,
        _token: serving.tracker.token(),
    });
    run(&shared, &mut connection, &batch, limits).await;
    // Nobody answers the streams that are left.
    drop(connection);
    // Kept apart, so that no connection holds its room before.
    let _ = timeout(limits.write_timeout.get(), Box::pin(part(batch))).await;
}

/// Ends the connection, and reads on until the client has done so too. It opens windows as it takes what is still on its way;
/// that it sends to a closed connection makes our system throw the rest away (as in RFC 9112, section 9.6).
async fn part(mut batch: Batch) -> io::Result<()> {
    timeout(GOODBYE, batch.shutdown()).await??;
    let mut space = [0; 1024];
    while timeout(GOODBYE, batch.read(&mut space)).await?? > 0 {}
    Ok(())
}

async fn run(shared: &Arc<Shared>, connection: &mut Connection<Batch, Bytes>, batch: &Batch, limits: &Limits) {
    let mut shutdown = shared.shutdown.clone();
    let wait = pin!(shutdown.wait_for(|stop| *stop));
    let mut stop = Stop::new(&shared.shutdown, wait);
    let idle = limits.idle_timeout.get();
    // A client may open the next stream before the last one's task has ended, but not many of them.
    let most = usize::try_from(limits.h2_streams).unwrap_or(usize::MAX).saturating_mul(2);
    let mut leave = Leave::Not;
    let mut timer = Timer::default();
    let mut quiet = Quiet::default();
    let mut outlet = Outlet { batch, patient: false };
    let mut busy = false;
    loop {
        let patience = if leave == Leave::Not { idle } else { GOODBYE };
        let event = poll_fn(|context| {
            if leave == Leave::Not && stop.poll(context).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            match connection.poll_accept(context) {
                Poll::Ready(Some(Ok((request, respond)))) => return Poll::Ready(Event::Accepted(request, respond)),
                Poll::Ready(_) => return Poll::Ready(Event::Over),
                Poll::Pending => {}
            }
            if outlet.poll(context).is_err() {
                return Poll::Ready(Event::Over);
            }
            if busy && leave == Leave::Not && shared.streams() == 0 {
                // Idle from now on.
                busy = false;
                timer.restart();
            }
            timer.poll(context, patience, None).map(|()| Event::Waited)
        })
        .await;
        match event {
            Event::Stop => {
                connection.graceful_shutdown();
                timer.restart();
                leave = Leave::Said;
            }
            Event::Accepted(_, mut respond) if leave == Leave::Due || shared.streams() >= most => {
                respond.send_reset(Reason::REFUSED_STREAM);
            }
            Event::Accepted(request, respond) => {
                if leave == Leave::Not {
                    timer.restart();
                    if !shared.client.is_listed() {
                        // A reload has removed the listener: what was begun is served, and nothing after it.
                        connection.graceful_shutdown();
                        leave = Leave::Said;
                    }
                }
                busy = true;
                let shared = Arc::clone(shared);
                tokio::spawn(Lent::new(&STREAMS, Incoming { shared, request, respond }, worker));
            }
            Event::Waited => {
                if leave == Leave::Said {
                    leave = Leave::Due;
                }
                let stalled = quiet.lasts(patience, batch.sent()) >= idle;
                if shared.streams() > 0 {
                    quiet = Quiet::default();
                } else if connection.has_streams() {
                    // The library has the rest of a response, which the client takes, or does not.
                    if stalled {
                        return;
                    }
                } else if leave == Leave::Not {
                    // What the client has sent meanwhile is served; what it sends later belongs on another connection.
                    connection.graceful_shutdown();
                    leave = Leave::Said;
                } else {
                    return;
                }
            }
            Event::Over => return,
        }
    }
}

/// Whether the client was told to go to another connection. It should answer that, and open no more streams then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    Not,
    Said,
    /// It has had the time to: streams that it opens now are refused.
    Due,
}

/// How long nothing was sent.
#[derive(Default)]
struct Quiet {
    since: Duration,
    sent: u64,
}

impl Quiet {
    fn lasts(&mut self, more: Duration, sent: u64) -> Duration {
        self.since = if sent == self.sent { self.since + more } else { Duration::ZERO };
        self.sent = sent;
        self.since
    }
}

/// Sends what was written, once the streams that are ready have written theirs.
struct Outlet<'a> {
    batch: &'a Batch,
    /// Has let the others go first.
    patient: bool,
}

impl Outlet<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.batch.is_empty() {
            self.patient = false;
        } else if std::mem::replace(&mut self.patient, true) {
            self.patient = false;
            if let Poll::Ready(sent) = self.batch.poll_send(context) {
                return sent;
            }
        } else {
            // Behind every task that is ready now.
            context.waker().wake_by_ref();
        }
        Ok(())
    }
}

/// A stream to be served.
struct Incoming {
    shared: Arc<Shared>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
}

thread_local! {
    static STREAMS: Desk<Incoming, ()> = const { Desk::new() };
}

/// Serves streams, one after the other. Not made of a future for each: that would be copied.
async fn worker() -> Infallible {
    loop {
        let Incoming { shared, request, respond } = take(&STREAMS).await;
        let (parts, receive) = request.into_parts();
        let (snapshot, plan) = shared.client.current();
        let mut stream = Stream::new(receive, respond, plan.settings.limits.write_timeout.get());
        'one: {
            let (request, framing) = match shared.read(&parts, &plan, stream.is_ended()) {
                Ok(read) => read,
                Err(refusal) => {
                    shared.refuse(&snapshot, &plan, &parts, &refusal, stream).await;
                    break 'one;
                }
            };
            let judged = {
                let mut judging = pin!(judge(&shared.client, snapshot, Arc::clone(&plan), request, framing));
                let judged = poll_fn(|context| {
                    let judged = judging.as_mut().poll(context);
                    // What a filter waits for, it waits for on behalf of nobody once the stream is given up, and no backend is to
                    // be asked then. Letting go of the request logs that.
                    if stream.poll_reset(context).is_ready() {
                        return Poll::Ready(None);
                    }
                    judged.map(Some)
                });
                judged.await
            };
            let Some(judged) = judged else { break 'one };
            let asked = Asked {
                driver: plan.driver,
                upgrade: false,
                looks_at_bodies: judged.run.looks_at_bodies(),
                backend_http1: match &judged.next {
                    Next::Forward(pool) => Some(pool.speaks_http1()),
                    Next::Reply(_) => None,
                },
            };
            match which(asked) {
                Which::Direct => {
                    plan.metrics.direct.inc();
                    direct::serve(&mut stream, &mut Timer::default(), judged, &shared.shutdown).await;
                }
                Which::Pingora => {
                    plan.metrics.pingora.inc();
                    shared.through_pingora(stream, parts, judged).await;
                }
            }
        }
        hand_over(&STREAMS, ());
    }
}

impl Shared {
    /// How many streams are being served.
    fn streams(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) - 1
    }

    fn read(&self, parts: &Parts, plan: &ListenerPlan, ended: bool) -> Result<(RequestHead, Framing), Refusal> {
        let scheme = if self.client.connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
        let fields = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let (request, mut framing) = normalise::http2(
            parts.method.as_str(),
            parts.uri.scheme_str(),
            authority(parts),
            target(parts),
            fields,
            &plan.head_limits,
            scheme,
            &plan.policy,
        )?;
        if ended && framing.body == BodyLength::Chunked {
            framing.body = BodyLength::None;
        }
        Ok((request, framing))
    }

    async fn refuse(&self, snapshot: &Snapshot, plan: &ListenerPlan, parts: &Parts, refusal: &Refusal, mut stream: Stream) {
        let authority = authority(parts).unwrap_or_default();
        let sketch = Sketch::new(parts.method.as_str().as_bytes(), authority.as_bytes(), target(parts).as_bytes(), "HTTP/2");
        let reply = refuse(snapshot, plan, &self.client.connection, refusal, sketch);
        let mut head = ResponseHead::new(reply.status, reply.headers);
        // They fit: it has few fields.
        let headers = head.headers_mut();
        let _ = headers.driver_set("content-length", itoa::Buffer::new().format(reply.body.len()).as_bytes());
        let _ = headers.driver_set("date", rescue::http_date(SystemTime::now()).as_bytes());
        let last = reply.body.is_empty();
        let sent = convert::http2_response(head).and_then(|response| stream.send_head(response, last));
        if sent.is_ok() && !last {
            // Who does not read the answer does without it.
            let _ = stream.send_all(reply.body).await;
        }
    }

    async fn through_pingora(&self, stream: Stream, parts: Parts, judged: Judged) {
        let session = Session::new(stream, parts, judged);
        self.proxy.process_new_http(ServerSession::new_custom(Box::new(session)), &self.shutdown).await;
    }
}

fn authority(parts: &Parts) -> Option<&str> {
    parts.uri.authority().map(|authority| authority.as_str())
}

/// Path and query. CONNECT has none.
fn target(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("", |target| target.as_str())
}
