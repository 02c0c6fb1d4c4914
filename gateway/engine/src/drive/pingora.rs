//! The Pingora driver: `ProxyHttp`'s phases call the exchange. Nothing is decided here.

use super::convert;
use super::http2::take_judged;
use super::judge::{Boxed, Judged};
use crate::access_log::FinalVerdict;
use crate::exchange::{Next, Run};
use crate::normalise::{self, Refusal};
use crate::pool::{BackendOutcome, Pool, Selected};
use crate::rescue::Cause;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::protocols::Digest;
use pingora::protocols::http::ServerSession;
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use portcullis_plugin::{Reply, ResponseHead, reason};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the rest of a refused request's body is read, so that the connection can be used again.
const DRAIN: Duration = Duration::from_secs(5);

/// Marks an error whose reply is already decided.
const DECIDED: ErrorType = ErrorType::Custom("Decided");

/// Sets the connection of one attempt apart from all that are kept.
static FRESH: AtomicU64 = AtomicU64::new(1);

/// A judged request on its way through Pingora to [`Driver`].
pub struct Inbound {
    pub judged: Judged,
}

/// One request's state between phases.
#[derive(Default)]
pub struct Context {
    inbound: Option<Box<Inbound>>,
    run: Option<Boxed>,
    pool: Option<Arc<Pool>>,
    selected: Option<Selected>,
    /// The backend that closed a kept connection: it is asked again, on one of its own.
    stale: Option<Selected>,
    /// Why the last attempt failed, for when there is no other backend to try.
    failed: Option<Cause>,
    /// When the current attempt began, for the upstream's time.
    attempt: Option<Instant>,
    /// When the whole way to the backends has to be over.
    deadline: Option<Instant>,
    decided: Option<Reply>,
    responded: bool,
    /// A reply of our own has been written in full where Pingora will drop the connection.
    answered: bool,
}

impl Context {
    fn run(&mut self) -> Result<&mut Run> {
        self.run
            .as_deref_mut()
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "a phase ran before the request was judged"))
    }
}

/// The only implementation of `ProxyHttp`.
pub struct Driver;

