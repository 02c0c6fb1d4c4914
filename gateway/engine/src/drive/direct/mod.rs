//! The direct driver: HTTP/1 to HTTP/1 without a proxy library in between. Like Pingora's, it decides nothing: the exchange says
//! what is to be done.
//!
//! - [`body`]: a body, read by one framing and written by another
//! - [`attempt`]: a request and its response between a client and one backend
//! - this file: attempts until one succeeds, and what is then told to the client and to the record

mod attempt;
mod body;

use super::chunked::Scanner;
use super::convert;
use super::gate::Gate;
use super::judge::Judged;
use super::timer::Timer;
use crate::access_log::FinalVerdict;
use crate::exchange::{Next, Run};
use crate::http1::{self, Response};
use crate::normalise::{BodyLength, Refusal};
use crate::pool::{BackendOutcome, Connection, Pool, Selected};
use crate::rescue::{self, Cause};
use attempt::{Attempt, Broken, Patience, Replay};
use body::{Body, Coding, Flow};
use bytes::BytesMut;
use portcullis_plugin::{Method, Reply, Version};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long the rest of a refused request's body is read, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);
/// Interim responses to one request (RFC 9110, section 15.2). A backend that sends more has lost its way.
const MOST_INTERIM: usize = 32;

/// Serves one request. Whether the client's connection can carry another; if not, it is to be shut down.
pub async fn serve(gate: &mut Gate, timer: &mut Timer, judged: Judged, stopping: &watch::Receiver<bool>) -> bool {
    let Judged { mut run, next, closes } = judged;
    let mut buffers = Buffers::lent();
    let body = match run.framing().body {
        BodyLength::None => Body::Done,
        BodyLength::Exact(length) => Body::exact(length),
        BodyLength::Chunked => Body::Chunked(Scanner::default()),
    };
    let keep_alive = match next {
        Next::Forward(pool) => {
            let mut client = ClientSide { gate, timer, stopping };
            forward(&mut client, &mut run, &mut buffers, body, &pool).await
        }
        Next::Reply(reply) => {
            // What is on its way is read to its end, within bounds, and the connection stays.
            let keep_alive = run.framing().keep_alive && !closes && !*stopping.borrow();
            let sent = send(gate, &mut run, &mut buffers.to_client, reply, keep_alive).await;
            run.finish(sent.as_ref().map_or(0, |status| *status));
            sent.is_ok() && discard(gate, body).await && keep_alive
        }
    };
    buffers.give_back();
    keep_alive
}

struct ClientSide<'a> {
    gate: &'a mut Gate,
    timer: &'a mut Timer,
    stopping: &'a watch::Receiver<bool>,
}

