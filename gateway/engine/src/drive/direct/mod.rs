//! The direct driver: to backends that speak HTTP/1, without a proxy library in between. Like Pingora's, it decides nothing: the
//! exchange says what is to be done.
//!
//! - [`downstream`]: what it asks of a client's side; `http1` and `http2` are the two there are
//! - [`body`]: a body, read by one framing and written by another
//! - [`attempt`]: a request and its response between a client and one backend
//! - this file: attempts until one succeeds, and what is then told to the client and to the record

mod attempt;
mod body;
mod downstream;
mod http1;
mod http2;

use super::chunked::Scanner;
use super::convert;
use super::judge::Judged;
use super::spare::Spare;
use super::stop::is_stopping;
use super::timer::Timer;
use crate::access_log::FinalVerdict;
use crate::exchange::{Next, Run};
use crate::http1::{Response, write_upstream};
use crate::normalise::{BodyLength, Refusal};
use crate::pool::{BackendOutcome, Connection, Pool, Selected};
use crate::rescue::{self, Cause};
use attempt::{Attempt, Broken, Patience, Replay};
use body::{Body, Coding, Flow};
use bytes::Bytes;
use downstream::{Answer, Downstream, Onward};
use portcullis_plugin::{Headers, Reply, ResponseHead, Version};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::SystemTime;
use tokio::sync::watch;
use tokio::time::Instant;

/// Interim responses to one request (RFC 9110, section 15.2). A backend that sends more has lost its way.
const MOST_INTERIM: usize = 32;

/// Serves one request. Whether the client's connection can carry another; if not, it is to be shut down.
pub async fn serve<D: Downstream>(client: &mut D, timer: &mut Timer, judged: Judged, stopping: &watch::Receiver<bool>) -> bool {
    let Judged { mut run, next, closes } = judged;
    timer.restart();
    let body = client.body(run.framing());
    match next {
        Next::Forward(pool) => {
            let mut side = ClientSide { client, timer, stopping };
            forward(&mut side, &mut run, body, &pool).await
        }
        Next::Reply(reply) => {
            // What is on its way is read to its end, within bounds, and the connection stays.
            let keep_alive = run.framing().keep_alive && !closes && !is_stopping(stopping);
            let sent = client.reply(&mut run, reply, keep_alive).await;
            run.finish(sent.as_ref().map_or(0, |status| *status));
            sent.is_ok() && client.discard(body).await && keep_alive
        }
    }
}

struct ClientSide<'a, D> {
    client: &'a mut D,
    timer: &'a mut Timer,
    stopping: &'a watch::Receiver<bool>,
}