#[async_trait]
impl ProxyHttp for Driver {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::default()
    }

    fn init_downstream_modules(&self, _: &mut pingora::modules::http::HttpModules) {
        // None: they are fixed at start and know neither route nor configuration.
    }

    fn on_connection_reuse(&self, _: &mut Session, context: &mut Context, inbound: Box<dyn Any + Send + Sync>) {
        context.inbound = inbound.downcast().ok();
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let from_stream = || take_judged(session.req_header());
        let Some(inbound) = context.inbound.take().map(|inbound| *inbound).or_else(from_stream) else {
            return Error::e_explain(ErrorType::InternalError, "a request that was not judged");
        };
        let Inbound { judged: Judged { mut run, next, closes } } = inbound;
        let limits = &run.plan().settings.limits;
        session.set_read_timeout(Some(limits.body_timeout.get()));
        session.set_write_timeout(Some(limits.write_timeout.get()));
        session.as_downstream_mut().set_total_drain_timeout(Some(DRAIN));
        if session.req_header().version == http::Version::HTTP_10 {
            // It would take an interim response for the answer (RFC 9110, section 15.2).
            session.as_downstream_mut().set_ignore_info_resp(true);
        }
        let reply = match next {
            Next::Reply(reply) => reply,
            Next::Forward(pool) => {
                // A tunnel lasts as long as its two ends like.
                let total = pool.timeouts().total.filter(|_| !run.framing().upgrade);
                context.deadline = total.map(|total| Instant::now() + total);
                let tunnel = pool.timeouts().tunnel;
                context.pool = Some(pool);
                if run.framing().expect_continue {
                    // The client waits for this with its body, and the backend may be one that never says it.
                    // It is no response yet: Pingora would close the connection behind one that comes before the body.
                    close_on_early_response(session, false);
                    session.as_downstream_mut().write_continue_response().await?;
                    close_on_early_response(session, true);
                }
                if run.framing().upgrade {
                    // A tunnel is silent for as long as its two ends like.
                    session.set_read_timeout(Some(tunnel));
                }
                context.run = Some(run);
                return Ok(false);
            }
        };
        if closes {
            // The body that was announced will not come, or is not wanted.
            session.set_keepalive(None);
        } else {
            // What is on its way is read to its end, within bounds, and the connection stays.
            close_on_early_response(session, false);
        }
        let (head, body) = run.reply(reply);
        context.run = Some(run);
        context.responded = true;
        write(session, &head, body).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(pool) = context.pool.clone() else {
            return Error::e_explain(ErrorType::InternalError, "a request is forwarded without a pool");
        };
        if context.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return context.decide(Cause::UpstreamTimeout);
        }
        let failed = context.failed.take();
        // Of a repeated request, the body is sent and counted again.
        context.run()?.traffic_mut().bytes_in = 0;
        let stale = context.stale.take();
        let fresh = stale.is_some();
        let selected = match stale {
            Some(stale) => Ok(stale),
            None => context.run()?.select(&pool, failed),
        };
        let selected = match selected {
            Ok(selected) => selected,
            Err(reply) => {
                context.decided = Some(reply);
                return Error::e_explain(DECIDED, "no backend");
            }
        };
        let upgrade = context.run()?.framing().upgrade;
        let mut peer = match selected.peer(upgrade) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::error!(backend = selected.label(), %error, "the backend cannot be used");
                selected.record(BackendOutcome::ConnectFailed);
                return context.decide(Cause::Connect);
            }
        };
        if fresh {
            // Connections are shared only within a group, and this one is nobody's afterwards.
            peer.group_key = peer.group_key.wrapping_add(FRESH.fetch_add(1, Ordering::Relaxed));
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        if upgrade {
            peer.options.read_timeout = Some(pool.timeouts().tunnel);
        }
        if let Some(left) = context.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            let within = |timeout: Option<Duration>| Some(timeout.map_or(left, |timeout| timeout.min(left)));
            peer.options.read_timeout = within(peer.options.read_timeout);
            peer.options.total_connection_timeout = within(peer.options.total_connection_timeout);
        }
        context.attempt = Some(Instant::now());
        context.selected = Some(selected);
        Ok(Box::new(peer))
    }

    fn fail_to_connect(&self, _: &mut Session, peer: &HttpPeer, context: &mut Context, mut error: Box<Error>) -> Box<Error> {
        if let Some(selected) = context.selected.take() {
            tracing::warn!(backend = selected.label(), address = %peer, cause = %error.etype().as_str(), "no connection to the backend");
            selected.record(BackendOutcome::ConnectFailed);
        }
        context.failed = Some(Cause::Connect);
        if let Some(run) = context.run.as_deref_mut() {
            run.upstream_mut().trouble = trouble(&error);
        }
        // Nothing was sent: another backend may be asked, whatever the method.
        error.set_retry(context.may_try_again());
        error
    }

    fn error_while_proxy(
        &self,
        _: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        // Only what means the same when it is sent twice, and only while the client has seen nothing of an answer. A
        // backend that is too slow is not asked again, and nor is another: the client has waited long enough.
        let (cause, outcome) = explain(&error);
        if let Some(run) = context.run.as_deref_mut() {
            run.upstream_mut().trouble = trouble(&error);
        }
        let broke = *error.esource() == ErrorSource::Upstream && outcome == BackendOutcome::Reset;
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && !context.responded
            // A filter that has seen a body would see it a second time.
            && context.run.as_deref().is_some_and(|run| run.traffic().bytes_in == 0 || !run.reads_request_body());
        if broke && repeatable && reused {
            // It closed the kept connection just as we used it. That is nobody's failure, and none of the pool's retries.
            if let Some(run) = context.run.as_deref_mut() {
                run.upstream_mut().trouble = None;
            }
            context.stale = context.selected.take();
            error.set_retry(context.stale.is_some());
            return error;
        }
        let again = broke && repeatable && context.may_try_again();
        error.set_retry(again);
        if again && let Some(selected) = context.selected.take() {
            context.failed = Some(cause);
            tracing::warn!(backend = selected.label(), cause = %error.etype().as_str(), "the backend broke the connection before it answered");
            selected.record(outcome);
        }
        error
    }

    async fn upstream_request_filter(&self, _: &mut Session, upstream: &mut RequestHeader, context: &mut Context) -> Result<()> {
        // Pingora falls back to HTTP/1.1 where TLS did not agree on `h2`. Nothing has been sent yet.
        let upgrade = context.run()?.framing().upgrade;
        let http2 = upstream.version == http::Version::HTTP_2 || upgrade;
        if let Some(pool) = context.pool.as_ref().filter(|_| !upgrade) {
            // The next request may be the direct driver's.
            pool.learn_version(http2);
        }
        if !http2 && context.pool.as_ref().is_some_and(|pool| pool.needs_http2()) {
            if let Some(selected) = context.selected.take() {
                tracing::warn!(
                    backend = selected.label(),
                    "the backend does not speak HTTP/2, which the pool's `protocol` asks for"
                );
                selected.record(BackendOutcome::ConnectFailed);
            }
            context.run()?.upstream_mut().trouble =
                Some("it does not speak HTTP/2, which the pool's `protocol` asks for".to_owned());
            return context.decide(Cause::Connect);
        }
        let host = context.pool.as_ref().and_then(|pool| pool.host().map(str::to_owned));
        let run = context.run()?;
        let host = host.as_deref().unwrap_or_else(|| run.request().authority());
        if run.framing().upgrade {
            // The chunked body that Pingora was told of, so that it has no end before the answer, is between us and it.
            upstream.remove_header("transfer-encoding");
            // Said outright, or Pingora puts it back.
            upstream.insert_header("Content-Length", "0")?;
        }
        convert::write_request(run.request(), host, run.rewrites_request_body(), upstream)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        last: bool,
        context: &mut Context,
    ) -> Result<()> {
        match context.run()?.request_body(body, last) {
            Ok(()) => Ok(()),
            Err(reply) => {
                context.decided = Some(reply);
                Error::e_explain(DECIDED, "the request body was refused")
            }
        }
    }

    async fn upstream_response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let switches = response.status.as_u16() == 101;
        if response.status.is_informational() && !switches {
            return Ok(());
        }
        if let Some(attempt) = context.attempt {
            context.run()?.upstream_mut().duration = Some(attempt.elapsed());
        }
        let fields = response.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let read = match switches && !context.run()?.framing().upgrade {
            true => Err(Refusal::upstream("an answer", "a switch of protocols nobody asked for")),
            false => normalise::response(response.status.as_u16(), fields).map(|_| ()),
        };
        if let Err(refusal) = read {
            tracing::warn!(observed = refusal.finding.observed, "the response of the backend is ambiguous");
            if let Some(selected) = context.selected.take() {
                selected.record(BackendOutcome::Invalid);
            }
            context.run()?.upstream_mut().trouble = Some(refusal.told());
            return context.decide(Cause::UpstreamInvalid);
        }
        Ok(())
    }

    async fn response_filter(&self, session: &mut Session, response: &mut ResponseHeader, context: &mut Context) -> Result<()> {
        if response.status.is_informational() && response.status.as_u16() != 101 {
            let mut interim = convert::read_response(response)?;
            convert::strip_hop_fields(&mut interim);
            interim.headers_mut().driver_remove("x-decision-id");
            interim.headers_mut().driver_remove("content-length");
            return convert::write_response(&interim, response);
        }
        if session.is_process_shutting_down() {
            session.set_keepalive(None);
        }
        let mut head = convert::read_response(response)?;
        convert::strip_hop_fields(&mut head);
        let run = context.run()?;
        let sent = head.status();
        if let Some(reply) = run.response(&mut head) {
            context.decided = Some(reply);
            return Error::e_explain(DECIDED, "a filter replaced the response");
        }
        let streamed = run.rewrites_response_body();
        let changed = convert::frame_anew(run.request().method(), sent, &mut head);
        convert::write_response(&head, response)?;
        if changed {
            response.remove_header("transfer-encoding");
            response.remove_header("content-length");
            if let Some(length) = head.headers().get("content-length") {
                response.insert_header("Content-Length", length)?;
            }
        }
        match session.req_header().version {
            http::Version::HTTP_11 if streamed && response.remove_header("content-length").is_some() => {
                response.insert_header("Transfer-Encoding", "chunked")?;
            }
            http::Version::HTTP_11 => {}
            version => {
                if streamed {
                    response.remove_header("content-length");
                }
                // HTTP/1.0 knows no chunks (RFC 9112, section 6.1): the body then ends with the connection.
                if response.remove_header("transfer-encoding").is_some() && version == http::Version::HTTP_10 {
                    session.set_keepalive(None);
                }
            }
        }
        context.responded = true;
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        last: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        if context.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Error::explain(ErrorType::ReadTimedout, "the pool's total time is over").into_up());
        }
        match context.run()?.response_body(body, last) {
            Ok(()) => Ok(None),
            Err(reason) => Error::e_explain(DECIDED, reason.as_str()),
        }
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        _: bool,
        _: &HttpPeer,
        _: std::os::unix::io::RawFd,
        _: Option<&Digest>,
        _: &mut Context,
    ) -> Result<()> {
        Ok(())
    }

    fn request_summary(&self, _: &Session, context: &Context) -> String {
        // Pingora's own has the path and the query, which may hold secrets; the access log has them, redacted.
        context.run.as_ref().map_or_else(String::new, |run| format!("decision {}", run.exchange().decision_id()))
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        // Every failure has its line in the access log, with a reason code.
        true
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let nothing = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let (cause, outcome) = explain(error);
        if let Some(selected) = context.selected.take() {
            selected.record(outcome);
        }
        let decided = context.decided.take();
        let Some(run) = context.run.as_deref_mut() else { return nothing };
        if session.response_written().is_some_and(|head| !head.status.is_informational() || head.status.as_u16() == 101)
            || context.responded && decided.is_none()
        {
            // Too late for another answer: the response breaks off, and the log says why. However a tunnel ends, that is
            // its end: the two sides know whether it was a good one.
            let tunnel = session.response_written().is_some_and(|head| head.status.as_u16() == 101);
            if run.reason().is_none() && !tunnel {
                run.fail(cause);
            }
            return nothing;
        }
        let reply = match decided {
            Some(reply) => reply,
            None => run.fail(cause),
        };
        let (head, body) = run.reply(reply);
        let status = head.status();
        session.set_keepalive(None);
        if write(session, &head, body).await.is_err() {
            return nothing;
        }
        context.answered = true;
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        let status = session.response_written().map_or(0, |head| head.status.as_u16());
        if let Some(selected) = context.selected.take() {
            selected.record(match (error, status) {
                (None, 500..) => BackendOutcome::ServerError,
                (None, _) => BackendOutcome::Success,
                (Some(error), _) => explain(error).1,
            });
        }
        if let Some(mut run) = context.run.take() {
            if let Some(error) = error
                && run.outcome() == FinalVerdict::Allow
                && status != 101
            {
                run.fail(explain(error).0);
            }
            if run.upstream().pool.is_none() || run.traffic_mut().bytes_out == 0 {
                run.traffic_mut().bytes_out = session.body_bytes_sent() as u64;
            }
            run.finish(status);
        }
        if context.answered
            && let ServerSession::H1(client) = session.as_downstream_mut()
        {
            // Pingora lets go of the connection after an error, with the response perhaps still in a buffer, and the
            // rest of the request unread, which makes the kernel throw the response away.
            client.shutdown().await;
        }
    }
}

