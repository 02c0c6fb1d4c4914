//! One connection's loop: whatever comes in is read here first.
//!
//! HTTP/1 heads are read under one deadline, parsed strictly, normalised and judged, and only then served: by the direct
//! driver, or by Pingora, for which they are rewritten from what was understood. HTTP/2 connections have [a loop of their
//! own](super::http2).

use super::gate::Gate;
use super::judge::{Judged, judge};
use super::lent::{Desk, Lent, hand_over, take};
use super::lot::{Lot, PARK_AFTER, Waiting};
use super::pingora::{Driver, Inbound};
use super::stop::Stop;
use super::timer::Timer;
use super::which::{Asked, Which, which};
use super::{direct, http2};
use crate::config::snapshot::{ListenerPlan, Snapshot};
use crate::connection::Client;
use crate::exchange::Next;
use crate::http1::{self, Parsed};
use crate::listen::Accepted;
use crate::normalise::{self, BodyLength, Framing, Refusal};
use crate::refusals;
use crate::rescue;
use bytes::BytesMut;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora_proxy::HttpProxy;
use portcullis_plugin::{Finding, RequestHead, Scheme, Version, reason};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

/// What every connection is served with.
pub struct Serving {
    pub proxy: Arc<HttpProxy<Driver>>,
    pub shutdown: watch::Receiver<bool>,
    /// True when open connections are to be broken off.
    pub broken: watch::Receiver<bool>,
    pub tracker: TaskTracker,
    /// Where connections are parked; without one, they keep their tasks.
    pub lot: Option<Arc<Lot>>,
}

/// A request whose head was read and normalised, with the configuration it will be served by.
struct Received {
    snapshot: Arc<Snapshot>,
    plan: Arc<ListenerPlan>,
    request: RequestHead,
    framing: Framing,
}

/// What ended the wait for a request.
enum More {
    Came,
    Stop,
    Ended,
    /// Nothing yet: the connection waits for long.
    Waits,
}

/// What serves an HTTP/1 connection: handed from one request to the next.
struct Hand {
    serving: Arc<Serving>,
    gate: Box<Gate>,
    client: Arc<Client>,
    timer: Timer,
}

/// With how long the connection may be idle after it; `None`: it is over.
type Served = Option<(Hand, Duration)>;

thread_local! {
    static REQUESTS: Desk<Hand, Served> = const { Desk::new() };
}

/// Serves requests, of each of which at least the first byte is there. Not made of a future for each: that would be copied.
async fn worker() -> Infallible {
    loop {
        let Hand { serving, mut gate, client, mut timer } = take(&REQUESTS).await;
        let served = 'one: {
            let scheme = if client.connection.tls.is_some() { Scheme::Https } else { Scheme::Http };
            let Some(received) = serving.read_head(&mut gate, &client, scheme).await else { break 'one None };
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
                    direct::serve(&mut *gate, &mut timer, judged, &serving.shutdown).await
                }
                Which::Pingora => {
                    plan.metrics.pingora.inc();
                    let Some((back, again)) = serving.through_pingora(gate, judged).await else { break 'one None };
                    gate = back;
                    timer.restart();
                    again
                }
            };
            if !again || !client.is_listed() {
                pingora::protocols::Shutdown::shutdown(&mut *gate).await;
                break 'one None;
            }
            let idle = plan.settings.limits.idle_timeout.get();
            Some((Hand { serving, gate, client, timer }, idle))
        };
        hand_over(&REQUESTS, served);
    }
}

impl Serving {
    /// Serves a connection to its end, or until it is parked.
    pub async fn serve(self: &Arc<Self>, accepted: Accepted, client: Arc<Client>) {
        let Accepted { stream, http2, permit, .. } = accepted;
        let gate = Box::new(Gate::new(stream, http2));
        if http2 {
            // In a place of its own: the other kind of connection needs less.
            let served = Box::pin(http2::serve(self, gate, client));
            self.unless_broken(served).await;
            drop(permit);
        } else {
            // The first request has the time of a head; between requests a connection may be idle for longer.
            let patience = {
                let (_, plan) = client.current();
                plan.settings.limits.header_timeout.max(plan.settings.limits.idle_timeout).get()
            };
            let waiting = Waiting { gate, client, due: Instant::now() + patience, permit };
            self.serve_http1(waiting, Duration::ZERO).await;
        }
    }

