//! Runs filters on a described request the way the gateway does: request stage (waiting where a filter waits), bodies,
//! response stage in reverse order, `done`.

use crate::error::Error;
use crate::exchange::Request;
use bytes::Bytes;
use portcullis_plugin::{Body, BodyAccess, Check, Exchange, Filter, Headers, ReasonCode, RequestHead, ResponseHead, Verdict};
use std::sync::Arc;

/// Runs one filter. Within a runtime (`#[tokio::test]`), a filter that waits is run by [`run_async`] instead.
///
/// # Panics
/// If the description is no request, or the filter waits within a runtime.
#[track_caller]
pub fn run(filter: &dyn Filter, request: Request) -> Outcome {
    block_on(run_all(&[("filter", filter)], request)).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs one filter within the test's own runtime.
///
/// # Panics
/// If the description is no request.
pub async fn run_async(filter: &dyn Filter, request: Request) -> Outcome {
    run_all(&[("filter", filter)], request).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Filters in the order of a route.
#[derive(Clone, Default)]
pub struct Chain {
    filters: Vec<(&'static str, Arc<dyn Filter>)>,
}

impl Chain {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a filter after the others, under the name that its checks carry.
    #[must_use]
    pub fn with(mut self, name: &'static str, filter: Arc<dyn Filter>) -> Self {
        self.filters.push((name, filter));
        self
    }

    /// As [`run`](fn@run).
    ///
    /// # Panics
    /// As [`run`](fn@run).
    #[track_caller]
    pub fn run(&self, request: Request) -> Outcome {
        block_on(run_all(&self.named(), request)).unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`run_async`].
    ///
    /// # Panics
    /// As [`run_async`].
    pub async fn run_async(&self, request: Request) -> Outcome {
        run_all(&self.named(), request).await.unwrap_or_else(|error| panic!("{error}"))
    }

    fn named(&self) -> Vec<Named<'_>> {
        self.filters.iter().map(|(name, filter)| (*name, &**filter)).collect()
    }
}

type Named<'a> = (&'static str, &'a dyn Filter);

/// What became of a request.
pub struct Outcome {
    /// The request stage's last word. Never [`Verdict::Wait`].
    pub verdict: Verdict,
    /// The request as the upstream would get it.
    pub request: RequestHead,
    pub request_body: Bytes,
    /// The response as the client would get it, also if the gateway makes it.
    pub response: ResponseHead,
    pub response_body: Bytes,
    /// The response stage's last word.
    pub response_verdict: Verdict,
    pub exchange: Exchange,
    /// Every failed check; the passed ones too if the request was [`explaining`](Request::explaining).
    pub checks: Vec<Check>,
}

fn block_on(future: impl Future<Output = Result<Outcome, Error>>) -> Result<Outcome, Error> {
    if tokio::runtime::Handle::try_current().is_err() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("runtime"))?;
        return runtime.block_on(future);
    }
    // A runtime cannot be blocked on from within another, but a filter that does not wait needs none.
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).as_mut().poll(&mut context) {
        std::task::Poll::Ready(outcome) => outcome,
        std::task::Poll::Pending => Err(Error::Waits),
    }
}