impl Context {
    /// Whether the pool allows one more attempt; counts it if so.
    fn may_try_again(&self) -> bool {
        let Some(pool) = &self.pool else { return false };
        let attempts = self.run.as_ref().map_or(0, |run| run.upstream().attempts) as usize;
        let again = attempts <= pool.retries();
        if again {
            pool.metrics().retries.inc();
        }
        again
    }

    fn decide<T>(&mut self, cause: Cause) -> Result<T> {
        let reply = self.run()?.fail(cause);
        self.decided = Some(reply);
        Error::e_explain(DECIDED, "decided")
    }
}

/// What an error of Pingora's means to the client and to the backend's record.
fn explain(error: &Error) -> (Cause, BackendOutcome) {
    use ErrorType as E;
    let ambiguous = Cause::Refused { status: 400, reason: reason::REQUEST_AMBIGUOUS };
    if *error.esource() == ErrorSource::Downstream {
        let cause = match error.etype() {
            E::ReadTimedout => Cause::RequestTimeout,
            E::ReadError if is_invalid_chunk(error) => ambiguous,
            E::InvalidHTTPHeader => ambiguous,
            _ => Cause::ClientGone,
        };
        return (cause, BackendOutcome::Cancelled);
    }
    match error.etype() {
        E::ConnectTimedout | E::TLSHandshakeTimedout => (Cause::Connect, BackendOutcome::ConnectFailed),
        E::ConnectRefused
        | E::ConnectNoRoute
        | E::ConnectError
        | E::TLSHandshakeFailure
        | E::InvalidCert
        | E::SocketError
        | E::BindError => (Cause::Connect, BackendOutcome::ConnectFailed),
        E::ReadTimedout | E::WriteTimedout => (Cause::UpstreamTimeout, BackendOutcome::Timeout),
        E::InvalidHTTPHeader | E::H1Error | E::InvalidH2 | E::H2Error => (Cause::UpstreamInvalid, BackendOutcome::Invalid),
        E::ReadError | E::WriteError | E::ConnectionClosed | E::H2Downgrade => (Cause::UpstreamReset, BackendOutcome::Reset),
        E::HTTPStatus(408) => (Cause::RequestTimeout, BackendOutcome::Cancelled),
        // Whatever was decided, a filter or the client's body was the reason: the backend is not to blame.
        E::Custom("Decided") => (Cause::GatewayFault, BackendOutcome::Cancelled),
        _ if *error.esource() == ErrorSource::Upstream => (Cause::UpstreamReset, BackendOutcome::Reset),
        _ => (Cause::GatewayFault, BackendOutcome::Reset),
    }
}