/// Tries backends until one answers, and brings the answer.
async fn forward(client: &mut ClientSide<'_>, run: &mut Run, buffers: &mut Buffers, mut body: Body, pool: &Arc<Pool>) -> bool {
    if run.framing().expect_continue {
        // The client waits for this with its body, and the backend may be one that never says it.
        let said = async {
            client.gate.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            client.gate.flush().await
        };
        if said.await.is_err() {
            return give_up(run);
        }
    }
    let timeouts = pool.timeouts();
    let patience = Patience {
        body: run.plan().settings.limits.body_timeout.get(),
        write: timeouts.write,
        read: timeouts.read,
        end: timeouts.total.map(|total| Instant::now() + total),
    };
    // Only what means the same when it is sent twice is kept for a second time.
    let idempotent = run.request().method().is_idempotent();
    let mut replay: Replay = (idempotent && !body.is_done()).then(Vec::new);
    let mut failed = None;
    loop {
        if patience.end.is_some_and(|end| Instant::now() >= end) {
            run.upstream_mut().trouble = Some("the time for all of it was over before another backend could be asked".to_owned());
            let reply = run.fail(Cause::UpstreamTimeout);
            return refuse(client, run, buffers, reply).await;
        }
        let selected = match run.select(pool, failed.take()) {
            Ok(selected) => selected,
            Err(reply) => return refuse(client, run, buffers, reply).await,
        };
        let began = Instant::now();
        let (connection, reused) = match connect(&selected, patience.end).await {
            Ok(connected) => connected,
            Err(error) => {
                run.upstream_mut().trouble = Some(error.to_string());
                // Nothing was sent: another backend may be asked, whatever the method.
                if may_try_again(run, pool) {
                    failed = Some(Cause::Connect);
                    continue;
                }
                let reply = run.fail(Cause::Connect);
                return refuse(client, run, buffers, reply).await;
            }
        };
        let request = request_flow(run, pool, body, &replay, &mut buffers.to_backend);
        let mut attempt =
            Attempt::new(client.gate, client.timer, run, connection, &mut buffers.input, request, &mut replay, patience);
        let broken = match answer(&mut attempt, &mut buffers.to_client, began).await {
            Ok(response) => {
                let stopping = *client.stopping.borrow();
                return bring(attempt, &mut buffers.to_client, response, selected, pool, stopping).await;
            }
            Err(broken) => broken,
        };
        body = attempt.into_body();
        let repeatable = idempotent && (replay.is_some() || run.traffic().bytes_in == 0);
        // A backend that is too slow is not asked again, and nor is another: the client has waited long enough.
        if matches!(broken, Broken::Backend) && repeatable && may_try_again(run, pool) {
            failed = Some(Cause::UpstreamReset);
            if reused {
                // It may have closed the kept connection just as we used it, which is no failure: it stays a candidate.
                run.upstream_mut().tried.retain(|tried| *tried != selected.id());
            } else {
                tracing::warn!(backend = selected.label(), "the backend broke the connection before it answered");
                selected.record(BackendOutcome::Reset);
            }
            continue;
        }
        if let Broken::BackendInvalid(refusal) = &broken {
            tracing::warn!(
                backend = selected.label(),
                expected = refusal.finding.expected,
                observed = refusal.finding.observed,
                "the response of the backend is ambiguous"
            );
        }
        let (cause, outcome) = broken.explain();
        run.upstream_mut().trouble = broken.trouble(patience.end);
        selected.record(outcome);
        drop(selected);
        return match broken {
            Broken::Client => give_up(run),
            Broken::Refused(reply) => refuse(client, run, buffers, reply).await,
            _ => {
                let reply = run.fail(cause);
                refuse(client, run, buffers, reply).await
            }
        };
    }
}

/// An idle connection or a new one, and which it is.
async fn connect(selected: &Selected, end: Option<Instant>) -> std::io::Result<(Connection, bool)> {
    if let Some(idle) = selected.idle() {
        return Ok((idle, true));
    }
    match selected.connect(end).await {
        Ok(connection) => Ok((connection, false)),
        Err(error) => {
            tracing::warn!(backend = selected.label(), address = %selected.address(), %error, "no connection to the backend");
            selected.record(BackendOutcome::ConnectFailed);
            Err(error)
        }
    }
}

/// Whether the pool allows one more attempt; counts it if so.
fn may_try_again(run: &Run, pool: &Pool) -> bool {
    let again = run.upstream().attempts as usize <= pool.retries();
    if again {
        pool.metrics().retries.inc();
    }
    again
}

/// The request as the backend gets it, with what was already sent of its body in front.
fn request_flow<'b>(run: &Run, pool: &Pool, body: Body, replay: &Replay, out: &'b mut Vec<u8>) -> Flow<'b> {
    out.clear();
    let host = pool.host().unwrap_or_else(|| run.request().authority());
    http1::write_upstream(run.request(), host, run.framing().body, out);
    let coding = if run.framing().body == BodyLength::Chunked { Coding::Chunked } else { Coding::Plain };
    coding.write(replay.as_deref().unwrap_or_default(), out);
    Flow::new(body, coding, out)
}