    /// Goes on with a connection that was parked.
    pub fn resume(self: &Arc<Self>, waiting: Waiting) {
        let serving = Arc::clone(self);
        // The runtime has to see first what woke it.
        self.tracker.spawn(async move { serving.serve_http1(waiting, PARK_AFTER).await });
    }

    async fn unless_broken(&self, served: impl Future<Output = ()>) {
        let mut broken = self.broken.clone();
        tokio::select! {
            () = served => {}
            _ = broken.wait_for(|broken| *broken) => {}
        }
    }

    /// It waits for its first request for no less than `least` before it is parked.
    async fn serve_http1(self: &Arc<Self>, waiting: Waiting, least: Duration) {
        let Waiting { gate, client, due, permit } = waiting;
        let mut parking = None;
        self.unless_broken(async { parking = self.requests(gate, client, due, least).await }).await;
        let Some((lot, (gate, client, due))) = self.lot.as_ref().zip(parking) else { return drop(permit) };
        if let Err(waiting) = lot.park(Waiting { gate, client, due, permit }) {
            // Seldom: something has just come, or the gateway has just stopped.
            self.resume(waiting);
        }
    }

    /// Serves requests, the first of which is to come before `due`. Gives back a connection that waits for long, but not for the
    /// first one within `least`.
    async fn requests(
        self: &Arc<Self>,
        gate: Box<Gate>,
        client: Arc<Client>,
        due: Instant,
        mut least: Duration,
    ) -> Option<(Box<Gate>, Arc<Client>, Instant)> {
        let mut shutdown = self.shutdown.clone();
        let wait = pin!(shutdown.wait_for(|stop| *stop));
        let mut stop = Stop::new(&self.shutdown, wait);
        // Until when this wait lasts, where that is known; else for how long.
        let (mut due, mut patience) = (Some(due), Duration::MAX);
        let mut hand = Hand { serving: Arc::clone(self), gate, client, timer: Timer::default() };
        loop {
            if hand.gate.buffered().is_empty() {
                let Hand { gate, timer, .. } = &mut hand;
                gate.rest();
                let parks_after = self.lot.as_ref().map_or(Duration::MAX, |lot| lot.after(self.tracker.len()));
                let short = patience.min(parks_after.max(least));
                let more = poll_fn(|context| {
                    if stop.poll(context).is_ready() {
                        return Poll::Ready(More::Stop);
                    }
                    if let Poll::Ready(read) = gate.poll_fill(context, 0) {
                        return Poll::Ready(if matches!(read, Ok(1..)) { More::Came } else { More::Ended });
                    }
                    timer.poll(context, short, due).map(|()| if short < patience { More::Waits } else { More::Ended })
                });
                match more.await {
                    More::Came => {}
                    More::Stop => return None,
                    More::Waits => {
                        let now = Instant::now();
                        let due = due.unwrap_or_else(|| now + patience.saturating_sub(short));
                        if due > now {
                            return Some((hand.gate, hand.client, due));
                        }
                        pingora::protocols::Shutdown::shutdown(&mut *hand.gate).await;
                        return None;
                    }
                    More::Ended => {
                        pingora::protocols::Shutdown::shutdown(&mut *hand.gate).await;
                        return None;
                    }
                }
            }
            (hand, patience) = Lent::new(&REQUESTS, hand, worker).await?;
            (due, least) = (None, Duration::ZERO);
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
        session.set_connection_user_context(Some(Box::new(Inbound { judged })));
        let reused = self.proxy.process_new_http(session, &self.shutdown).await?;
        let (stream, _) = reused.consume();
        let gate = stream.into_any().downcast::<Gate>().ok()?;
        // A body that was not read to its end would be taken for a head.
        let again = framing.keep_alive && gate.is_spent();
        Some((gate, again))
    }

    /// Reads, parses and normalises one head. `None`: the connection is over, and the client has its answer.
    async fn read_head(&self, gate: &mut Gate, client: &Arc<Client>, scheme: Scheme) -> Option<Received> {
        let (snapshot, plan) = client.current();
        // Nearly all heads are there at once, and need none.
        let mut deadline = None;
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
            let due = *deadline.get_or_insert_with(|| Instant::now() + plan.settings.limits.header_timeout.get());
            match timeout_at(due, gate.fill()).await {
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
}