/// What is to be told of an error with a backend beside its cause.
fn trouble(error: &Error) -> Option<String> {
    use ErrorType as E;
    if *error.esource() == ErrorSource::Downstream {
        return None;
    }
    let told = match error.etype() {
        E::ConnectTimedout => "no connection in time",
        E::TLSHandshakeTimedout => "no TLS handshake in time",
        E::ConnectRefused => "connection refused",
        E::ConnectNoRoute => "no way there",
        E::TLSHandshakeFailure => "the TLS handshake failed",
        E::InvalidCert => "its certificate is not accepted",
        E::ReadTimedout => "nothing came from it for longer than that, or the time for all of it was over",
        E::InvalidHTTPHeader | E::H1Error => "its head cannot be read as HTTP/1.1 in one way",
        E::InvalidH2 | E::H2Error => "it breaks the rules of HTTP/2",
        E::WriteTimedout => "it took nothing for longer than that",
        _ => return None,
    };
    // What TLS says: which certificate, and what is wrong with it.
    let tls = matches!(error.etype(), E::TLSHandshakeFailure | E::InvalidCert);
    let cause = error.root_cause().downcast_ref::<std::io::Error>().filter(|_| tls);
    Some(cause.map_or_else(|| told.to_owned(), |cause| format!("{told}: {cause}")))
}

/// Whether the gate found the client's chunked coding broken.
fn is_invalid_chunk(error: &Error) -> bool {
    error.root_cause().downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::InvalidData)
}

/// Whether an HTTP/1 connection ends with a response that is sent before the request's body was read.
fn close_on_early_response(session: &mut Session, close: bool) {
    if let ServerSession::H1(session) = session.as_downstream_mut() {
        session.set_close_on_response_before_downstream_finish(close);
    }
}

/// Sends a response of the gateway's own.
async fn write(session: &mut Session, head: &ResponseHead, body: Bytes) -> Result<()> {
    let response = convert::own_response(head, &body)?;
    let empty = body.is_empty() || session.req_header().method == http::Method::HEAD || matches!(head.status(), 204 | 304);
    if session.is_process_shutting_down() {
        session.set_keepalive(None);
    }
    session.write_response_header(Box::new(response), empty).await?;
    if !empty {
        session.write_response_body(Some(body), true).await?;
    } else if let ServerSession::Custom(stream) = session.as_downstream_mut() {
        // An HTTP/2 stream is not told that its head is all.
        stream.finish().await?;
    }
    Ok(())
}