/// The final answer of the backend. Interim ones go to the client, if it knows them.
async fn answer(attempt: &mut Attempt<'_>, out: &mut Vec<u8>, began: Instant) -> Result<Response, Broken> {
    for _ in 0..MOST_INTERIM {
        let mut response = attempt.answer().await?;
        match response.head.status() {
            101 => return Err(Broken::BackendInvalid(Refusal::upstream("an answer", "a switch of protocols nobody asked for"))),
            100..200 => {
                // HTTP/1.0 knows no interim responses (RFC 9110, section 15.2).
                if attempt.run.request().version() == Version::Http10 {
                    continue;
                }
                convert::strip_hop_fields(&mut response.head);
                response.head.headers_mut().driver_remove(rescue::DECISION_ID);
                out.clear();
                http1::write_response(&response.head, false, None, out);
                let sent = async {
                    attempt.gate.write_all(out).await?;
                    attempt.gate.flush().await
                };
                sent.await.map_err(|_| Broken::Client)?;
            }
            _ => {
                attempt.run.upstream_mut().duration = Some(began.elapsed());
                return Ok(response);
            }
        }
    }
    Err(Broken::BackendInvalid(Refusal::upstream("an answer", "one interim response after the other")))
}

/// Brings the response to the client, and keeps the backend's connection if that may be.
async fn bring(
    mut attempt: Attempt<'_>,
    out: &mut Vec<u8>,
    response: Response,
    selected: Selected,
    pool: &Pool,
    stopping: bool,
) -> bool {
    let Response { mut head, framing, keep_alive: backend_stays, .. } = response;
    convert::strip_hop_fields(&mut head);
    if let Some(reply) = attempt.run.response(&mut head) {
        // The body of the response that was replaced is not wanted.
        selected.record(BackendOutcome::Cancelled);
        let (gate, run) = (attempt.gate, attempt.run);
        return finish_refused(gate, run, out, reply).await;
    }
    let status = head.status();
    let http10 = attempt.run.request().version() == Version::Http10;
    let bodiless = *attempt.run.request().method() == Method::Head || matches!(status, 204 | 304);
    let body = match (bodiless, framing.chunked, framing.length) {
        (true, ..) => Body::Done,
        (false, true, _) => Body::Chunked(Scanner::default()),
        (false, false, Some(length)) => Body::exact(length),
        (false, false, None) => Body::UntilClosed,
    };
    let until_closed = matches!(body, Body::UntilClosed);
    // HTTP/1.0 knows no chunks (RFC 9112, section 6.1): the body then ends with the connection.
    let unframed = !bodiless && framing.length.is_none();
    let chunked = !http10 && (unframed || framing.chunked);
    let coding = match (bodiless, chunked) {
        (true, _) => Coding::Nothing,
        (false, true) => Coding::Chunked,
        (false, false) => Coding::Plain,
    };
    // The rest of a request that was answered early is not read.
    let keep_alive = attempt.run.framing().keep_alive && attempt.is_sent() && !stopping && !(http10 && unframed);
    out.clear();
    http1::write_response(&head, chunked, connection_option(keep_alive, http10), out);
    let mut flow = Flow::new(body, coding, out);
    let relayed = attempt.relay(&mut flow).await;
    attempt.run.traffic_mut().bytes_out += flow.bytes;
    let whole_request = attempt.is_sent();
    match &relayed {
        Ok(()) => selected.record(if status >= 500 { BackendOutcome::ServerError } else { BackendOutcome::Success }),
        Err(broken) => {
            // Too late for another answer: the response breaks off, and the log says why.
            let (cause, outcome) = broken.explain();
            attempt.run.upstream_mut().trouble = broken.trouble(attempt.patience.end);
            selected.record(outcome);
            if attempt.run.outcome() == FinalVerdict::Allow {
                attempt.run.fail(cause);
            }
        }
    }
    attempt.run.finish(status);
    if relayed.is_err() {
        return false;
    }
    if !whole_request {
        attempt.gate.leave_unread();
        return false;
    }
    // A backend that was spoken to in HTTP/1.0, for want of a host, closes.
    let named = pool.host().is_some() || !attempt.run.request().authority().is_empty();
    if backend_stays
        && !until_closed
        && named
        && let Some(connection) = attempt.into_connection()
    {
        selected.keep(connection, pool.keepalive());
    }
    keep_alive
}