async fn run_all(filters: &[Named<'_>], mut request: Request) -> Result<Outcome, Error> {
    let chunks = std::mem::take(&mut request.body);
    let answer = std::mem::replace(&mut request.answer, crate::exchange::answer(200));
    let (mut head, mut exchange) = request.build()?;
    strip_owned(filters, &mut head);

    let (mut verdict, reached) = request_stage(filters, &mut head, &mut exchange).await;
    let mut request_body = Bytes::new();
    if verdict.is_continue() {
        (verdict, request_body) = body_stage(filters.iter(), chunks, &mut exchange, Direction::Request);
    }

    let (mut response, made) = match reply(&verdict) {
        Some((response, body)) => (response, vec![body]),
        None => (answer.head()?, answer.body),
    };
    let ran = filters.get(..reached).unwrap_or_default();
    let mut response_verdict = response_stage(ran, &mut response, &mut exchange);
    let response_body = match reply(&response_verdict) {
        Some((_, body)) => body,
        None => {
            let (broken, body) = body_stage(ran.iter().rev(), made, &mut exchange, Direction::Response);
            if !broken.is_continue() {
                response_verdict = broken;
            }
            body
        }
    };
    for (name, filter) in ran {
        exchange.driver_enter(name);
        filter.done(&exchange);
    }
    let checks = exchange.driver_take_checks();
    Ok(Outcome { verdict, request: head, request_body, response, response_body, response_verdict, exchange, checks })
}

/// Headers that hand client certificates on: the gateway owns them also where no filter does.
const CERTIFICATES: [&str; 3] = ["client-cert", "client-cert-chain", "x-forwarded-client-cert"];

/// What a client sent under names that filters own never reaches a filter.
fn strip_owned(filters: &[Named<'_>], head: &mut RequestHead) {
    let fold = |name: &str| name.to_ascii_lowercase().replace('_', "-");
    let owned = filters.iter().flat_map(|(_, filter)| filter.needs().owned_headers).map(|name| fold(&name));
    let owned: Vec<String> = owned.chain(CERTIFICATES.map(str::to_owned)).collect();
    head.headers_mut().retain(|name, _| !owned.contains(&fold(name)));
}

async fn request_stage(filters: &[Named<'_>], head: &mut RequestHead, exchange: &mut Exchange) -> (Verdict, usize) {
    for (at, (name, filter)) in filters.iter().enumerate() {
        exchange.driver_enter(name);
        let mut verdict = filter.request(head, exchange);
        while let Verdict::Wait(future) = verdict {
            verdict = future.await(head, exchange);
        }
        if !verdict.is_continue() {
            return (verdict, at + 1);
        }
    }
    (Verdict::Continue, filters.len())
}

fn response_stage(ran: &[Named<'_>], response: &mut ResponseHead, exchange: &mut Exchange) -> Verdict {
    let mut last = Verdict::Continue;
    for (name, filter) in ran.iter().rev() {
        exchange.driver_enter(name);
        let verdict = filter.response(response, exchange);
        if let Some((replaced, _)) = reply(&verdict) {
            *response = replaced;
            last = verdict;
        }
    }
    last
}

#[derive(Clone, Copy)]
enum Direction {
    Request,
    Response,
}

/// Feeds the pieces through each filter that asked for them.
fn body_stage<'a>(
    filters: impl Iterator<Item = &'a Named<'a>>,
    chunks: Vec<Bytes>,
    exchange: &mut Exchange,
    direction: Direction,
) -> (Verdict, Bytes) {
    let mut pieces: Vec<Option<Bytes>> = chunks.into_iter().map(Some).collect();
    if pieces.is_empty() {
        pieces.push(None);
    }
    for (name, filter) in filters {
        let needs = filter.needs();
        let access = match direction {
            Direction::Request => needs.request_body,
            Direction::Response => needs.response_body,
        };
        if access == BodyAccess::None {
            continue;
        }
        exchange.driver_enter(name);
        let last = pieces.len() - 1;
        for (at, piece) in pieces.iter_mut().enumerate() {
            let before = piece.clone();
            let mut body = Body::new(piece, at == last);
            let verdict = match direction {
                Direction::Request => filter.request_body(&mut body, exchange),
                Direction::Response => filter.response_body(&mut body, exchange),
            };
            assert!(access == BodyAccess::Rewrite || *piece == before, "the filter rewrites a body it only asked to read");
            if !verdict.is_continue() {
                return (verdict, Bytes::new());
            }
        }
    }
    let body: Vec<u8> = pieces.into_iter().flatten().flatten().collect();
    (Verdict::Continue, body.into())
}

/// The response that the gateway makes of a verdict; `None` to go on.
fn reply(verdict: &Verdict) -> Option<(ResponseHead, Bytes)> {
    match verdict {
        Verdict::Continue | Verdict::Wait(_) => None,
        Verdict::Respond(reply) => Some((ResponseHead::new(reply.status, reply.headers.clone()), reply.body.clone())),
        Verdict::Deny(denial) => Some((ResponseHead::new(denial.status_code(), denial.headers().clone()), Bytes::new())),
        Verdict::Fault(_) => Some((ResponseHead::new(500, Headers::new()), Bytes::new())),
    }
}

/// What a test reads.
impl Outcome {
    pub fn is_allowed(&self) -> bool {
        self.verdict.is_continue()
    }

    /// Why the request was refused. `None` if it was not.
    pub fn reason(&self) -> Option<ReasonCode> {
        match &self.verdict {
            Verdict::Deny(denial) => Some(denial.reason()),
            _ => None,
        }
    }

    /// The status that the client sees.
    pub fn status(&self) -> u16 {
        self.response.status()
    }

    /// The first field of that name that the upstream would get, with bytes outside of UTF-8 replaced.
    pub fn upstream_header(&self, name: &str) -> Option<String> {
        self.request.headers().get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Every field of that name that the upstream would get.
    pub fn upstream_headers(&self, name: &str) -> Vec<String> {
        self.request.headers().get_all(name).map(|value| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The first field of that name that the client gets.
    pub fn response_header(&self, name: &str) -> Option<String> {
        self.response.headers().get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The last check of that name.
    pub fn check(&self, name: &str) -> Option<&Check> {
        self.checks.iter().rev().find(|check| check.check == name)
    }
}

/// What a test demands.
impl Outcome {
    /// # Panics
    /// If the request stage did anything but let the request pass.
    #[track_caller]
    pub fn allowed(&self) -> &Self {
        assert!(self.is_allowed(), "refused: {:?}\nchecks: {:#?}", self.verdict, self.checks);
        self
    }

    /// # Panics
    /// If the request was not refused for `reason`.
    #[track_caller]
    pub fn denied_with(&self, reason: ReasonCode) -> &Self {
        assert_eq!(self.reason(), Some(reason), "verdict: {:?}\nchecks: {:#?}", self.verdict, self.checks);
        self
    }

    /// # Panics
    /// If the filter did not answer the request itself, with this status.
    #[track_caller]
    pub fn responded(&self, status: u16) -> &Self {
        match &self.verdict {
            Verdict::Respond(reply) => assert_eq!(reply.status, status),
            other => panic!("expected a response with status {status}, got {other:?}\nchecks: {:#?}", self.checks),
        }
        self
    }

    /// # Panics
    /// If the filter did not report a failure of its own.
    #[track_caller]
    pub fn faulted(&self) -> &Self {
        assert!(matches!(self.verdict, Verdict::Fault(_)), "expected a fault, got {:?}", self.verdict);
        self
    }
}