/// Tries backends until one answers, and brings the answer.
async fn forward<D: Downstream>(side: &mut ClientSide<'_, D>, run: &mut Run, mut body: Body, pool: &Arc<Pool>) -> bool {
    if run.framing().expect_continue {
        // The client waits for this with its body, and the backend may be one that never says it.
        let go_on = ResponseHead::new(100, Headers::new());
        if side.client.interim(&go_on).await.is_err() {
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
    // The backend that closed a kept connection: it is asked again, on one of its own.
    let mut stale = None;
    loop {
        if patience.end.is_some_and(|end| Instant::now() >= end) {
            run.upstream_mut().trouble = Some("the time for all of it was over before another backend could be asked".to_owned());
            let reply = run.fail(Cause::UpstreamTimeout);
            return finish_refused(side.client, run, reply).await;
        }
        let fresh = stale.is_some();
        let selected = match stale.take().map_or_else(|| run.select(pool, failed.take()), Ok) {
            Ok(selected) => selected,
            Err(reply) => return finish_refused(side.client, run, reply).await,
        };
        let began = Instant::now();
        let connected = {
            let mut connecting = pin!(connect(&selected, fresh, began, patience.end));
            // A client could open one request after the other and give each up, were it not for this.
            let or_gone = poll_fn(|context| match connecting.as_mut().poll(context) {
                Poll::Ready(connected) => Poll::Ready(Some(connected)),
                Poll::Pending => side.client.poll_gone(context).map(|()| None),
            });
            or_gone.await
        };
        let (connection, reused) = match connected {
            Some(Ok(connected)) => connected,
            None => {
                selected.record(BackendOutcome::Cancelled);
                return give_up(run);
            }
            Some(Err(error)) => {
                run.upstream_mut().trouble = Some(error.to_string());
                // Nothing was sent: another backend may be asked, whatever the method.
                if may_try_again(run, pool) {
                    failed = Some(Cause::Connect);
                    continue;
                }
                let reply = run.fail(Cause::Connect);
                return finish_refused(side.client, run, reply).await;
            }
        };
        if reused {
            side.timer.restart_at(began);
        } else {
            side.timer.restart();
        }
        let request = request_flow(run, pool, body, &replay);
        let mut attempt = Attempt::new(side.client, side.timer, run, connection, request, &mut replay, patience);
        let broken = match answer(&mut attempt, began).await {
            Ok(response) => {
                let stopping = is_stopping(side.stopping);
                let Brought { ended, keep_alive, keep_backend } = bring(&mut attempt, response, &selected, pool, stopping).await;
                if keep_backend && let Some(connection) = attempt.into_connection() {
                    selected.keep(connection, ended + pool.keepalive());
                }
                return keep_alive;
            }
            Err(broken) => broken,
        };
        let heard = attempt.is_heard();
        body = attempt.into_body();
        let repeatable = idempotent && (replay.is_some() || run.traffic().bytes_in == 0);
        if matches!(broken, Broken::Backend) && repeatable && reused && !heard {
            // It closed the kept connection just as we used it. That is nobody's failure, and none of the pool's retries.
            stale = Some(selected);
            continue;
        }
        // A backend that is too slow is not asked again, and nor is another: the client has waited long enough.
        if matches!(broken, Broken::Backend) && repeatable && may_try_again(run, pool) {
            failed = Some(Cause::UpstreamReset);
            tracing::warn!(backend = selected.label(), "the backend broke the connection before it answered");
            selected.record(BackendOutcome::Reset);
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
            Broken::Refused(reply) => finish_refused(side.client, run, reply).await,
            _ => {
                let reply = run.fail(cause);
                finish_refused(side.client, run, reply).await
            }
        };
    }
}

/// An idle connection or a new one, and which it is. `fresh`: it has to be a new one.
async fn connect(selected: &Selected, fresh: bool, now: Instant, end: Option<Instant>) -> std::io::Result<(Connection, bool)> {
    if !fresh && let Some(idle) = selected.idle(now) {
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
fn request_flow(run: &Run, pool: &Pool, body: Body, replay: &Replay) -> Flow {
    let mut out = Spare::lent();
    let host = pool.host().unwrap_or_else(|| run.request().authority());
    write_upstream(run.request(), host, run.framing().body, &mut out);
    let coding = if run.framing().body == BodyLength::Chunked { Coding::Chunked } else { Coding::Plain };
    coding.write(replay.as_deref().unwrap_or_default(), &mut out);
    Flow::new(body, coding, out)
}

/// The final answer of the backend. Interim ones go to the client, if it knows them.
async fn answer<D: Downstream>(attempt: &mut Attempt<'_, D>, began: Instant) -> Result<Response, Broken> {
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
                let headers = response.head.headers_mut();
                headers.driver_remove(rescue::DECISION_ID);
                // RFC 9110, section 8.6: an interim response has none.
                headers.driver_remove("content-length");
                attempt.client.interim(&response.head).await.map_err(|_| Broken::Client)?;
            }
            _ => {
                attempt.run.upstream_mut().duration = Some(began.elapsed());
                return Ok(response);
            }
        }
    }
    Err(Broken::BackendInvalid(Refusal::upstream("an answer", "one interim response after the other")))
}

/// How a response was brought.
struct Brought {
    ended: Instant,
    /// The client's connection can carry another request.
    keep_alive: bool,
    /// The backend's can.
    keep_backend: bool,
}

/// Brings the response to the client.
async fn bring<D: Downstream>(
    attempt: &mut Attempt<'_, D>,
    response: Response,
    selected: &Selected,
    pool: &Pool,
    stopping: bool,
) -> Brought {
    let Response { mut head, framing, keep_alive: backend_stays, .. } = response;
    convert::strip_hop_fields(&mut head);
    // Of what has come of the body, the coding is known to be good before the client is told of a success.
    if convert::has_body(attempt.run.request().method(), head.status()) && framing.chunked && !attempt.is_well_coded() {
        attempt.run.upstream_mut().trouble = Some("its body is not in the chunked coding of RFC 9112".to_owned());
        selected.record(BackendOutcome::Invalid);
        let reply = attempt.run.fail(Cause::UpstreamInvalid);
        let keep_alive = finish_refused(attempt.client, attempt.run, reply).await;
        return Brought { ended: Instant::now(), keep_alive, keep_backend: false };
    }
    let sent = head.status();
    if let Some(reply) = attempt.run.response(&mut head) {
        // The body of the response that was replaced is not wanted.
        selected.record(BackendOutcome::Cancelled);
        let keep_alive = finish_refused(attempt.client, attempt.run, reply).await;
        return Brought { ended: Instant::now(), keep_alive, keep_backend: false };
    }
    let status = head.status();
    let http10 = attempt.run.request().version() == Version::Http10;
    let bodiless = !convert::has_body(attempt.run.request().method(), status);
    // A filter may have given the response a status that has no body, or one that has.
    let changed = convert::frame_anew(attempt.run.request().method(), sent, &mut head);
    let body = match (bodiless || changed, framing.chunked, framing.length) {
        (true, ..) => Body::Done,
        (false, true, _) => Body::Chunked(Scanner::default()),
        (false, false, Some(length)) => Body::exact(length),
        (false, false, None) => Body::UntilClosed,
    };
    let until_closed = matches!(body, Body::UntilClosed);
    let unframed = !bodiless && !changed && framing.length.is_none();
    // The rest of a request that was answered early is not read.
    let keep_alive = attempt.run.framing().keep_alive && attempt.is_sent() && !stopping && !(http10 && unframed);
    let answer = Answer { body, bodiless, unframed, chunked: framing.chunked && !changed, keep_alive, http10 };
    let relayed = match attempt.client.respond(head, answer) {
        Ok(mut response) => {
            let relayed = attempt.relay(&mut response).await;
            attempt.run.traffic_mut().bytes_out += response.bytes();
            relayed
        }
        Err(_) => Err(Broken::Client),
    };
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
    let ended = attempt.run.ended().map_or_else(Instant::now, Instant::from_std);
    attempt.timer.restart_at(ended);
    if relayed.is_err() {
        return Brought { ended, keep_alive: false, keep_backend: false };
    }
    if !whole_request {
        attempt.client.leave_unread();
        return Brought { ended, keep_alive: false, keep_backend: false };
    }
    // A backend that was spoken to in HTTP/1.0, for want of a host, closes.
    let named = pool.host().is_some() || !attempt.run.request().authority().is_empty();
    // What the backend goes on to send of a body that nobody wants any more would be taken for the next answer.
    let unwanted = changed && bodiless;
    Brought { ended, keep_alive, keep_backend: backend_stays && !until_closed && named && !unwanted }
}

/// Ends a request that was sent to a backend with a reply of the gateway's own, and with it the connection.
async fn finish_refused<D: Downstream>(client: &mut D, run: &mut Run, reply: Reply) -> bool {
    let sent = client.reply(run, reply, false).await;
    run.finish(sent.unwrap_or(0));
    client.leave_unread();
    false
}

/// Ends a request whose client is gone.
fn give_up(run: &mut Run) -> bool {
    run.fail(Cause::ClientGone);
    run.finish(0);
    false
}

/// A reply of the gateway's own, with what every response has.
fn own_reply(run: &mut Run, reply: Reply) -> (ResponseHead, Bytes) {
    let (mut head, body) = run.reply(reply);
    let bodiless = matches!(head.status(), 204 | 304);
    let headers = head.headers_mut();
    // They fit: a reply of the gateway's own has few fields.
    if !bodiless {
        let _ = headers.driver_set("content-length", itoa::Buffer::new().format(body.len()).as_bytes());
    }
    if !headers.contains("date") {
        let _ = headers.driver_set("date", rescue::http_date(SystemTime::now()).as_bytes());
    }
    (head, body)
}