/// What is said of the connection: only what the version does not say by itself.
fn connection_option(keep_alive: bool, http10: bool) -> Option<&'static str> {
    match (keep_alive, http10) {
        (true, true) => Some("keep-alive"),
        (true, false) => None,
        (false, _) => Some("close"),
    }
}

/// Ends a request that was sent to a backend with a reply of the gateway's own, and with it the connection.
async fn refuse(client: &mut ClientSide<'_>, run: &mut Run, buffers: &mut Buffers, reply: Reply) -> bool {
    finish_refused(client.gate, run, &mut buffers.to_client, reply).await
}

async fn finish_refused(gate: &mut Gate, run: &mut Run, out: &mut Vec<u8>, reply: Reply) -> bool {
    let sent = send(gate, run, out, reply, false).await;
    run.finish(sent.unwrap_or(0));
    gate.leave_unread();
    false
}

/// Ends a request whose client is gone.
fn give_up(run: &mut Run) -> bool {
    run.fail(Cause::ClientGone);
    run.finish(0);
    false
}

/// Sends a reply of the gateway's own, and gives its status.
async fn send(gate: &mut Gate, run: &mut Run, out: &mut Vec<u8>, reply: Reply, keep_alive: bool) -> io::Result<u16> {
    let (mut head, body) = run.reply(reply);
    let status = head.status();
    let headers = head.headers_mut();
    // They fit: a reply of the gateway's own has few fields.
    if !matches!(status, 204 | 304) {
        let _ = headers.driver_set("content-length", itoa::Buffer::new().format(body.len()).as_bytes());
    }
    if !headers.contains("date") {
        let _ = headers.driver_set("date", rescue::http_date(SystemTime::now()).as_bytes());
    }
    out.clear();
    http1::write_response(&head, false, connection_option(keep_alive, run.request().version() == Version::Http10), out);
    if !matches!(status, 204 | 304) && *run.request().method() != Method::Head {
        out.extend_from_slice(&body);
        run.traffic_mut().bytes_out = body.len() as u64;
    }
    gate.write_all(out).await?;
    gate.flush().await?;
    Ok(status)
}

/// Reads the rest of a body that nobody wants. Whether it has come to its end.
async fn discard(gate: &mut Gate, mut body: Body) -> bool {
    if body.is_done() {
        return true;
    }
    let drained = async {
        while !body.is_done() {
            if gate.buffered().is_empty() && gate.fill().await? == 0 {
                return io::Result::Ok(false);
            }
            if body.take(gate.buffer_mut(), &mut |_| {}).is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let whole = matches!(tokio::time::timeout(DRAIN, drained).await, Ok(Ok(true)));
    if !whole {
        gate.leave_unread();
    }
    whole
}

/// What a request needs beside its connection. They belong to the thread while there is no request, so that idle connections hold
/// none.
#[derive(Default)]
struct Buffers {
    /// From the backend.
    input: BytesMut,
    to_backend: Vec<u8>,
    to_client: Vec<u8>,
}

/// Sets of buffers that a thread keeps.
const SPARE: usize = 64;
/// Larger ones are let go.
const LARGEST_SPARE: usize = 64 << 10;

thread_local! {
    static SPARES: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

impl Buffers {
    fn lent() -> Self {
        SPARES.with_borrow_mut(Vec::pop).unwrap_or_default()
    }

    fn give_back(mut self) {
        let large = |len: usize| len > LARGEST_SPARE;
        if large(self.input.capacity()) || large(self.to_backend.capacity()) || large(self.to_client.capacity()) {
            return;
        }
        self.input.clear();
        self.to_backend.clear();
        self.to_client.clear();
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE {
                spares.push(self);
            }
        });
    }
}
