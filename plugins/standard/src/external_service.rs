//! Asking an authorization service, and taking nothing for an answer that is none.
//!
//! One question is one exchange with a deadline, in one of a bounded number of places. Over HTTP it is a GET, and the status
//! says everything: 2xx, 401 or 403. Redirects are not followed, and a body is thrown away as it comes. What an answer over
//! gRPC says is read by [`external_grpc`](crate::external_grpc).

use crate::external_grpc;
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy::connect::capture_connection;
use portcullis_identity::outbound::{HttpClient, innermost};
use schemars::JsonSchema;
use serde::Deserialize;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The largest head of an answer.
pub(crate) const MOST_HEAD: u32 = 32 << 10;

/// So much of a body is read so that its connection can be used again; with more, the connection ends.
const MOST_BODY: usize = 64 << 10;

/// Failures are told in the log once in this time, however many there are.
const TOLD_AGAIN: Duration = Duration::from_secs(10);

/// What the service said.
pub(crate) enum Answer {
    Allowed(HeaderMap),
    Denied(Refusal),
}

/// A refusal, as the service wants it told.
pub(crate) struct Refusal {
    /// 401 or 403; over gRPC, any of 4xx and 5xx.
    pub status: StatusCode,
    /// Over gRPC: the code of it.
    pub code: Option<i32>,
    /// Over gRPC: the status asked for, if that was not one of a refusal.
    pub replaced: Option<i32>,
    pub fields: HeaderMap,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.as_u16();
        let Some(code) = self.code else { return write!(f, "the service answered {status}") };
        let name = external_grpc::status_name(u32::try_from(code).unwrap_or(u32::MAX));
        write!(f, "the service answered {code}, {name}, with ")?;
        match self.replaced {
            None => write!(f, "{status} for the client"),
            Some(replaced) => write!(f, "{replaced} for the client, which refuses nothing: {status} instead"),
        }
    }
}

/// How the service is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A GET of `url`, with HTTP/1.1; the status is the answer.
    #[default]
    Http,
    /// Envoy's `envoy.service.auth.v3.Authorization/Check`, with HTTP/2; `url` has no path.
    Grpc,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0} questions are under way already (`max_concurrent`)")]
    Busy(usize),
    #[error("no answer within {0:?} (`timeout`)")]
    Late(Duration),
    #[error("cannot be reached: {0}")]
    Broken(String),
    #[error("the answer is {0}, and only 2xx, 401 and 403 say anything; redirects are not followed")]
    Redirect(u16),
    #[error("the answer is {0}, and only 2xx, 401 and 403 say anything")]
    Status(u16),
    #[error("the answer has more than one `{0}`, and nobody could tell which is meant")]
    Twice(String),
    #[error("the question cannot be put: {0}")]
    Unsendable(&'static str),
    #[error("what comes is not HTTP/2: {0}")]
    NotHttp2(String),
    #[error("the answer is an HTTP {0} and not gRPC")]
    NotGrpc(u16),
    #[error("the call ended with grpc-status {0}, {name}", name = external_grpc::status_name(*.0))]
    GrpcStatus(u32),
    #[error("the answer cannot be read: {0}")]
    Malformed(&'static str),
    #[error("the answer has no `status`, and so allows nothing")]
    NoStatus,
    #[error("the service says that it failed (`error_response`)")]
    Failed,
    #[error("the answer has {0}, and nobody could tell which is meant")]
    Contradiction(&'static str),
    #[error("the service allows it under a condition that is not met here: {0}")]
    Condition(String),
}

impl Failure {
    /// It refuses also where failures let pass: the service has answered, but not with an allowance that holds here; or the
    /// client has sent what nobody can be asked about, which is its own choice.
    pub fn refuses(&self) -> bool {
        match self {
            // It did answer: with the way to a page where one logs in, or with what a client has brought about by a query that is
            // too long for it. Too slow and too many are what an outage looks like.
            Self::Redirect(status) | Self::Status(status) | Self::NotGrpc(status) => {
                (300..500).contains(status) && !matches!(status, 408 | 429)
            }
            other => {
                matches!(
                    other,
                    Self::Unsendable(_) | Self::Twice(_) | Self::NoStatus | Self::Contradiction(_) | Self::Condition(_)
                )
            }
        }
    }
}

/// One service, and how it is asked.
pub(crate) struct Service {
    client: HttpClient,
    protocol: Protocol,
    timeout: Duration,
    places: Arc<Semaphore>,
    concurrent: usize,
    log: FailureLog,
}

impl Service {
    pub fn new(client: HttpClient, protocol: Protocol, timeout: Duration, concurrent: usize) -> Self {
        Self { client, protocol, timeout, places: Arc::new(Semaphore::new(concurrent)), concurrent, log: FailureLog::new() }
    }

    /// For the line about failures.
    pub fn log(&self) -> &FailureLog {
        &self.log
    }

    #[cfg(test)]
    pub fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    /// Asks. Letting go of the future ends the question: over HTTP with its connection, over gRPC with its stream.
    pub async fn ask(&self, mut question: Request<Full<Bytes>>) -> Result<Answer, Failure> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return Err(Failure::Busy(self.concurrent)) };
        let connection = (self.protocol == Protocol::Grpc).then(|| capture_connection(&mut question));
        let answer = async {
            let response = self.exchange(question).await?;
            match self.protocol {
                Protocol::Http => self.read(response, place),
                Protocol::Grpc => {
                    let answer = external_grpc::read(response).await;
                    // Only now that the whole answer is there.
                    drop(place);
                    answer
                }
            }
        };
        if let Ok(answer) = tokio::time::timeout(self.timeout, answer).await {
            return answer;
        }
        // Others share this connection, and the other side may be gone without a word: the next question opens a new one.
        if let Some(connection) = connection
            && let Some(connection) = &*connection.connection_metadata()
        {
            connection.poison();
        }
        Err(Failure::Late(self.timeout))
    }

    async fn exchange(&self, question: Request<Full<Bytes>>) -> Result<http::Response<Incoming>, Failure> {
        let sent = self.client.request(question.clone()).await;
        // A kept connection may have been closed at that very moment. A question changes nothing, so it may be put twice.
        let answered = match sent {
            Err(error) if was_closed(&error) => self.client.request(question).await,
            other => other,
        };
        answered.map_err(|error| broken(&error))
    }

    fn read(&self, response: http::Response<Incoming>, place: OwnedSemaphorePermit) -> Result<Answer, Failure> {
        let (head, body) = response.into_parts();
        if !body.is_end_stream() {
            tokio::spawn(drain(body, self.timeout, place));
        }
        match head.status {
            status if status.is_success() => Ok(Answer::Allowed(head.headers)),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Ok(Answer::Denied(Refusal { status, code: None, replaced: None, fields: head.headers }))
            }
            status if status.is_redirection() => Err(Failure::Redirect(status.as_u16())),
            status => Err(Failure::Status(status.as_u16())),
        }
    }
}

/// The verdict does not wait for this, but the place does.
async fn drain(mut body: Incoming, within: Duration, place: OwnedSemaphorePermit) {
    let read = async {
        let mut left = MOST_BODY;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _ = tokio::time::timeout(within, read).await;
    drop(place);
}

/// The connection ended before an answer began.
fn was_closed(error: &(dyn Error + 'static)) -> bool {
    let by_hyper = |error: &hyper::Error| error.is_incomplete_message() || error.is_canceled() || error.is_closed();
    let by_socket = |error: &io::Error| matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe);
    // An HTTP/2 server says that it closes the connection, or that it has not begun with this stream.
    let by_server = |error: &h2::Error| {
        (error.is_go_away() && error.is_remote())
            || error.reason() == Some(h2::Reason::REFUSED_STREAM)
            || error.get_io().is_some_and(by_socket)
    };
    causes(error).any(|error| {
        error.downcast_ref().is_some_and(by_hyper)
            || error.downcast_ref().is_some_and(by_server)
            || error.downcast_ref().is_some_and(by_socket)
    })
}

fn broken(error: &(dyn Error + 'static)) -> Failure {
    let cause = innermost(error);
    // Such as the response of an HTTP/1 server, which is found out as frames that are too long.
    let is_other = causes(error).any(|error| error.downcast_ref().is_some_and(h2::Error::is_library));
    if is_other { Failure::NotHttp2(cause) } else { Failure::Broken(cause) }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| (*error).source())
}

/// Decides when failures are to be told: an outage is a line from time to time, and not one for each request.
pub(crate) struct FailureLog {
    begin: Instant,
    /// Milliseconds after `begin`, and 0 for never.
    told: AtomicU64,
    untold: AtomicU64,
}

impl FailureLog {
    fn new() -> Self {
        Self { begin: Instant::now(), told: AtomicU64::new(0), untold: AtomicU64::new(0) }
    }

    /// Counts a failure; `Some` if it is to be told, with how many there were since the last that was.
    pub fn failed(&self) -> Option<u64> {
        self.failed_at(u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn failed_at(&self, now: u64) -> Option<u64> {
        self.untold.fetch_add(1, Ordering::Relaxed);
        let last = self.told.load(Ordering::Relaxed);
        let wait = u64::try_from(TOLD_AGAIN.as_millis()).unwrap_or(u64::MAX);
        let due = last == 0 || now.saturating_sub(last) >= wait;
        // Of those who come at the same time, one tells.
        if due && self.told.compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return Some(self.untold.swap(0, Ordering::Relaxed));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_from_time_to_time_with_how_often_it_happened() {
        let log = FailureLog::new();
        assert_eq!(log.failed_at(0), Some(1));
        assert_eq!((1..=99).filter_map(|now| log.failed_at(now)).count(), 0);
        assert_eq!(log.failed_at(10_001), Some(100));
        assert_eq!(log.failed_at(10_002), None);
        assert_eq!(log.failed_at(60_000), Some(2));
    }
}
